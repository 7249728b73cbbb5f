"""One worker: policies, a conveyor, a listener, and the way of its records to the ledger.

Rules: it does what the supervisor says on standard input (`orders.py`), and ends when that ends; it listens once there
is a policy for anybody; standard output is for the supervisor alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Final

from exequatur import daemon, sockets, transport
from exequatur.identity import own_identity
from exequatur.renewal import Renewal, kept_fresh, renewal
from exequatur.spool import Spool, SpoolError
from pdp import status
from pdp.api import bundle, decision, session
from pdp.api.calls import Calls
from pdp.control.opening import open_store
from pdp.control.store import Store, StoreError
from pdp.orders import Orders
from pdp.rounds import Rules
from pdp.settings import PdpSettings
from pdp.shipping import OLDER, Shipping
from pdp.worker import Conveyor

log = logging.getLogger(__name__)

SERVICES: Final = (decision.SERVICE, session.SERVICE, bundle.SERVICE)


async def work(settings: PdpSettings, number: int, address: str, orders: Orders, stop: asyncio.Event) -> None:
    """Serve on `address` as worker `number` until `stop` is set or the orders end."""
    stopped, obeying = asyncio.create_task(stop.wait()), asyncio.create_task(orders.obey())
    first = asyncio.create_task(orders.serving.wait())
    await asyncio.wait((first, obeying, stopped), return_when=asyncio.FIRST_COMPLETED)
    if not orders.serving.is_set():
        first.cancel()
        return
    metrics = orders.metrics
    renewed = watched(settings, orders.alarm)
    async with AsyncExitStack() as stack:
        store, spools = _open(settings, number)
        stack.callback(store.close)
        for spool in spools:
            stack.callback(spool.close)
        rules = Rules(timedelta(seconds=settings.reservation_ttl_s), frozenset(settings.enforced))

        async def acknowledged(number: int) -> None:
            await shipping.acknowledged(number)

        conveyor = Conveyor(
            store,
            spools[0],
            orders.policies,
            rules,
            metrics,
            halted=orders.halted,
            acknowledged=acknowledged if settings.wait_for_ledger else None,
        )
        orders.hand_over(conveyor)
        server = _listen(settings, renewed, address, conveyor, orders)

        def older(text: str) -> None:
            conveyor.distrust(OLDER)
            orders.distrusted(OLDER)
            orders.alarm(f"{OLDER}: {text}")

        first_record = spools[0].last + 1
        shipping = Shipping(settings, spools, metrics, older, orders.alarm, tls=renewed)
        await stack.enter_async_context(kept_fresh(renewed))
        conveyor.start()
        await shipping.heard(first_record)
        await server.start()
        orders.listening(address)
        ending = [obeying, asyncio.create_task(conveyor.ended.wait()), stopped]
        await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
        for task in ending:
            task.cancel()
        await server.stop(settings.drain_grace_s)
        await conveyor.stop()
        await shipping.stop(settings.drain_grace_s)
        log.info("worker %d stopped: %d records remain on disk", number, shipping.backlog)


def identity(settings: PdpSettings) -> str:
    """Name ourselves; raises `StartError`."""
    try:
        return own_identity(settings.tls)
    except sockets.ListenError as error:
        raise daemon.StartError(str(error)) from None


def watched(settings: PdpSettings, alarmed: Callable[[str], None] = lambda _: None) -> Renewal | None:
    """Watch our TLS files, if there are any; raises `StartError`."""
    try:
        return renewal(settings.tls, alarmed)
    except sockets.ListenError as error:
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
        return open_store(settings.state, settings.database), [
            Spool.open(folder, identity=name) for folder in (settings.state / f"spool-{number}", *left)
        ]
    except (StoreError, SpoolError) as error:
        raise daemon.StartError(str(error)) from None


def _listen(
    settings: PdpSettings, renewed: Renewal | None, address: str, conveyor: Conveyor, orders: Orders
) -> transport.Server:
    calls = Calls(conveyor)
    openers, auditors = frozenset(settings.openers), frozenset(settings.auditors)
    operators = frozenset(settings.operators)
    bundles = bundle.BundleApi(
        calls, settings.state / status.FILE, orders, readers=openers | auditors, operators=operators
    )
    handlers = {
        **decision.DecisionApi(calls).handlers(),
        **session.SessionApi(calls, openers, auditors).handlers(),
        **bundles.handlers(),
    }
    server = transport.Server(handlers, SERVICES, reuse_port=True, refused=orders.metrics.refused)
    try:
        server.listen_tcp(address, renewed)
    except sockets.ListenError as error:
        raise daemon.StartError(str(error), daemon.UNREACHABLE) from None
    return server
