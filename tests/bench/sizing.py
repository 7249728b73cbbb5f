"""What to give the daemons: memory, processor time an action or a record, bytes a record.

Everything is real processes over mutual TLS, with durable records, on one machine with its caller: so what counts is
the processor time of each daemon, not how many actions a second the caller got.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

import bank
from exequatur.client import AsyncClient, LedgerClient
from exequatur.record import encode
from stack import OPENER, PDP, Process, Stack, http_get, until

SHAPES = ((10, 1), (1000, 1), (10_000, 1), (1000, 2))
"""How many policies, and how many workers."""
CALLERS, BATCH = 32, 500
console = Console()


def tree(process: Process) -> Iterator[int]:
    """Give a daemon's processes."""
    assert process.popen is not None
    yield process.popen.pid
    yield from process.children()


def resident(process: Process) -> float:
    """Give what a daemon holds, in MiB: all that is its own, and once what its processes have mapped from files."""
    own, mapped = 0, 0
    for pid in tree(process):
        lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
        sizes = {line[0]: int(line[1]) for line in lines}
        own += sizes["Anonymous:"]
        mapped = max(mapped, sizes["Rss:"] - sizes["Anonymous:"])
    return (own + mapped) / 1024


def begin(process: Process) -> None:
    """Start a daemon, however long that takes on a machine that others use."""
    process.spawn()
    until(lambda: http_get(process.http, "/readyz")[0] == 200, 300, process.name)


def busy_s(process: Process) -> float:
    """Give the processor time that a daemon has taken."""
    ticks = 0
    for pid in tree(process):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def used(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


async def act(stack: Stack, session: str, calls: int) -> None:
    """Have `calls` actions decided through the sidecar's socket."""
    async with AsyncClient(f"unix:{stack.socket}", timeout_s=30) as agent:

        async def caller() -> None:
            for _ in range(calls // CALLERS):
                decision = await agent.authorize("bank/look", {"account": "7"}, session=session)
                assert decision.allowed, decision

        await asyncio.gather(*(caller() for _ in range(CALLERS)))


def open_session(stack: Stack) -> str:
    with stack.client(OPENER) as client:
        return client.open_session(
            "teller",
            bank.SIDECAR,
            lifetime=dt.timedelta(hours=1),
            scope=["*"],
            max_steps=10**7,
            budget_microusd=10**12,
        ).id


def together(calls: int) -> None:
    """Measure memory by the number of policies, at rest and after `calls` actions, and what their records take."""
    table = Table(
        title=f"MiB at rest, after {calls} actions, at most while policy changes; ms of a processor an action"
    )
    columns = ("decision point", "after", "ms", "ledger", "after", "ms", "sidecar", "after", "ms", "change")
    for column in ("policies", "workers", *columns):
        table.add_column(column, justify="right")
    for policies, workers in SHAPES:
        with tempfile.TemporaryDirectory(prefix="ex-") as name:
            stack = Stack(Path(name), workers=workers, engine="rego")
            bank.put(stack.folder, sequence=2, policies=policies)
            daemons = (stack.pdp, stack.ledger, stack.sidecar)
            try:
                for process in reversed(daemons[:2]):
                    begin(process)
                begin(stack.sidecar)
                session = open_session(stack)
                rest = [(resident(process), busy_s(process)) for process in daemons]
                asyncio.run(act(stack, session, calls))
                loaded = [(resident(process), busy_s(process)) for process in daemons]
                most = changing(stack, policies)
            finally:
                stack.stop()
            row = [
                cell
                for (size, begun), (after, ended) in zip(rest, loaded, strict=True)
                for cell in (f"{size:.0f}", f"{after:.0f}", f"{(ended - begun) / calls * 1000:.2f}")
            ]
            table.add_row(f"{policies:,}", str(workers), *row, f"{most:.0f}")
            records = int((stack.log_folder / "checkpoint").read_text().splitlines()[1])
            console.print(f"{records} records in the log: {used(stack.log_folder) / records:.0f} bytes each on disk")
    console.print(table)


def changing(stack: Stack, policies: int) -> float:
    """Bring another bundle into force; gives what the decision point held at most meanwhile, in MiB."""
    bank.put(stack.folder, sequence=3, policies=policies)
    most = 0.0
    while 'exequatur_bundle_sequence{tenant="default"} 3.0' not in http_get(stack.pdp.http, "/metrics")[1]:
        with contextlib.suppress(OSError):  # a process that has ended meanwhile
            most = max(most, resident(stack.pdp))
    return most


def appends(count: int, size: int) -> None:
    """Measure what the ledger takes for records of about `size` bytes, from one caller and from eight."""
    with tempfile.TemporaryDirectory(prefix="ex-") as name:
        stack = Stack(Path(name), engine="rego")
        begin(stack.ledger)
        try:
            for callers in (1, 8):
                before, begun = busy_s(stack.ledger), time.monotonic()
                asyncio.run(_append(stack, callers, count, size))
                took, busy = time.monotonic() - begun, busy_s(stack.ledger) - before
                console.print(
                    f"ledger, {callers} callers: {count / took:,.0f} records a second of the clock,"
                    f" {count / busy:,.0f} of a processor, {resident(stack.ledger):.0f} MiB"
                )
            console.print(f"{used(stack.log_folder) / (2 * count):.0f} bytes on disk for a record of {size}")
        finally:
            stack.ledger.stop()


async def _append(stack: Stack, callers: int, count: int, size: int) -> None:
    tls = stack.tls(PDP)

    async def caller(number: int) -> None:
        writer, next_number = f"{PDP}#bench-{callers}-{number}", 1
        client = LedgerClient(stack.ledger_target, tls=tls, timeout_s=60)
        text = {"kind": "decision", "time": "2026-01-01T00:00:00.000000Z", "text": "x" * (size - 150)}
        for _ in range(count // BATCH // callers):
            batch = [encode(text, writer=writer, number=next_number + n) for n in range(BATCH)]
            answer = await client.append(writer, next_number, batch, 0)
            next_number = answer.acknowledged + 1
        await client.close()

    await asyncio.gather(*(caller(number) for number in range(callers)))


if __name__ == "__main__":
    console.print(json.dumps({"processors": os.cpu_count(), "load": os.getloadavg()}))
    together(int(sys.argv[1]) if len(sys.argv) > 1 else 6400)
    appends(40_000, 1000)
