"""Rego and its data, compared: what a rule says counts, and neither how it is written nor where."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import pytest

from exequatur.registry import Registry
from pdp.bundle import build, cases
from pdp.engine.snapshot import Snapshot
from pdp.policy.diff import meaning
from pdp.policy.diff.change import Direction
from pdp.policy.diff.mentions import Mentions
from pdp.policy.opening import Opened
from policies import opa
from publisher import STARTER, sources

RULES = (STARTER / "decision.rego").read_text()
FACTS = """package exequatur.facts
our_address if {
\tparts := split(lower(object.get(input.input, "to", "")), "@")
\tcount(parts) == 2
\tparts[1] in data.mail.domains
}
"""
PARTED = RULES[: RULES.index("our_address if")].replace("not our_address", "not facts.our_address")
PARTED = PARTED.replace("package exequatur\n", "package exequatur\nimport data.exequatur.facts\n")
"""The starter's rules in two files, one of which imports the other."""


@pytest.fixture(scope="module")
def opened():
    """Open the starter, changed. Nothing here is judged, so that one snapshot is enough for all."""
    snapshot = cases.in_force(Snapshot.load(build.assemble(sources(), Path(opa()))[1]))

    @functools.cache
    def opened(**changed: bytes | None) -> Opened:
        files = build.assemble(sources(**changed), Path(opa()))[1].files
        return Opened(files, replace(snapshot, registry=Registry.parse(files["tools.json"])), Path(opa()))

    return opened


def changes(old: Opened, new: Opened, *, packed: tuple[bool, bool] = (False, False)) -> dict[str, Direction]:
    return {each.id: each.direction for each in meaning.changes(old, new, packed=packed)}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"decision_rego": ("# another comment\n\n" + RULES.replace("\t", "    ").replace("{\n", "{\n\n")).encode()},
        {"decision_rego": None, "other_rego": RULES.encode()},
        {
            "decision_rego": RULES[: RULES.index("our_address if")].encode(),
            "addresses_rego": ("package exequatur\n" + RULES[RULES.index("our_address if") :]).encode(),
        },
        {"decision_rego": (RULES + '\nnobody_asks := "for this"\n').encode()},
    ],
    ids=["nothing", "form", "another file", "two files", "a rule that is not reached"],
)
def test_what_is_no_change_of_a_rule(changed, opened):
    assert changes(opened(), opened(**changed)) == {}


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("rego:exequatur.our_address", RULES.replace("count(parts) == 2", "count(parts) >= 2")),
        (
            "rego:exequatur.deny#mail.domain",
            RULES.replace("not our_address\n", "not our_address\n\tinput.tool.egress\n"),
        ),
        ("rego:exequatur.deny#mail.no", RULES + '\ndeny contains {"id": "mail.no"} if input.session.steps > 3\n'),
    ],
)
def test_a_rule_that_is_another_one_is_named_and_not_guessed_at(name, changed, opened):
    assert changes(opened(), opened(decision_rego=changed.encode())) == {name: Direction.CHANGED}


def test_an_import_of_something_else_is_another_rule(opened):
    """Each rule is written as before, and asks another package."""
    other = FACTS.replace("package exequatur.facts", "package exequatur.lax").replace("count(parts) == 2", "true")
    old = opened(decision_rego=PARTED.encode(), facts_rego=FACTS.encode(), lax_rego=other.encode())
    swapped = PARTED.replace("import data.exequatur.facts", "import data.exequatur.lax as facts")
    new = opened(decision_rego=swapped.encode(), facts_rego=FACTS.encode(), lax_rego=other.encode())
    assert changes(old, new) == {"rego:exequatur.deny#mail.domain": Direction.CHANGED}


def test_data_is_compared_place_by_place(opened):
    data = b'{"mail": {"domains": ["example.com"], "most": 3}}'
    assert changes(opened(), opened(data_json=data)) == {
        "data:mail/domains": Direction.CHANGED,
        "data:mail/most": Direction.CHANGED,
    }


def test_a_great_many_places_are_named_at_the_top(opened):
    data = b'{"mail": {"domains": ["example.com", "example.org"], "at": {%s}}}' % b",".join(
        b'"%d": 1' % number for number in range(200)
    )
    old = opened(data_json=data)
    found = list(meaning.changes(old, opened(data_json=data.replace(b": 1", b": 2")), packed=(False, False)))
    assert [(each.id, each.text) for each in found] == [("data:mail", "200 values in it are other ones")]


def test_a_module_that_its_sources_do_not_give_is_seen(opened):
    """What judges is the module: a bundle that brings another one than it shows is not let through by its sources."""
    lax = opened(decision_rego=RULES.replace("not our_address", "false").encode())
    posing = Opened({**lax.files, "decision.rego": RULES.encode()}, lax.snapshot, lax.opa)
    assert changes(opened(), posing, packed=(True, True)) == {"rego:new:policy.wasm": Direction.CHANGED}


def test_what_opa_is_told_of_the_files_counts(opened):
    roots = b'{"roots": ["exequatur", "mail"], "metadata": {"for": "people"}}'
    told = opened()
    new = Opened({**told.files, ".manifest": roots}, told.snapshot, told.opa)
    assert changes(opened(), new) == {"opa:rego_version": Direction.CHANGED, "opa:roots": Direction.CHANGED}


def test_where_rego_reads_labels_one_more_may_widen(opened):
    tools = sources()["tools.json"].replace(b'"egress": true', b'"labels": ["sent"], "egress": true')
    unlocked = RULES.replace("not our_address\n", 'not our_address\n\tnot "sent" in input.session.labels\n').encode()
    old = opened(decision_rego=unlocked)
    assert changes(old, opened(decision_rego=unlocked, tools_json=tools)) == {
        "tool:mail/send:labels": Direction.CHANGED
    }
    assert changes(opened(), opened(tools_json=tools)) == {"tool:mail/send:labels": Direction.TIGHTER}


@pytest.mark.parametrize(
    "condition",
    [
        "input.tool[data.mark]",
        'input.tool[concat("", ["bu", "lk"])]',
        "some facts in input",
        "facts := input.tool",
        'object.get(input.tool, sprintf("b%s", ["ulk"]), true)',
        'object.get(input, "tool", {})[data.mark]',
        "walk(input, [_, true])",
        '["#"][0] == "#"; input.tool[data.mark]',
        'input["to\\u006fl"][data.mark]',
    ],
)
def test_a_name_that_rego_works_out_may_be_any(condition):
    rules = RULES.replace("not our_address\n", f"not our_address\n\t{condition}\n").encode()
    assert Mentions([{"decision.rego": rules}], []).reads("tool", "bulk")
    assert not Mentions([{"decision.rego": RULES.encode()}], []).reads("tool", "bulk")
