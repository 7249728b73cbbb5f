"""The store: sessions, reservations, given answers and bundle floors, in SQLite (WAL, every commit synced).

Rules: one write is one transaction, all or nothing. A session is replaced only in the version that was read; whoever
comes too late gets `RaceError` and judges again inside `writing`, where nobody else writes, so that it always ends.
Writers wait for a lock file, which wakes them at once and in turn; SQLite's own handler sleeps and polls. A `Store`
belongs to one thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from exequatur.trust.bundle import Floor
from pdp.control import tables
from pdp.control.sessions import Held
from pdp.control.tables import AnswerKey, Instance
from pdp.model import Reservation, Session

SCHEMA_VERSION: Final = 2
BUSY_MS: Final = 5000
"""How long to wait for a lock that our lock file does not guard (a backup, say), in milliseconds."""

KNOWN: Final = 4096
"""How many sessions are kept as values, each in the version that was read: some kilobytes each."""

KEEP: Final = timedelta(days=1)
"""How long what is over is kept, so that a late caller is told what happened."""


class StoreError(Exception):
    """The store cannot be read or written; one sentence that holds no value."""


class RaceError(StoreError):
    """Somebody else changed what was read: read again, inside `writing`."""


class FloorError(StoreError):
    """A bundle must not come into force: it is older than the one that did, or another one of its number."""


@dataclass(slots=True)
class Changes:
    """What one round changes. `sessions` carry the version that was read."""

    opened: dict[str, Session] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    reserved: dict[str, Reservation] = field(default_factory=dict)
    finished: dict[str, Held] = field(default_factory=dict)
    answers: dict[AnswerKey, tuple[str, bytes]] = field(default_factory=dict)
    dropped_answers: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return any((self.opened, self.sessions, self.reserved, self.finished, self.answers, self.dropped_answers))


class View:
    """One consistent reading of the store."""

    def __init__(self, connection: sa.Connection, known: dict[str, Session]) -> None:
        self._connection = connection
        self._known = known

    def sessions(self, ids: Collection[str]) -> dict[str, Session]:
        """Read sessions by id."""
        rows = self._rows(tables.SESSION_BY_ID, ids=list(ids)) if ids else ()
        return {row.id: self._session(row) for row in rows}

    def open_sessions(self, instances: Collection[Instance]) -> dict[Instance, Session]:
        """Read the sessions of `instances` that nobody has closed; they may have expired."""
        keys = [tables.instance_key(instance) for instance in instances]
        rows = self._rows(tables.SESSION_BY_INSTANCE, keys=keys) if keys else ()
        return {(row.tenant, row.agent, row.instance): self._session(row) for row in rows}

    def last_session(self, instance: Instance) -> Session | None:
        """Read the newest session of an instance, over or not."""
        rows = self._rows(tables.LAST_SESSION, key=tables.instance_key(instance))
        return self._session(rows[0]) if rows else None

    def reservations(self, decision_ids: Collection[str]) -> dict[str, Held]:
        """Read reservations by their decision's id."""
        rows = self._rows(tables.RESERVATION_BY_ID, ids=list(decision_ids)) if decision_ids else ()
        return {row.decision_id: tables.held_of(row) for row in rows}

    def overdue(self, now: datetime, limit: int, sessions: Collection[str] | None = None) -> dict[str, Held]:
        """Read held reservations that have expired, the oldest first; of `sessions` alone where they are given."""
        if sessions is None:
            rows = self._rows(tables.OVERDUE, now=tables.micros(now), limit=limit)
        else:
            rows = (
                self._rows(tables.OVERDUE_OF, now=tables.micros(now), limit=limit, sessions=list(sessions))
                if sessions
                else ()
            )
        return {row.decision_id: tables.held_of(row) for row in rows}

    def answers(self, keys: Collection[AnswerKey]) -> dict[AnswerKey, bytes]:
        """Read the answers that were given to idempotency keys."""
        columns = {tables.answer_key(key): key for key in keys}
        rows = self._rows(tables.ANSWER_BY_KEY, keys=list(columns)) if keys else ()
        return {columns[row.answer_key]: row.answer for row in rows}

    def _session(self, row: Any) -> Session:
        """Read a session; one whose version we have seen is not taken apart again."""
        known = self._known.get(row.id)
        if known is None or known.version != row.version:
            if len(self._known) >= KNOWN:
                self._known.clear()
            known = self._known[row.id] = tables.session_of(row)
        return known

    def _rows(self, statement: sa.Executable, **parameters: Any) -> Sequence[Any]:
        with _store_errors():
            return self._connection.execute(statement, parameters).all()


class Writing(View):
    """A reading inside the store's one write transaction."""

    def __init__(self, connection: sa.Connection, known: dict[str, Session]) -> None:
        super().__init__(connection, known)
        self.written: dict[str, Session] = {}
        """Sessions as they will be once the transaction is durable."""

    def write(self, changes: Changes) -> None:
        """Write all of `changes`; raises `RaceError` where something is not as it was read."""
        with _store_errors():
            self._sessions(changes)
            self._reservations(changes)
            if changes.dropped_answers:
                self._connection.execute(tables.DROP_ANSWERS, {"ids": sorted(changes.dropped_answers)})
            if changes.answers:
                self._connection.execute(
                    sa.insert(tables.ANSWERS),
                    [
                        {"answer_key": tables.answer_key(key), "session": key[0], "decision_id": made, "answer": answer}
                        for key, (made, answer) in changes.answers.items()
                    ],
                )

    def prune(self, now: datetime) -> None:
        """Forget reservations and answers that have been over for a day. Sessions stay: their labels are inherited."""
        before = {"before": tables.micros(now - KEEP)}
        with _store_errors():
            self._connection.execute(tables.PRUNE_RESERVATIONS, before)
            self._connection.execute(tables.PRUNE_ANSWERS, before)

    def _sessions(self, changes: Changes) -> None:
        if changes.sessions:
            done = self._connection.execute(
                tables.REPLACE_SESSION, [tables.session_change(s) for s in changes.sessions.values()]
            )
            if done.rowcount != len(changes.sessions):
                raise RaceError("a session changed meanwhile")
            self.written = {key: replace(item, version=item.version + 1) for key, item in changes.sessions.items()}
        if changes.opened:
            self._connection.execute(
                sa.insert(tables.SESSIONS), [tables.session_row(session) for session in changes.opened.values()]
            )

    def _reservations(self, changes: Changes) -> None:
        if changes.reserved:
            rows = [tables.reservation_row(item) for item in changes.reserved.values()]
            self._connection.execute(sa.insert(tables.RESERVATIONS), rows)
        if changes.finished:
            self._connection.execute(
                tables.FINISH,
                [
                    {"b_id": key, "b_fate": held.fate.value, "b_charged": held.charged_microusd}
                    for key, held in changes.finished.items()
                ],
            )


class Store:
    """A store in a folder. Opening makes what is missing and refuses a store of another version."""

    def __init__(self, folder: Path) -> None:
        """Open `folder/store.sqlite`; raises `StoreError`."""
        self._known: dict[str, Session] = {}
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
        with _store_errors(f"the store in `{folder}` cannot be opened, its disk may be full or failing"):
            self._connection = self._engine.connect()
        with self._writing() as connection, _store_errors():
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if version not in (0, SCHEMA_VERSION):
                raise StoreError(f"the store in `{folder}` has version {version}, this program knows {SCHEMA_VERSION}")
            tables.META.create_all(connection)
            connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextlib.contextmanager
    def reading(self) -> Iterator[View]:
        """Read one consistent state, without waiting for writers."""
        with self._transaction("BEGIN") as connection:
            yield View(connection, self._known)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Writing]:
        """Read and write alone; what was written is durable when the context ends, and undone if it raises."""
        with self._writing() as connection:
            writing = Writing(connection, self._known)
            yield writing
        self._known.update(writing.written)

    def floor(self, tenant: str) -> Floor | None:
        """Read the newest bundle that was accepted for `tenant`."""
        with self._transaction("BEGIN") as connection, _store_errors():
            row = connection.execute(sa.select(tables.FLOORS).where(tables.FLOORS.c.tenant == tenant)).one_or_none()
        return None if row is None else Floor(row.sequence, row.digest)

    def raise_floor(self, tenant: str, floor: Floor) -> None:
        """Never again accept a bundle below `floor`; raises `FloorError` for one that must not be accepted itself.

        Whoever shares this store agrees: of two bundles with one number, one alone is ever the floor.
        """
        with self._writing() as connection, _store_errors():
            old = connection.execute(sa.select(tables.FLOORS).where(tables.FLOORS.c.tenant == tenant)).one_or_none()
            if old is None:
                connection.execute(
                    sa.insert(tables.FLOORS), {"tenant": tenant, "sequence": floor.sequence, "digest": floor.digest}
                )
            elif old.sequence > floor.sequence:
                raise FloorError(f"sequence {floor.sequence} after {old.sequence}: a newer bundle came into force")
            elif old.sequence < floor.sequence:
                connection.execute(
                    sa.update(tables.FLOORS).where(tables.FLOORS.c.tenant == tenant),
                    {"sequence": floor.sequence, "digest": floor.digest},
                )
            elif old.digest != floor.digest:
                raise FloorError(f"sequence {floor.sequence} came into force with other content: two were signed")

    def halted(self, tenant: str) -> dict[bytes, str]:
        """Read which candidates of `tenant` were halted, by digest, and why."""
        with self._transaction("BEGIN") as connection, _store_errors():
            rows = connection.execute(sa.select(tables.HALTED).where(tables.HALTED.c.tenant == tenant)).all()
        return {row.digest: row.reason for row in rows}

    def halt(self, tenant: str, digest: bytes, reason: str) -> None:
        """Never again try this candidate of `tenant`; the first reason stays."""
        mine = (tables.HALTED.c.tenant == tenant, tables.HALTED.c.digest == digest)
        with self._writing() as connection, _store_errors():
            if connection.execute(sa.select(tables.HALTED).where(*mine)).one_or_none() is None:
                connection.execute(sa.insert(tables.HALTED), {"tenant": tenant, "digest": digest, "reason": reason})

    def had_key_policy(self, tenant: str) -> bool:
        """Read whether the keys of `tenant` have ever had a `keys.json`."""
        with self._transaction("BEGIN") as connection, _store_errors():
            mine = sa.select(tables.KEY_POLICIES).where(tables.KEY_POLICIES.c.tenant == tenant)
            return connection.execute(mine).one_or_none() is not None

    def note_key_policy(self, tenant: str) -> None:
        """Remember that the keys of `tenant` have a `keys.json`: without it, each of them would be enough."""
        if not self.had_key_policy(tenant):
            with self._writing() as connection, _store_errors():
                connection.execute(sa.insert(tables.KEY_POLICIES), {"tenant": tenant})

    def close(self) -> None:
        """Let go of the files."""
        self._connection.close()
        self._engine.dispose()
        os.close(self._lock)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # blocks; the kernel lets go of it when a holder dies
        try:
            with self._transaction("BEGIN IMMEDIATE") as connection:
                yield connection
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sa.Connection]:
        self._mode = begin
        with _store_errors():
            transaction = self._connection.begin()
        try:
            yield self._connection
        except BaseException:
            with contextlib.suppress(SQLAlchemyError):
                transaction.rollback()
            raise
        try:
            with _store_errors():
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


@contextlib.contextmanager
def _store_errors(what: str = "the store failed") -> Iterator[None]:
    """Turn the database's errors into ours; the statement's values stay out of the text."""
    try:
        yield
    except IntegrityError:
        raise RaceError("somebody else wrote the same thing first") from None
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None)
        raise StoreError(f"{what}: {cause if cause is not None else type(error).__name__}") from None
