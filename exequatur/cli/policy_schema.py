"""The work of `exequatur policy schema`: a registry drafted from what a server lists, and the schemas for editors.

Rules: exit code 1 where a person must look, a definition that changed under its pin or a tool that was left out; 2 for
a wrong call; 69 for a server that does not answer. What a server says is text, shortened, and never mark-up.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import typer
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from exequatur import schemas
from exequatur.cli.bundle_pictures import done
from exequatur.cli.console import Exit, emit, errors, fail
from exequatur.cli.files import write_whole
from exequatur.registry import LIMITS
from exequatur.trust.canonical import Json, quoted
from pdp.policy.guesses import Guess
from pdp.policy.mcp_tools import Drafted, ListingError, draft, read_listing, read_registry

_STRICT: Final = frozenset(("write", "bulk", "egress"))


def show(name: str) -> None:
    """Print a schema as it is published."""
    if name not in schemas.NAMES:
        fail(f"{quoted(name)} has no schema: there are {', '.join(f'`{known}`' for known in schemas.NAMES)}")
    typer.echo(schemas.text(name), nl=False)


def write(
    server: str,
    command: Sequence[str],
    *,
    saved: Path | None,
    url: str,
    out: Path,
    merge: bool,
    accepted: Sequence[str],
    timeout_s: float,
    as_json: bool,
) -> None:
    """Ask, draft, write, and show each guess with its reason."""
    if not server:
        fail("`--server` is missing: the server's name in the registry, as the sidecar is told")
    if [bool(command), saved is not None, bool(url)].count(True) != 1:
        fail("give one of `--from FILE`, `--url URL`, and the server's command after `--`")
    if out.exists() and not merge:
        fail(f"`{out}` is there: `--merge` keeps what was reviewed in it, `--out` names another file", Exit.NO)
    try:
        listed = _saved(saved) if saved is not None else _asked(command, url, timeout_s)
        before = read_registry(out.read_bytes()) if out.exists() else {}
        drafted = draft(server, listed, before, accepted)
        write_whole(out, drafted.written())
    except ListingError as error:
        fail(str(error), Exit.NO)
    except OSError as error:
        fail(f"`{error.filename}`: {(error.strerror or str(error)).lower()}")
    emit(_value(drafted, out), as_json=as_json, render=lambda: _picture(drafted, out))
    if drafted.needs_a_person:
        fail(_needed(drafted), Exit.NO)


def _saved(path: Path) -> list[Json]:
    name, file = ("standard input", sys.stdin.buffer) if str(path) == "-" else (str(path), path.open("rb"))
    with file:
        data = file.read(LIMITS.bytes + 1)
    try:
        return read_listing(data)
    except ListingError as error:
        raise ListingError(f"`{name}`: {error}") from None


def _asked(command: Sequence[str], url: str, timeout_s: float) -> list[Json]:
    try:
        listing = importlib.import_module("exequatur.cli.mcp_listing")
    except ModuleNotFoundError as error:
        fail(f"asking a server needs `{error.name}`: pip install mcp, or save its answer and use --from", Exit.CONFIG)
    try:
        with errors.status("asking the server for its tools"):
            found: list[Json] = listing.ask_url(url, timeout_s) if url else listing.ask_command(command, timeout_s)
    except ListingError as error:
        fail(str(error), Exit.UNREACHABLE)
    return found


def _needed(drafted: Drafted) -> str:
    changed, left_out = sum(not tool.accepted for tool in drafted.changed), len(drafted.left_out)
    told = []
    if changed:
        what = (
            "1 definition changed under its pin" if changed == 1 else f"{changed} definitions changed under their pins"
        )
        told.append(f"{what}: --accept NAME each that you have read")
    if left_out:
        told.append("1 tool was left out" if left_out == 1 else f"{left_out} tools were left out")
    return ", and ".join(told)


def _value(drafted: Drafted, out: Path) -> dict[str, Any]:
    return {
        "out": str(out),
        "new": {name: {**guess.entry, "why": dict(guess.why)} for name, guess in drafted.new.items()},
        "same": list(drafted.same),
        "changed": [
            {
                "name": tool.name,
                "differences": list(tool.differences),
                "doubts": list(tool.doubts),
                "accepted": tool.accepted,
            }
            for tool in drafted.changed
        ],
        "gone": list(drafted.gone),
        "left_out": [{"name": tool.name, "why": tool.why} for tool in drafted.left_out],
    }


def _picture(drafted: Drafted, out: Path) -> RenderableType:
    parts: list[RenderableType] = []
    if drafted.new:
        parts.append(_guesses(drafted.new))
    for tool in drafted.changed:
        word, style = ("accepted", "green") if tool.accepted else ("changed under its pin", "bold red")
        parts.append(Text.assemble((tool.name, "bold"), "  ", (word, style)))
        parts += [Text(f"  {line}") for line in tool.differences]
        parts += [Text(f"  {line}", style="yellow") for line in tool.doubts]
    parts += [
        Text.assemble((name, "bold"), "  ", ("gone from the server, kept here", "yellow")) for name in drafted.gone
    ]
    parts += [
        Text.assemble((quoted(tool.name), "bold"), "  ", ("left out: ", "red"), tool.why) for tool in drafted.left_out
    ]
    counts = [
        f"{len(drafted.new)} new" if drafted.new else "",
        f"{len(drafted.same)} as pinned" if drafted.same else "",
    ]
    parts.append(done(f"wrote {out}", *filter(None, counts)))
    if drafted.new:
        parts.append(Text("guesses are not judgements: go through each, then write your policy", style="dim"))
    return Group(*parts)


def _guesses(new: Mapping[str, Guess]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("tool", "guess", "why"):
        table.add_column(heading, header_style="dim", overflow="fold")
    for name, guess in new.items():
        for number, (mark, why) in enumerate(guess.why.items()):
            style = "yellow" if mark in _STRICT else ""
            table.add_row(Text("" if number else name, style="bold"), Text(mark, style=style), Text(why, style="dim"))
    return table
