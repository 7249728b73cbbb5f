"""What can be asked of the conveyor, and what comes back, as values: no wire, no store, no clock.

`tenant` is never empty here; `caller` and `enforcer` are identities that the channel proved.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TypeAlias

from exequatur.action import Action
from pdp.control.sessions import Report, Wish
from pdp.model import Decision, Session


@dataclass(frozen=True, slots=True)
class Broken:
    """A message that cannot be judged: why in one sentence, and the message's size and SHA-256."""

    text: str
    size: int
    sha256: bytes

    @classmethod
    def of(cls, message: bytes, text: str) -> Broken:
        """Describe `message`."""
        return cls(text, len(message), sha256(message).digest())


@dataclass(frozen=True, slots=True)
class Ask:
    """May these actions run? Judged in order; one that is broken is denied alone. Result: one `Answer` each."""

    items: tuple[Action | Broken, ...]
    enforcer: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A decision, and whether it repeats an earlier answer."""

    decision: Decision
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Settle:
    """What became of an allowed action; `cost_microusd` None charges what was reserved. Result: what is charged."""

    tenant: str
    decision_id: str
    enforcer: str
    report: Report
    cost_microusd: int | None


@dataclass(frozen=True, slots=True)
class Open:
    """Open a session. Result: the `Session`."""

    wish: Wish
    caller: str


@dataclass(frozen=True, slots=True)
class Close:
    """Close a session. Result: the `Session`."""

    tenant: str
    session: str
    caller: str


@dataclass(frozen=True, slots=True)
class Show:
    """Show a session by id, or the open one of an instance, to its enforcer or one who `sees_all`. Result: `Shown`."""

    tenant: str
    session: str
    agent: str
    instance: str
    caller: str
    sees_all: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """A session, and the tools in its scope with the SHA-256 of each one's definition."""

    session: Session
    tools: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Refuse:
    """Put a call on record that could not be judged. Result: None."""

    method: str
    broken: Broken
    caller: str


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Take back what was decided and told to nobody; `text` says why. Result: denials for `asked`, or an error."""

    asked: Ask | Open
    result: tuple[Answer, ...] | Session
    text: str


Request: TypeAlias = Ask | Settle | Open | Close | Show | Refuse | Withdraw
Result: TypeAlias = tuple[Answer, ...] | int | Session | Shown | None
