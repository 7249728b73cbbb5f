"""The wire: what cannot be judged has the right status and is on record; nothing else ever leaves."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hashlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conveying import OPENER, desk
from exequatur.action import action_digest
from exequatur.transport import Code, Peer, Refusal
from exequatur.v1 import decision_pb2 as pb
from exequatur.v1 import session_pb2
from judging import ENFORCER, HOUR, OTHER, says, snapshot
from pdp.api.calls import STATUS, Calls
from pdp.api.decision import BATCH_ITEMS, DecisionApi
from pdp.api.session import SessionApi
from pdp.control.sessions import ControlError
from pdp.model import Effect, Obligation, Reason, ReasonKind, Verdict
from policies import NOW

AUDITOR = "spiffe://example.com/auditor"
ME = Peer(ENFORCER)


def apis(parts, openers=(OPENER,), auditors=(AUDITOR,)):
    calls = Calls(parts.conveyor)
    return DecisionApi(calls), SessionApi(calls, frozenset(openers), frozenset(auditors))


def request(**changes):
    fields = {"agent": "coder", "instance": "i1", "tool": "git/push", "arguments_json": b'{"repo_path":"/w"}'}
    return pb.AuthorizeRequest(**{**fields, **changes})


def open_request(lifetime=HOUR, **changes):
    fields = {"agent": "coder", "instance": "i1", "enforcer": ENFORCER, "scope": ["git/*"], "max_steps": 50}
    made = session_pb2.OpenSessionRequest(
        session=session_pb2.Session(**{**fields, "budget_microusd": 10_000, **changes})
    )
    if lifetime is not None:
        made.lifetime.FromTimedelta(lifetime)
    return made


async def refused(call, message, peer=ME, left=None):
    with pytest.raises(Refusal) as error:
        await call(message, peer, left)
    return error.value


def test_every_refusal_has_a_status():
    assert STATUS.keys() == set(ControlError.__subclasses__())


async def test_a_decision_crosses_the_wire_whole(tmp_path):
    verdict = Verdict(
        "cedar",
        Effect.WARN,
        (Reason(ReasonKind.RESTRICTED, "look at it", "p9", "cedar", "ASI02"),),
        (Obligation("redact", {"b": 1, "a": "x"}),),
        ("lead",),
    )
    async with desk(tmp_path, snapshot(verdict)) as parts:
        decisions, sessions = apis(parts)
        opened = session_pb2.OpenSessionResponse.FromString(
            await sessions.open_session(open_request().SerializeToString(), Peer(OPENER), None)
        ).session
        answer = pb.AuthorizeResponse.FromString(
            await decisions.authorize(request(idempotency_key="k").SerializeToString(), ME, 5.0)
        )
        assert answer.effect == pb.EFFECT_WARN
        assert answer.reasons[0] == pb.Reason(
            kind=pb.REASON_KIND_RESTRICTED, policy="p9", text="look at it", engine="cedar", owasp="ASI02"
        )
        assert answer.obligations[0] == pb.Obligation(id="redact", parameters_json=b'{"a":"x","b":1}')
        assert list(answer.approvers) == ["lead"]
        assert (answer.evidence.bundle_sha256, answer.evidence.bundle_sequence) == (b"\1" * 32, 7)
        assert answer.evidence.latency_us > 0
        assert (answer.session, answer.reserved_microusd) == (opened.id, 100)
        assert answer.settle_by.ToDatetime(tzinfo=dt.UTC) == NOW + dt.timedelta(minutes=10)
        assert answer.action_digest == action_digest(
            tenant="default",
            agent="coder",
            session=opened.id,
            tool="git/push",
            definition_sha256=b"",
            arguments_json=b'{"repo_path":"/w"}',
        )
        again = pb.AuthorizeResponse.FromString(
            await decisions.authorize(request(idempotency_key="k").SerializeToString(), ME, None)
        )
        assert again.repeated_answer
        again.repeated_answer = False
        assert again == answer
        settled = await decisions.settle(
            pb.SettleRequest(
                decision_id=answer.decision_id, outcome=pb.OUTCOME_EXECUTED, cost_microusd=0
            ).SerializeToString(),
            ME,
            None,
        )
        assert pb.SettleResponse.FromString(settled).charged_microusd == 0, "a cost of zero is not an unset cost"


BROKEN = {
    "truncated": b"\x0a\xff",
    "empty": b"",
    "no tool": request(tool="").SerializeToString(),
    "no agent": request(agent="").SerializeToString(),
    "not JSON": request(arguments_json=b"{").SerializeToString(),
    "not an object": request(arguments_json=b"[]").SerializeToString(),
    "not canonical": request(arguments_json=b'{"a": 1}').SerializeToString(),
    "duplicate": request(arguments_json=b'{"a":1,"a":1}').SerializeToString(),
    "too deep": request(arguments_json=b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}").SerializeToString(),
    "too large": request(arguments_json=b'{"a":"' + b"x" * 300 * 1024 + b'"}').SerializeToString(),
    "long key": request(idempotency_key="k" * 129).SerializeToString(),
    "short digest": request(definition_sha256=b"x").SerializeToString(),
    "negative cost": request(claims=pb.Claims(cost_estimate_microusd=-1)).SerializeToString(),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_cannot_be_judged_is_refused_on_record_with_digest_and_size(tmp_path, name):
    message = BROKEN[name]
    async with desk(tmp_path) as parts:
        decisions, _ = apis(parts)
        refusal = await refused(decisions.authorize, message)
        assert refusal.code is Code.INVALID_ARGUMENT
        (record,) = parts.records()
        assert record["kind"] == "refused"
        assert record["enforcer"] == ENFORCER
        assert record["method"] == "Authorize"
        assert (record["size"], record["sha256"]) == (len(message), hashlib.sha256(message).hexdigest())
        assert record["text"] == str(refusal)


async def test_a_batch_has_1_to_50_actions_and_a_broken_one_is_denied_alone(tmp_path):
    async with desk(tmp_path) as parts:
        decisions, _ = apis(parts)
        await parts.open()
        for count in (0, BATCH_ITEMS + 1):
            many = pb.AuthorizeBatchRequest(actions=[request()] * count)
            assert (await refused(decisions.authorize_batch, many.SerializeToString())).code is Code.INVALID_ARGUMENT
        batch = pb.AuthorizeBatchRequest(actions=[request(), request(arguments_json=b"x"), request(tool="git/log")])
        answer = pb.AuthorizeBatchResponse.FromString(
            await decisions.authorize_batch(batch.SerializeToString(), ME, None)
        )
        assert [d.effect for d in answer.decisions] == [pb.EFFECT_ALLOW, pb.EFFECT_DENY, pb.EFFECT_ALLOW]
        assert answer.decisions[1].reasons[0].kind == pb.REASON_KIND_INVALID
        assert answer.decisions[1].decision_id
        full = pb.AuthorizeBatchRequest(actions=[request(tool="git/log")] * BATCH_ITEMS)
        answer = pb.AuthorizeBatchResponse.FromString(
            await decisions.authorize_batch(full.SerializeToString(), ME, None)
        )
        assert len(answer.decisions) == BATCH_ITEMS
        assert len({d.decision_id for d in answer.decisions}) == BATCH_ITEMS


async def test_no_time_left_means_not_judged_and_nothing_reserved(tmp_path):
    async with desk(tmp_path) as parts:
        decisions, _ = apis(parts)
        session = await parts.open()
        for message in (request().SerializeToString(), b"\xff"):
            assert (await refused(decisions.authorize, message, left=0.0)).code is Code.DEADLINE_EXCEEDED
        assert parts.stored(session.id).steps == 0
        assert parts.records("decision") == []


async def test_settle_statuses(tmp_path):
    async with desk(tmp_path) as parts:
        decisions, _ = apis(parts)
        await parts.open()
        answer = pb.AuthorizeResponse.FromString(await decisions.authorize(request().SerializeToString(), ME, None))

        def settle(**fields):
            whole = {"decision_id": answer.decision_id, "outcome": pb.OUTCOME_EXECUTED, **fields}
            return pb.SettleRequest(**whole).SerializeToString()

        for message in (
            b"\xff",
            settle(outcome=pb.OUTCOME_UNSPECIFIED),
            settle(outcome=9),
            settle(cost_microusd=-1),
            settle(cost_microusd=2**53),
            settle(decision_id=""),
        ):
            assert (await refused(decisions.settle, message)).code is Code.INVALID_ARGUMENT
        for peer, message in ((Peer(OTHER), settle()), (ME, settle(tenant="acme")), (ME, settle(decision_id="none"))):
            assert (await refused(decisions.settle, message, peer)).code is Code.NOT_FOUND
        assert await decisions.settle(settle(), ME, None)
        assert (await refused(decisions.settle, settle())).code is Code.FAILED_PRECONDITION


async def test_unset_openers_and_auditors_mean_nobody(tmp_path):
    async with desk(tmp_path) as parts:
        _, sessions = apis(parts, (), ())
        opened = await parts.open(instance="i9")
        for call, message in (
            (sessions.open_session, open_request()),
            (sessions.close_session, session_pb2.CloseSessionRequest(id=opened.id)),
        ):
            assert (await refused(call, message.SerializeToString(), Peer(OPENER))).code is Code.PERMISSION_DENIED
        assert [r["method"] for r in parts.records("refused")] == ["OpenSession", "CloseSession"]
        show = session_pb2.GetSessionRequest(id=opened.id).SerializeToString()
        assert (await refused(sessions.get_session, show, Peer(AUDITOR))).code is Code.NOT_FOUND
        assert await sessions.get_session(show, ME, None)


async def test_an_opener_of_one_tenant_touches_no_session_of_another(tmp_path):
    """Nor does one whose own name reads like that of an opener and a tenant."""
    async with desk(tmp_path) as parts:
        opened = await parts.open(instance="i9")
        close = session_pb2.CloseSessionRequest(id=opened.id).SerializeToString()
        show = session_pb2.GetSessionRequest(id=opened.id).SerializeToString()
        for named, peer in (
            (f"{OPENER}@acme", Peer(OPENER)),
            (f"{OPENER}@default", Peer(f"{OPENER}@default")),
            (OPENER, Peer(f"{OPENER}@default")),
        ):
            _, sessions = apis(parts, (named,), ())
            for call, message in (
                (sessions.open_session, open_request().SerializeToString()),
                (sessions.close_session, close),
            ):
                assert (await refused(call, message, peer)).code is Code.PERMISSION_DENIED
            assert (await refused(sessions.get_session, show, peer)).code is Code.NOT_FOUND
        _, sessions = apis(parts, (f"{OPENER}@default",), (f"{AUDITOR}@default",))
        assert await sessions.get_session(show, Peer(AUDITOR), None)
        assert await sessions.close_session(close, Peer(OPENER), None)


async def test_a_session_is_opened_shown_and_closed(tmp_path):
    async with desk(tmp_path) as parts:
        _, sessions = apis(parts)
        wished = open_request(
            subject="ann",
            delegation_chain=["root"],
            intent=session_pb2.Intent(purpose="fix", task="do\nit", domains=["code"]),
            # What the decision point fills in is never read from a request.
            id="mine",
            steps=-5,
            labels=["pii"],
            spent_microusd=-10,
        )
        opened = session_pb2.OpenSessionResponse.FromString(
            await sessions.open_session(wished.SerializeToString(), Peer(OPENER), None)
        ).session
        assert opened.id != "mine"
        assert (opened.tenant, opened.steps, list(opened.labels), opened.spent_microusd) == ("default", 0, [], 0)
        assert (opened.subject, opened.intent.task, list(opened.scope)) == ("ann", "do\nit", ["git/*"])
        assert opened.expires_at.ToDatetime(tzinfo=dt.UTC) == NOW + HOUR
        by_instance = session_pb2.GetSessionRequest(agent="coder", instance="i1")
        shown = session_pb2.GetSessionResponse.FromString(
            await sessions.get_session(by_instance.SerializeToString(), ME, None)
        )
        assert shown.session == opened
        assert {pin.tool: len(pin.definition_sha256) for pin in shown.tools} == {"git/log": 32, "git/push": 32}
        for peer in (OPENER, AUDITOR):
            assert await sessions.get_session(by_instance.SerializeToString(), Peer(peer), None)
        assert (
            await refused(sessions.get_session, by_instance.SerializeToString(), Peer(OTHER))
        ).code is Code.NOT_FOUND
        close = session_pb2.CloseSessionRequest(id=opened.id).SerializeToString()
        for _ in range(2):  # closing twice is no error
            closed = session_pb2.CloseSessionResponse.FromString(
                await sessions.close_session(close, Peer(OPENER), None)
            ).session
            assert closed.HasField("closed_at")
        none = session_pb2.CloseSessionRequest(id="none").SerializeToString()
        assert (await refused(sessions.close_session, none, Peer(OPENER))).code is Code.NOT_FOUND


@pytest.mark.parametrize(
    "message",
    [
        b"\xff",
        open_request(lifetime=None).SerializeToString(),
        open_request(lifetime=-HOUR).SerializeToString(),
        open_request(scope=["git"]).SerializeToString(),
        open_request(enforcer="").SerializeToString(),
        open_request(enforcer=OTHER).SerializeToString(),
        open_request(max_steps=-1).SerializeToString(),
    ],
)
async def test_a_session_that_cannot_be_has_a_status(tmp_path, message):
    async with desk(tmp_path) as parts:
        _, sessions = apis(parts)
        assert (await refused(sessions.open_session, message, Peer(OPENER))).code is Code.INVALID_ARGUMENT
        assert (await refused(sessions.get_session, b"")).code is Code.INVALID_ARGUMENT
        assert (await refused(sessions.close_session, b"", Peer(OPENER))).code is Code.INVALID_ARGUMENT


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=80)), max_size=20))
def test_any_bytes_are_an_answer_or_a_refusal(tmp_path_factory, messages):
    async def play():
        async with desk(tmp_path_factory.mktemp("fuzz"), snapshot(says(Effect.ALLOW))) as parts:
            decisions, sessions = apis(parts)
            handlers = [*decisions.handlers().values(), *sessions.handlers().values()]
            for which, message in messages:
                with contextlib.suppress(Refusal):
                    assert isinstance(await handlers[which](message, Peer(OPENER), 5.0), bytes)

    asyncio.run(play())
