"""The way of one action, from what was asked to what is answered and recorded.

Rules: pure; the steps stand in the order of `judge`, and a step that refuses ends the way with `DENY`. Nothing is
counted, reserved or labelled unless the action may run. An error of any kind is a denial, and its text never holds
what the caller sent in the arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final

from exequatur.action import Action, action_digest
from exequatur.registry import ArgumentError, Resource, Tool
from exequatur.trust.canonical import Json
from pdp.control.sessions import has_room, in_scope, is_open, reserve
from pdp.engine.document import Facts
from pdp.engine.inventory import Agent
from pdp.engine.snapshot import Snapshot
from pdp.model import Decision, Effect, Reason, ReasonKind, Reservation, Session, Verdict
from pdp.policies import Standing

RESERVATION_TTL: Final = timedelta(minutes=10)
"""How long money is held for an action that is never settled: longer than a tool call, shorter than a run."""

REASONS: Final = 16
ERRORS: Final = 8
"""How many reasons and errors a decision carries: each is a sentence of up to 500 characters, a record 60 KiB."""

NO_SESSION: Final = "no session with this id is bound to this enforcer and agent instance"
NO_OPEN_SESSION: Final = "this agent instance has no open session at this enforcer: its orchestrator opens one"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A decision, the session after it, what it reserved, and its record. Nothing changed: the session as it was."""

    decision: Decision
    session: Session | None
    reservation: Reservation | None
    record: Mapping[str, Json]


class _Refused(Exception):  # noqa: N818  a step's answer, not an error
    """A step says no."""

    def __init__(self, kind: ReasonKind, text: str) -> None:
        self.reason = Reason(kind, text)
        super().__init__(text)


def judge(
    action: Action,
    session: Session | None,
    standing: Standing,
    *,
    enforcer: str,
    now: datetime,
    decision_id: str,
    reservation_ttl: timedelta = RESERVATION_TTL,
    door_enforced: bool = False,
) -> Outcome:
    """Judge `action`, asked by `enforcer` in `session` as it was read. Raises nothing.

    `session` is the one that the action names, or else the open one of its instance at this enforcer; None when
    there is none; `standing` is its tenant's. The digest in the decision covers the session that was found and the
    definition digest as it was sent, so that the enforcer can compute it too.
    """
    run: Session | None = None
    after, reservation = session, None
    try:
        snapshot = _in_force(standing, action, now)
        agent = _who(action, snapshot, enforcer)
        run = _which_run(action, session, enforcer)
        _may_go_on(run, now)
        tool, resource = _known_tool(action, run, snapshot)
        verdict = snapshot.judge(
            Facts(
                agent=agent,
                session=run,
                tool=tool,
                resource=resource,
                input=action.arguments,
                claims=action.claims,
                now=now,
                door="enforced" if door_enforced else "cooperative",
            )
        )
        verdict = bounded(verdict)
        if verdict.effect.may_run:
            amount = max(tool.price_microusd, action.claims.cost_estimate_microusd)
            after = _take(run, tool, amount, now)
            reservation = Reservation(
                decision_id, run.id, run.tenant, enforcer, amount, expires_at=now + reservation_ttl
            )
    except _Refused as refused:
        verdict = Verdict("", Effect.DENY, (refused.reason,))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001  whatever broke, a panic in native code too, the answer is no
        verdict, after, reservation = _failed(f"judging failed: {type(error).__name__}"), session, None
    decision = Decision(
        id=decision_id,
        effect=verdict.effect,
        reasons=verdict.reasons,
        obligations=verdict.obligations,
        approvers=verdict.approvers,
        errors=verdict.errors,
        action_digest=digest(action, run),
        bundle_sha256=standing.digest,
        bundle_sequence=standing.sequence,
        session="" if run is None else run.id,
        reserved_microusd=0 if reservation is None else reservation.amount_microusd,
        settle_by=None if reservation is None else reservation.expires_at,
        replayable=verdict.replayable,
    )
    record = record_of(
        action, decision, run if reservation is None else after, enforcer=enforcer, now=now, door_enforced=door_enforced
    )
    return Outcome(decision, after, reservation, record)


def failed(action: Action, standing: Standing, text: str, *, enforcer: str, now: datetime, decision_id: str) -> Outcome:
    """Make the denial for an action that could not be judged or recorded; `text` says why in one sentence."""
    verdict = _failed(text)
    decision = Decision(
        decision_id,
        verdict.effect,
        verdict.reasons,
        errors=verdict.errors,
        bundle_sha256=standing.digest,
        bundle_sequence=standing.sequence,
    )
    return Outcome(decision, None, None, record_of(action, decision, None, enforcer=enforcer, now=now))


def timed(outcome: Outcome, latency_us: int) -> Outcome:
    """Write down how long judging took, in microseconds."""
    return replace(
        outcome,
        decision=replace(outcome.decision, latency_us=latency_us),
        record={**outcome.record, "latency_us": latency_us},
    )


def belongs(action: Action, session: Session, enforcer: str) -> bool:
    """Whether `action`, asked by `enforcer`, speaks in this very session."""
    return (session.tenant, session.enforcer, session.agent, session.instance) == (
        action.tenant,
        enforcer,
        action.agent,
        action.instance,
    )


def digest(action: Action, session: Session | None) -> bytes:
    """Compute the action digest, 32 bytes, with the session that was found, or else the one that was named."""
    return action_digest(
        tenant=action.tenant,
        agent=action.agent,
        session=action.session if session is None else session.id,
        tool=action.tool,
        definition_sha256=action.definition_sha256,
        arguments_json=action.arguments_json,
    )


def record_of(
    action: Action,
    decision: Decision,
    session: Session | None,
    *,
    enforcer: str,
    now: datetime,
    kind: str = "decision",
    door_enforced: bool = False,
) -> dict[str, Json]:
    """Make a decision's record: who, which tool, digests, effect, policies, cost; never an argument's value.

    `session` is the state after the decision, or None where none was proved; then `requested_session` says what the
    caller named.
    """
    record: dict[str, Json] = {
        "kind": kind,
        "time": rfc3339(now),
        "decision_id": decision.id,
        "tenant": action.tenant,
        "enforcer": enforcer,
        "agent": action.agent,
        "instance": action.instance,
        "session": decision.session,
        "subject": "" if session is None else session.subject,
        "tool": action.tool,
        "definition": action.definition_sha256.hex(),
        "action_digest": decision.action_digest.hex(),
        "arguments_sha256": sha256(action.arguments_json).hexdigest(),
        "effect": decision.effect.name.lower(),
        "reasons": [
            {
                "kind": reason.kind.name.lower(),
                "policy": reason.policy,
                "engine": reason.engine,
                "text": reason.text,
                "owasp": reason.owasp,
            }
            for reason in decision.reasons
        ],
        "errors": list(decision.errors),
        "bundle": decision.bundle_sha256.hex(),
        "sequence": decision.bundle_sequence,
        "door": action.door,
        "door_enforced": door_enforced,
        "reserved_microusd": decision.reserved_microusd,
        "latency_us": decision.latency_us,
        "steps": 0 if session is None else session.steps,
    }
    if not decision.replayable:
        record["replayable"] = False
    if session is None and action.session:
        record["requested_session"] = action.session
    return record


def rfc3339(time: datetime) -> str:
    """Write a time as records have it: UTC, to the microsecond."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _in_force(standing: Standing, action: Action, now: datetime) -> Snapshot:
    """Refuse when the policy may not speak, now or for this tenant: everything that follows rests on it."""
    if silenced := standing.silenced(now):
        raise _Refused(ReasonKind.STALE, silenced)
    snapshot = standing.snapshot
    if snapshot is None or action.tenant != snapshot.tenant:
        raise _Refused(ReasonKind.INVALID, "this decision point does not serve this tenant")
    return snapshot


def _who(action: Action, snapshot: Snapshot, enforcer: str) -> Agent:
    """Step 1: the channel named the enforcer; the inventory says for whom it may speak."""
    agent = snapshot.agents.get(action.agent)
    if agent is None or enforcer not in agent.enforcers:
        raise _Refused(ReasonKind.INVALID, "this enforcer may not speak for this agent")
    return agent


def _which_run(action: Action, session: Session | None, enforcer: str) -> Session:
    """Step 3: the session is this enforcer's and this instance's; whether another one exists is nobody's business."""
    if session is None or not belongs(action, session, enforcer):
        raise _Refused(ReasonKind.INVALID, NO_SESSION if action.session else NO_OPEN_SESSION)
    return session


def _may_go_on(session: Session, now: datetime) -> None:
    """Step 3, still: it is open and has steps left."""
    if not is_open(session, now):
        raise _Refused(ReasonKind.INVALID, "the session is over: its orchestrator opens a new one")
    if session.steps >= session.max_steps:
        raise _Refused(ReasonKind.EXHAUSTED, f"the session's {session.max_steps} steps are used up")


def _known_tool(action: Action, session: Session, snapshot: Snapshot) -> tuple[Tool, Resource]:
    """Step 4: the tool is registered as its server declares it, in scope, and its arguments are understood."""
    tool = snapshot.registry.tools.get(action.tool)
    if tool is None:
        raise _Refused(ReasonKind.INVALID, f"the tool `{action.tool}` is not registered")
    if action.definition_sha256 and action.definition_sha256 != tool.definition_sha256:
        raise _Refused(ReasonKind.INVALID, f"the definition of `{tool.full}` is not the one that was registered")
    if not in_scope(session.scope, tool.full):
        raise _Refused(ReasonKind.INVALID, f"the tool `{tool.full}` is not in the session's scope")
    try:
        return tool, tool.resolve(action.arguments)
    except ArgumentError as error:
        raise _Refused(ReasonKind.INVALID, str(error)) from None


def _take(session: Session, tool: Tool, amount_microusd: int, now: datetime) -> Session:
    """Step 7: there is room in the budget, counting what is in flight; then all of it is written at once."""
    if not has_room(session, amount_microusd):
        raise _Refused(ReasonKind.EXHAUSTED, f"the session's budget has no room for {amount_microusd} micro-USD more")
    return reserve(session, tool, amount_microusd, now)


def bounded(verdict: Verdict) -> Verdict:
    """Keep what a record can hold, the strictest first; a verdict without a reason is no verdict."""
    if not verdict.reasons:
        return _failed("the policy engines gave no reason")
    if len(verdict.reasons) <= REASONS and len(verdict.errors) <= ERRORS:
        return verdict
    return replace(verdict, reasons=verdict.reasons[:REASONS], errors=verdict.errors[:ERRORS])


def _failed(text: str) -> Verdict:
    return Verdict("", Effect.DENY, (Reason(ReasonKind.ERROR, text),), errors=(text,))
