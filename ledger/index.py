"""What is where in the log: a table beside it, for questions; made again whenever it is missing or of another log.

Rules: the log is the truth, and what is here may be behind it. With each change the root of what is covered is written
too, and a table whose root the log does not have is thrown away.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Final

from ledger.log import Log, LogError

_COLUMNS: Final = ("entry", "writer", "number", "kind", "time", "decision_id", "session", "agent", "tool", "effect")
_TEXTS: Final = _COLUMNS[3:]
_MAKE: Final = """
PRAGMA journal_mode=WAL;
PRAGMA synchronous=NORMAL;
CREATE TABLE IF NOT EXISTS records (
  entry INTEGER PRIMARY KEY, writer TEXT NOT NULL, number INTEGER NOT NULL, kind TEXT NOT NULL, time TEXT NOT NULL,
  decision_id TEXT NOT NULL, session TEXT NOT NULL, agent TEXT NOT NULL, tool TEXT NOT NULL, effect TEXT NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS by_writer ON records (writer, number);
CREATE INDEX IF NOT EXISTS by_decision ON records (decision_id);
CREATE INDEX IF NOT EXISTS by_session ON records (session);
CREATE TABLE IF NOT EXISTS covered (size INTEGER NOT NULL, root BLOB);
"""
_INSERT: Final = f"INSERT INTO records ({', '.join(_COLUMNS)}) VALUES (:{', :'.join(_COLUMNS)})"  # noqa: S608  no value
_CHUNK: Final = 4096


class IndexFault(Exception):  # noqa: N818
    """The table cannot be read or written: one sentence. The log is not concerned."""


class LogIndex:
    """The table of one log; one thread at a time."""

    def __init__(self, path: Path, log: Log) -> None:
        """Open the table at `path`, or make it, and catch up with `log`; raises `IndexFault`."""
        self._path, self._log = path, log
        try:
            self._connection = self._open()
            try:
                self.size = self._covered()
            except sqlite3.Error:
                self._connection.close()
                raise
        except sqlite3.Error:
            self._begin_again()
        self.catch_up()

    def catch_up(self) -> None:
        """Read what the log has and the table has not; raises `IndexFault`."""
        try:
            while self.size < self._log.size:
                self._add(self._log.read(self.size, min(self._log.size, self.size + _CHUNK)))
        except (sqlite3.Error, LogError) as error:
            raise _fault(error) from None

    def last_numbers(self) -> dict[str, int]:
        """The last number of each writer."""
        query = "SELECT writer, max(number) FROM records GROUP BY writer"
        try:
            return {str(writer): int(number) for writer, number in self._connection.execute(query).fetchall()}
        except sqlite3.Error as error:
            raise _fault(error) from None

    def entry_of(self, writer: str, number: int) -> int | None:
        """Which entry is record `number` of `writer`; None where the table knows of none."""
        query = "SELECT entry FROM records WHERE writer = ? AND number = ?"
        try:
            found = self._connection.execute(query, (writer, number)).fetchall()
        except sqlite3.Error as error:
            raise _fault(error) from None
        return int(found[0][0]) if found else None

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _add(self, entries: list[bytes]) -> None:
        rows: list[dict[str, str | int]] = []
        for entry, data in enumerate(entries, self.size):
            record = json.loads(data)
            row = {"entry": entry, "writer": record["writer"], "number": record["number"]}
            rows.append(row | {name: text if isinstance(text := record.get(name), str) else "" for name in _TEXTS})
        covered = self.size + len(rows)
        root = self._log.root_at(covered)
        with self._connection as connection:
            connection.executemany(_INSERT, rows)
            connection.execute("DELETE FROM covered")
            connection.execute("INSERT INTO covered (size, root) VALUES (?, ?)", (covered, root))
        self.size = covered

    def _covered(self) -> int:
        """How much of the log the table covers; nothing, in a new table, if it is of another log."""
        [(size, root)] = self._connection.execute("SELECT size, root FROM covered LIMIT 1").fetchall() or [(0, b"")]
        [(count,)] = self._connection.execute("SELECT count(*) FROM records").fetchall()
        if count == size == 0 or (count == size <= self._log.size and self._log.root_at(size) == root):
            return int(size)
        self._connection.close()
        self._begin_again()
        return 0

    def _begin_again(self) -> None:
        try:
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            self._connection = self._open()
        except (sqlite3.Error, OSError) as error:
            raise _fault(error) from None
        self.size = 0

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, check_same_thread=False)
        try:
            connection.executescript(_MAKE)
        except sqlite3.Error:
            connection.close()
            raise
        return connection


def _fault(error: Exception) -> IndexFault:
    text = str(error)
    return IndexFault(f"the index beside the log cannot be used: {text[:1].lower()}{text[1:]}")
