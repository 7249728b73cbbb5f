"""The conveyor when its disk, its store or a request breaks: a denial with its reason, and then service again."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3

import pytest

from conveying import desk, fates
from exequatur.spool import SpoolError
from judging import ENFORCER, OTHER, action
from pdp.control.sessions import (
    Fate,
    UnavailableError,
)
from pdp.control.store import StoreError
from pdp.model import Effect, ReasonKind
from pdp.requests import Broken, Refuse

ALLOW, DENY = Effect.ALLOW, Effect.DENY

pytestmark = pytest.mark.usefixtures("either")
SQLITE_ALONE = pytest.mark.parametrize("either", ["sqlite"], indirect=True)


class Flaky:
    """A spool that fails when told to."""

    def __init__(self, spool):
        self.spool, self.fail = spool, False

    def append_many(self, records):
        if self.fail:
            raise SpoolError("no space left on device")
        return self.spool.append_many(records)


async def test_what_cannot_be_recorded_is_denied_and_given_back(tmp_path):
    flaky = []

    def journal(spool):
        flaky.append(Flaky(spool))
        return flaky[0]

    async with desk(tmp_path, journal=journal) as parts:
        session = await parts.open()
        (held,) = await parts.ask(action("git/push"))
        flaky[0].fail = True
        (denied,) = await parts.ask(action("git/push", idempotency_key="k"))
        assert denied.decision.effect is DENY
        assert denied.decision.reasons[0].kind is ReasonKind.ERROR
        assert "could not be recorded" in denied.decision.reasons[0].text
        for call in (
            parts.settle(held.decision.id),
            parts.open(instance="i2"),
            parts.conveyor.submit(Refuse("Authorize", Broken.of(b"x", "bad"), OTHER)),
        ):
            with pytest.raises(UnavailableError, match="could not be recorded"):
                await call
        flaky[0].fail = False
        stored = parts.stored(session.id)
        assert (stored.reserved_microusd, stored.spent_microusd) == (100, 0), "only the first is held, unsettled"
        assert stored.steps == 2, "a step is never given back"
        assert fates(parts, held.decision.id, denied.decision.id) == [Fate.HELD, None]
        assert await parts.settle(held.decision.id) == 100, "the settlement can be said again"
        (again,) = await parts.ask(action("git/push", idempotency_key="k"))
        assert not again.repeated, "what was never answered is no answer"
        assert again.decision.effect is ALLOW
        assert (await parts.open(instance="i2")).closed_at is None


async def test_a_store_that_fails_denies_on_record_and_comes_back(tmp_path, monkeypatch):
    async with desk(tmp_path) as parts:
        session = await parts.open()

        def broken(self, changes):
            raise StoreError("disk I/O error")

        with monkeypatch.context() as patch:
            patch.setattr("pdp.control.store.Writing.write", broken)
            (denied,) = await parts.ask(action("git/push"))
            with pytest.raises(UnavailableError):
                await parts.open(instance="i2")
        assert denied.decision.reasons[0].kind is ReasonKind.ERROR
        (record,) = parts.records("decision")
        assert (record["decision_id"], record["effect"]) == (denied.decision.id, "deny")
        assert parts.stored(session.id).steps == 0
        (fine,) = await parts.ask(action("git/push"))
        assert fine.decision.effect is ALLOW


@SQLITE_ALONE
async def test_a_full_disk_denies_and_what_follows_is_right(tmp_path):
    async with desk(tmp_path) as parts:
        session = await parts.open()
        database = parts.conveyor._store._database._connection.connection.dbapi_connection
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {pages}")
        answers = []
        while not answers or answers[-1].decision.effect is ALLOW:
            keys = (f"{len(answers) + n:0128}" for n in range(10))
            answers += await parts.ask(*(action("git/log", idempotency_key=key) for key in keys))
        effects = [answer.decision.effect for answer in answers]
        assert effects == [ALLOW] * (len(answers) - 10) + [DENY] * 10, "all or nothing"
        assert answers[-1].decision.reasons[0].kind is ReasonKind.ERROR
        assert parts.stored(session.id).steps == len(answers) - 10
        database.execute("PRAGMA max_page_count = 1000000")
        (fine,) = await parts.ask(action("git/log"))
        assert fine.decision.effect is ALLOW
        assert parts.stored(session.id).steps == len(answers) - 9
        assert len(parts.records("decision")) == len(answers) + 1


@SQLITE_ALONE
async def test_a_store_that_somebody_locks_denies_and_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr("pdp.control.sqlite.BUSY_MS", 20)
    async with desk(tmp_path) as parts:
        session = await parts.open()
        with contextlib.closing(sqlite3.connect(tmp_path / "store.sqlite")) as raw:
            raw.execute("BEGIN IMMEDIATE")
            (denied,) = await parts.ask(action())
            assert denied.decision.reasons[0].kind is ReasonKind.ERROR
            raw.rollback()
        (fine,) = await parts.ask(action())
        assert fine.decision.effect is ALLOW
        assert parts.stored(session.id).steps == 1


@SQLITE_ALONE
async def test_a_store_that_is_gone_is_a_denial(tmp_path):
    async with desk(tmp_path) as parts:
        await parts.open()
        with sqlite3.connect(tmp_path / "store.sqlite") as raw:
            raw.execute("DROP TABLE sessions")
        raw.close()
        (denied,) = await parts.ask(action())
        assert denied.decision.effect is DENY
        assert denied.decision.errors


async def test_one_request_that_breaks_us_does_not_deny_the_others(tmp_path, monkeypatch):
    from pdp.rounds import Round

    async with desk(tmp_path) as parts:
        await parts.open()
        serve = Round._decide

        def poisoned(self, item, enforcer):
            if enforcer == "poison":
                raise RuntimeError("c4n4ry")
            return serve(self, item, enforcer)

        monkeypatch.setattr(Round, "_decide", poisoned)
        answers = await asyncio.gather(
            *(parts.ask(action(), enforcer=who) for who in (["poison"] + [parts_enforcer()] * 3))
        )
        effects = [a[0].decision.effect for a in answers]
        assert effects == [DENY, ALLOW, ALLOW, ALLOW]
        assert "c4n4ry" not in str(parts.records())


def parts_enforcer():

    return ENFORCER
