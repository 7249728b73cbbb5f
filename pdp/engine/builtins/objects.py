"""`object.subset`, on objects, sets and arrays."""

from __future__ import annotations

from collections.abc import Sequence

from pdp.engine.builtins import builtin
from pdp.engine.builtins.values import BuiltinError, RegoObject, RegoSet, Value


@builtin("object.subset")
def subset(whole: Value, part: Value) -> Value:
    """Say whether `part` is in `whole`: members of objects at any depth, members of sets, a run in an array."""
    found = _subset(whole, part)
    if found is None and isinstance(whole, tuple) and isinstance(part, RegoSet):
        return _set_in_array(whole, part)
    if found is None:
        raise BuiltinError("operands must be two objects, two sets, two arrays, or an array and a set")
    return found


def _subset(whole: Value, part: Value) -> bool | None:
    if isinstance(whole, RegoObject) and isinstance(part, RegoObject):
        return all(key in whole and _member(whole[key], item) for key, item in part.items())
    if isinstance(whole, RegoSet) and isinstance(part, RegoSet):
        return all(item in whole for item in part)
    if isinstance(whole, tuple) and isinstance(part, tuple):
        return _run(whole, part)
    return None


def _member(whole: Value, part: Value) -> bool:
    return whole == part or bool(_subset(whole, part))


def _set_in_array(whole: Sequence[Value], part: RegoSet) -> bool:
    # OPA counts a member that the array has twice as two members of the set.
    missing = len(part)
    for item in whole:
        missing -= item in part
        if missing == 0:
            return True
    return False


def _run(whole: Sequence[Value], part: Sequence[Value]) -> bool:
    """Find a run of equal members, in linear time (Knuth, Morris and Pratt)."""
    back = [0] * len(part)
    matched = 0
    for at in range(1, len(part)):
        while matched and part[at] != part[matched]:
            matched = back[matched - 1]
        matched += part[at] == part[matched]
        back[at] = matched
    if not part:
        return True
    matched = 0
    for item in whole:
        while matched and item != part[matched]:
            matched = back[matched - 1]
        matched += item == part[matched]
        if matched == len(part):
            return True
    return False
