"""The store: sessions, reservations, given answers and bundle floors, in a file or in a database that many share.

Rules: one write is one transaction, all or nothing, and durable when it ends. A session is replaced only in the version
that was read; whoever comes too late gets `RaceError` and judges again inside `writing`, where nobody else writes, so
that it always ends. What a database alone can do is in `sqlite.py` and `postgresql.py`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any, Final, Protocol

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from exequatur.trust.bundle import Floor
from pdp.control import tables
from pdp.control.sessions import Held
from pdp.control.tables import AnswerKey, Instance
from pdp.model import Reservation, Session

SCHEMA_VERSION: Final = 2
KNOWN: Final = 4096
"""How many sessions are kept as values, each in the version that was read: some kilobytes each."""

KEEP: Final = timedelta(days=1)
"""How long what is over is kept, so that a late caller is told what happened."""

PRUNED: Final = 2000
"""How much of what is over is forgotten at once: others wait meanwhile, some ten milliseconds."""

FORGOTTEN: Final = (
    "the database has lost what was written: another server took over that did not have it, or it was put back from a "
    "copy; budgets in it are too high: look at what is missing, then start the decision point again"
)
"""Why nothing is answered any more from a database that goes back in time."""

_RETRIED: Final = ("40001", "40P01")
"""The SQLSTATEs of a transaction that the database ended because of another one."""


class StoreError(Exception):
    """The store cannot be read or written; one sentence that holds no value."""


class RaceError(StoreError):
    """Somebody else changed what was read: read again, inside `writing`."""


class FloorError(StoreError):
    """A bundle must not come into force: another one of its number did."""


class OlderError(FloorError):
    """A bundle must not come into force: a newer one did."""


class Kind(Enum):
    """What a transaction is for."""

    READING = auto()
    """To read one consistent state, without waiting for writers."""
    WRITING = auto()
    """To write what was read before, beside others who do, each of it in the version that was read."""
    ALONE = auto()
    """To read and write while nobody else writes."""


class Database(Protocol):
    """Where the tables are. Used by one thread at a time."""

    @property
    def life(self) -> int:
        """Another number once the database may have lost what it knew: what was read before counts no more."""

    def transaction(self, kind: Kind) -> AbstractContextManager[sa.Connection]:
        """Run one transaction: durable when the context ends, undone if it raises. Raises `StoreError`."""

    def close(self) -> None:
        """Let go of it."""


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
        ids = _texts(ids)
        rows = self._rows(tables.SESSION_BY_ID, ids=ids) if ids else ()
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
        ids = _texts(decision_ids)
        rows = self._rows(tables.RESERVATION_BY_ID, ids=ids) if ids else ()
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
        with store_errors():
            return self._connection.execute(statement, parameters).all()


class Writing(View):
    """A reading inside the store's one write transaction."""

    def __init__(self, connection: sa.Connection, known: dict[str, Session]) -> None:
        super().__init__(connection, known)
        self.written: dict[str, Session] = {}
        """Sessions as they will be once the transaction is durable."""

    def write(self, changes: Changes) -> None:
        """Write all of `changes`; raises `RaceError` where something is not as it was read.

        Always in the same order, so that no two who write beside each other wait for one another.
        """
        with store_errors():
            self._sessions(changes)
            self._reservations(changes)
            if changes.dropped_answers:
                self._connection.execute(tables.DROP_ANSWERS, {"ids": sorted(changes.dropped_answers)})
            if changes.answers:
                self._connection.execute(
                    sa.insert(tables.ANSWERS),
                    [
                        {"answer_key": tables.answer_key(key), "session": key[0], "decision_id": made, "answer": answer}
                        for key, (made, answer) in sorted(changes.answers.items())
                    ],
                )

    def prune(self, now: datetime) -> bool:
        """Forget reservations and answers that have been over for a day; says whether there may be more of them.

        Sessions stay: their labels are inherited.
        """
        before = {"before": tables.micros(now - KEEP), "limit": PRUNED}
        with store_errors():
            gone = [self._connection.execute(each, before).rowcount for each in tables.PRUNE]
        return max(gone) >= PRUNED

    def _sessions(self, changes: Changes) -> None:
        if changes.sessions:
            done = self._connection.execute(
                tables.REPLACE_SESSION,
                [tables.session_change(session) for _, session in sorted(changes.sessions.items())],
            )
            if done.rowcount != len(changes.sessions):
                raise RaceError("a session changed meanwhile")
            self.written = {key: replace(item, version=item.version + 1) for key, item in changes.sessions.items()}
        if changes.opened:
            self._connection.execute(
                sa.insert(tables.SESSIONS),
                [tables.session_row(session) for _, session in sorted(changes.opened.items())],
            )
            self.written.update(changes.opened)

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
    """A store in a database. One thread uses it at a time; others wait."""

    def __init__(self, database: Database) -> None:
        """Keep everything in `database`, which has our tables."""
        self._database = database
        self._known: dict[str, Session] = {}
        self._life = database.life
        self._last: tuple[str, int] | None = None
        """The session that we wrote last, and in which version."""
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def reading(self) -> Iterator[View]:
        """Read one consistent state, without waiting for writers."""
        with self._transaction(Kind.READING) as connection:
            yield View(connection, self._known)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Writing]:
        """Read and write alone; what was written is durable when the context ends, and undone if it raises."""
        with self._transaction(Kind.ALONE) as connection:
            writing = Writing(connection, self._known)
            yield writing
        self._note(writing)

    def write(self, changes: Changes) -> None:
        """Write what follows from a `reading`, beside others; raises `RaceError` where something is not as it was."""
        with self._transaction(Kind.WRITING) as connection:
            writing = Writing(connection, self._known)
            writing.write(changes)
        self._note(writing)

    def floor(self, tenant: str) -> Floor | None:
        """Read the newest bundle that was accepted for `tenant`."""
        with self._transaction(Kind.READING) as connection, store_errors():
            row = connection.execute(sa.select(tables.FLOORS).where(tables.FLOORS.c.tenant == tenant)).one_or_none()
        return None if row is None else Floor(row.sequence, row.digest)

    def raise_floor(self, tenant: str, floor: Floor) -> None:
        """Never again accept a bundle below `floor`; raises `FloorError` for one that must not be accepted itself.

        Whoever shares this store agrees: of two bundles with one number, one alone is ever the floor.
        """
        with self._transaction(Kind.ALONE) as connection, store_errors():
            old = connection.execute(sa.select(tables.FLOORS).where(tables.FLOORS.c.tenant == tenant)).one_or_none()
            if old is None:
                connection.execute(
                    sa.insert(tables.FLOORS), {"tenant": tenant, "sequence": floor.sequence, "digest": floor.digest}
                )
            elif old.sequence > floor.sequence:
                raise OlderError(f"sequence {floor.sequence} after {old.sequence}: a newer bundle came into force")
            elif old.sequence < floor.sequence:
                connection.execute(
                    sa.update(tables.FLOORS).where(tables.FLOORS.c.tenant == tenant),
                    {"sequence": floor.sequence, "digest": floor.digest},
                )
            elif old.digest != floor.digest:
                raise FloorError(f"sequence {floor.sequence} came into force with other content: two were signed")

    def halted(self, tenant: str) -> dict[bytes, str]:
        """Read which candidates of `tenant` were halted, by digest, and why."""
        with self._transaction(Kind.READING) as connection, store_errors():
            rows = connection.execute(sa.select(tables.HALTED).where(tables.HALTED.c.tenant == tenant)).all()
        return {row.digest: row.reason for row in rows}

    def halt(self, tenant: str, digest: bytes, reason: str) -> None:
        """Never again try this candidate of `tenant`; the first reason stays."""
        mine = (tables.HALTED.c.tenant == tenant, tables.HALTED.c.digest == digest)
        with self._transaction(Kind.ALONE) as connection, store_errors():
            if connection.execute(sa.select(tables.HALTED).where(*mine)).one_or_none() is None:
                connection.execute(sa.insert(tables.HALTED), {"tenant": tenant, "digest": digest, "reason": reason})

    def had_key_policy(self, tenant: str) -> bool:
        """Read whether the keys of `tenant` have ever had a `keys.json`."""
        with self._transaction(Kind.READING) as connection, store_errors():
            mine = sa.select(tables.KEY_POLICIES).where(tables.KEY_POLICIES.c.tenant == tenant)
            return connection.execute(mine).one_or_none() is not None

    def note_key_policy(self, tenant: str) -> None:
        """Remember that the keys of `tenant` have a `keys.json`: without it, each of them would be enough."""
        mine = sa.select(tables.KEY_POLICIES).where(tables.KEY_POLICIES.c.tenant == tenant)
        with self._transaction(Kind.ALONE) as connection, store_errors():
            if connection.execute(mine).one_or_none() is None:
                connection.execute(sa.insert(tables.KEY_POLICIES), {"tenant": tenant})

    def close(self) -> None:
        """Let go of the database."""
        with self._turn:
            self._database.close()

    @contextlib.contextmanager
    def _transaction(self, kind: Kind) -> Iterator[sa.Connection]:
        with self._turn, self._database.transaction(kind) as connection:
            if self._life != self._database.life:
                self._known.clear()
                self._remembers(connection)
                self._life = self._database.life
            yield connection

    def _note(self, writing: Writing) -> None:
        self._known.update(writing.written)
        for key, session in writing.written.items():
            self._last = key, session.version

    def _remembers(self, connection: sa.Connection) -> None:
        """See that the database still has what we wrote last. Raises `StoreError`."""
        if self._last is None:
            return
        key, version = self._last
        with store_errors():
            rows = connection.execute(tables.SESSION_BY_ID, {"ids": [key]}).all()
        if not rows or rows[0].version < version:
            raise StoreError(FORGOTTEN)


@contextlib.contextmanager
def store_errors(what: str = "the store failed") -> Iterator[None]:
    """Turn the database's errors into ours; the statement's values stay out of the text."""
    try:
        yield
    except IntegrityError:
        raise RaceError("somebody else wrote the same thing first") from None
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None)
        if getattr(cause, "sqlstate", None) in _RETRIED:
            raise RaceError("somebody else changed the same thing meanwhile") from None
        text = getattr(getattr(cause, "diag", None), "message_primary", None) or cause or type(error).__name__
        raise StoreError(f"{what}: {' '.join(str(text).split())}") from None


def _texts(texts: Collection[str]) -> list[str]:
    """Leave out what no database holds as text, and so nobody wrote: one caller's must not fail another's question."""
    return [text for text in texts if "\0" not in text]
