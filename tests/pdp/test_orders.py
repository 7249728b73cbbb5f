"""What a worker is told: it serves the very bundle that was proved, by keys that it was given, and only when told so."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import pytest

import crews
from exequatur.trust.opened import unsafe_read_unsigned
from pdp.orders import Orders
from pdp.settings import PdpSettings
from publisher import KID, pair


class Ordered:
    """A worker's orders, and what it says to them."""

    def __init__(self, house) -> None:
        self.house, self.reader = house, asyncio.StreamReader()
        self.said: asyncio.Queue = asyncio.Queue()
        settings = PdpSettings(state=house.folder, unsafe_plaintext=True, **house.settings)
        self.orders = Orders(settings.told, self.reader, self.said.put_nowait)
        self.obeying = asyncio.create_task(self.orders.obey())

    async def told(self, verb: str, **order):
        self.reader.feed_data(json.dumps({verb: {"tenant": "default", "role": "active", **order}}).encode() + b"\n")
        return await asyncio.wait_for(self.said.get(), 10)

    def order(self, sequence: int, **changes):
        data = self.house.publish(sequence)
        return {
            "bundle": str(self.house.folder / "bundles" / f"{sequence}.tar.gz"),
            "module": "",
            "digest": unsafe_read_unsigned(data).digest.hex(),
            "sequence": sequence,
            "proved_at": datetime.now(UTC).isoformat(),
            "opa": "",
            "keys": {f"{KID}.pem": pair(KID)[1].decode()},
            "canary_percent": 0,
            "canary_max_stricter_percent": 5,
            **changes,
        }


@pytest.fixture
async def worker(tmp_path, monkeypatch):
    made = Ordered(crews.house(tmp_path, monkeypatch))
    yield made
    made.reader.feed_eof()
    await made.obeying


async def test_what_is_prepared_judges_nobody_until_it_is_committed_to(worker):
    order = worker.order(1)
    about = {"tenant": "default", "role": "active"}
    assert await worker.told("prepare", **order) == {"prepared": order["digest"], **about}
    assert worker.orders.policies.of("default").snapshot is None
    assert not worker.orders.serving.is_set()
    assert await worker.told("commit", **order) == {"serving": order["digest"], "sequence": 1, **about}
    assert worker.orders.policies.of("default").sequence == 1
    assert worker.orders.serving.is_set()


async def test_what_was_not_prepared_is_not_committed_to(worker):
    one, two = worker.order(1), worker.order(2)
    assert (await worker.told("commit", **one))["refused"] == "it was not prepared"
    await worker.told("prepare", **one)
    assert (await worker.told("commit", **two))["refused"] == "it was not prepared"
    await worker.told("prepare", **one)
    worker.reader.feed_data(json.dumps({"abort": {**one, "tenant": "default", "role": "active"}}).encode() + b"\n")
    assert (await worker.told("commit", **one))["refused"] == "it was not prepared"
    assert worker.orders.policies.of("default").snapshot is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"digest": "00" * 32}, "not the bundle that was proved"),
        ({"keys": None}, "without the keys"),
        ({"keys": {}}, "empty"),
        ({"keys": {f"{KID}.pem": pair("stranger")[1].decode()}}, "signature does not hold"),
        ({"tenant": "zoo"}, "for tenant `default`"),
        ({"bundle": "nowhere"}, "cannot be read"),
        ({"module": "nowhere"}, "nowhere"),
    ],
)
async def test_what_is_not_what_was_proved_is_refused(worker, changes, words):
    said = await worker.told("prepare", **worker.order(1, **changes))
    assert words in said["refused"]
    assert not worker.orders.serving.is_set()


async def test_what_fails_in_a_way_nobody_thought_of_is_refused(worker, monkeypatch):
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Orders, "_load", fail)
    said = await worker.told("prepare", **worker.order(1))
    assert said["refused"] == "it could not be loaded: MemoryError"
