"""What every verb needs to speak: one console, exit codes, one-line errors, JSON for machines.

Rules: standard output is the answer, standard error is for people; only this package exits; no text from outside moves
the cursor or turns the writing round, whoever shows it: people sign what they see.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Any, NoReturn

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment


class _Console(Console):
    """A console that writes control characters, and those that readers do not see, as escapes."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as usual; colours and movements of our own are no text."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.replace("\n", "").isprintable():
                yield segment
            else:
                text = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in segment.text)
                yield Segment(text, segment.style)


console = _Console(highlight=False)
errors = _Console(stderr=True, highlight=False)


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
