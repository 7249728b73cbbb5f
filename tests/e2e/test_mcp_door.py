"""An agent of a pod and its tool: a real MCP client, the program that joins it, the gate, and a real git server.

Each has the user and the mounts that it has in a pod: the agent sees the door's volume read-only, and has no other way
to the server, which runs as another user and opens no port.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

import containers
import shim
from exequatur.client import Client
from exequatur.spool import Spool
from stack import OPENER, PDP, Stack, until

ROOT = Path(__file__).parents[2]
SIDECAR = "spiffe://example.com/sidecar/coder"
"""The enforcer that the bundle's inventory lets speak for `coder`."""


@dataclass
class Pod:
    """A decision point, and a sidecar with a door for gRPC and one for a git server in a container of its own."""

    stack: Stack
    repository: Path
    door: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        folder = self.stack.folder
        folder.chmod(0o711)
        for name in ("doors/grpc", "doors/git", "mcp/git"):
            (folder / name).mkdir(parents=True)
            (folder / name).chmod(0o777)  # as an `emptyDir` is
        self.mcp, self.log, self.program = folder / "mcp" / "git", folder / "door.log", folder / "bin" / "exequatur-mcp"
        agents = f"--agents=agent=coder,instance=pod-1,mounted=true,socket={folder}/doors"
        self.stack.sidecar.argv = [
            word for word in self.stack.sidecar.argv if not word.startswith(("--agents", "--ledger"))
        ]
        self.stack.sidecar.env = {"EXEQUATUR_SHIM": str(shim.build(folder))}
        self.stack.sidecar.argv += [
            *self.stack._tls(SIDECAR),
            f"{agents}/grpc/s/door.sock",
            f"{agents}/git/s/door.sock,door=mcp_stdio,enforced=true",
            f"--shim={self.program}",
        ]
        self.stack.pdp.argv = [word for word in self.stack.pdp.argv if not word.startswith("--ledger")]
        subprocess.run(["git", "init", "-q", "-b", "main", self.repository], check=True)
        for path in (self.repository, *self.repository.rglob("*")):
            os.chown(path, containers.SERVER, containers.SERVER)

    def start(self) -> None:
        for process in (self.stack.pdp, self.stack.sidecar):
            process.start()
        folder = self.stack.folder
        command = [
            *(sys.executable, "-I", "-m", "exequatur", "sidecar", "mcp", "--server", "git", "--listen"),
            *(f"{self.mcp}/git.sock", "--socket", f"{folder}/doors/git/s/door.sock"),
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
        children = Path(f"/proc/{self.door.pid}/task/{self.door.pid}/children").read_text().split()
        return [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children]

    def records(self, name: str, identity: str, kind: str) -> list[dict]:
        spool = Spool.open(self.stack.folder / name, identity=identity)
        try:
            return [found for data in spool.read(1, 1000) if (found := json.loads(data))["kind"] == kind]
        finally:
            spool.close()


@pytest.fixture
def pod() -> Iterator[Pod]:
    policy = [f"--bundle={ROOT / 'bundles/coding-agent.tar.gz'}", f"--keys={ROOT / 'bundles/keys'}"]
    workspace = tempfile.TemporaryDirectory(prefix="exequatur-demo-", dir="/tmp")  # as the policy wants it
    with tempfile.TemporaryDirectory(prefix="ex-") as name, workspace as repository:
        pod = Pod(Stack(Path(name), pdp_extra=[*policy, f"--enforced={SIDECAR}@mcp_stdio"]), Path(repository))
        try:
            pod.start()
            yield pod
        finally:
            for process in (pod.stack.sidecar, pod.stack.pdp):
                process.kill()
            if pod.door is not None:
                pod.door.kill()
                pod.door.wait()


async def test_an_agent_works_with_git_through_its_door_and_asks_beside_it_through_the_other(pod):
    with pod.stack.client(OPENER) as opener:
        wish = {"lifetime": dt.timedelta(hours=1), "scope": ["git/*"], "max_steps": 50, "budget_microusd": 1_000_000}
        session = opener.open_session("coder", SIDECAR, instance="pod-1", **wish)
    arguments = {"repo_path": str(pod.repository)}
    assert pod.servers() == []  # the probes have started none
    with (pod.stack.folder / "agent.log").open("w") as words:
        async with stdio_client(pod.agent(), errlog=words) as streams, ClientSession(*streams) as client:
            await client.initialize()
            assert "git_status" in [tool.name for tool in (await client.list_tools()).tools]
            status = await client.call_tool("git_status", arguments)
            assert "On branch main" in status.content[0].text
            refused = await client.call_tool("git_checkout", {**arguments, "branch_name": "--force"})
            assert refused.is_error
            with Client(f"unix:{pod.stack.folder}/doors/grpc/s/door.sock") as agent:
                assert await asyncio.to_thread(lambda: agent.authorize("git/git_status", arguments).allowed)
            assert len(pod.servers()) == 1
            pod.door.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(pod.door.wait, 10) == 0
    assert "exequatur: `git` is served at" in pod.log.read_text()
    assert pod.stack.sidecar.stop() == pod.stack.pdp.stop() == 0
    decided = pod.records("state/spool-0", PDP, "decision")
    assert {record["session"] for record in decided} == {session.id}
    assert [(record["door"], record["door_enforced"], record["effect"]) for record in decided] == [
        ("mcp_stdio", True, "allow"),
        ("mcp_stdio", True, "deny"),
        ("grpc", False, "allow"),
    ]
    outcomes = pod.records("sidecar-spool", SIDECAR, "outcome")
    assert [(record["door"], record["go"]) for record in outcomes] == [
        ("mcp_stdio", True),
        ("mcp_stdio", False),
        ("grpc", True),
    ]
