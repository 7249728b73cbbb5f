"""The decision point's own words as values: effects, reasons, decisions, sessions.

Rules: nothing here knows the wire, the store or the clock. Numbers of `Effect` and `ReasonKind` are the wire's.
Money is integer micro-USD; times are aware and UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Final

from exequatur.trust.canonical import Json


class Effect(IntEnum):
    """What is decided; a larger number is stricter."""

    ALLOW = 1
    WARN = 2
    REQUIRE_APPROVAL = 3
    DENY = 4

    @property
    def may_run(self) -> bool:
        """Whether the action may run now."""
        return self in (Effect.ALLOW, Effect.WARN)


class ReasonKind(IntEnum):
    """Why: four refusals that people must be able to tell apart, and the rest."""

    PERMITTED = 1
    RESTRICTED = 2
    FORBIDDEN = 3
    NOT_PERMITTED = 4
    INVALID = 5
    EXHAUSTED = 6
    ERROR = 7
    STALE = 8


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason for an effect. `text` is one sentence and holds no argument values."""

    kind: ReasonKind
    text: str
    policy: str = ""
    engine: str = ""
    owasp: str = ""


@dataclass(frozen=True, slots=True)
class Obligation:
    """A duty of the enforcer, with its parameters."""

    id: str
    parameters: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one engine, or all of them combined, say about an action. An empty `reasons` is a bug.

    `replayable` is False where an engine could ask more than the facts: the same facts may give another verdict.
    """

    engine: str
    effect: Effect
    reasons: tuple[Reason, ...]
    obligations: tuple[Obligation, ...] = ()
    approvers: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    replayable: bool = True


@dataclass(frozen=True, slots=True)
class Decision:
    """An effect with its reasons, obligations and evidence: what the enforcer is told."""

    id: str
    effect: Effect
    reasons: tuple[Reason, ...]
    obligations: tuple[Obligation, ...] = ()
    approvers: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    action_digest: bytes = b""
    bundle_sha256: bytes = b""
    bundle_sequence: int = 0
    session: str = ""
    reserved_microusd: int = 0
    settle_by: datetime | None = None
    retry_after_ms: int = 0
    latency_us: int = 0
    replayable: bool = True


@dataclass(frozen=True, slots=True)
class Intent:
    """What a session is for."""

    purpose: str = ""
    task: str = ""
    domains: tuple[str, ...] = ()


WINDOW_S: Final = 60
"""How many seconds `LastMinute` looks back, its own second among them: it never has more entries."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class LastMinute:
    """How many actions were allowed in each second of the last minute: (seconds since 1970, reads, writes), in order.

    A second that no action fell in has no entry. What lies ahead of the clock counts as well, and is added to: a clock
    that was put back never frees anybody.
    """

    seconds: tuple[tuple[int, int, int], ...] = ()

    def totals(self, now: datetime) -> tuple[int, int]:
        """Count reads and writes in the second of `now` and the 59 before it."""
        first = _second(now) - WINDOW_S
        recent = [entry for entry in self.seconds if entry[0] > first]
        return sum(reads for _, reads, _ in recent), sum(writes for _, _, writes in recent)

    def counted(self, now: datetime, reads: int, writes: int) -> LastMinute:
        """Count actions that are allowed at `now`, and forget what is over."""
        second = max(_second(now), self.seconds[-1][0] if self.seconds else 0)
        kept = [entry for entry in self.seconds if entry[0] > second - WINDOW_S]
        if kept and kept[-1][0] == second:
            _, reads_before, writes_before = kept.pop()
            reads, writes = reads + reads_before, writes + writes_before
        return LastMinute((*kept, (second, reads, writes)))


def _second(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Session:
    """One run of one agent instance, bound to an enforcer, with its state. `version` counts its changes."""

    id: str
    tenant: str
    agent: str
    instance: str
    enforcer: str
    opened_at: datetime
    expires_at: datetime
    max_steps: int
    budget_microusd: int
    subject: str = ""
    delegation_chain: tuple[str, ...] = ()
    intent: Intent = Intent()
    scope: tuple[str, ...] = ()
    closed_at: datetime | None = None
    labels: frozenset[str] = frozenset()
    steps: int = 0
    spent_microusd: int = 0
    reserved_microusd: int = 0
    calls: Mapping[str, int] = field(default_factory=dict)
    last_minute: LastMinute = LastMinute()
    version: int = 0


@dataclass(frozen=True, slots=True)
class Reservation:
    """Money held for one allowed action until it is settled, or charged at `expires_at`."""

    decision_id: str
    session: str
    tenant: str
    enforcer: str
    amount_microusd: int
    expires_at: datetime
