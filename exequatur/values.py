"""What a caller of the decision point says and is told, as values.

Rules: nothing here knows the wire, a clock or a file. Numbers of the enums are the wire's; what is not in them is
`UNSPECIFIED`. Money is integer micro-USD; times are aware and UTC; digests are SHA-256, 32 bytes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from exequatur.trust.canonical import Json


class Effect(IntEnum):
    """What was decided; a larger number is stricter. UNSPECIFIED is what this SDK does not know: a denial."""

    UNSPECIFIED = 0
    ALLOW = 1
    WARN = 2
    REQUIRE_APPROVAL = 3
    DENY = 4


class ReasonKind(IntEnum):
    """Which sort of reason."""

    UNSPECIFIED = 0
    PERMITTED = 1
    RESTRICTED = 2
    FORBIDDEN = 3
    NOT_PERMITTED = 4
    INVALID = 5
    EXHAUSTED = 6
    ERROR = 7
    STALE = 8


class Outcome(IntEnum):
    """What became of an allowed action."""

    EXECUTED = 1
    FAILED = 2
    NOT_EXECUTED = 3


@dataclass(frozen=True, slots=True)
class Claims:
    """What the agent says about an action; never trusted."""

    reason: str = ""
    cost_estimate_microusd: int = 0
    tokens: int = 0
    model: str = ""
    provenance: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason for an effect; `text` is one sentence for a person or a model."""

    kind: ReasonKind
    text: str
    policy: str = ""
    engine: str = ""
    owasp: str = ""


@dataclass(frozen=True, slots=True)
class Obligation:
    """A duty of the enforcer; parameters as RFC 8785 bytes."""

    id: str
    parameters_json: bytes


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided and why. `action_digest` and `bundle_sha256` are SHA-256, 32 bytes."""

    decision_id: str
    effect: Effect
    reasons: tuple[Reason, ...] = ()
    obligations: tuple[Obligation, ...] = ()
    approvers: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    action_digest: bytes = b""
    bundle_sha256: bytes = b""
    bundle_sequence: int = 0
    session: str = ""
    reserved_microusd: int = 0
    settle_by: dt.datetime | None = None
    retry_after_ms: int = 0
    latency_us: int = 0
    repeated_answer: bool = False

    @property
    def allowed(self) -> bool:
        """Whether the action may run, now and once.

        False for an answer that repeats an earlier one, and for one with obligations: who can carry those out reads
        `effect` and `obligations` instead.
        """
        return self.effect in (Effect.ALLOW, Effect.WARN) and not self.repeated_answer and not self.obligations


@dataclass(frozen=True, slots=True)
class Proposal:
    """One action of a batch."""

    tool: str
    arguments: Mapping[str, Json] | bytes
    session: str = ""
    agent: str = ""
    instance: str = ""
    tenant: str = ""
    claims: Claims = Claims()
    definition_sha256: bytes = b""
    idempotency_key: str = ""
    door: str = ""


@dataclass(frozen=True, slots=True)
class Intent:
    """What a session is for."""

    purpose: str = ""
    task: str = ""
    domains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Session:
    """One run of one agent instance, and its state."""

    id: str
    tenant: str
    agent: str
    instance: str
    enforcer: str
    subject: str
    delegation_chain: tuple[str, ...]
    intent: Intent
    scope: tuple[str, ...]
    max_steps: int
    budget_microusd: int
    opened_at: dt.datetime | None
    expires_at: dt.datetime | None
    closed_at: dt.datetime | None
    labels: tuple[str, ...]
    steps: int
    spent_microusd: int
    reserved_microusd: int


@dataclass(frozen=True, slots=True)
class Scope:
    """A session, and the registry's tools in its scope with the SHA-256 (32 bytes) of each one's definition."""

    session: Session
    tools: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Ack:
    """The ledger's word: the last durable number, a checkpoint (C2SP signed note), an RFC 6962 consistency proof."""

    acknowledged: int
    checkpoint: str
    consistency: tuple[bytes, ...]
