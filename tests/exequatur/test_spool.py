"""What a spool took is there after anything; what it refused is not; what is damaged is never passed over."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from disks import Crash, Failing, PowerCut
from exequatur.disk import Disk
from exequatur.spool import Spool, SpoolError, UnwritableError

ME = "spiffe://example.org/pdp"


def record(n: int) -> dict:
    return {"kind": "decision", "decision_id": str(n), "text": "é" * (n % 40)}


def ids(spool: Spool, first: int = 1) -> list[str]:
    return [json.loads(data)["decision_id"] for data in spool.read(first, 10_000, 2**30)]


def grow(folder, disk: Disk, taken: list[str], doing: list[list[str]] | None = None, batches: int = 12) -> None:
    """Append batches of 1 to 3, over several files, acknowledging on the way; `taken` gets what was taken."""
    with_name = iter(range(1000))
    spool = Spool.open(folder, identity=ME, disk=disk, segment_bytes=600)
    for batch in range(batches):
        names = [str(next(with_name)) for _ in range(1 + batch % 3)]
        if doing is not None:
            doing.append(names)
        try:
            spool.append_many([record(int(name)) for name in names])
        except SpoolError:
            continue
        taken += names
        assert ids(spool, spool.acknowledged + 1) == taken[spool.acknowledged :]
        if batch == 5:
            spool.acknowledge(spool.last // 2)
    spool.close()


def calls_of_growth(tmp_path) -> int:
    disk = Failing()
    grow(tmp_path / "count", disk, [])
    return len(disk.calls)


def test_numbers_have_no_gap_over_files_and_reopening(tmp_path):
    taken: list[str] = []
    grow(tmp_path / "a", Disk(), taken)
    spool = Spool.open(tmp_path / "a", identity=ME)
    assert spool.writer.startswith(ME + "#")
    assert spool.last == len(taken) == 24
    assert 0 < spool.acknowledged < 24
    assert ids(spool, spool.acknowledged + 1) == taken[spool.acknowledged :]
    assert [json.loads(data)["number"] for data in spool.read(10, 5)] == [10, 11, 12, 13, 14]
    assert all(json.loads(data)["writer"] == spool.writer for data in spool.read(10, 5))
    assert spool.append_many([record(0)]) == 25


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_spool_stays_whole_when_any_call_fails(tmp_path, number):
    for nth in range(calls_of_growth(tmp_path)):
        folder, taken, said = tmp_path / f"{number}-{nth}", [], []
        disk = Failing(nth, OSError(number, os.strerror(number)))
        try:
            grow(folder, disk, taken)
        except SpoolError as error:  # it may not even open; that is said in one line
            said.append(str(error))
        assert all(text.endswith(os.strerror(number).lower()) for text in said)
        again = Spool.open(folder, identity=ME)
        assert ids(again, again.acknowledged + 1) == taken[again.acknowledged :], (nth, disk.calls[nth])
        assert again.last == len(taken)
        again.append_many([record(999)])
        assert ids(again)[-1] == "999"
        again.close()


def test_one_failed_call_costs_at_most_one_batch(tmp_path):
    for nth in range(4, calls_of_growth(tmp_path)):
        taken: list[str] = []
        try:
            grow(tmp_path / str(nth), Failing(nth), taken)
        except SpoolError:  # while opening
            continue
        assert len(taken) >= 24 - 3


def test_a_disk_that_stays_broken_takes_nothing_and_loses_nothing(tmp_path):
    for nth in range(calls_of_growth(tmp_path)):
        taken: list[str] = []
        disk = Failing(nth, for_good=True)
        try:
            grow(tmp_path / str(nth), disk, taken)
        except SpoolError:
            pass
        except OSError:  # closing
            assert disk.calls[-1] == "close"
        if not (tmp_path / str(nth) / "spool.json").exists():
            assert not taken
            continue
        again = Spool.open(tmp_path / str(nth), identity=ME)
        # A write that failed and could not be cut off either may be found again; nothing that was taken is lost.
        assert ids(again, again.acknowledged + 1)[: len(taken) - again.acknowledged] == taken[again.acknowledged :]
        again.close()


def test_a_failed_sync_is_never_tried_again_on_the_same_file(tmp_path):
    class Watching(Failing):
        failed: int | None = None
        after: list[int]

        def sync(self, fd: int) -> None:
            if self.failed is not None:
                self.after.append(os.fstat(fd).st_ino)
            try:
                super().sync(fd)
            except OSError:
                self.failed = os.fstat(fd).st_ino
                raise

    disk = Watching()
    disk.after = []
    spool = Spool.open(tmp_path / "s", identity=ME, disk=disk)
    spool.append_many([record(1)])
    disk.nth = len(disk.calls) + 1  # write, then sync
    with pytest.raises(SpoolError, match="cannot be written: input/output error"):
        spool.append_many([record(2)])
    assert spool.append_many([record(3)]) == 2
    assert disk.failed is not None
    assert disk.after
    assert disk.failed not in disk.after
    assert ids(spool) == ["1", "3"]
    spool.close()
    assert ids(Spool.open(tmp_path / "s", identity=ME)) == ["1", "3"]


def test_a_full_disk_is_said_and_gets_well_by_itself(tmp_path):
    disk = Failing(failure=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    spool = Spool.open(tmp_path, identity=ME, disk=disk)
    spool.append_many([record(1)])
    size = sum(path.stat().st_size for path in tmp_path.glob("*.seg"))
    disk.nth, disk.for_good = len(disk.calls), True
    for _ in range(3):
        with pytest.raises(SpoolError, match="no space left on device"):
            spool.append_many([record(2), record(3)])
    disk.nth = None
    spool._disk = Disk()
    assert spool.append_many([record(4)]) == 2
    assert ids(spool) == ["1", "4"]
    assert len(list(tmp_path.glob("*.seg"))) <= 2
    assert size < sum(path.stat().st_size for path in tmp_path.glob("*.seg")) < 3 * size


@pytest.mark.parametrize("power", [False, True])
def test_a_crash_at_any_call_loses_nothing_that_was_taken(tmp_path, power):
    for nth in range(calls_of_growth(tmp_path)):
        folder, taken, doing = tmp_path / f"{nth}", [], []
        disk = PowerCut(nth)
        with pytest.raises(Crash):
            grow(folder, disk, taken, doing)
        for seed in range(6 if power else 1):
            left = tmp_path / f"{nth}-{seed}"
            if power:
                left.mkdir()
                disk.left(folder, left, random.Random(seed))
            else:
                shutil.copytree(folder, left)
            if not (left / "spool.json").exists():
                assert not taken
                continue
            again = Spool.open(left, identity=ME)
            found = ids(again, again.acknowledged + 1)
            in_flight = doing[-1] if doing and doing[-1][0] not in taken else []
            wanted = taken[again.acknowledged :]
            assert found in (wanted, wanted + in_flight), (nth, seed, disk.calls[nth])
            assert again.append_many([record(999)]) == again.acknowledged + len(found) + 1
            again.close()


WRITER = """
import itertools, sys
from pathlib import Path
from exequatur.spool import Spool
spool = Spool.open(Path(sys.argv[1]), identity="spiffe://example.org/pdp", segment_bytes=4000)
for n in itertools.count():
    last = spool.append_many([{"kind": "decision", "decision_id": "x" * (n % 50)}] * (1 + n % 4))
    sys.stdout.write(f"{last}\\n")
    sys.stdout.flush()
"""


def test_kill_9_in_the_middle_of_appends_loses_nothing_acknowledged(tmp_path):
    rng = random.Random(1)
    for _ in range(6):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(rng.randint(1, 400)):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            *_, promised = process.stdout.read().split() or [b"0"]
        spool = Spool.open(tmp_path, identity=ME)
        assert spool.last >= int(promised)
        assert [json.loads(data)["number"] for data in spool.read(1, 10**6, 2**30)] == list(range(1, spool.last + 1))
        spool.close()


def whole(tmp_path):
    """A spool of three groups in one file; gives the file."""
    spool = Spool.open(tmp_path, identity=ME)
    for n in range(3):
        spool.append_many([record(2 * n), record(2 * n + 1)])
    spool.close()
    return next(tmp_path.glob("*.seg"))


def test_a_torn_tail_is_cut_at_every_byte(tmp_path):
    path = whole(tmp_path)
    good = path.read_bytes()
    last = good.rindex(b"\xffgrp")
    for cut in range(last, len(good)):
        path.write_bytes(good[:cut])
        spool = Spool.open(tmp_path, identity=ME)
        assert ids(spool) == ["0", "1", "2", "3"]
        assert spool.append_many([record(9)]) == 5
        assert ids(spool)[-1] == "9"
        spool.close()
    path.write_bytes(good + b"\0" * 300)
    spool = Spool.open(tmp_path, identity=ME)
    assert spool.last == 6
    spool.close()


def test_damage_before_the_tail_is_an_error_at_every_byte(tmp_path):
    path = whole(tmp_path)
    good = path.read_bytes()
    last = good.rindex(b"\xffgrp")
    for at in range(last):
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x41]) + good[at + 1 :])
        with pytest.raises(SpoolError, match="is damaged at byte"):
            Spool.open(tmp_path, identity=ME)
    path.write_bytes(good)
    Spool.open(tmp_path, identity=ME).close()


def test_damage_under_a_running_spool_is_never_read_as_records(tmp_path):
    path = whole(tmp_path)
    spool = Spool.open(tmp_path, identity=ME)
    good = path.read_bytes()
    path.write_bytes(good[:60] + b"#" + good[61:])
    with pytest.raises(SpoolError, match="record 1 is not as it was written"):
        spool.read(1, 10)


def test_a_missing_file_is_an_error(tmp_path):
    grow(tmp_path, Disk(), [])
    paths = sorted(tmp_path.glob("*.seg"))
    assert len(paths) > 2
    content = paths[1].read_bytes()
    paths[1].unlink()
    with pytest.raises(SpoolError, match="is not as it was written"):
        Spool.open(tmp_path, identity=ME)
    paths[1].write_bytes(content)
    paths[-1].unlink()
    (tmp_path / "acknowledged").write_text("24\n")
    with pytest.raises(SpoolError, match="a file is lost"):
        Spool.open(tmp_path, identity=ME)


def test_a_folder_has_one_process_and_one_identity(tmp_path):
    spool = Spool.open(tmp_path, identity=ME)
    with pytest.raises(SpoolError, match="in use by another process"):
        Spool.open(tmp_path, identity=ME)
    spool.append_many([record(1)])
    spool.close()
    with pytest.raises(SpoolError, match="a folder of its own"):
        Spool.open(tmp_path, identity="spiffe://example.org/other")
    writer = spool.writer
    spool = Spool.open(tmp_path, identity=ME)
    assert spool.writer == writer
    spool.close()
    (tmp_path / "spool.json").unlink()
    with pytest.raises(SpoolError, match="whose records these are"):
        Spool.open(tmp_path, identity=ME)


def test_numbers_are_not_given_out_twice_when_all_is_acknowledged_and_the_note_is_lost(tmp_path):
    grow(tmp_path, Disk(), [])
    spool = Spool.open(tmp_path, identity=ME)
    spool.acknowledge(24)
    spool.close()
    (tmp_path / "acknowledged").unlink()
    spool = Spool.open(tmp_path, identity=ME)
    assert spool.last == 24
    with pytest.raises(SpoolError, match="never written"):
        spool.acknowledge(25)


async def test_concurrent_appends_share_syncs_and_keep_their_numbers(tmp_path):
    disk = Failing()
    spool = Spool.open(tmp_path, identity=ME, disk=disk)
    numbers = await asyncio.gather(*(spool.append(record(n)) for n in range(200)))
    assert sorted(numbers) == list(range(1, 201))
    assert disk.calls.count("sync") < 20
    assert [ids(spool)[number - 1] for number in numbers] == [str(n) for n in range(200)]


async def test_a_record_that_is_none_fails_alone(tmp_path):
    spool = Spool.open(tmp_path, identity=ME)
    bad = {"kind": "decision", "decision_id": "\ud800"}
    answers = await asyncio.gather(
        *(spool.append(bad if n == 3 else record(n)) for n in range(7)), return_exceptions=True
    )
    assert isinstance(answers[3], UnwritableError)
    assert [answer for n, answer in enumerate(answers) if n != 3] == [1, 2, 3, 4, 5, 6]


async def test_all_who_share_a_failed_sync_are_told(tmp_path):
    disk = Failing()
    spool = Spool.open(tmp_path, identity=ME, disk=disk)
    disk.nth, disk.for_good = len(disk.calls), True
    answers = await asyncio.gather(*(spool.append(record(n)) for n in range(5)), return_exceptions=True)
    assert all(isinstance(answer, SpoolError) for answer in answers)
    assert spool.last == 0


async def test_whoever_waits_is_woken_by_another_thread(tmp_path):
    spool = Spool.open(tmp_path, identity=ME)
    waiting = [asyncio.create_task(spool.wait_for(n)) for n in (1, 2)]
    await asyncio.sleep(0)
    thread = threading.Thread(target=spool.append_many, args=([record(1), record(2)],))
    thread.start()
    await asyncio.wait_for(asyncio.gather(*waiting), 30)
    await spool.wait_for(2)
    thread.join()
    waiting = [asyncio.create_task(spool.wait_for(3))]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert spool._waiters == []
    spool.close()
    with pytest.raises(SpoolError, match="is closed"):
        spool.append_many([record(3)])


def test_reading_is_bounded_in_records_and_bytes(tmp_path):
    spool = Spool.open(tmp_path, identity=ME)
    spool.append_many([{"kind": "x", "pad": "p" * 1000} for _ in range(20)])
    assert len(spool.read(1, 7)) == 7
    assert len(spool.read(1, 100, 5000)) == 4
    assert len(spool.read(1, 100, 10)) == 1
    assert len(spool.read(15, 100)) == 6
    assert spool.read(21, 100) == []
