"""The supervisor: watches every tenant's bundles and keys, keeps the workers, and says how things stand.

Rules: it alone looks for bundles, and no worker serves one that it has not proved; one tenant's trouble is not
another's; a bundle that is refused changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Final

from exequatur import daemon
from exequatur.daemon import Ready, StartError
from exequatur.disk import reason
from exequatur.key_folder import KeyFolder, private_keys_hint
from exequatur.trust.errors import TrustError
from exequatur.trust.key_policy import FILE as KEY_POLICY
from pdp.bundle.source import Source, SourceError, open_source
from pdp.candidate import Candidate
from pdp.control.store import Store, StoreError
from pdp.crew import Crew, Hears
from pdp.metrics import BundleMetrics
from pdp.opa_server import OpaServers
from pdp.placing import Placing, Trusted
from pdp.settings import Feed, PdpSettings
from pdp.slot import Shared
from pdp.status import Alarms, StatusFile, read, rfc3339
from pdp.watch import Watch

log = logging.getLogger(__name__)

FIRST: Final = "first bundle"
"""The part that is missing while there is no policy for anybody."""

KEEP_S: Final = 1.0
"""How often what is not needed any more is let go of, and the status written, in seconds."""

THREADS: Final = 4
"""How many threads there are for each tenant's looks, and for all else: source, keys, candidate, proof."""

STEPS: Final = 4
"""How many graces a worker has to end: its server, its conveyor, its shipper, and one to spare."""


class Supervisor:
    """All tenants and all workers of a decision point."""

    def __init__(
        self,
        settings: PdpSettings,
        store: Store,
        ready: Ready,
        metrics: BundleMetrics,
        *,
        address: str,
        folder: os.PathLike[str],
        gone: Callable[[int], None],
        trials: Callable[[str], Mapping[str, int]],
    ) -> None:
        """Serve on `address` by workers that count into `folder`; `trials` says how candidates have compared.

        `gone` hears each process id that has ended. Raises `StartError`; nothing runs before `run`.
        """
        self._settings, self._ready = settings, ready
        self._alarms = Alarms(metrics.alarmed)
        self._servers = OpaServers(settings.state / "serving")
        self._file = StatusFile(settings.state)
        start = {"settings": settings.told.written(), "address": address}
        environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": os.fspath(folder)}
        hears = Hears(gone, self._halted, self._alarms, self._distrusted, self._refresh)
        self._crew = Crew(settings.workers, start, environ, ready, hears)
        metrics.runs(settings.workers, lambda: self._crew.listening)
        placing = Placing(settings, self._servers)
        self._shared = Shared(store, self._crew, placing, metrics, self._alarms)
        known = _confirmations(read(settings.state))
        try:
            self._watches = {
                feed.tenant: _watch(feed, self._shared, trials, known.get(feed.tenant)) for feed in settings.feeds
            }
        except StoreError as error:
            raise StartError(str(error)) from None

    async def run(self, stop: asyncio.Event) -> None:
        """Run the workers and watch until `stop` is set, or watching fails; then let the workers finish."""
        # A look at a disk that hangs must not keep others from looking at their keys.
        threads = ThreadPoolExecutor(THREADS + THREADS * len(self._watches), "look")
        asyncio.get_running_loop().set_default_executor(threads)
        async with self._servers:
            workers = [asyncio.create_task(worker.run()) for worker in self._crew.workers]
            watching: list[asyncio.Task[Any]] = [asyncio.create_task(watch.run()) for watch in self._watches.values()]
            watching += [asyncio.create_task(self._keep()), asyncio.create_task(self._say_ready())]
            stopped = asyncio.create_task(stop.wait())
            try:
                await self._until(stopped, watching)
            finally:
                self._ready.drain()
                grace_s = STEPS * self._settings.drain_grace_s
                await asyncio.gather(*(worker.stop(grace_s) for worker in self._crew.workers))
                for task in (*workers, *watching, stopped):
                    task.cancel()
                await asyncio.gather(*workers, *watching, stopped, return_exceptions=True)

    def status(self) -> Mapping[str, Any]:
        """Say how things stand."""
        return {
            "tenants": [watch.status() for watch in self._watches.values()],
            "alarms": self._alarms.listed,
            "at": rfc3339(datetime.now(UTC)),
        }

    @staticmethod
    async def _until(stopped: asyncio.Task[Any], watching: Sequence[asyncio.Task[Any]]) -> None:
        """Wait for the end; raises what a watch ended with."""
        waited = {stopped, *watching}
        while not stopped.done():
            done, waited = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    async def _say_ready(self) -> None:
        """Be ready once every tenant was looked at, and one is served; with one tenant, once that is served."""
        watches = self._watches.values()
        if len(watches) > 1:
            await asyncio.gather(*(watch.policy.looked.wait() for watch in watches))
        await self._shared.served.wait()
        self._ready.release(FIRST)

    async def _keep(self) -> None:
        """Write how things stand, and let go of what nobody needs any more."""
        said = ""
        while True:
            try:
                self._file.write(self.status())
                used = self._crew.used.union(*(watch.used for watch in self._watches.values()))
                await self._shared.placing.clear(used)
                said = ""
            except OSError as error:
                text = f"`{error.filename or self._settings.state}` cannot be cleared away: {reason(error)}"
                if text != said:
                    log.error(text)  # noqa: TRY400  the sentence says it all
                said = text
            await asyncio.sleep(KEEP_S)

    async def _refresh(self, tenant: str) -> Mapping[str, Any]:
        """Look for newer bundles of a tenant, or of all, and say how things stand then."""
        watches = [watch for name, watch in self._watches.items() if tenant in ("", name)]
        await asyncio.gather(*(watch.refresh() for watch in watches))
        found = self.status()
        self._file.write(found, at_once=True)
        return found

    def _distrusted(self, reason: str) -> None:
        for watch in self._watches.values():
            watch.policy.distrust(reason)

    def _halted(self, tenant: str, digest: str, reason: str) -> None:
        if tenant in self._watches:
            self._watches[tenant].halted(digest, reason)


def _watch(
    feed: Feed, shared: Shared, trials: Callable[[str], Mapping[str, int]], confirmed_at: datetime | None
) -> Watch:
    """Watch one feed. Raises `StartError` for keys and addresses that cannot be used, and `StoreError`."""
    keys: KeyFolder[Trusted] | None = None
    if feed.keys is None:
        log.warning("unsafe: bundles that nobody signed are served, and every effect is at least WARN")
    else:
        keys = KeyFolder(feed.keys, Trusted.parse)
        try:
            limited = keys.read().has_policy
        except TrustError as error:
            raise StartError(f"`{feed.keys}`: {error}{private_keys_hint(feed.keys)}") from None
        if limited:
            shared.store.note_key_policy(feed.tenant)
        elif shared.store.had_key_policy(feed.tenant):
            raise StartError(
                f"`{feed.keys}` has lost its `{KEY_POLICY}`, without which each key alone would be enough: put it back,"
                " or one that says so"
            )
    candidate = None if feed.trial is None else Candidate(feed.trial, _source(feed.trial), shared, trials)
    return Watch(feed, _source(feed), keys, shared, candidate, confirmed_at=confirmed_at)


def _source(feed: Feed) -> Source:
    try:
        return open_source(feed)
    except SourceError as error:
        raise daemon.StartError(f"`{feed.shown}`: {error}") from None


def _confirmations(known: Mapping[str, Any]) -> dict[str, datetime]:
    """Read from an older status when each tenant's source was last heard; what cannot be read was never heard."""
    found: dict[str, datetime] = {}
    tenants = known.get("tenants")
    for item in tenants if isinstance(tenants, list) else ():
        match item:
            case {"tenant": str(tenant), "confirmed_at": str(at)}:
                try:
                    found[tenant] = min(datetime.fromisoformat(at).astimezone(UTC), datetime.now(UTC))
                except ValueError:
                    continue
    return found
