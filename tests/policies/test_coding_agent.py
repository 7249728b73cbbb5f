"""The coding-agent pack: what its rules and its cases promise each other."""

from __future__ import annotations

import copy
import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exequatur.action import Claims
from exequatur.trust.bundle import verify
from exequatur.trust.keys import parse_public_keys
from pdp.engine import rego
from pdp.engine.document import Facts, rego_document
from pdp.engine.snapshot import Snapshot
from pdp.engine.statements import read_statements
from pdp.model import Effect, Intent, Session, Verdict

ROOT = Path(__file__).parents[2]
PACK = ROOT / "policies" / "coding-agent"
NOW = dt.datetime(2026, 1, 5, 10, tzinfo=dt.UTC)

CASES: list[dict[str, Any]] = [
    case for path in sorted((PACK / "cases").glob("*.yaml")) for case in yaml.safe_load(path.read_text())
]


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    keys = parse_public_keys({path.name: path.read_bytes() for path in (ROOT / "bundles" / "keys").iterdir()})
    return Snapshot.load(verify((ROOT / "bundles" / "coding-agent.tar.gz").read_bytes(), keys, now=NOW))


def facts(snapshot: Snapshot, case: dict[str, Any]) -> Facts:
    tool = snapshot.registry.tools[case["tool"]]
    given = case.get("session", {})
    session = Session(
        id="s",
        tenant="default",
        agent=case["agent"],
        instance="",
        enforcer="e",
        opened_at=NOW,
        expires_at=NOW + dt.timedelta(hours=1),
        max_steps=1,
        budget_microusd=0,
        intent=Intent(given.get("purpose", "")),
        labels=frozenset(given.get("labels", ())),
    )
    resource = tool.resolve(case["arguments"])
    agent = snapshot.agents[case["agent"]]
    return Facts(agent, session, tool, resource, case["arguments"], Claims(), NOW, "cooperative")


def rego_rules() -> dict[str, list[dict[str, str]]]:
    """Each rule's entries by id, out of the source."""
    found: dict[str, list[dict[str, str]]] = {}
    for path in PACK.glob("*.rego"):
        for entry in re.findall(r"contains (\{.*?\}) if", path.read_text(), re.DOTALL):
            fields = dict(re.findall(r'"(\w+)": "([^"]*)"', entry))
            found.setdefault(fields["id"], []).append(fields)
    return found


def cedar_rules() -> dict[str, Any]:
    return {rule.id: rule for rule in read_statements({path.name: path.read_bytes() for path in PACK.glob("*.cedar")})}


RULES = sorted({*rego_rules(), *cedar_rules()})


def test_no_id_is_in_both_languages():
    assert not rego_rules().keys() & cedar_rules().keys()
    assert len(rego_rules()) > 15
    assert len(cedar_rules()) > 10


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_a_tag_and_a_reason_that_a_model_can_act_on(rule):
    texts = [(e["reason"], e["owasp"]) for e in rego_rules().get(rule, ())]
    texts += [(r.reason, r.owasp) for r in (cedar_rules().get(rule),) if r]
    for reason, owasp in texts:
        assert re.fullmatch(r"ASI(0[1-9]|10)", owasp)
        assert re.fullmatch(r"[a-z].{20,}[^.]", reason)


@pytest.mark.parametrize("rule", [rule for rule in RULES if not rule.startswith("permit.")])
def test_every_rule_has_a_case_that_fires_and_one_that_nearly_does(rule):
    fires = [case for case in CASES if rule in case["want"].get("policies", ())]
    assert fires, "no case expects it"
    (effect,) = {case["want"]["effect"] for case in fires}
    servers = {case["tool"].split("/")[0] for case in fires}
    near = [case for case in CASES if case["tool"].split("/")[0] in servers and case["want"]["effect"] != effect]
    assert near, "no case comes near it"


def test_every_permit_has_a_case():
    wanted = {policy for case in CASES for policy in case["want"].get("policies", ())}
    permits = {rule for rule in RULES if rule.startswith("permit.")} - {"permit.engineering-releases"}
    assert permits <= wanted


def test_the_readme_lists_each_rule_with_its_tag():
    listed = dict(re.findall(r"^\| `([\w.-]+)` \|.*\| (ASI\d\d) \|$", (PACK / "README.md").read_text(), re.MULTILINE))
    tags = {rule: entries[0]["owasp"] for rule, entries in rego_rules().items()}
    tags |= {rule: found.owasp for rule, found in cedar_rules().items() if not found.permits}
    assert listed == tags


def denied_by_rego() -> list[dict[str, Any]]:
    return [
        case
        for case in CASES
        if case["want"]["effect"] == "deny" and set(case["want"].get("policies", ())) & rego_rules().keys()
    ]


def without(document: Any) -> list[tuple[str, Any]]:
    """The document with each one member left out, the arguments themselves and their names aside."""
    found = []

    def walk(node: Any, path: list[str]) -> None:
        if not isinstance(node, dict) or path[:1] == ["input"]:
            return
        for name in node:
            found.append(("/".join([*path, name]), _dropped(document, [*path, name])))
            walk(node[name], [*path, name])

    walk(document, [])
    return found


def _dropped(document: Any, path: list[str]) -> Any:
    changed = copy.deepcopy(document)
    node = changed
    for name in path[:-1]:
        node = node[name]
    del node[path[-1]]
    return changed


@pytest.mark.parametrize("case", denied_by_rego(), ids=lambda case: case["name"])
def test_a_missing_fact_never_makes_a_denial_vanish(snapshot, monkeypatch, case):
    """All that policy reads but for the arguments: a fact that is not there must not help whoever asks."""
    (engine,) = (engine for spec, engine in snapshot.engines if spec.engine == "rego")
    given = facts(snapshot, case)
    for path, document in without(rego_document(given)):
        if path == "input":
            continue
        monkeypatch.setattr(rego, "rego_document", lambda _, document=document: document)
        verdict: Verdict = engine.judge(given)
        assert verdict.effect is Effect.DENY, path


LISTS = json.loads((PACK / "data.json").read_text())["lists"]
DIRS = st.lists(st.sampled_from(["src", "a b", "x=1", "Docs", "..."]), max_size=2)


@st.composite
def listed_path(draw: st.DrawFn, names: list[str]) -> str:
    """An absolute path in the workspace, or from the root, that holds one of the listed names in some spelling."""
    name = draw(st.sampled_from(names))
    whole = name if name.startswith("/") else f"/a{name}"
    whole = whole if whole.endswith("/") else f"{whole}b/"
    if not whole.startswith("//"):
        whole = "/" + "/".join(["workspace", *draw(DIRS)]) + whole
    folded = "".join(draw(st.sampled_from([c.lower(), c.upper()])) for c in whole[len("/workspace") :])
    within = whole.startswith("/workspace")
    return (("/workspace" + folded) if within else whole[1:]).rstrip("/")


def ways(path: str) -> list[tuple[str, dict[str, Any]]]:
    """The ways to get at a path through the tools."""
    repository, relative = {"repo_path": "/workspace"}, path.removeprefix("/workspace/")
    return [
        ("fs/write_file", {"path": path, "content": ""}),
        ("fs/delete_path", {"path": path}),
        ("git/git_add", {**repository, "files": ["src/a.py", relative]}),
        ("shell/exec", {"argv": ["tee", path], "cwd": "/workspace"}),
        ("shell/run", {"command": f"tee '{relative}'", "cwd": "/workspace"}),
        ("shell/run", {"command": f"echo x >{relative.replace(' ', '_')}", "cwd": "/workspace"}),
    ]


def readings(path: str) -> list[tuple[str, dict[str, Any]]]:
    repository, relative = {"repo_path": "/workspace"}, path.removeprefix("/workspace/")
    return [
        ("fs/read_file", {"path": path}),
        ("git/git_show", {**repository, "revision": f"HEAD~3:{relative}"}),
        ("git/git_diff", {**repository, "target": f":0:{relative}"}),
        ("shell/run", {"command": f'cat "{path}"', "cwd": "/workspace"}),
        ("shell/run", {"command": f"cat src/a.py;cat -- '{path}'", "cwd": "/workspace"}),
        ("shell/exec", {"argv": ["grep", f"--file={path}", "src/a.py"], "cwd": "/workspace"}),
    ]


MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@MANY
@given(path=listed_path(LISTS["secrets"]))
def test_a_secret_is_out_of_reach_by_every_way_in_every_spelling(snapshot, path):
    for tool, arguments in [*readings(path), *ways(path)]:
        verdict = snapshot.judge(facts(snapshot, {"agent": "coder", "tool": tool, "arguments": arguments}))
        assert verdict.effect is Effect.DENY
        assert "files.secret" in {reason.policy for reason in verdict.reasons}, tool


@MANY
@given(path=listed_path(LISTS["protected"]))
def test_what_others_run_is_not_changed_by_any_way_in_any_spelling(snapshot, path):
    for tool, arguments in ways(path):
        verdict = snapshot.judge(facts(snapshot, {"agent": "coder", "tool": tool, "arguments": arguments}))
        assert verdict.effect is Effect.DENY
        assert "files.protected" in {reason.policy for reason in verdict.reasons}, tool


def test_no_reason_shows_an_argument(snapshot):
    for case in denied_by_rego():
        for reason in snapshot.judge(facts(snapshot, case)).reasons:
            for value in case["arguments"].values():
                assert str(value) not in reason.text


def test_the_largest_write_and_the_longest_command_are_judged_within_their_fuel(snapshot):
    write = {"path": "/workspace/a.txt", "content": "x = 1\n" * 10_000}
    case = {"agent": "coder", "tool": "fs/write_file", "arguments": write}
    assert snapshot.judge(facts(snapshot, case)).effect is Effect.ALLOW
    line = {"command": "pytest " + "tests/test_a.py " * 600, "cwd": "/workspace"}
    assert snapshot.judge(facts(snapshot, {**case, "tool": "shell/run", "arguments": line})).effect is Effect.ALLOW
