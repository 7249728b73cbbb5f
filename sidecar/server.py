"""The sidecar's composition root: settings in, doors open, records on their way to the ledger.

Nothing listens before the spool is open. Stopping is in order: no longer ready, finish what was accepted, let the
ledger have it, close the spool; what remains is on disk, and the last line says how much.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from cryptography import x509
from prometheus_client import CollectorRegistry, Counter, Gauge

from exequatur import daemon, transport
from exequatur.client import LedgerClient
from exequatur.settings import SettingsError, describe
from exequatur.shipper import Shipper
from exequatur.spool import Spool, SpoolError
from exequatur.trust.canonical import Json
from exequatur.v1 import decision_pb2, session_pb2
from sidecar.doors.grpc import Bound, GrpcDoor, Record
from sidecar.pdp_client import PdpClient
from sidecar.settings import AgentSocket, SidecarSettings

log = logging.getLogger(__name__)

SERVICES: Final = (
    decision_pb2.DESCRIPTOR.services_by_name["DecisionService"],
    session_pb2.DESCRIPTOR.services_by_name["SessionService"],
)


def serve(argv: Sequence[str]) -> int:
    """Run until SIGTERM; returns the exit code."""
    settings = _load(argv)
    if settings is None:
        return daemon.CONFIG
    daemon.configure_logging(settings.log_level)
    return daemon.run(lambda stop: _main(settings, stop))


def config(argv: Sequence[str]) -> int:
    """Print the settings in force; returns the exit code."""
    settings = _load(argv)
    if settings is None:
        return daemon.CONFIG
    sys.stdout.write(describe(settings))
    return daemon.OK


def _load(argv: Sequence[str]) -> SidecarSettings | None:
    try:
        return SidecarSettings.load(argv, os.environ)
    except SettingsError as error:
        for fault in error.faults:
            print(f"error: {fault}", file=sys.stderr)  # noqa: T201
        return None


async def _main(settings: SidecarSettings, stop: asyncio.Event) -> None:
    ready = daemon.Ready("spool", "sockets")
    try:
        spool = Spool.open(settings.spool, identity=identity(settings))
    except SpoolError as error:
        raise daemon.StartError(str(error)) from None
    metrics = Metrics(spool)
    async with daemon.http(settings.http, ready, lambda: metrics.registry):
        ready.release("spool")
        timeout_s = settings.decision_timeout_ms / 1000
        try:
            pdp = PdpClient(settings.pdp, settings.tls, unsafe_plaintext=settings.unsafe_plaintext, timeout_s=timeout_s)
            ledger = LedgerClient(settings.ledger, tls=settings.tls, unsafe_plaintext=settings.unsafe_plaintext)
        except OSError as error:
            raise daemon.StartError(f"`{error.filename}` cannot be read: {(error.strerror or '').lower()}") from None
        shipper = Shipper(spool, ledger.append, log_key=settings.log_key)
        servers = [_open(agent, pdp, metrics.counting(spool.append)) for agent in settings.agents]
        shipping = asyncio.create_task(shipper.run(stop))
        for server in servers:
            await server.start()
        ready.release("sockets")
        log.info("serving %d sockets", len(servers))
        await stop.wait()
        ready.drain()
        await asyncio.gather(*(server.stop(settings.drain_grace_s) for server in servers))
        await shipping
        await shipper.drain(settings.drain_grace_s)
        await pdp.close()
        await ledger.close()
    remaining = spool.last - spool.acknowledged
    spool.close()
    log.info("stopped: %d records remain on disk", remaining)


def _open(agent: AgentSocket, pdp: PdpClient, record: Record) -> transport.Server:
    bound = Bound(agent.tenant, agent.agent, agent.instance, agent.door)
    door = GrpcDoor(bound, pdp, record, lambda: dt.datetime.now(dt.UTC))
    server = transport.Server(door.handlers, SERVICES)
    try:
        server.listen_unix(agent.socket, f"agent:{agent.agent}/{agent.instance}", owner_uid=agent.uid)
    except transport.ListenError as error:
        raise daemon.StartError(str(error), daemon.UNREACHABLE) from None
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise daemon.StartError(f"`{agent.socket}` cannot be opened: {reason}", daemon.UNREACHABLE) from None
    return server


def identity(settings: SidecarSettings) -> str:
    """Name ourselves as the ledger will: by the SPIFFE ID in our certificate. Raises `StartError`."""
    if settings.tls is None:
        return transport.UNSAFE_PLAINTEXT
    path = settings.tls.certificate
    try:
        names = x509.load_pem_x509_certificate(path.read_bytes()).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
        ids = [
            uri
            for uri in names.value.get_values_for_type(x509.UniformResourceIdentifier)
            if uri.startswith("spiffe://")
        ]
    except (OSError, ValueError, x509.ExtensionNotFound):
        ids = []
    if len(ids) != 1:
        raise daemon.StartError(f"`{path}` must be a PEM certificate with exactly one SPIFFE ID as URI SAN")
    return ids[0]


class Metrics:
    """What Prometheus may know: counts by effect and by what the gate made of it, and the spool's backlog."""

    def __init__(self, spool: Spool) -> None:
        """Count for this process."""
        self.registry = CollectorRegistry()
        self._actions = Counter(
            "exequatur_sidecar_actions",
            "Actions judged, by the effect decided and the gate's reason to refuse (empty: go-ahead).",
            ("door", "effect", "why"),
            registry=self.registry,
        )
        backlog = Gauge(
            "exequatur_spool_backlog_records", "Records the ledger has not acknowledged.", registry=self.registry
        )
        backlog.set_function(lambda: spool.last - spool.acknowledged)

    def counting(self, record: Record) -> Record:
        """Count each outcome that `record` made durable."""

        async def counted(fields: Mapping[str, Json]) -> object:
            number = await record(fields)
            if fields.get("kind") == "outcome":
                self._actions.labels(str(fields["door"]), str(fields["effect"]), str(fields["why"])).inc()
            return number

        return counted
