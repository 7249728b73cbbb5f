"""Amounts with units as OPA reads them: by fractions in `units.parse`, by floats of 64 bits in `units.parse_bytes`.

Both refuse an amount that is written with, or comes to, more than 4,000 digits; OPA goes on to a million.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from pdp.engine.builtins import builtin
from pdp.engine.builtins.operands import text
from pdp.engine.builtins.values import BuiltinError, Number, Value

_DIGITS: Final = 4000
_PRECISION: Final = 64
_TABLED: Final = 27
"""The largest power of five that Go does not compute."""
_LONG_EXPONENT: Final = re.compile("[0-9]{7}")
_AMOUNT: Final = re.compile(r"([+-]?)(?:([0-9]+)\.?([0-9]*)|\.([0-9]+))(?:[eE]([+-]?[0-9]+))?")

_SI: Final = {letter: 1000**power for power, letter in enumerate("kmgtpe", start=1)}
_BINARY: Final = {f"{letter}i": 1024**power for power, letter in enumerate("kmgtpe", start=1)}
_BYTES: Final = {
    "": 1,
    **_SI,
    **_BINARY,
    **{f"{unit}b": factor for unit, factor in (_SI | _BINARY).items()},
}
_UNITS: Final[dict[str, Fraction]] = {
    # Go's number for a thousandth is the float, and all of its digits count.
    "m": Fraction(0.001),
    "": Fraction(1),
    **{unit: Fraction(factor) for unit, factor in (_SI | _BINARY).items() if unit != "m"},
    **{unit.capitalize(): Fraction(factor) for unit, factor in (_SI | _BINARY).items()},
}
_LOWER: Final = str.maketrans({"\u0130": "i", "\u212a": "k"})
"""What becomes an ASCII letter in Go's lower case, one rune at a time, and not in Python's."""


@builtin("units.parse")
def parse(value: Value) -> Value:
    """Give an amount such as `10K`, `1.5Gi` or `200m` as a number."""
    amount, unit = _split(text(value, 1).replace('"', ""))
    factor = _UNITS.get(unit[:1] + _lower(unit[1:]))
    if factor is None:
        raise BuiltinError("the unit is not known")
    mantissa, exponent = _read(amount)
    total = Fraction(mantissa) * Fraction(10) ** exponent * factor
    if total.denominator == 1:
        return Number(str(total.numerator))
    # Ten places, a half away from zero.
    scaled = abs(total) * 10**10
    whole = (2 * scaled.numerator + scaled.denominator) // (2 * scaled.denominator)
    return Number(f"{'-' if total < 0 else ''}{whole // 10**10}.{whole % 10**10:010d}")


@builtin("units.parse_bytes")
def parse_bytes(value: Value) -> Value:
    """Give an amount of bytes such as `10KB` or `1.5GiB` as an integer, cut off toward zero."""
    amount, unit = _split(_lower(text(value, 1)).replace('"', ""))
    factor = _BYTES.get(unit)
    if factor is None:
        raise BuiltinError("the unit is not known")
    mantissa, exponent = _read(amount)
    total = _rounded(_parsed(mantissa, exponent) * factor, _PRECISION)
    whole = abs(total.numerator) // total.denominator
    return Number(str(-whole if total < 0 else whole))


def _split(whole: str) -> tuple[str, str]:
    """Part an amount from its unit where OPA does: at the first byte that cannot be of a number."""
    if " " in whole:
        raise BuiltinError("operand 1 must not hold spaces")
    at, end = 0, len(whole)
    while at < end:
        character = whole[at]
        if character in "eE":
            following = whole[at + 1 : at + 2]
            if not following or following not in "0123456789+-":
                break
            at += following in "+-"
            if _LONG_EXPONENT.match(whole, at + 1):
                raise BuiltinError("the exponent is too large")
        elif character not in "0123456789.+-":
            break
        at += 1
    if at == 0:
        raise BuiltinError("there is no amount")
    return whole[:at], whole[at:]


def _read(amount: str) -> tuple[int, int]:
    """Give the digits as an integer, and the power of ten to take it to."""
    parts = _AMOUNT.fullmatch(amount)
    if parts is None:
        raise BuiltinError("the amount is not a number")
    sign, whole, fraction, only_fraction, power = parts.groups()
    fraction = fraction or only_fraction or ""
    digits = ((whole or "") + fraction).lstrip("0")
    exponent = int(power or "0") - len(fraction)
    if not digits:
        return 0, 0
    if len(digits) > _DIGITS or not -_DIGITS <= exponent + len(digits) <= _DIGITS or abs(exponent) > _DIGITS:
        raise BuiltinError("the amount has too many digits")
    return int(sign + digits), exponent


def _lower(value: str) -> str:
    return value.translate(_LOWER).lower()


def _parsed(mantissa: int, exponent: int) -> Fraction:
    """Read a decimal as `big.Float` does: times a power of five that is itself rounded, to 128 bits."""
    power = _power_of_five(abs(exponent)) * Fraction(2) ** abs(exponent)
    return _rounded(mantissa * power if exponent >= 0 else mantissa / power, _PRECISION)


def _power_of_five(exponent: int) -> Fraction:
    if exponent <= _TABLED:
        return Fraction(5**exponent)
    result, factor, left = Fraction(5**_TABLED), Fraction(5), exponent - _TABLED
    while left:
        if left & 1:
            result = _rounded(result * factor, _PRECISION + 64)
        factor = _rounded(factor * factor, _PRECISION + 128)
        left >>= 1
    return result


def _rounded(number: Fraction, bits: int) -> Fraction:
    """Round to so many bits of mantissa, a half to even."""
    if not number:
        return number
    shift = abs(number.numerator).bit_length() - number.denominator.bit_length() - bits
    # One more or one less bit than wanted: the lengths alone do not tell.
    if abs(number) >= Fraction(2) ** (shift + bits):
        shift += 1
    return round(number / Fraction(2) ** shift) * Fraction(2) ** shift
