"""A repeated answer is the very answer that was given."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pdp.control.answers import dump, load
from pdp.model import Decision, Effect, Obligation, Reason, ReasonKind
from policies import NOW

TEXT = st.text(max_size=20)
REASONS = st.builds(Reason, st.sampled_from(ReasonKind), TEXT, TEXT, TEXT, TEXT)
OBLIGATIONS = st.builds(Obligation, TEXT, st.dictionaries(TEXT, st.one_of(st.integers(-9, 9), TEXT, st.booleans())))


@given(
    st.builds(
        Decision,
        id=TEXT,
        effect=st.sampled_from(Effect),
        reasons=st.lists(REASONS, max_size=3).map(tuple),
        obligations=st.lists(OBLIGATIONS, max_size=2).map(tuple),
        approvers=st.lists(TEXT, max_size=2).map(tuple),
        errors=st.lists(TEXT, max_size=2).map(tuple),
        action_digest=st.binary(max_size=32),
        bundle_sha256=st.binary(max_size=32),
        bundle_sequence=st.integers(0, 2**53),
        session=TEXT,
        reserved_microusd=st.integers(0, 2**53),
        settle_by=st.sampled_from([None, NOW, NOW.replace(microsecond=7)]),
        retry_after_ms=st.integers(0, 9),
        latency_us=st.integers(0, 9),
        replayable=st.booleans(),
    )
)
def test_what_is_kept_is_what_was_said(decision):
    assert load(dump(decision)) == decision
