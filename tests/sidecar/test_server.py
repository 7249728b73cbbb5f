"""The sidecar as a process: sockets, records on their way, crashes, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from decisions import SERVICES, Decisions
from exequatur.client import AsyncClient, CallError, Effect
from exequatur.transport import Code, Peer, Refusal, Server
from exequatur.v1 import audit_pb2
from pki import Authority
from stack import free_port, http_get
from starts import refusal

SIDECAR = "spiffe://test/sidecar"
COMMAND = (sys.executable, "-I", "-m", "exequatur")


@dataclass
class Away:
    """A ledger that is not there: who has `called` it waits until that is `over`, and has then called in vain."""

    called: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class House:
    """A decision point and a ledger over mutual TLS, and a sidecar process between them and a socket."""

    folder: Path
    authority: Authority
    decisions: Decisions = field(default_factory=Decisions)
    peers: set[str] = field(default_factory=set)
    entries: dict[tuple[str, int], bytes] = field(default_factory=dict)
    ledger_down: bool = False
    away: Away | None = None
    process: asyncio.subprocess.Process | None = None
    server: Server | None = None

    async def listen(self) -> None:
        def proved(handler: Callable[..., Awaitable[bytes]]) -> Callable[..., Awaitable[bytes]]:
            async def checked(message: bytes, peer: Peer, left_s: float | None) -> bytes:
                self.peers.add(peer.identity)
                return await handler(message, peer, left_s)

            return checked

        handlers = {**self.decisions.handlers, "/exequatur.v1.AuditService/Append": self.append}
        self.server = Server({path: proved(handler) for path, handler in handlers.items()}, SERVICES)
        port = self.server.listen_tcp("127.0.0.1:0", self.authority.issue("pdp", "spiffe://test/pdp"))
        self.target = f"127.0.0.1:{port}"
        await self.server.start()

    async def append(self, message: bytes, peer: Peer, left_s: float | None) -> bytes:
        if self.away is not None and not self.away.over.is_set():
            self.away.called.set()
            await self.away.over.wait()
            raise Refusal(Code.UNAVAILABLE, "lost on the way")
        if self.ledger_down:
            raise Refusal(Code.UNAVAILABLE, "down")
        request = audit_pb2.AppendRequest.FromString(message)
        for number, record in enumerate(request.records, request.first_number):
            assert self.entries.setdefault((request.writer, number), record) == record
        return audit_pb2.AppendResponse(
            acknowledged=request.first_number + len(request.records) - 1
        ).SerializeToString()

    def argv(self, *more: str) -> list[str]:
        files = self.authority.issue("sidecar", SIDECAR)
        return [
            *(*COMMAND, "sidecar", "run", "--http", "127.0.0.1:0"),
            *("--pdp", self.target, "--ledger", self.target, "--spool", str(self.folder / "spool")),
            *(
                "--tls-certificate",
                str(files.certificate),
                "--tls-key",
                str(files.key),
                "--tls-roots",
                str(files.roots),
            ),
            *("--agents", f"agent=coder,socket={self.socket}"),
            *more,
        ]

    @property
    def socket(self) -> Path:
        return self.folder / "coder.sock"

    async def start(self, *more: str) -> None:
        self.process = await asyncio.create_subprocess_exec(*self.argv(*more), stderr=asyncio.subprocess.PIPE)
        await self.logged("serving 1 sockets")

    async def logged(self, words: str) -> str:
        said = ""
        async with asyncio.timeout(60):
            while line := (await self.process.stderr.readline()).decode():
                said += line
                if words in line:
                    return line
        raise AssertionError(f"it ended without `{words}`: {said}")

    async def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(60):
            await self.process.communicate()
        return self.process.returncode

    async def closed(self) -> None:
        """Wait until nobody listens on the socket any more."""
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionError, FileNotFoundError):
                while True:
                    _, writer = await asyncio.open_unix_connection(str(self.socket))
                    writer.close()
                    await asyncio.sleep(0.02)

    def records(self) -> list[dict]:
        return [json.loads(record) for record in self.entries.values()]


@pytest.fixture
async def house() -> AsyncIterator[House]:
    with tempfile.TemporaryDirectory() as name:
        house = House(Path(name), Authority(Path(name) / "pki"))
        await house.listen()
        yield house
        if house.process is not None:
            await house.end()
        await house.server.stop(0)


async def test_one_life(house):
    port, asked, may_answer = free_port(), asyncio.Event(), asyncio.Event()
    await house.start("--http", f"127.0.0.1:{port}")
    async with AsyncClient(f"unix:{house.socket}") as agent:
        assert (await agent.authorize("git/git_status", {"repo_path": "/work"})).allowed
        assert (await agent.authorize("git/git_status", {}, agent="admin")).effect is Effect.DENY
        assert house.socket.stat().st_mode & 0o777 == 0o600
        await health_readiness_and_metrics_are_served(port)
        await nobody_takes_its_place(house)

        def rule(request, response):
            async def later():
                asked.set()
                await may_answer.wait()
                return response

            return later()

        house.away = Away()
        assert (await agent.authorize("git/git_status", {})).allowed
        await house.away.called.wait()
        house.decisions.rule = rule
        flying = asyncio.create_task(agent.authorize("git/git_status", {}))
        await asked.wait()
        house.process.send_signal(signal.SIGTERM)
        may_answer.set()
        assert (await flying).allowed, "what was accepted is answered"
    await house.closed()
    house.away.over.set()
    assert await house.end() == 0  # and the ledger, back since then, has everything before the sidecar ended
    assert [(record["kind"], record["go"]) for record in house.records()] == [
        ("outcome", True),
        ("outcome", False),
        ("outcome", True),
        ("outcome", True),
    ]
    assert all(writer.startswith(f"{SIDECAR}#") for writer, _ in house.entries)
    assert house.peers == {SIDECAR}


async def health_readiness_and_metrics_are_served(port: int) -> None:
    async def get(path: str) -> str:
        return (await asyncio.to_thread(http_get, port, path))[1]

    assert await get("/healthz") == "ok\n"
    assert json.loads(await get("/readyz")) == {"ready": True, "missing": []}
    metrics = await get("/metrics")
    assert 'exequatur_sidecar_actions_total{door="grpc",effect="allow",why=""} 1.0' in metrics
    assert "exequatur_spool_backlog_records" in metrics


async def nobody_takes_its_place(house: House) -> None:
    """That it is not disturbed either is seen when it is asked again."""
    for more, code, said in (
        ((), 64, "is in use by another process"),
        (("--spool", str(house.folder / "other")), 69, f"`{house.socket}` is taken by a running process"),
        (
            ("--spool", str(house.folder / "third"), "--tls-key", "/nonexistent"),
            64,
            "`/nonexistent` cannot be read: no such file",
        ),
    ):
        assert said in await asyncio.to_thread(refusal, house.argv(*more)[len(COMMAND) :], code)


async def test_kill_9_loses_no_answered_outcome_and_doubles_none(house):
    house.ledger_down = True
    await house.start()
    async with AsyncClient(f"unix:{house.socket}") as agent:
        answered = {(await agent.authorize("git/git_status", {"n": n})).decision_id for n in range(50)}
        flying = [asyncio.create_task(agent.authorize("git/git_status", {"n": n})) for n in range(200)]
        await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
        await house.end(signal.SIGKILL)
        for done in await asyncio.gather(*flying, return_exceptions=True):
            if not isinstance(done, CallError):
                answered.add(done.decision_id)
    house.ledger_down = False
    await house.start()
    async with AsyncClient(f"unix:{house.socket}") as agent:
        answered.add((await agent.authorize("git/git_status", {})).decision_id)
    assert await house.end() == 0
    recorded = [record["decision_id"] for record in house.records()]
    assert answered <= set(recorded)
    assert len(recorded) == len(set(recorded))
    assert sorted(number for _, number in house.entries) == list(range(1, len(recorded) + 1))


def test_every_fault_of_the_settings_is_one_line():
    command = [*COMMAND, "sidecar", "run", "--spool", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 64
    assert {line.split(":")[0] for line in done.stderr.splitlines()} == {"error"}
    assert "agents" in done.stderr
    assert "pdp" in done.stderr


async def test_a_full_disk_denies_and_the_sidecar_lives(house):
    # The kernel's limit on a file's size stands in for a disk without room.
    full = ["bash", "-c", 'ulimit -f 16; exec "$0" "$@"', *house.argv("--ledger", "127.0.0.1:1")]
    house.process = await asyncio.create_subprocess_exec(*full, stderr=asyncio.subprocess.PIPE)
    await house.logged("serving 1 sockets")
    async with AsyncClient(f"unix:{house.socket}") as agent:
        decisions = [await agent.authorize("git/git_status", {"n": n}) for n in range(60)]
        allowed = [decision for decision in decisions if decision.allowed]
        assert 0 < len(allowed) < len(decisions)
        assert "could not be recorded" in decisions[-1].reasons[0].text
    assert len(house.decisions.settled) == len(decisions) - len(allowed)
    assert house.process.returncode is None
