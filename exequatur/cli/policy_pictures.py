"""How tried and explained policy looks to people. Values come in; nothing is read here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Group, RenderableType
from rich.json import JSON
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from exequatur.cli.console import EFFECT_STYLES

_UNASKED: Final = "no engine was asked: the action was refused before"
_ORDER: Final = ("failed", "applied", "stopped", "not asked")
_MARKS: Final = {
    "applied": ("✓", "green"),
    "stopped": ("·", "dim"),
    "failed": ("✗", "red"),
    "not asked": ("·", "dim"),
}
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
    mark, style = ("✓ ", "green") if value["enough"] else ("✗ ", "red")
    if value["threshold"] is None and value["covered"] < value["total"]:
        mark, style = "! ", "yellow"  # nobody said how much is enough
    wanted = "" if value["threshold"] is None else f"  ·  {value['threshold']:g} % wanted"
    yield Text.assemble(
        (mark, style),
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


def judged(value: Mapping[str, Any]) -> RenderableType:
    """What each engine says, what comes of it, and what they saw."""
    parts: list[RenderableType] = [_answer(value), Text()]
    if not value["asked"]:
        parts += [_reasons(value), Text(_UNASKED, style="dim")]
    for engine in value["engines"]:
        parts.append(_engine_line(engine))
        parts.append(Padding(_reasons(engine), (0, 0, 0, 2)))
    for name, document in value.get("documents", {}).items():
        parts += [Text(), Text(f"what {name} saw", style="bold"), JSON.from_data(document, ensure_ascii=False)]
    return Group(*parts)


def results(found: Sequence[Any]) -> RenderableType:
    """What a query gave: a line each."""
    if not found:
        return Text("undefined", style="yellow")
    return Group(*(JSON.from_data(each[0] if isinstance(each, list) and len(each) == 1 else each) for each in found))


def explained(value: Mapping[str, Any]) -> RenderableType:
    """A tree: the answer, each engine, each policy, and where it ended."""
    tree = Tree(_answer(value), guide_style="dim")
    if not value["asked"]:
        tree.add(_reasons(value))
        tree.add(Text(_UNASKED, style="dim"))
    for engine in value["engines"]:
        branch = tree.add(_engine_line(engine))
        for error in engine["errors"]:
            branch.add(Text(error, style="red", overflow="fold"))
        for policy in sorted(engine["policies"], key=lambda each: _ORDER.index(each["state"])):
            _policy(branch, policy)
        for what, count in sorted(engine["elsewhere"].items()):
            about = f"1 policy is about other {what}" if count == 1 else f"{count} policies are about other {what}"
            branch.add(Text(about, style="dim"))
    return tree


def _answer(value: Mapping[str, Any]) -> Text:
    effect = value["effect"]
    return Text.assemble(
        (effect.upper().replace("_", " "), f"bold {EFFECT_STYLES[effect]}"),
        (f"  {value['tool']}", "bold"),
        (f"  by {value['agent']}", "dim"),
        (f"  ·  {value['case']}  {value['where']}" if value["case"] else "", "dim"),
    )


def _engine_line(engine: Mapping[str, Any]) -> Text:
    effect = engine["effect"]
    return Text.assemble(
        (engine["engine"], "bold"),
        (f" {engine['role']}s: ", "dim"),
        (effect.replace("_", " "), EFFECT_STYLES[effect]),
    )


def _reasons(value: Mapping[str, Any]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for reason in value["reasons"]:
        table.add_row(Text(reason["policy"] or reason["kind"].replace("_", " ")), Text(reason["text"], style="dim"))
    for name in ("approvers", "obligations", "errors"):
        for each in value[name]:
            if any(reason["text"] == each for reason in value["reasons"]):
                continue  # an error that is the reason is said once
            said = f"{each['id']} {json.dumps(each['parameters'])}" if name == "obligations" else each
            table.add_row(Text(name, style="dim"), Text(said))
    return table


def _policy(branch: Tree, policy: Mapping[str, Any]) -> None:
    """One policy in one line, with where it ended if it did; below it the values there, and the rules asked there."""
    mark, style = _MARKS[policy["state"]]
    line = Text.assemble((f"{mark} ", style), (policy["policy"], "bold" if policy["state"] == "applied" else ""))
    line.append(f"  {policy['does']}" if policy["does"] else "", style="dim")
    because = policy["because"]
    if because is None:
        line.append("  not asked" if policy["state"] == "not asked" else "", style="dim")
        branch.add(line.append(f"  {policy['file']}:{policy['line']}", style="cyan"))
        return
    line.append(f"  {because['file']}:{because['line']}", style="cyan")
    node = branch.add(line.append(f"  {because['text']}").append(f"  {because['was']}", style="yellow"))
    for name, found in because["values"]:
        node.add(Text.assemble((name, ""), (" = ", "dim"), found))
    for asked in policy["asked"]:
        _policy(node, asked)
