"""A record: one canonical JSON object, with the writer that numbered it. What an auditor reads, and what is hashed.

Rules: records hold who, which tool, digests, effect, policies, errors, latency and cost, never an argument's value; the
bytes are RFC 8785, so that one record has one form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from exequatur.trust.canonical import Json, JsonError, JsonLimits, canonical, parse

VERSION: Final = 1
RECORD_BYTES: Final = 60 * 1024
"""The largest record: an entry of a C2SP entry bundle has at most 65,535 bytes."""

LIMITS: Final = JsonLimits(bytes=RECORD_BYTES)
KINDS: Final = frozenset({"decision", "repeat", "settlement", "charged", "session", "refused", "outcome"})


class RecordError(ValueError):
    """Bytes that are no record, and why."""


def encode(record: Mapping[str, Json], *, writer: str, number: int) -> bytes:
    """Give the bytes of `record` as number `number` of `writer`; raises `RecordError` for what cannot be recorded."""
    try:
        data = canonical({**record, "v": VERSION, "writer": writer, "number": number})
    except JsonError as error:
        raise RecordError(str(error)) from None
    if len(data) > RECORD_BYTES:
        raise RecordError(f"a record of {len(data)} bytes: at most {RECORD_BYTES} are taken")
    return data


def decode(data: bytes) -> dict[str, Json]:
    """Read a record back; raises `RecordError`."""
    try:
        record = parse(data, LIMITS)
        if not isinstance(record, dict) or canonical(record) != data:
            raise RecordError("a record must be one JSON object in canonical form")
    except JsonError as error:
        raise RecordError(f"a record must be JSON: {error}") from None
    writer, number, kind = record.get("writer"), record.get("number"), record.get("kind")
    if record.get("v") != VERSION or not isinstance(writer, str) or not isinstance(number, int) or number < 1:
        raise RecordError("a record must have `v`, `writer` and `number`")
    if kind not in KINDS:
        raise RecordError("a record must be of a known `kind`")
    return record
