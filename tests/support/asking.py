"""Asking servers for bundles as the supervisor does, by a clock that only sleeping moves."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

from exequatur.trust.bundle import Floor
from pdp.bundle.https import HttpsAsker
from pdp.bundle.remote import PACE, Pace, RemoteSource
from pdp.bundle.web import WEB_LIMITS, Access
from publisher import NOW, keys
from web_servers import says, scripted

PLAIN = Access(unsafe_plaintext=True)


class Clock:
    """A clock that only sleeping moves; each sleep is noted, and ends at once."""

    def __init__(self) -> None:
        self.now, self.slept, self.hook = NOW, [], lambda: None

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds)
        self.hook()
        await asyncio.sleep(0)

    @property
    def pace(self) -> Pace:
        return Pace(lambda: self.now, self.sleep, lambda low, high: high)


class Reader:
    """What the supervisor does with one source."""

    def __init__(self, source) -> None:
        self.source, self.floor, self.serving, self.confirmed_at = source, None, None, None
        self.keys = keys()

    def look(self, now: datetime = NOW):
        look = self.source.look(self.keys, now=now, floor=self.floor, serving=self.serving or b"")
        self.confirmed_at = look.confirmed_at
        if look.found is not None:
            bundle = look.found.bundle
            self.serving, self.floor = bundle.digest, Floor(bundle.sequence, bundle.digest)
        return look

    async def ask(self, now: datetime = NOW):
        await self.source.refresh()
        return self.look(now)

    @property
    def sequence(self) -> int:
        return self.floor.sequence if self.floor else 0


def remote(url: str, *, access: Access = PLAIN, limits=WEB_LIMITS, clock: Clock | None = None, **options) -> Reader:
    pace = clock.pace if clock else replace(PACE, clock=lambda: NOW)
    return Reader(RemoteSource(HttpsAsker(f"{url}/bundle.tar.gz", access, limits), pace=pace, **options))


async def fault(url: str, **options) -> str:
    """Ask once, look twice: what is wrong is said once."""
    reader = remote(url, **options)
    (text,) = (await reader.ask()).faults
    assert reader.look().faults == ()
    prefix = f"`{url}/bundle.tar.gz`: "
    assert text.startswith(prefix)
    return text.removeprefix(prefix)


async def fault_of(reply: bytes, **options) -> str:
    """Give what is said about a server that answers so."""

    async with scripted(says(reply)) as url:
        return await fault(url, **options)
