"""SIGTERM, `kill -9` and an old copy of the state in the middle of calls: no death is an allow, and none costs a record.

One Exequatur runs for the whole file; each test begins with all of it running, and an agent's session of its own. At
the end each decision that any test's callers were answered is in the ledger, once.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import signal
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

import bank
from agents import Agents
from entries import records
from exequatur.client import CallError, Client, Decision
from exequatur.values import Effect, Outcome
from exequatur.verifier import verify
from pdp.shipping import MARK, OLDER
from processes import runs
from stack import OPENER, Process, Stack, running, until

CALLERS = 8
BETWEEN = 100
"""How many go-aheads there are before a death, and after it."""
LIMITS = {"scope": ["*"], "max_steps": 10**6, "budget_microusd": 10 * bank.DOLLAR, "lifetime": dt.timedelta(hours=1)}


@dataclass
class Bank:
    """All of it, what any test's callers were answered, and the instance of the agent that is this test's."""

    stack: Stack
    answered: list[str] = field(default_factory=list)
    instance: str = ""

    @property
    def processes(self) -> Sequence[Process]:
        return (self.stack.ledger, self.stack.pdp, self.stack.sidecar)

    def begin(self) -> None:
        """Have all of it running, with logs that begin now."""
        self.instance = uuid.uuid4().hex
        for process in self.processes:
            if process.popen is None or process.popen.poll() is not None:
                process.start()
            os.truncate(process.log, 0)
        with self.stack.client(OPENER) as opener:
            opener.open_session("teller", bank.SIDECAR, instance=self.instance, **LIMITS)
            with contextlib.suppress(CallError):  # one of the tests before has opened that of the agent with a socket
                opener.open_session("teller", bank.SIDECAR, **LIMITS)

    def ask(self, client: Client, tool: str = "bank/look", **arguments: object) -> Decision:
        return client.authorize(tool, arguments or {"account": "7"}, agent="teller", instance=self.instance)

    def recorded(self) -> Counter[str]:
        """Count the decisions on record, of this test's own instance."""
        return Counter(
            record["decision_id"]
            for record in records(self.stack.log_folder)
            if record["kind"] == "decision" and record["instance"] == self.instance
        )


def decided(stack: Stack) -> Counter[str]:
    return Counter(record["decision_id"] for record in records(stack.log_folder) if record["kind"] == "decision")


@pytest.fixture(scope="module")
def started() -> Iterator[Bank]:
    with running() as stack:
        started = Bank(stack)
        yield started
        stack.stop()
        found = decided(stack)
        assert {number: found[number] for number in started.answered if found[number] != 1} == {}
        report = verify(stack.log_folder, str(stack.log_key))
        assert report.ok, report.fault


@pytest.fixture
def it(started: Bank) -> Bank:
    started.begin()
    return started


@pytest.mark.parametrize("victim", ["pdp", "sidecar", "ledger"])
def test_every_answered_decision_is_in_the_ledger_whoever_is_killed(it: Bank, victim: str):
    process = getattr(it.stack, victim)
    agents = Agents(it.stack)
    agents.go_on(BETWEEN)
    process.kill()
    if victim == "ledger":  # then the others go on
        agents.go_on(BETWEEN)
    with agents.resting():
        process.start()
    agents.go_on(BETWEEN)
    answered = set(agents.stop())
    it.answered += answered
    assert len(answered) >= 2 * BETWEEN
    until(lambda: decided(it.stack).keys() >= answered, 60, "the shipping of what was answered", every_s=0.2)


@contextlib.contextmanager
def calling(it: Bank, enough: int = 100) -> Iterator[tuple[list[str], list[str]]]:
    """Call from many threads, each until a call is an error; gives the answered decisions and the errors' codes."""
    answered: list[str] = []
    errors: list[str] = []
    busy = threading.Event()

    def call(client: Client) -> None:
        with client:
            while True:
                try:
                    decision = it.ask(client)
                except CallError as error:
                    errors.append(error.code)
                    return
                answered.append(decision.decision_id)
                if len(answered) >= enough:
                    busy.set()

    threads = [threading.Thread(target=call, args=(it.stack.client(),), daemon=True) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    assert busy.wait(60)
    yield answered, errors
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    it.answered += answered


def test_a_killed_worker_is_replaced_and_its_calls_are_errors(it: Bank):
    (first,) = it.stack.pdp.children()
    with calling(it) as (answered, errors):
        os.kill(first, signal.SIGKILL)
    assert errors == ["UNAVAILABLE"] * CALLERS

    def answers() -> bool:
        with it.stack.client() as client, contextlib.suppress(CallError):
            answered.append(it.ask(client).decision_id)
            return True
        return False

    until(answers, 60, what="an answer by the next worker")
    assert it.stack.pdp.children() != [first]
    until(lambda: it.recorded().keys() >= set(answered), 60, what="the shipping")
    assert {number for number, count in it.recorded().items() if count != 1} == set()
    assert "worker 0 ended with -9" in it.stack.pdp.log.read_text()


def test_a_sidecar_told_to_stop_has_answered_what_it_accepted(it: Bank):
    with it.stack.agent() as agent:
        asked = agent.authorize("bank/look", {"account": "7"})
        assert it.stack.sidecar.stop() == 0
    found = [record["decision_id"] for record in records(it.stack.log_folder) if record["kind"] == "outcome"]
    assert found.count(asked.decision_id) == 1
    assert "0 records remain on disk" in it.stack.sidecar.log.read_text()


def test_sigterm_answers_and_records_each_accepted_call(it: Bank):
    with calling(it) as (answered, errors):
        assert it.stack.pdp.stop() == 0
    assert set(errors) <= {"UNAVAILABLE", "CANCELLED"}
    assert it.recorded() == Counter(answered)
    assert "0 records remain on disk" in it.stack.pdp.log.read_text()


def test_a_killed_supervisor_leaves_no_worker(it: Bank):
    workers = it.stack.pdp.children()
    assert len(workers) == 1
    with calling(it) as (answered, errors):
        os.kill(it.stack.pdp.popen.pid, signal.SIGKILL)
    it.stack.pdp.popen.wait()
    assert set(errors) <= {"UNAVAILABLE", "CANCELLED"}
    until(lambda: not any(runs(pid) for pid in workers), 60, what="the end of the workers")
    assert it.recorded() == Counter(answered)


def test_a_restored_old_volume_is_refused_and_alarmed(it: Bank):
    """The ledger remembers more than the old copy does, and nothing in it is trusted."""
    stack = it.stack
    state, copy = stack.folder / "state", stack.folder / "copy"
    try:
        with stack.client(OPENER) as opener, stack.client() as teller:

            def pay() -> Decision:
                return it.ask(teller, "bank/pay", to="ann", dollars=5)

            held = [pay() for _ in range(2)]
            shutil.copytree(state, copy, ignore=shutil.ignore_patterns("*.new", ".status*"))  # what is being written
            assert all(pay().allowed for _ in range(5))
            stack.pdp.stop()
            known = records(stack.log_folder)

            shutil.rmtree(state)
            copy.rename(state)
            stack.pdp.start()
            refused = [pay() for _ in range(20)]  # from the first call on
            assert {answer.effect for answer in refused} == {Effect.DENY}, "the budget of the copy is not spent again"
            told = f"the policy in force is no longer trusted: {OLDER}"
            assert {answer.reasons[0].text for answer in refused} == {told}
            with pytest.raises(CallError, match="the state folder is older"):
                opener.open_session("teller", bank.SIDECAR, instance="another", **LIMITS)
            assert teller.settle(held[0].decision_id, Outcome.EXECUTED) == bank.DOLLAR, "what ran is accounted for"
            until(lambda: "alarm" in stack.pdp.log.read_text(), what="the alarm")
            assert (state / MARK).exists(), "so that other workers know it too"
            assert records(stack.log_folder)[: len(known)] == known, "what the ledger has is not overwritten"
    finally:
        stack.pdp.kill()
        shutil.rmtree(state)  # nothing that is not in the ledger was answered from it
