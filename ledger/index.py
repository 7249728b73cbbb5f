"""Where each writer's records are in the log: a table beside it, made again whenever it is not right.

Rules: the log is the truth, and what is here may be behind it. With each change the root of what is covered is written
too, and for each writer a sum of its rows. A table that is damaged, whose root the log does not have or whose rows do
not give their sums is thrown away.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from exequatur.disk import reason
from ledger.log import Log, LogError

log = logging.getLogger(__name__)

_MAKE: Final = """
PRAGMA journal_mode=WAL;
PRAGMA synchronous=NORMAL;
CREATE TABLE IF NOT EXISTS records (
  writer TEXT NOT NULL, number INTEGER NOT NULL, entry INTEGER NOT NULL, PRIMARY KEY (writer, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS writers (
  writer TEXT PRIMARY KEY, count INTEGER NOT NULL, last INTEGER NOT NULL, sum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS covered (size INTEGER NOT NULL, root BLOB NOT NULL);
"""
_INSERT: Final = "INSERT INTO records (writer, number, entry) VALUES (?, ?, ?)"
_COUNT: Final = """
INSERT INTO writers (writer, count, last, sum) VALUES (?, 1, ?, ?) ON CONFLICT (writer)
DO UPDATE SET count = count + 1, last = max(last, excluded.last), sum = sum + excluded.sum
"""
_PRIME: Final = 2**32 - 5
"""A row adds its number times one more than its entry to its writer's sum, modulo this."""
_SUMS: Final = f"""
SELECT writer, count(*), max(number), sum((entry + 1) * number % {_PRIME}) FROM records
WHERE typeof(number) = 'integer' AND typeof(entry) = 'integer' GROUP BY writer ORDER BY writer
"""  # noqa: S608  no value
_CHUNK: Final = 4096

T = TypeVar("T")


class IndexFault(Exception):  # noqa: N818
    """The table cannot be read or written: one sentence. The log is not concerned."""


class LogIndex:
    """The table of one log; one thread at a time."""

    def __init__(self, path: Path, book: Log) -> None:
        """Open the table at `path`, or make it, and catch up with `book`; raises `IndexFault`."""
        self._path, self._log = path, book
        self._connection: sqlite3.Connection | None = None
        self.size = 0
        try:
            wrong = self._wrong()
        except sqlite3.Error as error:
            wrong = str(error)
        self._surely(lambda: self._begin_again(wrong) if wrong else None)
        self.catch_up()

    def catch_up(self) -> None:
        """Read what the log has and the table has not; raises `IndexFault`."""
        self._surely(self._read_on)

    def last_numbers(self) -> dict[str, int]:
        """The last number of each writer."""
        return dict(self._surely(lambda: self._open().execute("SELECT writer, last FROM writers").fetchall()))

    def entry_of(self, writer: str, number: int) -> int | None:
        """Which entry is record `number` of `writer`; None where the table knows of none."""
        query = "SELECT entry FROM records WHERE writer = ? AND number = ?"
        found = self._surely(lambda: self._open().execute(query, (writer, number)).fetchall())
        return int(found[0][0]) if found else None

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _surely(self, work: Callable[[], T]) -> T:
        """Do `work`; where the table turns out to be damaged, make it again and do it once more."""
        try:
            try:
                return work()
            except sqlite3.OperationalError:  # the disk, or another process: the table may be right
                raise
            except sqlite3.DatabaseError as error:
                self._begin_again(str(error))
                self._read_on()
                return work()
        except (sqlite3.Error, LogError, OSError) as error:
            text = reason(error) if isinstance(error, OSError) else str(error)
            text = text if text[:2].isupper() else f"{text[:1].lower()}{text[1:]}"
            raise IndexFault(f"the index beside the log, `{self._path}`, cannot be used: {text}") from None

    def _read_on(self) -> None:
        while self.size < self._log.size:
            self._add(self._log.read(self.size, min(self._log.size, self.size + _CHUNK)))

    def _add(self, entries: list[bytes]) -> None:
        rows: list[tuple[str, int, int]] = []
        for entry, data in enumerate(entries, self.size):
            record = json.loads(data)
            rows.append((record["writer"], record["number"], entry))
        covered = self.size + len(rows)
        root = self._log.root_at(covered)
        with self._open() as connection:
            connection.executemany(_INSERT, rows)
            connection.executemany(
                _COUNT, ((name, number, (entry + 1) * number % _PRIME) for name, number, entry in rows)
            )
            connection.execute("DELETE FROM covered")
            connection.execute("INSERT INTO covered (size, root) VALUES (?, ?)", (covered, root))
        self.size = covered

    def _wrong(self) -> str:
        """Look at all of the table: why it must not be used, or nothing, and then how much of the log it covers."""
        connection = self._open()
        [(said,)] = connection.execute("PRAGMA quick_check(1)").fetchall()
        if said != "ok":
            return str(said)
        covered = connection.execute("SELECT size, root FROM covered").fetchall() or [(0, self._log.root_at(0))]
        sums = connection.execute(_SUMS).fetchall()
        if sums != connection.execute("SELECT writer, count, last, sum FROM writers ORDER BY writer").fetchall():
            return "its rows are not those that were written"
        size = sum(count for _, count, _, _ in sums)
        if size > self._log.size or covered != [(size, self._log.root_at(size))]:
            return "it is not of this log"
        with connection:  # what cannot be written to is no use either
            connection.execute("UPDATE covered SET size = size")
        self.size = size
        return ""

    def _begin_again(self, why: str) -> None:
        log.warning("the index beside the log, `%s`, is made again: %s", self._path, why)
        self.close()
        self.size = 0
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(self._path, check_same_thread=False)
            try:
                connection.executescript(_MAKE)
            except sqlite3.Error:
                connection.close()
                raise
            self._connection = connection
        return self._connection
