"""An OPA server that is killed, stopped or swapped under load: each answer in time, and by the bundle in force."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import bank
from exequatur.client import Client, Decision, Effect, ReasonKind
from exequatur.spool import Spool
from exequatur.transport import UNSAFE_PLAINTEXT
from opa_servers import team_server
from processes import children, freeze
from stack import Process, free_port, http_get, until

TIMEOUT_S, IN_TIME_S = 2, 15
"""What the OPA server has here, and the end of a call with all that a machine with other work adds."""

HOUR = dt.timedelta(hours=1)


class Pdp:
    """A decision point in a folder, with callers that ask without end."""

    def __init__(self, folder: Path, *extra: str, workers: int = 1) -> None:
        self.folder = folder
        bundles, keys = bank.put(folder, engine="opa")
        self.target, http = f"127.0.0.1:{free_port()}", free_port()
        argv = [
            *("pdp", "serve", "--unsafe-plaintext", f"--listen={self.target}", f"--http=127.0.0.1:{http}"),
            *(f"--state={folder / 'state'}", f"--bundle={bundles}", f"--keys={keys}", f"--workers={workers}"),
            *(f"--openers={UNSAFE_PLAINTEXT}", f"--opa={os.environ['EXEQUATUR_OPA']}"),
            *(f"--opa-timeout-ms={TIMEOUT_S * 1000}", *extra),
        ]
        self.process = Process("pdp", argv, folder / "pdp.log", http)
        self.answers: list[tuple[float, Decision]] = []

    @contextlib.contextmanager
    def asked(self, callers: int = 2) -> Iterator[None]:
        """Have callers ask while the context lasts."""
        ended = threading.Event()

        def ask() -> None:
            with self.client() as client:
                while not ended.is_set():
                    begun = time.monotonic()
                    answer = client.authorize("bank/look", {"account": "7"}, agent="teller")
                    self.answers.append((time.monotonic() - begun, answer))
                    time.sleep(0.05)

        with self.client() as client:
            opened = client.open_session(
                "teller", UNSAFE_PLAINTEXT, lifetime=HOUR, scope=["*"], max_steps=10**6, budget_microusd=0
            )
            threads = [threading.Thread(target=ask) for _ in range(callers)]
            for thread in threads:
                thread.start()
            try:
                yield
            finally:
                ended.set()
                for thread in threads:
                    thread.join()
            client.close_session(opened.id)

    def client(self) -> Client:
        return Client(self.target, unsafe_plaintext=True, timeout_s=30)

    def opas(self) -> list[int]:
        return children(self.process.popen.pid, "--unix-socket-perm")

    def down(self) -> bool:
        return "exequatur_opa_down 1.0" in http_get(self.process.http, "/metrics")[1]

    def last(self) -> Decision:
        """Give the next answer that comes."""
        seen = len(self.answers)
        until(lambda: len(self.answers) > seen, what="an answer")
        return self.answers[-1][1]


@pytest.fixture
def tmp_path():
    """A folder whose name leaves room for a socket's: `sockaddr_un` holds 108 bytes."""
    with tempfile.TemporaryDirectory(prefix="ex-") as name:
        yield Path(name)


@pytest.fixture
def start(tmp_path):
    made = []

    def start(*extra: str, **options) -> Pdp:
        made.append(Pdp(tmp_path, *extra, **options))
        made[-1].process.start()
        return made[-1]

    yield start
    for pdp in made:
        pdp.process.kill()


def is_failure(answer: Decision) -> bool:
    return answer.effect is Effect.DENY and answer.reasons[0].kind is ReasonKind.ERROR


def test_a_server_of_ours_is_swapped_killed_and_stopped_under_load(start):
    pdp = start(workers=2)
    with pdp.asked():
        until(lambda: len(pdp.answers) > 10)
        bank.put(pdp.folder, 2, policies=1, engine="opa")
        until(lambda: pdp.last().bundle_sequence == 2, what="the swap")
        until(lambda: len(pdp.opas()) == 1, what="the end of the old server")
        swapped = len(pdp.answers)

        os.kill(pdp.opas()[0], signal.SIGKILL)
        until(lambda: is_failure(pdp.last()), what="a denial")
        until(lambda: pdp.last().allowed, what="the server's next life")
        up = len(pdp.answers)
        until(lambda: len(pdp.answers) > up + 10, what="time for the supervisor to see it")

        freeze(pdp.opas()[0])
        until(lambda: is_failure(pdp.last()), what="a denial")
        until(pdp.down, what="the metric")
        until(lambda: pdp.last().allowed and not pdp.down(), what="the server's next life")
    before = [answer for _, answer in pdp.answers[:swapped]]
    assert {answer.bundle_sequence for answer in before} == {1, 2}
    assert all(answer.allowed for answer in before), "a swap denies nobody"
    assert all(answer.allowed or is_failure(answer) for _, answer in pdp.answers)
    assert max(took for took, _ in pdp.answers) < IN_TIME_S
    assert pdp.process.stop() == 0
    assert "Traceback" not in pdp.process.log.read_text()
    assert list((pdp.folder / "state" / "serving").glob("*.sock")) == []
    decisions = []
    for folder in (pdp.folder / "state").glob("spool-*"):
        spool = Spool.open(folder, identity=UNSAFE_PLAINTEXT)
        decisions += [data for data in spool.read(1, 10**6) if b'"kind":"decision"' in data]
        spool.close()
    assert len(decisions) == len(pdp.answers)
    assert all(b'"replayable":false' in data for data in decisions)


AUTHZ = b"""package system.authz

default allow := false

allow if input.identity == "right"
"""


def test_a_teams_server_is_believed_only_when_it_has_the_bundle_in_force(tmp_path, start, monkeypatch):
    monkeypatch.setattr(bank, "sources", _with_authz(bank.sources))
    bank.files.cache_clear()
    (tmp_path / "token").write_text("right")
    port = free_port()
    auth = ("--authentication=token", "--authorization=basic")
    old, new = (bank.files(policies, "opa") for policies in (0, 1))
    with team_server(tmp_path, old, *auth, port=port) as url:
        pdp = start(f"--opa-url={url}", f"--opa-token={tmp_path / 'token'}")
        assert pdp.opas() == []
        with pdp.asked(callers=1):
            assert pdp.last().allowed
            bank.put(pdp.folder, 2, policies=1, engine="opa")
            until(lambda: "and not yet `sha256:" in pdp.process.log.read_text(), what="a word on the new bundle")
            assert (pdp.last().allowed, pdp.answers[-1][1].bundle_sequence) == (True, 1)
    with team_server(tmp_path, new, *auth, port=port), pdp.asked(callers=1):
        until(lambda: pdp.last().allowed, what="the new bundle on both sides")
        assert pdp.answers[-1][1].bundle_sequence == 2
    assert all(answer.allowed or is_failure(answer) for _, answer in pdp.answers)
    with team_server(tmp_path, old, *auth, port=port), pdp.asked(callers=1):
        until(lambda: "judged by another bundle" in pdp.last().reasons[0].text, what="a denial")
    bank.files.cache_clear()


def _with_authz(sources):
    return lambda *args: {**sources(*args), "authz.rego": AUTHZ}
