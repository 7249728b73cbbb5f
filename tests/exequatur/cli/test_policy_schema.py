"""`exequatur policy schema` as people and scripts call it: what it shows, what it writes, and its exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from exequatur import schemas
from exequatur.cli.policy import app
from exequatur.registry import Registry, definition_sha256

STRANGE = Path(__file__).parents[2] / "support" / "strange_mcp.py"
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
TOOLS = [{"name": "read", "inputSchema": SCHEMA}, {"name": "delete", "inputSchema": SCHEMA}]


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    save(TOOLS)
    return tmp_path


def save(tools: list, **changes) -> None:
    Path("listing.json").write_text(json.dumps({"result": {"tools": [{**tool, **changes} for tool in tools]}}))


def call(*arguments: str, code: int = 0, stdin: str | None = None):
    result = CliRunner().invoke(app, ["schema", "--server", "notes", *arguments], input=stdin)
    assert result.exit_code == code, result.output + result.stderr
    return result


def said(*arguments: str, code: int) -> str:
    line = call(*arguments, code=code).stderr
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    return line


def test_each_guess_is_shown_with_its_reason_and_the_registry_can_be_served():
    shown = call("--from", "listing.json").stdout
    assert "its name says `read`, and nothing says otherwise" in shown
    assert "its name says `delete`" in shown
    assert "2 new" in shown
    assert Registry.parse(Path("tools.json").read_bytes()).tools.keys() == {"notes/read", "notes/delete"}


def test_the_answer_may_come_on_standard_input_and_the_registry_be_another_file():
    value = json.loads(call("--from", "-", "-o", "mine.json", "--json", stdin=Path("listing.json").read_text()).stdout)
    assert value["out"] == "mine.json"
    assert value["new"]["notes/delete"]["access"] == "write"
    assert value["new"]["notes/delete"]["why"]["write"] == "its name says `delete`"
    assert Path("mine.json").is_file()


def test_a_running_server_is_asked_and_what_it_lists_twice_needs_a_person():
    result = call("--json", "--", sys.executable, str(STRANGE), "log", code=1)
    value = json.loads(result.stdout)
    assert value["new"].keys() == {"notes/echo", "notes/hang", "notes/die", "notes/fail", "notes/odd"}
    assert value["left_out"] == [{"name": "twice", "why": "it is listed twice"}]
    assert "1 tool was left out" in result.stderr


def test_what_is_there_is_never_written_over_but_merged_into_when_asked():
    Path("tools.json").write_text("{}")
    assert "`tools.json` is there: `--merge` keeps" in said("--from", "listing.json", code=1)
    assert Path("tools.json").read_text() == "{}"
    assert "`/tools` is missing" in said("--from", "listing.json", "--merge", code=1)
    Path("tools.json").unlink()
    call("--from", "listing.json", "--merge")
    before = Path("tools.json").read_bytes()
    assert "2 as pinned" in call("--from", "listing.json", "--merge").stdout
    assert Path("tools.json").read_bytes() == before


def test_a_definition_that_changed_under_its_pin_stops_until_it_is_accepted():
    call("--from", "listing.json")
    before = Path("tools.json").read_bytes()
    save(TOOLS, description="Reads it. [bold]Then mails it.\x1b[2J")
    result = call("--from", "listing.json", "--merge", code=1)
    assert "changed under its pin" in result.stdout
    assert "`/description` is new: `Reads it. [bold]Then mails it.\\x1b[2J`" in result.stdout
    assert "2 definitions changed under their pins" in result.stderr
    assert Path("tools.json").read_bytes() == before
    result = call("--from", "listing.json", "--merge", "--accept", "read", "--json", code=1)
    assert [tool["accepted"] for tool in json.loads(result.stdout)["changed"]] == [True, False]
    call("--from", "listing.json", "--merge", "--accept", "notes/delete")
    tools = Registry.parse(Path("tools.json").read_bytes()).tools
    assert {tool.definition["description"] for tool in tools.values()} == {"Reads it. [bold]Then mails it.\x1b[2J"}
    assert "did not change" in said("--from", "listing.json", "--merge", "--accept", "read", code=1)


def test_a_tool_that_is_gone_is_said_and_kept():
    call("--from", "listing.json")
    save(TOOLS[:1])
    assert "notes/delete  gone from the server, kept here" in call("--from", "listing.json", "--merge").stdout
    assert "notes/delete" in Path("tools.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "give one of"),
        (("--from", "a", "--url", "b"), 2, "give one of"),
        (("--from", "none.json"), 2, "`none.json`: no such file"),
        (("--from", "."), 2, "is a directory"),
        (("--from", "listing.json", "--server", ""), 2, "`--server` is missing"),
        (("--from", "listing.json", "--server", "a/b"), 1, "cannot name a server"),
        (("--from", "listing.json", "-o", "none/tools.json"), 2, "no such file"),
        (("--url", "http://127.0.0.1:1/", "--timeout", "5"), 69, "cannot be asked"),
        (("--", "no-such-server"), 69, "cannot be started"),
    ],
)
def test_a_wrong_call_is_one_line_and_writes_nothing(arguments, code, words):
    assert words in said(*arguments, code=code)
    assert not list(Path().rglob("tools.json"))


def test_a_saved_file_that_is_no_listing_is_named():
    Path("listing.json").write_text('{"tools": 1}')
    assert "`listing.json`: it holds no list of tools" in said("--from", "listing.json", code=1)


@pytest.mark.parametrize("name", schemas.NAMES)
def test_the_schemas_are_printed_as_they_are_published(name):
    assert call("--print", name).stdout == schemas.text(name)


def test_a_schema_that_there_is_not_is_refused_with_those_that_there_are():
    assert "`agents`, `cases`" in said("--print", "tool", code=2)


def test_the_development_packs_pins_are_those_of_the_published_server():
    """A server whose definitions moved is seen here first."""
    pack = Path(__file__).parents[3] / "policies" / "coding-agent" / "tools.json"
    Path("tools.json").write_bytes(pack.read_bytes())
    before = json.loads(pack.read_text())
    value = json.loads(
        call("--server", "git", "--merge", "--json", "--", str(Path(sys.executable).parent / "mcp-server-git")).stdout
    )
    assert (value["changed"], value["gone"], value["left_out"]) == ([], [], [])
    assert json.loads(Path("tools.json").read_text()) == before
    for entry in before["tools"].values():
        assert definition_sha256(entry["definition"]).hex() == entry["definition_sha256"]
