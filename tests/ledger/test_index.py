"""The index says what the log says, or it is made again."""

from __future__ import annotations

import sqlite3

import pytest

from ledger.index import IndexFault, LogIndex
from logs import NOW, WRITER, make_log, open_log, records

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
