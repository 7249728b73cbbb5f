"""Each planted mistake is found at its file and line, it alone, and in good policy there is nothing to find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from pdp.bundle.build import read_folder
from pdp.policy.check.findings import KINDS
from pdp.policy.check.whole import check
from policies import AGENTS, as_json, manifest, opa, tool
from policy_mistakes import CASES, good, tools

ROOT = Path(__file__).parents[4]


@dataclass(frozen=True)
class Plant:
    """A mistake: what to put into which file, and the text on whose line it must be found."""

    code: str
    file: str
    text: str
    needle: str
    instead_of: str = ""

    def into(self, files: dict[str, bytes]) -> tuple[str, int]:
        """Plant it; gives file and line."""
        old = files.get(self.file, b"").decode()
        assert self.instead_of in old
        new = old.replace(self.instead_of, self.text, 1) if self.instead_of else f"{old}{self.text}\n"
        files[self.file] = new.encode()
        at = new.index(self.needle) if self.instead_of else new.rindex(self.needle)
        return self.file, new.count("\n", 0, at) + 1


def cedar(code: str, body: str, needle: str, head: str = '@id("new")\n@reason("new")\n') -> Plant:
    return Plant(code, "policy.cedar", head + body, needle)


def rego(code: str, text: str, needle: str = "HERE") -> Plant:
    """Take a rule whose line of the mistake ends in `# HERE`."""
    return Plant(code, "decision.rego", text, needle)


IN_CEDAR = {
    "one equals sign": cedar(
        "EX101", "forbid (principal, action, resource)\nwhen { context.tool.bulk = true };", "@id"
    ),
    "a bracket left open": cedar("EX101", "forbid (principal, action, resource\nwhen { true };", "@id"),
    "another type": cedar("EX201", "forbid (principal, action, resource)\nwhen { context.tool.name == 3 };", "@id"),
    "a misspelt tool": cedar(
        "EX202", 'forbid (\n    principal,\n    action == Action::"git/lag",\n    resource\n);', "git/lag"
    ),
    "a misspelt group": cedar("EX202", 'forbid (principal,\n    action in Action::"wirte",\n    resource);', "wirte"),
    "a misspelt agent": cedar("EX203", 'forbid (\n    principal == Agent::"codr",\n    action, resource);', "codr"),
    "a misspelt team": cedar("EX204", 'forbid (principal in\n    Team::"sale", action, resource);', "sale"),
    "a misspelt argument": cedar(
        "EX205",
        'forbid (principal, action == Action::"git/commit", resource)\nwhen { context.input.mesage == "" };',
        "mesage",
    ),
    "a misspelt fact": cedar(
        "EX205", "forbid (principal, action, resource)\nwhen {\n  context.session.stepps > 3 };", "stepps"
    ),
    "a misspelt effect": cedar(
        "EX206",
        "forbid (principal, action, resource) when { context.tool.bulk };",
        "wran",
        '@id("new")\n@effect("wran")\n',
    ),
    "an unknown annotation": cedar(
        "EX206", "forbid (principal, action, resource);", "severity", '@id("new")\n@severity("high")\n'
    ),
    "a value that is not": cedar(
        "EX207", 'forbid (principal, action, resource)\nwhen { context.tool.access == "wirte" };', "wirte"
    ),
    "a day that is not": cedar(
        "EX207",
        'forbid (principal, action, resource)\nwhen {\n  ["sundey"].contains(context.request.weekday) };',
        "sundey",
    ),
    "a label that nothing brings": cedar(
        "EX208",
        'forbid (principal, action, resource)\nwhen { context.session.labels.contains("pii-read") };',
        "pii-read",
    ),
    "an id twice": cedar(
        "EX210",
        "forbid (principal, action, resource) when { context.tool.bulk };",
        "@id",
        '@id("permit.read")\n@reason("new")\n',
    ),
    "no id": cedar(
        "EX211", "forbid (principal, action, resource) when { context.tool.bulk };", "@reason", '@reason("new")\n'
    ),
    "no reason": cedar(
        "EX212", "forbid (principal, action, resource) when { context.tool.bulk };", "@id", '@id("new")\n'
    ),
    "never": cedar("EX301", "forbid (principal, action, resource)\nwhen { false };", "@id"),
    "unless always": cedar("EX301", "forbid (principal, action, resource)\nunless { 1 == 1 };", "@id"),
    "two values at once": cedar(
        "EX301",
        'forbid (principal, action, resource)\nwhen { context.tool.server == "git" &&\n  context.tool.server == "crm" };',
        '"crm"',
    ),
    "an agent of another team": cedar(
        "EX301", 'forbid (principal == Agent::"coder", action, resource)\nwhen { principal in Team::"sales" };', "sales"
    ),
    "an equal group": cedar("EX301", 'forbid (principal, action == Action::"write", resource);', "@id"),
    "a tool on another resource": cedar(
        "EX302", 'forbid (principal, action == Action::"git/log", resource is Shell);', "@id"
    ),
    "an empty group": cedar("EX303", 'forbid (\n    principal, action in Action::"egress", resource);', "egress"),
    "an empty group in a list": cedar(
        "EX303", 'forbid (principal, action in [\n    Action::"bulk",\n    Action::"egress"], resource);', "egress"
    ),
    "an optional field": cedar(
        "EX403",
        'forbid (principal, action == Action::"git/log", resource)\nwhen { context.input.max_count > 10 };',
        "max_count",
    ),
    "a product": cedar(
        "EX404",
        'forbid (principal, action == Action::"bank/pay", resource)\nwhen {\n  context.input.amount * context.input.rate > 10 };',
        "rate",
    ),
    "everything to everybody": cedar("EX501", "permit (principal, action, resource is Shell);", "@id"),
    "everything when true is true": cedar(
        "EX501", "permit (principal, action, resource is Shell)\nwhen { true } unless { false };", "@id"
    ),
    "a permit on untyped arguments": cedar(
        "EX502", 'permit (principal in Team::"sales", action == Action::"crm/search", resource);', "@id"
    ),
}
IN_FILES = {
    "a misspelt limit": Plant("EX601", "limits.json", '\n"max_stepps"', "max_stepps", '"max_steps"'),
    "a definition that changed": Plant("EX601", "tools.json", "commit of Git", "commit of Git", "commit of git"),
    "outage where it may not be": Plant(
        "EX602",
        "tools.json",
        '\n"outage": "warn", "resource": {"type": "Payment"}',
        '"outage": "warn", "resource": {"type": "Pay',
        '"resource": {"type": "Payment"}',
    ),
    "no case": Plant("EX603", "cases/all.yaml", "[]", "[]", CASES),
    "a case that cannot be read": Plant("EX604", "cases/all.yaml", "alow", "alow", "allow"),
    "a case of a stranger": Plant("EX203", "cases/all.yaml", "codr", "- name: log", "coder"),
    "a case of no tool": Plant("EX202", "cases/all.yaml", "git/lag", "- name: log", "git/log"),
    "policy that nothing reads": Plant("EX605", "late.rego", "package late", "package"),
    "policy by another ending": Plant("EX605", "late.ceder", "permit (principal, action, resource);", "permit"),
    "cases in another folder": Plant("EX605", "case/late.yaml", "[]", "[]"),
    "a name that no bundle takes": Plant("EX601", "spät.cedar", "//", "//"),
    "not even JSON": Plant("EX601", "agents.json", "{", "{", as_json({"agents": AGENTS}).decode()),
}
IN_REGO = {
    "a bracket left open": rego("EX102", "warn contains 1 if {\n\tinput.tool.bulk", ""),
    "a variable that is not": rego("EX102", "warn contains 1 if {\n\tbulk # HERE\n}"),
    "text against number": rego("EX201", 'warn contains 1 if {\n\tinput.session.steps == "3" # HERE\n}'),
    "a misspelt tool": rego("EX202", 'warn contains 1 if {\n\tinput.tool.name == "comit" # HERE\n}'),
    "a misspelt full name": rego(
        "EX202", 'warn contains 1 if {\n\ttool in {\n\t\t"git/log",\n\t\t"git/lag"}\n}', "tool in"
    ),
    "a misspelt agent": rego("EX203", 'warn contains 1 if input.agent.id == "codr" # HERE'),
    "a misspelt team": rego("EX204", 'warn contains 1 if "sale" in input.agent.teams # HERE'),
    "a misspelt part": rego("EX205", "warn contains 1 if input.sesion.steps > 3 # HERE"),
    "a misspelt argument": rego("EX205", 'warn contains 1 if {\n\targuments.mesage == "" # HERE\n}'),
    "a value that is not": rego("EX207", 'warn contains 1 if input.tool.access == "wirte" # HERE'),
    "a call of no tool": rego("EX205", 'warn contains 1 if object.get(input.session.calls, "git/lag", 0) > 3 # HERE'),
    "a member of the answer": rego(
        "EX605", 'decision := {"dney": warn} if false_once # HERE\n\nfalse_once if input.tool.bulk'
    ),
    "a member of an entry": rego("EX605", 'warn contains {"id": "a", "raeson": "b"} if input.tool.bulk # HERE'),
    "data that is not": rego("EX209", "warn contains 1 if {\n\tinput.tool.name in data.names # HERE\n}"),
    "never": rego("EX301", "warn contains 1 if {\n\tinput.tool.bulk\n\tfalse # HERE\n}"),
    "two constants": rego("EX301", 'warn contains 1 if "prod" == "dev" # HERE'),
    "two values at once": rego(
        "EX301",
        'warn contains 1 if {\n\tinput.request.weekday == "sunday"\n\tinput.request.weekday == "monday" # HERE\n}',
    ),
    "another tool's argument": rego(
        "EX304", 'warn contains 1 if {\n\tinput.tool.name == "log"\n\tinput.input.command == "rm" # HERE\n}'
    ),
    "a denial that is forgotten": Plant(
        "EX305", "late.rego", "package late\n\ndeny contains 1 if input.tool.bulk", "deny"
    ),
    "a helper that is forgotten": rego("EX306", "helper if input.tool.bulk # HERE"),
    "a tool of another server": rego(
        "EX307", 'warn contains 1 if {\n\tinput.tool.server == "git"\n\tinput.tool.name == "run" # HERE\n}'
    ),
    "an optional argument": rego("EX401", "warn contains 1 if {\n\tsearches\n\tinput.input.limit > 10 # HERE\n}"),
    "an optional argument in the message": rego(
        "EX401", 'warn contains sprintf("%v", [input.input.limit]) if searches # HERE'
    ),
    "an optional argument by the way": rego("EX401", "warn contains 1 if far\n\nfar if input.input.limit > 10 # HERE"),
    "an optional argument turned round twice": rego(
        "EX401", "warn contains 1 if {\n\tsearches\n\tnot near\n}\n\nnear if not input.input.limit > 10 # HERE"
    ),
    "an optional argument handed on": rego(
        "EX401", "warn contains 1 if {\n\tlimit := arguments.limit # HERE\n\tlarge(limit)\n}\n\nlarge(n) if n > 10"
    ),
    "an optional member": rego(
        "EX401", 'warn contains 1 if object.get(input.input.filter, "country", "") == "" # HERE'
    ),
    "a call that was never made": rego("EX401", 'warn contains 1 if input.session.calls["git/log"] < 3 # HERE'),
    "text as number": rego("EX402", "warn contains 1 if to_number(input.input.message) > 3 # HERE"),
    "a pattern of the agent's": rego("EX402", 'warn contains 1 if regex.match(input.input.message, "rm") # HERE'),
    "a pattern handed on": rego(
        "EX402",
        "warn contains 1 if like(input.input.message)\n\nlike(pattern) if regex.match(pattern, input.tool.name) # HERE",
    ),
    "a division": rego("EX402", "warn contains 1 if {\n\t100 / input.session.steps > 3 # HERE\n}"),
    "a time of the agent's": rego("EX402", "warn contains 1 if time.parse_rfc3339_ns(input.input.message) > 3 # HERE"),
}


def seen(files: Mapping[str, bytes]) -> list[tuple[str, str, int]]:
    return [(each.code, each.file, each.line) for each in check(files, Path(opa()))]


@pytest.mark.parametrize("plant", IN_CEDAR.values(), ids=IN_CEDAR)
def test_mistake_in_cedar_is_found_where_it_is_and_nothing_else(plant: Plant) -> None:
    files = good(rego=False)
    place = plant.into(files)
    assert seen(files) == [(plant.code, *place)]


@pytest.mark.parametrize("plant", IN_FILES.values(), ids=IN_FILES)
def test_mistake_in_a_file_is_found_where_it_is_and_nothing_else(plant: Plant) -> None:
    files = good(rego=False)
    place = plant.into(files)
    assert seen(files) == [(plant.code, *place)]


@pytest.mark.parametrize("plant", IN_REGO.values(), ids=IN_REGO)
def test_mistake_in_rego_is_found_where_it_is_and_nothing_else(plant: Plant) -> None:
    files = good()
    place = plant.into(files)
    assert seen(files) == [(plant.code, *place)]


def test_value_that_an_argument_never_has_is_found_with_those_that_it_has() -> None:
    files = good(rego=False)
    properties = {"currency": {"type": "string", "enum": ["EUR", "USD"]}}
    files["tools.json"] = as_json(
        {"tools": {**tools(), "bank/charge": tool("bank", "charge", properties, [], access="write")}}
    )
    more = '@id("new")\n@reason("new")\nforbid (principal, action == Action::"bank/charge", resource)\n'
    files["policy.cedar"] += (more + 'when { context.input has currency && context.input.currency == "eur" };').encode()
    values = [each for each in check(files, None) if each.code == "EX207"]
    assert [each.fix for each in values] == ["use one of the values that it can have: `EUR`, `USD`"]


def test_good_policy_has_nothing_to_find() -> None:
    assert seen(good()) == []
    assert seen(good(rego=False)) == []


@pytest.mark.parametrize(
    "folder", ["policies/coding-agent", "policies/finance", "policies/support-triage", "exequatur/cli/starter"]
)
def test_what_we_ship_has_nothing_to_find(folder: str) -> None:
    assert seen(read_folder(ROOT / folder)) == []


def test_one_mistake_hides_no_other() -> None:
    files = good()
    left_out = {"everything to everybody", "no case", "a bracket left open", "a permit on untyped arguments"}
    plants = [plant for name, plant in IN_CEDAR.items() if name not in left_out and not name.startswith("a bracket")]
    more = ["never", "an optional argument", "data that is not", "text as number", "a helper that is forgotten"]
    plants += [IN_REGO[name] for name in more]
    plants += [IN_FILES["a misspelt limit"], IN_FILES["a case that cannot be read"]]
    wanted = {(plant.code, *plant.into(files)) for plant in plants}
    assert wanted - {*seen(files)} == set()


def test_allow_without_a_condition_is_too_wide() -> None:
    policy = 'package exequatur\n\ndecision := {"allow": allow}\n\ndefault allow := true\n'
    files = {name: data for name, data in good(rego=False).items() if name != "policy.cedar"}
    files |= {"exequatur.json": manifest(("rego", "decide")), "decision.rego": policy.encode()}
    assert seen(files) == [("EX501", "decision.rego", 5)]


def test_wrong_link_is_found_beside_its_template() -> None:
    files = good(rego=False)
    template = '@id("for.one")\n@reason("not for you")\nforbid (principal == ?principal, action, resource);\n'
    link = {"id": "for.codr", "template": "for.one", "principal": {"type": "Agent", "id": "codr"}}
    files["policy.cedar"] += template.encode()
    files["links.json"] = b'{"links": [\n' + as_json(link) + b"]}"
    assert seen(files) == [("EX203", "links.json", 2)]
    files["links.json"] = as_json({"links": [{**link, "principal": {"type": "Agent", "id": "coder"}}]})
    assert seen(files) == []


def test_entry_point_that_is_not_there_is_found() -> None:
    files = good()
    files["exequatur.json"] = files["exequatur.json"].replace(b"exequatur/decision", b"exequatur/decison")
    assert seen(files) == [("EX605", "exequatur.json", 2)]


def test_file_that_would_take_opa_minutes_is_not_given_to_it() -> None:
    files = good()
    files["deep.rego"] = b"package deep\n\nx := " + b"[" * 2000 + b"]" * 2000
    assert seen(files) == [("EX102", "deep.rego", 1)]


def test_every_code_is_planted_once() -> None:
    planted = {plant.code for plants in (IN_CEDAR, IN_REGO, IN_FILES) for plant in plants.values()}
    assert {kind.code for kind in KINDS} - planted == set()
