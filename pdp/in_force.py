"""What one tenant is served, and how far it is trusted: the workers, the log and the status are told of both.

Rules: nothing comes into force below the floor, or proved under other keys than those that hold by then. What the keys
do not vouch for any more is withdrawn, whatever keeps the workers from seeing that by themselves. Keys that are broken
keep what is in force, and let nothing new in. A source that is away changes nothing but how fresh the policy is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from exequatur.key_folder import KeyFolder
from exequatur.trust.bundle import Floor
from exequatur.trust.errors import ExpiredError, NotYetValidError, TrustError
from pdp.activation import Order, Refused
from pdp.bundle.source import open_bundle
from pdp.control.store import FloorError, OlderError, StoreError
from pdp.placing import Trusted
from pdp.settings import Feed
from pdp.slot import Held, Shared
from pdp.status import rfc3339

log = logging.getLogger(__name__)

_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)


class InForce:
    """The policy of one tenant, from its coming into force to its end."""

    def __init__(
        self,
        feed: Feed,
        keys: KeyFolder[Trusted] | None,
        shared: Shared,
        missing: Callable[[], str],
        *,
        confirmed_at: datetime | None,
    ) -> None:
        """Trust what `feed` gives by `keys`, None where nobody signs; `missing` says why there is none.

        `confirmed_at` is from a life before. Raises `StoreError`.
        """
        self.looked = asyncio.Event()
        """Set once the first look is over, whatever it gave: that there is no policy is nothing to be said before."""
        self.held: Held | None = None
        """What is in force."""
        self.withdrawn = ""
        """Why it is not trusted any more."""
        self.renewed = False
        """Whether keys say something else of its end than the workers have heard."""
        self.confirmed = confirmed_at
        """When the source last said what is newest."""
        self.floor = shared.store.floor(feed.tenant)
        """As it was read last: a database that hangs keeps nobody waiting."""
        self._feed, self._keys, self._shared, self._missing = feed, keys, shared, missing
        self._heard = confirmed_at
        self._ends: datetime | None = None  # of what is in force, by keys that the workers have not heard of
        self._lost = ""
        self._stood: datetime | None = None
        self._told = ("", "")  # what was logged: the state, and why it is withdrawn

    @property
    def trusted(self) -> Trusted | None:
        """The keys as they are now; None where nobody signs."""
        return None if self._keys is None else self._keys.keys

    @property
    def fault(self) -> str:
        """What is wrong with the keys; while something is, those from before hold, and nothing new comes in."""
        return "" if self._keys is None else self._keys.fault

    @property
    def is_over(self) -> bool:
        """Whether what is in force has ended by the keys as they are now, whatever keeps the workers from knowing."""
        return self._ends is not None and datetime.now(UTC) >= self._ends

    def put(self, order: Order, coming: Held | None) -> None:
        """Put an order in force, as all workers are about to; `coming` is what was asked of them. Raises `Refused`."""
        if coming is None or coming.order is not order:
            raise Refused("it was given up")
        if coming.trusted is not self.trusted:
            raise Refused("the keys changed while it was prepared: it is looked at again")
        try:
            if coming.bundle.signed:
                floor = Floor(order.sequence, coming.bundle.digest)
                self._shared.store.raise_floor(self._feed.tenant, floor)
                self.floor = floor
        except OlderError as error:  # another replica heard of the newer one first
            raise Refused(str(error)) from None
        except FloorError as error:
            self._shared.alarm(
                f"tenant `{self._feed.tenant}`: somebody else who has this store serves another bundle: {error}"
            )
            raise Refused(str(error)) from None
        except StoreError as error:
            raise Refused(str(error)) from None
        self.held = coming
        self._shared.served.set()

    async def read_floor(self) -> Floor | None:
        """Read the floor, and raise it again in a store that has forgotten it. Raises `StoreError`."""
        store, held, tenant = self._shared.store, self.held, self._feed.tenant
        floor = await asyncio.to_thread(store.floor, tenant)
        if held is not None and held.bundle.signed and (floor is None or floor.sequence < held.order.sequence):
            self._shared.alarm(
                f"tenant `{tenant}`: the store did not know that sequence {held.order.sequence} was served: it "
                "was put back from a copy, and budgets may be as they were then"
            )
            floor = Floor(held.order.sequence, held.bundle.digest)
            with contextlib.suppress(FloorError):  # somebody else was quicker
                await asyncio.to_thread(store.raise_floor, tenant, floor)
        self.floor = floor
        return floor

    async def judge_again(self, trusted: Trusted) -> None:
        """Verify what is in force by the keys as they are now."""
        held, reason, now = self.held, "", datetime.now(UTC)
        self._ends = None
        if held is None or not held.bundle.signed:
            return
        try:
            again = await asyncio.to_thread(open_bundle, held.data, trusted.keys, now=now, tenant=self._feed.tenant)
            if again.expires_at != held.bundle.expires_at:
                self.renewed, self._ends = True, again.expires_at
        except NotYetValidError:
            pass
        except ExpiredError as error:
            reason = "" if now >= held.bundle.expires_at else str(error)
        except TrustError as error:
            reason = str(error)
        if self.held is held or (self.held is not None and self.held.digest == held.digest):
            self.withdraw(reason)

    def distrust(self, reason: str) -> None:
        """Trust nothing any more, whatever is found, until we are started again."""
        self._lost = self._lost or reason
        self.withdraw(reason)

    def withdraw(self, reason: str) -> None:
        """Trust what is in force no more, or again where `reason` is empty."""
        reason = self._lost or reason
        if reason == self.withdrawn:
            return
        self.withdrawn = reason
        self.tell()
        self.stand()
        self._shared.metrics.stands(self._feed.tenant, self.state(datetime.now(UTC)))

    def hear(self, at: datetime, now: datetime) -> None:
        """Hear that the source said, at the time `at`, what is newest."""
        if at != self._heard:
            self._heard = self.confirmed = at
        # A clock that was ahead and is not any more must not make one answer new for as long as it was ahead.
        self.confirmed = min(self.confirmed or now, now)
        self._shared.metrics.confirmed(self._feed.tenant, self.confirmed)

    def stand(self) -> None:
        """Tell the workers how far the policy is trusted; a little later each time is told now and then."""
        until, told, most_s = None, self._stood, self._feed.max_staleness_s
        if most_s:
            until = (self.confirmed or _NEVER) + timedelta(seconds=most_s)
        slack = timedelta(seconds=min(5.0, most_s / 10))
        if until is not None and told is not None and timedelta() <= until - told < slack:
            until = told
        self._stood = until
        self._shared.crew.stand(self._feed.tenant, None if until is None else until.isoformat(), self.withdrawn)

    def state(self, now: datetime) -> str:
        """Say in a word what has become of the policy."""
        if self.held is None:
            return "none"
        if self.withdrawn:
            return "withdrawn"
        if now >= self.held.bundle.expires_at:
            return "expired"
        return "stale" if self._stood is not None and now >= self._stood else "serving"

    def tell(self) -> None:
        """Log what has become of the policy, when that is something else than it was."""
        state, tenant = "withdrawn" if self.withdrawn else self.state(datetime.now(UTC)), self._feed.tenant
        if (state, self.withdrawn) == self._told or (state == "none" and not self.looked.is_set()):
            return
        before, self._told = self._told[0], (state, self.withdrawn)
        if state != "serving":
            what = f"the policy of `{tenant}` is {state}" if self.held else f"`{tenant}` has no policy"
            log.error("%s, and every action is denied: %s", what, self._reason(state))
        elif before not in ("", "none"):
            log.info("the policy of `%s` serves again", tenant)

    def status(self) -> dict[str, Any]:
        """Say what is served, and why."""
        held, floor, state = self.held, self.floor, self.state(datetime.now(UTC))
        self._shared.metrics.stands(self._feed.tenant, state)
        return {
            "serving": None if held is None else held.status(),
            "state": state,
            "reason": self._reason(state),
            "floor": max(self._feed.floor, 0 if floor is None else floor.sequence),
            "confirmed_at": None if self.confirmed is None else rfc3339(self.confirmed),
            "keys": self._keys_status(),
        }

    def _reason(self, state: str) -> str:
        heard, allowed = self.confirmed, f"`max_staleness_s` is {self._feed.max_staleness_s:g}"
        reasons = {
            "none": self.withdrawn or self._missing(),
            "withdrawn": self.withdrawn,
            "expired": "a new bundle must be published",
            "stale": f"its source was {f'not heard since {rfc3339(heard)}' if heard else 'never heard'}, and {allowed}",
        }
        return reasons.get(state, "")

    def _keys_status(self) -> dict[str, Any] | None:
        trusted = self.trusted
        if trusted is None:
            return None
        keys = trusted.keys
        return {
            "kids": sorted(keys.keys),
            "threshold": keys.threshold,
            "revoked": sorted(keys.revoked),
            "fault": self.fault,
        }
