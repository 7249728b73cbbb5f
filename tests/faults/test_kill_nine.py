"""`kill -9` of any daemon in the middle of 2,000 decisions: everything that was answered is in the ledger, once."""

from __future__ import annotations

import collections
import contextlib
import datetime as dt
import threading

import pytest

import bank
from entries import records
from exequatur.client import CallError
from exequatur.verifier import verify
from stack import OPENER, running, until

DECISIONS, CALLERS = 2_000, 16


@pytest.mark.parametrize("victim", ["pdp", "sidecar", "ledger"])
def test_every_answered_decision_is_in_the_ledger_exactly_once(victim):
    with running(workers=2) as stack:
        with stack.client(OPENER) as opener:
            opener.open_session(
                "teller",
                bank.SIDECAR,
                lifetime=dt.timedelta(hours=1),
                scope=["*"],
                max_steps=10**6,
                budget_microusd=10**9,
            )
        answered: list[str] = []
        half, alive = threading.Event(), threading.Event()
        alive.set()
        left, lock = iter(range(DECISIONS)), threading.Lock()

        def agent() -> None:
            with stack.agent() as client:
                while alive.wait():
                    with lock:
                        number = next(left, None)
                    if number is None:
                        return
                    if number == DECISIONS // 2:
                        half.set()
                    with contextlib.suppress(CallError):
                        answered.append(client.authorize("bank/look", {"account": "7"}).decision_id)

        threads = [threading.Thread(target=agent, daemon=True) for _ in range(CALLERS)]
        for thread in threads:
            thread.start()
        half.wait(60)
        process = getattr(stack, victim)
        process.kill()
        alive.clear()
        process.start()
        with stack.agent() as client:

            def allowed() -> bool:
                try:
                    return client.authorize("bank/look", {"account": "7"}).allowed
                except CallError:
                    return False

            until(allowed, what="a go-ahead after the restart")
        alive.set()
        for thread in threads:
            thread.join()

        decided = {decision for decision in answered if decision}  # a sidecar's own denial has no decision's id
        assert len(decided) > DECISIONS * 3 // 4

        def counted() -> collections.Counter[str]:
            return collections.Counter(
                record["decision_id"] for record in records(stack.log_folder) if record["kind"] == "decision"
            )

        until(lambda: counted().keys() >= decided, 30, "the shipping of what was answered")
        stack.stop()
        counts = counted()
        assert {decision: counts[decision] for decision in decided if counts[decision] != 1} == {}
        report = verify(stack.log_folder, str(stack.log_key))
        assert report.ok, report.fault
