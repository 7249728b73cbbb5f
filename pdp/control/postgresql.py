"""The store's tables in a PostgreSQL database that several decision points share.

Rules: what is answered must be there after any crash, so a commit counts once the primary, and the standbys that it
waits for, have it; a warning there is a failure. Writers hold one advisory lock together, and who writes alone holds it
against them; rows and unique keys find those who would change the same. Whoever hangs, here or there, ends in an error
within seconds and lets go of its locks; a connection that is lost is made anew by the next transaction.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any, Final

import psycopg
import sqlalchemy as sa
from psycopg.abc import RV, PQGen
from psycopg.pq import Conninfo, TransactionStatus
from sqlalchemy.exc import SQLAlchemyError

from pdp.control import tables
from pdp.control.address import Address, AddressError, read_address
from pdp.control.store import SCHEMA_VERSION, Kind, StoreError, store_errors

CONNECT_S: Final = 2
"""How long a connection may take to be made, in seconds: no round is held up longer by one that cannot be."""

PAUSE_S: Final = 1.0
"""How long after that nobody tries again, so that callers hear at once, in seconds."""

LOCK_MS: Final = 2000
STATEMENT_MS: Final = 2500
CALL_S: Final = 3.0
"""How long we wait for another's lock, for a statement, and for a server that does not even say so."""

IDLE_MS: Final = 5000
"""How long a writer may stand still with its locks, in milliseconds; longer is only stopped or gone."""

JUDGING_MS: Final = 30_000
"""How long a reader may, which waits for nobody and keeps nobody waiting, in milliseconds."""

_LOCK: Final = int.from_bytes(b"exequatu", "big")
"""The advisory lock's number: one a database."""

_WRITE: Final = (
    f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL idle_in_transaction_session_timeout = {IDLE_MS}"
)
# Reads see what was committed before each of them, so those after the lock see all that was before it.
_BEGIN: Final = {
    Kind.READING: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    Kind.WRITING: f"{_WRITE}; SELECT pg_advisory_xact_lock_shared({_LOCK})",
    Kind.ALONE: f"{_WRITE}; SELECT pg_advisory_xact_lock({_LOCK})",
}

_OPTIONS: Final = {
    "lock_timeout": LOCK_MS,
    "statement_timeout": STATEMENT_MS,
    "idle_in_transaction_session_timeout": JUDGING_MS,
    "client_min_messages": "warning",
}
_WAY: Final[dict[str, Any]] = {
    "options": " ".join(f"-c {name}={value}" for name, value in _OPTIONS.items()),
    "application_name": "exequatur",
    "client_encoding": "utf8",
    "connect_timeout": CONNECT_S,
    "target_session_attrs": "read-write",  # a standby is behind, and would give budgets back
    "gssencmode": "disable",  # it would take the place of TLS
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": int(CALL_S * 1000),
}

_VERSION: Final = sa.Table("store_version", sa.MetaData(), sa.Column("version", sa.Integer, nullable=False))


class _Driver(psycopg.Connection[Any]):
    """A connection that waits for no answer longer than `CALL_S`, and knows when it was warned."""

    warned = ""

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Wait for the server."""
        try:
            return super().wait(gen, interval, CALL_S if timeout is None else timeout)
        except psycopg.errors._WaitTimeout:  # noqa: SLF001 - as its docstring says: to be made a public one
            self.pgconn.finish()
            raise psycopg.OperationalError(f"the server did not answer within {CALL_S:g} s") from None

    def hear(self, notice: psycopg.errors.Diagnostic) -> None:
        """Keep a warning."""
        self.warned = notice.message_primary or "a warning"


class Postgresql:
    """A database that a file gives the address of. Opening makes what is missing, and refuses another version."""

    def __init__(self, file: Path) -> None:
        """Open the database whose address is in `file`; raises `StoreError`."""
        _forget_environment()
        self._file = file
        self._engine = sa.create_engine(
            "postgresql+psycopg://",
            creator=self._dial,
            poolclass=sa.pool.NullPool,
            hide_parameters=True,
            use_native_hstore=False,
        )
        self._engine.dialect.use_insertmanyvalues_wo_returning = True  # one statement for many rows
        self._connection: sa.Connection | None = None
        self._attempt: Future[sa.Connection] | None = None
        self._again, self._why = 0.0, ""
        self.life = 0
        """How many connections there have been: behind another one may be a server that does not know the newest."""
        self._has_tables = False
        with self.transaction(Kind.READING) as connection, store_errors("the database cannot be used"):
            self._has_tables = _has_tables(connection)
        if not self._has_tables:
            with self.transaction(Kind.ALONE) as connection, store_errors("the database cannot hold a store"):
                _make_tables(connection)
            self._has_tables = True

    @contextlib.contextmanager
    def transaction(self, kind: Kind) -> Iterator[sa.Connection]:
        """Run one transaction: durable when the context ends, undone if it raises. Raises `StoreError`."""
        connection = self._begun(kind)
        try:
            yield connection
            self._commit(connection)
        except BaseException:
            self._undo(connection)
            raise

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._drop(self._connection)

    def _begun(self, kind: Kind) -> sa.Connection:
        """Give a connection with a transaction begun; a connection that was lost meanwhile is made anew, once."""
        if self._connection is not None:
            connection, began = self._connection, time.monotonic()
            try:
                return self._begin(connection, kind)
            except StoreError:
                if self._connection is not None or time.monotonic() - began >= PAUSE_S:
                    raise  # it is not lost, or it was waited for
        return self._begin(self._connected(), kind)

    def _begin(self, connection: sa.Connection, kind: Kind) -> sa.Connection:
        try:
            with _driver_errors():
                connection.begin()
                _driver(connection).execute(_BEGIN[kind], prepare=False)
        except StoreError:
            self._undo(connection)
            raise
        return connection

    def _commit(self, connection: sa.Connection) -> None:
        with _driver_errors():
            driver = _driver(connection)
            driver.warned = ""
            done = driver.execute("COMMIT", prepare=False).statusmessage
            connection.commit()  # for SQLAlchemy to know
        if driver.warned or done != "COMMIT":
            # A standby that is waited for may not have it, say.
            raise StoreError(f"the store failed: {driver.warned or 'what was written was undone'}")

    def _undo(self, connection: sa.Connection) -> None:
        """End a transaction that failed, and let go of a connection that cannot begin another."""
        if connection.closed:
            return
        with contextlib.suppress(SQLAlchemyError, psycopg.Error):
            connection.rollback()
        if connection.invalidated or _driver(connection).info.transaction_status is not TransactionStatus.IDLE:
            self._drop(connection)

    def _drop(self, connection: sa.Connection) -> None:
        self._connection = None
        with contextlib.suppress(SQLAlchemyError, psycopg.Error):
            connection.invalidate()
            connection.close()

    def _connected(self) -> sa.Connection:
        """Connect, on a thread of its own, since a name may take long to be resolved. Raises `StoreError`."""
        if self._connection is not None:
            return self._connection
        patience = 0.0
        if self._attempt is None:
            if time.monotonic() < self._again:
                raise StoreError(self._why)
            self._attempt, patience = Future(), CONNECT_S + 0.5
            Thread(target=_carry_out, args=(self._attempt, self._open), name="connect", daemon=True).start()
        try:
            self._connection = self._attempt.result(patience)
        except TimeoutError:
            raise StoreError(f"the database was not reached within {CONNECT_S} s") from None
        except StoreError as error:
            self._attempt, self._again, self._why = None, time.monotonic() + PAUSE_S, str(error)
            raise
        except BaseException:
            self._attempt = None
            raise
        self._attempt = None
        self.life += 1
        return self._connection

    def _open(self) -> sa.Connection:
        with store_errors("the database cannot be used"):
            connection = self._engine.connect()
        try:
            with store_errors("the database cannot be used"):
                _check(connection, has_tables=self._has_tables)
                connection.commit()
        except BaseException:
            self._drop(connection)
            raise
        return connection

    def _dial(self) -> _Driver:
        try:
            address = read_address(self._file)
        except AddressError as error:
            raise StoreError(str(error)) from None
        try:
            driver = _Driver.connect(**_way(address), autocommit=True)
        except psycopg.Error as error:
            text = " ".join(str(error).split())
            if address.password:
                text = text.replace(address.password, "...")
            raise StoreError(f"the database cannot be reached: {text}") from None
        driver.add_notice_handler(driver.hear)
        return driver


def _way(address: Address) -> dict[str, Any]:
    """Give all that libpq is told; what it is not told has the value that the program was built with."""
    return {
        "host": address.host,
        "port": address.port,
        "dbname": address.name,
        "user": address.user,
        "password": address.password,
        **dict(address.parameters),
        **_WAY,
    }


def _driver(connection: sa.Connection) -> _Driver:
    driver = connection.connection.driver_connection
    if not isinstance(driver, _Driver):
        raise TypeError("a connection that is not ours")
    return driver


@contextlib.contextmanager
def _driver_errors() -> Iterator[None]:
    """Turn errors of what is asked beside SQLAlchemy into ours."""
    with store_errors():
        try:
            yield
        except psycopg.Error as error:
            raise sa.exc.DBAPIError("", None, error) from None


def _check(connection: sa.Connection, *, has_tables: bool) -> None:
    """See that this is a server that keeps what it is told. Raises `StoreError`."""
    found = connection.exec_driver_sql(
        "SELECT pg_is_in_recovery() AS standby, current_setting('server_encoding') AS encoding, "
        "current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous"
    ).one()
    if found.standby:
        raise StoreError("the database is a standby, which is behind: give the address of the primary")
    if found.encoding != "UTF8":
        raise StoreError(f"the database holds text as `{found.encoding}`: make one with the encoding UTF8")
    if found.fsync != "on":
        raise StoreError("the database runs with `fsync` off, and forgets budgets when its machine fails")
    if found.synchronous != "remote_apply":  # which is more than we ask for
        connection.exec_driver_sql("SET synchronous_commit = on")
    if has_tables and not _has_tables(connection):
        raise StoreError("the database holds no store any more")


def _has_tables(connection: sa.Connection) -> bool:
    """Say whether there is a store. Raises `StoreError` for one of another version."""
    if not sa.inspect(connection).has_table(_VERSION.name):
        return False
    version = connection.execute(sa.select(_VERSION.c.version)).scalar_one_or_none()
    if version != SCHEMA_VERSION:
        raise StoreError(f"the store in the database has version {version}, this program knows {SCHEMA_VERSION}")
    return True


def _make_tables(connection: sa.Connection) -> None:
    """Make the tables, unless somebody was quicker. Nobody else does at the same time. Raises `StoreError`."""
    if _has_tables(connection):
        return
    there = sa.inspect(connection)
    if others := [name for name in tables.META.tables if there.has_table(name)]:
        raise StoreError(f"the database has a table `{others[0]}` that is not ours: give us one of our own")
    tables.make(connection)
    _VERSION.create(connection)
    connection.execute(sa.insert(_VERSION), {"version": SCHEMA_VERSION})


def _carry_out(attempt: Future[sa.Connection], work: Any) -> None:
    try:
        attempt.set_result(work())
    except BaseException as error:  # noqa: BLE001 - whoever waits for it raises it
        attempt.set_exception(error)


def _forget_environment() -> None:
    """Have libpq read no settings from the environment, where nobody has checked them."""
    names = {option.envvar.decode() for option in Conninfo.get_defaults() if option.envvar}
    for name in names | {"PGSERVICEFILE", "PGSYSCONFDIR"}:
        os.environ.pop(name, None)
