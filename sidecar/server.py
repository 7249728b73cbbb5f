"""The sidecar's composition root: settings in, doors open, records on their way to the ledger.

Nothing listens before the spool is open. Stopping is in order: no longer ready, finish what was accepted, let the
ledger have it, close the spool; what remains is on disk, and the last line says how much.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Sequence
from pathlib import Path

from exequatur import daemon, identity, launch, probes, sockets, transport, web
from exequatur.client import LedgerClient
from exequatur.renewal import Renewal, kept_fresh, renewal
from exequatur.shipper import Shipper
from exequatur.spool import Spool, SpoolError
from exequatur.trust.errors import TrustError
from sidecar import program
from sidecar.doors.grpc import SERVICES, Bound, GrpcDoor
from sidecar.metrics import Metrics
from sidecar.pdp_client import PdpClient
from sidecar.recording import Recorder, Waiting
from sidecar.settings import AgentSocket, SidecarSettings

log = logging.getLogger(__name__)


def serve(argv: Sequence[str]) -> int:
    """Run until SIGTERM; returns the exit code."""
    return launch.serve(SidecarSettings, argv, _main)


def config(argv: Sequence[str]) -> int:
    """Print the settings in force; returns the exit code."""
    return launch.config(SidecarSettings, argv)


async def _main(settings: SidecarSettings, stop: asyncio.Event) -> None:
    metrics, ready = Metrics(), daemon.Ready("sockets")
    tls = settings.tls
    files = None if tls is None else identity.TlsFiles(tls.certificate, tls.key, tls.roots)
    try:
        name = identity.own_identity(files)
        renewed = renewal(files, metrics.alarmed)
        spool = Spool.open(settings.spool, identity=name)
    except (sockets.ListenError, SpoolError) as error:
        raise daemon.StartError(str(error)) from None
    metrics.keeps(spool, None if renewed is None else renewed.ends)
    try:
        serving = web.pages(settings.http, ready, metrics.collected)
        async with serving, probes.health(settings.health, ready), kept_fresh(renewed):
            await _serve(settings, spool, metrics, ready, stop, renewed=renewed)
    finally:
        remaining = spool.last - spool.acknowledged
        spool.close()
        log.info("stopped: %d records remain on disk", remaining)


async def _serve(
    settings: SidecarSettings,
    spool: Spool,
    metrics: Metrics,
    ready: daemon.Ready,
    stop: asyncio.Event,
    *,
    renewed: Renewal | None,
) -> None:
    pdp, shipper = _reach(settings, renewed, spool, metrics)
    waiting = None
    if settings.wait_for_ledger and shipper is not None:
        waiting = Waiting(shipper.acknowledged, settings.decision_timeout_ms / 1000)
    recorder = Recorder(metrics.counting(spool.append), waiting)
    if settings.shim is not None:
        _put(settings.shim)
    servers = [_open(agent, pdp, recorder, metrics) for agent in settings.agents]
    drained = asyncio.Event()
    shipping = asyncio.create_task(shipper.run(drained)) if shipper is not None else None
    for server in servers:
        await server.start()
    ready.release("sockets")
    log.info("serving %d sockets", len(servers))
    await stop.wait()
    ready.drain()
    await asyncio.gather(*(server.stop(settings.drain_grace_s) for server in servers))
    drained.set()  # not before: what was accepted may wait for the ledger
    if shipper is not None and shipping is not None:
        await shipping
        await shipper.drain(settings.drain_grace_s)
    await pdp.close()


def _reach(
    settings: SidecarSettings, renewed: Renewal | None, spool: Spool, metrics: Metrics
) -> tuple[PdpClient, Shipper | None]:
    """Make the ways to the decision point and the ledger; nothing is sent yet."""
    timeout_s = settings.decision_timeout_ms / 1000
    plain = settings.unsafe_plaintext
    try:
        pdp = PdpClient(settings.pdp, renewed, unsafe_plaintext=plain, timeout_s=timeout_s)
        if settings.ledger is None:
            log.warning("no ledger is set: records stay in `%s`", settings.spool)
            return pdp, None
        ledger = LedgerClient(settings.ledger, tls=renewed, unsafe_plaintext=plain)
        shipper = Shipper(
            spool, ledger.append, log_key=settings.log_key, older=metrics.alarmed, alarmed=metrics.alarmed
        )
    except TrustError as error:
        raise daemon.StartError(f"`{settings.log_key}`: {error}") from None
    metrics.ships(shipper)
    return pdp, shipper


def _put(target: Path) -> None:
    """Put the agent's program at `target`; raises `StartError`."""
    try:
        program.put(target)
    except sockets.ListenError as error:
        raise daemon.StartError(str(error)) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise daemon.StartError(f"`{error.filename or target}` cannot be used for `shim`: {reason}") from None


def _open(agent: AgentSocket, pdp: PdpClient, recorder: Recorder, metrics: Metrics) -> transport.Server:
    bound = Bound(agent.tenant, agent.agent, agent.instance, agent.door, agent.enforced)
    door = GrpcDoor(
        bound, pdp, recorder.record, lambda: dt.datetime.now(dt.UTC), recorder.waiting, answered=metrics.answered
    )
    server = transport.Server(door.handlers, SERVICES, refused=metrics.refuse)
    try:
        name = f"agent:{agent.agent}/{agent.instance}"
        server.listen_unix(agent.socket, name, owner_uid=agent.uid, mounted=agent.mounted)
    except sockets.ListenError as error:
        raise daemon.StartError(str(error), daemon.UNREACHABLE) from None
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise daemon.StartError(f"`{agent.socket}` cannot be opened: {reason}", daemon.UNREACHABLE) from None
    return server
