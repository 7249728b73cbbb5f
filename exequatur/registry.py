"""The tool registry: what each tool is, what it may be given, and which resource a call of it touches.

Rules that hold here:
- A tool is known by its *whole* definition, pinned by digest; another definition is another tool.
- Everything is checked and compiled when the registry is read; what is read never changes.
- Arguments are checked against the closed schema first, then canonicalised; what is ambiguous is refused.
- `outage: warn` is for tools that only read, one thing at a time, inside, and nothing that is classified.
- Types and members are the published schema's business; here is what one member says of another.
- Errors name the line and the JSON pointer, never an argument's value.
"""

import hashlib
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from exequatur import canonicalise, schemas
from exequatur.argument_schema import ArgumentError, ArgumentSchema, SchemaError
from exequatur.canonicalise import AmbiguousError
from exequatur.schemas import Fault, escape
from exequatur.trust.canonical import Json, JsonError, JsonLimits, canonical, parse, quoted

__all__ = [
    "FILE",
    "LEFT_OUT",
    "LIMITS",
    "ArgumentError",
    "Registry",
    "RegistryError",
    "Resource",
    "Tool",
    "definition_sha256",
]

FILE: Final = "tools.json"

LIMITS: Final = JsonLimits(bytes=16 * 2**20, depth=64, keys=500_000, string_bytes=2**20)
"""The registry is signed and holds whole definitions: a thousand tools are some megabytes."""

Access: TypeAlias = Literal["read", "write"]
Outage: TypeAlias = Literal["deny", "warn"]

LEFT_OUT: Final = frozenset({"_meta", "icons"})
"""The members of a definition that its pin does not cover: they change with the transport and the looks."""


class RegistryError(ValueError):
    """The registry cannot be served. The text names the line and the JSON pointer, where there is one."""


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
            return cls(MappingProxyType(_read_tools(parse(tools_json, LIMITS))))
        except JsonError as error:
            raise RegistryError(f"`{FILE}`: {error}") from None
        except _FaultError as error:
            raise RegistryError(error.fault.located(FILE, tools_json)) from None


def definition_sha256(definition: Mapping[str, Json]) -> bytes:
    """SHA-256 (32 bytes) of the canonical JSON of a tool's whole MCP definition.

    What is in `LEFT_OUT` is left out. Raises `JsonError`.
    """
    pinned = {name: value for name, value in definition.items() if name not in LEFT_OUT}
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


def _read_tools(document: Any) -> dict[str, Tool]:
    fault = schemas.check("tools", document)
    if fault is not None:
        raise _FaultError(fault)
    return {full: _read_tool(full, entry) for full, entry in document["tools"].items()}


def _read_tool(full: str, entry: dict[str, Any]) -> Tool:
    """Read an entry that the schema admits; raises `_FaultError` where its members contradict each other."""
    server, _, name = full.partition("/")
    at = f"/tools/{escape(full)}"
    definition, is_open = entry["definition"], entry.get("open", False)
    if definition["name"] != name:
        raise _FaultError(Fault(f"{at}/definition/name", f"must be {quoted(name)}, as in the tool's name"))
    try:
        schema = ArgumentSchema.compile(definition["inputSchema"], is_open=is_open)
    except SchemaError as error:
        raise _FaultError(Fault(f"{at}/definition/inputSchema{error.pointer}", str(error))) from None
    properties = schema.schema.get("properties")
    known = None if is_open else properties if isinstance(properties, dict) else {}
    resource = entry.get("resource", {})
    if known is not None and resource.get("id") and resource["id"] not in known:
        raise _FaultError(Fault(f"{at}/resource/id", "must name an argument of the tool's schema"))
    tool = Tool(
        server=server,
        name=name,
        definition=MappingProxyType(definition),
        definition_sha256=_pin(at, entry),
        access=entry["access"],
        bulk=entry.get("bulk", False),
        egress=entry.get("egress", False),
        data_classes=tuple(entry.get("data_classes", ())),
        environment=entry.get("environment", ""),
        outage=entry.get("outage", "deny"),
        labels=tuple(entry.get("labels", ())),
        price_microusd=entry.get("price_microusd", 0),
        resource_type=resource.get("type", "Tool"),
        resource_id=resource.get("id", ""),
        arguments=_arguments(at, entry.get("arguments", {}), known),
        _schema=schema,
    )
    if tool.outage == "warn" and (tool.access == "write" or tool.bulk or tool.egress or tool.data_classes):
        raise _FaultError(
            Fault(
                f"{at}/outage",
                "must be `deny` for a tool that writes, acts in bulk, reaches out or carries classed data",
            )
        )
    return tool


def _pin(at: str, entry: dict[str, Any]) -> bytes:
    found = definition_sha256(entry["definition"])
    if bytes.fromhex(entry["definition_sha256"]) != found:
        raise _FaultError(
            Fault(
                f"{at}/definition_sha256",
                f"is not the definition's digest, which is {found.hex()}: look at what changed before pinning it",
            )
        )
    return found


def _arguments(at: str, rules: dict[str, Any], known: Container[str] | None) -> tuple[Argument, ...]:
    """Read `arguments`; `known` is the arguments that the schema has, None for a tool that is open."""
    arguments = {name: Argument(name, rule["kind"], rule.get("base", "")) for name, rule in rules.items()}
    for name, argument in arguments.items():
        where = f"{at}/arguments/{escape(name)}"
        if known is not None and name not in known:
            raise _FaultError(Fault(where, "is not known: the tool's schema has no such argument"))
        if argument.base and argument.kind != "path":
            raise _FaultError(Fault(f"{where}/base", "is for paths only"))
        target = arguments.get(argument.base)
        if argument.base and (target is None or target.kind != "path" or target.base):
            raise _FaultError(Fault(f"{where}/base", "must name a `path` without a base of its own"))
    return tuple(sorted(arguments.values(), key=lambda argument: (bool(argument.base), argument.name)))


class _FaultError(Exception):
    """What one entry gets wrong, before its line is known."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault
