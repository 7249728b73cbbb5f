"""A conveyor on a real store and a real spool, with a clock that the test sets."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exequatur.spool import Spool
from judging import ENFORCER, HOUR, snapshot
from pdp.control.opening import open_store
from pdp.control.sessions import Report, Wish
from pdp.control.store import Store
from pdp.engine.snapshot import Snapshot
from pdp.metrics import Metrics
from pdp.model import Intent, Session
from pdp.policies import Policies, Standing
from pdp.requests import Ask, Close, Open, Settle, Show
from pdp.rounds import Rules
from pdp.worker import Acknowledged, Conveyor
from policies import NOW

OPENER = "spiffe://example.com/orchestrator"

shared: Path | None = None
"""The file with the address of a database that all desks of a test share; unset, each folder has a store of its own."""


@dataclass
class Clock:
    """The wall clock, as the test says."""

    now: dt.datetime = NOW

    def __call__(self) -> dt.datetime:
        return self.now


@dataclass
class Desk:
    """A running conveyor and what it stands on."""

    conveyor: Conveyor
    store: Store
    spool: Spool
    clock: Clock
    metrics: Metrics

    async def ask(self, *items: Any, enforcer: str = ENFORCER, left: float | None = None) -> tuple[Any, ...]:
        """Ask about actions; answers in order."""
        return await self.conveyor.submit(Ask(items, enforcer), left)

    async def open(self, **changes: Any) -> Session:
        """Open a session of `coder`."""
        return await self.conveyor.submit(Open(wish(**changes), OPENER))

    async def close(self, session: str, tenant: str = "default") -> Session:
        """Close a session."""
        return await self.conveyor.submit(Close(tenant, session, OPENER))

    async def show(self, session: str = "", caller: str = ENFORCER, sees_all: bool = False) -> Any:
        """Show a session."""
        return await self.conveyor.submit(Show("default", session, "coder", "i1", caller, sees_all))

    async def settle(
        self, decision: str, report: Report = Report.EXECUTED, cost: int | None = None, enforcer: str = ENFORCER
    ) -> int:
        """Settle a decision."""
        return await self.conveyor.submit(Settle("default", decision, enforcer, report, cost))

    def records(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Read what is on record: of one kind, or all of it but for what came into force."""
        found = [json.loads(data) for data in self.spool.read(1, 1_000_000, 2**30)]
        if kind is None:
            return [record for record in found if record["kind"] != "bundle"]
        return [record for record in found if record["kind"] == kind]

    def stored(self, session: str) -> Session:
        """Read a session as the store has it."""
        with self.store.reading() as view:
            return view.sessions([session])[session]


def wish(**changes: Any) -> Wish:
    """Give the wish for a session of `coder`."""
    fields: dict[str, Any] = {
        "tenant": "default",
        "agent": "coder",
        "instance": "i1",
        "enforcer": ENFORCER,
        "lifetime": HOUR,
        "max_steps": 100,
        "budget_microusd": 10_000,
        "subject": "anna@example.com",
        "intent": Intent("fix-issue", "T-1", ("code",)),
        "scope": ("git/*",),
        **changes,
    }
    return Wish(**fields)


@contextlib.asynccontextmanager
async def desk(
    folder: Path,
    policy: Snapshot | None = None,
    *,
    policies: Policies | None = None,
    rules: Rules | None = None,
    database: Path | None = None,
    name: str = "spool",
    journal: Any = None,
    clock: Clock | None = None,
    halted: Callable[[str, bytes, str], None] = lambda *_: None,
    acknowledged: Acknowledged | None = None,
) -> AsyncIterator[Desk]:
    """Run a conveyor in `folder` while the context lasts."""
    clock = clock or Clock()
    database = database or shared
    store, spool, metrics = open_store(folder, database), Spool.open(folder / name, identity="test"), Metrics()
    looking = open_store(folder, database)  # one that the conveyor never holds up
    conveyor = Conveyor(
        store,
        journal(spool) if journal else spool,
        Policies({"default": Standing(policy or snapshot())}) if policies is None else policies,
        rules or Rules(),
        metrics,
        clock=clock,
        halted=halted,
        acknowledged=acknowledged,
    )
    conveyor.start()
    try:
        yield Desk(conveyor, looking, spool, clock, metrics)
    finally:
        await conveyor.stop()
        store.close()
        looking.close()
        spool.close()


def fates(parts: Any, *decisions: str) -> list[Any]:
    """Say what became of reservations; None where there is none."""
    with parts.store.reading() as view:
        held = view.reservations(decisions)
    return [held[name].fate if name in held else None for name in decisions]
