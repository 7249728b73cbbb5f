"""`DecisionService`: may this run, and what became of it. Bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from exequatur.action import Action
from exequatur.transport import Handler, Peer
from exequatur.v1 import decision_pb2
from pdp.api.calls import Calls
from pdp.api.wire import action_of, decision_to, report_of, tenant_of
from pdp.control.sessions import MAX_MICROUSD, InvalidError
from pdp.requests import Answer, Ask, Broken, Settle

BATCH_ITEMS: Final = 50
SERVICE: Final = decision_pb2.DESCRIPTOR.services_by_name["DecisionService"]


class DecisionApi:
    """The handlers of the service."""

    def __init__(self, calls: Calls) -> None:
        """Serve with `calls`."""
        self._calls = calls

    def handlers(self) -> Mapping[str, Handler]:
        """Name each handler by its path."""
        return {
            f"/{SERVICE.full_name}/Authorize": self.authorize,
            f"/{SERVICE.full_name}/AuthorizeBatch": self.authorize_batch,
            f"/{SERVICE.full_name}/Settle": self.settle,
        }

    async def authorize(self, message: bytes, peer: Peer, seconds_left: float | None) -> bytes:
        """Judge one action."""
        try:
            action = action_of(self._calls.read(decision_pb2.AuthorizeRequest, message))
        except InvalidError as error:
            raise await self._calls.refuse(error, "Authorize", message, peer, seconds_left) from None
        result = await self._calls.submit(Ask((action,), peer.identity), seconds_left)
        (answer,) = cast("tuple[Answer, ...]", result)
        return decision_to(answer).SerializeToString()

    async def authorize_batch(self, message: bytes, peer: Peer, seconds_left: float | None) -> bytes:
        """Judge up to 50 actions in order; one that cannot be read is denied alone."""
        try:
            request = self._calls.read(decision_pb2.AuthorizeBatchRequest, message)
            if not 1 <= len(request.actions) <= BATCH_ITEMS:
                raise InvalidError(f"a batch has 1 to {BATCH_ITEMS} actions, this one has {len(request.actions)}")  # noqa: TRY301
        except InvalidError as error:
            raise await self._calls.refuse(error, "AuthorizeBatch", message, peer, seconds_left) from None
        items: list[Action | Broken] = []
        for item in request.actions:
            try:
                items.append(action_of(item))
            except InvalidError as error:
                items.append(Broken.of(item.SerializeToString(), str(error)))
        result = await self._calls.submit(Ask(tuple(items), peer.identity), seconds_left)
        answers = cast("tuple[Answer, ...]", result)
        return decision_pb2.AuthorizeBatchResponse(
            decisions=[decision_to(answer) for answer in answers]
        ).SerializeToString()

    async def settle(self, message: bytes, peer: Peer, seconds_left: float | None) -> bytes:
        """Take the report of an enforcer on an action that it was allowed."""
        try:
            request = self._calls.read(decision_pb2.SettleRequest, message)
            cost = request.cost_microusd if request.HasField("cost_microusd") else None
            if cost is not None and not 0 <= cost <= MAX_MICROUSD:
                raise InvalidError("`cost_microusd` must be from 0 to 2^53-1")  # noqa: TRY301
            if not request.decision_id:
                raise InvalidError("`decision_id` must be given")  # noqa: TRY301
            settle = Settle(
                tenant_of(request.tenant), request.decision_id, peer.identity, report_of(request.outcome), cost
            )
        except InvalidError as error:
            raise await self._calls.refuse(error, "Settle", message, peer, seconds_left) from None
        charged = cast("int", await self._calls.submit(settle, seconds_left))
        return decision_pb2.SettleResponse(charged_microusd=charged).SerializeToString()
