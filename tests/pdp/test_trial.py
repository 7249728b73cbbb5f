"""Candidates: a shadow touches nothing, a canary never makes an answer looser, and what fails ends by itself."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conveying import desk
from judging import ENFORCER, PERMIT, Scripted, action, says, session, snapshot
from pdp.engine.manifest import EngineSpec, Role
from pdp.engine.rego import RegoEngine
from pdp.judge import judge
from pdp.model import Effect, Obligation, Reason, ReasonKind, Verdict
from pdp.policies import Policies, Standing, Trial
from pdp.trial import (
    FEWEST,
    REST,
    REST_AFTER_ERROR,
    SAMPLE_S,
    SAMPLES,
    WAITING,
    Asked,
    Comparison,
    Shadow,
    Shadowed,
    Tally,
    Trying,
    canary,
    chosen,
)
from policies import NOW, rego

ALLOW, WARN, ASK, DENY = Effect
CANDIDATE = b"\2" * 32
FUEL = """package exequatur
decision := {"deny": deny}
deny contains "counted" if count([x | x := numbers.range(1, 1000000000)[_]; x % 2 == 0]) < 0
"""


def candidate(answer=PERMIT, **changes):
    return snapshot(answer, **{"digest": CANDIDATE, "sequence": 8, **changes})


def failing(kind):
    """Give a candidate that fails in its own way."""

    class Panic(BaseException):
        pass

    def raises(_):
        raise RuntimeError("c4n4ry")

    def panics(_):
        raise Panic("c4n4ry")

    if kind == "takes its fuel":
        role = EngineSpec("rego", Role.RESTRICT, "exequatur/decision")
        engine = RegoEngine.load(rego(FUEL), {}, role.entrypoint, role=role.role)
        return candidate(engines=((EngineSpec("cedar", Role.DECIDE), Scripted(PERMIT)), (role, engine)))
    return {
        "raises": candidate(raises),
        "panics": candidate(panics),
        "says nothing": candidate(lambda _: None),
        "has expired": candidate(says(DENY), expires_at=NOW),
    }[kind]


FAILURES = ("raises", "panics", "says nothing", "takes its fuel", "has expired")


def decided(policy, run=None, asked=None):
    return judge(
        asked or action("git/push"), run or session(), Standing(policy), enforcer=ENFORCER, now=NOW, decision_id="d1"
    )


def tried(active, trying, run=None):
    run, asked = run or session(), action("git/push")
    return canary(Asked(asked, run, ENFORCER, NOW), decided(snapshot(active), run), Trial(trying, 100))


texts = st.sampled_from(("a", "b", "c"))
obligations = st.lists(
    st.builds(Obligation, texts, st.sampled_from(({}, {"rows": 1}, {"rows": 2}))), max_size=3, unique_by=lambda o: o.id
).map(tuple)
verdicts = st.builds(
    Verdict,
    st.just("cedar"),
    st.sampled_from(Effect),
    st.lists(st.builds(Reason, st.sampled_from(ReasonKind), texts, texts), max_size=20).map(tuple),
    obligations,
    st.lists(texts, max_size=3).map(tuple),
    st.lists(texts, max_size=1).map(tuple),
    st.booleans(),
)


@given(verdicts, verdicts)
def test_a_canarys_answer_is_never_looser_than_the_one_in_force(active, other):
    before = decided(snapshot(active))
    outcome, compared = tried(active, candidate(other))
    decision, old = outcome.decision, before.decision
    assert decision.effect >= old.effect
    assert decision.effect >= compared.candidate or compared.error
    if decision.effect is not DENY:
        assert {repr(each) for each in old.obligations} <= {repr(each) for each in decision.obligations}
        assert set(old.approvers) <= set(decision.approvers)
    if compared.error:
        assert decision == old, "what goes wrong with a candidate is its own trouble"
    assert decision.reasons
    assert (outcome.reservation is not None) == decision.effect.may_run
    assert decision.reserved_microusd == (100 if decision.effect.may_run else 0)
    assert (decision.settle_by is not None) == decision.effect.may_run
    assert outcome.session == (before.session if decision.effect.may_run else session())
    assert outcome.record["effect"] == decision.effect.name.lower()
    assert outcome.record["active_effect"] == old.effect.name.lower()
    assert (decision.id, decision.bundle_sha256, decision.action_digest) == (
        old.id,
        old.bundle_sha256,
        old.action_digest,
    )


def test_a_canarys_record_has_both_effects_and_whose_they_are():
    outcome, compared = tried(PERMIT, candidate(says(DENY, text="not any more")))
    assert compared.result is Comparison.STRICTER
    assert outcome.decision.reasons[0].text == "not any more"
    assert {
        "effect": "deny",
        "active_effect": "allow",
        "candidate_effect": "deny",
        "candidate": CANDIDATE.hex(),
        "bundle": "01" * 32,
        "reserved_microusd": 0,
        "steps": 0,
    }.items() <= outcome.record.items()
    assert tried(says(DENY), candidate())[1].result is Comparison.LOOSER
    assert tried(PERMIT, candidate())[1].result is Comparison.SAME


def test_obligations_of_both_are_met_and_ones_that_conflict_are_the_candidates_trouble():
    def obliges(name, **parameters):
        return replace(PERMIT, obligations=(Obligation(name, parameters),))

    outcome, _ = tried(obliges("redact"), candidate(obliges("limit", rows=1)))
    assert [each.id for each in outcome.decision.obligations] == ["limit", "redact"]
    outcome, compared = tried(obliges("limit", rows=2), candidate(obliges("limit", rows=1)))
    assert "different parameters" in compared.error
    assert outcome.decision.obligations == (Obligation("limit", {"rows": 2}),)


@pytest.mark.parametrize("kind", FAILURES)
def test_a_candidate_that_fails_changes_no_answer_and_ends_the_canary(kind):
    outcome, compared = tried(PERMIT, failing(kind))
    assert outcome.decision == decided(snapshot()).decision
    assert compared.result is Comparison.ERROR
    assert "c4n4ry" not in str(outcome.record)
    tally = Tally().counted(compared, Trial(candidate(), 100))
    assert "the candidate failed" in tally.halted


def test_what_breaks_in_us_for_a_candidates_sake_is_its_own_trouble_too(monkeypatch):
    def breaks(*_, **__):
        raise RuntimeError("c4n4ry")

    active = decided(snapshot())
    asked, trial = Asked(action("git/push"), session(), ENFORCER, NOW), Trial(candidate(says(DENY)), 100)
    for name in ("judge", "combine"):
        with monkeypatch.context() as patch:
            patch.setattr(f"pdp.trial.{name}", breaks)
            outcome, compared = canary(asked, active, trial)
        assert outcome.decision == active.decision
        assert compared.result is Comparison.ERROR
        assert "c4n4ry" not in str(outcome.record)


def test_the_share_of_sessions_is_stable_and_about_what_was_said():
    names = [f"session {number}" for number in range(2000)]
    assert not any(chosen(name, 0) for name in names)
    assert all(chosen(name, 100) for name in names)
    few = {name for name in names if chosen(name, 10)}
    assert 150 < len(few) < 250
    assert few < {name for name in names if chosen(name, 20)}, "who was among few is among more"
    assert [chosen("s1", percent) for percent in (72, 73)] == [False, True], "the same in every release"


@pytest.mark.parametrize(("stricter", "halted"), [(0, False), (5, False), (6, True)])
def test_a_canary_that_makes_too_many_answers_stricter_halts(stricter, halted):
    trial, tally = Trial(candidate(), 100, max_stricter_percent=10), Tally()
    results = [tried(PERMIT, candidate(says(DENY) if n < stricter else PERMIT))[1] for n in range(FEWEST)]
    for compared in results[:-1]:
        tally = tally.counted(compared, trial)
        assert not tally.halted, "a few answers say nothing"
    tally = tally.counted(results[-1], trial)
    assert (tally.judged, tally.stricter, bool(tally.halted)) == (FEWEST, stricter, halted)


def test_nothing_is_tried_beside_a_policy_that_may_not_speak():
    trying, asked = Trying(), Asked(action(), session(), ENFORCER, NOW)
    for percent in (0, 100):
        standing = Standing(snapshot(), withdrawn="revoked", trial=Trial(candidate(), percent))
        active = decided(snapshot())
        assert trying.answer(standing, asked, active) is active
    assert (trying.compared, trying.shadowed, trying.tallies) == ([], [], {})


class Ticks:
    """A clock that a judgement takes time by."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def shadowed(policy, number=0):
    asked = Asked(action(), session(), ENFORCER, NOW)
    return Shadowed(asked, Trial(policy), replace(decided(snapshot()).decision, id=f"d{number}"))


def slow(ticks, verdict):
    def answer(_):
        ticks.now += 0.5
        return verdict

    return candidate(answer)


@pytest.mark.parametrize(("verdict", "rest"), [(PERMIT, REST), (replace(PERMIT, errors=("e",)), REST_AFTER_ERROR)])
def test_a_shadow_rests_long_after_it_has_judged(verdict, rest):
    ticks = Ticks()
    shadow, policy = Shadow(ticks), slow(ticks, verdict)
    assert shadow.due_s() is None
    shadow.offer([shadowed(policy), shadowed(policy)])
    assert shadow.due_s() == 0
    assert shadow.step(lambda _: Trial(policy)) is not None
    ticks.now += rest * 0.5 - 0.01
    assert shadow.step(lambda _: Trial(policy)) is None
    ticks.now += 0.02
    assert shadow.step(lambda _: Trial(policy)) is not None


def test_what_is_too_much_for_a_shadow_is_skipped_and_counted():
    shadow, policy = Shadow(Ticks()), candidate()
    skipped = shadow.offer([shadowed(policy, number) for number in range(WAITING + 3)])
    assert skipped == [("default", CANDIDATE)] * 3
    judged = 0
    while shadow.step(lambda _: Trial(policy)) is not None:
        judged += 1
    assert judged == WAITING
    shadow.offer([shadowed(policy)])
    assert shadow.step(lambda _: None) is None, "what is not tried any more is not judged"
    assert shadow.step(lambda _: Trial(snapshot())) is None


def test_differences_are_put_on_record_one_a_second_and_a_hundred_wait():
    ticks = Ticks()
    shadow, policy = Shadow(ticks), candidate(says(DENY, text="not any more"))
    shadow.offer([shadowed(policy, number) for number in range(SAMPLES + 5)])
    while shadow.step(lambda _: Trial(policy)) is not None:
        pass
    found = []
    for _ in range(3 * (SAMPLES + 5)):
        found.append(shadow.sample())
        ticks.now += SAMPLE_S / 2
    assert found[1::2].count(None) == len(found[1::2]), "one a second"
    numbers = [record["decision_id"] for record in found if record is not None]
    assert numbers == [f"d{number}" for number in range(5, SAMPLES + 5)]
    assert {
        "kind": "shadow",
        "tenant": "default",
        "session": "s1",
        "effect": "allow",
        "candidate_effect": "deny",
        "bundle": "01" * 32,
        "candidate": CANDIDATE.hex(),
    }.items() <= found[0].items()
    assert found[0]["reasons"][0]["text"] == "not any more"


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
