"""What no case tries is found, at its file and line, in both languages; nothing else is reported."""

from __future__ import annotations

import pytest

from pdp.policy.coverage import Coverage, measure
from publisher import sources
from trying import READ, cedar_files, tried

PERMIT = """permit (principal, action, resource) when { context.tool.access == "read" };

@id("late")
forbid (principal, action in Action::"read", resource)
when {
    context.request.hour >= 18 &&
    (context.session.labels.contains("pii") ||
     context.session.steps > 3)
}
unless { context.tool.egress };
"""
EVENING = "time: 2026-01-05T19:00:00Z"
WRITE = "agent: assistant, tool: notes/write, arguments: {path: /notes/a.md, text: t}"


def coverage(tmp_path, files) -> Coverage:
    with tried(tmp_path, files) as (opened, trials):
        return measure(opened, trials)


def missing(found: Coverage) -> list[tuple[str, int, str, str]]:
    return [(each.file, each.line, each.text, each.missing) for policy in found.policies for each in policy.missing]


def cedar(tmp_path, *cases: str) -> list[tuple[str, int, str, str]]:
    listed = "\n".join(f"- {{name: n, {case}, want: {{effect: allow}}}}" for case in cases)
    return missing(coverage(tmp_path, cedar_files(PERMIT, listed)))


def test_a_condition_must_be_seen_both_ways(tmp_path):
    assert cedar(tmp_path, READ) == [
        ("permits.cedar", 1, 'context.tool.access == "read"', "never false"),
        ("permits.cedar", 3, "", "never held"),
        ("permits.cedar", 6, "context.request.hour >= 18", "never true"),
        ("permits.cedar", 7, 'context.session.labels.contains("pii")', "never evaluated"),
        ("permits.cedar", 8, "context.session.steps > 3", "never evaluated"),
        ("permits.cedar", 10, "context.tool.egress", "never evaluated"),
    ]


def test_an_operand_behind_a_short_circuit_is_not_covered(tmp_path):
    labelled = f"{READ}, {EVENING}, session: {{labels: [pii], steps: 9}}"
    found = cedar(tmp_path, READ, WRITE, labelled)
    assert ("permits.cedar", 8, "context.session.steps > 3", "never evaluated") in found
    assert ("permits.cedar", 7, 'context.session.labels.contains("pii")', "never false") in found


def test_what_all_cases_try_is_covered(tmp_path):
    many, few = (f"{READ}, {EVENING}, session: {{steps: {steps}}}" for steps in (4, 3))
    labelled = f"{READ}, {EVENING}, session: {{labels: [pii]}}"
    # No tool that reads sends anything out: there is no case in which the last condition is true.
    assert cedar(tmp_path, READ, WRITE, labelled, many, few) == [
        ("permits.cedar", 10, "context.tool.egress", "never true")
    ]


def test_what_the_schema_makes_certain_need_not_be_tried(tmp_path):
    policies = """permit (principal, action == Action::"notes/read", resource)
when { context.input has path && (!(context has nothing) || context.input.path == "x") };"""
    listed = f"- {{name: n, {READ}, want: {{effect: allow}}}}"
    found = coverage(tmp_path, cedar_files(policies, listed))
    assert missing(found) == []
    assert found.percent == 100


def test_a_soft_forbid_counts_only_where_somebody_sees_it(tmp_path):
    policies = """permit (principal, action in Action::"read", resource);
@id("soft") @effect("warn")
forbid (principal, action, resource) when { context.session.steps > 3 };"""
    denied = f"{WRITE}, session: {{steps: 9}}"
    listed = "\n".join(f"- {{name: n, {case}, want: {{effect: allow}}}}" for case in (READ, denied))
    assert missing(coverage(tmp_path, cedar_files(policies, listed))) == [
        ("permits.cedar", 2, "", "never held"),
        ("permits.cedar", 3, "context.session.steps > 3", "never true"),
    ]


def test_a_condition_that_only_failed_is_not_covered(tmp_path):
    policies = "permit (principal, action, resource) when { context.session.steps + 9223372036854775807 > 3 };"
    listed = f"- {{name: n, {READ}, session: {{steps: 1}}, want: {{effect: deny}}}}"
    (held, condition) = missing(coverage(tmp_path, cedar_files(policies, listed)))
    assert held[3] == "never held"
    assert condition[3] == "only failed"


def test_each_link_of_a_template_is_a_policy_of_its_own(tmp_path):
    template = '@id("t") permit (principal in ?principal, action, resource) when { context.session.steps < 4 };'
    files = cedar_files(template, f"- {{name: n, {READ}, want: {{effect: allow}}}}")
    files["links.json"] = b'{"links": [{"id": "one", "template": "t", "principal": {"type": "Team", "id": "office"}}]}'
    (policy,) = coverage(tmp_path, files).policies
    assert (policy.policy, policy.held.missing) == ("one", "")
    assert [each.missing for each in policy.conditions] == ["never false"]


def test_an_action_that_no_engine_was_asked_about_covers_nothing(tmp_path):
    listed = "- {name: n, agent: nobody, tool: notes/read, arguments: {path: /notes/a}, want: {effect: deny}}"
    found = coverage(tmp_path, cedar_files("permit (principal, action, resource);", listed))
    assert (found.covered, found.total, found.percent) == (0, 1, 0)


def test_nothing_is_no_coverage():
    assert Coverage(()).percent == 0


PLANTED = """
deny contains {"id": "planted", "reason": "nobody tries this"} if {
	input.tool.server == "mail"
	some word in split(input.input.text, " ")
	word == "secret"
	every letter in split(word, "") { letter != "x" }
}

helper(1) := "one"

helper(n) := "more" if {
	n > 1
} else := "less"

default late := false
"""


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Coverage:
    files = sources()
    files["decision.rego"] += PLANTED.encode()
    files["decision_test.rego"] = b"package exequatur_test\n\ntest_a if false\n"
    return coverage(tmp_path_factory.mktemp("planted"), files)


def test_a_planted_branch_in_rego_is_found_at_its_line(planted):
    first = sources()["decision.rego"].count(b"\n") + 2
    assert missing(planted) == [
        ("decision.rego", first, "", "never held"),
        ("decision.rego", first + 4, 'every letter in split(word, "") { letter != "x" }', "never evaluated"),
        ("decision.rego", first + 4, 'letter != "x"', "never evaluated"),
        ("decision.rego", first + 7, "", "never held"),
        ("decision.rego", first + 9, "", "never held"),
        ("decision.rego", first + 10, "n > 1", "never evaluated"),
        ("decision.rego", first + 11, "", "never held"),
    ]


def test_rules_are_called_what_people_call_them(planted):
    names = [policy.policy for policy in planted.policies if policy.language == "rego"]
    assert names[:5] == [
        "exequatur.decision",
        "exequatur.tool",
        "notes.outside",
        "mail.domain",
        "exequatur.our_address",
    ]
    assert "planted" in names


def test_the_starter_is_covered_whole(planted):
    others = [policy for policy in planted.policies if policy.held.line < 28 or policy.language == "cedar"]
    assert len(others) >= 9
    assert [policy for policy in others if policy.missing] == []
