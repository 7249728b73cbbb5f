"""A double as Go's `strconv.FormatFloat` writes it, exactly and in every format."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Final

SHORTEST: Final = -1
"""The precision that asks for as few digits as tell this double from all others."""

_MANTISSA_BITS: Final = 52
_LEAST_EXPONENT: Final = -1022
_ONE: Final = 1 << 60
_SIGNIFICANT: Final = 800
"""No double has more digits than these, which are all that `g` shows."""
_HEX_DIGITS: Final = 15
"""The hexadecimal digits after the point that a mantissa of 60 bits has."""


def format_float(value: float, verb: str, precision: int) -> str:
    """Write by `e`, `E`, `f`, `g`, `G`, `x`, `X` or `b`; the value is finite."""
    sign = "-" if math.copysign(1.0, value) < 0 else ""
    value = abs(value)
    if verb in "gG":
        return sign + _general(value, "e" if verb == "g" else "E", precision)
    if verb in "xX":
        text = _hexadecimal(value, precision)
        return sign + (text.upper() if verb == "X" else text)
    if verb == "b":
        mantissa, exponent = _parts(value)
        return f"{sign}{mantissa}p{exponent - _MANTISSA_BITS:+d}"
    if precision == SHORTEST:
        digits, point = _digits(value, SHORTEST)
        return sign + (_fixed(digits, point) if verb == "f" else _scientific(digits, point, verb))
    # Both languages round the exact binary value, to even where it lies in the middle.
    return sign + format(value, f".{precision}{verb}")


def _general(value: float, mark: str, precision: int) -> str:
    if precision == 0:
        precision = 1
    digits, point = _digits(value, precision)
    limit = 6 if precision == SHORTEST else precision
    if precision != SHORTEST and limit > len(digits) >= point:
        limit = len(digits)
    exponent = point - 1
    if exponent < -4 or exponent >= limit:  # noqa: PLR2004 - as C has it
        return _scientific(digits, point, mark)
    return _fixed(digits, point)


def _digits(value: float, precision: int) -> tuple[str, int]:
    """Give the significant digits, without zeros at the end, and where the point stands among them."""
    if value == 0:
        return "", 0
    text = repr(value) if precision == SHORTEST else format(value, f".{min(precision, _SIGNIFICANT) - 1}e")
    _, digits, exponent = Decimal(text).as_tuple()
    whole = "".join(map(str, digits))
    kept = whole.rstrip("0")
    return kept, len(whole) + int(exponent)


def _scientific(digits: str, point: int, mark: str) -> str:
    exponent = point - 1 if digits else 0
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[:1] or '0'}{fraction}{mark}{exponent:+03d}"


def _fixed(digits: str, point: int) -> str:
    whole = digits[:point].ljust(point, "0") if point > 0 else "0"
    fraction = digits[point:] if point > 0 else "0" * -point + digits
    return f"{whole}.{fraction}" if fraction else whole


def _parts(value: float) -> tuple[int, int]:
    """Give the mantissa as 53 bits, fewer for a subnormal number, and the exponent of its highest bit."""
    if value == 0:
        return 0, _LEAST_EXPONENT
    exponent = max(math.frexp(value)[1] - 1, _LEAST_EXPONENT)
    return int(math.ldexp(value, _MANTISSA_BITS - exponent)), exponent


def _hexadecimal(value: float, precision: int) -> str:
    mantissa, exponent = _parts(value)
    if mantissa == 0:
        exponent = 0
    mantissa <<= 60 - _MANTISSA_BITS
    while mantissa and not mantissa & _ONE:
        mantissa <<= 1
        exponent -= 1
    if 0 <= precision < _HEX_DIGITS:
        dropped = 60 - 4 * precision
        rest = mantissa & ((1 << dropped) - 1)
        mantissa >>= dropped
        # Half goes to even.
        mantissa += rest + (mantissa & 1) > 1 << (dropped - 1)
        mantissa <<= dropped
        if mantissa & (_ONE << 1):
            mantissa >>= 1
            exponent += 1
    fraction = f"{mantissa & (_ONE - 1):015x}"
    fraction = fraction.rstrip("0") if precision == SHORTEST else fraction.ljust(precision, "0")[:precision]
    return f"0x{mantissa >> 60}{'.' if fraction else ''}{fraction}p{exponent:+03d}"
