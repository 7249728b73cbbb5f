"""The conveyor: what is answered is durable, what cannot be made durable is denied, and nothing is spent twice."""

from __future__ import annotations

import asyncio
import datetime as dt
import time

import pytest

from conveying import Clock, desk, fates
from judging import ENFORCER, HOUR, OTHER, PERMIT, action, says, snapshot
from pdp.control.sessions import (
    BusyError,
    Fate,
    InvalidError,
    LateError,
    NotFoundError,
    Report,
    UnavailableError,
    WrongStateError,
)
from pdp.model import Effect, ReasonKind
from pdp.policies import Standing
from pdp.requests import Broken
from pdp.rounds import Rules
from policies import NOW

ALLOW, DENY = Effect.ALLOW, Effect.DENY

pytestmark = pytest.mark.usefixtures("either")
SQLITE_ALONE = pytest.mark.parametrize("either", ["sqlite"], indirect=True)


async def test_an_answer_is_on_record_and_in_the_store_before_it_leaves(tmp_path):
    async with desk(tmp_path) as parts:
        session = await parts.open()
        (answer,) = await parts.ask(action("git/push"))
        assert answer.decision.effect is ALLOW
        assert answer.decision.session == session.id
        (record,) = parts.records("decision")
        assert record["decision_id"] == answer.decision.id
        assert record["latency_us"] == answer.decision.latency_us > 0
        stored = parts.stored(session.id)
        assert (stored.steps, stored.reserved_microusd, stored.labels) == (1, 100, {"left_house"})
        assert fates(parts, answer.decision.id) == [Fate.HELD]


async def test_item_n_sees_what_items_before_it_took(tmp_path):
    async with desk(tmp_path) as parts:
        session = await parts.open(max_steps=3, budget_microusd=250)
        push, log = action("git/push"), action("git/log")
        answers = await parts.ask(push, push, push, log, log)
        assert [a.decision.effect for a in answers] == [ALLOW, ALLOW, DENY, ALLOW, DENY]
        assert "no room" in answers[2].decision.reasons[0].text
        assert "3 steps" in answers[4].decision.reasons[0].text
        assert [r["steps"] for r in parts.records("decision")] == [1, 2, 2, 3, 3]
        assert parts.stored(session.id).calls == {"git/push": 2, "git/log": 1}


async def test_an_item_that_is_no_action_is_denied_alone(tmp_path):
    async with desk(tmp_path) as parts:
        await parts.open()
        first, broken, last = await parts.ask(
            action(), Broken(text="`tool` is missing", size=3, sha256=b"\2" * 32), action()
        )
        assert [a.decision.effect for a in (first, broken, last)] == [ALLOW, DENY, ALLOW]
        assert broken.decision.reasons[0].kind is ReasonKind.INVALID
        (record,) = parts.records("refused")
        assert (record["size"], record["sha256"], record["decision_id"]) == (3, "02" * 32, broken.decision.id)


async def test_a_repeated_key_gets_the_same_answer_and_no_second_go_ahead(tmp_path):
    async with desk(tmp_path) as parts:
        session = await parts.open()
        keyed = action("git/push", idempotency_key="k")
        (first,) = await parts.ask(keyed)
        same, again = await parts.ask(keyed, keyed)
        assert not first.repeated
        assert same.repeated
        assert again.repeated
        assert same.decision == again.decision == first.decision
        assert parts.stored(session.id).steps == 1
        repeats = parts.records("repeat")
        assert [r["decision_id"] for r in repeats] == [first.decision.id] * 2
        assert repeats[0]["effect"] == "allow"
        # Another digest under the same key is simply another call.
        (other,) = await parts.ask(action("git/log", idempotency_key="k"))
        assert not other.repeated
        # Somebody else's key is somebody else's call.
        (foreign,) = await parts.ask(keyed, enforcer=OTHER)
        assert not foreign.repeated
        assert foreign.decision.effect is DENY


async def test_a_key_twice_in_one_batch_is_one_call(tmp_path):
    async with desk(tmp_path) as parts:
        session = await parts.open()
        keyed = action("git/push", idempotency_key="k")
        first, second = await parts.ask(keyed, keyed)
        assert [first.repeated, second.repeated] == [False, True]
        assert parts.stored(session.id).steps == 1


async def test_a_denial_is_repeated_too_and_outlives_a_restart(tmp_path):
    async with desk(tmp_path, snapshot(says(DENY, text="no"))) as parts:
        await parts.open()
        (first,) = await parts.ask(action(idempotency_key="k"))
    async with desk(tmp_path, snapshot(PERMIT)) as parts:
        (second,) = await parts.ask(action(idempotency_key="k"))
        assert second.repeated
        assert second.decision == first.decision
        assert second.decision.effect is DENY


async def test_settling_charges_once_and_only_the_one_who_asked(tmp_path):
    async with desk(tmp_path) as parts:
        session = await parts.open()
        executed, unused, dear, plain = [a.decision.id for a in await parts.ask(*[action("git/push")] * 4)]
        with pytest.raises(NotFoundError):
            await parts.settle(executed, enforcer=OTHER)
        with pytest.raises(NotFoundError):
            await parts.settle("none")
        assert await parts.settle(executed, cost=40) == 40
        assert await parts.settle(unused, Report.NOT_EXECUTED, cost=40) == 0
        assert await parts.settle(dear, Report.FAILED, cost=500) == 500
        assert await parts.settle(plain) == 100
        with pytest.raises(WrongStateError, match="settled"):
            await parts.settle(executed)
        stored = parts.stored(session.id)
        assert (stored.spent_microusd, stored.reserved_microusd, stored.steps) == (640, 0, 4)
        records = parts.records("settlement")
        assert [(r["decision_id"], r["charged_microusd"]) for r in records[:4]] == [
            (executed, 40),
            (unused, 0),
            (dear, 500),
            (plain, 100),
        ]
        assert records[4]["repeated"] is True
        assert records[4]["charged_microusd"] == 40


async def test_what_is_never_settled_is_charged_when_it_expires(tmp_path):
    async with desk(tmp_path, rules=Rules(dt.timedelta(minutes=1))) as parts:
        session = await parts.open()
        (answer,) = await parts.ask(action("git/push", cost=300))
        parts.clock.now += dt.timedelta(seconds=59)
        await parts.ask(action("git/log"))
        assert parts.stored(session.id).spent_microusd == 0
        parts.clock.now += dt.timedelta(seconds=1)
        await parts.ask(action("git/log"))
        assert parts.stored(session.id).spent_microusd == 300
        (record,) = [r for r in parts.records("charged") if r["decision_id"] == answer.decision.id]
        assert record["charged_microusd"] == 300
        with pytest.raises(WrongStateError, match="charged"):
            await parts.settle(answer.decision.id, Report.NOT_EXECUTED)


@pytest.mark.parametrize(
    ("enforced", "seen"),
    [
        ({ENFORCER}, [True, True, False]),
        ({f"{ENFORCER}@mcp_stdio"}, [False, True, False]),
        ({f"{ENFORCER}@", f"{ENFORCER}@grpc", "spiffe://test/other@mcp_stdio"}, [True, False, False]),
        (set(), [False, False, False]),
    ],
)
async def test_a_door_is_enforced_as_the_settings_say_but_never_where_agents_ask_and_then_act_by_themselves(
    tmp_path, enforced, seen
):
    async with desk(tmp_path, rules=Rules(enforced=frozenset(enforced))) as parts:
        await parts.open()
        await parts.ask(*(action("git/log", door=door) for door in ("", "mcp_stdio", "grpc")))
        assert [record["door_enforced"] for record in parts.records("decision")] == seen


async def test_the_sweep_charges_sessions_that_nobody_touches(tmp_path, monkeypatch):
    monkeypatch.setattr("pdp.worker.SWEEP_S", 0.02)
    async with desk(tmp_path) as parts:
        session = await parts.open()
        (answer,) = await parts.ask(action("git/push"))
        parts.clock.now += HOUR
        async with asyncio.timeout(5):
            await parts.spool.wait_for(parts.spool.last + 1)
        assert [r["decision_id"] for r in parts.records("charged")] == [answer.decision.id]
        assert parts.stored(session.id).spent_microusd == 100


async def test_a_late_settlement_is_charged_in_full(tmp_path):
    async with desk(tmp_path) as parts:
        await parts.open()
        (answer,) = await parts.ask(action("git/push"))
        parts.clock.now += dt.timedelta(minutes=10)
        with pytest.raises(WrongStateError, match="too late"):
            await parts.settle(answer.decision.id, Report.NOT_EXECUTED)
        assert [r["charged_microusd"] for r in parts.records("charged")] == [100]


async def test_a_new_session_inherits_labels_and_one_instance_has_one(tmp_path):
    async with desk(tmp_path) as parts:
        first = await parts.open(lifetime=HOUR)
        await parts.ask(action("git/push"))
        with pytest.raises(WrongStateError, match="open session already"):
            await parts.open()
        assert (await parts.open(instance="i2")).labels == frozenset()
        closed = await parts.close(first.id)
        assert closed.closed_at == NOW
        (denied,) = await parts.ask(action(session=first.id))
        assert "is over" in denied.decision.reasons[0].text
        second = await parts.open()
        assert second.labels == {"left_house"}
        # Expired is closed: the next one may open, and the record says that the last one ended.
        parts.clock.now += HOUR
        third = await parts.open()
        assert third.labels == {"left_house"}
        assert parts.stored(second.id).closed_at == second.expires_at
        events = [(r["event"], r["session"], r["by"] != "") for r in parts.records("session")]
        assert events[-2:] == [("closed", second.id, False), ("opened", third.id, True)]


async def test_a_session_gets_at_most_what_the_bundle_allows(tmp_path):
    from pdp.engine.inventory import Limits

    async with desk(tmp_path, snapshot(limits=Limits(5, 50, 60))) as parts:
        session = await parts.open(lifetime=HOUR, max_steps=9, budget_microusd=60)
        assert (session.max_steps, session.budget_microusd) == (5, 50)
        assert session.expires_at - session.opened_at == dt.timedelta(seconds=60)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"agent": "nobody"}, NotFoundError, "no such agent"),
        ({"enforcer": OTHER}, InvalidError, "agents.json"),
        ({"tenant": "acme"}, WrongStateError, "no bundle has been served for this tenant"),
        ({"lifetime": dt.timedelta(0)}, InvalidError, "lifetime"),
        ({"max_steps": -1}, InvalidError, "max_steps"),
        ({"budget_microusd": 2**53}, InvalidError, "budget_microusd"),
        ({"scope": ("git",)}, InvalidError, "scope"),
        ({"scope": ("*/x",)}, InvalidError, "scope"),
        ({"scope": ("git/" + "x" * 200,) * 200}, InvalidError, "together"),
        ({"subject": "a\nb"}, InvalidError, "control"),
        ({"subject": "a" * 257}, InvalidError, "257 characters"),
    ],
)
async def test_a_session_that_cannot_be_is_not_opened(tmp_path, changes, error, match):
    async with desk(tmp_path) as parts:
        with pytest.raises(error, match=match):
            await parts.open(**changes)
        assert parts.records() == []


async def test_the_longest_lifetime_is_no_overflow(tmp_path):
    from pdp.engine.inventory import Limits

    async with desk(tmp_path, snapshot(limits=Limits(max_lifetime_s=2**53 - 1))) as parts:
        with pytest.raises(InvalidError, match="calendar"):
            await parts.open(lifetime=dt.timedelta.max)


async def test_no_session_opens_on_policy_that_has_expired(tmp_path):
    async with desk(tmp_path) as parts:
        parts.clock.now += 25 * HOUR
        with pytest.raises(WrongStateError, match="expired"):
            await parts.open()


async def test_a_session_is_shown_to_its_enforcer_and_to_those_who_see_all(tmp_path):
    async with desk(tmp_path) as parts:
        session = await parts.open(scope=("git/log",))
        shown = await parts.show()
        assert shown.session == session
        assert [tool for tool, _ in shown.tools] == ["git/log"]
        assert (await parts.show(session.id)).session == session
        assert (await parts.show(session.id, "spiffe://auditor", sees_all=True)).session == session
        for name in ("", session.id, "none"):
            with pytest.raises(NotFoundError):
                await parts.show(name, OTHER)


async def test_time_never_goes_back(tmp_path):
    async with desk(tmp_path) as parts:
        await parts.open(lifetime=HOUR)
        parts.clock.now += 2 * HOUR
        (late,) = await parts.ask(action())
        parts.clock.now -= 2 * HOUR
        (still,) = await parts.ask(action())
        assert "is over" in late.decision.reasons[0].text
        assert "is over" in still.decision.reasons[0].text, "expired stays expired"


async def test_who_has_no_time_left_is_not_judged_and_reserves_nothing(tmp_path):
    def slow(_):
        time.sleep(0.05)
        return PERMIT

    async with desk(tmp_path, snapshot(slow)) as parts:
        session = await parts.open()
        first = asyncio.create_task(parts.ask(action()))
        await asyncio.sleep(0)
        with pytest.raises(LateError):
            await parts.ask(action("git/push"), left=0.001)
        await first
        stored = parts.stored(session.id)
        assert (stored.steps, stored.reserved_microusd) == (1, 0)
        assert len(parts.records("decision")) == 1


async def test_a_batch_that_outlasts_its_caller_is_denied_to_the_end_and_takes_no_more(tmp_path):
    def slow(_):
        time.sleep(0.05)
        return PERMIT

    async with desk(tmp_path, snapshot(slow)) as parts:
        session = await parts.open()
        answers = await parts.ask(*[action("git/push")] * 50, left=0.2)
        effects = [answer.decision.effect for answer in answers]
        run = effects.count(ALLOW)
        assert 1 <= run <= 5
        assert effects == [ALLOW] * run + [DENY] * (50 - run)
        assert "deadline" in answers[-1].decision.reasons[0].text
        stored = parts.stored(session.id)
        assert (stored.steps, stored.reserved_microusd) == (run, 100 * run)
        assert len(parts.records("decision")) == 50


async def test_huge_batches_do_not_share_one_round(tmp_path):
    async with desk(tmp_path) as parts:
        await parts.open(max_steps=1000)
        asked = [parts.ask(*[action()] * 50) for _ in range(10)]
        await asyncio.gather(*asked)
        rounds = parts.metrics.registry.get_sample_value("exequatur_round_calls_count")
        assert rounds >= 1 + 4


async def test_settling_the_last_run_does_not_hide_the_next_one(tmp_path):
    async with desk(tmp_path) as parts:
        last = await parts.open()
        (before,) = await parts.ask(action("git/push"))
        await parts.close(last.id)
        following = await parts.open()
        # All in one round.
        cost, (answer,) = await asyncio.gather(parts.settle(before.decision.id), parts.ask(action()))
        assert cost == 100
        assert (answer.decision.effect, answer.decision.session) == (ALLOW, following.id)


async def test_a_caller_who_left_is_not_judged(tmp_path):
    def slow(_):
        time.sleep(0.05)
        return PERMIT

    async with desk(tmp_path, snapshot(slow)) as parts:
        session = await parts.open()
        first = asyncio.create_task(parts.ask(action()))
        await asyncio.sleep(0.01)
        gone = asyncio.create_task(parts.ask(action()))
        await asyncio.sleep(0)
        gone.cancel()
        await first
        await parts.ask(action())
        assert parts.stored(session.id).steps == 2


async def test_too_many_that_wait_are_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("pdp.worker.WAITING", 2)
    async with desk(tmp_path) as parts:
        waiting = [asyncio.create_task(parts.ask(action())) for _ in range(3)]
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(r) for r in results] == [tuple, tuple, BusyError]


async def test_what_was_accepted_is_answered_while_stopping(tmp_path):
    async with desk(tmp_path) as parts:
        await parts.open()
        waiting = [asyncio.create_task(parts.ask(action())) for _ in range(200)]
        await asyncio.sleep(0)
        await parts.conveyor.stop()
        answers = await asyncio.gather(*waiting)
        assert all(a[0].decision.effect in (ALLOW, DENY) for a in answers)
        assert sum(a[0].decision.effect is ALLOW for a in answers) == 100
        with pytest.raises(UnavailableError):
            await parts.ask(action())


async def test_a_swapped_snapshot_judges_the_next_round(tmp_path):
    async with desk(tmp_path) as parts:
        await parts.open()
        assert (await parts.ask(action()))[0].decision.bundle_sequence == 7
        parts.conveyor.put("default", Standing(snapshot(says(DENY), sequence=8)))
        (answer,) = await parts.ask(action())
        assert (answer.decision.effect, answer.decision.bundle_sequence) == (DENY, 8)


async def test_two_workers_on_one_store_never_overspend(tmp_path, caplog):
    async with desk(tmp_path) as first, desk(tmp_path, name="spool2", clock=Clock()) as second:
        session = await first.open(max_steps=40, budget_microusd=100_000)
        answers = await asyncio.gather(
            *((first, second)[n % 2].ask(action("git/push", cost=1000 + n)) for n in range(120))
        )
        allowed = [a[0].decision for a in answers if a[0].decision.effect is ALLOW]
        assert len(allowed) == 40
        stored = first.stored(session.id)
        assert stored.steps == 40
        assert stored.reserved_microusd == sum(d.reserved_microusd for d in allowed)
        assert len(first.records("decision")) + len(second.records("decision")) == 120
    assert caplog.text == "", "a lost race is no failure"


async def test_the_last_minute_counts_what_was_allowed_and_goes_on_in_the_next_session(tmp_path):
    limit = 3

    def at_most(facts):
        reads, _ = facts.session.last_minute.totals(facts.now)
        return PERMIT if reads < limit else says(DENY, text="too fast")

    clock, policy = Clock(), snapshot(at_most)
    async with desk(tmp_path, policy, clock=clock) as parts, desk(tmp_path, policy, clock=clock, name="b") as other:
        session = await parts.open(max_steps=100)
        answers = [
            *await parts.ask(action(), action()),
            *await other.ask(action(), action()),
            *await parts.ask(action()),
        ]
        assert [a.decision.effect for a in answers] == [ALLOW, ALLOW, ALLOW, DENY, DENY]
        parts.clock.now += dt.timedelta(seconds=59)
        assert parts.stored(session.id).last_minute.totals(parts.clock.now) == (3, 0), "what is denied is not counted"
        await parts.close(session.id)
        await parts.open(max_steps=100)
        assert (await parts.ask(action()))[0].decision.effect is DENY, "another session is no way around it"
        parts.clock.now += dt.timedelta(seconds=1)
        assert (await parts.ask(action()))[0].decision.effect is ALLOW
        assert (await parts.ask(action(instance="i2")))[0].decision.effect is DENY, "no session at all"
