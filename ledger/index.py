"""What is where in the log: a table beside it, for questions; made again whenever it is missing or behind.

Rules: the log is the truth, this is a convenience; nothing here is synced, and nothing here is trusted to be complete
until `catch_up` has read the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Column, Index, Integer, MetaData, String, Table, create_engine, event, func, insert, select
from sqlalchemy.exc import DatabaseError

from exequatur.record import decode
from ledger.log import Log

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
_MEMBERS: Final = ("writer", "number", "kind", "time", "decision_id", "session", "agent", "tool", "effect")
_CHUNK: Final = 4096


class LogIndex:
    """The table of one log."""

    def __init__(self, path: Path) -> None:
        """Open the table at `path`; one that is no database is made anew."""
        self._path = path
        self._engine = self._open()
        try:
            with self._engine.connect() as connection:
                connection.execute(select(func.count()).select_from(_RECORDS))
        except DatabaseError:
            self._engine.dispose()
            self._remove()
            self._engine = self._open()
        self.size = self._size()

    def catch_up(self, log: Log) -> None:
        """Read what the log has and the table has not; a table that knows more than the log is made anew."""
        if self.size > log.size:
            self._engine.dispose()
            self._remove()
            self._engine = self._open()
            self.size = 0
        while self.size < log.size:
            self.add(log.read(self.size, min(log.size, self.size + _CHUNK)))

    def add(self, entries: Iterable[bytes]) -> None:
        """Add the next entries of the log."""
        rows: list[dict[str, Any]] = []
        for entry in entries:
            record = decode(entry)
            rows.append({"entry": self.size + len(rows), **{name: record.get(name, "") for name in _MEMBERS}})
        if rows:
            with self._engine.begin() as connection:
                connection.execute(insert(_RECORDS), rows)
            self.size += len(rows)

    def last_numbers(self) -> dict[str, int]:
        """The last number of each writer."""
        query = select(_RECORDS.c.writer, func.max(_RECORDS.c.number)).group_by(_RECORDS.c.writer)
        with self._engine.connect() as connection:
            return {str(writer): int(number) for writer, number in connection.execute(query)}

    def entry_of(self, writer: str, number: int) -> int | None:
        """Which entry is record `number` of `writer`."""
        query = select(_RECORDS.c.entry).where(_RECORDS.c.writer == writer, _RECORDS.c.number == number)
        with self._engine.connect() as connection:
            found = connection.execute(query).scalar()
        return None if found is None else int(found)

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    def _open(self) -> Any:
        engine = create_engine(f"sqlite:///{self._path}")

        @event.listens_for(engine, "connect")
        def _connected(connection: Any, _: object) -> None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=OFF")

        try:
            _META.create_all(engine)
        except DatabaseError:
            engine.dispose()
            self._remove()
            _META.create_all(engine)
        return engine

    def _size(self) -> int:
        with self._engine.connect() as connection:
            return int(connection.execute(select(func.coalesce(func.max(_RECORDS.c.entry) + 1, 0))).scalar() or 0)

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
