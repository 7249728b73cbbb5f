"""What built-ins ask of their operands, as OPA asks it (v1/topdown/builtins), and the budget of those that can blow up.

An error here names the position and the wanted type, never the value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from pdp.engine.builtins.values import BuiltinError, Number, RegoObject, RegoSet, Value

_INT64: Final = 2**63
_INT64_DIGITS: Final = 19


STEP_FUEL: Final = 1000
"""What a step costs: half a microsecond of host code, at the rate of `instance.CALL_FUEL`."""
_UNPAID: Final = 200_000
"""Fuel that a call runs up before it is paid: to ask for the fuel that is left takes as long as some steps."""

_payer: ContextVar[Callable[[int], None] | None] = ContextVar("_payer", default=None)


@contextmanager
def paid_by(pay: Callable[[int], None]) -> Iterator[None]:
    """Let `pay` take the fuel for what built-ins do beyond the bytes they get and give; it may raise."""
    token = _payer.set(pay)
    try:
        yield
    finally:
        _payer.reset(token)


class Meter:
    """Steps that one call may still take: a call that could run away counts them, pays for them, and ends."""

    def __init__(self, steps: int, *, fuel: int = STEP_FUEL) -> None:
        self._left = steps
        self._fuel = fuel
        self._owed = 0

    def spend(self, steps: int = 1) -> None:
        """Take `steps` off. Raises `BuiltinError` when there are none left."""
        self._left -= steps
        if self._left < 0:
            raise BuiltinError("it would take too much work: give it less to do")
        self._owed += steps * self._fuel
        if self._owed >= _UNPAID:
            owed, self._owed = self._owed, 0
            if (pay := _payer.get()) is not None:
                pay(owed)


def text(value: Value, position: int) -> str:
    """Give a string operand."""
    if isinstance(value, str):
        return value
    raise BuiltinError(f"operand {position} must be a string")


def integer(value: Value, position: int) -> int:
    """Give a number operand that OPA can index with."""
    if not isinstance(value, Number):
        raise BuiltinError(f"operand {position} must be a number")
    number = atoi(str(value))
    if number is None:
        raise BuiltinError(f"operand {position} must be an integer of 64 bits")
    return number


def members(value: Value, position: int) -> tuple[Value, ...]:
    """Give the members of an array or a set, in OPA's order."""
    if isinstance(value, tuple):
        return value
    if isinstance(value, RegoSet):
        return tuple(value)
    raise BuiltinError(f"operand {position} must be an array or a set")


def mapping(value: Value, position: int) -> RegoObject:
    """Give an object operand."""
    if isinstance(value, RegoObject):
        return value
    raise BuiltinError(f"operand {position} must be an object")


def atoi(digits: str) -> int | None:
    """Read an integer as OPA's `util.Atoi64` does, or `None`: zeros may follow a point, and 64 bits wrap around."""
    negative = digits.startswith("-")
    if digits[:1] in {"-", "+"}:
        digits = digits[1:]
    whole, point, zeros = digits.partition(".")
    if not 0 < len(digits) <= _INT64_DIGITS or (point and zeros.strip("0")):
        return None
    if whole and not (whole.isascii() and whole.isdigit()):
        return None
    number = _wrapped(int(whole or "0"))
    if not negative:
        return number if number >= 0 else None
    number = _wrapped(-number)
    return number if number <= 0 else None


def utf8(data: bytes) -> str:
    """Give bytes as a text. OPA can hold any bytes in a string; JSON, and so this, cannot."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BuiltinError("its result is not UTF-8") from None


def _wrapped(number: int) -> int:
    return (number + _INT64) % (2 * _INT64) - _INT64
