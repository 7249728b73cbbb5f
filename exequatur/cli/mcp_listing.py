"""Ask a running MCP server for its tools.

Rules: the server is trusted with nothing: time, bytes and pages are bounded, and what is wrong is one line. A server
that was started here is ended here, with all that it started.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import anyio
import httpx2
import mcp_types
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from pydantic import RootModel, ValidationError

from exequatur.registry import LIMITS
from exequatur.trust.canonical import Json, JsonError, parse, quoted
from pdp.policy.mcp_tools import TOOLS, ListingError
from sidecar.doors.mcp_messages import Lines

BYTES: Final = LIMITS.bytes
"""All that a server may say: what a registry may have."""

PAGES: Final = 100
_CURSOR: Final = 4_096  # characters; what names a page is short
_EXIT_S: Final = 0.75
_LAST_WORDS: Final = 2_048  # bytes of standard error that are kept, to say why a server did not start
_SHOWN: Final = 160


class _Page(RootModel[dict[str, Any]]):
    """A page as it is on the wire: the library's own type would drop members that a pin covers."""


def ask_command(command: Sequence[str], timeout_s: float) -> list[Json]:
    """Start a stdio server, ask, and end it. Raises `ListingError`."""
    said = bytearray()
    try:
        return _ask(_started(command, said), timeout_s)
    except ListingError as error:
        last = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise ListingError(f"{error}: it said {quoted(last, _SHOWN)}" if last else str(error)) from None


def ask_url(url: str, timeout_s: float) -> list[Json]:
    """Ask a server that speaks streamable HTTP. Raises `ListingError`."""
    return _ask(_reached(url), timeout_s)


def _ask(streams: AbstractAsyncContextManager[tuple[Any, Any]], timeout_s: float) -> list[Json]:
    logging.disable(logging.CRITICAL)  # the library logs what a server sends, with tracebacks
    try:
        return asyncio.run(_listed(streams, timeout_s))
    except Exception as error:
        causes = list(_leaves(error))
        told = next((words for words in map(_told, causes) if words), "")
        if not told:
            raise  # ours to mend
        raise ListingError(told if told != _LATE else f"{_LATE} within {timeout_s:g} s") from None
    finally:
        logging.disable(logging.NOTSET)


_LATE: Final = "the server did not answer"


def _told(error: BaseException) -> str:
    """Say what a failure means; empty for one that no server can cause."""
    told = ""
    match error:
        case ListingError():
            told = str(error)
        case TimeoutError():
            told = _LATE
        case MCPError(code=mcp_types.CONNECTION_CLOSED):
            told = "the server ended before it had listed its tools"
        case MCPError():
            told = f"the server refused: {quoted(str(error), _SHOWN)}"
        case ValidationError() | KeyError():
            told = "the server's answer is not what MCP says"
        case httpx2.HTTPError() | httpx2.InvalidURL() | OSError() | RuntimeError():
            told = f"the server cannot be asked: {quoted(str(error), _SHOWN)}"
    return told


async def _listed(streams: AbstractAsyncContextManager[tuple[Any, Any]], timeout_s: float) -> list[Json]:
    async with (
        asyncio.timeout(timeout_s),
        streams as (incoming, outgoing),
        ClientSession(incoming, outgoing) as session,
    ):
        await session.initialize()
        return await _pages(session)


async def _pages(session: ClientSession) -> list[Json]:
    tools: list[Json] = []
    cursors: set[str] = set()
    cursor: str | None = None
    while True:
        request = mcp_types.ListToolsRequest(params=mcp_types.PaginatedRequestParams(cursor=cursor))
        page = (await session.send_request(request, _Page)).root
        tools += page["tools"]
        cursor = page.get("nextCursor")
        if not cursor:
            return tools
        if cursor in cursors or len(cursors) == PAGES or len(tools) > TOOLS or len(cursor) > _CURSOR:
            raise ListingError(f"the server's list does not end: after {len(tools)} tools it goes on")
        cursors.add(cursor)


@asynccontextmanager
async def _started(command: Sequence[str], said: bytearray) -> AsyncIterator[tuple[Any, Any]]:
    """Start a server and give the streams of its messages; the library's own would keep a line of any length."""
    pipe = subprocess.PIPE
    try:
        child = subprocess.Popen(command, bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)  # noqa: ASYNC220
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        raise ListingError(f"{quoted(command[0])} cannot be started: {text}") from None
    to_session, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outgoing, from_session = anyio.create_memory_object_stream[SessionMessage](0)
    loop = asyncio.get_running_loop()
    stdout, stderr = asyncio.StreamReader(), asyncio.StreamReader()
    reading, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdout), child.stdout)
    hearing, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stderr), child.stderr)
    writing, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, child.stdin)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_read, stdout, to_session)
            tasks.start_soon(_write, from_session, writing)
            tasks.start_soon(_keep, stderr, said)
            yield incoming, outgoing
            tasks.cancel_scope.cancel()
    finally:
        for end in (writing, reading, hearing, to_session, incoming, outgoing, from_session):
            end.close()
        with anyio.CancelScope(shield=True):
            await _end(child)


async def _read(stdout: asyncio.StreamReader, to_session: Any) -> None:
    lines, size = Lines(BYTES), 0
    async with to_session:  # its end tells the session that the server has gone
        while data := await stdout.read(2**16):
            size += len(data)
            if size > BYTES:
                raise ListingError(f"the server says more than {BYTES} bytes")
            for line in lines.feed(data):
                if line is not None and line.startswith(b"{"):  # servers print other things too
                    await to_session.send(SessionMessage(_message(line)))


def _message(line: bytes) -> Any:
    try:
        return mcp_types.jsonrpc_message_adapter.validate_python(parse(line, LIMITS), by_name=False)
    except JsonError as error:
        raise ListingError(f"the server's answer cannot be read: {error}") from None


async def _write(from_session: Any, stdin: asyncio.WriteTransport) -> None:
    async with from_session:
        async for item in from_session:
            stdin.write(item.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")


async def _keep(stderr: asyncio.StreamReader, said: bytearray) -> None:
    while data := await stderr.read(2**16):
        said += data
        del said[:-_LAST_WORDS]


async def _end(child: subprocess.Popen[bytes]) -> None:
    """Give it a moment, now that its input is closed; then kill it, and in any case what it started."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        await anyio.to_thread.run_sync(child.wait, _EXIT_S)  # the loop must run, to close the pipe
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


@asynccontextmanager
async def _reached(url: str) -> AsyncIterator[tuple[Any, Any]]:
    bounded = _Bounded()
    # Nothing compressed: a few bytes of that can be gigabytes.
    client = httpx2.AsyncClient(transport=bounded, headers={"Accept-Encoding": "identity"})
    try:
        async with (
            client,
            streamable_http_client(url, http_client=client, max_sse_event_size=BYTES) as streams,
        ):
            yield streams
    except BaseException:
        if bounded.fault:
            raise ListingError(bounded.fault) from None
        raise


class _Bounded(httpx2.AsyncHTTPTransport):
    """HTTP that gives at most `BYTES` in all, and nothing compressed."""

    def __init__(self) -> None:
        super().__init__()
        self.fault = ""
        self._left = BYTES

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            self._refuse("the server compresses its answer, unasked")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Counted(response.stream, self)
        return response

    def take(self, size: int) -> None:
        """Count what came."""
        self._left -= size
        if self._left < 0:
            self._refuse(f"the server says more than {BYTES} bytes")

    def _refuse(self, fault: str) -> None:
        self.fault = fault
        raise httpx2.ReadError(fault)


class _Counted(httpx2.AsyncByteStream):
    """A body that is counted as it comes."""

    def __init__(self, inner: httpx2.AsyncByteStream, counter: _Bounded) -> None:
        self._inner, self._counter = inner, counter

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._inner:
            self._counter.take(len(part))
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
