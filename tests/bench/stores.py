"""What a shared store costs: PostgreSQL against SQLite, ratios within one run, because machines are shared and noisy.

`Authorize` under load as in `run.py` (16 connections, 64 callers, sixteen sessions), and one caller alone, who waits for
each round; with one decision point on SQLite, one on PostgreSQL on the same machine, and two that share it, half of the
load each, on the same sessions and on sessions of their own. Taken in turns, medians of all.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import run
from rich.console import Console
from rich.table import Table

import bank
from postgres import running

CALLS, TURNS = 3000, 3
console = Console()


def both(addresses: list[str], instances: list[list[str]], calls: int, callers: int) -> dict[str, float]:
    """Put `calls` on each address at once; gives all calls a second, and the worse latencies."""
    run.CALLERS = callers
    run.CONNECTIONS = min(16, callers)
    with ThreadPoolExecutor(len(addresses)) as pool:
        data = [[run.request(name) for name in names] for names in instances]
        got = list(
            pool.map(lambda pair: run.load(pair[0], "Authorize", pair[1], calls), zip(addresses, data, strict=True))
        )
    return {
        "rps": sum(each["rps"] for each in got),
        "p50": max(each["p50"] for each in got),
        "p99": max(each["p99"] for each in got),
    }


@contextlib.contextmanager
def shared(folder: Path) -> Iterator[list[str]]:
    """Two decision points on one database."""
    with running(folder / "seed") as server:
        file = folder / "url"
        file.write_text(server.url(server.make(), query="?sslmode=disable"))
        with (
            run.decision_point(1, f"--database={file}") as one,
            run.decision_point(1, f"--database={file}", opens=False) as other,
        ):
            yield [one, other]


def main(calls: int) -> None:
    bank.archive = functools.cache(bank.archive)  # of two bundles with one number, a shared store takes one alone
    names = [f"i{number}" for number in range(run.SESSIONS)]
    halves = [names[: len(names) // 2], names[len(names) // 2 :]]
    with (
        tempfile.TemporaryDirectory(prefix="ex-") as folder,
        shared(Path(folder)) as pair,
        run.decision_point(1) as alone,
    ):
        ways = {
            "SQLite": ([alone], [names]),
            "PostgreSQL": (pair[:1], [names]),
            "PostgreSQL, two, sessions of their own": (pair, halves),
            "PostgreSQL, two, the same sessions": (pair, [names, names]),
        }
        got: dict[tuple[str, int], list[dict[str, float]]] = {}
        for turn in range(TURNS + 1):
            for name, (addresses, instances) in ways.items():
                for callers in (64, 1):
                    per = max(64, calls // len(addresses) // (1 if callers > 1 else 10))
                    result = both(addresses, instances, per, max(1, callers // len(addresses)))
                    if turn:  # the first is for warming up
                        got.setdefault((name, callers), []).append(result)
    table = Table(title="the store: Authorize, records durable")
    for column in ("", "callers", "decisions/s", "p50 ms", "p99 ms", "of SQLite"):
        table.add_column(column, justify="left" if not column else "right")
    for (name, callers), results in got.items():
        median = {key: statistics.median(each[key] for each in results) for key in ("rps", "p50", "p99")}
        base = statistics.median(each["rps"] for each in got["SQLite", callers])
        cells = (f"{median['rps']:,.0f}", f"{median['p50']:.2f}", f"{median['p99']:.2f}", f"{median['rps'] / base:.2f}")
        table.add_row(name, str(callers), *cells)
    console.print(table)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else CALLS)
