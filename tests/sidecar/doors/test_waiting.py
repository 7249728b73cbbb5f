"""Where a sidecar waits for the ledger, no go-ahead leaves whose outcome the ledger does not have."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest

from decisions import Decisions, deny
from exequatur.transport import Code, Peer, Refusal
from exequatur.v1 import decision_pb2 as pb
from sidecar.doors.grpc import Bound, GrpcDoor
from sidecar.metrics import Metrics
from sidecar.recording import NOT_TAKEN, Waiting

BOUND = Bound("default", "coder", "c1", "mcp_stdio", enforced=True)
NOW = dt.datetime(2026, 1, 5, 10, tzinfo=dt.UTC)
AGENT = Peer("agent:coder/c1")
ASKED = pb.AuthorizeRequest(tool="git/git_status", arguments_json=b"{}").SerializeToString()
SHORT = 0.1


class Point(Decisions):
    """The decision point without its wire, a spool, and a ledger that takes what the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.records, self.taken, self.more, self.recorded = [], 10**9, asyncio.Event(), asyncio.Event()
        self.metrics = Metrics()

    async def authorize(self, request, left_s):
        return await self.judge(request)

    async def authorize_batch(self, request, left_s):
        return pb.AuthorizeBatchResponse(decisions=[await self.judge(action) for action in request.actions])

    async def settle(self, request, left_s):
        self.settlements.append(request)
        return pb.SettleResponse()

    async def record(self, fields) -> int:
        self.records.append(dict(fields))
        self.recorded.set()
        return len(self.records)

    async def acknowledged(self, number) -> None:
        while self.taken < number:
            await self.more.wait()

    def take(self, number) -> None:
        self.taken = number
        self.more.set()

    def door(self, at_most_s: float = 5) -> GrpcDoor:
        waiting = Waiting(self.acknowledged, at_most_s)
        return GrpcDoor(BOUND, self, self.record, lambda: NOW, waiting, answered=self.metrics.answered)

    def counted(self) -> dict[tuple[str, str], int]:
        """Give how many actions were counted, by what was decided and why it was refused."""
        (family,) = (each for each in self.metrics.collected().collect() if each.name == "exequatur_sidecar_actions")
        samples = [sample for sample in family.samples if sample.name.endswith("_total") and sample.value]
        return {(sample.labels["effect"], sample.labels["why"]): int(sample.value) for sample in samples}


@pytest.fixture
def point():
    return Point()


def read(message: bytes) -> pb.AuthorizeResponse:
    return pb.AuthorizeResponse.FromString(message)


async def test_a_go_ahead_leaves_once_the_ledger_has_its_outcome(point):
    point.taken = 0
    asking = asyncio.create_task(point.door().authorize(ASKED, AGENT, None))
    async with asyncio.timeout(5):
        await point.recorded.wait()
        await asyncio.sleep(0.02)
        assert not asking.done()
        point.take(1)
        assert read(await asking).effect == pb.EFFECT_ALLOW
    assert [record["go"] for record in point.records] == [True]
    assert not point.settlements
    assert point.counted() == {("allow", ""): 1}


@pytest.mark.parametrize(("at_most_s", "left_s"), [(SHORT, None), (SHORT, 60.0), (60, SHORT)])
async def test_what_the_ledger_does_not_take_in_time_is_denied_and_given_back(point, at_most_s, left_s):
    point.taken = 0
    door = point.door(at_most_s)
    async with asyncio.timeout(5):
        response = read(await door.authorize(ASKED, AGENT, left_s))
        while not point.settlements:  # noqa: ASYNC110  given back behind the answer, whose time is up
            await asyncio.sleep(0.001)
    assert (response.effect, response.reasons[0].text) == (pb.EFFECT_DENY, NOT_TAKEN)
    first, second = point.records
    assert (first["go"], second["go"], second["why"]) == (True, False, "unacknowledged")
    assert first["decision_id"] == second["decision_id"] == response.decision_id
    assert point.counted() == {("allow", "unacknowledged"): 1}
    (settled,) = point.settlements
    assert (settled.decision_id, settled.outcome) == (response.decision_id, pb.OUTCOME_NOT_EXECUTED)
    point.take(10**9)
    with pytest.raises(Refusal, match="no such decision"):  # a late acknowledgement makes no go-ahead of it
        await door.settle(pb.SettleRequest(decision_id=response.decision_id).SerializeToString(), AGENT, None)


async def test_each_of_a_batch_is_waited_for(point):
    point.taken = 1
    batch = pb.AuthorizeBatchRequest(actions=[pb.AuthorizeRequest.FromString(ASKED)] * 3).SerializeToString()
    response = pb.AuthorizeBatchResponse.FromString(await point.door(SHORT).authorize_batch(batch, AGENT, None))
    assert sorted(decision.effect for decision in response.decisions) == [pb.EFFECT_ALLOW] + [pb.EFFECT_DENY] * 2


async def test_a_denial_stays_the_denial_that_it_was(point):
    point.rule = lambda request, response: deny(request, response, text="not here")
    point.taken = 0
    response = read(await point.door(SHORT).authorize(ASKED, AGENT, None))
    assert (response.effect, response.reasons[0].text) == (pb.EFFECT_DENY, "not here")
    assert len(point.records) == 1
    assert point.counted() == {("deny", "denied"): 1}


async def test_a_broken_message_is_refused_either_way(point):
    with pytest.raises(Refusal) as refused:
        await point.door(SHORT).authorize(b"\xff", AGENT, None)
    assert refused.value.code is Code.INVALID_ARGUMENT
    point.taken = 0
    with pytest.raises(Refusal, match=NOT_TAKEN) as refused:
        await point.door(SHORT).authorize(b"\xff", AGENT, None)
    assert refused.value.code is Code.UNAVAILABLE
