"""Asking a server that may be broken, or hostile: what it lists, or one clear line, in bounded time; nothing is left."""

from __future__ import annotations

import gzip
import json
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from exequatur.cli import mcp_listing
from exequatur.cli.mcp_listing import ask_command, ask_url
from pdp.policy.mcp_tools import ListingError

STRANGE = Path(__file__).parents[2] / "support" / "strange_mcp.py"
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "s", "version": "1"}}
TOOL = {"name": "a", "inputSchema": {"type": "object"}, "strange": 1}

# A stdio server in a few lines: `answer(message)` is what it prints for each request.
SERVER = """
import json, sys
def say(**members): print(json.dumps({{"jsonrpc": "2.0", **members}}), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if message["method"] == "initialize":
        say(id=message["id"], result={hello})
    elif message["method"] == "tools/list":
        {answer}
"""


def ask(answer: str, timeout_s: float = 20) -> list[Any]:
    return ask_command([sys.executable, "-c", SERVER.format(hello=HELLO, answer=answer)], timeout_s)


def refused(asked: Callable[[], object]) -> str:
    begun = time.monotonic()
    with pytest.raises(ListingError) as error:
        asked()
    assert time.monotonic() - begun < 30
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 400
    return str(error.value)


def test_pages_are_followed_and_a_tool_is_given_as_it_is_on_the_wire(tmp_path):
    tools = ask_command([sys.executable, str(STRANGE), str(tmp_path / "log")], 20)
    assert [tool["name"] for tool in tools] == ["echo", "hang", "die", "fail", "odd", "twice", "twice"]
    assert tools[0]["_meta"] == {"a": 1}
    assert ask(f"say(id=message['id'], result={{'tools': [{TOOL}]}})") == [TOOL]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("say(id=message['id'], result={'tools': [], 'nextCursor': 'again'})", "list does not end"),
        ("say(id=message['id'], result={'tools': [], 'nextCursor': str(message['id'])})", "list does not end"),
        ("say(id=message['id'], result={'tools': [], 'nextCursor': 'x' * 5000})", "list does not end"),
        ("say(id=message['id'], result={'tools': [{'name': 'x' * 2**24}]})", "more than 16777216 bytes"),
        ("[print('x' * 2**20, flush=True) for _ in iter(int, 1)]", "more than 16777216 bytes"),
        ("[print(end='x' * 2**20, flush=True) for _ in iter(int, 1)]", "more than 16777216 bytes"),
        ("say(id=message['id'], result={'tools': [{'name': '\\ud800'}]})", "lone surrogate"),
        ("print('{\"jsonrpc\": ', flush=True)", "cannot be read: not JSON"),
        ("print('{' + '\"a\": {' * 500, flush=True)", "inside each other"),
        ("say(id=message['id'], result={'tools': 5})", "not what MCP says"),
        ("say(id=message['id'], result={'tools': [{'name': 'a'}]})", "not what MCP says"),
        (
            "say(id=message['id'], error={'code': -1, 'message': 'go \\x1b[31m away\\n' * 99})",
            "the server refused: `go",
        ),
        ("sys.exit('I need a\\x1b token')", "ended before it had listed its tools: it said `I need a\\x1b token`"),
        ("[print('x' * 2**16, file=sys.stderr) for _ in range(99)], sys.exit(1)", "ended before"),
    ],
)
def test_a_hostile_server_is_one_line(answer, words):
    assert words in refused(lambda: ask(answer))


def test_a_server_that_never_answers_is_waited_for_no_longer_than_said():
    assert refused(lambda: ask("pass", 0.3)) == "the server did not answer within 0.3 s"


def test_a_command_that_is_not_there_is_named():
    assert refused(lambda: ask_command(["no-such-server"], 5)) == (
        "`no-such-server` cannot be started: no such file or directory"
    )


def test_a_server_and_what_it_started_are_ended(tmp_path):
    """It ignores the end of its input and SIGTERM, and so does its child; each holds the pipe for as long as it lives."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    script = (
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "held = open(sys.argv[1], 'w'); os.fork(); time.sleep(300)"
    )
    asked = threading.Thread(
        target=lambda: refused(lambda: ask_command([sys.executable, "-c", script, str(pipe)], 0.5))
    )
    asked.start()
    with pipe.open("rb") as held:
        assert select.select([held], [], [], 20)[0]
        assert held.read() == b""
    asked.join()


class Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "id" not in message:
            return self.reply(202, b"")
        if message["method"] == "initialize":
            return self.answer(message, HELLO)
        return self.server.listed(self, message)

    def do_GET(self) -> None:
        self.reply(405, b"")

    def do_DELETE(self) -> None:
        self.reply(200, b"")

    def answer(self, message: dict, result: object, **headers: str) -> None:
        data = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
        self.reply(200, gzip.compress(data) if headers else data, **{"Content-Type": "application/json", **headers})

    def reply(self, code: int, data: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def url():
    """Serve MCP over HTTP; `serve(listed)` says what is answered to `tools/list`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    server.handle_error = lambda *_: None  # the client hangs up on what is too long
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def serve(listed: Callable[[Page, dict], None]) -> str:
        server.listed = listed
        return f"http://127.0.0.1:{server.server_port}/mcp"

    yield serve
    server.shutdown()
    server.server_close()


def test_a_server_over_http_is_asked_page_by_page(url):
    def listed(page: Page, message: dict) -> None:
        more = {} if message.get("params", {}).get("cursor") else {"nextCursor": "2"}
        page.answer(message, {"tools": [{**TOOL, "name": f"t{len(more)}"}], **more})

    assert ask_url(url(listed), 20) == [{**TOOL, "name": "t1"}, {**TOOL, "name": "t0"}]


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        (lambda page, message: page.answer(message, {"tools": [], "nextCursor": "a"}), "list does not end"),
        (lambda page, message: page.answer(message, {"tools": [{"name": "x" * 2**25}]}), "more than 16777216 bytes"),
        (lambda page, message: page.answer(message, {"tools": []}, **{"Content-Encoding": "gzip"}), "compresses"),
        (lambda page, message: page.answer(message, {"tools": [{"name": "\ud800"}]}), "the server refused"),
        (lambda page, _: page.reply(401, b"<html>"), "the server refused"),
        (lambda page, _: page.reply(302, b"", Location="http://elsewhere.test/"), "the server refused"),
    ],
)
def test_a_hostile_server_over_http_is_one_line(url, listed, words):
    assert words in refused(lambda: ask_url(url(listed), 20))


@pytest.mark.parametrize("wrong", ["http://127.0.0.1:1/", "ftp://a.test/", "nonsense", "http://[/"])
def test_a_url_where_nobody_is_is_one_line(wrong):
    assert refused(lambda: ask_url(wrong, 5)).startswith("the server cannot be asked: ")


def test_the_library_logs_again_afterwards():
    import logging

    refused(lambda: ask_command(["no-such-server"], 5))
    assert logging.getLogger("mcp").isEnabledFor(logging.ERROR)
    assert mcp_listing.BYTES == 2**24
