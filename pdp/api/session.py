"""`SessionService`: opening, showing and closing sessions. Bytes in, bytes out.

Rules: who may open and who may audit stands in the settings, and unset means nobody; an enforcer sees its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from exequatur.transport import Handler, Peer
from exequatur.v1 import session_pb2
from pdp.api.calls import Calls, speaks_for
from pdp.api.wire import session_to, tenant_of, wish_of
from pdp.control.sessions import InvalidError, NotAllowedError
from pdp.model import Session
from pdp.requests import Close, Open, Show, Shown

SERVICE: Final = session_pb2.DESCRIPTOR.services_by_name["SessionService"]


class SessionApi:
    """The handlers of the service."""

    def __init__(self, calls: Calls, openers: frozenset[str], auditors: frozenset[str]) -> None:
        """Serve with `calls`; `openers` and `auditors` are identities, `IDENTITY@TENANT` for one tenant alone."""
        self._calls, self._openers, self._auditors = calls, openers, auditors

    def handlers(self) -> Mapping[str, Handler]:
        """Name each handler by its path."""
        return {
            f"/{SERVICE.full_name}/OpenSession": self.open_session,
            f"/{SERVICE.full_name}/GetSession": self.get_session,
            f"/{SERVICE.full_name}/CloseSession": self.close_session,
        }

    async def open_session(self, message: bytes, peer: Peer, seconds_left: float | None) -> bytes:
        """Open a session."""
        try:
            request = self._calls.read(session_pb2.OpenSessionRequest, message)
            self._check_opener(peer, tenant_of(request.session.tenant))
            wish = wish_of(request)
        except (InvalidError, NotAllowedError) as error:
            raise await self._calls.refuse(error, "OpenSession", message, peer, seconds_left) from None
        session = cast("Session", await self._calls.submit(Open(wish, peer.identity), seconds_left))
        return session_pb2.OpenSessionResponse(session=session_to(session)).SerializeToString()

    async def get_session(self, message: bytes, peer: Peer, seconds_left: float | None) -> bytes:
        """Show a session to its enforcer, to openers and to auditors."""
        try:
            request = self._calls.read(session_pb2.GetSessionRequest, message)
            if not request.id and not request.agent:
                raise InvalidError("`id` or `agent` must be given")  # noqa: TRY301
        except InvalidError as error:
            raise await self._calls.refuse(error, "GetSession", message, peer, seconds_left) from None
        show = Show(
            tenant_of(request.tenant),
            request.id,
            request.agent,
            request.instance,
            peer.identity,
            sees_all=speaks_for(self._openers | self._auditors, peer, tenant_of(request.tenant)),
        )
        shown = cast("Shown", await self._calls.submit(show, seconds_left))
        return session_pb2.GetSessionResponse(
            session=session_to(shown.session),
            tools=[session_pb2.ToolPin(tool=tool, definition_sha256=pin) for tool, pin in shown.tools],
        ).SerializeToString()

    async def close_session(self, message: bytes, peer: Peer, seconds_left: float | None) -> bytes:
        """Close a session."""
        try:
            request = self._calls.read(session_pb2.CloseSessionRequest, message)
            self._check_opener(peer, tenant_of(request.tenant))
            if not request.id:
                raise InvalidError("`id` must be given")  # noqa: TRY301
        except (InvalidError, NotAllowedError) as error:
            raise await self._calls.refuse(error, "CloseSession", message, peer, seconds_left) from None
        close = Close(tenant_of(request.tenant), request.id, peer.identity)
        session = cast("Session", await self._calls.submit(close, seconds_left))
        return session_pb2.CloseSessionResponse(session=session_to(session)).SerializeToString()

    def _check_opener(self, peer: Peer, tenant: str) -> None:
        if not speaks_for(self._openers, peer, tenant):
            raise NotAllowedError("only openers that the settings name, for this tenant, may do this")
