"""Actions that are answered otherwise under the new bundle: the cases of both, and what was recorded.

Rules: an action goes the very way of a case, once under each bundle, at the same time and in the same session, which
each bundle gives its own limits; an engine that fails on one side alone has not judged, and that is no "no change".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from exequatur.trust.canonical import canonical
from pdp.bundle import cases
from pdp.bundle.cases import Case
from pdp.engine import opa
from pdp.engine.reading import sentence
from pdp.engine.snapshot import Snapshot
from pdp.model import Decision, Reason, ReasonKind
from pdp.policy.diff.change import Change, Direction, in_both, listed
from pdp.policy.opening import Opened

_NEUTRAL, _TIGHTER, _CHANGED, _WIDER = Direction

Named: TypeAlias = tuple[str, Case]
"""A case with its id, `case:FILE#NAME`."""

_SHOWN: Final = 2  # policies


@dataclass(frozen=True, slots=True)
class Sides:
    """What judges: both snapshots, in force."""

    old: Snapshot
    new: Snapshot

    def judge(self, case: Case) -> tuple[Decision, Decision]:
        """Judge a case's action twice, for its own tenant: whose bundle it is, the signature would say."""
        tenant = case.action.tenant
        old, new = (cases.judged(case, replace(each, tenant=tenant)).decision for each in (self.old, self.new))
        return old, new

    def flip(self, name: str, case: Case) -> Change | None:
        """Give the change that a case shows; None if it is answered the same."""
        return flipped(name, *self.judge(case))


def flipped(name: str, old: Decision, new: Decision) -> Change | None:
    """Compare two answers to one action."""
    found = list(_differences(old, new))
    if not found:
        return None
    text = "; ".join(text for _, text in found)
    return Change(
        name, max(direction for direction, _ in found), text, allows=new.effect.may_run and not old.effect.may_run
    )


def _differences(old: Decision, new: Decision) -> Iterator[tuple[Direction, str]]:
    if old.effect is not new.effect:
        yield (_WIDER if new.effect < old.effect else _TIGHTER), f"{_effect(old)} → {_effect(new)}"
    if old.errors != new.errors and (new.errors or old.effect is new.effect):
        failed = new.errors or old.errors
        side = "both fail, each in its way" if old.errors and new.errors else f"the {_side(new)} one fails"
        yield _CHANGED, f"{side}: {sentence(failed[0])}"
    if old.effect is not new.effect:
        return
    yield from _demands(old, new)
    gone, came = in_both(_policies(old), _policies(new))
    if gone or came:
        parts = [f"by {listed(came, _SHOWN)}"] * bool(came) + [f"not by {listed(gone, _SHOWN)}"] * bool(gone)
        yield _NEUTRAL, f"{_named(new)} as before, {' and '.join(parts)}"


def _side(new: Decision) -> str:
    return "new" if new.errors else "old"


def _demands(old: Decision, new: Decision) -> Iterator[tuple[Direction, str]]:
    """Give what the enforcer must do, and who must say yes, as far as that differs."""
    before, after = ({each.id: canonical(dict(each.parameters)) for each in side.obligations} for side in (old, new))
    gone, came = in_both(before, after)
    if gone:
        yield _WIDER, f"the obligation {listed(gone)} is gone"
    if came:
        yield _TIGHTER, f"the obligation {listed(came)} is new"
    if other := [name for name in before if name in after and before[name] != after[name]]:
        yield _CHANGED, f"the obligation {listed(other)} is another one"
    gone, came = in_both(old.approvers, new.approvers)
    if gone:
        yield _WIDER, f"the approval of {listed(gone)} is not wanted any more"
    if came:
        yield _TIGHTER, f"the approval of {listed(came)} is wanted too"


def _effect(decision: Decision) -> str:
    """Give the effect, and the first policies that made it so."""
    against = [_name(reason) for reason in decision.reasons if reason.kind is not ReasonKind.PERMITTED]
    return f"{_named(decision)} by {listed(dict.fromkeys(against), _SHOWN)}" if against else _named(decision)


def _named(decision: Decision) -> str:
    return decision.effect.name.replace("_", " ")


def _policies(decision: Decision) -> list[str]:
    return list(dict.fromkeys(map(_name, decision.reasons)))


def _name(reason: Reason) -> str:
    return reason.policy or reason.kind.name.lower()


def same(old: Opened, new: Opened) -> bool:
    """Whether all that decides is the same to the byte, so that no answer can differ. A server can always differ."""
    before, after = (
        {name: data for name, data in each.files.items() if not (cases.is_cases(name) or name.endswith(".md"))}
        for each in (old, new)
    )
    return before == after and all(spec.engine != opa.ENGINE for spec in new.snapshot.manifest.engines)


def named(old: Iterable[Case], new: Iterable[Case]) -> list[Named]:
    """Give the cases of both bundles, each action once; the ids of several by one name are numbered."""
    found: dict[object, Named] = {}
    seen: dict[str, int] = {}
    for case in (*new, *old):
        same = _asked(case)
        if same in found:
            continue
        name = f"case:{case.where.rpartition(':')[0]}#{sentence(case.name)}"
        seen[name] = seen.get(name, 0) + 1
        found[same] = (name if seen[name] == 1 else f"{name} ({seen[name]})", case)
    return list(found.values())


def _asked(case: Case) -> object:
    """Give all that a case's answer depends on."""
    action = case.action
    facts = (case.time, case.door_enforced, repr(case.run))
    return (repr(action), action.arguments_json, repr(action.claims), *facts)
