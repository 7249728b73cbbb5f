"""The index says what the log says, or it is made again."""

from __future__ import annotations

import os
import random
import sqlite3
import tempfile
from pathlib import Path

import pytest

from ledger.index import IndexFault, LogIndex
from logs import NOW, WRITER, make_log, open_log, records

NOBODY = 65534
OTHER = "spiffe://example.org/sidecar#2"


@pytest.fixture
def log(tmp_path):
    log = open_log(tmp_path / "log")
    log.append([*records(1, 300), *records(1, 5, OTHER), *records(301, 3)], NOW)
    yield log
    log.close()


def right(index: LogIndex, log) -> None:
    assert index.size == log.size == 308
    assert index.last_numbers() == {WRITER: 303, OTHER: 5}
    assert [index.entry_of(WRITER, number) for number in (1, 300, 301, 304)] == [0, 299, 305, None]
    assert index.entry_of(OTHER, 5) == 304


def test_it_follows_the_log(tmp_path, log):
    index = LogIndex(tmp_path / "index.db", log)
    right(index, log)
    log.append(records(6, 700, OTHER), NOW)
    index.catch_up()
    assert index.last_numbers()[OTHER] == 705
    index.close()
    index = LogIndex(tmp_path / "index.db", log)
    assert index.entry_of(OTHER, 705) == 1007
    index.close()


@pytest.mark.parametrize("how", ["deleted", "garbage", "cut", "emptied", "short", "of another log"])
def test_a_table_that_is_not_of_this_log_is_made_again(tmp_path, log, how):
    path = tmp_path / "index.db"
    LogIndex(path, log).close()
    if how == "deleted":
        path.unlink()
    elif how == "garbage":
        path.write_bytes(b"no database at all" * 1000)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif how == "of another log":
        path.unlink()
        other = open_log(tmp_path / "other")
        other.append(records(1, 308, effect="deny"), NOW)
        LogIndex(path, other).close()
        other.close()
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("DELETE FROM records" + (" WHERE entry = 300" if how == "short" else ""))
        connection.close()
    index = LogIndex(path, log)
    right(index, log)
    index.close()


def test_a_table_that_is_ahead_of_a_restored_log_is_made_again(tmp_path, log):
    path = tmp_path / "index.db"
    LogIndex(path, log).close()
    restored = open_log(make_log(tmp_path / "restored", 200))
    index = LogIndex(path, restored)
    assert index.last_numbers() == {WRITER: 200}
    index.close()
    restored.close()


def changed(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as connection:
        assert connection.execute(statement).rowcount == 1
    connection.close()


CHANGES = {
    "a changed number": "UPDATE records SET number = number + 1000000 WHERE entry = 7",
    "a text as a number": "UPDATE records SET number = 'zz' WHERE entry = 7",
    "a text as an entry": "UPDATE records SET entry = 'zz' WHERE entry = 0",
    "another entry": "UPDATE records SET entry = 8 WHERE entry = 7",
    "another writer": f"UPDATE records SET writer = '{OTHER}' WHERE entry = 7",
    "another last number": "UPDATE writers SET last = 304 WHERE last = 303",
    "a text as a last number": "UPDATE writers SET last = 'zz' WHERE last = 303",
    "a text as a size": "UPDATE covered SET size = 'zz'",
}


@pytest.mark.parametrize("how", CHANGES)
def test_a_table_whose_rows_were_changed_is_made_again_and_said_once(tmp_path, log, caplog, how):
    path = tmp_path / "index.db"
    LogIndex(path, log).close()
    changed(path, CHANGES[how])
    assert not caplog.messages
    index = LogIndex(path, log)
    right(index, log)
    index.close()
    (said,) = caplog.messages
    assert said.startswith(f"the index beside the log, `{path}`, is made again: ")
    LogIndex(path, log).close()
    assert caplog.messages == [said]


def test_two_entries_that_changed_places_are_found(tmp_path, log):
    path = tmp_path / "index.db"
    LogIndex(path, log).close()
    for was, now in ((0, -1), (299, 0), (-1, 299)):
        changed(path, f"UPDATE records SET entry = {now} WHERE entry = {was}")
    index = LogIndex(path, log)
    right(index, log)
    index.close()


def test_no_flipped_bit_is_believed(tmp_path, log):
    path = tmp_path / "index.db"
    LogIndex(path, log).close()
    whole, drawn = path.read_bytes(), random.Random(5)
    for number in range(150):
        data = bytearray(whole)
        at = drawn.randrange(100 if number % 3 == 0 else len(data))
        data[at] ^= 1 << drawn.randrange(8)
        path.write_bytes(data)
        index = LogIndex(path, log)
        right(index, log)
        index.close()


def test_a_table_that_is_damaged_while_it_is_used_is_made_again(tmp_path, log, caplog):
    path = tmp_path / "index.db"
    index = LogIndex(path, log)
    changed(path, "UPDATE records SET number = 304 WHERE number = 303")  # so that the next record has no place
    log.append(records(304, 1), NOW)
    index.catch_up()
    assert index.last_numbers() == {WRITER: 304, OTHER: 5}
    assert [index.entry_of(WRITER, number) for number in (303, 304)] == [307, 308]
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "UNIQUE constraint failed: records.writer, records.number"
    ]
    index.close()


def test_a_log_of_which_no_table_can_be_made_is_said_after_one_more_time(tmp_path, log, caplog):
    index = LogIndex(tmp_path / "index.db", log)
    log.append(records(303, 1), NOW)
    with pytest.raises(IndexFault, match="cannot be used: UNIQUE constraint failed"):
        index.catch_up()
    assert len(caplog.messages) == 1
    index.close()


@pytest.mark.parametrize("how", ["a changed number", "nothing"])
def test_a_table_in_a_folder_that_cannot_be_written_is_said(log, how):
    with tempfile.TemporaryDirectory(prefix="ex-") as folder:
        path = Path(folder) / "index.db"
        if how != "nothing":
            LogIndex(path, log).close()
            changed(path, CHANGES[how])
            path.chmod(0o444)
        path.parent.chmod(0o555)
        root = os.geteuid() == 0
        try:
            if root:
                os.seteuid(NOBODY)
            with pytest.raises(IndexFault) as caught:
                LogIndex(path, log)
        finally:
            if root:
                os.seteuid(0)
            path.parent.chmod(0o755)
    text = str(caught.value)
    assert text.startswith(f"the index beside the log, `{path}`, cannot be used: ")
    assert "\n" not in text


def test_a_table_that_cannot_be_written_is_said(tmp_path, log):
    (tmp_path / "index.db").mkdir()
    with pytest.raises(IndexFault, match="the index beside the log"):
        LogIndex(tmp_path / "index.db", log)


def test_odd_members_of_a_record_do_no_harm(tmp_path):
    log = open_log(tmp_path / "log")
    log.append(records(1, 1, tool=7, agent=None, session=["x"], time="'; DROP TABLE records; --"), NOW)
    index = LogIndex(tmp_path / "index.db", log)
    assert index.entry_of(WRITER, 1) == 0
    index.close()
    log.close()
