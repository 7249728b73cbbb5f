"""Moments, dates and layouts as Go's package time has them.

Rules: integers all the way, since a moment has ns and a `datetime` has not; a moment that does not fit into 64 bits of
ns since 1970 is an error, as in OPA; "local" is UTC, for a decision does not depend on the machine.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pdp.engine.builtins.values import BuiltinError

SECOND: Final = 10**9
DAY_S: Final = 86_400
MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
DAYS: Final = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_INT64: Final = range(-(2**63), 2**63)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
LONGEST: Final = 1024
"""Characters of a layout, and of a time or duration that is read, at most: each step of reading copies what is left,
and layouts are kept."""
_ZONE: Final = 255
_ERA_YEARS: Final = 400
_ERA_DAYS: Final = 146_097
_DAYS_TO_1970: Final = 719_468
"""From 1 March of the year 0, where each leap day ends a year."""

# Go's layout elements, in the order in which Go tries them at one place.
_ELEMENT: Final = re.compile(
    r"January|Jan(?![a-z])|Monday|Mon(?![a-z])|MST|0[1-6]|002|15|1|2006|2|_(?=2006)|_2|__2|3|4|5|PM|pm"
    r"|[-Z](?:070000|07:00:00|0700|07:00|07)|[.,](?:0+|9+)(?![0-9])"
)


@dataclass(frozen=True, slots=True)
class Local:
    """A moment as clocks on the wall show it somewhere."""

    year: int
    month: int
    day: int
    hour: int
    minute: int
    second: int
    ns: int
    weekday: int
    """0 is Sunday."""
    yearday: int
    """1 is the first of January."""
    offset: int
    """Seconds east of UTC."""
    zone: str
    """The abbreviation."""


def checked(ns: int) -> int:
    """Give ns since 1970 that fit into 64 bits, from 1677 to 2262. Raises `BuiltinError`."""
    if ns not in _INT64:
        raise BuiltinError("the time is outside of what OPA can hold: from 1677 to 2262")
    return ns


def zone_of(name: str) -> tzinfo:
    """Give a time zone of the IANA data base on this machine. Raises `BuiltinError`."""
    if name in {"", "UTC"}:
        return UTC
    if name == "Local":
        raise BuiltinError("the time zone `Local` depends on the machine: name one")
    if len(name) > _ZONE:
        raise BuiltinError("the name of the time zone is too long")
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BuiltinError("there is no such time zone, or no tzdata on this machine") from None


def local(ns: int, zone: tzinfo) -> Local:
    """Show a moment in a zone."""
    seconds, rest = divmod(ns, SECOND)
    offset, name = _offset(seconds, zone)
    day, second = divmod(seconds + offset, DAY_S)
    year, month, of_month = date_of(day)
    return Local(
        year,
        month,
        of_month,
        second // 3600,
        second // 60 % 60,
        second % 60,
        rest,
        (day + 4) % 7,
        day - days_since_1970(year, 1, 1) + 1,
        offset,
        name,
    )


def moment(days: int, seconds: int, ns: int, zone: tzinfo) -> int:
    """Give ns since 1970 of a day and the seconds in it as clocks show them in a zone, and of ns. Not checked."""
    wall = days * DAY_S + seconds
    if zone is UTC:
        return wall * SECOND + ns
    # Go looks the offset up as if the time were UTC, and again with what came out.
    first, _ = _offset(wall, zone)
    offset = _offset(wall - first, zone)[0] if first else 0
    return (wall - offset) * SECOND + ns


def days_since_1970(year: int, month: int, day: int) -> int:
    """Give the number of a day of the Gregorian calendar, in which a month past 12 goes on into the next year."""
    year, month = year + (month - 1) // 12, (month - 1) % 12 + 1
    year -= month < 3  # noqa: PLR2004 - January and February belong to the year before
    era, of_era = divmod(year, _ERA_YEARS)
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * _ERA_DAYS + of_era * 365 + of_era // 4 - of_era // 100 + of_year - _DAYS_TO_1970


def date_of(days: int) -> tuple[int, int, int]:
    """Give year, month and day of a number of days since 1970."""
    era, of_era = divmod(days + _DAYS_TO_1970, _ERA_DAYS)
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    day = of_year - (153 * month + 2) // 5 + 1
    month = (month + 2) % 12 + 1
    return era * _ERA_YEARS + year + (month < 3), month, day  # noqa: PLR2004 - as above


def days_in(year: int, month: int) -> int:
    """Give the length of a month."""
    return days_since_1970(year, month + 1, 1) - days_since_1970(year, month, 1)


def bounded(text: str) -> str:
    """Give a layout, time or duration that is not too long. Raises `BuiltinError`."""
    if len(text) > LONGEST:
        raise BuiltinError("it is longer than any time or layout")
    return text


@functools.lru_cache(maxsize=128)
def elements(layout: str) -> tuple[tuple[str, str], ...]:
    """Split a layout into pairs of text and the element after it; the last element is empty."""
    found: list[tuple[str, str]] = []
    text = at = 0
    while match := _ELEMENT.search(layout, at):
        at = match.end()
        if match[0] == "_":
            continue
        found.append((layout[text : match.start()], match[0]))
        text = at
    return (*found, (layout[text:], ""))


def format_time(layout: str, shown: Local) -> str:
    """Write a moment by a layout."""
    return "".join([text + _element(element, shown) for text, element in elements(bounded(layout))])


def _element(element: str, shown: Local) -> str:
    simple = _SIMPLE.get(element)
    if simple is not None:
        return simple(shown)
    if not element:
        return ""
    if element[0] in ".,":
        return _fraction(element, shown.ns)
    return _numeric_zone(element, shown.offset)


def _numeric_zone(element: str, offset: int) -> str:
    if element[0] == "Z" and offset == 0:
        return "Z"
    minutes, seconds = divmod(abs(offset), 60)
    parts = [f"{minutes // 60:02}"]
    if len(element) > 3:  # noqa: PLR2004 - "-07" has hours only
        parts.append(f"{minutes % 60:02}")
    if len(element) > 6:  # noqa: PLR2004 - "-07:00" has no seconds
        parts.append(f"{seconds:02}")
    return ("-" if offset < 0 else "+") + (":" if ":" in element else "").join(parts)


def _fraction(element: str, ns: int) -> str:
    digits = f"{ns:09}"[: len(element) - 1]
    if element[1] == "0":
        return element[0] + digits
    digits = digits.rstrip("0")
    return element[0] + digits if digits else ""


def _abbreviation(shown: Local) -> str:
    return shown.zone or _numeric_zone("-0700", shown.offset)


_SIMPLE: Final = {
    "January": lambda t: MONTHS[t.month - 1],
    "Jan": lambda t: MONTHS[t.month - 1][:3],
    "1": lambda t: f"{t.month}",
    "01": lambda t: f"{t.month:02}",
    "Monday": lambda t: DAYS[t.weekday],
    "Mon": lambda t: DAYS[t.weekday][:3],
    "2": lambda t: f"{t.day}",
    "_2": lambda t: f"{t.day:2}",
    "02": lambda t: f"{t.day:02}",
    "__2": lambda t: f"{t.yearday:3}",
    "002": lambda t: f"{t.yearday:03}",
    "15": lambda t: f"{t.hour:02}",
    "3": lambda t: f"{t.hour % 12 or 12}",
    "03": lambda t: f"{t.hour % 12 or 12:02}",
    "4": lambda t: f"{t.minute}",
    "04": lambda t: f"{t.minute:02}",
    "5": lambda t: f"{t.second}",
    "05": lambda t: f"{t.second:02}",
    "2006": lambda t: f"{t.year:04}",
    "06": lambda t: f"{t.year % 100:02}",
    "PM": lambda t: "PM" if t.hour >= 12 else "AM",  # noqa: PLR2004
    "pm": lambda t: "pm" if t.hour >= 12 else "am",  # noqa: PLR2004
    "MST": _abbreviation,
}


def _offset(seconds: int, zone: tzinfo) -> tuple[int, str]:
    """Give the offset in seconds and the abbreviation that hold in a zone at a moment."""
    if zone is UTC:
        return 0, "UTC"
    try:
        there = (_EPOCH + timedelta(seconds=seconds)).astimezone(zone)
    except OverflowError:
        raise BuiltinError("the time is outside of what OPA can hold: from 1677 to 2262") from None
    offset = there.utcoffset()
    return (0 if offset is None else int(offset.total_seconds())), there.tzname() or ""
