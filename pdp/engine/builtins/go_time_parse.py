"""`time.Parse` and `time.ParseDuration` of Go, with the quirks that a policy may have come to rely on.

Texts are taken as Go sees them, byte by byte; each byte is one sign of the text here (Latin-1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC
from typing import Final

from pdp.engine.builtins.go_floats import SHORTEST, format_float
from pdp.engine.builtins.go_time import (
    DAYS,
    MONTHS,
    SECOND,
    bounded,
    checked,
    days_in,
    days_since_1970,
    elements,
    moment,
)
from pdp.engine.builtins.values import BuiltinError

_NO_OFFSET: Final = -1
"""Go's own sign for "none", so that -00:00:01 is none as well."""
_INT64: Final = 2**63
_UNITS: Final = {
    "ns": 1, "us": 1000, "\u00b5s": 1000, "\u03bcs": 1000, "ms": 10**6, "s": SECOND, "m": 60 * SECOND,
    "h": 3600 * SECOND,
}  # fmt: skip
_HOURS: Final = {"d": 24, "w": 7 * 24, "y": 365 * 24}
_EXTENDED: Final = re.compile(r"[-+]?(?:[0-9.]+(?:ms|us|\u00b5s|ns|[a-z]))+")
_SEGMENT: Final = re.compile(r"([0-9.]+)(ms|us|\u00b5s|ns|[a-z])")
_PART: Final = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^.0-9]*)")
_ZONE: Final = re.compile(r"ChST|MeST|GMT|[-+]|[A-Z]{1,6}")
_SIGNED: Final = re.compile(r"[-+](?=[0-9])0*([0-9]*)")


_NUMBERS: Final = {
    "1": ("month", 1, 12), "01": ("month", 1, 12), "2": ("day", 0, 99), "_2": ("day", 0, 99), "02": ("day", 0, 99),
    "15": ("hour", 0, 23), "3": ("hour", 0, 12), "03": ("hour", 0, 12), "4": ("minute", 0, 59),
    "04": ("minute", 0, 59), "5": ("second", 0, 59), "05": ("second", 0, 59),
}  # fmt: skip
"""What an element of one or two digits is, and from where to where it goes."""
_NAMES: Final = {
    "January": MONTHS,
    "Jan": tuple(name[:3] for name in MONTHS),
    "Monday": DAYS,
    "Mon": tuple(name[:3] for name in DAYS),
}


class _BadError(Exception):
    """The value is not what the layout says."""


@dataclass(slots=True)
class _Parts:
    """What was read so far."""

    year: int = 0
    month: int | None = None
    day: int | None = None
    yearday: int | None = None
    hour: int = 0
    minute: int = 0
    second: int = 0
    ns: int = 0
    am: bool = False
    pm: bool = False
    utc: bool = False
    offset: int = _NO_OFFSET


def parse_time(layout: str, value: str) -> int:
    """Read a moment by a layout; gives ns since 1970. Raises `BuiltinError`."""
    try:
        return _moment(_Reader(_bytes(bounded(value))).read(elements(_bytes(bounded(layout)))))
    except _BadError:
        raise BuiltinError("the time is not of this layout, or not a time") from None


def parse_duration(text: str) -> int:
    """Read a duration such as `1h30m`, also of days, weeks and years; gives ns. Raises `BuiltinError`."""
    bounded(text)
    try:
        return _duration(_in_hours(text) if re.search("[dwy]", text) else text)
    except _BadError:
        raise BuiltinError("it is not a duration") from None


def _bytes(text: str) -> str:
    return text.encode("utf-8").decode("latin-1")


class _Reader:
    """Reads one value, element by element."""

    def __init__(self, value: str) -> None:
        self._left = value
        self._parts = _Parts()

    def read(self, layout: tuple[tuple[str, str], ...]) -> _Parts:
        for number, (prefix, element) in enumerate(layout):
            self._skip(prefix)
            if element:
                following = layout[number + 1][1]
                self._element(element, fraction_follows=following[:1] in {".", ","})
        if self._left:
            raise _BadError
        return self._parts

    def _skip(self, prefix: str) -> None:
        """Take the text between elements; runs of spaces are as good as one."""
        while prefix:
            if prefix[0] == " ":
                if self._left and self._left[0] != " ":
                    raise _BadError
                prefix, self._left = prefix.lstrip(" "), self._left.lstrip(" ")
            elif self._take(1) != prefix[0]:
                raise _BadError
            else:
                prefix = prefix[1:]

    def _element(self, element: str, *, fraction_follows: bool) -> None:
        parts = self._parts
        if element in _NUMBERS:
            member, first, last = _NUMBERS[element]
            if element == "_2":
                self._left = self._left.removeprefix(" ")
            setattr(parts, member, _within(self._number(fixed=element[0] == "0"), first, last))
            if member == "second" and not fraction_follows:
                self._optional_fraction()
        elif element in _NAMES:
            number = self._name(_NAMES[element])
            # The day of the week is checked for its spelling only.
            parts.month = number + 1 if element.startswith("J") else parts.month
        elif element in {"06", "2006"}:
            parts.year = self._year(element)
        elif element in {"__2", "002"}:
            parts.yearday = self._three(fixed=element == "002")
        elif element in {"PM", "pm"}:
            self._half(element)
        elif element == "MST":
            self._zone_name()
        elif element[0] in ".,":
            self._fraction(element)
        else:
            self._numeric_zone(element)

    def _year(self, element: str) -> int:
        if element == "06":
            year = _atoi(self._take(2))
            return year + (1900 if year >= 69 else 2000)  # noqa: PLR2004 - as Go has it
        if not _is_digit(self._left[:1]):
            raise _BadError
        return _atoi(self._take(4))

    def _half(self, element: str) -> None:
        """Take the half of the day, in the letters of the layout."""
        mark = self._take(2)
        if mark not in {element, "AM" if element == "PM" else "am"}:
            raise _BadError
        self._parts.pm, self._parts.am = self._parts.pm or mark == element, self._parts.am or mark != element

    def _take(self, count: int) -> str:
        if len(self._left) < count:
            raise _BadError
        taken, self._left = self._left[:count], self._left[count:]
        return taken

    def _number(self, *, fixed: bool) -> int:
        """Take one or two digits; two, if `fixed`."""
        count = 2 if _is_digit(self._left[1:2]) else 1
        if not _is_digit(self._left[:1]) or (fixed and count == 1):
            raise _BadError
        return int(self._take(count))

    def _three(self, *, fixed: bool) -> int:
        """Take one to three digits, with up to two spaces before them; three, and no space, if `fixed`."""
        if not fixed:
            self._left = self._left.removeprefix(" ").removeprefix(" ")
        count = 0
        while count < 3 and _is_digit(self._left[count : count + 1]):  # noqa: PLR2004
            count += 1
        if count == 0 or (fixed and count != 3):  # noqa: PLR2004
            raise _BadError
        return int(self._take(count))

    def _name(self, names: tuple[str, ...]) -> int:
        for number, name in enumerate(names):
            # ASCII letters only, as Go compares: no other sign has one of these as its lower case in Latin-1.
            if self._left[: len(name)].lower() == name.lower():
                self._left = self._left[len(name) :]
                return number
        raise _BadError

    def _optional_fraction(self) -> None:
        """Take a fraction of a second that the layout does not speak of."""
        if self._left[:1] in {".", ","} and _is_digit(self._left[1:2]):
            self._parts.ns = _nanoseconds(self._take(self._fraction_length()))

    def _fraction_length(self) -> int:
        end = 1
        while _is_digit(self._left[end : end + 1]):
            end += 1
        return end

    def _fraction(self, element: str) -> None:
        if element[1] == "0":
            self._parts.ns = _nanoseconds(self._take(len(element)))
        elif self._left[:1] in {".", ","}:
            self._optional_fraction()

    def _zone_name(self) -> None:
        """Take an abbreviation. But for UTC, nobody knows its offset, and Go takes it for 0."""
        if self._left.startswith("UTC"):
            self._parts.utc, self._left = True, self._left[3:]
            return
        found = _ZONE.match(self._left)
        if found is None or len(self._left) < 3:  # noqa: PLR2004
            raise _BadError
        word, length = found[0], len(found[0])
        if word == "GMT":
            length += _signed_length(self._left[3:])
        elif word in "+-":
            length = _signed_length(self._left)
        elif word not in {"ChST", "MeST"}:
            # Three letters, or a fourth or fifth that is a T, or the one exception to that.
            known = length == 3 or (length in {4, 5} and word[-1] == "T") or word == "WITA"  # noqa: PLR2004
            length = length if known else 0
        if length == 0:
            raise _BadError
        self._left = self._left[length:]

    def _numeric_zone(self, element: str) -> None:
        if element[0] == "Z" and self._left[:1] == "Z":
            self._parts.utc, self._left = True, self._left[1:]
            return
        text = self._take(len(element))
        if any(sign == ":" and text[at] != ":" for at, sign in enumerate(element)):
            raise _BadError
        digits = text[1:].replace(":", "") if ":" in element else text[1:]
        if text[0] not in "+-" or not (digits.isascii() and digits.isdigit()):
            raise _BadError
        hours, minutes, seconds = (int(digits[at : at + 2] or "0") for at in (0, 2, 4))
        # Some people write 24 hours, 60 minutes and 60 seconds.
        offset = (_within(hours, 0, 24) * 60 + _within(minutes, 0, 60)) * 60 + _within(seconds, 0, 60)
        self._parts.offset = -offset if text[0] == "-" else offset


def _moment(parts: _Parts) -> int:
    hour = parts.hour
    if parts.pm and hour < 12:  # noqa: PLR2004
        hour += 12
    elif parts.am and hour == 12:  # noqa: PLR2004
        hour = 0
    month, day = _month_and_day(parts)
    if not 1 <= day <= days_in(parts.year, month):
        raise _BadError
    seconds = (hour * 60 + parts.minute) * 60 + parts.second
    ns = moment(days_since_1970(parts.year, month, day), seconds, parts.ns, UTC)
    if not parts.utc and parts.offset != _NO_OFFSET:
        ns -= parts.offset * SECOND
    return checked(ns)


def _month_and_day(parts: _Parts) -> tuple[int, int]:
    if parts.yearday is None:
        return parts.month or 1, 1 if parts.day is None else parts.day
    length = 365 + (days_in(parts.year, 2) == 29)  # noqa: PLR2004
    if not 1 <= parts.yearday <= length:
        raise _BadError
    month, day = 1, parts.yearday
    while day > days_in(parts.year, month):
        day -= days_in(parts.year, month)
        month += 1
    if parts.month not in {None, month} or parts.day not in {None, day}:
        raise _BadError
    return month, day


def _is_digit(sign: str) -> bool:
    return "0" <= sign <= "9"


def _within(number: int, first: int, last: int) -> int:
    if not first <= number <= last:
        raise _BadError
    return number


def _atoi(text: str) -> int:
    """Read a number that may have a sign; no digits are 0."""
    if not re.fullmatch(r"[-+]?[0-9]*", text):
        raise _BadError
    return int(text) if text.strip("+-") else 0


def _nanoseconds(text: str) -> int:
    if text[0] not in ".,":
        raise _BadError
    digits = text[1:10]
    return _within(_atoi(digits) * 10 ** (9 - len(digits)), 0, SECOND - 1)


def _signed_length(text: str) -> int:
    """Give the length of an offset such as `+03` at the start, 0 for none or one past 23."""
    found = _SIGNED.match(text)
    return found.end() if found and len(found[1]) <= 2 and int(found[1] or "0") <= 23 else 0  # noqa: PLR2004


def _in_hours(text: str) -> str:
    """Write days, weeks and years as hours, as OPA does before Go reads the duration."""
    if not _EXTENDED.fullmatch(text):
        raise _BadError
    sign = text[0] if text[0] in "+-" else ""
    return sign + "".join([_segment(digits, unit) for digits, unit in _SEGMENT.findall(text)])


def _segment(digits: str, unit: str) -> str:
    if unit not in _HOURS:
        return digits + unit
    try:
        hours = float(digits) * _HOURS[unit]
    except ValueError:
        raise _BadError from None
    if hours == float("inf"):
        raise _BadError
    return format_float(hours, "f", SHORTEST) + "h"


def _duration(text: str) -> int:
    negative = text.startswith("-")
    left = text[1:] if text[:1] in {"-", "+"} else text
    if left == "0":
        return 0
    if not left:
        raise _BadError
    total = 0
    while left:
        part = _PART.match(left)
        if part is None or not (part[1] or part[2]) or part[3] not in _UNITS:
            raise _BadError
        # Twice 2**63 is 0 for Go, and no error.
        total = (total + _scaled(part[1], part[2] or "", _UNITS[part[3]])) % (2 * _INT64)
        if total > _INT64:
            raise _BadError
        left = left[part.end() :]
    if not negative and total == _INT64:
        raise _BadError
    return -total if negative else total


def _scaled(whole: str, fraction: str, unit: int) -> int:
    number = _leading(whole)
    if number > _INT64 // unit:
        raise _BadError
    number *= unit
    rest, scale = _leading_fraction(fraction)
    if rest:
        # Go goes through floats here, and a policy sees the difference.
        number += int(float(rest) * (float(unit) / scale))
        if number > _INT64:
            raise _BadError
    return number


def _leading(digits: str) -> int:
    digits = digits.lstrip("0") or "0"
    if len(digits) > 19 or int(digits) > _INT64:  # noqa: PLR2004 - longer is out of range
        raise _BadError
    return int(digits)


def _leading_fraction(digits: str) -> tuple[int, float]:
    """Read as many digits as fit into 64 bits; the others change nothing."""
    number, scale = 0, 1.0
    for digit in digits:
        grown = number * 10 + int(digit)
        if number > (_INT64 - 1) // 10 or grown > _INT64:
            break
        number, scale = grown, scale * 10
    return number, scale
