"""`exequatur bundle diff` as people and pipelines call it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from differing import Draft, Edit, edited
from exequatur.cli.bundle import app
from exequatur.trust.archive import write_archive
from policies import opa
from publisher import sources
from trying import lay

OPA = opa()


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch):
    """A folder of its own with the usual bundle in `old`; Cedar alone needs no `opa`, and there is none."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"EXEQUATUR_OPA": "", "PATH": "", "HOME": "/nowhere"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    lay(Path("old"), edited().files())


def call(*arguments: str, code: int = 0):
    result = CliRunner().invoke(app, ["diff", "old", "new", *arguments])
    assert result.exit_code == code, result.output + result.stderr
    return result


def told(*arguments: str, code: int = 0) -> dict[str, object]:
    return json.loads(call("--json", *arguments, code=code).stdout)


def new(edit: Edit | None = None) -> None:
    lay(Path("new"), edited(edit).files())


def untaints(draft: Draft) -> None:
    draft.cedar.pop("tainted")


def raises_steps(draft: Draft) -> None:
    draft.limits["max_steps"] = 200


FLIP = "case:cases/all.yaml#mail after a stranger's words"
LINES = [
    {"agent": "coder", "tool": "git/log", "arguments": {"repo": "b"}},
    {
        "action": {"agent": "coder", "tool": "mail/send", "arguments": {"to": "example.org", "text": "x"}},
        "session": {"purpose": "fix", "labels": ["untrusted_input"]},
    },
]


def record(*lines: object) -> str:
    Path("day.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return "day.jsonl"


def test_nothing_differs():
    new()
    assert "they mean the same" in call().stdout


def test_a_case_that_is_new_is_no_widening():
    new(lambda draft: draft.cases.append({**draft.cases[0], "name": "again", "arguments": {"repo": "b"}}))
    said = told()
    assert (said["changes"], said["ok"], said["cases"]) == ([], True, None)


def test_a_tightening_is_no_reason_to_stop():
    new(lambda draft: draft.limits.update(max_steps=5))
    said = call("--probe", "0").stdout
    assert "tighter (1)" in said
    assert "nothing is wider" in said


def test_a_widening_stops_until_it_is_accepted():
    new(raises_steps)
    assert "1 to accept" in call("--probe", "0", code=1).stdout
    said = told("--accept", "limit:max_steps", "--probe", "0")
    assert said["ok"]
    assert said["changes"] == [
        {
            "id": "limit:max_steps",
            "direction": "wider",
            "text": "a session's most steps: 100 → 200",
            "allows": False,
            "accepted": True,
        }
    ]


def test_what_nobody_can_tell_stops_too():
    new(lambda draft: draft.cedar.update(works=draft.cedar["works"].replace("< 50", "< 51")))
    assert told("--probe", "0", code=1)["counts"]["changed"] == 1  # type: ignore[index]
    assert "1 change is accepted" in call("--accept", "policy:works", "--probe", "0").stdout


def test_one_that_is_left_open_is_enough():
    new(lambda draft: [untaints(draft), raises_steps(draft)])
    accepted = ("--accept", "policy:tainted", "--accept", "case:cases/all.yaml#*", "--accept", "limit:*")
    assert told(*accepted[:-2], "--probe", "0", code=1)["unaccepted"] == 1
    call(*accepted, "--probe", "0")


def test_what_may_run_now_is_the_headline():
    new(untaints)
    said = call("--probe", "0", code=1)
    assert said.stdout.startswith("▲ 1 action of those that were tried may run now")
    assert "not probed" in said.stdout


@pytest.mark.parametrize("name", ["limit:max_step", "agent:*"])
def test_an_accepted_id_that_names_nothing_is_a_wrong_call(name):
    new(raises_steps)
    said = call("--accept", "limit:max_steps", "--accept", name, "--probe", "0", code=2)
    assert "limit:max_steps" in said.stdout, "what differs is shown all the same"
    assert f"`--accept {name}` names no change" in said.stderr


def test_a_tightening_is_nothing_to_accept():
    new(lambda draft: draft.limits.update(max_steps=5))
    call("--accept", "limit:max_steps", "--probe", "0", code=2)


def test_recorded_actions_are_judged_under_both():
    new(untaints)
    said = told("--recorded", record(*LINES), "--probe", "0", code=1)
    assert said["recorded"] == 2
    assert said["allowed"] == [FLIP, "recorded:2"]


def test_a_probe_shows_what_no_case_does():
    new(
        lambda draft: draft.cedar.update(
            more='permit (principal in Team::"sales", action in Action::"read", resource);'
        )
    )
    said = told("--accept", "policy:more", "--accept", "probe:clerk:*")
    assert said["allowed"] == ["probe:clerk:crm/search", "probe:clerk:git/log"]
    assert said["probe"]["tried"] == said["probe"]["planned"]  # type: ignore[index]
    assert "a probe, no proof" in call(code=1).stdout


@pytest.mark.parametrize(("lines", "said"), [([{"agent": "coder"}], "`day.jsonl:1`"), ([], "no action is in it")])
def test_a_record_that_proves_nothing_is_a_wrong_call(lines, said):
    new(untaints)
    assert said in call("--recorded", record(*lines), code=2).stderr


def test_a_record_that_is_not_there_is_a_wrong_call():
    new()
    assert "day.jsonl" in call("--recorded", "day.jsonl", code=2).stderr


def test_a_side_that_is_not_there_is_a_wrong_call():
    assert "`new`: it is not there" in call(code=2).stderr


@pytest.mark.parametrize("side", ["old", "new"])
def test_a_side_that_does_not_compile_is_no_agreement(side):
    new()
    lay(Path(side), {"rules.cedar": b"permit (principal, action, resource) when { nothing };"})
    said = call(code=1).stderr
    assert said.startswith(f"error: `{side}`: `rules.cedar:1`")


def test_a_side_without_cases_proves_nothing():
    new()
    lay(Path("new"), {"cases/all.yaml": b"[]"})
    lay(Path("new"), {"limits.json": b"{}"})
    assert "no case" in call(code=1).stderr


def test_bundles_are_compared_as_they_are():
    new(raises_steps)
    lay(
        Path(),
        {"old.tar.gz": write_archive(edited().files()), "new.tar.gz": write_archive(edited(raises_steps).files())},
    )
    result = CliRunner().invoke(app, ["diff", "old.tar.gz", "new.tar.gz", "--json"])
    assert result.exit_code == 1, result.output + result.stderr
    assert [each["id"] for each in json.loads(result.stdout)["changes"]] == ["limit:max_steps"]


def test_a_probe_that_had_no_time_finds_no_accepted_id_wrong():
    """A slower machine comes to less: what stands in a pipeline must not fail there for that."""
    new(lambda draft: draft.limits.update(max_steps=5))
    call("--accept", "probe:clerk:git/log", "--probe", "0")
    call("--accept", "probe:clerk:git/log", code=2)


def test_names_do_not_reach_the_terminal_as_they_are():
    new(lambda draft: draft.tools["git/log"].update(environment="\x1b[2Jprod\n"))
    assert told("--probe", "0")["changes"][0]["text"] == r"where it acts: `` → `\x1b[2Jprod\n`"  # type: ignore[index]


def test_what_is_no_bundle_is_named():
    new()
    Path("old.tar.gz").write_bytes(b"no archive")
    result = CliRunner().invoke(app, ["diff", "old.tar.gz", "new"])
    assert result.exit_code == 1
    assert "`old.tar.gz`" in result.stderr


def test_rego_needs_opa():
    lay(Path("new"), sources())
    assert "`opa` is needed" in call(code=64).stderr


def test_the_table_is_short_and_begins_with_what_is_wider(monkeypatch):
    def edit(draft: Draft) -> None:
        raises_steps(draft)
        draft.limits["max_lifetime_s"] = 1
        for number in range(60):
            draft.agents[f"robot {number}"] = {"owner": "a@example.com"}

    new(edit)
    monkeypatch.setattr("exequatur.cli.console.console._width", 80)
    lines = call("--probe", "0", code=1).stdout.splitlines()
    assert lines[0] == "wider (61)"
    assert any(line.strip().startswith("and 21 more: see `--json`") for line in lines)
    assert lines.index("tighter (1)") > 40
    assert "61 to accept" in lines[-1]
    assert max(map(len, lines)) <= 80


def test_a_bundle_for_an_opa_server_is_judged_by_one(monkeypatch):
    monkeypatch.setenv("EXEQUATUR_OPA", OPA)
    files = sources()
    files["exequatur.json"] = files["exequatur.json"].replace(b'"rego"', b'"opa"')
    lay(Path("mail"), files)
    files["decision.rego"] = files["decision.rego"].replace(b"count(parts) == 2", b"count(parts) >= 2")
    files["data.json"] = files["data.json"].replace(b'"example.com"', b'"elsewhere.example", "example.com"')
    files["NOTES"] = b"an OPA server gets each file of a bundle"
    lay(Path("mail2"), files)
    result = CliRunner().invoke(app, ["diff", "mail", "mail2", "--json"])
    assert result.exit_code == 1, result.output + result.stderr
    ids = {each["id"]: each["direction"] for each in json.loads(result.stdout)["changes"]}
    assert ids == {
        "data:mail/domains": "changed",
        "opa:NOTES": "changed",
        "rego:exequatur.our_address": "changed",
        "case:cases/mail.yaml#and to nobody else": "wider",
        "case:cases/mail.yaml#a second address does not hide behind the first": "wider",
    }
