"""The way to the ledger: what one worker hears of an older state folder, all know, also those who start later."""

from __future__ import annotations

import asyncio

import pytest

from exequatur.spool import Spool
from pdp.metrics import Metrics
from pdp.settings import PdpSettings
from pdp.shipping import MARK, Shipping


@pytest.fixture
def spool(tmp_path):
    with_records = Spool.open(tmp_path / "spool-0", identity="test")
    yield with_records
    with_records.close()


def shipping(folder, spool, older):
    settings = PdpSettings(state=folder, bundle="bundles", unsafe_unsigned=True, unsafe_plaintext=True)
    return Shipping(settings, [spool], Metrics(), older)


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
