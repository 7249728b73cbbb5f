"""The way of one action through real processes: the same decision by every door, and a denial for everything odd."""

from __future__ import annotations

import datetime as dt
import json
import random
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import bank
from entries import records
from exequatur.action import Action
from exequatur.client import AsyncClient, CallError, Client, Effect, Outcome, Proposal, ReasonKind, Session, Tls
from exequatur.trust.canonical import canonical
from pdp.engine.snapshot import Snapshot
from pdp.judge import judge
from pdp.model import Session as Run
from pdp.policies import Standing
from pki import Authority
from stack import AUDITOR, LEDGER, OPENER, PDP, Process, Stack, http_get, running, until


@pytest.fixture(scope="module")
def started():
    with running(workers=2, engine="rego") as stack:
        yield stack


@pytest.fixture(autouse=True)
def stack(started: Stack):
    """All of it running, whatever a test before has stopped."""
    for process in (started.ledger, started.pdp, started.sidecar):
        if process.popen.poll() is not None:
            process.start()
    return started


@pytest.fixture(scope="module")
def other(started: Stack) -> Authority:
    """The authority that comes after the first one."""
    return Authority(started.folder / "other", "other")


def lasting(stack: Stack, other: Authority, identity: str) -> Client:
    """Make a client that finds the decision point again, whichever authority it is of by then."""
    roots = other.folder / "both.pem"
    roots.write_bytes(stack.authority.roots.read_bytes() + other.roots.read_bytes())
    return Client(stack.target, tls=replace(stack.tls(identity), roots=roots), timeout_s=30)


@pytest.fixture(scope="module")
def opener(started: Stack, other: Authority):
    with lasting(started, other, OPENER) as client:
        yield client


@pytest.fixture(scope="module")
def teller(started: Stack, other: Authority):
    with lasting(started, other, bank.SIDECAR) as client:
        yield client


def open_session(opener: Client, instance: str = "", *, steps: int = 10_000, dollars: int = 10_000, **rest) -> Session:
    rest = {"scope": ["*"], "lifetime": dt.timedelta(hours=1), **rest}
    return opener.open_session(
        "teller", bank.SIDECAR, instance=instance, max_steps=steps, budget_microusd=dollars * bank.DOLLAR, **rest
    )


@pytest.fixture(scope="module")
def session(opener: Client) -> Session:
    return open_session(opener)


@pytest.mark.parametrize(
    ("tool", "arguments", "effect", "kind", "policy"),
    [
        ("bank/look", {"account": "7"}, Effect.ALLOW, ReasonKind.PERMITTED, "permit.teller"),
        ("bank/pay", {"to": "x", "dollars": 500}, Effect.REQUIRE_APPROVAL, ReasonKind.RESTRICTED, "approve.large"),
        ("bank/close", {"account": "7"}, Effect.DENY, ReasonKind.FORBIDDEN, "forbid.bulk"),
        ("bank/strict", {"sum": 3}, Effect.DENY, ReasonKind.ERROR, "forbid.overflow"),
        ("bank/look", {"account": "rm\t-rf"}, Effect.DENY, ReasonKind.FORBIDDEN, "rego.danger"),
        ("bank/look", {"account": 7}, Effect.DENY, ReasonKind.INVALID, ""),
        ("bank/look", {"account": {"__entity": {"type": "Team", "id": "x"}}}, Effect.DENY, ReasonKind.INVALID, ""),
        ("bank/look", {"account": "7", "more": 1}, Effect.DENY, ReasonKind.INVALID, ""),
        ("bank/none", {}, Effect.DENY, ReasonKind.INVALID, ""),
    ],
)
def test_a_decision_and_its_first_reason(teller, session, tool, arguments, effect, kind, policy):
    decision = teller.authorize(tool, arguments, agent="teller", session=session.id)
    first = decision.reasons[0]
    assert (decision.effect, first.kind, first.policy) == (effect, kind, policy)
    assert decision.bundle_sequence >= 1
    assert first.text


def test_a_loop_of_ten_million_is_stopped_and_the_next_decision_is_right(teller, session):
    decision = teller.authorize("bank/count", {"to": 10_000_000}, agent="teller", session=session.id)
    assert (decision.effect, decision.reasons[0].kind) == (Effect.DENY, ReasonKind.ERROR)
    assert teller.authorize("bank/count", {"to": 10}, agent="teller", session=session.id).effect is Effect.ALLOW


def random_actions(count: int) -> list[tuple[str, dict]]:
    dice = random.Random(7)
    makers = [
        lambda: ("bank/look", {"account": dice.choice(["1", "rm\t-rf /", "rm -rf", "ü", '{"__entity": 1}', ""])}),
        lambda: ("bank/pay", {"to": str(dice.randrange(9)), "dollars": dice.choice([1, 99, 100, 101, 10**6])}),
        lambda: ("bank/close", {"account": "1"}),
        lambda: ("bank/strict", {"sum": dice.choice([-1, 0, 1, 2])}),
        lambda: ("bank/look", {"account": dice.choice([1, None, ["a"]])}),
        lambda: (dice.choice(["bank/none", "bank", "other/look"]), {}),
    ]
    return [dice.choice(makers)() for _ in range(count)]


def test_in_process_over_tcp_and_over_the_socket_decide_and_digest_the_same(stack, opener, teller):
    opened = open_session(opener, "same", dollars=10**6)
    teller.authorize("bank/gossip", {"about": "x"}, agent="teller", session=opened.id, instance="same")
    actions = random_actions(400)
    bundle = bank.archive(1)
    from exequatur.trust.bundle import verify
    from exequatur.trust.keys import parse_key_set

    now = dt.datetime.now(dt.UTC)
    snapshot = Snapshot.load(verify(bundle, parse_key_set({"bank.pem": bank.public_pem()}), now=now))
    run = Run(
        opened.id,
        "default",
        "teller",
        "same",
        bank.SIDECAR,
        now,
        now + dt.timedelta(hours=1),
        opened.max_steps,
        opened.budget_microusd,
        scope=("*",),
        steps=1,
        labels=frozenset({"untrusted_input"}),
    )
    here = []
    for tool, arguments in actions:
        action = Action.parse(
            tenant="default",
            agent="teller",
            instance="same",
            session=opened.id,
            tool=tool,
            arguments_json=canonical(arguments),
        )
        outcome = judge(action, run, Standing(snapshot), enforcer=bank.SIDECAR, now=now, decision_id="x")
        run = outcome.session
        here.append((int(outcome.decision.effect), outcome.decision.action_digest))
    proposals = [
        Proposal(tool, arguments, agent="teller", instance="same", session=opened.id) for tool, arguments in actions
    ]
    decided = [
        decision
        for first in range(0, len(proposals), 50)
        for decision in teller.authorize_batch(proposals[first : first + 50])
    ]
    tcp = [(int(decision.effect), decision.action_digest) for decision in decided]
    assert tcp == here, [d for d in decided if d.errors]
    opener.close_session(opened.id)


def test_the_socket_gives_the_decisions_of_tcp(stack, teller, session):
    actions = random_actions(60)
    with stack.agent() as agent:
        for tool, arguments in actions:
            here = agent.authorize(tool, arguments)
            there = teller.authorize(tool, arguments, agent="teller")
            assert (here.effect, here.action_digest) == (there.effect, there.action_digest)


def race(stack: Stack, instance: str, tool: str, arguments: dict, callers: int = 64) -> list[Effect]:
    """64 callers at once, over several connections to both workers."""
    effects: list[Effect] = []
    clients = [stack.client() for _ in range(8)]
    start = threading.Barrier(callers)

    def call(number: int) -> None:
        start.wait()
        decision = clients[number % 8].authorize(tool, arguments, agent="teller", instance=instance)
        effects.append(decision.effect)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    return effects


def test_64_racing_callers_never_exceed_the_step_cap(stack, opener):
    opened = open_session(opener, "steps", steps=10)
    effects = race(stack, "steps", "bank/look", {"account": "7"})
    assert effects.count(Effect.ALLOW) == 10
    assert opener.get_session(opened.id).session.steps == 10


def test_64_racing_callers_never_exceed_the_budget(stack, opener):
    opened = open_session(opener, "money", dollars=10)
    effects = race(stack, "money", "bank/pay", {"to": "x", "dollars": 1})
    assert effects.count(Effect.ALLOW) == 10
    assert opener.get_session(opened.id).session.reserved_microusd == 10 * bank.DOLLAR


def test_what_was_not_executed_is_given_back_and_the_rest_is_charged(opener, teller):
    opened = open_session(opener, "settle", dollars=2)
    first = teller.authorize("bank/pay", {"to": "a", "dollars": 1}, agent="teller", instance="settle")
    second = teller.authorize("bank/pay", {"to": "b", "dollars": 1}, agent="teller", instance="settle")
    third = teller.authorize("bank/pay", {"to": "c", "dollars": 1}, agent="teller", instance="settle")
    assert (third.effect, third.reasons[0].kind) == (Effect.DENY, ReasonKind.EXHAUSTED)
    assert teller.settle(first.decision_id, Outcome.NOT_EXECUTED) == 0
    assert teller.settle(second.decision_id, Outcome.EXECUTED) == bank.DOLLAR
    with pytest.raises(CallError, match="already"):
        teller.settle(second.decision_id, Outcome.NOT_EXECUTED)
    shown = opener.get_session(opened.id).session
    assert (shown.spent_microusd, shown.reserved_microusd) == (bank.DOLLAR, 0)


def test_a_caller_who_names_anothers_session_is_denied(stack, session):
    with stack.client(bank.OTHER) as clerk:
        decision = clerk.authorize("bank/look", {"account": "7"}, agent="clerk", session=session.id)
        assert (decision.effect, decision.reasons[0].kind) == (Effect.DENY, ReasonKind.INVALID)
        decision = clerk.authorize("bank/look", {"account": "7"}, agent="teller", session=session.id)
        assert decision.effect is Effect.DENY


def test_an_agent_on_the_socket_cannot_speak_for_another(stack, session):
    with stack.agent() as agent:
        assert agent.authorize("bank/look", {"account": "7"}, agent="clerk").effect is Effect.DENY
        assert agent.authorize(
            "bank/look", {"account": "7"}, session="01900000-0000-7000-8000-000000000000"
        ).effect is (Effect.DENY)


def test_a_repeated_call_is_the_same_decision_and_no_second_go_ahead(opener, teller):
    opened = open_session(opener, "repeat")
    ask = {"agent": "teller", "instance": "repeat", "idempotency_key": "k1"}
    first = teller.authorize("bank/pay", {"to": "a", "dollars": 1}, **ask)
    again = teller.authorize("bank/pay", {"to": "a", "dollars": 1}, **ask)
    assert (first.allowed, again.allowed, again.repeated_answer) == (True, False, True)
    assert again.decision_id == first.decision_id
    assert opener.get_session(opened.id).session.steps == 1


def test_who_may_not_open_sessions_does_not(teller):
    with pytest.raises(CallError) as error:
        open_session(teller, "mine")
    assert error.value.code == "PERMISSION_DENIED"


@pytest.mark.parametrize(
    ("message", "text"),
    [(b"\x0a\xff", "AuthorizeRequest"), (b"", "agent"), (b"\xff" * 100, "AuthorizeRequest")],
)
def test_a_broken_message_is_refused_with_one_line(stack, message, text):
    channel = grpc.secure_channel(stack.target, stack.tls(bank.SIDECAR).credentials())
    with channel, pytest.raises(grpc.RpcError) as error:
        channel.unary_unary("/exequatur.v1.DecisionService/Authorize")(message, timeout=30)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert text in error.value.details()
    assert "\n" not in error.value.details()


@pytest.mark.parametrize(
    "arguments",
    [b'{"a":"' + b"x" * 300 * 1024 + b'"}', b"[" * 10_000 + b"]" * 10_000, b'{"b":1,"a":2}', b'{"a":1e400}', b"[]"],
    ids=["300 KiB", "depth 10,000", "not canonical", "too large a number", "no object"],
)
def test_bad_arguments_are_refused_as_invalid(teller, session, arguments):
    with pytest.raises(CallError) as error:
        teller.authorize("bank/look", arguments, agent="teller", session=session.id)
    assert error.value.code == "INVALID_ARGUMENT"


async def test_the_async_client_decides_the_same(stack, session):
    client = AsyncClient(stack.target, tls=stack.tls(bank.SIDECAR))
    decision = await client.authorize("bank/look", {"account": "7"}, agent="teller")
    assert decision.allowed
    await client.close()


def test_a_newer_bundle_is_served_and_neither_older_nor_forged_ones(stack, teller, session):
    def sequence() -> int:
        return teller.authorize("bank/look", {"account": "7"}, agent="teller").bundle_sequence

    assert sequence() == 1
    stranger = bank.SigningKey.from_pem("bank.pem", bank.generate("RS256")[0])
    bank.put(stack.folder, 9, key=stranger)
    bank.put(stack.folder, 3)
    until(lambda: sequence() == 3, 60, what="the newer bundle", every_s=0.2)
    bank.put(stack.folder, 2)
    (stack.bundles / "bank-3.tar.gz").unlink()
    until(lambda: "bank-9" in stack.pdp.log.read_text(), 60, what="a word about the forged bundle")
    assert sequence() == 3
    status, text = http_get(stack.pdp.http, "/readyz")
    assert status == 200, text


def test_metrics_and_health_are_served(stack):
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    for process in (stack.pdp, stack.ledger, stack.sidecar):
        assert http_get(process.http, "/healthz")[0] == 200
        # What is scraped, over several workers too, is what the page lists for this daemon.
        scraped = set(re.findall(r"^# TYPE (\S+)", http_get(process.http, "/metrics")[1], re.MULTILINE))
        (section,) = re.findall(rf"^## `exequatur {process.name} .*?(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
        untried = {"exequatur_trial_answers_total"} if process is stack.pdp else set()
        assert scraped == set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) - untried, process.name
        with grpc.insecure_channel(f"127.0.0.1:{process.health}") as channel:
            for service in ("live", "ready", ""):
                asked = health_pb2.HealthCheckRequest(service=service)
                told = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=30)
                assert told.status == health_pb2.HealthCheckResponse.SERVING, (process.name, service)
        assert all(json.loads(line) for line in process.log.read_text().splitlines())  # no library writes beside us


def test_an_auditor_may_ask_for_a_checkpoint_and_a_stranger_may_not(stack):
    import asyncio

    from exequatur.client import LedgerClient

    async def ask(identity: str) -> str:
        client = LedgerClient(stack.ledger_target, tls=stack.tls(identity))
        try:
            return (await client.get_checkpoint()).checkpoint
        finally:
            await client.close()

    assert asyncio.run(ask(AUDITOR)).startswith("example.org/audit\n")
    with pytest.raises(CallError, match="auditor"):
        asyncio.run(ask("spiffe://example.org/stranger"))


def test_all_certificates_are_renewed_by_a_new_authority_while_an_agent_goes_on(stack, other, session):
    processes, workers = (stack.ledger, stack.pdp, stack.sidecar), 2

    def heard() -> list[int]:
        return [process.log.read_text().count("the TLS files have changed") for process in processes]

    def ends(process: Process) -> float:
        page = http_get(process.http, "/metrics")[1]
        return float(re.search(r"^exequatur_certificate_expires_timestamp_seconds (\S+)$", page, re.MULTILINE)[1])

    def renew(change: Callable[[], object]) -> None:
        before = heard()
        change()
        wanted = [before[0] + 1, before[1] + 1 + workers, before[2] + 1]
        until(lambda: all(now >= want for now, want in zip(heard(), wanted, strict=True)), 60, "a renewal")

    def certify() -> None:
        for identity in (LEDGER, PDP, bank.SIDECAR):
            name = stack.tls_name(identity)
            files = other.issue(name, identity, age=dt.timedelta(0))
            for path in (files.key, files.certificate):
                path.replace(stack.authority.folder / path.name)

    go_aheads: list[str] = []
    over = threading.Event()

    def agent() -> None:
        with stack.agent() as client:
            while not over.is_set():
                decision = client.authorize("bank/look", {"account": "7"})
                assert decision.effect is Effect.ALLOW, decision
                go_aheads.append(decision.decision_id)
                over.wait(0.05)

    was = [ends(process) for process in processes]
    with ThreadPoolExecutor() as threads:
        running = threads.submit(agent)
        try:
            roots = stack.authority.roots
            renew(lambda: roots.write_bytes(roots.read_bytes() + other.roots.read_bytes()))
            renew(certify)
            until(lambda: all(ends(each) > before for each, before in zip(processes, was, strict=True)), 60, "its end")
            more = len(go_aheads) + 10
            until(lambda: len(go_aheads) >= more or running.done(), what="going on")
        finally:
            over.set()
        running.result()
    files = other.issue("auditor", AUDITOR)
    with Client(stack.target, tls=Tls(files.certificate, files.key, files.roots), timeout_s=10) as anew:
        assert anew.bundle_status().tenants
    until(lambda: set(go_aheads) <= {record.get("decision_id") for record in records(stack.log_folder)}, what="records")


def test_nothing_that_was_in_arguments_is_in_any_log_or_record(stack, teller, session):
    canary = "canary-4711-hunter2"
    teller.authorize("bank/look", {"account": canary}, agent="teller")
    teller.authorize("bank/look", {canary: canary}, agent="teller")
    teller.authorize(f"bank/{canary[:6]}", {"account": canary}, agent="teller")
    stack.stop()  # what is in memory is on disk now
    places = [path for path in stack.folder.rglob("*") if path.is_file() and path.suffix != ".gz"]
    assert len(places) > 10
    assert [path for path in places if canary.encode() in path.read_bytes()] == []
