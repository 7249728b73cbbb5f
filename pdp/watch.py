"""One tenant's watch: its source, its keys and its candidate are looked at, each at its own pace.

Rules: no worker serves a bundle that was not proved under keys that still hold when it comes into force. Keys are
looked at beside everything else: a proof that takes a minute delays no revocation. A copy that we kept is no faster way
in than a source. What follows from all of it for the policy is `in_force.py`'s to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from exequatur.key_folder import KeyFolder
from exequatur.trust.bundle import Floor
from exequatur.trust.errors import EquivocationError, FormatError, SignatureError, TrustError
from pdp.activation import ACTIVE
from pdp.bundle.source import Found, Source, open_bundle, read_archive_file
from pdp.candidate import Candidate
from pdp.control.store import StoreError
from pdp.in_force import InForce
from pdp.placing import Trusted
from pdp.settings import REMOTE, Feed
from pdp.slot import Shared, Slot
from pdp.status import rfc3339

log = logging.getLogger(__name__)

LOOK_S: Final = 0.5
"""How often a source is looked at, in seconds; how often a server is asked is the settings' to say."""

KEYS_S: Final = 0.25
"""How often keys are looked at, in seconds."""

_STRANGE: Final = (SignatureError, FormatError, EquivocationError)


class Watch:
    """What looks for one tenant's policy, and what it found."""

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
        self.policy = InForce(feed, keys, shared, self._missing, confirmed_at=confirmed_at)
        self._shared, self._keys = shared, keys
        self._slot = Slot(feed, ACTIVE, source, shared)
        self._kept_tried = self._kept_coming = False
        self._woken, self._turn = asyncio.Event(), asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None
        shared.crew.add(feed.tenant, lambda order: self.policy.put(order, self._slot.coming))

    @property
    def used(self) -> set[str]:
        """The digests, in hex, of the bundles whose copies must stay."""
        floor = self.policy.floor
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
        looked = self.policy.looked
        try:
            while True:
                was_asked = asked[0].is_set()
                await self._guarded()
                if was_asked and not looked.is_set():
                    looked.set()
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

    def status(self) -> dict[str, Any]:
        """Say what is served, and why."""
        slot = self._slot
        return {
            "tenant": self.tenant,
            "source": self.feed.shown,
            **self.policy.status(),
            "last_look_at": None if slot.looked_at is None else rfc3339(slot.looked_at),
            "faults": [*slot.faults, *(self.candidate.faults if self.candidate else ())],
            "refused": slot.refused,
            "candidate": self.candidate.status() if self.candidate else None,
            "workers": self._shared.crew.serving(self.tenant),
        }

    def _missing(self) -> str:
        """Say why there is no policy."""
        if self._kept_coming:
            return "the copy of what was served last is being proved"
        if self._slot.wanted:
            return "a bundle was found, and is being proved"
        return next(reversed(self._slot.faults), "no bundle was found yet")

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
                judged = judged and not seen.changed and not self.policy.is_over
                about = f"the keys of tenant `{self.tenant}` in `{keys.path}` are as they were"
                self._shared.alarm.stand(about, f"{about}: {keys.fault}" if keys.fault else "")
                if seen.changed:
                    log.info("the keys of `%s` have changed", self.tenant)
                if not judged:
                    await self.policy.judge_again(seen.keys)
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
            self.policy.tell()
            await asyncio.sleep(LOOK_S)

    async def _watch_candidate(self, candidate: Candidate) -> None:
        """See what may be tried, beside everything else: what is tried never delays what is served."""
        while True:
            await self._try(candidate)
            await asyncio.sleep(LOOK_S)

    async def _try(self, candidate: Candidate) -> None:
        if self.policy.fault:
            return
        try:
            floor = await asyncio.to_thread(self._shared.store.floor, self.tenant)
            await candidate.turn(self.policy.trusted, floor, self.policy.held)
        except StoreError as error:
            candidate.slot.say(f"no candidate can be tried: {error}")
        except Exception:
            log.exception("looking for a candidate of `%s` failed", self.tenant)

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
        policy, now = self.policy, datetime.now(UTC)
        trusted = policy.trusted
        if policy.renewed and not policy.fault:
            await self._renew(trusted, now)
        floor = await policy.read_floor()
        if policy.held is None and self.feed.bundle.startswith(REMOTE):
            await self._bring_kept(trusted, now, floor)
        look = await self._slot.look(trusted, now, floor, "" if policy.held is None else policy.held.digest)
        if look.confirmed_at is not None:
            policy.hear(look.confirmed_at, now)
        policy.stand()
        if look.found is not None and not policy.fault:
            await self._bring(look.found, trusted, now, floor)
        if policy.held is None:
            await self._bring_kept(trusted, now, floor)

    async def _bring(self, found: Found, trusted: Trusted | None, now: datetime, floor: Floor | None) -> None:
        held = await self._slot.bring(found, trusted, now, floor)
        if held is not None:
            self._shared.metrics.activated(self.tenant, held.order.sequence, held.bundle.expires_at)
            # Only now: what was served before it must not be trusted again for a moment.
            if trusted is self.policy.trusted:
                self.policy.renewed = False
                self.policy.withdraw("")

    async def _renew(self, trusted: Trusted | None, now: datetime) -> None:
        """Have the workers load what is in force by the keys as they are now, by which it lives longer or less long."""
        policy, held = self.policy, self.policy.held
        if held is None or trusted is None or policy.withdrawn:
            policy.renewed = False
            return
        try:
            bundle = await asyncio.to_thread(open_bundle, held.data, trusted.keys, now=now, tenant=self.tenant)
        except TrustError:
            await policy.judge_again(trusted)
            return
        held = await self._slot.again(held, replace(bundle, files={}), trusted, now)
        if held is not None:
            policy.renewed = trusted is not policy.trusted
            self._shared.metrics.activated(self.tenant, held.order.sequence, held.bundle.expires_at)

    async def _bring_kept(self, trusted: Trusted | None, now: datetime, floor: Floor | None) -> None:
        """Serve the copy of what was served last, once, proved anew like anything that is found."""
        if self._kept_tried or floor is None or self.policy.fault:
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
        self.policy.stand()
        await self._bring(Found(origin, data, bundle), trusted, now, floor)
