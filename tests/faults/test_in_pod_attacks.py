"""A hijacked agent attacks from inside its pod, as its own user: nothing of the sidecar's can be read, taken or used.

So does an MCP server that was taken over, in its container: it does not get at what the agent runs either.

The pod is what the injector makes of an agent's, run in namespaces as a kubelet would; decision point and ledger are
the real server behind real TLS, and remember who reached them.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path

from admission import catalogue
from decisions import SERVICES, Decisions
from exequatur.transport import Code, Handler, Peer, Refusal, Server
from fleet import TEAM, agent_pod, identity
from injector.patch import inject
from pki import Authority
from pods import Pod, World, our_image, serves, world
from shim import build

SCRIPT = Path(__file__).parents[1] / "support" / "attacks.py"
WITHOUT_PROTECTION = {
    "exequatur-sidecar": {
        "read_the_sidecars_key",
        "find_a_private_key_anywhere",
        "read_the_spool",
        "see_the_sidecar_among_the_processes",
        "put_another_socket_in_the_doors_folder",
        "open_the_doors_folder_to_all",
        "move_the_doors_folder_away",
        "ask_the_decision_point_with_a_stolen_certificate",
        "replace_the_program_that_joins_the_mcp_server",
        "remove_the_doors_socket",
    },
    "exequatur-mcp-git": {
        "see_the_sidecar_among_the_processes",
        "connect_to_the_enforced_doors_socket",
        "put_another_socket_where_the_mcp_server_is_found",
    },
}
"""What the same attacks win where they may: in our own containers, as their users."""

TAKEN_OVER = {
    "read_the_sidecars_key",
    "find_a_private_key_anywhere",
    "read_the_spool",
    "become_the_sidecars_user",
    "replace_the_program_that_joins_the_mcp_server",
    "put_another_socket_in_the_doors_folder",
    "open_the_doors_folder_to_all",
    "remove_the_doors_socket",
}
"""What an MCP server wins nothing of, whoever has it: its container has its user, its own door, and none of these."""


class Reached:
    """Remembers who got through to a handler."""

    def __init__(self) -> None:
        self.by: list[str] = []

    def remembering(self, handler: Handler) -> Handler:
        async def call(message: bytes, peer: Peer, left_s: float | None) -> bytes:
            self.by.append(peer.identity)
            return await handler(message, peer, left_s)

        return call


async def away(message: bytes, peer: Peer, left_s: float | None) -> bytes:
    raise Refusal(Code.UNAVAILABLE, "not now")


async def listening(w: World, authority: Authority, name: str, port: int, handlers: dict[str, Handler]) -> Server:
    """Serve under a Service's name."""
    w.name("exequatur", name, w.node)
    server = Server(handlers, SERVICES)
    files = authority.issue(name, identity("exequatur", name), host=f"{name}.exequatur.svc")
    server.listen_tcp(f"{w.node}:{port}", files)
    await server.start()
    return server


def attacked(pod: Pod, container: str, roots: str, *names: str) -> dict[str, str]:
    """Run the attacks in a container, as its user: all, or those named."""
    env = {"ROOTS": roots, "PYTHONDONTWRITEBYTECODE": "1"}
    done = pod.containers[container].run("python", str(SCRIPT), *names, env=env, timeout_s=120)
    assert done.returncode == 0, done.stderr
    print(done.stderr)
    return json.loads(done.stdout)


async def test_nothing_of_the_sidecars_can_be_read_taken_or_used_from_the_agents_container_or_a_servers(tmp_path):
    authority, reached = Authority(tmp_path / "pki"), Reached()
    roots = authority.roots.read_text()
    files = authority.issue("coder", identity(TEAM, "coder"))
    contents = {"tls.crt": files.certificate, "tls.key": files.key, "ca.crt": files.roots}
    async with AsyncExitStack() as stack:
        w = stack.enter_context(world())
        w.images["registry.example/exequatur"] = our_image(w.folder)
        build(w.folder / "opt" / "bin")
        secret = {"kind": "Secret", "metadata": {"name": "exequatur-sidecar-coder"}}
        w.apply([{**secret, "stringData": {name: path.read_text() for name, path in contents.items()}}], TEAM)
        w.apply([{"kind": "Secret", "metadata": {"name": "git-token"}, "stringData": {"GIT_TOKEN": "x"}}], TEAM)
        handlers = {path: reached.remembering(handler) for path, handler in Decisions().handlers.items()}
        append = {"/exequatur.v1.AuditService/Append": reached.remembering(away)}
        for name, port, served in (("exequatur-pdp", 7070, handlers), ("exequatur-ledger", 7071, append)):
            server = await listening(w, authority, name, port, served)
            stack.push_async_callback(server.stop, 0)
        mounts = [{"name": "workspace", "mountPath": "/workspace"}]
        plain = agent_pod("coder-1", "coder", ["/bin/sleep", "1000"], volumeMounts=mounts)
        plain["spec"]["volumes"] = [{"name": "workspace", "emptyDir": {}}]
        injected = inject(plain, TEAM, catalogue(trust=False, decisionTimeoutMs=300))
        pod = await asyncio.to_thread(w.run, injected)

        won = await asyncio.to_thread(attacked, pod, "main", roots)
        assert len(won) >= 30
        assert {name: loot for name, loot in won.items() if loot} == {}
        assert set(reached.by) <= {identity(TEAM, "coder")}
        assert await asyncio.to_thread(serves, f"{pod.ip}:9072", "ready")
        pod.check()

        program = pod.volumes.paths["exequatur-bin"] / "exequatur-mcp"
        before = program.read_bytes()
        won = await asyncio.to_thread(attacked, pod, "exequatur-mcp-git", roots, *TAKEN_OVER)
        assert {name: loot for name, loot in won.items() if loot} == {}
        assert (before, [path.name for path in program.parent.iterdir()]) == (program.read_bytes(), [program.name])

        for container, expected in WITHOUT_PROTECTION.items():
            won = await asyncio.to_thread(attacked, pod, container, roots, *expected)
            assert {name for name, loot in won.items() if loot} == set(expected)
