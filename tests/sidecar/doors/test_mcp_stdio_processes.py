"""The shim around servers, each with one of its own: how it begins, real servers, and that nothing is left running."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

from decisions import Decisions, deny
from mcp_wire import EXECUTED, FAILED, HELLO, NOT_EXECUTED, Wire, command, settled, start, until
from processes import runs
from sidecar.doors.mcp_stdio import DRAIN_S, EXIT_S, main

GIT = [sys.executable, "-m", "mcp_server_git"]
TOOLS = Path(__file__).parents[3] / "policies" / "coding-agent" / "tools.json"
PINS = {
    name: bytes.fromhex(tool["definition_sha256"]) for name, tool in json.loads(TOOLS.read_bytes())["tools"].items()
}


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


@pytest.fixture
async def wire(folder: Path, decisions: Decisions) -> AsyncIterator[Wire]:
    wire = await start(folder)
    await wire.ask("initialize", **HELLO)
    await wire.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
    yield wire
    await wire.close()


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
            decisions.pins = {**PINS, "git/git_log": b"\0" * 32}
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


# How it begins.


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


async def test_a_call_without_an_open_session_is_judged_and_not_forwarded(wire, decisions):
    decisions.open = False
    assert (await wire.call("echo"))["result"]["isError"] is True
    assert len(decisions.asked) == 1
    assert wire.reached() == []


async def test_a_version_that_is_not_spoken_is_not_agreed_to(folder, decisions):
    wire = await start(folder, VERSION="2099-01-01")
    assert "no version of MCP" in (await wire.ask("initialize", **HELLO))["error"]["message"]
    await wire.close()


async def test_a_dead_sidecar_is_a_denial(folder, decisions):
    wire = await start(folder)
    await wire.ask("initialize", **HELLO)
    (folder / "s.sock").unlink()
    answer = await wire.call("echo")
    assert answer["result"]["isError"] is True
    assert "error" in await wire.ask("tools/list")
    assert wire.reached() == []
    await wire.close()


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


# The end.


async def test_a_server_that_dies_leaves_errors_and_no_shim(wire, decisions):
    await wire.send({"jsonrpc": "2.0", "id": "waiting", "method": "tools/call", "params": {"name": "hang"}})
    await until(lambda: bool(decisions.asked))
    await wire.send({"jsonrpc": "2.0", "id": "fatal", "method": "tools/call", "params": {"name": "die"}})
    answers = [await wire.receive(), await wire.receive()]
    assert {answer["id"] for answer in answers} == {"waiting", "fatal"}
    assert all("may or may not have run" in answer["error"]["message"] for answer in answers)
    async with asyncio.timeout(60):
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
        async with asyncio.timeout(60):
            assert await wire.process.wait() == 0
    else:
        assert await wire.close() == 0
    assert time.monotonic() - began < 10  # on a busy machine; what it allows itself is less
    for pid in pids:
        assert not runs(pid)
    assert decisions.settled == [("d1", FAILED)]


def test_all_that_the_end_may_take_is_less_than_what_clients_wait():
    settling, the_server, a_client_that_does_not_read = EXIT_S, 2 * EXIT_S, EXIT_S
    assert DRAIN_S + settling + the_server + a_client_that_does_not_read < 4


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
