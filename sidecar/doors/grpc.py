"""The gRPC door: one Unix socket an agent, and the socket is the identity.

Rules:
- Tenant, agent, instance and door are the socket's. A request that names another agent is denied, as a decision; a
  session of another agent is not shown.
- Any status of the decision point other than OK is a denial. Only INVALID_ARGUMENT goes back as it came: it is the
  caller's to mend.
- What was obeyed or refused is on record before the answer leaves, where it is waited for in the ledger's. What cannot
  be recorded is denied.
- Decisions are settled through the socket that they were given to. What an agent says of its own action can cost it
  more than was reserved, never less: only a door that forwards knows that nothing ran.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from exequatur.client import decision_of
from exequatur.refusals import Code, Refusal
from exequatur.spool import SpoolError
from exequatur.transport import Handler, Peer
from exequatur.trust.canonical import Json
from exequatur.v1 import decision_pb2 as pb
from exequatur.v1 import session_pb2
from exequatur.values import Outcome
from sidecar.gate import Answered, Call, Forward, Gate, Proposed, Refuse, Settle, Unanswered, Why
from sidecar.pdp_client import NoDecision
from sidecar.recording import NOT_TAKEN, NotTaken, Record, Recorder, Waiting

log = logging.getLogger(__name__)

BATCH: Final = 50
"""How many actions a batch may hold: the wire's own limit."""

RETRY_MS: Final = 1000
"""When a caller whom nobody could answer may come again, in milliseconds."""

OUTSTANDING: Final = 10_000
"""How many unsettled go-aheads a socket remembers; the oldest are forgotten first, and charged when they expire."""

RECORDED_NAME: Final = 256
"""How many characters of a name from outside a record keeps; the decision point takes no longer ones."""

SERVICES: Final = (
    pb.DESCRIPTOR.services_by_name["DecisionService"],
    session_pb2.DESCRIPTOR.services_by_name["SessionService"],
)
"""What the door offers, for reflection."""


class DecisionPoint(Protocol):
    """Who judges; each call raises `NoDecision`. `left_s` is what the caller's deadline leaves."""

    async def authorize(self, request: pb.AuthorizeRequest, left_s: float | None) -> pb.AuthorizeResponse:
        """Judge one action."""

    async def authorize_batch(
        self, request: pb.AuthorizeBatchRequest, left_s: float | None
    ) -> pb.AuthorizeBatchResponse:
        """Judge actions in order."""

    async def settle(self, request: pb.SettleRequest, left_s: float | None) -> pb.SettleResponse:
        """Take an outcome."""

    async def get_session(
        self, request: session_pb2.GetSessionRequest, left_s: float | None
    ) -> session_pb2.GetSessionResponse:
        """Show a session."""


UNACKNOWLEDGED: Final = "unacknowledged"
"""The word that records carry for a go-ahead that was not given, since the ledger had no record of it in time."""


@dataclass(frozen=True, slots=True)
class Bound:
    """For whom a socket speaks, and whether an enforced door does: elsewhere an outcome is the agent's own word."""

    tenant: str
    agent: str
    instance: str
    door: str
    enforced: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate made of one answer: what the caller is told, what is recorded, what is settled."""

    response: pb.AuthorizeResponse
    record: Mapping[str, Json]
    settle: Settle | None = None
    go: bool = False


class GrpcDoor:
    """Serves one agent's socket."""

    def __init__(
        self,
        bound: Bound,
        decision_point: DecisionPoint,
        record: Record,
        now: Callable[[], dt.datetime],
        waiting: Waiting | None = None,
        *,
        answered: Callable[[Mapping[str, Json]], None] = lambda _: None,
    ) -> None:
        """Speak for `bound` at `decision_point`; with `waiting`, answers wait for the ledger.

        `answered` hears the outcome of each action, once, when it is final.
        """
        self._bound = bound
        self._pdp = decision_point
        self._now = now
        self._recorder = Recorder(record, waiting)
        self._answered = answered
        self._given: dict[str, int] = {}  # decision id to what was reserved, in micro-USD, oldest first
        self._concluding: set[asyncio.Task[object]] = set()

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """The wire's calls that this door serves."""
        return {
            "/exequatur.v1.DecisionService/Authorize": self.authorize,
            "/exequatur.v1.DecisionService/AuthorizeBatch": self.authorize_batch,
            "/exequatur.v1.DecisionService/Settle": self.settle,
            "/exequatur.v1.SessionService/GetSession": self.get_session,
        }

    async def authorize(self, message: bytes, _: Peer, left_s: float | None) -> bytes:
        """Have one action judged, and say what may happen."""
        until = self._recorder.until(left_s)
        request = await self._parse(pb.AuthorizeRequest(), message, until)
        if foreign := self._foreign(request):
            verdict = self._deny(request, pb.REASON_KIND_INVALID, foreign, "foreign_agent")
        else:
            self._fill(request)
            try:
                verdict = self._judge(request, await self._pdp.authorize(request, left_s))
            except NoDecision as failure:
                verdict = self._no_decision(request, failure)
                if failure.code == Code.INVALID_ARGUMENT.name:
                    await self._conclude(verdict, until)
                    raise Refusal(Code.INVALID_ARGUMENT, str(failure)) from None
        return (await self._conclude(verdict, until)).SerializeToString()

    async def authorize_batch(self, message: bytes, _: Peer, left_s: float | None) -> bytes:
        """Have actions judged in order; one of another agent is denied and not sent on."""
        until = self._recorder.until(left_s)
        request = await self._parse(pb.AuthorizeBatchRequest(), message, until)
        if not 1 <= len(request.actions) <= BATCH:
            raise Refusal(Code.INVALID_ARGUMENT, f"a batch holds 1 to {BATCH} actions, this one {len(request.actions)}")
        foreign = [self._foreign(action) for action in request.actions]
        own = [action for action, other in zip(request.actions, foreign, strict=True) if not other]
        for action in own:
            self._fill(action)
        judged = iter(await self._judge_all(own, left_s) if own else ())
        verdicts = [
            self._deny(action, pb.REASON_KIND_INVALID, other, "foreign_agent") if other else next(judged)
            for action, other in zip(request.actions, foreign, strict=True)
        ]
        decisions = await asyncio.gather(*(self._conclude(verdict, until) for verdict in verdicts))
        return pb.AuthorizeBatchResponse(decisions=decisions).SerializeToString()

    async def settle(self, message: bytes, _: Peer, left_s: float | None) -> bytes:
        """Pass on what became of a go-ahead that this socket was given."""
        request = await self._parse(pb.SettleRequest(), message, self._recorder.until(left_s))
        reserved = self._given.get(request.decision_id)
        if reserved is None or request.tenant not in ("", self._bound.tenant):
            raise Refusal(Code.NOT_FOUND, "this socket was given no such decision, or it is settled")
        if not self._bound.enforced:
            if request.outcome == pb.OUTCOME_NOT_EXECUTED:
                raise Refusal(Code.FAILED_PRECONDITION, "only an enforced door can say that an action did not run")
            if request.HasField("cost_microusd"):
                request.cost_microusd = max(request.cost_microusd, reserved)
        request.tenant = self._bound.tenant
        response = await _pass_on(self._pdp.settle(request, left_s))
        self._given.pop(request.decision_id, None)
        return response.SerializeToString()

    async def get_session(self, message: bytes, _: Peer, left_s: float | None) -> bytes:
        """Show the agent its own session."""
        request = await self._parse(session_pb2.GetSessionRequest(), message, self._recorder.until(left_s))
        bound = self._bound
        if self._foreign(request):
            raise Refusal(Code.NOT_FOUND, "this socket's agent has no such session")
        request.tenant, request.agent, request.instance = bound.tenant, bound.agent, bound.instance
        response = await _pass_on(self._pdp.get_session(request, left_s))
        session = response.session
        if (session.tenant, session.agent, session.instance) != (bound.tenant, bound.agent, bound.instance):
            raise Refusal(Code.NOT_FOUND, "this socket's agent has no such session")
        return response.SerializeToString()

    async def _parse(self, into: _Parsed, message: bytes, until: float) -> _Parsed:
        """Parse a message; one that is broken is recorded by size and digest, and refused."""
        try:
            into.ParseFromString(message)
        except DecodeError:
            name, digest = into.DESCRIPTOR.name, hashlib.sha256(message).hexdigest()
            broken: dict[str, Json] = {"kind": "refused", "bytes": len(message), "sha256": digest, "message": name}
            try:
                await self._recorder.put({**broken, **self._header()}, until)
            except NotTaken:
                raise Refusal(Code.UNAVAILABLE, NOT_TAKEN) from None
            except SpoolError as error:
                log.error("a broken message cannot be recorded: %s", error)  # noqa: TRY400  the sentence says it all
                raise Refusal(Code.UNAVAILABLE, "what was refused could not be recorded") from None
            raise Refusal(Code.INVALID_ARGUMENT, f"the message is no `{name}`") from None
        return into

    def _foreign(self, request: pb.AuthorizeRequest | session_pb2.GetSessionRequest) -> str:
        """Why a request is not this agent's to make; empty when it is."""
        bound = self._bound
        for field, asked, own in (
            ("tenant", request.tenant, bound.tenant),
            ("agent", request.agent, bound.agent),
            ("instance", request.instance, bound.instance),
        ):
            if asked not in ("", own):
                return f"this socket speaks for another {field} than the one that the request names"
        return ""

    def _fill(self, request: pb.AuthorizeRequest) -> None:
        bound = self._bound
        request.tenant, request.agent, request.instance = bound.tenant, bound.agent, bound.instance
        request.door = bound.door

    async def _judge_all(self, actions: Sequence[pb.AuthorizeRequest], left_s: float | None) -> list[Verdict]:
        try:
            response = await self._pdp.authorize_batch(pb.AuthorizeBatchRequest(actions=actions), left_s)
        except NoDecision as failure:
            return [self._no_decision(action, failure) for action in actions]
        if len(response.decisions) != len(actions):
            short = NoDecision("INTERNAL", "as many decisions as actions were wanted")
            return [self._no_decision(action, short) for action in actions]
        return [self._judge(action, decision) for action, decision in zip(actions, response.decisions, strict=True)]

    def _judge(self, request: pb.AuthorizeRequest, response: pb.AuthorizeResponse) -> Verdict:
        """Let the gate decide what an answer is worth."""
        gate = Gate()
        gate.receive(Proposed(_call(request)))
        settle: Settle | None = None
        why: Why | None = None
        go = False
        for command in gate.receive(Answered(decision_of(response))):
            match command:
                case Forward():
                    go = True
                case Refuse():
                    why = command.why
                case Settle():
                    settle = command
        effect = decision_of(response).effect.name.lower()
        record = self._outcome(request, response, effect=effect, why=why.value if why else "", go=go)
        if go or why in (Why.DENIED, Why.APPROVAL, Why.REPEATED):
            return Verdict(response, record, settle, go)
        text = "the answer of the decision point is no go-ahead for this action"
        return Verdict(_denial(pb.REASON_KIND_ERROR, text, response), record, settle)

    def _no_decision(self, request: pb.AuthorizeRequest, failure: NoDecision) -> Verdict:
        gate = Gate()
        gate.receive(Proposed(_call(request)))
        gate.receive(Unanswered())
        text = _NO_DECISION.get(failure.code, "the decision point gave no decision")
        log.warning("no decision: %s: %s", failure.code, failure)
        verdict = self._deny(request, pb.REASON_KIND_ERROR, text, Why.UNANSWERED.value, failure.code)
        if failure.code in _NO_DECISION:
            verdict.response.retry_after_ms = RETRY_MS
        return verdict

    def _deny(
        self, request: pb.AuthorizeRequest, kind: pb.ReasonKind.ValueType, text: str, why: str, code: str = ""
    ) -> Verdict:
        """Deny by ourselves what the decision point did not judge."""
        response = _denial(kind, text, pb.AuthorizeResponse())
        return Verdict(response, self._outcome(request, response, effect="none", why=why, code=code))

    async def _conclude(self, verdict: Verdict, until: float) -> pb.AuthorizeResponse:
        """Record, then answer; a caller who has gone by then is on record like any other."""
        return await asyncio.shield(self._begin(self._record_first(verdict, until)))

    def _begin(self, work: Coroutine[None, None, _Answer]) -> asyncio.Task[_Answer]:
        """Do `work` whoever waits for it."""
        task = asyncio.create_task(work)
        self._concluding.add(task)
        task.add_done_callback(self._concluding.discard)
        return task

    async def _record_first(self, verdict: Verdict, until: float) -> pb.AuthorizeResponse:
        """Record, then answer; what cannot be recorded is denied, and its go-ahead given back."""
        response, settle = verdict.response, verdict.settle
        try:
            await self._recorder.put(verdict.record, until)
        except NotTaken:
            return await self._deny_after_all(verdict)
        except Exception as error:
            if isinstance(error, SpoolError):
                log.error("an outcome cannot be recorded: denied: %s", error)  # noqa: TRY400  the sentence says it all
            else:
                log.exception("an outcome cannot be recorded: denied")
            if verdict.go:
                settle = Settle(response.decision_id, Outcome.NOT_EXECUTED)
            text = "what happens to this action could not be recorded"
            response = _denial(pb.REASON_KIND_ERROR, text, verdict.response)
        else:
            self._answered(verdict.record)
            if verdict.go:
                self._given[response.decision_id] = response.reserved_microusd
                if len(self._given) > OUTSTANDING:
                    del self._given[next(iter(self._given))]
        if settle is not None:
            await self._give_back(settle)
        return response

    async def _deny_after_all(self, verdict: Verdict) -> pb.AuthorizeResponse:
        """Answer what the ledger does not know of in time: a denial stays one, and what was allowed becomes one."""
        response, settle, record = verdict.response, verdict.settle, verdict.record
        if verdict.go:
            settle = Settle(response.decision_id, Outcome.NOT_EXECUTED)
            record = {**record, **self._header(), "go": False, "why": UNACKNOWLEDGED}
            try:
                await self._recorder.record(record)
            except SpoolError as error:
                log.error("a denial cannot be recorded: %s", error)  # noqa: TRY400  the sentence says it all
        self._answered(record)
        if settle is not None:
            self._begin(self._give_back(settle))  # the caller's time is up
        if response.effect == pb.EFFECT_DENY:
            return response
        return _denial(pb.REASON_KIND_ERROR, NOT_TAKEN, response)

    async def _give_back(self, settle: Settle) -> None:
        request = pb.SettleRequest(
            decision_id=settle.decision_id, outcome=pb.OUTCOME_NOT_EXECUTED, tenant=self._bound.tenant
        )
        try:
            await self._pdp.settle(request, None)
        except NoDecision as failure:
            log.warning("decision %s is not settled, and will be charged: %s", settle.decision_id, failure.code)

    def _header(self) -> dict[str, Json]:
        bound = self._bound
        return {
            "time": self._now().astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "tenant": bound.tenant,
            "agent": bound.agent,
            "instance": bound.instance,
            "door": bound.door,
        }

    def _outcome(
        self,
        request: pb.AuthorizeRequest,
        response: pb.AuthorizeResponse,
        *,
        effect: str,
        why: str,
        go: bool = False,
        code: str = "",
    ) -> Mapping[str, Json]:
        """Write what was obeyed or refused: `effect` as decided (`none`: nothing was), `why` when refused."""
        return {
            **self._header(),
            "kind": "outcome",
            "decision_id": response.decision_id,
            "session": (response.session or request.session)[:RECORDED_NAME],
            "tool": request.tool[:RECORDED_NAME],
            "definition": request.definition_sha256[:32].hex(),
            "action_digest": response.action_digest.hex(),
            "arguments_sha256": hashlib.sha256(request.arguments_json).hexdigest(),
            "effect": effect,
            "go": go,
            "why": why,
            "status": code or "OK",
        }


_Parsed = TypeVar("_Parsed", bound=Message)
_Answer = TypeVar("_Answer")

_NO_DECISION: Final = {
    "UNAVAILABLE": "the decision point cannot be reached",
    "DEADLINE_EXCEEDED": "the decision point did not answer in time",
    "RESOURCE_EXHAUSTED": "the decision point has too much to do",
}


async def _pass_on(answer: Awaitable[_Answer]) -> _Answer:
    try:
        return await answer
    except NoDecision as failure:
        if failure.code in Code.__members__:
            raise Refusal(Code[failure.code], str(failure)) from None
        raise Refusal(Code.UNAVAILABLE, "the decision point gave no answer") from None


def _call(request: pb.AuthorizeRequest) -> Call:
    return Call(
        tenant=request.tenant,
        agent=request.agent,
        session=request.session,
        tool=request.tool,
        definition_sha256=request.definition_sha256,
        arguments_json=request.arguments_json,
    )


def _denial(kind: pb.ReasonKind.ValueType, text: str, about: pb.AuthorizeResponse) -> pb.AuthorizeResponse:
    """Make a denial of ours; what names the decision that it stands in for is kept."""
    return pb.AuthorizeResponse(
        decision_id=about.decision_id,
        effect=pb.EFFECT_DENY,
        reasons=[pb.Reason(kind=kind, text=text)],
        evidence=about.evidence,
        action_digest=about.action_digest,
        session=about.session,
    )
