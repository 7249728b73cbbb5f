"""The way of records from the spool to the ledger: in order, again until acknowledged, and never past a lie.

Rules: what is not acknowledged stays in the spool; each acknowledgement's checkpoint must be signed by the known key
and extend the last one that was seen, which is kept beside the spool. A ledger that shows another past, or knows
records that were never written here, is not believed: the records stay, and the log says so. The keys may change
while we run; a key that is revoked, or over, signs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from exequatur.disk import Disk, write_file
from exequatur.key_folder import KeyFolder
from exequatur.spool import Spool, SpoolError
from exequatur.trust.errors import TrustError
from exequatur.trust.log_keys import LogKeys, parse_log_keys
from exequatur.trust.merkle import verify_consistency
from exequatur.trust.note import Checkpoint, recall_checkpoint

log = logging.getLogger(__name__)

BATCH: Final = 500
"""Records in one call: enough to share the ledger's commit, few enough to be decoded in some 20 ms."""

BATCH_BYTES: Final = 2 * 2**20
"""Bytes of records in one call: half of what a message may have."""

BACKOFF_S: Final = (0.1, 5.0)
"""The first and the longest pause after a failure, in seconds; half of it is random."""

WAITED_S: Final = 0.5
"""The longest pause while somebody waits for the ledger, in seconds."""

WATCH_S: Final = 1.0
"""How often the keys are looked at, in seconds; a change is taken at the second look that sees it."""

_ALARMS: Final = ("ALREADY_EXISTS", "FAILED_PRECONDITION", "PERMISSION_DENIED", "INVALID_ARGUMENT")
"""Answers that trying again will not change: somebody has to look."""


class _OlderCopyError(Exception):
    """The ledger has records of ours that were never written here."""


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

    def __init__(
        self,
        spool: Spool,
        append: Append,
        *,
        log_key: Path | None = None,
        older: Callable[[str], None] = lambda _: None,
        alarmed: Callable[[str], None] = lambda _: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Ship what `spool` holds by `append`; `log_key` has the ledger's verifier key, or is a folder of them.

        `older` is told, in one sentence, that the ledger knows records of this writer that this spool never wrote: the
        spool is an older copy of itself. It may be told more than once. `alarmed` is told whatever else somebody should
        look into, each time that it is another thing.

        Raises `TrustError` for keys that cannot be read or are none, and for a checkpoint beside the spool that is not
        one of this log.
        """
        self._spool, self._append, self._clock = spool, append, clock
        self._older, self._alarmed = older, alarmed
        self._keys: KeyFolder[LogKeys] | None = None
        if log_key is not None:
            self._keys = KeyFolder(log_key, parse_log_keys)
            if not self._keys.read().keys:
                raise TrustError("every key is revoked, and none has a file: put the ledger's new NAME.vkey there")
        self._taken, self._more, self._waiting = spool.acknowledged, asyncio.Event(), 0
        self._seen_file = spool.folder / "checkpoint"
        self._seen = self._last_seen()
        self.failures = 0
        """Calls in a row that failed."""
        self.trouble = ""
        """Why the last call failed; empty when it did not."""
        self.heard_at: datetime | None = None
        """When the ledger acknowledged records last; None before the first time."""
        if self._keys is None:
            log.warning("no log key is set: what the ledger says of itself is not checked")

    async def run(self, stop: asyncio.Event) -> None:
        """Ship until `stop` is set."""
        stopped = asyncio.create_task(stop.wait())
        watching = asyncio.create_task(self._watch())
        try:
            while not stop.is_set():
                waiting = asyncio.create_task(self._spool.wait_for(self._spool.acknowledged + 1))
                await asyncio.wait((waiting, stopped), return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if not stop.is_set() and not await self._ship():
                    await asyncio.wait((stopped,), timeout=self._pause())
        finally:
            stopped.cancel()
            watching.cancel()

    async def acknowledged(self, number: int) -> None:
        """Return when the ledger has record `number`, by a checkpoint that was checked; on the loop of `run` alone."""
        self._waiting += 1
        try:
            while self._taken < number:
                await self._more.wait()
        finally:
            self._waiting -= 1

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
            records = await asyncio.to_thread(self._spool.read, first, BATCH, BATCH_BYTES)
            answer = await self._append(self._spool.writer, first, records, self._seen.size if self._seen else 0)
            if answer.acknowledged < first:
                text = f"record {first} was sent, and the ledger acknowledges {answer.acknowledged}"
                raise TrustError(text)  # noqa: TRY301  to be told like the others
            if answer.acknowledged > (last := self._spool.last):
                text = f"the ledger has record {answer.acknowledged}, and the last one written here is {last}"
                raise _OlderCopyError(text)  # noqa: TRY301  as above
            seen = self._check(answer)
            # Never past what was sent: of what lies behind it the ledger may have other bytes.
            number = min(answer.acknowledged, first + len(records) - 1)
            self._taken = max(self._taken, number)
            self._more.set()  # who waits need not wait for our own disk: what is not noted there is sent again
            self._more = asyncio.Event()
            await asyncio.to_thread(self._keep, number, answer.checkpoint, seen)
        except (TrustError, SpoolError, _OlderCopyError) as error:
            self._failed(str(error), alarm=True, older=isinstance(error, _OlderCopyError))
            return False
        except Exception as error:  # noqa: BLE001  whatever the transport raises, the records stay here
            code = str(getattr(error, "code", ""))
            text = f"{code.lower()}: {error}" if code else str(error)
            self._failed(text, alarm=code in _ALARMS, older=code == "ALREADY_EXISTS")
            return False
        if self.failures:
            log.warning("the ledger takes records again")
        self.failures, self.trouble, self.heard_at = 0, "", self._clock()
        return True

    def _check(self, answer: Answer) -> Checkpoint | None:
        """Hold the answer's checkpoint against the key and the last one seen; raises `TrustError`."""
        if self._keys is None:
            return None
        new = self._keys.keys.open(answer.checkpoint, self._clock())
        if self._seen is not None:
            verify_consistency(
                old=self._seen.size,
                new=new.size,
                old_root=self._seen.root,
                new_root=new.root,
                proof=answer.consistency,
            )
        if new.size < answer.acknowledged:
            raise TrustError(f"a checkpoint of {new.size} entries cannot cover {answer.acknowledged} records")
        return new

    def _keep(self, number: int, note: str, seen: Checkpoint | None) -> None:
        """Remember the checkpoint, then let go of the records: in this order, so that it covers what is gone."""
        if seen is not None:
            self._seen = seen
            with contextlib.suppress(OSError):  # on a full disk an older one is kept, which is as good a witness
                write_file(Disk(), self._seen_file, note.encode())
        self._spool.acknowledge(number)

    def _failed(self, text: str, *, alarm: bool, older: bool = False) -> None:
        """Count a failure, and say it once; an alarm each time that it is another one."""
        if older:
            self._older(text)
        if text != self.trouble:
            if alarm:
                log.critical("alarm: records are not shipped: %s", text)
                if not older:
                    self._alarmed(f"records are not shipped: {text}")
            elif not self.trouble:
                log.warning("the ledger does not take records: %s", text)
        self.failures += 1
        self.trouble = text

    async def _watch(self) -> None:
        """Take the keys that hold now, again and again."""
        if (keys := self._keys) is None:
            return
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                seen = await asyncio.to_thread(keys.look)
            except Exception:  # the next second is another try; without this, no change would be seen any more
                log.exception("the log keys are not watched")
                continue
            if seen.fault:
                log.critical("alarm: `%s`: %s: the log keys that were good stay", keys.path, seen.fault)
                self._alarmed(f"`{keys.path}`: {seen.fault}: the log keys that were good stay")
            if seen.changed:
                log.warning("the log keys have changed: %s", ", ".join(seen.keys.keys))

    def _last_seen(self) -> Checkpoint | None:
        if self._keys is None or not self._seen_file.exists():
            return None
        keys = self._keys.keys
        try:
            seen, signed = recall_checkpoint(self._seen_file.read_text(), keys.once_good, keys.origin)
        except (TrustError, UnicodeDecodeError) as error:
            text = f"`{self._seen_file}` is not signed by the log key: remove it if the ledger has a new key: {error}"
            raise TrustError(text) from None
        if not signed:  # it was checked when it was kept; what the ledger shows next has to extend it all the same
            log.warning("`%s` was signed by a key that is gone", self._seen_file)
        return seen

    def _pause(self) -> float:
        first, longest = BACKOFF_S
        if self._waiting:
            longest = min(longest, WAITED_S)
        whole: float = min(longest, first * 2.0 ** min(self.failures - 1, 10))
        return whole / 2 + random.random() * whole / 2  # noqa: S311  jitter is no secret
