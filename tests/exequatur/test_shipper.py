"""Records reach the ledger in order and once; a ledger that shows another past is not believed."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exequatur import shipper
from exequatur.client import CallError
from exequatur.shipper import Shipper
from exequatur.spool import Spool
from exequatur.trust.errors import TrustError
from exequatur.trust.note import LogKey
from exequatur.values import Ack
from ledger.log import Log
from logs import LOG_KEY, NOW, ORIGIN, VERIFIER_KEY, open_log, records

ME = "spiffe://example.org/pdp"


class Ledger:
    """A real log behind the shipper's `append`; told how to fail."""

    def __init__(self, folder: Path) -> None:
        self.log: Log = open_log(folder)
        self.got: list[bytes] = []
        self.calls = 0
        self.failing: list[Exception] = []
        self.lose_answers = 0

    async def append(self, writer, first, new, known) -> Ack:
        self.calls += 1
        if self.failing:
            raise self.failing.pop(0)
        have = len(self.got)
        assert first <= have + 1
        assert self.got[first - 1 :] == list(new[: have + 1 - first])
        fresh = list(new[have + 1 - first :])
        if fresh:
            self.log.append(fresh, NOW)
            self.got += fresh
        if self.lose_answers:
            self.lose_answers -= 1
            raise CallError("DEADLINE_EXCEEDED", "too late")
        return Ack(len(self.got), self.log.note, tuple(self.log.prove_consistency(known)))


@pytest.fixture
def spool(tmp_path):
    spool = Spool.open(tmp_path / "spool", identity=ME)
    yield spool
    spool.close()


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "log")


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "log.vkey"
    path.write_text(VERIFIER_KEY + "\n")
    return path


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(shipper, "BACKOFF_S", (0.001, 0.005))


def fill(spool: Spool, count: int) -> None:
    spool.append_many([{"kind": "decision", "decision_id": str(n)} for n in range(count)])


async def ship(it: Shipper, spool: Spool) -> None:
    """Run until all is acknowledged."""
    stop = asyncio.Event()
    running = asyncio.create_task(it.run(stop))
    async with asyncio.timeout(20):
        while spool.acknowledged < spool.last:  # noqa: ASYNC110  a spool tells nobody what it lets go of
            await asyncio.sleep(0.001)
    stop.set()
    await running


async def test_records_arrive_in_order_and_once_whatever_fails(spool, ledger, key):
    ledger.failing = [CallError("UNAVAILABLE", "no space"), OSError("reset"), RuntimeError("odd")]
    ledger.lose_answers = 2
    it = Shipper(spool, ledger.append, log_key=key)
    fill(spool, 1200)
    await ship(it, spool)
    fill(spool, 7)
    await ship(it, spool)
    assert [json.loads(data)["number"] for data in ledger.got] == list(range(1, 1208))
    assert (it.failures, it.trouble) == (0, "")
    assert (spool.folder / "checkpoint").read_text() == ledger.log.note


async def test_a_batch_is_bounded_in_records_and_bytes(spool, ledger, key):
    sizes: list[tuple[int, int]] = []

    async def append(writer, first, new, known) -> Ack:
        sizes.append((len(new), sum(map(len, new))))
        return await ledger.append(writer, first, new, known)

    fill(spool, 600)
    spool.append_many([{"kind": "decision", "text": "x" * 50_000} for _ in range(100)])
    await ship(Shipper(spool, append, log_key=key), spool)
    assert max(count for count, _ in sizes) <= shipper.BATCH
    assert max(size for _, size in sizes) <= shipper.BATCH_BYTES
    assert len(sizes) == 4


async def test_another_past_is_not_acknowledged(spool, ledger, key, tmp_path, caplog):
    it = Shipper(spool, ledger.append, log_key=key)
    fill(spool, 5)
    await ship(it, spool)
    rewritten = Ledger(tmp_path / "rewritten")  # by somebody who has the ledger's key
    rewritten.got = ledger.got
    rewritten.log.append(records(1, 9, effect="deny"), NOW)
    again = Shipper(spool, rewritten.append, log_key=key)  # a restart does not forget
    fill(spool, 1)
    for _ in range(3):
        assert not await again._ship()
    assert spool.acknowledged == 5
    alarms = [entry for entry in caplog.records if entry.levelno == logging.CRITICAL]
    assert len(alarms) == 1
    assert "does not lead from the old root" in alarms[0].getMessage()
    unchecked = Shipper(spool, rewritten.append)
    assert await unchecked._ship()


@pytest.mark.parametrize("bad", ["signature", "origin", "cut", "much", "little", "none", "nothing"])
async def test_an_answer_that_does_not_fit_is_not_believed(spool, ledger, key, bad, tmp_path):
    fill(spool, 5)
    await ship(Shipper(spool, ledger.append, log_key=key), spool)
    fill(spool, 2)
    before = ledger.log.note

    async def append(writer, first, new, known) -> Ack:
        ack = await ledger.append(writer, first, new, known)
        note, number, proof = ack.checkpoint, ack.acknowledged, ack.consistency
        if bad == "signature":
            note = note.replace("time 2026", "time 2027")
        elif bad == "origin":
            note = note.replace("example.org/audit", "example.org/other")
        elif bad == "cut":
            log = open_log(tmp_path / "short")
            log.append(records(1, 3), NOW)
            note = log.note
            log.close()
        elif bad == "none":
            note = ""
        elif bad == "nothing":
            note, proof = before, ()
            number = 7
        return Ack({"much": 8, "little": 5}.get(bad, number), note, proof)

    it = Shipper(spool, append, log_key=key)
    assert not await it._ship()
    assert spool.acknowledged == 5
    assert it.trouble


async def test_an_old_checkpoint_cannot_cover_new_records(spool, ledger, key):
    fill(spool, 5)
    await ship(Shipper(spool, ledger.append, log_key=key), spool)
    fill(spool, 2)
    before = ledger.log.note

    async def append(writer, first, new, known) -> Ack:
        return Ack(7, before, ())

    it = Shipper(spool, append, log_key=key)
    assert not await it._ship()
    assert "cannot cover" in it.trouble


@pytest.mark.parametrize("code", ["ALREADY_EXISTS", "FAILED_PRECONDITION"])
async def test_what_trying_again_will_not_change_is_an_alarm(spool, ledger, key, code, caplog):
    ledger.failing = [CallError("UNAVAILABLE", "down"), CallError(code, "record 1 is there with other content")]
    it = Shipper(spool, ledger.append, log_key=key)
    fill(spool, 1)
    await it._ship()
    await it._ship()
    assert [entry.levelname for entry in caplog.records] == ["WARNING", "CRITICAL"]
    assert f"{code.lower()}: record 1" in caplog.records[1].getMessage()
    assert await it._ship()
    assert caplog.records[-1].getMessage() == "the ledger takes records again"


class Memory(Ledger):
    """A ledger that holds what it is sent against what it has, as the real one does."""

    async def append(self, writer, first, new, known) -> Ack:
        for number, (had, sent) in enumerate(zip(self.got[first - 1 :], new, strict=False), first):
            if had != sent:
                raise CallError("ALREADY_EXISTS", f"record {number} is there with other content")
        return await super().append(writer, first, [*new, *self.got[first - 1 + len(new) :]], known)


def restored(spool: Spool, tmp_path: Path) -> Spool:
    """The spool as it is now, opened at another place: what a restored volume is."""
    shutil.copytree(spool.folder, tmp_path / "restored", ignore=shutil.ignore_patterns("lock"))
    return Spool.open(tmp_path / "restored", identity=ME)


@pytest.mark.parametrize("meanwhile", [1, 9])
async def test_a_ledger_that_knows_what_this_spool_never_wrote_is_told_of(spool, tmp_path, key, meanwhile):
    ledger = Memory(tmp_path / "remembering")
    fill(spool, 5)
    old = restored(spool, tmp_path)
    fill(spool, meanwhile)
    await ship(Shipper(spool, ledger.append, log_key=key), spool)
    told: list[str] = []
    it = Shipper(old, ledger.append, log_key=key, older=told.append)
    assert not await it._ship()
    assert told == [f"the ledger has record {5 + meanwhile}, and the last one written here is 5"]
    old.append_many([{"kind": "decision", "decision_id": "another"}] * 20)
    assert not await it._ship()
    assert told[1:] == ["already_exists: record 6 is there with other content"]
    assert len(old.read(1, 100)) == 25
    old.close()


async def test_no_more_is_let_go_of_than_was_sent(spool, tmp_path, key, monkeypatch):
    ledger = Memory(tmp_path / "remembering")
    fill(spool, 5)
    old = restored(spool, tmp_path)
    fill(spool, 5)
    await ship(Shipper(spool, ledger.append, log_key=key), spool)
    old.append_many([{"kind": "decision", "decision_id": "another"}] * 20)
    monkeypatch.setattr(shipper, "BATCH", 5)
    told: list[str] = []
    it = Shipper(old, ledger.append, log_key=key, older=told.append)
    assert await it._ship()
    assert old.acknowledged == 5  # the ledger says 10, and has other bytes there
    assert not await it._ship()
    assert told == ["already_exists: record 6 is there with other content"]
    assert len(old.read(6, 100)) == 20
    old.close()


async def test_an_outage_and_a_lost_answer_are_no_older_copy(spool, ledger, key):
    ledger.failing = [CallError("UNAVAILABLE", "down"), CallError("FAILED_PRECONDITION", "its end was lost")]
    ledger.lose_answers = 1
    told: list[str] = []
    it = Shipper(spool, ledger.append, log_key=key, older=told.append)
    fill(spool, 5)
    await ship(it, spool)
    assert not told


async def test_a_refusal_is_an_alarm_told_once_and_an_outage_is_none(spool, ledger, key):
    refused = CallError("PERMISSION_DENIED", "`me` is no writer")
    ledger.failing = [CallError("UNAVAILABLE", "down"), refused, refused]
    told: list[str] = []
    it = Shipper(spool, ledger.append, log_key=key, alarmed=told.append)
    fill(spool, 5)
    assert it.heard_at is None
    for _ in range(3):
        assert not await it._ship()
    assert told == ["records are not shipped: permission_denied: `me` is no writer"]
    assert (it.failures, it.heard_at) == (3, None)
    assert await it._ship()
    assert (it.failures, it.heard_at is None) == (0, False)


NEW = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
NEW_KEY = LogKey(ORIGIN, NEW.public_key())


@pytest.fixture
def trusting(tmp_path):
    """A folder with the ledger's key, to put others into."""
    folder = tmp_path / "trusting"
    folder.mkdir()
    (folder / "2026.vkey").write_text(VERIFIER_KEY)
    return folder


def trust(folder: Path, *, revoked: Sequence[str] = (), **not_after: str | None) -> None:
    """Write `keys.json` whole."""
    keys = {
        name.removeprefix("k"): {"owner": "sre@example.org", **({"not_after": end} if end else {})}
        for name, end in not_after.items()
    }
    policy = {"purpose": "checkpoint", "keys": keys, "revoked": list(revoked)}
    (folder / ".keys").write_text(json.dumps(policy))
    (folder / ".keys").replace(folder / "keys.json")


async def test_a_new_key_is_taken_while_records_wait_and_none_is_lost(spool, ledger, trusting, monkeypatch, caplog):
    monkeypatch.setattr(shipper, "WATCH_S", 0.01)
    it = Shipper(spool, ledger.append, log_key=trusting)
    fill(spool, 5)
    await ship(it, spool)
    ledger.log.keys = (NEW,)  # sooner than anybody was told
    fill(spool, 5)
    stop = asyncio.Event()
    running = asyncio.create_task(it.run(stop))
    async with asyncio.timeout(20):
        while "no known key" not in it.trouble:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert spool.acknowledged == 5
    (trusting / "2027.vkey").write_text(str(NEW_KEY))
    async with asyncio.timeout(20):
        while spool.acknowledged < 10:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    stop.set()
    await running
    assert "the log keys have changed: 2026, 2027" in caplog.messages
    assert [json.loads(data)["number"] for data in ledger.got] == list(range(1, 11))


async def test_what_a_revoked_key_signed_is_not_believed_and_records_stay(spool, ledger, trusting, caplog):
    (trusting / "2027.vkey").write_text(str(NEW_KEY))
    trust(trusting, k2026=None, k2027=None)
    it = Shipper(spool, ledger.append, log_key=trusting)
    fill(spool, 5)
    assert await it._ship()
    trust(trusting, k2026=None, k2027=None, revoked=["2026"])
    assert [it._keys.look().changed for _ in range(3)].count(True) == 1
    fill(spool, 5)
    assert not await it._ship()
    assert not await it._ship()
    assert spool.acknowledged == 5
    alarms = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.CRITICAL]
    words = "the checkpoint is signed by the key `2026`, which is revoked"
    assert alarms == [f"alarm: records are not shipped: {words}"]
    ledger.log.keys = (*ledger.log.keys, NEW)
    ledger.log.checkpoint(NOW)
    assert await it._ship()
    assert spool.acknowledged == 10


async def test_the_only_key_can_be_revoked_too(spool, ledger, trusting):
    it = Shipper(spool, ledger.append, log_key=trusting)
    fill(spool, 1)
    assert await it._ship()
    trust(trusting, k2026=None, revoked=["2026"])
    assert [it._keys.look().changed for _ in range(3)].count(True) == 1
    fill(spool, 1)
    assert not await it._ship()
    assert spool.acknowledged == 1
    (trusting / "2026.vkey").unlink()
    assert [it._keys.look().changed for _ in range(3)].count(True) == 1
    assert not await it._ship()
    assert spool.acknowledged == 1
    with pytest.raises(TrustError, match="every key is revoked"):
        Shipper(spool, ledger.append, log_key=trusting)


async def test_a_key_ends_while_we_run(spool, ledger, trusting):
    trust(trusting, k2026="2026-11-22T00:00:00Z")
    now = datetime(2026, 11, 21, 23, 59, 59, tzinfo=UTC)
    it = Shipper(spool, ledger.append, log_key=trusting, clock=lambda: now)
    fill(spool, 1)
    assert await it._ship()
    now += timedelta(seconds=1)
    fill(spool, 1)
    assert not await it._ship()
    assert "which was good until 2026-11-22T00:00:00Z" in it.trouble
    assert spool.acknowledged == 1


async def test_a_broken_folder_of_keys_keeps_the_good_ones_and_is_an_alarm(
    spool, ledger, trusting, monkeypatch, caplog
):
    monkeypatch.setattr(shipper, "WATCH_S", 0.01)
    it = Shipper(spool, ledger.append, log_key=trusting)
    stop = asyncio.Event()
    running = asyncio.create_task(it.run(stop))
    (trusting / "2027.vkey").write_text("half a k")
    async with asyncio.timeout(20):
        while not caplog.messages:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    fill(spool, 5)
    async with asyncio.timeout(20):
        while spool.acknowledged < 5:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    stop.set()
    await running
    (alarm,) = caplog.messages
    assert alarm.startswith(f"alarm: `{trusting}`: `2027.vkey`: a verifier key must read")
    assert alarm.endswith(": the log keys that were good stay")


async def test_what_was_seen_is_not_forgotten_when_the_key_that_signed_it_is_gone(
    spool, ledger, trusting, tmp_path, caplog
):
    fill(spool, 5)
    await ship(Shipper(spool, ledger.append, log_key=trusting), spool)
    (trusting / "2026.vkey").unlink()
    (trusting / "2027.vkey").write_text(str(NEW_KEY))
    again = Shipper(spool, ledger.append, log_key=trusting)  # a restart after the old key was taken away
    assert "was signed by a key that is gone" in caplog.text
    fill(spool, 1)
    rewritten = Ledger(tmp_path / "rewritten")
    rewritten.got = [*ledger.got]
    rewritten.log.append(records(1, 9, effect="deny"), NOW)
    rewritten.log.keys = ledger.log.keys = (NEW,)
    assert not await Shipper(spool, rewritten.append, log_key=trusting)._ship()
    assert spool.acknowledged == 5
    assert await again._ship()
    assert spool.acknowledged == 6


async def test_stopping_is_quick_and_draining_ends_with_its_grace(spool, ledger, key):
    async def never(writer, first, new, known) -> Ack:
        await asyncio.Event().wait()
        raise AssertionError

    it = Shipper(spool, ledger.append, log_key=key)
    stop = asyncio.Event()
    running = asyncio.create_task(it.run(stop))
    await asyncio.sleep(0)
    stop.set()
    await asyncio.wait_for(running, 20)
    fill(spool, 700)
    await it.drain(5)
    assert spool.acknowledged == 700
    fill(spool, 1)
    await asyncio.wait_for(Shipper(spool, never, log_key=key).drain(0.05), 20)
    assert spool.acknowledged == 700


def test_a_bad_key_stops_the_start(spool, ledger, tmp_path, key):
    with pytest.raises(TrustError, match="cannot be read: no such file"):
        Shipper(spool, ledger.append, log_key=tmp_path / "missing")
    (tmp_path / "bad").write_text("example.org/audit+00000000+AAAA")
    with pytest.raises(TrustError, match="verifier key"):
        Shipper(spool, ledger.append, log_key=tmp_path / "bad")
    (spool.folder / "checkpoint").write_text("example.org/audit\n3\n")
    with pytest.raises(TrustError, match="is not signed by the log key"):
        Shipper(spool, ledger.append, log_key=key)
    assert str(LOG_KEY) == VERIFIER_KEY
