"""Between the SDK's values and the wire: values to requests, responses to values.

Rules: an enum's number that is not known here becomes UNSPECIFIED, which nobody takes for good; what is missing on the
wire is None.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from exequatur.served import (
    BundleStatus,
    CandidateStatus,
    KeysStatus,
    PolicyState,
    RefusedBundle,
    ServedBundle,
    TenantStatus,
    TrialMode,
)
from exequatur.trust.canonical import canonical
from exequatur.v1 import bundle_pb2, decision_pb2, session_pb2
from exequatur.values import (
    Decision,
    Effect,
    Intent,
    Obligation,
    Outcome,
    Proposal,
    Reason,
    ReasonKind,
    Scope,
    Session,
)

_NO_INTENT: Final = Intent()


class CallError(Exception):
    """A call that was not served: nothing was judged. `code` is the gRPC status's name, such as `UNAVAILABLE`."""

    def __init__(self, code: str, text: str) -> None:
        """Keep the status's name and the service's sentence."""
        super().__init__(text)
        self.code = code


def session_request(
    agent: str,
    enforcer: str,
    *,
    lifetime: dt.timedelta,
    scope: Sequence[str] = (),
    max_steps: int = 0,
    budget_microusd: int = 0,
    intent: Intent = _NO_INTENT,
    subject: str = "",
    instance: str = "",
    tenant: str = "",
    delegation_chain: Sequence[str] = (),
) -> session_pb2.OpenSessionRequest:
    """Make the request for a session; `scope` holds `<server>/<name>`, `<server>/*` or `*`, and empty means nothing."""
    request = session_pb2.OpenSessionRequest(
        session=session_pb2.Session(
            tenant=tenant,
            agent=agent,
            instance=instance,
            enforcer=enforcer,
            subject=subject,
            delegation_chain=delegation_chain,
            intent=session_pb2.Intent(purpose=intent.purpose, task=intent.task, domains=intent.domains),
            scope=scope,
            max_steps=max_steps,
            budget_microusd=budget_microusd,
        )
    )
    request.lifetime.FromTimedelta(lifetime)
    return request


def authorize_request(proposal: Proposal) -> decision_pb2.AuthorizeRequest:
    """Ask about one action."""
    arguments, claims = proposal.arguments, proposal.claims
    return decision_pb2.AuthorizeRequest(
        tenant=proposal.tenant,
        agent=proposal.agent,
        instance=proposal.instance,
        session=proposal.session,
        tool=proposal.tool,
        definition_sha256=proposal.definition_sha256,
        arguments_json=arguments if isinstance(arguments, bytes) else canonical(dict(arguments)),
        claims=decision_pb2.Claims(
            reason=claims.reason,
            cost_estimate_microusd=claims.cost_estimate_microusd,
            tokens=claims.tokens,
            model=claims.model,
            provenance=claims.provenance,
        ),
        idempotency_key=proposal.idempotency_key,
        door=proposal.door,
    )


def batch_request(proposals: Sequence[Proposal]) -> decision_pb2.AuthorizeBatchRequest:
    """Ask about several, in order."""
    return decision_pb2.AuthorizeBatchRequest(actions=[authorize_request(proposal) for proposal in proposals])


def settle_request(
    decision_id: str, outcome: Outcome, cost_microusd: int | None, tenant: str
) -> decision_pb2.SettleRequest:
    """Say what became of an action."""
    return decision_pb2.SettleRequest(
        decision_id=decision_id,
        outcome=decision_pb2.Outcome.ValueType(outcome),
        cost_microusd=cost_microusd,
        tenant=tenant,
    )


def decision_of(response: decision_pb2.AuthorizeResponse) -> Decision:
    """Take one decision from the wire; an enum's number that is not known here becomes UNSPECIFIED."""
    return Decision(
        decision_id=response.decision_id,
        effect=_known(Effect, response.effect),
        reasons=tuple(
            Reason(_known(ReasonKind, item.kind), item.text, item.policy, item.engine, item.owasp)
            for item in response.reasons
        ),
        obligations=tuple(Obligation(item.id, item.parameters_json) for item in response.obligations),
        approvers=tuple(response.approvers),
        errors=tuple(response.evidence.errors),
        action_digest=response.action_digest,
        bundle_sha256=response.evidence.bundle_sha256,
        bundle_sequence=response.evidence.bundle_sequence,
        session=response.session,
        reserved_microusd=response.reserved_microusd,
        settle_by=_time(response, "settle_by"),
        retry_after_ms=response.retry_after_ms,
        latency_us=response.evidence.latency_us,
        repeated_answer=response.repeated_answer,
    )


def decisions_of(
    request: decision_pb2.AuthorizeBatchRequest, response: decision_pb2.AuthorizeBatchResponse
) -> tuple[Decision, ...]:
    """Take one decision an action; raises `CallError` where their number is another."""
    if len(response.decisions) != len(request.actions):
        raise CallError("INTERNAL", f"{len(request.actions)} actions were sent, {len(response.decisions)} were judged")
    return tuple(decision_of(item) for item in response.decisions)


def session_of(message: session_pb2.Session) -> Session:
    """Take a session from the wire."""
    return Session(
        id=message.id,
        tenant=message.tenant,
        agent=message.agent,
        instance=message.instance,
        enforcer=message.enforcer,
        subject=message.subject,
        delegation_chain=tuple(message.delegation_chain),
        intent=Intent(message.intent.purpose, message.intent.task, tuple(message.intent.domains)),
        scope=tuple(message.scope),
        max_steps=message.max_steps,
        budget_microusd=message.budget_microusd,
        opened_at=_time(message, "opened_at"),
        expires_at=_time(message, "expires_at"),
        closed_at=_time(message, "closed_at"),
        labels=tuple(message.labels),
        steps=message.steps,
        spent_microusd=message.spent_microusd,
        reserved_microusd=message.reserved_microusd,
    )


def scope_of(response: session_pb2.GetSessionResponse) -> Scope:
    """Take a session and its tools from the wire."""
    return Scope(session_of(response.session), {pin.tool: pin.definition_sha256 for pin in response.tools})


def status_of(message: bundle_pb2.BundleStatus) -> BundleStatus:
    """Take a status from the wire."""
    return BundleStatus(tuple(map(_tenant, message.tenants)), tuple(message.alarms), _time(message, "at"))


def _tenant(message: bundle_pb2.TenantStatus) -> TenantStatus:
    serving, refused, candidate = message.serving, message.refused, message.candidate
    return TenantStatus(
        tenant=message.tenant,
        source=message.source,
        state=_known(PolicyState, message.state),
        reason=message.reason,
        serving=_served(serving) if message.HasField("serving") else None,
        floor=message.floor,
        confirmed_at=_time(message, "confirmed_at"),
        last_look_at=_time(message, "last_look_at"),
        faults=tuple(message.faults),
        refused=RefusedBundle(refused.origin, refused.digest, refused.reason, _time(refused, "at"))
        if message.HasField("refused")
        else None,
        candidate=_candidate(candidate) if message.HasField("candidate") else None,
        keys=_keys(message.keys) if message.HasField("keys") else None,
        workers={worker.name: worker.digest for worker in message.workers},
    )


def _keys(message: bundle_pb2.KeysStatus) -> KeysStatus:
    return KeysStatus(tuple(message.kids), message.threshold, tuple(message.revoked), message.fault)


def _served(message: bundle_pb2.ServedBundle) -> ServedBundle:
    return ServedBundle(
        digest=message.digest,
        sequence=message.sequence,
        kids=tuple(message.kids),
        revision=message.revision,
        expires_at=_time(message, "expires_at"),
        since=_time(message, "since"),
    )


def _candidate(message: bundle_pb2.CandidateStatus) -> CandidateStatus:
    return CandidateStatus(
        digest=message.digest,
        sequence=message.sequence,
        mode=_known(TrialMode, message.mode),
        percent=message.percent,
        judged=message.judged,
        stricter=message.stricter,
        looser=message.looser,
        errors=message.errors,
        halted=message.halted,
    )


_Word = TypeVar("_Word", Effect, PolicyState, ReasonKind, TrialMode)


def _known(words: type[_Word], number: int) -> _Word:
    try:
        return words(number)
    except ValueError:
        return words(0)


def _time(message: Any, field: str) -> dt.datetime | None:
    return getattr(message, field).ToDatetime(tzinfo=dt.UTC) if message.HasField(field) else None
