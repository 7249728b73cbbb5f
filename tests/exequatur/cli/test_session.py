"""`exequatur session`: what an orchestrator asks for is what is sent, and what it gets is shown."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import CliRunner

from exequatur.cli.session import app
from exequatur.transport import Code, Refusal, Server
from exequatur.v1 import session_pb2 as pb

SESSION = pb.Session(
    id="0190a0",
    tenant="default",
    agent="coder",
    instance="i1",
    enforcer="spiffe://example.com/sidecar/coder",
    subject="anna",
    intent=pb.Intent(purpose="fix", task="issue [7]", domains=["code"]),
    scope=["git/*"],
    max_steps=10,
    budget_microusd=5000,
    labels=["source_read"],
    steps=3,
    spent_microusd=1000,
    reserved_microusd=500,
    opened_at=Timestamp(seconds=1_800_000_000),
    expires_at=Timestamp(seconds=1_800_003_600),
)


class Sessions:
    """A session service that answers as the test says."""

    def __init__(self) -> None:
        self.asked: dict[str, bytes] = {}
        self.refusal: Refusal | None = None

    def handler(self, name: str, response: object):
        async def handle(message, peer, left_s):
            self.asked[name] = message
            if self.refusal is not None:
                raise self.refusal
            return response.SerializeToString()

        return handle

    @property
    def handlers(self):
        closed = pb.Session()
        closed.CopyFrom(SESSION)
        closed.closed_at.seconds = 1_800_000_060
        answers = {
            "OpenSession": pb.OpenSessionResponse(session=SESSION),
            "GetSession": pb.GetSessionResponse(
                session=SESSION, tools=[pb.ToolPin(tool="git/log", definition_sha256=bytes(32))]
            ),
            "CloseSession": pb.CloseSessionResponse(session=closed),
        }
        return {f"/exequatur.v1.SessionService/{name}": self.handler(name, answer) for name, answer in answers.items()}


@pytest.fixture
def service(tmp_path, monkeypatch):
    monkeypatch.setenv("EXEQUATUR_TARGET", f"unix:{tmp_path}/s")
    monkeypatch.setenv("COLUMNS", "160")
    sessions = Sessions()
    loop, started, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        server = Server(sessions.handlers, (pb.DESCRIPTOR.services_by_name["SessionService"],))
        server.listen_unix(tmp_path / "s", "test")
        await server.start()
        started.set()
        await stop.wait()
        await server.stop(0)

    thread = threading.Thread(target=lambda: (loop.run_until_complete(serve()), loop.close()))
    thread.start()
    assert started.wait(10)
    yield sessions
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)


def call(*arguments: str, code: int = 0):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output + result.stderr
    return result


def test_a_session_is_opened_as_it_was_asked_for(service):
    options = {
        "--enforcer": "spiffe://example.com/sidecar/coder",
        "--lifetime": "90m",
        "--scope": "git/*",
        "--max-steps": "10",
        "--budget-microusd": "5000",
        "--purpose": "fix",
        "--task": "issue 7",
        "--domain": "code",
        "--subject": "anna",
        "--instance": "i1",
        "--tenant": "acme",
    }
    words = [word for pair in options.items() for word in pair]
    value = json.loads(call("open", "coder", *words, "--scope", "fs/read", "--json").stdout)
    assert (value["id"], value["expires_at"], value["closed_at"]) == ("0190a0", "2027-01-15T09:00:00Z", None)
    request = pb.OpenSessionRequest.FromString(service.asked["OpenSession"])
    assert request.lifetime == Duration(seconds=5400)
    wish = request.session
    assert (wish.agent, wish.instance, wish.tenant, wish.subject) == ("coder", "i1", "acme", "anna")
    assert (list(wish.scope), wish.max_steps, wish.budget_microusd) == (["git/*", "fs/read"], 10, 5000)
    assert wish.intent == pb.Intent(purpose="fix", task="issue 7", domains=["code"])


def test_unless_asked_for_a_session_has_no_scope_and_no_money(service):
    call("open", "coder", "--enforcer", "e")
    wish = pb.OpenSessionRequest.FromString(service.asked["OpenSession"]).session
    assert (list(wish.scope), wish.budget_microusd) == ([], 0)


def test_a_session_is_shown_with_its_state_and_its_tools(service):
    text = call("show", "0190a0").stdout
    for word in ("session 0190a0", "coder i1", "fix: issue [7]", "3 of 10", "3,500 of 5,000", "source_read", "git/log"):
        assert word in text
    assert json.loads(call("show", "--agent", "coder", "--json").stdout)["tools"] == {"git/log": "00" * 32}
    assert pb.GetSessionRequest.FromString(service.asked["GetSession"]).agent == "coder"


def test_a_session_is_closed(service):
    assert "closed" in call("close", "0190a0").stdout
    assert pb.CloseSessionRequest.FromString(service.asked["CloseSession"]).id == "0190a0"


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (Code.NOT_FOUND, 1),
        (Code.PERMISSION_DENIED, 1),
        (Code.FAILED_PRECONDITION, 1),
        (Code.INVALID_ARGUMENT, 2),
        (Code.INTERNAL, 69),
    ],
)
def test_a_refusal_is_one_line_and_an_exit_code(service, refusal, code):
    service.refusal = Refusal(refusal, "not so")
    for arguments in (("show", "x"), ("close", "x"), ("open", "coder", "--enforcer", "e")):
        result = call(*arguments, code=code)
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1
        assert f"not so ({refusal.name.lower()})" in result.stderr


def test_wrong_calls_are_exit_code_2(monkeypatch):
    monkeypatch.delenv("EXEQUATUR_TARGET", raising=False)
    assert "`--target` is missing" in call("show", "x", code=2).stderr
    assert "by its id, or by `--agent`" in call("show", code=2).stderr
    assert "`--lifetime` must be" in call("open", "coder", "--enforcer", "e", "--lifetime", "60", code=2).stderr
    assert "does not answer" in call("show", "x", "--target", "unix:/nowhere", code=69).stderr
