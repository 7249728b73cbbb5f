"""Others' JSON: JSONTestSuite's files are taken or refused as it says, RFC 8785's vectors come out to the byte."""

import json

import pytest

from exequatur.canonicalise import AmbiguousError, argv, command, host, path, url
from exequatur.trust.canonical import JsonError, canonical, parse, quoted
from others import folder, members

pytestmark = pytest.mark.conformance


def accepted(data: bytes) -> bool:
    try:
        parse(data)
    except JsonError:
        return False
    return True


def suite(kind: str) -> dict[str, bytes]:
    files = {name.rpartition("/")[2]: data for name, data in members("json-test-suite.tar.gz") if "/" in name}
    return {name: data for name, data in files.items() if name.startswith(kind)}


def test_what_is_not_json_is_refused():
    cases = suite("n_")
    assert len(cases) == 188
    assert [name for name, data in cases.items() if accepted(data)] == []


def test_json_is_accepted_but_for_members_that_are_there_twice():
    cases = suite("y_")
    assert len(cases) == 95
    # I-JSON (RFC 7493 section 2.3) refuses these two.
    twice = {"y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json"}
    assert {name for name, data in cases.items() if not accepted(data)} == twice


def test_what_may_go_either_way_never_fails_in_another_way():
    cases = suite("i_")
    assert len(cases) == 35
    for data in cases.values():
        accepted(data)


def test_the_standards_vectors_come_out_to_the_byte():
    files = dict(members("jcs-vectors.tar.gz"))
    inputs = {name.rpartition("/")[2]: data for name, data in files.items() if "/input/" in name}
    assert len(inputs) == 6
    for name, data in inputs.items():
        # One vector holds a number that the canonical form rounds, which `parse` refuses: read it without us.
        written = canonical(json.loads(data))
        assert written == files[f"testdata/output/{name}"]
        assert written == bytes.fromhex(files[f"testdata/outhex/{name.removesuffix('.json')}.txt"].decode())
        assert canonical(parse(written)) == written


def read(one, text: str):
    try:
        return one(text)
    except AmbiguousError:
        return None


def test_naughty_strings_crash_nothing():
    strings = json.loads((folder() / "naughty-strings.json").read_bytes())
    assert len(strings) == 515
    for text in strings:
        assert parse(canonical({text: [text]})) == {text: [text]}
        assert "\n" not in quoted(text)
        for one in (path, host, url, command, lambda value: argv([value, value])):
            assert read(one, text) is None or canonical(read(one, text))
        if ".." in text.split("/"):
            with pytest.raises(AmbiguousError):
                path(text)
