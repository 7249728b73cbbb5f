"""Encodings that the module leaves to the host: hexadecimal, base64url without padding, URL queries, JSON with options.

OPA can hold bytes that are not UTF-8 in a string; JSON cannot: decoding to such bytes is refused here.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from pdp.engine.builtins import builtin
from pdp.engine.builtins.operands import Meter, mapping, text, utf8
from pdp.engine.builtins.values import TEXT_BYTES, BuiltinError, Number, RegoObject, RegoSet, Value

_PARAMETERS: Final = 10_000
"""Go's own limit to the parameters of a query."""
_ESCAPE: Final = re.compile(rb"%(?:([0-9a-fA-F]{2})|)")
_PLAIN: Final = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-._~")
_QUERY: Final = ["+" if byte == ord(" ") else chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in range(256)]
_JSON_ESCAPES: Final = {
    **{code: f"\\u{code:04x}" for code in (*range(0x20), *b"<>&", 0x2028, 0x2029)},
    **{ord(character): f"\\{letter}" for character, letter in zip('"\\\b\f\n\r\t', '"\\bfnrt', strict=True)},
}


@builtin("hex.encode")
def hex_encode(value: Value) -> Value:
    """Give the UTF-8 of a string in hexadecimal."""
    return text(value, 1).encode().hex()


@builtin("hex.decode")
def hex_decode(value: Value) -> Value:
    """Give back what hexadecimal digits stand for. Refused: bytes that are not UTF-8."""
    try:
        return utf8(binascii.unhexlify(text(value, 1).encode()))
    except binascii.Error:
        raise BuiltinError("operand 1 must be pairs of hexadecimal digits") from None


@builtin("base64url.encode_no_pad")
def base64url_encode_no_pad(value: Value) -> Value:
    """Give the UTF-8 of a string in base64url, without `=` at the end."""
    return base64.urlsafe_b64encode(text(value, 1).encode()).rstrip(b"=").decode()


@builtin("urlquery.encode")
def urlquery_encode(value: Value) -> Value:
    """Escape a string for the query of a URL."""
    return escape_query(text(value, 1))


@builtin("urlquery.decode")
def urlquery_decode(value: Value) -> Value:
    """Take escapes out of a part of a query. Refused: bytes that are not UTF-8."""
    return utf8(_unescape_query(text(value, 1)))


@builtin("urlquery.encode_object")
def urlquery_encode_object(value: Value) -> Value:
    """Make a query of an object: each value is a string, or an array or set of strings."""
    pairs: dict[str, list[str]] = {}
    for key, item in mapping(value, 1).items():
        items = (item,) if isinstance(item, str) else item
        if not isinstance(items, tuple | RegoSet):
            raise BuiltinError("operand 1 must have values that are strings, or arrays or sets of strings")
        pairs[_key(key)] = [text(part, 1) for part in items]
    pieces: list[str] = []
    left = TEXT_BYTES
    for key in sorted(pairs):
        name = escape_query(key)
        for item in pairs[key]:
            pieces.append(f"{name}={escape_query(item)}")
            left -= len(pieces[-1])
            if left < 0:
                raise BuiltinError("its result is too long")
    return "&".join(pieces)


@builtin("urlquery.decode_object")
def urlquery_decode_object(value: Value) -> Value:
    """Give the parameters of a query, each with the array of its values. Refused: bytes that are not UTF-8."""
    parts = text(value, 1).split("&")
    if len(parts) > _PARAMETERS:
        raise BuiltinError("operand 1 must not hold more than 10000 parameters")
    found: dict[Value, list[Value]] = {}
    for part in filter(None, parts):
        if ";" in part:
            raise BuiltinError("operand 1 must not hold a semicolon that is not escaped")
        key, _, item = part.partition("=")
        decoded = _unescape_query(key), _unescape_query(item)
        found.setdefault(utf8(decoded[0]), []).append(utf8(decoded[1]))
    return RegoObject({key: tuple(items) for key, items in found.items()})


@builtin("json.marshal_with_options")
def json_marshal_with_options(value: Value, options: Value) -> Value:
    """Give a value as JSON, as Go writes it: `pretty`, `indent` (a tab) and `prefix` of each line."""
    pretty: bool | None = None
    layout = {"prefix": "", "indent": "\t"}
    given = mapping(options, 2)
    for key, option in given.items():
        if key == "pretty" and isinstance(option, bool):
            pretty = option
        elif isinstance(key, str) and key in layout and isinstance(option, str):
            layout[key] = option
        else:
            raise BuiltinError("operand 2 has an option that is not known, or not of its type")
    # Either of the others asks for lines, unless `pretty` says no.
    lines = bool(given) if pretty is None else pretty
    writer = _Writer(layout["prefix"], layout["indent"] if lines else None)
    writer.write(value, 1)
    return (layout["prefix"] if lines else "") + "".join(writer.pieces)


class _Writer:
    """Go's `json.Marshal` and `json.MarshalIndent`, with a limit to what they make."""

    def __init__(self, prefix: str, indent: str | None) -> None:
        self.pieces: list[str] = []
        self._prefix = prefix
        self._indent = indent
        self._meter = Meter(TEXT_BYTES)

    def write(self, value: Value, depth: int) -> None:
        if isinstance(value, RegoObject):
            members = {_key(key): item for key, item in value.items()}
            self._items("{}", [(f"{_quoted(key)}:", members[key]) for key in sorted(members)], depth)
        elif isinstance(value, tuple | RegoSet):
            self._items("[]", [("", item) for item in value], depth)
        else:
            self._put(_scalar(value))

    def _items(self, brackets: str, items: list[tuple[str, Value]], depth: int) -> None:
        self._put(brackets[0])
        for number, (key, item) in enumerate(items):
            self._put("," if number else "")
            self._line(depth)
            self._put(key + (" " if key and self._indent is not None else ""))
            self.write(item, depth + 1)
        if items:
            self._line(depth - 1)
        self._put(brackets[1])

    def _line(self, depth: int) -> None:
        if self._indent is not None:
            self._meter.spend(len(self._indent) * depth)
            self._put("\n" + self._prefix + self._indent * depth)

    def _put(self, piece: str) -> None:
        self._meter.spend(len(piece))
        self.pieces.append(piece)


def escape_query(value: str) -> str:
    """Escape all but letters, digits and `-._~`, a space as `+`."""
    return "".join([_QUERY[byte] for byte in value.encode()])


def _unescape_query(value: str) -> bytes:
    def plain(escape: re.Match[bytes]) -> bytes:
        if escape[1] is None:
            raise BuiltinError("operand 1 has a `%` without two hexadecimal digits")
        return bytes.fromhex(escape[1].decode())

    return _ESCAPE.sub(plain, value.encode().replace(b"+", b" "))


def _key(key: Value) -> str:
    """Give a key as a member's name in JSON: what is not a string becomes its JSON."""
    if isinstance(key, str):
        return key
    writer = _Writer("", None)
    writer.write(key, 1)
    return "".join(writer.pieces)


def _scalar(value: Value) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if value is None:
        return "null"
    return str(value) if isinstance(value, Number) else "true" if value else "false"


def _quoted(value: str) -> str:
    return f'"{value.translate(_JSON_ESCAPES)}"'
