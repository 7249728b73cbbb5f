"""One worker: policies, a conveyor, a listener, and the way of its records to the ledger.

Rules: it does what the supervisor says on standard input (`orders.py`), and ends when that ends; it listens once there
is a policy for anybody; standard output is for the supervisor alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from exequatur import daemon, sockets, transport
from exequatur.renewal import Renewal, kept_fresh
from exequatur.spool import Spool, SpoolError
from pdp import status
from pdp.api import bundle, decision, session
from pdp.api.calls import Calls
from pdp.control.opening import open_store
from pdp.control.store import Store, StoreError
from pdp.crew import LINE_BYTES
from pdp.orders import Orders
from pdp.ourselves import identity, watched
from pdp.rounds import Rules
from pdp.shipping import OLDER, Shipping
from pdp.told import Told
from pdp.worker import Conveyor

log = logging.getLogger(__name__)

SERVICES: Final = (decision.SERVICE, session.SERVICE, bundle.SERVICE)


def worker(_: Sequence[str]) -> int:
    """Run one worker, as the supervisor on standard input says; returns the exit code."""
    if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):  # logind clears `/dev/shm` of a user who has logged out
        Path(folder).mkdir(mode=0o700, exist_ok=True)
    # Standard output is for the supervisor alone: what a native library prints goes to the log.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    async def main(stop: asyncio.Event) -> None:
        commands = asyncio.StreamReader(limit=LINE_BYTES)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(commands), sys.stdin.buffer
        )
        if not (line := await commands.readline()):
            return
        start = json.loads(line)
        settings = Told.read(start["settings"])
        daemon.configure_logging(settings.log_level)

        def tell(message: Mapping[str, Any]) -> None:
            replies.write(json.dumps(message) + "\n")

        await work(settings, start["number"], start["address"], Orders(settings, commands, tell), stop)

    return daemon.run(main)


async def work(settings: Told, number: int, address: str, orders: Orders, stop: asyncio.Event) -> None:
    """Serve on `address` as worker `number` until `stop` is set or the orders end."""
    stopped, obeying = asyncio.create_task(stop.wait()), asyncio.create_task(orders.obey())
    first = asyncio.create_task(orders.serving.wait())
    await asyncio.wait((first, obeying, stopped), return_when=asyncio.FIRST_COMPLETED)
    if not orders.serving.is_set():
        first.cancel()
        return
    metrics = orders.metrics
    renewed = watched(settings.tls, orders.alarm)
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


def _open(settings: Told, number: int) -> tuple[Store, list[Spool]]:
    """Open the store, our own spool, and those of workers that there were more of before: their records go up too."""
    name = identity(settings.tls)
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
    settings: Told, renewed: Renewal | None, address: str, conveyor: Conveyor, orders: Orders
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
