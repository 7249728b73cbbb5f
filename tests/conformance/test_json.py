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


def test_what_is_not_json_is_refused(tally):
    cases = suite("n_")
    taken = [name for name, data in cases.items() if accepted(data)]
    tally("JSONTestSuite: must be refused", len(cases), wrong=len(taken))
    assert len(cases) == 188
    assert taken == []


def test_json_is_accepted_but_for_members_that_are_there_twice(tally):
    cases = suite("y_")
    assert len(cases) == 95
    # I-JSON (RFC 7493 section 2.3) refuses these two.
    twice = {"y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json"}
    refused = {name for name, data in cases.items() if not accepted(data)}
    note = "a member that is there twice (I-JSON)"
    tally("JSONTestSuite: must be accepted", len(cases), refused=len(twice), wrong=len(refused ^ twice), note=note)
    assert refused == twice


def test_what_may_go_either_way_never_fails_in_another_way(tally):
    cases = suite("i_")
    assert len(cases) == 35
    taken = [data for data in cases.values() if accepted(data)]
    note = "not I-JSON, or over a limit"
    tally("JSONTestSuite: either way", len(cases), refused=len(cases) - len(taken), wrong=0, note=note)


def test_the_standards_vectors_come_out_to_the_byte(tally):
    files = dict(members("jcs-vectors.tar.gz"))
    inputs = {name.rpartition("/")[2]: data for name, data in files.items() if "/input/" in name}
    assert len(inputs) == 6
    for name, data in inputs.items():
        # One vector holds a number that the canonical form rounds, which `parse` refuses: read it without us.
        written = canonical(json.loads(data))
        assert written == files[f"testdata/output/{name}"]
        assert written == bytes.fromhex(files[f"testdata/outhex/{name.removesuffix('.json')}.txt"].decode())
        assert canonical(parse(written)) == written
    tally("RFC 8785 vectors", len(inputs), wrong=0)


def read(one, text: str):
    try:
        return one(text)
    except AmbiguousError:
        return None


def test_naughty_strings_crash_nothing(tally):
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
    tally("naughty strings", len(strings), wrong=0)
