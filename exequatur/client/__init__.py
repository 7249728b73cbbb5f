"""The SDK: ask for a decision, settle it, open sessions, see what is served, and reach the ledger.

    client = Client("unix:/run/exequatur/coder.sock")
    decision = client.authorize("git/git_status", {"repo_path": "/work"})
    if decision.allowed: ...

Rules:
- Only `Decision.allowed` is a go-ahead. A `CallError` means that nothing was judged: treat it as a denial.
- Every call has a deadline. Nothing that a service may have seen is sent twice, but for `authorize` with an idempotency
  key, which is sent once more when the service was unavailable or stopped: should the first one have been judged, the
  second answer says so and is no go-ahead.
- Plain text over TCP has to be asked for by name. A Unix socket needs no TLS: the kernel checks its owner.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self, TypeVar

import grpc
import grpc.aio

from exequatur.client.channels import Renewed, Tls, Way, open_async_channel, open_channel
from exequatur.client.messages import (
    CallError,
    authorize_request,
    batch_request,
    decision_of,
    decisions_of,
    scope_of,
    session_of,
    session_request,
    settle_request,
    status_of,
)
from exequatur.served import BundleStatus
from exequatur.trust.canonical import Json
from exequatur.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    bundle_pb2,
    bundle_pb2_grpc,
    decision_pb2,
    decision_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
)
from exequatur.values import (
    Ack,
    Claims,
    Decision,
    Effect,
    Intent,
    Obligation,
    Outcome,
    Proposal,
    Reason,
    ReasonKind,
    Scope,
    Session,
)

__all__ = [
    "Ack",
    "AsyncClient",
    "BundleStatus",
    "CallError",
    "Claims",
    "Client",
    "Decision",
    "Effect",
    "Intent",
    "LedgerClient",
    "Obligation",
    "Outcome",
    "Proposal",
    "Reason",
    "ReasonKind",
    "Scope",
    "Session",
    "Tls",
    "decision_of",
    "session_request",
    "status_of",
]

DEADLINE_S: Final = 20.0
"""How long a call may take unless told otherwise, in seconds: longer than a sidecar waits for its decision point, also
where each answer waits for a ledger that is being restarted."""

LEDGER_S: Final = 5.0
"""How long the ledger may take for a batch, in seconds; whoever sends it will send it again."""


class Client:
    """The blocking client. Safe for many threads; close it, or use it as a context manager."""

    def __init__(
        self, target: str, *, tls: Tls | None = None, unsafe_plaintext: bool = False, timeout_s: float = DEADLINE_S
    ) -> None:
        """Reach `unix:PATH` (a sidecar) or `HOST:PORT` (a decision point); nothing is sent yet."""
        self._channel = open_channel(target, tls, unsafe_plaintext=unsafe_plaintext)
        self._decisions = decision_pb2_grpc.DecisionServiceStub(self._channel)
        self._sessions = session_pb2_grpc.SessionServiceStub(self._channel)
        self._bundles = bundle_pb2_grpc.BundleServiceStub(self._channel)
        self._timeout_s = timeout_s

    def authorize(self, tool: str, arguments: Mapping[str, Json] | bytes, **rest: Any) -> Decision:
        """Ask whether an action may run; `rest` as the fields of `Proposal`. Bytes are taken for canonical already."""
        request = authorize_request(Proposal(tool, arguments, **rest))
        until = time.monotonic() + self._timeout_s
        try:
            return decision_of(self._call(self._decisions.Authorize, request))
        except CallError as error:
            if not _may_repeat(error, request):
                raise
        return decision_of(self._call(self._decisions.Authorize, request, until=until))

    def authorize_batch(self, proposals: Sequence[Proposal]) -> tuple[Decision, ...]:
        """Ask about up to 50 actions in order; one decision each, in the same order."""
        request = batch_request(proposals)
        return decisions_of(request, self._call(self._decisions.AuthorizeBatch, request))

    def settle(self, decision_id: str, outcome: Outcome, *, cost_microusd: int | None = None, tenant: str = "") -> int:
        """Say what became of an allowed action; returns what the session was charged, in micro-USD."""
        request = settle_request(decision_id, outcome, cost_microusd, tenant)
        return self._call(self._decisions.Settle, request).charged_microusd

    def open_session(self, agent: str, enforcer: str, *, lifetime: dt.timedelta, **rest: Any) -> Session:
        """Open a session; `rest` as the keywords of `session_request`."""
        request = session_request(agent, enforcer, lifetime=lifetime, **rest)
        return session_of(self._call(self._sessions.OpenSession, request).session)

    def get_session(self, session_id: str = "", *, agent: str = "", instance: str = "", tenant: str = "") -> Scope:
        """Show a session by its id, or the open one of an instance at this enforcer."""
        request = session_pb2.GetSessionRequest(id=session_id, tenant=tenant, agent=agent, instance=instance)
        return scope_of(self._call(self._sessions.GetSession, request))

    def close_session(self, session_id: str, *, tenant: str = "") -> Session:
        """End a session."""
        request = session_pb2.CloseSessionRequest(id=session_id, tenant=tenant)
        return session_of(self._call(self._sessions.CloseSession, request).session)

    def bundle_status(self, *, tenant: str = "") -> BundleStatus:
        """Show what is served, to one tenant or (empty) to all."""
        request = bundle_pb2.GetStatusRequest(tenant=tenant)
        return status_of(self._call(self._bundles.GetStatus, request).status)

    def refresh_bundles(self, *, tenant: str = "") -> BundleStatus:
        """Have newer bundles looked for now, and show what is served afterwards."""
        request = bundle_pb2.RefreshRequest(tenant=tenant)
        return status_of(self._call(self._bundles.Refresh, request).status)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(
        self, method: grpc.UnaryUnaryMultiCallable[_Request, _Response], request: _Request, until: float | None = None
    ) -> _Response:
        try:
            return method(request, **_patience(self._timeout_s, until))
        except grpc.RpcError as error:
            raise _call_error(error) from None


class AsyncClient:
    """The client for an event loop. Close it, or use it as an asynchronous context manager."""

    def __init__(
        self, target: str, *, tls: Tls | None = None, unsafe_plaintext: bool = False, timeout_s: float = DEADLINE_S
    ) -> None:
        """As `Client`; make it where the loop runs."""
        self._channel = open_async_channel(target, tls, unsafe_plaintext=unsafe_plaintext)
        self._decisions = decision_pb2_grpc.DecisionServiceStub(self._channel)
        self._sessions = session_pb2_grpc.SessionServiceStub(self._channel)
        self._bundles = bundle_pb2_grpc.BundleServiceStub(self._channel)
        self._timeout_s = timeout_s

    async def authorize(self, tool: str, arguments: Mapping[str, Json] | bytes, **rest: Any) -> Decision:
        """As `Client.authorize`."""
        request = authorize_request(Proposal(tool, arguments, **rest))
        until = time.monotonic() + self._timeout_s
        try:
            return decision_of(await self._call(self._decisions.Authorize, request))
        except CallError as error:
            if not _may_repeat(error, request):
                raise
        return decision_of(await self._call(self._decisions.Authorize, request, until=until))

    async def authorize_batch(self, proposals: Sequence[Proposal]) -> tuple[Decision, ...]:
        """As `Client.authorize_batch`."""
        request = batch_request(proposals)
        return decisions_of(request, await self._call(self._decisions.AuthorizeBatch, request))

    async def settle(
        self, decision_id: str, outcome: Outcome, *, cost_microusd: int | None = None, tenant: str = ""
    ) -> int:
        """As `Client.settle`."""
        request = settle_request(decision_id, outcome, cost_microusd, tenant)
        return (await self._call(self._decisions.Settle, request)).charged_microusd

    async def open_session(self, agent: str, enforcer: str, *, lifetime: dt.timedelta, **rest: Any) -> Session:
        """As `Client.open_session`."""
        request = session_request(agent, enforcer, lifetime=lifetime, **rest)
        return session_of((await self._call(self._sessions.OpenSession, request)).session)

    async def get_session(
        self, session_id: str = "", *, agent: str = "", instance: str = "", tenant: str = ""
    ) -> Scope:
        """As `Client.get_session`."""
        request = session_pb2.GetSessionRequest(id=session_id, tenant=tenant, agent=agent, instance=instance)
        return scope_of(await self._call(self._sessions.GetSession, request))

    async def close_session(self, session_id: str, *, tenant: str = "") -> Session:
        """As `Client.close_session`."""
        request = session_pb2.CloseSessionRequest(id=session_id, tenant=tenant)
        return session_of((await self._call(self._sessions.CloseSession, request)).session)

    async def bundle_status(self, *, tenant: str = "") -> BundleStatus:
        """As `Client.bundle_status`."""
        request = bundle_pb2.GetStatusRequest(tenant=tenant)
        return status_of((await self._call(self._bundles.GetStatus, request)).status)

    async def refresh_bundles(self, *, tenant: str = "") -> BundleStatus:
        """As `Client.refresh_bundles`."""
        request = bundle_pb2.RefreshRequest(tenant=tenant)
        return status_of((await self._call(self._bundles.Refresh, request)).status)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        until: float | None = None,
    ) -> _Response:
        try:
            return await method(request, **_patience(self._timeout_s, until))
        except grpc.aio.AioRpcError as error:
            raise _call_error(error) from None


class LedgerClient:
    """The way to the ledger, for an event loop."""

    def __init__(
        self,
        target: str,
        *,
        tls: Tls | Renewed | None = None,
        unsafe_plaintext: bool = False,
        timeout_s: float = LEDGER_S,
    ) -> None:
        """Reach `HOST:PORT`; nothing is sent yet."""
        self._way = Way(
            target,
            tls,
            audit_pb2_grpc.AuditServiceStub,
            unsafe_plaintext=unsafe_plaintext,
            longest_s=timeout_s,
        )
        self._timeout_s = timeout_s

    async def append(self, writer: str, first_number: int, records: Sequence[bytes], known_size: int) -> Ack:
        """Add a writer's next records; answers when they are durable."""
        request = audit_pb2.AppendRequest(
            writer=writer, first_number=first_number, records=records, known_size=known_size
        )
        try:
            response = await self._way.now.Append(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            raise _call_error(error) from None
        return Ack(response.acknowledged, response.checkpoint, tuple(response.consistency))

    async def get_checkpoint(self, known_size: int = 0) -> Ack:
        """Show the newest checkpoint, with the proof that it extends `known_size`; `acknowledged` is zero."""
        request = audit_pb2.GetCheckpointRequest(known_size=known_size)
        try:
            response = await self._way.now.GetCheckpoint(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            raise _call_error(error) from None
        return Ack(0, response.checkpoint, tuple(response.consistency))

    async def close(self) -> None:
        """Close the channel."""
        await self._way.close()


_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


def _patience(timeout_s: float, until: float | None) -> Mapping[str, Any]:
    """The time limit of a first attempt, or of a second one: what is left, waiting for the service to be back."""
    if until is None:
        return {"timeout": timeout_s}
    return {"timeout": max(until - time.monotonic(), 0.0), "wait_for_ready": True}


def _may_repeat(error: CallError, request: decision_pb2.AuthorizeRequest) -> bool:
    return error.code in ("UNAVAILABLE", "CANCELLED") and bool(request.idempotency_key)


def _call_error(error: grpc.RpcError) -> CallError:
    code = error.code() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else grpc.StatusCode.UNKNOWN
    text = error.details() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    return CallError(code.name, text or "no reason was given")
