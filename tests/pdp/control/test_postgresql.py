"""A shared database that hangs, dies, lies or forgets: an error with a reason within seconds, and then service again."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from psycopg import sql

import postgres as servers
from pdp.control import postgresql
from pdp.control.opening import open_store
from pdp.control.store import Changes, Kind, RaceError, StoreError
from pdp.model import Session
from pki import Authority

NOW = datetime(2026, 1, 5, 10, tzinfo=UTC)
LOCK = f"SELECT pg_advisory_lock({postgresql._LOCK})"


def session(name: str = "s1", **fields: object) -> Session:
    ends = NOW + timedelta(hours=1)
    whole = {"max_steps": 10, "budget_microusd": 1000, "instance": name, "opened_at": NOW, "expires_at": ends}
    return Session(**{"id": name, "tenant": "default", "agent": "coder", "enforcer": "e", **whole, **fields})


def steps(store, name="s1"):
    with store.reading() as view:
        return view.sessions([name])[name].steps


def step(store, name="s1"):
    with store.reading() as view:
        now = view.sessions([name])[name]
    store.write(Changes(sessions={name: replace(now, steps=now.steps + 1)}))


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Wait for less than what is waited for in earnest."""
    options = {**postgresql._OPTIONS, "lock_timeout": 600, "statement_timeout": 900}
    text = " ".join(f"-c {name}={value}" for name, value in options.items())
    monkeypatch.setitem(postgresql._WAY, "options", text)
    monkeypatch.setattr(postgresql, "CALL_S", 1.5)
    monkeypatch.setattr(postgresql, "PAUSE_S", 0.2)


@pytest.fixture
def store(tmp_path, database):
    opened = open_store(tmp_path, database)
    opened.write(Changes(opened={"s1": session(), "s2": session("s2")}))
    yield opened
    opened.close()


@pytest.fixture
def admin(postgres, database):
    """Its owner's own connection to the test's database."""
    with closing(postgres.admin(database.read_text().strip().rpartition("/")[2])) as connection:
        yield connection


def name_of(admin):
    return sql.Identifier(admin.info.dbname)


def others(admin, do="pg_terminate_backend(pid)"):
    admin.execute(
        f"SELECT {do} FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ).fetchall()


def waits(admin):
    """Return once somebody waits for a lock."""
    while not admin.execute("SELECT 1, pg_sleep(0.002) FROM pg_locks WHERE NOT granted").fetchone():
        pass


def test_nothing_is_made_in_the_state_folder(tmp_path, store):
    assert sorted(path.name for path in tmp_path.iterdir()) == ["database"]


def test_what_no_database_holds_as_text_was_written_by_nobody(store):
    with store.reading() as view:
        assert view.sessions(["\0", "s1"]).keys() == {"s1"}
        assert view.reservations(["d\0"]) == {}
        assert view.open_sessions([("default", "coder", "\0")]) == {}


def test_a_connection_that_was_cut_between_transactions_is_nobodys_trouble(store, admin):
    others(admin)
    step(store)
    others(admin)
    assert steps(store) == 1


def test_a_connection_that_is_cut_within_one_undoes_it_and_the_next_is_served(store, admin):
    def cut(*, asks: bool):
        with store.writing() as writing:
            writing.write(Changes(sessions={"s1": session(steps=7)}))
            others(admin)
            if asks:
                writing.sessions(["s1"])

    for asks in (True, False):  # a commit that goes to nobody is none
        with pytest.raises(StoreError, match="terminating connection"):
            cut(asks=asks)
        assert steps(store) == 0


def test_who_stands_still_with_the_lock_keeps_others_waiting_for_seconds_alone(store, admin):
    admin.execute(LOCK)
    began = time.monotonic()
    for write in (lambda: step(store), lambda: store.writing().__enter__()):
        with pytest.raises(StoreError, match="lock timeout"):
            write()
    assert time.monotonic() - began < 8
    assert steps(store) == 0, "to read waits for nobody"
    admin.execute(LOCK.replace("lock(", "unlock("))
    step(store)
    assert steps(store) == 1


def test_a_writer_that_stands_still_loses_its_locks(store, monkeypatch, tmp_path, database):
    short = {kind: text.replace(str(postgresql.IDLE_MS), "100") for kind, text in postgresql._BEGIN.items()}

    def stand_still():
        with monkeypatch.context() as patch:
            patch.setattr(postgresql, "_BEGIN", short)
            writing = stack.enter_context(store.writing())
        writing.write(Changes(sessions={"s1": session(steps=7)}))
        with closing(open_store(tmp_path, database)) as other:
            step(other)
        writing.sessions(["s1"])

    with pytest.raises(StoreError, match="idle-in-transaction"), ExitStack() as stack:
        stand_still()
    assert steps(store) == 1


def test_two_who_wait_for_each_other_are_a_race(store, admin):
    """Somebody who changes rows in another order than we do: the database ends one of both."""
    admin.execute(sql.SQL("ALTER DATABASE {} SET deadlock_timeout = '50ms'").format(name_of(admin)))
    others(admin)
    admin.execute("SET deadlock_timeout = '30s'")
    admin.execute("BEGIN; UPDATE sessions SET steps = 5 WHERE id = 's2'")
    changes = Changes(sessions={"s1": session(steps=1), "s2": session("s2", steps=1)})
    with ThreadPoolExecutor(1) as pool:
        ours = pool.submit(store.write, changes)
        waits(admin)
        admin.execute("UPDATE sessions SET steps = 5 WHERE id = 's1'")
        with pytest.raises(RaceError, match="meanwhile"):
            ours.result()
        admin.execute("COMMIT")
    assert (steps(store), steps(store, "s2")) == (5, 5)


def test_a_session_that_somebody_else_changes_at_that_moment_is_a_race(store, admin):
    admin.execute("BEGIN")
    admin.execute("UPDATE sessions SET steps = 5, version = version + 1 WHERE id = 's1'")
    with ThreadPoolExecutor(1) as pool:
        ours = pool.submit(store.write, Changes(sessions={"s1": session(steps=1)}))
        waits(admin)
        admin.execute("COMMIT")
        with pytest.raises(RaceError):
            ours.result()
    assert steps(store) == 5


def test_a_commit_that_a_standby_has_not_confirmed_is_no_commit(store, postgres, admin):
    with postgres.set(synchronous_standby_names="nobody"), ThreadPoolExecutor(1) as pool:
        ours = pool.submit(step, store)
        while not admin.execute("SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'").fetchone():
            pass
        others(admin, "pg_cancel_backend(pid)")  # the server takes that for a commit, with a warning
        with pytest.raises(StoreError, match="synchronous replication"):
            ours.result()


def test_a_server_that_is_set_to_forget_is_told_not_to_or_refused(tmp_path, database, store, admin, postgres):
    admin.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(name_of(admin)))
    others(admin)
    with store._transaction(Kind.READING) as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"
    admin.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = remote_apply").format(name_of(admin)))
    others(admin)
    with store._transaction(Kind.READING) as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "remote_apply", "that is more"
    with postgres.set(fsync="off"), pytest.raises(StoreError, match="`fsync` off"):
        open_store(tmp_path, database)


def test_a_server_that_takes_no_writes_is_refused(tmp_path, database, store, admin):
    admin.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name_of(admin)))
    with pytest.raises(StoreError, match="read-only"):
        open_store(tmp_path, database)


def test_several_that_start_at_once_make_one_store(tmp_path, database):
    start = threading.Barrier(4)

    def opened(_):
        start.wait()
        return open_store(tmp_path, database)

    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(opened, range(4)))
    stores[0].write(Changes(opened={"s1": session()}))
    assert [steps(each) for each in stores] == [0] * 4
    for each in stores:
        each.close()


def test_a_database_of_another_version_or_of_somebody_else_is_refused(tmp_path, database, postgres, admin):
    open_store(tmp_path, database).close()
    admin.execute("UPDATE store_version SET version = 99")
    with pytest.raises(StoreError, match="version 99"):
        open_store(tmp_path, database)
    admin.execute("DROP TABLE store_version")
    with pytest.raises(StoreError, match=r"a table `\w+` that is not ours"):
        open_store(tmp_path, database)
    database.write_text(postgres.url(postgres.make("ENCODING 'SQL_ASCII' TEMPLATE template0")))
    with pytest.raises(StoreError, match="encoding UTF8"):
        open_store(tmp_path, database)


def test_a_database_that_goes_back_in_time_answers_nothing_until_we_start_again(tmp_path, store, admin, database):
    step(store)
    step(store)
    admin.execute("UPDATE sessions SET steps = 1, version = 1 WHERE id = 's1'")
    others(admin)
    for _ in range(2):
        with pytest.raises(StoreError, match="has lost what was written"):
            steps(store)
    with closing(open_store(tmp_path, database)) as again:
        assert steps(again) == 1


def test_the_password_is_in_no_error_and_the_environment_is_not_asked(
    tmp_path, database, postgres, caplog, monkeypatch
):
    good = database.read_text()
    monkeypatch.setenv("PGOPTIONS", "-c lock_timeout=0")
    monkeypatch.setenv("PGHOSTADDR", "192.0.2.1")
    open_store(tmp_path, database).close()
    assert "PGHOSTADDR" not in os.environ
    for url in (good.replace(servers.PASSWORD, "c4n4ry-wrong"), good.replace("exequatur:", "nobody:"), good + "?x=1"):
        database.write_text(url)
        with pytest.raises(StoreError) as refused:
            open_store(tmp_path, database)
        assert "c4n4ry" not in str(refused.value) + caplog.text
        assert "\n" not in str(refused.value)


def test_a_driver_that_is_not_installed_is_one_sentence(tmp_path, database, monkeypatch):
    monkeypatch.delitem(sys.modules, "pdp.control.postgresql", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match="needs the extra `postgresql`"):
        open_store(tmp_path, database)


def test_a_server_that_is_stopped_is_an_error_at_once_and_serves_again_by_itself(store, postgres):
    postgres.stop()
    try:
        began = time.monotonic()
        for _ in range(20):
            with pytest.raises(StoreError):
                step(store)
        assert time.monotonic() - began < 8
    finally:
        postgres.start()
    time.sleep(postgresql.PAUSE_S)
    step(store)
    assert steps(store) == 1


def test_a_server_that_hangs_is_an_error_within_seconds_and_serves_again_by_itself(store, postgres):
    postgres.freeze()
    try:
        began = time.monotonic()
        with pytest.raises(StoreError, match="did not answer within"):
            step(store)
        with pytest.raises(StoreError, match=r"not reached|timeout"):
            step(store)
        assert time.monotonic() - began < 10
    finally:
        postgres.thaw()
    time.sleep(postgresql.PAUSE_S)
    step(store)
    assert steps(store) == 1


def test_a_name_that_nobody_resolves_holds_nobody_up(tmp_path, database, store, monkeypatch, admin):
    dial, hung = store._database._dial, threading.Event()
    store._database._engine.pool._creator = lambda *_: (hung.wait(10), dial())[1]
    monkeypatch.setattr(postgresql, "CONNECT_S", 0.1)
    others(admin)
    began = time.monotonic()
    for _ in range(5):
        with pytest.raises(StoreError, match="not reached within"):
            step(store)
    assert time.monotonic() - began < 8
    hung.set()
    store._database._attempt.exception()
    step(store)


def test_what_was_written_is_there_after_a_crash_of_the_server(store, postgres):
    said, going = [], threading.Event()

    def write():
        with suppress(StoreError):
            while True:
                step(store)
                said.append(True)
                going.set()

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        going.wait(10)
        postgres.stop(signal.SIGKILL)
        writer.result()
    postgres.start()
    time.sleep(postgresql.PAUSE_S)
    assert len(said) <= steps(store) <= len(said) + 1, "nothing that was said is gone; what was on its way may be there"


def test_a_server_with_another_name_is_refused(tmp_path, postgres, database):
    ours = Authority(tmp_path / "ours")
    other = Authority(tmp_path / "other", "other")
    right, wrong = ours.issue("right"), ours.issue("wrong", host="db.example.org")
    plain = database.read_text().strip()
    for files, roots, taken in ((right, ours.roots, True), (wrong, ours.roots, False), (right, other.roots, False)):
        database.write_text(f"{plain}?sslmode=verify-full&sslrootcert={roots}")
        with postgres.proved_by(files):
            if taken:
                with closing(open_store(tmp_path, database)) as store, store._transaction(Kind.READING) as connection:
                    found = connection.exec_driver_sql("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
                    assert found.scalar_one() is True
                continue
            with pytest.raises(StoreError, match=r"does not match host name|certificate verify failed"):
                open_store(tmp_path, database)
