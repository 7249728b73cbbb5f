"""The SDK against a real server: what is allowed, what is never sent twice, and what plain text needs."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from exequatur.client import (
    AsyncClient,
    CallError,
    Client,
    Effect,
    Intent,
    LedgerClient,
    Outcome,
    Proposal,
    ReasonKind,
    Tls,
)
from exequatur.served import PolicyState, TrialMode
from exequatur.transport import Code, Peer, Refusal, Server
from exequatur.trust.canonical import JsonError
from exequatur.v1 import audit_pb2, bundle_pb2, decision_pb2, session_pb2
from pki import Authority

DECISION = "/exequatur.v1.DecisionService/"
SESSION = "/exequatur.v1.SessionService/"
AUDIT = "/exequatur.v1.AuditService/"
BUNDLE = "/exequatur.v1.BundleService/"
SERVICES = (decision_pb2.DESCRIPTOR.services_by_name["DecisionService"],)


class Service:
    """A scripted service on a real transport: answers in order, the last one for good."""

    def __init__(self) -> None:
        self.answers: list[object] = []
        self.messages: list[bytes] = []

    async def __call__(self, message: bytes, peer: Peer, left_s: float | None) -> bytes:
        self.messages.append(message)
        self.left_s = left_s
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer.SerializeToString()


def server(service: Service) -> Server:
    names = [DECISION + n for n in ("Authorize", "AuthorizeBatch", "Settle")]
    names += [SESSION + n for n in ("OpenSession", "GetSession", "CloseSession")]
    names += [AUDIT + n for n in ("Append", "GetCheckpoint")]
    names += [BUNDLE + n for n in ("GetStatus", "Refresh")]
    return Server(dict.fromkeys(names, service), SERVICES)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def client(service: Service, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    listening = server(service)
    port = listening.listen_tcp("127.0.0.1:0", None)
    await listening.start()
    async with AsyncClient(f"127.0.0.1:{port}", unsafe_plaintext=True, timeout_s=2) as client:
        yield client
    await listening.stop(0)


def allow(**changes: object) -> decision_pb2.AuthorizeResponse:
    return decision_pb2.AuthorizeResponse(
        decision_id="d1",
        effect=changes.pop("effect", decision_pb2.EFFECT_ALLOW),
        reasons=[decision_pb2.Reason(kind=decision_pb2.REASON_KIND_PERMITTED, text="fine", policy="p", engine="cedar")],
        **changes,
    )


async def test_an_allow_is_allowed_and_its_evidence_is_typed(client, service):
    answer = allow(reserved_microusd=7, approvers=["a"], session="s")
    answer.settle_by.FromDatetime(dt.datetime(2026, 1, 5, 10, tzinfo=dt.UTC))
    answer.evidence.bundle_sha256, answer.evidence.bundle_sequence = b"\1" * 32, 41
    service.answers = [answer]
    decision = await client.authorize("git/git_status", {"repo_path": "/work"}, agent="coder", session="s")
    assert decision.allowed
    assert decision.effect is Effect.ALLOW
    assert decision.reasons[0].kind is ReasonKind.PERMITTED
    assert (decision.bundle_sequence, decision.reserved_microusd, decision.session) == (41, 7, "s")
    assert decision.settle_by == dt.datetime(2026, 1, 5, 10, tzinfo=dt.UTC)
    sent = decision_pb2.AuthorizeRequest.FromString(service.messages[0])
    assert (sent.tool, sent.agent, sent.session) == ("git/git_status", "coder", "s")
    assert sent.arguments_json == b'{"repo_path":"/work"}'


@pytest.mark.parametrize(
    "answer",
    [
        allow(effect=decision_pb2.EFFECT_DENY),
        allow(effect=decision_pb2.EFFECT_REQUIRE_APPROVAL),
        allow(effect=decision_pb2.EFFECT_UNSPECIFIED),
        allow(effect=9),
        allow(repeated_answer=True),
        allow(obligations=[decision_pb2.Obligation(id="mask")]),
        decision_pb2.AuthorizeResponse(),
    ],
)
async def test_nothing_but_a_plain_allow_or_warn_is_allowed(client, service, answer):
    service.answers = [answer]
    assert not (await client.authorize("t/x", {})).allowed


async def test_a_warning_is_allowed(client, service):
    service.answers = [allow(effect=decision_pb2.EFFECT_WARN)]
    assert (await client.authorize("t/x", {})).allowed


async def test_a_status_is_an_error_that_names_it(client, service):
    service.answers = [Refusal(Code.INVALID_ARGUMENT, "the tool is missing")]
    with pytest.raises(CallError, match="the tool is missing") as error:
        await client.authorize("", {})
    assert error.value.code == "INVALID_ARGUMENT"


async def test_nothing_is_sent_twice_without_an_idempotency_key(client, service):
    service.answers = [Refusal(Code.UNAVAILABLE, "restarting"), allow()]
    with pytest.raises(CallError):
        await client.authorize("t/x", {})
    assert len(service.messages) == 1


@pytest.mark.parametrize("code", [Code.INTERNAL, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED])
async def test_only_unavailable_is_tried_again(client, service, code):
    service.answers = [Refusal(code, "no"), allow()]
    with pytest.raises(CallError):
        await client.authorize("t/x", {}, idempotency_key="k")
    assert len(service.messages) == 1


async def test_an_idempotency_key_allows_one_more_attempt_with_the_same_bytes(client, service):
    service.answers = [Refusal(Code.UNAVAILABLE, "restarting"), allow()]
    assert (await client.authorize("t/x", {}, idempotency_key="k")).allowed
    assert service.messages[0] == service.messages[1]
    service.answers = [Refusal(Code.UNAVAILABLE, "restarting")]
    with pytest.raises(CallError):
        await client.authorize("t/x", {}, idempotency_key="k")
    assert len(service.messages) == 4


@pytest.mark.parametrize("name", ["settle", "close_session", "get_session"])
async def test_no_other_call_is_tried_again(client, service, name):
    service.answers = [Refusal(Code.UNAVAILABLE, "restarting"), decision_pb2.SettleResponse()]
    with pytest.raises(CallError):
        await (client.settle("d1", Outcome.EXECUTED) if name == "settle" else getattr(client, name)("s"))
    assert len(service.messages) == 1


async def test_every_call_has_a_deadline(tmp_path):
    async def never(message: bytes, peer: Peer, left_s: float | None) -> bytes:
        assert left_s is not None
        await asyncio.sleep(60)
        return b""

    listening = Server({DECISION + "Authorize": never}, SERVICES)
    port = listening.listen_tcp("127.0.0.1:0", None)
    await listening.start()
    async with AsyncClient(f"127.0.0.1:{port}", unsafe_plaintext=True, timeout_s=0.1) as client:
        with pytest.raises(CallError) as error:
            await client.authorize("t/x", {})
    assert error.value.code == "DEADLINE_EXCEEDED"
    await listening.stop(0)


async def test_arguments_that_canonical_form_would_change_never_leave(client, service):
    with pytest.raises(JsonError, match="send it as a string"):
        await client.authorize("t/x", {"n": 2**53 + 1})
    assert service.messages == []


async def test_a_batch_has_one_decision_an_action(client, service):
    service.answers = [decision_pb2.AuthorizeBatchResponse(decisions=[allow(), allow(effect=decision_pb2.EFFECT_DENY)])]
    decisions = await client.authorize_batch([Proposal("t/x", {}), Proposal("t/y", {})])
    assert [decision.allowed for decision in decisions] == [True, False]
    with pytest.raises(CallError, match="3 actions were sent, 2 were judged"):
        await client.authorize_batch([Proposal("t/x", {})] * 3)


async def test_settling_leaves_the_cost_unset_unless_told(client, service):
    service.answers = [decision_pb2.SettleResponse(charged_microusd=5)]
    assert await client.settle("d1", Outcome.EXECUTED) == 5
    assert not decision_pb2.SettleRequest.FromString(service.messages[-1]).HasField("cost_microusd")
    await client.settle("d1", Outcome.FAILED, cost_microusd=0)
    sent = decision_pb2.SettleRequest.FromString(service.messages[-1])
    assert sent.HasField("cost_microusd")
    assert sent.outcome == decision_pb2.OUTCOME_FAILED


async def test_sessions_come_back_typed(client, service):
    session = session_pb2.Session(id="s", agent="coder", scope=["git/*"], intent=session_pb2.Intent(purpose="fix"))
    service.answers = [session_pb2.OpenSessionResponse(session=session)]
    opened = await client.open_session(
        "coder", "spiffe://test/sidecar", lifetime=dt.timedelta(minutes=5), scope=["git/*"], intent=Intent("fix")
    )
    assert (opened.id, opened.scope, opened.intent.purpose, opened.closed_at) == ("s", ("git/*",), "fix", None)
    sent = session_pb2.OpenSessionRequest.FromString(service.messages[-1])
    assert sent.lifetime.ToTimedelta() == dt.timedelta(minutes=5)
    pin = session_pb2.ToolPin(tool="git/git_status", definition_sha256=b"\2" * 32)
    service.answers = [session_pb2.GetSessionResponse(session=session, tools=[pin])]
    assert (await client.get_session("s")).tools == {"git/git_status": b"\2" * 32}


async def test_the_ledgers_word_comes_back_typed(service):
    listening = server(service)
    port = listening.listen_tcp("127.0.0.1:0", None)
    await listening.start()
    ledger = LedgerClient(f"127.0.0.1:{port}", unsafe_plaintext=True)
    service.answers = [audit_pb2.AppendResponse(acknowledged=2, checkpoint="cp", consistency=[b"\3" * 32])]
    ack = await ledger.append("w#1", 1, [b"{}", b"{}"], 0)
    assert (ack.acknowledged, ack.checkpoint, ack.consistency) == (2, "cp", (b"\3" * 32,))
    service.answers = [Refusal(Code.FAILED_PRECONDITION, "the next number is 4")]
    with pytest.raises(CallError) as error:
        await ledger.append("w#1", 5, [b"{}"], 0)
    assert error.value.code == "FAILED_PRECONDITION"
    await ledger.close()
    await listening.stop(0)


def test_plain_text_over_tcp_has_to_be_asked_for():
    with pytest.raises(ValueError, match="unsafe_plaintext"):
        Client("127.0.0.1:1")


@pytest.fixture
def served(service: Service, tmp_path: Path) -> Iterator[tuple[str, Tls]]:
    """The service under mutual TLS on a loop of its own, for the blocking client."""
    authority = Authority(tmp_path / "pki")
    files = authority.issue("client", "spiffe://test/orchestrator")
    loop, listening, port = asyncio.new_event_loop(), [], []

    async def start() -> None:
        listening.append(server(service))
        port.append(listening[0].listen_tcp("127.0.0.1:0", authority.issue("server", "spiffe://test/pdp")))
        await listening[0].start()

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    yield f"127.0.0.1:{port[0]}", Tls(files.certificate, files.key, files.roots)
    asyncio.run_coroutine_threadsafe(listening[0].stop(0), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def test_three_lines_to_authorize_without_an_event_loop(served, service):
    target, tls = served
    service.answers = [allow()]
    with Client(target, tls=tls) as client:
        decision = client.authorize("git/git_status", {"repo_path": "/work"})
        assert decision.allowed
        service.answers = [Refusal(Code.UNAVAILABLE, "restarting"), allow()]
        assert client.authorize("t/x", {}, idempotency_key="k").allowed
        service.answers = [Refusal(Code.UNAVAILABLE, "restarting"), allow()]
        with pytest.raises(CallError):
            client.authorize("t/x", {})
        service.answers = [decision_pb2.AuthorizeBatchResponse(decisions=[allow()])]
        assert len(client.authorize_batch([Proposal("t/x", {})])) == 1
        service.answers = [decision_pb2.SettleResponse(charged_microusd=5)]
        assert client.settle("d1", Outcome.EXECUTED) == 5
        service.answers = [session_pb2.GetSessionResponse(session=session_pb2.Session(id="s"))]
        assert client.get_session().session.id == "s"
        assert client.close_session("s").id == "s"
        assert client.open_session("coder", "spiffe://x", lifetime=dt.timedelta(seconds=1)).id == "s"


async def test_what_is_served_is_told_as_values(client, service):
    tenant = bundle_pb2.TenantStatus(
        tenant="acme",
        state=bundle_pb2.POLICY_STATE_SERVING,
        serving=bundle_pb2.ServedBundle(digest=b"\1" * 32, sequence=7, kids=["alice"]),
        workers=[bundle_pb2.WorkerStatus(name="worker 0", digest=b"\1" * 32), bundle_pb2.WorkerStatus(name="worker 1")],
        candidate=bundle_pb2.CandidateStatus(mode=99),
    )
    service.answers = [bundle_pb2.GetStatusResponse(status=bundle_pb2.BundleStatus(tenants=[tenant]))]
    found = await client.bundle_status(tenant="acme")
    assert bundle_pb2.GetStatusRequest.FromString(service.messages[-1]).tenant == "acme"
    (one,) = found.tenants
    assert (one.serving.sequence, one.serving.kids, one.serving.expires_at) == (7, ("alice",), None)
    assert (one.refused, one.keys, found.at) == (None, None, None)
    assert one.candidate.mode is TrialMode.UNSPECIFIED
    assert one.behind == ("worker 1",)
    assert found.serving
    for state in (0, 2, 3, 4, 5, 99):
        tenant.state = state
        status = bundle_pb2.BundleStatus(tenants=[tenant])
        service.answers = [bundle_pb2.RefreshResponse(status=status)]
        found = await client.refresh_bundles()
        assert not found.serving, state
    assert found.tenants[0].state is PolicyState.UNSPECIFIED  # a state that is not known here is not taken for good
    service.answers = [bundle_pb2.GetStatusResponse()]
    assert not (await client.bundle_status()).serving  # no tenant is not every tenant
