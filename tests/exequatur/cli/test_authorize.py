"""`exequatur authorize`: here and by a decision point, the same answer, and an exit code that scripts can trust."""

from __future__ import annotations

import asyncio
import json
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from decisions import Decisions, deny
from exequatur.cli.authorize import authorize
from exequatur.transport import Code, Refusal
from exequatur.v1 import decision_pb2
from opa_servers import with_opa
from pdp.bundle.build import build
from policies import opa
from publisher import KID, built, pair, publish, sources

app = typer.Typer()
app.command()(authorize)

LOOK = {"agent": "assistant", "tool": "notes/read", "arguments": {"path": "/notes/a.md"}}
MAIL = {"agent": "assistant", "tool": "mail/send", "arguments": {"to": "a@example.com", "text": "t"}}


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("EXEQUATUR_TARGET", raising=False)
    Path("signed.tar.gz").write_bytes(publish(7, expires_at=datetime(2090, 1, 1, tzinfo=UTC)))
    Path("built.tar.gz").write_bytes(built().archive)
    Path("public").mkdir()
    Path(f"public/{KID}.pem").write_bytes(pair(KID)[1])


def ask(envelope: object, *arguments: str, code: int):
    text = envelope if isinstance(envelope, (str, bytes)) else json.dumps(envelope)
    result = CliRunner().invoke(app, ["-", *arguments], input=text)
    assert result.exit_code == code, result.output + result.stderr
    return result


def test_rego_that_an_opa_server_judges_is_judged_by_one_for_as_long_as_it_takes(monkeypatch):
    files = dict(build(with_opa(sources()), Path(opa())).files)
    Path("signed.tar.gz").write_bytes(publish(files=files, expires_at=datetime(2090, 1, 1, tzinfo=UTC)))
    outside = {**LOOK, "arguments": {"path": "/etc/passwd"}}
    assert here(outside, code=1)["reasons"][0]["policy"] == "notes.outside"
    monkeypatch.setenv("EXEQUATUR_OPA", "/nowhere/opa")
    assert (
        "`/nowhere/opa`, which is not there"
        in ask(LOOK, "--bundle", "signed.tar.gz", "--keys", "public", code=64).stderr
    )


def here(envelope: object, *arguments: str, code: int) -> dict:
    result = ask(envelope, "--bundle", "signed.tar.gz", "--keys", "public", "--json", *arguments, code=code)
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("envelope", "session", "effect", "policy", "code"),
    [
        (LOOK, {}, "allow", "office.reads", 0),
        (
            {**LOOK, "tool": "notes/write", "arguments": {"path": "/notes/templates/a", "text": "t"}},
            {},
            "warn",
            "notes.templates",
            0,
        ),
        (MAIL, {"labels": ["untrusted_input"]}, "require_approval", "mail.untrusted", 1),
        ({**MAIL, "arguments": {"to": "a@b.example", "text": "t"}}, {}, "deny", "mail.domain", 1),
        ({**LOOK, "agent": "stranger"}, {}, "deny", "", 1),
        ({**LOOK, "tool": "notes/burn"}, {}, "deny", "", 1),
        (LOOK, {"scope": ["mail/*"]}, "deny", "", 1),
    ],
)
def test_each_effect_has_its_exit_code(envelope, session, effect, policy, code):
    Path("session.json").write_text(json.dumps(session))
    value = here(envelope, "--session-file", "session.json", code=code)
    assert (value["effect"], value["reasons"][0]["policy"], value["sequence"]) == (effect, policy, 7)
    assert len(bytes.fromhex(value["action_digest"])) == 32
    result = ask(envelope, "--bundle", "signed.tar.gz", "--keys", "public", "--session-file", "session.json", code=code)
    assert effect.upper().replace("_", " ") in result.stdout
    assert envelope["tool"] in result.stdout


def test_the_action_may_come_from_a_file():
    Path("action.json").write_text(json.dumps(LOOK))
    result = CliRunner().invoke(app, ["action.json", "--bundle", "signed.tar.gz", "--keys", "public"])
    assert result.exit_code == 0
    assert CliRunner().invoke(app, ["nowhere.json", "--bundle", "x", "--keys", "public"]).exit_code == 2


def test_unsigned_policy_warns_and_says_so():
    result = ask(LOOK, "--bundle", "built.tar.gz", "--unsafe-unsigned", "--json", code=0)
    assert json.loads(result.stdout)["effect"] == "warn"
    assert "nobody signed" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        ((), 2, "say who judges"),
        (("--bundle", "signed.tar.gz"), 2, "needs `--keys`"),
        (("--bundle", "signed.tar.gz", "--keys", "public", "--unsafe-unsigned"), 2, "not both"),
        (("--keys", "public", "--target", "unix:/x"), 2, "go with `--bundle`"),
        (("--bundle", "built.tar.gz", "--keys", "public"), 64, "`built.tar.gz`: the bundle is not signed"),
        (("--bundle", "nowhere", "--keys", "public"), 64, "`nowhere`: it cannot be read"),
        (("--bundle", "signed.tar.gz", "--keys", "nowhere"), 64, "`--keys nowhere`"),
        (("--bundle", "signed.tar.gz", "--keys", "public", "--tenant", "acme"), 64, "tenant `default`"),
        (("--bundle", "signed.tar.gz", "--keys", "public", "--session-file", "nowhere"), 2, "cannot be read"),
        (("--target", "127.0.0.1:1"), 2, "--unsafe-plaintext"),
        (("--target", "127.0.0.1:1", "--tls-key", "k"), 2, "go together"),
        (
            ("--target", "127.0.0.1:1", "--tls-key", "k", "--tls-roots", "k", "--tls-certificate", "k"),
            2,
            "no such file",
        ),
        (("--target", "127.0.0.1:1", "--unsafe-plaintext"), 69, "does not answer"),
        (("--target", "unix:/nowhere"), 69, "does not answer"),
    ],
)
def test_what_cannot_be_judged_is_one_line_and_no_go_ahead(arguments, code, why):
    result = ask(LOOK, *arguments, code=code)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert why in result.stderr


@pytest.mark.parametrize(
    "envelope",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"agent": "a", "agent": "b"}',
        {**LOOK, "more": 1},
        {**LOOK, "arguments": [1]},
        b"\xff",
        "[" * 10_000,
    ],
)
def test_what_is_no_action_is_exit_code_2(envelope):
    result = ask(envelope, "--bundle", "signed.tar.gz", "--keys", "public", code=2)
    assert result.stderr.startswith("error: `-`: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("session", ['{"labels": "x"}', '{"budget": 1}', "no", '{"scope": ["a b"]}'])
def test_a_wrong_session_file_is_exit_code_2(session):
    Path("session.json").write_text(session)
    result = ask(LOOK, "--bundle", "signed.tar.gz", "--keys", "public", "--session-file", "session.json", code=2)
    assert "`session.json`" in result.stderr


@pytest.fixture
def service(tmp_path):
    """A decision service on a Unix socket, in a thread with a loop of its own."""
    decisions = Decisions(agent="assistant")
    loop, started, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        server = await decisions.listen(tmp_path / "s")
        started.set()
        await stop.wait()
        await server.stop(0)

    thread = threading.Thread(target=lambda: (loop.run_until_complete(serve()), loop.close()))
    thread.start()
    assert started.wait(10)
    yield decisions
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)


def test_a_running_decision_point_is_asked_with_the_very_bytes(service, tmp_path):
    target = ("--target", f"unix:{tmp_path}/s")
    claims = {"reason": "r", "tokens": 5, "provenance": ["p"]}
    envelope = {
        **LOOK,
        "instance": "i",
        "session": "s",
        "claims": claims,
        "idempotency_key": "k",
        "definition_sha256": "00" * 32,
    }
    value = json.loads(ask(envelope, *target, "--json", code=0).stdout)
    assert (value["effect"], value["sequence"], value["session"]) == ("allow", 7, "s")
    (asked,) = service.asked
    assert (asked.agent, asked.instance, asked.session, asked.tool) == ("assistant", "i", "s", "notes/read")
    assert asked.arguments_json == b'{"path":"/notes/a.md"}'
    assert (asked.claims.reason, asked.claims.tokens, list(asked.claims.provenance)) == ("r", 5, ["p"])
    assert (asked.definition_sha256, asked.idempotency_key) == (bytes(32), "k")
    here_value = here({**LOOK, "session": "s", "definition_sha256": "00" * 32}, code=1)
    assert here_value["action_digest"] == value["action_digest"]


def test_a_denial_and_a_repeated_answer_are_no_go_ahead(service, tmp_path):
    target = ("--target", f"unix:{tmp_path}/s")
    service.rule = deny
    assert "DENY" in ask(LOOK, *target, code=1).stdout

    def repeated(request, response):
        response.repeated_answer = True
        response.reasons[0].kind = decision_pb2.REASON_KIND_PERMITTED
        return response

    service.rule = repeated
    assert "no second go-ahead" in ask(LOOK, *target, code=1).stdout


def test_a_service_that_refuses_the_call_is_told_apart(service, tmp_path):
    target = ("--target", f"unix:{tmp_path}/s")
    for refusal, code in ((Code.INVALID_ARGUMENT, 2), (Code.RESOURCE_EXHAUSTED, 69)):
        service.rule = lambda request, response, refusal=refusal: Refusal(refusal, "not like this")
        assert "not like this" in ask(LOOK, *target, code=code).stderr
