"""What two bundles declare: agents, limits, engines with their roles, the time that an enforcer may act alone.

Rules: a mark with a meaning of its own (an enforcer, a limit) has its direction from that; one that policy gives a
meaning (a team, a domain) is called tighter only where no policy names it in the other sense.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from exequatur.trust.canonical import Json, parse
from exequatur.trust.hashing import MANIFEST
from pdp.bundle.cases import is_cases
from pdp.engine import cedar, links, manifest, opa
from pdp.engine.inventory import AGENTS_FILE, LIMITS_FILE, Agent, Limits
from pdp.engine.manifest import EngineSpec, Role
from pdp.engine.reading import BUNDLE_JSON
from pdp.engine.snapshot import DATA_FILE, TOOLS_FILE, Snapshot
from pdp.policy.diff.change import Change, Direction, added, in_both, larger, listed, removed
from pdp.policy.diff.mentions import Mentions
from pdp.policy.opening import Opened

_NEUTRAL, _TIGHTER, _CHANGED, _WIDER = Direction

_LIMITS: Final = {"max_steps": "steps", "max_budget_microusd": "micro-USD", "max_lifetime_s": "seconds"}
_SETS: Final = {"models": "models", "teams": "teams", "domains": "domains"}
_TEXTS: Final = ("owner", "version", "environment")
_COMPARED: Final = frozenset(
    {TOOLS_FILE, DATA_FILE, MANIFEST, AGENTS_FILE, LIMITS_FILE, manifest.FILE, links.FILE, cedar.SCHEMA_FILE}
)
_OF_NO_ONE: Final = frozenset({"revision", "metadata", "wasm"})


def agents(old: Mapping[str, Agent], new: Mapping[str, Agent], words: Mentions) -> Iterator[Change]:
    """Compare the inventories; `words` is of both bundles' policies."""
    gone, came = in_both(old, new)
    for name in came:
        spoken = listed(new[name].enforcers) or "nobody"
        yield added(f"agent:{name}", f"the agent `{name}`, for whom {spoken} may speak,")
    for name in gone:
        yield removed(f"agent:{name}", f"the agent `{name}`")
    for name in new:
        if name in old:
            yield from _agent(old[name], new[name], words)


def _agent(old: Agent, new: Agent, words: Mentions) -> Iterator[Change]:
    gone, came = in_both(old.enforcers, new.enforcers)
    if came or gone:
        said = [f"{listed(came)} may speak for it"] * bool(came) + [f"{listed(gone)} may not any more"] * bool(gone)
        yield Change(f"agent:{new.id}:enforcers", _WIDER if came else _TIGHTER, ", ".join(said))
    for member, name in _SETS.items():
        gone, came = in_both(getattr(old, member), getattr(new, member))
        if came or gone:
            direction = _WIDER if came else _CHANGED if words.may_tighten(member, gone) else _TIGHTER
            yield Change(f"agent:{new.id}:{member}", direction, _came_and_gone(name, came, gone))
    for member in _TEXTS:
        one, other = getattr(old, member), getattr(new, member)
        if one != other:
            direction = _CHANGED if words.reads("principal", member) else _NEUTRAL
            yield Change(f"agent:{new.id}:{member}", direction, f"{member}: `{one}` → `{other}`")


def _came_and_gone(name: str, came: Sequence[str], gone: Sequence[str]) -> str:
    parts = [f"{listed(came)} added"] * bool(came) + [f"{listed(gone)} removed"] * bool(gone)
    return f"{name}: {', '.join(parts)}"


def limits(old: Limits, new: Limits) -> Iterator[Change]:
    """Compare what a session may be given at most."""
    for member, unit in _LIMITS.items():
        yield from larger(
            f"limit:{member}", f"a session's most {unit}", getattr(old, member), getattr(new, member), widens=True
        )


def settings(old: Snapshot, new: Snapshot) -> Iterator[Change]:
    """Compare the engines, the time alone, and the name."""
    before, after = ({spec.engine: spec for spec in each.manifest.engines} for each in (old, new))
    gone, came = in_both(before, after)
    for name in came:
        yield added(f"engine:{name}", f"the engine `{name}`, which {after[name].role}s,", _TIGHTER)
    for name in gone:
        yield removed(f"engine:{name}", f"the engine `{name}`, which {before[name].role}d,", _WIDER)
    for name in after:
        if name in before:
            yield from _engine(before[name], after[name])
    yield from larger(
        "outage:max_s",
        "seconds that an enforcer may act alone",
        old.manifest.outage_max_s,
        new.manifest.outage_max_s,
        widens=True,
    )
    if old.manifest.name != new.manifest.name:
        yield Change("name", _NEUTRAL, f"the bundle's name: `{old.manifest.name}` → `{new.manifest.name}`")


def _engine(old: EngineSpec, new: EngineSpec) -> Iterator[Change]:
    if old.role is not new.role:
        direction = _WIDER if old.role is Role.DECIDE else _TIGHTER
        yield Change(f"engine:{new.engine}:role", direction, f"its role: {old.role} → {new.role}")
    if old.entrypoint != new.entrypoint:
        text = f"another rule is asked: `{old.entrypoint}` → `{new.entrypoint}`"
        yield Change(f"engine:{new.engine}:entrypoint", _CHANGED, text)


def for_opa(old: Opened, new: Opened) -> Iterator[Change]:
    """Compare what OPA is told of the files: its Rego's version, and which paths are whose.

    A server is given all files of a bundle: of those that nobody else reads, it may read any.
    """
    before, after = _members(old.files), _members(new.files)
    for name in sorted((before.keys() | after.keys()) - _OF_NO_ONE):
        if before.get(name) != after.get(name):
            yield Change(f"opa:{name}", _CHANGED, f"`{MANIFEST}` tells OPA another `{name}`")

    if any(spec.engine == opa.ENGINE for each in (old, new) for spec, _ in each.snapshot.engines):
        for name in sorted(old.files.keys() | new.files.keys()):
            if not _read_elsewhere(name) and old.files.get(name) != new.files.get(name):
                yield Change(f"opa:{name}", _CHANGED, "another file, which an OPA server may read")


def _read_elsewhere(name: str) -> bool:
    return name in _COMPARED or name.endswith((".cedar", ".rego", ".md")) or is_cases(name)


def _members(files: Mapping[str, bytes]) -> dict[str, Json]:
    value = parse(files.get(MANIFEST, b"{}"), BUNDLE_JSON)
    return value if isinstance(value, dict) else {}
