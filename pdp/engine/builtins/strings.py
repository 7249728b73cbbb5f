"""Built-ins on strings that the module leaves to the host."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from pdp.engine.builtins import builtin
from pdp.engine.builtins.operands import Meter, integer, members, text
from pdp.engine.builtins.values import TEXT_BYTES, BuiltinError, Number, Value

_COMPARED: Final = 2**25
"""Characters that `indexof_n` compares at most: a few milliseconds."""


@builtin("strings.any_prefix_match")
def any_prefix_match(search: Value, base: Value) -> Value:
    """Say whether a string in `search` starts with one in `base`; either is a string, an array or a set."""
    return _any_prefix(_texts(search, 1), _texts(base, 2))


@builtin("strings.any_suffix_match")
def any_suffix_match(search: Value, base: Value) -> Value:
    """Say whether a string in `search` ends with one in `base`; either is a string, an array or a set."""
    return _any_prefix([item[::-1] for item in _texts(search, 1)], [item[::-1] for item in _texts(base, 2)])


@builtin("strings.count")
def count(search: Value, substring: Value) -> Value:
    """Count what does not overlap; an empty substring is found before each character and at the end."""
    return Number(str(text(search, 1).count(text(substring, 2))))


@builtin("strings.split_n")
def split_n(value: Value, delimiter: Value, limit: Value) -> Value:
    """Give the first `limit` parts, or the last ones when it is negative."""
    whole, mark, parts_wanted = text(value, 1), text(delimiter, 2), integer(limit, 3)
    parts = whole.split(mark, max(-1, min(parts_wanted, len(whole)))) if mark else list(whole)
    if parts_wanted >= 0:
        return tuple(parts[:parts_wanted])
    return tuple(parts[max(len(parts) + parts_wanted, 0) :])


@builtin("indexof_n")
def indexof_n(base: Value, search: Value) -> Value:
    """Give the position of each occurrence, also those that overlap.

    Refused, where OPA goes on: more than 2^25 characters to compare, occurrences times the length of `search`.
    """
    whole, wanted = text(base, 1), text(search, 2)
    if not wanted:
        raise BuiltinError("operand 2 must not be empty")
    found: list[Value] = []
    meter = Meter(TEXT_BYTES)
    at = whole.find(wanted)
    while at >= 0:
        meter.spend()
        found.append(Number(str(at)))
        if len(found) * len(wanted) > _COMPARED:
            raise BuiltinError("it would take too much work: give it less to do")
        at = whole.find(wanted, at + 1)
    return tuple(found)


def _texts(value: Value, position: int) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [text(item, position) for item in members(value, position)]


def _any_prefix(values: list[str], prefixes: list[str]) -> bool:
    # In order, whatever starts with a prefix comes right after it: one look for each prefix is enough.
    values.sort()
    for prefix in prefixes:
        at = bisect_left(values, prefix)
        if at < len(values) and values[at].startswith(prefix):
            return True
    return False
