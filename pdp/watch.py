"""One tenant's policy: its source and its keys are watched, and how far it is trusted follows from both.

Rules: no worker serves a bundle that was not proved under keys that still hold when it comes into force, and above the
floor. Keys are looked at beside everything else: a proof that takes a minute delays no revocation. Keys that are broken
keep the bundle in force and let nothing new in. A source that is away changes nothing but how fresh the policy is; a
copy that we kept is no faster way in than a source.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from exequatur.key_folder import KeyFolder
from exequatur.trust.bundle import Floor
from exequatur.trust.errors import (
    EquivocationError,
    ExpiredError,
    FormatError,
    NotYetValidError,
    SignatureError,
    TrustError,
)
from pdp.activation import ACTIVE, Order, Refused
from pdp.bundle.source import Found, Source, open_bundle, read_archive_file
from pdp.candidate import Candidate
from pdp.control.store import FloorError, OlderError, StoreError
from pdp.placing import Trusted
from pdp.settings import REMOTE, Feed
from pdp.slot import Held, Shared, Slot
from pdp.status import rfc3339

log = logging.getLogger(__name__)

LOOK_S: Final = 0.5
"""How often a source is looked at, in seconds; how often a server is asked is the settings' to say."""

KEYS_S: Final = 0.25
"""How often keys are looked at, in seconds."""

_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
_STRANGE: Final = (SignatureError, FormatError, EquivocationError)


class Watch:
    """What one tenant is served, and why."""

    def __init__(
        self,
        feed: Feed,
        source: Source,
        keys: KeyFolder[Trusted] | None,
        shared: Shared,
        candidate: Candidate | None,
        *,
        confirmed_at: datetime | None = None,
    ) -> None:
        """Serve `feed` from `source` by `keys`, None where nobody signs; `confirmed_at` is from a life before.

        Raises `StoreError`.
        """
        self.tenant, self.feed, self.candidate = feed.tenant, feed, candidate
        self.looked = asyncio.Event()
        """Set once the first look is over, whatever it gave."""
        self.held: Held | None = None
        """What is in force."""
        self.withdrawn = ""
        """Why it is not trusted any more."""
        self._lost = ""
        self._shared, self._keys = shared, keys
        self._floor = shared.store.floor(feed.tenant)  # as it was read last: a database that hangs keeps nobody waiting
        self._slot = Slot(feed, ACTIVE, source, shared)
        self._confirmed, self._heard = confirmed_at, confirmed_at
        self._stood: datetime | None = None
        self._told = ("", "")  # what was logged of the policy: its state, and why it is withdrawn
        self._renewed = False
        self._ends: datetime | None = None  # of what is in force, by keys that the workers have not heard of
        self._kept_tried = self._kept_coming = False
        self._woken, self._turn = asyncio.Event(), asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None
        shared.crew.add(feed.tenant, self._raise_floor)

    @property
    def used(self) -> set[str]:
        """The digests, in hex, of the bundles whose copies must stay."""
        floor = self._floor
        slots = [self._slot] if self.candidate is None else [self._slot, self.candidate.slot]
        return {slot.wanted for slot in slots} | ({floor.digest.hex()} if floor else set())

    async def run(self) -> None:
        """Watch until cancelled."""
        sources = [self._slot.source] if self.candidate is None else [self._slot.source, self.candidate.slot.source]
        asked = [asyncio.Event() for _ in sources]
        tasks = [self._watch_state(), *(self._ask(*pair) for pair in zip(sources, asked, strict=True))]
        tasks += [] if self._keys is None else [self._watch_keys(self._keys)]
        tasks += [] if self.candidate is None else [self._watch_candidate(self.candidate)]
        running = [asyncio.create_task(task) for task in tasks]
        try:
            while True:
                was_asked = asked[0].is_set()
                await self._guarded()
                if was_asked and not self.looked.is_set():
                    self.looked.set()
                self._woken.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), LOOK_S)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def refresh(self) -> None:
        """Ask the sources now; returns when what they answered is in force or refused. Who asks meanwhile, waits."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh())
        await asyncio.shield(self._refreshing)

    def halted(self, digest: str, reason: str) -> None:
        """Hear that a candidate halted by itself in some worker."""
        if self.candidate is not None:
            self.candidate.halt(digest, reason)

    def distrust(self, reason: str) -> None:
        """Trust nothing any more, whatever is found, until we are started again."""
        self._lost = self._lost or reason
        self._withdraw(reason)

    async def _refresh(self) -> None:
        await self._slot.source.refresh()
        if self.candidate is not None:
            await self.candidate.slot.source.refresh()
            self.candidate.due = True
        await self._guarded()
        if self.candidate is not None:
            await self._try(self.candidate)

    async def _ask(self, source: Source, asked: asyncio.Event) -> None:
        """Have a source ask its server for as long as we watch."""
        while True:
            try:
                await source.refresh()
                asked.set()
                self._woken.set()
                await source.run()
            except Exception:
                log.exception("asking for the bundles of `%s` failed", self.tenant)
                asked.set()
                await asyncio.sleep(LOOK_S)
            else:
                return

    async def _watch_keys(self, keys: KeyFolder[Trusted]) -> None:
        """See when keys change: what they do not vouch for any more is withdrawn, whatever else goes on."""
        judged = True
        while True:
            try:
                seen = await asyncio.to_thread(keys.look)
                # Until that was done, and not only tried: what breaks here must leave no revocation unheard.
                judged = judged and not seen.changed and not self._is_over
                about = f"the keys of tenant `{self.tenant}` in `{keys.path}` are as they were"
                self._shared.alarm.stand(about, f"{about}: {keys.fault}" if keys.fault else "")
                if seen.changed:
                    log.info("the keys of `%s` have changed", self.tenant)
                if not judged:
                    await self._judge_again(seen.keys)
                    if seen.keys.has_policy:
                        await asyncio.to_thread(self._shared.store.note_key_policy, self.tenant)
                    judged = True
                    if self.candidate is not None:
                        self.candidate.due = True
                    self._woken.set()
            except Exception:
                log.exception("the keys of `%s` could not be looked at", self.tenant)
            await asyncio.sleep(KEYS_S)

    async def _watch_state(self) -> None:
        """See what becomes of the policy, beside everything else: time alone makes it stale, also during a proof."""
        while True:
            self._tell()
            await asyncio.sleep(LOOK_S)

    async def _watch_candidate(self, candidate: Candidate) -> None:
        """See what may be tried, beside everything else: what is tried never delays what is served."""
        while True:
            await self._try(candidate)
            await asyncio.sleep(LOOK_S)

    async def _try(self, candidate: Candidate) -> None:
        if self._fault:
            return
        try:
            floor = await asyncio.to_thread(self._shared.store.floor, self.tenant)
            await candidate.turn(self._trusted(), floor, self.held)
        except StoreError as error:
            candidate.slot.say(f"no candidate can be tried: {error}")
        except Exception:
            log.exception("looking for a candidate of `%s` failed", self.tenant)

    async def _judge_again(self, trusted: Trusted) -> None:
        """Verify what is in force by the keys as they are now."""
        held, reason, now = self.held, "", datetime.now(UTC)
        self._ends = None
        if held is None or not held.bundle.signed:
            return
        try:
            again = await asyncio.to_thread(open_bundle, held.data, trusted.keys, now=now, tenant=self.tenant)
            if again.expires_at != held.bundle.expires_at:
                self._renewed, self._ends = True, again.expires_at
        except NotYetValidError:
            pass
        except ExpiredError as error:
            reason = "" if now >= held.bundle.expires_at else str(error)
        except TrustError as error:
            reason = str(error)
        if self.held is held or (self.held is not None and self.held.digest == held.digest):
            self._withdraw(reason)

    def _withdraw(self, reason: str) -> None:
        reason = self._lost or reason
        if reason == self.withdrawn:
            return
        self.withdrawn = reason
        self._tell()
        self._stand()
        self._shared.metrics.stands(self.tenant, self.state(datetime.now(UTC)))

    async def _guarded(self) -> None:
        """Take one turn; what fails in it is this tenant's trouble, and not the others'."""
        async with self._turn:
            try:
                await self._look()
                self._slot.turned()
            except StoreError as error:
                self._slot.say(f"no new bundle can be served: {error}")
            except Exception:
                log.exception("looking for a bundle of `%s` failed", self.tenant)

    async def _look(self) -> None:
        trusted, now = self._trusted(), datetime.now(UTC)
        if self._renewed and not self._fault:
            await self._renew(trusted, now)
        floor = await self._read_floor()
        if self.held is None and self.feed.bundle.startswith(REMOTE):
            await self._bring_kept(trusted, now, floor)
        look = await self._slot.look(trusted, now, floor, "" if self.held is None else self.held.digest)
        if look.confirmed_at is not None:
            if look.confirmed_at != self._heard:
                self._heard = self._confirmed = look.confirmed_at
            # A clock that was ahead and is not any more must not make one answer new for as long as it was ahead.
            self._confirmed = min(self._confirmed or now, now)
            self._shared.metrics.confirmed(self.tenant, self._confirmed)
        self._stand()
        if look.found is not None and not self._fault:
            await self._bring(look.found, trusted, now, floor)
        if self.held is None:
            await self._bring_kept(trusted, now, floor)

    async def _read_floor(self) -> Floor | None:
        """Read the floor, and raise it again in a store that has forgotten it. Raises `StoreError`."""
        store, held = self._shared.store, self.held
        floor = await asyncio.to_thread(store.floor, self.tenant)
        if held is not None and held.bundle.signed and (floor is None or floor.sequence < held.order.sequence):
            self._shared.alarm(
                f"tenant `{self.tenant}`: the store did not know that sequence {held.order.sequence} was served: it "
                "was put back from a copy, and budgets may be as they were then"
            )
            floor = Floor(held.order.sequence, held.bundle.digest)
            with contextlib.suppress(FloorError):  # somebody else was quicker
                await asyncio.to_thread(store.raise_floor, self.tenant, floor)
        self._floor = floor
        return floor

    async def _bring(self, found: Found, trusted: Trusted | None, now: datetime, floor: Floor | None) -> None:
        held = await self._slot.bring(found, trusted, now, floor)
        if held is not None:
            self._shared.metrics.activated(self.tenant, held.order.sequence, held.bundle.expires_at)
            # Only now: what was served before it must not be trusted again for a moment.
            if trusted is self._trusted():
                self._renewed = False
                self._withdraw("")

    async def _renew(self, trusted: Trusted | None, now: datetime) -> None:
        """Have the workers load what is in force by the keys as they are now, by which it lives longer or less long."""
        if self.held is None or trusted is None or self.withdrawn:
            self._renewed = False
            return
        try:
            bundle = await asyncio.to_thread(open_bundle, self.held.data, trusted.keys, now=now, tenant=self.tenant)
        except TrustError:
            await self._judge_again(trusted)
            return
        held = await self._slot.again(self.held, replace(bundle, files={}), trusted, now)
        if held is not None:
            self._renewed = trusted is not self._trusted()
            self._shared.metrics.activated(self.tenant, held.order.sequence, held.bundle.expires_at)

    async def _bring_kept(self, trusted: Trusted | None, now: datetime, floor: Floor | None) -> None:
        """Serve the copy of what was served last, once, proved anew like anything that is found."""
        if self._kept_tried or floor is None or self._fault:
            return
        self._kept_tried = True
        path = self._shared.placing.kept(floor.digest)
        if not path.exists():
            return
        self._kept_coming = True
        try:
            await self._prove_kept(path, trusted, now, floor)
        finally:
            self._kept_coming = False

    async def _prove_kept(self, path: Path, trusted: Trusted | None, now: datetime, floor: Floor) -> None:
        keys, origin = None if trusted is None else trusted.keys, "the kept copy"
        try:
            data = await asyncio.to_thread(read_archive_file, path)
            bundle = await asyncio.to_thread(open_bundle, data, keys, now=now, tenant=self.tenant, floor=floor)
            if bundle.digest != floor.digest:
                raise SignatureError("it is not what was served")
        except TrustError as error:
            self._slot.refuse(f"the kept copy `{path}`: {error}")
            if isinstance(error, _STRANGE):
                self._shared.alarm(f"the kept copy of what tenant `{self.tenant}` was served is another one: {error}")
            return
        self._stand()
        await self._bring(Found(origin, data, bundle), trusted, now, floor)

    def _raise_floor(self, order: Order) -> None:
        """Put an order in force, as all workers are about to; raises `Refused`."""
        coming = self._slot.coming
        if coming is None or coming.order is not order:
            raise Refused("it was given up")
        if coming.trusted is not self._trusted():
            raise Refused("the keys changed while it was prepared: it is looked at again")
        try:
            if coming.bundle.signed:
                floor = Floor(order.sequence, coming.bundle.digest)
                self._shared.store.raise_floor(self.tenant, floor)
                self._floor = floor
        except OlderError as error:  # another replica heard of the newer one first
            raise Refused(str(error)) from None
        except FloorError as error:
            self._shared.alarm(
                f"tenant `{self.tenant}`: somebody else who has this store serves another bundle: {error}"
            )
            raise Refused(str(error)) from None
        except StoreError as error:
            raise Refused(str(error)) from None
        self.held = coming
        self._shared.served.set()

    def _trusted(self) -> Trusted | None:
        return None if self._keys is None else self._keys.keys

    @property
    def _is_over(self) -> bool:
        """Whether what is in force has ended by the keys as they are now, whatever keeps the workers from knowing."""
        return self._ends is not None and datetime.now(UTC) >= self._ends

    @property
    def _fault(self) -> str:
        return "" if self._keys is None else self._keys.fault

    @property
    def _trusted_until(self) -> datetime | None:
        if not self.feed.max_staleness_s:
            return None
        return (self._confirmed or _NEVER) + timedelta(seconds=self.feed.max_staleness_s)

    def _stand(self) -> None:
        """Tell the workers how far the policy is trusted; a little later each time is told now and then."""
        until, told = self._trusted_until, self._stood
        slack = timedelta(seconds=min(5.0, self.feed.max_staleness_s / 10))
        if until is not None and told is not None and timedelta() <= until - told < slack:
            until = told
        self._stood = until
        self._shared.crew.stand(self.tenant, None if until is None else until.isoformat(), self.withdrawn)

    def state(self, now: datetime) -> str:
        """Say in a word what has become of the policy."""
        if self.held is None:
            return "none"
        if self.withdrawn:
            return "withdrawn"
        if now >= self.held.bundle.expires_at:
            return "expired"
        return "stale" if self._stood is not None and now >= self._stood else "serving"

    @property
    def _coming(self) -> str:
        """Say what is about to be served, where that is so."""
        if self._kept_coming:
            return "the copy of what was served last is being proved"
        return "a bundle was found, and is being proved" if self._slot.wanted else ""

    def _reason(self, state: str) -> str:
        heard, allowed = self._confirmed, f"`max_staleness_s` is {self.feed.max_staleness_s:g}"
        reasons = {
            "none": self.withdrawn or self._coming or next(reversed(self._slot.faults), "no bundle was found yet"),
            "withdrawn": self.withdrawn,
            "expired": "a new bundle must be published",
            "stale": f"its source was {f'not heard since {rfc3339(heard)}' if heard else 'never heard'}, and {allowed}",
        }
        return reasons.get(state, "")

    def _tell(self) -> None:
        """Log what has become of the policy, when that is something else than it was."""
        state = "withdrawn" if self.withdrawn else self.state(datetime.now(UTC))
        if (state, self.withdrawn) == self._told or (state == "none" and not self.looked.is_set()):
            return
        before, self._told = self._told[0], (state, self.withdrawn)
        if state != "serving":
            what = f"the policy of `{self.tenant}` is {state}" if self.held else f"`{self.tenant}` has no policy"
            log.error("%s, and every action is denied: %s", what, self._reason(state))
        elif before not in ("", "none"):
            log.info("the policy of `%s` serves again", self.tenant)

    def status(self) -> dict[str, Any]:
        """Say what is served, and why."""
        now, held, slot = datetime.now(UTC), self.held, self._slot
        state, floor = self.state(now), self._floor
        self._shared.metrics.stands(self.tenant, state)
        return {
            "tenant": self.tenant,
            "source": self.feed.shown,
            "serving": None if held is None else held.status(),
            "state": state,
            "reason": self._reason(state),
            "floor": max(self.feed.floor, 0 if floor is None else floor.sequence),
            "confirmed_at": None if self._confirmed is None else rfc3339(self._confirmed),
            "last_look_at": None if slot.looked_at is None else rfc3339(slot.looked_at),
            "faults": [*slot.faults, *(self.candidate.faults if self.candidate else ())],
            "refused": slot.refused,
            "candidate": self.candidate.status() if self.candidate else None,
            "keys": self._keys_status(),
            "workers": self._shared.crew.serving(self.tenant),
        }

    def _keys_status(self) -> dict[str, Any] | None:
        trusted = self._trusted()
        if trusted is None:
            return None
        keys = trusted.keys
        return {
            "kids": sorted(keys.keys),
            "threshold": keys.threshold,
            "revoked": sorted(keys.revoked),
            "fault": self._fault,
        }
