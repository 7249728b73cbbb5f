"""`glob.quote_meta`, and `regex.globs_match` as `yashtewari/glob-intersection` has it, with what is odd about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from pdp.engine.builtins import builtin
from pdp.engine.builtins.operands import STEP_FUEL, Meter, text
from pdp.engine.builtins.values import BuiltinError, Value

_SPECIAL: Final = str.maketrans({character: f"\\{character}" for character in "*?\\[]{}"})
_STEPS: Final = 100_000
"""Pairs of tokens that are compared at most; their number is exponential in the flags."""
_FLAGS: Final = 100
"""Flags in both globs together: each nests a call."""
_TOKENS: Final = 4096
_RANGES: Final = 64
_NONE: Final = (1, 0)
"""A range with nothing in it."""

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""First and last code points, in order, with room between them."""


@dataclass(frozen=True, slots=True)
class _Token:
    """What one place of a glob matches, and how often: once (""), `+` or `*`."""

    characters: Ranges | None
    """`None` matches any."""
    flag: str = ""
    is_set: bool = False

    def matches(self, other: _Token) -> bool:
        if self.characters is None or other.characters is None:
            return True
        # Both are in order: whichever ends first meets nothing that comes later in the other.
        one, another = iter(self.characters), iter(other.characters)
        a, b = next(one, _NONE)
        c, d = next(another, _NONE)
        while b >= a and d >= c:
            if a <= d and c <= b:
                return True
            if b < d:
                a, b = next(one, _NONE)
            else:
                c, d = next(another, _NONE)
        return False

    def same(self, other: _Token) -> bool:
        return self.characters == other.characters and self.is_set == other.is_set


@builtin("glob.quote_meta")
def quote_meta(pattern: Value) -> Value:
    """Put a backslash before each sign that means something in a glob."""
    return text(pattern, 1).translate(_SPECIAL)


@builtin("regex.globs_match")
def globs_match(first: Value, second: Value) -> Value:
    """Say whether some string is matched by both.

    Refused: more than 100 flags in both, 4,096 tokens in one or 64 ranges in a set, 100,000 comparisons.
    """
    globs = _simplified(_tokens(text(first, 1))), _simplified(_tokens(text(second, 2)))
    if sum(token.flag != "" for glob in globs for token in glob) > _FLAGS:
        raise BuiltinError("the globs have more than 100 flags")
    trimmed = _trimmed(*globs)
    return trimmed is not None and _Search(*trimmed).normal(*trimmed)


class _Search:
    """The comparison of two globs, by what stands at their heads."""

    def __init__(self, one: Sequence[_Token], other: Sequence[_Token]) -> None:
        ranges = max((len(token.characters or ()) for token in (*one, *other)), default=0)
        self._meter = Meter(_STEPS, fuel=STEP_FUEL * (1 + ranges // 8))

    def normal(self, one: Sequence[_Token], other: Sequence[_Token]) -> bool:
        for at, (a, b) in enumerate(zip(one, other, strict=False)):
            self._meter.spend()
            if a.flag or b.flag:
                return self._special(one[at:], other[at:])
            if not a.matches(b):
                return False
        return len(one) == len(other)

    def _special(self, one: Sequence[_Token], other: Sequence[_Token]) -> bool:
        if not one[0].flag:
            one, other = other, one
        return self._plus(one, other) if one[0].flag == "+" else self._star(one, other)

    def _plus(self, one: Sequence[_Token], other: Sequence[_Token]) -> bool:
        if not one[0].matches(other[0]):
            return False
        return self._star(one, other[1:]) or (other[0].flag != "" and self.normal(one[1:], other))

    def _star(self, one: Sequence[_Token], other: Sequence[_Token]) -> bool:
        starred, following = one[0], one[1] if len(one) > 1 else None
        self._meter.spend(len(other))
        for at, token in enumerate(other):
            if following is not None and token.matches(following) and self.normal(one[1:], other[at:]):
                return True
            if not token.matches(starred):
                return False
        return following is None


def _trimmed(one: list[_Token], other: list[_Token]) -> tuple[list[_Token], list[_Token]] | None:
    """Take off what matches at both ends without a flag, but one token; `None` if something does not match."""
    start = 0
    while start < min(len(one), len(other)) and not (one[start].flag or other[start].flag):
        if not one[start].matches(other[start]):
            return None
        start += 1
    start = max(0, start - 1)
    end, other_end = len(one), len(other)
    while min(end, other_end) > start and not (one[end - 1].flag or other[other_end - 1].flag):
        if not one[end - 1].matches(other[other_end - 1]):
            return None
        end, other_end = end - 1, other_end - 1
    kept = end < len(one)
    return one[start : end + kept], other[start : other_end + kept]


def _simplified(tokens: list[_Token]) -> list[_Token]:
    """Make one of equal neighbours with flags."""
    simple = tokens[:1]
    for token in tokens[1:]:
        last = simple[-1]
        if token.flag and last.flag and token.same(last):
            simple[-1] = replace(last, flag="+" if "+" in {token.flag, last.flag} else "*")
        else:
            simple.append(token)
    return simple


def _tokens(glob: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while at < len(glob):
        character, escaped, at = _next(glob, at)
        if escaped or character not in ".[]+*":
            token = _Token(((ord(character), ord(character)),))
        elif character == ".":
            token = _Token(None)
        elif character == "[":
            characters, at = _set(glob, at)
            token = _Token(characters, is_set=True)
        else:
            raise _invalid()
        if glob[at : at + 1] in {"+", "*"}:
            token, at = replace(token, flag=glob[at]), at + 1
        found.append(token)
        if len(found) > _TOKENS:
            raise BuiltinError("a glob is too long")
    if glob.endswith("\\") and (len(glob) - len(glob.rstrip("\\"))) % 2:
        raise _invalid()
    return found


def _set(glob: str, at: int) -> tuple[Ranges, int]:
    ranges: list[tuple[int, int]] = []
    before = ""
    while at < len(glob):
        character, escaped, at = _next(glob, at)
        if not escaped and character == "]":
            return _merged(ranges), at
        if escaped or character != "-":
            before = character
            ranges.append((ord(character), ord(character)))
            continue
        if not before or at >= len(glob) - 1:
            raise _invalid()
        last, escaped, at = _next(glob, at)
        if (not escaped and last in "]-") or last < before:
            raise _invalid()
        ranges.append((ord(before), ord(last)))
        before = ""
    raise _invalid()


def _merged(ranges: list[tuple[int, int]]) -> Ranges:
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    if len(found) > _RANGES:
        raise BuiltinError("a glob has a set that is too long")
    return tuple(found)


def _next(glob: str, at: int) -> tuple[str, bool, int]:
    """Give a character, whether a backslash stood before it, and where the next one is."""
    if glob[at] != "\\":
        return glob[at], False, at + 1
    if at + 1 == len(glob):
        raise _invalid()
    return glob[at + 1], True, at + 2


def _invalid() -> BuiltinError:
    return BuiltinError("an operand must be a glob of characters, `.`, `[...]`, `+` and `*`")
