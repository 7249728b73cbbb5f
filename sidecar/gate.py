"""The gate: the only place where a proposed action becomes a forwarded one.

Rules:
1. Sans-I/O: events in, commands out. Nothing here knows a clock, a socket, a file or a log.
2. Every transition is in `NEXT`. A pair that is missing is our bug, and raises `RuntimeError`.
3. `Forward` follows from one thing alone: an answer with status OK that says ALLOW or WARN of exactly the bytes
   that `Forward` carries. Everything else is a refusal; what the gate does not understand is a refusal too.
4. `Settle` says only what is known: NOT_EXECUTED when the go-ahead came and was never used, EXECUTED or FAILED when
   the action was forwarded. A go-ahead that somebody else may have used is not settled.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NoReturn, TypeAlias

from exequatur.action import action_digest
from exequatur.values import Decision, Effect, Outcome

OBLIGATIONS: Final[frozenset[str]] = frozenset()
"""The obligations that this enforcer can carry out: none yet, so that each one is a denial."""


class State(Enum):
    """Where an action stands."""

    IDLE = "idle"
    WAITING = "waiting for a decision"
    WITHDRAWN = "withdrawn before the decision came"
    FORWARDED = "forwarded"
    OVER = "over"


class Why(Enum):
    """Why the gate refuses; the value is the word that records carry."""

    DENIED = "denied"
    APPROVAL = "approval_required"
    UNANSWERED = "unanswered"
    UNSPECIFIED = "effect_unknown"
    INCOMPLETE = "answer_incomplete"
    REPEATED = "answer_repeated"
    OBLIGATION = "obligation_unknown"
    SESSION = "session_differs"
    DIGEST = "digest_differs"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class Call:
    """A proposed action as it will be forwarded. An empty `session` leaves it to the decision point to find it."""

    tenant: str
    agent: str
    session: str
    tool: str
    definition_sha256: bytes
    arguments_json: bytes


# Events.


@dataclass(frozen=True, slots=True)
class Proposed:
    """The agent proposes an action."""

    call: Call


@dataclass(frozen=True, slots=True)
class Answered:
    """The decision point answered with status OK."""

    decision: Decision


@dataclass(frozen=True, slots=True)
class Unanswered:
    """No decision: any status other than OK, a time limit, an answer that cannot be read."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The agent, or the way to the tool, is gone before anything was forwarded."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The forwarded action ended. `ok` is False when it failed, or when nobody knows how it ended."""

    ok: bool


Event: TypeAlias = Proposed | Answered | Unanswered | Withdrawn | Finished


# Commands.


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the decision point about this call."""

    call: Call


@dataclass(frozen=True, slots=True)
class Forward:
    """Forward these bytes, now. Only the gate makes one."""

    call: Call
    decision_id: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell the agent no."""

    why: Why


@dataclass(frozen=True, slots=True)
class Settle:
    """Tell the decision point what became of its go-ahead."""

    decision_id: str
    outcome: Outcome


Command: TypeAlias = Ask | Forward | Refuse | Settle


class Turn(Enum):
    """What an event amounts to, once an answer has been judged."""

    PROPOSED = "proposed"
    GO = "go-ahead"
    NO = "no go-ahead"
    WITHDRAWN = "withdrawn"
    FINISHED = "finished"


NEXT: Final = {
    (State.IDLE, Turn.PROPOSED): State.WAITING,
    (State.WAITING, Turn.GO): State.FORWARDED,
    (State.WAITING, Turn.NO): State.OVER,
    (State.WAITING, Turn.WITHDRAWN): State.WITHDRAWN,
    (State.WITHDRAWN, Turn.GO): State.OVER,
    (State.WITHDRAWN, Turn.NO): State.OVER,
    (State.FORWARDED, Turn.FINISHED): State.OVER,
}


def refusal(call: Call, decision: Decision) -> Why | None:
    """Why `decision` is no go-ahead for exactly `call`; None when it is one.

    The digest is computed anew from the bytes that would be forwarded, so that what was judged is what runs.
    """
    if decision.effect not in (Effect.ALLOW, Effect.WARN):
        return _NO.get(decision.effect, Why.UNSPECIFIED)
    if decision.repeated_answer:
        return Why.REPEATED
    if not decision.decision_id or not decision.session or not decision.reasons:
        return Why.INCOMPLETE
    if not OBLIGATIONS.issuperset(item.id for item in decision.obligations):
        return Why.OBLIGATION
    if call.session not in ("", decision.session):
        return Why.SESSION
    digest = action_digest(
        tenant=call.tenant,
        agent=call.agent,
        session=decision.session,
        tool=call.tool,
        definition_sha256=call.definition_sha256,
        arguments_json=call.arguments_json,
    )
    return None if hmac.compare_digest(digest, decision.action_digest) else Why.DIGEST


_NO: Final = {Effect.DENY: Why.DENIED, Effect.REQUIRE_APPROVAL: Why.APPROVAL}


@dataclass(slots=True)
class Gate:
    """The way of one action. One gate an action; feed it events, carry out its commands in order."""

    state: State = State.IDLE
    _call: Call | None = field(default=None, repr=False)
    _decision_id: str = ""

    def receive(self, event: Event) -> tuple[Command, ...]:
        """Take one event and say what to do. Raises `RuntimeError` for an event out of order."""
        match event:
            case Proposed(call):
                self._move(Turn.PROPOSED, event)
                self._call = call
                return (Ask(call),)
            case Answered(decision):
                return self._answered(decision, event)
            case Unanswered():
                withdrawn = self.state is State.WITHDRAWN
                self._move(Turn.NO, event)
                return () if withdrawn else (Refuse(Why.UNANSWERED),)
            case Withdrawn():
                self._move(Turn.WITHDRAWN, event)
                return (Refuse(Why.WITHDRAWN),)
            case Finished(ok):
                self._move(Turn.FINISHED, event)
                return (Settle(self._decision_id, Outcome.EXECUTED if ok else Outcome.FAILED),)

    def _answered(self, decision: Decision, event: Event) -> tuple[Command, ...]:
        if self._call is None:
            _out_of_order(self.state, event)
        why = refusal(self._call, decision)
        before = self.state
        self._move(Turn.GO if why is None else Turn.NO, event)
        if why is None and before is State.WAITING:
            self._decision_id = decision.decision_id
            return (Forward(self._call, decision.decision_id),)
        refuse = (Refuse(why),) if why is not None and before is State.WAITING else ()
        # A go-ahead was given and is not used: what it holds is given back. A repeated answer's go-ahead may have
        # been used by the first call, so it is left alone.
        unused = (
            decision.effect in (Effect.ALLOW, Effect.WARN) and not decision.repeated_answer and decision.decision_id
        )
        return (*refuse, Settle(decision.decision_id, Outcome.NOT_EXECUTED)) if unused else refuse

    def _move(self, turn: Turn, event: Event) -> None:
        following = NEXT.get((self.state, turn))
        if following is None:
            _out_of_order(self.state, event)
        self.state = following


def _out_of_order(state: State, event: Event) -> NoReturn:
    raise RuntimeError(f"{type(event).__name__} while {state.value}")
