"""What people are told of what is served: in the status, in the log, and by alarms; each thing once, while it holds."""

from __future__ import annotations

import asyncio
import errno
import shutil
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

import crews
from crews import served, until
from exequatur.daemon import StartError
from pdp.activation import ACTIVE
from pdp.bundle.source import Look
from pdp.control.store import StoreError
from pdp.settings import Feed
from pdp.slot import Slot
from pdp.status import read

OWNER = {"ops": {"owner": "ops@example.org"}, "ann": {"owner": "ann@example.org"}}


@pytest.fixture
def house(tmp_path, monkeypatch):
    return crews.house(tmp_path, monkeypatch)


async def test_an_alarm_about_keys_ends_when_they_are_mended_and_is_raised_anew(house, caplog):
    caplog.set_level("INFO")
    house.publish(1)
    key = house.folder / "keys" / "ops.pem"
    good = key.read_bytes()
    async with house.open():
        await until(served(house, 1, 1))
        house.workers[0].orders.alarm("the state folder is older")
        for times in (1, 2):
            key.write_bytes(b"no key")
            await until(lambda: len(house.alarms()) == 2)
            assert "are as they were: `ops.pem`" in house.alarms()[1]
            key.write_bytes(good)
            await until(lambda: len(house.alarms()) == 1)
            assert house.metrics.registry.get_sample_value("exequatur_alarms_total") == 1 + times
        assert "the state folder is older" in house.alarms()[0], "what has happened stays"
    said = [line.partition("the keys of tenant")[0] for line in caplog.messages if "are as they were" in line]
    assert said == 2 * ["alarm: ", "an alarm is over: "]


@pytest.mark.parametrize("away", [True, False])
async def test_while_a_bundle_is_proved_the_status_says_so(house, monkeypatch, away):
    """A restart with the source away takes seconds, and somebody looks meanwhile."""
    house.publish(1)
    if away:
        async with house.open():
            await until(served(house, 1, 1))
        shutil.rmtree(house.folder / "bundles")
    prove, begun, go = crews.placing.prove, threading.Event(), threading.Event()

    def slow(*given, **options):
        begun.set()
        go.wait(10)
        return prove(*given, **options)

    monkeypatch.setattr("pdp.placing.prove", slow)
    async with house.open():
        await until(begun.is_set)
        says = "the copy of what was served last is being proved" if away else "a bundle was found, and is being proved"
        assert (house.status()["state"], house.status()["reason"]) == ("none", says)
        go.set()
        await until(served(house, 1, 1))
        await until(lambda: house.status()["reason"] == "")


async def test_a_source_that_gives_nothing_is_not_called_a_refused_bundle(house, caplog):
    async with house.open():
        await until(lambda: any("holds no bundle" in fault for fault in house.status()["faults"]))
        await until(lambda: any("has no policy" in line for line in caplog.messages))
    said = [line for line in caplog.messages if "holds no bundle" in line]
    assert len(said) == 2
    assert said[0].startswith("no bundle comes from a source: ")
    assert said[1].startswith("`default` has no policy, and every action is denied: ")


async def test_a_source_that_is_back_is_a_fault_no_longer(house, caplog):
    caplog.set_level("INFO")
    house.publish(1)
    async with house.open():
        await until(served(house, 1, 1))
        for _ in range(2):
            (house.folder / "bundles").rename(house.folder / "away")
            await until(lambda: any("cannot be read" in fault for fault in house.status()["faults"]))
            (house.folder / "away").rename(house.folder / "bundles")
            await until(lambda: house.status()["faults"] == [])
    said = caplog.messages
    assert said.count("the source of `default` is heard again") == 2
    assert sum("no bundle comes from a source" in line for line in said) == 2


@pytest.mark.parametrize(("ahead_s", "answered_s", "stays"), [(0, -5, True), (0, 5, False), (3600, 5, False)])
async def test_only_an_answer_that_is_newer_than_its_silence_says_that_a_source_is_back(
    tmp_path, ahead_s, answered_s, stays
):
    """Keys that are mended make an old answer good, and say nothing of the server; nor does a clock that was ahead."""
    now = datetime.now(UTC)
    away = now + timedelta(seconds=ahead_s)
    looks = [
        (away, Look(None, (), None)),
        (away + timedelta(seconds=1), Look(None, ("it is away",), None, away=("it is away",))),
        (now + timedelta(seconds=10), Look(None, (), now + timedelta(seconds=answered_s))),
    ]
    source = SimpleNamespace(look=lambda *_, **__: looks[0][1])
    shared = SimpleNamespace(metrics=SimpleNamespace(looked=lambda *_: None))
    watched = Slot(Feed(bundle=str(tmp_path), keys=tmp_path), ACTIVE, source, shared)
    while looks:
        await watched.look(None, looks[0][0], None)
        looks.pop(0)
    assert [*watched.faults] == (["it is away"] if stays else [])


async def test_what_is_wrong_with_a_bundle_stays_when_its_source_is_heard(house):
    house.publish(1)
    async with house.open():
        await until(served(house, 1, 1))
        house.publish(2, kid="stranger")
        await until(lambda: "`stranger`" in "".join(house.status()["faults"]))
        looked = house.status()["last_look_at"]
        await until(lambda: house.status()["last_look_at"] > looked)
        assert "`stranger`" in "".join(house.status()["faults"])
        house.publish(3)
        await until(served(house, 3, 3))
        await until(lambda: house.status()["faults"] == [])


async def test_a_full_disk_is_said_with_its_folder_until_there_is_room(house, monkeypatch):
    house.publish(1)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    async with house.open():
        await until(served(house, 1, 1))
        with monkeypatch.context() as patch:
            patch.setattr("pdp.placing.keep", full)
            house.publish(2)
            await until(lambda: house.status()["faults"])
            folder = house.state / "serving"
            stuck = f"no new bundle can be served: `{folder}` cannot be written: no space left on device"
            assert house.status()["faults"] == [stuck]
        await until(served(house, 2, 2))
        await until(lambda: house.status()["faults"] == [])


async def test_what_cannot_be_cleared_away_is_said_once_with_its_path_and_keeps_no_status_back(house, caplog):
    house.publish(1)
    async with house.open():
        await until(served(house, 1, 1))
        stuck = house.state / "serving" / "old.module"
        stuck.mkdir()
        said = f"`{stuck}` cannot be cleared away: is a directory"
        await until(lambda: said in caplog.messages)
        house.publish(2)
        await until(served(house, 2, 2))
        await until(lambda: read(house.state)["tenants"][0]["serving"]["sequence"] == 2)
    assert caplog.messages.count(said) == 1


async def test_a_store_that_can_be_read_again_is_a_fault_no_longer(house, monkeypatch):
    house.publish(1)

    def broken(*_):
        raise StoreError("the store is locked")

    async with house.open():
        await until(served(house, 1, 1))
        store, look = house.supervisor._shared.store, house.supervisor._watches["default"]._slot
        with monkeypatch.context() as patch:
            patch.setattr(store, "floor", broken)
            await until(lambda: look.faults)
            assert [*look.faults] == ["no new bundle can be served: the store is locked"]
        await until(lambda: not look.faults)


def of_the_policy(caplog) -> list[str]:
    """Give what was logged of what has become of the policy, with its level."""
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    return [f"{level}: {line}" for level, line in said if line.startswith("the policy of") or "has no policy" in line]


async def test_a_policy_that_goes_stale_is_logged_once_and_when_it_serves_again(house, caplog):
    caplog.set_level("INFO")
    house.publish(1)
    async with house.open(max_staleness_s=1):
        await until(served(house, 1, 1))
        assert of_the_policy(caplog) == []
        (house.folder / "bundles" / "1.tar.gz").rename(house.folder / "away.tar.gz")
        await until(lambda: house.status()["state"] == "stale")
        heard = house.status()["confirmed_at"]
        assert house.status()["reason"] == f"its source was not heard since {heard}, and `max_staleness_s` is 1"
        await until(lambda: of_the_policy(caplog))
        await asyncio.sleep(0.1)
        (house.folder / "away.tar.gz").rename(house.folder / "bundles" / "1.tar.gz")
        await until(lambda: len(of_the_policy(caplog)) == 2)
    stale = (
        f"ERROR: the policy of `default` is stale, and every action is denied: its source was not heard since {heard}"
    )
    assert of_the_policy(caplog)[0].startswith(stale)
    assert of_the_policy(caplog)[1:] == ["INFO: the policy of `default` serves again"]


async def test_a_policy_that_expires_or_is_withdrawn_is_logged_once(house, caplog):
    caplog.set_level("INFO")
    house.trust("ops", "ann", keys=OWNER)
    house.publish(1, days=2.5 / 86400)
    async with house.open():
        await until(served(house, 1, 1))
        await until(lambda: of_the_policy(caplog))
        house.publish(2)
        await until(lambda: len(of_the_policy(caplog)) == 2)
        house.trust("ops", "ann", keys=OWNER, revoked=["ops"])
        await until(lambda: len(of_the_policy(caplog)) == 3)
        house.publish(3, kid="ann")
        await until(lambda: len(of_the_policy(caplog)) == 4)
        await asyncio.sleep(0.1)
    expired, again, withdrawn, *rest = of_the_policy(caplog)
    assert expired.endswith("is expired, and every action is denied: a new bundle must be published")
    assert withdrawn.startswith("ERROR: the policy of `default` is withdrawn, and every action is denied: ")
    assert "`ops` is revoked" in withdrawn
    assert [again, *rest] == 2 * ["INFO: the policy of `default` serves again"]


async def test_a_halted_candidate_is_logged_once(house, caplog):
    caplog.set_level("INFO")
    house.publish(1)
    house.publish(2, folder="candidates")
    async with house.open(candidate=str(house.folder / "candidates")):
        await until(lambda: all(worker.standing().trial for worker in house.workers))
        digest = house.workers[0].standing().trial.snapshot.digest
        for worker in house.workers:
            worker.orders.halted("default", digest, "the candidate failed: it loops")
        await until(lambda: not any(worker.standing().trial for worker in house.workers))
    said = [line for line in caplog.messages if "it loops" in line]
    assert said == ["a candidate of `default` is halted: the candidate failed: it loops"]


async def test_a_candidate_whose_source_is_empty_or_away_shows_in_the_status_and_alarms_nobody(house, caplog):
    caplog.set_level("INFO")
    house.publish(1)
    place = house.folder / "candidates"
    place.mkdir()
    async with house.open(candidate=str(place)):
        await until(served(house, 1, 1))
        empty = (
            f"no candidate of `default` comes from its source: `{place}` holds no bundle: put a signed `*.tar.gz` there"
        )
        await until(lambda: empty in caplog.messages)
        assert house.status()["faults"] == [], "to try nothing is nothing wrong"
        place.rmdir()
        away = f"the candidate: `{place}`: it cannot be read: no such file or directory"
        await until(lambda: house.status()["faults"] == [away])
        house.publish(2, folder="candidates")
        await until(lambda: all(worker.standing().trial for worker in house.workers))
        await until(lambda: house.status()["faults"] == [])
        shutil.copy(place / "2.tar.gz", house.folder / "bundles")
        await until(served(house, 2, 2))
        (place / "2.tar.gz").unlink()
        await until(lambda: caplog.messages.count(empty) == 2)
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert not [line for level, line in said if level not in ("INFO", "DEBUG")]
    assert [line for _, line in said].count("the source of candidates of `default` is heard again") == 1
    assert sum(line.startswith("no candidate of `default` comes from its source: ") for _, line in said) == 3


async def test_a_candidate_that_was_overtaken_is_nothing_wrong(house, caplog):
    house.publish(3)
    house.publish(2, folder="candidates")
    async with house.open(candidate=str(house.folder / "candidates")):
        await until(served(house, 3, 3))
        house.publish(4, folder="candidates")
        await until(lambda: all(worker.standing().trial for worker in house.workers))
        assert house.status()["faults"] == []
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_an_alarm_of_a_worker_is_everybodys_to_see(house, caplog):
    house.publish(1)
    async with house.open():
        await until(served(house, 1, 1))
        for worker in house.workers:
            worker.orders.alarm("the state folder is older")
        await until(house.alarms)
        assert house.alarms()[0].endswith("Z the state folder is older")
    assert [record.getMessage() for record in caplog.records].count("alarm: the state folder is older") == 1


async def test_the_query_of_a_signed_url_is_in_nothing_that_people_read(house, caplog):
    place = "https://127.0.0.1:1/live.tar.gz"
    async with house.open(bundle=f"{place}?sig=hush"):
        await until(lambda: house.status()["faults"])
        await until((house.state / "status.json").exists)
        assert house.status()["source"] == place
        assert "hush" not in (house.state / "status.json").read_text() + caplog.text
    with pytest.raises(StartError) as caught:
        async with house.open(bundle="oci://host/Not a name?hush"):
            pass
    assert "hush" not in str(caught.value)
