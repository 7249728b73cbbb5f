"""A tool's input schema (JSON Schema 2020-12), closed, compiled once, and safe to run on anybody's arguments.

Rules that hold here:
- An object that lists its members has no others, unless the registry says that the tool is open. MCP servers often
  leave `additionalProperties` out, and a member that nobody declared is one that no policy looks at.
- References stay inside the schema; nothing is ever fetched.
- Patterns run in linear time; one that cannot (look-around, back-references) is refused.
- Alternatives multiply, and what they make of one value is bounded (`argument_work.py`).
- A keyword of an older draft would be ignored silently, so it is refused.
- What a violation says names members, never values.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NoReturn
from urllib.parse import unquote

import jsonschema_rs

from exequatur.argument_work import ANYWHERE, Graph, TooMuchError, Work, measure
from exequatur.trust.canonical import Json, quoted


class SchemaError(ValueError):
    """The schema cannot be served. `pointer` is the JSON pointer (RFC 6901) of what is wrong in it."""

    def __init__(self, pointer: str, text: str) -> None:
        super().__init__(text)
        self.pointer = pointer


class ArgumentError(ValueError):
    """The arguments are not what the registry admits. The text names the member and never holds its value."""


RESERVED: Final = frozenset({"__entity", "__extn", "__expr"})
"""Member names that are escapes in Cedar's JSON: https://docs.cedarpolicy.com/auth/entities-syntax.html"""

_DIALECTS: Final = ("2020-12/schema", "2019-09/schema", "draft-07/schema", "draft-06/schema")
_OTHER_DRAFTS: Final = frozenset(
    {"additionalItems", "dependencies", "disallow", "divisibleBy", "extends", "id", "$recursiveRef", "$recursiveAnchor"}
)
# Keywords that hold schemas, by what these apply to: the same instance, a part of it, or a question about it. To close
# a question would change its answer.
_SAME: Final = frozenset({"allOf", "anyOf", "oneOf", "then", "else", "if", "dependentSchemas", "$defs", "definitions"})
_PART: Final = frozenset(
    {"properties", "patternProperties", "additionalProperties", "unevaluatedProperties"}
    | {"items", "prefixItems", "unevaluatedItems"}
)
_QUESTION: Final = frozenset({"not", "contains", "propertyNames"})
_MAPS: Final = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
_LISTS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_OPENERS: Final = frozenset({"additionalProperties", "unevaluatedProperties"})
_REFERENCES: Final = frozenset({"$ref", "$dynamicRef"})
_REGEX_BYTES: Final = 1 << 20  # of a compiled pattern; `(a{1000}){1000}` is over it
_SHOWN_PARTS: Final = 8
_MOST_APPLIED: Final = 20_000  # a tenth of a second of compiling; tools as they are have some hundreds


@dataclass(frozen=True, slots=True)
class ArgumentSchema:
    """The closed schema as it is enforced, and its compiled form."""

    schema: Mapping[str, Json]
    _validator: jsonschema_rs.Draft202012Validator
    _work: Work

    @classmethod
    def compile(cls, schema: Json, *, is_open: bool) -> "ArgumentSchema":
        """Check, close and compile an `inputSchema`. Raises `SchemaError`."""
        if not isinstance(schema, dict):
            raise SchemaError("", "an object is needed here")
        nodes = list(_schemas(schema))
        document = _Document(schema, [node for _, node in nodes])
        for pointer, node in nodes:
            _check(pointer, node)
            _check_references(pointer, node, document)
        if schema.get("type") != "object":
            raise SchemaError("/type", 'must be "object"')
        closed = {name: value for name, value in schema.items() if name != "$schema"}
        if not is_open:
            closed = _close(closed, document.listing())
            closed["unevaluatedProperties"] = False  # a tool that declares no members takes none
        try:
            work = measure(id(schema), document.graph())
        except TooMuchError as error:
            raise SchemaError("", str(error)) from None
        try:
            validator = jsonschema_rs.Draft202012Validator(
                closed,
                retriever=_refuse,
                mask="its value",
                pattern_options=jsonschema_rs.RegexOptions(size_limit=_REGEX_BYTES),
            )
        except jsonschema_rs.ValidationError as error:
            where = "".join("/" + _escape(str(part)) for part in error.instance_path)
            raise SchemaError(where, f"is not a usable JSON Schema 2020-12: {error.message}") from None
        except (jsonschema_rs.ReferencingError, ValueError) as error:
            raise SchemaError("", f"is not a usable JSON Schema 2020-12: {error}") from None
        return cls(closed, validator, work)

    def check(self, arguments: Mapping[str, Json]) -> None:
        """Raise `ArgumentError` if the arguments do not satisfy the schema."""
        if not (self._work.is_little or self._work.admits(dict(arguments))):
            raise ArgumentError(
                "the arguments nest too deep, or are too many, for the alternatives of the tool's schema"
            )
        try:
            self._validator.validate(arguments)
        except jsonschema_rs.ValidationError as error:
            raise ArgumentError(_violation(error)) from None
        except ValueError:  # what the validator cannot hold at all
            raise ArgumentError("the arguments cannot be checked against the tool's schema") from None


def _violation(error: jsonschema_rs.ValidationError) -> str:
    path = "/".join(map(str, error.instance_path[:_SHOWN_PARTS]))
    kind = error.kind
    if isinstance(kind, (_Kind.AdditionalProperties, _Kind.UnevaluatedProperties)):
        unknown = ", ".join(map(quoted, kind.unexpected[:_SHOWN_PARTS]))
        inside = f" in {quoted(path)}" if path else ""
        return f"unknown argument {unknown}{inside}: the tool's schema does not have it"
    if isinstance(kind, _Kind.Required):
        return f"the argument {quoted(f'{path}/{kind.property}' if path else str(kind.property))} is missing"
    if isinstance(kind, _Kind.PropertyNames):
        return f"the argument {quoted(path)} has a member with a name that the tool's schema refuses"
    return f"the argument {quoted(path)} is refused by the tool's schema (`{kind.name}`)"


_Kind: Final = jsonschema_rs.ValidationErrorKind


def _refuse(uri: str) -> NoReturn:
    raise ValueError(f"{quoted(uri)} is outside the schema")


def _check(pointer: str, node: dict[str, Json]) -> None:
    dialect = node.get("$schema")
    if dialect is not None and (pointer or not str(dialect).rstrip("#").endswith(_DIALECTS)):
        raise SchemaError(f"{pointer}/$schema", "must be JSON Schema 2020-12, or a draft from 6 on, at the top only")
    for name in node.keys() & _OTHER_DRAFTS:
        raise SchemaError(f"{pointer}/{_escape(name)}", "is a keyword of another draft: write it as 2020-12 has it")
    if pointer and "$id" in node:
        raise SchemaError(f"{pointer}/$id", "an embedded schema with an `$id` of its own is not supported")
    properties = node.get("properties")
    for name in RESERVED & properties.keys() if isinstance(properties, dict) else ():
        raise SchemaError(f"{pointer}/properties/{name}", "is a reserved name that policy could mistake for a type")


class _Document:
    """The whole schema. What its references name is looked up in it once, however many there are."""

    def __init__(self, root: Json, nodes: list[dict[str, Json]]) -> None:
        self._root, self._nodes = root, nodes
        self._known = {id(node) for node in nodes}
        self._anchors: dict[Json, dict[str, Json]] = {}
        for node in nodes:
            for keyword in ("$anchor", "$dynamicAnchor"):
                name = node.get(keyword)
                if isinstance(name, str):
                    self._anchors.setdefault(name, node)

    def target(self, reference: str) -> Json:
        """What a reference inside the schema names: a JSON pointer, or an anchor."""
        fragment = unquote(reference.removeprefix("#"))
        if fragment and not fragment.startswith("/"):
            return self._anchors.get(fragment)
        node = self._root
        for part in fragment.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(node, list):
                node = node[int(name)] if name.isdecimal() and int(name) < len(node) else None
            else:
                node = node.get(name) if isinstance(node, dict) else None
        return node

    def holds(self, target: Json) -> bool:
        """Whether this is one of the schemas; what is under a keyword of nobody's was neither checked nor closed."""
        return isinstance(target, bool) or id(target) in self._known

    def listing(self) -> frozenset[int]:
        """Give the ids of the schemas that have `properties`, or apply one that has to the same instance.

        Raises `SchemaError` where following each of them to all that it applies would take too long, as it would take
        whoever compiles the schema.
        """
        applied = {id(node): self._applied(node) for node in self._nodes}
        appliers: dict[int, list[int]] = {}
        for applier, items in applied.items():
            for item in items:
                appliers.setdefault(item, []).append(applier)
        found = _reached([id(node) for node in self._nodes if "properties" in node], appliers)
        steps = 0
        for start in found:
            steps += len(_reached([start], applied, _MOST_APPLIED))
            if steps > _MOST_APPLIED + len(found):
                raise SchemaError("", f"applies more than {_MOST_APPLIED} schemas by reference: write it plainer")
        return frozenset(found)

    def graph(self) -> Graph:
        """Give what each schema applies, to its value and to the parts of that."""
        same = {id(node): self._applied(node) + _ids(_children("not", node.get("not", True))) for node in self._nodes}
        return Graph(same, {id(node): _parts(node) for node in self._nodes})

    def _applied(self, node: dict[str, Json]) -> list[int]:
        """Give the ids of what a schema applies to the same instance."""
        items = [self.target(str(node[name])) for name in _REFERENCES if name in node]
        for keyword in _SAME - {"$defs", "definitions"}:
            if keyword in node:
                items.extend(item for _, item in _children(keyword, node[keyword]))
        return [id(item) for item in items if isinstance(item, dict)]


def _parts(node: dict[str, Json]) -> dict[str, list[int]]:
    """Give the ids of what a schema applies to the parts of its value, by the member's name."""
    found: dict[str, list[int]] = {}
    for keyword in node.keys() & (_PART | {"contains", "propertyNames"}):
        for pointer, item in _children(keyword, node[keyword]):
            found.setdefault(pointer if keyword == "properties" else ANYWHERE, []).extend(_ids([("", item)]))
    return found


def _ids(children: Iterable[tuple[str, Json]]) -> list[int]:
    return [id(item) for _, item in children if isinstance(item, dict)]


def _reached(starts: list[int], edges: Mapping[int, list[int]], most: int = 2**62) -> set[int]:
    """Follow edges from all `starts`, to no more than about `most`."""
    todo = list(starts)
    found = set(starts)
    while todo and len(found) <= most:
        new = [item for item in edges.get(todo.pop(), ()) if item not in found]
        found.update(new)
        todo.extend(new)
    return found


def _check_references(pointer: str, node: dict[str, Json], document: _Document) -> None:
    for name in sorted(node.keys() & _REFERENCES):
        reference = str(node[name])
        if not reference.startswith("#"):
            raise SchemaError(f"{pointer}/{name}", "refers to another document: copy what it names into `$defs`")
        if not document.holds(document.target(reference)):
            raise SchemaError(f"{pointer}/{name}", "refers to nothing that is a schema: put what it names into `$defs`")


def _children(keyword: str, value: Json) -> Iterable[tuple[str, Json]]:
    """Give the schemas that a keyword holds, each with the rest of its pointer."""
    if keyword not in _SAME | _PART | _QUESTION:
        return ()
    if keyword in _MAPS:
        return ((f"/{_escape(name)}", item) for name, item in value.items()) if isinstance(value, dict) else ()
    if keyword in _LISTS:
        return ((f"/{index}", item) for index, item in enumerate(value)) if isinstance(value, list) else ()
    return (("", value),)


def _schemas(schema: Json) -> Iterator[tuple[str, dict[str, Json]]]:
    """Give each subschema with its pointer, the schema itself first."""
    todo = [("", schema)]
    while todo:
        pointer, node = todo.pop()
        if isinstance(node, dict):
            yield pointer, node
            for keyword, value in node.items():
                todo.extend((f"{pointer}/{_escape(keyword)}{rest}", item) for rest, item in _children(keyword, value))


def _close(schema: Json, listing: frozenset[int], *, parts: bool = True) -> Any:
    """Copy a schema so that each part of the instance whose members it lists has no others.

    `listing` has the ids of the schemas that list members. `unevaluatedProperties` sees through references and
    combinators, so it stands once, where a part of the instance begins, and never inside a combinator, where it would
    refuse what the other branches declare.
    """
    if not isinstance(schema, dict):
        return schema
    closed: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in _OPENERS and (value is True or value == {}):
            continue  # it allows what is allowed anyway, and would count unknown members as known
        close: Callable[[Json], Any]
        if keyword in _SAME:
            close = partial(_close, listing=listing, parts=parts and keyword != "if")
        elif keyword in _PART and parts:
            close = partial(_close_part, listing=listing)
        else:
            closed[keyword] = value
            continue
        if keyword in _MAPS and isinstance(value, dict):
            closed[keyword] = {name: close(item) for name, item in value.items()}
        elif keyword in _LISTS and isinstance(value, list):
            closed[keyword] = [close(item) for item in value]
        else:
            closed[keyword] = close(value)
    return closed


def _close_part(schema: Json, listing: frozenset[int]) -> Any:
    closed = _close(schema, listing)
    if isinstance(closed, dict) and id(schema) in listing:
        closed.setdefault("unevaluatedProperties", False)
    return closed


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
