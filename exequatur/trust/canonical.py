"""JSON from outside: one strict parser, one canonical form.

Rules that hold here:
- What is parsed is I-JSON (RFC 7493) inside `JsonLimits`; everything else is a `JsonError`, whatever the bytes.
- `canonical` is RFC 8785. For every value `x` that it accepts, `parse(canonical(x)) == x`.
- A number whose value the canonical form would change is refused, never rounded.
- Errors name members and positions, never values.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NoReturn, TypeAlias, Union

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
    items: int = 1_000_000
    """Members and list items beside each other, of the whole document: `[[],[],…` takes thirty times its memory."""


DEFAULT_LIMITS: Final = JsonLimits()


class JsonError(ValueError):
    """The bytes are not acceptable JSON, or the value has no canonical form."""


_MAX_SAFE: Final = 2**53 - 1  # RFC 7493 section 2.2
_SAFE_DIGITS: Final = len(str(_MAX_SAFE))
_MAX_NUMBER: Final = 1100  # characters; an exact double has at most 1,077, and longer texts cost quadratic time
_SHOWN_NAME: Final = 64
_UNSAFE_NUMBER: Final = "a number would change its value in canonical form: send it as a string"
_STRING_OR_BRACKET: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)
_STRING: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)


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
    _check_shape(data, text, limits)
    try:
        value: Json = _DECODER.decode(text)
        if b"\\u" in data:  # the only way in for a lone surrogate: raw ones are not UTF-8
            _ENCODER.encode(value).encode("utf-8")
    except json.JSONDecodeError as error:
        if text.startswith("\ufeff"):
            raise JsonError("it begins with a byte order mark: save it as UTF-8 without one") from None
        raise JsonError(f"not JSON at line {error.lineno}, column {error.colno}: {_lower(error.msg)}") from None
    except UnicodeEncodeError:
        raise JsonError("a string holds a lone surrogate") from None
    except (RecursionError, MemoryError):
        raise JsonError("the document is too deep or too large to read") from None
    if len(data) > limits.string_bytes or data.count(b":") > limits.keys:
        _check_members(value, limits)
    return value


def canonical(value: Json) -> bytes:
    """Give the RFC 8785 form of a value, as UTF-8.

    Raises `JsonError` for what has none: integers beyond ±(2^53-1), NaN and infinities, lone surrogates, member
    names that are not strings, other types.
    """
    try:
        if _stdlib_writes_it(value):
            text = _ENCODER.encode(value)
            # RFC 8785 section 3.2.3 sorts by UTF-16 units; code points sort the same while all are in the BMP.
            if text.isascii() or max(text) <= "\uffff":
                return text.encode("utf-8")
        return rfc8785.dumps(value)
    except UnicodeEncodeError:
        raise JsonError("a string holds a lone surrogate") from None
    except rfc8785.IntegerDomainError:
        raise JsonError(_UNSAFE_NUMBER) from None
    except rfc8785.FloatDomainError:
        raise JsonError("NaN and infinities have no canonical form") from None
    except rfc8785.CanonicalizationError:
        raise JsonError("the value is not JSON, and has no canonical form") from None
    except (RecursionError, MemoryError):
        raise JsonError("the value is too deep or too large to write") from None


def quoted(name: str, longest: int = _SHOWN_NAME) -> str:
    """Give a name from outside as it may stand in an error or a log line: in backticks, escaped, shortened."""
    shown = name if len(name) <= longest else name[: longest - 1] + "…"
    return "`" + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown.replace("`", "'")) + "`"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _stdlib_writes_it(value: Json) -> bool:
    """Whether the standard encoder makes RFC 8785's bytes of this value, order of names aside: no float in it."""
    # Exact types by hand: this is on the way of every action, and generator expressions take twice as long.
    items: Iterable[Json]
    if type(value) is dict:
        for name in value:
            if type(name) is not str:
                return False
        items = value.values()
    elif type(value) is list:
        items = value
    else:
        items = (value,)
    for item in items:
        kind = type(item)
        if kind is str or kind is bool or item is None:
            continue
        if kind is int:
            if not -_MAX_SAFE <= item <= _MAX_SAFE:  # type: ignore[operator]
                return False
        elif not (kind is dict or kind is list) or not _stdlib_writes_it(item):
            return False
    return True


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise JsonError(f"the member {quoted(name)} is there twice")
            seen.add(name)
    return members


def _integer(text: str) -> int | float:
    if len(text) <= _SAFE_DIGITS:
        value = int(text)
        if -_MAX_SAFE <= value <= _MAX_SAFE:
            return value
    return _number(text)


def _number(text: str) -> int | float:
    value = float(text) if len(text) <= _MAX_NUMBER else math.nan
    if value == 0.0:
        # A zero with a huge exponent is still zero; anything else that became zero lost its value.
        if text.lower().partition("e")[0].strip("-0."):
            raise JsonError(_UNSAFE_NUMBER)
        return 0
    shortest = repr(value)  # the same digits as ECMAScript's, which RFC 8785 prescribes
    if text != shortest and (not math.isfinite(value) or Decimal(text) != Decimal(shortest)):
        raise JsonError(_UNSAFE_NUMBER)
    return int(value) if -_MAX_SAFE <= value <= _MAX_SAFE and value.is_integer() else value


def _constant(name: str) -> NoReturn:
    raise JsonError(f"`{name}` is not JSON")


def _check_shape(data: bytes, text: str, limits: JsonLimits) -> None:
    """Refuse what would cost too much to read; the counts bound it from above, and only near a limit it is measured."""
    if data.count(b",") >= limits.items:
        _check_items(text, limits.items)
    if data.count(b"[") + data.count(b"{") > limits.depth:
        _check_depth(text, limits.depth)


def _check_depth(text: str, limit: int) -> None:
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(text):
        first = text[token.start()]
        if first in "[{":
            depth += 1
            if depth > limit:
                raise JsonError(f"more than {limit} objects and lists are inside each other")
        elif first in "]}":
            depth -= 1


def _check_items(text: str, limit: int) -> None:
    if _STRING.sub("", text).count(",") >= limit:
        raise JsonError(f"the document has more than {limit} members and list items")


def _check_members(value: Json, limits: JsonLimits) -> None:
    keys = 0
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            # At most four bytes a character: most strings need not be encoded to know.
            if len(item) * 4 > limits.string_bytes and len(item.encode("utf-8")) > limits.string_bytes:
                raise JsonError(f"a string has more than {limits.string_bytes} bytes")
        elif isinstance(item, dict):
            keys += len(item)
            if keys > limits.keys:
                raise JsonError(f"the document has more than {limits.keys} members")
            todo.extend(item)
            todo.extend(item.values())
        elif isinstance(item, list):
            todo.extend(item)


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_number, parse_constant=_constant
)
_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, sort_keys=True, separators=(",", ":")
)
