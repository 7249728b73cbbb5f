"""What the log acknowledged is there after anything; what it signed never changes; what is damaged is not opened."""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import random
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from disks import Crash, Failing, PowerCut
from exequatur.disk import Disk
from exequatur.trust.merkle import EMPTY_ROOT, leaf_hash, root, verify_consistency
from exequatur.trust.note import open_checkpoint
from exequatur.verifier import verify
from folders import quick
from ledger.log import Log, LogError
from logs import KEY, LOG_KEY, NOW, ORIGIN, VERIFIER_KEY, make_log, open_log, records

STEPS = (3, 1, 255, 2, 20)
"""Appends that begin, widen, fill and skip partial tiles."""

MORE = 260
"""What is appended after all: over the edge of the tile, wherever it begins, and over what lies past the checkpoint."""

ALL = records(1, 1000)


@pytest.fixture
def tmp_path():
    """A folder in memory: a thousand logs are written, none of which has to outlive its test."""
    with quick() as folder:
        yield folder


def grow(folder: Path, disk: Disk, sizes: list[int]) -> None:
    """Append `STEPS`, each again until it is taken; `sizes` gets each size that was acknowledged."""
    with contextlib.closing(open_log(folder, disk)) as log:
        for step in STEPS:
            for _ in range(2):
                before = log.size
                with contextlib.suppress(LogError):
                    log.append(ALL[before : before + step], NOW)
                    break
                if log.size > before:  # in the log, but not known to last: the next checkpoint says so
                    log.checkpoint(NOW)
                    break
            if log.lasting:
                sizes.append(log.size)


def calls_of_growth(tmp_path) -> Failing:
    disk = Failing()
    grow(tmp_path / "count", disk, [])
    return disk


def signed_size(folder: Path) -> int:
    return open_checkpoint((folder / "checkpoint").read_text(), [LOG_KEY], ORIGIN).size


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 1000])
def test_checkpoint_and_tiles_are_those_of_the_standard(tmp_path, size):
    folder = make_log(tmp_path / "log", size, 100)
    entries = records(1, size)
    lines = (folder / "checkpoint").read_text().split("\n")
    wanted = root([leaf_hash(entry) for entry in entries]) if size else EMPTY_ROOT
    assert lines[:4] == [ORIGIN, str(size), base64.b64encode(wanted).decode(), "time 2026-01-05T10:00:00Z"]
    names = {path.relative_to(folder).as_posix() for path in (folder / "tile").rglob("*") if path.is_file()}
    full, width = divmod(size, 256)
    wanted_names = {f"tile/{kind}/{n:03}" for kind in (0, "entries") for n in range(full)}
    wanted_names |= {f"tile/{kind}/{full:03}.p/{width}" for kind in (0, "entries") if width}
    wanted_names |= {f"tile/1/000.p/{full}"} if full else set()
    assert names == wanted_names
    log = open_log(folder)
    assert log.read(0, size) == entries
    assert log.read(size // 3, size // 2) == entries[size // 3 : size // 2]
    log.close()


def test_every_consistency_proof_is_good(tmp_path):
    log = open_log(tmp_path)
    log.append(records(1, 700), NOW)
    now = log.root_at(700)
    for old in (1, 2, 3, 100, 255, 256, 257, 511, 512, 513, 699, 700):
        proof = log.prove_consistency(old)
        verify_consistency(old=old, new=700, old_root=log.root_at(old), new_root=now, proof=proof)
    assert log.prove_consistency(0) == []


def test_log_stays_whole_when_any_call_fails(tmp_path):
    for nth in range(len(calls_of_growth(tmp_path).calls)):
        folder, sizes, number = tmp_path / str(nth), [], (errno.EIO, errno.ENOSPC)[nth % 2]
        disk = Failing(nth, OSError(number, os.strerror(number)))
        try:
            grow(folder, disk, sizes)
        except LogError as error:  # the very first checkpoint failed
            text = str(error)
            assert os.strerror(number).lower() in text
            continue
        assert sizes[-1] == sum(STEPS), (nth, disk.calls[nth])
        report = verify(folder, VERIFIER_KEY)
        assert report.ok, (nth, disk.calls[nth], report.fault)
        log = open_log(folder)
        assert log.read(0, log.size) == ALL[: sum(STEPS)]
        log.close()


def test_a_disk_that_stays_broken_loses_nothing_and_gets_well(tmp_path):
    calls = calls_of_growth(tmp_path).calls
    for nth in range(8, len(calls)):
        folder, sizes = tmp_path / str(nth), [0]
        with contextlib.suppress(LogError):
            grow(folder, Failing(nth, for_good=True), sizes)
        report = verify(folder, VERIFIER_KEY)
        assert report.ok, (nth, calls[nth], report.fault)
        assert report.size >= sizes[-1]
        log = open_log(folder)
        log.append(ALL[log.size : log.size + MORE], NOW)
        log.close()
        assert verify(folder, VERIFIER_KEY).ok


@pytest.mark.parametrize("power", [False, True])
def test_a_crash_at_any_call_loses_nothing_acknowledged(tmp_path, power):
    for nth in range(len(calls_of_growth(tmp_path).calls) - 1):
        folder, sizes = tmp_path / f"{nth}", [0]
        disk = PowerCut(nth)
        with pytest.raises(Crash):
            grow(folder, disk, sizes)
        for seed in range(3 if power else 1):
            left = tmp_path / f"{nth}-{seed}"
            if power:
                left.mkdir()
                disk.left(folder, left, random.Random(seed))
            else:
                shutil.copytree(folder, left)
            try:
                log = open_log(left)
            except LogError as error:
                # Power that goes before the first checkpoint lasts may leave anything: nothing was acknowledged.
                assert sizes == [0], (nth, seed, disk.calls[nth], error)  # noqa: PT017
                continue
            assert log.size >= sizes[-1], (nth, seed, disk.calls[nth])
            assert log.read(0, log.size) == ALL[: log.size]
            log.append(ALL[log.size : log.size + MORE], NOW)
            log.close()
            report = verify(left, VERIFIER_KEY)
            assert report.ok, (nth, seed, disk.calls[nth], report.fault)


class Watching(Failing):
    """Holds each checkpoint that is in place against the others of its size."""

    def __init__(self, nth: int) -> None:
        super().__init__(nth)
        self.roots: dict[int, str] = {}

    def sync_folder(self, path: Path) -> None:
        if (path / "checkpoint").exists():
            lines = (path / "checkpoint").read_text().split("\n")
            assert self.roots.setdefault(int(lines[1]), lines[2]) == lines[2]
        super().sync_folder(path)


def test_no_size_is_ever_signed_with_two_roots(tmp_path):
    for nth in range(8, len(calls_of_growth(tmp_path).calls) - 1):
        log = open_log(tmp_path / str(nth), disk := Watching(nth))
        for step in (*STEPS, 240):  # past the second full tile
            for _ in range(2):
                with contextlib.suppress(LogError):
                    first = records(log.size + 1, 1, effect=str(len(disk.calls)))  # another one each time
                    log.append(first + ALL[log.size + 1 : log.size + step], NOW)
                    break
        log.close()
        assert len(disk.roots) > len(STEPS)
        assert verify(tmp_path / str(nth), VERIFIER_KEY).ok


def test_what_may_not_last_is_not_called_lasting(tmp_path):
    log = open_log(tmp_path, disk := Failing())
    kept = []
    for after in range(18):
        before = log.size
        disk.nth = len(disk.calls) + after
        with contextlib.suppress(LogError):
            log.append(ALL[before : before + 1], NOW)
        failed, disk.nth = disk.nth < len(disk.calls), None
        if failed and log.size > before:
            kept.append(after)
            assert not log.lasting or disk.calls[-1] == "remove"  # all but the tidying must succeed
        log.checkpoint(NOW)
        assert log.lasting
        assert signed_size(tmp_path) == log.size
    assert len(kept) > 3
    log.close()


def test_what_lies_past_the_checkpoint_is_written_over(tmp_path):
    folder = make_log(tmp_path / "log", 250)
    before = (folder / "checkpoint").read_bytes()
    log = open_log(folder)
    log.append(records(251, 300, effect="deny"), NOW)
    log.close()
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy/checkpoint").write_bytes(before)
    with pytest.raises(LogError, match=r"000\.p/250"):  # the partial tiles of that size are gone: this is no crash
        open_log(tmp_path / "copy")
    for kind in ("0", "entries"):
        source = make_log(tmp_path / f"again-{kind}", 250) / f"tile/{kind}/000.p"
        shutil.copytree(source, tmp_path / f"copy/tile/{kind}/000.p")
    log = open_log(tmp_path / "copy")
    log.append(records(251, 300), NOW)
    log.close()
    assert verify(tmp_path / "copy", VERIFIER_KEY).ok


def test_a_log_with_any_damage_is_not_opened(tmp_path):
    folder = make_log(tmp_path / "log", 600)
    rng = random.Random(5)
    for path in [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]:
        good = path.read_bytes()
        for _ in range(6):
            at = rng.randrange(len(good))
            path.write_bytes(good[:at] + bytes([good[at] ^ rng.randrange(1, 256)]) + good[at + 1 :])
            with pytest.raises(LogError, match="checkpoint"):
                open_log(folder)
        path.write_bytes(good[:-1])
        with pytest.raises(LogError):
            open_log(folder)
        path.unlink()
        with pytest.raises(LogError):
            open_log(folder)
        path.write_bytes(good)
    open_log(folder).close()


def test_an_edge_that_was_rewritten_with_its_hashes_is_not_opened(tmp_path):
    folder = make_log(tmp_path / "log", 100)
    other = open_log(tmp_path / "other")
    other.append(records(1, 100, effect="deny"), NOW)
    other.close()
    shutil.rmtree(folder / "tile")
    shutil.copytree(tmp_path / "other/tile", folder / "tile")
    with pytest.raises(LogError, match="signs another root than the tiles give"):
        open_log(folder)


def test_another_key_another_origin_and_a_second_process_are_refused(tmp_path):
    log = open_log(tmp_path)
    with pytest.raises(LogError, match="in use by another process"):
        open_log(tmp_path)
    log.close()
    with pytest.raises(LogError, match="no known key has signed"):
        open_log(tmp_path, keys=[Ed25519PrivateKey.generate()])
    with pytest.raises(LogError, match="checkpoint"):
        Log.open(tmp_path, origin="example.org/other", keys=(KEY,), now=NOW)


def test_only_one_partial_tile_a_level_stays(tmp_path):
    folder = make_log(tmp_path / "log", 777, 7)
    partial = list(folder.rglob("*.p/*"))
    assert len(partial) == 3
    assert len(list(folder.rglob("*.p"))) == 3


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    log = open_log(tmp_path, disk := Failing(failure=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    log.append(records(1, 10), NOW)
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    for nth in range(12):  # no further than the tiles
        disk.nth = len(disk.calls) + nth
        with pytest.raises(LogError, match="no space left on device"):
            log.append(records(11, 900), NOW)
        assert (log.size, log.lasting) == (10, True)
        after = sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".new")
        assert after == before
    disk.nth = None
    log.append(records(11, 900), NOW)
    assert log.lasting
