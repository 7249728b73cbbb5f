"""The decision point's composition root: the supervisor, and the printing of settings; a worker's is `serving.py`.

Rules: nothing listens before everything is built. The supervisor takes the port first, without sharing, so that a
taken port is an error (exit code 69), and then keeps it for its workers. Stopping is in order: no longer ready, finish
what was accepted, let the ledger have it, close; what remains is on disk, and the last line says how much.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import mark_process_dead

from exequatur import daemon, launch, probes, sockets, web
from exequatur.disk import reason
from exequatur.key_folder import KeyFolder
from exequatur.renewal import kept_fresh
from exequatur.trust.errors import TrustError
from exequatur.trust.log_keys import parse_log_keys
from pdp.control.opening import open_store
from pdp.control.store import StoreError
from pdp.metrics import BundleMetrics, Together
from pdp.ourselves import identity, watched
from pdp.settings import PdpSettings
from pdp.supervisor import FIRST, Supervisor

log = logging.getLogger(__name__)

MEMORY: Final = Path("/dev/shm")  # noqa: S108  a folder of our own in it, and none that was there before
"""A file system in memory, where there is one."""
MEMORY_BYTES: Final = 8 << 20
"""The room that must be left there, in bytes: a worker's counts take a tenth of a MiB."""


def serve(argv: Sequence[str]) -> int:
    """Run until SIGTERM; returns the exit code."""
    return launch.serve(PdpSettings, argv, _supervise)


def config(argv: Sequence[str]) -> int:
    """Print the settings in force; returns the exit code."""
    return launch.config(PdpSettings, argv)


async def _supervise(settings: PdpSettings, stop: asyncio.Event) -> None:
    ready = daemon.Ready(FIRST, *(f"worker {number}" for number in range(settings.workers)))
    identity(settings.tls)
    _check_files(settings)
    lock = _own(settings.state)
    try:
        held, address = sockets.hold_port(settings.listen)
    except sockets.ListenError as error:
        raise daemon.StartError(str(error), daemon.UNREACHABLE) from None
    with _counts(settings.state, lock) as metrics:
        await _run(settings, stop, ready, metrics, address)
    held.close()
    os.close(lock)
    log.info("stopped")


async def _run(settings: PdpSettings, stop: asyncio.Event, ready: daemon.Ready, metrics: Path, address: str) -> None:
    """Supervise workers on `address` that count into `metrics`. Raises `StartError`."""
    try:
        store = open_store(settings.state, settings.database)
    except StoreError as error:
        raise daemon.StartError(str(error)) from None
    ours = BundleMetrics([feed.tenant for feed in settings.feeds])
    together = Together(str(metrics), ours.registry)

    renewed = watched(settings.tls)  # for that metric alone: each worker watches for itself, and says what is wrong
    ours.keeps(settings.state, None if renewed is None else renewed.ends)

    def gone(pid: int) -> None:
        ours.ended()
        mark_process_dead(pid, str(metrics))  # type: ignore[no-untyped-call]

    supervisor = Supervisor(
        settings, store, ready, ours, address=address, folder=metrics, gone=gone, trials=together.trials
    )
    serving = web.pages(settings.http, ready, lambda: _registry(together))
    async with serving, probes.health(settings.health, ready), kept_fresh(renewed):
        await supervisor.run(stop)
    store.close()


def _registry(together: Together) -> CollectorRegistry:
    """Collect what all of us have counted."""
    registry = CollectorRegistry()
    registry.register(together)
    return registry


def _check_files(settings: PdpSettings) -> None:
    """See that the files that only workers use can be used, so that no worker dies of them. Raises `StartError`."""
    try:
        if settings.log_key is not None:
            KeyFolder(settings.log_key, parse_log_keys).read()
    except TrustError as error:
        raise daemon.StartError(f"`{settings.log_key}`: {error}") from None


def _own(state: Path) -> int:
    """Make the state folder ours alone, and see that no other decision point uses it. Raises `StartError`."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if state.stat().st_uid != os.getuid() or state.stat().st_mode & 0o022:
            raise daemon.StartError(f"`{state}` must belong to this user and be writable by nobody else")
        lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise daemon.StartError(f"`{state}` is in use by another decision point") from None
    except OSError as error:
        raise daemon.StartError(f"`{state}` cannot be used: {(error.strerror or '').lower()}") from None
    return lock


@contextlib.contextmanager
def _counts(state: Path, lock: int) -> Iterator[Path]:
    """Have an empty folder for what workers count, and remove it at the end.

    In memory, where there is room: the files are mapped before their blocks are there, and who touches such a page on
    a full disk dies of SIGBUS, as does each worker that comes after. So a full disk is counted, and kills nobody.
    """
    status = os.fstat(lock)
    # By the lock that is ours: no other decision point on this machine has it, and a start after `kill -9` finds it.
    ours = f"exequatur-{os.getuid()}-{status.st_dev:x}-{status.st_ino:x}"
    places = (MEMORY / ours, state / "metrics")
    for old in places:
        shutil.rmtree(old, ignore_errors=True)
    folder = places[0] if _room(MEMORY) >= MEMORY_BYTES else places[1]
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise daemon.StartError(f"`{folder}` cannot be made: {reason(error)}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _room(folder: Path) -> int:
    """Give how many bytes we may write there; none where there is no such folder, or it is not for us."""
    try:
        return shutil.disk_usage(folder).free if os.access(folder, os.W_OK | os.X_OK) else 0
    except OSError:
        return 0
