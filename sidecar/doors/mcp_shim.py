"""One MCP client, one MCP server, one gate a call: the shim between them, whatever carries their lines.

Rules:
- What `mcp_messages` does not write does not reach the server.
- `tools/call` is forwarded by the gate's `Forward` alone, with the bytes that the gate judged. A sidecar that is dead
  or slow is a refusal.
- Message ids of ours never meet those of the client.
- Each request is answered once, unless the client cancelled it; each go-ahead is settled.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from exequatur.client import AsyncClient, CallError
from exequatur.registry import definition_sha256
from exequatur.trust.canonical import Json, quoted
from exequatur.values import Decision, Effect, Reason, ReasonKind
from sidecar.doors import mcp_messages as mcp
from sidecar.gate import (
    Answered,
    Call,
    Command,
    Finished,
    Forward,
    Gate,
    Proposed,
    Refuse,
    Settle,
    State,
    Unanswered,
    Why,
    Withdrawn,
)

PAGES: Final = 100
TOOLS: Final = 2000
"""How many pages and tools of `tools/list` are read before the server is taken for broken."""


class ServerError(Exception):
    """The server answered with an error, or is gone. Code and text are for the client."""

    def __init__(self, code: int, text: str, data: Any = None) -> None:
        """Keep what a JSON-RPC error carries."""
        super().__init__(text)
        self.code = code
        self.data = data


@dataclass(slots=True)
class InFlight:
    """A request of the client that has no answer yet."""

    gate: Gate = field(default_factory=Gate)
    forwarded: int | None = None
    """Our id of its `tools/call` at the server."""
    ok: bool = False
    """Whether the tool ran and answered without an error."""
    silent: bool = False
    """Cancelled by the client, who must get no answer any more."""
    task: asyncio.Task[None] | None = None


class Shim:
    """One client, one server, one gate a call."""

    def __init__(
        self, server: str, decisions: AsyncClient, to_client: asyncio.StreamWriter, to_server: asyncio.StreamWriter
    ) -> None:
        """Stand between both; `server` names it as the registry does."""
        self._server = server
        self._decisions = decisions
        self._to_client = to_client
        self._to_server = to_server
        self._in_flight: dict[mcp.Id, InFlight] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._next_id = 0
        self._gone: str | None = None
        self._definitions: dict[str, bytes] | None = None
        self._identity: tuple[str, str] | None = None
        self._methods: Final[Mapping[str, Callable[[InFlight, Mapping[str, Json]], Coroutine[Any, Any, Any]]]] = {
            "initialize": self._initialize,
            "ping": self._ping,
            "tools/list": self._list,
            "tools/call": self._call,
        }

    def from_client(self, line: bytes | None) -> None:
        """Take one line of the client."""
        try:
            message = mcp.read_client(line)
        except mcp.Unreadable as error:
            self._say(mcp.failure(error.id, error.code, str(error)))
            return
        if message is None:
            return
        if message.id is None:
            self._notified(message)
        elif message.id in self._in_flight:
            self._say(mcp.failure(message.id, mcp.INVALID_REQUEST, "this id is in flight already"))
        elif message.method not in self._methods:
            text = f"{quoted(message.method)} is not spoken here: only tools are"
            self._say(mcp.failure(message.id, mcp.METHOD_NOT_FOUND, text))
        else:
            self._in_flight[message.id] = flight = InFlight()
            flight.task = asyncio.create_task(self._serve(message.id, message, flight))
            self._tasks.add(flight.task)
            flight.task.add_done_callback(lambda task: self._over(message.id, flight, task))

    def from_server(self, line: bytes) -> None:
        """Take one line of the server: answers are matched, its own requests are refused, the rest is dropped."""
        message = mcp.read_server(line)
        if isinstance(message, mcp.Reply):
            future = self._pending.pop(message.id, None) if isinstance(message.id, int) else None
            if future is None or future.done():
                return
            if message.error is not None:
                code, text = message.error.get("code"), message.error.get("message")
                future.set_exception(
                    ServerError(
                        code if isinstance(code, int) else mcp.INTERNAL_ERROR,
                        text if isinstance(text, str) else "the server gave an error without words",
                        message.error.get("data"),
                    )
                )
            else:
                future.set_result(message.result)
        elif message is None:
            warn("a line of the server is not JSON-RPC, and is dropped")
        elif message.id is not None:
            self._tell(mcp.failure(message.id, mcp.METHOD_NOT_FOUND, "the client offers nothing to servers here"))
        elif message.method == "notifications/tools/list_changed":
            self._definitions = None
            self._say(mcp.notification(message.method))

    async def heard(self) -> None:
        """Wait for a client that reads slower than the server writes."""
        with contextlib.suppress(ConnectionError):
            await self._to_client.drain()

    def end(self, text: str) -> None:
        """Answer every call in flight with `text`: nothing more can be forwarded."""
        self._gone = self._gone or text
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(ServerError(mcp.INTERNAL_ERROR, text))

    async def drained(self, limit_s: float) -> None:
        """Wait until every call was answered and settled, for at most `limit_s` seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=limit_s)

    async def abandon(self) -> None:
        """Give up on what is still not settled: it will be charged."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _over(self, message_id: mcp.Id | None, flight: InFlight, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if message_id is not None and self._in_flight.get(message_id) is flight:
            del self._in_flight[message_id]

    # What the client may ask for.

    async def _serve(self, message_id: mcp.Id, message: mcp.Message, flight: InFlight) -> None:
        try:
            answer = mcp.result(message_id, await self._methods[message.method](flight, message.params))
        except mcp.Unreadable as error:
            answer = mcp.failure(message_id, error.code, str(error))
        except ServerError as error:
            answer = mcp.failure(message_id, error.code, str(error), error.data)
        except CallError as error:
            answer = mcp.failure(message_id, mcp.INTERNAL_ERROR, f"the sidecar gave no answer: {error}")
        except asyncio.CancelledError:
            flight.silent, answer = True, b""
        except Exception as error:  # noqa: BLE001  a bug of ours must not leave a call without an answer
            warn(f"an internal error in {quoted(message.method)}: {type(error).__name__}")
            answer = mcp.failure(message_id, mcp.INTERNAL_ERROR, "an internal error of the door")
        self._in_flight.pop(message_id, None)
        if not flight.silent:
            self._say(answer)
        if flight.gate.state is State.FORWARDED:
            await self._settle(flight.gate.receive(Finished(flight.ok)))

    async def _initialize(self, _: InFlight, params: Mapping[str, Json]) -> Any:
        answer = await self._ask_server("initialize", mcp.initialize_params(params))
        try:
            return mcp.initialize_result(answer)
        except ValueError as error:
            raise ServerError(mcp.INTERNAL_ERROR, str(error)) from None

    async def _ping(self, _: InFlight, __: Mapping[str, Json]) -> Any:
        await self._ask_server("ping")
        return {}

    async def _list(self, _: InFlight, params: Mapping[str, Json]) -> Any:
        """Show the tools in the session's scope whose definition is the registry's."""
        if "cursor" in params:
            raise mcp.Unreadable(mcp.INVALID_PARAMS, "no cursor was given: all tools are on one page")
        tools = await self._read_tools()
        pins = await self._pins()
        shown = []
        for tool, digest in tools:
            full = f"{self._server}/{tool['name']}"
            if pins.get(full) == digest:
                shown.append({name: value for name, value in tool.items() if name not in mcp.NOT_SHOWN})
            elif full in pins:
                warn(f"hidden: {quoted(full)}: its definition is not the one that the registry pins")
        return {"tools": shown}

    async def _call(self, flight: InFlight, params: Mapping[str, Json]) -> Any:
        """Judge, and forward on the gate's word alone."""
        name, arguments_json = mcp.call_params(params)
        if self._definitions is None:
            await self._read_tools()
        definition = (self._definitions or {}).get(name)
        if definition is None:
            raise mcp.Unreadable(
                mcp.INVALID_PARAMS, f"the server has no tool {quoted(name)}, or declares it ambiguously"
            )
        if self._identity is None:
            with contextlib.suppress(CallError):
                await self._pins()
        tenant, agent = self._identity or ("", "")
        call = Call(tenant, agent, "", f"{self._server}/{name}", definition, arguments_json)
        flight.gate.receive(Proposed(call))
        decision = await self._decide(call)
        changed = (self._definitions or {}).get(name) != definition
        if (self._gone is not None or changed) and flight.gate.state is State.WAITING:
            flight.gate.receive(Withdrawn())
        commands = flight.gate.receive(Unanswered() if decision is None else Answered(decision))
        for command in commands:
            if isinstance(command, Forward):
                result = await self._forward(flight, name, command)
                flight.ok = isinstance(result, dict) and result.get("isError") is not True
                return result
            if isinstance(command, Refuse):
                self._identity = None if command.why is Why.DIGEST else self._identity
                await self._settle(commands)
                return mcp.refused(mcp.words(call.tool, command.why, decision))
        await self._settle(commands)
        why = "the server has changed its tools since this call was judged: list them again" if changed else "withdrawn"
        raise ServerError(mcp.INTERNAL_ERROR, self._gone or why)

    async def _decide(self, call: Call) -> Decision | None:
        try:
            return await self._decisions.authorize(
                call.tool, call.arguments_json, definition_sha256=call.definition_sha256, door="mcp_stdio"
            )
        except CallError as error:
            warn(f"no decision about {quoted(call.tool)}: {error.code}: {error}")
            if error.code == "INVALID_ARGUMENT":  # the caller's to mend, so it is told as a denial with its reason
                return Decision("", Effect.DENY, (Reason(ReasonKind.INVALID, str(error)),))
            return None

    def _forward(self, flight: InFlight, name: str, forward: Forward) -> asyncio.Future[Any]:
        """Write the judged bytes to the server. There is no pause between the gate's word and this."""
        flight.forwarded, future = self._expect()
        self._tell(mcp.call(flight.forwarded, name, forward.call.arguments_json))
        return future

    async def _settle(self, commands: Sequence[Command]) -> None:
        for command in commands:
            if isinstance(command, Settle):
                try:
                    await self._decisions.settle(command.decision_id, command.outcome)
                except CallError as error:
                    warn(f"decision {command.decision_id} is not settled, and will be charged: {error.code}: {error}")

    def _notified(self, message: mcp.Message) -> None:
        if message.method == "notifications/initialized":
            self._tell(mcp.notification(message.method))
        elif message.method == "notifications/cancelled":
            cancelled = message.params.get("requestId")
            flight = self._in_flight.get(cancelled) if isinstance(cancelled, str | int) else None
            if flight is not None:
                self._cancel(flight)

    def _cancel(self, flight: InFlight) -> None:
        flight.silent = True
        if flight.gate.state is State.WAITING:
            flight.gate.receive(Withdrawn())
        elif flight.gate.state is State.FORWARDED and flight.forwarded is not None:
            self._tell(mcp.notification("notifications/cancelled", {"requestId": flight.forwarded}))
            future = self._pending.pop(flight.forwarded, None)
            if future is not None and not future.done():
                future.set_exception(ServerError(mcp.INTERNAL_ERROR, "cancelled"))
        elif flight.gate.state is State.IDLE and flight.task is not None:
            flight.task.cancel()

    # The server and the sidecar.

    async def _read_tools(self) -> list[tuple[dict[str, Any], bytes]]:
        """Read all pages of the server's tools, each with the digest of its definition; remember the digests."""
        raw: list[Any] = []
        cursor: str | None = None
        for _ in range(PAGES):
            page = await self._ask_server("tools/list", {} if cursor is None else {"cursor": cursor})
            tools = page.get("tools") if isinstance(page, dict) else None
            if not isinstance(tools, list) or len(raw) + len(tools) > TOOLS:
                raise ServerError(mcp.INTERNAL_ERROR, "the server's list of tools cannot be read")
            raw += tools
            following = page.get("nextCursor")
            if not isinstance(following, str) or following == cursor:
                break
            cursor = following
        named = [tool for tool in raw if isinstance(tool, dict) and isinstance(tool.get("name"), str)]
        names = [tool["name"] for tool in named]
        known: dict[str, tuple[dict[str, Any], bytes]] = {}
        for tool in named:
            if names.count(tool["name"]) > 1:
                warn(f"hidden: {quoted(tool['name'])}: the server declares it more than once")
                continue
            try:
                known[tool["name"]] = (tool, definition_sha256(tool))
            except ValueError as error:
                warn(f"hidden: {quoted(tool['name'])}: {error}")
        self._definitions = {name: digest for name, (_, digest) in known.items()}
        return list(known.values())

    async def _pins(self) -> Mapping[str, bytes]:
        scope = await self._decisions.get_session()
        self._identity = (scope.session.tenant, scope.session.agent)
        return scope.tools

    async def _ask_server(self, method: str, params: Mapping[str, Json] | None = None) -> Any:
        if self._gone is not None:
            raise ServerError(mcp.INTERNAL_ERROR, self._gone)
        message_id, future = self._expect()
        self._tell(mcp.request(message_id, method, params))
        return await future

    def _expect(self) -> tuple[int, asyncio.Future[Any]]:
        self._next_id += 1
        future = self._pending[self._next_id] = asyncio.get_running_loop().create_future()
        return self._next_id, future

    def _tell(self, line: bytes) -> None:
        if not self._to_server.is_closing():
            self._to_server.write(line)

    def _say(self, line: bytes) -> None:
        if not self._to_client.is_closing():
            self._to_client.write(line)


def warn(text: str) -> None:
    """Say something to whoever reads the server's standard error."""
    sys.stderr.write(f"exequatur: {text}\n")
    sys.stderr.flush()
