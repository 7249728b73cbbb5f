"""Clients over a socket: each has a server of its own, none can hold up another, and all of them end in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from decisions import Decisions
from processes import children
from sidecar.doors import mcp_socket
from sidecar.doors.mcp_stdio import Door

STRANGE = Path(__file__).parents[2] / "support" / "strange_mcp.py"
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}


@dataclass
class House:
    """A door that listens in a folder, in this process; `log` has what reached the servers."""

    folder: Path
    decisions: Decisions = field(default_factory=Decisions)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    serving: asyncio.Task[int] | None = None
    wires: list[Wire] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.folder / "mcp" / "git.sock"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    async def serve(self, *command: str) -> None:
        command = command or (sys.executable, str(STRANGE), str(self.log))
        door = Door("strange", str(self.folder / "s.sock"), command)
        self.serving = asyncio.create_task(mcp_socket.serve(door, self.path, self.stop))
        while not (self.path.exists() or self.serving.done()):  # noqa: ASYNC110  what makes it has no event
            await asyncio.sleep(0)

    async def end(self) -> int:
        self.stop.set()
        async with asyncio.timeout(10):
            return await self.serving

    async def hang_up(self) -> None:
        for wire in self.wires:
            wire.writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await wire.writer.wait_closed()

    async def call(self) -> Wire:
        self.wires.append(Wire(*await asyncio.open_unix_connection(str(self.path), limit=2**24)))
        return self.wires[-1]

    def servers(self) -> list[int]:
        """Give the process ids of the servers that run."""
        return children(os.getpid(), "strange_mcp")


@dataclass
class Wire:
    """One client: a line of JSON at a time."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    last: int = 0

    def send(self, method: str, **params: object) -> None:
        self.last += 1
        message = {"jsonrpc": "2.0", "id": self.last, "method": method, "params": params}
        self.writer.write(json.dumps(message).encode() + b"\n")

    async def receive(self) -> Any:
        async with asyncio.timeout(10):
            line = await self.reader.readline()
            return json.loads(line) if line else None

    async def ask(self, method: str, **params: object) -> Any:
        self.send(method, **params)
        return await self.receive()

    async def closed(self) -> bool:
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                return await self.reader.read(1) == b""
            return True


@pytest.fixture
async def house() -> AsyncIterator[House]:
    with tempfile.TemporaryDirectory(prefix="ex-") as name:
        house = House(Path(name))
        house.path.parent.mkdir()
        server = await house.decisions.listen(house.folder / "s.sock")
        yield house
        if house.serving is not None:
            await house.end()
        await house.hang_up()
        await server.stop(0)


async def test_two_clients_have_two_servers_and_their_own_answers(house):
    await house.serve()
    one, two = await house.call(), await house.call()
    await one.ask("initialize", **HELLO)
    await two.ask("initialize", **HELLO)
    assert len(house.servers()) == 2
    one.send("tools/call", name="echo", arguments={"text": "one"})
    two.send("tools/call", name="echo", arguments={"text": "two"})
    for wire, text in ((two, "two"), (one, "one")):
        assert json.loads((await wire.receive())["result"]["content"][0]["text"]) == {"text": text}
    one.writer.close()  # and the other is served on
    assert (await two.ask("ping"))["result"] == {}
    assert [request.tool for request in house.decisions.asked] == ["strange/echo"] * 2


async def test_a_client_goes_and_its_server_goes_with_it(house):
    await house.serve()
    wire = await house.call()
    await wire.ask("initialize", **HELLO)
    (pid,) = house.servers()
    wire.send("tools/call", name="echo", arguments={})
    wire.writer.write_eof()  # it hears no more from us, and still has its answer
    assert "result" in await wire.receive()
    assert await wire.closed()
    assert pid not in house.servers()
    assert [outcome for _, outcome in house.decisions.settled] == [1]


async def test_a_server_that_dies_closes_its_clients_connection_and_no_others(house):
    await house.serve()
    one, two = await house.call(), await house.call()
    await one.ask("initialize", **HELLO)
    await two.ask("initialize", **HELLO)
    answer = await one.ask("tools/call", name="die", arguments={})
    assert "may or may not have run" in answer["error"]["message"]
    assert await one.closed()
    assert (await two.ask("ping"))["result"] == {}


async def test_one_client_too_many_is_told_so_by_the_id_of_its_question(house, monkeypatch):
    monkeypatch.setattr(mcp_socket, "CLIENTS", 1)
    monkeypatch.setattr(mcp_socket, "REFUSED", 1)
    await house.serve()
    first = await house.call()
    await first.ask("initialize", **HELLO)
    second, third = await house.call(), await house.call()
    assert await third.closed()  # it is not even heard
    second.last = 40
    answer = await second.ask("initialize", **HELLO)
    assert (answer["id"], answer["error"]["code"]) == (41, -32603)
    assert "1 clients are served already" in answer["error"]["message"]
    assert await second.closed()
    assert (await first.ask("ping"))["result"] == {}
    assert len(house.servers()) == 1


async def test_who_connects_and_says_nothing_costs_no_server(house):
    await house.serve()
    wire = await house.call()
    wire.writer.write_eof()
    assert await wire.closed()
    assert not house.log.exists()


async def test_the_end_answers_what_is_in_flight_and_leaves_nothing_running(house, capsys):
    await house.serve()
    wires = [await house.call() for _ in range(3)]
    for wire in wires[:2]:
        await wire.ask("initialize", **HELLO)
        wire.send("tools/call", name="hang", arguments={})
    while len(house.decisions.asked) < 2 or house.log.read_bytes().count(b'"hang"') < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    assert await house.end() == 0
    for wire in wires[:2]:
        assert "may or may not have run" in (await wire.receive())["error"]["message"]
    for wire in wires:
        assert await wire.closed()
    assert house.servers() == []
    assert not house.path.exists()
    assert len(house.decisions.settled) == 2


async def test_a_client_that_does_not_read_holds_up_neither_the_others_nor_the_end(house):
    await house.serve()
    deaf, other = await house.call(), await house.call()
    deaf.writer.transport.pause_reading()
    await other.ask("initialize", **HELLO)
    deaf.send("initialize", **HELLO)
    for _ in range(30):
        deaf.send("tools/call", name="echo", arguments={"text": "x" * 200_000})
    await deaf.writer.drain()
    assert (await other.ask("ping"))["result"] == {}
    assert await house.end() == 0
    assert house.servers() == []


async def test_the_socket_is_for_whoever_sees_it(house):
    await house.serve("true")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in house.path.parent.iterdir()}
    assert modes == {"git.sock": 0o666}
    assert stat.S_IMODE(house.path.parent.stat().st_mode) == 0o711
    assert await house.end() == 0
    house.stop.clear()
    await house.serve("true")  # the container starts again, and all of it is there
    assert house.path.exists()


@pytest.mark.parametrize(
    ("said", "broken"),
    [
        ("`/nonexistent/server` is no program here", "command"),
        ("must belong to this user and be writable by nobody else", "folder"),
        ("/mcp` is no folder: mount one there, which the agent has as well, read-only", "mount"),
    ],
)
async def test_what_cannot_be_served_is_one_clear_line(house, capsys, said, broken):
    if broken == "folder":
        house.path.parent.chmod(0o777)
    elif broken == "mount":
        house.path.parent.rmdir()
    await house.serve(*(["/nonexistent/server"] if broken == "command" else ["true"]))
    assert house.serving.result() == 69
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert house.path.parent.exists() == (broken != "mount")
