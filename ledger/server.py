"""The ledger's composition root: settings in, one log served, checkpoints each second, an orderly end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exequatur import daemon, launch, probes, sockets, transport, web
from exequatur.key_folder import KeyFolder
from exequatur.renewal import kept_fresh, renewal
from exequatur.trust.errors import TrustError
from exequatur.v1 import audit_pb2
from ledger.index import IndexFault, LogIndex
from ledger.keys import parse_signing_keys
from ledger.log import Log, LogError
from ledger.metrics import Metrics
from ledger.service import Service
from ledger.settings import LedgerSettings

log = logging.getLogger(__name__)

SERVICES: Final = (audit_pb2.DESCRIPTOR.services_by_name["AuditService"],)
TELL_S: Final = 5.0
"""How often a long check at the start says how far it is."""


def serve(argv: Sequence[str]) -> int:
    """Run the ledger until it is told to stop; returns the exit code."""
    return launch.serve(LedgerSettings, argv, _main)


def config(argv: Sequence[str]) -> int:
    """Print the settings in force; returns the exit code."""
    return launch.config(LedgerSettings, argv)


def _now() -> datetime:
    return datetime.now(UTC)


async def _main(settings: LedgerSettings, stop: asyncio.Event) -> None:
    ready = daemon.Ready("log", "listener")
    metrics = Metrics()
    try:
        renewed = renewal(settings.tls, lambda _: metrics.alarms.inc())
    except sockets.ListenError as error:
        raise daemon.StartError(str(error)) from None
    metrics.keeps(settings.folder, None if renewed is None else renewed.ends)
    serving = web.pages(settings.http, ready, lambda: metrics.registry)
    async with serving, probes.health(settings.health, ready):
        signers = KeyFolder(settings.key, parse_signing_keys)
        book, index = await asyncio.to_thread(_open, settings, signers)
        service = Service(
            book,
            index,
            writers=frozenset(settings.writers),
            auditors=frozenset(settings.auditors),
            clock=_now,
            metrics=metrics,
            signers=signers,
        )
        ready.release("log")
        server = transport.Server(service.handlers, SERVICES, refused=metrics.refuse)
        try:
            held, address = sockets.hold_port(settings.listen)
            held.close()
            port = server.listen_tcp(address, renewed)
        except sockets.ListenError as error:
            raise daemon.StartError(str(error), daemon.UNREACHABLE) from None
        await server.start()
        ready.release("listener")
        log.info("the log `%s` has %d records, serving on port %d", settings.origin, book.size, port)
        log.info("checkpoints are signed by %s", ", ".join(map(str, book.verifier_keys)))
        fresh = asyncio.create_task(service.keep_fresh(stop))
        async with kept_fresh(renewed):
            await stop.wait()
            ready.drain()
            await server.stop(settings.drain_grace_s)
        await fresh
        await service.close()
    index.close()
    book.close()
    log.info("stopped at %d records", book.size)


def _open(settings: LedgerSettings, signers: KeyFolder[Mapping[str, Ed25519PrivateKey]]) -> tuple[Log, LogIndex]:
    """Open the log and check it, and its index; raises `StartError`."""
    told = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_S:
            told = time.monotonic()
            log.info("checking the log: %d of %d records", done, total)

    try:
        keys = tuple(signers.read().values())
    except TrustError as error:
        raise daemon.StartError(f"`{settings.key}`: {error}") from None
    try:
        book = Log.open(settings.folder, origin=settings.origin, keys=keys, now=_now(), progress=tell)
        return book, LogIndex(settings.folder / "index.db", book)
    except (LogError, IndexFault) as error:
        raise daemon.StartError(str(error)) from None
