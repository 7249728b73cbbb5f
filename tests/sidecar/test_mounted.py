"""A mounted socket: whoever sees the mount may ask, and can change nothing that others would then meet."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

import containers
from decisions import SERVICES, Decisions
from exequatur.client import AsyncClient
from exequatur.transport import ListenError, Server

ASK = """
import sys
from exequatur.client import Client
with Client("unix:" + sys.argv[1]) as client:
    print(client.authorize("git/git_status", {}).effect.name)
"""

ATTACK = """
import json, os, socket, sys
path, said = sys.argv[1], {}
folder, mount = os.path.dirname(path), os.path.dirname(os.path.dirname(path))
def listen(at):
    with socket.socket(socket.AF_UNIX) as thief:
        thief.bind(at)
attacks = {
    "unlink the socket": lambda: os.unlink(path),
    "put one beside it": lambda: listen(folder + "/b"),
    "put one above it": lambda: listen(mount + "/b"),
    "make a file": lambda: open(folder + "/f", "w"),
    "make a file above": lambda: open(mount + "/f", "w"),
    "move the folder": lambda: os.rename(folder, mount + "/t"),
    "move the socket": lambda: os.rename(path, mount + "/t"),
    "link it": lambda: os.link(path, mount + "/t"),
    "open it up": lambda: os.chmod(folder, 0o777),
    "open the mount up": lambda: os.chmod(mount, 0o777),
    "own it": lambda: os.chown(path, os.getuid(), -1),
    "list the folder": lambda: os.listdir(folder),
    "write again": lambda: os.system("mount -o remount,bind,rw " + mount) and 1 / 0,
}
for name, attack in attacks.items():
    try:
        attack()
    except (OSError, ZeroDivisionError) as error:
        continue
    said[name] = "worked"
print(json.dumps(said))
"""


@pytest.fixture
def mount():
    """What an `emptyDir` is: a folder of root's that everybody may write, who has it mounted for writing."""
    with tempfile.TemporaryDirectory(prefix="ex-") as name:
        Path(name).chmod(0o711)
        folder = Path(name) / "doors"
        folder.mkdir()
        folder.chmod(0o777)
        yield folder


def outcome(start: list[str], path: Path) -> dict[str, str]:
    return json.loads(containers.python(ATTACK, path, start=start))


async def listen(path: Path) -> tuple[Server, Decisions]:
    decisions = Decisions()
    server = Server(decisions.handlers, SERVICES)
    try:
        server.listen_unix(path, "agent:coder/c1", mounted=True)
    except (ListenError, OSError):
        await server.stop(0)
        raise
    await server.start()
    return server, decisions


async def test_an_agent_with_a_read_only_mount_may_ask_and_change_nothing(mount):
    path = mount / "s" / "door.sock"
    server, decisions = await listen(path)
    start = containers.read_only(mount, containers.AGENT)
    assert await asyncio.to_thread(containers.python, ASK, path, start=start) == "ALLOW"
    assert await asyncio.to_thread(outcome, start, path) == {}
    assert len(decisions.asked) == 1
    await server.stop(0)


async def test_even_one_that_could_write_the_mount_reaches_nothing_in_the_sockets_folder(mount):
    """What the folder's own mode holds, and what only the read-only mount does: both are needed."""
    path = mount / "s" / "door.sock"
    server, _ = await listen(path)
    found = await asyncio.to_thread(outcome, containers.user(containers.AGENT), path)
    assert found.keys() == {"put one above it", "make a file above", "move the folder"}
    await server.stop(0)


async def test_the_folder_is_made_with_our_modes_whatever_the_umask_is(mount):
    path = mount / "s" / "door.sock"
    before = os.umask(0o077)
    try:
        server, _ = await listen(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o711
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    await server.stop(0)
    again, _ = await listen(path)  # the sidecar's container starts again, and the folder is there
    await again.stop(0)


@pytest.mark.parametrize("plant", ["a folder of another's", "a folder that others write", "a link", "a file"])
async def test_a_folder_that_was_put_there_before_us_is_refused(mount, plant):
    planted, path = mount / "s", mount / "s" / "door.sock"
    if plant == "a link":
        (mount / "t").mkdir()
        planted.symlink_to(mount / "t")
    elif plant == "a file":
        planted.touch()
    else:
        planted.mkdir()
        os.chown(planted, containers.AGENT if plant == "a folder of another's" else 0, -1)
        planted.chmod(0o711 if plant == "a folder of another's" else 0o777)
    with pytest.raises((ListenError, FileExistsError)):
        await listen(path)
    assert not path.exists()


async def test_a_socket_that_lives_is_not_taken_and_one_that_is_dead_is(mount):
    path = mount / "s" / "door.sock"
    server, _ = await listen(path)
    with pytest.raises(ListenError, match="taken by a running process"):
        await listen(path)
    async with AsyncClient(f"unix:{path}") as agent:
        assert (await agent.authorize("git/git_status", {})).allowed
    await server.stop(0)
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server, _ = await listen(path)
    await server.stop(0)
