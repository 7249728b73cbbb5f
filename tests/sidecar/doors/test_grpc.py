"""The sidecar's own door: the socket is the identity, and what cannot be recorded is denied."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from decisions import SESSION, Decisions, deny
from exequatur.client import AsyncClient, CallError, Effect, Outcome, Proposal, ReasonKind
from exequatur.transport import Code, Refusal, Server
from exequatur.v1 import decision_pb2 as pb
from sidecar.doors.grpc import Bound, GrpcDoor
from sidecar.pdp_client import PdpClient

BOUND = Bound("default", "coder", "c1", "mcp_stdio", enforced=True)
NOW = dt.datetime(2026, 1, 5, 10, tzinfo=dt.UTC)


@dataclasses.dataclass
class House:
    """A sidecar's door on its socket, and a scripted decision point behind it."""

    folder: Path
    decisions: Decisions
    pdp_server: Server
    pdp: PdpClient
    records: list = dataclasses.field(default_factory=list)
    full_disk: bool = False

    async def record(self, fields):
        if self.full_disk:
            raise OSError(28, "No space left on device")
        self.records.append(dict(fields))

    async def door(self, bound: Bound = BOUND) -> tuple[Server, AsyncClient]:
        path = self.folder / f"{bound.agent}-{bound.door}.sock"
        server = Server(GrpcDoor(bound, self.pdp, self.record, lambda: NOW).handlers, ())
        server.listen_unix(path, "agent")
        await server.start()
        return server, AsyncClient(f"unix:{path}", timeout_s=3)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    with tempfile.TemporaryDirectory() as name:
        folder, decisions = Path(name), Decisions()
        server = await decisions.listen(folder / "pdp.sock")
        pdp = PdpClient(f"unix:{folder / 'pdp.sock'}", None, unsafe_plaintext=False, timeout_s=1)
        yield House(folder, decisions, server, pdp)
        await pdp.close()
        await server.stop(0)


@pytest.fixture
async def agent(house: House) -> AsyncIterator[AsyncClient]:
    server, client = await house.door()
    yield client
    await client.close()
    await server.stop(0)


async def test_the_socket_says_who_acts_and_the_outcome_is_on_record(house, agent):
    decision = await agent.authorize("git/git_status", {"repo_path": "/secret"}, door="anything")
    assert decision.allowed
    (asked,) = house.decisions.asked
    assert (asked.tenant, asked.agent, asked.instance, asked.door) == ("default", "coder", "c1", "mcp_stdio")
    (record,) = house.records
    assert record["kind"] == "outcome"
    assert (record["effect"], record["go"], record["why"], record["status"]) == ("allow", True, "", "OK")
    assert record["time"] == "2026-01-05T10:00:00.000000Z"
    assert record["action_digest"] == decision.action_digest.hex()
    assert (record["decision_id"], record["session"], record["tool"]) == ("d1", SESSION, "git/git_status")
    assert "secret" not in str(record)


@pytest.mark.parametrize("other", [{"agent": "admin"}, {"instance": "c2"}, {"tenant": "rival"}])
async def test_a_request_for_another_agent_is_denied_as_a_decision(house, agent, other):
    decision = await agent.authorize("git/git_status", {}, **other)
    assert decision.effect is Effect.DENY
    assert decision.reasons[0].kind is ReasonKind.INVALID
    assert next(iter(other)) in decision.reasons[0].text
    assert house.decisions.asked == []
    assert house.records[0]["why"] == "foreign_agent"
    assert house.records[0]["agent"] == "coder"


async def test_a_denial_of_the_decision_point_comes_back_as_it_was(house, agent):
    house.decisions.rule = lambda request, response: deny(request, response, text="not here")
    decision = await agent.authorize("git/git_reset", {})
    assert (decision.effect, decision.reasons[0].text) == (Effect.DENY, "not here")
    assert (house.records[0]["effect"], house.records[0]["go"], house.records[0]["why"]) == ("deny", False, "denied")


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.INVALID_ARGUMENT])
async def test_any_other_status_is_a_denial(house, agent, code):
    house.decisions.rule = lambda request, response: Refusal(code, "words from inside")
    decision = await agent.authorize("git/git_status", {})
    assert decision.effect is Effect.DENY
    assert decision.reasons[0].kind is ReasonKind.ERROR
    assert "words from inside" not in decision.reasons[0].text
    assert (house.records[0]["effect"], house.records[0]["why"]) == ("none", "unanswered")
    assert house.records[0]["status"] == code.name


async def test_what_the_caller_can_mend_comes_back_as_its_status(house, agent):
    house.decisions.rule = lambda request, response: Refusal(Code.INVALID_ARGUMENT, "`tool` is missing")
    with pytest.raises(CallError, match="`tool` is missing") as error:
        await agent.authorize("", {})
    assert error.value.code == "INVALID_ARGUMENT"
    assert house.records[0]["status"] == "INVALID_ARGUMENT"


async def test_a_dead_decision_point_is_a_denial_with_a_hint_when_to_come_again(house, agent):
    await house.pdp_server.stop(0)
    decision = await agent.authorize("git/git_status", {})
    assert decision.effect is Effect.DENY
    assert decision.retry_after_ms == 1000
    assert house.records[0]["status"] == "UNAVAILABLE"


async def test_a_decision_point_without_room_is_a_denial_with_its_reason_and_a_hint_when_to_come_again(house, agent):
    house.decisions.rule = lambda request, response: Refusal(Code.RESOURCE_EXHAUSTED, "words from inside")
    decision = await agent.authorize("git/git_status", {})
    assert (decision.effect, decision.retry_after_ms) == (Effect.DENY, 1000)
    assert decision.reasons[0].text == "the decision point has too much to do"


@pytest.mark.parametrize(
    "change",
    [
        {"action_digest": b"\1" * 32},
        {"effect": pb.EFFECT_UNSPECIFIED},
        {"obligations": [pb.Obligation(id="rewrite")]},
        {"decision_id": ""},
        {"reasons": []},
    ],
    ids=str,
)
async def test_an_allow_that_does_not_fit_reaches_no_agent(house, agent, change):
    house.decisions.rule = lambda request, response: pb.AuthorizeResponse(
        **({d.name: value for d, value in response.ListFields()} | change)
    )
    decision = await agent.authorize("git/git_status", {})
    assert decision.effect is Effect.DENY
    assert house.records[0]["go"] is False
    assert house.records[0]["why"] not in ("", "denied")
    given_back = "decision_id" not in change and "effect" not in change
    assert house.decisions.settled == ([("d1", Outcome.NOT_EXECUTED)] if given_back else [])


async def test_a_repeated_answer_stays_the_same_answer_and_is_no_go_ahead(house, agent):
    def rule(request, response):
        response.repeated_answer = True
        return response

    house.decisions.rule = rule
    decision = await agent.authorize("git/git_status", {}, idempotency_key="k")
    assert (decision.effect, decision.repeated_answer, decision.allowed) == (Effect.ALLOW, True, False)
    assert house.records[0]["why"] == "answer_repeated"
    assert house.decisions.settled == []
    with pytest.raises(CallError):
        await agent.settle(decision.decision_id, Outcome.NOT_EXECUTED)


async def test_what_cannot_be_recorded_is_denied_and_given_back(house, agent):
    house.full_disk = True
    decision = await agent.authorize("git/git_status", {})
    assert decision.effect is Effect.DENY
    assert "could not be recorded" in decision.reasons[0].text
    assert house.decisions.settled == [("d1", Outcome.NOT_EXECUTED)]


async def test_an_agent_that_hangs_up_leaves_its_record(house):
    written = asyncio.Event()

    async def slow(fields):
        await asyncio.sleep(0.3)
        house.records.append(fields)
        written.set()

    house.record = slow
    server, client = await house.door()
    asking = asyncio.create_task(client.authorize("git/git_status", {}))
    while not house.decisions.asked:  # noqa: ASYNC110  the other end of a socket has no event for us
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    asking.cancel()
    await asyncio.wait_for(written.wait(), 5)
    assert house.records[0]["decision_id"] == "d1"
    await client.close()
    await server.stop(0)


async def test_a_batch_keeps_its_order_and_denies_what_is_not_ours(house, agent):
    house.decisions.rule = lambda request, response: deny(request, response) if request.tool == "t/no" else response
    decisions = await agent.authorize_batch(
        [Proposal("t/a", {}), Proposal("t/b", {}, agent="admin"), Proposal("t/no", {}), Proposal("t/c", {})]
    )
    assert [decision.allowed for decision in decisions] == [True, False, False, True]
    assert [request.tool for request in house.decisions.asked] == ["t/a", "t/no", "t/c"]
    assert len(house.records) == 4


async def test_a_batch_without_decisions_is_denied_whole(house, agent):
    house.decisions.rule = lambda request, response: Refusal(Code.UNAVAILABLE, "no")
    decisions = await agent.authorize_batch([Proposal("t/a", {}), Proposal("t/b", {})])
    assert [decision.effect for decision in decisions] == [Effect.DENY, Effect.DENY]
    assert len(house.records) == 2


async def test_a_batch_with_fewer_decisions_than_actions_is_denied_whole(house, agent):
    house.decisions.at_most = 1
    decisions = await agent.authorize_batch([Proposal("t/a", {}), Proposal("t/b", {})])
    assert [decision.effect for decision in decisions] == [Effect.DENY, Effect.DENY]


@pytest.mark.parametrize("count", [0, 51])
async def test_a_batch_has_one_to_fifty_actions(house, agent, count):
    with pytest.raises(CallError, match="1 to 50") as error:
        await agent.authorize_batch([Proposal("t/a", {})] * count)
    assert error.value.code == "INVALID_ARGUMENT"


async def test_a_broken_message_is_recorded_by_size_and_digest(house, agent):
    async with grpc.aio.insecure_channel(f"unix:{house.folder / 'coder-mcp_stdio.sock'}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary("/exequatur.v1.DecisionService/Authorize")(b"\x0a\xff")
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    (record,) = house.records
    assert (record["kind"], record["bytes"]) == ("refused", 2)
    assert (await agent.authorize("git/git_status", {})).allowed


async def test_names_without_end_do_not_make_records_without_end(house, agent):
    house.decisions.rule = deny
    await agent.authorize("t" * 100_000, {}, session="s" * 100_000, definition_sha256=b"d" * 100_000)
    assert len(str(house.records[0])) < 2000


# Settling and sessions.


async def test_a_go_ahead_is_settled_once_and_by_its_own_socket(house, agent):
    other_server, other = await house.door(dataclasses.replace(BOUND, agent="other"))
    decision = await agent.authorize("git/git_status", {})
    with pytest.raises(CallError) as error:
        await other.settle(decision.decision_id, Outcome.NOT_EXECUTED)
    assert error.value.code == "NOT_FOUND"
    assert await agent.settle(decision.decision_id, Outcome.EXECUTED) == 100
    with pytest.raises(CallError):
        await agent.settle(decision.decision_id, Outcome.EXECUTED)
    assert house.decisions.settled == [("d1", Outcome.EXECUTED)]
    await other.close()
    await other_server.stop(0)


async def test_an_agents_own_word_cannot_make_its_action_cheaper(house):
    server, client = await house.door(dataclasses.replace(BOUND, enforced=False))
    decision = await client.authorize("git/git_status", {})
    with pytest.raises(CallError, match="only an enforced door") as error:
        await client.settle(decision.decision_id, Outcome.NOT_EXECUTED)
    assert error.value.code == "FAILED_PRECONDITION"
    await client.settle(decision.decision_id, Outcome.EXECUTED, cost_microusd=0)
    assert house.decisions.settlements[0].cost_microusd == 100
    await client.close()
    await server.stop(0)


async def test_a_session_is_shown_to_its_own_agent_alone(house, agent):
    house.decisions.pins = {"git/git_status": b"\1" * 32}
    scope = await agent.get_session()
    assert scope.session.agent == "coder"
    assert scope.tools == house.decisions.pins
    house.decisions.agent = "admin"  # the session with this id is another agent's
    for asked in ({"session_id": SESSION}, {"agent": "admin"}):
        with pytest.raises(CallError, match="no such session") as error:
            await agent.get_session(**asked)
        assert error.value.code == "NOT_FOUND"


async def test_sessions_are_not_opened_through_an_agents_socket(house, agent):
    with pytest.raises(CallError) as error:
        await agent.open_session("coder", "spiffe://x", lifetime=dt.timedelta(hours=1))
    assert error.value.code == "UNIMPLEMENTED"
