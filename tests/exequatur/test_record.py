"""Records are one canonical object each, numbered, never too large for the ledger, never left out."""

from __future__ import annotations

import contextlib
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exequatur.record import RECORD_BYTES, RecordError, decode, encode
from exequatur.trust.canonical import canonical

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=8,
)
NAMES = st.text(max_size=8).filter(lambda name: name not in ("v", "writer", "number"))
RECORDS = st.dictionaries(NAMES, VALUES, max_size=6)


@given(RECORDS, st.integers(1, 2**53 - 1))
def test_what_is_written_is_read(record, number):
    data = encode({**record, "kind": "decision"}, writer="me#1", number=number)
    assert decode(data) == {**record, "kind": "decision", "v": 1, "writer": "me#1", "number": number}


@given(st.integers(1, 3_000), st.integers(1, 150), st.sampled_from(["x", "é", "\x01", '"']))
def test_a_record_that_is_too_large_is_shortened_and_says_so(size, members, letter):
    record = {"kind": "decision", "decision_id": "d1", **{f"m{n}": letter * size for n in range(members)}}
    record["errors"] = [letter * 700] * 100
    data = encode(record, writer="me#1", number=7)
    kept = decode(data)
    assert len(data) <= RECORD_BYTES
    assert (kept["kind"], kept["decision_id"], kept["number"]) == ("decision", "d1", 7)
    assert "errors" in kept["left_out"] or len(kept["left_out"]) == 64
    whole = canonical({**record, "v": 1, "writer": "me#1", "number": 7})
    assert kept["whole"] == {"bytes": len(whole), "sha256": hashlib.sha256(whole).hexdigest()}


@pytest.mark.parametrize("size", [RECORD_BYTES, 10 * RECORD_BYTES, 100 * RECORD_BYTES])
def test_a_hundred_times_too_large_is_still_on_record(size):
    data = encode({"kind": "decision", "text": "x" * size}, writer="me#1", number=1)
    assert decode(data)["left_out"] == ["text"]


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({}, "`kind`"),
        ({"kind": 3}, "`kind`"),
        ({"kind": "x", "number": 3}, "`number`"),
        ({"kind": "x", "a": float("nan")}, "canonical form"),
        ({"kind": "x", "a": 2**60}, "string"),
        ({"kind": "x", "a": "\ud800"}, "surrogate"),
        ({"kind": "x", "a": json.loads("[" * 70 + "]" * 70)}, "inside each other"),
    ],
)
def test_what_is_no_record_is_refused_before_it_is_written(record, why):
    with pytest.raises(RecordError, match=why):
        encode(record, writer="me#1", number=1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"kind":"x","number":1,"v":1,"writer":"a"} ',
        b'{"kind": "x","number":1,"v":1,"writer":"a"}',
        b'{"number":1,"kind":"x","v":1,"writer":"a"}',
        b'{"kind":"x","number":0,"v":1,"writer":"a"}',
        b'{"kind":"x","number":true,"v":1,"writer":"a"}',
        b'{"kind":"x","number":1.5,"v":1,"writer":"a"}',
        b'{"kind":"x","number":1,"v":true,"writer":"a"}',
        b'{"kind":"x","number":1,"v":2,"writer":"a"}',
        b'{"kind":"x","number":1,"v":1,"writer":1}',
        b'{"number":1,"v":1,"writer":"a"}',
        b'{"kind":"x","kind":"x","number":1,"v":1,"writer":"a"}',
        b'{"kind":"' + b"x" * RECORD_BYTES + b'","number":1,"v":1,"writer":"a"}',
    ],
)
def test_what_is_not_a_record_to_the_byte_is_refused(data):
    with pytest.raises(RecordError):
        decode(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_a_record_error(data):
    with contextlib.suppress(RecordError):
        decode(data)
