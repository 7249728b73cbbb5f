"""Spools that end with their pods: what was allowed is in the ledger, whoever is killed, and whatever goes with them."""

from __future__ import annotations

import contextlib
import datetime as dt
import shutil
import threading
import time

import bank
from entries import records
from exequatur.client import CallError, Client, Effect
from exequatur.verifier import verify
from stack import OPENER, Stack, running, until

CALLERS = 8
BETWEEN = 60
"""How many go-aheads there are between two deaths."""

WAITS_S = 2.0
"""How long a caller waits, in seconds."""

NOT_TAKEN = "the ledger has not taken the record"


class Agents:
    """Callers that ask on and on, and remember every go-ahead."""

    def __init__(self, stack: Stack) -> None:
        self.allowed: list[str] = []
        self._stack, self._over = stack, threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        with self._stack.agent() as client:
            while not self._over.is_set():
                with contextlib.suppress(CallError):
                    decision = client.authorize("bank/look", {"account": "7"})
                    if decision.allowed:
                        self.allowed.append(decision.decision_id)

    def go_on(self) -> None:
        """Wait for some more go-aheads."""
        wanted = len(self.allowed) + BETWEEN
        until(lambda: len(self.allowed) >= wanted, what="going on")

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def open_session(stack: Stack) -> None:
    """Open the agent's session, as often as it takes: at first the ledger may still be away."""

    def opened() -> bool:
        try:
            client.open_session(
                "teller",
                bank.SIDECAR,
                lifetime=dt.timedelta(hours=1),
                scope=["*"],
                max_steps=10**6,
                budget_microusd=10**9,
            )
        except CallError:
            return False
        return True

    with stack.client(OPENER) as client:
        until(opened, what="a session")


def test_no_death_takes_the_record_of_a_go_ahead_with_it():
    waits = ["--wait-for-ledger"]
    with running(pdp_extra=waits, sidecar_extra=waits) as stack:
        open_session(stack)
        agents = Agents(stack)
        agents.go_on()

        stack.ledger.kill()
        with Client(stack.target, tls=stack.tls(bank.SIDECAR), timeout_s=WAITS_S) as client:
            began = time.monotonic()
            decision = client.authorize("bank/look", {"account": "7"}, agent="teller")
            assert (decision.effect, decision.reasons[0].text) == (Effect.DENY, NOT_TAKEN)
            assert time.monotonic() - began < WAITS_S
        stack.ledger.start()
        agents.go_on()

        stack.pdp.kill()
        shutil.rmtree(stack.folder / "state")
        stack.pdp.start()
        open_session(stack)
        agents.go_on()

        stack.sidecar.kill()
        shutil.rmtree(stack.folder / "sidecar-spool")
        stack.sidecar.start()
        agents.go_on()

        agents.stop()
        stack.sidecar.kill()
        stack.pdp.kill()  # what is only in a spool is never seen again
        stack.ledger.stop()
        kept = records(stack.log_folder)
        decided = {record["decision_id"] for record in kept if record["kind"] == "decision"}
        obeyed = {record["decision_id"] for record in kept if record["kind"] == "outcome" and record["go"]}
        assert len(agents.allowed) >= 4 * BETWEEN
        assert set(agents.allowed) - decided == set()
        assert set(agents.allowed) - obeyed == set()
        report = verify(stack.log_folder, str(stack.log_key))
        assert report.ok, report.fault
