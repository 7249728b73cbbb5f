"""The way to the decision point: inside the caller's deadline, and every failure is `NoDecision`.

Rules:
- What a handler may have seen is not sent again: a second attempt that meets the first one's answer is no go-ahead.
- What no handler has seen is: gRPC sends it again by itself where the connection says so, and we do where a server that
  stops has cancelled it, for it cancels what comes after its end and finishes what came before. (Were that wrong, the
  first answer would still reach nobody, and its reservation would be charged: nothing runs twice.)
- While there is no connection a call waits for one a little, so that a decision point may be replaced under load. When
  one has waited in vain there is an outage, and until the next answer nobody waits: a denial must not take time then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

import grpc
import grpc.aio

from exequatur.client.channels import Renewed, Tls, Way
from exequatur.v1 import decision_pb2, decision_pb2_grpc, session_pb2, session_pb2_grpc

MARGIN_S: Final = 0.05
"""What is kept of the caller's deadline for the record and the way back, in seconds."""

CONNECT_S: Final = 1.0
"""How long a call may wait for a connection, in seconds: some four attempts, one of which finds who is ready."""

ATTEMPTS: Final = 3
"""How often a call may be sent when servers that stop cancel it."""

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class NoDecision(Exception):  # noqa: N818
    """Nothing was judged: a gRPC status's name, and the decision point's sentence."""

    def __init__(self, code: str, text: str) -> None:
        """Keep the status's name and the sentence."""
        super().__init__(text)
        self.code = code


class _Road:
    """A channel to the decision point, and the calls that go over it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel: Final = channel
        self.decisions: Final = decision_pb2_grpc.DecisionServiceStub(channel)
        self.sessions: Final = session_pb2_grpc.SessionServiceStub(channel)


class PdpClient:
    """The way to the decision point, for the running event loop."""

    def __init__(self, target: str, tls: Tls | Renewed | None, *, unsafe_plaintext: bool, timeout_s: float) -> None:
        """Reach `HOST:PORT`; a decision may take `timeout_s` seconds at most. Nothing is sent yet."""
        self._way = Way(target, tls, _Road, unsafe_plaintext=unsafe_plaintext, longest_s=timeout_s)
        self._timeout_s = timeout_s
        self._away = False  # whether somebody has waited for a connection in vain since the last answer

    async def authorize(
        self, request: decision_pb2.AuthorizeRequest, left_s: float | None
    ) -> decision_pb2.AuthorizeResponse:
        """Have one action judged; `left_s` is what the caller's deadline leaves. Raises `NoDecision`."""
        return await self._ask(lambda road: road.decisions.Authorize, request, left_s)

    async def authorize_batch(
        self, request: decision_pb2.AuthorizeBatchRequest, left_s: float | None
    ) -> decision_pb2.AuthorizeBatchResponse:
        """Have actions judged in order. Raises `NoDecision`."""
        return await self._ask(lambda road: road.decisions.AuthorizeBatch, request, left_s)

    async def settle(self, request: decision_pb2.SettleRequest, left_s: float | None) -> decision_pb2.SettleResponse:
        """Report an outcome. Raises `NoDecision`."""
        return await self._ask(lambda road: road.decisions.Settle, request, left_s)

    async def get_session(
        self, request: session_pb2.GetSessionRequest, left_s: float | None
    ) -> session_pb2.GetSessionResponse:
        """Show a session. Raises `NoDecision`."""
        return await self._ask(lambda road: road.sessions.GetSession, request, left_s)

    async def close(self) -> None:
        """Close the way."""
        await self._way.close()

    async def _ask(
        self,
        method: Callable[[_Road], grpc.aio.UnaryUnaryMultiCallable[_Request, _Response]],
        request: _Request,
        left_s: float | None,
    ) -> _Response:
        timeout = self._timeout_s if left_s is None else min(self._timeout_s, left_s - MARGIN_S)
        if timeout <= 0:
            raise NoDecision("DEADLINE_EXCEEDED", "the caller's deadline leaves no time for a decision")
        clock = asyncio.get_running_loop().time
        until = clock() + timeout
        for attempt in range(1, ATTEMPTS + 1):
            road = self._way.now
            await self._connect(road.channel, until - clock())
            try:
                answer = await method(road)(request, timeout=max(until - clock(), 0.0), wait_for_ready=not self._away)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.CANCELLED and attempt < ATTEMPTS:
                    continue
                raise NoDecision(error.code().name, error.details() or "no reason was given") from None
            self._away = False
            return answer
        raise RuntimeError("unreachable: the last attempt returns or raises")

    async def _connect(self, channel: grpc.aio.Channel, left_s: float) -> None:
        """Wait a little for a connection, unless there is one, or an outage. Raises `NoDecision`."""
        if self._away or channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
            return
        patience_s = min(CONNECT_S, self._timeout_s / 2)
        wait_s = min(patience_s, left_s)
        try:
            await asyncio.wait_for(channel.channel_ready(), wait_s)
        except TimeoutError:
            self._away = wait_s == patience_s  # a caller in a hurry learns nothing for others
            raise NoDecision("UNAVAILABLE", f"no decision point could be reached in {wait_s:.1f} s") from None
