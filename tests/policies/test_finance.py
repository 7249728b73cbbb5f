"""The finance pack: no way of splitting takes more past the treasurer than is said, and every tier's limit is judged."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from exequatur.action import Claims
from packs import NOW, call, snapshot
from pdp.control.sessions import reserve
from pdp.model import Effect, Intent

PACK = "finance"
MOST = 100_000 + 50_000 + 33_333
"""In cents: what the readme says may leave a session before a person looks."""

AMOUNT = st.one_of(st.integers(1, 120_000), st.sampled_from([33_333, 33_334, 50_000, 50_001, 100_000, 100_001]))


@settings(max_examples=25, deadline=None)
@given(st.lists(AMOUNT, max_size=7))
def test_in_parts_no_more_leaves_a_session_than_is_said(amounts):
    payout = {"account_id": "BA-1", "payee_id": "V-1", "invoice_id": "INV-1", "currency": "USD"}
    intent = Intent("payment-run")
    first = call(PACK, "payables", "payouts/create", {**payout, "amount_cents": 1}, subject="ann", intent=intent)
    session, paid = first.session, 0
    for number, cents in enumerate(amounts):
        claims = Claims(cost_estimate_microusd=cents * 10_000)
        asked = replace(first, session=session, claims=claims, input={**payout, "amount_cents": cents})
        if snapshot(PACK).judge(asked).effect is Effect.ALLOW:
            session = reserve(session, asked.tool, claims.cost_estimate_microusd, NOW)
            paid += cents
        if number == 0:
            assert (paid > 0) is (cents <= 100_000)
    assert paid <= MOST


def test_the_most_text_that_a_tier_takes_is_judged_within_its_fuel():
    words = "The cash flow of a year is planned from what is owed and what is due. "
    for model, characters in (("house-8b", 59_990), ("partner-70b", 19_990), ("frontier", 9_990)):
        messages = [{"role": "user", "content": (words * 900)[:characters]}]
        asked = call(PACK, "analyst", f"model/{model}", {"messages": messages, "max_tokens": 100}, subject="ann")
        assert snapshot(PACK).judge(asked).effect is Effect.ALLOW, model
