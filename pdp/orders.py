"""What the supervisor orders a worker to serve, and what the worker says to that.

Rules: one JSON object a line, both ways; the worker verifies again what it is told to serve, by the keys that it is
given with it, and that it is the very bundle that was proved. What is prepared judges nobody until it is committed to.
How far a policy is trusted takes effect at once, whatever else is being prepared.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from exequatur.trust.errors import TrustError
from exequatur.trust.keys import BundleKeys, parse_key_set
from pdp.activation import CANDIDATE, FILE_CODE
from pdp.bundle.loader import load
from pdp.bundle.proving import BundleRejected
from pdp.engine.snapshot import Snapshot
from pdp.metrics import Metrics
from pdp.policies import Policies, Standing, Trial
from pdp.told import Told

if TYPE_CHECKING:
    from pdp.opa import Connection
    from pdp.worker import Conveyor

log = logging.getLogger(__name__)

Tell: TypeAlias = Callable[[Mapping[str, Any]], None]
_Key: TypeAlias = tuple[str, str]
_Order: TypeAlias = Mapping[str, Any]


class Orders:
    """Reads orders and carries them out: first on policies of its own, then on the conveyor that it is given."""

    def __init__(self, told: Told, commands: asyncio.StreamReader, tell: Tell) -> None:
        """Read orders from `commands`, and answer each by `tell`."""
        self._told, self._commands, self._tell = told, commands, tell
        self.metrics = Metrics()
        self.serving = asyncio.Event()
        """Set once there is a policy for anybody."""
        self._policies = Policies()
        self._conveyor: Conveyor | None = None
        self._prepared: dict[_Key, Snapshot] = {}
        self._queues: dict[_Key, asyncio.Queue[_Order]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loading = asyncio.Lock()
        self._asked: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._numbers = count()

    @property
    def policies(self) -> Policies:
        """What is in force."""
        return self._policies if self._conveyor is None else self._conveyor.policies

    def hand_over(self, conveyor: Conveyor) -> None:
        """Carry out orders on `conveyor` from now on, which has our policies."""
        self._conveyor = conveyor

    async def obey(self) -> None:
        """Carry out orders until they end."""
        try:
            while line := await self._commands.readline():
                self._hear(json.loads(line))
        finally:
            for task in self._tasks:
                task.cancel()

    def listening(self, address: str) -> None:
        """Say that we serve."""
        self._tell({"listening": address})

    def halted(self, tenant: str, digest: bytes, reason: str) -> None:
        """Say that a candidate halted by itself."""
        self._tell({"halted": {"tenant": tenant, "digest": digest.hex(), "reason": reason}})

    def alarm(self, text: str) -> None:
        """Say what somebody should look into."""
        self._tell({"alarm": text})

    def distrusted(self, reason: str) -> None:
        """Say why no policy may be trusted any more, by any worker."""
        self._tell({"distrusted": reason})

    async def refresh(self, tenant: str = "") -> Mapping[str, Any]:
        """Have the supervisor look for newer bundles of `tenant`, or of all, now; gives the status afterwards."""
        number = next(self._numbers)
        answer: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self._tell({"refresh": {"id": number, "tenant": tenant}})
        try:
            return await answer
        finally:
            del self._asked[number]

    def _hear(self, message: Mapping[str, Any]) -> None:
        match message:
            case {"prepare": order} | {"commit": order} | {"abort": order} | {"drop": order}:
                self._queue((order["tenant"], order["role"])).put_nowait(message)
            case {"standing": {"tenant": tenant, "trusted_until": until, "withdrawn": withdrawn}}:
                trusted = None if until is None else datetime.fromisoformat(until)
                self._put(tenant, replace(self.policies.of(tenant), trusted_until=trusted, withdrawn=withdrawn))
            case {"refreshed": {"id": number, "status": status}}:
                answer = self._asked.get(number)
                if answer is not None and not answer.done():
                    answer.set_result(status)

    def _queue(self, key: _Key) -> asyncio.Queue[_Order]:
        """Give the queue of what is to be done in one place, which is done in its order."""
        if key not in self._queues:
            self._queues[key] = asyncio.Queue()
            self._tasks.add(asyncio.create_task(self._work_off(key, self._queues[key])))
        return self._queues[key]

    async def _work_off(self, key: _Key, queue: asyncio.Queue[_Order]) -> None:
        while True:
            match await queue.get():
                case {"prepare": order}:
                    await self._prepare(key, order)
                case {"commit": order}:
                    self._commit(key, order)
                case {"abort": _}:
                    self._prepared.pop(key, None)
                case {"drop": {"reason": reason}}:
                    self._drop(key[0], reason)

    async def _prepare(self, key: _Key, order: _Order) -> None:
        self._prepared.pop(key, None)
        try:
            async with self._loading:
                snapshot = await asyncio.to_thread(self._load, order)
        except (BundleRejected, TrustError, OSError) as error:
            self._refuse(order, str(error))
        except Exception as error:
            log.exception("a proved bundle could not be loaded")
            self._refuse(order, f"it could not be loaded: {type(error).__name__}")
        else:
            self._prepared[key] = snapshot
            self._tell({"prepared": order["digest"], "tenant": key[0], "role": key[1]})

    def _commit(self, key: _Key, order: _Order) -> None:
        tenant, role = key
        snapshot = self._prepared.pop(key, None)
        if snapshot is None or snapshot.digest.hex() != order["digest"]:
            self._refuse(order, "it was not prepared")
            return
        old = self.policies.of(tenant)
        if role == CANDIDATE:
            trial = Trial(snapshot, order["canary_percent"], order["canary_max_stricter_percent"])
            self._put(tenant, replace(old, trial=trial, trial_ended=""))
        else:
            promoted = old.trial is not None and old.trial.snapshot.digest == snapshot.digest
            self._put(tenant, replace(old, snapshot=snapshot, trial=None if promoted else old.trial))
            self.serving.set()
        self._tell({"serving": order["digest"], "sequence": snapshot.sequence, "tenant": tenant, "role": role})

    def _drop(self, tenant: str, reason: str) -> None:
        self._prepared.pop((tenant, CANDIDATE), None)
        if self.policies.of(tenant).trial is not None:
            self._put(tenant, replace(self.policies.of(tenant), trial=None, trial_ended=reason))

    def _put(self, tenant: str, standing: Standing) -> None:
        if self._conveyor is None:
            self._policies = self._policies.having(tenant, standing)
        elif standing != self._conveyor.policies.of(tenant):
            self._conveyor.put(tenant, standing)

    def _refuse(self, order: _Order, reason: str) -> None:
        about = {name: order[name] for name in ("tenant", "role", "digest")}
        self._tell({"refused": reason, **about})

    def _load(self, order: _Order) -> Snapshot:
        """Load what was proved, as it was valid when it was proved; judging looks at the time again."""
        snapshot = load(
            Path(order["bundle"]),
            self._keys(order["keys"]),
            now=datetime.fromisoformat(order["proved_at"]),
            tenant=order["tenant"],
            wasm_module=Path(order["module"]).read_bytes() if order["module"] else None,
            server=self._opa(order["opa"]) if order["opa"] else None,
        )
        if snapshot.digest.hex() != order["digest"]:
            raise BundleRejected("it is not the bundle that was proved")
        return snapshot

    def _keys(self, files: Mapping[str, str] | None) -> BundleKeys | None:
        if files is not None:
            return parse_key_set({name: text.encode(FILE_CODE) for name, text in files.items()})
        if not self._told.unsafe_unsigned:
            raise BundleRejected("it came without the keys that it was verified by")
        return None

    def _opa(self, place: str) -> Connection:
        """Have a way to the OPA server that holds the bundle; whether it answers is seen when it is asked."""
        from pdp.opa import Connection  # noqa: PLC0415 - a third of a second, for those who use it

        return Connection(
            self._told.opa_at(place),
            timeout_s=self._told.opa_timeout_ms / 1000,
            told=lambda down: self.metrics.opa_down.set(int(down)),
            shared=self._told.opa_shared,
        )
