r"""Regular expressions, by RE2: Go's `regexp` is its sister, and this is what is different between the two.

Rules: matches in a row, empty ones among them, and `$1` and `${name}` in a replacement are Go's; a pattern that Go
refuses is refused; one that Go takes and RE2 does not (`\p{Letter}` and other names that came with Go 1.25) is
refused too, as are patterns of more than 4 KiB, of more than 200 groups, those that take more than 2 MiB, and, where
classes (`\p`) or cases (`(?i)`) of letters matter, the letters that the two know from different editions of Unicode.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator
from typing import Any, Final

import re2

from pdp.engine.builtins import builtin
from pdp.engine.builtins.operands import Meter, integer, text
from pdp.engine.builtins.values import TEXT_BYTES, BuiltinError, Value

_PATTERN_BYTES: Final = 4096
_GROUPS: Final = 200
"""Go counts how deep a pattern is, up to 1,000, and RE2 counts otherwise: this is below both."""
_MEMORY: Final = 2 * 2**20
_KEPT: Final = 64
"""Compiled patterns that are kept: each takes up to `_MEMORY`, what its searches have found out included."""
_INSTRUCTION_FUEL: Final = 200
"""What a pattern costs for each of its instructions, whether it is known or has to be compiled."""
_CLASS: Final = 500
"""How many instructions a class of letters counts for, of which nothing may be left in the end."""
_PIECE_FUEL: Final = 200
"""What each piece of a replacement costs, also an empty one."""
_STEPS: Final = 2**26
"""Bytes that are left to search, times instructions of the pattern, over all searches of a call: 0.5 s at the worst,
when RE2 has to run its slowest machine to the end each time, and some milliseconds usually."""

_PAIRED: Final = frozenset("\u0390\u1fd3\u03b0\u1fe3\ufb05\ufb06")
_ESCAPED: Final = re.compile(r"\\Q.*?(?:\\E|\Z)|\\(?:[pP]\{\^?[^}]*\}|.)", re.DOTALL)
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,8}")
_QUOTED: Final = str.maketrans({character: f"\\{character}" for character in "\\.+*?()|[]{}^$"})


@builtin("regex.split")
def split(pattern: Value, value: Value) -> Value:
    """Give what stands between the matches."""
    compiled, data = _compiled(text(pattern, 1)), text(value, 2).encode()
    if not data and compiled.pattern:
        return ("",)
    parts: list[Value] = []
    begin = end = 0
    for match in _matches(compiled, data):
        end = match.start()
        if match.end():
            parts.append(data[begin:end].decode())
        begin = match.end()
    if end != len(data):
        parts.append(data[begin:].decode())
    return tuple(parts)


@builtin("regex.find_n")
def find_n(pattern: Value, value: Value, limit: Value) -> Value:
    """Give the first `limit` matches, or all when it is negative."""
    data, wanted = text(value, 2).encode(), integer(limit, 3)
    compiled = _compiled(text(pattern, 1))
    return tuple(match.group().decode() for match in _matches(compiled, data, wanted))


@builtin("regex.replace")
def replace(value: Value, pattern: Value, replacement: Value) -> Value:
    """Put `replacement` in the place of each match; `$1`, `${1}` and `${name}` in it stand for groups."""
    data, template = text(value, 1).encode(), text(replacement, 3)
    compiled = _compiled(text(pattern, 2))
    pieces: list[bytes] = []
    begin = size = 0
    parts = _template(template, compiled)
    meter = Meter(TEXT_BYTES, fuel=_PIECE_FUEL)
    for match in _matches(compiled, data):
        meter.spend(len(parts))
        pieces.append(data[begin : match.start()])
        pieces += [part if isinstance(part, bytes) else match.group(part) or b"" for part in parts]
        begin = match.end()
        size += sum(map(len, pieces[-len(parts) - 1 :]))
        if size > TEXT_BYTES:
            raise BuiltinError("its result is too long")
    pieces.append(data[begin:])
    return b"".join(pieces).decode()


@builtin("regex.template_match")
def template_match(template: Value, value: Value, start: Value, end: Value) -> Value:
    """Match a text with patterns between delimiters in it."""
    pattern, data = text(template, 1), text(value, 2).encode()
    opening, closing = text(start, 3), text(end, 4)
    if len(opening.encode()) != 1 or len(closing.encode()) != 1:
        raise BuiltinError("operands 3 and 4 must be one character each")
    pieces, begin = ["^"], 0
    for first, last in _delimited(pattern, opening, closing):
        inner = pattern[first + 1 : last]
        pieces.append(f"{pattern[begin:first].translate(_QUOTED)}({inner})")
        _compiled(f"^{inner}$")
        begin = last + 1
    compiled = _compiled("".join([*pieces, pattern[begin:].translate(_QUOTED), "$"]))
    return any(True for _ in _matches(compiled, data, 1))


def _delimited(pattern: str, opening: str, closing: str) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    level = begin = 0
    for at, character in enumerate(pattern):
        if character == opening:
            level += 1
            begin = at if level == 1 else begin
        elif character == closing:
            level -= 1
            if level == 0:
                found.append((begin, at))
            if level < 0:
                break
    if len(found) > _GROUPS:
        raise BuiltinError("the pattern has more than 200 groups")
    if level:
        raise BuiltinError("operand 1 has delimiters without their other half")
    return found


def _matches(compiled: _Pattern, data: bytes, limit: int = -1) -> Iterator[Any]:
    """Give matches in a row as Go does: no empty one right after another match."""
    if compiled.unicode and not data.isascii():
        _check_letters(data.decode())
    meter = Meter(_STEPS, fuel=1)
    at, before = 0, -1
    while limit and at <= len(data):
        # An expression of few instructions still takes the time of a call.
        meter.spend((len(data) - at + 100) * (compiled.size + 10))
        match = compiled.search(data, at)
        if match is None:
            return
        start, end = match.span()
        if start < len(data) and _is_within(data[start]):
            # `\B` is true between the bytes of a character in RE2, and Go never looks there.
            at = _next(data, start)
            continue
        accepted = end > at or start != before
        at = end if end > at else _next(data, at)
        before = end
        if accepted:
            yield match
            limit -= 1


def _next(data: bytes, at: int) -> int:
    """Give where the next character begins."""
    at += 1
    while at < len(data) and _is_within(data[at]):
        at += 1
    return at


def _is_within(byte: int) -> bool:
    return byte & 0xC0 == 0x80  # noqa: PLR2004 - what only follows in UTF-8


class _Pattern:
    """A compiled pattern with what the searches ask of it."""

    __slots__ = ("groups", "names", "pattern", "search", "size", "unicode")

    def __init__(self, pattern: str) -> None:
        options = re2.Options()
        options.log_errors = False
        options.max_mem = _MEMORY
        try:
            compiled = re2.compile(pattern.encode(), options)
        except re2.error:
            raise BuiltinError("the pattern is not a regular expression, or too large") from None
        self.pattern = pattern
        self.search = compiled.search
        self.groups: int = compiled.groups
        self.names = {name.decode(): number for name, number in compiled.groupindex.items()}
        if not all(map(str.isascii, self.names)):
            raise BuiltinError("the pattern has a group whose name is not of ASCII letters, digits and `_`")
        self.size: int = compiled.programsize
        self.unicode = "\\p" in pattern or "\\P" in pattern or "(?" in pattern


def _compiled(pattern: str) -> _Pattern:
    compiled = _known(pattern)
    classes = pattern.count("\\p") + pattern.count("\\P")
    Meter(TEXT_BYTES, fuel=_INSTRUCTION_FUEL).spend(compiled.size + classes * _CLASS)
    return compiled


@functools.lru_cache(maxsize=_KEPT)
def _known(pattern: str) -> _Pattern:
    if len(pattern.encode()) > _PATTERN_BYTES:
        raise BuiltinError("the pattern is longer than 4096 bytes")
    _check_pattern(pattern)
    return _Pattern(pattern)


def _check_pattern(pattern: str) -> None:
    """Raise `BuiltinError` for what RE2 takes and Go does not, or not as the same."""
    if pattern.count("(") > _GROUPS:
        raise BuiltinError("the pattern has more than 200 groups")
    if "\\C" in pattern and any(found[0] == "\\C" for found in _ESCAPED.finditer(pattern)):
        raise BuiltinError("the pattern has `\\C`, which Go does not know")
    if ("\\p" in pattern or "\\P" in pattern or "(?" in pattern) and not pattern.isascii():
        _check_letters(pattern)


def _check_letters(value: str) -> None:
    # Python's edition of Unicode is older than those of Go and RE2: what it knows is the same in all, but for pairs
    # that got the same case since.
    if any(character in _PAIRED or unicodedata.category(character) == "Cn" for character in value):
        raise BuiltinError("a character is of another edition of Unicode")


def _template(template: str, compiled: _Pattern) -> list[bytes | int]:
    """Take a replacement apart: texts, and numbers of groups."""
    if not template.isascii():
        _check_letters(template)
    before, *others = template.split("$")
    parts: list[bytes | int] = [before.encode()]
    literal = False
    for number, part in enumerate(others):
        if literal:
            # The second sign of `$$`: what follows it is text.
            literal = False
            parts.append(b"$" + part.encode())
            continue
        name, rest = _reference(part)
        literal = not part and number + 1 < len(others)
        if not name:
            parts.append(part.encode() if literal else b"$" + part.encode())
            continue
        if (group := _group(name, compiled)) is not None:
            parts.append(group)
        parts.append(rest.encode())
    return parts


def _reference(part: str) -> tuple[str, str]:
    """Give the name that a text after a `$` begins with, "" if there is none, and what comes after it."""
    start = int(part.startswith("{"))
    end = start
    while end < len(part) and (part[end] == "_" or part[end].isalpha() or part[end].isdecimal()):
        end += 1
    if start and part[end : end + 1] != "}":
        return "", part
    return part[start:end], part[end + start :]


def _group(name: str, compiled: _Pattern) -> int | None:
    if _NUMBER.fullmatch(name):
        return int(name) if int(name) <= compiled.groups else None
    return compiled.names.get(name)
