"""Only a writer's next number is taken; nothing is acknowledged before it lasts; what looks like a lie is an alarm."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import errno
import logging
import os

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from disks import Failing
from exequatur.key_folder import KeyFolder
from exequatur.record import encode
from exequatur.transport import Code, Peer, Refusal
from exequatur.trust.errors import FormatError
from exequatur.trust.merkle import verify_consistency
from exequatur.trust.note import LogKey, open_checkpoint
from exequatur.v1 import audit_pb2 as pb
from exequatur.verifier import verify
from ledger import service as module
from ledger.index import LogIndex
from ledger.metrics import Metrics
from ledger.service import Service
from logs import KEY, LOG_KEY, NOW, ORIGIN, VERIFIER_KEY, open_log, records

ME, OTHER = Peer("spiffe://example.org/pdp"), Peer("spiffe://example.org/sidecar")
AUDITOR, STRANGER = Peer("spiffe://example.org/auditor"), Peer("spiffe://example.org/stranger")
MINE, THEIRS = ME.identity + "#1", OTHER.identity + "#2"


class Desk:
    """A service on a real log, a disk that can fail, and a clock that can be set."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.disk = Failing(failure=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        self.now = NOW
        self.open()

    def open(self) -> None:
        self.log = open_log(self.folder, self.disk)
        self.index = LogIndex(self.folder / "index.db", self.log)
        self.metrics = Metrics()
        self.service = Service(
            self.log,
            self.index,
            writers=frozenset({ME.identity, OTHER.identity}),
            auditors=frozenset({AUDITOR.identity}),
            clock=lambda: self.now,
            metrics=self.metrics,
        )

    async def close(self) -> None:
        await self.service.close()
        self.index.close()
        self.log.close()

    async def append(self, first: int, data, peer=ME, writer=MINE, known=0) -> pb.AppendResponse:
        request = pb.AppendRequest(writer=writer, first_number=first, records=data, known_size=known)
        return pb.AppendResponse.FromString(await self.service.append(request.SerializeToString(), peer, None))

    async def refused(self, *arguments, **more) -> tuple[Code, str]:
        with pytest.raises(Refusal) as error:
            await self.append(*arguments, **more)
        return error.value.code, str(error.value)

    def fail(self, *, for_good: bool = True, after: int = 0) -> None:
        self.disk.nth, self.disk.for_good = len(self.disk.calls) + after, for_good

    def get_well(self) -> None:
        self.disk.nth = None

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"exequatur_{name}", labels) or 0


@pytest.fixture
async def desk(tmp_path):
    desk = Desk(tmp_path / "log")
    yield desk
    await desk.close()


async def test_records_are_acknowledged_with_a_checkpoint_that_covers_and_extends(desk):
    first = await desk.append(1, records(1, 300))
    assert first.acknowledged == 300
    old = open_checkpoint(first.checkpoint, [LOG_KEY], ORIGIN)
    second = await desk.append(301, records(301, 5), known=300)
    new = open_checkpoint(second.checkpoint, [LOG_KEY], ORIGIN)
    assert (old.size, new.size, second.acknowledged) == (300, 305, 305)
    verify_consistency(old=300, new=305, old_root=old.root, new_root=new.root, proof=list(second.consistency))
    assert desk.count("ledger_records_total") == desk.count("ledger_size_records") == 305
    assert verify(desk.folder, VERIFIER_KEY).ok


async def test_identical_records_are_acknowledged_again_and_kept_once(desk):
    await desk.append(1, records(1, 5))
    assert (await desk.append(1, records(1, 5))).acknowledged == 5
    assert (await desk.append(2, records(2, 2))).acknowledged == 5
    assert (await desk.append(4, records(4, 4))).acknowledged == 7
    assert desk.log.size == 7


async def test_other_bytes_under_a_taken_number_are_an_alarm(desk, caplog):
    await desk.append(1, records(1, 5))
    code, text = await desk.refused(4, [*records(4, 1), *records(5, 1, effect="deny"), *records(6, 1)])
    assert (code, text) == (Code.ALREADY_EXISTS, f"record 5 of `{MINE}` is there with other content")
    assert desk.log.size == 5
    assert any(entry.levelno == logging.CRITICAL and "record 5" in entry.getMessage() for entry in caplog.records)
    assert desk.count("alarms_total") == 1


async def test_a_gap_is_refused_and_the_next_number_named(desk):
    assert await desk.refused(2, records(2, 1)) == (
        Code.FAILED_PRECONDITION,
        f"the next number of `{MINE}` is 1, not 2",
    )
    await desk.append(1, records(1, 5))
    code, text = await desk.refused(7, records(7, 1))
    assert code is Code.FAILED_PRECONDITION
    assert "is 6, not 7" in text


async def test_a_caller_who_knows_a_longer_log_is_an_alarm(desk):
    await desk.append(1, records(1, 5))
    code, text = await desk.refused(6, records(6, 1), known=9)
    assert code is Code.FAILED_PRECONDITION
    assert "its end was lost" in text
    assert desk.log.size == 5
    with pytest.raises(Refusal, match="its end was lost"):
        await desk.service.get_checkpoint(pb.GetCheckpointRequest(known_size=6).SerializeToString(), AUDITOR, None)
    assert desk.count("alarms_total") == 2


async def test_a_writer_speaks_for_itself_alone(desk):
    for peer, writer, data in (
        (STRANGER, MINE, records(1, 1)),
        (STRANGER, STRANGER.identity + "#1", records(1, 1, STRANGER.identity + "#1")),
        (OTHER, MINE, records(1, 1)),
        (AUDITOR, AUDITOR.identity + "#1", records(1, 1, AUDITOR.identity + "#1")),
        (ME, ME.identity, records(1, 1, ME.identity)),
        (ME, ME.identity + "-2#1", records(1, 1, ME.identity + "-2#1")),
    ):
        code, _ = await desk.refused(1, data, peer=peer, writer=writer)
        assert code is Code.PERMISSION_DENIED
    assert desk.log.size == 0


@pytest.mark.parametrize(
    ("first", "data"),
    [
        (1, []),
        (0, records(1, 1)),
        (-1, records(1, 1)),
        (1, [b""]),
        (1, [b"{}"]),
        (1, records(2, 1)),
        (1, records(1, 1, THEIRS)),
        (1, [*records(1, 1), *records(1, 1)]),
        (1, [encode({"kind": "x"}, writer=MINE, number=1) + b" "]),
        (1, [encode({"kind": "x"}, writer=MINE, number=1).replace(b'"kind"', b'"kind":"x","kind"')]),
    ],
)
async def test_what_is_no_record_is_refused_whole(desk, first, data):
    code, _ = await desk.refused(first, data)
    assert code is Code.INVALID_ARGUMENT
    assert desk.log.size == 0


async def test_a_broken_message_is_ours_to_answer(desk):
    for call in (desk.service.append, desk.service.get_checkpoint):
        with pytest.raises(Refusal) as error:
            await call(b"\xff\xff", ME, None)
        assert error.value.code is Code.INVALID_ARGUMENT


async def test_a_checkpoint_is_for_writers_and_auditors(desk):
    await desk.append(1, records(1, 300))
    for peer in (ME, AUDITOR):
        answer = await desk.service.get_checkpoint(
            pb.GetCheckpointRequest(known_size=7).SerializeToString(), peer, None
        )
        response = pb.GetCheckpointResponse.FromString(answer)
        assert open_checkpoint(response.checkpoint, [LOG_KEY], ORIGIN).size == 300
        assert len(response.consistency) > 0
    with pytest.raises(Refusal) as error:
        await desk.service.get_checkpoint(b"", STRANGER, None)
    assert error.value.code is Code.PERMISSION_DENIED


async def test_callers_who_come_together_share_a_commit(desk):
    before = desk.disk.calls.count("replace")
    answers = await asyncio.gather(
        *(desk.append(1, records(1, 3, f"{ME.identity}#{n}"), writer=f"{ME.identity}#{n}") for n in range(50)),
        desk.append(1, records(1, 2), writer=MINE),
    )
    assert {answer.acknowledged for answer in answers[:-1]} == {3}
    assert desk.disk.calls.count("replace") - before <= 3
    assert verify(desk.folder, VERIFIER_KEY).ok


async def test_a_retry_that_overtakes_is_kept_once(desk):
    answers = await asyncio.gather(*(desk.append(1, records(1, 5)) for _ in range(4)), desk.append(1, records(1, 9)))
    assert {answer.acknowledged for answer in answers[:-1]} <= {5, 9}
    assert answers[-1].acknowledged == 9
    codes = await asyncio.gather(
        desk.refused(10, records(10, 1, effect="deny")), *[_take(desk)], return_exceptions=True
    )
    assert desk.log.size == 10
    assert sum(isinstance(code, tuple) and code[0] is Code.ALREADY_EXISTS for code in codes) <= 1


async def _take(desk) -> None:
    with contextlib.suppress(Refusal):
        await desk.append(10, records(10, 1))


async def test_a_full_disk_is_said_once_refuses_and_gets_well(desk, caplog):
    await desk.append(1, records(1, 5))
    desk.fail()
    for _ in range(3):
        code, text = await desk.refused(6, records(6, 300))
        assert code is Code.UNAVAILABLE
        assert text.endswith("cannot be written: no space left on device")
    lines = [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.ERROR]
    assert len(lines) == 1
    assert lines[0].startswith("records are not taken: the log")
    assert desk.log.size == 5
    desk.get_well()
    assert (await desk.append(6, records(6, 300))).acknowledged == 305
    assert caplog.records[-1].getMessage() == "records are taken again"
    assert verify(desk.folder, VERIFIER_KEY).size == 305


async def test_nothing_is_acknowledged_that_may_not_last(desk):
    """Each call of an append fails once; what was refused may be there, and then is acknowledged when it lasts."""
    number = 1
    for after in range(24):
        desk.fail(for_good=False, after=after)
        with contextlib.suppress(Refusal):
            await desk.append(number, records(number, 2))
        desk.get_well()
        response = await desk.append(number, records(number, 2))
        number += 2
        assert response.acknowledged == number - 1
        assert desk.log.lasting
        assert (desk.folder / "checkpoint").read_text() == response.checkpoint
    assert verify(desk.folder, VERIFIER_KEY).size == number - 1


async def test_an_index_that_fails_costs_no_record(desk, monkeypatch):
    await desk.append(1, records(1, 5))
    connection = desk.index._connection
    monkeypatch.setattr(desk.index, "_connection", None)
    monkeypatch.setattr(LogIndex, "catch_up", _no_index)
    assert (await desk.append(6, records(6, 5))).acknowledged == 10
    code, _ = await desk.refused(6, records(6, 5))  # it cannot be told whether these are the same
    assert code is Code.UNAVAILABLE
    monkeypatch.undo()
    assert desk.index._connection is connection
    assert (await desk.append(6, records(6, 6))).acknowledged == 11


def _no_index(index) -> None:
    raise module.IndexFault("the index beside the log cannot be used: disk i/o error")


async def until(condition) -> None:
    """Wait for what a second of the clock brings about."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_the_checkpoint_stays_fresh_while_nothing_happens_and_over_a_full_disk(desk):
    stop = asyncio.Event()
    desk.now = NOW + dt.timedelta(seconds=10)
    fresh = asyncio.create_task(desk.service.keep_fresh(stop, every_s=0.02))

    await until(lambda: "T10:00:10Z" in desk.log.note)
    desk.fail()
    desk.now = NOW + dt.timedelta(seconds=20)
    await until(lambda: desk.count("ledger_errors_total") > 0)
    desk.get_well()
    await until(lambda: "T10:00:20Z" in desk.log.note)
    assert desk.count("ledger_checkpoint_timestamp_seconds") == desk.now.timestamp()
    stop.set()
    await fresh
    size = open_checkpoint(desk.log.note, [LOG_KEY], ORIGIN).size
    assert size == 0


async def test_numbers_go_on_after_a_restart_with_and_without_the_index(desk):
    await desk.append(1, records(1, 300))
    for lost in (False, True):
        await desk.close()
        if lost:
            (desk.folder / "index.db").unlink()
        desk.open()
        assert (await desk.append(300, records(300, 1))).acknowledged == 300
        assert (await desk.refused(302, records(302, 1)))[0] is Code.FAILED_PRECONDITION


async def test_what_waits_is_bounded(desk, monkeypatch):
    monkeypatch.setattr(module, "WAITING_BYTES", 3000)
    answers = await asyncio.gather(
        *(desk.append(1, records(1, 9, f"{ME.identity}#{n}"), writer=f"{ME.identity}#{n}") for n in range(9)),
        return_exceptions=True,
    )
    refused = [answer for answer in answers if isinstance(answer, Refusal)]
    assert refused
    assert {refusal.code for refusal in refused} == {Code.RESOURCE_EXHAUSTED}
    assert len(refused) < 9
    await desk.append(1, records(1, 1))


async def test_a_bug_is_told_to_all_and_stops_nobody(desk, monkeypatch):
    monkeypatch.setattr(Service, "_commit", lambda self, jobs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await desk.append(1, records(1, 1))
    monkeypatch.undo()
    assert (await desk.append(1, records(1, 1))).acknowledged == 1


async def test_a_caller_who_leaves_disturbs_nobody(desk):
    leaving = asyncio.create_task(desk.append(1, records(1, 3)))
    staying = asyncio.create_task(desk.append(1, records(1, 2, THEIRS), peer=OTHER, writer=THEIRS))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying).acknowledged == 2
    assert (await desk.append(1, records(1, 3))).acknowledged == 3


async def test_another_key_signs_at_once_and_a_broken_folder_changes_nothing(tmp_path, caplog):
    keys: dict[str, Ed25519PrivateKey] = {"2026": KEY}

    def parse(files):
        if b"bad" in files.values():
            raise FormatError("`bad.key` is bad")
        return {name: keys[data.decode()] for name, data in files.items()}

    folder = tmp_path / "signing"
    folder.mkdir()
    (folder / "2026.key").write_text("2026")
    desk = Desk(tmp_path / "log")
    signers = KeyFolder(folder, parse)
    signers.read()
    desk.service._signers = signers
    keys["2027"] = Ed25519PrivateKey.generate()
    (folder / "2027.key").write_text("2027")
    for _ in range(3):
        desk.service._refresh(3600)
    new = LogKey(ORIGIN, keys["2027"].public_key())
    for key in (LOG_KEY, new):
        assert open_checkpoint(desk.log.note, [key], ORIGIN).size == 0
    assert f"checkpoints are signed by {LOG_KEY}, {new}" in caplog.messages
    (folder / "bad.key").write_text("bad")
    for _ in range(3):
        desk.service._refresh(0)
    assert caplog.messages[-1] == f"alarm: `{folder}`: `bad.key` is bad: the keys that signed go on"
    assert desk.count("alarms_total") == 1
    assert open_checkpoint(desk.log.note, [new], ORIGIN).size == 0
    await desk.close()
