"""The work of `exequatur policy check`: say all that is wrong with a folder of policy.

Rules: exit code 1 if there is an error, with `--strict` also for a warning; a folder is read, never run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from exequatur.cli.console import Exit, emit, errors
from exequatur.cli.policy_opening import faults, sources
from pdp.bundle.build import find_opa
from pdp.policy.check.findings import Finding
from pdp.policy.check.whole import check

_STYLES: Final = {"error": "bold red", "warning": "bold yellow"}
_SHOWN: Final = 500
"""So many characters of a line are enough for any terminal."""


def run(folder: Path, *, strict: bool, as_json: bool) -> None:
    """Check a folder."""
    with faults():
        files = sources(folder)
        with errors.status("checking"):
            found = check(files, find_opa(os.environ))
    wrong = sum(each.severity == "error" for each in found)
    value = {
        "files": len(files),
        "errors": wrong,
        "warnings": len(found) - wrong,
        "findings": [asdict(f) for f in found],
    }
    emit(value, as_json=as_json, render=lambda: _picture(folder, files, found))
    raise typer.Exit(Exit.NO if wrong or (strict and found) else Exit.OK)


def _picture(folder: Path, files: Mapping[str, bytes], found: Sequence[Finding]) -> RenderableType:
    return Group(*(part for each in found for part in _finding(folder, files, each)), _summary(files, found))


def _finding(folder: Path, files: Mapping[str, bytes], each: Finding) -> Iterator[RenderableType]:
    """What and where, the line itself, and what to do."""
    style = _STYLES[each.severity]
    place = (f"{folder / each.file}:{each.line}", "cyan")
    yield Text.assemble((f"{each.severity} {each.code}", style), "  ", place, overflow="fold")
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(width=6, justify="right", no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    table.add_row("", Text(each.text, style="bold"))
    if line := _line(files, each):
        table.add_row(Text(f"{each.line} │", style="dim"), Text(line, style="dim", overflow="ellipsis", no_wrap=True))
    table.add_row(Text("why", style="yellow"), each.why)
    table.add_row(Text("fix", style="green"), each.fix)
    yield table
    yield Text()


def _line(files: Mapping[str, bytes], each: Finding) -> str:
    """Give the line itself, as far as a terminal may see it and has room for it."""
    lines = files.get(each.file, b"").decode("utf-8", "replace").splitlines()
    text = lines[each.line - 1].strip()[:_SHOWN] if each.line <= len(lines) else ""
    return "".join(c if c.isprintable() else "·" for c in text)


def _summary(files: Mapping[str, bytes], found: Sequence[Finding]) -> Text:
    wrong = sum(each.severity == "error" for each in found)
    warned = len(found) - wrong
    if not found:
        return Text.assemble(
            ("✓ ", "green"), ("nothing found", "bold"), (f"  ·  {_count(len(files), 'file')} read", "dim")
        )
    counts = ", ".join(_count(n, name) for n, name in ((wrong, "error"), (warned, "warning")) if n)
    mark, style = ("✗ ", "red") if wrong else ("! ", "yellow")
    codes = " ".join(sorted({each.code for each in found}))
    return Text.assemble(
        (mark, style),
        (counts, "bold"),
        (f" in {_count(len({each.file for each in found}), 'file')}  ·  {codes}", "dim"),
    )


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'s' * (number != 1)}"
