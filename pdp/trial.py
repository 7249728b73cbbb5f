"""A candidate beside the policy in force: in the shadow, where no answer depends on it, or as a canary.

Rules: pure, and all time is injected. A candidate never makes an answer looser, and what goes wrong with it is its own
trouble: the answer in force stands. A session is a canary by a stable hash of its id, the same in every worker. Money,
labels and steps are taken once, by the answer that is given.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Final, TypeAlias

from exequatur.action import Action
from exequatur.trust.canonical import Json
from pdp.engine.combine import combine, refusal
from pdp.engine.manifest import Role
from pdp.judge import Outcome, bounded, failed, judge, record_of, rfc3339
from pdp.model import Decision, Effect, ReasonKind, Session, Verdict
from pdp.policies import Standing, Trial

FEWEST: Final = 50
"""How many answers of a canary there are before their share of stricter ones says anything."""

WAITING: Final = 256
"""How many judged actions wait for their shadow; the oldest give way."""

SAMPLES: Final = 100
"""How many differences wait to be put on record, one each `SAMPLE_S` seconds; the oldest give way."""

SAMPLE_S: Final = 1.0

REST: Final = 9.0
REST_AFTER_ERROR: Final = 99.0
"""How many times as long as it took a shadow rests: a tenth of the time is its at most, a hundredth while it fails."""

_OWN_TROUBLE: Final = (ReasonKind.ERROR, ReasonKind.STALE)

Key: TypeAlias = tuple[str, bytes]
"""A trial: the tenant, and the candidate's digest."""


class Comparison(StrEnum):
    """How a candidate's answer compares with the one in force."""

    SAME = "same"
    STRICTER = "stricter"
    LOOSER = "looser"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Asked:
    """What was judged, as it was read."""

    action: Action
    session: Session
    enforcer: str
    now: datetime
    door_enforced: bool = False


@dataclass(frozen=True, slots=True)
class Compared:
    """One answer of a candidate beside the one in force; `error` is the candidate's."""

    key: Key
    active: Effect
    candidate: Effect
    error: str = ""

    @property
    def result(self) -> Comparison:
        """Say it in a word."""
        if self.error:
            return Comparison.ERROR
        if self.candidate is self.active:
            return Comparison.SAME
        return Comparison.STRICTER if self.candidate > self.active else Comparison.LOOSER


@dataclass(frozen=True, slots=True)
class Tally:
    """How many answers of a canary there were, how many it made stricter, and why it was halted, if it was."""

    judged: int = 0
    stricter: int = 0
    halted: str = ""

    def counted(self, compared: Compared, trial: Trial) -> Tally:
        """Count one more answer; an error halts, and so does more than the allowed share of stricter ones."""
        judged, stricter = self.judged + 1, self.stricter + (compared.result is Comparison.STRICTER)
        halted = self.halted
        if compared.error:
            halted = f"the candidate failed: {compared.error}"
        elif judged >= FEWEST and stricter * 100 > trial.max_stricter_percent * judged:
            halted = f"the candidate made {stricter} of {judged} answers stricter"
        return Tally(judged, stricter, self.halted or halted)


@dataclass(frozen=True, slots=True)
class Shadowed:
    """An action that the policy in force has judged, for its shadow."""

    asked: Asked
    trial: Trial
    decision: Decision

    @property
    def key(self) -> Key:
        """Which trial it is for."""
        return self.asked.action.tenant, self.trial.snapshot.digest


@dataclass(slots=True)
class Trying:
    """What one round tries: what a canary answered, the tallies after it, and what is left to the shadow."""

    tallies: dict[Key, Tally] = field(default_factory=dict)
    compared: list[Compared] = field(default_factory=list)
    shadowed: list[Shadowed] = field(default_factory=list)

    def answer(self, standing: Standing, asked: Asked, active: Outcome) -> Outcome:
        """Give the answer where `standing` has a trial: `active`, or, in a canary's session, the stricter one."""
        trial = standing.trial
        if trial is None or standing.silenced(asked.now):
            return active
        key = asked.action.tenant, trial.snapshot.digest
        tally = self.tallies.get(key, Tally())
        if tally.halted:
            return active
        if not trial.percent:
            self.shadowed.append(Shadowed(asked, trial, active.decision))
            return active
        if not chosen(asked.session.id, trial.percent):
            return active
        outcome, compared = canary(asked, active, trial)
        self.compared.append(compared)
        self.tallies[key] = tally.counted(compared, trial)
        return outcome


def chosen(session: str, percent: int) -> bool:
    """Whether a session is among the `percent` of all that are a canary's."""
    return int.from_bytes(sha256(session.encode()).digest()) % 100 < percent


def canary(asked: Asked, active: Outcome, trial: Trial) -> tuple[Outcome, Compared]:
    """Give the stricter of both answers, with both effects on record; after the candidate's error, `active`."""
    candidate = _judged(asked, trial)
    compared = _compare(asked, active.decision, candidate.decision, trial)
    outcome = active
    if not compared.error and active.decision.effect is not Effect.DENY:
        both = _together(active.decision, candidate.decision)
        if both.errors:  # their obligations conflict
            compared = replace(compared, error=both.errors[0])
        else:
            outcome = _given(asked, active, both)
    record: dict[str, Json] = {
        **outcome.record,
        "candidate": trial.snapshot.digest.hex(),
        "active_effect": compared.active.name.lower(),
        "candidate_effect": compared.candidate.name.lower(),
    }
    if compared.error:
        record["candidate_error"] = compared.error
    return replace(outcome, record=record), compared


class Shadow:
    """What waits for its shadow, and the differences that wait to be put on record. Belongs to one thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Start with nothing; `clock` is monotonic, in seconds."""
        self._clock = clock
        self._waiting: deque[Shadowed] = deque()
        self._differences: deque[dict[str, Json]] = deque(maxlen=SAMPLES)
        self._rested = self._sampled = clock()

    def due_s(self) -> float | None:
        """Give the seconds until there is something to do; None while nothing waits."""
        due = [self._rested] if self._waiting else []
        due += [self._sampled] if self._differences else []
        return max(0.0, min(due) - self._clock()) if due else None

    def offer(self, shadowed: Iterable[Shadowed]) -> list[Key]:
        """Take what was judged; gives the trial of each one that had to give way."""
        self._waiting.extend(shadowed)
        return [self._waiting.popleft().key for _ in range(len(self._waiting) - WAITING)]

    def step(self, trials: Callable[[str], Trial | None]) -> Compared | None:
        """Judge one action that waits, once rested, if its candidate is still what `trials` has for its tenant."""
        begun = self._clock()
        if not self._waiting or begun < self._rested:
            return None
        shadowed = self._waiting.popleft()
        asked, trial = shadowed.asked, trials(shadowed.asked.action.tenant)
        if trial is None or trial.snapshot.digest != shadowed.trial.snapshot.digest:
            return None
        candidate = _judged(asked, shadowed.trial)
        compared = _compare(asked, shadowed.decision, candidate.decision, shadowed.trial)
        ended = self._clock()
        self._rested = ended + (ended - begun) * (REST_AFTER_ERROR if compared.error else REST)
        if compared.result is not Comparison.SAME:
            self._differences.append(_difference(shadowed, candidate))
        return compared

    def sample(self) -> dict[str, Json] | None:
        """Give the record of one difference, at most one each `SAMPLE_S` seconds."""
        now = self._clock()
        if not self._differences or now < self._sampled:
            return None
        self._sampled = now + SAMPLE_S
        return self._differences.popleft()


def _judged(asked: Asked, trial: Trial) -> Outcome:
    """Let the candidate judge; whatever breaks in it, and in us for its sake, is a denial of its own."""
    standing = Standing(trial.snapshot)
    try:
        return judge(
            asked.action,
            asked.session,
            standing,
            enforcer=asked.enforcer,
            now=asked.now,
            decision_id="",
            door_enforced=asked.door_enforced,
        )
    except Exception as error:  # noqa: BLE001  nobody's answer may depend on it
        text = f"judging failed: {type(error).__name__}"
        return failed(asked.action, standing, text, enforcer=asked.enforcer, now=asked.now, decision_id="")


def _together(active: Decision, candidate: Decision) -> Verdict:
    """Give what both say, the strictest first; an error where neither is the stricter one."""
    try:
        return bounded(combine([(Role.DECIDE, _verdict(each)) for each in (active, candidate)]))
    except Exception as error:  # noqa: BLE001  as above
        return refusal(f"the answers could not be combined: {type(error).__name__}")


def _compare(asked: Asked, active: Decision, candidate: Decision, trial: Trial) -> Compared:
    troubles: Sequence[str] = [reason.text for reason in candidate.reasons if reason.kind in _OWN_TROUBLE]
    error = next(iter((*candidate.errors, *troubles)), "")
    return Compared((asked.action.tenant, trial.snapshot.digest), active.effect, candidate.effect, error)


def _verdict(decision: Decision) -> Verdict:
    return Verdict(
        "",
        decision.effect,
        decision.reasons,
        decision.obligations,
        decision.approvers,
        decision.errors,
        decision.replayable,
    )


def _given(asked: Asked, active: Outcome, both: Verdict) -> Outcome:
    """Give `active` with what both together say; where it may not run any more, nothing is taken for it."""
    if both.effect.may_run:
        after, reservation, settle_by = active.session, active.reservation, active.decision.settle_by
    else:
        after, reservation, settle_by = asked.session, None, None
    decision = replace(
        active.decision,
        effect=both.effect,
        reasons=both.reasons,
        obligations=both.obligations,
        approvers=both.approvers,
        replayable=both.replayable,
        reserved_microusd=0 if reservation is None else reservation.amount_microusd,
        settle_by=settle_by,
    )
    record = record_of(
        asked.action, decision, after, enforcer=asked.enforcer, now=asked.now, door_enforced=asked.door_enforced
    )
    return Outcome(decision, after, reservation, record)


def _difference(shadowed: Shadowed, candidate: Outcome) -> dict[str, Json]:
    """Make the record of a shadow that would have answered otherwise; never an argument's value."""
    asked, active = shadowed.asked, shadowed.decision
    return {
        "kind": "shadow",
        "time": rfc3339(asked.now),
        "decision_id": active.id,
        "tenant": asked.action.tenant,
        "enforcer": asked.enforcer,
        "agent": asked.action.agent,
        "instance": asked.action.instance,
        "session": active.session,
        "tool": asked.action.tool,
        "bundle": active.bundle_sha256.hex(),
        "sequence": active.bundle_sequence,
        "effect": active.effect.name.lower(),
        "candidate": shadowed.trial.snapshot.digest.hex(),
        "candidate_sequence": shadowed.trial.snapshot.sequence,
        "candidate_effect": candidate.decision.effect.name.lower(),
        "reasons": candidate.record["reasons"],
        "errors": candidate.record["errors"],
    }
