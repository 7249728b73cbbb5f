"""Identifiers that sort by time: UUID version 7 (RFC 9562, section 5.7). Pure: time and randomness are arguments."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

RANDOM_BYTES = 10


def uuid7(now: datetime, randomness: bytes) -> str:
    """Make the identifier of `now` (milliseconds count) from `RANDOM_BYTES` random bytes."""
    bits = int(now.timestamp() * 1000) << 80 | int.from_bytes(randomness[:RANDOM_BYTES], "big")
    bits = bits & ~(0xF << 76) | 0x7 << 76  # version
    bits = bits & ~(0x3 << 62) | 0x2 << 62  # variant
    return str(UUID(int=bits))
