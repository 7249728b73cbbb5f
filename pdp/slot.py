"""One tenant's bundles of one role: found at its source, proved, brought into force, or refused with a reason.

Rules: a refusal is said once, and changes nothing; a bundle that could not be proved is not looked at again, one that
the machine or the workers failed is tried again, ever more slowly.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from exequatur.disk import reason
from exequatur.trust.bundle import Floor
from exequatur.trust.opened import VerifiedBundle
from pdp.activation import ACTIVE, Order, Refused
from pdp.bundle.proving import BundleRejected, NotProved, Proven
from pdp.bundle.source import Found, Look, Source
from pdp.control.store import Store, StoreError
from pdp.crew import Crew
from pdp.engine.reading import PolicyError
from pdp.metrics import BundleMetrics
from pdp.opa_server import NotReadyError
from pdp.placing import Placing, Trusted
from pdp.settings import Feed
from pdp.status import Alarms, rfc3339

log = logging.getLogger(__name__)

PAUSE_S: Final = (2.0, 60.0)
"""The first and the longest pause before a bundle is tried again that the machine failed, in seconds."""

FAULTS: Final = 8
"""How many of the newest faults of a source are kept for the status."""

_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Shared:
    """What the watches of all tenants have in common."""

    store: Store
    crew: Crew
    placing: Placing
    metrics: BundleMetrics
    alarm: Alarms
    served: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once there is a policy for anybody."""


@dataclass(frozen=True, slots=True)
class Held:
    """A bundle (without its files) that is in force, or about to be, and its archive."""

    bundle: VerifiedBundle
    data: bytes = field(repr=False)
    order: Order
    trusted: Trusted | None
    since: datetime

    @property
    def digest(self) -> str:
        """Its digest, in hex."""
        return self.order.digest

    def status(self) -> dict[str, Any]:
        """Say what it is."""
        bundle = self.bundle
        return {
            "digest": self.digest,
            "sequence": bundle.sequence,
            "kids": [*bundle.kids],
            "revision": bundle.revision,
            "expires_at": rfc3339(bundle.expires_at) if bundle.signed else None,
            "since": rfc3339(self.since),
        }


class Slot:
    """Where the bundles of one tenant and one role come from, and what came of them."""

    def __init__(self, feed: Feed, role: str, source: Source, shared: Shared) -> None:
        """Bring what `source` has into force as `role`."""
        self.feed, self.source = feed, source
        self._role, self._shared = role, shared
        self.coming: Held | None = None
        """What workers prepare."""
        self.wanted = ""
        """The digest, in hex, of what is in the making."""
        self.faults: deque[str] = deque(maxlen=FAULTS)
        self.refused: dict[str, Any] | None = None
        self.looked_at: datetime | None = None
        self._away: tuple[str, ...] = ()  # those of the faults that end when the source is heard
        self._away_since = _NEVER
        self._heard: datetime | None = None
        self._proven: Proven | None = None
        self._said, self._saying = "", False
        self._paused, self._pause_s, self._until = b"", PAUSE_S[0], 0.0

    async def look(self, trusted: Trusted | None, now: datetime, floor: Floor | None, serving: str = "") -> Look:
        """Look at the source once."""
        keys = None if trusted is None else trusted.keys
        look = await asyncio.to_thread(self.source.look, keys, now=now, floor=floor, serving=bytes.fromhex(serving))
        before, self.looked_at = self.looked_at, now
        if look.confirmed_at is not None and look.confirmed_at != self._heard:
            self._heard = look.confirmed_at
            self._hear(look.confirmed_at, now)
        if look.away:
            # It came to be since the look before: an answer that is older says nothing about it.
            self._forget_away()
            self._away, self._away_since = look.away, before or _NEVER
        for fault in look.faults:
            if fault in look.away:
                self._miss(fault)
            else:
                self.refuse(fault)
        for fault in look.alarms:
            self._shared.alarm(f"tenant `{self.feed.tenant}`: {fault}")
        if self._role == ACTIVE:
            self._shared.metrics.looked(self.feed.tenant, "found" if look.found else "fault" if look.faults else "same")
        return look

    async def bring(self, found: Found, trusted: Trusted | None, now: datetime, floor: Floor | None) -> Held | None:
        """Bring what was found into force; None if it does not come into force, which is said."""
        digest = found.bundle.digest
        if digest == self._paused and time.monotonic() < self._until:
            return None
        self.wanted = digest.hex()
        try:
            held = await self._bring(found, trusted, now, floor)
        except (NotProved, Refused) as error:
            self._pause(digest)
            self._refuse_found(found, str(error))
        except (BundleRejected, PolicyError) as error:
            self.source.refuse(digest)
            self._refuse_found(found, str(error))
        except OSError as error:
            self._say_stuck(f"`{self._shared.placing.folder}` cannot be written: {reason(error)}")
        except (StoreError, NotReadyError) as error:
            self._say_stuck(str(error))
        else:
            self.settle()
            self._paused = b""
            return held
        finally:
            self.coming, self.wanted = None, ""
        return None

    async def again(self, held: Held, bundle: VerifiedBundle, trusted: Trusted | None, now: datetime) -> Held | None:
        """Have the workers load anew what is in force, which `trusted` keys say something else of."""
        keys = None if trusted is None else trusted.files
        order = replace(held.order, proved_at=now.isoformat(), keys=keys)
        try:
            return await self._activate(replace(held, bundle=bundle, order=order, trusted=trusted))
        except Refused as error:
            self.say(f"the bundle in force cannot be served by the keys as they are now: {error}")
            return None
        finally:
            self.coming = None

    async def _bring(self, found: Found, trusted: Trusted | None, now: datetime, floor: Floor | None) -> Held:
        if found.bundle.signed and found.bundle.sequence < self.feed.floor:
            raise BundleRejected(
                f"sequence {found.bundle.sequence} is below the `floor` of the settings, {self.feed.floor}"
            )
        placing = self._shared.placing
        if self._proven is None or self._proven.digest != found.bundle.digest:
            self._proven = None
            self._proven = await placing.prove(found, trusted, now, floor)
        order = await placing.order(self._proven, self._role, trusted, now)
        order = replace(
            order,
            canary_percent=self.feed.canary_percent,
            canary_max_stricter_percent=self.feed.canary_max_stricter_percent,
        )
        bundle = replace(found.bundle, files={})  # by the keys as they are now: it may have been proved under others
        held = await self._activate(Held(bundle, found.data, order, trusted, now))
        self._proven = None
        return held

    async def _activate(self, held: Held) -> Held:
        self.coming = held
        took = await self._shared.crew.activate(held.order)
        log.info(
            "bundle %s, sequence %d, is %s: all workers committed to it within %.3f s",
            *(held.digest[:12], held.order.sequence, "in force" if self._role == ACTIVE else "tried", took),
            extra=self._about,
        )
        return held

    def _pause(self, digest: bytes) -> None:
        first, longest = PAUSE_S
        self._pause_s = min(self._pause_s * 2, longest) if digest == self._paused else first
        self._paused, self._until = digest, time.monotonic() + self._pause_s

    def _refuse_found(self, found: Found, why: str) -> None:
        self.refused = {
            "origin": found.origin,
            "digest": found.bundle.digest.hex(),
            "reason": why,
            "at": rfc3339(datetime.now(UTC)),
        }
        fault = f"`{found.origin}`: {why}"
        if fault not in self.faults:
            self.refuse(fault)

    def refuse(self, fault: str) -> None:
        """Say what is refused, and why."""
        self._note(fault)
        self._shared.metrics.refused(self.feed.tenant)
        log.error("a %s is refused: %s", "bundle" if self._role == ACTIVE else "candidate", fault, extra=self._about)

    def say(self, text: str) -> None:
        """Say what keeps bundles from being served, once."""
        self._saying = True
        if text != self._said:
            self._unsay()
            self._said = text
            self._note(text)
            log.error("%s", text, extra=self._about)

    def _say_stuck(self, why: str) -> None:
        self.say(f"{'no new bundle can be served' if self._role == ACTIVE else 'no candidate can be tried'}: {why}")

    def turned(self) -> None:
        """Hear that a turn is over: what kept bundles from being served, and did not in this one, is past."""
        if not self._saying:
            self._unsay()
        self._saying = False

    def settle(self) -> None:
        """Forget all that was wrong, but for a source that is away still: a kept copy is no word from it."""
        self.faults = deque(self._away, FAULTS)
        self.refused, self._said = None, ""

    def _miss(self, fault: str) -> None:
        """Say that nothing comes from the source. That of a candidate is empty for most of its life."""
        self._note(fault)
        if self._role == ACTIVE:
            log.error("no bundle comes from a source: %s", fault, extra=self._about)
        else:
            log.info("no candidate of `%s` comes from its source: %s", self.feed.tenant, fault)

    def _unsay(self) -> None:
        if self._said in self.faults:
            self.faults.remove(self._said)
        self._said = ""

    def _hear(self, at: datetime, now: datetime) -> None:
        """Forget that the source was away, which answered at `at`; a clock that was ahead must not hide it."""
        if not self._away or at < self._away_since <= now:
            return
        self._forget_away()
        log.info(
            "the source of %s`%s` is heard again", "" if self._role == ACTIVE else "candidates of ", self.feed.tenant
        )

    def _forget_away(self) -> None:
        self.faults = deque((fault for fault in self.faults if fault not in self._away), FAULTS)
        self._away = ()

    def _note(self, fault: str) -> None:
        """Keep a fault for the status."""
        if fault not in self.faults:
            self.faults.append(fault)

    @property
    def _about(self) -> dict[str, Any]:
        return {"fields": {"tenant": self.feed.tenant}}
