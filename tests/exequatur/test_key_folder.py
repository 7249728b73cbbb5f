"""Keys change while we run; nothing half-written is believed, and what was good stays until something else is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from exequatur.key_folder import FILE_BYTES, FILES, KeyFolder
from exequatur.trust.errors import FormatError, TrustError
from mounted import Mounted


def parse(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Keys for this test: any bytes but none, and nothing that says that it is bad."""
    if not files:
        raise FormatError("the folder is empty")
    for name, data in files.items():
        if data.startswith(b"bad"):
            raise FormatError(f"`{name}` is bad")
    return dict(files)


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "a").write_bytes(b"one")
    return folder


@pytest.fixture
def keys(path):
    keys = KeyFolder(path, parse)
    assert keys.read() == {"a": b"one"}
    assert not settle(keys)
    return keys


def settle(keys: KeyFolder) -> list[str]:
    """Look until nothing happens any more; gives what happened."""
    seen = [keys.look() for _ in range(4)]
    return [look.fault or "changed" for look in seen if look.changed or look.fault]


def test_a_mounted_volume_changes_at_once_and_is_followed(tmp_path):
    volume = Mounted(tmp_path / "keys")
    volume.put({"a": b"one", "b": b"two"})
    keys = KeyFolder(volume.folder, parse)
    assert keys.read() == {"a": b"one", "b": b"two"}
    assert not settle(keys)
    volume.put({"a": b"one", "c": b"three"}, before_swap=lambda: settle(keys) and pytest.fail("nothing is swapped yet"))
    assert settle(keys) == ["changed"]
    assert keys.keys == {"a": b"one", "c": b"three"}
    volume.put({"a": b"ONE"})  # the same length, in the same instant
    assert settle(keys) == ["changed"]
    assert keys.keys == {"a": b"ONE"}


def test_a_volume_swapped_while_it_is_read_is_never_a_mixture(tmp_path):
    volume = Mounted(tmp_path / "keys")
    volume.put({"a": b"old", "b": b"old"})
    swaps = iter((b"new", b"newer"))

    def parse_pure(files):
        assert len(set(files.values())) == 1, files
        return dict(files)

    keys = KeyFolder(volume.folder, parse_pure)
    keys.read()
    settle(keys)
    volume.put(dict.fromkeys("ab", b"next"))
    original = os.path.realpath

    def realpath(name, *, strict=False):
        found = original(name, strict=strict)
        if Path(name).name == "a" and (data := next(swaps, None)):
            volume.put(dict.fromkeys("ab", data))  # a was found before the swap, b will be after it
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os.path, "realpath", realpath)
        changes = [what for _ in range(3) for what in settle(keys)]
    assert changes == ["changed"]
    assert keys.keys == {"a": b"newer", "b": b"newer"}


def test_a_file_and_a_folder_renamed_into_place_are_followed(path, keys, tmp_path):
    (tmp_path / "fresh").write_bytes(b"two")
    (tmp_path / "fresh").replace(path / "a")
    assert settle(keys) == ["changed"]
    (tmp_path / "v2").mkdir()
    (tmp_path / "v2" / "z").write_bytes(b"three")
    path.rename(tmp_path / "v1")
    assert settle(keys) == ["it cannot be read: no such file or directory"]
    (tmp_path / "v2").rename(path)
    assert settle(keys) == ["changed"]
    assert keys.keys == {"z": b"three"}


def test_one_file_is_a_folder_of_one(tmp_path):
    (tmp_path / "log.vkey").write_bytes(b"one")
    keys = KeyFolder(tmp_path / "log.vkey", parse)
    assert keys.read() == {"log.vkey": b"one"}
    assert not settle(keys)
    (tmp_path / "log.vkey").write_bytes(b"two")
    assert settle(keys) == ["changed"]
    assert keys.keys == {"log.vkey": b"two"}


def test_what_is_half_written_is_neither_believed_nor_called_broken(path, keys):
    for part in (b"bad", b"bad half", b"bad half a key"):
        (path / "b").write_bytes(part)
        look = keys.look()
        assert (look.keys, look.changed, look.fault) == ({"a": b"one"}, False, "")
    (path / "b").write_bytes(b"whole")
    assert not keys.look().changed  # it may be followed by more
    (path / "c").write_bytes(b"more")
    assert not keys.look().changed
    assert keys.look().keys == {"a": b"one", "b": b"whole", "c": b"more"}


def test_the_last_good_stays_and_a_fault_is_said_once(path, keys):
    (path / "a").write_bytes(b"bad")
    assert settle(keys) == ["`a` is bad"]
    assert not settle(keys)
    assert keys.keys == {"a": b"one"}
    assert keys.fault == "`a` is bad"
    (path / "a").unlink()
    assert settle(keys) == ["the folder is empty"]
    assert keys.keys == {"a": b"one"}
    (path / "a").write_bytes(b"one")
    assert not settle(keys)  # what it was before: nobody has to verify again
    assert keys.fault == ""
    (path / "a").write_bytes(b"bad")
    assert settle(keys) == ["`a` is bad"]


def test_a_folder_that_loses_its_policy_trusts_nobody_anew(path, keys):
    """Without `keys.json` each key is enough, the revoked ones too: a file that is gone must not say so."""
    (path / "keys.json").write_bytes(b"{}")
    assert settle(keys) == ["changed"]
    held = dict(keys.keys)
    (path / "keys.json").unlink()
    (text,) = settle(keys)
    assert text.startswith("`keys.json` is gone: without it each key alone would be enough")
    assert keys.keys == held
    (path / "keys.json").write_bytes(b"{ }")
    assert settle(keys) == ["changed"]
    assert (keys.keys["keys.json"], keys.fault) == (b"{ }", "")


def test_nothing_is_read_while_nothing_moves(path, keys, monkeypatch):
    monkeypatch.setattr("exequatur.key_folder._content", lambda *_: pytest.fail("a file was read"))
    for _ in range(5):
        assert not keys.look().changed


def test_a_file_touched_or_written_again_is_no_change(path, keys):
    before = keys.keys
    os.utime(path / "a", (0, 0))
    (path / ".hidden").write_bytes(b"bad")
    assert not settle(keys)
    assert keys.keys is before


def test_a_folder_that_never_stands_still_is_told_of(path, keys):
    said = []
    for turn in range(30):
        (path / "a").write_bytes(b"x" * (turn + 1))
        look = keys.look()
        assert not look.changed
        said += [look.fault] if look.fault else []
    assert said == ["it never stands still long enough to be read"]
    assert settle(keys) == ["changed"]
    assert keys.fault == ""


def test_what_is_written_in_the_instant_of_the_start_is_not_missed(path, monkeypatch):
    monkeypatch.setattr("exequatur.key_folder._mark", lambda _: ())  # no clock of a disk is fine enough
    keys = KeyFolder(path, parse)
    keys.read()
    (path / "a").write_bytes(b"two")
    assert settle(keys) == ["changed"]


def hostile(path: Path, kind: str) -> None:
    match kind:
        case "pipe":
            os.mkfifo(path / "b")
        case "device":
            (path / "b").symlink_to("/dev/zero")
        case "link out":
            (path.parent / "outside").write_bytes(b"theirs")
            (path / "b").symlink_to("../outside")
        case "broken link":
            (path / "b").symlink_to("nowhere")
        case "loop":
            (path / "b").symlink_to("b")
        case "folder":
            (path / "b").mkdir()
        case "huge":
            with (path / "b").open("wb") as file:
                file.truncate(2**40)
        case "many":
            for n in range(FILES + 1):
                (path / f"k{n}").touch()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("pipe", "`b`: it cannot be read: it is no regular file"),
        ("device", "`b` is a link that leaves the folder"),
        ("link out", "`b` is a link that leaves the folder"),
        ("broken link", "`b`: it cannot be read: no such file"),
        ("loop", "`b`: it cannot be read: too many levels"),
        ("folder", "`b`: it cannot be read: is a directory"),
        ("huge", f"`b` has more than {FILE_BYTES} bytes"),
        ("many", f"more than {FILES} files"),
    ],
)
def test_what_is_no_file_of_a_key_is_refused_and_bounded(path, keys, kind, words):
    hostile(path, kind)
    (fault,) = settle(keys)
    assert words in fault
    assert keys.keys == {"a": b"one"}
    with pytest.raises(TrustError, match=words.replace("`", ".")):
        KeyFolder(path, parse).read()


def test_the_start_raises(tmp_path):
    with pytest.raises(FormatError, match="it cannot be read: no such file"):
        KeyFolder(tmp_path / "nowhere", parse).look()
    with pytest.raises(FormatError, match="the folder is empty"):
        KeyFolder(tmp_path, parse).read()
