"""How bundles look to people: tables and panels, in colour where there is any. Values come in; nothing is read here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from exequatur.cli.console import EFFECT_STYLES
from pdp.bundle.cases import Failure

_FILES: Final = {
    "README.md": "what this is, and how to go on",
    "exequatur.json": "which engines judge",
    "agents.json": "who the agents are, and who speaks for them",
    "tools.json": "the tools: definitions, pinned, and their arguments",
    "limits.json": "the most that a session may be given",
    "data.json": "the lists that Rego reads",
}
_ENDINGS: Final = {
    ".cedar": "policy in Cedar",
    ".rego": "policy in Rego",
    ".yaml": "what the policies must answer",
    ".cedarschema": "the schema of the Cedar policies, generated",
    ".wasm": "the Rego policies, compiled",
}
_KINDS: Final = {"added": "green", "changed": "yellow", "removed": "red"}
_EFFECTS: Final = {"permit": EFFECT_STYLES["allow"], "forbid": EFFECT_STYLES["deny"], **EFFECT_STYLES}


def done(title: str, *facts: str) -> RenderableType:
    """One line that says that it is done, and what came of it."""
    return Text.assemble(("✓ ", "green"), (title, "bold"), ("".join(f"  ·  {fact}" for fact in facts), "dim"))


def starter(folder: Path, names: Sequence[str]) -> RenderableType:
    """The files of a new bundle, and what to do next."""
    table = Table.grid(padding=(0, 2))
    for name in names:
        said = _FILES.get(name) or next((text for end, text in _ENDINGS.items() if name.endswith(end)), "")
        table.add_row(Text(str(folder / name), style="bold"), Text(said, style="dim"))
    return Group(table, Text.assemble("\n", ("next: ", "dim"), f"exequatur bundle build {folder} -o mine.tar.gz"))


def failures(failed: Iterable[Failure]) -> RenderableType:
    """The cases that did not come true."""
    table = _table("case", "wanted", "got")
    for item in failed:
        name = Text.assemble(item.name, "\n", (item.where, "dim"))
        table.add_row(name, Text(item.wanted, style="green"), Text(item.got, style="red"))
    return table


def signed(title: str, value: Mapping[str, Any]) -> RenderableType:
    """A bundle's signature, and whose it is."""
    grid = _facts(
        ("sequence", value["sequence"]),
        *_signers(value),
        ("tenant", value["tenant"]),
        ("valid", _valid(value)),
        ("digest", value["digest"]),
    )
    return Group(done(title), grid)


def held(count: int) -> str:
    """Say how many cases hold."""
    return "1 case holds" if count == 1 else f"{count} cases hold"


def endorsing(path: str, value: Mapping[str, Any]) -> RenderableType:
    """What somebody is about to stand for."""
    grid = _facts(
        ("bundle", path),
        ("sequence", value["sequence"]),
        ("tenant", value["tenant"]),
        ("scope", value["scope"]),
        ("valid", _valid(value)),
        ("built again", f"the same; {held(value['cases'])}"),
        ("key", value["kid"]),
        ("signed hash", value["payload_sha256"]),
    )
    return Group(Text("you endorse", style="bold"), grid, *_shown_files(value))


def _shown_files(value: Mapping[str, Any]) -> Iterable[RenderableType]:
    """Every file; against an older bundle, those that differ. The hash that is signed covers them all."""
    old = value.get("against")
    sizes = {item["name"]: f"{item['bytes']:,}" for item in value["files"]}
    if old is None:
        table = _table("file", "bytes")
        for name, size in sizes.items():
            table.add_row(Text(name, style="bold"), size)
        return [table]
    number = "" if old["sequence"] is None else f" (sequence {old['sequence']})"
    same = len(sizes) - len(old["added"]) - len(old["changed"])
    title = Text.assemble(
        ("\nagainst ", "dim"), f"{old['path']}{number}", (f", not verified; files that are the same: {same}", "dim")
    )
    table = _table("file", "", "bytes")
    kinds = {name: kind for kind in ("added", "changed", "removed") for name in old[kind]}
    for name, kind in sorted(kinds.items()):
        table.add_row(Text(name, style="bold"), Text(kind, style=_KINDS[kind]), sizes.get(name, ""))
    return [title, table] if kinds else [title]


def _signers(value: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Who signed, publisher first; by whose count that is enough."""
    if "signed_by" not in value:
        yield "key", value.get("kid", "")
        if value.get("endorsed_by"):
            yield "endorsed by", f"{', '.join(value['endorsed_by'])} (not verified: give --keys)"
        return
    rows = [
        f"{item['owner']} (key {item['kid']})" if item["owner"] != item["kid"] else item["kid"]
        for item in value["signed_by"]
    ]
    yield "signed by", Text("\n".join(rows), overflow="fold")
    owners = len({item["owner"] for item in value["signed_by"]})
    yield "owners", f"{owners} signed, {value['threshold']} needed"
    if value["not_counted"]:
        yield "not counted", Text(", ".join(value["not_counted"]), style="yellow")


def bundle(path: str, value: Mapping[str, Any]) -> RenderableType:
    """All that is inside."""
    return Group(_head(path, value), *_tables(value))


def _head(path: str, value: Mapping[str, Any]) -> RenderableType:
    trust, style = ("verified", "green") if value["verified"] else ("not verified: give --keys", "yellow")
    if not value["verified"] and "kid" not in value:
        trust = "not signed"
    engines = ", ".join(f"{item['engine']} ({item['role']}s)" for item in value["engines"])
    grid = _facts(
        ("trust", Text(trust, style=style)),
        ("name", " ".join(filter(None, (value["name"], value["revision"])))),
        ("engines", engines),
        ("sequence", value.get("sequence", "")),
        *_signers(value),
        ("tenant", value.get("tenant", "")),
        ("valid", _valid(value)),
        ("cases", value["cases"]),
        ("digest", value["digest"]),
    )
    return Panel(grid, title=Text(path, style="bold"), title_align="left", box=box.ROUNDED, expand=False)


def _tables(value: Mapping[str, Any]) -> Iterable[RenderableType]:
    tools = _table("tool", "groups", "brings", "classes", "micro-USD")
    for item in value["tools"]:
        lists = (", ".join(item[name]) for name in ("groups", "labels", "data_classes"))
        tools.add_row(Text(item["name"], style="bold"), *map(Text, lists), Text(str(item["price_microusd"] or "")))
    agents = _table("agent", "owner", "teams", "enforcers")
    for item in value["agents"]:
        enforcers = "\n".join(item["enforcers"]) or "nobody speaks for it"
        agents.add_row(
            Text(item["id"], style="bold"), Text(item["owner"]), Text(", ".join(item["teams"])), Text(enforcers)
        )
    policies = _table("policy", "effect", "OWASP", "reason", "where")
    for item in value["policies"]:
        effect = Text(item["effect"], style=_EFFECTS.get(item["effect"], ""))
        policies.add_row(
            Text(item["id"], style="bold"), effect, *(Text(item[name]) for name in ("owasp", "reason", "where"))
        )
    return [table for table in (tools, agents, policies, _files(value["files"])) if table.row_count]


def _files(items: Iterable[Mapping[str, Any]]) -> Table:
    files = _table("file", "bytes", "SHA-256")
    for item in items:
        files.add_row(Text(item["name"], style="bold"), Text(f"{item['bytes']:,}"), Text(item["sha256"], style="dim"))
    return files


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    for column in columns:
        numbers, whole = column in ("bytes", "micro-USD"), column in ("bytes", "effect")
        table.add_column(column, justify="right" if numbers else "left", overflow="fold", no_wrap=whole)
    return table


def _facts(*facts: tuple[str, Any]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, fact in facts:
        if fact not in ("", None):
            grid.add_row(Text(name, style="dim"), fact if isinstance(fact, Text) else Text(str(fact), overflow="fold"))
    return grid


def _valid(value: Mapping[str, Any]) -> str:
    until = f"until {value['expires_at']}" if value.get("expires_at") else ""
    return f"from {value['not_before']} {until}" if value.get("not_before") else until
