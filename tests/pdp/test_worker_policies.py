"""The conveyor under changing policies: what may not speak denies and stays in service, what judges is on record."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import threading
from dataclasses import replace

import pytest

from conveying import desk
from exequatur.spool import SpoolError
from judging import PERMIT, action, says, snapshot
from pdp.control.sessions import Report, UnavailableError, WrongStateError
from pdp.model import Effect, ReasonKind
from pdp.policies import Standing
from policies import NOW

ALLOW, DENY = Effect.ALLOW, Effect.DENY
LATER = dt.timedelta(minutes=5)

SILENT = {
    "expired": (lambda good: replace(good, snapshot=snapshot(expires_at=NOW + LATER)), "has expired"),
    "stale": (lambda good: replace(good, trusted_until=NOW + LATER), "the source has not been heard since"),
    "withdrawn": (lambda good: replace(good, withdrawn="its key was revoked"), "its key was revoked"),
}


@pytest.mark.parametrize("why", SILENT)
async def test_policy_that_may_not_speak_denies_with_its_reason_and_comes_back(tmp_path, why):
    change, match = SILENT[why]
    async with desk(tmp_path) as parts:
        good = parts.conveyor.policies.of("default")
        await parts.open()
        (held,) = await parts.ask(action("git/push", idempotency_key="before"))
        parts.conveyor.put("default", change(good))
        parts.clock.now += LATER
        (fresh, keyed, again) = await parts.ask(
            action(), action("git/push", idempotency_key="during"), action("git/push", idempotency_key="before")
        )
        for denied in (fresh, keyed, again):
            assert (denied.decision.effect, denied.decision.reasons[0].kind) == (DENY, ReasonKind.STALE)
            assert match in denied.decision.reasons[0].text
            assert denied.decision.bundle_sequence == 7, "it says which policy it was"
        assert not again.repeated, "an old go-ahead is not given again"
        with pytest.raises(WrongStateError, match=match):
            await parts.open(instance="i2")
        assert await parts.settle(held.decision.id, Report.EXECUTED, 40) == 40, "what ran is still accounted for"
        assert (await parts.show()).session.spent_microusd == 40
        assert len(parts.records("decision")) == 4

        parts.conveyor.put("default", good)
        fresh, keyed, again = await parts.ask(
            action(), action("git/push", idempotency_key="during"), action("git/push", idempotency_key="before")
        )
        assert [each.decision.effect for each in (fresh, keyed)] == [ALLOW, ALLOW], "a pause is no answer to keep"
        assert again.repeated
        assert again.decision == held.decision


async def test_a_policy_goes_stale_by_the_clock_alone(tmp_path):
    async with desk(tmp_path) as parts:
        await parts.open()
        standing = parts.conveyor.policies.of("default")
        parts.conveyor.put("default", replace(standing, trusted_until=NOW + LATER))
        assert (await parts.ask(action()))[0].decision.effect is ALLOW
        parts.clock.now += LATER
        assert (await parts.ask(action()))[0].decision.effect is DENY
        parts.conveyor.put("default", replace(standing, trusted_until=parts.clock.now + LATER))
        assert (await parts.ask(action()))[0].decision.effect is ALLOW
        assert len(parts.records("bundle")) == 1, "hearing of the source again is no change of policy"


async def test_a_folder_that_is_older_than_the_ledgers_memory_trusts_no_policy_again(tmp_path):
    async with desk(tmp_path) as parts:
        await parts.open()
        parts.conveyor.distrust("the state folder is older than the ledger's memory of it")
        parts.conveyor.put("default", Standing(snapshot(sequence=99, digest=b"\2" * 32)))
        parts.conveyor.put("acme", Standing(snapshot(tenant="acme")))
        for tenant in ("default", "acme"):
            (denied,) = await parts.ask(action(tenant=tenant))
            assert denied.decision.effect is DENY
            assert "older than the ledger's memory" in denied.decision.reasons[0].text
        assert {record["event"] for record in parts.records("bundle")} == {"in_force", "withdrawn"}


async def test_each_policy_is_on_record_before_its_first_decision(tmp_path):
    async with desk(tmp_path, snapshot(kids=("alice", "bob"))) as parts:
        await parts.open()
        await parts.ask(action())
        parts.conveyor.put("default", Standing(snapshot(says(DENY), sequence=8, digest=b"\2" * 32)))
        await asyncio.gather(*(parts.ask(action()) for _ in range(20)))
        parts.conveyor.put("default", Standing(snapshot(sequence=9, digest=b"\3" * 32), withdrawn="bob was revoked"))
        await parts.ask(action())
        announced = set()
        for record in map(json.loads, parts.spool.read(1, 100)):
            if record["kind"] == "bundle":
                announced.add(record["bundle"])
            assert record["kind"] != "decision" or record["bundle"] in announced
        assert [(r["event"], r["sequence"], r["reason"]) for r in parts.records("bundle")] == [
            ("in_force", 7, ""),
            ("in_force", 8, ""),
            ("withdrawn", 9, "bob was revoked"),
        ]
        first = parts.records("bundle")[0]
        assert (first["tenant"], first["bundle"], first["kids"]) == ("default", "01" * 32, ["alice", "bob"])
        assert first["time"] == "2026-01-05T10:00:00.000000Z"


async def test_a_policy_is_on_record_at_once_though_nobody_asks(tmp_path, monkeypatch):
    monkeypatch.setattr("pdp.worker.SWEEP_S", 60)
    async with desk(tmp_path) as parts:
        async with asyncio.timeout(5):
            await parts.spool.wait_for(1)
            parts.conveyor.put("default", Standing(snapshot(sequence=8, digest=b"\2" * 32)))
            await parts.spool.wait_for(2)
        assert [record["sequence"] for record in parts.records("bundle")] == [7, 8]


class Meddling:
    """A spool in whose middle, while one policy is put on record, another one comes."""

    def __init__(self, spool):
        self.spool, self.meanwhile = spool, {}

    def append_many(self, records):
        for record in records:
            self.meanwhile.pop(record.get("sequence") if record["kind"] == "bundle" else None, bool)()
        return self.spool.append_many(records)


async def test_a_policy_that_comes_while_another_is_put_on_record_waits_for_its_own(tmp_path):
    journals, begun, go_on = [], threading.Event(), threading.Event()

    def journal(spool):
        journals.append(Meddling(spool))
        return journals[0]

    def slow(_):
        begun.set()
        go_on.wait(5)
        return PERMIT

    newer = [Standing(snapshot(sequence=number, digest=bytes([number]) * 32)) for number in (8, 9)]
    async with desk(tmp_path, snapshot(slow), journal=journal) as parts:
        await parts.open()
        journals[0].meanwhile[8] = lambda: parts.conveyor.put("default", newer[1])
        first = asyncio.create_task(parts.ask(action()))
        await asyncio.to_thread(begun.wait, 5)
        second = asyncio.create_task(parts.ask(action()))
        await asyncio.sleep(0)  # it waits before the new policy does
        parts.conveyor.put("default", newer[0])
        go_on.set()
        assert [(await task)[0].decision.bundle_sequence for task in (first, second)] == [7, 8]
        assert (await parts.ask(action()))[0].decision.bundle_sequence == 9


class NoBundles:
    """A spool that takes every record but those of a change of policy, while told to."""

    def __init__(self, spool):
        self.spool, self.fail = spool, False

    def append_many(self, records):
        if self.fail and any(record["kind"] == "bundle" for record in records):
            raise SpoolError("no space left on device")
        return self.spool.append_many(records)


async def test_a_policy_that_cannot_be_put_on_record_does_not_judge(tmp_path):
    journals, seen = [], []

    def journal(spool):
        journals.append(NoBundles(spool))
        return journals[0]

    def new(facts):
        seen.append(facts)
        return PERMIT

    async with desk(tmp_path, journal=journal) as parts:
        await parts.open()
        assert (await parts.ask(action()))[0].decision.effect is ALLOW
        journals[0].fail = True
        parts.conveyor.put("default", Standing(snapshot(new, sequence=8, digest=b"\2" * 32)))
        for _ in range(3):
            (denied,) = await parts.ask(action())
            assert denied.decision.effect is DENY
            assert "could not be recorded" in denied.decision.reasons[0].text
        with pytest.raises(UnavailableError):
            await parts.open(instance="i2")
        assert seen == []
        journals[0].fail = False
        (fine,) = await parts.ask(action())
        assert (fine.decision.effect, fine.decision.bundle_sequence) == (ALLOW, 8)
        assert len(seen) == 1
