"""Candidates: a shadow touches nothing, a canary never makes an answer looser, and what fails ends by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidates import CANDIDATE, FAILURES, candidate, failing
from judging import ENFORCER, PERMIT, action, says, session, snapshot
from pdp.judge import judge
from pdp.model import Effect, Obligation, Reason, ReasonKind, Verdict
from pdp.policies import Standing, Trial
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
from policies import NOW

ALLOW, WARN, ASK, DENY = Effect


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
