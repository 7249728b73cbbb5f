"""The way of a worker's records to the ledger, and what the ledger's memory says of our state folder.

Rules: without a ledger records stay where they are; a ledger that knows records which were never written here has seen
a newer state folder than this one, and then nothing that is in it can be trusted: neither floor, nor budget, nor label.
Whichever worker hears of it marks the folder, so that the others know within a second, and whoever starts in it next.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Final

from exequatur import daemon
from exequatur.client import LedgerClient
from exequatur.disk import Disk, write_file
from exequatur.renewal import Renewal
from exequatur.shipper import Shipper
from exequatur.spool import Spool
from exequatur.trust.errors import TrustError
from pdp.metrics import Metrics
from pdp.told import Told

HEARD_S: Final = 2.0
"""How long a worker waits, before it listens, for the ledger to know its first record: an older folder shows then."""

LOOK_S: Final = 0.01

OLDER: Final = (
    "the state folder is older than the ledger's memory of it: start with a fresh one, and with `floor` set to the "
    "sequence that was served last"
)
"""Why no policy is trusted in a state folder that was put back from a copy."""

MARK: Final = "older-than-ledger"
"""The file that says so to all workers, with what the ledger answered."""


class Shipping:
    """Ships what is in our spools while it lasts."""

    def __init__(
        self,
        settings: Told,
        spools: Sequence[Spool],
        metrics: Metrics,
        older: Callable[[str], None],
        alarmed: Callable[[str], None] = lambda _: None,
        *,
        tls: Renewal | None,
    ) -> None:
        """Begin; `older` hears what the ledger knows that was never written here, `alarmed` what else is wrong.

        Raises `StartError`.
        """
        self._spools, self._older, self._mark = spools, older, settings.state / MARK
        self._stop = asyncio.Event()
        self._client: LedgerClient | None = None
        self._shippers: list[Shipper] = []
        self._alarmed = False
        if settings.ledger is not None:
            self._client = LedgerClient(
                settings.ledger,
                tls=tls,
                unsafe_plaintext=settings.unsafe_plaintext,
            )
            try:
                self._shippers = [
                    Shipper(spool, self._client.append, log_key=settings.log_key, older=self._alarm, alarmed=alarmed)
                    for spool in spools
                ]
            except (OSError, TrustError) as error:
                raise daemon.StartError(f"`{settings.log_key}` is no verifier key: {error}") from None
        self._look_at_mark()
        self._tasks = [asyncio.create_task(shipper.run(self._stop)) for shipper in self._shippers]
        self._tasks.append(asyncio.create_task(self._measure(metrics)))

    @property
    def backlog(self) -> int:
        """How many records the ledger has not acknowledged."""
        return sum(spool.last - spool.acknowledged for spool in self._spools)

    async def acknowledged(self, number: int) -> None:
        """Return when the ledger has record `number` of our own spool."""
        await self._shippers[0].acknowledged(number)

    async def heard(self, number: int, at_most_s: float = HEARD_S) -> None:
        """Wait until the ledger has record `number` of our own spool, or says why not, or the time is up."""
        end = time.monotonic() + at_most_s
        while self._shippers and self._spools[0].acknowledged < number and not self._alarmed:
            if time.monotonic() >= end:
                return
            await asyncio.sleep(LOOK_S)

    async def stop(self, grace_s: float) -> None:
        """Let the ledger have what is left, for at most `grace_s` seconds."""
        self._stop.set()
        await asyncio.gather(*self._tasks)
        await asyncio.gather(*(shipper.drain(grace_s) for shipper in self._shippers))
        if self._client is not None:
            await self._client.close()

    def _alarm(self, text: str) -> None:
        """Tell it once, and mark the folder: nothing that comes later makes it newer."""
        if not self._alarmed:
            self._alarmed = True
            self._older(text)
            with contextlib.suppress(OSError):  # on a full disk each worker has to hear it from the ledger
                write_file(Disk(), self._mark, text.encode())

    def _look_at_mark(self) -> None:
        """Hear what another worker has found, now or in an earlier life."""
        if not self._alarmed and self._mark.exists():
            self._alarmed = True
            self._older("another worker, or an earlier start, heard so from the ledger")

    async def _measure(self, metrics: Metrics) -> None:
        """Show how it stands each second: other processes read it from a file. Look at the folder's mark as well."""
        while not self._stop.is_set():
            metrics.shipped.show(self._spools, self._shippers)
            self._look_at_mark()
            try:
                await asyncio.wait_for(self._stop.wait(), 1.0)
            except TimeoutError:
                continue
