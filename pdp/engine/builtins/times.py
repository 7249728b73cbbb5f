"""The `time` built-ins (v1/topdown/time.go).

Rules: `time.now_ns` is the time of the decision, the same in each call; "local" is UTC; the zones are those of the
machine's tzdata, and one that is not there is an error.
"""

from __future__ import annotations

from datetime import UTC, tzinfo
from decimal import Decimal
from fractions import Fraction
from typing import Final

from pdp.engine.builtins import builtin
from pdp.engine.builtins.go_time import (
    DAYS,
    Local,
    checked,
    days_in,
    days_since_1970,
    format_time,
    local,
    moment,
    zone_of,
)
from pdp.engine.builtins.go_time_parse import parse_duration, parse_time
from pdp.engine.builtins.values import BuiltinError, Number, Value

_INT64: Final = range(-(2**63), 2**63)
_LONGEST_CALENDAR: Final = 10**6
"""Years, months or days that may be added. OPA goes around 64 bits with astronomical ones; that is refused."""
_RFC3339: Final = "2006-01-02T15:04:05Z07:00"
_RFC3339_NANO: Final = "2006-01-02T15:04:05.999999999Z07:00"
_LAYOUTS: Final = {
    "ANSIC": "Mon Jan _2 15:04:05 2006",
    "UnixDate": "Mon Jan _2 15:04:05 MST 2006",
    "RubyDate": "Mon Jan 02 15:04:05 -0700 2006",
    "RFC822": "02 Jan 06 15:04 MST",
    "RFC822Z": "02 Jan 06 15:04 -0700",
    "RFC850": "Monday, 02-Jan-06 15:04:05 MST",
    "RFC1123": "Mon, 02 Jan 2006 15:04:05 MST",
    "RFC1123Z": "Mon, 02 Jan 2006 15:04:05 -0700",
    "RFC3339": _RFC3339,
    "RFC3339Nano": _RFC3339_NANO,
}


@builtin("time.now_ns", needs_time=True)
def _now_ns(now: Value) -> Value:
    """Give the time of the decision."""
    return now


@builtin("time.parse_ns")
def _parse_ns(layout: Value, value: Value) -> Value:
    """Read a time by a layout of Go."""
    name = _text(layout, 1)
    return Number.of(parse_time(_LAYOUTS.get(name, name), _text(value, 2)))


@builtin("time.parse_rfc3339_ns")
def _parse_rfc3339_ns(value: Value) -> Value:
    """Read a time such as `2026-01-05T10:00:00Z`."""
    return Number.of(parse_time(_RFC3339, _text(value, 1)))


@builtin("time.parse_duration_ns")
def _parse_duration_ns(value: Value) -> Value:
    """Read a duration such as `1h30m`."""
    return Number.of(parse_duration(_text(value, 1)))


@builtin("time.format")
def _format(value: Value) -> Value:
    """Write a time by a layout of Go."""
    ns, zone, layout = _operand(value)
    return format_time(_LAYOUTS.get(layout, layout) or _RFC3339_NANO, local(ns, zone))


@builtin("time.date")
def _date(value: Value) -> Value:
    """Give year, month and day."""
    shown = _shown(value)
    return _numbers(shown.year, shown.month, shown.day)


@builtin("time.clock")
def _clock(value: Value) -> Value:
    """Give hour, minute and second."""
    shown = _shown(value)
    return _numbers(shown.hour, shown.minute, shown.second)


@builtin("time.weekday")
def _weekday(value: Value) -> Value:
    """Give the English name of the day."""
    return DAYS[_shown(value).weekday]


@builtin("time.add_date")
def _add_date(value: Value, years: Value, months: Value, days: Value) -> Value:
    """Add years, months and days as a calendar does, and keep the time on the clock."""
    ns, zone, _ = _operand(value)
    shown = local(ns, zone)
    year, month, day = (_integer(number, position) for position, number in enumerate((years, months, days), start=2))
    if max(abs(year), abs(month), abs(day)) > _LONGEST_CALENDAR:
        raise BuiltinError("the time is outside of what OPA can hold: from 1677 to 2262")
    moved = days_since_1970(shown.year + year, shown.month + month, 1) + shown.day + day - 1
    return Number.of(checked(moment(moved, _seconds(shown), shown.ns, zone)))


@builtin("time.diff")
def _diff(first: Value, second: Value) -> Value:
    """Give years, months, days, hours, minutes and seconds between two times, in the zone of the first."""
    one, zone, _ = _operand(first)
    other, _, _ = _operand(second)
    early, late = local(min(one, other), zone), local(max(one, other), zone)
    days, seconds = 0, _seconds(late) - _seconds(early)
    if seconds < 0:
        days, seconds = -1, seconds + 24 * 3600
    days += late.day - early.day
    months = late.month - early.month
    if days < 0:
        days += days_in(early.year, early.month)
        months -= 1
    years = late.year - early.year
    if months < 0:
        months += 12
        years -= 1
    return _numbers(years, months, days, seconds // 3600, seconds // 60 % 60, seconds % 60)


def _shown(value: Value) -> Local:
    ns, zone, _ = _operand(value)
    return local(ns, zone)


def _operand(value: Value) -> tuple[int, tzinfo, str]:
    """Give ns since 1970, zone and layout of a number, or of an array of them in which only the number must be."""
    parts = value if isinstance(value, tuple) else (value,)
    if not parts or not isinstance(parts[0], Number):
        raise BuiltinError("operand 1 must be ns since 1970, or an array of them and a time zone")
    zone = zone_of(_text(parts[1], 1)) if len(parts) > 1 else UTC
    layout = _text(parts[2], 1) if len(parts) > 2 else ""  # noqa: PLR2004
    return _nanoseconds(parts[0]), zone, layout


def _nanoseconds(number: Number) -> int:
    """Give an integer of 64 bits. A number is rounded to 64 significant bits before, as OPA has it."""
    exact = number.exact
    if isinstance(exact, Decimal):
        # Bounded before it is made a fraction, of which `1e1000000` would be a long one.
        if exact and not -100 < exact.adjusted() < 20:  # noqa: PLR2004
            raise BuiltinError("operand 1 must be an integer of 64 bits")
        exact = _rounded(Fraction(exact))
    if exact not in _INT64:
        raise BuiltinError("operand 1 must be an integer of 64 bits")
    return exact


def _rounded(value: Fraction) -> int:
    bits = abs(value.numerator).bit_length() - value.denominator.bit_length()
    bits += abs(value) >= Fraction(2) ** bits
    scale = Fraction(2) ** (64 - bits)
    result = Fraction(round(value * scale)) / scale
    if result.denominator != 1:
        raise BuiltinError("operand 1 must be an integer of 64 bits")
    return result.numerator


def _seconds(shown: Local) -> int:
    return (shown.hour * 60 + shown.minute) * 60 + shown.second


def _numbers(*numbers: int) -> Value:
    return tuple(map(Number.of, numbers))


def _text(value: Value, position: int) -> str:
    if not isinstance(value, str):
        raise BuiltinError(f"operand {position} must be a string")
    return value


def _integer(value: Value, position: int) -> int:
    if not isinstance(value, Number):
        raise BuiltinError(f"operand {position} must be a number")
    number = value.int64()
    if number is None:
        raise BuiltinError(f"operand {position} must be an integer of 64 bits")
    return number
