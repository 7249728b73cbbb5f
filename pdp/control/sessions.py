"""The rules of sessions: opening, scope, room, reserving, settling, closing.

Rules: pure, time is an argument. Steps, labels and calls only grow. Money that is reserved leaves the budget at once;
it comes back only when the gate says that the action was not executed. An instance has at most one open session, and
a new one inherits the labels and the last minute of the one before. `Session.version` is the store's: nothing here
touches it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from pdp.model import Intent, LastMinute, Reservation, Session

if TYPE_CHECKING:  # who keeps the store for others needs neither
    from exequatur.registry import Tool
    from pdp.engine.inventory import Limits

MAX_MICROUSD: Final = 2**53 - 1
"""The largest amount, about nine billion dollars: what a record can hold as a JSON number. Sums stop there."""

NAME_CHARACTERS: Final = 256
TASK_CHARACTERS: Final = 4096
LISTS_BYTES: Final = 32 * 2**10
"""Bounds on what an orchestrator writes into a session: a name, the task, and all its lists together, which must
fit into one record of at most 60 KiB."""

_SCOPE: Final = re.compile(r"\*|[^/*\s]+/(\*|[^*\s]+)")


class ControlError(Exception):
    """Why something is not done to a session: one sentence for the caller. The subclass says who must act."""


class InvalidError(ControlError):
    """The call itself is wrong."""


class NotFoundError(ControlError):
    """There is no such thing, or none that this caller may know of."""


class NotAllowedError(ControlError):
    """The caller may not do this."""


class WrongStateError(ControlError):
    """Not as things stand now."""


class UnavailableError(ControlError):
    """Our own fault: the state could not be read, written or recorded."""


class BusyError(ControlError):
    """More waits than can be served soon."""


class LateError(ControlError):
    """The caller's time ran out before anything was judged."""


class Report(StrEnum):
    """What an enforcer reports of an allowed action."""

    EXECUTED = "executed"
    FAILED = "failed"
    NOT_EXECUTED = "not_executed"


class Fate(StrEnum):
    """What became of a reservation."""

    HELD = "held"
    SETTLED = "settled"
    RELEASED = "released"
    CHARGED = "charged"


@dataclass(frozen=True, slots=True)
class Held:
    """A reservation and what became of it; `charged_microusd` counts once it is no longer held."""

    reservation: Reservation
    fate: Fate = Fate.HELD
    charged_microusd: int = 0


@dataclass(frozen=True, slots=True)
class Wish:
    """The session that an orchestrator asks for."""

    tenant: str
    agent: str
    instance: str
    enforcer: str
    lifetime: timedelta
    max_steps: int
    budget_microusd: int
    subject: str = ""
    delegation_chain: tuple[str, ...] = ()
    intent: Intent = field(default_factory=Intent)
    scope: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse what no session can be; raises `InvalidError` naming the field."""
        for name, text in (
            ("tenant", self.tenant),
            ("agent", self.agent),
            ("instance", self.instance),
            ("enforcer", self.enforcer),
            ("subject", self.subject),
            ("intent.purpose", self.intent.purpose),
        ):
            _check_text(name, text, NAME_CHARACTERS)
        _check_text("intent.task", self.intent.task, TASK_CHARACTERS, lines=True)
        lists = {
            "delegation_chain": self.delegation_chain,
            "intent.domains": self.intent.domains,
            "scope": self.scope,
        }
        for name, entries in lists.items():
            for entry in entries:
                _check_text(name, entry, NAME_CHARACTERS)
        if sum(len(entry.encode()) + 3 for entries in lists.values() for entry in entries) > LISTS_BYTES:
            raise InvalidError(f"`{'`, `'.join(lists)}` together have more than {LISTS_BYTES} bytes")
        for entry in self.scope:
            if not _SCOPE.fullmatch(entry):
                raise InvalidError(f"`scope` entry `{entry}` is neither `<server>/<name>` nor `<server>/*` nor `*`")
        if not self.agent or not self.enforcer:
            raise InvalidError("`agent` and `enforcer` must be given")
        if self.lifetime <= timedelta(0):
            raise InvalidError("`lifetime` must be longer than nothing")
        if not 0 <= self.max_steps <= MAX_MICROUSD or not 0 <= self.budget_microusd <= MAX_MICROUSD:
            raise InvalidError("`max_steps` and `budget_microusd` must be from 0 to 2^53-1")


def open_session(wish: Wish, *, session_id: str, limits: Limits, previous: Session | None, now: datetime) -> Session:
    """Make the session that `wish` asks for, within `limits`; `previous` is the last one of the same instance.

    Raises `WrongStateError` while `previous` is open, `InvalidError` for a wish that no session can be.
    """
    wish.check()
    if previous is not None and is_open(previous, now):
        raise WrongStateError("this agent instance has an open session already: close it, or wait until it ends")
    lifetime_s = min(wish.lifetime.total_seconds(), limits.max_lifetime_s)
    try:
        expires_at = now + timedelta(seconds=lifetime_s)
    except OverflowError:
        raise InvalidError("`lifetime` reaches beyond the calendar") from None
    return Session(
        id=session_id,
        tenant=wish.tenant,
        agent=wish.agent,
        instance=wish.instance,
        enforcer=wish.enforcer,
        opened_at=now,
        expires_at=expires_at,
        max_steps=min(wish.max_steps, limits.max_steps),
        budget_microusd=min(wish.budget_microusd, limits.max_budget_microusd),
        subject=wish.subject,
        delegation_chain=wish.delegation_chain,
        intent=wish.intent,
        scope=wish.scope,
        labels=frozenset() if previous is None else previous.labels,
        # Or else whoever has used a rate up would open another session.
        last_minute=LastMinute() if previous is None else previous.last_minute,
    )


def is_open(session: Session, now: datetime) -> bool:
    """Whether actions may still be asked in it."""
    return session.closed_at is None and now < session.expires_at


def close_session(session: Session, now: datetime) -> Session:
    """End it now, or when it ended by itself; closing twice changes nothing."""
    return session if session.closed_at is not None else replace(session, closed_at=min(now, session.expires_at))


def in_scope(scope: Iterable[str], tool: str) -> bool:
    """Whether `tool` (`<server>/<name>`) is in `scope`; an empty scope holds nothing."""
    server = tool.partition("/")[0]
    return any(entry in ("*", tool, f"{server}/*") for entry in scope)


def has_room(session: Session, amount_microusd: int) -> bool:
    """Whether the budget can hold `amount_microusd` more, counting what is reserved."""
    return session.spent_microusd + session.reserved_microusd + amount_microusd <= session.budget_microusd


def reserve(session: Session, tool: Tool, amount_microusd: int, now: datetime) -> Session:
    """Count one allowed action of `tool`, take its labels in, and hold its money."""
    writes = int(tool.access == "write")
    return replace(
        session,
        steps=session.steps + 1,
        labels=session.labels.union(tool.labels),
        calls={**session.calls, tool.full: session.calls.get(tool.full, 0) + 1},
        last_minute=session.last_minute.counted(now, 1 - writes, writes),
        reserved_microusd=session.reserved_microusd + amount_microusd,
    )


def finish(session: Session, held: Held, fate: Fate, cost_microusd: int) -> tuple[Session, Held]:
    """Turn a held reservation into what was charged for it: nothing when it is released."""
    if held.fate is not Fate.HELD:
        raise WrongStateError(f"the action was already {held.fate}: it is accounted for")
    charged = 0 if fate is Fate.RELEASED else min(cost_microusd, MAX_MICROUSD)
    after = replace(
        session,
        reserved_microusd=session.reserved_microusd - held.reservation.amount_microusd,
        spent_microusd=min(session.spent_microusd + charged, MAX_MICROUSD),
    )
    return after, Held(held.reservation, fate, charged)


def unfinish(session: Session, held: Held) -> tuple[Session, Held]:
    """Undo `finish`: what could not be put on record has not happened."""
    after = replace(
        session,
        reserved_microusd=session.reserved_microusd + held.reservation.amount_microusd,
        spent_microusd=max(0, session.spent_microusd - held.charged_microusd),
    )
    return after, Held(held.reservation)


def _check_text(name: str, text: str, limit: int, *, lines: bool = False) -> None:
    if len(text) > limit:
        raise InvalidError(f"`{name}` has {len(text)} characters, the limit is {limit}")
    if not (text.replace("\n", " ").replace("\t", " ") if lines else text).isprintable():
        raise InvalidError(f"`{name}` holds a control character")
