"""Combination only ever tightens, and an empty set proves nothing."""

from hypothesis import given
from hypothesis import strategies as st

from pdp.engine.combine import combine, refusal
from pdp.engine.manifest import Role
from pdp.model import Effect, Obligation, Reason, ReasonKind, Verdict

KIND = {
    Effect.ALLOW: ReasonKind.PERMITTED,
    Effect.WARN: ReasonKind.RESTRICTED,
    Effect.REQUIRE_APPROVAL: ReasonKind.RESTRICTED,
    Effect.DENY: ReasonKind.FORBIDDEN,
}


def verdict(effect, name="p", **more):
    return Verdict("test", effect, (Reason(KIND[effect], name, name),), **more)


OBLIGATIONS = st.lists(
    st.builds(Obligation, st.sampled_from(["redact", "watermark"]), st.fixed_dictionaries({"n": st.integers(0, 1)})),
    max_size=2,
).map(tuple)
VERDICTS = st.tuples(
    st.sampled_from(Role),
    st.builds(
        verdict,
        st.sampled_from(Effect),
        st.sampled_from("abc"),
        obligations=OBLIGATIONS,
        approvers=st.sets(st.sampled_from(["security", "finance"])).map(tuple),
        errors=st.sampled_from([(), (), (), ("broken",)]),
    ),
)


def test_what_one_engine_cannot_say_again_nobody_can():
    decides = (Role.DECIDE, verdict(Effect.ALLOW))
    for effect in Effect:
        one = verdict(effect, replayable=False)
        assert combine([decides]).replayable
        assert not combine([decides, (Role.RESTRICT, one)]).replayable


def test_no_verdict_is_a_denial():
    assert combine([]).effect is Effect.DENY
    assert combine([]).reasons[0].kind is ReasonKind.ERROR


def test_an_engine_that_restricts_cannot_allow_by_itself():
    assert combine([(Role.RESTRICT, verdict(Effect.ALLOW))]).effect is Effect.DENY


def test_every_engine_that_decides_must_allow():
    both = [(Role.DECIDE, verdict(Effect.ALLOW)), (Role.DECIDE, verdict(Effect.DENY, "no"))]
    assert combine(both).effect is Effect.DENY
    assert [reason.policy for reason in combine(both).reasons] == ["no"]


def test_the_strictest_effect_wins_and_its_reason_stands_first():
    result = combine(
        [(Role.DECIDE, verdict(Effect.ALLOW, "a")), (Role.RESTRICT, verdict(Effect.REQUIRE_APPROVAL, "b"))]
    )
    assert result.effect is Effect.REQUIRE_APPROVAL
    assert [reason.policy for reason in result.reasons] == ["b", "a"]


def test_an_engine_that_restricts_gives_no_reason_in_favour():
    result = combine([(Role.DECIDE, verdict(Effect.ALLOW, "a")), (Role.RESTRICT, verdict(Effect.ALLOW, "b"))])
    assert [reason.policy for reason in result.reasons] == ["a"]


def test_an_error_beside_an_allow_is_a_denial_with_the_error_in_evidence():
    result = combine([(Role.DECIDE, verdict(Effect.ALLOW)), (Role.RESTRICT, verdict(Effect.ALLOW, errors=("broken",)))])
    assert result.effect is Effect.DENY
    assert result.errors == ("broken",)
    assert result.reasons[0].kind is ReasonKind.ERROR


def test_an_error_is_told_before_what_else_denies():
    result = combine([(Role.DECIDE, verdict(Effect.DENY)), (Role.RESTRICT, refusal("broken"))])
    assert [reason.kind for reason in result.reasons] == [ReasonKind.ERROR, ReasonKind.FORBIDDEN]


def test_obligations_that_conflict_are_a_denial():
    one = (Role.DECIDE, verdict(Effect.ALLOW, obligations=(Obligation("redact", {"n": 1}),)))
    other = (Role.RESTRICT, verdict(Effect.ALLOW, obligations=(Obligation("redact", {"n": 2}),)))
    assert combine([one, one]).obligations == (Obligation("redact", {"n": 1}),)
    assert combine([one, other]).effect is Effect.DENY


@given(st.lists(VERDICTS, min_size=1, max_size=5), VERDICTS)
def test_adding_a_verdict_never_weakens(verdicts, more):
    verdicts = [(Role.DECIDE, verdicts[0][1]), *verdicts[1:]]
    before, after = combine(verdicts), combine([*verdicts, more])
    assert after.effect >= before.effect
    if after.effect is not Effect.DENY:
        assert set(before.approvers) <= set(after.approvers)
        assert {o.id for o in before.obligations} <= {o.id for o in after.obligations}


@given(st.permutations([(Role.DECIDE, Effect.ALLOW), (Role.RESTRICT, Effect.WARN), (Role.RESTRICT, Effect.DENY)]))
def test_order_does_not_matter(order):
    assert combine([(role, verdict(effect)) for role, effect in order]).effect is Effect.DENY


@given(st.lists(VERDICTS, max_size=5))
def test_every_result_has_a_reason_and_an_error_never_runs(verdicts):
    result = combine(verdicts)
    assert result.reasons
    if any(each.errors for _, each in verdicts):
        assert result.effect is Effect.DENY
