"""Two tool registries, member by member.

Rules: a tool that is new can be used now, if a policy permits it; a definition is pinned whole, so that another one is
another tool, and somebody must have read it; a mark that holds a tool back (`write`, `bulk`, `egress`, `outage: deny`)
tightens, unless a policy could allow something for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from exequatur.registry import Registry, Tool
from exequatur.trust.canonical import Json
from pdp.policy.diff import schemas
from pdp.policy.diff.change import Change, Direction, added, in_both, larger, listed, removed
from pdp.policy.diff.mentions import Mentions

_NEUTRAL, _TIGHTER, _CHANGED, _WIDER = Direction
_SETS: Final = {"labels": "labels that a call brings", "data_classes": "data classes"}


def tools(old: Registry, new: Registry, words: Mentions) -> Iterator[Change]:
    """Compare the registries; `words` is of both bundles' policies."""
    gone, came = in_both(old.tools, new.tools)
    for name in sorted(came):
        groups = ", ".join(new.tools[name].groups)
        yield added(f"tool:{name}", f"the tool `{name}` ({groups})")
    for name in sorted(gone):
        yield removed(f"tool:{name}", f"the tool `{name}`")
    for name in sorted(new.tools):
        if name in old.tools:
            yield from _tool(f"tool:{name}", old.tools[name], new.tools[name], words)


def _tool(at: str, old: Tool, new: Tool, words: Mentions) -> Iterator[Change]:
    yield from _marks(at, old, new, words)
    for member, what in _SETS.items():
        gone, came = in_both(getattr(old, member), getattr(new, member))
        if gone or came:
            direction = _WIDER if gone else _CHANGED if words.may_loosen(member, came) else _TIGHTER
            said = [f"{listed(came)} added"] * bool(came) + [f"{listed(gone)} removed"] * bool(gone)
            yield Change(f"{at}:{member}", direction, f"{what}: {', '.join(said)}")
    yield from larger(f"{at}:price", "micro-USD a call", old.price_microusd, new.price_microusd, widens=False)
    if old.environment != new.environment:
        direction = _CHANGED if words.reads("tool", "environment") else _NEUTRAL
        yield Change(f"{at}:environment", direction, f"where it acts: `{old.environment}` → `{new.environment}`")
    yield from _arguments(at, old, new)


def _marks(at: str, old: Tool, new: Tool, words: Mentions) -> Iterator[Change]:
    """Compare what puts a tool into groups."""
    if old.access != new.access:
        held = _holding("write", "access", words) if new.access == "write" else _WIDER
        yield Change(f"{at}:access", held, f"access: {old.access} → {new.access}")
    for member in ("bulk", "egress"):
        one, other = getattr(old, member), getattr(new, member)
        if one != other:
            text = f"it is marked as `{member}`" if other else f"it is not marked as `{member}` any more"
            yield Change(f"{at}:{member}", _holding(member, member, words) if other else _WIDER, text)
    if old.outage != new.outage:
        held = _holding("dangerous", "dangerous", words) if new.outage == "deny" else _WIDER
        yield Change(f"{at}:outage", held, f"while no decision point answers: {old.outage} → {new.outage}")


def _holding(group: str, member: str, words: Mentions) -> Direction:
    return _CHANGED if words.may_free(group, member) else _TIGHTER


def _arguments(at: str, old: Tool, new: Tool) -> Iterator[Change]:
    found = tuple(schemas.differences(old.input_schema, new.input_schema))
    if found:
        yield Change(f"{at}:schema", max(each for each, _ in found), "; ".join(text for _, text in found))
    if old.definition_sha256 != new.definition_sha256 and (not found or _words(old) != _words(new)):
        yield Change(f"{at}:definition", _CHANGED, "another definition is pinned: read what its server says now")
    if old.arguments != new.arguments:
        gone, came = in_both(old.arguments, new.arguments)
        names = listed(dict.fromkeys(argument.name for argument in (*gone, *came)))
        yield Change(f"{at}:arguments", _CHANGED, f"{names}: brought into canonical form in another way")
    before, after = (old.resource_type, old.resource_id), (new.resource_type, new.resource_id)
    if before != after:
        text = f"what a call touches: {_resource(*before)} → {_resource(*after)}"
        yield Change(f"{at}:resource", _CHANGED, text)


def _words(tool: Tool) -> Mapping[str, Json]:
    """Give the definition but for the shape of its arguments."""
    return {
        **{name: value for name, value in tool.definition.items() if name not in ("inputSchema", "_meta", "icons")},
        "inputSchema": schemas.words(tool.definition["inputSchema"]),
    }


def _resource(type_: str, name: str) -> str:
    return f"`{type_}`" + (f" by `{name}`" if name else "")
