"""Lines, messages and words: any bytes are a message or a refusal, and a refusal helps a model without telling on us."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exequatur.values import Decision, Effect, Reason, ReasonKind
from sidecar.doors import mcp_messages as mcp
from sidecar.gate import Why

DENY = Decision("d1", Effect.DENY, (Reason(ReasonKind.FORBIDDEN, "pushes to main are forbidden", "p1", "cedar"),))


@given(st.binary(max_size=200))
def test_any_bytes_from_a_client_are_a_message_or_a_refusal(line):
    with contextlib.suppress(mcp.Unreadable):
        assert isinstance(mcp.read_client(line), mcp.Message | None)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error"]), inner)
        ),
    )
)
def test_any_json_from_either_side_is_read_or_refused(value):
    line = json.dumps(value).encode()
    mcp.read_server(line)
    with contextlib.suppress(mcp.Unreadable):
        mcp.read_client(line)


@given(st.lists(st.binary(max_size=30)), st.integers(1, 40))
def test_lines_do_not_depend_on_how_the_stream_is_cut(parts, size):
    stream = b"\n".join(parts) + b"\n"
    lines = mcp.Lines(20)
    cut = [line for at in range(0, len(stream), size) for line in lines.feed(stream[at : at + size])]
    assert cut == list(mcp.Lines(20).feed(stream))
    assert all(line is None or 0 < len(line) <= 20 for line in cut)


def test_a_line_over_the_limit_is_refused_and_not_kept():
    lines = mcp.Lines(10)
    assert list(lines.feed(b"x" * 1000)) == []
    assert lines.overrun
    assert lines._parts == []
    assert list(lines.feed(b"x\n{}\n")) == [None, b"{}"]


def test_a_batch_is_told_to_come_one_by_one():
    with pytest.raises(mcp.Unreadable, match="send one message a line"):
        mcp.read_client(b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]')


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_a_result_that_is_not_json_is_not_passed_on(number):
    assert mcp.read_server(b'{"jsonrpc":"2.0","id":1,"result":' + number + b"}") is None


def test_a_call_is_written_with_the_judged_bytes_on_one_line():
    arguments = '{"text":"a\\nb","é":1}'.encode()
    line = mcp.call(7, "echo", arguments)
    assert line.count(b"\n") == 1
    assert arguments in line
    assert json.loads(line) == {
        "jsonrpc": "2.0",
        "id": 7,
        "method": "tools/call",
        "params": {"name": "echo", "arguments": json.loads(arguments)},
    }


def test_every_capability_but_tools_is_struck_both_ways():
    asked = {
        "protocolVersion": "2099-01-01",
        "capabilities": {"sampling": {}, "elicitation": {}, "tasks": {}},
        "clientInfo": {"name": "c", "version": "1", "x": 1},
    }
    told = mcp.initialize_params(asked)
    assert told == {"protocolVersion": mcp.VERSIONS[0], "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
    answered = {
        "protocolVersion": "2025-06-18",
        "capabilities": {"prompts": {}, "experimental": {}},
        "serverInfo": None,
        "instructions": "x",
    }
    assert mcp.initialize_result(answered) == {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "serverInfo": {"name": "unknown", "version": "0"},
    }


@pytest.mark.parametrize("kind", list(ReasonKind))
def test_each_kind_of_denial_says_what_why_and_what_to_do(kind):
    decision = dataclasses.replace(
        DENY, reasons=(Reason(kind, "the text", "policy-id", "cedar"),), errors=("inner error",)
    )
    text = mcp.words("git/git_push", Why.DENIED, decision)
    assert text.startswith("`git/git_push` was not run: ")
    assert len(text.splitlines()) >= 3
    assert "inner error" not in text
    assert ("the text" in text) == (kind not in (ReasonKind.ERROR, ReasonKind.STALE, ReasonKind.UNSPECIFIED))


def test_a_retry_is_offered_only_when_it_makes_sense():
    assert "again after 250 ms" in mcp.words("t/x", Why.DENIED, dataclasses.replace(DENY, retry_after_ms=250))
    assert "Repeating it unchanged will be refused again" in mcp.words("t/x", Why.DENIED, DENY)


@pytest.mark.parametrize("why", [why for why in Why if why not in (Why.DENIED, Why.APPROVAL)])
def test_a_refusal_of_the_gate_itself_tells_nothing_from_inside(why):
    text = mcp.words("t/x", why, dataclasses.replace(DENY, effect=Effect.ALLOW, errors=("inner",)))
    assert "no valid decision" in text
    assert "pushes" not in text
    assert why.value not in text
