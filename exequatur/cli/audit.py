"""`exequatur audit`: look at the log, and prove that nobody changed it.

Rules: `tail` shows what the folder says and proves nothing; `verify` proves, with code that the ledger does not share.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from exequatur.cli.console import EFFECT_STYLES, Exit, console, emit, errors, fail
from exequatur.key_folder import KeyFolder
from exequatur.trust.errors import TrustError
from exequatur.trust.log_keys import parse_log_keys
from exequatur.verifier import Report, Trusted, verify
from ledger.tiles import Reader, TileError

app = typer.Typer(no_args_is_help=True)

_POLL_S: Final = 0.2
_CHUNK: Final = 4096
_KINDS: Final = {"session": "cyan", "refused": "red", "settlement": "dim", "charged": "yellow"}

Folder = Annotated[Path, typer.Argument(help="the ledger's folder, or a copy of it", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="for machines")]


@app.command("tail")
def tail(
    folder: Folder,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="how many of the last records")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on with what comes")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the last records of a log. What it shows is not verified: `exequatur audit verify` does that."""
    reader = Reader(folder)
    try:
        size = reader.size()
        _show(_read(reader, max(0, size - lines), size), as_json=as_json, header=True)
        while follow:
            time.sleep(_POLL_S)
            if (grown := reader.size()) > size:
                _show(_read(reader, size, grown), as_json=as_json, header=False)
                size = grown
    except TileError as error:
        fail(str(error), Exit.NO)
    except KeyboardInterrupt:
        return


@app.command("verify")
def verify_log(
    folder: Folder,
    key: Annotated[
        list[str],
        typer.Option(help="the ledger's verifier key, a file with it (KID.vkey) or a folder; repeat for more"),
    ],
    known: Annotated[
        Path | None, typer.Option(help="a checkpoint that was kept: the log must begin with what it signs")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Prove that a log is, to the last byte, what its checkpoint signs; exit 1, and where, if it is not."""
    keys = [trusted for each in key for trusted in _keys(each)]
    before = _text(known) if known else None
    columns = (TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        bar = progress.add_task("entries", total=None)
        try:
            report = verify(
                folder,
                keys,
                known=before,
                progress=lambda done, total: progress.update(bar, completed=done, total=total),
            )
        except ValueError as error:
            fail(str(error))
    emit(_value(report), as_json=as_json, render=lambda: _picture(report))
    if not report.ok:
        raise typer.Exit(Exit.NO)


def _read(reader: Reader, first: int, last: int) -> Iterator[tuple[int, bytes]]:
    for start in range(first, last, _CHUNK):
        yield from enumerate(reader.read(start, min(last, start + _CHUNK)), start)


def _show(entries: Iterator[tuple[int, bytes]], *, as_json: bool, header: bool) -> None:
    """Print records: one JSON object a line, or rows whose columns stay where they are while more come."""
    if as_json:
        for entry, data in entries:
            typer.echo(json.dumps({"entry": entry, "record": _record(data)}, ensure_ascii=False, sort_keys=True))
        return
    table = Table(box=None, show_header=header, header_style="dim", pad_edge=False, expand=True)
    table.add_column("entry", width=6, no_wrap=True, justify="right")
    for name, width in (("time", 8), ("what", 16), ("agent", 10)):
        table.add_column(name, width=width, no_wrap=True)
    table.add_column("tool", no_wrap=True, ratio=2)
    table.add_column("why", ratio=3)
    for entry, data in entries:
        table.add_row(str(entry), *_row(_record(data)))
    if table.row_count or header:
        console.print(table)


def _record(data: bytes) -> dict[str, Any]:
    """Read a record leniently: this is for looking."""
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"kind": "unreadable", "text": f"{len(data)} bytes are no record"}


def _row(record: dict[str, Any]) -> tuple[Text, ...]:
    kind, effect = str(record.get("kind", "")), str(record.get("effect", ""))
    what = effect if kind == "decision" and effect else f"{kind} {effect}".strip()
    style = EFFECT_STYLES.get(effect) or _KINDS.get(kind, "")
    moment = str(record.get("time", ""))[11:19]
    cells = (
        (moment, "dim"),
        (what, style if kind in ("decision", "repeat") or not effect else f"dim {style}"),
        (str(record.get("agent", "")), ""),
        (str(record.get("tool", "")), "bold"),
        (_why(record), ""),
    )
    return tuple(Text(text, style) for text, style in cells)


def _why(record: dict[str, Any]) -> str:
    """Say in one line what a reader wants to know of a record beside its effect."""
    reasons = [reason for reason in record.get("reasons") or [] if isinstance(reason, dict)]
    parts = [": ".join(filter(None, (str(r.get("policy", "")), str(r.get("text", ""))))) for r in reasons]
    parts += [str(error) for error in record.get("errors") or []]
    parts += [str(record[name]) for name in ("event", "outcome", "why", "text", "reason") if record.get(name)]
    if record.get("charged_microusd"):
        parts.append(f"{record['charged_microusd']} micro-USD")
    return " · ".join(part for part in parts if part)


def _keys(given: str) -> list[Trusted]:
    """Read what `--key` names: a key, a file with one, or a folder of them with its `keys.json`."""
    path = Path(given)
    if "+" in given and not path.exists():
        return [Trusted(given)]
    try:
        found = KeyFolder(path, parse_log_keys).read()
    except TrustError as error:
        fail(f"`{given}`: {error}")
    return [
        Trusted(str(key), called=name, not_after=found.ends.get(name), revoked=name in found.revoked)
        for name, key in found.keys.items()
    ]


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"`{path}` cannot be read: {(getattr(error, 'strerror', None) or 'not UTF-8').lower()}")


def _value(report: Report) -> dict[str, Any]:
    value: dict[str, Any] = {
        "ok": report.ok,
        "origin": report.origin,
        "size": report.size,
        "root": report.root.hex(),
        "time": report.time,
        "writers": dict(report.writers),
    }
    if report.fault is not None:
        value["fault"] = {"where": report.fault.where, "text": report.fault.text}
    return value


def _picture(report: Report) -> Text | Table:
    if report.fault is not None:
        return Text.assemble(("broken ", "bold red"), (report.fault.where, "bold"), f": {report.fault.text}")
    table = Table.grid(padding=(0, 2))
    table.add_row(Text("verified", style="bold green"), Text(f"{report.origin}: {report.size} records"))
    table.add_row(Text("signed at", style="dim"), Text(report.time or "no time is given"))
    table.add_row(Text("root", style="dim"), Text(report.root.hex()))
    for writer, last in report.writers.items():
        table.add_row(Text("writer", style="dim"), Text(f"{writer}: 1 to {last}"))
    return table
