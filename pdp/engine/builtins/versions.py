"""Semantic versions as `internal/semver` reads and orders them, and UUIDs as `google/uuid` takes them apart."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from pdp.engine.builtins import builtin
from pdp.engine.builtins.operands import text
from pdp.engine.builtins.values import UNDEFINED, BuiltinError, Number, RegoObject, Undefined, Value

_IDENTIFIERS: Final = re.compile(r"[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*")
_NUMERIC: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_LEADING_ZERO: Final = re.compile(r"0[0-9]+")
_LARGEST: Final = 2**63 - 1
_LONGEST: Final = 10_000

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_UUID_BARE: Final = re.compile(r"[0-9a-fA-F]{32}")
_UUID_EPOCH: Final = 122_192_928_000_000_000
"""The first of January 1970 in the clock of version 1: 100 ns each since 15 October 1582."""
_DOMAINS: Final = ("Person", "Group", "Org")


class _Version(NamedTuple):
    core: tuple[int, int, int]
    pre_release: str


@builtin("semver.is_valid")
def semver_is_valid(value: Value) -> Value:
    """Say whether this is a semantic version; what is not a string is not."""
    return isinstance(value, str) and _version(value) is not None


@builtin("semver.compare")
def semver_compare(first: Value, second: Value) -> Value:
    """Give -1, 0 or 1.

    Refused: pre-releases that differ only in numbers of more than 63 bits, on which OPA never returns.
    """
    a, b = _version(text(first, 1)), _version(text(second, 2))
    if a is None or b is None:
        raise BuiltinError(f"operand {1 if a is None else 2} must be a semantic version")
    return Number(str(_sign(a.core, b.core) or _compare_pre_releases(a.pre_release, b.pre_release)))


@builtin("uuid.parse")
def uuid_parse(value: Value) -> Value | Undefined:
    """Give the parts of a UUID; anything else is undefined."""
    digits = _uuid_digits(text(value, 1))
    if digits is None:
        return UNDEFINED
    data = bytes.fromhex(digits)
    version = data[6] >> 4
    parts: dict[Value, Value] = {"version": Number(str(version)), "variant": _variant(data[8])}
    if version in {1, 2}:
        ticks = int.from_bytes(data[:4]) | int.from_bytes(data[4:6]) << 32 | (int.from_bytes(data[6:8]) & 0xFFF) << 48
        # OPA multiplies in 64 bits, and so the far future wraps around.
        nanoseconds = ((ticks - _UUID_EPOCH) * 100 + 2**63) % 2**64 - 2**63
        parts["time"] = Number(str(nanoseconds))
        parts["nodeid"] = data[10:].hex("-")
        parts["macvariables"] = f"{_side(data[10], 2, 'local', 'global')}:{_side(data[10], 1, 'multicast', 'unicast')}"
        parts["clocksequence"] = Number(str(int.from_bytes(data[8:10]) & 0x3FFF))
    if version == 2:  # noqa: PLR2004
        parts["id"] = Number(str(int.from_bytes(data[:4])))
        parts["domain"] = _DOMAINS[data[9]] if data[9] < len(_DOMAINS) else f"Domain{data[9]}"
    return RegoObject(parts)


def _version(value: str) -> _Version | None:
    if len(value) > _LONGEST:
        raise BuiltinError("a version is too long")
    rest, build, metadata = value.removeprefix("v").partition("+")
    if build and not _IDENTIFIERS.fullmatch(metadata):
        return None
    rest, dash, pre_release = rest.partition("-")
    if dash and not (
        _IDENTIFIERS.fullmatch(pre_release)
        and not any(_LEADING_ZERO.fullmatch(identifier) for identifier in pre_release.split("."))
    ):
        return None
    numbers = rest.split(".")
    if len(numbers) != 3 or not all(_NUMERIC.fullmatch(number) and int(number) <= _LARGEST for number in numbers):  # noqa: PLR2004
        return None
    return _Version((int(numbers[0]), int(numbers[1]), int(numbers[2])), pre_release)


def _compare_pre_releases(first: str, second: str) -> int:
    if first == second:
        return 0
    if not first or not second:
        # A version without a pre-release is the greater one.
        return 1 if not first else -1
    a, b = first.split("."), second.split(".")
    for one, other in zip(a, b, strict=False):
        if one.isdigit() != other.isdigit():
            return -1 if one.isdigit() else 1
        if sign := _sign(_clamped(one), _clamped(other)) if one.isdigit() else _sign(one, other):
            return sign
    if len(a) == len(b):
        raise BuiltinError("the versions differ only in numbers of more than 63 bits")
    return _sign(len(a), len(b))


def _clamped(digits: str) -> int:
    return int(digits) if len(digits) < 20 and int(digits) <= _LARGEST else _LARGEST  # noqa: PLR2004


def _sign(first: Any, second: Any) -> int:
    return int(first > second) - int(first < second)


def _uuid_digits(value: str) -> str | None:
    # The lengths are of bytes: what stands around the braced form may be anything that is one byte.
    match len(value.encode()):
        case 32:
            return value if _UUID_BARE.fullmatch(value) else None
        case 38:
            value = value[1:-1] if len(value) == 38 else ""  # noqa: PLR2004
        case 45:
            value = value[9:] if value[:9].lower() == "urn:uuid:" else ""
        case 36:
            pass
        case _:
            return None
    return value.replace("-", "") if _UUID.fullmatch(value) else None


def _variant(octet: int) -> str:
    if octet & 0xC0 == 0x80:  # noqa: PLR2004
        return "RFC4122"
    if octet & 0xE0 == 0xC0:  # noqa: PLR2004
        return "Microsoft"
    return "Future" if octet & 0xE0 == 0xE0 else "Reserved"  # noqa: PLR2004


def _side(octet: int, bit: int, yes: str, no: str) -> str:
    return yes if octet & bit else no
