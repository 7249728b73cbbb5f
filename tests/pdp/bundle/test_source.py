"""The highest valid sequence wins; what is wrong is said once; what is half written is given time."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from exequatur.trust.bundle import Floor, VerifiedBundle
from exequatur.trust.errors import FormatError, UnknownKeyError
from mounted import Mounted
from pdp.bundle.source import FolderSource, Look, read_keys
from publisher import KID, NOW, built, keys, make, pair, publish

FOUND_NOTHING = Look(None, ())


class Reader:
    """What the supervisor does: looks, serves what it is given, and keeps the floor."""

    def __init__(self, path, ring=None, *, unsigned=False) -> None:
        self.source = FolderSource(path)
        self.keys = None if unsigned else ring or keys()
        self.floor: Floor | None = None
        self.confirmed_at: datetime | None = None
        self.serving: VerifiedBundle | None = None

    def look(self, now=NOW, *, proves=True) -> Look:
        serving = self.serving.digest if self.serving else b""
        look = self.source.look(self.keys, now=now, floor=self.floor, serving=serving)
        self.confirmed_at, look = look.confirmed_at, replace(look, confirmed_at=None)
        if look.found is not None:
            bundle = look.found.bundle
            if not proves:
                self.source.refuse(bundle.digest)
                return look
            self.serving = bundle
            if bundle.signed:
                self.floor = Floor(bundle.sequence, bundle.digest)
        return look

    @property
    def sequence(self) -> int:
        return self.serving.sequence if self.serving else 0


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "bundles").mkdir()
    return tmp_path / "bundles"


def test_the_highest_sequence_is_served_whatever_the_files_are_called(folder):
    for name, sequence in (("z", 1), ("a", 10), ("m", 9)):
        (folder / f"{name}.tar.gz").write_bytes(publish(sequence))
    reader = Reader(folder)
    assert reader.look().found.origin == "a.tar.gz"
    assert reader.look() == FOUND_NOTHING
    (folder / "b.tar.gz").write_bytes(publish(11))
    assert reader.look().found.bundle.sequence == 11
    assert reader.look() == FOUND_NOTHING


def test_a_bundle_in_a_configmap_is_served_and_so_is_the_one_that_takes_its_place(tmp_path):
    volume = Mounted(tmp_path / "bundles")
    reader = Reader(volume.folder)
    volume.put({"policy.tar.gz": publish(1)})
    assert reader.look().found.bundle.sequence == 1
    looked = []
    volume.put({"policy.tar.gz": publish(2)}, before_swap=lambda: looked.append(reader.look()))
    assert looked == [FOUND_NOTHING]
    assert reader.look().found.bundle.sequence == 2
    volume.put({"renamed.tar.gz": publish(3)})
    assert reader.look().found.origin == "renamed.tar.gz"
    assert reader.look() == FOUND_NOTHING


def test_one_file_may_be_named(folder):
    path = folder / "mine"
    path.write_bytes(publish(1))
    reader = Reader(path)
    assert reader.look().found.data == path.read_bytes()
    path.write_bytes(publish(2))
    assert reader.look().found.bundle.sequence == 2


def test_files_that_are_no_bundles_are_left_alone(folder):
    (folder / "a.tar.gz").write_bytes(publish())
    (folder / "README.md").write_text("hello")
    (folder / ".b.tar.gz").write_bytes(b"half")
    reader = Reader(folder)
    assert reader.look().found is not None
    assert reader.look() == FOUND_NOTHING


def test_a_broken_file_is_told_once_and_changes_nothing(folder):
    (folder / "good.tar.gz").write_bytes(publish(1))
    reader = Reader(folder)
    reader.look()
    (folder / "bad.tar.gz").write_bytes(publish(2)[:-9])
    assert reader.look() == FOUND_NOTHING  # somebody may still be writing it
    look = reader.look()
    (fault,) = look.faults
    assert fault.startswith("`bad.tar.gz`: ")
    assert look.away == ()
    for _ in range(3):
        assert reader.look() == FOUND_NOTHING
    (folder / "bad.tar.gz").write_bytes(b"another way to be broken")
    assert reader.look() == FOUND_NOTHING
    assert len(reader.look().faults) == 1
    assert reader.sequence == 1


def test_a_file_that_is_still_being_written_is_no_fault(folder):
    data = publish(2)
    reader = Reader(folder)
    reader.look()
    with (folder / "slow.tar.gz").open("wb") as file:
        for start in range(0, len(data), len(data) // 5):
            file.write(data[start : start + len(data) // 5])
            file.flush()
            look = reader.look()
            assert look.faults == ()
    assert (look.found or reader.look().found).bundle.sequence == 2


def test_files_that_have_not_changed_are_not_read_again(folder, monkeypatch):
    (folder / "good.tar.gz").write_bytes(publish(1))
    (folder / "bad.tar.gz").write_bytes(b"bad")
    reader = Reader(folder)
    for _ in range(3):
        reader.look()
    monkeypatch.setattr("pdp.bundle.source.read_archive_file", lambda path: pytest.fail(f"{path} was read"))
    assert reader.look() == FOUND_NOTHING


@pytest.mark.parametrize(
    ("make_data", "why"),
    [
        (lambda: publish(9, kid="thief"), "no key `thief`"),
        (lambda: publish(9, expires_at=NOW), "expired"),
        (lambda: publish(9, tenant="acme"), "tenant `acme`"),
        (lambda: built().archive, "not signed"),
    ],
)
def test_a_high_sequence_that_does_not_verify_loses(folder, make_data, why):
    (folder / "high.tar.gz").write_bytes(make_data())
    (folder / "low.tar.gz").write_bytes(publish(1))
    reader = Reader(folder)
    assert reader.look().found.bundle.sequence == 1
    assert why in reader.look().faults[0]


def test_a_bundle_waits_for_its_time(folder):
    (folder / "a.tar.gz").write_bytes(publish(1))
    (folder / "b.tar.gz").write_bytes(publish(2, not_before=NOW + timedelta(hours=1)))
    reader = Reader(folder)
    look = reader.look()
    assert look.found.bundle.sequence == 1
    assert "not valid before" in look.faults[0]
    assert reader.look() == FOUND_NOTHING
    assert reader.look(NOW + timedelta(hours=1)).found.bundle.sequence == 2


def test_an_expired_bundle_is_told_and_nothing_older_takes_its_place(folder):
    (folder / "a.tar.gz").write_bytes(publish(1, expires_at=NOW + timedelta(days=9)))
    (folder / "b.tar.gz").write_bytes(publish(2, expires_at=NOW + timedelta(hours=1)))
    reader = Reader(folder)
    assert reader.look().found.bundle.sequence == 2
    later = NOW + timedelta(hours=2)
    look = reader.look(later)
    assert look.found is None
    assert any("expired" in fault for fault in look.faults)
    assert any("sequence 1 after 2" in fault for fault in look.faults)
    assert reader.look(later) == FOUND_NOTHING


def test_a_pipe_that_nobody_writes_freezes_nothing(folder, tmp_path):
    os.mkfifo(folder / "a.tar.gz")
    (folder / "b.tar.gz").write_bytes(publish(1))
    reader = Reader(folder)
    reader.look()
    assert "regular file" in "".join(reader.look().faults)
    assert reader.sequence == 1
    (tmp_path / "keys").mkdir()
    os.mkfifo(tmp_path / "keys" / f"{KID}.pem")
    with pytest.raises(FormatError, match="regular file"):
        read_keys(tmp_path / "keys")


def test_going_back_needs_a_new_signature(folder):
    path = folder / "a.tar.gz"
    path.write_bytes(publish(5))
    reader = Reader(folder)
    reader.look()
    path.write_bytes(publish(4))
    (fault,) = reader.look().faults
    assert "sequence 4 after 5" in fault
    path.write_bytes(publish(6))
    assert reader.look().found.bundle.sequence == 6


def test_older_bundles_may_lie_about_without_a_word(folder):
    for sequence in range(1, 5):
        (folder / f"{sequence}.tar.gz").write_bytes(publish(sequence))
    reader = Reader(folder)
    assert reader.look().found.bundle.sequence == 4
    assert reader.look() == FOUND_NOTHING
    assert Reader(folder).look().faults == ()


def test_a_sequence_that_two_bundles_claim_is_nobodys(folder):
    other = publish(3, files=dict(make(limits_json=b'{"max_steps": 7}').files))
    (folder / "a.tar.gz").write_bytes(publish(3))
    (folder / "b.tar.gz").write_bytes(other)
    (folder / "c.tar.gz").write_bytes(publish(2))
    reader = Reader(folder)
    look = reader.look()
    assert look.found.bundle.sequence == 2
    assert all("sequence 3 is there twice" in fault for fault in look.faults)
    assert len(look.faults) == 2


def test_a_second_bundle_of_the_sequence_in_force_is_refused(folder):
    (folder / "a.tar.gz").write_bytes(publish(3))
    reader = Reader(folder)
    reader.look()
    (folder / "b.tar.gz").write_bytes(publish(3, files=dict(make(limits_json=b'{"max_steps": 7}').files)))
    look = reader.look()
    assert look.found is None
    assert ["somebody signed two bundles" in fault for fault in look.faults] == [True]
    assert look.alarms == look.faults, "only who may sign can have made it"


def test_a_copy_of_the_same_bundle_is_no_quarrel(folder):
    data = publish(3)
    for name in "ab":
        (folder / f"{name}.tar.gz").write_bytes(data)
    reader = Reader(folder)
    assert reader.look().found is not None
    assert reader.look() == FOUND_NOTHING


def test_what_could_not_be_proved_is_not_tried_again_and_the_next_best_serves(folder):
    (folder / "a.tar.gz").write_bytes(publish(1))
    reader = Reader(folder)
    reader.look()
    (folder / "b.tar.gz").write_bytes(publish(2))
    assert reader.look(proves=False).found.bundle.sequence == 2
    assert reader.look() == FOUND_NOTHING
    assert reader.sequence == 1
    (folder / "c.tar.gz").write_bytes(publish(3))
    assert reader.look().found.bundle.sequence == 3


def test_a_restart_serves_what_the_floor_names(folder):
    data = publish(3)
    (folder / "a.tar.gz").write_bytes(data)
    first = Reader(folder)
    first.look()
    again = Reader(folder)
    again.floor = first.floor
    assert again.look().found.bundle.sequence == 3


def test_a_missing_folder_and_an_empty_one_are_told_once(folder, tmp_path):
    for path, why in ((tmp_path / "nowhere", "no such file"), (folder, "holds no bundle")):
        reader = Reader(path)
        look = reader.look()
        (fault,) = look.faults
        assert why in fault
        assert look.away == (fault,), "nothing was said of a bundle"
        assert reader.look() == FOUND_NOTHING
    (folder / "a.tar.gz").write_bytes(publish())
    assert reader.look().found is not None


def test_a_folder_that_comes_back_is_read_again(folder):
    (folder / "a.tar.gz").write_bytes(publish())
    reader = Reader(folder)
    reader.look()
    folder.rename(folder.with_name("away"))
    assert len(reader.look().faults) == 1
    folder.with_name("away").rename(folder)
    assert reader.look() == FOUND_NOTHING
    folder.rename(folder.with_name("away"))
    assert len(reader.look().faults) == 1


def test_unsigned_the_newest_file_wins_once_nobody_writes_it(folder):
    (folder / "new.tar.gz").write_bytes(built().archive)
    (folder / "old.tar.gz").write_bytes(make(limits_json=b'{"max_steps": 7}').archive)
    os.utime(folder / "old.tar.gz", (1, 1))
    reader = Reader(folder, unsigned=True)
    assert reader.look().found is None
    look = reader.look()
    assert look.found.origin == "new.tar.gz"
    assert not look.found.bundle.signed
    os.utime(folder / "old.tar.gz")
    reader.look()
    assert reader.look().found.origin == "old.tar.gz"


def test_keys_are_files_of_a_folder_and_a_bad_one_stops_everything(tmp_path):
    with pytest.raises(UnknownKeyError, match="empty"):
        read_keys(tmp_path)
    (tmp_path / f"{KID}.pem").write_bytes(pair(KID)[1])
    (tmp_path / ".hidden").write_text("x")
    assert list(read_keys(tmp_path).keys) == [KID]
    (tmp_path / "other.pem").write_text("x")
    with pytest.raises(FormatError, match=r"`other.pem`"):
        read_keys(tmp_path)
    (tmp_path / "other.pem").write_bytes(pair("other")[0])
    with pytest.raises(FormatError, match="private key"):
        read_keys(tmp_path)
    (tmp_path / "other.pem").unlink()
    (tmp_path / "sub").mkdir()
    with pytest.raises(FormatError, match=r"sub`: it cannot be read: is a directory"):
        read_keys(tmp_path)
    with pytest.raises(FormatError, match="no such file"):
        read_keys(tmp_path / "nowhere")


def test_other_keys_verify_what_is_there_anew(folder):
    (folder / "a.tar.gz").write_bytes(publish(1))
    (folder / "b.tar.gz").write_bytes(publish(2, kid="next"))
    reader = Reader(folder)
    assert reader.look().found.bundle.sequence == 1
    assert "no key `next`" in "".join(reader.look().faults)
    reader.keys = keys("next")
    look = reader.look()
    assert look.found.bundle.sequence == 2
    assert "no key `ops`" in "".join(look.faults)
    reader.keys = keys()
    assert "no key `next`" in "".join(reader.look().faults)


def test_a_folder_confirms_what_is_served_only_while_it_holds_a_bundle_to_be_trusted(folder):
    reader = Reader(folder)
    reader.look()
    assert reader.confirmed_at is None  # an empty folder says nothing: it may be a volume that is not mounted
    (folder / "a.tar.gz").write_bytes(publish(5))
    reader.look()
    assert reader.confirmed_at == NOW
    later = NOW + timedelta(hours=1)
    reader.look(later)
    assert reader.confirmed_at == later
    (folder / "a.tar.gz").write_bytes(publish(4))
    reader.look(later + timedelta(hours=1))
    assert reader.confirmed_at == later
    (folder / "a.tar.gz").write_bytes(publish(6))
    last = later + timedelta(hours=2)
    reader.look(last, proves=False)
    reader.look(last)
    assert reader.confirmed_at == last
