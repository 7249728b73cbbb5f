"""Asking a real OPA server: what it says is heard exactly, and whatever hangs, nobody waits longer than said."""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from exequatur.trust.canonical import Json
from opa_servers import RULE, files, revision, strange_server, team_server
from pdp.engine.answer import AnswerError
from pdp.engine.opa import revisions_in
from pdp.opa import ANSWER_BYTES, PAUSE_S, SLOW, Breaker, Connection, is_up, look
from pdp.opa_address import OpaAddress
from pdp.opa_server import temporary
from pki import Authority
from policies import opa
from processes import children, freeze
from stack import until

LOG: dict[str, Json] = {"tool": {"name": "log"}}
TIMEOUT_S = 0.5
SOON_S = 4.0
"""Longer than any timeout here but one that piles up or never comes, for a machine that has other work."""


@pytest.fixture(scope="module")
def address():
    with temporary(files(), Path(opa())) as found:
        yield found


@pytest.fixture
def connect():
    made = []

    def connect(address, **options):
        made.append(Connection(address, **{"timeout_s": 5.0, **options}))
        return made[-1]

    yield connect
    for connection in made:
        connection.close()


def error_of(connection, document=LOG, rule=RULE) -> str:
    begun = time.monotonic()
    with pytest.raises(AnswerError) as error:
        connection.ask(rule, document)
    assert time.monotonic() - begun < SOON_S
    return str(error.value)


def test_an_answer_comes_with_the_revision_of_the_bundle(address, connect):
    body = connect(address).ask(RULE, LOG)
    assert (body["result"], revisions_in(body)) == ({"allow": True}, [revision()])
    assert revisions_in(look(address, RULE, timeout_s=5)) == [revision()]
    assert is_up(address, timeout_s=5)


def test_one_connection_serves_all_questions(address, connect):
    connection = connect(address)
    for _ in range(20):
        connection.ask(RULE, LOG)
    pool = connection._client._session.get_adapter("http://opa")._pool
    assert pool.pool.qsize() == 1
    assert pool.num_connections == 1


def test_a_failing_builtin_is_named_with_its_place_and_without_its_values(address, connect):
    text = error_of(connect(address), {**LOG, "when": 'pass"word'})
    assert text == "the built-in `time.parse_rfc3339_ns` failed at `decision.rego:7`"


def test_rules_that_conflict_are_an_error_with_its_place(address, connect):
    text = error_of(connect(address), {**LOG, "when": "1960-01-01T00:00:00Z"})
    assert text == "OPA reports `eval_conflict_error` at `decision.rego:7`"


def test_an_answer_that_is_too_long_is_not_read(address, connect):
    connection = connect(address)
    assert "is too long" in error_of(connection, {"text": "x" * (ANSWER_BYTES // 2000 + 1)})
    assert connection.ask(RULE, LOG)["result"] == {"allow": True}, "it was that action, not the server"


@pytest.fixture
def slow(monkeypatch):
    """Give a question that takes a minute to judge, of a server that is up."""
    monkeypatch.setattr("pdp.opa.ALIVE_S", SOON_S)
    ended = threading.Event()
    with strange_server(lambda _: ended.wait(60)) as url:
        yield {"slow": url}
        ended.set()


def test_an_evaluation_without_end_is_left_behind_and_denies_nobody_else(address, connect, slow):
    connection = connect(address, timeout_s=TIMEOUT_S)
    for _ in range(2):
        for _ in range(SLOW - 1):
            assert error_of(connection, slow) == "the OPA server did not answer within 500 ms"
        assert connection.ask(RULE, LOG)["result"] == {"allow": True}


def test_slow_evaluations_on_end_do_not_pile_up(address, connect, slow):
    connection = connect(address, timeout_s=TIMEOUT_S)
    texts = [error_of(connection, slow) for _ in range(SLOW + 1)]
    assert ["left alone" in text for text in texts] == [False] * SLOW + [True]
    until(lambda: _asked(connection), what="the end of the pause")


def _asked(connection) -> bool:
    try:
        connection.ask(RULE, LOG)
    except AnswerError:
        return False
    return True


def test_a_stopped_server_costs_one_timeout_whoever_waits_and_is_asked_again_when_it_is_back(connect):
    told: list[bool] = []
    with temporary(files(), Path(opa())) as address:
        (pid,) = children(os.getpid(), str(address.socket))
        connection = connect(address, timeout_s=TIMEOUT_S, told=told.append)
        connection.ask(RULE, LOG)
        freeze(pid)
        begun = time.monotonic()
        texts = [error_of(connection) for _ in range(100)]
        assert time.monotonic() - begun < SOON_S
        assert "did not answer within 500 ms" in texts[0]
        assert "left alone" in texts[1]
        assert told[-1]
        os.kill(pid, signal.SIGCONT)
        until(lambda: _asked(connection), what="an answer")
        assert not told[-1]


def test_a_killed_server_is_said_at_once(connect):
    with temporary(files(), Path(opa())) as address:
        connection = connect(address)
        connection.ask(RULE, LOG)
        (pid,) = children(os.getpid(), str(address.socket))
        os.kill(pid, signal.SIGKILL)
        assert error_of(connection) == "the OPA server cannot be reached"


def trickle(caller: socket.socket) -> None:
    caller.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(100):
        time.sleep(0.1)
        caller.sendall(b"x")


def redirect(caller: socket.socket) -> None:
    caller.sendall(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")


def nonsense(caller: socket.socket) -> None:
    caller.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{{{")


def failure(caller: socket.socket) -> None:
    caller.sendall(b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\n[]")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (trickle, "the OPA server did not answer within 500 ms"),
        (redirect, "the OPA server's answer cannot be read, or is too long"),
        (nonsense, "the OPA server's answer cannot be read, or is too long"),
        (failure, "the OPA server answered with status 500"),
        (lambda caller: None, "the OPA server cannot be reached"),
    ],
    ids=["a byte now and then", "redirect", "no JSON", "status 500", "nothing"],
)
def test_what_is_no_answer_is_an_error_within_the_deadline(connect, answer, text):
    with strange_server(answer) as url:
        assert error_of(connect(OpaAddress(url=url), timeout_s=TIMEOUT_S)) == text


def test_a_name_that_does_not_resolve_in_time_does_not_hold_us(connect, monkeypatch):
    hangs = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: hangs.wait(10))
    text = error_of(connect(OpaAddress(url="http://opa.example:1"), timeout_s=TIMEOUT_S))
    assert text == "the OPA server did not answer within 500 ms"
    hangs.set()


AUTHZ = """package system.authz

default allow := false

allow if input.identity == "right"

allow if input.path == ["health"]
"""


def test_a_teams_server_with_tls_and_a_token(tmp_path, connect, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    authority = Authority(tmp_path / "pki")
    tls = authority.issue("opa", "spiffe://example.org/opa")
    bundle = files(**{"authz.rego": AUTHZ.encode()})
    auth = ("--authentication=token", "--authorization=basic")
    certificate = (f"--tls-cert-file={tls.certificate}", f"--tls-private-key-file={tls.key}")
    token = tmp_path / "token"
    token.write_text("wrong\n")
    with team_server(tmp_path, bundle, *auth, *certificate, scheme="https") as url:
        connection = connect(OpaAddress(url=url, token_file=token, roots=tls.roots))
        assert "check the token" in error_of(connection)
        token.write_text("right\n")
        assert connection.ask(RULE, LOG)["result"] == {"allow": True}, "a new token is used at once"
        stranger = Authority(tmp_path / "other").issue("x", "spiffe://example.org/x")
        assert "cannot be reached" in error_of(connect(OpaAddress(url=url, token_file=token, roots=stranger.roots)))
        token.unlink()
        assert "cannot be reached" in error_of(connection)


def test_what_is_dropped_leaves_no_thread_and_no_socket(address):
    before = set(threading.enumerate())
    connection = Connection(address, timeout_s=5)
    connection.ask(RULE, LOG)
    (thread,) = set(threading.enumerate()) - before
    del connection
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


def test_pauses_double_to_a_limit_and_end_with_an_answer():
    breaker, now, pauses = Breaker(), 100.0, []
    assert breaker.lets_through(now)
    for _ in range(7):
        breaker.failed(now)
        assert breaker.down
        begun = now
        while not breaker.lets_through(now):
            now += 0.01
        pauses.append(round(now - begun, 1))
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert pauses[-1] == PAUSE_S[1]
    breaker.answered()
    assert not breaker.down
    breaker.failed(now)
    assert breaker.lets_through(now + 0.11)
