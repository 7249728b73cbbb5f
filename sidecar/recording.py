"""Records before answers: durable in the spool, and, where the ledger is waited for, the ledger's as well.

Rule: whoever is told that something may run can find it in the ledger, if it is waited for: a spool that ends with its
pod proves nothing. Time is the caller's: what the ledger does not take in it is not answered as if it had.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from exequatur.trust.canonical import Json
from sidecar.pdp_client import MARGIN_S

NOT_TAKEN: Final = "the ledger has not taken the record"

Record = Callable[[Mapping[str, Json]], Awaitable[int]]
"""Makes one record durable, and gives its number; raises when it cannot."""


class NotTaken(Exception):  # noqa: N818
    """The ledger does not have the record, and the time is up; the spool has it."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """How the ledger is waited for: `acknowledged` returns when it has the record of a number.

    `at_most_s` is how long an answer may take, the decision included, where the caller's deadline is not sooner.
    """

    acknowledged: Callable[[int], Awaitable[None]]
    at_most_s: float


@dataclass(frozen=True, slots=True)
class Recorder:
    """Records by `record`, and waits for the ledger if it is told how."""

    record: Record
    waiting: Waiting | None = None

    def until(self, left_s: float | None) -> float:
        """When a call that begins now must be answered, by the event loop's clock; `left_s` is its deadline."""
        if self.waiting is None:
            return math.inf
        most_s = self.waiting.at_most_s
        return asyncio.get_running_loop().time() + (most_s if left_s is None else min(most_s, left_s - MARGIN_S))

    async def put(self, fields: Mapping[str, Json], until: float) -> None:
        """Put one record on record, for good. Raises what `record` does, and `NotTaken`."""
        number = await self.record(fields)
        if self.waiting is None:
            return
        try:
            async with asyncio.timeout_at(until):
                await self.waiting.acknowledged(number)
        except TimeoutError:
            raise NotTaken from None
