"""The bundle that is tried beside the one in force, in the shadow or as a canary.

Rules: it is proved and prepared as any other, and never raises the floor. It is dropped when its source has it no more,
when it has come into force, and when it halted; one that was halted is never tried again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from exequatur.trust.bundle import Floor
from pdp.activation import CANDIDATE
from pdp.bundle.source import EMPTY, Source
from pdp.control.store import StoreError
from pdp.placing import Trusted
from pdp.settings import Feed
from pdp.slot import Held, Shared, Slot

log = logging.getLogger(__name__)

LOOK_S: Final = 3.0
"""How often the source of a candidate is looked at, in seconds."""

_RESULTS: Final = ("same", "stricter", "looser", "error")


class Candidate:
    """What one tenant tries."""

    def __init__(self, feed: Feed, source: Source, shared: Shared, trials: Callable[[str], Mapping[str, int]]) -> None:
        """Try what `source` has; `trials` counts a tenant's answers of candidates. Raises `StoreError`."""
        self.slot = Slot(feed, CANDIDATE, source, shared)
        self.due = True
        """Whether the source is to be looked at in the next turn, whenever that was done last."""
        self._tenant, self._shared, self._trials = feed.tenant, shared, trials
        self._held: Held | None = None
        self._halted = {digest.hex(): reason for digest, reason in shared.store.halted(feed.tenant).items()}
        self._shown: tuple[str, int] | None = None
        self._before: Mapping[str, int] = {}
        self._looked = 0.0
        self._turn = asyncio.Lock()

    async def turn(self, trusted: Trusted | None, floor: Floor | None, active: Held | None) -> None:
        """Look for a candidate, if there is something in force beside which it can be tried. Raises `StoreError`."""
        async with self._turn:
            await self._look(trusted, floor, active)

    async def _look(self, trusted: Trusted | None, floor: Floor | None, active: Held | None) -> None:
        if active is not None and self._held is not None and active.digest == self._held.digest:
            self._drop("it has come into force")
            self._shown = None
            self.slot.settle()
        if active is None or not (self.due or time.monotonic() - self._looked >= LOOK_S):
            return
        self.due, self._looked = False, time.monotonic()
        now = datetime.now(UTC)
        # What is tried already is given too: else nobody could tell that it is gone. So is what is older than what is
        # in force: that is how it is once a candidate was overtaken, and no attack.
        found = (await self.slot.look(trusted, now, None)).found
        if found is not None and found.bundle.sequence < active.order.sequence:
            found = None
        digest = "" if found is None else found.bundle.digest.hex()
        if found is None or digest == active.digest:
            self._drop("its source has it no more" if found is None else "it has come into force")
            self._shown = None
        elif digest in self._halted:
            self._drop("another candidate was halted before")
            self._shown = digest, found.bundle.sequence
        elif self._held is None or digest != self._held.digest:
            held = await self.slot.bring(found, trusted, now, floor)
            if held is not None:
                self._held, self._shown = held, (held.digest, held.order.sequence)
                self._before = self._trials(self._tenant)
            if self._held is not None and digest in self._halted:  # by a worker that was quick
                self._end(self._halted[digest])

    def halt(self, digest: str, reason: str) -> None:
        """Never try a candidate again that halted by itself."""
        if digest in self._halted:
            return
        self._halted[digest] = reason
        log.error("a candidate of `%s` is halted: %s", self._tenant, reason)
        try:
            self._shared.store.halt(self._tenant, bytes.fromhex(digest), reason)
        except StoreError as error:
            log.error("that it is halted is forgotten when we end: %s", error)  # noqa: TRY400
        if self._held is not None and self._held.digest == digest:
            self._end(reason)

    @property
    def faults(self) -> list[str]:
        """What is wrong with the candidate or its source, as the status has it; to try nothing is nothing wrong."""
        return [f"the candidate: {fault}" for fault in self.slot.faults if EMPTY not in fault]

    def status(self) -> dict[str, Any] | None:
        """Say what is tried, and how it compares."""
        if self._shown is None:
            return None
        digest, sequence = self._shown
        feed, after = self.slot.feed, self._trials(self._tenant)
        counts = {name: max(0, after.get(name, 0) - self._before.get(name, 0)) for name in _RESULTS}
        return {
            "digest": digest,
            "sequence": sequence,
            "mode": "canary" if feed.canary_percent else "shadow",
            "percent": feed.canary_percent,
            "judged": sum(counts.values()),
            "stricter": counts["stricter"],
            "looser": counts["looser"],
            "errors": counts["error"],
            "halted": self._halted.get(digest, ""),
        }

    def _drop(self, reason: str) -> None:
        if self._held is not None:
            log.info("a candidate of `%s` is tried no longer: %s", self._tenant, reason)
            self._end(reason)

    def _end(self, reason: str) -> None:
        self._held = None
        self._shared.crew.drop(self._tenant, reason)
