"""The way of records from the spool to the ledger: in order, again until acknowledged, and never past a lie.

Rules: what is not acknowledged stays in the spool; each acknowledgement's checkpoint must be signed by the known key
and extend the last one that was seen, which is kept beside the spool. A ledger that shows another past is not
acknowledged: the records stay here, and the log says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from exequatur.spool import Spool, SpoolError
from exequatur.trust.errors import TrustError
from exequatur.trust.merkle import verify_consistency
from exequatur.trust.note import Checkpoint, LogKey, open_checkpoint

log = logging.getLogger(__name__)

BATCH: Final = 500
"""Records in one call: at most 500 x 60 KiB would be too large, so bytes are counted too."""

BATCH_BYTES: Final = 2 * 2**20
BACKOFF_S: Final = (0.1, 5.0)
"""The first and the longest pause after a failure, in seconds; half of it is random."""


class Answer(Protocol):
    """What the ledger answers: the last durable number, a checkpoint that covers it, a consistency proof."""

    @property
    def acknowledged(self) -> int: ...  # noqa: D102
    @property
    def checkpoint(self) -> str: ...  # noqa: D102
    @property
    def consistency(self) -> Sequence[bytes]: ...  # noqa: D102


Append = Callable[[str, int, Sequence[bytes], int], Awaitable[Answer]]
"""Writer, first number, records, size of the last checkpoint seen. May raise anything: it will be tried again."""


class Shipper:
    """Takes one spool's records to the ledger."""

    def __init__(self, spool: Spool, append: Append, *, log_key: Path | None = None) -> None:
        """Ship what `spool` holds by `append`; `log_key` is a file with the ledger's verifier key."""
        self._spool = spool
        self._append = append
        self._key = LogKey.parse(log_key.read_text()) if log_key else None
        self._seen_file = spool.folder / "checkpoint"
        self._seen = self._last_seen()
        self.failures = 0
        """Calls in a row that failed."""

    async def run(self, stop: asyncio.Event) -> None:
        """Ship until `stop` is set."""
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                waiting = asyncio.create_task(self._spool.wait_for(self._spool.acknowledged + 1))
                await asyncio.wait((waiting, stopped), return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if not stop.is_set() and not await self._ship():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(asyncio.shield(stopped), self._pause())
        finally:
            stopped.cancel()

    async def drain(self, grace_s: float) -> None:
        """Ship what is left, for at most `grace_s` seconds; what remains stays on disk."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while self._spool.acknowledged < self._spool.last and await self._ship():
                    pass

    async def _ship(self) -> bool:
        """Send one batch; says whether it was acknowledged."""
        first = self._spool.acknowledged + 1
        try:
            records = await asyncio.to_thread(self._spool.read, first, BATCH)
            total = 0
            for count, data in enumerate(records):
                total += len(data)
                if total > BATCH_BYTES:
                    records = records[: max(1, count)]
                    break
            if not records:
                return True
            answer = await self._append(self._spool.writer, first, records, self._seen.size if self._seen else 0)
            self._check(answer)
            self._spool.acknowledge(min(answer.acknowledged, first + len(records) - 1))
        except asyncio.CancelledError:
            raise
        except (TrustError, SpoolError) as error:
            log.error("records are not shipped: %s", error)  # noqa: TRY400  the sentence says it all
            self.failures += 1
            return False
        except Exception as error:  # noqa: BLE001  whatever the transport raises, the records stay here
            if self.failures == 0:
                log.warning("the ledger does not take records: %s", error)
            self.failures += 1
            return False
        self.failures = 0
        return True

    def _check(self, answer: Answer) -> None:
        """Hold the answer's checkpoint against the key and the last one seen; raises `TrustError`."""
        if self._key is None:
            return
        seen = self._seen
        new = open_checkpoint(answer.checkpoint, [self._key], seen.origin if seen else self._key.name)
        if seen is not None:
            verify_consistency(
                old=seen.size, new=new.size, old_root=seen.root, new_root=new.root, proof=list(answer.consistency)
            )
        if new.size > 0:
            temporary = self._seen_file.with_suffix(".tmp")
            temporary.write_text(answer.checkpoint)
            temporary.replace(self._seen_file)
            self._seen = new

    def _last_seen(self) -> Checkpoint | None:
        if self._key is None or not self._seen_file.exists():
            return None
        return open_checkpoint(self._seen_file.read_text(), [self._key], self._key.name)

    def _pause(self) -> float:
        first, longest = BACKOFF_S
        whole: float = min(longest, first * 2.0 ** min(self.failures, 10))
        return whole / 2 + random.random() * whole / 2  # noqa: S311  jitter is no secret
