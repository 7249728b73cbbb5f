"""`numbers.range_step`; all other arithmetic is in the module."""

from __future__ import annotations

from pdp.engine.builtins import builtin
from pdp.engine.builtins.values import TEXT_BYTES, BuiltinError, Number, Value


@builtin("numbers.range_step")
def _range_step(first: Value, last: Value, step: Value) -> Value:
    """Count from one number to the other, both included, up or down."""
    start, stop, by = (_whole(value, position) for position, value in enumerate((first, last, step), start=1))
    if by <= 0:
        raise BuiltinError("the step must be a positive integer")
    count = abs(stop - start) // by + 1
    if count * (2 + max(len(str(start)), len(str(stop)))) > TEXT_BYTES:
        raise BuiltinError("it would give too many numbers")
    direction = by if start <= stop else -by
    return tuple(Number.of(start + direction * n) for n in range(count))


def _whole(value: Value, position: int) -> int:
    if not isinstance(value, Number):
        raise BuiltinError(f"operand {position} must be an integer")
    exact = value.exact
    if isinstance(exact, int):
        return exact
    # Bounded before it is made an integer, of which `1e1000000` would be a long one.
    if exact and exact.adjusted() > 1000:  # noqa: PLR2004 - far more digits than anyone counts to
        raise BuiltinError(f"operand {position} is too large")
    if exact != exact.to_integral_value():
        raise BuiltinError(f"operand {position} must be an integer")
    return int(exact)
