"""The bytes of a spool's file: a mark, then groups of records, each of them whole or nothing.

What is appended at once is one group: `GROUP`, the length of its payload and how many records it has (4 bytes each,
big-endian), the first one's number (8), CRC-32 over all of that and the payload (4); then the payload, which is each
record's length (4) and bytes. A group is written only when the one before it is synced: so a bad one before a good one
is damage, and a bad one at the end is what a crash leaves.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import BinaryIO, Final, NamedTuple

MARK: Final = b"exspool1"
GROUP: Final = b"\xffgrp"  # 0xff is in no UTF-8 text: it is found again behind damage
_HEADER: Final = struct.Struct(">4sIIQI")
_LENGTH: Final = struct.Struct(">I")
_CRC_BYTES: Final = 4


class Group(NamedTuple):
    """Records that were appended at once: the first one's number, their bytes, and where the next group begins."""

    first: int
    records: list[bytes]
    end: int


def write_group(first: int, records: Sequence[bytes]) -> bytes:
    """Make the bytes of a group whose first record has number `first`."""
    payload = b"".join(part for record in records for part in (_LENGTH.pack(len(record)), record))
    header = _HEADER.pack(GROUP, len(payload), len(records), first, 0)[:-_CRC_BYTES]
    return header + _LENGTH.pack(zlib.crc32(payload, zlib.crc32(header))) + payload


def read_group(file: BinaryIO, offset: int) -> Group | None:
    """Read the group at `offset`, in bytes; None where there is no whole one."""
    file.seek(offset)
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    mark, size, count, first, crc = _HEADER.unpack(header)
    if mark != GROUP or offset + _HEADER.size + size > file.seek(0, 2):
        return None
    file.seek(offset + _HEADER.size)
    payload = file.read(size)
    if len(payload) < size or zlib.crc32(payload, zlib.crc32(header[:-_CRC_BYTES])) != crc:
        return None
    records, start = [], 0
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(payload, start)
        records.append(payload[start + _LENGTH.size : start + _LENGTH.size + length])
        start += _LENGTH.size + length
    return Group(first, records, offset + _HEADER.size + size)


def group_behind(file: BinaryIO, offset: int) -> bool:
    """Whether a whole group stands anywhere behind `offset`, where there is none."""
    file.seek(offset)
    rest = file.read()
    at = rest.find(GROUP, 1)
    while at >= 0:
        if read_group(file, offset + at) is not None:
            return True
        at = rest.find(GROUP, at + 1)
    return False
