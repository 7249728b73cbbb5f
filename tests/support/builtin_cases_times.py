"""Calls of the `time` built-ins and of `numbers.range_step`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from comparing import Arguments, cases
from pdp.engine.builtins.values import Number, Value
from rego_values import integer, number, text, value

_ZONES = (
    "UTC", "", "Europe/Berlin", "America/New_York", "America/St_Johns", "Asia/Kolkata", "Asia/Kathmandu",
    "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca", "America/Sao_Paulo", "Asia/Tehran", "Etc/GMT+5",
    "Europe/Dublin", "Africa/Monrovia", "Antarctica/Troll", "EST", "Pacific/Kiritimati", "Europe/Amsterdam", "Nope",
    "../etc/passwd", "/etc/passwd", "europe/berlin", ".", "America", "a\x00b",
)  # fmt: skip
_NAMED = (
    "ANSIC",
    "UnixDate",
    "RubyDate",
    "RFC822",
    "RFC822Z",
    "RFC850",
    "RFC1123",
    "RFC1123Z",
    "RFC3339",
    "RFC3339Nano",
)
_ELEMENTS = (
    "January", "Jan", "1", "01", "Monday", "Mon", "2", "_2", "02", "__2", "002", "15", "3", "03", "4", "04", "5", "05",
    "2006", "_2006", "06", "PM", "pm", "MST", "Z0700", "Z070000", "Z07", "Z07:00", "Z07:00:00", "-0700", "-070000",
    "-07", "-07:00", "-07:00:00", ".0", ".000", ",000000", ".999", ",999999999", ".9", ".00000000000", ".999999999999",
)  # fmt: skip
_BETWEEN = ("", " ", "-", ":", "/", "T", ", ", "  ", "x", "é", ".", "0", "Month", "_", "9")
_USUAL = (
    "2006-01-02 15:04:05", "2006-01-02T15:04:05Z07:00", "Jan _2 2006 3:04PM", "02/01/06 03:04:05.000 pm -0700",
    "Monday, 2 January 2006", "2006-002", "2006 __2", "15:04:05,999999 MST", "20060102150405", "2006-01-02 15:04:05 -07:00:00",
)  # fmt: skip


def _moment(rng: random.Random) -> int:
    kind = rng.randrange(5)
    if kind == 0:
        return rng.choice((0, -1, 1, 2**63 - 1, -(2**63), 1767607200 * 10**9, 951782400 * 10**9, -2208988800 * 10**9))
    if kind == 1:
        return rng.randint(-(2**63), 2**63 - 1)
    # Around the change of the clocks, where zones differ.
    changes = (1743296400, 1761440400, 1741503600, 1762063200, 1325239200, 1711846800, -1633273200, 1301752800)
    if kind == 2:
        return rng.choice(changes) * 10**9 + rng.randint(-7200, 7200) * 10**9 + rng.choice((0, 1, 999999999))
    return rng.randint(0, 4 * 10**9) * 10**9 + rng.choice((0, 0, 5 * 10**8, rng.randrange(10**9)))


def _ns(rng: random.Random) -> Number:
    if rng.random() < 0.1:
        return number(rng)
    whole = _moment(rng)
    return Number(rng.choice((f"{whole}", f"{whole}", f"{whole}.0", f"{whole}e0", f"{whole}.0000000000000000000001")))


def _layout(rng: random.Random) -> str:
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice(_NAMED)
    if kind == 1:
        return rng.choice(_USUAL)
    return "".join(rng.choice(_ELEMENTS) + rng.choice(_BETWEEN) for _ in range(rng.randrange(1, 7)))


def _time(rng: random.Random) -> Value:
    kind = rng.randrange(10)
    if kind < 3:
        return _ns(rng)
    if kind < 8:
        return (_ns(rng), rng.choice(_ZONES))
    if kind == 8:
        return (_ns(rng), rng.choice(_ZONES), _layout(rng), None)
    return value(rng)


@cases("time.format")
def _format(rng: random.Random, count: int) -> Iterator[Arguments]:
    for _ in range(count):
        yield ((_ns(rng), rng.choice(_ZONES), _layout(rng)) if rng.random() < 0.8 else _time(rng),)


@cases("time.date", "time.clock", "time.weekday")
def _one_time(rng: random.Random, count: int) -> Iterator[Arguments]:
    for _ in range(count):
        yield (_time(rng),)


@cases("time.add_date")
def _add_date(rng: random.Random, count: int) -> Iterator[Arguments]:
    for _ in range(count):
        yield (_time(rng), *(_added(rng) for _ in range(3)))


def _added(rng: random.Random) -> Number:
    given = number(rng) if rng.random() < 0.1 else integer(rng, -40, 40)
    # Past a million, OPA goes around 64 bits and may come out anywhere; that is refused here.
    return given if abs(given.int64() or 0) <= 10**6 else Number("1.5")


@cases("time.diff")
def _diff(rng: random.Random, count: int) -> Iterator[Arguments]:
    for _ in range(count):
        yield _time(rng), _time(rng)


def _written(rng: random.Random, layout: str) -> str:
    """Give a time as the layout has it, or nearly."""
    at = datetime(1600, 1, 1, tzinfo=UTC) + timedelta(seconds=rng.randrange(800 * 365 * 86400))
    offset = rng.choice(("+0000", "+0200", "-0330", "+2400", "-2500", "+0060", "+00:00", "Z"))
    words = {
        "January": at.strftime("%B"), "Jan": at.strftime("%b"), "Monday": at.strftime("%A"), "Mon": at.strftime("%a").upper(),
        "2006": f"{at.year:04}", "06": f"{at.year % 100:02}", "01": f"{at.month:02}", "02": f"{at.day:02}",
        "002": f"{at.timetuple().tm_yday:03}", "__2": f"{at.timetuple().tm_yday:3}", "_2": f"{at.day:2}",
        "15": f"{at.hour:02}", "03": f"{at.hour % 13:02}", "04": f"{at.minute:02}", "05": f"{at.second:02}",
        "PM": rng.choice(("AM", "PM")), "pm": rng.choice(("am", "pm")),
        "MST": rng.choice(("MST", "UTC", "GMT", "GMT+3", "GMT-24", "CEST", "WITA", "+03", "ChST", "ABCDEF", "ab")),
        "Z07:00": rng.choice(("Z", "+02:00", "-23:59", "+24:00", "+25:00", "+00:60", "-0200")),
        "-07:00:00": rng.choice(("+01:02:03", "-00:00:01", "+24:60:60", "+01:02")), "-0700": offset, "-07:00": "+05:30",
        "Z0700": offset, ".000": rng.choice((".123", ",5", ".+12", ".-12", ".12")), ".999": rng.choice((".5", "", ",123456789012")),
        "1": f"{at.month}", "2": f"{at.day}", "3": f"{at.hour % 12}", "4": f"{at.minute}", "5": f"{at.second}",
    }  # fmt: skip
    written, at_sign = "", 0
    while at_sign < len(layout):
        element = next(
            (word for word in sorted(words, key=len, reverse=True) if layout.startswith(word, at_sign)), None
        )
        written += layout[at_sign] if element is None else words[element]
        if element == "05" and rng.random() < 0.2:
            written += rng.choice((".5", ",123456789", ".1234567891234", "."))
        at_sign += len(element or "x")
    if rng.random() < 0.15:
        cut = rng.randrange(len(written) + 1)
        written = written[:cut] + rng.choice(("", " ", "0", "x", "é", "-", "60")) + written[cut + rng.randrange(2) :]
    return written


_SPELLED = {
    "ANSIC": "Mon Jan _2 15:04:05 2006", "UnixDate": "Mon Jan _2 15:04:05 MST 2006", "RFC822": "02 Jan 06 15:04 MST",
    "RubyDate": "Mon Jan 02 15:04:05 -0700 2006", "RFC822Z": "02 Jan 06 15:04 -0700",
    "RFC850": "Monday, 02-Jan-06 15:04:05 MST", "RFC1123": "Mon, 02 Jan 2006 15:04:05 MST",
    "RFC1123Z": "Mon, 02 Jan 2006 15:04:05 -0700", "RFC3339": "2006-01-02T15:04:05Z07:00",
    "RFC3339Nano": "2006-01-02T15:04:05.999999999Z07:00",
}  # fmt: skip


@cases("time.parse_ns")
def _parse_ns(rng: random.Random, count: int) -> Iterator[Arguments]:
    for _ in range(count):
        layout = _layout(rng)
        written = _written(rng, _SPELLED.get(layout, layout)) if rng.random() < 0.97 else text(rng)
        yield (layout, written) if rng.random() < 0.99 else (value(rng), written)


@cases("time.parse_rfc3339_ns")
def _parse_rfc3339_ns(rng: random.Random, count: int) -> Iterator[Arguments]:
    for _ in range(count):
        yield (_written(rng, "2006-01-02T15:04:05Z07:00") if rng.random() < 0.97 else value(rng),)


@cases("time.parse_duration_ns")
def _parse_duration_ns(rng: random.Random, count: int) -> Iterator[Arguments]:
    units = ("ns", "us", "µs", "μs", "ms", "s", "m", "h", "d", "w", "y", "", "x", "S", "ss")
    numbers = ("0", "1", "1.5", ".5", "1.", ".", "00001", "9223372036854775807", "9223372036854775808", "0.000000001", "1..2",
               "2562047.788015215", "292", "106751", "15250", "0.1", "3.3333333333333333333333", "99999999999999999999", "1e3")  # fmt: skip
    for _ in range(count):
        if rng.random() < 0.05:
            yield (value(rng),)
            continue
        parts = (
            (rng.choice(numbers) if rng.random() < 0.4 else f"{rng.randrange(10**6) / 10 ** rng.randrange(5)}")
            + rng.choice(units)
            for _ in range(rng.choice((1, 1, 2, 3)))
        )
        yield (rng.choice(("", "", "", "-", "+", "--")) + "".join(parts),)


@cases("numbers.range_step")
def _range_step(rng: random.Random, count: int) -> Iterator[Arguments]:
    for _ in range(count):
        start = rng.choice((0, 0, 1, -5, 2**63 - 3, 10**30, -(10**20)))
        ends = [Number(str(start + rng.randint(-60, 60))) for _ in range(2)]
        # Only where a count from one end to the other ends soon.
        if rng.random() < 0.2 and abs(start) < 10:
            ends[rng.randrange(2)] = Number(rng.choice(("1.0", "1e1", "-0", "1.5", "0.0", "12e0", "100e-1", "1E1")))
        step: Value = (
            integer(rng, -2, 9)
            if rng.random() < 0.9
            else rng.choice((Number("1.0"), Number("2e0"), Number("0.5"), None, "1"))
        )
        yield (*ends, step)
