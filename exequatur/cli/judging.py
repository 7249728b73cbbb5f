"""`exequatur authorize --bundle`: judge one action here, the way a decision point does, on nothing but a bundle."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from exequatur import values
from exequatur.action import Action
from exequatur.cli.authorize import decision_value
from exequatur.cli.console import Exit, fail
from exequatur.trust.canonical import JsonError, canonical, parse
from exequatur.trust.errors import TrustError
from pdp.bundle import cases
from pdp.bundle.build import OpaError, find_opa
from pdp.bundle.source import open_bundle, read_archive_file, read_keys
from pdp.bundle.standing import standing
from pdp.engine.opa import entrypoint_of
from pdp.engine.reading import PolicyError
from pdp.judge import judge
from pdp.model import Decision
from pdp.policies import Standing

SESSION: str = "local"
"""The id of the session that is made up here, where the action names none."""


def judge_here(
    action: Action, bundle: Path, keys: Path | None, session_file: Path | None, *, tenant: str
) -> dict[str, Any]:
    """Judge; the session is made from `session_file`, or may use every tool. Exits where the policy cannot be had."""
    now = datetime.now(UTC)
    try:
        ring = None if keys is None else read_keys(keys)
    except TrustError as error:
        fail(f"`--keys {keys}`: {error}", Exit.CONFIG)
    run = read_session(session_file, action.session or SESSION)
    try:
        verified = open_bundle(read_archive_file(bundle), ring, now=now, tenant=tenant)
        opa = find_opa(os.environ) if entrypoint_of(verified.files) else None
        with standing(verified, opa) as snapshot:
            session = cases.session_of(run, action, snapshot, now)
            begun = time.perf_counter_ns()
            decision = judge(
                action, session, Standing(snapshot), enforcer=session.enforcer, now=now, decision_id=""
            ).decision
            return decision_value(_as_told(decision, (time.perf_counter_ns() - begun) // 1000))
    except (TrustError, PolicyError, OpaError) as error:
        fail(f"`{bundle}`: {error}", Exit.CONFIG)


def read_session(path: Path | None, session_id: str) -> cases.Run:
    """Read a session from a file of JSON, as the `session` of a case; without a file it may use every tool."""
    if path is None:
        return cases.Run(id=session_id)
    try:
        return cases.read_run(f"`{path}`", parse(path.read_bytes()), session_id=session_id)
    except OSError as error:
        fail(f"`{path}` cannot be read: {(error.strerror or str(error)).lower()}")
    except JsonError as error:
        fail(f"`{path}`: {error}")
    except PolicyError as error:
        fail(str(error))


def _as_told(decision: Decision, latency_us: int) -> values.Decision:
    """Give the decision as the wire would have told it."""
    return values.Decision(
        decision_id=decision.id,
        effect=values.Effect(decision.effect),
        reasons=tuple(
            values.Reason(values.ReasonKind(each.kind), each.text, each.policy, each.engine, each.owasp)
            for each in decision.reasons
        ),
        obligations=tuple(
            values.Obligation(each.id, canonical(dict(each.parameters))) for each in decision.obligations
        ),
        approvers=decision.approvers,
        errors=decision.errors,
        action_digest=decision.action_digest,
        bundle_sha256=decision.bundle_sha256,
        bundle_sequence=decision.bundle_sequence,
        session=decision.session,
        latency_us=latency_us,
    )
