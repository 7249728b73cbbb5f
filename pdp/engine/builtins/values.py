"""Rego's values, as the built-ins of the host take and give them.

Rules: a value is immutable; a number keeps its text, compares by its exact value, and is never equal to a boolean;
order, text and quoting are those of OPA (v1/ast/compare.go, term.go; Go's strconv.Quote), to the byte. What is read
here was written by a policy: its depth and the length of its numbers are bounded.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final, TypeAlias, Union

from pdp.engine.builtins.go_quote import quote

TEXT_BYTES: Final = 2**20
"""The longest text that a built-in takes or gives; the module's whole memory is 64 times that."""
NUMBER_DIGITS: Final = 10_000
"""The longest number that is read; arithmetic on it is quadratic."""
DEPTH: Final = 200
"""The deepest value that is read or written; documents are 32 deep at most."""

_INT64: Final = range(-(2**63), 2**63)
_SMALL: Final = 2**60
_INTEGER: Final = re.compile(r"-?[0-9]+")
_NUMBER: Final = re.compile(r"-?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]*)?")
_INT64_TEXT: Final = re.compile(r"(-?[0-9]+)(?:\.0*)?")
_scan_string: Final = json.decoder.scanstring  # type: ignore[attr-defined] # typeshed leaves it out
_SPACE: Final = re.compile(r"[ \t\r\n]*")


class BuiltinError(Exception):
    """A built-in has no result. The text says why, without values."""


class Undefined:
    """The type of `UNDEFINED`."""

    def __repr__(self) -> str:
        return "UNDEFINED"


UNDEFINED: Final = Undefined()
"""The result of a built-in that OPA leaves undefined without an error."""


class Number:
    """A number by its JSON text."""

    __slots__ = ("_exact", "_hash", "text")

    def __init__(self, text: str) -> None:
        self.text: Final = text
        self._exact: int | Decimal | None = None
        self._hash: int | None = None

    @classmethod
    def of(cls, value: int) -> Number:
        """Give an integer."""
        number = cls(str(value))
        number._exact = value
        return number

    @property
    def exact(self) -> int | Decimal:
        """The exact value. Raises `BuiltinError` where there is none that could be computed with."""
        if self._exact is None:
            if len(self.text) > NUMBER_DIGITS:
                raise BuiltinError("a number is too long")
            try:
                self._exact = self._parse()
            except (InvalidOperation, ValueError):
                raise BuiltinError("a number is out of range") from None
        return self._exact

    def _parse(self) -> int | Decimal:
        if not _INTEGER.fullmatch(self.text):
            return Decimal(self.text)
        # Python's limit on the digits of `int` is there for hostile text; this text is bounded above.
        return int(self.text) if len(self.text) < 4000 else int(Decimal(self.text))  # noqa: PLR2004

    def int64(self) -> int | None:
        """Give the value where OPA takes this text for an int64: `1` and `1.0` are, `1e3` is not."""
        matched = _INT64_TEXT.fullmatch(self.text)
        if matched is None or len(self.text) - self.text.startswith("-") > 19:  # noqa: PLR2004 - as `util.Atoi64`
            return None
        value = int(matched[1])
        return value if value in _INT64 else None

    def float64(self) -> float | None:
        """Give the nearest double, as Go parses it; `None` if that is out of range."""
        value = float(self.text)
        return value if math.isfinite(value) else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Number) and (self.text == other.text or self.exact == other.exact)

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = self._hashed()
        return self._hash

    def _hashed(self) -> int:
        # Python's hash of a number is its remainder by 2^61 - 1: a set of the multiples would take quadratic time.
        # Texts have a hash that nobody foresees; small integers have one each.
        exact = self.exact
        if isinstance(exact, Decimal) and -_SMALL < exact < _SMALL and exact == exact.to_integral_value():
            exact = int(exact)
        if isinstance(exact, int) and -_SMALL < exact < _SMALL:
            return hash(exact)
        sign, digits, exponent = Decimal(self.text).as_tuple()
        text = "".join(map(str, digits))
        kept = text.rstrip("0")
        return hash((sign, kept, int(exponent) + len(text) - len(kept)))

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Number({self.text})"


class RegoSet:
    """An immutable set, iterated in OPA's order."""

    __slots__ = ("_items", "_sorted")

    def __init__(self, items: Iterable[Value] = ()) -> None:
        # The first of equal members stays, as in OPA: {1, 1.0} is {1}.
        self._items: Final = dict.fromkeys(items)
        self._sorted: tuple[Value, ...] | None = None

    def __iter__(self) -> Iterator[Value]:
        if self._sorted is None:
            self._sorted = tuple(sorted(self._items, key=order))
        return iter(self._sorted)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RegoSet) and self._items.keys() == other._items.keys()

    def __hash__(self) -> int:
        return hash(frozenset(self._items))

    def __repr__(self) -> str:
        return to_text(self)


class RegoObject(Mapping["Value", "Value"]):
    """An immutable mapping whose keys are any values, iterated in OPA's order."""

    __slots__ = ("_items", "_sorted")

    def __init__(self, items: Mapping[Value, Value] | Iterable[tuple[Value, Value]] = ()) -> None:
        self._items: Final = dict(items)
        self._sorted: tuple[Value, ...] | None = None

    def __getitem__(self, key: Value) -> Value:
        return self._items[key]

    def __iter__(self) -> Iterator[Value]:
        if self._sorted is None:
            self._sorted = tuple(sorted(self._items, key=order))
        return iter(self._sorted)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RegoObject) and self._items == other._items

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return to_text(self)


# `Value` is recursive, and `|` of a string is not evaluated on 3.11.
Value: TypeAlias = Union[bool, Number, str, tuple["Value", ...], RegoSet, RegoObject, None]  # noqa: UP007


_RANKS: Final[Mapping[type, int]] = {
    type(None): 0, bool: 1, Number: 2, str: 3, tuple: 4, RegoObject: 5, RegoSet: 6,
}  # fmt: skip
_WORDS: Final[Mapping[bool | None, str]] = {None: "null", True: "true", False: "false"}
_NAMES: Final = ("null", "boolean", "number", "string", "array", "object", "set")


def order(value: Value) -> tuple[Any, ...]:
    """Give a key that sorts as OPA does: null, booleans, numbers, strings, arrays, objects, sets."""
    # Go compares strings by their UTF-8 bytes, which is the order of code points, which is Python's.
    rank = _RANKS[type(value)]
    if isinstance(value, Number):
        return (rank, value.exact)
    if isinstance(value, RegoObject):
        return (rank, tuple((order(key), order(value[key])) for key in value))
    if isinstance(value, tuple | RegoSet):
        return (rank, tuple(map(order, value)))
    return (rank,) if value is None else (rank, value)


def compare(a: Value, b: Value) -> int:
    """Give -1, 0 or 1 by OPA's total order."""
    first, second = order(a), order(b)
    return (first > second) - (first < second)


def type_name(value: Value) -> str:
    """Give Rego's name of the type."""
    return _NAMES[_RANKS[type(value)]]


def to_text(value: Value) -> str:
    """Write a value as OPA's `String()` does, which is what `sprintf("%v")` shows of a composite one."""
    return _write(value, quote, ", ", 0)


def dump_value(value: Value) -> bytes:
    """Write what the module's `opa_value_parse` reads."""
    try:
        return _write(value, _json_string, ",", 0).encode("utf-8")
    except UnicodeEncodeError:
        raise BuiltinError("a text is not Unicode") from None


def is_larger(value: Value, most: int) -> bool:
    """Say whether a value has more than so many members, at all depths; ends as soon as it knows."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, tuple | RegoSet | RegoObject):
            most -= len(item)
            if most < 0:
                return True
            waiting += item.values() if isinstance(item, RegoObject) else item
            waiting += item if isinstance(item, RegoObject) else ()
    return False


def parse_value(data: bytes) -> Value:
    """Read what the module's `opa_value_dump` writes: JSON with sets, and with keys of any type."""
    try:
        return _Reader(data.decode("utf-8")).whole()
    except (ValueError, IndexError):
        raise BuiltinError("a value cannot be read") from None


def _write(value: Value, string: Callable[[str], str], comma: str, depth: int) -> str:
    if isinstance(value, str):
        return string(value)
    if isinstance(value, Number):
        return value.text
    if value is None or isinstance(value, bool):
        return _WORDS[value]
    if depth > DEPTH:
        raise BuiltinError("a value is too deep")
    if isinstance(value, RegoObject):
        return "{" + comma.join([_pair(key, value[key], string, comma, depth + 1) for key in value]) + "}"
    items = comma.join([_write(item, string, comma, depth + 1) for item in value])
    start, end = "[]" if isinstance(value, tuple) else "{}" if value else ("set(", ")")
    return start + items + end


def _pair(key: Value, value: Value, string: Callable[[str], str], comma: str, depth: int) -> str:
    return f"{_write(key, string, comma, depth)}: {_write(value, string, comma, depth)}"


def _json_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


class _Reader:
    """A recursive descent over one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def whole(self) -> Value:
        value = self._value()
        if self._peek():
            raise ValueError("more than one value")
        return value

    def _peek(self) -> str:
        matched = _SPACE.match(self._text, self._at)
        self._at = matched.end() if matched else self._at
        return self._text[self._at : self._at + 1]

    def _take(self, word: str) -> bool:
        self._peek()
        found = self._text.startswith(word, self._at)
        self._at += len(word) if found else 0
        return found

    def _need(self, word: str) -> None:
        if not self._take(word):
            raise ValueError("another sign was expected")

    def _value(self) -> Value:
        start = self._peek()
        if start == '"':
            text, self._at = _scan_string(self._text, self._at + 1)
            return str(text)
        if start in "[{" and start:
            self._depth += 1
            if self._depth > DEPTH:
                raise BuiltinError("a value is too deep")
            self._at += 1
            value: Value = self._array() if start == "[" else self._braces()
            self._depth -= 1
            return value
        if matched := _NUMBER.match(self._text, self._at):
            self._at = matched.end()
            if len(matched[0]) > NUMBER_DIGITS:
                raise BuiltinError("a number is too long")
            return Number(matched[0])
        if self._take("set("):
            self._need(")")
            return RegoSet()
        for meant, word in _WORDS.items():
            if self._take(word):
                return meant
        raise ValueError("no value")

    def _array(self) -> tuple[Value, ...]:
        items: list[Value] = []
        if self._take("]"):
            return ()
        while True:
            items.append(self._value())
            if self._take("]"):
                return tuple(items)
            self._need(",")

    def _braces(self) -> RegoObject | RegoSet:
        if self._take("}"):
            return RegoObject()
        first = self._value()
        if not self._take(":"):
            return self._set(first)
        pairs = [(first, self._value())]
        while not self._take("}"):
            self._need(",")
            key = self._value()
            self._need(":")
            pairs.append((key, self._value()))
        return RegoObject(pairs)

    def _set(self, first: Value) -> RegoSet:
        items = [first]
        while not self._take("}"):
            self._need(",")
            items.append(self._value())
        return RegoSet(items)
