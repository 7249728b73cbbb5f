"""What every verb needs to speak: one console, exit codes, one-line errors, JSON for machines.

Rules: standard output is the answer, standard error is for people; only this package exits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import IntEnum
from typing import Any, NoReturn

import typer
from rich.console import Console

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


class Exit(IntEnum):
    """Exit codes, the same for every verb."""

    OK = 0
    NO = 1
    USAGE = 2
    CONFIG = 64
    UNREACHABLE = 69


def fail(text: str, code: Exit = Exit.USAGE) -> NoReturn:
    """Say one sentence on standard error and exit."""
    errors.print(f"[bold red]error[/]: {_plain(text)}", soft_wrap=True)
    raise typer.Exit(code)


def emit(value: Any, *, as_json: bool, render: Callable[[], object]) -> None:
    """Print `value` as one line of JSON, or what `render()` makes of it for people."""
    if as_json:
        typer.echo(json.dumps(value, ensure_ascii=False, sort_keys=True))
    elif (picture := render()) is not None:
        console.print(picture)


def _plain(text: str) -> str:
    """Keep square brackets from being taken for colours."""
    return text.replace("[", r"\[")


EFFECT_STYLES = {"allow": "green", "warn": "yellow", "require_approval": "magenta", "deny": "red"}
"""How an effect is coloured wherever one is shown."""
