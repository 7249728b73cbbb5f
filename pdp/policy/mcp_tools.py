"""From the tools that an MCP server lists to a tool registry: drafted for a person, and kept as it was reviewed.

Rules: the server is trusted with nothing: what could not be served is left out by name, and what it lists twice is left
out whole, since nobody knows which one a call would mean. What is in the registry stays as it is: a definition that
changed is pinned anew only where its name was accepted, and nothing is ever dropped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from exequatur import schemas
from exequatur.argument_schema import ArgumentSchema, SchemaError
from exequatur.registry import LEFT_OUT, LIMITS, Registry, RegistryError, definition_sha256
from exequatur.trust.canonical import Json, JsonError, parse, quoted
from pdp.policy.guesses import Guess, guess

TOOLS: Final = 1_000
"""More tools than any server has; each is compiled here."""

_DIFFERENCES: Final = 20  # of one definition; who changes more than that is read whole
_SHOWN: Final = 160  # characters of a text that changed


class ListingError(Exception):
    """A listing cannot be read, or the registry that would come of it cannot be served. One sentence."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A tool that the registry cannot have, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Changed:
    """A tool whose definition is not the pinned one: what differs, what now looks worse, whether it was accepted."""

    name: str
    differences: tuple[str, ...]
    doubts: tuple[str, ...]
    accepted: bool


@dataclass(frozen=True, slots=True)
class Drafted:
    """A registry, and how it came about: tools by full name."""

    registry: Mapping[str, Any]
    new: Mapping[str, Guess]
    same: tuple[str, ...]
    changed: tuple[Changed, ...]
    gone: tuple[str, ...]
    """In the registry, and not listed by the server any more."""
    left_out: tuple[LeftOut, ...]

    @property
    def needs_a_person(self) -> bool:
        """Whether something was changed under a pin, or left out."""
        return bool(self.left_out) or any(not tool.accepted for tool in self.changed)

    def written(self) -> bytes:
        """Give the file."""
        return (json.dumps(self.registry, indent=2, ensure_ascii=False) + "\n").encode()


def read_listing(data: bytes) -> list[Json]:
    """Read a saved `tools/list`: the list, the result that holds it, or the whole JSON-RPC answer.

    Raises `ListingError`.
    """
    try:
        value = parse(data, LIMITS)
    except JsonError as error:
        raise ListingError(str(error)) from None
    if isinstance(value, dict) and "result" in value:
        value = value["result"]
    if isinstance(value, dict) and value.get("nextCursor"):
        raise ListingError("it is one page of several: put the tools of all pages in one list, or ask the server")
    tools = value.get("tools") if isinstance(value, dict) else value
    if not isinstance(tools, list):
        raise ListingError("it holds no list of tools: the answer to MCP's `tools/list` is needed")
    return tools


def read_registry(data: bytes) -> dict[str, Any]:
    """Read a `tools.json` that can be served. Raises `ListingError`."""
    try:
        Registry.parse(data)
    except RegistryError as error:
        raise ListingError(str(error)) from None
    found: Any = parse(data, LIMITS)
    return dict(found)


def draft(server: str, listed: list[Json], before: Mapping[str, Any], accepted: Collection[str]) -> Drafted:
    """Make a registry of `before` and what `server` lists.

    `accepted` names tools, in full or as the server does, whose new definition is pinned. Raises `ListingError`.
    """
    if len(listed) > TOOLS:
        raise ListingError(f"the server lists {len(listed)} tools, the limit is {TOOLS}")
    if "/" in server or _unfit(f"{server}/x", {"name": "x", "inputSchema": {"type": "object"}}):
        raise ListingError(f"{quoted(server)} cannot name a server: use ASCII letters, digits and `._-`, at most 64")
    known: Mapping[str, Any] = before.get("tools", {})
    found, left_out = _definitions(server, listed)
    tools: dict[str, Any] = dict(known)
    new: dict[str, Guess] = {}
    same, changed = [], []
    for full, definition in found.items():
        pin = definition_sha256(definition).hex()
        if full not in known:
            new[full] = guess(server, definition)
            tools[full] = {"definition": definition, "definition_sha256": pin, **new[full].entry}
        elif known[full]["definition_sha256"] == pin:
            same.append(full)
        else:
            change = _changed(server, full, known[full], definition, accepted)
            changed.append(change)
            if change.accepted:
                tools[full] = {**known[full], "definition": definition, "definition_sha256": pin}
    unknown = set(accepted) - {name for change in changed for name in (change.name, _short(change.name))}
    if unknown:
        raise ListingError(f"the definition of {quoted(min(unknown))} did not change: there is nothing to accept")
    listed_names = found.keys() | {f"{server}/{tool.name}" for tool in left_out}
    gone = tuple(full for full in known if full.startswith(f"{server}/") and full not in listed_names)
    drafted = Drafted({**before, "tools": tools}, new, tuple(same), tuple(changed), gone, tuple(left_out))
    try:
        Registry.parse(drafted.written())
    except RegistryError as error:
        raise ListingError(f"the registry could not be served: {error}") from None
    return drafted


def _definitions(server: str, listed: Iterable[Json]) -> tuple[dict[str, dict[str, Json]], list[LeftOut]]:
    """Give the definitions as they are pinned, by full name, and what cannot be."""
    found: dict[str, dict[str, Json]] = {}
    left_out: list[LeftOut] = []
    names = [str(tool.get("name")) if isinstance(tool, dict) else "" for tool in listed]
    times = Counter(names)
    for name, tool in zip(names, listed, strict=True):
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
            left_out.append(LeftOut(name, "it has no name"))
            continue
        definition = {member: value for member, value in tool.items() if member not in LEFT_OUT}
        why = "it is listed twice" if times[name] > 1 else _unfit(f"{server}/{name}", definition)
        if why:
            left_out.append(LeftOut(name, why))
        else:
            found[f"{server}/{name}"] = definition
    return found, list(dict.fromkeys(left_out))


def _unfit(full: str, definition: Mapping[str, Json]) -> str:
    """Say why a definition cannot be in a registry; empty if it can."""
    try:
        pin = definition_sha256(definition).hex()
    except JsonError as error:
        return str(error)
    entry: Json = {"definition": dict(definition), "definition_sha256": pin, "access": "write"}
    fault = schemas.check("tools", {"tools": {full: entry}})
    if fault is not None:
        return str(schemas.Fault(fault.pointer.removeprefix(f"/tools/{schemas.escape(full)}"), fault.wanted))
    try:
        ArgumentSchema.compile(definition["inputSchema"], is_open=False)
    except SchemaError as error:
        return f"{quoted(f'/inputSchema{error.pointer}', _SHOWN)} {error}"
    return ""


def _changed(
    server: str, full: str, entry: Mapping[str, Any], definition: dict[str, Json], accepted: Collection[str]
) -> Changed:
    differences = list(_differences("", entry["definition"], definition))
    more = len(differences) - _DIFFERENCES
    shown = (*differences[:_DIFFERENCES], *([f"and {more} more"] if more > 0 else []))
    return Changed(
        full, tuple(shown), tuple(_doubts(server, entry, definition)), not {full, _short(full)}.isdisjoint(accepted)
    )


def _differences(pointer: str, before: Json, after: Json) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            here = f"{pointer}/{schemas.escape(name)}"
            if name not in after:
                yield f"{quoted(here, _SHOWN)} is gone"
            elif name not in before:
                yield f"{quoted(here, _SHOWN)} is new{_said(after[name])}"
            else:
                yield from _differences(here, before[name], after[name])
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _differences(f"{pointer}/{number}", one, other)
    elif json.dumps(before, sort_keys=True) != json.dumps(after, sort_keys=True):
        where = quoted(pointer, _SHOWN)
        if isinstance(before, str) and isinstance(after, str):
            yield f"{where} was {_from_where_they_differ(before, after)}, is {_from_where_they_differ(after, before)}"
        else:
            yield f"{where} is another{_said(after)}"


def _said(value: Json) -> str:
    return "" if isinstance(value, dict | list) else f": {quoted(str(value), _SHOWN)}"


def _from_where_they_differ(text: str, other: str) -> str:
    """Show a text from just before where it differs, so that what was added at its end is seen."""
    same = next((at for at, (one, two) in enumerate(zip(text, other, strict=False)) if one != two), None)
    start = max(0, (min(len(text), len(other)) if same is None else same) - _SHOWN // 8)
    return quoted(("…" if start else "") + text[start:], _SHOWN)


def _doubts(server: str, entry: Mapping[str, Any], definition: Mapping[str, Any]) -> Iterator[str]:
    """Say where the new definition looks worse than what was reviewed."""
    now = guess(server, definition)
    if entry["access"] == "read" and now.entry["access"] == "write":
        yield f"reviewed as `read`, looks like `write`: {now.why['write']}"
    for mark in ("bulk", "egress"):
        if now.entry.get(mark) and not entry.get(mark, False):
            yield f"not reviewed as `{mark}`, looks like it: {now.why[mark]}"
    old = entry["definition"]["inputSchema"].get("properties", {})
    for name, rule in now.entry.get("arguments", {}).items():
        if name not in old:
            yield f"the new argument {quoted(name)} looks like a `{rule['kind']}`"


def _short(full: str) -> str:
    return full.partition("/")[2]
