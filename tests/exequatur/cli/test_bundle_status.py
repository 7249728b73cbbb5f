"""`exequatur bundle status`: what a person sees at night, what a machine reads, and the exit code for both."""

from __future__ import annotations

import asyncio
import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from exequatur.cli import bundle_status
from exequatur.cli.bundle import app
from exequatur.client import status_of as values_of
from exequatur.transport import Server
from pdp.api.bundle import SERVICE, BundleApi, status_of
from pdp.api.calls import Calls
from statuses import CANDIDATE, REFUSED, digest, status, tenant

NOW = datetime(2026, 11, 21, 3, tzinfo=UTC)
WITHDRAWN = tenant("acme", state="withdrawn", reason="the key `bob` is revoked", refused=REFUSED, candidate=CANDIDATE)


class Desk:
    """Takes what is refused, as a conveyor does."""

    async def submit(self, request, seconds_left=None):
        return None


class Served:
    """The real service on a socket; its status is what the test writes, and so is what a look finds."""

    def __init__(self, folder: Path) -> None:
        self.file, self.found = folder / "status.json", status(tenant())
        self.asked: list[str] = []
        self.write(status(tenant()))

    def write(self, value: object) -> None:
        self.file.write_text(json.dumps(value))

    async def refresh(self, tenant: str):
        self.asked.append(tenant)
        return self.found


@pytest.fixture
def served(tmp_path, monkeypatch):
    monkeypatch.setenv("EXEQUATUR_TARGET", f"unix:{tmp_path}/s")
    monkeypatch.setenv("COLUMNS", "120")
    served = Served(tmp_path)
    names = frozenset({"test"})
    api = BundleApi(Calls(Desk()), served.file, served, readers=names, operators=names)
    loop, started, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        server = Server(api.handlers(), (SERVICE,))
        server.listen_unix(tmp_path / "s", "test")
        await server.start()
        started.set()
        await stop.wait()
        await server.stop(0)

    thread = threading.Thread(target=lambda: (loop.run_until_complete(serve()), loop.close()))
    thread.start()
    assert started.wait(10)
    yield served
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["status", *arguments])
    assert result.exit_code == code, result.output + result.stderr
    return result.stdout if code < 2 else result.stderr


def picture(value: dict, width: int, now: datetime = NOW) -> str:
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(bundle_status.picture(values_of(status_of(value)), now))
    return capture.get()


def test_every_tenant_serves_and_the_exit_code_says_so(served):
    text = call()
    assert "default" in text
    assert "serving" in text
    assert digest("41")[:12] in text


def test_one_tenant_that_does_not_serve_is_exit_one(served):
    served.write(status(tenant(), WITHDRAWN))
    text = call(code=1)
    assert "every action is denied: the key `bob` is revoked" in text
    assert "DENY was wanted, and it is [ALLOW]" in " ".join(text.split())
    call("--tenant", "default")
    call("--tenant", "acme", code=1)
    assert (
        "the tenant `nobody` is not in the settings" in CliRunner().invoke(app, ["status", "--tenant", "nobody"]).stderr
    )
    served.write(status())
    assert "no tenant is served" in call(code=1)


def test_machines_read_what_the_supervisor_wrote_and_nothing_is_lost(served):
    written = status(tenant(), WITHDRAWN, tenant("new", state="none", serving=None, keys=None), alarms=("look here",))
    served.write(written)
    value = json.loads(call("--json", code=1))
    assert value.pop("serving") is False
    assert value == json.loads(json.dumps(written).replace(".000Z", "Z"))


def test_a_look_is_asked_for_and_what_it_found_is_shown(served):
    served.write(status(tenant(), tenant("acme")))
    served.found = status(tenant(), WITHDRAWN)
    assert "withdrawn" in call("--refresh", "--tenant", "acme", code=1)
    call("--refresh", code=1)
    assert served.asked == ["acme", ""]


def test_who_does_not_answer_is_exit_69_with_advice(tmp_path, monkeypatch, served):
    served.file.unlink()
    assert "has not written a status yet" in call(code=69)
    monkeypatch.setenv("EXEQUATUR_TARGET", f"unix:{tmp_path}/nobody")
    assert "it listens once a first bundle is served" in call(code=69)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("failed to connect: ipv4:127.0.0.1:7070: Connection refused", "nobody listens there"),
        ("Tls handshake failed: SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED: self-signed", "`--tls-roots` must sign it"),
        ("Tls handshake failed (TSI_PROTOCOL_FAILURE): WRONG_VERSION_NUMBER", "the TLS handshake failed"),
        ("UNAVAILABLE: ipv4:127.0.0.1:7070: Socket closed", "where it wants TLS, give `--tls-certificate`"),
        ("Deadline exceeded", "deadline exceeded: look at the address"),
    ],
)
def test_why_nobody_answers_is_said_in_words_that_help(said, told):
    assert told in bundle_status.unreached(said)


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_that_matters_is_cut_off(width):
    whole = tenant(
        "payments-europe",
        state="stale",
        reason="its source was not heard for 3600 s",
        faults=["`https://bundles.example.org/payments.tar.gz`: it answers with 502: bad gateway"],
        refused=REFUSED,
        candidate=CANDIDATE,
        keys={"kids": ["alice"], "threshold": 1, "revoked": ["mallory"], "fault": "`bob.pem` holds no public key"},
        workers={"worker 0": digest("41"), "worker 1": digest("40"), "worker 2": ""},
    )
    text = picture(status(whole, alarms=("two bundles claim sequence 42",)), width)
    words = " ".join(text.split())
    for wanted in (
        "payments-europe",
        "stale",
        "41",
        digest("41")[:12],
        "in 30 d",
        "5 s ago",
        "every action is denied: its source was not heard for 3600 s",
        "refused 3 min ago",
        "DENY was wanted, and it is [ALLOW]",
        "it answers with 502: bad gateway",
        "`bob.pem` holds no public key: the keys that were good stay, and nothing new is taken",
        f"worker 1 ({digest('40')[:12]}), worker 2 (nothing)",
        "as canary for 10 % of the sessions: 1280 judged, 4 stricter, 1 looser, 2 failed; halted: it failed to judge an",
        "sequence 41: nothing below it is taken",
        "revoked: mallory",
        "two bundles claim sequence 42",
    ):
        assert wanted in words, wanted
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())


def test_what_was_refused_is_not_said_twice():
    fault = f"`{REFUSED['origin']}`: {REFUSED['reason']}"
    text = " ".join(picture(status(tenant(refused=REFUSED, faults=[fault])), 120).split())
    assert text.count("DENY was wanted") == 1


def test_times_that_matter_stand_out():
    soon = tenant(serving={**tenant()["serving"], "expires_at": "2026-11-21T05:30:00.000Z"})
    assert "in 2 h" in picture(status(soon), 80)
    over = tenant(serving={**tenant()["serving"], "expires_at": "2026-11-21T02:58:00.000Z"}, state="expired")
    assert "2 min ago" in picture(status(over), 80)
    unsigned = tenant(serving={**tenant()["serving"], "expires_at": None, "kids": []}, confirmed_at=None, keys=None)
    text = picture(status(unsigned), 80)
    assert "nobody" in text
    assert text.count("never") == 2
    assert "does not write any more" not in picture(status(tenant()), 80, NOW + timedelta(seconds=20))
    assert "2 min old: the supervisor does not write" in picture(status(tenant()), 80, NOW + timedelta(seconds=150))
