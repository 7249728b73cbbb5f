"""The door around a stdio MCP server: `exequatur sidecar mcp --server NAME [--socket PATH] -- COMMAND...`.

The gate runs here, where the bytes are forwarded; decisions come from the sidecar behind `--socket`. With `--listen`
clients come over a socket, each with a server of its own: see `mcp_socket`. Rules:
- When the client goes, a signal comes or the server dies, every call in flight is answered and settled, and the server
  and all that it started are ended. Nothing is left running.
- The server's standard error is the client's to read; ours is on it too, each line beginning with `exequatur:`.
- It starts with each agent: no heavy import.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from exequatur.client import AsyncClient
from exequatur.trust.canonical import quoted
from sidecar.doors import mcp_messages as mcp
from sidecar.doors.mcp_shim import Shim, warn

USAGE, GONE = 2, 69
"""Exit codes: the call was wrong; the server could not be started, or ended by itself."""

DRAIN_S: Final = 1.5
"""How long calls in flight may take once the client has gone, in seconds: clients kill what lasts longer than 4."""

EXIT_S: Final = 0.6
"""How long what is told to end may take, in seconds: calls that are still to be settled then, the server once its input
is closed and again after SIGTERM, before it is killed, and the client to read."""

SERVER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Door:
    """What stands behind the gate: the server's name in the registry, the sidecar's socket, the server's command."""

    server: str
    socket: str
    command: Sequence[str]

    async def start(self) -> asyncio.subprocess.Process | None:
        """Start the server, or say why it cannot be."""
        try:
            # A session of its own, so that whatever the server starts can be ended with it.
            return await asyncio.create_subprocess_exec(
                *self.command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True
            )
        except OSError as error:
            warn(f"{quoted(self.command[0])} cannot be started: {(error.strerror or str(error)).lower()}")
            return None


async def run(door: Door, stop: asyncio.Event) -> int:
    """Serve the client on standard input and output until it or the server goes; returns the exit code."""
    try:
        from_client, to_client = await _standard_streams()
    except ValueError:
        warn("standard input and output must be pipes: this is run by an MCP client")
        return USAGE
    child = await door.start()
    return GONE if child is None else await join(door, child, from_client, to_client, stop)


async def join(
    door: Door,
    child: asyncio.subprocess.Process,
    from_client: asyncio.StreamReader,
    to_client: asyncio.StreamWriter,
    stop: asyncio.Event,
    *,
    heard: bytes = b"",
) -> int:
    """Put the gate between a client and the server `child` until one of them goes; `heard` was read already."""
    assert child.stdin is not None
    assert child.stdout is not None
    decisions = AsyncClient(f"unix:{door.socket}")
    shim = Shim(door.server, decisions, to_client, child.stdin)
    client = asyncio.create_task(_pump_client(from_client, shim, heard))
    upstream = asyncio.create_task(_pump_server(child.stdout, shim))
    stopped = asyncio.create_task(stop.wait())
    settling_s = DRAIN_S
    try:
        await asyncio.wait({client, upstream, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if client.done() and not upstream.done() and not stop.is_set():
            drained = asyncio.create_task(shim.drained(DRAIN_S))
            await asyncio.wait({drained, upstream, stopped}, return_when=asyncio.FIRST_COMPLETED)
            drained.cancel()
            settling_s = EXIT_S
        server_died = upstream.done() and not client.done() and not stop.is_set()
        shim.end("the tool server has ended; a call in flight may or may not have run")
        await shim.drained(settling_s)
        return GONE if server_died else 0
    finally:
        for task in (client, upstream, stopped):
            task.cancel()
        await shim.abandon()
        await _end(child)
        await decisions.close()
        to_client.close()
        with contextlib.suppress(ConnectionError):
            try:
                await asyncio.wait_for(to_client.wait_closed(), EXIT_S)
            except TimeoutError:
                to_client.transport.abort()  # a client that does not read is not waited for


async def _pump_client(reader: asyncio.StreamReader, shim: Shim, data: bytes) -> None:
    lines = mcp.Lines(mcp.CLIENT_LINE_BYTES)
    with contextlib.suppress(ConnectionError):
        while data := data or await reader.read(2**16):
            for line in lines.feed(data):
                shim.from_client(line)
            data = b""


async def _pump_server(reader: asyncio.StreamReader, shim: Shim) -> None:
    lines = mcp.Lines(mcp.SERVER_LINE_BYTES)
    while data := await reader.read(2**18):
        for line in lines.feed(data):
            if line is not None:
                shim.from_server(line)
        await shim.heard()
        if lines.overrun:
            warn(f"a line of the server is over {mcp.SERVER_LINE_BYTES} bytes: it is ended")
            return


async def _standard_streams() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**18)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
    transport, _ = await loop.connect_write_pipe(lambda: protocol, sys.stdout)
    return reader, asyncio.StreamWriter(transport, protocol, None, loop)


async def _end(child: asyncio.subprocess.Process) -> None:
    """End the server as MCP says: close its input, then SIGTERM, then SIGKILL; and all that it started."""
    assert child.stdin is not None
    child.stdin.close()
    for number in (signal.SIGTERM, signal.SIGKILL):
        if await _exited(child):
            break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
    await child.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


async def _exited(child: asyncio.subprocess.Process) -> bool:
    try:
        await asyncio.wait_for(child.wait(), EXIT_S)
    except TimeoutError:
        return False
    return True


def main(argv: Sequence[str]) -> int:
    """Read the command line and run; returns the exit code."""
    own, separator, command = _split(argv)
    parser = _parser()
    options = parser.parse_args(own)
    if not separator or not command:
        parser.error("give the server's command after `--`")
    if not SERVER_NAME.fullmatch(options.server):
        parser.error("NAME has letters, digits, `.`, `_` and `-`, at most 64")
    if not options.socket:
        parser.error("give the sidecar's socket: --socket PATH or EXEQUATUR_SOCKET")
    door = Door(options.server, options.socket, command)
    return asyncio.run(_main(door, options.listen))


async def _main(door: Door, listen: Path | None) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if listen is None:
        return await run(door, stop)
    from sidecar.doors import mcp_socket  # noqa: PLC0415  what each agent starts must start fast

    return await mcp_socket.serve(door, listen, stop)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="exequatur sidecar mcp",
        description="Put a stdio MCP server behind the gate.",
        usage="%(prog)s --server NAME [--socket PATH] [--listen PATH] -- COMMAND [ARGUMENT ...]",
        allow_abbrev=False,
    )
    parser.add_argument("--server", required=True, metavar="NAME", help="the server's name in the tool registry")
    parser.add_argument(
        "--socket",
        metavar="PATH",
        default=os.environ.get("EXEQUATUR_SOCKET"),
        help="the sidecar's socket for this agent (EXEQUATUR_SOCKET where it is not given)",
    )
    parser.add_argument(
        "--listen",
        metavar="PATH",
        type=Path,
        help="take clients over this socket, whose folder one agent alone has mounted, read-only; unset takes the one"
        " on standard input",
    )
    return parser


def _split(argv: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    if "--" not in argv:
        return list(argv), False, []
    at = list(argv).index("--")
    return list(argv[:at]), True, list(argv[at + 1 :])
