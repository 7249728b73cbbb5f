"""Who may see what is served, who may ask for a look, and what they are told when it cannot be told."""

from __future__ import annotations

import asyncio
import json

import pytest

from conveying import OPENER, desk
from exequatur.transport import MESSAGE_BYTES, Code, Peer, Refusal
from exequatur.v1 import bundle_pb2 as pb
from pdp.api.bundle import BundleApi
from pdp.api.calls import Calls
from pdp.control.sessions import UnavailableError
from statuses import CANDIDATE, REFUSED, digest, status, tenant

AUDITOR, OPERATOR = Peer("spiffe://example.com/auditor"), Peer("spiffe://example.com/sre")
STRANGER = Peer("spiffe://example.com/sidecar/coder")


class Supervisor:
    """Answers a refresh as the test says."""

    def __init__(self, answer: object = None) -> None:
        self.asked: list[str] = []
        self.answer = answer

    async def refresh(self, tenant):
        self.asked.append(tenant)
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is None:
            await asyncio.Event().wait()
        return self.answer


@pytest.fixture
async def parts(tmp_path):
    async with desk(tmp_path) as parts:
        yield parts


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "status.json"
    path.write_text(json.dumps(status(tenant(), tenant("acme"))))
    return path


def api(parts, file, supervisor=None) -> BundleApi:
    calls = Calls(parts.conveyor)
    readers, operators = frozenset({AUDITOR.identity, OPENER}), frozenset({OPERATOR.identity})
    return BundleApi(calls, file, supervisor or Supervisor(status(tenant())), readers=readers, operators=operators)


async def get(it: BundleApi, peer: Peer = AUDITOR, **fields: str) -> pb.BundleStatus:
    message = pb.GetStatusRequest(**fields).SerializeToString()
    return pb.GetStatusResponse.FromString(await it.get_status(message, peer, 5.0)).status


async def refresh(it: BundleApi, peer: Peer = OPERATOR, left: float | None = 5.0, **fields: str) -> pb.BundleStatus:
    message = pb.RefreshRequest(**fields).SerializeToString()
    return pb.RefreshResponse.FromString(await it.refresh(message, peer, left)).status


async def test_those_who_are_named_see_it_and_nobody_else(parts, file):
    it = api(parts, file)
    for peer in (AUDITOR, Peer(OPENER), OPERATOR):
        assert [item.tenant for item in (await get(it, peer)).tenants] == ["default", "acme"]
    with pytest.raises(Refusal) as error:
        await get(it, STRANGER)
    assert error.value.code is Code.PERMISSION_DENIED
    (record,) = parts.records("refused")
    assert (record["method"], record["enforcer"]) == ("GetStatus", STRANGER.identity)


async def test_only_operators_have_it_looked(parts, file):
    supervisor = Supervisor(status(tenant()))
    it = api(parts, file, supervisor)
    for peer in (AUDITOR, Peer(OPENER), STRANGER):
        with pytest.raises(Refusal) as error:
            await refresh(it, peer)
        assert error.value.code is Code.PERMISSION_DENIED
    assert not supervisor.asked
    assert {record["method"] for record in parts.records("refused")} == {"Refresh"}
    assert (await refresh(it)).tenants[0].serving.sequence == 41
    assert supervisor.asked == [""]


async def test_who_is_named_for_one_tenant_sees_nothing_of_another(parts, file):
    known = status(tenant(), tenant("acme"), alarms=("`default` signs two truths",))
    file.write_text(json.dumps(known))
    calls, supervisor = Calls(parts.conveyor), Supervisor(known)
    mine = frozenset({f"{OPERATOR.identity}@acme"})
    it = BundleApi(calls, file, supervisor, readers=mine, operators=mine)
    for call in (get, refresh):
        shown = await call(it, OPERATOR, tenant="acme")
        assert ([item.tenant for item in shown.tenants], list(shown.alarms)) == (["acme"], [])
        for other in ("", "default"):
            with pytest.raises(Refusal) as error:
                await call(it, OPERATOR, tenant=other)
            assert error.value.code is Code.PERMISSION_DENIED
    assert supervisor.asked == ["acme"]


async def test_unset_means_nobody(parts, file):
    calls = Calls(parts.conveyor)
    it = BundleApi(calls, file, Supervisor(), readers=frozenset(), operators=frozenset())
    for call in (get(it), refresh(it)):
        with pytest.raises(Refusal):
            await call


async def test_one_tenant_alone(parts, file):
    supervisor = Supervisor(status(tenant(), tenant("acme")))
    it = api(parts, file, supervisor)
    assert [item.tenant for item in (await get(it, tenant="acme")).tenants] == ["acme"]
    assert [item.tenant for item in (await refresh(it, tenant="acme")).tenants] == ["acme"]
    assert supervisor.asked == ["acme"]
    for call in (get(it, tenant="nobody"), refresh(it, tenant="nobody")):
        with pytest.raises(Refusal) as error:
            await call
        assert error.value.code is Code.NOT_FOUND
    assert supervisor.asked == ["acme"]  # nobody is asked about a tenant that is not there


async def test_all_of_it_crosses_the_wire(parts, file):
    whole = tenant(
        "acme",
        state="withdrawn",
        reason="the key `bob` is revoked",
        faults=["`x`: it is broken"],
        refused=REFUSED,
        candidate=CANDIDATE,
        workers={"worker 0": digest("41"), "worker 1": ""},
    )
    empty = tenant(
        "new", state="none", serving=None, floor=0, confirmed_at=None, last_look_at=None, keys=None, workers={}
    )
    file.write_text(json.dumps(status(whole, empty, alarms=("somebody signs two truths",))))
    found = await get(api(parts, file))
    assert list(found.alarms) == ["somebody signs two truths"]
    assert found.at.ToJsonString() == "2026-11-21T03:00:00Z"
    one, other = found.tenants
    assert (one.state, one.reason) == (pb.POLICY_STATE_WITHDRAWN, "the key `bob` is revoked")
    assert (one.serving.digest.hex(), one.serving.revision) == (digest("41"), "r41")
    assert one.serving.expires_at.ToJsonString() == "2026-12-21T03:00:00Z"
    assert list(one.serving.kids) == ["alice", "bob"]
    assert (one.refused.digest.hex(), one.refused.reason) == (REFUSED["digest"], REFUSED["reason"])
    trial = one.candidate
    assert (trial.mode, trial.percent, trial.halted) == (pb.TRIAL_MODE_CANARY, 10, "it failed to judge an action")
    assert (trial.judged, trial.stricter, trial.looser, trial.errors) == (1280, 4, 1, 2)
    assert (list(one.keys.kids), one.keys.threshold, list(one.keys.revoked)) == (["alice", "bob"], 2, ["mallory"])
    assert [(worker.name, worker.digest.hex()) for worker in one.workers] == [
        ("worker 0", digest("41")),
        ("worker 1", ""),
    ]
    assert other.state == pb.POLICY_STATE_NONE
    assert not any(map(other.HasField, ("serving", "refused", "candidate", "keys", "confirmed_at", "last_look_at")))


def without(name: str) -> str:
    broken = tenant()
    del broken[name]
    return json.dumps(status(broken))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        "x" * (MESSAGE_BYTES + 10),
        json.dumps(status(tenant(state="fine"))),
        json.dumps(status(tenant(floor="41"))),
        json.dumps(status(tenant(workers={"worker 0": "no hex"}))),
        json.dumps(status(tenant(), at="yesterday")),
        without("state"),
        without("workers"),
    ],
)
async def test_a_status_that_cannot_be_read_is_no_empty_one(parts, file, text):
    file.write_text(text)
    for call in (get(api(parts, file)), refresh(api(parts, file))):
        with pytest.raises(Refusal, match="the status cannot be read") as error:
            await call
        assert error.value.code is Code.UNAVAILABLE


async def test_before_the_first_status_it_is_unavailable(parts, tmp_path):
    with pytest.raises(Refusal, match="has not written a status yet") as error:
        await get(api(parts, tmp_path / "nowhere"))
    assert error.value.code is Code.UNAVAILABLE


async def test_a_look_that_takes_too_long_or_fails_is_said(parts, file):
    supervisor = Supervisor()
    with pytest.raises(Refusal, match="it goes on") as error:
        await refresh(api(parts, file, supervisor), left=0.21)
    assert error.value.code is Code.DEADLINE_EXCEEDED
    assert supervisor.asked == [""]
    with pytest.raises(Refusal, match="nobody is there") as error:
        await refresh(api(parts, file, Supervisor(UnavailableError("nobody is there"))), left=None)
    assert error.value.code is Code.UNAVAILABLE


async def test_what_is_no_message_is_refused_on_record(parts, file):
    it = api(parts, file)
    for call, peer in ((it.get_status, AUDITOR), (it.refresh, OPERATOR)):
        with pytest.raises(Refusal) as error:
            await call(b"\x0a\xff", peer, 5.0)
        assert error.value.code is Code.INVALID_ARGUMENT
    assert len(parts.records("refused")) == 2
