"""Signals in the middle of calls: SIGTERM finishes what was accepted, and a death is never an allow."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import signal
import threading
from collections import Counter

import pytest

import bank
from entries import records
from exequatur.client import CallError, Client
from processes import runs
from stack import OPENER, Stack, running, until

CALLERS = 8


@pytest.fixture
def stack():
    with running() as stack:
        with stack.client(OPENER) as opener:
            limits = {"max_steps": 10**6, "budget_microusd": bank.DOLLAR, "lifetime": dt.timedelta(hours=1)}
            opener.open_session("teller", bank.SIDECAR, scope=["*"], **limits)
        yield stack


@contextlib.contextmanager
def calling(stack: Stack, enough: int = 100):
    """Call from many threads, each until a call is an error; gives the answered decisions and the errors' codes."""
    answered: list[str] = []
    errors: list[str] = []
    busy = threading.Event()

    def call(client: Client) -> None:
        with client:
            while True:
                try:
                    decision = client.authorize("bank/look", {"account": "7"}, agent="teller")
                except CallError as error:
                    errors.append(error.code)
                    return
                answered.append(decision.decision_id)
                if len(answered) >= enough:
                    busy.set()

    threads = [threading.Thread(target=call, args=(stack.client(),), daemon=True) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    assert busy.wait(30)
    yield answered, errors
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def recorded(stack: Stack) -> Counter[str]:
    return Counter(record["decision_id"] for record in records(stack.log_folder) if record["kind"] == "decision")


def test_sigterm_answers_and_records_each_accepted_call(stack):
    with calling(stack) as (answered, errors):
        assert stack.pdp.stop() == 0
    assert set(errors) <= {"UNAVAILABLE", "CANCELLED"}
    assert recorded(stack) == Counter(answered)
    assert "0 records remain on disk" in stack.pdp.log.read_text()


def test_a_sidecar_told_to_stop_has_answered_what_it_accepted(stack):
    with stack.agent() as agent:
        asked = agent.authorize("bank/look", {"account": "7"})
        assert stack.sidecar.stop() == 0
    outcomes = [record["decision_id"] for record in records(stack.log_folder) if record["kind"] == "outcome"]
    assert outcomes == [asked.decision_id]
    assert "0 records remain on disk" in stack.sidecar.log.read_text()


def test_a_killed_supervisor_leaves_no_worker(stack):
    workers = stack.pdp.children()
    assert len(workers) == 1
    with calling(stack) as (answered, errors):
        os.kill(stack.pdp.popen.pid, signal.SIGKILL)
    stack.pdp.popen.wait()
    assert set(errors) <= {"UNAVAILABLE", "CANCELLED"}
    until(lambda: not any(runs(pid) for pid in workers), what="the end of the workers")
    assert recorded(stack) == Counter(answered)


def test_a_killed_worker_is_replaced_and_its_calls_are_errors(stack):
    (first,) = stack.pdp.children()
    with calling(stack) as (answered, errors):
        os.kill(first, signal.SIGKILL)
    assert errors == ["UNAVAILABLE"] * CALLERS

    def answers() -> bool:
        with stack.client() as client, contextlib.suppress(CallError):
            answered.append(client.authorize("bank/look", {"account": "7"}, agent="teller").decision_id)
            return True
        return False

    until(answers, what="an answer by the next worker")
    assert stack.pdp.children() != [first]
    until(lambda: recorded(stack).keys() >= set(answered), what="the shipping")
    assert {number for number, count in recorded(stack).items() if count != 1} == set()
    assert "worker 0 ended with -9" in stack.pdp.log.read_text()
