"""Records: what the ledger keeps, one RFC 8785 object each, numbered by its writer.

Rules: a record holds no argument's value, only digests; every record carries `v`, `writer`, `number` and `kind`; none
is over `RECORD_BYTES`, and one that would be is shortened and says so: a record is never left out.

Kinds: `decision`, `repeat`, `settlement`, `charged`, `session`, `refused`, `bundle`, `shadow` (decision point);
`outcome` (sidecar).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from exequatur.trust.canonical import Json, JsonError, JsonLimits, canonical, parse

VERSION: Final = 1
RECORD_BYTES: Final = 60 * 1024
"""The largest record, in bytes; an entry of a C2SP bundle has at most 65,535."""

_OURS: Final = ("v", "writer", "number")
_LIMITS: Final = JsonLimits(bytes=RECORD_BYTES, keys=RECORD_BYTES)
_KEPT_BYTES: Final = 512  # of a member of a record that is too large
_KEPT_MEMBERS: Final = 40


class RecordError(ValueError):
    """Something that is no record: one sentence."""


def encode(record: Mapping[str, Json], *, writer: str, number: int) -> bytes:
    """Make the bytes that are kept; raises `RecordError` for what has no canonical form or no kind.

    A record that is too large keeps its small members; the names of the others are in `left_out`, and `whole` has the
    size and SHA-256 of what it was.
    """
    if taken := [name for name in _OURS if name in record]:
        raise RecordError(f"a record must leave `{taken[0]}` to its spool")
    if not isinstance(record.get("kind"), str):
        raise RecordError("a record must have a `kind`")
    numbered: dict[str, Json] = {**record, "v": VERSION, "writer": writer, "number": number}
    try:
        data = canonical(numbered)
        if len(data) > RECORD_BYTES:
            data = canonical(_shorten(numbered, data))
        if data.count(b"{") + data.count(b"[") > _LIMITS.depth:  # near the limit: would the ledger read it?
            parse(data, _LIMITS)
    except JsonError as error:
        raise RecordError(f"the record cannot be written: {error}") from None
    return data


def decode(data: bytes) -> dict[str, Json]:
    """Read one record, strictly; raises `RecordError` for anything that `encode` would not have made."""
    try:
        value = parse(data, _LIMITS)
        if not isinstance(value, dict) or canonical(value) != data:
            raise RecordError("a record must be one JSON object in canonical form")
    except JsonError as error:
        raise RecordError(f"a record is not strict JSON: {error}") from None
    if value.get("v") != VERSION or isinstance(value["v"], bool):
        raise RecordError(f"a record must be of version {VERSION}")
    writer, number, kind = value.get("writer"), value.get("number"), value.get("kind")
    if not isinstance(writer, str) or not isinstance(kind, str):
        raise RecordError("a record must name its `writer` and its `kind`")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise RecordError("a record must have a `number` from 1 on")
    return value


def _shorten(record: Mapping[str, Json], data: bytes) -> dict[str, Json]:
    kept: dict[str, Json] = {}
    left_out: list[Json] = []
    for name, value in record.items():
        small = len(kept) < _KEPT_MEMBERS and len(name) + len(canonical(value)) <= _KEPT_BYTES
        if small or name in _OURS or name == "kind":
            kept[name] = value
        else:
            left_out.append(name[:64])
    kept["left_out"] = left_out[:64]
    kept["whole"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return kept
