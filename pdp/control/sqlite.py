"""The store's tables in a file of the state folder: SQLite (WAL, every commit synced), for one decision point.

Rules: writers wait for a lock file, which wakes them at once and in turn; SQLite's own handler sleeps and polls.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from pdp.control import tables
from pdp.control.store import SCHEMA_VERSION, Kind, StoreError, store_errors

BUSY_MS: Final = 5000
"""How long to wait for a lock that our lock file does not guard (a backup, say), in milliseconds."""


class Sqlite:
    """A database in a folder. Opening makes what is missing and refuses a store of another version."""

    life: Final = 0
    """It loses nothing while we live."""

    def __init__(self, folder: Path) -> None:
        """Open `folder/store.sqlite`; raises `StoreError`."""
        self._mode = "BEGIN"
        self._engine = sa.create_engine(
            f"sqlite:///{folder / 'store.sqlite'}",
            poolclass=sa.pool.StaticPool,
            connect_args={"check_same_thread": False, "timeout": BUSY_MS / 1000},
            hide_parameters=True,
        )
        sa.event.listen(self._engine, "connect", _prepare)
        sa.event.listen(self._engine, "begin", self._begin)
        try:
            self._lock = os.open(folder / "store.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"`{folder}` cannot hold a store: {(error.strerror or '').lower()}") from None
        with store_errors(f"the store in `{folder}` cannot be opened, its disk may be full or failing"):
            self._connection = self._engine.connect()
        with self.transaction(Kind.ALONE) as connection, store_errors():
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if version not in (0, SCHEMA_VERSION):
                raise StoreError(f"the store in `{folder}` has version {version}, this program knows {SCHEMA_VERSION}")
            tables.make(connection)
            connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextlib.contextmanager
    def transaction(self, kind: Kind) -> Iterator[sa.Connection]:
        """Run one transaction: durable when the context ends, undone if it raises. Raises `StoreError`."""
        if kind is Kind.READING:
            with self._transaction("BEGIN") as connection:
                yield connection
            return
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # blocks; the kernel lets go of it when a holder dies
        try:
            with self._transaction("BEGIN IMMEDIATE") as connection:
                yield connection
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the files."""
        self._connection.close()
        self._engine.dispose()
        os.close(self._lock)

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sa.Connection]:
        self._mode = begin
        with store_errors():
            transaction = self._connection.begin()
        try:
            yield self._connection
        except BaseException:
            with contextlib.suppress(SQLAlchemyError):
                transaction.rollback()
            raise
        try:
            with store_errors():
                transaction.commit()
        except StoreError:
            with contextlib.suppress(SQLAlchemyError):
                transaction.rollback()
            raise

    def _begin(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql(self._mode)


def _prepare(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions are ours, not the driver's
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")
