"""One worker: a snapshot, a conveyor, a listener, and the way of its records to the ledger.

Rules: it does what the supervisor says on standard input, one JSON object a line, and ends when that ends; it
verifies again what it is told to serve, and that it is the very bundle that was proved; standard output is for the
supervisor alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from exequatur import daemon, transport
from exequatur.spool import Spool, SpoolError
from exequatur.trust.errors import TrustError
from exequatur.trust.keys import BundleKeys
from pdp.api import decision, session
from pdp.api.calls import Calls
from pdp.bundle.loader import BundleRejected, load
from pdp.bundle.source import read_keys
from pdp.control.store import Store, StoreError
from pdp.engine.snapshot import Snapshot
from pdp.metrics import Metrics
from pdp.policies import Policies, Standing
from pdp.rounds import Rules
from pdp.settings import PdpSettings
from pdp.shipping import OLDER, Shipping
from pdp.worker import Conveyor

if TYPE_CHECKING:
    from pdp.opa import Connection

log = logging.getLogger(__name__)

SERVICES: Final = (decision.SERVICE, session.SERVICE)

Tell = Callable[[Mapping[str, Any]], None]


async def work(settings: PdpSettings, number: int, address: str, orders: Orders, stop: asyncio.Event) -> None:
    """Serve on `address` as worker `number` until `stop` is set or the orders end."""
    stopped = asyncio.create_task(stop.wait())
    first = asyncio.create_task(orders.next())
    await asyncio.wait((first, stopped), return_when=asyncio.FIRST_COMPLETED)
    if not first.done() or (snapshot := first.result()) is None:
        first.cancel()
        return
    metrics = orders.metrics
    with ExitStack() as stack:
        store, spools = _open(settings, number)
        stack.callback(store.close)
        for spool in spools:
            stack.callback(spool.close)
        rules = Rules(timedelta(seconds=settings.reservation_ttl_s), frozenset(settings.enforced))
        policies = Policies({snapshot.tenant: Standing(snapshot)})
        conveyor = Conveyor(store, spools[0], policies, rules, metrics)
        server = _listen(settings, address, conveyor, metrics)

        def older(text: str) -> None:
            conveyor.distrust(OLDER)
            orders.alarm(f"{OLDER}: {text}")

        first_record = spools[0].last + 1
        shipping = Shipping(settings, spools, metrics, older)
        conveyor.start()
        await shipping.heard(first_record)
        await server.start()
        orders.listening(address)
        ending = [
            asyncio.create_task(_obey(orders, conveyor, metrics)),
            asyncio.create_task(conveyor.ended.wait()),
            stopped,
        ]
        await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
        for task in ending:
            task.cancel()
        await server.stop(settings.drain_grace_s)
        await conveyor.stop()
        await shipping.stop(settings.drain_grace_s)
        log.info("worker %d stopped: %d records remain on disk", number, shipping.backlog)


def keys_of(settings: PdpSettings) -> BundleKeys | None:
    """Read who may sign bundles; None when nobody has to. Raises `StartError`."""
    folder = settings.feeds[0].keys
    if folder is None:
        log.warning("unsafe: bundles that nobody signed are served, and every effect is at least WARN")
        return None
    try:
        return read_keys(folder)
    except TrustError as error:
        raise daemon.StartError(f"`{folder}`: {error}") from None


def identity(settings: PdpSettings) -> str:
    """Name ourselves; raises `StartError`."""
    try:
        return transport.own_identity(settings.tls)
    except transport.ListenError as error:
        raise daemon.StartError(str(error)) from None


def _open(settings: PdpSettings, number: int) -> tuple[Store, list[Spool]]:
    """Open the store, our own spool, and those of workers that there were more of before: their records go up too."""
    name = identity(settings)
    left = [
        path
        for path in sorted(settings.state.glob("spool-*"))
        if path.name.removeprefix("spool-").isdecimal()
        and (index := int(path.name.removeprefix("spool-"))) >= settings.workers
        and index % settings.workers == number
    ]
    try:
        return Store(settings.state), [
            Spool.open(folder, identity=name) for folder in (settings.state / f"spool-{number}", *left)
        ]
    except (StoreError, SpoolError) as error:
        raise daemon.StartError(str(error)) from None


def _listen(settings: PdpSettings, address: str, conveyor: Conveyor, metrics: Metrics) -> transport.Server:
    calls = Calls(conveyor, metrics)
    handlers = {
        **decision.DecisionApi(calls).handlers(),
        **session.SessionApi(calls, frozenset(settings.openers), frozenset(settings.auditors)).handlers(),
    }
    server = transport.Server(handlers, SERVICES, reuse_port=True)
    try:
        server.listen_tcp(address, settings.tls)
    except transport.ListenError as error:
        raise daemon.StartError(str(error), daemon.UNREACHABLE) from None
    return server


class Orders:
    """What the supervisor orders to be served, one snapshot after another."""

    def __init__(self, settings: PdpSettings, commands: asyncio.StreamReader, tell: Tell) -> None:
        """Read orders from `commands`, and answer each by `tell`. Raises `StartError` for keys that do not load."""
        self._keys = keys_of(settings)
        self._settings, self._commands, self._tell = settings, commands, tell
        self.metrics = Metrics()

    async def next(self) -> Snapshot | None:
        """Wait for the next bundle that can be served; None once the orders have ended."""
        while line := await self._commands.readline():
            order = json.loads(line)["load"]
            try:
                snapshot = await asyncio.to_thread(self._load, order)
            except (BundleRejected, OSError) as error:
                self._tell({"refused": str(error)})
            else:
                self._tell({"loaded": snapshot.digest.hex(), "sequence": snapshot.sequence})
                return snapshot
        return None

    def listening(self, address: str) -> None:
        """Answer that we serve."""
        self._tell({"listening": address})

    def alarm(self, text: str) -> None:
        """Say what somebody has to look at."""
        self._tell({"alarm": text})

    def _load(self, order: Mapping[str, Any]) -> Snapshot:
        """Load what was proved, as it was valid when it was proved; judging looks at the time again."""
        module = Path(order["module"]).read_bytes() if order["module"] else None
        proved_at = datetime.fromisoformat(order["proved_at"])
        snapshot = load(
            Path(order["bundle"]),
            self._keys,
            now=proved_at,
            tenant=self._settings.feeds[0].tenant,
            wasm_module=module,
            server=self._opa(order["opa"]) if order["opa"] else None,
        )
        if snapshot.digest.hex() != order["digest"]:
            raise BundleRejected("it is not the bundle that was proved")
        return snapshot

    def _opa(self, place: str) -> Connection:
        """Have a way to the OPA server that holds the bundle; whether it answers is seen when it is asked."""
        from pdp.opa import Connection  # noqa: PLC0415 - a third of a second, for those who use it

        return Connection(
            self._settings.opa_at(place),
            timeout_s=self._settings.opa_timeout_ms / 1000,
            told=lambda down: self.metrics.opa_down.set(int(down)),
        )


async def _obey(orders: Orders, conveyor: Conveyor, metrics: Metrics) -> None:
    """Serve each bundle that is ordered, until the orders end."""
    for standing in conveyor.policies.standings.values():
        metrics.sequence.set(standing.sequence)
    while (snapshot := await orders.next()) is not None:
        conveyor.put(snapshot.tenant, Standing(snapshot))
        metrics.sequence.set(snapshot.sequence)
