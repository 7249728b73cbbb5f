"""What reaches the workers of a decision point, and what does not: bundles, freshness, tenants, candidates."""

from __future__ import annotations

import asyncio
import json
import shutil
from datetime import UTC, datetime

import pytest

import crews
from crews import House, served, until
from exequatur.daemon import StartError
from exequatur.trust.bundle import Floor
from pdp import slot, watch
from pdp.bundle.proving import BundleRejected, NotProved
from pdp.control.opening import open_store
from pdp.orders import Orders
from pdp.placing import overlap, roots_of

OWNER = {"ops": {"owner": "ops@example.org"}, "ann": {"owner": "ann@example.org"}}


@pytest.fixture
def house(tmp_path, monkeypatch):
    return crews.house(tmp_path, monkeypatch)


async def test_every_worker_serves_what_was_proved_and_then_what_is_newer(house):
    house.publish(1)
    async with house.open():
        await until(served(house, 1, 1))
        assert house.ready.held == ()
        await until(lambda: house.status().get("serving"))
        status = house.status()
        assert (status["state"], status["reason"], status["floor"], status["refused"]) == ("serving", "", 1, None)
        assert (status["serving"]["sequence"], status["serving"]["kids"]) == (1, ["ops"])
        assert status["keys"] == {"kids": ["ops"], "threshold": 1, "revoked": [], "fault": ""}
        house.publish(3)
        await until(served(house, 3, 3))
        await until(lambda: len(set(house.status()["workers"].values()) - {status["serving"]["digest"]}) == 1)
        house.publish(2)
        house.publish(4, kid="stranger")
        await until(lambda: "`stranger`" in "".join(house.status()["faults"]))
        assert house.sequences() == [3, 3]
        value = house.metrics.registry.get_sample_value
        assert value("exequatur_bundle_sequence", {"tenant": "default"}) == 3
        assert value("exequatur_bundle_activations_total", {"tenant": "default"}) == 2
        assert value("exequatur_bundle_state", {"tenant": "default", "state": "serving"}) == 1
        # What nobody serves any more is not kept, nor a link to it.
        digest = house.status()["serving"]["digest"]
        await until(lambda: {path.name for path in (house.state / "serving").iterdir()} == {f"{digest}.tar.gz"})


async def test_a_worker_that_cannot_serve_it_keeps_it_from_all(house, monkeypatch):
    house.publish(1)
    load = Orders._load

    def fail_once(self, order):
        if self is house.workers[1].orders and order["sequence"] == 2 and not failed:
            failed.append(order)
            raise BundleRejected("it has no memory left")
        return load(self, order)

    failed: list[object] = []
    monkeypatch.setattr(Orders, "_load", fail_once)
    monkeypatch.setattr(slot, "PAUSE_S", (0.3, 0.3))
    async with house.open():
        await until(served(house, 1, 1))
        house.publish(2)
        await until(lambda: (house.status().get("refused") or {}).get("reason") == "it has no memory left")
        assert house.sequences() == [1, 1]
        assert house.status()["floor"] == 1
        await until(served(house, 2, 2), "another try")
        await until(lambda: house.status()["refused"] is None)


async def test_a_worker_that_dies_begins_with_what_is_in_force(house):
    house.publish(1)
    async with house.open(max_staleness_s=3600):
        await until(served(house, 1, 1))
        house.workers[0].kill()
        house.publish(2)
        await until(served(house, 2, 2))
        await house.workers[1].dies()
        await until(served(house, 2, 2))
        assert house.workers[1].standing().trusted_until is not None


async def test_a_worker_that_does_not_answer_is_ended_and_delays_nobody_for_ever(house, monkeypatch):
    monkeypatch.setattr("pdp.crew.PREPARE_S", 0.2)
    monkeypatch.setattr(slot, "PAUSE_S", (0.05, 0.1))
    house.publish(1)
    async with house.open():
        await until(served(house, 1, 1))
        house.workers[0].deaf = True
        house.publish(2)
        await until(lambda: "in time" in (house.status().get("refused") or {}).get("reason", ""))
        house.workers[0].deaf = False
        await until(served(house, 2, 2))


async def test_a_source_that_is_not_heard_makes_policy_stale_also_over_a_restart(house):
    house.publish(1)
    async with house.open(max_staleness_s=1):
        await until(served(house, 1, 1))
        (house.folder / "bundles" / "1.tar.gz").rename(house.folder / "away.tar.gz")
        await until(lambda: house.status().get("state") == "stale")
        assert all(worker.standing().silenced(datetime.now(UTC)) for worker in house.workers)
    async with house.open(max_staleness_s=1):
        await until(served(house, 1, 1))
        assert all("has not been heard" in worker.standing().silenced(datetime.now(UTC)) for worker in house.workers)
        (house.folder / "away.tar.gz").rename(house.folder / "bundles" / "1.tar.gz")
        await until(lambda: not any(worker.standing().silenced(datetime.now(UTC)) for worker in house.workers))


async def test_after_a_restart_without_its_source_the_kept_copy_serves(house):
    house.publish(1)
    async with house.open():
        await until(served(house, 1, 1))
    shutil.rmtree(house.folder / "bundles")
    async with house.open():
        await until(served(house, 1, 1))
        await until(lambda: (house.status().get("serving") or {}).get("sequence") == 1)
        assert house.status()["state"] == "serving"
        assert "cannot be read" in "".join(house.status()["faults"]), "its source is away all the same"
    house.trust("ann")
    async with house.open():
        await until(lambda: "no key `ops`" in house.status().get("reason", ""))
        assert house.sequences() == [0, 0]
        assert house.alarms() == []


@pytest.mark.parametrize("other", ["edited", "another signed one"])
async def test_an_edited_kept_copy_is_refused(house, other):
    house.publish(1)
    async with house.open():
        await until(served(house, 1, 1))
        await until(lambda: house.status().get("serving"))
    shutil.rmtree(house.folder / "bundles")
    (kept,) = (house.state / "serving").glob("*.tar.gz")
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 1
    kept.write_bytes(bytes(data) if other == "edited" else house.publish(2, folder="other"))
    async with house.open():
        await until(house.alarms)
        assert "the kept copy" in house.alarms()[0]
        await until(lambda: house.status().get("state") == "none")
        assert house.sequences() == [0, 0]
        assert house.ready.held != ()


async def test_what_is_not_proved_is_refused_once_and_what_the_machine_failed_is_tried_again(
    house, monkeypatch, caplog
):
    monkeypatch.setattr(slot, "PAUSE_S", (0.02, 0.02))
    tries: list[str] = []

    def fail(*_, **__):
        tries.append("again")
        raise NotProved("it was not proved within 60 s") if len(tries) < 3 else BundleRejected("a case failed")

    house.publish(1)
    async with house.open():
        await until(served(house, 1, 1))
        monkeypatch.setattr("pdp.placing.prove", fail)
        house.publish(2)
        await until(lambda: (house.status().get("refused") or {}).get("reason") == "a case failed")
        looked = house.status()["last_look_at"]
        await until(lambda: house.status()["last_look_at"] > looked)
    assert len(tries) == 3
    refusals = [record.getMessage() for record in caplog.records if "a bundle is refused" in record.getMessage()]
    assert len(refusals) == 2, "each is said once"
    assert house.status()["refused"]["origin"] == "2.tar.gz"


async def test_a_floor_that_another_replica_raised_is_an_alarm_and_the_old_bundle_stays(house, monkeypatch):
    monkeypatch.setattr(slot, "PAUSE_S", (0.05, 0.1))
    house.publish(1)
    load = Orders._load

    def meanwhile(self, order):
        if order["sequence"] == 2:
            replica = open_store(house.state)
            replica.raise_floor("default", Floor(2, b"another"))
            replica.close()
        return load(self, order)

    monkeypatch.setattr(Orders, "_load", meanwhile)
    async with house.open():
        await until(served(house, 1, 1))
        house.publish(2)
        await until(house.alarms)
        assert "with other content" in house.alarms()[0]
        assert house.sequences() == [1, 1]
        await until(lambda: "sequence 2 was served with other content" in "".join(house.status()["faults"]))


async def test_nothing_below_the_floor_of_the_settings_is_served(house):
    house.publish(4)
    async with house.open(floor=5):
        await until(lambda: "below the `floor`" in house.status().get("reason", ""))
        assert house.ready.held != ()
        house.publish(5)
        await until(served(house, 5, 5))
        assert house.ready.held == ()


async def test_tenants_have_sources_keys_floors_and_states_of_their_own(house):
    acme, zoo = house.trust("ann", folder="acme-keys"), house.trust("zoe", folder="zoo-keys")
    house.publish(7, folder="acme", kid="ann", tenant="acme")
    tenants = [
        {"tenant": "acme", "bundle": str(house.folder / "acme"), "keys": acme},
        {"tenant": "zoo", "bundle": str(house.folder / "zoo"), "keys": zoo},
    ]
    house.settings = {"tenants": tenants}
    async with house.open():
        await until(served(house, 7, 7, tenant="acme"))
        await until(lambda: house.ready.held == (), "ready without a bundle for zoo")
        assert "no bundle has been served" in house.workers[0].standing("zoo").silenced(datetime.now(UTC))
        await until(lambda: house.status("zoo").get("state") == "none")
        # Another tenant's bundle, and one by another tenant's key, are nothing to zoo.
        house.publish(8, folder="zoo", kid="zoe", tenant="acme")
        house.publish(9, folder="zoo", kid="ann", tenant="zoo")
        await until(lambda: len(house.status("zoo")["faults"]) >= 3)
        assert house.sequences("zoo") == [0, 0]
        house.publish(1, folder="zoo", kid="zoe", tenant="zoo")
        await until(served(house, 1, 1, tenant="zoo"))
        await until(lambda: (house.status("acme")["floor"], house.status("zoo")["floor"]) == (7, 1))
        house.trust("nobody", folder="zoo-keys")
        await until(lambda: all(worker.standing("zoo").withdrawn for worker in house.workers))
        assert not any(worker.standing("acme").withdrawn for worker in house.workers)


async def test_nobody_is_ready_before_every_tenant_was_looked_at(house, monkeypatch):
    asked, answer = asyncio.Event(), asyncio.Event()

    class Slow(crews.supervisor.open_source(house_feed(house)).__class__):
        async def refresh(self) -> None:
            asked.set()
            await answer.wait()

    def opened(feed):
        return Slow(house.folder / "none") if feed.tenant == "zoo" else open_source(feed)

    open_source = crews.supervisor.open_source
    monkeypatch.setattr(crews.supervisor, "open_source", opened)
    house.publish(1, tenant="acme")
    common = {"bundle": str(house.folder / "bundles"), "keys": house.folder / "keys"}
    house.settings = {"tenants": [{"tenant": "acme", **common}, {"tenant": "zoo", **common}]}
    async with house.open():
        await until(served(house, 1, 1, tenant="acme"))
        await asked.wait()
        assert house.ready.held != ()
        answer.set()
        await until(lambda: house.ready.held == ())


def house_feed(house: House):
    return crews.PdpSettings(state=house.state, unsafe_plaintext=True, **house.settings).feeds[0]


async def test_a_candidate_is_tried_beside_and_dropped_when_it_is_gone_or_in_force(house):
    house.publish(1)
    house.publish(2, folder="candidates")
    async with house.open(candidate=str(house.folder / "candidates"), canary_percent=5):
        await until(lambda: all(worker.standing().trial for worker in house.workers))
        trial = house.workers[0].standing().trial
        assert (trial.snapshot.sequence, trial.percent, trial.max_stricter_percent) == (2, 5, 5)
        await until(lambda: house.status()["candidate"])
        house.compared = {"same": 8, "stricter": 2, "skipped": 5}
        await until(lambda: (house.status().get("candidate") or {}).get("judged") == 10)
        shown = house.status()["candidate"]
        assert (shown["sequence"], shown["mode"], shown["stricter"], shown["halted"]) == (2, "canary", 2, "")
        assert house.status()["floor"] == 1, "a candidate raises no floor"
        (house.folder / "candidates" / "2.tar.gz").unlink()
        await until(lambda: not any(worker.standing().trial for worker in house.workers))
        house.publish(3, folder="candidates")
        await until(lambda: all(worker.standing().trial for worker in house.workers))
        shutil.copy(house.folder / "candidates" / "3.tar.gz", house.folder / "bundles")
        await until(served(house, 3, 3))
        assert not any(worker.standing().trial for worker in house.workers)
        await until(lambda: house.status()["candidate"] is None)


async def test_a_halted_candidate_stays_halted_over_a_restart(house):
    house.publish(1)
    house.publish(2, folder="candidates")
    settings = {"candidate": str(house.folder / "candidates")}
    async with house.open(**settings):
        await until(lambda: all(worker.standing().trial for worker in house.workers))
        digest = house.workers[0].standing().trial.snapshot.digest
        house.workers[0].orders.halted("default", digest, "the candidate failed: it loops")
        await until(lambda: not any(worker.standing().trial for worker in house.workers))
        await until(lambda: house.status()["candidate"]["halted"] == "the candidate failed: it loops")
    async with house.open(**settings):
        await until(served(house, 1, 1))
        await until(lambda: (house.status().get("candidate") or {}).get("halted") == "the candidate failed: it loops")
        assert not any(worker.standing().trial for worker in house.workers)
        house.publish(3, folder="candidates")
        await until(lambda: all(worker.standing().trial for worker in house.workers), "another candidate")


async def test_a_candidate_that_is_broken_changes_nothing(house):
    house.publish(1)
    house.publish(2, folder="candidates", files={"all.cedar": b"permit (everything);"})
    async with house.open(candidate=str(house.folder / "candidates")):
        await until(served(house, 1, 1))
        await until(lambda: house.supervisor._watches["default"].candidate.slot.refused)
        assert not any(worker.standing().trial for worker in house.workers)
        assert (house.status()["state"], house.status()["refused"]) == ("serving", None)
        (fault,) = house.status()["faults"]
        assert fault.startswith("the candidate: `2.tar.gz`: ")
        house.publish(3, folder="candidates")
        await until(lambda: all(worker.standing().trial for worker in house.workers))
        await until(lambda: house.status()["faults"] == [])


async def test_a_refresh_gives_the_status_after_the_look(house, monkeypatch):
    house.publish(1)
    async with house.open():
        await until(served(house, 1, 1))
        monkeypatch.setattr(watch, "LOOK_S", 60)
        await asyncio.sleep(0.05)
        house.publish(2)
        first, second = await asyncio.gather(*(worker.orders.refresh("default") for worker in house.workers))
        assert first["tenants"][0]["serving"]["sequence"] == second["tenants"][0]["serving"]["sequence"] == 2
        assert house.sequences() == [2, 2]
        assert json.loads((house.state / "status.json").read_text())["tenants"][0]["serving"]["sequence"] == 2
        assert (await house.workers[0].orders.refresh("nobody"))["tenants"]


async def test_a_state_folder_that_one_worker_finds_older_is_trusted_by_none(house):
    house.publish(1)
    async with house.open():
        await until(served(house, 1, 1))
        house.workers[0].orders.distrusted("the state folder is older")
        await until(lambda: all(worker.standing().withdrawn for worker in house.workers))
        house.publish(2)
        await until(served(house, 2, 2))
        await house.workers[1].dies()
        await until(served(house, 2, 2))
        assert [worker.standing().withdrawn for worker in house.workers] == 2 * ["the state folder is older"]
        assert (house.status()["state"], house.status()["reason"]) == ("withdrawn", "the state folder is older")


async def test_what_cannot_be_asked_does_not_start(house):
    house.publish(1)
    with pytest.raises(StartError):
        async with house.open(bundle="oci://host/Not a name"):
            pass


def test_roots_that_two_bundles_share():
    assert roots_of({".manifest": b'{"roots": ["acme", "/shared/x/"]}'}) == ("acme", "shared/x")
    assert roots_of({}) == roots_of({".manifest": b'{"roots": []}'}) == ("",)
    assert overlap(("acme",), ("zoo",)) is None
    assert overlap(("acme",), ("acmes",)) is None
    assert overlap(("acme", "shared"), ("zoo", "shared/x")) == "shared/x"
    assert overlap(("",), ("zoo",)) == "zoo"
    assert overlap(("zoo",), ("zoo",)) == "zoo"
