"""The way to the ledger: what one worker hears of an older state folder, all know, also those who start later."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from exequatur.spool import Spool
from exequatur.transport import Code, Refusal, Server
from exequatur.v1 import audit_pb2
from pdp.metrics import Metrics
from pdp.settings import PdpSettings
from pdp.shipping import MARK, Shipping


@pytest.fixture
def spool(tmp_path):
    with_records = Spool.open(tmp_path / "spool-0", identity="test")
    yield with_records
    with_records.close()


def shipping(folder, spool, older, ledger=None):
    settings = PdpSettings(state=folder, bundle="bundles", unsafe_unsigned=True, unsafe_plaintext=True, ledger=ledger)
    return Shipping(settings.told, [spool], Metrics(), older, tls=None)


async def test_a_folder_that_was_found_older_is_so_for_whoever_starts_in_it(tmp_path, spool):
    (tmp_path / MARK).write_text("already_exists: record 7 is there with other content")
    told = []
    ships = shipping(tmp_path, spool, told.append)
    assert len(told) == 1
    await ships.stop(0)


async def test_what_another_worker_finds_is_known_within_a_second_or_so(tmp_path, spool):
    heard, told = asyncio.Event(), []

    def older(text):
        told.append(text)
        heard.set()

    ships = shipping(tmp_path, spool, older)
    await asyncio.sleep(0)
    assert told == []
    (tmp_path / MARK).write_text("already_exists: record 7 is there with other content")
    async with asyncio.timeout(5):
        await heard.wait()
    await ships.stop(0)
    assert len(told) == 1


async def test_without_a_ledger_nothing_is_waited_for(tmp_path, spool):
    ships = shipping(tmp_path, spool, pytest.fail)
    async with asyncio.timeout(1):
        await ships.heard(1)
    await ships.stop(0)
    assert not (tmp_path / MARK).exists()


@contextlib.asynccontextmanager
async def ledger(append):
    """Serve what `append` answers, on loopback."""
    service = audit_pb2.DESCRIPTOR.services_by_name["AuditService"]
    server = Server({f"/{service.full_name}/Append": append}, (service,))
    port = server.listen_tcp("127.0.0.1:0", None)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def test_a_worker_waits_until_the_ledger_knows_its_first_record(tmp_path, spool):
    asked, answer = asyncio.Event(), asyncio.Event()

    async def append(message, peer, left):
        asked.set()
        await answer.wait()
        return audit_pb2.AppendResponse(acknowledged=1).SerializeToString()

    spool.append_many([{"kind": "bundle"}])
    async with ledger(append) as address:
        ships = shipping(tmp_path, spool, pytest.fail, address)
        waiting = asyncio.create_task(ships.heard(1, at_most_s=30))
        async with asyncio.timeout(10):
            await asked.wait()
            assert not waiting.done()
            answer.set()
            await waiting
        await ships.stop(0)


async def test_a_worker_waits_no_longer_than_it_was_told_to(tmp_path, spool):
    answer = asyncio.Event()

    async def append(message, peer, left):
        await answer.wait()
        return audit_pb2.AppendResponse(acknowledged=1).SerializeToString()

    spool.append_many([{"kind": "bundle"}])
    async with ledger(append) as address:
        ships = shipping(tmp_path, spool, pytest.fail, address)
        async with asyncio.timeout(10):
            await ships.heard(1, at_most_s=0.05)
        assert spool.acknowledged == 0
        answer.set()
        await ships.stop(0)


async def test_a_ledger_that_has_other_records_of_ours_is_heard_before_anything_is_served(tmp_path, spool):
    async def append(message, peer, left):
        raise Refusal(Code.ALREADY_EXISTS, "record 1 of `test` is there with other content")

    told = []
    spool.append_many([{"kind": "bundle"}])
    async with ledger(append) as address:
        ships = shipping(tmp_path, spool, told.append, address)
        async with asyncio.timeout(10):
            await ships.heard(1, at_most_s=30)
        assert len(told) == 1
        assert "record 1" in told[0]
        assert "record 1" in (tmp_path / MARK).read_text()
        await ships.stop(0)
    assert len(told) == 1, "once is enough"
