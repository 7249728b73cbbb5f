"""Calls of the built-ins on versions, units and UUIDs."""

from __future__ import annotations

import random
from collections.abc import Iterator

from comparing import Arguments, cases, refused
from pdp.engine.builtins.values import Value
from rego_values import text, value

_NUMBERS = ("0", "1", "2", "9", "10", "11", "99", "01", "00", "9223372036854775807", "9223372036854775808", "+1", "-1",
            "", "1_0", "0x1", "\uff11")  # fmt: skip
_IDENTIFIERS = ("alpha", "beta", "rc", "0", "1", "2", "10", "01", "00a", "a-b", "-", "--1", "A", "a", "x7z", "é", "",
                "99999999999999999999", "9223372036854775807", "9223372036854775806", "1a")  # fmt: skip


@cases("semver.is_valid")
def _version(rng: random.Random, count: int) -> Iterator[Arguments]:
    for _ in range(count):
        yield (_odd(rng, _semver(rng, 0.15)),)


@cases("semver.compare")
def _versions(rng: random.Random, count: int) -> Iterator[Arguments]:
    made = 0
    while made < count:
        one, other = _semver(rng, 0.02), _semver(rng, 0.02)
        if rng.random() < 0.3:
            other = one.split("-")[0] + "-" + other.partition("-")[2]
        given = _odd(rng, one), _odd(rng, other)
        # OPA never returns from these.
        if not refused("semver.compare", given, "more than 63 bits"):
            made += 1
            yield given


def _semver(rng: random.Random, wrong: float) -> str:
    numbers = [rng.choice(_NUMBERS if rng.random() < wrong else _NUMBERS[:5]) for _ in range(3)]
    if rng.random() < wrong:
        numbers = numbers[: rng.randrange(3)] + [rng.choice(_NUMBERS)] * rng.randrange(3)
    whole = rng.choice(("", "", "", "v", "vv" if rng.random() < wrong else "v")) + ".".join(numbers)
    if rng.random() < 0.6:
        whole += "-" + _identifiers(rng, wrong)
    if rng.random() < 0.3:
        whole += "+" + _identifiers(rng, wrong)
    return whole + (rng.choice((" ", "\n", "+", "-", ".")) if rng.random() < wrong else "")


def _identifiers(rng: random.Random, wrong: float) -> str:
    good = [each for each in _IDENTIFIERS if each not in {"01", "é", ""}]
    return ".".join(rng.choice(_IDENTIFIERS if rng.random() < wrong else good) for _ in range(rng.randrange(1, 4)))


@cases("units.parse", "units.parse_bytes")
def _amounts(rng: random.Random, count: int) -> Iterator[Arguments]:
    units = ["", "", "b", "k", "K", "m", "M", "g", "G", "t", "T", "p", "P", "e", "E", "ki", "Ki", "KI", "mi", "Mi", "gi",
             "Gi", "ti", "pi", "ei", "Ei", "kb", "KB", "mb", "MB", "kib", "KiB", "MIB", "GiB", "eb", "EIB", "İ", "Kİ",
             "\u212a", "kİb", "x", "kk", "é", "²", "\uff11"]  # fmt: skip
    made = 0
    while made < count:
        unit = rng.choice(units)
        given = _odd(rng, _quoted(rng, _amount(rng) + unit) if rng.random() < 0.98 else unit + _amount(rng))
        if not refused("units.parse_bytes", (given,), "too many digits"):
            made += 1
            yield (given,)


def _amount(rng: random.Random) -> str:
    roll = rng.random()
    whole = str(rng.randrange(10 ** rng.choice((1, 2, 3, 6, 18, 19, 20, 25, 40))))
    if roll < 0.4:
        whole += "." + str(rng.randrange(10 ** rng.choice((1, 2, 3, 10, 11, 20, 30)))).zfill(rng.choice((1, 2, 12)))
    if rng.random() < 0.2:
        whole += rng.choice("eE") + rng.choice(("", "+", "-")) + str(rng.randrange(rng.choice((3, 20, 60, 300))))
    if rng.random() < 0.1:
        whole = rng.choice("+-") + whole
    if rng.random() < 0.1:
        at = rng.randrange(len(whole) + 1)
        whole = whole[:at] + rng.choice((".", "e", "E", "+", "-", "_", " ", "0", "00", "e1234567", "ee")) + whole[at:]
    return whole


def _quoted(rng: random.Random, whole: str) -> str:
    return f'"{whole}"' if rng.random() < 0.05 else whole


@cases("uuid.parse")
def _uuids(rng: random.Random, count: int) -> Iterator[Arguments]:
    for _ in range(count):
        digits = f"{rng.getrandbits(128):032x}"
        digits = digits[:12] + rng.choice("0112222345678f") + digits[13:]
        if rng.random() < 0.4:
            digits = digits[:16] + rng.choice("89abcdef07") + rng.choice("0") + rng.choice("0123") + digits[19:]
        whole = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
        form = rng.randrange(10)
        if form == 0:
            whole = digits
        elif form == 1:
            whole = rng.choice(("urn:uuid:", "URN:UUID:", "urn:uuİd:", "urn;uuid:", "uRn:uUiD:")) + whole
        elif form == 2:
            whole = rng.choice("{(xé") + whole + rng.choice("})yé")
        if rng.random() < 0.2:
            whole = whole.upper()
        if rng.random() < 0.15:
            at = rng.randrange(len(whole))
            whole = whole[:at] + rng.choice(("", "g", "-", "0", "é", "\uff11")) + whole[at + 1 :]
        yield (_odd(rng, whole),)


def _odd(rng: random.Random, usual: Value) -> Value:
    roll = rng.random()
    return value(rng) if roll < 0.02 else text(rng) if roll < 0.04 else usual
