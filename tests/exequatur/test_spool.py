"""No record that was answered for is lost, none is there twice, and nothing is half there: on a real disk."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys

import pytest

from exequatur import spool as module
from exequatur.record import decode
from exequatur.spool import Spool, SpoolError


def item(n: int) -> dict:
    return {"kind": "decision", "n": n}


def numbers(spool: Spool, first: int = 1) -> list[int]:
    return [decode(data)["number"] for data in spool.read(first, 10_000)]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "spool"


def test_what_was_appended_is_there_after_a_reopening(folder):
    spool = Spool.open(folder, identity="me")
    assert spool.append_many([item(1), item(2)]) == 2
    assert spool.append_many([item(3)]) == 3
    spool.close()
    again = Spool.open(folder, identity="me")
    assert (again.last, again.writer, numbers(again)) == (3, spool.writer, [1, 2, 3])
    assert again.append_many([item(4)]) == 4
    assert numbers(again, 3) == [3, 4]
    again.close()


def test_a_second_process_is_kept_out(folder):
    spool = Spool.open(folder, identity="me")
    with pytest.raises(SpoolError, match="in use by another process"):
        Spool.open(folder, identity="me")
    spool.close()


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_end_is_cut_off_and_its_number_used_again(folder, cut):
    spool = Spool.open(folder, identity="me")
    spool.append_many([item(1)])
    spool.append_many([item(2)])
    spool.close()
    path = next(folder.glob("*.spool"))
    os.truncate(path, path.stat().st_size - cut)
    again = Spool.open(folder, identity="me")
    assert again.append_many([item(9)]) == 2
    assert numbers(again) == [1, 2]
    again.close()


def test_damage_in_the_middle_is_named_by_file_and_byte(folder):
    spool = Spool.open(folder, identity="me")
    spool.append_many([item(1)])
    size = spool._segments[0].size
    spool.append_many([item(2)])
    spool.append_many([item(3)])
    spool.close()
    path = next(folder.glob("*.spool"))
    data = bytearray(path.read_bytes())
    data[size + 30] ^= 1
    path.write_bytes(data)
    with pytest.raises(SpoolError, match=f"damaged at byte {size}"):
        Spool.open(folder, identity="me")


@pytest.mark.parametrize("call", ["write", "fdatasync", "open", "fsync"])
@pytest.mark.parametrize("nth", range(4))
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_spool_stays_whole_when_a_system_call_fails(folder, monkeypatch, call, nth, code):
    monkeypatch.setattr(module, "SEGMENT_BYTES", 150)  # so that segments change too
    spool = Spool.open(folder, identity="me")
    real, seen = getattr(os, call), [0]

    def failing(*args):
        seen[0] += 1
        if seen[0] == nth + 1:
            if call == "write":
                real(args[0], args[1][:5])  # a short write, and then the error
            raise OSError(code, os.strerror(code), "x")
        return real(*args)

    durable = []
    monkeypatch.setattr(module.os, call, failing)
    for n in range(8):
        try:
            durable.append((spool.append_many([item(n)]), n))
        except SpoolError as error:
            assert os.strerror(code).lower() in str(error)
    monkeypatch.setattr(module.os, call, real)
    spool.close()
    again = Spool.open(folder, identity="me")
    assert [(decode(data)["number"], decode(data)["n"]) for data in again.read(1, 100)] == durable
    assert len(durable) >= 7
    again.close()


async def test_callers_that_come_together_share_a_sync_and_get_their_own_numbers(folder, monkeypatch):
    syncs = []
    real = os.fdatasync
    monkeypatch.setattr(module.os, "fdatasync", lambda fd: (syncs.append(fd), real(fd))[1])
    spool = Spool.open(folder, identity="me")
    got = await asyncio.gather(*(spool.append(item(n)) for n in range(100)))
    assert got == list(range(1, 101))
    assert len(syncs) < 10
    spool.close()


async def test_a_reader_waits_for_a_record_and_whole_segments_go_when_acknowledged(folder, monkeypatch):
    monkeypatch.setattr(module, "SEGMENT_BYTES", 150)
    spool = Spool.open(folder, identity="me")
    waiting = asyncio.create_task(spool.wait_for(3))
    await spool.append(item(1))
    assert not waiting.done()
    await asyncio.to_thread(spool.append_many, [item(2), item(3), item(4), item(5)])
    await asyncio.wait_for(waiting, 5)
    await spool.append(item(6))
    before = len(list(folder.glob("*.spool")))
    spool.acknowledge(5)
    assert len(list(folder.glob("*.spool"))) < before
    assert numbers(spool, 6) == [6]
    spool.close()
    again = Spool.open(folder, identity="me")
    assert (again.acknowledged, again.last) == (5, 6)
    again.close()


def test_a_full_spool_takes_nothing_more(folder, monkeypatch):
    monkeypatch.setattr(module, "SPOOL_BYTES", 400)
    spool = Spool.open(folder, identity="me")
    with pytest.raises(SpoolError, match="is full: 3 records wait"):
        for n in range(10):
            spool.append_many([item(n)])
    spool.close()


WRITER = """
import sys
from pathlib import Path
from exequatur.spool import Spool
spool = Spool.open(Path(sys.argv[1]), identity="me")
while True:
    print(spool.append_many([{"kind": "decision"}] * 3), flush=True)
"""


def test_kill_9_in_the_middle_loses_nothing_that_was_answered(folder):
    answered = 0
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True)
        for _ in range(20):
            answered = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split("\n")
        answered = max([answered, *(int(line) for line in rest[:-1] if line)])
        process.wait()
        process.stdout.close()
        spool = Spool.open(folder, identity="me")
        assert numbers(spool) == list(range(1, spool.last + 1))
        assert spool.last >= answered
        spool.close()
