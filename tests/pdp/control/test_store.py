"""No budget is spent twice: one write is all or nothing, and whoever comes too late is told."""

from __future__ import annotations

import contextlib
import datetime as dt
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from exequatur.trust.bundle import Floor
from pdp.control.opening import open_store
from pdp.control.sessions import Fate, Held
from pdp.control.store import Changes, FloorError, RaceError, Store, StoreError
from pdp.model import Intent, LastMinute, Reservation, Session

NOW = dt.datetime(2026, 1, 5, 10, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


def session(name: str = "s1", **fields: object) -> Session:
    whole = {
        "id": name,
        "tenant": "default",
        "agent": "coder",
        "instance": "",
        "enforcer": "spiffe://e",
        "opened_at": NOW,
        "expires_at": NOW + HOUR,
        "max_steps": 10,
        "budget_microusd": 1000,
    }
    return Session(**{**whole, **fields})


def write(store: Store, **changes: object) -> None:
    with store.writing() as writing:
        writing.write(Changes(**changes))


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path):
    """Where a store is: what `open_store` takes."""
    if request.param == "sqlite":
        return (tmp_path,)
    return (tmp_path, request.getfixturevalue("database"))


@pytest.fixture
def store(place):
    opened = open_store(*place)
    yield opened
    opened.close()


def test_what_is_written_is_read_back_whole(store):
    whole = session(
        subject="ann",
        delegation_chain=("a", "b"),
        intent=Intent("fix", "do it", ("code",)),
        scope=("git/*",),
        labels=frozenset({"pii"}),
        steps=3,
        spent_microusd=7,
        reserved_microusd=5,
        calls={"git/git_status": 3},
        last_minute=LastMinute(((1_767_607_198, 2, 0), (1_767_607_200, 1, 3))),
    )
    held = Reservation("d1", "s1", "default", "spiffe://e", 5, NOW + HOUR)
    write(
        store,
        opened={"s1": whole},
        reserved={"d1": held},
        answers={("s1", b"\x01", "k"): ("d1", b"answer")},
    )
    with store.reading() as view:
        assert view.sessions(["s1", "none"]) == {"s1": whole}
        assert view.open_sessions([("default", "coder", ""), ("x", "y", "z")]) == {("default", "coder", ""): whole}
        assert view.reservations(["d1", "d2"]) == {"d1": Held(held)}
        assert view.answers([("s1", b"\x01", "k"), ("s1", b"\x01", "l")]) == {("s1", b"\x01", "k"): b"answer"}
        assert view.overdue(NOW, 10) == {}
        assert view.overdue(NOW + HOUR, 10) == {"d1": Held(held)}
        assert view.overdue(NOW + HOUR, 10, ["s2"]) == {}
        assert view.overdue(NOW + HOUR, 10, ["s1"]) == {"d1": Held(held)}


def test_who_comes_too_late_writes_nothing(store):
    write(store, opened={"s1": session(), "s2": session("s2", instance="2")})
    with store.reading() as view:
        first = second = view.sessions(["s1", "s2"])
    write(store, sessions={"s1": replace(first["s1"], steps=1)})
    with pytest.raises(RaceError):
        write(
            store,
            sessions={"s2": replace(second["s2"], steps=1), "s1": replace(second["s1"], steps=1)},
            reserved={"d": Reservation("d", "s1", "default", "e", 1, NOW)},
        )
    with store.reading() as view:
        after = view.sessions(["s1", "s2"])
        assert (after["s1"].steps, after["s1"].version) == (1, 1)
        assert (after["s2"].steps, after["s2"].version) == (0, 0)
        assert view.reservations(["d"]) == {}


def test_an_instance_has_one_session_that_is_not_closed(store):
    write(store, opened={"s1": session()})
    with pytest.raises(RaceError):
        write(store, opened={"s2": session("s2")})
    write(
        store,
        sessions={"s1": replace(session(), closed_at=NOW)},
        opened={"s2": session("s2", labels=frozenset({"pii"}))},
    )
    with store.reading() as view:
        assert view.open_sessions([("default", "coder", "")])["default", "coder", ""].id == "s2"
        # The newest by the order of opening, whatever the clock said.
        assert view.last_session(("default", "coder", "")).id == "s2"
        assert view.last_session(("default", "coder", "x")) is None


def test_an_answer_is_given_once(store):
    write(store, answers={("s1", b"d", "k"): ("d1", b"one")})
    with pytest.raises(RaceError):
        write(store, answers={("s1", b"d", "k"): ("d2", b"two")})
    write(store, dropped_answers={"d1"})
    write(store, answers={("s1", b"d", "k"): ("d2", b"two")})


def test_a_floor_is_only_raised(place, store):
    assert store.floor("default") is None
    store.raise_floor("default", Floor(7, b"seven"))
    with pytest.raises(FloorError, match="sequence 6 after 7"):
        store.raise_floor("default", Floor(6, b"six"))
    with pytest.raises(FloorError, match="with other content"):
        store.raise_floor("default", Floor(7, b"other"))
    store.raise_floor("default", Floor(7, b"seven"))
    assert store.floor("default") == Floor(7, b"seven")
    store.raise_floor("default", Floor(8, b"eight"))
    again = open_store(*place)
    assert again.floor("default") == Floor(8, b"eight")
    assert again.floor("other") is None
    again.close()


def test_two_stores_on_one_folder_never_accept_two_bundles_of_one_number(place, store):
    others = open_store(*place)
    started = threading.Barrier(2)

    def race(mine: Store, name: bytes) -> list[int]:
        accepted = []
        started.wait()
        for sequence in range(1, 60):
            with contextlib.suppress(FloorError):
                mine.raise_floor("default", Floor(sequence, name))
                accepted.append(sequence)
                floor = mine.floor("default")
                assert floor is not None
                assert floor.sequence >= sequence
        return accepted

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(race, (store, others), (b"one", b"other"))
    others.close()
    assert set(one).isdisjoint(other)
    assert {*one, *other} == set(range(1, 60))


def test_a_halted_candidate_stays_halted(place, store):
    assert store.halted("default") == {}
    store.halt("default", b"digest", "it failed")
    store.halt("default", b"digest", "it failed again")
    again = open_store(*place)
    assert again.halted("default") == {b"digest": "it failed"}
    assert again.halted("other") == {}
    again.close()


def test_what_is_over_is_forgotten_after_a_day_but_labels_stay(store):
    late = NOW + dt.timedelta(days=1, hours=2)
    held = Reservation("d1", "s1", "default", "e", 5, NOW + HOUR)
    write(
        store,
        opened={"s1": session(labels=frozenset({"pii"})), "s2": session("s2", instance="2", expires_at=late)},
        reserved={"d1": held, "d2": replace(held, decision_id="d2")},
        answers={("s1", b"d", "k"): ("d1", b"1"), ("s2", b"d", "k"): ("d2", b"2")},
    )
    write(store, finished={"d1": Held(held, Fate.SETTLED, 5)})
    with store.writing() as writing:
        writing.prune(late)
    with store.reading() as view:
        assert view.reservations(["d1", "d2"]).keys() == {"d2"}, "what is held is never forgotten"
        assert view.answers([("s1", b"d", "k"), ("s2", b"d", "k")]).keys() == {("s2", b"d", "k")}
        assert view.last_session(("default", "coder", "")).labels == {"pii"}


def test_a_store_of_another_version_is_refused(tmp_path):
    open_store(tmp_path).close()
    with sqlite3.connect(tmp_path / "store.sqlite") as raw:
        raw.execute("PRAGMA user_version = 99")
    raw.close()
    with pytest.raises(StoreError, match="version 99"):
        open_store(tmp_path)


def test_a_file_that_is_no_store_is_one_sentence(tmp_path):
    (tmp_path / "store.sqlite").write_bytes(b"x" * 5000)
    with pytest.raises(StoreError, match="not a database"):
        open_store(tmp_path)
    with pytest.raises(StoreError, match="cannot hold a store"):
        open_store(tmp_path / "none")
