"""What all files of a bundle share: strict objects, and words that are fit to be shown."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdp.engine.reading import Fields, PolicyError, is_name, is_owasp, is_policy_id, read_file, sentence


@given(st.binary(max_size=64))
def test_any_bytes_are_one_object_or_a_policy_error(data):
    with contextlib.suppress(PolicyError):
        read_file("limits", "x.json", data)


def test_members_are_taken_once_and_the_rest_is_refused():
    fields = Fields("`x.json`", {"name": "a", "odd\n": 1})
    assert fields.text("name") == "a"
    with pytest.raises(PolicyError, match=r"unknown member `odd\\n`"):
        fields.close()


@pytest.mark.parametrize("value", [True, 1.0, "1", None, -1, 11])
def test_a_number_is_whole_and_inside_its_bounds(value):
    with pytest.raises(PolicyError, match="whole number from 0 to 10"):
        Fields("x", {"n": value}).integer("n", default=0, low=0, high=10)


@given(st.text())
def test_a_sentence_is_printable_and_short(text):
    shown = sentence(text)
    assert shown.isprintable()
    assert len(shown) <= 500


def test_names_ids_and_risks():
    assert is_name("Ünïcode name")
    assert not any(map(is_name, ["", "a\x00", "a\u202eb", "x" * 257, 5]))
    assert all(map(is_policy_id, ["a", "ops.cedar#7", "exequatur/decision#deny"]))
    assert not any(map(is_policy_id, ["", "-a", "a b", "a\n", "x" * 129, None]))
    assert [tag for tag in ("ASI00", "ASI01", "ASI10", "ASI11", "asi01", "") if is_owasp(tag)] == ["ASI01", "ASI10"]
