"""`exequatur policy eval` and `explain` as authors call them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from exequatur.cli.policy import app
from policies import opa
from publisher import built
from trying import compile_once

MAIL = {"agent": "assistant", "tool": "mail/send", "arguments": {"to": "anna@elsewhere.example", "text": "t"}}
READ = {"agent": "assistant", "tool": "notes/read", "arguments": {"path": "/notes/a.md"}}


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch):
    """A folder with a bundle and two actions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXEQUATUR_OPA", opa())
    compile_once(monkeypatch)
    Path("b.tar.gz").write_bytes(built().archive)
    Path("mail.json").write_text(json.dumps(MAIL))
    Path("read.json").write_text(json.dumps(READ))


def call(verb: str, *arguments: str, code: int = 0, stdin: str = ""):
    result = CliRunner().invoke(app, [verb, "b.tar.gz", *arguments], input=stdin)
    assert result.exit_code == code, result.output + result.stderr
    return result


def told(verb: str, *arguments: str, code: int = 0, stdin: str = ""):
    return json.loads(call(verb, *arguments, "--json", code=code, stdin=stdin).stdout)


def test_each_engine_gives_its_own_verdict_beside_what_comes_of_both():
    value = told("eval", "mail.json", code=1)
    assert value["effect"] == "deny"
    cedar, rego = value["engines"]
    assert (cedar["engine"], cedar["role"], cedar["effect"]) == ("cedar", "decide", "allow")
    assert (rego["engine"], rego["role"], rego["effect"]) == ("rego", "restrict", "deny")
    assert rego["reasons"][0]["policy"] == "mail.domain"
    assert "documents" not in value


def test_an_action_comes_from_a_file_or_from_standard_input():
    assert told("eval", "read.json")["effect"] == "allow"
    assert told("eval", "-", stdin=json.dumps(READ))["effect"] == "allow"


def test_documents_are_what_each_engine_saw():
    Path("s.json").write_text('{"labels": ["untrusted_input"], "steps": 3}')
    value = told(
        "eval", "mail.json", "--document", "--session", "s.json", "--time", "2026-01-05T19:30:00+01:00", code=1
    )
    cedar, rego = value["documents"]["cedar"], value["documents"]["rego"]
    assert cedar["context"] == {"session": {"labels": ["untrusted_input"]}}  # all that a policy about it reads
    assert cedar["action"] == {"type": "Action", "id": "mail/send"}
    assert rego["input"] == MAIL["arguments"]
    assert (rego["session"]["steps"], rego["request"]["hour"], rego["tool"]["door"]) == (3, 18, "cooperative")
    assert (
        told("eval", "mail.json", "--document", "--door-enforced", code=1)["documents"]["rego"]["tool"]["door"]
        == "enforced"
    )


def test_people_see_the_verdicts_and_the_reasons():
    said = call("eval", "mail.json", "--document", code=1).stdout
    for words in ("DENY  mail/send  by assistant", "cedar decides: allow", "rego restricts: deny", "what rego saw"):
        assert words in said


def test_a_query_is_answered_with_and_without_an_action():
    assert told("eval", "--query", "data.mail.domains[0]") == {"results": [["example.com"]]}
    assert told("eval", "mail.json", "--query", "x := data.exequatur.deny[_].id") == {"results": [{"x": "mail.domain"}]}
    assert told("eval", "--query", "data.nothing", code=1) == {"results": []}
    line = call("eval", "--query", "data.", code=1).stderr
    assert "`opa eval` failed" in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("eval",), "name an action"),
        (("explain",), "name an action"),
        (("explain", "mail.json", "--case", "a"), "name an action"),
        (("eval", "mail.json", "--time", "today"), "`--time` must be a time"),
        (("eval", "none.json"), "`none.json` cannot be read"),
        (("eval", "mail.json", "--session", "none.json"), "`none.json` cannot be read"),
        (("explain", "--case", "no such"), "no case is called `no such`"),
        (("explain", "--case", "a"), "cases are called `a`: "),
    ],
)
def test_a_wrong_call_is_a_2_with_one_line(arguments, why):
    line = call(*arguments, code=2).stderr
    assert why in line
    assert line.count("\n") == 1


def test_an_action_is_explained_policy_by_policy():
    value = told("explain", "mail.json", code=1)
    cedar, rego = value["engines"]
    assert cedar["elsewhere"] == {"actions": 2}
    assert [(each["policy"], each["state"]) for each in cedar["policies"]] == [
        ("office.works", "applied"),
        ("mail.untrusted", "stopped"),
    ]
    because = cedar["policies"][1]["because"]
    assert because["text"] == 'context.session.labels.contains("untrusted_input")'
    assert (because["file"], because["line"], because["was"]) == ("restrictions.cedar", 13, "was false")
    assert {each["policy"]: each["state"] for each in rego["policies"]}["mail.domain"] == "applied"


def test_a_case_is_explained_by_its_name_or_a_part_of_it():
    assert told("explain", "--case", "a template is seen")["effect"] == "warn"
    assert told("explain", "--case", "template")["where"] == "cases/notes.yaml:22"


def test_the_tree_fits_a_terminal_and_says_where_things_ended():
    said = call("explain", "mail.json", code=1).stdout
    assert max(map(len, said.splitlines())) <= 140
    for words in (
        "DENY  mail/send  by assistant",
        "✓ office.works  permits  permits.cedar:11",
        "· mail.untrusted  wants approval  restrictions.cedar:13",
        "context.session.labels = []",
        "2 policies are about other actions",
        "✓ mail.domain  deny  decision.rego:",
        'input.tool.server == "notes"  was not true',
    ):
        assert words in said


def test_a_refusal_before_the_engines_is_called_so():
    Path("out.json").write_text(json.dumps({**READ, "arguments": {"path": "/notes/../x"}}))
    value = told("explain", "out.json", code=1)
    assert (value["asked"], value["engines"], value["reasons"][0]["kind"]) == (False, [], "invalid")
    for verb in ("explain", "eval"):
        shown = call(verb, "out.json", code=1).stdout
        assert "no engine was asked" in shown
        assert value["reasons"][0]["text"] in " ".join(shown.split())
