"""Identifiers are UUIDs of version 7 and sort by time."""

from __future__ import annotations

import datetime as dt
import os
import uuid

from pdp.ids import RANDOM_BYTES, uuid7

NOW = dt.datetime(2026, 1, 5, 10, tzinfo=dt.UTC)


def test_an_id_is_a_uuid_of_version_7_with_its_time():
    made = uuid.UUID(uuid7(NOW, b"\xff" * RANDOM_BYTES))
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert made.int >> 80 == int(NOW.timestamp() * 1000)
    # The example of RFC 9562, appendix A.6.
    example = dt.datetime.fromtimestamp(0x017F22E279B0 / 1000, dt.UTC)
    random = (0xCC3 << 64 | 0x18C4DC0C0C07398F).to_bytes(10, "big")
    assert uuid7(example, random) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


def test_later_ids_sort_later():
    ids = [uuid7(NOW + dt.timedelta(milliseconds=n), os.urandom(RANDOM_BYTES)) for n in range(50)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 50
