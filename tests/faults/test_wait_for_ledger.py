"""Spools that end with their pods: what was allowed is in the ledger, whoever is killed, and whatever goes with them."""

from __future__ import annotations

import datetime as dt
import shutil

import bank
from agents import Agents
from entries import records
from exequatur.client import CallError, Client, Effect
from exequatur.verifier import verify
from stack import OPENER, Stack, running, until

BETWEEN = 40
"""How many go-aheads there are between two deaths."""

WAITS_S = 1.0
"""How long a caller waits, in seconds."""

NOT_TAKEN = "the ledger has not taken the record"


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
        until(opened, 60, what="a session")


def is_denied_in_time(client: Client) -> bool:
    """Say whether the caller was told before its time was over: a machine with other work may be late, and never allows."""
    try:
        decision = client.authorize("bank/look", {"account": "7"}, agent="teller")
    except CallError as error:
        if error.code != "DEADLINE_EXCEEDED":
            raise
        return False
    assert (decision.effect, decision.reasons[0].text) == (Effect.DENY, NOT_TAKEN)
    return True


def test_no_death_takes_the_record_of_a_go_ahead_with_it():
    waits = ["--wait-for-ledger"]
    with running(pdp_extra=waits, sidecar_extra=[*waits, "--decision-timeout-ms=2000"]) as stack:
        open_session(stack)
        agents = Agents(stack)
        agents.go_on(BETWEEN)

        stack.ledger.kill()
        with Client(stack.target, tls=stack.tls(bank.SIDECAR), timeout_s=WAITS_S) as client:
            until(lambda: is_denied_in_time(client), what="a denial")
        with agents.resting():
            stack.ledger.start()
        agents.go_on(BETWEEN)

        stack.pdp.kill()
        shutil.rmtree(stack.folder / "state")
        with agents.resting():
            stack.pdp.start()
        open_session(stack)
        agents.go_on(BETWEEN)

        stack.sidecar.kill()
        shutil.rmtree(stack.folder / "sidecar-spool")
        with agents.resting():
            stack.sidecar.start()
        agents.go_on(BETWEEN)

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
