"""Bundles that a server has: asked for now and again, kept, and verified anew whenever that may end otherwise.

Rules:
- Whatever a server says or fails to say, the bundle that is served stays; what is wrong is one sentence, said once.
- A failure is followed by a pause that grows, with chance in it, so that many who ask do not ask at once; a server's
  `Retry-After` is heard, up to a bound. Neither outlasts the time in which a policy that nobody confirms becomes stale:
  a server that is back is asked before. One that holds its answers back is asked again at once.
- The answer to a later question wins, also when an earlier one comes in after it.
- A server's word that nothing has changed confirms what it gave, no more: every now and then it is asked for the whole
  bundle, and one whose tag stood for two bundles is not asked by tags again. Only a digest cannot stand for two.
- All pacing is by a clock that is given, so that an hour away is a test of a moment.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, Protocol

from exequatur.trust.bundle import Floor, check_floor
from exequatur.trust.errors import EquivocationError, NotYetValidError, TrustError
from exequatur.trust.keys import BundleKeys
from exequatur.trust.opened import VerifiedBundle
from pdp.bundle.source import Found, Look, SourceError, is_over, is_overtaken, open_bundle

BACKOFF_S: Final = (0.5, 60.0)
"""The shortest pause after a failure, and the longest, in seconds."""

PATIENCE_S: Final = 5.0
"""What the longest pause may always be, in seconds: who polls more often than that leaves a server in trouble alone."""

TRIES: Final = 3
"""How often a server is asked, at the least, in the time for which a tenant's policy may go unconfirmed."""

RETRY_AFTER_S: Final = 300.0
"""How long a server may tell us to stay away, in seconds: the freshness of policy is not its to give up."""

WHOLE_S: Final = 600.0
"""How often the whole bundle is asked for from a server whose tags prove nothing, in seconds."""

SPACE_S: Final = 1.0
"""The least time between two questions to a server that holds its answers, in seconds."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server has: a bundle, or None where it is still what `tag` names."""

    data: bytes | None
    tag: str = ""
    holds: bool | None = None
    """Whether it can hold its answer until there is a newer bundle; None: it does not say."""


class Asker(Protocol):
    """One way to ask one server."""

    origin: str
    """The address, for people."""
    exact: bool
    """Its tags are digests: the same tag is the same bundle."""

    async def ask(self, tag: str, *, wait_s: int) -> Answer:
        """Ask for the newest bundle; `tag` names the one that is here. Raises `SourceError`, and nothing else."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What time it is, how to wait, and chance."""

    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    uniform: Callable[[float, float], float] = random.uniform


PACE: Final = Pace()


@dataclass(frozen=True, slots=True)
class _Got:
    """What the server gave last, when it last said so, and when it last gave the whole of it."""

    data: bytes
    tag: str
    heard: datetime
    whole: datetime


@dataclass(frozen=True, slots=True)
class _Checked:
    """What came of verifying `data` with `keys`: a bundle (without its files), or a fault."""

    data: bytes
    keys: BundleKeys | None
    bundle: VerifiedBundle | None
    fault: str = ""
    early: bool = False

    def holds(self, data: bytes, keys: BundleKeys | None, now: datetime) -> bool:
        """Say whether the same would come of it again."""
        same = self.data is data and self.keys is keys
        return same and not self.early and not is_over(self.bundle, now)


class RemoteSource:
    """What one server has for one tenant. `look` may run in a thread beside the rest."""

    def __init__(
        self,
        asker: Asker,
        *,
        tenant: str = "default",
        poll_s: float = 10,
        long_poll_s: int = 0,
        max_staleness_s: float = 0,
        pace: Pace = PACE,
    ) -> None:
        """Ask by `asker`; nothing is asked yet. `max_staleness_s` 0: the policy may go unconfirmed for ever."""
        self._asker, self._tenant = asker, tenant
        self._poll_s, self._long_poll_s, self._pace = poll_s, long_poll_s, pace
        shortest, longest = BACKOFF_S
        urgent_s = max(shortest, max_staleness_s / TRIES) if max_staleness_s else math.inf
        self._longest_s = min(longest, max(poll_s, PATIENCE_S), urgent_s)
        self._heeded_s = min(RETRY_AFTER_S, urgent_s)
        self._holds = long_poll_s > 0
        self._got: _Got | None = None
        self._checked: _Checked | None = None
        self._confirmed: datetime | None = None
        self._trouble = ""
        self._liar = ""
        self._said: set[str] = set()
        self._refused: set[bytes] = set()
        self._asked = self._answered = 0

    def refuse(self, digest: bytes) -> None:
        """Never give this bundle again."""
        self._refused.add(digest)

    def look(self, keys: BundleKeys | None, *, now: datetime, floor: Floor | None, serving: bytes = b"") -> Look:
        """Look at what came last."""
        got, faults, found = self._got, [fault for fault in (self._trouble, self._liar) if fault], None
        twofold = ""
        if got is not None:
            try:
                found = self._judge(got, keys, now, floor, serving)
            except TrustError as error:
                faults.append(f"`{self._asker.origin}`: {error}")
                twofold = faults[-1] if isinstance(error, EquivocationError) else ""
        new = tuple(fault for fault in faults if fault not in self._said)
        self._said = set(faults)
        away, alarms = (tuple(fault for fault in new if fault == one) for one in (self._trouble, twofold))
        return Look(found, new, self._confirmed, away, alarms)

    async def refresh(self) -> None:
        """Ask now."""
        await self._ask(0)

    async def run(self) -> None:
        """Ask until cancelled."""
        failures = 0
        while True:
            wait_s = self._long_poll_s if self._holds else 0
            began = self._pace.clock()
            error = await self._ask(wait_s)
            failures = 0 if error is None else failures + 1
            if error is not None:
                pause_s = self._backoff(failures, error)
            elif self._is_held():
                pause_s = max(0.0, SPACE_S - max(0.0, (self._pace.clock() - began).total_seconds()))
            else:
                pause_s = self._poll_s * self._pace.uniform(0.9, 1.1)
            await self._pace.sleep(pause_s)

    def _is_held(self) -> bool:
        """Say whether the next answer is held until there is a newer bundle, which takes a tag to know one by."""
        return self._holds and self._got is not None and self._tag(self._got, self._got.whole) != ""

    def _judge(
        self, got: _Got, keys: BundleKeys | None, now: datetime, floor: Floor | None, serving: bytes
    ) -> Found | None:
        """Give what the server has, if it should be served next. Raises `TrustError`."""
        known, opened = self._checked, None
        if known is None or not known.holds(got.data, keys, now):
            try:
                opened = open_bundle(got.data, keys, now=now, tenant=self._tenant)
                known = _Checked(got.data, keys, replace(opened, files={}))
            except TrustError as error:
                known = _Checked(got.data, keys, None, str(error), early=isinstance(error, NotYetValidError))
            self._checked = known
        if known.bundle is None:
            raise TrustError(known.fault)
        digest = known.bundle.digest
        if known.bundle.signed:
            if digest == serving and is_overtaken(known.bundle, floor):
                return None
            check_floor(known.bundle, floor)
        self._confirmed = got.heard  # also by one that was refused: its publisher was heard
        if digest == serving or digest in self._refused:
            return None
        opened = opened or open_bundle(got.data, keys, now=now, tenant=self._tenant)
        return Found(self._asker.origin, got.data, opened)

    async def _ask(self, wait_s: int) -> SourceError | None:
        """Ask once, and keep what is answered; gives what went wrong."""
        self._asked += 1
        number, before, began = self._asked, self._got, self._pace.clock()
        try:
            answer = await self._asker.ask(self._tag(before, began), wait_s=wait_s)
        except SourceError as error:
            if number > self._answered:
                self._answered, self._trouble = number, f"`{self._asker.origin}`: {error}"
            return error
        if number > self._answered:
            self._answered, self._trouble = number, ""
            self._take(answer, self._pace.clock() if wait_s else began)
        return None

    def _tag(self, got: _Got | None, now: datetime) -> str:
        """Give the tag to ask about; none asks for the whole bundle."""
        if got is None:
            return ""
        proves = not self._liar and (now - got.whole).total_seconds() < WHOLE_S
        return got.tag if self._asker.exact or proves else ""

    def _take(self, answer: Answer, heard: datetime) -> None:
        if answer.holds is not None:
            self._holds = answer.holds and self._long_poll_s > 0
        got = self._got
        if answer.data is None:
            if got is not None:
                self._got = replace(got, heard=heard)
            return
        same = got is not None and got.data == answer.data
        if got is not None and not same and got.tag and got.tag == answer.tag:
            self._liar = f"`{self._asker.origin}`: its ETag stood for two bundles: it is asked for the whole each time"
        data = got.data if got is not None and same else answer.data
        self._got = _Got(data, answer.tag, heard, heard)

    def _backoff(self, failures: int, error: SourceError) -> float:
        first = BACKOFF_S[0]
        pause_s = self._pace.uniform(first, min(self._longest_s, first * 2 ** min(failures - 1, 16)))
        return max(pause_s, min(_seconds(error.retry_after, self._pace.clock()), self._heeded_s))


def _seconds(retry_after: str, now: datetime) -> float:
    """Read a `Retry-After` header (RFC 9110, 10.2.3): seconds, or a date; 0 for anything else."""
    if retry_after.isdecimal():
        return float(retry_after[:9])
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - now).total_seconds())
    except (ValueError, TypeError):
        return 0.0
