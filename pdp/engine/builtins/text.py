"""`sprintf`, on operands as OPA hands them to Go's fmt (v1/topdown/strings.go)."""

from __future__ import annotations

from pdp.engine.builtins import builtin
from pdp.engine.builtins.go_format import Operand, sprintf
from pdp.engine.builtins.values import BuiltinError, Number, Value, to_text


@builtin("sprintf")
def _sprintf(layout: Value, operands: Value) -> Value:
    """Write the members of an array by a layout."""
    if not isinstance(layout, str):
        raise BuiltinError("operand 1 must be a string")
    if not isinstance(operands, tuple):
        raise BuiltinError("operand 2 must be an array")
    return sprintf(layout, [_operand(operand) for operand in operands])


def _operand(value: Value) -> Operand:
    if isinstance(value, str):
        return value
    if not isinstance(value, Number):
        return to_text(value)
    if not value.text.lstrip("-").isdigit():
        # A number that no double comes near is handed over as its text.
        nearest = value.float64()
        return value.text if nearest is None else nearest
    return int(value.exact)
