"""What a bundle's policies can speak of: its tools, agents, teams, labels, and the facts of its document.

Rules: a field *may be missing* only where the tools that have it do not require it: a tool that does not have it at all
is not what a rule about it is for. What is not known here is no finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from exequatur.registry import Registry, Tool
from pdp.engine.inventory import Agents
from pdp.engine.schema import RecordOf, SetOf, input_type
from pdp.policy.reference import PARTS

Path = tuple[str, ...]
"""A fact by its members, as Rego has it without `input`: `("session", "labels")`."""

TOOL: Final[Path] = ("tool", "<full>")
"""The tool's full name, which rules make of server and name."""

ANY: Final = "*"
"""A member that is not known by name."""

_ARGUMENTS: Final[Path] = ("input",)
_ATTRIBUTES: Final[Path] = ("resource", "attributes")
_DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_FEW: Final = 8


def spelled(path: Path) -> str:
    """Write a fact as Rego has it."""
    return "input" + "".join(f".{name}" if name.isidentifier() else f'["{name}"]' for name in path)


@dataclass(frozen=True)
class Known:
    """The registry and the inventory, asked in the words of policy."""

    registry: Registry
    agents: Agents

    @property
    def tools(self) -> Mapping[str, Tool]:
        """All tools by full name."""
        return self.registry.tools

    @cached_property
    def teams(self) -> frozenset[str]:
        """All teams that an agent is in."""
        return frozenset(team for agent in self.agents.values() for team in agent.teams)

    @cached_property
    def groups(self) -> frozenset[str]:
        """All groups that a tool is in."""
        return frozenset(group for tool in self.tools.values() for group in tool.groups)

    @cached_property
    def labels(self) -> frozenset[str]:
        """All labels that a tool brings."""
        return frozenset(label for tool in self.tools.values() for label in tool.labels)

    @cached_property
    def values(self) -> Mapping[Path, frozenset[str]]:
        """The values of those facts that have only some."""
        agents, tools = list(self.agents.values()), list(self.tools.values())
        return {
            TOOL: frozenset(self.tools),
            ("tool", "server"): frozenset(tool.server for tool in tools),
            ("tool", "name"): frozenset(tool.name for tool in tools),
            ("tool", "access"): frozenset(("read", "write")),
            ("tool", "door"): frozenset(("enforced", "cooperative")),
            ("tool", "environment"): frozenset(tool.environment for tool in tools),
            ("tool", "data_classes"): frozenset(name for tool in tools for name in tool.data_classes),
            ("resource", "type"): frozenset(tool.resource_type for tool in tools),
            ("agent", "id"): frozenset(self.agents),
            ("agent", "teams"): self.teams,
            ("agent", "owner"): frozenset(agent.owner for agent in agents),
            ("agent", "version"): frozenset(agent.version for agent in agents),
            ("agent", "environment"): frozenset(agent.environment for agent in agents),
            ("agent", "models"): frozenset(name for agent in agents for name in agent.models),
            ("agent", "domains"): frozenset(name for agent in agents for name in agent.domains),
            ("request", "weekday"): frozenset(_DAYS),
            ("session", "labels"): self.labels,
            **dict(self._enumerated()),
        }

    def _enumerated(self) -> Iterator[tuple[Path, frozenset[str]]]:
        """Give those arguments that are one of a few texts, whichever tool has them."""
        tools = list(self.tools.values())
        schemas: list[Any] = [tool.input_schema for tool in tools]
        for name in {str(name) for schema in schemas for name in schema.get("properties", {})}:
            path = (*_ARGUMENTS, name)
            listed: list[Any] = [schema.get("enum") for tool in tools for schema in self._schemas(tool, path)]
            if all(isinstance(values, list) for values in listed):
                yield path, frozenset(value for values in listed for value in values if isinstance(value, str))

    def fix_of_value(self, path: Path) -> str:
        """Say which values the fact can have, where they are few; else empty."""
        allowed = sorted(self.values[path])
        few = self.code_of_value(path) == "EX207" and 0 < len(allowed) <= _FEW and all(allowed)
        return f"use one of the values that it can have: {', '.join(f'`{value}`' for value in allowed)}" if few else ""

    def code_of_value(self, path: Path) -> str:
        """Give the code of the finding for a value that the fact never has."""
        return _CODES.get(path, "EX207")

    def is_fact(self, path: Path) -> bool:
        """Whether any call has such a fact."""
        for root in (_ARGUMENTS, _ATTRIBUTES):
            if path[: len(root)] == root and len(path) > len(root):
                return path[len(root)] == ANY or any(self.has(tool, path) for tool in self.tools.values())
        if path[:-1] == ("session", "calls"):
            return path[-1] in (ANY, *self.tools)
        return _is_field(path)

    def has(self, tool: Tool, path: Path) -> bool:
        """Whether calls of a tool can have this argument or attribute; of other facts, yes."""
        if path[:1] == _ARGUMENTS and len(path) > 1:
            return bool(list(_found(tool.input_schema, path[1:], tool.input_schema)))
        if path[: len(_ATTRIBUTES)] == _ATTRIBUTES and len(path) > len(_ATTRIBUTES):
            return path[len(_ATTRIBUTES)] in (ANY, *tool.argument_kinds)
        return True

    def optional(self, tools: Iterable[Tool], path: Path, safe: int) -> bool:
        """Whether a fact may be missing in a call of one of these tools that can have it.

        Its first `safe` members are known to be there.
        """
        if path[:2] == ("session", "calls") and len(path) > 2 >= safe:  # noqa: PLR2004 - the two members before it
            return True
        root = _ARGUMENTS if path[:1] == _ARGUMENTS else _ATTRIBUTES
        rest = path[len(root) :]
        if path[: len(root)] != root or not rest:
            return False
        return any(self.has(tool, path) and _may_miss(tool, rest, safe - len(root)) for tool in tools)

    def is_text(self, path: Path) -> bool:
        """Whether a fact can be a text, or anything else but a number."""
        if path[:1] in (_ARGUMENTS, ("resource",)):
            found = [schema for tool in self.tools.values() for schema in self._schemas(tool, path)]
            return not found or any(schema.get("type") not in ("integer", "number", "boolean") for schema in found)
        return not any(
            _matches(_split(field.path), path) and field.kind == "number" for part in PARTS for field in part.fields
        )

    def _schemas(self, tool: Tool, path: Path) -> Iterator[dict[str, Any]]:
        if path[:1] == _ARGUMENTS:
            yield from _found(tool.input_schema, path[1:], tool.input_schema)

    def untyped(self, tool: Tool) -> tuple[str, ...]:
        """Give the arguments of a tool that Cedar never holds."""
        return tuple(_untyped(tool.input_schema, input_type(tool), tool.input_schema, ""))

    def document_schema(self) -> dict[str, Any]:
        """Give the JSON Schema of the document for `opa check`: what all tools have, merged."""
        root: dict[str, Any] = _closed()
        for part in PARTS:
            for field in part.fields:
                _put(root, _split(field.path), _KIND_SCHEMAS[field.kind])
        arguments, attributes = _closed(), _closed()
        for tool in self.tools.values():
            properties: Any = tool.input_schema.get("properties", {})
            for name, schema in properties.items():
                own = _simple(schema)
                known = arguments["properties"].setdefault(name, own)
                if known != own:
                    arguments["properties"][name] = {}
            for name in tool.argument_kinds:
                attributes["properties"][name] = {}
            if _is_open(tool.input_schema):
                arguments["additionalProperties"] = {}
        root["properties"]["input"] = arguments
        root["properties"]["resource"]["properties"]["attributes"] = attributes
        root["properties"]["session"]["properties"]["calls"] = {
            "type": "object",
            "additionalProperties": {"type": "number"},
        }
        return root


_CODES: Final[Mapping[Path, str]] = {
    TOOL: "EX202",
    ("tool", "server"): "EX202",
    ("tool", "name"): "EX202",
    ("agent", "id"): "EX203",
    ("agent", "teams"): "EX204",
    ("session", "labels"): "EX208",
}
_TEXTS: Final = {"type": "array", "items": {"type": "string"}}
_KIND_SCHEMAS: Final[Mapping[str, dict[str, Any]]] = {
    "text": {"type": "string"},
    "texts": _TEXTS,
    "number": {"type": "number"},
    "flag": {"type": "boolean"},
    "time": {"type": "string"},
    "any": {},
}


def _split(path: str) -> Path:
    return tuple(path.split("."))


def _is_field(path: Path) -> bool:
    """Whether a path is a field, or leads to one, or into a list."""
    for part in PARTS:
        for field in part.fields:
            parts = _split(field.path)
            if _matches(parts[: len(path)], path) or (
                field.kind in ("texts", "any") and len(path) > len(parts) and _matches(parts, path[: len(parts)])
            ):
                return True
    return False


def _matches(parts: Path, path: Path) -> bool:
    return len(parts) == len(path) and all(
        other in (one, ANY) or one.startswith("<") for one, other in zip(parts, path, strict=True)
    )


def _closed() -> dict[str, Any]:
    return {"type": "object", "properties": {}, "additionalProperties": False}


def _put(node: dict[str, Any], path: Path, schema: dict[str, Any]) -> None:
    for name in path[:-1]:
        node = node["properties"].setdefault(name, _closed())
    if not path[-1].startswith("<"):
        node["properties"][path[-1]] = schema


def _simple(schema: Any) -> dict[str, Any]:
    """Give the part of a JSON Schema that OPA's type checker understands as we do; in doubt, anything."""
    kind = schema.get("type") if isinstance(schema, dict) else None
    if kind in ("string", "boolean"):
        return {"type": kind}
    if kind in ("integer", "number"):
        return {"type": "number"}
    if kind == "array":
        return {"type": "array", "items": _simple(schema.get("items"))}
    return {}


def _found(schema: Any, path: Path, root: Any) -> Iterator[dict[str, Any]]:
    """Give the schemas of a member, through references, alternatives and lists; `{}` where anything may be."""
    schema = _resolved(schema, root)
    if not isinstance(schema, dict):
        yield from ([{}] if schema is not False else [])
        return
    if not path:
        yield schema
        return
    branches = [branch for word in ("anyOf", "oneOf", "allOf") for branch in schema.get(word, ())]
    properties = schema.get("properties", {})
    if "items" in schema and (path[0] == ANY or path[0].isdigit()):
        yield from _found(schema["items"], path[1:], root)
    elif path[0] == ANY:
        for member in properties.values():
            yield from _found(member, path[1:], root)
    elif path[0] in properties:
        yield from _found(properties[path[0]], path[1:], root)
    elif not branches and (_is_open(schema) or schema.get("type") == "array"):
        yield {}
    for branch in branches:
        yield from _found(branch, path, root)


def _is_open(schema: Mapping[str, Any]) -> bool:
    return schema.get("additionalProperties", schema.get("unevaluatedProperties", True)) is not False


def _resolved(schema: Any, root: Any) -> Any:
    for _ in range(8):
        reference = schema.get("$ref") if isinstance(schema, dict) else None
        if not isinstance(reference, str) or not reference.startswith("#"):
            return schema
        node = root
        for part in reference.split("/")[1:]:
            node = node.get(part.replace("~1", "/").replace("~0", "~"), {}) if isinstance(node, Mapping) else {}
        schema = node
    return {}


def _may_miss(tool: Tool, path: Path, safe: int) -> bool:
    """Whether a member of the arguments is not required somewhere on the way; a list's items are no question of it."""
    node: Any = tool.input_schema
    for number, name in enumerate(path):
        node = _resolved(node, tool.input_schema)
        if not isinstance(node, Mapping) or "properties" not in node or name not in node["properties"]:
            return False
        if number >= safe and name not in node.get("required", ()):
            return True
        node = node["properties"][name]
    return False


def _untyped(schema: Any, type_: Any, root: Any, path: str) -> Iterator[str]:
    schema = _resolved(schema, root)
    if isinstance(type_, SetOf):
        items = schema.get("items") if isinstance(schema, dict) else None
        yield from _untyped(items, type_.item, root, path) if isinstance(type_.item, RecordOf) else ()
        return
    if not isinstance(type_, RecordOf) or not isinstance(schema, Mapping):
        return
    if _is_open(schema):
        yield path or "others than those listed"
    for name, member in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        if name in type_.members:
            yield from _untyped(member, type_.members[name].type, root, here)
        else:
            yield here
