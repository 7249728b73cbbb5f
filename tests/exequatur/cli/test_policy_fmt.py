"""`exequatur policy fmt` as people and scripts call it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from exequatur.cli.policy import app

POLICY = "// Mine.\npermit(principal,action,resource);\n"
FORMATTED = "// Mine.\npermit (principal, action, resource);\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.cedar").write_text(POLICY)
    (tmp_path / "limits.json").write_text('{"max_steps":5}\n')
    return tmp_path


def call(*arguments: object, code: int):
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == code, result.output + result.stderr
    return result


def test_check_shows_the_difference_and_writes_nothing(folder):
    said = call("fmt", folder, "--check", code=1).stdout
    assert "-permit(principal,action,resource);\n+permit (principal, action, resource);\n" in said
    assert "2 files would be written otherwise" in said
    assert (folder / "a.cedar").read_text() == POLICY


def test_line_endings_that_differ_are_seen(folder):
    (folder / "a.cedar").write_bytes(FORMATTED.replace("\n", "\r\n").encode())
    said = call("fmt", folder, "--check", code=1).stdout
    assert "-// Mine.␍\n" in said
    assert "+// Mine.\n" in said


def test_files_are_written_once_and_then_left_alone(folder):
    assert "2 files written anew" in call("fmt", folder, code=0).stdout
    assert (folder / "a.cedar").read_text() == FORMATTED
    assert (folder / "limits.json").read_text() == '{"max_steps": 5}\n'
    assert json.loads(call("fmt", folder, "--json", code=0).stdout)["changed"] == []
    assert "nothing to format" in call("fmt", folder, "--check", code=0).stdout


def test_file_that_cannot_be_read_is_exit_code_1_and_the_others_are_written(folder):
    (folder / "b.cedar").write_text("permit (")
    shown = call("fmt", folder, code=1).stdout
    assert "`b.cedar:1`" in shown
    assert "2 files written anew, 1 cannot be read" in shown
    assert (folder / "a.cedar").read_text() == FORMATTED
    assert (folder / "b.cedar").read_text() == "permit ("
