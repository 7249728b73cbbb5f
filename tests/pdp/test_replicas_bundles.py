"""Several decision points on one database: none serves what is older than what another one served, and all go on."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

import crews
from crews import House, served, until
from exequatur.trust.bundle import Floor
from pdp import slot
from pdp.control.opening import open_store
from pdp.orders import Orders
from publisher import KID


@pytest.fixture
def house(tmp_path, monkeypatch, database):
    monkeypatch.setattr(slot, "PAUSE_S", (0.05, 0.1))
    made = crews.house(tmp_path, monkeypatch)
    made.settings["database"] = database
    return made


@pytest.fixture
def elsewhere(tmp_path, database):
    """The store, as another replica has it."""
    with contextlib.closing(open_store(tmp_path, database)) as store:
        yield store


def digest(house, sequence):
    """Give the digest of a bundle that nobody has put anywhere yet."""
    from pdp.bundle.source import unsafe_read_unsigned

    data = house.publish(sequence, folder="elsewhere")
    return unsafe_read_unsigned(data).digest, data


async def test_who_lags_goes_on_with_the_older_one_and_brings_the_newer_later(house, elsewhere):
    house.publish(7)
    async with house.open():
        await until(served(house, 7, 7))
        newer, data = digest(house, 8)
        elsewhere.raise_floor("default", Floor(8, newer))
        await until(lambda: house.status()["floor"] == 8)
        heard = house.status()["confirmed_at"]
        looked = house.status()["last_look_at"]
        await until(lambda: house.status()["last_look_at"] != looked)
        assert house.sequences() == [7, 7]
        assert (house.status()["faults"], house.status()["confirmed_at"]) == ([], heard), "it is no word of the newest"
        house.workers[0].kill()  # and its next life serves the same again
        await until(served(house, 7, 7))
        (house.folder / "bundles" / "8.tar.gz").write_bytes(data)
        await until(served(house, 8, 8))
        assert house.alarms() == []
        assert house.status()["faults"] == []


async def test_who_starts_behind_the_others_serves_nothing_until_it_has_the_newest(house, elsewhere):
    house.publish(7)
    async with house.open():
        await until(served(house, 7, 7))
    newer, data = digest(house, 8)
    elsewhere.raise_floor("default", Floor(8, newer))
    async with house.open():
        await until(lambda: "sequence 7" in "".join(house.status().get("faults", ())))
        assert house.sequences() == [0, 0]
        assert house.ready.held != ()
        (house.folder / "bundles" / "8.tar.gz").write_bytes(data)
        await until(served(house, 8, 8))
        assert house.alarms() == []


async def test_a_newer_one_that_another_brings_at_that_moment_is_no_alarm(house, elsewhere, monkeypatch):
    newer, data = digest(house, 8)
    load, raised = Orders._load, []

    def meanwhile(self, order):
        if not raised:
            raised.append(True)
            elsewhere.raise_floor("default", Floor(8, newer))
        return load(self, order)

    monkeypatch.setattr(Orders, "_load", meanwhile)
    house.publish(7)
    async with house.open():
        await until(lambda: "a newer bundle came into force" in "".join(house.status().get("faults", ())))
        assert house.sequences() == [0, 0]
        (house.folder / "bundles" / "8.tar.gz").write_bytes(data)
        await until(served(house, 8, 8))
        assert house.alarms() == []


async def test_replicas_that_are_started_again_one_after_another_serve_at_once(house, tmp_path):
    replicas = [House(tmp_path / name, dict(house.settings)) for name in "abc"]
    for sequence in (1, 2, 2):
        if not (house.folder / "bundles" / f"{sequence}.tar.gz").exists():
            house.publish(sequence)
        for each in replicas:
            each.folder.mkdir(exist_ok=True)
            async with each.open(workers=1):
                await until(served(each, sequence))
                assert each.ready.held == ()
                assert each.alarms() == []


async def test_a_floor_that_the_database_has_forgotten_is_raised_again_with_an_alarm(
    house, elsewhere, postgres, database
):
    house.publish(7)
    async with house.open():
        await until(served(house, 7, 7))
        with contextlib.closing(postgres.admin(database.read_text().strip().rpartition("/")[2])) as admin:
            admin.execute("DELETE FROM floors")
        await until(lambda: (floor := elsewhere.floor("default")) is not None and floor.sequence == 7)
        assert "did not know that sequence 7 was served" in house.alarms()[0]
        assert house.sequences() == [7, 7]


async def test_a_database_that_hangs_delays_no_revocation(house, postgres):
    house.publish(1)
    async with house.open():
        await until(served(house, 1, 1))
        postgres.freeze()
        try:
            slowest = 0.0
            house.trust("other")
            began = time.monotonic()
            while not house.workers[0].standing().withdrawn:
                looked = time.monotonic()
                await asyncio.sleep(0.01)
                slowest = max(slowest, time.monotonic() - looked)
            assert time.monotonic() - began < 2
            assert slowest < 1, "nobody waits for the database where everything else is done"
        finally:
            postgres.thaw()
        house.trust(KID)
        await until(lambda: not house.workers[0].standing().withdrawn, timeout_s=20)
