"""`exequatur policy test` as people, CI and editors call it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner

from exequatur.cli.policy import app
from policies import opa
from publisher import STARTER, built, sources
from trying import READ, cedar_files, compile_once, lay

PERMIT = '@id("reads") permit (principal, action in Action::"read", resource) when { context.session.steps < 5 };'
HOLDS = f"- {{name: a note is read, {READ}, want: {{effect: allow}}}}\n"
FAILS = f"- {{name: a note is not, {READ}, want: {{effect: deny, policies: [nothing]}}}}\n"


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch):
    """A folder of its own; `opa` is there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXEQUATUR_OPA", opa())
    compile_once(monkeypatch)
    return tmp_path


def call(*arguments: str, code: int = 0):
    result = CliRunner().invoke(app, ["test", *arguments])
    assert result.exit_code == code, result.output + result.stderr
    return result


def told(*arguments: str, code: int = 0) -> dict[str, object]:
    return json.loads(call(*arguments, "--json", code=code).stdout)


def folder(listed: str = HOLDS, policies: str = PERMIT) -> str:
    lay(Path("mine"), cedar_files(policies, listed))
    return "mine"


def test_a_folder_whose_cases_hold():
    said = call(str(STARTER)).stdout
    assert "✓ 10 cases hold" in said


def test_a_bundle_is_run_as_it_is(monkeypatch):
    Path("b.tar.gz").write_bytes(built().archive)
    monkeypatch.setenv("EXEQUATUR_OPA", "")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert told("b.tar.gz")["cases"] == 10


def test_rego_in_a_folder_needs_opa(monkeypatch):
    monkeypatch.setenv("EXEQUATUR_OPA", "/nowhere/opa")
    assert "EXEQUATUR_OPA" in call(str(STARTER), code=64).stderr


def test_cedar_alone_does_not(monkeypatch):
    for name, value in {"EXEQUATUR_OPA": "", "PATH": "", "HOME": "/nowhere"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert told(folder(), "--coverage")["coverage"]["total"] == 2  # type: ignore[index]


def test_a_failure_is_shown_with_its_place_and_each_difference():
    lines = [line.split() for line in call(folder(HOLDS + FAILS), code=1).stdout.splitlines()]
    assert ["✗", "a", "note", "is", "not", "cases/notes.yaml:2"] in lines
    assert ["effect", "wanted", "deny"] in lines
    assert ["got", "allow"] in lines
    assert ["policies", "wanted", "`nothing`"] in lines
    assert ["got", "`reads`"] in lines
    assert lines[-1][:5] == ["✗", "1", "of", "2", "cases"]


def test_machines_get_all_of_it():
    value = told(folder(HOLDS + FAILS), code=1)
    assert (value["cases"], value["failed"], value["coverage"]) == (2, 1, None)
    first, second = value["results"]  # type: ignore[misc]
    assert (first["where"], first["holds"], first["effect"], first["policies"]) == (
        "cases/notes.yaml:1",
        True,
        "allow",
        ["reads"],
    )  # type: ignore[index]
    assert second["differences"][0] == {"member": "effect", "wanted": "deny", "got": "allow"}  # type: ignore[index]


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        (("-k", "IS READ"), ["a note is read"]),
        (("--file", "more"), ["another"]),
        (("--policy", "nothing"), ["a note is not"]),
        (("--policy", "reads"), ["another", "a note is read", "a note is not"]),
        (("--policy", "reads", "-k", "is not"), ["a note is not"]),
    ],
)
def test_cases_are_chosen_by_name_file_and_policy(chosen, names):
    path = folder(HOLDS + FAILS)
    (Path(path) / "cases/more.yaml").write_text(HOLDS.replace("a note is read", "another"))
    found = json.loads(CliRunner().invoke(app, ["test", path, *chosen, "--json"]).stdout)
    assert [each["name"] for each in found["results"]] == names


def test_no_case_chosen_proves_nothing():
    assert "no case was chosen" in call(folder(), "-k", "nothing like it", code=1).stdout


def test_coverage_below_the_threshold_is_a_no():
    path = folder()
    assert told(path, "--threshold", "51", code=1)["coverage"]["enough"] is False  # type: ignore[index]
    value = told(path, "--threshold", "50")["coverage"]
    assert (value["covered"], value["total"], value["percent"], value["enough"]) == (1, 2, 50.0, True)  # type: ignore[index]
    (policy,) = value["policies"]  # type: ignore[index]
    assert (policy["policy"], policy["held"], policy["conditions"], policy["covered"]) == ("reads", True, 1, 0)
    assert policy["missing"] == [
        {"file": "permits.cedar", "line": 1, "text": "context.session.steps < 5", "missing": "never false"}
    ]


def test_coverage_is_shown_by_file_with_what_is_missing():
    said = call(folder(), "--coverage").stdout
    assert "permits.cedar:1 never false  context.session.steps < 5" in " ".join(said.split("\n")).replace("   ", "  ")
    assert "! 50 % covered  ·  1 of 2 policies and conditions" in said
    assert "✓ 50 % covered" in call(folder(), "--threshold", "50").stdout


def test_a_share_that_is_not_all_is_never_called_all():
    from exequatur.cli.policy_pictures import _percent

    assert _percent({"covered": 9_999, "total": 10_000}) == "99.9"
    assert _percent({"covered": 0, "total": 0}) == "0"


def test_a_report_for_ci_is_xml():
    call(folder(HOLDS + FAILS), "--junit", "report.xml", code=1)
    root = ET.parse("report.xml").getroot()
    assert (root.tag, root.get("tests"), root.get("failures")) == ("testsuites", "2", "1")


def test_what_does_not_compile_is_one_line_with_its_place():
    line = call(folder(policies="permit (principal, action, resource) when { context.nothing };"), code=1).stderr
    assert line.startswith("error: `permits.cedar:1`: ")
    assert line.count("\n") == 1
    assert "`cases/notes.yaml:1`: `wnat` is not known" in call(folder(HOLDS.replace("want", "wnat")), code=1).stderr
    assert (
        call("nowhere", code=2).stderr == "error: `nowhere`: it is not there: name a folder of sources, or a bundle\n"
    )
    assert call("nowhere", "--watch", code=2).stderr == call("nowhere", code=2).stderr
    Path("b.tar.gz").write_bytes(b"no archive")
    assert call("b.tar.gz", code=1).stderr.startswith("error: `b.tar.gz`: ")


async def test_a_watched_folder_answers_each_change_and_ends_with_ctrl_c(tmp_path):
    path = lay(tmp_path / "mine", cedar_files(PERMIT, HOLDS))
    command = [sys.executable, "-m", "exequatur", "policy", "test", str(path), "--watch", "--json"]
    environment = {**os.environ, "EXEQUATUR_OPA": ""}
    process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1, env=environment)
    assert process.stdout is not None

    async def heard() -> dict[str, object]:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 120)
        assert line, await process.communicate()
        return json.loads(line)

    def put(name: str, text: str) -> None:
        """Write a file as editors do, at once: a look finds the old one or the new one."""
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").rename(path / name)

    assert (await heard())["failed"] == 0
    put("cases/notes.yaml", HOLDS + FAILS)
    assert (await heard())["failed"] == 1
    put("permits.cedar", "permit (principal, action, resource) when {")
    assert str((await heard())["error"]).startswith("`permits.cedar:1`")
    put("permits.cedar", PERMIT)
    put("cases/notes.yaml", HOLDS)
    while (said := await heard()).get("failed") != 0:
        assert "error" in said or said["failed"] == 1  # a look between the two
    process.send_signal(signal.SIGINT)
    _, stderr = await asyncio.wait_for(process.communicate(), 120)
    assert (process.returncode, stderr) == (0, b"")


def test_rego_is_compiled_again_only_when_it_changes(monkeypatch):
    from pdp.bundle import build
    from pdp.policy.opening import Compiled

    calls: list[str] = []
    monkeypatch.setattr(build, "compile_rego", lambda files, entrypoint, opa: calls.append(entrypoint) or b"wasm")
    compiled, files = Compiled(), sources()
    for changed in ({}, {"cases/a.yaml": b"[]"}, {"permits.cedar": b""}, {"data.json": b"{}"}, {"data.json": b"{}"}):
        assert compiled({**files, **changed}, "exequatur/decision", None) == b"wasm"
    assert len(calls) == 2
