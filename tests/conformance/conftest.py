"""Prints what was run at the end: for each group its cases, how many were right, refused by name, and wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Count:
    """One group of others' cases. What is neither refused nor wrong is right; `note` says what was refused, and why."""

    group: str
    cases: int
    refused: int
    wrong: int
    note: str


COUNTS = pytest.StashKey[list[Count]]()
Tally = Callable[..., None]


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Give a function that puts a group into the table: before anything is asserted of it."""
    counts = request.config.stash.setdefault(COUNTS, [])

    def put(group: str, cases: int, *, refused: int = 0, wrong: int, note: str = "") -> None:
        counts.append(Count(group, cases, refused, wrong, note))

    return put


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    counts = config.stash.get(COUNTS, [])
    if not counts:
        return
    table = Table(title="others' cases", title_justify="left")
    table.add_column("group")
    for column in ("cases", "right", "refused", "wrong"):
        table.add_column(column, justify="right")
    table.add_column("refused are")
    for one in counts:
        right = one.cases - one.refused - one.wrong
        table.add_row(one.group, *(f"{number:,}" for number in (one.cases, right, one.refused, one.wrong)), one.note)
    console = Console(width=140, no_color=True)
    with console.capture() as capture:
        console.print(table)
    terminalreporter.write(f"\n{capture.get()}")
