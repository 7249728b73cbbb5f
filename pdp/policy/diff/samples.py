"""The plainest arguments that a tool's schema takes, as far as they can be guessed: for tools that no case calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from exequatur.registry import Tool
from exequatur.trust.canonical import Json

_BY_KIND: Final[Mapping[str, Json]] = {
    "path": "/sample",
    "host": "example.com",
    "url": "https://example.com/",
    "command": "true",
    "argv": ["true"],
}
_BY_TYPE: Final[Mapping[str, Json]] = {"string": "sample", "boolean": False, "null": None}
_DEEPEST: Final = 16
_LONGEST: Final = 1_000  # characters, and items: what wants more is not sampled


def arguments(tool: Tool) -> dict[str, Json]:
    """Give arguments for what the schema requires; whether it takes them is for whoever uses them to see."""
    kinds, schema = tool.argument_kinds, tool.input_schema
    properties: Any = schema.get("properties", {})
    required: Any = schema.get("required", [])
    found: dict[str, Json] = {}
    for name in required:
        value = _value(properties.get(name, True), 0)
        kind = _BY_KIND.get(kinds.get(name, ""))
        found[name] = value if kind is None else [kind] if isinstance(value, list) and kind != ["true"] else kind
    return found


def _value(schema: Any, depth: int) -> Json:
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return "sample"
    for keyword in ("const", "default"):
        if keyword in schema:
            return schema[keyword]  # type: ignore[no-any-return]
    for keyword in ("enum", "examples"):
        if schema.get(keyword):
            return schema[keyword][0]  # type: ignore[no-any-return]
    for keyword in ("anyOf", "oneOf"):
        if schema.get(keyword):
            return _value(schema[keyword][0], depth + 1)
    type_ = schema.get("type", "string")
    return _of_type(type_[0] if isinstance(type_, list) else type_, schema, depth)


def _of_type(type_: str, schema: Mapping[str, Any], depth: int) -> Json:
    if type_ in ("integer", "number"):
        number: Json = schema.get("minimum", min(1, schema.get("maximum", 1)))
        return number
    if type_ == "array":
        return [_value(schema.get("items"), depth + 1)] * min(schema.get("minItems", 1), _LONGEST)
    if type_ == "object":
        properties = schema.get("properties", {})
        return {name: _value(properties.get(name), depth + 1) for name in schema.get("required", ())}
    if type_ == "string":
        return "sample".ljust(min(schema.get("minLength", 0), _LONGEST), "e")[: schema.get("maxLength")]
    return _BY_TYPE.get(type_)
