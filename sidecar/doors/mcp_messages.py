"""MCP over lines of JSON, as far as this door speaks it: what is read, what is struck out, what is said.

Pure. Rules:
- From the client one strict reading (I-JSON); what reaches the server is written anew, and holds nothing else.
- From the server a lenient reading, since a result is no action; it too is written anew, so that nobody downstream can
  read other members than we did.
- Only `tools` is spoken. A method that is not named here is refused, whatever a later version says about it.
- A refusal's words are for a model: what did not run, why, and what to do; no value and nothing from inside.

Source: Model Context Protocol 2025-11-25, JSON-RPC 2.0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeAlias, TypeGuard

from exequatur.trust.canonical import Json, JsonError, JsonLimits, canonical, parse, quoted
from exequatur.values import Decision, ReasonKind
from sidecar.gate import Why

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603

VERSIONS: Final = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"""The versions with an `initialize` handshake, the newest first."""

CLIENT_LINE_BYTES: Final = 4 * 2**20
"""Where we stop reading a client's line; under it, a message that is too large still gets an answer with its id."""

SERVER_LINE_BYTES: Final = 64 * 2**20
"""The longest line of a server: a result can be a file."""

# An action's own limits, and room for the message around it.
LIMITS: Final = JsonLimits(bytes=272 * 1024, depth=68, keys=2100)

NOT_SHOWN: Final = frozenset({"_meta", "icons", "execution"})
"""The members of a tool's definition that its pin does not cover, and the one about tasks, which are not spoken."""

Id: TypeAlias = str | int


class Unreadable(Exception):  # noqa: N818
    """A message that is refused: JSON-RPC code, one sentence, and the id where one could be made out."""

    def __init__(self, code: int, text: str, message_id: Id | None = None) -> None:
        """Keep code, sentence and id."""
        super().__init__(text)
        self.code = code
        self.id = message_id


@dataclass(frozen=True, slots=True)
class Message:
    """A request (id and method) or a notification (method alone)."""

    id: Id | None
    method: str
    params: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Reply:
    """A response of the server: its result, or its error."""

    id: Id
    result: Any
    error: Mapping[str, Any] | None


class Lines:
    """Cuts a stream into lines; a line over the limit is given as None once its end is seen."""

    def __init__(self, limit: int) -> None:
        """Take lines of at most `limit` bytes."""
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        """Take the next bytes of the stream; gives each complete line without its end, empty ones left out."""
        *ended, rest = data.split(b"\n")
        for part in ended:
            self._keep(part)
            line = None if self._size > self._limit else b"".join(self._parts).strip(b" \t\r")
            self._parts, self._size = [], 0
            if line != b"":
                yield line
        self._keep(rest)

    @property
    def overrun(self) -> bool:
        """Whether the line that is being read is over the limit already."""
        return self._size > self._limit

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._limit:
            self._parts = []  # what is refused is not kept
        elif part:
            self._parts.append(part)


def read_client(line: bytes | None) -> Message | None:
    """Read one line of the client; None for a response, which answers nothing of ours. Raises `Unreadable`."""
    if line is None:
        raise Unreadable(INVALID_REQUEST, f"a message is at most {LIMITS.bytes} bytes")
    try:
        value = parse(line, LIMITS)
    except JsonError as error:
        raise Unreadable(PARSE_ERROR, str(error), _guess_id(line)) from None
    if isinstance(value, list):
        raise Unreadable(INVALID_REQUEST, "batches are not taken: send one message a line")
    found = value.get("id") if isinstance(value, dict) else None
    message_id = found if _is_id(found) else None
    if not isinstance(value, dict) or value.get("jsonrpc") != "2.0":
        raise Unreadable(INVALID_REQUEST, "not a JSON-RPC 2.0 message", message_id)
    if "method" not in value and ("result" in value or "error" in value):
        return None
    if "id" in value and message_id is None:
        raise Unreadable(INVALID_REQUEST, "the id must be a string or a whole number")
    method, params = value.get("method"), value.get("params", {})
    if not isinstance(method, str) or not isinstance(params, dict) or value.keys() - _MEMBERS:
        raise Unreadable(INVALID_REQUEST, "not a JSON-RPC 2.0 request", message_id)
    return Message(message_id, method, params)


def read_server(line: bytes) -> Message | Reply | None:
    """Read one line of the server; None for what is neither message nor response."""
    try:
        value = json.loads(line, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    message_id, method = value.get("id"), value.get("method")
    if isinstance(method, str):
        params = value.get("params")
        return Message(message_id if _is_id(message_id) else None, method, params if isinstance(params, dict) else {})
    if not _is_id(message_id):
        return None
    error = value.get("error")
    return Reply(message_id, value.get("result"), error if isinstance(error, dict) else None)


def request(message_id: int, method: str, params: Mapping[str, Json] | None = None) -> bytes:
    """Write a request or a notification's line; the door's own ids are whole numbers."""
    return _line({"jsonrpc": "2.0", "id": message_id, "method": method, **({"params": params} if params else {})})


def notification(method: str, params: Mapping[str, Json] | None = None) -> bytes:
    """Write a notification's line."""
    return _line({"jsonrpc": "2.0", "method": method, **({"params": params} if params else {})})


def call(message_id: int, name: str, arguments_json: bytes) -> bytes:
    """Write the line of `tools/call`: exactly these argument bytes, and nothing that was not judged."""
    head = b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":%b,"arguments":'
    return head % (message_id, canonical(name)) + arguments_json + b"}}\n"


def result(message_id: Id, value: Any) -> bytes:
    """Write a response's line."""
    return _line({"jsonrpc": "2.0", "id": message_id, "result": value})


def failure(message_id: Id | None, code: int, text: str, data: Any = None) -> bytes:
    """Write an error's line."""
    error = {"code": code, "message": text, **({} if data is None else {"data": data})}
    return _line({"jsonrpc": "2.0", "id": message_id, "error": error})


def refused(text: str) -> dict[str, Json]:
    """Make the tool result that tells a model no."""
    return {"content": [{"type": "text", "text": text}], "isError": True}


def initialize_params(params: Mapping[str, Json]) -> dict[str, Json]:
    """Make what the server is told: a version that we speak, who the client is, and no capability at all.

    Sampling, elicitation, roots and tasks are ways for a server to act through the client: none is offered.
    """
    asked = params.get("protocolVersion")
    about = params.get("clientInfo")
    return {
        "protocolVersion": asked if asked in VERSIONS else VERSIONS[0],
        "capabilities": {},
        "clientInfo": _about(about),
    }


def initialize_result(value: Any) -> dict[str, Json]:
    """Make what the client is told: the server's version and name, and `tools` where the server has it.

    Its `instructions` are left out: nothing pins that text, and it would go into a model's prompt.
    Raises `ValueError` for a version that we do not speak.
    """
    if not isinstance(value, dict) or value.get("protocolVersion") not in VERSIONS:
        raise ValueError("the server speaks no version of MCP that this door knows: " + ", ".join(VERSIONS))
    offered = value.get("capabilities")
    tools = offered.get("tools") if isinstance(offered, dict) else None
    capabilities: dict[str, Json] = {}
    if isinstance(tools, dict):
        capabilities["tools"] = {"listChanged": tools.get("listChanged") is True}
    return {
        "protocolVersion": value["protocolVersion"],
        "capabilities": capabilities,
        "serverInfo": _about(value.get("serverInfo")),
    }


def call_params(params: Mapping[str, Json]) -> tuple[str, bytes]:
    """Take the tool's name and the canonical bytes of its arguments. `_meta` is dropped, as nothing judges it.

    Raises `Unreadable` (invalid params) for any other member: without it the call would be another one.
    """
    extra = params.keys() - {"name", "arguments", "_meta"}
    if extra:
        raise Unreadable(INVALID_PARAMS, f"the member {quoted(min(extra))} of `tools/call` is not taken here")
    name, arguments = params.get("name"), params.get("arguments", {})
    if not isinstance(name, str) or not name:
        raise Unreadable(INVALID_PARAMS, "`name` must be a tool's name")
    if not isinstance(arguments, dict):
        raise Unreadable(INVALID_PARAMS, "`arguments` must be an object")
    return name, canonical(arguments)


def words(tool: str, why: Why, decision: Decision | None) -> str:
    """Say a refusal to a model."""
    if why is Why.APPROVAL and decision is not None:
        who = ", ".join(decision.approvers) or "a person who is responsible for it"
        return _say(
            f"`{tool}` was not run: this call needs a person's approval first.",
            _reasons(decision),
            f"Who may approve: {who}.",
            "Do not repeat the call unchanged before it is approved: it would be refused again. Ask for the approval, "
            "or go on without this step.",
            decision,
        )
    if why is Why.DENIED and decision is not None and decision.reasons:
        kind = decision.reasons[0].kind
        told = "" if kind in _INSIDE else _reasons(decision)
        return _say(
            f"`{tool}` was not run: {_HEAD.get(kind, _HEAD[ReasonKind.ERROR])}.", told, "", _advice(decision), decision
        )
    return _say(
        f"`{tool}` was not run: there was no valid decision about this call, and without one nothing runs.",
        "",
        "",
        _NOT_YOU,
        decision,
    )


_INSIDE: Final = (ReasonKind.ERROR, ReasonKind.STALE, ReasonKind.UNSPECIFIED)

_HEAD: Final = {
    ReasonKind.FORBIDDEN: "policy forbids this call",
    ReasonKind.NOT_PERMITTED: "no policy permits this call",
    ReasonKind.RESTRICTED: "policy refuses this call",
    ReasonKind.INVALID: "the call as it stands cannot be accepted",
    ReasonKind.EXHAUSTED: "what this session may do is used up",
    ReasonKind.ERROR: "the call could not be judged, and what is not judged does not run",
    ReasonKind.STALE: "the policy in force has expired, and nothing runs under it",
}

_NOT_YOU: Final = (
    "The arguments are not the cause, and repeating the call at once will not help. Tell the person you work for that "
    "the policy service gives no decisions."
)

_ADVICE: Final = {
    ReasonKind.INVALID: "Repeating it unchanged will be refused again: correct the tool or the arguments.",
    ReasonKind.EXHAUSTED: "Further calls will be refused as well: finish without them, or ask for a new session.",
    ReasonKind.ERROR: _NOT_YOU,
    ReasonKind.STALE: _NOT_YOU,
    ReasonKind.UNSPECIFIED: _NOT_YOU,
}

_REASON_CHARACTERS: Final = 400
_REASONS: Final = 5


def _advice(decision: Decision) -> str:
    if decision.retry_after_ms > 0:
        return f"The same call may be tried again after {decision.retry_after_ms} ms."
    return _ADVICE.get(
        decision.reasons[0].kind,
        "Repeating it unchanged will be refused again. Do it another way that the reason does not speak against, or "
        "tell the person you work for and go on without it.",
    )


def _reasons(decision: Decision) -> str:
    texts = dict.fromkeys(reason.text[:_REASON_CHARACTERS].rstrip(".") for reason in decision.reasons if reason.text)
    return "Why: " + "; ".join(list(texts)[:_REASONS]) + "." if texts else ""


def _say(head: str, why: str, who: str, advice: str, decision: Decision | None) -> str:
    trace = f"Decision {decision.decision_id}." if decision is not None and decision.decision_id else ""
    return "\n".join(part for part in (head, why, who, advice, trace) if part)


def _about(value: Any) -> dict[str, Json]:
    about = value if isinstance(value, dict) else {}
    kept: dict[str, Json] = {
        name: about[name] for name in ("name", "title", "version") if isinstance(about.get(name), str)
    }
    return {"name": "unknown", "version": "0", **kept}


_MEMBERS: Final = frozenset({"jsonrpc", "id", "method", "params"})


def _guess_id(line: bytes) -> Id | None:
    """The id of a message that is refused, so that its sender need not wait: an error is all that it gets."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    found = value.get("id") if isinstance(value, dict) else None
    return found if _is_id(found) else None


def _is_id(value: Any) -> TypeGuard[Id]:
    return type(value) is str or type(value) is int


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number beyond all doubles")
    return value
