"""How every call is served: errors become statuses in one table, and what cannot be judged is put on record.

Rules: a call with no time left is not begun; a message that cannot be read is `INVALID_ARGUMENT` and recorded as
`refused`, with its size and digest; no text of a foreign exception leaves.
"""

from __future__ import annotations

from typing import Final, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from exequatur.refusals import Code, Refusal
from exequatur.transport import Peer
from pdp.control.sessions import (
    BusyError,
    ControlError,
    InvalidError,
    LateError,
    NotAllowedError,
    NotFoundError,
    UnavailableError,
    WrongStateError,
)
from pdp.requests import Broken, Refuse, Request, Result

STATUS: Final = {
    InvalidError: Code.INVALID_ARGUMENT,
    NotFoundError: Code.NOT_FOUND,
    NotAllowedError: Code.PERMISSION_DENIED,
    WrongStateError: Code.FAILED_PRECONDITION,
    BusyError: Code.RESOURCE_EXHAUSTED,
    LateError: Code.DEADLINE_EXCEEDED,
    UnavailableError: Code.UNAVAILABLE,
}
"""Who must act, as a status; a `ControlError` that is not listed is our bug."""

_Message = TypeVar("_Message", bound=Message)


def speaks_for(names: frozenset[str], peer: Peer, tenant: str) -> bool:
    """Whether the settings name the peer: for every tenant, or, as `IDENTITY@TENANT`, for this one."""
    return "@" not in peer.identity and (peer.identity in names or f"{peer.identity}@{tenant}" in names)


class Desk(Protocol):
    """What the calls need of the conveyor."""

    async def submit(self, request: Request, seconds_left: float | None = None) -> Result:
        """Have `request` served; raises a `ControlError` when it is not."""


class Calls:
    """What the services share: one conveyor, one table of statuses."""

    def __init__(self, desk: Desk) -> None:
        """Serve at `desk`."""
        self._desk = desk

    def read(self, kind: type[_Message], message: bytes) -> _Message:
        """Parse `message`; raises `InvalidError` for bytes that are no such message."""
        try:
            return kind.FromString(message)
        except DecodeError:
            raise InvalidError(f"the message is no {kind.DESCRIPTOR.name}") from None

    async def submit(self, request: Request, seconds_left: float | None) -> Result:
        """Have `request` served; raises `Refusal`."""
        if seconds_left is not None and seconds_left <= 0:
            raise self.refusal(LateError("the call came with no time left"))
        try:
            return await self._desk.submit(request, seconds_left)
        except ControlError as error:
            raise self.refusal(error) from None

    async def refuse(
        self, error: ControlError, method: str, message: bytes, peer: Peer, seconds_left: float | None
    ) -> Refusal:
        """Put a call on record that could not be judged, and give the refusal to raise."""
        await self.submit(Refuse(method, Broken.of(message, str(error)), peer.identity), seconds_left)
        return self.refusal(error)

    def refusal(self, error: ControlError) -> Refusal:
        """Give `error` its status."""
        return Refusal(STATUS[type(error)], str(error))
