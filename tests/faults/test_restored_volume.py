"""An old copy of the state folder, put back: the ledger remembers more than it does, and nothing in it is trusted."""

from __future__ import annotations

import datetime as dt
import shutil
import tempfile
from pathlib import Path

import pytest

import bank
from entries import records
from exequatur.client import CallError
from exequatur.values import Effect, Outcome
from pdp.shipping import MARK, OLDER
from stack import OPENER, Stack, until


@pytest.fixture
def stack():
    with tempfile.TemporaryDirectory(prefix="ex-") as name:
        stack = Stack(Path(name))
        try:
            stack.ledger.start()
            stack.pdp.start()
            yield stack
        finally:
            stack.pdp.kill()
            stack.ledger.kill()


def test_a_restored_old_volume_is_refused_and_alarmed(stack):
    state, copy = stack.folder / "state", stack.folder / "copy"
    with stack.client(OPENER) as opener, stack.client() as teller:

        def pay():
            return teller.authorize("bank/pay", {"to": "ann", "dollars": 5}, agent="teller")

        limits = {"lifetime": dt.timedelta(hours=1), "max_steps": 10, "budget_microusd": 10 * bank.DOLLAR}
        opener.open_session("teller", bank.SIDECAR, scope=["*"], **limits)
        held = [pay() for _ in range(2)]
        shutil.copytree(state, copy, ignore=shutil.ignore_patterns("*.new", ".status*"))  # what is just being written
        assert all(pay().allowed for _ in range(5))
        stack.pdp.stop()
        known = records(stack.log_folder)

        shutil.rmtree(state)
        copy.rename(state)
        stack.pdp.start()
        refused = [pay() for _ in range(50)]  # from the first call on
        assert {answer.effect for answer in refused} == {Effect.DENY}, "the budget of the copy is not spent again"
        told = f"the policy in force is no longer trusted: {OLDER}"
        assert {answer.reasons[0].text for answer in refused} == {told}
        with pytest.raises(CallError, match="the state folder is older"):
            opener.open_session("teller", bank.SIDECAR, instance="i2", scope=["*"], **limits)
        assert teller.settle(held[0].decision_id, Outcome.EXECUTED) == bank.DOLLAR, "what ran is still accounted for"
        until(lambda: "alarm" in stack.pdp.log.read_text(), what="the alarm")
        assert (state / MARK).exists(), "so that other workers know it too"
        assert records(stack.log_folder)[: len(known)] == known, "what the ledger has is not overwritten"
