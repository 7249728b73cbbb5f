"""Recorded actions: lines of JSON, each as `policy eval` takes it, read one at a time."""

from __future__ import annotations

import io
import itertools
import json

import pytest

from pdp.engine.reading import PolicyError
from pdp.policy.diff import recorded
from policies import NOW

ACTION = {"agent": "coder", "tool": "git/log", "arguments": {"repo": "a"}}


def read(*lines: object):
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    return list(recorded.read(io.BytesIO(text.encode()), "day.jsonl", NOW))


def test_an_envelope_is_a_line():
    ((number, case),) = read({**ACTION, "session": "s1", "claims": {"tokens": 3}})
    assert number == 1
    assert (case.action.tool, case.action.claims.tokens, case.time, case.door_enforced) == ("git/log", 3, NOW, False)
    assert case.run.id == "s1"


def test_what_eval_takes_as_options_stands_beside_it():
    beside = {"session": {"labels": ["pii"], "steps": 4}, "time": "2026-03-01T05:00:00+01:00", "door_enforced": True}
    ((_, case),) = read({"action": ACTION, **beside})
    assert (case.run.labels, case.run.steps, case.door_enforced) == (("pii",), 4, True)
    assert case.time.isoformat() == "2026-03-01T04:00:00+00:00"


def test_empty_lines_count_and_are_no_actions():
    assert [number for number, _ in read(ACTION, "", "  ", ACTION)] == [1, 4]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[]", "the envelope must be a JSON object"),
        ({"agent": "coder"}, "`tool`"),
        ({**ACTION, "tme": 1}, "not known"),
        ({"action": ACTION, "tme": 1}, "unknown member `tme`"),
        ({"action": ACTION, "time": "2026-03-01"}, "`time` must be"),
        ({"action": ACTION, "door_enforced": "yes"}, "`door_enforced` must be"),
        ({"action": ACTION, "session": {"lables": []}}, "unknown member `lables`"),
        ({**ACTION, "arguments": {"text": "x" * 2**20}}, "a line of more than"),
    ],
)
def test_a_line_that_is_no_action_is_named(line, said):
    with pytest.raises(PolicyError) as error:
        read(ACTION, line)
    assert str(error.value).startswith("`day.jsonl:2`")
    assert said in str(error.value)


def test_lines_are_read_one_at_a_time():
    class Endless(io.RawIOBase):
        given = 0

        def readline(self, size=-1, /):
            self.given += 1
            return json.dumps(ACTION).encode() + b"\n"

    endless = Endless()
    list(itertools.islice(recorded.read(endless, "day.jsonl", NOW), 5))
    assert endless.given == 5
