"""The work of `exequatur policy fmt`: write policy files in one form, or show what would change.

Rules: a file is written whole or not at all; with `--check` nothing is written; exit code 1 where a file cannot be
read, and with `--check` where one looks otherwise.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from exequatur.cli.console import Exit, console, emit
from exequatur.cli.files import write_whole
from exequatur.cli.policy_opening import faults, sources
from pdp.bundle.build import find_opa
from pdp.policy.formatting import formatted

_STYLES: Final = {"+++": "bold", "---": "bold", "@@": "cyan", "+": "green", "-": "red"}


def run(folder: Path, *, check: bool, as_json: bool) -> None:
    """Format a folder."""
    with faults():
        files = sources(folder)
        changed, unreadable = formatted(files, find_opa(os.environ))
        for name, data in changed.items() if not check else ():
            write_whole(folder / name, data)
    differences = {name: _difference(name, files[name], data) for name, data in changed.items()} if check else {}
    value = {
        "changed": sorted(changed),
        "written": not check,
        "errors": unreadable,
        "diff": "".join(differences.values()),
    }
    emit(value, as_json=as_json, render=lambda: _picture(sorted(changed), unreadable, differences, check=check))
    raise typer.Exit(Exit.NO if unreadable or (check and changed) else Exit.OK)


def _difference(name: str, old: bytes, new: bytes) -> str:
    before, after = (data.decode("utf-8", "replace").splitlines(keepends=True) for data in (old, new))
    lines = difflib.unified_diff(before, after, f"{name}", f"{name} (formatted)")
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def _picture(
    changed: list[str], unreadable: list[str], differences: Mapping[str, str], *, check: bool
) -> RenderableType:
    for line in "".join(differences.values()).removesuffix("\n").split("\n") if differences else ():
        console.print(Text(line.replace("\r", "␍"), style=_style(line)), soft_wrap=True)
    parts: list[RenderableType] = [Text.assemble(("✗ ", "red"), text) for text in unreadable]
    if not check:
        parts += [Text.assemble(("✓ ", "green"), name) for name in changed]
    files = f"{len(changed)} file{'s' * (len(changed) != 1)}"
    said = f"{files} would be written otherwise" if check else f"{files} written anew"
    if unreadable and changed:
        said += f", {len(unreadable)} cannot be read"
    if not changed:
        said = "nothing to format" if not unreadable else "no other file to format"
    good = not unreadable and not (check and changed)
    return Group(*parts, Text.assemble(("✓ " if good else "✗ ", "green" if good else "red"), (said, "bold")))


def _style(line: str) -> str:
    return next((style for start, style in _STYLES.items() if line.startswith(start)), "")
