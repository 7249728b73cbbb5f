"""Cedar source: each policy with its file and line, and nothing that the native parser cannot survive."""

import contextlib
import json
import subprocess
import sys

import cedarpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pdp.engine.cedar import CedarEngine
from pdp.engine.cedar_text import SourceLimits, sources
from pdp.engine.reading import PolicyError
from pdp.engine.statements import ALL, read_statements
from policies import agents, facts, registry

REGISTRY = registry()
PERMIT = '@id("all") permit(principal, action, resource);\n'


def engine(text):
    return CedarEngine.load({"policy.cedar": text.encode()}, REGISTRY, agents())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n\npermit(principal, action, resource) whn { true };", "invalid policy condition"),
        ("\n\npermit(principal, action, resource) when { context.input.repo == 1 };", "`input.repo` in context"),
        (
            '\n\npermit(principal, action == Action::"git/log", resource) when { context.input.max_count > 3 };',
            "optional attribute",
        ),
        ('\n\npermit(principal, action == Action::"git/lgo", resource);', "unrecognized action"),
        ('\n\npermit(principal, action in Action::"reed", resource);', "unrecognized action"),
        ('\n\npermit(principal in Team::"platfrom", action, resource);', "platfrom"),
        ("\n\npermit(principal is User, action, resource);", "unrecognized entity type"),
        ('\n\nforbid(principal, action == Action::"write", resource);', "write `in`"),
        ('\n\nforbid(principal, action, resource) when { action == Action::"write" };', "write `in`"),
        ("\n\npermit(principal == ?principal, action, resource);", "template"),
        ('\n\n@efect("warn") forbid(principal, action, resource);', "unknown annotation `@efect`"),
        ('\n\n@effect("wran") forbid(principal, action, resource);', "`@effect` must be"),
        ("\n\n@effect forbid(principal, action, resource);", "`@effect` must be"),
        ('\n\n@effect("warn") permit(principal, action, resource);', "no meaning on a permit"),
        ('\n\n@approvers("a") forbid(principal, action, resource);', "`@approvers` needs"),
        (
            '\n\n@effect("require_approval") @approvers("a,,b") forbid(principal, action, resource);',
            "`@approvers` must be",
        ),
        ('\n\n@obligation("x") forbid(principal, action, resource);', "no meaning on a plain forbid"),
        ('\n\n@obligation("{}") permit(principal, action, resource);', "`id` must be"),
        (
            '\n\n@obligation("{\\"id\\": \\"x\\", \\"when\\": 1}") permit(principal, action, resource);',
            "unknown member `when`",
        ),
        ('\n\n@obligation("a b") permit(principal, action, resource);', "`@obligation` must be"),
        ('\n\n@owasp("LLM01") permit(principal, action, resource);', "`@owasp` must be"),
        ('\n\n@id("") permit(principal, action, resource);', "`@id` must be"),
        ('\n\n@id("a") @id("b") permit(principal, action, resource);', "duplicate annotation"),
        ('\n\n@reason("") permit(principal, action, resource);', "`@reason` must be"),
        ("\n\npermit(principal, action, resource)", "missing from here on"),
        ("\n\npermit(principal, action, resource));", "missing from here on"),
        ('\n\npermit(principal, action, resource) when { context.input == "x };', "quote left open"),
        ("\n\n;", ""),
        ("\n\nif;", ""),
    ],
)
def test_a_policy_that_is_not_understood_is_refused_with_file_and_line(text, words):
    with pytest.raises(PolicyError) as refused:
        engine(PERMIT.rstrip() + text)
    assert "`policy.cedar:3`" in str(refused.value)
    assert words in str(refused.value)


def test_the_first_fault_is_told_in_the_file_where_it_stands():
    with pytest.raises(PolicyError, match=r"`b\.cedar:2`"):
        CedarEngine.load(
            {"a.cedar": PERMIT.encode(), "b.cedar": b"// fine\nforbid(principal, action, resource) when { 1 };"},
            REGISTRY,
            agents(),
        )


def test_the_same_id_twice_is_refused_and_without_an_id_the_place_is_the_id():
    with pytest.raises(PolicyError, match=r"`b\.cedar:1`: the id `all` is already that of the policy at `a\.cedar:1`"):
        CedarEngine.load({"a.cedar": PERMIT.encode(), "b.cedar": PERMIT.encode()}, REGISTRY, agents())
    judged = engine("permit(principal, action, resource); permit(principal, action, resource);")
    verdict = judged.judge(facts("git/log", {"repo_path": "/work/app"}, known=REGISTRY))
    assert [reason.policy for reason in verdict.reasons] == ["policy.cedar#1", "policy.cedar#2"]


@pytest.mark.parametrize("hidden", ["\u202e", "\u2066", "\x00", "\r", "\ufeff", "\u200b"])
def test_text_that_readers_see_differently_is_refused(hidden):
    with pytest.raises(PolicyError, match=r"`policy\.cedar:2`: a control character"):
        engine(PERMIT + f"// a comment {hidden} forbid(principal, action, resource);\n")


def test_a_byte_order_mark_is_named_as_such():
    with pytest.raises(PolicyError, match=r"`policy\.cedar:1`: it begins with a byte order mark"):
        engine("\ufeff" + PERMIT)


DEEP = {
    "brackets": "(" * 800 + "true" + ")" * 800,
    "lists": "[" * 300 + "1" + "]" * 300 + " == 1",
    "conditionals": "if " * 20_000 + "true" + " then true else true" * 20_000,
    "branches": "if true then true else " * 20_000 + "true",
    "members": "context" + ".a" * 100_000,
    "optional members": "context has a" + ".a" * 100_000,
    "operators": " || ".join(["true"] * 100_000),
    "length": '"' + "x" * 300_000 + '" == "y"',
}


@pytest.mark.parametrize("name", DEEP)
def test_text_that_could_end_the_process_never_reaches_the_native_parser(name):
    with pytest.raises(PolicyError, match=r"`policy\.cedar:2`: this policy nests too deep or is too long"):
        engine(PERMIT + f"permit(principal, action, resource) when {{ {DEEP[name]} }};")


def test_too_large_a_file_is_refused():
    with pytest.raises(PolicyError, match="split the file"):
        engine("// " + "x" * 5_000_000)


def test_brackets_do_end_a_process_that_has_no_guard():
    text = f"permit(principal, action, resource) when {{ {'(' * 20_000}true{')' * 20_000} }};"
    code = "import cedarpy, sys; cedarpy.PolicySet.from_str(sys.stdin.read())"
    ended = subprocess.run(
        [sys.executable, "-c", code], input=text, text=True, check=False, capture_output=True, timeout=60
    )
    assert ended.returncode < 0, "is the guard still needed? see https://github.com/cedar-policy/cedar/pull/2383"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.text(alphabet=st.sampled_from('permit(forbid)principal,action resource;when{true}@id"\\/[]if\n'), max_size=200)
)
def test_any_text_loads_or_is_a_policy_error(text):
    with contextlib.suppress(PolicyError):
        engine(text)


def reads(conditions):
    (statement,) = read_statements({"a.cedar": f"permit(principal, action, resource) {conditions};".encode()})
    return set(statement.reads)


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        ("", set()),
        ('when { context.session.labels.contains("x") }', {("session", "labels")}),
        ("when { context . session // all\n . steps > 1 }", {("session", "steps")}),
        ('when { context.input["max count"] > 1 && context.input has "max count" }', {("input", "max count")}),
        (
            "when { context.input has max_count } unless { context.tool.bulk }",
            {("input", "max_count"), ("tool", "bulk")},
        ),
        ('when { context.input["a\\u{62}"] == "x" }', {("input", ALL)}),
        ('when { context["input"].a == "x" }', {(ALL, ALL)}),
        ("when { context has session }", {(ALL, ALL)}),
        ("when { (if true then context else context).session.steps == 1 }", {(ALL, ALL)}),
        ("when { (context).session.steps == 1 }", {(ALL, ALL)}),
        ("when { {a: context.session}.a.steps == 1 }", {("session", ALL)}),
        ("when { context.session == context.session }", {("session", ALL)}),
        ('when { "context.session.steps" == "context" }', set()),
        (
            'when { principal == Agent::"a" && principal in Team::"b" && resource is File && resource != principal }',
            {("principal", ALL)},
        ),
        (
            'when { principal.owner == "x" && resource["id"] == "y" && resource has path }',
            {("principal", "owner"), ("resource", "id"), ("resource", "path")},
        ),
        ("when { {a: principal, b: 1}.a.owner == 1 }", {("principal", ALL)}),
        ("when { [principal].contains(principal) }", {("principal", ALL)}),
    ],
)
def test_what_a_policy_can_read_is_found_and_in_doubt_it_is_everything(conditions, found):
    assert reads(conditions) == found


def test_an_annotation_is_not_taken_for_the_scope():
    text = b'@id("permit(") @reason("forbid (a) ; // b") permit /* x */'
    with pytest.raises(PolicyError, match=r"`a\.cedar:1`"):
        read_statements({"a.cedar": text})
    (statement,) = read_statements(
        {"a.cedar": b'@id("a") @reason("forbid (a) ; // b") permit(principal, action, resource);'}
    )
    assert (statement.permits, statement.reason) == (True, "forbid (a) ; // b")


@pytest.mark.parametrize("hidden", ["\xad", "\u061c", "\u3164", "\ufff9", "\U000e0041", "\u206a"])
def test_text_that_shows_nothing_is_refused_in_strings_too(hidden):
    with pytest.raises(PolicyError, match=r"`policy\.cedar:2`: a control character"):
        engine(PERMIT + f'forbid(principal, action, resource == Shell::"a{hidden}b");\n')


@pytest.mark.parametrize(
    "condition",
    [
        'when { action == // a comment\nAction::"write" }',
        'when { Action::"write" == action }',
        'when { action != Action::"write" }',
        'when { action == Action::"w\\u{72}ite" }',
        'when { [Action::"write"].contains(action) }',
        'unless { context.session.steps > 1 || action == Action :: "write" }',
    ],
)
def test_a_group_is_compared_nowhere_however_it_is_written(condition):
    with pytest.raises(PolicyError, match=r"`policy\.cedar:2`: no action equals the group `Action::\"write\"`"):
        engine(PERMIT + f"forbid(principal, action, resource) {condition};")


def test_a_group_may_stand_in_a_list_or_a_string():
    engine(
        PERMIT
        + 'forbid(principal, action in [Action::"bulk", Action::"write"], resource);\n'
        + '@reason("nothing == Action::\\"write\\" here") forbid(principal, action, resource) // == Action::"write"\n'
        + 'when { action in [Action::"bulk", Action::"write"] && context.claims.reason == "Action::write" };'
    )


@pytest.mark.parametrize(
    "text",
    [
        '@id("a;b") permit(principal, action, resource);',
        "permit(principal, action, resource) // ; forbid(principal, action, resource);\n;",
        'permit(principal, action, resource) when { context.claims.reason != "\\"; forbid(" };',
        'permit(principal, action, resource) when { context.claims.reason != "// " } ;// ;',
        "permit(principal, action, resource) when { {a: 1}.a == 1 };",
        '@reason("\\u{3b}") @owasp("ASI01") permit\n(principal\n,\naction,resource)unless{false}when{true};',
    ],
)
def test_a_statement_ends_where_cedar_says_it_ends(text):
    parts = [source.text for source in sources({"a.cedar": f"{text}\n{text}".encode()}, SourceLimits())]
    whole = cedarpy.PolicySet.from_str(f"{text}\n{text}")
    assert len(parts) == len(whole) == 2
    assert str(cedarpy.PolicySet.from_str("\n".join(parts))) == str(whole)


def test_more_policies_than_may_be_are_refused_before_one_is_parsed():
    few = SourceLimits(statements=3)
    text = "permit(principal, action, resource);\n"
    assert len(read_statements({"a.cedar": (text * 3).encode()}, few)) == 3
    with pytest.raises(PolicyError, match=r"`b\.cedar:2`: more than 3 policies"):
        read_statements({"a.cedar": (text * 2).encode(), "b.cedar": (text + "not parsed;").encode()}, few)
    links = [{"template": "t", "id": f"l{n}", "principal": {"type": "Agent", "id": "coder"}} for n in range(4)]
    template = b'@id("t") permit(principal == ?principal, action, resource);'
    with pytest.raises(PolicyError, match="there are 3 policies before it"):
        read_statements({"a.cedar": template, "links.json": json.dumps({"links": links}).encode()}, few)
