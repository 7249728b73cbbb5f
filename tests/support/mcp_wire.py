"""The shim as a process between a test and a server, one line of JSON at a time."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from decisions import Decisions

STRANGE = Path(__file__).with_name("strange_mcp.py")
HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"sampling": {}, "roots": {}},
    "clientInfo": {"name": "t", "version": "1"},
}
EXECUTED, FAILED, NOT_EXECUTED = 1, 2, 3


def command(folder: Path, server: str, *program: str) -> list[str]:
    door = [sys.executable, "-I", "-m", "exequatur", "sidecar", "mcp", "--server", server]
    return [*door, "--socket", str(folder / "s.sock"), "--", *program]


class Wire:
    """The shim and one line of JSON at a time."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process, self._log, self._id, self._before = process, log, 0, 0

    async def send(self, message: object) -> None:
        line = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.process.stdin.write(line + b"\n")
        await self.process.stdin.drain()

    async def receive(self) -> Any:
        async with asyncio.timeout(60):
            return json.loads(await self.process.stdout.readline())

    async def ask(self, method: str, **params: object) -> Any:
        self._id += 1
        await self.send({"jsonrpc": "2.0", "id": self._id, "method": method, "params": params})
        answer = await self.receive()
        assert answer["id"] == self._id
        return answer

    async def call(self, tool: str, **arguments: object) -> Any:
        return await self.ask("tools/call", name=tool, arguments=arguments)

    def begin_anew(self) -> None:
        """Forget what has reached the server."""
        self._before = self._log.stat().st_size

    def reached(self) -> list[Any]:
        """The calls that reached the server, the shim's own questions and answers left out."""
        own = (None, "initialize", "tools/list", "notifications/initialized")
        lines = [json.loads(line) for line in self.raw().splitlines()]
        return [line for line in lines if line.get("method") not in own]

    def raw(self) -> bytes:
        return self._log.read_bytes()[self._before :]

    async def close(self) -> int:
        if not self.process.stdin.is_closing():
            self.process.stdin.close()
        async with asyncio.timeout(60):
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


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def settled(decisions: Decisions, count: int = 1) -> list[tuple[str, int]]:
    await until(lambda: len(decisions.settled) >= count)
    return decisions.settled
