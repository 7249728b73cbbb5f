"""Many verdicts into one.

Rules: no verdict, or none from an engine that decides, is a denial; an error anywhere is a denial that carries it; the
strictest effect wins; adding a verdict never weakens the result; two obligations that conflict are a denial.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from exequatur.trust.canonical import canonical
from pdp.engine.manifest import Role
from pdp.model import Effect, Obligation, Reason, ReasonKind, Verdict

_NOBODY_JUDGED: Final = "no engine that decides has judged this action"


def refusal(text: str, *, engine: str = "", policy: str = "", errors: Sequence[str] = ()) -> Verdict:
    """Give the denial that an error makes. `errors` defaults to the text itself: an error is always in evidence."""
    reason = Reason(ReasonKind.ERROR, text, policy=policy, engine=engine)
    return Verdict(engine, Effect.DENY, (reason,), errors=tuple(errors) or (text,))


def combine(verdicts: Sequence[tuple[Role, Verdict]]) -> Verdict:
    """Combine what each engine says, strictest first; `engine` of the result is empty.

    Reasons of a denial are those of the engines that deny; otherwise all are kept. Approvers add up: each demand for
    an approval stands.
    """
    if not any(role is Role.DECIDE for role, _ in verdicts):
        return refusal(_NOBODY_JUDGED)
    strictest = sorted((_own(role, verdict) for role, verdict in verdicts), key=_strictness)
    errors = tuple(error for verdict in strictest for error in verdict.errors)
    effect = Effect.DENY if errors else strictest[0].effect
    kept = [verdict for verdict in strictest if verdict.effect is Effect.DENY] if effect is Effect.DENY else strictest
    reasons = tuple(dict.fromkeys(reason for verdict in kept for reason in verdict.reasons))
    if errors and not any(reason.kind is ReasonKind.ERROR for reason in reasons):
        reasons = (Reason(ReasonKind.ERROR, "a policy engine reported an error"), *reasons)
    replayable = all(verdict.replayable for verdict in strictest)
    if effect is Effect.DENY:
        return Verdict("", effect, reasons, errors=errors, replayable=replayable)
    obligations = _together(strictest)
    if obligations is None:
        refused = refusal("two policies give the same obligation with different parameters")
        return replace(refused, replayable=replayable)
    approvers = tuple(sorted({name for verdict in strictest for name in verdict.approvers}))
    return Verdict("", effect, reasons, obligations, approvers, replayable=replayable)


def _own(role: Role, verdict: Verdict) -> Verdict:
    """Take out what an engine that restricts says in favour: it cannot permit, so that is no reason."""
    if role is Role.DECIDE:
        return verdict
    against = tuple(reason for reason in verdict.reasons if reason.kind is not ReasonKind.PERMITTED)
    return replace(verdict, reasons=against)


def _strictness(verdict: Verdict) -> tuple[int, int, int]:
    # An error explains a denial better than anything else does, so it stands first.
    return (-verdict.effect, not verdict.errors, min((-reason.kind for reason in verdict.reasons), default=0))


def _together(verdicts: Sequence[Verdict]) -> tuple[Obligation, ...] | None:
    found: dict[str, Obligation] = {}
    for obligation in (each for verdict in verdicts for each in verdict.obligations):
        seen = found.setdefault(obligation.id, obligation)
        if canonical(dict(seen.parameters)) != canonical(dict(obligation.parameters)):
            return None
    return tuple(found[key] for key in sorted(found))
