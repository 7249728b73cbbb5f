"""Where the ledger is waited for, nothing leaves that it does not have, and what it does not take in time is denied."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from conveying import OPENER, desk, wish
from exequatur.spool import SpoolError
from judging import action, says, snapshot
from pdp import worker
from pdp.control.sessions import Fate, NotFoundError, Report, UnavailableError, WrongStateError
from pdp.model import Effect, ReasonKind
from pdp.requests import Open
from pdp.worker import NOT_TAKEN

ALLOW, DENY = Effect.ALLOW, Effect.DENY
PUSH = action("git/push")
SHORT = 0.2


class Ledger:
    """Says that it has records up to a number, when the test says so."""

    def __init__(self, taken: int = 10**9) -> None:
        self._taken, self._more, self.asked = taken, asyncio.Event(), asyncio.Event()

    async def acknowledged(self, number: int) -> None:
        self.asked.set()
        while self._taken < number:
            await self._more.wait()

    def take(self, number: int) -> None:
        self._taken = number
        self._more.set()
        self._more = asyncio.Event()

    def away(self, parts) -> None:
        """Take nothing from here on."""
        self._taken = parts.spool.last


@contextlib.asynccontextmanager
async def waiting(folder, *policy, **options):
    """A conveyor whose answers wait for a ledger that takes all at first."""
    ledger = Ledger()
    async with desk(folder, *policy, acknowledged=ledger.acknowledged, **options) as parts:
        yield parts, ledger


def fate(parts, decision):
    with parts.store.reading() as view:
        return view.reservations([decision])[decision].fate


def counted(parts) -> dict[str, int]:
    """Give how many decisions were counted, by effect."""
    (family,) = (each for each in parts.metrics.registry.collect() if each.name == "exequatur_decisions")
    counts: dict[str, int] = {}
    for sample in family.samples:
        if sample.name.endswith("_total") and sample.value:
            counts[sample.labels["effect"]] = counts.get(sample.labels["effect"], 0) + int(sample.value)
    return counts


async def recorded(parts, number):
    async with asyncio.timeout(5):
        await parts.spool.wait_for(number)


async def test_nothing_leaves_before_the_ledger_has_its_record_and_rounds_go_on_meanwhile(tmp_path):
    async with waiting(tmp_path) as (parts, ledger):
        await parts.open()
        ledger.away(parts)
        before, asking = parts.spool.last, []
        for number in range(1, 4):
            asking.append(asyncio.create_task(parts.ask(PUSH)))
            await recorded(parts, before + number)  # judged and on record, one round after another
        asking += [asyncio.create_task(parts.open(instance="i2")), asyncio.create_task(parts.close("none"))]
        await recorded(parts, before + 4)
        await asyncio.sleep(0.02)
        assert not any(task.done() for task in asking[:4])
        ledger.take(before + 2)
        await asyncio.wait(asking[:2], timeout=5)
        assert [task.done() for task in asking[:4]] == [True, True, False, False]
        ledger.take(before + 4)
        answers = await asyncio.gather(*asking[:3])
        assert [answer.decision.effect for (answer,) in answers] == [ALLOW] * 3
        await asking[3]
        with pytest.raises(NotFoundError):
            await asking[4]


async def test_what_the_ledger_does_not_take_in_time_is_denied_and_given_back_and_no_second_answer_comes(tmp_path):
    async with waiting(tmp_path) as (parts, ledger):
        session = await parts.open()
        ledger.away(parts)
        keyed = action("git/push", idempotency_key="k")
        loop = asyncio.get_running_loop()
        began = loop.time()
        (answer,) = await parts.ask(keyed, left=SHORT)
        assert loop.time() - began < SHORT
        (reason,) = answer.decision.reasons
        assert (answer.decision.effect, reason.kind, reason.text) == (DENY, ReasonKind.ERROR, NOT_TAKEN)
        allowed, denied = parts.records("decision")
        assert (allowed["effect"], denied["effect"], denied["decision_id"]) == ("allow", "deny", answer.decision.id)
        (settled,) = parts.records("settlement")
        assert (settled["decision_id"], settled["outcome"]) == (allowed["decision_id"], Report.NOT_EXECUTED.value)
        assert (settled["charged_microusd"], settled["text"]) == (0, NOT_TAKEN)
        assert fate(parts, allowed["decision_id"]) is Fate.RELEASED
        stored = parts.stored(session.id)
        assert (stored.reserved_microusd, stored.spent_microusd) == (0, 0)
        assert (stored.steps, stored.labels) == (1, {"left_house"}), "steps and labels are never given back"
        ledger.take(10**9)
        assert counted(parts) == {"deny": 1}, "what was withdrawn was never an answer"
        (again,) = await parts.ask(keyed)  # the answer that nobody got is not repeated
        assert (again.decision.effect, again.repeated) == (ALLOW, False)
        assert again.decision.id != allowed["decision_id"]
        assert fate(parts, allowed["decision_id"]) is Fate.RELEASED
        assert counted(parts) == {"allow": 1, "deny": 1}


async def test_the_ledger_is_waited_for_no_longer_than_our_patience(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "PATIENCE_S", 0.05)
    async with waiting(tmp_path) as (parts, ledger):
        await parts.open()
        ledger.away(parts)
        async with asyncio.timeout(5):
            answers = await parts.ask(PUSH, PUSH) + await parts.ask(PUSH, left=3600)
        assert {answer.decision.reasons[0].text for answer in answers} == {NOT_TAKEN}


async def test_a_denial_stays_the_denial_that_it_was(tmp_path):
    async with waiting(tmp_path, snapshot(says(DENY, text="not here"))) as (parts, ledger):
        await parts.open()
        ledger.away(parts)
        (answer,) = await parts.ask(PUSH, left=SHORT)
        assert answer.decision.reasons[0].text == "not here"
        assert len(parts.records("decision")) == 1
        assert counted(parts) == {"deny": 1}


async def test_a_repeat_waits_for_a_record_of_its_own_and_gives_nothing_back(tmp_path):
    async with waiting(tmp_path) as (parts, ledger):
        await parts.open()
        keyed = action("git/push", idempotency_key="k")
        (first,) = await parts.ask(keyed)
        ledger.away(parts)
        (repeat,) = await parts.ask(keyed, left=SHORT)
        assert (repeat.decision.effect, repeat.decision.reasons[0].text) == (DENY, NOT_TAKEN)
        assert fate(parts, first.decision.id) is Fate.HELD, "the first call's go-ahead is its own"
        before = parts.spool.last
        asking = asyncio.create_task(parts.ask(keyed))
        await recorded(parts, before + 1)
        assert not asking.done()
        ledger.take(before + 1)
        (repeat,) = await asking
        assert (repeat.decision, repeat.repeated) == (first.decision, True)
        assert counted(parts) == {"allow": 1, "deny": 1}
        assert parts.metrics.registry.get_sample_value("exequatur_repeated_answers_total") == 1


async def test_a_session_that_the_ledger_does_not_know_is_not_open(tmp_path):
    async with waiting(tmp_path) as (parts, ledger):
        ledger.take(1)  # what came into force
        with pytest.raises(UnavailableError, match=NOT_TAKEN):
            await parts.conveyor.submit(Open(wish(), OPENER), SHORT)
        opened, closed = parts.records("session")
        assert (opened["event"], closed["event"], closed["session"]) == ("opened", "closed", opened["session"])
        ledger.take(10**9)
        (answer,) = await parts.ask(PUSH)
        assert answer.decision.effect is DENY


async def test_a_settlement_that_is_not_taken_is_no_success_and_can_be_asked_for_again(tmp_path, monkeypatch):
    async with waiting(tmp_path) as (parts, ledger):
        await parts.open()
        (answer,) = await parts.ask(PUSH)
        ledger.away(parts)
        monkeypatch.setattr(worker, "PATIENCE_S", 0.05)
        with pytest.raises(UnavailableError, match=NOT_TAKEN):
            await parts.settle(answer.decision.id)
        ledger.take(10**9)
        with pytest.raises(WrongStateError, match="settled"):
            await parts.settle(answer.decision.id)
        assert [record.get("repeated", False) for record in parts.records("settlement")] == [False, True]


async def test_what_a_caller_asked_who_has_gone_is_given_back(tmp_path):
    async with waiting(tmp_path) as (parts, ledger):
        session = await parts.open()
        ledger.away(parts)
        ledger.asked.clear()
        before = parts.spool.last
        asking = asyncio.create_task(parts.ask(PUSH))
        async with asyncio.timeout(5):
            await ledger.asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await recorded(parts, before + 3)
        assert parts.stored(session.id).reserved_microusd == 0
        assert parts.records("settlement")[0]["outcome"] == Report.NOT_EXECUTED.value
        ledger.take(10**9)
        await parts.ask(PUSH)  # in a round after the one that took it back
        assert counted(parts) == {"allow": 1, "deny": 1}


async def test_an_item_of_a_batch_that_was_denied_anyway_is_counted_once_when_the_others_are_taken_back(tmp_path):
    async with waiting(tmp_path) as (parts, ledger):
        await parts.open()
        ledger.away(parts)
        answers = await parts.ask(PUSH, action("git/unknown"), left=SHORT)
        assert [answer.decision.effect for answer in answers] == [DENY, DENY]
        assert counted(parts) == {"deny": 2}


async def test_looking_at_a_session_waits_for_nothing(tmp_path):
    async with waiting(tmp_path) as (parts, ledger):
        session = await parts.open()
        ledger.away(parts)
        async with asyncio.timeout(5):
            assert (await parts.show(session.id)).session.id == session.id


async def test_what_cannot_be_taken_back_on_record_is_still_denied_and_charged_when_it_expires(tmp_path):
    class Filling:
        """A spool whose disk is full when the test says so."""

        full = False

        def __init__(self, spool) -> None:
            self._spool = spool

        def append_many(self, records):
            if Filling.full:
                raise SpoolError("no space")
            return self._spool.append_many(records)

    async with waiting(tmp_path, journal=Filling) as (parts, ledger):
        session = await parts.open()
        ledger.away(parts)
        before = parts.spool.last
        asking = asyncio.create_task(parts.ask(PUSH, left=SHORT))
        await recorded(parts, before + 1)
        Filling.full = True
        (answer,) = await asking
        assert answer.decision.effect is DENY
        assert parts.stored(session.id).reserved_microusd == 100
