"""Cases are YAML for people, and mean what JSON would."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdp.bundle.reading import DEPTH, FILE_BYTES, read_document
from pdp.engine.reading import PolicyError


def refusal(data: bytes) -> str:
    with pytest.raises(PolicyError) as caught:
        read_document("cases/a.yaml", data)
    return str(caught.value)


def items(data: bytes) -> list[object]:
    value = read_document("a.yaml", data).value
    assert isinstance(value, list)
    return value


def test_plain_words_mean_what_json_means_by_them():
    (item,) = items(b"- {a: no, b: 1e3, c: 0x10, d: 2026-01-05T10:00:00Z, e: true, f: ~, g: '1', h: 1.50}")
    assert item == {
        "a": "no",
        "b": 1000,
        "c": "0x10",
        "d": "2026-01-05T10:00:00Z",
        "e": True,
        "f": None,
        "g": "1",
        "h": 1.5,
    }


def test_each_value_knows_its_line():
    read = read_document("a.yaml", b"# first\n- a\n\n- b: 1\n  c/d:\n    - {e: 2}\n- f\n")
    for pointer, line in {"": 2, "/0": 2, "/1": 4, "/1/b": 4, "/1/c~1d": 5, "/1/c~1d/0/e": 6, "/2": 7}.items():
        assert read.where(pointer) == f"a.yaml:{line}"


def test_what_is_not_there_is_where_it_is_missing():
    read = read_document("a.yaml", b"cases:\n  - b: 1\n")
    assert read.where("/cases/0/name/x") == "a.yaml:2"
    assert read.where("/elsewhere") == "a.yaml:1"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"- {a: 1, a: 2}", "`a` is there twice"),
        (b"- ? [a]\n  : b", "must be text"),
        (b"- &a x\n- *a", "anchors and aliases"),
        (b"- a\n- *b", "anchors and aliases"),
        (b"- &a {b: *a}", "anchors and aliases"),
        (b"- !!python/object/apply:os.system [ls]", "tags are not taken"),
        (b"- !!int '3'", "tags are not taken"),
        (b"- 9007199254740993", "put it in quotes"),
        (b"- 1e400", "put it in quotes"),
        (b"- a\n---\n- b", "second document"),
        (b"a", "a list of cases"),
        (b"", "a list of cases"),
        (b"- [", "not YAML"),
        (b"- \x00", "not YAML"),
        (b"- ok\n- \xff", "`cases/a.yaml:2`: not UTF-8"),
        (b"- " + b"[" * 100_000, "nests too deep"),
        (b"- " + b"{a: " * 100_000, "nests too deep"),
        (b"- a\n" * (FILE_BYTES // 4 + 1), "the limit is"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(data, why):
    assert why in refusal(data)
    assert refusal(data).startswith("`cases/a.yaml")


def test_laughter_is_not_multiplied():
    lines = [b"- &l0 ha"] + [b"- &l%d [%s]" % (n, b",".join([b"*l%d" % (n - 1)] * 10)) for n in range(1, 30)]
    assert "anchors" in refusal(b"\n".join(lines))


def test_depth_is_counted_from_the_list():
    assert items(b"- " + b"[" * (DEPTH - 1) + b"]" * (DEPTH - 1))
    assert "too deep" in refusal(b"- " + b"[" * DEPTH + b"]" * DEPTH)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abcdef", min_size=1, max_size=9), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(JSON)
def test_json_in_ascii_is_read_as_json(value):
    assert items(json.dumps([value]).encode()) == [value]


@given(st.binary(max_size=200) | st.text("-[]{}&*!|>'\"#%@,:? \n\tab1~", max_size=60).map(str.encode))
def test_any_bytes_are_read_or_a_policy_error(data):
    with contextlib.suppress(PolicyError):
        read_document("a.yaml", data)
