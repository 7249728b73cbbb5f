"""`exequatur policy check` as people and scripts call it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from exequatur.cli.console import console
from exequatur.cli.policy import app
from policies import opa
from policy_mistakes import good


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EXEQUATUR_OPA", opa())
    monkeypatch.setenv("COLUMNS", "200")
    for name, data in good(rego=False).items():
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "mine"


def add(folder, text: str) -> int:
    """Add to the policies; gives the line where it begins."""
    path = folder / "policy.cedar"
    old = path.read_text()
    path.write_text(old + text)
    return old.count("\n") + 1


def call(*arguments: object, code: int):
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == code, result.output + result.stderr
    return result


def test_good_policy_is_exit_code_0(folder):
    assert "nothing found" in call("check", folder, code=0).stdout


def test_error_is_shown_with_place_line_why_and_fix(folder):
    line = add(folder, '@id("all")\npermit (principal, action, resource is Shell);\n')
    said = call("check", folder, code=1).stdout
    assert f"error EX501  {folder}/policy.cedar:{line}" in said.replace("\n", "")
    for part in ('@id("all")', "why", "fix", "1 error in 1 file"):
        assert part in said


def test_warning_is_exit_code_1_only_where_it_is_strict(folder):
    add(folder, '@id("all")\nforbid (principal, action, resource) when { context.tool.bulk };\n')
    assert "1 warning" in call("check", folder, code=0).stdout
    call("check", folder, "--strict", code=1)


def test_machines_get_every_member(folder):
    line = add(folder, 'forbid (principal in Team::"sale", action, resource);\n')
    said = json.loads(call("check", folder, "--json", code=1).stdout)
    assert (said["errors"], said["warnings"]) == (1, 1)
    finding = next(each for each in said["findings"] if each["severity"] == "error")
    assert finding.keys() == {"file", "line", "code", "text", "severity", "why", "fix"}
    assert (finding["file"], finding["line"], finding["code"]) == ("policy.cedar", line, "EX204")


def test_folder_that_is_not_there_is_a_wrong_call(tmp_path):
    assert "it is not there" in call("check", tmp_path / "none", code=2).stderr
    (tmp_path / "file").touch()
    assert "it is not a folder" in call("check", tmp_path / "file", code=2).stderr


def test_line_of_any_length_is_shown_cut(folder, monkeypatch):
    monkeypatch.setattr(console, "_width", 10000)
    (folder / "long.cedar").write_text("x" * 9000)
    shown = call("check", folder, code=1).stdout
    assert "x" * 500 in shown
    assert "x" * 501 not in shown


def test_escape_sequences_in_a_file_do_not_reach_the_terminal(folder):
    add(folder, 'forbid (principal in Team::"sale", action, resource); // \u202e\x1b[31m\n')
    assert "\x1b[31m" not in call("check", folder, code=1).stdout
