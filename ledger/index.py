"""What is where in the log: a table beside it, for questions; made again whenever it is missing or of another log.

Rules: the log is the truth, and what is here may be behind it. With each change the root of what is covered is written
too, and a table whose root the log does not have is thrown away.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    delete,
    event,
    func,
    insert,
    select,
)
from sqlalchemy.exc import DBAPIError

from ledger.log import Log, LogError

_META: Final = MetaData()
_RECORDS: Final = Table(
    "records",
    _META,
    Column("entry", Integer, primary_key=True),
    Column("writer", String, nullable=False),
    Column("number", Integer, nullable=False),
    Column("kind", String, nullable=False),
    Column("time", String, nullable=False),
    Column("decision_id", String, nullable=False),
    Column("session", String, nullable=False),
    Column("agent", String, nullable=False),
    Column("tool", String, nullable=False),
    Column("effect", String, nullable=False),
    Index("by_writer", "writer", "number", unique=True),
    Index("by_decision", "decision_id"),
    Index("by_session", "session"),
)
_COVERED: Final = Table("covered", _META, Column("size", Integer, nullable=False), Column("root", LargeBinary))
_TEXTS: Final = ("kind", "time", "decision_id", "session", "agent", "tool", "effect")
_CHUNK: Final = 4096


class IndexFault(Exception):  # noqa: N818
    """The table cannot be read or written: one sentence. The log is not concerned."""


class LogIndex:
    """The table of one log; one thread at a time."""

    def __init__(self, path: Path, log: Log) -> None:
        """Open the table at `path`, or make it, and catch up with `log`; raises `IndexFault`."""
        self._path, self._log = path, log
        try:
            self._engine = self._open()
            self.size = self._covered()
        except DBAPIError:
            self._begin_again()
        self.catch_up()

    def catch_up(self) -> None:
        """Read what the log has and the table has not; raises `IndexFault`."""
        try:
            while self.size < self._log.size:
                self._add(self._log.read(self.size, min(self._log.size, self.size + _CHUNK)))
        except (DBAPIError, LogError) as error:
            raise _fault(error) from None

    def last_numbers(self) -> dict[str, int]:
        """The last number of each writer."""
        query = select(_RECORDS.c.writer, func.max(_RECORDS.c.number)).group_by(_RECORDS.c.writer)
        try:
            with self._engine.connect() as connection:
                return {str(writer): int(number) for writer, number in connection.execute(query)}
        except DBAPIError as error:
            raise _fault(error) from None

    def entry_of(self, writer: str, number: int) -> int | None:
        """Which entry is record `number` of `writer`; None where the table knows of none."""
        query = select(_RECORDS.c.entry).where(_RECORDS.c.writer == writer, _RECORDS.c.number == number)
        try:
            with self._engine.connect() as connection:
                found = connection.execute(query).scalar()
        except DBAPIError as error:
            raise _fault(error) from None
        return None if found is None else int(found)

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    def _add(self, entries: list[bytes]) -> None:
        rows: list[dict[str, Any]] = []
        for entry, data in enumerate(entries, self.size):
            record = json.loads(data)
            row = {"entry": entry, "writer": record["writer"], "number": record["number"]}
            rows.append(row | {name: text if isinstance(text := record.get(name), str) else "" for name in _TEXTS})
        covered = self.size + len(rows)
        with self._engine.begin() as connection:
            connection.execute(insert(_RECORDS), rows)
            self._cover(connection, covered)
        self.size = covered

    def _cover(self, connection: Connection, size: int) -> None:
        connection.execute(delete(_COVERED))
        connection.execute(insert(_COVERED).values(size=size, root=self._log.root_at(size)))

    def _covered(self) -> int:
        """How much of the log the table covers; nothing, in a new table, if it is of another log."""
        with self._engine.connect() as connection:
            size, root = connection.execute(select(_COVERED.c.size, _COVERED.c.root)).first() or (0, b"")
            count = connection.execute(select(func.count()).select_from(_RECORDS)).scalar()
        if count == size == 0 or (count == size <= self._log.size and self._log.root_at(size) == root):
            return int(size)
        self._engine.dispose()
        self._begin_again()
        return 0

    def _begin_again(self) -> None:
        try:
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            self._engine = self._open()
        except (DBAPIError, OSError) as error:
            raise _fault(error) from None
        self.size = 0

    def _open(self) -> Engine:
        engine = create_engine(f"sqlite:///{self._path}")

        @event.listens_for(engine, "connect")
        def _connected(connection: Any, _: object) -> None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")

        try:
            _META.create_all(engine)
        except DBAPIError:
            engine.dispose()
            raise
        return engine


def _fault(error: Exception) -> IndexFault:
    text = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    return IndexFault(f"the index beside the log cannot be used: {text[:1].lower()}{text[1:]}")
