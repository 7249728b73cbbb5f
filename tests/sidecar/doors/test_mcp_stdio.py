"""The shim around a server: what reaches the server, and what comes back. One shim serves all of these tests."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from decisions import Decisions, deny
from exequatur.registry import definition_sha256
from exequatur.transport import Code, Refusal
from exequatur.v1 import decision_pb2 as pb
from mcp_wire import EXECUTED, FAILED, HELLO, NOT_EXECUTED, Wire, settled, start, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[tuple[Wire, Decisions]]:
    with tempfile.TemporaryDirectory(prefix="ex-") as folder:
        service = Decisions()
        server = await service.listen(Path(folder) / "s.sock")
        wire = await start(Path(folder))
        await wire.ask("initialize", **HELLO)
        await wire.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        yield wire, service
        assert await wire.close() == 0
        await server.stop(0)


@pytest.fixture
def wire(shared: tuple[Wire, Decisions]) -> Wire:
    shared[0].begin_anew()
    return shared[0]


@pytest.fixture
def decisions(shared: tuple[Wire, Decisions]) -> Decisions:
    shared[1].begin_anew()
    return shared[1]


# What reaches the server.


async def test_only_name_and_judged_bytes_are_forwarded(wire, decisions):
    meta = {"progressToken": 1, "traceparent": "00-1"}
    answer = await wire.ask("tools/call", name="echo", arguments={"text": "é", "n": 1.0}, _meta=meta)
    assert json.loads(answer["result"]["content"][0]["text"]) == {"n": 1, "text": "é"}
    (forwarded,) = wire.reached()
    assert forwarded.keys() == {"jsonrpc", "id", "method", "params"}
    assert forwarded["params"].keys() == {"name", "arguments"}
    assert decisions.asked[0].arguments_json == '{"n":1,"text":"é"}'.encode()
    assert b'"arguments":' + decisions.asked[0].arguments_json + b"}}\n" in wire.raw()


async def test_the_list_follows_pages_and_hides_what_is_not_pinned(wire, decisions):
    assert (await wire.ask("tools/list"))["result"] == {"tools": []}
    definition = {
        "name": "fail",
        "description": "does fail",
        "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}},
    }
    decisions.pins = {f"strange/{name}": definition_sha256({**definition, "name": name}) for name in ("fail", "twice")}
    decisions.pins["strange/echo"] = b"\1" * 32
    # Members that the pin does not cover are not shown, an ambiguous tool is not, a changed one is not.
    assert (await wire.ask("tools/list"))["result"] == {"tools": [definition]}


OTHER_METHODS = (
    *("resources/list", "prompts/get", "completion/complete", "server/discover", "logging/setLevel", "tasks/list"),
    *("tools/call ", "TOOLS/CALL", "tools/call\0", ""),
)


async def test_every_other_method_is_refused_and_does_not_reach_the_server(wire):
    for method in OTHER_METHODS:
        assert (await wire.ask(method))["error"]["code"] == -32601, method
        await wire.send({"jsonrpc": "2.0", "method": method})
    await wire.ask("ping")
    assert [line["method"] for line in wire.reached()] == ["ping"]


WRONG = [
    (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600),
    (b'{"jsonrpc":"2.0","id":5,"method":"ping","method":"tools/call"}', -32700),
    (b'{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"echo","arguments":{"a":1,"a":2}}}', -32700),
    (
        b'{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"echo","arguments":{"n":9007199254740993}}}',
        -32700,
    ),
    (b'{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"echo","arguments":{"n":NaN}}}', -32700),
    (
        b'{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"echo","arguments":{"t":"'
        + b"x" * 300_000
        + b'"}}}',
        -32700,
    ),
    (b'{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"echo","task":{}}}', -32602),
    (b'{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"echo","arguments":[]}}', -32602),
    (b'{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"nobody"}}', -32602),
    (b'{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"twice"}}', -32602),
    (b'{"jsonrpc":"2.0","id":5,"method":"tools/call","params":[]}', -32600),
    (b'{"jsonrpc":"2.0","id":5,"method":"ping","extra":1}', -32600),
    (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600),
    (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600),
    (b'{"id":5,"method":"ping"}', -32600),
    (b"[" * 100_000, -32700),
    (b"\xff\xfe", -32700),
    (b"{", -32700),
    (b"x" * 5_000_000, -32600),
]
"""Lines of a client, and the error that each one gets; one with `"id":5` in it gets it back."""


async def test_a_message_that_is_not_exactly_right_is_refused_alive(wire, decisions):
    for line, code in WRONG:
        await wire.send(line)
        answer = await wire.receive()
        assert answer["error"]["code"] == code, line[:100]
        assert answer["id"] == (5 if b'"id":5' in line else None), line[:100]
    assert "result" in await wire.ask("ping")
    assert decisions.asked == []
    assert [line["method"] for line in wire.reached()] == ["ping"]


async def test_an_id_in_flight_cannot_be_used_again(wire, decisions):
    hanging = {"jsonrpc": "2.0", "id": "a", "method": "tools/call", "params": {"name": "hang"}}
    await wire.send(hanging)
    await wire.send(hanging)
    answer = await wire.receive()
    assert answer["id"] == "a"
    assert "in flight" in answer["error"]["message"]
    await until(wire.reached)
    await wire.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "a"}})
    assert await settled(decisions) == [(decisions.id(1), FAILED)]


# Refusals.


async def test_a_denial_says_what_why_and_what_to_do_and_nothing_from_inside(wire, decisions):
    def rule(request, response):
        response.evidence.errors.append("while evaluating policy `ops.cedar#7`: secret detail")
        return deny(request, response, text="pushes to main are forbidden")

    decisions.rule = rule
    answer = await wire.call("echo", text="hunter2")
    text = answer["result"]["content"][0]["text"]
    assert answer["result"]["isError"] is True
    assert text.splitlines()[0] == "`strange/echo` was not run: policy forbids this call."
    assert "pushes to main are forbidden" in text
    assert "Repeating it unchanged will be refused again." in text
    assert f"Decision {decisions.id(1)}." in text
    assert "secret" not in text
    assert "hunter2" not in text
    assert wire.reached() == []
    assert decisions.settled == []


async def test_an_approval_says_who_may_give_it(wire, decisions):
    def rule(request, response):
        deny(request, response, kind=pb.REASON_KIND_RESTRICTED, text="publishing needs a second pair of eyes")
        response.effect = pb.EFFECT_REQUIRE_APPROVAL
        response.approvers.append("release-managers")
        return response

    decisions.rule = rule
    text = (await wire.call("echo"))["result"]["content"][0]["text"]
    assert "needs a person's approval first" in text
    assert "Who may approve: release-managers." in text
    assert "Do not repeat the call unchanged before it is approved" in text


UNFIT = (
    {"action_digest": b"\1" * 32},
    {"action_digest": b""},
    {"repeated_answer": True},
    {"effect": pb.EFFECT_UNSPECIFIED},
    {"effect": 77},
    {"obligations": [pb.Obligation(id="rewrite", parameters_json=b"{}")]},
    {"session": "another"},
    {"reasons": []},
)


async def test_an_allow_that_does_not_fit_forwards_nothing(wire, decisions):
    for change in UNFIT:
        decisions.rule = lambda request, response, change=change: pb.AuthorizeResponse(
            **({field.name: value for field, value in response.ListFields()} | change)
        )
        assert (await wire.call("echo", text="x"))["result"]["isError"] is True, change
    assert wire.reached() == []


async def test_a_refusing_sidecar_is_a_denial(wire, decisions):
    decisions.rule = lambda request, response: Refusal(Code.UNAVAILABLE, "internal words")
    text = (await wire.call("echo"))["result"]["content"][0]["text"]
    assert "without one nothing runs" in text
    assert "internal words" not in text
    assert wire.reached() == []


async def test_what_the_caller_can_mend_is_said_to_it(wire, decisions):
    decisions.rule = lambda request, response: Refusal(Code.INVALID_ARGUMENT, "the arguments are over 256 KiB")
    text = (await wire.call("echo"))["result"]["content"][0]["text"]
    assert "the arguments are over 256 KiB" in text
    assert "correct the tool or the arguments" in text
    assert wire.reached() == []


# Settling.


async def test_outcomes_are_settled_as_they_were(wire, decisions):
    await wire.call("echo")
    await wire.call("fail")
    await wire.call("odd")
    assert await settled(decisions, 3) == [
        (decisions.id(1), EXECUTED),
        (decisions.id(2), FAILED),
        (decisions.id(3), EXECUTED),
    ]
    assert not decisions.settlements[0].HasField("cost_microusd")


async def test_a_result_with_numbers_beyond_doubles_comes_back_whole(wire):
    assert (await wire.call("odd"))["result"]["structuredContent"] == {"big": 2**70, "price": 0.1}


async def test_a_call_cancelled_before_its_decision_is_never_forwarded(wire, decisions):
    judging, cancelled = asyncio.Event(), asyncio.Event()

    def rule(request, response):
        async def later():
            judging.set()
            await cancelled.wait()
            return response

        return later()

    decisions.rule = rule
    await wire.send({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "echo"}})
    await judging.wait()
    await wire.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}})
    await wire.ask("ping")
    cancelled.set()
    assert await settled(decisions) == [(decisions.id(1), NOT_EXECUTED)]
    await wire.ask("ping")
    assert [line["method"] for line in wire.reached()] == ["ping", "ping"]


async def test_a_call_cancelled_at_the_server_is_cancelled_there_and_charged(wire, decisions):
    await wire.send({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "hang"}})
    await until(wire.reached)
    await wire.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}})
    assert await settled(decisions) == [(decisions.id(1), FAILED)]
    await wire.ask("ping")
    call, cancel, _ = wire.reached()
    assert cancel["params"] == {"requestId": call["id"]}
