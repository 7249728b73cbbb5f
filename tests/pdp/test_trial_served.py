"""Candidates in a worker that serves: nobody meets one but in a canary's session, and none delays a call."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from candidates import CANDIDATE, FAILURES, candidate, failing
from conveying import desk
from judging import PERMIT, action, says, snapshot
from pdp.model import Effect, ReasonKind
from pdp.policies import Policies, Standing, Trial
from pdp.trial import (
    FEWEST,
    WAITING,
    Comparison,
    chosen,
)

ALLOW, WARN, ASK, DENY = Effect


def by_tool(facts):
    return PERMIT if facts.tool.name == "push" else says(WARN, ReasonKind.RESTRICTED)


def counted(parts):
    found = (
        parts.metrics.registry.get_sample_value("exequatur_trial_answers_total", {"tenant": "default", "result": each})
        for each in Comparison
    )
    return {each: int(value) for each, value in zip(Comparison, found, strict=True) if value}


async def until(holds):
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110  another thread counts
            await asyncio.sleep(0.005)


BY_CHANCE = {"decision_id", "latency_us", "session", "action_digest", "writer", "number"}
"""What of a record is another in every run."""


async def served(folder, trial=None):
    """Serve the same calls; gives all that may not depend on a shadow: answers, session, reservations, records."""
    folder.mkdir()
    standing = Standing(snapshot(by_tool), trial=trial)
    async with desk(folder, policies=Policies({"default": standing})) as parts:
        opened = await parts.open()
        answers = []
        for number in range(10):
            answers += await parts.ask(
                action("git/push", idempotency_key=f"k{number % 7}"), action(), action("git/rm"), action(session="x")
            )
        await until(lambda: trial is None or counted(parts))
        given = [(a.decision.effect, a.decision.reasons, a.decision.reserved_microusd, a.repeated) for a in answers]
        with parts.store.reading() as view:
            held = view.reservations([a.decision.id for a in answers])
        amounts = [
            (each.reservation.amount_microusd, each.fate)
            for each in map(held.get, [a.decision.id for a in answers])
            if each
        ]
        records = [
            {name: value for name, value in record.items() if name not in BY_CHANCE}
            for record in parts.records()
            if record["kind"] != "shadow"
        ]
        return given, amounts, records, replace(parts.stored(opened.id), id=""), parts


@pytest.mark.parametrize("kind", ["stricter", "looser", *FAILURES])
async def test_a_shadow_changes_no_answer_session_reservation_or_record(tmp_path, kind):
    policy = {"stricter": candidate(says(DENY)), "looser": candidate(PERMIT)}.get(kind) or failing(kind)
    *alone, _ = await served(tmp_path / "alone")
    *beside, parts = await served(tmp_path / "beside", Trial(policy))
    assert beside == alone
    assert [each[0] for each in beside[0][:4]] == [ALLOW, WARN, DENY, DENY]
    assert set(counted(parts)) & {Comparison.ERROR if kind in FAILURES else Comparison(kind), Comparison.SAME}


async def test_a_shadow_judges_what_was_judged_and_its_differences_are_sampled(tmp_path):
    standing = Standing(snapshot(by_tool), trial=Trial(candidate(PERMIT)))
    async with desk(tmp_path, policies=Policies({"default": standing})) as parts:
        await parts.open()
        for _ in range(5):
            await parts.ask(action("git/push"), action())
        await until(lambda: sum(counted(parts).values()) == 10 and parts.records("shadow"))
        assert counted(parts) == {Comparison.SAME: 5, Comparison.LOOSER: 5}
        (sampled,) = parts.records("shadow")
        assert (sampled["effect"], sampled["candidate_effect"]) == ("warn", "allow")
        assert sampled["decision_id"] in {record["decision_id"] for record in parts.records("decision")}


async def test_while_calls_wait_no_shadow_is_judged(tmp_path):
    at_once = []

    def watch(_):
        at_once.append(waiting())
        return PERMIT

    standing = Standing(snapshot(), trial=Trial(candidate(watch)))
    async with desk(tmp_path, policies=Policies({"default": standing})) as parts:

        def waiting():
            return parts.conveyor._queue.qsize()

        await parts.open(max_steps=10**6)
        await asyncio.gather(*(parts.ask(*[action()] * 10) for _ in range(60)))
        await until(lambda: counted(parts).get(Comparison.SAME, 0) >= 5)
        assert counted(parts)[Comparison.SKIPPED] >= 600 - WAITING - len(at_once), "what had no time was left out"
        assert set(at_once) == {0}


def of_canary(answer, percent=100, **changes):
    return Policies({"default": Standing(snapshot(), trial=Trial(candidate(answer), percent, **changes))})


async def test_in_a_canarys_session_the_stricter_answer_is_given_kept_and_paid_once(tmp_path):
    def careful(facts):
        return says(DENY) if facts.tool.name == "push" else PERMIT

    async with desk(tmp_path, policies=of_canary(careful)) as parts:
        opened = await parts.open()
        pushed, logged = await parts.ask(action("git/push", idempotency_key="k"), action())
        (again,) = await parts.ask(action("git/push", idempotency_key="k"))
        assert [each.decision.effect for each in (pushed, logged, again)] == [DENY, ALLOW, DENY]
        assert again.decision == pushed.decision
        stored = parts.stored(opened.id)
        assert (stored.steps, stored.reserved_microusd, stored.labels) == (1, 0, frozenset())
        assert counted(parts) == {Comparison.STRICTER: 1, Comparison.SAME: 1}
        first, second = parts.records("decision")
        assert (first["effect"], first["active_effect"], first["candidate"]) == ("deny", "allow", CANDIDATE.hex())
        assert (second["effect"], second["candidate_effect"]) == ("allow", "allow")


async def test_a_session_that_is_no_canarys_never_meets_the_candidate(tmp_path):
    async with desk(tmp_path, policies=of_canary(says(DENY), percent=50)) as parts:
        effects = {}
        for number in range(20):
            opened = await parts.open(instance=f"i{number}")
            (answer,) = await parts.ask(action(instance=f"i{number}"))
            effects[opened.id] = answer.decision.effect
        assert {name: effect is DENY for name, effect in effects.items()} == {
            name: chosen(name, 50) for name in effects
        }
        assert sum(counted(parts).values()) == sum(chosen(name, 50) for name in effects)


@pytest.mark.parametrize("kind", ["raises", "takes its fuel"])
async def test_a_canary_that_fails_is_halted_at_once_everywhere_and_on_record(tmp_path, kind):
    heard = []
    standing = Standing(snapshot(), trial=Trial(failing(kind), 100))
    async with desk(
        tmp_path, policies=Policies({"default": standing}), halted=lambda *told: heard.append(told)
    ) as parts:
        await parts.open()
        answers = await parts.ask(*[action()] * 10)
        assert {each.decision.effect for each in answers} == {ALLOW}
        assert counted(parts) == {Comparison.ERROR: 1}, "the rest of the round is spared already"
        await until(lambda: heard)
        ((tenant, digest, reason),) = heard
        assert (tenant, digest) == ("default", CANDIDATE)
        assert "the candidate failed" in reason
        assert parts.conveyor.policies.of("default").trial is None
        await parts.ask(action())
        assert counted(parts) == {Comparison.ERROR: 1}
        candidates = [(r["event"], r["bundle"], r["reason"]) for r in parts.records("bundle")][1:]
        assert candidates == [("candidate", CANDIDATE.hex(), ""), ("halted", CANDIDATE.hex(), reason)]


async def test_a_canary_that_denies_too_much_is_halted(tmp_path):
    async with desk(tmp_path, policies=of_canary(says(DENY), max_stricter_percent=5)) as parts:
        await parts.open(max_steps=1000)
        effects = [each.decision.effect for each in await parts.ask(*[action()] * FEWEST, action(), action())]
        assert effects == [DENY] * FEWEST + [ALLOW, ALLOW]
        await until(lambda: parts.conveyor.policies.of("default").trial is None)
        assert parts.conveyor.policies.of("default").trial_ended == "the candidate made 50 of 50 answers stricter"


async def test_what_a_canary_decided_without_a_record_counts_for_nothing(tmp_path):
    from exequatur.spool import SpoolError

    class Flaky:
        def __init__(self, spool):
            self.spool, self.fail = spool, False
            journals.append(self)

        def append_many(self, records):
            if self.fail:
                raise SpoolError("no space left on device")
            return self.spool.append_many(records)

    journals = []
    async with desk(tmp_path, policies=of_canary(says(DENY)), journal=Flaky) as parts:
        await parts.open()
        await parts.ask(action())
        journals[0].fail = True
        (denied,) = await parts.ask(action())
        assert denied.decision.reasons[0].kind is ReasonKind.ERROR
        assert counted(parts) == {Comparison.STRICTER: 1}
