"""A supervisor whose workers live in this process: they read the real orders, and judge nobody.

What is proved is only verified here, without a child; looks come every few milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from exequatur.daemon import Ready
from pdp import candidate, crew, placing, supervisor, watch
from pdp.bundle.proving import Proven
from pdp.bundle.source import open_bundle
from pdp.control.opening import open_store
from pdp.metrics import BundleMetrics
from pdp.orders import Orders
from pdp.policies import Standing
from pdp.settings import PdpSettings
from pdp.status import read
from pdp.supervisor import FIRST, Supervisor
from pdp.told import Told
from policies import AGENTS, TOOLS, as_json, manifest
from publisher import KID, pair, publish

FILES = {
    "exequatur.json": manifest(("cedar", "decide")),
    "tools.json": as_json({"tools": TOOLS}),
    "agents.json": as_json({"agents": AGENTS}),
    "all.cedar": b'@id("all")\n@reason("everything is fine")\npermit (principal, action, resource);\n',
}


class LocalWorker:
    """One worker, over all its lives, as `pdp.crew.Worker`."""

    made: list[LocalWorker] = []  # noqa: RUF012 - emptied by each test that uses it

    def __init__(self, number: int, start: Mapping[str, Any], environ: Mapping[str, str], crew: crew.Crew) -> None:
        del environ
        self.number, self.name = number, f"worker {number}"
        self.serves: dict[tuple[str, str], str] = {}
        self.orders: Orders | None = None
        self.lives = 0
        self.deaf = False
        """Whether it leaves what it is told unread."""
        self._settings, self._crew = Told.read(start["settings"]), crew
        self._reader = asyncio.StreamReader()
        self._ended, self._stopping = asyncio.Event(), False
        self.made.append(self)

    @property
    def is_alive(self) -> bool:
        return self.orders is not None

    async def run(self) -> None:
        while not self._stopping:
            loop = asyncio.get_running_loop()
            self._reader, self._ended = asyncio.StreamReader(limit=2**22), asyncio.Event()
            self.orders = Orders(self._settings, self._reader, partial(loop.call_soon, self._say))
            self.lives += 1
            obeying = asyncio.create_task(self.orders.obey())
            self._crew.joined(self)  # type: ignore[arg-type]
            await self._ended.wait()
            obeying.cancel()
            await asyncio.gather(obeying, return_exceptions=True)
            self.orders = None
            self._crew.gone(self, 0)  # type: ignore[arg-type]

    async def stop(self, grace_s: float) -> None:
        del grace_s
        self._stopping = True
        self._ended.set()

    def kill(self) -> None:
        self._ended.set()

    async def dies(self) -> None:
        """Be killed, and begin another life."""
        lives = self.lives
        self.kill()
        await until(lambda: self.lives > lives, "another life")

    def tell(self, message: Mapping[str, Any]) -> None:
        if not self.deaf:
            self._reader.feed_data(json.dumps(message).encode() + b"\n")

    def standing(self, tenant: str = "default") -> Standing:
        """Give what it judges a tenant's callers by."""
        return Standing(None) if self.orders is None else self.orders.policies.of(tenant)

    def _say(self, message: Mapping[str, Any]) -> None:
        if self.orders is not None:
            self._crew.hear(self, json.dumps(message).encode())  # type: ignore[arg-type]


@dataclass
class House:
    """A folder with bundles and keys, and the decision point that has it."""

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    ready: Ready = field(default_factory=lambda: Ready(FIRST))
    supervisor: Supervisor | None = None
    compared: dict[str, int] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def workers(self) -> list[LocalWorker]:
        return LocalWorker.made

    def trust(self, *kids: str, folder: str = "keys", **policy: Any) -> Path:
        """Let these keys sign, and no others; with `policy`, by a `keys.json`."""
        keys = self.folder / folder
        keys.mkdir(exist_ok=True)
        for kid in kids:
            (keys / f"{kid}.pem").write_bytes(pair(kid)[1])
        if policy:
            (keys / "keys.json").write_text(json.dumps({"purpose": "bundle", **policy}))
        for path in keys.iterdir():
            if path.stem not in (*kids, "keys"):
                path.unlink()
        return keys

    def publish(self, sequence: int, *, folder: str = "bundles", days: float = 30, **options: Any) -> bytes:
        """Put a bundle where it is looked for; gives its archive."""
        bundles = self.folder / folder
        bundles.mkdir(exist_ok=True)
        files = {**FILES, **options.pop("files", {})}
        data = publish(sequence, files=files, expires_at=datetime.now(UTC) + timedelta(days=days), **options)
        half = bundles / ".half"
        half.write_bytes(data)
        half.rename(bundles / f"{sequence}.tar.gz")
        return data

    def status(self, tenant: str = "default") -> dict[str, Any]:
        """Give what the status says of a tenant."""
        found = read(self.state) if self.supervisor is None else self.supervisor.status()
        return next((item for item in found["tenants"] if item["tenant"] == tenant), {})

    def alarms(self) -> list[str]:
        return [] if self.supervisor is None else list(self.supervisor.status()["alarms"])

    def sequences(self, tenant: str = "default") -> list[int]:
        """Give the sequence that each worker serves a tenant."""
        return [worker.standing(tenant).sequence for worker in self.workers]

    @contextlib.asynccontextmanager
    async def open(self, workers: int = 2, **settings: Any) -> AsyncIterator[Supervisor]:
        """Run the supervisor while the context lasts."""
        self.state.mkdir(mode=0o700, exist_ok=True)
        LocalWorker.made.clear()
        made = PdpSettings(state=self.state, unsafe_plaintext=True, workers=workers, **{**self.settings, **settings})
        store, stop, self.ready = open_store(self.state, made.database), asyncio.Event(), Ready(FIRST)
        self.metrics = BundleMetrics([feed.tenant for feed in made.feeds])
        self.supervisor = Supervisor(
            made,
            store,
            self.ready,
            self.metrics,
            address="",
            folder=self.folder,
            gone=lambda _: None,
            trials=lambda _: dict(self.compared),
        )
        running = asyncio.create_task(self.supervisor.run(stop))
        try:
            yield self.supervisor
        finally:
            stop.set()
            await running
            self.supervisor = None
            store.close()


def served(house: House, *sequences: int, tenant: str = "default") -> Callable[[], bool]:
    """Give a condition: that the workers serve a tenant these sequences, one each."""
    return lambda: house.sequences(tenant) == [*sequences]


async def until(condition: Callable[[], object], what: str = "it", timeout_s: float = 10) -> None:
    """Wait until `condition()` holds, looking often: what is waited for happens in threads too."""
    end = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        assert asyncio.get_running_loop().time() < end, f"{what} did not happen within {timeout_s} s"
        await asyncio.sleep(0.005)


def house(folder: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    """Give a house with one trusted key, whose workers live here."""
    for module, name in ((watch, "LOOK_S"), (watch, "KEYS_S"), (candidate, "LOOK_S"), (supervisor, "KEEP_S")):
        monkeypatch.setattr(module, name, 0.02)
    monkeypatch.setattr(crew, "Worker", LocalWorker)
    monkeypatch.setattr(placing, "prove", _prove)
    made = House(folder, {"bundle": str(folder / "bundles"), "keys": folder / "keys"})
    (folder / "bundles").mkdir()
    made.trust(KID)
    return made


def _prove(data: bytes, keys: Any, *, now: datetime, tenant: str, floor: Any, opa_binary: Any) -> Proven:
    del opa_binary
    return Proven(data, open_bundle(data, keys, now=now, tenant=tenant, floor=floor), None, 1)
