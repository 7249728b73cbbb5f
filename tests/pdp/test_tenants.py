"""Tenants: the one that an action names chooses the policy, and nothing of one is ever seen by another."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random

import pytest

from conveying import OPENER, desk, wish
from judging import ENFORCER, PERMIT, action, says, snapshot
from pdp.control.sessions import Fate, NotFoundError, Report, WrongStateError
from pdp.model import Effect, ReasonKind
from pdp.policies import Policies, Standing
from pdp.requests import Ask, Close, Open, Settle, Show

ALLOW, DENY = Effect.ALLOW, Effect.DENY
TENANTS = ("acme", "beta")
DIGESTS = {"acme": b"\xaa" * 32, "beta": b"\xbb" * 32}
INSTANCES = ("i1", "i2", "i3")
REQUESTS = 2000


def policies(seen=None, **answers):
    """Give each tenant a policy of its own, for the same agents, tools and enforcers."""

    def policy(tenant):
        def answer(facts):
            if seen is not None:
                seen[tenant].append(facts.session.tenant)
            return answers.get(tenant, PERMIT)

        return snapshot(answer, digest=DIGESTS[tenant], sequence=len(tenant), tenant=tenant)

    return Policies({tenant: Standing(policy(tenant)) for tenant in TENANTS})


async def test_the_tenant_of_an_action_chooses_its_policy(tmp_path):
    async with desk(tmp_path, policies=policies(beta=says(DENY, text="beta forbids it"))) as parts:
        for tenant in TENANTS:
            await parts.open(tenant=tenant)
        acme, beta = await parts.ask(*(action(tenant=tenant) for tenant in TENANTS))
        assert (acme.decision.effect, acme.decision.bundle_sha256) == (ALLOW, DIGESTS["acme"])
        assert (beta.decision.effect, beta.decision.bundle_sha256) == (DENY, DIGESTS["beta"])
        assert beta.decision.reasons[0].text == "beta forbids it"


async def test_an_unknown_tenant_and_one_without_a_bundle_are_denied_and_open_nothing(tmp_path):
    known = policies().having("empty", Standing(None))
    async with desk(tmp_path, policies=known) as parts:
        for tenant in ("empty", "nobody", "default", "ACME"):
            (denied,) = await parts.ask(action(tenant=tenant))
            assert (denied.decision.effect, denied.decision.reasons[0].kind) == (DENY, ReasonKind.STALE)
            assert denied.decision.reasons[0].text == "no bundle has been served for this tenant yet"
            assert (denied.decision.bundle_sha256, denied.decision.bundle_sequence) == (b"", 0)
            with pytest.raises(WrongStateError, match="no bundle has been served"):
                await parts.open(tenant=tenant)


async def test_a_bundle_signed_for_one_tenant_judges_for_no_other(tmp_path):
    """Whatever it was put in force for."""
    mixed_up = Policies({"beta": policies().of("acme")})
    async with desk(tmp_path, policies=mixed_up) as parts:
        (denied,) = await parts.ask(action(tenant="beta"))
        assert "does not serve this tenant" in denied.decision.reasons[0].text


async def test_one_tenants_session_money_and_answers_are_nobody_elses(tmp_path):
    async with desk(tmp_path, policies=policies()) as parts:
        ours, theirs = [await parts.open(tenant=tenant) for tenant in TENANTS]
        (held,) = await parts.ask(action("git/push", tenant="acme", idempotency_key="k"))
        before = parts.stored(ours.id)

        (named,) = await parts.ask(action(tenant="beta", session=ours.id))
        assert (named.decision.effect, named.decision.session) == (DENY, "")
        (nothing,) = await parts.ask(action(tenant="beta", session="none"))
        assert named.decision.reasons == nothing.decision.reasons, "whether it exists is nobody's business"
        (again,) = await parts.ask(action("git/push", tenant="beta", idempotency_key="k"))
        assert not again.repeated
        assert again.decision.session == theirs.id
        foreign = Settle("beta", held.decision.id, ENFORCER, Report.NOT_EXECUTED, None)
        for call in (
            foreign,
            Show("beta", ours.id, "coder", "i1", OPENER, True),
            Close("beta", ours.id, OPENER),
        ):
            with pytest.raises(NotFoundError):
                await parts.conveyor.submit(call)

        assert parts.stored(ours.id) == before
        with parts.store.reading() as view:
            assert view.reservations([held.decision.id])[held.decision.id].fate is Fate.HELD
        await parts.conveyor.submit(Close("acme", ours.id, OPENER))
        assert (await parts.open(tenant="beta", instance="new")).labels == frozenset(), "labels are of one tenant too"
        assert (await parts.open(tenant="acme")).labels == {"left_house"}


class Traffic:
    """Mixed requests of two tenants, and whatever of one was seen by the other."""

    def __init__(self, parts):
        self.parts, self.chance = parts, random.Random(7)  # the same every time
        self.sessions, self.decided = collections.defaultdict(list), collections.defaultdict(list)
        self.crossed = []

    async def open(self):
        for tenant in TENANTS:
            for instance in INSTANCES:
                opened = await self.parts.open(tenant=tenant, instance=instance, max_steps=10**6, budget_microusd=10**9)
                self.sessions[tenant].append(opened.id)

    async def one(self, tenant, other):
        await self.chance.choice((self.ask, self.ask, self.repeat, self.intrude, self.settle, self.steal, self.show))(
            tenant, other
        )

    async def ask(self, tenant, other, **named):
        asked = action(
            self.chance.choice(("git/log", "git/push")),
            tenant=tenant,
            instance=self.chance.choice(INSTANCES),
            **named,
        )
        ((answer,),) = (await self.parts.conveyor.submit(Ask((asked,), ENFORCER)),)
        decision, wanted = answer.decision, DENY if "session" in named else ALLOW
        in_own = decision.session in (self.sessions[tenant] if wanted is ALLOW else [""])
        if decision.bundle_sha256 != DIGESTS[tenant] or decision.effect is not wanted or not in_own:
            self.crossed.append(decision)
        if decision.reserved_microusd:
            self.decided[tenant].append(decision.id)

    async def repeat(self, tenant, other):
        await self.ask(tenant, other, idempotency_key=f"k{self.chance.randrange(50)}")

    async def intrude(self, tenant, other):
        await self.ask(tenant, other, session=self.chance.choice(self.sessions[other]))

    async def settle(self, tenant, other):
        if self.decided[tenant]:
            with contextlib.suppress(WrongStateError):  # settled before
                await self._settle(tenant, self.decided[tenant])

    async def steal(self, tenant, other):
        if self.decided[other]:
            with contextlib.suppress(NotFoundError):
                self.crossed.append(await self._settle(tenant, self.decided[other]))

    async def _settle(self, tenant, decided):
        settle = Settle(tenant, self.chance.choice(decided), ENFORCER, Report.EXECUTED, None)
        return await self.parts.conveyor.submit(settle)

    async def show(self, tenant, other):
        show = Show(tenant, "", "coder", self.chance.choice(INSTANCES), ENFORCER, False)
        shown = await self.parts.conveyor.submit(show)
        if shown.session.id not in self.sessions[tenant]:
            self.crossed.append(shown)


async def test_two_tenants_with_two_thousand_mixed_requests_each_have_no_cross_results(tmp_path):
    seen = collections.defaultdict(list)
    async with desk(tmp_path, policies=policies(seen)) as parts:
        traffic = Traffic(parts)
        await traffic.open()
        for _ in range(REQUESTS // 100):
            await asyncio.gather(*(traffic.one(*pair) for pair in [TENANTS, TENANTS[::-1]] * 100))

        assert traffic.crossed == []
        assert {tenant: set(tenants) for tenant, tenants in seen.items()} == {tenant: {tenant} for tenant in TENANTS}
        assert min(len(tenants) for tenants in seen.values()) > REQUESTS / 4
        steps, reserved = collections.Counter(), collections.Counter()
        for record in parts.records():
            assert record["session"] in ("", *traffic.sessions[record["tenant"]])
            if record["kind"] == "decision":
                assert record["bundle"] == DIGESTS[record["tenant"]].hex()
                steps[record["session"]] += record["effect"] == "allow"
                reserved[record["session"]] += record["reserved_microusd"]
        for tenant, names in traffic.sessions.items():
            for stored in map(parts.stored, names):
                assert (stored.tenant, stored.steps) == (tenant, steps[stored.id])
                assert stored.reserved_microusd + stored.spent_microusd == reserved[stored.id]


async def test_a_session_of_one_tenant_is_not_opened_over_anothers(tmp_path):
    async with desk(tmp_path, policies=policies()) as parts:
        opened = [await parts.conveyor.submit(Open(wish(tenant=tenant), OPENER)) for tenant in TENANTS]
        assert [each.tenant for each in opened] == [*TENANTS]
        assert all(parts.stored(each.id).closed_at is None for each in opened)
