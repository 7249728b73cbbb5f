"""Records: strict JSON in canonical form (RFC 8785), numbered by each writer without a gap."""

from __future__ import annotations

import json
from typing import Any, Final

from .broken import Broken


def check_record(data: bytes, where: str, writers: dict[str, int]) -> None:
    """Hold one record against the rules, and its number against its writer's last one. Raises `Broken`."""
    try:
        record, _ = _DECODE(data.decode())  # what may follow is not canonical either
    except (ValueError, RecursionError):
        raise Broken(where, "is not JSON") from None
    if not isinstance(record, dict) or type(record.get("v")) is not int or record["v"] != 1:
        raise Broken(where, "is no record of version 1")
    writer, number = record.get("writer"), record.get("number")
    if not isinstance(writer, str) or type(number) is not int:
        raise Broken(where, "bears no writer and number")
    if not _is_canonical(data, record):
        raise Broken(where, "is not in canonical form: it can be read in two ways")
    if number != writers.get(writer, 0) + 1:
        raise Broken(where, f"is number {number} of `{writer}`, whose last one was {writers.get(writer, 0)}")
    writers[writer] = number


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODE: Final = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode
_ENCODE: Final = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), check_circular=False
).encode


def _is_canonical(data: bytes, value: Any) -> bool:
    """Whether these are the RFC 8785 bytes of `value`: no name twice, no space, no other order or escape.

    What the standard encoder writes otherwise than RFC 8785 (fractions, names beyond the BMP) is compared without that.
    """
    try:
        if _ENCODE(value).encode() == data:
            return True
        if not _is_odd(value):
            return False
        again = json.loads(data, object_pairs_hook=_refuse_twice)
    except (ValueError, RecursionError):
        return False
    return bool(again == value)


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name is there twice")
    return dict(pairs)


def _is_odd(value: Any) -> bool:
    if isinstance(value, dict):
        return any(max(name, default="") > "\uffff" or _is_odd(item) for name, item in value.items())
    return any(map(_is_odd, value)) if isinstance(value, list) else isinstance(value, float)
