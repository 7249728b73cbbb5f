"""How tried and explained policy looks to people. Values come in; nothing is read here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_TENTH: Final = 10  # of a percent: shown rounded down, so that 100 means all


def tried(value: Mapping[str, Any]) -> RenderableType:
    """The cases that did not come true, what is covered, and how many there were."""
    parts: list[RenderableType] = []
    for result in value["results"]:
        if not result["holds"]:
            parts += [_failed(result), Text()]
    if value["coverage"] is not None:
        parts += [*_coverage(value["coverage"]), Text()]
    return Group(*parts, _summary(value))


def watching(path: Path) -> RenderableType:
    """What goes on between two runs."""
    return Text(f"watching {path}; Ctrl-C ends it", style="dim")


def error(text: str) -> RenderableType:
    """What is wrong, while it goes on."""
    return Text.assemble(("error", "bold red"), f": {text}")


def _failed(result: Mapping[str, Any]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for each in result["differences"]:
        table.add_row("  " + each["member"], Text("wanted", style="green"), Text(each["wanted"], overflow="fold"))
        table.add_row("", Text("got", style="red"), Text(each["got"], overflow="fold"))
    head = Text.assemble(("✗ ", "red"), (result["name"], "bold"), (f"  {result['where']}", "dim"))
    return Group(head, table, Padding(Text(f"it was {result['got']}", style="dim"), (0, 0, 0, 2)))


def _coverage(value: Mapping[str, Any]) -> Iterator[RenderableType]:
    """A line for each file, and one for each policy in it that is not covered whole."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("policy", overflow="fold")
    table.add_column("held", justify="right", no_wrap=True)
    table.add_column("conditions", justify="right", no_wrap=True)
    table.add_column("not covered", overflow="fold", ratio=1)
    by_file: dict[str, list[Mapping[str, Any]]] = {}
    for policy in value["policies"]:
        by_file.setdefault(policy["file"], []).append(policy)
    for file, policies in by_file.items():
        held = _share(sum(policy["held"] for policy in policies), len(policies))
        whole = _share(sum(each["covered"] for each in policies), sum(each["conditions"] for each in policies))
        table.add_row(Text(file, style="bold"), held, whole, "")
        for policy in policies:
            if policy["missing"]:
                name = Text(f"  {policy['policy']}")
                table.add_row(
                    name, _mark(policy["held"]), _share(policy["covered"], policy["conditions"]), _gaps(policy)
                )
    yield table
    enough = value["enough"]
    wanted = "" if value["threshold"] is None else f"  ·  {value['threshold']:g} % wanted"
    yield Text.assemble(
        ("✓ " if enough else "✗ ", "green" if enough else "red"),
        (f"{_percent(value)} % covered", "bold"),
        (f"  ·  {value['covered']} of {value['total']} policies and conditions{wanted}", "dim"),
    )


def _gaps(policy: Mapping[str, Any]) -> Text:
    """Where something is missing, a line each."""
    lines = [
        Text.assemble((f"{gap['file']}:{gap['line']}", "cyan"), f" {gap['missing']}", (f"  {gap['text']}", "dim"))
        for gap in policy["missing"]
    ]
    return Text("\n").join(lines)


def _share(part: int, whole: int) -> Text:
    return Text(f"{part}/{whole}", style="green" if part == whole else "yellow")


def _mark(held: bool) -> Text:
    return Text("✓", style="green") if held else Text("✗", style="red")


def _percent(value: Mapping[str, Any]) -> str:
    """Give the share, rounded down: 100 means all of it."""
    return f"{1000 * value['covered'] // max(value['total'], 1) / _TENTH:g}"


def _summary(value: Mapping[str, Any]) -> Text:
    count, failed = value["cases"], value["failed"]
    took = f"  ·  {value['took_ms'] / 1000:.1f} s"
    if not count:
        return Text.assemble(("✗ ", "red"), ("no case was chosen, and none proves nothing", "bold"))
    if failed:
        return Text.assemble(("✗ ", "red"), (f"{failed} of {count} cases failed", "bold"), (took, "dim"))
    return Text.assemble(
        ("✓ ", "green"), (f"{count} cases hold" if count > 1 else "1 case holds", "bold"), (took, "dim")
    )
