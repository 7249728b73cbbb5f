"""An agent of a pod and its tool: a real MCP client, the program that joins it, the gate, and a real git server.

Each has the user and the mounts that it has in a pod: the agent sees the door's volume read-only, and has no other way
to the server, which runs as another user and opens no port. The decision point is in this process, behind real TLS.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

import containers
import shim
from decisions import SERVICES, Decisions, deny
from exequatur.client import Client, Outcome
from exequatur.spool import Spool
from exequatur.transport import Server
from pki import Authority
from processes import children, command_line
from stack import Process, free_port, until

TOOLS = json.loads((Path(__file__).parents[2] / "policies" / "coding-agent" / "tools.json").read_text())["tools"]
SIDECAR = "spiffe://example.com/sidecar/coder"


@dataclass
class Pod:
    """A sidecar with a door for gRPC and one for a git server in a container of its own."""

    folder: Path
    repository: Path
    decisions: Decisions = field(default_factory=lambda: Decisions(no_options, pins()))
    sidecar: Process | None = None
    door: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        folder = self.folder
        folder.chmod(0o711)
        for name in ("doors/grpc", "doors/git", "mcp/git"):
            (folder / name).mkdir(parents=True)
            (folder / name).chmod(0o777)  # as an `emptyDir` is
        self.mcp, self.log, self.program = folder / "mcp" / "git", folder / "door.log", folder / "bin" / "exequatur-mcp"
        subprocess.run(["git", "init", "-q", "-b", "main", self.repository], check=True)
        for path in (self.repository, *self.repository.rglob("*")):
            os.chown(path, containers.SERVER, containers.SERVER)

    async def judge(self) -> Server:
        """Be the decision point, and say where the sidecar finds it."""
        authority = Authority(self.folder / "pki")
        files = authority.issue("sidecar", SIDECAR)
        server = Server(self.decisions.handlers, SERVICES)
        port = server.listen_tcp("127.0.0.1:0", authority.issue("pdp", "spiffe://example.com/pdp"))
        await server.start()
        sockets = f"--agents=agent=coder,instance=pod-1,mounted=true,socket={self.folder}/doors"
        http = free_port()
        argv = [
            *(
                "sidecar",
                "run",
                f"--pdp=127.0.0.1:{port}",
                f"--spool={self.folder / 'spool'}",
                f"--shim={self.program}",
            ),
            *(f"{sockets}/grpc/s/door.sock", f"{sockets}/git/s/door.sock,door=mcp_stdio,enforced=true"),
            *(f"--tls-certificate={files.certificate}", f"--tls-key={files.key}", f"--tls-roots={files.roots}"),
            f"--http=127.0.0.1:{http}",
        ]
        environ = {"EXEQUATUR_SHIM": str(shim.build(self.folder))}
        self.sidecar = Process("sidecar", argv, self.folder / "sidecar.log", http, env=environ)
        return server

    def start(self) -> None:
        """Start the sidecar, then the door."""
        assert self.sidecar is not None
        self.sidecar.start()
        command = [
            *(sys.executable, "-I", "-m", "exequatur", "sidecar", "mcp", "--server", "git", "--listen"),
            *(f"{self.mcp}/git.sock", "--socket", f"{self.folder}/doors/git/s/door.sock"),
            *("--", sys.executable, "-I", "-m", "mcp_server_git"),
        ]
        environ = {**os.environ, "HOME": "/nonexistent"}
        with self.log.open("ab") as log:
            start = containers.volume(self.mcp, containers.SERVER)
            self.door = subprocess.Popen([*start, *command], stderr=log, env=environ)
        until(lambda: self.probe() == 0, what="the door", every_s=0.25)

    def probe(self) -> int:
        """Ask as a kubelet does: the program itself, without anything to say."""
        assert self.door is not None
        assert self.door.poll() is None, self.log.read_text()
        probe = ["nsenter", f"--mount=/proc/{self.door.pid}/ns/mnt", "--", str(self.program), "git"]
        return subprocess.run(probe, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode

    def agent(self) -> StdioServerParameters:
        """What stands in the agent's MCP settings, run as the agent is."""
        assert self.door is not None
        start = containers.beside(self.door.pid, self.mcp, containers.AGENT)
        return StdioServerParameters(command=start[0], args=[*start[1:], str(self.program), "git"])

    def servers(self) -> list[bytes]:
        assert self.door is not None
        return [command_line(pid) for pid in children(self.door.pid)]

    def outcomes(self) -> list[dict]:
        spool = Spool.open(self.folder / "spool", identity=SIDECAR)
        try:
            return [found for data in spool.read(1, 1000) if (found := json.loads(data))["kind"] == "outcome"]
        finally:
            spool.close()


def no_options(request, response):
    """Judge as a policy that lets nobody give git an option."""
    return deny(request, response) if b'"--' in request.arguments_json else response


def pins() -> dict[str, bytes]:
    """Give the tools that a session of the coding agent has, by the digests of their definitions."""
    return {name: bytes.fromhex(tool["definition_sha256"]) for name, tool in TOOLS.items()}


@pytest.fixture
async def pod() -> AsyncIterator[Pod]:
    with tempfile.TemporaryDirectory(prefix="ex-") as name, tempfile.TemporaryDirectory(prefix="ex-") as repository:
        pod = Pod(Path(name), Path(repository))
        server = await pod.judge()
        try:
            await asyncio.to_thread(pod.start)
            yield pod
        finally:
            if pod.sidecar is not None:
                pod.sidecar.kill()
            if pod.door is not None:
                pod.door.kill()
                pod.door.wait()
            await server.stop(0)


async def test_an_agent_works_with_git_through_its_door_and_asks_beside_it_through_the_other(pod):
    arguments = {"repo_path": str(pod.repository)}
    assert pod.servers() == []  # the probes have started none
    with (pod.folder / "agent.log").open("w") as words:
        async with stdio_client(pod.agent(), errlog=words) as streams, ClientSession(*streams) as client:
            await client.initialize()
            assert "git_status" in [tool.name for tool in (await client.list_tools()).tools]
            status = await client.call_tool("git_status", arguments)
            assert "On branch main" in status.content[0].text
            refused = await client.call_tool("git_checkout", {**arguments, "branch_name": "--force"})
            assert refused.is_error
            with Client(f"unix:{pod.folder}/doors/grpc/s/door.sock") as agent:
                assert await asyncio.to_thread(lambda: agent.authorize("git/git_status", arguments).allowed)
            assert len(pod.servers()) == 1
            pod.door.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(pod.door.wait, 10) == 0
    assert "exequatur: `git` is served at" in pod.log.read_text()
    assert await asyncio.to_thread(pod.sidecar.stop) == 0
    assert [(asked.door, asked.agent, asked.instance, asked.tool) for asked in pod.decisions.asked] == [
        ("mcp_stdio", "coder", "pod-1", "git/git_status"),
        ("mcp_stdio", "coder", "pod-1", "git/git_checkout"),
        ("grpc", "coder", "pod-1", "git/git_status"),
    ]
    assert pod.decisions.settled == [("d1", Outcome.EXECUTED)]
    assert [(record["door"], record["go"]) for record in pod.outcomes()] == [
        ("mcp_stdio", True),
        ("mcp_stdio", False),
        ("grpc", True),
    ]
