"""The Cedar schema, generated from the registry and the inventory.

Rules: deterministic, to the byte; strict, so that a misspelt argument, team, action or group fails the build; a JSON
Schema that says less than a Cedar type is no type at all: the argument is *untyped*, left out, and named in
`context.untyped`. The shape follows Cedar's schema generator for MCP tools: one action a tool, `context.input`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from exequatur.registry import Registry, Tool
from exequatur.trust.canonical import Json
from pdp.engine.inventory import Agents
from pdp.engine.reading import PolicyError

GROUPS: Final = ("bulk", "dangerous", "egress", "read", "write")
"""The action groups that always exist, so that a policy may name one that no tool is in."""

RESERVED: Final = frozenset({"__entity", "__extn", "__expr"})
"""Member names that are escapes in Cedar's JSON: https://docs.cedarpolicy.com/auth/entities-syntax.html"""

_MAX_DEPTH: Final = 12  # JSON Schemas may refer to themselves; arguments that nest deeper are untyped
_MAX_PARTS: Final = 10_000  # of one tool's arguments: members, items and alternatives; an MCP server's largest has 300
_OURS: Final = frozenset({"Agent", "Team", "Action", "SessionFacts", "ToolFacts", "ClaimsFacts", "RequestFacts"})
_CEDARS: Final = frozenset(
    {"Bool", "Boolean", "String", "Long", "Set", "Record", "Entity", "Extension", "decimal", "datetime", "duration"}
    | {"ipaddr", "true", "false", "if", "then", "else", "in", "is", "like", "has", "permit", "forbid", "when", "unless"}
)


@dataclass(frozen=True, slots=True)
class Scalar:
    """One of Cedar's `String`, `Long`, `Bool`, `decimal`, `datetime`."""

    name: str


@dataclass(frozen=True, slots=True)
class SetOf:
    """A set; JSON's order and repetitions are lost."""

    item: CedarType


@dataclass(frozen=True, slots=True)
class Member:
    """A record's member. Required in Cedar only if it is required in JSON and each value of it can be held."""

    type: CedarType
    required: bool


@dataclass(frozen=True, slots=True)
class RecordOf:
    """A record of the members that have a type; all others are untyped."""

    members: Mapping[str, Member]


CedarType: TypeAlias = Scalar | SetOf | RecordOf

STRING: Final = Scalar("String")
LONG: Final = Scalar("Long")
BOOL: Final = Scalar("Bool")
DECIMAL: Final = Scalar("decimal")
DATETIME: Final = Scalar("datetime")
STRINGS: Final = SetOf(STRING)


def _record(**members: CedarType) -> RecordOf:
    return RecordOf({name: Member(type_, required=True) for name, type_ in members.items()})


_NOTHING: Final = _record()
_COMMAND: Final = _record(argv=STRINGS, program=STRING, simple=BOOL)
_URL: Final = _record(scheme=STRING, host=STRING, port=LONG, path=STRING)
AGENT: Final = _record(owner=STRING, version=STRING, models=STRINGS, teams=STRINGS, environment=STRING, domains=STRINGS)
_SESSION: Final = _record(
    id=STRING,
    subject=STRING,
    delegation_root=STRING,
    delegation_parent=STRING,
    delegation_depth=LONG,
    intent=_record(purpose=STRING, task=STRING, domains=STRINGS),
    labels=STRINGS,
    steps=LONG,
    age_s=LONG,
    spent_microusd=LONG,
    last_minute=_record(reads=LONG, writes=LONG),
)
_CALL: Final = _record(
    server=STRING,
    name=STRING,
    access=STRING,
    bulk=BOOL,
    dangerous=BOOL,
    data_classes=STRINGS,
    egress=BOOL,
    environment=STRING,
    door=STRING,
)
_CLAIMS: Final = _record(reason=STRING, cost_estimate_microusd=LONG, tokens=LONG, model=STRING, provenance=STRINGS)
_REQUEST: Final = _record(time=DATETIME, weekday=STRING, hour=LONG)
_KINDS: Final[Mapping[str, CedarType]] = {
    "path": STRING,
    "host": STRING,
    "url": _URL,
    "command": _COMMAND,
    "argv": _COMMAND,
}
_SCALARS: Final = {"string": STRING, "integer": LONG, "boolean": BOOL, "number": DECIMAL}


def input_type(tool: Tool) -> RecordOf:
    """Give the type of `context.input` for a tool, from the JSON Schema of its arguments.

    Raises `PolicyError` for a schema that says too much once its references are followed.
    """
    found = _Reading(tool.full, dict(tool.input_schema)).type(dict(tool.input_schema), 0)
    return found[0] if found is not None and isinstance(found[0], RecordOf) else _NOTHING


def resource_types(registry: Registry) -> dict[str, RecordOf]:
    """Give the type of each resource's attributes: those of all tools that act on it.

    An attribute is required if each of these tools always has it. Raises `PolicyError` where two tools disagree.
    """
    found: dict[str, dict[str, Member]] = {}
    for name in sorted(registry.tools):
        tool = registry.tools[name]
        kind = tool.resource_type
        _check_type_name(name, kind)
        own = _attributes(tool)
        known = found.get(kind)
        if known is None:
            found[kind] = own
            continue
        for attribute in known.keys() | own.keys():
            one, other = known.get(attribute), own.get(attribute)
            if one and other and one.type != other.type:
                raise PolicyError(
                    f"`tools.json`: tool `{name}`: another tool has `{attribute}` of the resource `{kind}` in another "
                    "form: give one of them a resource type of its own"
                )
            present = one or other
            if present:
                known[attribute] = Member(present.type, bool(one and other and one.required and other.required))
    return {kind: RecordOf(members) for kind, members in found.items()}


def context_type(tool: Tool, registry: Registry) -> RecordOf:
    """Give the type of the whole context of a tool's calls."""
    calls = RecordOf({name: Member(LONG, required=False) for name in registry.tools})
    session = RecordOf({**_SESSION.members, "calls": Member(calls, required=True)})
    return _record(
        session=session, tool=_CALL, claims=_CLAIMS, request=_REQUEST, untyped=STRINGS, input=input_type(tool)
    )


def cedar_schema(registry: Registry, agents: Agents) -> str:
    """Generate the bundle's `schema.cedarschema`: Cedar schema text that is the same for the same registry and agents.

    Raises `PolicyError` where tools contradict each other.
    """
    parts = [
        "// Generated from tools.json and agents.json: change those, not this file.\n",
        *_principals(agents, AGENT),
    ]
    parts += [f"entity {kind} = {render(members)};\n" for kind, members in sorted(resource_types(registry).items())]
    # What is the same for all tools stands once, under a name.
    shared = context_type(next(iter(registry.tools.values())), registry).members if registry.tools else {}
    names = {part: part.capitalize() for part in ("session", "tool", "claims", "request")}
    parts += [f"type {names[part]}Facts = {render(shared[part].type)};\n" for part in names if part in shared]
    parts.append(f"action {', '.join(map(_quote, GROUPS))};\n")
    facts = ", ".join(f"{_quote(part)}: {name}Facts" for part, name in names.items())
    for name in sorted(registry.tools):
        tool = registry.tools[name]
        context = f'{{{facts}, "untyped": Set<String>, "input": {render(input_type(tool))}}}'
        parts.append(_action(tool, context))
    return "".join(parts)


def call_schema(tool: Tool, agents: Agents, agent: RecordOf, resource: RecordOf, context: RecordOf) -> str:
    """Generate the schema for judging calls of one tool: its action in its groups, and facts of the types given."""
    return "".join(
        (
            *_principals(agents, agent),
            f"entity {tool.resource_type} = {render(resource)};\n",
            f"action {', '.join(map(_quote, GROUPS))};\n",
            _action(tool, render(context)),
        )
    )


def _principals(agents: Agents, agent: RecordOf) -> tuple[str, str]:
    teams = sorted({team for agent in agents.values() for team in agent.teams})
    # An enumerated type makes a misspelt team an error; an empty enumeration is not Cedar.
    enumerated = f" enum [{', '.join(map(_quote, teams))}]" if teams else ""
    return f"entity Team{enumerated};\n", f"entity Agent in [Team] = {render(agent)};\n"


def _action(tool: Tool, context: str) -> str:
    within = ", ".join(f"Action::{_quote(group)}" for group in tool.groups)
    return (
        f"action {_quote(tool.full)} in [{within}] appliesTo {{\n"
        f"  principal: [Agent], resource: [{tool.resource_type}],\n  context: {context},\n}};\n"
    )


def render(type_: CedarType) -> str:
    """Write a type in Cedar's schema syntax."""
    if isinstance(type_, Scalar):
        return type_.name
    if isinstance(type_, SetOf):
        return f"Set<{render(type_.item)}>"
    members = (
        f"{_quote(name)}{'' if member.required else '?'}: {render(member.type)}"
        for name, member in sorted(type_.members.items())
    )
    return "{" + ", ".join(members) + "}"


def _quote(text: str) -> str:
    """Write a Cedar string: printable ASCII as it is, everything else as an escape."""
    return '"' + "".join(c if " " <= c <= "~" and c not in '"\\' else f"\\u{{{ord(c):x}}}" for c in text) + '"'


def _check_type_name(tool: str, kind: str) -> None:
    if kind in _OURS | _CEDARS or not kind.isidentifier() or not kind.isascii() or kind.startswith("__"):
        raise PolicyError(
            f"`tools.json`: tool `{tool}`: the resource type must be a plain name that is not Cedar's or ours"
        )


def _attributes(tool: Tool) -> dict[str, Member]:
    """Give the canonicalised arguments of a tool as attributes: a list of them becomes a set."""
    properties = tool.input_schema.get("properties", {})
    required = tool.input_schema.get("required", [])
    found: dict[str, Member] = {}
    for name, kind in sorted(tool.argument_kinds.items()):
        type_ = _KINDS[kind]
        argument = properties.get(name) if isinstance(properties, dict) else None
        if kind != "argv" and isinstance(argument, dict) and argument.get("type") == "array":
            type_ = SetOf(type_)
        found[name] = Member(type_, isinstance(required, list) and name in required)
    return found


class _Reading:
    """One tool's JSON Schema, while it is read. References fan out, so what is read is counted."""

    def __init__(self, tool: str, root: Json) -> None:
        self._tool, self._root = tool, root
        self._left = _MAX_PARTS

    def type(self, schema: Json, depth: int) -> tuple[CedarType, bool] | None:
        """Give the Cedar type of what a schema admits, and whether it holds each such value; None for untyped."""
        self._left -= 1
        if self._left < 0:
            raise PolicyError(
                f"`tools.json`: tool `{self._tool}`: its arguments have more than {_MAX_PARTS} parts when references "
                "are followed: say in the schema what the tool needs"
            )
        if not isinstance(schema, dict) or depth > _MAX_DEPTH:
            return None
        if "$ref" in schema:
            return self.type(_resolve(schema["$ref"], self._root), depth + 1)
        for word in ("anyOf", "oneOf", "allOf"):
            if word in schema and "properties" not in schema:
                return self._alternatives(schema[word], depth)
        values = schema["enum"] if "enum" in schema else [schema["const"]] if "const" in schema else None
        if values is not None:
            return _enumerated(values)
        kinds = schema.get("type", "object" if "properties" in schema else None)
        names = kinds if isinstance(kinds, list) else [kinds]
        plain = [name for name in names if name != "null"]
        if len(plain) != 1:
            return None
        found = self._plain(plain[0], schema, depth)
        return None if found is None else (found[0], found[1] and len(plain) == len(names))

    def _plain(self, kind: Json, schema: dict[str, Json], depth: int) -> tuple[CedarType, bool] | None:
        if isinstance(kind, str) and kind in _SCALARS:
            # Numbers of more than four decimals are left out, and integers beyond 2^53, which are refused anyway.
            return _SCALARS[kind], kind != "number"
        if kind == "array" and "prefixItems" not in schema:
            item = self.type(schema.get("items"), depth + 1)
            return None if item is None else (SetOf(item[0]), item[1])
        properties = schema.get("properties")
        if kind != "object" or not isinstance(properties, dict):
            return None
        required = schema.get("required", [])
        members: dict[str, Member] = {}
        for name in sorted(properties.keys() - RESERVED):
            member = self.type(properties[name], depth + 1)
            if member is not None:
                members[name] = Member(member[0], member[1] and isinstance(required, list) and name in required)
        return RecordOf(members), True

    def _alternatives(self, options: Json, depth: int) -> tuple[CedarType, bool] | None:
        """Give the one type that all alternatives share, `null` aside (the usual form of an optional argument)."""
        if not isinstance(options, list):
            return None
        plain = [option for option in options if not (isinstance(option, dict) and option.get("type") == "null")]
        found = [self.type(option, depth + 1) for option in plain]
        first = found[0] if found else None
        if first is None or any(other is None or other[0] != first[0] for other in found):
            return None
        return first[0], all(other is not None and other[1] for other in found) and len(plain) == len(options)


def _enumerated(values: Json) -> tuple[CedarType, bool] | None:
    plain = [value for value in values if value is not None] if isinstance(values, list) else []
    for kind, type_ in ((str, STRING), (bool, BOOL), (int, LONG)):
        if plain and all(type(value) is kind for value in plain):
            return type_, isinstance(values, list) and len(plain) == len(values)
    return None


def _resolve(reference: Json, root: Json) -> Json:
    """Follow a reference inside the same document (RFC 6901); anything else is untyped."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    node = root
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        node = node.get(name) if isinstance(node, dict) else None
    return node
