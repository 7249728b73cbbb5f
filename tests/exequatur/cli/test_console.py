"""What is shown is what is there: text from outside is never taken for a command by a terminal."""

from __future__ import annotations

import io

import pytest
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from exequatur.cli import console as speaking


def shown(what: object) -> str:
    console = speaking._Console(file=io.StringIO(), force_terminal=True, highlight=False, width=100)
    console.print(what)
    return console.file.getvalue()


@pytest.mark.parametrize(
    "text", ["\x1b[2K\x1b[1A", "a\x1b]0;title\x07b", "\x9b31m", "\u202ebackwards", "a\rb", "x\u200by"]
)
def test_text_moves_no_cursor_and_hides_nothing(text):
    table = Table("name")
    table.add_row(Text(text, style="bold"))
    for what in (Text(text), table, Panel(Text(text), title=Text(text)), text):
        out = shown(what)
        for character in text:
            if not character.isprintable():
                assert character not in out.replace("\x1b[1m", "").replace("\x1b[0m", "")


def test_colours_and_lines_of_our_own_stay():
    assert shown(Text.assemble(("a", "red"), "\nb\nanna é 日本")) == "\x1b[31ma\x1b[0m\nb\nanna é 日本\n"


def test_an_error_is_one_line_whatever_it_quotes(capsys):
    with pytest.raises(speaking.typer.Exit):
        speaking.fail("`a\x1b[2K[bold]b`: no")
    assert capsys.readouterr().err == "error: `a\\x1b[2K[bold]b`: no\n"
