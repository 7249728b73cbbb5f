"""A given decision as bytes, so that a repeated call gets the same one. Pure; `load(dump(x)) == x`."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from pdp.model import Decision, Effect, Obligation, Reason, ReasonKind


def dump(decision: Decision) -> bytes:
    """Write a decision."""
    fields = {
        "id": decision.id,
        "effect": decision.effect.value,
        "reasons": [[r.kind.value, r.text, r.policy, r.engine, r.owasp] for r in decision.reasons],
        "obligations": [[item.id, dict(item.parameters)] for item in decision.obligations],
        "approvers": decision.approvers,
        "errors": decision.errors,
        "action_digest": decision.action_digest.hex(),
        "bundle_sha256": decision.bundle_sha256.hex(),
        "bundle_sequence": decision.bundle_sequence,
        "session": decision.session,
        "reserved_microusd": decision.reserved_microusd,
        "settle_by": None if decision.settle_by is None else decision.settle_by.isoformat(),
        "retry_after_ms": decision.retry_after_ms,
        "latency_us": decision.latency_us,
        "replayable": decision.replayable,
    }
    return json.dumps(fields, separators=(",", ":")).encode()


def load(data: bytes) -> Decision:
    """Read a decision that `dump` wrote."""
    fields: dict[str, Any] = json.loads(data)
    return Decision(
        id=fields["id"],
        effect=Effect(fields["effect"]),
        reasons=tuple(Reason(ReasonKind(kind), *texts) for kind, *texts in fields["reasons"]),
        obligations=tuple(Obligation(name, parameters) for name, parameters in fields["obligations"]),
        approvers=tuple(fields["approvers"]),
        errors=tuple(fields["errors"]),
        action_digest=bytes.fromhex(fields["action_digest"]),
        bundle_sha256=bytes.fromhex(fields["bundle_sha256"]),
        bundle_sequence=fields["bundle_sequence"],
        session=fields["session"],
        reserved_microusd=fields["reserved_microusd"],
        settle_by=None if fields["settle_by"] is None else datetime.fromisoformat(fields["settle_by"]),
        retry_after_ms=fields["retry_after_ms"],
        latency_us=fields["latency_us"],
        replayable=fields.get("replayable", True),  # answers of an older release do not say
    )
