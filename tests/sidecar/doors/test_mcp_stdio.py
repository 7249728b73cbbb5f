"""The shim around real servers: what reaches the server, what comes back, and that nothing is left running."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

from decisions import Decisions, deny
from exequatur.registry import definition_sha256
from exequatur.transport import Code, Refusal
from exequatur.v1 import decision_pb2 as pb
from processes import runs
from sidecar.doors.mcp_stdio import main

STRANGE = Path(__file__).parents[2] / "support" / "strange_mcp.py"
GIT = [sys.executable, "-m", "mcp_server_git"]
HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"sampling": {}, "roots": {}},
    "clientInfo": {"name": "t", "version": "1"},
}
EXECUTED, FAILED, NOT_EXECUTED = 1, 2, 3


@pytest.fixture
def folder() -> Path:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
async def decisions(folder: Path) -> AsyncIterator[Decisions]:
    service = Decisions()
    server = await service.listen(folder / "s.sock")
    yield service
    await server.stop(0)


def command(folder: Path, server: str, *program: str) -> list[str]:
    door = [sys.executable, "-I", "-m", "exequatur", "sidecar", "mcp", "--server", server]
    return [*door, "--socket", str(folder / "s.sock"), "--", *program]


class Wire:
    """The shim and one line of JSON at a time."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process, self._log, self._id = process, log, 0

    async def send(self, message: object) -> None:
        line = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.process.stdin.write(line + b"\n")
        await self.process.stdin.drain()

    async def receive(self) -> Any:
        async with asyncio.timeout(10):
            return json.loads(await self.process.stdout.readline())

    async def ask(self, method: str, **params: object) -> Any:
        self._id += 1
        await self.send({"jsonrpc": "2.0", "id": self._id, "method": method, "params": params})
        answer = await self.receive()
        assert answer["id"] == self._id
        return answer

    async def call(self, tool: str, **arguments: object) -> Any:
        return await self.ask("tools/call", name=tool, arguments=arguments)

    def reached(self) -> list[Any]:
        """The calls that reached the server, the shim's own questions and answers left out."""
        own = (None, "initialize", "tools/list", "notifications/initialized")
        lines = [json.loads(line) for line in self._log.read_bytes().splitlines()]
        return [line for line in lines if line.get("method") not in own]

    def raw(self) -> bytes:
        return self._log.read_bytes()

    async def close(self) -> int:
        if not self.process.stdin.is_closing():
            self.process.stdin.close()
        async with asyncio.timeout(10):
            return await self.process.wait()


async def start(folder: Path, **environ: str) -> Wire:
    log = folder / "log"
    log.touch()
    process = await asyncio.create_subprocess_exec(
        *command(folder, "strange", sys.executable, str(STRANGE), str(log)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environ},
        limit=2**24,
    )
    return Wire(process, log)


@pytest.fixture
async def wire(folder: Path, decisions: Decisions) -> AsyncIterator[Wire]:
    wire = await start(folder)
    await wire.ask("initialize", **HELLO)
    await wire.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
    yield wire
    await wire.close()


async def settled(decisions: Decisions, count: int = 1) -> list[tuple[str, int]]:
    await until(lambda: len(decisions.settled) >= count)
    return decisions.settled


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


# The published git server and the official client.


@pytest.fixture
def repository(folder: Path) -> Path:
    path = folder / "repository"
    run = lambda *words: subprocess.run(["git", *words], cwd=path, check=True, capture_output=True)  # noqa: E731
    path.mkdir()
    run("init", "-q", "-b", "main")
    run("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "--allow-empty", "-m", "first")
    return path


async def test_the_published_git_server_works_behind_the_gate(folder, decisions, repository):
    def rule(request, response):
        if request.tool == "git/git_reset":
            return deny(request, response, text="history is not rewritten here")
        return response

    decisions.rule = rule
    program = command(folder, "git", *GIT, "--repository", str(repository))
    with (folder / "stderr").open("w") as stderr:
        parameters = StdioServerParameters(command=program[0], args=program[1:], env=dict(os.environ))
        async with stdio_client(parameters, errlog=stderr) as streams, ClientSession(*streams) as session:
            hello = await session.initialize()
            assert hello.capabilities.tools is not None
            assert hello.capabilities.prompts is None
            assert hello.capabilities.resources is None
            assert (await session.list_tools()).tools == []  # nothing is in scope yet
            decisions.pins = {f"git/{name}": digest for name, digest in (await pins(repository)).items()}
            decisions.pins["git/git_log"] = b"\0" * 32
            shown = [tool.name for tool in (await session.list_tools()).tools]
            assert "git_status" in shown
            assert "git_log" not in shown

            status = await session.call_tool("git_status", {"repo_path": str(repository)})
            assert not status.is_error
            assert "On branch main" in status.content[0].text
            refused = await session.call_tool("git_reset", {"repo_path": str(repository)})
            assert refused.is_error
            assert "history is not rewritten here" in refused.content[0].text
            await session.send_ping()
    assert "hidden: `git/git_log`" in (folder / "stderr").read_text()
    assert [request.tool for request in decisions.asked] == ["git/git_status", "git/git_reset"]
    assert decisions.asked[0].definition_sha256 == decisions.pins["git/git_status"]
    assert (
        decisions.asked[0].arguments_json == json.dumps({"repo_path": str(repository)}, separators=(",", ":")).encode()
    )
    assert await settled(decisions) == [("d1", EXECUTED)]


async def pins(repository: Path) -> dict[str, bytes]:
    """The digests of the git server's tools, asked of the server itself."""
    lines = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {**HELLO, "capabilities": {}}},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
    ]
    process = await asyncio.create_subprocess_exec(
        *GIT, "--repository", str(repository), stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=2**20
    )
    found: dict[str, bytes] = {}
    for line in lines:
        process.stdin.write(json.dumps(line).encode() + b"\n")
    while not found:
        answer = json.loads(await process.stdout.readline())
        if answer.get("id") == 2:
            found = {tool["name"]: definition_sha256(tool) for tool in answer["result"]["tools"]}
    process.stdin.close()
    await process.wait()
    return found


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


async def test_capabilities_and_unpinned_words_are_struck_on_both_sides(folder, decisions):
    wire = await start(folder)
    result = (await wire.ask("initialize", **HELLO))["result"]
    assert result["capabilities"] == {"tools": {"listChanged": True}}
    assert result["serverInfo"] == {"name": "strange", "version": "1"}
    assert "instructions" not in result
    await wire.ask("ping")
    first, second = [json.loads(line) for line in wire.raw().splitlines()][:2]
    assert first["params"]["capabilities"] == {}
    # The server's own request for the client's roots is answered here, and never shown.
    assert second == {"jsonrpc": "2.0", "id": 99, "error": second["error"]}
    assert second["error"]["code"] == -32601
    assert await wire.close() == 0


async def test_a_version_that_is_not_spoken_is_not_agreed_to(folder, decisions):
    wire = await start(folder, VERSION="2099-01-01")
    assert "no version of MCP" in (await wire.ask("initialize", **HELLO))["error"]["message"]
    await wire.close()


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
    assert "Decision d1." in text
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


async def test_a_dead_sidecar_is_a_denial(folder, decisions):
    wire = await start(folder)
    await wire.ask("initialize", **HELLO)
    (folder / "s.sock").unlink()
    answer = await wire.call("echo")
    assert answer["result"]["isError"] is True
    assert "error" in await wire.ask("tools/list")
    assert wire.reached() == []
    await wire.close()


async def test_a_call_without_an_open_session_is_judged_and_not_forwarded(wire, decisions):
    decisions.open = False
    assert (await wire.call("echo"))["result"]["isError"] is True
    assert len(decisions.asked) == 1
    assert wire.reached() == []


# Settling.


async def test_outcomes_are_settled_as_they_were(wire, decisions):
    await wire.call("echo")
    await wire.call("fail")
    await wire.call("odd")
    assert await settled(decisions, 3) == [("d1", EXECUTED), ("d2", FAILED), ("d3", EXECUTED)]
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
    assert await settled(decisions) == [("d1", NOT_EXECUTED)]
    await wire.ask("ping")
    assert [line["method"] for line in wire.reached()] == ["ping", "ping"]


async def test_tools_that_change_while_a_call_is_judged_stop_it(folder, decisions):
    judging, changed = asyncio.Event(), asyncio.Event()

    def rule(request, response):
        async def later():
            judging.set()
            await changed.wait()
            return response

        return later()

    decisions.rule = rule
    wire = await start(folder, RESTLESS="1")
    await wire.send({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "echo"}})
    await judging.wait()
    await wire.send({"jsonrpc": "2.0", "id": 8, "method": "ping"})
    assert (await wire.receive())["method"] == "notifications/tools/list_changed"
    assert (await wire.receive())["id"] == 8
    changed.set()
    assert "list them again" in (await wire.receive())["error"]["message"]
    assert await settled(decisions) == [("d1", NOT_EXECUTED)]
    assert [line["method"] for line in wire.reached()] == ["ping"]
    await wire.close()


async def test_a_call_cancelled_at_the_server_is_cancelled_there_and_charged(wire, decisions):
    await wire.send({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "hang"}})
    await until(wire.reached)
    await wire.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}})
    assert await settled(decisions) == [("d1", FAILED)]
    await wire.ask("ping")
    call, cancel, _ = wire.reached()
    assert cancel["params"] == {"requestId": call["id"]}


# The end.


async def test_a_server_that_dies_leaves_errors_and_no_shim(wire, decisions):
    await wire.send({"jsonrpc": "2.0", "id": "waiting", "method": "tools/call", "params": {"name": "hang"}})
    await until(lambda: bool(decisions.asked))
    await wire.send({"jsonrpc": "2.0", "id": "fatal", "method": "tools/call", "params": {"name": "die"}})
    answers = [await wire.receive(), await wire.receive()]
    assert {answer["id"] for answer in answers} == {"waiting", "fatal"}
    assert all("may or may not have run" in answer["error"]["message"] for answer in answers)
    async with asyncio.timeout(10):
        assert await wire.process.wait() == 69
    assert sorted(decisions.settled) == [("d1", FAILED), ("d2", FAILED)]


async def test_a_go_ahead_that_comes_after_the_server_died_is_given_back(wire, decisions):
    died = asyncio.Event()

    def rule(request, response):
        async def later():
            await died.wait()
            return response

        return later() if request.tool == "strange/echo" else response

    decisions.rule = rule
    await wire.send({"jsonrpc": "2.0", "id": "waiting", "method": "tools/call", "params": {"name": "echo"}})
    await until(lambda: bool(decisions.asked))
    await wire.send({"jsonrpc": "2.0", "id": "fatal", "method": "tools/call", "params": {"name": "die"}})
    assert (await wire.receive())["id"] == "fatal"
    died.set()
    answer = await wire.receive()
    assert answer["id"] == "waiting"
    assert "error" in answer
    assert sorted(await settled(decisions, 2)) == [("d1", NOT_EXECUTED), ("d2", FAILED)]


@pytest.mark.parametrize(("how", "manners"), [("eof", "rude"), ("signal", "rude"), ("eof", "polite")])
async def test_nothing_is_left_running_even_of_a_server_that_will_not_end(folder, decisions, how, manners):
    wire = await start(folder, STRAY=manners)
    pids = [int(word) for word in (await wire.process.stderr.readline()).split()[1:]]
    await wire.ask("initialize", **HELLO)
    await wire.send({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "hang"}})
    await until(lambda: bool(wire.reached()))
    began = time.monotonic()
    if how == "signal":
        wire.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await wire.process.wait() == 0
    else:
        assert await wire.close() == 0
    assert time.monotonic() - began < 4  # after which MCP clients kill
    for pid in pids:
        assert not runs(pid)
    assert decisions.settled == [("d1", FAILED)]


async def test_answers_in_flight_arrive_after_the_client_closed_its_end(folder, decisions):
    wire = await start(folder)
    await wire.ask("initialize", **HELLO)
    await wire.send({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "echo"}})
    wire.process.stdin.close()
    assert "result" in await wire.receive()
    assert await wire.close() == 0
    assert decisions.settled == [("d1", EXECUTED)]


async def test_a_server_that_cannot_be_started_is_one_clear_line(folder):
    process = await asyncio.create_subprocess_exec(
        *command(folder, "x", "/nonexistent/server"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    _, stderr = await process.communicate()
    assert process.returncode == 69
    assert stderr.decode() == "exequatur: `/nonexistent/server` cannot be started: no such file or directory\n"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--server", "x"],
        ["--server", "a/b", "--socket", "s", "--", "c"],
        ["--server", "x", "--socket", "s", "--"],
        ["--server", "x", "--", "c"],
    ],
)
def test_a_wrong_command_line_is_a_usage_error(argv, monkeypatch, capsys):
    monkeypatch.delenv("EXEQUATUR_SOCKET", raising=False)
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_the_shim_starts_without_heavy_imports():
    code = "import sys, sidecar.doors.mcp_stdio; print([m for m in ('pydantic', 'mcp', 'typer', 'uvicorn', 'starlette', 'sqlalchemy') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert out.stdout.strip() == "[]"
