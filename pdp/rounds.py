"""One round: requests served in order on one book, and what is to be written, recorded and answered for them.

Rules: nothing is written or answered here. A request that is wrong gets its own error and does not touch the others;
a store that fails ends the round. Each decision, settlement, charge and change of a session makes one record.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from exequatur.action import Action
from exequatur.trust.canonical import Json
from pdp.control import answers
from pdp.control.book import Book
from pdp.control.sessions import (
    ControlError,
    Fate,
    Held,
    InvalidError,
    LateError,
    NotFoundError,
    Report,
    UnavailableError,
    WrongStateError,
    close_session,
    in_scope,
    open_session,
)
from pdp.control.store import Changes
from pdp.control.tables import AnswerKey
from pdp.ids import RANDOM_BYTES, uuid7
from pdp.judge import RESERVATION_TTL, belongs, digest, failed, judge, record_of, rfc3339, timed
from pdp.model import Decision, Effect, Reason, ReasonKind, Session
from pdp.policies import Policies
from pdp.requests import Answer, Ask, Broken, Close, Open, Refuse, Request, Result, Settle, Show, Shown, Withdraw
from pdp.trial import Asked, Trying

OVERDUE = 500
"""How many overdue reservations are charged in one round: a few milliseconds' worth."""

LATE = "the call's deadline passed before it was judged"

ASKING = "grpc"
"""The door at which an agent asks, and then acts by itself: nobody can say that it has no other way."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the settings say about judging: how long money is held, and whose doors are enforced."""

    reservation_ttl: timedelta = RESERVATION_TTL
    enforced: frozenset[str] = frozenset()

    def is_enforced(self, enforcer: str, door: str) -> bool:
        """Tell whether who comes in by this door of this enforcer has no other way to its tools."""
        return door != ASKING and not self.enforced.isdisjoint((enforcer, f"{enforcer}@{door}"))


@dataclass(slots=True)
class Round:
    """One round on `book` under `policies`. `results` has one entry a request; `records` is what goes on record."""

    book: Book
    policies: Policies
    rules: Rules
    trying: Trying = field(default_factory=Trying)
    results: list[Result | ControlError] = field(default_factory=list)
    records: list[dict[str, Json]] = field(default_factory=list)

    def serve(self, requests: Sequence[Request], deadlines: Sequence[float | None]) -> None:
        """Serve all requests in order, but those whose deadline (monotonic) has passed when their turn comes.

        Raises `StoreError` when the store fails.
        """
        self._fetch(requests)
        self.charge_overdue(self.book.holding())
        for request, deadline in zip(requests, deadlines, strict=True):
            try:
                if deadline is not None and time.monotonic() >= deadline:
                    raise LateError(LATE)
                self.results.append(self._serve(request, deadline))
            except ControlError as error:
                self.results.append(error)

    def charge_overdue(self, sessions: Sequence[str] | None = None) -> None:
        """Charge what was never settled, in `sessions` or everywhere."""
        for held in self.book.overdue(OVERDUE, sessions):
            self._charge(held)

    def undo(self, changes: Changes) -> None:
        """Take back what an earlier round wrote and could not put on record; steps and labels stay."""
        for decision_id in changes.reserved:
            held = self.book.held(decision_id)
            if held is not None and held.fate is Fate.HELD:
                self.book.finish(held, Fate.RELEASED, 0)
        for decision_id, finished in changes.finished.items():
            if decision_id not in changes.reserved and self.book.held(decision_id) == finished:
                self.book.unfinish(finished)
        for session_id in changes.opened:
            session = self.book.session(session_id)
            if session is not None:
                self.book.put(close_session(session, self.book.now))
        self.book.forget([decision_id for decision_id, _ in changes.answers.values()])

    def _fetch(self, requests: Sequence[Request]) -> None:
        """Read what most requests need with one question each: sessions, then answers to idempotency keys."""
        asked = [
            (action, request.enforcer)
            for request in requests
            if isinstance(request, Ask)
            for action in request.items
            if isinstance(action, Action)
        ]
        self.book.fetch(
            {action.session for action, _ in asked if action.session},
            {_instance(action) for action, _ in asked if not action.session},
        )
        keys = (self._answer_key(action, enforcer) for action, enforcer in asked if action.idempotency_key)
        self.book.fetch_answers({key for key in keys if key is not None})

    def _serve(self, request: Request, deadline: float | None) -> Result:
        result: Result = None
        match request:
            case Ask():
                result = tuple(self._in_time(item, request.enforcer, deadline) for item in request.items)
            case Settle():
                result = self._settle(request)
            case Open():
                result = self._open(request)
            case Close():
                result = self._close(request)
            case Show():
                result = self._show(request)
            case Refuse():
                self.records.append(_refused(request.broken, request.caller, request.method, self.book.now))
            case Withdraw():
                result = self._withdraw(request)
        return result

    def _in_time(self, item: Action | Broken, enforcer: str, deadline: float | None) -> Answer:
        """Decide, or deny what is left of a batch once its caller's time is up: others wait behind it."""
        if deadline is None or time.monotonic() < deadline:
            return self._decide(item, enforcer)
        answer, record = _deny_item(item, enforcer, LATE, self.policies, self.book.now)
        self.records.append(record)
        return answer

    def _decide(self, action: Action | Broken, enforcer: str) -> Answer:
        started = time.perf_counter_ns()
        if isinstance(action, Broken):
            return self._deny(action, enforcer)
        standing, now = self.policies.of(action.tenant), self.book.now
        # What was allowed is not said again by a policy that may not speak, and that it may not is no answer to keep.
        repeatable = bool(action.idempotency_key) and not standing.silenced(now)
        key = self._answer_key(action, enforcer) if repeatable else None
        session = self._session_of(action)
        enforced = self.rules.is_enforced(enforcer, action.door)
        if key is not None and (given := self.book.answer(key)) is not None:
            decision = answers.load(given)
            self.records.append(
                record_of(
                    action,
                    decision,
                    session,
                    enforcer=enforcer,
                    now=now,
                    kind="repeat",
                    door_enforced=enforced,
                )
            )
            return Answer(decision, repeated=True)
        outcome = judge(
            action,
            session,
            standing,
            enforcer=enforcer,
            now=now,
            decision_id=_new_id(now),
            reservation_ttl=self.rules.reservation_ttl,
            door_enforced=enforced,
        )
        if standing.trial is not None and session is not None:
            outcome = self.trying.answer(standing, Asked(action, session, enforcer, now, enforced), outcome)
        outcome = timed(outcome, (time.perf_counter_ns() - started) // 1000)
        if outcome.reservation is not None and outcome.session is not None:
            self.book.put(outcome.session)
            self.book.reserve(outcome.reservation)
        if key is not None:
            self.book.remember(key, outcome.decision.id, answers.dump(outcome.decision))
        self.records.append(dict(outcome.record))
        return Answer(outcome.decision)

    def _deny(self, broken: Broken, enforcer: str) -> Answer:
        answer, record = _deny_broken(broken, enforcer, self.book.now)
        self.records.append(record)
        return answer

    def _session_of(self, action: Action) -> Session | None:
        if action.session:
            return self.book.session(action.session)
        return self.book.open_session(_instance(action))

    def _answer_key(self, action: Action, enforcer: str) -> AnswerKey | None:
        """Make the key of a repeatable call; None where it speaks in no session of its own."""
        session = self._session_of(action)
        if session is None or not belongs(action, session, enforcer):
            return None
        return session.id, digest(action, session), action.idempotency_key

    def _settle(self, settle: Settle) -> int:
        held = self.book.held(settle.decision_id)
        if held is None or (held.reservation.tenant, held.reservation.enforcer) != (settle.tenant, settle.enforcer):
            raise NotFoundError("no allowed action with this decision id was asked by this enforcer")
        if held.fate is not Fate.HELD:
            # A crash may have come between the store and the record: whoever asks again puts it on record again.
            self.records.append({**self._money("settlement", held), "fate": held.fate.value, "repeated": True})
            raise WrongStateError(f"the action is accounted for already: it was {held.fate}")
        if held.reservation.expires_at <= self.book.now:
            self._charge(held)
            raise WrongStateError("the settlement comes too late: what was reserved has been charged")
        released = settle.report is Report.NOT_EXECUTED
        cost = held.reservation.amount_microusd if settle.cost_microusd is None else settle.cost_microusd
        held = self.book.finish(held, Fate.RELEASED if released else Fate.SETTLED, cost)
        self.records.append({**self._money("settlement", held), "outcome": settle.report.value})
        return held.charged_microusd

    def _charge(self, held: Held) -> None:
        held = self.book.finish(held, Fate.CHARGED, held.reservation.amount_microusd)
        self.records.append(self._money("charged", held))

    def _open(self, request: Open) -> Session:
        wish, now = request.wish, self.book.now
        standing = self.policies.of(wish.tenant)
        if silenced := standing.silenced(now):
            raise WrongStateError(silenced)
        snapshot = standing.snapshot
        if snapshot is None or wish.tenant != snapshot.tenant:
            raise InvalidError("this decision point does not serve this tenant")
        agent = snapshot.agents.get(wish.agent)
        if agent is None:
            raise NotFoundError("the inventory lists no such agent")
        if wish.enforcer not in agent.enforcers:
            raise InvalidError(
                "the inventory does not let this enforcer speak for this agent: list it in `agents.json`"
            )
        previous = self.book.last_session((wish.tenant, wish.agent, wish.instance))
        session = open_session(wish, session_id=_new_id(now), limits=snapshot.limits, previous=previous, now=now)
        if previous is not None and previous.closed_at is None:
            self._end(previous, "")
        self.book.open(session)
        self.records.append(self._event("opened", session, request.caller))
        return session

    def _close(self, request: Close) -> Session:
        session = self.book.session(request.session)
        if session is None or session.tenant != request.tenant:
            raise NotFoundError("there is no such session")
        return self._end(session, request.caller)

    def _end(self, session: Session, caller: str) -> Session:
        after = close_session(session, self.book.now)
        if after is not session:
            self.book.put(after)
        self.records.append(self._event("closed", after, caller))
        return after

    def _show(self, request: Show) -> Shown:
        instance = (request.tenant, request.agent, request.instance)
        session = self.book.session(request.session) if request.session else self.book.open_session(instance)
        if (
            session is None
            or session.tenant != request.tenant
            or not (request.sees_all or session.enforcer == request.caller)
        ):
            raise NotFoundError("there is no such session for this caller")
        policy = self.policies.of(session.tenant).snapshot
        tools = () if policy is None else policy.registry.tools.values()
        return Shown(
            session, tuple((tool.full, tool.definition_sha256) for tool in tools if in_scope(session.scope, tool.full))
        )

    def _withdraw(self, request: Withdraw) -> Result:
        """Say no after all: what is on record and was told to nobody is settled as not executed, or closed."""
        if isinstance(request.result, Session):
            session = self.book.session(request.result.id)
            if session is not None and session.closed_at is None:
                self._end(session, "")
            raise UnavailableError(request.text)
        asked = request.asked.items if isinstance(request.asked, Ask) else ()
        enforcer = request.asked.enforcer if isinstance(request.asked, Ask) else ""
        return tuple(
            self._deny_after_all(item, answer, enforcer, request.text)
            for item, answer in zip(asked, request.result, strict=True)
        )

    def _deny_after_all(self, item: Action | Broken, answer: Answer, enforcer: str, text: str) -> Answer:
        if answer.decision.effect is Effect.DENY:
            return answer
        if not answer.repeated:  # the go-ahead that a repeat speaks of is another call's
            held = self.book.held(answer.decision.id)
            if held is not None and held.fate is Fate.HELD:
                held = self.book.finish(held, Fate.RELEASED, 0)
                outcome = {"outcome": Report.NOT_EXECUTED.value, "text": text}
                self.records.append({**self._money("settlement", held), **outcome})
            self.book.forget([answer.decision.id])
        denied, record = _deny_item(item, enforcer, text, self.policies, self.book.now)
        self.records.append(record)
        return denied

    def _money(self, kind: str, held: Held) -> dict[str, Json]:
        return {
            "kind": kind,
            "time": rfc3339(self.book.now),
            "decision_id": held.reservation.decision_id,
            "tenant": held.reservation.tenant,
            "enforcer": held.reservation.enforcer,
            "session": held.reservation.session,
            "reserved_microusd": held.reservation.amount_microusd,
            "charged_microusd": held.charged_microusd,
        }

    def _event(self, event: str, session: Session, caller: str) -> dict[str, Json]:
        """Record a change of a session; `by` is who asked for it, empty when it ended by itself."""
        return {
            "kind": "session",
            "time": rfc3339(self.book.now),
            "event": event,
            "by": caller,
            "tenant": session.tenant,
            "session": session.id,
            "agent": session.agent,
            "instance": session.instance,
            "enforcer": session.enforcer,
            "subject": session.subject,
            "delegation_chain": list(session.delegation_chain),
            "purpose": session.intent.purpose,
            "domains": list(session.intent.domains),
            "scope": list(session.scope),
            "labels": [*sorted(session.labels)],
            "max_steps": session.max_steps,
            "budget_microusd": session.budget_microusd,
            "expires_at": rfc3339(session.expires_at),
            "steps": session.steps,
            "spent_microusd": session.spent_microusd,
            "reserved_microusd": session.reserved_microusd,
        }


def deny_all(
    requests: Sequence[Request], text: str, policies: Policies, now: datetime
) -> tuple[list[Result | ControlError], list[dict[str, Json]]]:
    """Say no to every request, because we failed: the results, and the records of the denials."""
    results: list[Result | ControlError] = []
    records: list[dict[str, Json]] = []
    for each in requests:
        request = each.asked if isinstance(each, Withdraw) else each
        if not isinstance(request, Ask):
            results.append(UnavailableError(text))
            continue
        denied = [_deny_item(item, request.enforcer, text, policies, now) for item in request.items]
        results.append(tuple(answer for answer, _ in denied))
        records += [record for _, record in denied]
    return results, records


def _deny_item(
    action: Action | Broken, enforcer: str, text: str, policies: Policies, now: datetime
) -> tuple[Answer, dict[str, Json]]:
    if isinstance(action, Broken):
        return _deny_broken(action, enforcer, now)
    standing = policies.of(action.tenant)
    outcome = failed(action, standing, text, enforcer=enforcer, now=now, decision_id=_new_id(now))
    return Answer(outcome.decision), dict(outcome.record)


def _deny_broken(broken: Broken, enforcer: str, now: datetime) -> tuple[Answer, dict[str, Json]]:
    """Deny an item that is no action, and nobody's; on record as a refusal that has a decision's id."""
    decision = Decision(_new_id(now), Effect.DENY, (Reason(ReasonKind.INVALID, broken.text),))
    refused = _refused(broken, enforcer, "AuthorizeBatch", now)
    return Answer(decision), {**refused, "decision_id": decision.id, "effect": "deny"}


def _refused(broken: Broken, caller: str, method: str, now: datetime) -> dict[str, Json]:
    return {
        "kind": "refused",
        "time": rfc3339(now),
        "enforcer": caller,
        "method": method,
        "text": broken.text,
        "size": broken.size,
        "sha256": broken.sha256.hex(),
    }


def _new_id(now: datetime) -> str:
    return uuid7(now, os.urandom(RANDOM_BYTES))


def _instance(action: Action) -> tuple[str, str, str]:
    return action.tenant, action.agent, action.instance
