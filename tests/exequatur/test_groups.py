"""A group of records is whole or nothing, wherever it is cut and whichever byte is flipped."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from exequatur.groups import GROUP, group_behind, read_group, write_group

RECORDS = st.lists(st.binary(max_size=60), min_size=1, max_size=5)


@given(RECORDS, st.integers(1, 2**63), st.binary(max_size=20))
def test_what_is_written_is_read(records, first, before):
    data = before + write_group(first, records)
    group = read_group(io.BytesIO(data + b"more"), len(before))
    assert group is not None
    assert (group.first, group.records, group.end) == (first, records, len(data))


@given(RECORDS, st.data())
def test_a_group_that_is_cut_or_changed_is_none(records, data):
    good = write_group(7, records)
    at = data.draw(st.integers(0, len(good) - 1))
    changed = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    assert read_group(io.BytesIO(good[:at]), 0) is None
    assert read_group(io.BytesIO(changed), 0) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_a_group_or_none(data):
    assert read_group(io.BytesIO(data), 0) is None
    assert not group_behind(io.BytesIO(data), 0)


@given(RECORDS, st.binary(min_size=1, max_size=50), st.binary(max_size=20))
def test_a_group_behind_damage_is_found(records, damage, after):
    assert group_behind(io.BytesIO(damage + write_group(3, records) + after), 0)
    assert group_behind(io.BytesIO(GROUP + damage + write_group(3, records)), 0)
