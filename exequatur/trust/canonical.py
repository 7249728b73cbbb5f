"""JSON from outside: one strict parser, one canonical form.

Rules that hold here:
- What is parsed is I-JSON (RFC 7493) inside `JsonLimits`; everything else is a `JsonError`, whatever the bytes.
- `canonical` is RFC 8785. For every value `x` that it accepts, `parse(canonical(x)) == x`.
- A number whose value the canonical form would change is refused, never rounded.
- Errors name members and positions, never values.
"""

import json
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NoReturn, TypeAlias, Union

import rfc8785

Json: TypeAlias = Union[bool, int, float, str, "list[Json]", "dict[str, Json]", None]
"""A JSON value. Whole numbers within ±(2^53-1) are `int`, all others `float`."""


@dataclass(frozen=True, slots=True)
class JsonLimits:
    """Bounds on one document."""

    bytes: int = 256 * 1024
    """The whole document; an action is at most this on the wire."""
    depth: int = 64
    """Objects and lists inside each other; far below what stops a recursive reader."""
    keys: int = 2000
    """Members of all objects together; bounds what policies iterate over."""
    string_bytes: int = 64 * 1024
    """The longest string or member name, as UTF-8."""


DEFAULT_LIMITS: Final = JsonLimits()


class JsonError(ValueError):
    """The bytes are not acceptable JSON, or the value has no canonical form."""


_MAX_SAFE: Final = 2**53 - 1  # RFC 7493 section 2.2
_SAFE_DIGITS: Final = len(str(_MAX_SAFE))
_MAX_NUMBER: Final = 1100  # the longest exact decimal of a double; longer ones cost quadratic time
_UNSAFE_NUMBER: Final = "a number would change its value in canonical form: send it as a string"
_STRING_OR_BRACKET: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)


def parse(data: bytes, limits: JsonLimits = DEFAULT_LIMITS) -> Json:
    """Read one I-JSON document (RFC 8259, RFC 7493).

    Raises `JsonError` for anything else: duplicate members, NaN and infinities, lone surrogates, a byte order
    mark, trailing data, numbers that a double cannot hold exactly as written, and whatever is over a limit.
    """
    if len(data) > limits.bytes:
        raise JsonError(f"the document has {len(data)} bytes, the limit is {limits.bytes}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JsonError(f"not UTF-8 at byte {error.start}") from None
    # The counts bound depth and members from above, cheaply; only a document near a limit is measured exactly.
    if data.count(b"[") + data.count(b"{") > limits.depth:
        _check_depth(text, limits.depth)
    try:
        value: Json = _DECODER.decode(text)
        if b"\\u" in data:  # the only way in for a lone surrogate: raw ones are not UTF-8
            _ENCODER.encode(value).encode("utf-8")
    except JsonError:
        raise
    except json.JSONDecodeError as error:
        raise JsonError(f"not JSON at character {error.pos}: {error.msg[:1].lower()}{error.msg[1:]}") from None
    except UnicodeEncodeError:
        raise JsonError("a string holds a lone surrogate") from None
    except (RecursionError, MemoryError):
        raise JsonError("the document is too deep or too large to read") from None
    if len(data) > limits.string_bytes or data.count(b":") > limits.keys:
        _check_members(value, limits)
    return value


def canonical(value: Json) -> bytes:
    """Serialise `value` as RFC 8785 has it. Raises `JsonError` for what has no canonical form.

    The fast way is the standard library's C encoder, which gives the same bytes where no float occurs and all keys
    are ASCII (UTF-16 order is then code point order); a property test holds the two against each other.
    """
    try:
        if _is_plain(value):
            return _ENCODER.encode(value).encode()
        return rfc8785.dumps(value)
    except (ValueError, RecursionError) as error:
        raise JsonError(f"no canonical form: {error.args[0] if error.args else 'unknown'}") from None


_ENCODER: Final = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _is_plain(value: Any) -> bool:
    """Whether the fast encoder gives canonical bytes: no float, no integer out of range, ASCII keys, known types."""
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return True
    if kind is int:
        return abs(int(value)) <= _MAX_SAFE
    if kind is dict:
        return all(type(key) is str and key.isascii() and _is_plain(member) for key, member in value.items())
    return kind is list and all(map(_is_plain, value))


def _members(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise JsonError("an object has the same member twice")
    return value


def _number(text: str) -> int | float:
    """Read a number whose canonical form keeps its value; refuse any other."""
    if len(text) < _SAFE_DIGITS and text.isdigit():
        return int(text)
    if len(text) > _MAX_NUMBER:
        raise JsonError(_UNSAFE_NUMBER)
    number = float(text)
    try:
        same = Decimal(repr(number)) == Decimal(text)  # the canonical form writes repr's digits
    except InvalidOperation:  # an exponent beyond any double
        same = False
    if not same or abs(number) == float("inf"):
        raise JsonError(_UNSAFE_NUMBER)
    return int(number) if abs(number) <= _MAX_SAFE and number.is_integer() else number


def _constant(name: str) -> NoReturn:
    raise JsonError(f"`{name}` is not a JSON number")


def _check_depth(text: str, depth: int) -> None:
    """Measure the depth before anything recurses."""
    level = 0
    for token in _STRING_OR_BRACKET.finditer(text):
        byte = text[token.start()]
        if byte in "[{":
            level += 1
            if level > depth:
                raise JsonError(f"deeper than {depth} levels")
        elif byte in "]}":
            level -= 1


def _check_members(value: Json, limits: JsonLimits) -> None:
    """Count members and measure strings, exactly."""
    keys, stack = 0, [value]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            keys += len(node)
            stack.extend(node)
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, str) and len(node.encode()) > limits.string_bytes:
            raise JsonError(f"a string has more than {limits.string_bytes} bytes")
    if keys > limits.keys:
        raise JsonError(f"the document has {keys} members, the limit is {limits.keys}")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_members, parse_int=_number, parse_float=_number, parse_constant=_constant
)
