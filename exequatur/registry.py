"""The tool registry: what each tool is, what it may be given, and which resource a call of it touches.

Rules that hold here:
- A tool is known by its *whole* definition, pinned by digest; another definition is another tool.
- Everything is checked and compiled when the registry is read; what is read never changes.
- Arguments are checked against the closed schema first, then canonicalised; what is ambiguous is refused.
- `outage: warn` is for tools that only read, one thing at a time, inside, and nothing that is classified.
- Errors name the tool, the member and the JSON pointer, never an argument's value.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from exequatur import canonicalise
from exequatur.argument_schema import ArgumentError, ArgumentSchema, SchemaError
from exequatur.canonicalise import AmbiguousError
from exequatur.trust.canonical import Json, JsonError, JsonLimits, canonical, parse, quoted

__all__ = ["LIMITS", "ArgumentError", "Registry", "RegistryError", "Resource", "Tool", "definition_sha256"]

LIMITS: Final = JsonLimits(bytes=16 * 2**20, depth=64, keys=500_000, string_bytes=2**20)
"""The registry is signed and holds whole definitions: a thousand tools are some megabytes."""

Access: TypeAlias = Literal["read", "write"]
Outage: TypeAlias = Literal["deny", "warn"]

_LEFT_OUT: Final = frozenset({"_meta", "icons"})
_FULL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}/[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}")
_RESOURCE_TYPE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
_SHA256_HEX: Final = re.compile(r"[0-9a-f]{64}")
_MAX_PRICE: Final = 2**53 - 1  # what JSON carries exactly


class RegistryError(ValueError):
    """The registry cannot be served. The text names the tool and the JSON pointer."""


@dataclass(frozen=True, slots=True)
class Resource:
    """What an action touches, derived from its arguments."""

    type: str
    id: str
    attributes: Mapping[str, Json]
    """Each argument that has a kind, by name, in canonical form."""


@dataclass(frozen=True, slots=True)
class Argument:
    """How one argument is canonicalised."""

    name: str
    kind: str
    """One of `path`, `host`, `url`, `command`, `argv`."""
    base: str = ""
    """For a path: the argument that a relative one is joined on, or empty."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool, as the signed registry has it. Prices are micro-USD a call."""

    server: str
    name: str
    definition: Mapping[str, Json]
    """The MCP definition, as pinned."""
    definition_sha256: bytes
    access: Access
    bulk: bool
    egress: bool
    data_classes: tuple[str, ...]
    environment: str
    outage: Outage
    labels: tuple[str, ...]
    """Facts that enter a session with a call of this tool."""
    price_microusd: int
    resource_type: str
    resource_id: str
    """The argument whose canonical value is the resource's id; empty for the tool's full name."""
    arguments: tuple[Argument, ...]
    """In the order in which they are canonicalised: a base stands before what is joined on it."""
    _schema: ArgumentSchema = field(repr=False)

    @property
    def full(self) -> str:
        """`server/name`, by which sessions and policies know the tool."""
        return f"{self.server}/{self.name}"

    @property
    def dangerous(self) -> bool:
        """Whether the tool is denied as soon as a lease has run out."""
        return self.outage != "warn"

    @property
    def groups(self) -> tuple[str, ...]:
        """The action groups that the tool is in, sorted."""
        marks = {"bulk": self.bulk, "dangerous": self.dangerous, "egress": self.egress}
        return tuple(sorted((self.access, *(name for name, marked in marks.items() if marked))))

    @property
    def input_schema(self) -> Mapping[str, Json]:
        """The JSON Schema of the arguments as it is enforced: closed."""
        return self._schema.schema

    @property
    def argument_kinds(self) -> Mapping[str, str]:
        """The kind of each argument that is canonicalised, by name."""
        return {argument.name: argument.kind for argument in self.arguments}

    def resolve(self, arguments: Mapping[str, Json]) -> Resource:
        """Check the arguments and derive the resource that a call with them touches.

        Raises `ArgumentError`; its text is fit for a model, and holds no values.
        """
        self._schema.check(arguments)
        attributes: dict[str, Json] = {}
        for argument in self.arguments:
            value = arguments.get(argument.name)
            if value is not None:
                attributes[argument.name] = _canonicalise(argument, value, attributes)
        if not self.resource_id:
            return Resource(self.resource_type, self.full, attributes)
        return Resource(self.resource_type, _resource_id(self.resource_id, arguments, attributes), attributes)


@dataclass(frozen=True, slots=True)
class Registry:
    """All tools that may be proposed, by full name."""

    tools: Mapping[str, Tool]

    @classmethod
    def parse(cls, tools_json: bytes) -> "Registry":
        """Read and compile `tools.json`. Raises `RegistryError` at the first fault."""
        try:
            document = parse(tools_json, LIMITS)
        except JsonError as error:
            raise RegistryError(f"`tools.json`: {error}") from None
        members = _Members("`tools.json`", "", document, {"tools"})
        tools = members.take("tools", None, dict)
        return cls(MappingProxyType({full: _read_tool(full, entry) for full, entry in tools.items()}))


def definition_sha256(definition: Mapping[str, Json]) -> bytes:
    """SHA-256 (32 bytes) of the canonical JSON of a tool's whole MCP definition.

    `_meta` and `icons` are left out: they change with the transport and the looks. Raises `JsonError`.
    """
    pinned = {name: value for name, value in definition.items() if name not in _LEFT_OUT}
    return hashlib.sha256(canonical(pinned)).digest()


def _canonicalise(argument: Argument, value: Json, known: Mapping[str, Json]) -> Json:
    try:
        if argument.kind == "argv":
            return canonicalise.argv(_texts(value))
        base = known.get(argument.base) if argument.base else None
        one = partial(canonicalise.path, base=base) if isinstance(base, str) else _ONE[argument.kind]
        return one(value) if isinstance(value, str) else [one(text) for text in _texts(value)]
    except AmbiguousError as error:
        raise ArgumentError(f"the argument {quoted(argument.name)} {error}") from None


def _texts(value: Json) -> list[str]:
    if isinstance(value, list):
        texts = [text for text in value if isinstance(text, str)]
        if len(texts) == len(value):
            return texts
    raise AmbiguousError("must be text, or a list of texts")


_ONE: Final[Mapping[str, Callable[[str], Json]]] = {
    "path": canonicalise.path,
    "host": canonicalise.host,
    "url": canonicalise.url,
    "command": canonicalise.command,
}
_KINDS: Final = (*_ONE, "argv")


def _resource_id(name: str, arguments: Mapping[str, Json], attributes: Mapping[str, Json]) -> str:
    if name not in attributes:
        value = arguments.get(name)
        if not isinstance(value, str) or not value:
            raise ArgumentError(
                f"the argument {quoted(name)} names the resource, and must be one text that is not empty"
            )
        try:
            return canonicalise.text(value)
        except AmbiguousError as error:
            raise ArgumentError(f"the argument {quoted(name)} {error}") from None
    match attributes[name]:
        case str() as found:
            return found
        case {"program": program}:
            return str(program)
        case {"scheme": scheme, "host": host, "port": port, "path": path}:
            return f"{scheme}://[{host}]:{port}{path}" if ":" in str(host) else f"{scheme}://{host}:{port}{path}"
    raise ArgumentError(f"the argument {quoted(name)} names the resource, and must be one text, not a list")


def _read_tool(full: str, entry: Json) -> Tool:
    members = _Members(f"tool {quoted(full)}", f"/tools/{_escape(full)}", entry, _TOOL_MEMBERS)
    if not _FULL_NAME.fullmatch(full):
        raise members.error("", "the name must be `<server>/<tool>`, of ASCII letters, digits and `._-`")
    server, _, name = full.partition("/")
    definition = members.take("definition", None, dict)
    if definition.get("name") != name:
        raise members.error("definition/name", f"must be {quoted(name)}, as in the tool's name")
    is_open = members.take("open", False, bool)
    try:
        schema = ArgumentSchema.compile(definition.get("inputSchema"), is_open=is_open)
    except SchemaError as error:
        raise members.error(f"definition/inputSchema{error.pointer}", str(error)) from None
    tool = Tool(
        server=server,
        name=name,
        definition=MappingProxyType(definition),
        definition_sha256=_pin(members, definition),
        access=members.choice("access", None, ("read", "write")),
        bulk=members.take("bulk", False, bool),
        egress=members.take("egress", False, bool),
        data_classes=members.words("data_classes"),
        environment=members.take("environment", "", str),
        outage=members.choice("outage", "deny", ("deny", "warn")),
        labels=members.words("labels"),
        price_microusd=members.take("price_microusd", 0, int),
        **_resource(members, schema, is_open=is_open),
        _schema=schema,
    )
    if not 0 <= tool.price_microusd <= _MAX_PRICE:
        raise members.error("price_microusd", f"must be from 0 to {_MAX_PRICE}")
    if tool.outage == "warn" and (tool.access == "write" or tool.bulk or tool.egress or tool.data_classes):
        raise members.error(
            "outage", "must be `deny` for a tool that writes, acts in bulk, reaches out or carries classed data"
        )
    return tool


_TOOL_MEMBERS: Final = frozenset(
    {"definition", "definition_sha256", "access", "bulk", "egress", "data_classes", "environment", "outage"}
    | {"labels", "price_microusd", "open", "resource", "arguments"}
)


def _pin(members: "_Members", definition: dict[str, Json]) -> bytes:
    pinned = members.take("definition_sha256", None, str)
    found = definition_sha256(definition)
    if not _SHA256_HEX.fullmatch(pinned) or bytes.fromhex(pinned) != found:
        raise members.error(
            "definition_sha256",
            f"is not the definition's digest, which is {found.hex()}: look at what changed before pinning it",
        )
    return found


def _resource(members: "_Members", schema: ArgumentSchema, *, is_open: bool) -> dict[str, Any]:
    """Read `resource` and `arguments`, whose names must be the schema's."""
    properties = schema.schema.get("properties")
    known = properties if isinstance(properties, dict) else {}

    arguments: dict[str, Argument] = {}
    for name, rule in members.take("arguments", {}, dict).items():
        inner = members.inside(f"arguments/{_escape(name)}", rule, {"kind", "base"})
        if name not in known and not is_open:
            raise inner.error("", "the tool's schema has no such argument")
        kind, base = inner.choice("kind", None, _KINDS), inner.take("base", "", str)
        if base and kind != "path":
            raise inner.error("base", "is for paths only")
        arguments[name] = Argument(name, kind, base)
    for argument in arguments.values():
        target = arguments.get(argument.base)
        if argument.base and (target is None or target.kind != "path" or target.base):
            raise members.error(
                f"arguments/{_escape(argument.name)}/base",
                "must name a `path` without a base of its own",
            )

    resource = members.inside("resource", members.take("resource", {}, dict), {"type", "id"})
    resource_type, resource_id = resource.take("type", "Tool", str), resource.take("id", "", str)
    if not _RESOURCE_TYPE.fullmatch(resource_type):
        raise resource.error("type", "must be a name of ASCII letters, digits and `_`")
    if resource_id and resource_id not in known and not is_open:
        raise resource.error("id", "must name an argument of the tool's schema")
    ordered = sorted(arguments.values(), key=lambda argument: (bool(argument.base), argument.name))
    return {"resource_type": resource_type, "resource_id": resource_id, "arguments": tuple(ordered)}


class _Members:
    """The members of one object of `tools.json`, taken by type; a member that is not known is an error."""

    def __init__(self, what: str, pointer: str, value: Json, known: set[str] | frozenset[str]) -> None:
        self._what, self._pointer = what, pointer
        if not isinstance(value, dict):
            raise self.error("", "an object is needed here")
        self._value = value
        for name in value:
            if name not in known:
                raise self.error(_escape(name), "is not known: remove it, or correct its name")

    def error(self, where: str, text: str) -> RegistryError:
        pointer = f"{self._pointer}/{where}" if where else self._pointer
        return RegistryError(f"{self._what} at {quoted(pointer)}: {text}")

    def inside(self, where: str, value: Json, known: set[str]) -> "_Members":
        return _Members(self._what, f"{self._pointer}/{where}", value, known)

    def take(self, name: str, default: Any, kind: type) -> Any:
        """Give a member of exactly this type; without a default it must be there."""
        value = self._value.get(name, default)
        if type(value) is not kind:
            raise self.error(name, f"must be {_TYPES[kind]}" if name in self._value else "is missing")
        return value

    def choice(self, name: str, default: str | None, values: tuple[str, ...]) -> Any:
        value = self.take(name, default, str)
        if value not in values:
            raise self.error(name, f"must be one of {', '.join(f'`{choice}`' for choice in values)}")
        return value

    def words(self, name: str) -> tuple[str, ...]:
        value = self.take(name, [], list)
        words = tuple(item for item in value if isinstance(item, str) and _WORD.fullmatch(item))
        if len(words) != len(value) or len(set(words)) != len(words):
            raise self.error(name, "must be a list of different words of ASCII letters, digits and `_.:-`")
        return words


_TYPES: Final = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a whole number"}


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
