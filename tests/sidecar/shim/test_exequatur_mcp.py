"""The program that joins an MCP client to a door: bytes pass as they are, ends pass too, and nobody waits for another."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import socket
import stat
import struct
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

import containers
from shim import build

BIG = random.Random(1).randbytes(4 * 2**20)

TAKEN_OVER = """
import json, os, socket, sys
path, program = sys.argv[1:]
def put(at):
    with open(at, "wb") as file:
        file.write(b"#!/bin/sh\\n")
def listen():
    with socket.socket(socket.AF_UNIX) as thief:
        thief.bind(path)
attacks = {
    "its socket": listen,
    "the program": lambda: put(program),
    "a program beside it": lambda: put(program + "2"),
    "remove the program": lambda: os.unlink(program),
    "move it away": lambda: os.rename(program, os.path.dirname(path) + "/x"),
    "put another in its place": lambda: (put(path + ".x"), os.rename(path + ".x", program)),
    "open it up": lambda: os.chmod(program, 0o777),
    "move the folder away": lambda: os.rename(os.path.dirname(program), os.path.dirname(path) + "/bin"),
    "own it": lambda: os.chown(program, os.getuid(), -1),
}
won = []
for name, attack in attacks.items():
    try:
        attack()
    except OSError:
        continue
    won.append(name)
print(json.dumps(won))
"""


@pytest.fixture(scope="module")
def program():
    with tempfile.TemporaryDirectory(prefix="ex-") as name:
        Path(name).chmod(0o755)
        for part in ("bin", "mcp/git", "mcp/fs"):
            (Path(name) / part).mkdir(parents=True)
        yield build(Path(name) / "bin")


@pytest.fixture
def path(program):
    path = program.parents[1] / "mcp" / "git" / "git.sock"
    yield path
    path.unlink(missing_ok=True)


Served = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def door(path: Path, serve: Served) -> AsyncIterator[asyncio.subprocess.Process]:
    """The program, joined to a door that does `serve`."""

    async def come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await serve(reader, writer)
        writer.close()

    server = await asyncio.start_unix_server(come, str(path))
    process = await asyncio.create_subprocess_exec(
        path.parents[2] / "bin" / "exequatur-mcp",
        "git",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(20):
            yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
        server.close()


async def test_four_mebibytes_come_back_as_they_went(path):
    async def echo(reader, writer):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()

    async with door(path, echo) as process:
        out, err = await process.communicate(BIG)
        assert (out == BIG, err, process.returncode) == (True, b"", 0)


async def test_the_end_of_input_is_passed_on_and_the_answer_to_it_still_comes(path):
    async def answer_at_the_end(reader, writer):
        writer.write(hashlib.sha256(await reader.read(-1)).digest())

    async with door(path, answer_at_the_end) as process:
        out, _ = await process.communicate(BIG)
        assert (out, process.returncode) == (hashlib.sha256(BIG).digest(), 0)


async def test_a_client_that_does_not_read_can_still_speak(path):
    heard = asyncio.Event()

    async def speak_then_listen(reader, writer):
        writer.write(BIG)
        assert await reader.readline() == b"cancel\n"
        heard.set()
        await writer.drain()

    async with door(path, speak_then_listen) as process:
        process.stdin.write(b"cancel\n")
        await heard.wait()  # and nobody has read a byte of ours yet, but what asyncio reads ahead
        assert await process.stdout.read(-1) == BIG
        assert await process.wait() == 0


async def test_a_door_that_does_not_read_can_still_speak(path):
    told = asyncio.Event()

    async def speak_alone(reader, writer):
        writer.transport.pause_reading()
        writer.write(b"progress\n")
        await told.wait()
        writer.transport.resume_reading()
        assert len(await reader.readexactly(len(BIG))) == len(BIG)

    async with door(path, speak_alone) as process:
        process.stdin.write(BIG)
        assert await process.stdout.readline() == b"progress\n"
        told.set()
        assert await process.wait() == 0


async def test_a_door_that_closes_ends_it_though_the_client_says_nothing(path):
    async def close(reader, writer):
        writer.write(b"bye\n")

    async with door(path, close) as process:
        assert await process.wait() == 0
        assert await process.stdout.read() == b"bye\n"


def test_what_came_before_a_close_is_delivered_to_a_slow_reader_and_no_time_is_burnt_meanwhile(program, path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        with subprocess.Popen([program, "git"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(BIG[: 2**17])  # more than the pipe takes: some of it is held
            pipe = process.stdout.fileno()
            until_full(pipe)
            before = cpu_ticks(process.pid)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
            assert cpu_ticks(process.pid) - before <= 5
            assert process.stdout.read() == BIG[: 2**17]
            process.stdin.close()
            assert process.wait(10) == 0


def until_full(pipe: int) -> None:
    import fcntl
    import termios

    while struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0] < 2**16 - 4096:
        os.sched_yield()


def cpu_ticks(pid: int) -> int:
    """User and system time, in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_door_that_goes_without_having_read_is_lost_and_its_last_words_are_delivered(program, path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with subprocess.Popen([program, "git"], **pipes) as process:
            connection, _ = listening.accept()
            process.stdin.write(b"x" * 2**17)
            process.stdin.flush()
            connection.sendall(b"no room\n")
            connection.close()
            out, err = process.communicate(timeout=10)
        assert (out, process.returncode) == (b"no room\n", 69)
        assert err.startswith(b"exequatur-mcp: the door is lost: ")


def run(program: Path, *arguments: str, stdin: int = subprocess.DEVNULL) -> tuple[int, str]:
    done = subprocess.run([program, *arguments], stdin=stdin, capture_output=True, text=True, check=False, timeout=10)
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_without_a_door_it_says_so_in_one_line(program, path):
    assert run(program, "git") == (69, "exequatur-mcp: git: No such file or directory\n")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert run(program, "git") == (69, "exequatur-mcp: git: Connection refused\n")
    assert run(program, "x" * 200)[0] == 69


@pytest.mark.parametrize("arguments", [(), ("",), ("../git",), ("..",), ("-h",), ("git", "fs")])
def test_a_name_that_leads_elsewhere_is_no_name(program, arguments):
    code, said = run(program, *arguments)
    assert (code, said.count("\n")) == (2, 1)
    assert "as `exequatur-mcp git`" in said


def test_a_server_that_is_taken_over_changes_its_own_socket_and_nothing_that_the_agent_runs(program, path):
    """The server's container has its door's folder for writing, and the agent's programs not at all."""
    before = program.read_bytes()
    path.parent.chmod(0o777)  # as an `emptyDir` is
    start = containers.user(containers.SERVER)
    assert json.loads(containers.python(TAKEN_OVER, path, program, start=start)) == ["its socket"]
    assert (program.read_bytes(), stat.S_IMODE(program.stat().st_mode)) == (before, 0o755)
    assert [file.name for file in program.parent.iterdir()] == ["exequatur-mcp"]
    assert run(program, "git") == (69, "exequatur-mcp: git: Connection refused\n")


async def test_a_link_in_the_place_of_a_socket_leads_to_no_other_door(program, path):
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())
        writer.close()

    other = path.parents[1] / "fs" / "fs.sock"
    server = await asyncio.start_unix_server(serve, str(other))
    path.symlink_to(other)
    assert await asyncio.to_thread(run, program, "git") == (69, "exequatur-mcp: git: Connection refused\n")
    assert (await asyncio.to_thread(run, program, "fs"), heard) == ((0, ""), [b""])
    server.close()


def test_it_needs_nothing_of_the_image_that_it_runs_in(program):
    with tempfile.TemporaryDirectory(prefix="ex-") as name:
        alone = Path(name) / "exequatur-mcp"
        alone.write_bytes(program.read_bytes())
        alone.chmod(0o555)
        done = subprocess.run(
            ["chroot", name, "/exequatur-mcp", "git"],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.stderr.startswith("exequatur-mcp: git: ")
        assert done.returncode == 69
