"""Any byte that is not what was signed is found, and it is said where it is."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exequatur import verifier
from exequatur.record import encode
from exequatur.trust.merkle import leaf_hash, root
from exequatur.trust.note import Checkpoint, sign_checkpoint
from exequatur.verifier import Trusted, broken, verify
from ledger.tiles import pack_bundle
from logs import KEY, LOG_KEY, NOW, ORIGIN, VERIFIER_KEY, make_log, open_log, records

LARGE = 256 * 256 + 256 * 3 + 7
"""A size whose tree has three levels, and a right edge on each."""


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """A log with a full tile above a full tile."""
    return make_log(tmp_path_factory.mktemp("large") / "log", LARGE, 20_000)


def flipped(path: Path, at: int, by: int):
    """Flip bits of one byte while the context lasts."""

    class Flip:
        def __enter__(self) -> None:
            self.good = path.read_bytes()
            path.write_bytes(self.good[:at] + bytes([self.good[at] ^ by]) + self.good[at + 1 :])

        def __exit__(self, *_: object) -> None:
            path.write_bytes(self.good)

    return Flip()


def expected(folder: Path, path: Path, at: int) -> str:
    """Where a flipped byte must be found: a pattern for the report."""
    name = path.relative_to(folder).as_posix()
    if name == "checkpoint":
        return "checkpoint"
    if not name.startswith("tile/entries"):
        return f"{name} hash {at // 32}"
    data, start, entry = path.read_bytes(), 0, 0
    while (end := start + 2 + int.from_bytes(data[start : start + 2], "big")) <= at:
        start, entry = end, entry + 1
    number = re.sub(r"\.p/\d+$", "", name.removeprefix("tile/entries/")).replace("x", "").replace("/", "")
    return f"entry {int(number) * 256 + entry} in {name}"


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in ("lock", "index.db"))


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 511, 600, 1024])
def test_a_good_log_of_any_size_is_good(tmp_path, size):
    report = verify(make_log(tmp_path / "log", size, 97), VERIFIER_KEY)
    assert report.ok, report.fault
    assert (report.origin, report.size, report.time) == (ORIGIN, size, "2026-01-05T10:00:00Z")
    assert sum(report.writers.values()) == size


@pytest.mark.parametrize("stride", [601, pytest.param(97, marks=pytest.mark.conformance)])
def test_every_byte_of_a_small_log_is_guarded_and_located(tmp_path, stride):
    folder = make_log(tmp_path / "log", 300)
    rng = random.Random(7)
    for path in files(folder):
        size = path.stat().st_size
        step = 1 if path.name == "checkpoint" else stride if size >= 3000 else max(1, stride // 100)
        for at in range(rng.randrange(step), size, step):
            where = expected(folder, path, at)
            with flipped(path, at, rng.randrange(1, 256)):
                fault = verify(folder, VERIFIER_KEY).fault
            assert fault is not None, (path, at)
            assert fault.where == where, (path, at, fault)


def test_flipped_bytes_of_a_large_log_are_located(large):
    rng = random.Random(3)
    upper = [path for path in files(large) if "tile/1" in str(path) or "tile/2" in str(path)]
    edges = [path for path in files(large) if ".p/" in str(path)]
    assert len(upper) == 3
    assert len(edges) == 4
    leaves, entries = (
        rng.choice([path for path in files(large) if kind in str(path)]) for kind in ("tile/0/", "tile/entries/")
    )
    for path in [*upper, *edges, leaves, entries]:
        at = rng.randrange(path.stat().st_size)
        where = expected(large, path, at)
        with flipped(path, at, rng.randrange(1, 256)):
            fault = verify(large, VERIFIER_KEY).fault
        assert fault is not None
        assert fault.where == where, (path, at, fault)


def test_a_large_log_is_good_and_read_piece_by_piece(large):
    told: list[tuple[int, int]] = []
    report = verify(large, VERIFIER_KEY, progress=lambda done, total: told.append((done, total)))
    assert report.ok, report.fault
    assert report.size == LARGE
    assert told[-1] == (LARGE, LARGE)
    assert len(told) > 200


def test_memory_does_not_grow_with_the_log(large):
    program = (
        "import resource, sys; from pathlib import Path; from exequatur.verifier import verify\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert verify(Path(sys.argv[1]), sys.argv[2]).ok\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(large), VERIFIER_KEY], capture_output=True, text=True, check=True
    )
    total = sum(path.stat().st_size for path in files(large))
    assert int(done.stdout) * 1024 < total / 2


def test_an_auditor_can_run_a_copy_of_it_without_the_rest_of_us(tmp_path):
    folder = make_log(tmp_path / "log", 300)
    shutil.copytree(Path(verifier.__file__).parent, tmp_path / "apart" / "checking")
    program = (
        "import sys; from pathlib import Path; from checking import verify\n"
        "assert verify(Path(sys.argv[1]), sys.argv[2]).size == 300\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('exequatur', 'ledger')]"
    )
    argv = [sys.executable, "-c", program, str(folder), VERIFIER_KEY]
    done = subprocess.run(argv, cwd=tmp_path / "apart", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_missing_files_bytes_too_many_and_too_few_are_located(tmp_path):
    folder = make_log(tmp_path / "log", 300)
    for path in files(folder):
        good = path.read_bytes()
        name = path.relative_to(folder).as_posix()
        for bad in (None, b"", good[:-1], good + b"\0", good + b"\n", good + good):
            path.unlink() if bad is None else path.write_bytes(bad)
            fault = verify(folder, VERIFIER_KEY).fault
            assert fault is not None, (name, bad)
            assert name in fault.where, (name, bad, fault)
            path.write_bytes(good)
    assert verify(folder, VERIFIER_KEY).ok


def test_entries_that_change_places_or_go_are_found(tmp_path):
    folder = make_log(tmp_path / "log", 300)
    bundle = folder / "tile/entries/000"
    entries = records(1, 256)
    for bad, entry in (
        ([*entries[:5], entries[6], entries[5], *entries[7:]], 5),
        ([*entries[:9], *entries[10:]], 9),
        ([*entries[:3], entries[3], *entries[3:]], 4),
    ):
        bundle.write_bytes(pack_bundle(bad))
        fault = verify(folder, VERIFIER_KEY).fault
        assert fault is not None
        assert fault.where == f"entry {entry} in tile/entries/000"


def test_an_entry_rewritten_with_its_hash_is_found_by_the_hash_above(large):
    bundle, tile = large / "tile/entries/007", large / "tile/0/007"
    good = bundle.read_bytes(), tile.read_bytes()
    entries = records(7 * 256 + 1, 256)
    entries[9] = records(7 * 256 + 10, 1, effect="deny")[0]
    bundle.write_bytes(pack_bundle(entries))
    tile.write_bytes(b"".join(leaf_hash(entry) for entry in entries))
    fault = verify(large, VERIFIER_KEY).fault
    bundle.write_bytes(good[0])
    tile.write_bytes(good[1])
    assert fault is not None
    assert fault.where == "tile/0/007"


def test_another_key_or_another_log_is_refused(tmp_path):
    folder = make_log(tmp_path / "log", 3)
    other = type(LOG_KEY)(ORIGIN, Ed25519PrivateKey.generate().public_key())
    fault = verify(folder, str(other)).fault
    assert fault is not None
    assert fault.where == "checkpoint"
    elsewhere = type(LOG_KEY)("example.org/other", KEY.public_key())
    assert not verify(folder, str(elsewhere)).ok
    for bad in ("", "a+b+c", VERIFIER_KEY[:-3], VERIFIER_KEY.replace("audit", "audti")):
        with pytest.raises(ValueError, match="verifier key"):
            verify(folder, bad)


def test_a_log_that_was_cut_or_rewritten_is_found_by_a_checkpoint_that_was_kept(tmp_path):
    folder = make_log(tmp_path / "log", 300)
    shutil.copytree(folder, tmp_path / "before")
    log = open_log(folder)
    log.append(records(301, 300), NOW)
    kept = log.note
    log.close()
    earlier = (tmp_path / "before/checkpoint").read_text()
    assert verify(folder, VERIFIER_KEY, known=kept).ok
    assert verify(folder, VERIFIER_KEY, known=earlier).ok
    cut = verify(tmp_path / "before", VERIFIER_KEY, known=kept).fault
    assert cut is not None
    assert "its end was cut off" in cut.text
    again = open_log(tmp_path / "rewritten")  # by somebody who has the ledger's key
    again.append([*records(1, 200), *records(201, 500, effect="deny")], NOW)
    again.close()
    assert verify(tmp_path / "rewritten", VERIFIER_KEY).ok
    rewritten = verify(tmp_path / "rewritten", VERIFIER_KEY, known=kept).fault
    assert rewritten is not None
    assert "it was rewritten" in rewritten.text
    forged = verify(folder, VERIFIER_KEY, known=kept.replace("600", "601")).fault
    assert forged is not None
    assert forged.where == "the known checkpoint"


def test_several_keys_and_until_when_each_was_good(tmp_path):
    new = Ed25519PrivateKey.generate()
    new_key = str(type(LOG_KEY)(ORIGIN, new.public_key()))
    folder = make_log(tmp_path / "log", 5)
    kept = (folder / "checkpoint").read_text()
    old, fresh = Trusted(VERIFIER_KEY, "2026"), Trusted(new_key, "2027")
    ended = replace(old, not_after=NOW)

    def why(keys, **more) -> str:
        fault = verify(folder, keys, **more).fault
        return "" if fault is None else f"{fault.where} {fault.text}"

    assert not why([old, fresh])
    assert not why([ended, fresh], now=NOW - timedelta(seconds=1))
    assert why([ended, fresh], now=NOW) == (
        "checkpoint is signed by the key `2026`, which was good until 2026-01-05T10:00:00Z"
    )
    assert why([replace(old, revoked=True), fresh]) == "checkpoint is signed by the key `2026`, which is revoked"
    log = open_log(folder, keys=[KEY, new])
    log.append(records(6, 5), NOW)
    both = log.note
    log.close()
    for keys in ([old], [fresh], [ended, fresh], [replace(old, revoked=True), fresh]):
        assert not why(keys, now=NOW)
    open_log(folder, keys=[new]).close()
    assert why([old]) == "checkpoint bears no good signature of `example.org/audit`"
    # What was kept may be signed by a key that is over by now, and not by one that is revoked.
    assert not why([ended, fresh], known=kept, now=NOW)
    assert not why([fresh], known=both)
    assert why([replace(old, revoked=True), fresh], known=kept).startswith("the known checkpoint is signed by the key")
    for wrong in ([], [old, Trusted(str(type(LOG_KEY)("other", new.public_key())))]):
        with pytest.raises(ValueError, match="of one log"):
            verify(folder, wrong)


def signed_by_a_careless_ledger(folder: Path, entries: list[bytes]) -> Path:
    log = open_log(folder)
    log.append(entries, NOW)
    log.close()
    return folder


@pytest.mark.parametrize(
    ("entries", "where", "why"),
    [
        ([*records(1, 2), *records(4, 1)], "entry 2", "is number 4 of"),
        ([*records(1, 2), *records(2, 1)], "entry 2", "whose last one was 2"),
        (records(0, 1), "entry 0", "is number 0"),
        ([b"{}"], "entry 0", "version 1"),
        ([b"\xff"], "entry 0", "not JSON"),
        ([b"[" * 5000], "entry 0", "not JSON"),
        ([b'{"a":NaN,"kind":"x","number":1,"v":1,"writer":"w"}'], "entry 0", "not JSON"),
        ([b'{"kind":"x","number":1,"v":true,"writer":"w"}'], "entry 0", "version 1"),
        ([b'{"kind":"x","number":1,"v":1.0,"writer":"w"}'], "entry 0", "version 1"),
        ([b'{"kind":"x","number":true,"v":1,"writer":"w"}'], "entry 0", "no writer and number"),
        ([b'{"v":1}'], "entry 0", "no writer and number"),
        ([b'{"kind":"x","number":1, "v":1,"writer":"w"}'], "entry 0", "in two ways"),
        ([b'{"kind":"x","number":1,"v":1,"writer":"w"} '], "entry 0", "in two ways"),
        ([b'{"a":1.5,"kind":"x","number":1,"v":1,"writer":"w"}{}'], "entry 0", "in two ways"),
        ([b'{"kind":"x","kind":"y","number":1,"v":1,"writer":"w"}'], "entry 0", "in two ways"),
        ([b'{"a":1.5,"kind":"x","kind":"y","number":1,"v":1,"writer":"w"}'], "entry 0", "in two ways"),
    ],
)
def test_what_a_careless_ledger_signed_is_found(tmp_path, entries, where, why):
    fault = verify(signed_by_a_careless_ledger(tmp_path / "log", entries), VERIFIER_KEY).fault
    assert fault is not None
    assert fault.where.startswith(where + " in tile/entries/")
    assert why in fault.text


def test_records_with_fractions_and_rare_letters_are_canonical(tmp_path):
    odd = {"kind": "x", "a": 1e-7, "b": 0.5, "\ufb01": 1, "\U0001f600": 2, "é": "\u2028"}
    entries = [encode(odd, writer="w#1", number=1)]
    report = verify(signed_by_a_careless_ledger(tmp_path / "log", entries), VERIFIER_KEY)
    assert report.ok, report.fault


def test_a_log_that_grows_under_the_reader_is_read(tmp_path, monkeypatch):
    folder = make_log(tmp_path / "log", 300)
    read, left = broken.read, [700, 20]

    def grows(path: Path, where: str) -> bytes:
        data = read(path, where)
        if where == "checkpoint" and left:
            log = open_log(folder)
            log.append(records(log.size + 1, left.pop()), NOW)
            log.close()
        return data

    monkeypatch.setattr(verifier, "read", grows)
    report = verify(folder, VERIFIER_KEY)
    assert report.ok, report.fault
    assert report.size == 1020
    assert left == []


def test_a_note_is_read_in_one_spelling_alone(tmp_path):
    folder = make_log(tmp_path / "log", 3)
    path = folder / "checkpoint"
    note = path.read_text()
    signature = note.rstrip("\n").rpartition(" ")[2]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    sloppy = signature[:-2] + alphabet[alphabet.index(signature[-2]) ^ 1] + "="
    witness = "\u2014 witness.example.org " + signature
    for bad in (
        note.replace(signature, sloppy),
        note.replace(signature, signature + "\n"),
        note.replace("\n", "\r\n"),
        note.rstrip("\n"),
        "\n" + note,
        note.replace("\u2014", "-"),
    ):
        path.write_text(bad, newline="")
        assert not verify(folder, VERIFIER_KEY).ok
    path.write_text(f"{note}{witness}\n")  # another's signature beside it is the format's own way
    assert verify(folder, VERIFIER_KEY).ok
    for size in ("03", "-3", "3.0", " 3"):
        text = sign_checkpoint(Checkpoint(ORIGIN, 3, root([leaf_hash(e) for e in records(1, 3)])), ORIGIN, KEY)
        assert not verify_text(path, folder, text.replace("\n3\n", f"\n{size}\n")).ok


def verify_text(path: Path, folder: Path, text: str):
    path.write_text(text)
    return verify(folder, VERIFIER_KEY)
