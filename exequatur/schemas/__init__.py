"""The JSON Schemas of the files that people write: for their editors, and for the readers of those files.

Rules that hold here:
- A file is judged by the very schema that is published, compiled once, when it is first asked for.
- What is wrong is named by its JSON pointer, with what is wanted instead; never a value.
- `errorMessage` in a schema is that wish in words; editors show it too.
- `$schema` is a member that every such file may have; nobody follows it.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import json
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jsonschema_rs

from exequatur.trust.canonical import Json, quoted

NAMES: Final = (
    "agents",
    "cases",
    "exequatur",
    "injector",
    "keys",
    "ledger",
    "limits",
    "links",
    "pdp",
    "sidecar",
    "tools",
)
"""The schemas that there are. `injector`, `ledger`, `pdp` and `sidecar` are the daemons' settings."""

_ENDING: Final = ".schema.json"
_LONGEST: Final = 200  # characters of a pointer that an error shows
_PIECE: Final = re.compile(r'(?P<text>"(?:[^"\\]|\\.)*")(?:\s*(?P<colon>:))?|[\[\]{},]|[^\s\[\]{},:"]+')
_LOOKED_AT: Final = 100  # faults of one file, to tell the one that explains others
_Kind: Final = jsonschema_rs.ValidationErrorKind
_UNKNOWN: Final = (_Kind.AdditionalProperties, _Kind.UnevaluatedProperties)
_NAMED: Final = (*_UNKNOWN, _Kind.PropertyNames)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong in a file: where, as a JSON pointer (RFC 6901), and what is wanted, as `must be …`."""

    pointer: str
    wanted: str

    def __str__(self) -> str:
        """One sentence without the file's name."""
        return f"{quoted(self.pointer, _LONGEST) if self.pointer else 'the file'} {self.wanted}"

    def located(self, file: str, data: bytes) -> str:
        """Give the sentence with file and line; `data` is JSON that has been read, in which the fault stands."""
        return f"`{file}:{line_of(data, self.pointer)}`: {self}"


def text(name: str) -> str:
    """Give a schema as it is published; `name` is one of `NAMES`."""
    return (pkgutil.get_data(__name__, f"{name}{_ENDING}") or b"").decode()


@functools.cache
def schema(name: str) -> dict[str, Any]:
    """Give a schema; it is shared, and not to be changed."""
    found: dict[str, Any] = json.loads(text(name))
    return found


def check(name: str, value: Json) -> Fault | None:
    """Say what is wrong with a file's value by the schema `name`; None if nothing is."""
    validator = _validator(name)
    if validator.is_valid(value):
        return None
    error = min(itertools.islice(validator.iter_errors(value), _LOOKED_AT), key=_rank)
    pointer = "".join("/" + escape(str(part)) for part in error.instance_path)
    return _fault(pointer, error.kind, _node(schema(name), error.schema_path))


def escape(part: str) -> str:
    """Write one member's name as a part of a JSON pointer."""
    return part.replace("~", "~0").replace("/", "~1")


def line_of(data: bytes, pointer: str) -> int:
    """Find the line, from 1 on, of what `pointer` names, or of what is nearest around it; `data` is valid JSON."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    source = data.decode("utf-8")
    inside: list[int | None] = []  # for each object and list around here: None, or how many items came before
    found = start = 0  # how many parts are found, and where the last of them begins
    for piece in _PIECE.finditer(source):
        first = source[piece.start()]
        if first in "]}":
            inside.pop()
            if len(inside) < found:
                break  # the last part that was found ends here
        elif first == ",":
            if inside[-1] is not None:
                inside[-1] += 1
        else:
            if found == len(inside) - 1 and found < len(parts) and _name(piece, inside[-1]) == parts[found]:
                found, start = found + 1, piece.start()
            if first in "[{":
                inside.append(0 if first == "[" else None)
    return source.count("\n", 0, start) + 1


def _name(piece: re.Match[str], before: int | None) -> str | None:
    """Give the name or the number of the member that begins with this piece; None for a value behind its name."""
    if before is not None:
        return str(before)
    return str(json.loads(piece["text"])) if piece["colon"] else None


@functools.cache
def _validator(name: str) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(schema(name), pattern_options=jsonschema_rs.RegexOptions())


def _rank(error: jsonschema_rs.ValidationError) -> int:
    """Put a misspelt name before what it leaves missing."""
    return 0 if isinstance(error.kind, _NAMED) else 2 if isinstance(error.kind, _Kind.Required) else 1


def _node(root: Mapping[str, Any], path: list[str | int]) -> Mapping[str, Any]:
    """Give the schema whose last keyword was not satisfied."""
    node: Any = root
    for part in path[:-1]:
        node = node[part]
    return node if isinstance(node, dict) else {}


def _fault(pointer: str, kind: Any, node: Mapping[str, Any]) -> Fault:
    if isinstance(kind, _Kind.Required):
        return Fault(f"{pointer}/{escape(kind.property)}", "is missing")
    if isinstance(kind, _UNKNOWN):
        name = str(kind.unexpected[0])
        near = difflib.get_close_matches(name, node.get("properties", {}), n=1)
        advice = f"did you mean {quoted(near[0])}?" if near else "remove it, or correct its name"
        return Fault(f"{pointer}/{escape(name)}", f"is not known: {advice}")
    if isinstance(kind, _Kind.PropertyNames):
        pointer = f"{pointer}/{escape(str(kind.error.instance))}"
    if "errorMessage" in node:
        return Fault(pointer, str(node["errorMessage"]))
    words = next((words for known, words in _WORDS.items() if isinstance(kind, known)), None)
    return Fault(pointer, words(node) if words else f"is refused by the schema (`{kind.name}`)")


def _type(node: Mapping[str, Any]) -> str:
    names = node["type"] if isinstance(node["type"], list) else [node["type"]]
    return "must be " + " or ".join(_TYPES[name] for name in names)


def _range(node: Mapping[str, Any]) -> str:
    kind = "a whole number" if node.get("type") == "integer" else "a number"
    bounds = [f"{word} {node[bound]}" for word, bound in (("from", "minimum"), ("to", "maximum")) if bound in node]
    return f"must be {kind} {' '.join(bounds)}"


_TYPES: Final = {
    "object": "an object",
    "array": "a list",
    "string": "a text",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "null": "null",
}
_WORDS: Final[Mapping[type, Callable[[Mapping[str, Any]], str]]] = {
    _Kind.Type: _type,
    _Kind.Enum: lambda node: "must be one of " + ", ".join(f"`{value}`" for value in node["enum"]),
    _Kind.Constant: lambda node: f"must be `{node['const']}`",
    _Kind.Minimum: _range,
    _Kind.Maximum: _range,
    _Kind.UniqueItems: lambda _: "must not hold the same twice",
    _Kind.MinItems: lambda node: f"must have {node['minItems']} or more items",
    _Kind.MaxItems: lambda node: f"must have at most {node['maxItems']} items",
    _Kind.MinProperties: lambda node: f"must have {node['minProperties']} or more members",
    _Kind.MinLength: lambda node: f"must have {node['minLength']} or more characters",
    _Kind.MaxLength: lambda node: f"must have at most {node['maxLength']} characters",
    _Kind.FalseSchema: lambda _: "does not belong here: remove it",
}
