"""Keys that are added, revoked, moved to another end, or spoilt: what was signed by them is served no longer than it may."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

import crews
from crews import served, until
from exequatur.daemon import StartError
from pdp import in_force, slot, watch
from pdp.orders import Orders

OWNER = {"ops": {"owner": "ops@example.org"}, "ann": {"owner": "ann@example.org"}}


@pytest.fixture
def house(tmp_path, monkeypatch):
    return crews.house(tmp_path, monkeypatch)


async def test_a_revoked_signers_policy_is_withdrawn_at_once_and_another_one_signs_anew(house):
    house.trust("ops", "ann", keys=OWNER)
    house.publish(1)
    async with house.open():
        await until(served(house, 1, 1))
        house.trust("ops", "ann", keys=OWNER, revoked=["ops"])
        await until(lambda: all("`ops` is revoked" in worker.standing().withdrawn for worker in house.workers))
        assert house.ready.held == ()
        await until(lambda: house.status()["state"] == "withdrawn")
        assert "`ops` is revoked" in house.status()["reason"]
        await house.workers[0].dies()
        await until(served(house, 1, 1))
        assert house.workers[0].standing().withdrawn, "from the first moment of its life"
        house.publish(2, kid="ann")
        await until(served(house, 2, 2))
        await until(lambda: not any(worker.standing().withdrawn for worker in house.workers))
        await until(lambda: house.status()["state"] == "serving")


async def test_keys_are_rotated_without_a_restart(house):
    house.publish(1)
    async with house.open():
        await until(served(house, 1, 1))
        house.trust("ops", "ann")
        house.publish(2, kid="ann")
        await until(served(house, 2, 2))
        house.trust("ann")
        house.publish(3, kid="ops")
        await until(lambda: house.status()["keys"]["kids"] == ["ann"])
        house.publish(4, kid="ann")
        await until(served(house, 4, 4))
        assert not any(worker.standing().withdrawn for worker in house.workers)


@pytest.mark.parametrize("spoil", ["empty", "broken"])
async def test_a_key_folder_that_is_of_no_use_keeps_what_is_served_and_lets_nothing_in(house, spoil):
    house.publish(1)
    async with house.open():
        await until(served(house, 1, 1))
        if spoil == "empty":
            (house.folder / "keys" / "ops.pem").unlink()
        else:
            (house.folder / "keys" / "ops.pem").write_bytes(b"no key")
        await until(house.alarms)
        house.publish(2)
        await house.workers[0].dies()
        await until(served(house, 1, 1), "a worker that begins without the keys' folder")
        looked = house.status()["last_look_at"]
        await until(lambda: house.status()["keys"]["fault"] and house.status()["last_look_at"] > looked)
        assert (house.sequences(), house.status()["state"]) == ([1, 1], "serving")
        house.trust("ops")
        await until(served(house, 2, 2))
        assert house.status()["keys"]["fault"] == ""
        assert house.metrics.registry.get_sample_value("exequatur_alarms_total") == 1


def holding_the_second(monkeypatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Have workers wait while they load sequence 2: what is set once they do, and what lets them go on."""
    load, begun, go = Orders._load, asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(self, order):
        if order["sequence"] == 2:
            loop.call_soon_threadsafe(begun.set)
            asyncio.run_coroutine_threadsafe(go.wait(), loop).result(10)
        return load(self, order)

    monkeypatch.setattr(Orders, "_load", slow)
    return begun, go


async def test_keys_that_change_while_a_bundle_is_prepared_are_held_against_it(house, monkeypatch):
    monkeypatch.setattr(slot, "PAUSE_S", (0.05, 0.1))
    house.trust("ops", "ann", keys=OWNER)
    house.publish(1, kid="ann")
    begun, go = holding_the_second(monkeypatch)
    async with house.open():
        await until(served(house, 1, 1))
        house.publish(2)
        await begun.wait()
        house.trust("ops", "ann", keys=OWNER, revoked=["ops"])
        await until(lambda: house.supervisor._watches["default"].policy.trusted.keys.revoked)
        go.set()
        await until(lambda: "the keys changed" in (house.status().get("refused") or {}).get("reason", ""))
        await until(lambda: "`ops` is revoked" in "".join(house.status()["faults"]))
        assert house.sequences() == [1, 1]
        assert house.status()["floor"] == 1


async def test_a_key_whose_end_is_moved_moves_the_end_of_what_it_signed(house):
    house.publish(1)
    async with house.open():
        await until(served(house, 1, 1))
        end = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0)
        house.trust("ops", keys={"ops": {"owner": "ops", "not_after": f"{end:%Y-%m-%dT%H:%M:%SZ}"}})
        await until(lambda: [worker.standing().snapshot.expires_at for worker in house.workers] == [end, end])
        await until(lambda: house.status()["serving"]["expires_at"].startswith(f"{end:%Y-%m-%dT%H:%M:%S}"))
        over = datetime.now(UTC) - timedelta(hours=1)
        house.trust("ops", keys={"ops": {"owner": "ops", "not_after": f"{over:%Y-%m-%dT%H:%M:%SZ}"}})
        await until(lambda: all(worker.standing().withdrawn for worker in house.workers))


async def test_a_revocation_that_could_not_be_judged_is_judged_again(house, monkeypatch):
    """The folder says once that it has changed: a machine out of memory then must not keep what was revoked."""
    house.trust("ops", "ann", keys=OWNER)
    house.publish(1)
    verify, failed = in_force.open_bundle, []

    def fail_once(*given, **options):
        if not failed:
            failed.append(given)
            raise MemoryError
        return verify(*given, **options)

    async with house.open():
        await until(served(house, 1, 1))
        monkeypatch.setattr(in_force, "open_bundle", fail_once)
        house.trust("ops", "ann", keys=OWNER, revoked=["ops"])
        await until(lambda: all("`ops` is revoked" in worker.standing().withdrawn for worker in house.workers))
        assert failed


async def test_a_keys_end_that_is_moved_while_workers_commit_is_no_less_its_end(house, monkeypatch):
    house.publish(1)
    commit, held = Orders._commit, []

    def slow(self, key, order):
        if self is house.workers[1].orders and not held:
            held.append(lambda: commit(self, key, order))
        else:
            commit(self, key, order)

    async with house.open():
        await until(served(house, 1, 1))
        monkeypatch.setattr(Orders, "_commit", slow)
        house.publish(2)
        await until(lambda: held)
        end = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0)
        house.trust("ops", keys={"ops": {"owner": "ops", "not_after": f"{end:%Y-%m-%dT%H:%M:%SZ}"}})
        await until(lambda: house.supervisor._watches["default"].policy.renewed)
        held[0]()
        await until(served(house, 2, 2))
        await until(lambda: [worker.standing().snapshot.expires_at for worker in house.workers] == [end, end])


async def test_a_keys_end_comes_also_while_the_workers_cannot_be_told_of_it(house, monkeypatch):
    """Keys that broke since, or a proof that takes minutes, keep workers from loading anew what will end sooner."""
    house.publish(1)
    async with house.open():
        await until(served(house, 1, 1))
        monkeypatch.setattr(in_force.InForce, "fault", "the folder is broken by now")
        end = (datetime.now(UTC) + timedelta(seconds=2)).replace(microsecond=0)
        house.trust("ops", keys={"ops": {"owner": "ops", "not_after": f"{end:%Y-%m-%dT%H:%M:%SZ}"}})
        await until(lambda: all("was good until" in worker.standing().withdrawn for worker in house.workers))


async def test_a_clock_that_was_ahead_makes_no_policy_fresh(house, monkeypatch):
    """A source that was heard an hour from now is away since: for that hour its policy would never be stale."""
    ahead = timedelta(hours=1)

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + ahead

    house.publish(1)
    async with house.open(max_staleness_s=1):
        await until(served(house, 1, 1))
        with monkeypatch.context() as patch:
            patch.setattr(watch, "datetime", Clock)
            policy = house.supervisor._watches["default"].policy
            await until(lambda: policy.confirmed > datetime.now(UTC) + ahead / 2)
            (house.folder / "bundles" / "1.tar.gz").rename(house.folder / "away.tar.gz")
            await until(lambda: house.status()["faults"])
        await until(lambda: house.status()["state"] == "stale")
        assert all(worker.standing().silenced(datetime.now(UTC)) for worker in house.workers)


async def test_a_proof_from_before_the_keys_changed_does_not_say_until_when_it_counts(house, monkeypatch):
    monkeypatch.setattr(slot, "PAUSE_S", (0.05, 0.1))
    house.publish(1)
    begun, go = holding_the_second(monkeypatch)
    async with house.open():
        await until(served(house, 1, 1))
        house.publish(2)
        await begun.wait()
        end = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0)
        house.trust("ops", keys={"ops": {"owner": "ops", "not_after": f"{end:%Y-%m-%dT%H:%M:%SZ}"}})
        await until(
            lambda: house.supervisor._watches["default"].policy.trusted.keys.policy.terms["ops"].not_after == end
        )
        go.set()
        await until(served(house, 2, 2))
        await until(lambda: house.status()["serving"]["sequence"] == 2)
        assert house.status()["serving"]["expires_at"].startswith(f"{end:%Y-%m-%dT%H:%M:%S}")


async def test_keys_that_lost_their_terms_while_we_were_down_do_not_start(house):
    """Without its `keys.json` each key of the folder would be enough, those that were revoked too."""
    house.publish(1)
    house.trust("ops", "ann", keys=OWNER, revoked=["ann"])
    async with house.open():
        await until(served(house, 1, 1))
    (house.folder / "keys" / "keys.json").unlink()
    with pytest.raises(StartError, match=r"has lost its `keys\.json`"):
        async with house.open():
            pass
    house.trust("ops", keys={"ops": OWNER["ops"]})
    async with house.open():
        await until(served(house, 1, 1))


async def test_terms_that_keys_were_given_while_we_ran_are_not_forgotten(house):
    house.publish(1)
    async with house.open():
        await until(served(house, 1, 1))
        house.trust("ops", "ann", keys=OWNER, revoked=["ann"])
        await until(lambda: house.supervisor._watches["default"]._shared.store.had_key_policy("default"))
    (house.folder / "keys" / "keys.json").unlink()
    with pytest.raises(StartError, match=r"has lost its `keys\.json`"):
        async with house.open():
            pass
