"""A decision service for tests, on the real transport: it judges as the test says, with digests as they must be."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

from exequatur.action import action_digest
from exequatur.transport import Code, Handler, Peer, Refusal, Server
from exequatur.v1 import decision_pb2 as pb
from exequatur.v1 import session_pb2

SERVICES = (
    pb.DESCRIPTOR.services_by_name["DecisionService"],
    session_pb2.DESCRIPTOR.services_by_name["SessionService"],
)
SESSION = "0190a000-session"


@dataclass
class Decisions:
    """Answers as `rule` says; keeps what it was asked and what was settled, of the decisions since `begin_anew`."""

    rule: Callable[[pb.AuthorizeRequest, pb.AuthorizeResponse], pb.AuthorizeResponse | Exception] = (
        lambda request, response: response
    )
    pins: dict[str, bytes] = field(default_factory=dict)
    agent: str = "coder"
    open: bool = True
    at_most: int = 50
    asked: list[pb.AuthorizeRequest] = field(default_factory=list)
    settled: list[tuple[str, int]] = field(default_factory=list)
    settlements: list[pb.SettleRequest] = field(default_factory=list)
    earlier: int = 0

    def begin_anew(self) -> None:
        """Be as new; what is settled late, of a decision that was given before, is not kept."""
        new = Decisions(earlier=self.earlier + len(self.asked))
        for each in fields(self):
            setattr(self, each.name, getattr(new, each.name))

    def id(self, number: int) -> str:
        """Give the id of the first, second, ... decision."""
        return f"d{self.earlier + number}"

    @property
    def handlers(self) -> dict[str, Handler]:
        return {
            "/exequatur.v1.DecisionService/Authorize": self.authorize,
            "/exequatur.v1.DecisionService/AuthorizeBatch": self.authorize_batch,
            "/exequatur.v1.DecisionService/Settle": self.settle,
            "/exequatur.v1.SessionService/GetSession": self.get_session,
        }

    async def authorize(self, message: bytes, peer: Peer, left_s: float | None) -> bytes:
        return (await self.judge(pb.AuthorizeRequest.FromString(message))).SerializeToString()

    async def authorize_batch(self, message: bytes, peer: Peer, left_s: float | None) -> bytes:
        actions = pb.AuthorizeBatchRequest.FromString(message).actions
        decisions = [await self.judge(action) for action in actions][: self.at_most]
        return pb.AuthorizeBatchResponse(decisions=decisions).SerializeToString()

    async def judge(self, request: pb.AuthorizeRequest) -> pb.AuthorizeResponse:
        self.asked.append(request)
        answer = self.rule(request, self.allow(request))
        if hasattr(answer, "__await__"):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    def allow(self, request: pb.AuthorizeRequest) -> pb.AuthorizeResponse:
        return pb.AuthorizeResponse(
            decision_id=self.id(len(self.asked)),
            effect=pb.EFFECT_ALLOW,
            reasons=[pb.Reason(kind=pb.REASON_KIND_PERMITTED, policy="permit-all", text="it is permitted")],
            action_digest=action_digest(
                tenant=request.tenant or "default",
                agent=request.agent or self.agent,
                session=request.session or SESSION,
                tool=request.tool,
                definition_sha256=request.definition_sha256,
                arguments_json=request.arguments_json,
            ),
            evidence=pb.Evidence(bundle_sha256=hashlib.sha256(b"bundle").digest(), bundle_sequence=7),
            session=request.session or SESSION,
            reserved_microusd=100,
        )

    async def settle(self, message: bytes, peer: Peer, left_s: float | None) -> bytes:
        request = pb.SettleRequest.FromString(message)
        if int(request.decision_id.removeprefix("d")) > self.earlier:
            self.settlements.append(request)
            self.settled.append((request.decision_id, request.outcome))
        return pb.SettleResponse(charged_microusd=100).SerializeToString()

    async def get_session(self, message: bytes, peer: Peer, left_s: float | None) -> bytes:
        request = session_pb2.GetSessionRequest.FromString(message)
        if not self.open:
            raise Refusal(Code.NOT_FOUND, "no session is open for this agent")
        session = session_pb2.Session(id=SESSION, tenant="default", agent=self.agent, instance=request.instance)
        pins = [session_pb2.ToolPin(tool=tool, definition_sha256=digest) for tool, digest in self.pins.items()]
        return session_pb2.GetSessionResponse(session=session, tools=pins).SerializeToString()

    async def listen(self, path: Path) -> Server:
        server = Server(self.handlers, SERVICES)
        server.listen_unix(path, "test")
        await server.start()
        return server


def deny(
    request: pb.AuthorizeRequest,
    response: pb.AuthorizeResponse,
    kind: int = pb.REASON_KIND_FORBIDDEN,
    text: str = "not here",
) -> pb.AuthorizeResponse:
    """Turn an allow into a denial."""
    response.effect = pb.EFFECT_DENY
    del response.reasons[:]
    response.reasons.add(kind=kind, policy="no", text=text)
    return response
