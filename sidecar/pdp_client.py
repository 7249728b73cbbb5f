"""The way to the decision point: one attempt a call, inside the caller's deadline, and every failure is `NoDecision`.

No retry: a second attempt that meets the first one's answer is no go-ahead, so it would buy nothing.
"""

from __future__ import annotations

from typing import Final, TypeVar

import grpc
import grpc.aio

from exequatur.client import Tls, open_async_channel
from exequatur.v1 import decision_pb2, decision_pb2_grpc, session_pb2, session_pb2_grpc

MARGIN_S: Final = 0.05
"""What is kept of the caller's deadline for the record and the way back, in seconds."""

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class NoDecision(Exception):  # noqa: N818
    """Nothing was judged: a gRPC status's name, and the decision point's sentence."""

    def __init__(self, code: str, text: str) -> None:
        """Keep the status's name and the sentence."""
        super().__init__(text)
        self.code = code


class PdpClient:
    """One channel to the decision point, for the running event loop."""

    def __init__(self, target: str, tls: Tls | None, *, unsafe_plaintext: bool, timeout_s: float) -> None:
        """Reach `HOST:PORT`; a decision may take `timeout_s` seconds at most. Nothing is sent yet."""
        self._channel = open_async_channel(target, tls, unsafe_plaintext=unsafe_plaintext)
        self._decisions = decision_pb2_grpc.DecisionServiceStub(self._channel)
        self._sessions = session_pb2_grpc.SessionServiceStub(self._channel)
        self._timeout_s = timeout_s

    async def authorize(
        self, request: decision_pb2.AuthorizeRequest, left_s: float | None
    ) -> decision_pb2.AuthorizeResponse:
        """Have one action judged; `left_s` is what the caller's deadline leaves. Raises `NoDecision`."""
        return await self._ask(self._decisions.Authorize, request, left_s)

    async def authorize_batch(
        self, request: decision_pb2.AuthorizeBatchRequest, left_s: float | None
    ) -> decision_pb2.AuthorizeBatchResponse:
        """Have actions judged in order. Raises `NoDecision`."""
        return await self._ask(self._decisions.AuthorizeBatch, request, left_s)

    async def settle(self, request: decision_pb2.SettleRequest, left_s: float | None) -> decision_pb2.SettleResponse:
        """Report an outcome. Raises `NoDecision`."""
        return await self._ask(self._decisions.Settle, request, left_s)

    async def get_session(
        self, request: session_pb2.GetSessionRequest, left_s: float | None
    ) -> session_pb2.GetSessionResponse:
        """Show a session. Raises `NoDecision`."""
        return await self._ask(self._sessions.GetSession, request, left_s)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def _ask(
        self, method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response], request: _Request, left_s: float | None
    ) -> _Response:
        timeout = self._timeout_s if left_s is None else min(self._timeout_s, left_s - MARGIN_S)
        if timeout <= 0:
            raise NoDecision("DEADLINE_EXCEEDED", "the caller's deadline leaves no time for a decision")
        try:
            return await method(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise NoDecision(error.code().name, error.details() or "no reason was given") from None
