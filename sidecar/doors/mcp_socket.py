"""The door around a stdio MCP server in a pod: clients come over a socket, each with a server of its own.

The server runs here and not beside the agent, who has no other way to it. Rules:
- The mount is the identity: who sees the socket is the agent for whom `--socket` speaks. Nobody else may be given it.
- Its folder is there before us: one that we made where a mount is missing would be seen by no agent.
- The server is of our own user, and could put another socket in the place of ours: the agent meets it there either way.
  Nothing that the agent runs may lie in a folder that we, and so the server, can write to.
- A server starts with its client's first byte: who connects and says nothing has learnt that somebody listens.
- A client more than `CLIENTS` is told so, in the words of JSON-RPC. A server that ends takes its client's connection
  with it, and the other way round.
- A signal ends all of them in order, as one of them alone would be.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
from pathlib import Path
from typing import Final

from exequatur import sockets
from exequatur.trust.canonical import quoted
from sidecar.doors import mcp_messages as mcp
from sidecar.doors.mcp_shim import warn
from sidecar.doors.mcp_stdio import GONE, Door, join
from sidecar.program import own

CLIENTS: Final = 16
"""How many clients have a server at once."""

REFUSED: Final = 16
"""How many more may be told that there is no room; whoever comes then is not heard."""

FIRST_S: Final = 5.0
"""How long one who is to be refused may take for its first message, in seconds."""


async def serve(door: Door, path: Path, stop: asyncio.Event) -> int:
    """Take clients at `path` until `stop` is set. Returns the exit code."""
    if shutil.which(door.command[0]) is None:
        warn(f"{quoted(door.command[0])} is no program here")
        return GONE
    try:
        listening = _listen(path)
    except sockets.ListenError as error:
        warn(str(error))
        return GONE
    except OSError as error:
        warn(f"{quoted(str(error.filename or path))} cannot be used: {(error.strerror or str(error)).lower()}")
        return GONE
    clients: set[asyncio.Task[None]] = set()

    def come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(clients) >= CLIENTS + REFUSED:
            writer.transport.abort()
            return
        served = _client(door, reader, writer, stop) if len(clients) < CLIENTS else _refuse(reader, writer)
        task = asyncio.create_task(served)
        clients.add(task)
        task.add_done_callback(clients.discard)

    server = await asyncio.start_unix_server(come, sock=listening, limit=2**18)
    warn(f"{quoted(door.server)} is served at `{path}`")
    await stop.wait()
    server.close()
    path.unlink(missing_ok=True)  # noqa: ASYNC240  nothing else is left to be served
    await asyncio.gather(*clients)
    return 0


async def _client(door: Door, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stop: asyncio.Event) -> None:
    """Serve one client to its end; nothing that goes wrong with it reaches another."""
    try:
        if not (heard := await _first(reader, stop)):
            return
        if (child := await door.start()) is None:
            await _tell(heard, writer, "the tool server cannot be started: see the door's log")
            return
        if await join(door, child, reader, writer, stop, heard=heard):
            warn(f"{quoted(door.server)} has ended by itself")
    except Exception as error:  # noqa: BLE001  the other clients are served on
        warn(f"an internal error with a client: {type(error).__name__}: {error}")
    finally:
        writer.close()


async def _first(reader: asyncio.StreamReader, stop: asyncio.Event) -> bytes:
    """Wait for a client's first bytes; none where it goes, or we do."""
    heard, stopped = asyncio.create_task(reader.read(2**16)), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({heard, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return heard.result() if heard.done() and not heard.exception() else b""
    finally:
        heard.cancel()
        stopped.cancel()


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    heard = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(FIRST_S):
            heard = await reader.read(2**16)
    warn(f"a client is refused: {CLIENTS} are served already")
    await _tell(heard, writer, f"{CLIENTS} clients are served already, and there is no room for another")


async def _tell(heard: bytes, writer: asyncio.StreamWriter, text: str) -> None:
    """Answer a client's first message with an error, and close."""
    message_id = None
    with contextlib.suppress(mcp.Unreadable):
        first = mcp.read_client(heard.partition(b"\n")[0])
        message_id = None if first is None else first.id
    writer.write(mcp.failure(message_id, mcp.INTERNAL_ERROR, text))
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(FIRST_S):
            await writer.drain()
    writer.close()


def _listen(path: Path) -> socket.socket:
    """Open the socket for whoever sees it. Raises `ListenError`, `OSError`."""
    folder = path.parent
    if not folder.is_dir():
        what = f"{quoted(str(folder))} is no folder"
        raise sockets.ListenError(f"{what}: mount one there, which the agent has as well, read-only")
    own(folder)
    sockets.make_way(path)
    listening = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listening.bind(str(path))
        path.chmod(sockets.MOUNTED)
    except OSError:
        listening.close()
        raise
    finally:
        os.umask(before)
    return listening
