"""Every pack: what its rules, its cases and its readme promise each other."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

from packs import PACKS, POLICIES, cases_of, cedar_rules, facts_of, rego_rules, snapshot, without
from pdp.engine import rego
from pdp.engine.document import rego_document
from pdp.model import Effect, Verdict

FORTY = 40


def effects(pack: str) -> dict[str, Effect]:
    """The effect of each rule, by id."""
    found = {name: Effect[entries[0]["effect"].upper()] for name, entries in rego_rules(pack).items()}
    for name, rule in cedar_rules(pack).items():
        found[name] = Effect.ALLOW if rule.permits else rule.soft or Effect.DENY
    return found


RULES = [(pack, rule) for pack in PACKS for rule in sorted(effects(pack))]


@pytest.mark.parametrize("pack", PACKS)
def test_a_pack_has_two_languages_enough_cases_and_no_id_twice(pack):
    assert not rego_rules(pack).keys() & cedar_rules(pack).keys()
    assert len(rego_rules(pack)) > 15
    assert len(cedar_rules(pack)) > 10
    assert len({case.where for case in cases_of(pack)}) >= FORTY


@pytest.mark.parametrize("pack", PACKS)
def test_a_rule_has_one_effect_wherever_it_is_written(pack):
    for name, entries in rego_rules(pack).items():
        assert len({(entry["effect"], entry["owasp"]) for entry in entries}) == 1, name


@pytest.mark.parametrize(("pack", "rule"), RULES)
def test_every_rule_has_a_tag_and_a_reason_that_a_model_can_act_on(pack, rule):
    texts = [(entry["reason"], entry["owasp"]) for entry in rego_rules(pack).get(rule, ())]
    if rule in cedar_rules(pack):
        texts.append((cedar_rules(pack)[rule].reason, cedar_rules(pack)[rule].owasp))
    for reason, owasp in texts:
        assert re.fullmatch(r"ASI(0[1-9]|10)", owasp)
        assert re.fullmatch(r"[a-z].{20,}[^.]", reason)


@pytest.mark.parametrize(("pack", "rule"), RULES)
def test_every_rule_decides_a_case_and_stays_out_of_one_that_is_near(pack, rule):
    effect = effects(pack)[rule]
    # A permit also decides where a person must agree as well.
    within = (Effect.ALLOW, Effect.REQUIRE_APPROVAL) if effect is Effect.ALLOW else (effect,)
    fires = [case for case in cases_of(pack) if rule in case.want.policies and case.want.effect in within]
    assert fires, "no case expects it"
    servers, agents = {case.action.tool.split("/")[0] for case in fires}, {case.action.agent for case in fires}
    near = [
        case
        for case in cases_of(pack)
        if (case.action.tool.split("/")[0] in servers or case.action.agent in agents)
        and case.want.effect is not effect
        and rule not in case.want.policies
    ]
    assert near, "no case comes near it"


@pytest.mark.parametrize("pack", PACKS)
def test_the_readme_lists_each_rule_with_its_effect_and_tag(pack):
    rows = re.findall(
        r"^\| `([\w.-]+)` \| (\w+) \|.*\| (ASI\d\d) \|$", (POLICIES / pack / "README.md").read_text(), re.MULTILINE
    )
    words = {"deny": Effect.DENY, "approval": Effect.REQUIRE_APPROVAL, "warn": Effect.WARN}
    tags = {rule: entries[0]["owasp"] for rule, entries in rego_rules(pack).items()}
    tags |= {rule: found.owasp for rule, found in cedar_rules(pack).items()}
    wanted = {(rule, effect, tags[rule]) for rule, effect in effects(pack).items() if effect is not Effect.ALLOW}
    assert {(rule, words[effect], tag) for rule, effect, tag in rows} == wanted


def denied_by_rego() -> list[Any]:
    """One case for each Rego rule that denies."""
    found = []
    for pack in PACKS:
        denying = [name for name, entries in rego_rules(pack).items() if entries[0]["effect"] == "deny"]
        for number, rule in enumerate(sorted(denying)):
            case = next(
                case for case in cases_of(pack) if rule in case.want.policies and case.want.effect is Effect.DENY
            )
            found.append(pytest.param(pack, case, number % 2, id=f"{pack}-{rule}"))
    return found


@pytest.mark.parametrize(("pack", "case", "turn"), denied_by_rego())
def test_a_missing_fact_never_makes_a_denial_vanish(monkeypatch, pack, case, turn):
    """All that policy reads but for the arguments: a fact that is not there must not help whoever asks.

    Each rule meets every second of them, the next rule the others.
    """
    (engine,) = (engine for spec, engine in snapshot(pack).engines if spec.engine == "rego")
    given = facts_of(case, snapshot(pack))
    for path, document in itertools.islice(without(rego_document(given)), turn, None, 2):
        monkeypatch.setattr(rego, "rego_document", lambda _, document=document: document)
        verdict: Verdict = engine.judge(given)
        assert verdict.effect is Effect.DENY, path
