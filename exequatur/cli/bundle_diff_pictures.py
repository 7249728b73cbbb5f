"""How the difference of two bundles looks to people. Values come in; nothing is read here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_ROWS: Final = {"wider": 40, "changed": 40, "tighter": 10, "neutral": 5}
"""Changes of each direction that are shown: those that want accepting before all."""

_SECTIONS: Final = (
    ("wider", "wider", "bold red"),
    ("changed", "may be wider: nobody can tell", "bold yellow"),
    ("tighter", "tighter", "bold green"),
    ("neutral", "neither", "bold"),
)
_MARKS: Final = {"wider": ("▲", "red"), "changed": ("?", "yellow"), "tighter": ("▼", "green"), "neutral": ("·", "dim")}


def difference(value: Mapping[str, Any]) -> RenderableType:
    """What may run now, the changes by direction, and what was looked at."""
    parts: list[RenderableType] = []
    if value["allowed"]:
        parts += [_headline(value), Text()]
    for direction, title, style in _SECTIONS:
        count = value["counts"][direction]
        changes = [each for each in value["changes"] if each["direction"] == direction]
        if count:
            parts += [Text(f"{title} ({count:,})", style=style), _table(changes, count), Text()]
    parts += [*_looked_at(value), _summary(value)]
    return Group(*parts)


def _headline(value: Mapping[str, Any]) -> Text:
    count = len(value["allowed"])
    subject = "1 action" if count == 1 else f"{count:,} actions"
    what = f"{subject} of those that were tried may run now, and might not"
    return Text.assemble(("▲ ", "bold red"), (what, "bold red"), ("  ·  marked with !", "dim"))


def _table(changes: Sequence[Mapping[str, Any]], count: int) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", ratio=2)
    table.add_column(overflow="fold", ratio=3)
    shown = changes[: _ROWS[changes[0]["direction"]]]
    for change in shown:
        mark, style = _MARKS[change["direction"]]
        name = Text(change["id"], style="bold")
        text = Text.assemble(("! ", "bold red") if change["allows"] else "", change["text"])
        if change["accepted"]:
            name, text = Text(change["id"], style="dim"), Text.assemble(("accepted  ", "green"), text)
        table.add_row(Text(mark, style=style), name, text)
    if count > len(shown):
        table.add_row("", Text(f"and {count - len(shown):,} more: see `--json`", style="dim"), "")
    return table


def _looked_at(value: Mapping[str, Any]) -> Iterator[Text]:
    parts = [] if value["cases"] is None else [f"{value['cases']:,} cases of both"]
    if value["recorded"] is not None:
        parts.append(f"{value['recorded']:,} recorded actions")
    if parts:
        yield Text(f"judged under both: {', '.join(parts)}", style="dim")
    if value["cases"] is None:
        yield Text("no file that decides is another one: cases are not judged, and nothing is probed", style="dim")
        return
    probe = value["probe"]
    if probe is None:
        yield Text("not probed", style="dim")
        return
    whole = "" if probe["tried"] == probe["planned"] else f" of {probe['planned']:,}, and the time was up"
    yield Text(
        f"a probe, no proof: {probe['tried']:,} tries{whole}  ·  {probe['met']:,} of {probe['pairs']:,} pairs of "
        f"agent and tool, {probe['asked']:,} came to a policy",
        style="dim",
    )


def _summary(value: Mapping[str, Any]) -> Text:
    wanting = value["counts"]["wider"] + value["counts"]["changed"]
    taken = wanting - value["unaccepted"]
    if value["unaccepted"]:
        said = f"{value['unaccepted']:,} to accept" if not taken else f"{value['unaccepted']:,} more to accept"
        rest = "  ·  read them, and give each to `--accept ID`"
        return Text.assemble(("✗ ", "red"), (said, "bold"), (rest, "dim"))
    if wanting:
        said = "1 change is accepted" if wanting == 1 else f"all {wanting:,} are accepted"
    else:
        said = "nothing is wider" if any(value["counts"].values()) else "they mean the same"
    return Text.assemble(("✓ ", "green"), (said, "bold"))
