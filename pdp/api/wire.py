"""Between the wire and the decision point's own values: bytes to requests, results to bytes.

Rules: what is missing or over a limit is an `InvalidError` that names the field; an empty tenant is `default`; what
the decision point fills in is never read from a request.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from exequatur.action import Action, ActionError, Claims
from exequatur.trust.canonical import canonical
from exequatur.v1 import decision_pb2, session_pb2
from pdp.control.sessions import InvalidError, Report, Wish
from pdp.model import Intent, Session
from pdp.requests import Answer

DEFAULT_TENANT = "default"

_REPORTS = {
    decision_pb2.OUTCOME_EXECUTED: Report.EXECUTED,
    decision_pb2.OUTCOME_FAILED: Report.FAILED,
    decision_pb2.OUTCOME_NOT_EXECUTED: Report.NOT_EXECUTED,
}


def tenant_of(tenant: str) -> str:
    """Name the tenant that a request means."""
    return tenant or DEFAULT_TENANT


def action_of(request: decision_pb2.AuthorizeRequest) -> Action:
    """Read one proposed action; raises `InvalidError`."""
    claims = request.claims
    try:
        return Action.parse(
            tenant=tenant_of(request.tenant),
            agent=request.agent,
            instance=request.instance,
            session=request.session,
            tool=request.tool,
            arguments_json=request.arguments_json,
            claims=Claims(
                reason=claims.reason,
                cost_estimate_microusd=claims.cost_estimate_microusd,
                tokens=claims.tokens,
                model=claims.model,
                provenance=tuple(claims.provenance),
            ),
            definition_sha256=request.definition_sha256,
            idempotency_key=request.idempotency_key,
            door=request.door,
        )
    except ActionError as error:
        raise InvalidError(str(error)) from None


def report_of(outcome: decision_pb2.Outcome.ValueType) -> Report:
    """Read an outcome; raises `InvalidError` for one that is not known."""
    report = _REPORTS.get(outcome)
    if report is None:
        raise InvalidError("`outcome` must be EXECUTED, FAILED or NOT_EXECUTED")
    return report


def decision_to(answer: Answer) -> decision_pb2.AuthorizeResponse:
    """Write one decision."""
    decision = answer.decision
    return decision_pb2.AuthorizeResponse(
        decision_id=decision.id,
        effect=decision_pb2.Effect.ValueType(decision.effect.value),
        reasons=[
            decision_pb2.Reason(
                kind=decision_pb2.ReasonKind.ValueType(reason.kind.value),
                policy=reason.policy,
                text=reason.text,
                engine=reason.engine,
                owasp=reason.owasp,
            )
            for reason in decision.reasons
        ],
        obligations=[
            decision_pb2.Obligation(id=item.id, parameters_json=canonical(dict(item.parameters)))
            for item in decision.obligations
        ],
        evidence=decision_pb2.Evidence(
            bundle_sha256=decision.bundle_sha256,
            bundle_sequence=decision.bundle_sequence,
            errors=decision.errors,
            latency_us=decision.latency_us,
        ),
        action_digest=decision.action_digest,
        reserved_microusd=decision.reserved_microusd,
        settle_by=None if decision.settle_by is None else _timestamp(decision.settle_by),
        repeated_answer=answer.repeated,
        retry_after_ms=decision.retry_after_ms,
        approvers=decision.approvers,
        session=decision.session,
    )


def wish_of(request: session_pb2.OpenSessionRequest) -> Wish:
    """Read the session that is asked for; raises `InvalidError`."""
    wished = request.session
    try:
        lifetime = request.lifetime.ToTimedelta()
    except (OverflowError, ValueError):
        raise InvalidError("`lifetime` is no duration") from None
    wish = Wish(
        tenant=tenant_of(wished.tenant),
        agent=wished.agent,
        instance=wished.instance,
        enforcer=wished.enforcer,
        lifetime=lifetime if request.HasField("lifetime") else timedelta(0),
        max_steps=wished.max_steps,
        budget_microusd=wished.budget_microusd,
        subject=wished.subject,
        delegation_chain=tuple(wished.delegation_chain),
        intent=Intent(wished.intent.purpose, wished.intent.task, tuple(wished.intent.domains)),
        scope=tuple(wished.scope),
    )
    wish.check()
    return wish


def session_to(session: Session) -> session_pb2.Session:
    """Write a session."""
    return session_pb2.Session(
        id=session.id,
        tenant=session.tenant,
        agent=session.agent,
        instance=session.instance,
        enforcer=session.enforcer,
        subject=session.subject,
        delegation_chain=session.delegation_chain,
        intent=session_pb2.Intent(
            purpose=session.intent.purpose, task=session.intent.task, domains=session.intent.domains
        ),
        scope=session.scope,
        max_steps=session.max_steps,
        budget_microusd=session.budget_microusd,
        opened_at=_timestamp(session.opened_at),
        expires_at=_timestamp(session.expires_at),
        closed_at=None if session.closed_at is None else _timestamp(session.closed_at),
        labels=sorted(session.labels),
        steps=session.steps,
        spent_microusd=session.spent_microusd,
        reserved_microusd=session.reserved_microusd,
    )


def _timestamp(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
