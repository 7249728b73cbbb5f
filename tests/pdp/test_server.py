"""The decision point as real processes: it starts or says why, swaps or changes nothing, dies and comes back whole."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

import bank
from exequatur.client import CallError, Client, Effect, Outcome
from exequatur.served import PolicyState
from exequatur.spool import Spool
from exequatur.transport import UNSAFE_PLAINTEXT
from exequatur.v1 import decision_pb2
from processes import children, runs
from stack import Process, free_port, http_get, until
from starts import refusal

HOUR = dt.timedelta(hours=1)


class Pdp:
    """A decision point in a folder, in plain text on loopback."""

    def __init__(self, folder: Path, *extra: str, workers: int = 1, engine: str = "cedar") -> None:
        self.folder, self.state = folder, folder / "state"
        self.bundles, self.keys = bank.put(folder, engine=engine)
        self.target = f"127.0.0.1:{free_port()}"
        http = free_port()
        argv = [
            *("pdp", "serve", "--unsafe-plaintext", f"--listen={self.target}", f"--http=127.0.0.1:{http}"),
            *(f"--state={self.state}", f"--bundle={self.bundles}", f"--workers={workers}", "--log-level=debug"),
            *(f"--openers={UNSAFE_PLAINTEXT}", f"--operators={UNSAFE_PLAINTEXT}", *(extra or (f"--keys={self.keys}",))),
        ]
        self.process = Process("pdp", argv, folder / "pdp.log", http)

    def client(self) -> Client:
        return Client(self.target, unsafe_plaintext=True, timeout_s=10)

    def log(self) -> str:
        return self.process.log.read_text()

    def workers(self) -> list[int]:
        """Give the workers' process ids."""
        return children(self.process.popen.pid, "worker")

    def records(self) -> list[dict]:
        """Read all spools, as they are when nothing runs."""
        found = []
        for folder in sorted(self.state.glob("spool-*")):
            spool = Spool.open(folder, identity=UNSAFE_PLAINTEXT)
            found += [json.loads(data) for data in spool.read(1, 1_000_000)]
            spool.close()
        return found

    def metric(self, name: str) -> float:
        """Sum a metric over its labels."""
        text = http_get(self.process.http, "/metrics")[1]
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


@contextlib.contextmanager
def running(folder: Path, *extra: str, **options: Any) -> Iterator[Pdp]:
    pdp = Pdp(folder, *extra, **options)
    try:
        pdp.process.start()
        yield pdp
    finally:
        pdp.process.kill()


def open_session(client, **changes):
    wish = {"lifetime": HOUR, "scope": ["bank/*"], "max_steps": 1000, "budget_microusd": 10**10, **changes}
    return client.open_session("teller", UNSAFE_PLAINTEXT, **wish)


def look(client, account="7", **rest):
    return client.authorize("bank/look", {"account": account}, agent="teller", **rest)


def pay(client, dollars=5, **rest):
    return client.authorize("bank/pay", {"to": "ann", "dollars": dollars}, agent="teller", **rest)


def test_one_life_and_the_next(tmp_path):
    answered = []

    def asks(call, *arguments):
        decision = call(*arguments)
        answered.append(decision.decision_id)
        return decision

    with running(tmp_path, engine="rego") as pdp:
        with pdp.client() as client:
            session = open_session(client)
            decides_and_settles(client, session, asks)
            says_what_cannot_be_judged(pdp)
            counts_what_it_did(pdp)
            takes_what_is_newer_and_signed_and_nothing_else(pdp, client, asks)
            stops_while_it_is_asked(pdp, client, answered)
        assert "Traceback" not in pdp.log()
        records = pdp.records()
        kinds = [record["kind"] for record in records]
        assert kinds[:10] == ["bundle", "session", "decision", "settlement", "decision", "decision", *["refused"] * 4]
        effects = {record["decision_id"]: record["effect"] for record in records if record["kind"] == "decision"}
        assert effects.keys() == {*answered}, "accepted is answered, answered is on record"
        # After a restart the floor still stands: what is older never serves again, and what served last does.
        (pdp.bundles / "bank-3.tar.gz").unlink()
        pdp.process.start()
        with pdp.client() as client:
            assert client.get_session(session.id).session.steps == [*effects.values()].count("allow")
            judged = look(client, "rm\t-rf")
            assert (judged.bundle_sequence, "rego.danger" in [reason.policy for reason in judged.reasons]) == (3, True)
            assert "sequence 2 after 3" in pdp.log()
            with pytest.raises(CallError, match="open session already"):
                open_session(client)
            assert client.close_session(session.id).closed_at is not None


def decides_and_settles(client, session, asks):
    allowed = asks(pay, client)
    assert allowed.allowed
    assert (allowed.session, allowed.reserved_microusd, allowed.bundle_sequence) == (session.id, bank.DOLLAR, 1)
    assert client.settle(allowed.decision_id, Outcome.EXECUTED, cost_microusd=700_000) == 700_000
    assert asks(pay, client, 101).effect is Effect.REQUIRE_APPROVAL
    denied = asks(look, client, "rm\t-rf")
    assert denied.effect is Effect.DENY
    assert "rego.danger" in [reason.policy for reason in denied.reasons]
    shown = client.get_session(agent="teller")
    assert (shown.session.spent_microusd, shown.session.steps) == (700_000, 1)
    assert shown.tools.keys() == bank.TOOLS.keys()


def says_what_cannot_be_judged(pdp):
    nobody = decision_pb2.AuthorizeRequest(tool="bank/look")
    big = decision_pb2.AuthorizeRequest(agent="teller", tool="bank/look", arguments_json=b"7" * 300 * 1024)
    with grpc.insecure_channel(pdp.target) as channel:
        call = channel.unary_unary("/exequatur.v1.DecisionService/Authorize")
        for broken in (b"\xff\xff", b"", nobody.SerializeToString(), big.SerializeToString()):
            with pytest.raises(grpc.RpcError) as error:
                call(broken, timeout=10)
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def counts_what_it_did(pdp):
    assert http_get(pdp.process.http, "/healthz")[0] == 200
    until(lambda: pdp.metric("exequatur_decisions_total") == 3, what="the count of decisions")
    assert pdp.metric("exequatur_bundle_sequence") == 1
    assert pdp.metric("exequatur_calls_refused_total") == 4


def takes_what_is_newer_and_signed_and_nothing_else(pdp, client, asks):
    bank.put(pdp.folder, 3, engine="rego")
    until(lambda: asks(look, client).bundle_sequence == 3, what="sequence 3", every_s=0.2)
    (pdp.bundles / "bank-4.tar.gz").write_bytes(b"nothing that anybody signed")
    until(lambda: "bank-4.tar.gz" in pdp.log(), what="the refusal of 4")
    bank.put(pdp.folder, 2, engine="cedar")
    assert asks(look, client).bundle_sequence == 3


def stops_while_it_is_asked(pdp, client, answered):
    begun = threading.Event()

    def ask(_):
        begun.set()
        return _try(look, client)

    with ThreadPoolExecutor(16) as pool:
        answers = pool.map(ask, range(300))
        begun.wait()
        assert pdp.process.stop() == 0
        answered += [answer.decision_id for answer in answers if answer is not None]


def test_wrong_settings_are_all_said_at_once_and_exit_code_is_64(tmp_path):
    done = subprocess.run(
        [sys.executable, "-I", "-m", "exequatur", "pdp", "serve", "--workers=0", "--unsafe-plaintext"],
        check=False,
        env={"PATH": os.environ["PATH"], "EXEQUATUR_PDP_LISSEN": "x"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 64
    assert done.stdout == ""
    for text in ("`workers`", "`state`", "`bundle`", "`EXEQUATUR_PDP_LISSEN` is not a setting"):
        assert text in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda pdp: hide(pdp.keys), "keys/public`"),
        (lambda pdp: (pdp.state.mkdir(), pdp.state.chmod(0o777)), "writable by nobody else"),
        (lambda pdp: (pdp.state.mkdir(), (pdp.state / "store.sqlite").write_bytes(b"x" * 9999)), "not a database"),
    ],
    ids=["private keys", "open folder", "broken store"],
)
def test_what_must_not_start_does_not(tmp_path, spoil, text):
    pdp = Pdp(tmp_path)
    spoil(pdp)
    assert text in refusal(pdp.process.argv, 64)


def hide(keys: Path) -> None:
    """Make a folder what `exequatur keys generate` makes: the private key above, the public one below."""
    (keys / "public").mkdir()
    (keys / "bank.pem").rename(keys / "public" / "bank.pem")
    (keys / "bank.key").write_bytes(b"private")


def test_two_workers_change_policy_together_and_stay_in_service_when_it_is_withdrawn(tmp_path):
    with running(tmp_path, workers=2) as pdp, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(pdp.client()) for _ in range(8)]
        open_session(clients[0])
        bank.put(pdp.folder, 2, engine="cedar")
        status = clients[0].refresh_bundles()
        assert (status.serving, status.tenants[0].serving.sequence, status.tenants[0].behind) == (True, 2, ())
        assert [look(client).bundle_sequence for client in clients] == [2] * 8
        (took,) = re.findall(r"sequence 2, is in force: all workers .* within ([0-9.]+) s", pdp.log())
        assert float(took) < 5
        assert pdp.metric("exequatur_bundle_sequence") == 2
        assert pdp.metric("exequatur_bundle_activations_total") == 2
        owners = {"bank": {"owner": "bank@example.org"}, "other": {"owner": "other@example.org"}}
        (pdp.keys / "other.pem").write_bytes(bank.generate("ES256")[1])
        policy = {"purpose": "bundle", "keys": owners, "revoked": ["bank"]}
        (pdp.keys / "keys.json").write_text(json.dumps(policy))
        until(lambda: not any(look(client).allowed for client in clients), what="the end of trust", every_s=0.2)
        (reason,) = look(clients[0]).reasons
        assert "the policy in force is no longer trusted: the key `bank` is revoked" in reason.text
        (tenant,) = clients[0].refresh_bundles().tenants
        assert (tenant.state, tenant.reason) == (PolicyState.WITHDRAWN, "the key `bank` is revoked")
        assert http_get(pdp.process.http, "/readyz")[0] == 200, "a decision point that says no is in service"
        state = 'exequatur_bundle_state{state="withdrawn",tenant="default"} 1.0'
        assert state in http_get(pdp.process.http, "/metrics")[1]
        assert pdp.process.stop() == 0
        assert "Traceback" not in pdp.log()
        events = [(r["event"], r["sequence"]) for r in pdp.records() if r["kind"] == "bundle"]
        assert sorted(events) == sorted(2 * [("in_force", 1), ("in_force", 2), ("withdrawn", 2)])


def test_an_unsigned_bundle_serves_only_as_unsafe_and_warns(tmp_path):
    with running(tmp_path, "--unsafe-unsigned") as pdp, pdp.client() as client:
        open_session(client)
        decision = look(client)
        assert decision.effect is Effect.WARN
        assert "unsafe" in decision.reasons[0].text
        assert "unsafe: bundles that nobody signed" in pdp.log()


STEPS, DOLLARS = 300, 80


def test_64_racers_never_exceed_steps_or_budget_whatever_is_killed(tmp_path):
    allowed: list[tuple[str, int]] = []
    over = threading.Event()
    with running(tmp_path, workers=2) as pdp:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(pdp.client()) for _ in range(16)]
            session = open_session(clients[0], max_steps=STEPS, budget_microusd=DOLLARS * bank.DOLLAR)

            def race(number: int) -> None:
                call = pay if number % 2 else look
                while not over.is_set():
                    decision = _try(call, clients[number % 16])
                    if decision is None:
                        over.wait(0.1)  # its worker was killed
                    elif decision.allowed:
                        allowed.append((decision.decision_id, decision.reserved_microusd))
                    elif "steps" in decision.reasons[0].text:
                        return
                    else:
                        call = look  # what is left of the budget is too little

            stack.callback(over.set)
            with ThreadPoolExecutor(64) as pool:
                racers = [pool.submit(race, number) for number in range(64)]
                for enough in (STEPS // 4, STEPS // 2):
                    until(lambda enough=enough: len(allowed) > enough, 60, f"the race to {enough}")
                    os.kill(pdp.workers()[0], signal.SIGKILL)
                until(lambda: all(racer.done() for racer in racers), 60, "the end of the race")
            assert http_get(pdp.process.http, "/readyz")[0] == 200, "the supervisor lives"
            shown = clients[0].get_session(session.id).session
            assert len(allowed) <= shown.steps == STEPS
            assert sum(amount for _, amount in allowed) <= shown.reserved_microusd <= DOLLARS * bank.DOLLAR
        until(lambda: len(pdp.workers()) == 2, what="as many workers as before")
        workers = pdp.workers()
        os.kill(pdp.process.popen.pid, signal.SIGKILL)
        until(lambda: not any(runs(pid) for pid in workers), what="the workers' end, without their supervisor")
        recorded = [r["decision_id"] for r in pdp.records() if r["kind"] == "decision" and r["effect"] != "deny"]
    assert len(recorded) == len(set(recorded)) <= STEPS, "one record a decision"
    assert {decision for decision, _ in allowed} <= set(recorded), "what was answered is on record"


def _try(call, client):
    try:
        return call(client)
    except CallError:
        return None
