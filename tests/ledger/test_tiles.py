"""Names and bundles are the standard's; a reader of a growing log sees each entry once, or an error."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.tiles import ENTRIES, Reader, TileError, pack_bundle, tile_name, unpack_bundle
from logs import NOW, make_log, open_log, records


@pytest.mark.parametrize(
    ("kind", "number", "width", "name"),
    [
        (0, 0, 256, "tile/0/000"),
        (1, 999, 3, "tile/1/999.p/3"),
        (2, 1000, 256, "tile/2/x001/000"),
        (ENTRIES, 1234067, 7, "tile/entries/x001/x234/067.p/7"),
    ],
)
def test_names_are_those_of_the_standard(kind, number, width, name):
    assert str(tile_name(kind, number, width)) == name


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_a_bundle_is_read_as_it_was_written_or_refused(entries):
    data = pack_bundle(entries)
    assert unpack_bundle(data, len(entries)) == entries
    assert unpack_bundle(data, len(entries) // 2, exact=False) == entries[: len(entries) // 2]
    with pytest.raises(ValueError, match="left over"):
        unpack_bundle(data + b"\0", len(entries))
    with pytest.raises(ValueError, match="cut short"):
        unpack_bundle(data, len(entries) + 1)
    if data:
        with pytest.raises(ValueError, match="cut short"):
            unpack_bundle(data[:-1], len(entries))


def test_reading_needs_no_key_and_no_lock(tmp_path):
    folder = make_log(tmp_path / "log", 600)
    log = open_log(folder)
    reader = Reader(folder)
    assert reader.size() == 600
    assert reader.read(0, 600) == records(1, 600)
    assert reader.read(250, 515) == records(251, 265)
    assert reader.read(600, 600) == []
    with pytest.raises(TileError, match="only 600 entries"):
        reader.read(500, 601)
    log.close()


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(TileError, match="no such file"):
        Reader(tmp_path).size()
    (tmp_path / "checkpoint").write_text("nothing")
    with pytest.raises(TileError, match="is no checkpoint"):
        Reader(tmp_path).size()
    folder = make_log(tmp_path / "log", 300)
    (folder / "tile/entries/000").write_bytes(b"\xff")
    with pytest.raises(TileError, match="is damaged"):
        Reader(folder).read(0, 10)
    (folder / "tile/entries/000").unlink()
    with pytest.raises(TileError, match="no such file"):
        Reader(folder).read(0, 10)


def test_a_log_is_read_while_it_grows(tmp_path):
    log = open_log(tmp_path)
    log.append(records(1, 1), NOW)
    all_of_them = records(1, 300)

    def grow() -> None:
        for number in range(1, 300):
            log.append(all_of_them[number : number + 1], NOW)

    thread = threading.Thread(target=grow)
    thread.start()
    reader, seen = Reader(tmp_path), []
    while len(seen) < 300:
        size = reader.size()
        seen += reader.read(len(seen), size)
    thread.join()
    assert seen == all_of_them
    log.close()
