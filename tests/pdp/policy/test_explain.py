"""An explanation names the condition, with its line and values, at which each policy ended."""

from __future__ import annotations

import json

import pytest

from pdp.policy.explain import APPLIED, FAILED, STOPPED, UNASKED, Because, EngineWhy, Why, explain
from pdp.policy.opening import Opened
from pdp.policy.trials import Trial
from publisher import sources
from trying import cedar_files, tried

POLICIES = """@id("reads") permit (principal in Team::"office", action in Action::"read", resource);
@id("others") permit (principal in Team::"nobody", action, resource);
@id("writes") permit (principal, action == Action::"notes/write", resource);
@id("mails") permit (principal, action, resource is Address);
@id("late")
forbid (principal, action, resource)
when { context.request.hour > 17 && context.session.steps > 2 }
unless { context.session.labels.contains("on_call") };
@id("either")
forbid (principal, action, resource)
when { context.session.steps == 7 ||
       principal.owner == "nobody" };
@id("sum") forbid (principal, action, resource) when { context.session.steps + 9223372036854775805 < 0 };
@id("soft") @effect("require_approval")
forbid (principal, action, resource) when { context.session.spent_microusd > 5 };
"""
CASES = """
- {name: day, agent: assistant, tool: notes/read, arguments: {path: /notes/a}, want: {effect: allow}}
- {name: evening, agent: assistant, tool: notes/read, arguments: {path: /notes/a}, session: {steps: 2}, time: 2026-01-05T20:00:00Z, want: {effect: allow}}
- {name: on call, agent: assistant, tool: notes/read, arguments: {path: /notes/a}, session: {steps: 3, labels: [on_call]}, time: 2026-01-05T20:00:00Z, want: {effect: allow}}
- {name: seven, agent: assistant, tool: notes/read, arguments: {path: /notes/a}, session: {steps: 7}, want: {effect: deny}}
- {name: refused, agent: assistant, tool: notes/burn, want: {effect: deny}}
"""


@pytest.fixture(scope="module")
def cedar(tmp_path_factory):
    files = cedar_files(POLICIES, CASES)
    agents = json.loads(files["agents.json"])
    agents["agents"]["stranger"] = {"owner": "you@example.com", "teams": ["nobody"], "enforcers": ["e"]}
    files["agents.json"] = json.dumps(agents).encode()
    with tried(tmp_path_factory.mktemp("cedar"), files) as (opened, trials):
        yield opened, {trial.case.name: trial for trial in trials}


@pytest.fixture(scope="module")
def rego(tmp_path_factory):
    with tried(tmp_path_factory.mktemp("rego"), sources()) as (opened, trials):
        yield opened, {trial.case.name: trial for trial in trials}


def engine(given: tuple[Opened, dict[str, Trial]], name: str, which: str) -> EngineWhy:
    opened, trials = given
    return next(each for each in explain(opened, trials[name]) if each.spec.engine == which)


def policies(given, name: str, which: str = "cedar") -> dict[str, Why]:
    return {each.policy: each for each in engine(given, name, which).policies}


def test_policies_about_other_things_are_only_counted(cedar):
    found = engine(cedar, "day", "cedar")
    assert found.elsewhere == {"actions": 1, "agents": 1, "resources": 1}
    assert [each.policy for each in found.policies] == ["reads", "late", "either", "sum", "soft"]


def test_the_first_condition_that_is_false_is_named_with_its_values(cedar):
    found = policies(cedar, "day")
    assert found["reads"] == Why("reads", "permits", "permits.cedar", 1, APPLIED)
    assert found["late"].because == Because(
        "context.request.hour > 17", "permits.cedar", 7, "was false", (("context.request.hour", "10"),)
    )
    assert (found["soft"].state, found["soft"].does) == (STOPPED, "wants approval")


def test_a_condition_behind_another_is_named_when_it_is_its_turn(cedar):
    because = policies(cedar, "evening")["late"].because
    assert because is not None
    assert (because.text, because.values) == ("context.session.steps > 2", (("context.session.steps", "2"),))


def test_an_unless_that_is_true_is_called_so(cedar):
    because = policies(cedar, "on call")["late"].because
    assert because is not None
    assert (because.text, because.line, because.was) == (
        'unless context.session.labels.contains("on_call")',
        8,
        "was true",
    )


def test_of_alternatives_all_are_named(cedar):
    because = policies(cedar, "day")["either"].because
    assert because is not None
    assert because.text == 'context.session.steps == 7 || principal.owner == "nobody"'
    assert because.values == (("context.session.steps", "0"), ("principal.owner", '"you@example.com"'))


def test_a_failure_says_what_failed_and_the_soft_ones_were_not_asked(cedar):
    found = policies(cedar, "seven")
    assert found["sum"].state == FAILED
    because = found["sum"].because
    assert because is not None
    assert because.was.startswith("failed: ")
    assert "overflow" in because.was
    assert found["soft"].state == UNASKED


def test_an_action_that_was_refused_before_is_not_explained_by_policies(cedar):
    opened, trials = cedar
    assert explain(opened, trials["refused"]) == ()


def test_a_rule_of_rego_that_held_and_one_that_did_not(rego):
    found = policies(rego, "nothing else is", "rego")
    assert (found["notes.outside"].state, found["notes.outside"].does) == (APPLIED, "deny")
    because = found["mail.domain"].because
    assert because is not None
    assert (because.text, because.file, because.was) == ('tool == "mail/send"', "decision.rego", "was not true")


def test_values_that_an_expression_reads_are_shown(rego):
    because = policies(rego, "mail goes to our own people", "rego")["notes.outside"].because
    assert because is not None
    assert because.values == (("input.tool.server", '"mail"'),)


def test_what_a_not_asks_about_stands_below_it(rego):
    why = policies(rego, "mail goes to our own people", "rego")["mail.domain"]
    assert why.because is not None
    assert why.because.text == "not our_address"
    assert [(each.policy, each.state) for each in why.asked] == [("exequatur.our_address", APPLIED)]


def test_helpers_that_fail_say_where_with_their_variables(tmp_path):
    rules = """
deny contains {"id": "deep", "reason": "r"} if {
	some label in input.session.labels
	outer(label)
}

outer(label) if inner(label)

inner(label) if {
	length := count(label)
	length > 9
}
"""
    files = sources()
    files["decision.rego"] += rules.encode()
    with tried(tmp_path, files) as (opened, trials):
        listed = {trial.case.name: trial for trial in trials}
        labelled = policies((opened, listed), "after a note that others can write, a person looks", "rego")["deep"]
        without = policies((opened, listed), "a note is read", "rego")["deep"]
    assert labelled.state == APPLIED
    assert without.because is not None
    assert without.because.text == "some label in input.session.labels"


def test_tries_are_counted_and_helpers_followed(tmp_path):
    files = sources()
    files["decision.rego"] += b"""
deny contains {"id": "deep", "reason": "r"} if {
	some label in ["a", "b", "c"]
	inner(label)
}

inner(label) if {
	length := count(label)
	length > count(input.session.id)
}
"""
    with tried(tmp_path, files) as (opened, trials):
        (why,) = (
            each
            for each in explain(opened, next(t for t in trials if t.facts is not None))[1].policies
            if each.policy == "deep"
        )
    assert why.because is not None
    assert (why.because.text, why.because.was) == ("inner(label)", "was never true in 3 tries")
    (inner,) = why.asked
    assert inner.because is not None
    assert inner.because.text == "length > count(input.session.id)"
    assert inner.because.was == "was never true in 3 tries"
