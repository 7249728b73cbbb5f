"""Cedar: what permits, what forbids, what only tightens, and that nothing slips by when something goes wrong."""

import dataclasses
import json

import cedarpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exequatur.action import Claims
from exequatur.registry import Resource
from pdp.engine.cedar import SCHEMA_FILE, CedarEngine
from pdp.engine.document import cedar_context
from pdp.engine.reading import PolicyError
from pdp.engine.schema import cedar_schema, context_type, input_type
from pdp.model import Effect, Intent, Obligation, ReasonKind
from policies import STRING, TOOLS, agents, facts, registry, tool

REGISTRY = registry()
PERMIT = '@id("all") permit(principal, action, resource);\n'
LOG = {"repo_path": "/work/app"}
COMMIT = {"repo_path": "/work/app", "message": "a fix"}


def engine(text, **files):
    return CedarEngine.load({"policy.cedar": text.encode(), **files}, REGISTRY, agents())


def call(name, arguments, **changes):
    return facts(name, arguments, known=REGISTRY, **changes)


def judge(text, name="git/log", arguments=LOG, **changes):
    return engine(text).judge(call(name, arguments, **changes))


def policies(verdict):
    return [reason.policy for reason in verdict.reasons]


def test_a_permit_allows_and_is_named_with_its_reason():
    verdict = judge('@id("log") @reason("reading is fine") permit(principal, action == Action::"git/log", resource);')
    assert (verdict.effect, verdict.errors) == (Effect.ALLOW, ())
    (reason,) = verdict.reasons
    assert (reason.kind, reason.policy, reason.text) == (ReasonKind.PERMITTED, "log", "reading is fine")


def test_what_nothing_permits_is_not_permitted_and_what_is_forbidden_is_forbidden():
    nothing = judge('permit(principal, action == Action::"git/commit", resource);')
    assert (nothing.effect, nothing.reasons[0].kind) == (Effect.DENY, ReasonKind.NOT_PERMITTED)
    forbidden = judge(PERMIT + '@id("no") @owasp("ASI02") forbid(principal, action, resource);')
    assert (forbidden.effect, forbidden.reasons[0].kind) == (Effect.DENY, ReasonKind.FORBIDDEN)
    assert (policies(forbidden), forbidden.reasons[0].owasp) == (["no"], "ASI02")


@pytest.mark.parametrize(
    ("group", "denied"),
    [
        ("read", {"git/log", "crm/search"}),
        ("write", {"git/commit", "git/add", "shell/run"}),
        ("bulk", {"crm/search"}),
        ("dangerous", {"git/commit", "git/add", "shell/run", "crm/search"}),
    ],
)
def test_a_forbid_on_an_action_group_fires(group, denied):
    judged = engine(PERMIT + f'@id("group") forbid(principal, action in Action::"{group}", resource);')
    calls = {
        "git/log": LOG,
        "git/commit": COMMIT,
        "git/add": {**LOG, "files": []},
        "shell/run": {"command": "ls"},
        "crm/search": {"query": "x"},
    }
    found = {name for name, arguments in calls.items() if judged.judge(call(name, arguments)).effect is Effect.DENY}
    assert found == denied


def test_a_policy_for_a_group_without_tools_is_refused():
    with pytest.raises(PolicyError, match=r"`policy\.cedar:2`: unable to find an applicable action"):
        engine(PERMIT + 'forbid(principal, action in Action::"egress", resource);')


def test_a_group_in_a_condition_fires_too():
    verdict = judge(
        PERMIT + 'forbid(principal, action, resource) when { action in Action::"write" };', "git/commit", COMMIT
    )
    assert verdict.effect is Effect.DENY


def test_a_forbid_on_a_list_of_actions_fires():
    listed = PERMIT + 'forbid(principal, action in [Action::"git/commit", Action::"bulk"], resource);'
    assert judge(listed, "git/commit", COMMIT).effect is Effect.DENY
    assert judge(listed, "crm/search", {"query": "x"}).effect is Effect.DENY
    assert judge(listed).effect is Effect.ALLOW


def test_a_forbid_on_a_team_or_on_a_resource_fires():
    for scope in (
        'principal in Team::"engineering", action, resource',
        'principal == Agent::"coder", action, resource',
        'principal, action, resource == Repository::"/work/app"',
        "principal, action, resource is Repository",
    ):
        assert judge(PERMIT + f"forbid({scope});").effect is Effect.DENY
    assert judge(PERMIT + 'forbid(principal in Team::"sales", action, resource);').effect is Effect.ALLOW
    assert judge(PERMIT + "forbid(principal, action, resource is Shell);").effect is Effect.ALLOW


# --- errors deny


@pytest.mark.parametrize(
    "condition",
    [
        "context.claims.tokens + 9223372036854775807 > 0",
        "9223372036854775807 * context.session.steps > 0",
    ],
)
def test_a_forbid_that_errors_denies_and_is_named(condition):
    text = PERMIT + f'\n@id("broken") forbid(principal, action, resource) when {{ {condition} }};'
    verdict = judge(text, claims=Claims(tokens=7))
    assert (verdict.effect, verdict.reasons[0].kind) == (Effect.DENY, ReasonKind.ERROR)
    assert policies(verdict) == ["broken"]
    assert "`broken` at `policy.cedar:3` failed: an integer overflows" in verdict.errors[0]


def test_a_permit_or_a_soft_forbid_that_errors_denies_though_another_policy_permits():
    broken = "when { context.claims.tokens + 9223372036854775807 > 0 };"
    for kind in ("permit", '@effect("warn") forbid'):
        verdict = judge(PERMIT + f"{kind}(principal, action, resource) {broken}", claims=Claims(tokens=7))
        assert (verdict.effect, verdict.reasons[0].kind) == (Effect.DENY, ReasonKind.ERROR)


def test_facts_that_do_not_fit_the_schema_deny_without_showing_values():
    text = (
        PERMIT
        + 'forbid(principal, action == Action::"git/log", resource) when { context.input.repo_path like "/etc/*" };'
    )
    good = call("git/log", LOG)
    for broken in (
        dataclasses.replace(good, input={"repo_path": 5}),
        dataclasses.replace(good, input={}),
        dataclasses.replace(good, input={"repo_path": {"__entity": {"type": "Agent", "id": "secret"}}}),
        dataclasses.replace(good, resource=Resource("Agent", "coder", {})),
        dataclasses.replace(good, agent=dataclasses.replace(good.agent, teams=("nobody",))),
        dataclasses.replace(good, session=dataclasses.replace(good.session, labels=frozenset({1}))),
        dataclasses.replace(good, tool=dataclasses.replace(good.tool, name="unknown")),
    ):
        verdict = engine(
            text + 'forbid(principal, action, resource) when { context.session.labels.contains("x") };'
        ).judge(broken)
        assert (verdict.effect, verdict.reasons[0].kind) == (Effect.DENY, ReasonKind.ERROR)
        assert "secret" not in repr(verdict)


# --- soft forbids


def test_soft_forbids_tighten_and_the_strictest_stands_first():
    soft = """
    @id("warn") @effect("warn") forbid(principal, action, resource);
    @id("ask") @effect("require_approval") @approvers("security, finance") forbid(principal, action, resource);
    """
    verdict = judge(PERMIT + soft)
    assert verdict.effect is Effect.REQUIRE_APPROVAL
    assert policies(verdict) == ["ask", "warn", "all"]
    assert [reason.kind for reason in verdict.reasons[:2]] == [ReasonKind.RESTRICTED] * 2
    assert verdict.approvers == ("finance", "security")
    assert judge(PERMIT + soft.splitlines()[1]).effect is Effect.WARN


def test_a_soft_forbid_permits_nothing_and_softens_no_plain_forbid():
    soft = '@effect("warn") forbid(principal, action, resource);'
    not_permitted = judge(soft + 'permit(principal, action == Action::"git/commit", resource);')
    assert not_permitted.reasons[0].kind is ReasonKind.NOT_PERMITTED
    assert judge(PERMIT + soft + "forbid(principal, action, resource);").reasons[0].kind is ReasonKind.FORBIDDEN


def test_obligations_come_from_what_lets_the_action_run():
    text = """
    @id("all") @obligation("redact_output") permit(principal, action, resource);
    @effect("warn") @obligation("{\\"id\\": \\"limit\\", \\"parameters\\": {\\"rows\\": 10}}") forbid(principal, action, resource);
    """
    assert judge(text).obligations == (Obligation("limit", {"rows": 10}), Obligation("redact_output"))


# --- the document


def test_facts_of_every_part_can_be_read():
    conditions = [
        'principal.owner == "platform@example.com" && principal.domains.contains("code")',
        'resource has repo_path && resource.repo_path == "/work/app"',
        'context.input has repo_path && context.input.repo_path == "/work/app" && context.input has "repo_path" && context.input["repo_path"] like "/work/*"',
        'context.session.intent.purpose == "fix a bug" && context.session.labels.contains("pii")',
        'context.session.calls has "git/log" && context.session.calls["git/log"] == 2 && context.session.age_s == 3600',
        'context.session.delegation_root == "a" && context.session.delegation_parent == "b" && context.session.delegation_depth == 2',
        'context.tool.access == "read" && !context.tool.dangerous && context.tool.door == "enforced"',
        'context.claims.model == "m" && context.claims.provenance.contains("web")',
        'context.request.weekday == "monday" && context.request.hour == 10',
        'context.request.time > datetime("2026-01-05") && context.request.time < datetime("2026-01-06")',
        "context.untyped.isEmpty()",
        "context.session == context.session && context.session.steps == 2",
        'context has session && context["session"].steps == 2',
        "(if true then context else context).session.steps == 2",
        '(if true then principal else principal).owner == "platform@example.com"',
    ]
    for condition in conditions:
        verdict = judge(
            f"permit(principal, action, resource) when {{ {condition} }};",
            labels=frozenset({"pii"}),
            claims=Claims(model="m", provenance=("web",)),
            delegation_chain=("a", "b"),
            intent=Intent("fix a bug"),
            door="enforced",
        )
        assert (condition, verdict.effect) == (condition, Effect.ALLOW)


def test_an_entity_in_the_arguments_is_text_or_untyped_and_never_an_entity():
    smuggled = {"__entity": {"type": "Team", "id": "engineering"}}
    text = PERMIT + '@id("u") forbid(principal, action, resource) unless { context.untyped.contains("filter.any") };'
    arguments = {
        "query": '{"__entity": {"type": "Agent", "id": "coder"}}',
        "filter": {"country": "DE", "any": smuggled},
    }
    assert judge(text, "crm/search", arguments).effect is Effect.ALLOW
    by_text = (
        PERMIT
        + 'forbid(principal, action == Action::"crm/search", resource) when { context.input.query like "*__entity*" };'
    )
    assert judge(by_text, "crm/search", arguments).effect is Effect.DENY
    for hidden in (smuggled, [smuggled], {"__extn": {"fn": "decimal", "arg": "1.0"}}, {"__expr": "true"}):
        for name in ("filter", "tags", "mixed", "score", "limit"):
            broken = dataclasses.replace(call("crm/search", {"query": "x"}), input={"query": "x", name: hidden})
            reads = (
                PERMIT
                + f'forbid(principal, action == Action::"crm/search", resource) when {{ context.untyped.contains("{name}") }};'
            )
            verdict = engine(reads).judge(broken)
            # A record without known members is an empty record; what was in it is named all the same.
            assert verdict.effect is Effect.DENY or name == "filter"


def test_what_cedar_cannot_hold_is_named():
    def untyped(arguments):
        found = {}
        for name in ("limit", "score", "tags", "mixed", "filter.any"):
            text = PERMIT + f'forbid(principal, action, resource) when {{ context.untyped.contains("{name}") }};'
            found[name] = judge(text, "crm/search", {"query": "x", **arguments}).effect is Effect.DENY
        return {name for name, named in found.items() if named}

    assert untyped({"limit": 3, "score": 1.2345, "tags": ["a"]}) == set()
    assert untyped({"score": 0.12345}) == {"score"}
    assert untyped({"score": 1e300}) == {"score"}
    assert untyped({"tags": ["b", "a"]}) == {"tags"}
    assert untyped({"mixed": "x"}) == {"mixed"}
    assert untyped({"filter": {"any": None}}) == {"filter.any"}


def test_numbers_are_compared_as_numbers():
    text = 'permit(principal, action == Action::"crm/search", resource) when { context.input has score && context.input.score.lessThan(decimal("1.5")) };'
    assert judge(text, "crm/search", {"query": "x", "score": 1.4999}).effect is Effect.ALLOW
    assert judge(text, "crm/search", {"query": "x", "score": 2}).effect is Effect.DENY
    assert judge(text, "crm/search", {"query": "x", "score": -3}).effect is Effect.ALLOW


def test_a_session_that_called_a_tool_of_an_older_bundle_is_still_judged():
    text = (
        PERMIT
        + 'forbid(principal, action, resource) when { context.session.calls has "git/log" && context.session.calls["git/log"] > 5 };'
    )
    assert judge(text, calls={"gone/tool": 9, "git/log": 1}).effect is Effect.ALLOW
    assert judge(text, calls={"gone/tool": 9, "git/log": 6}).effect is Effect.DENY


# --- loading


def test_a_bundle_that_permits_nothing_is_refused():
    for text in ("", "// nothing\n", "forbid(principal, action, resource);"):
        with pytest.raises(PolicyError, match="no Cedar policy permits anything"):
            engine(text)


def test_a_schema_that_is_not_the_generated_one_is_refused():
    generated = cedar_schema(REGISTRY, agents()).encode()
    assert engine(PERMIT, **{SCHEMA_FILE: generated}).judge(call("git/log", LOG)).effect is Effect.ALLOW
    with pytest.raises(PolicyError, match="build the bundle again"):
        engine(PERMIT, **{SCHEMA_FILE: generated + b" "})


# --- slices


SCOPES = [
    "principal, action, resource",
    'principal, action == Action::"git/log", resource',
    'principal, action == Action::"git/commit", resource',
    'principal, action in Action::"read", resource',
    'principal, action in [Action::"git/add", Action::"shell/run"], resource',
    "principal, action, resource is Repository",
    'principal, action, resource == Repository::"/work/app"',
    'principal, action, resource in Repository::"/work/app"',
    'principal, action, resource is Shell in Shell::"x"',
    'principal in Team::"sales", action, resource',
    'principal in Team::"engineering", action, resource',
    'principal == Agent::"coder", action in Action::"write", resource',
    'principal in Agent::"clerk", action, resource is Repository',
    "principal is Agent, action, resource",
    'principal is Agent in Team::"engineering", action, resource == Repository::"/work/app"',
    'principal == Agent::"clerk", action in [Action::"read", Action::"git/log"], resource',
]
CONDITIONS = [
    "",
    'when { context.session.labels.contains("pii") }',
    "unless { context has session && context.session has labels }",
    "when { context.claims.tokens > 3 }",
    'when { principal.domains.contains("code") }',
    'when { resource has repo_path && resource["repo_path"] == "/work/app" }',
    "when { context.untyped.isEmpty() }",
]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.sampled_from(["permit", "forbid"]), st.sampled_from(SCOPES), st.sampled_from(CONDITIONS)),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(["git/log", "git/commit", "shell/run"]),
    st.sampled_from(["coder", "clerk"]),
    st.sampled_from(["/work/app", "/work/other"]),
    st.booleans(),
    st.integers(0, 6),
)
def test_a_slice_with_the_facts_it_reads_decides_as_all_policies_with_all_facts_do(
    rules, name, agent, path, labelled, tokens
):
    """The index and the reduced document are an optimisation: against plain Cedar on everything, no answer differs."""
    text = PERMIT.replace("resource)", "resource) when { context.request.hour == 99 }") + "\n".join(
        f"{kind}({scope}) {condition};" for kind, scope, condition in rules
    )
    known = {"git/log": {**LOG, "repo_path": path}, "git/commit": {**COMMIT, "repo_path": path}}
    arguments = known.get(name, {"command": "ls"})
    labels = frozenset({"pii"} if labelled else ())
    asked = call(name, arguments, agent=agent, labels=labels, claims=Claims(tokens=tokens))
    try:
        found = engine(text).judge(asked)
    except PolicyError:  # a scope and a condition that can never hold together
        return
    schema = cedarpy.Schema.from_str(cedar_schema(REGISTRY, agents()))
    tool = REGISTRY.tools[name]
    attributes = ("owner", "version", "models", "teams", "environment", "domains")
    parents = [{"type": "Team", "id": team} for team in asked.agent.teams]
    principal = {
        "uid": {"type": "Agent", "id": agent},
        "attrs": {name: getattr(asked.agent, name) for name in attributes},
        "parents": parents,
    }
    resource = {"type": asked.resource.type, "id": asked.resource.id}
    entities = [
        principal,
        {"uid": resource, "attrs": dict(asked.resource.attributes), "parents": []},
    ]
    request = {
        "principal": {"type": "Agent", "id": agent},
        "action": {"type": "Action", "id": name},
        "resource": resource,
        "context": json.dumps(cedar_context(asked, context_type(tool, REGISTRY), input_type(tool), [])),
    }
    whole = cedarpy.is_authorized(request, text, cedarpy.Entities.from_json_str(json.dumps(entities), schema), schema)
    assert not whole.diagnostics.errors
    assert (found.effect is Effect.ALLOW) == whole.allowed
    reasons = sorted(int(name.removeprefix("policy")) for name in whole.diagnostics.reasons)
    assert [reason.policy for reason in found.reasons if reason.policy] == [
        "all" if number == 0 else f"policy.cedar#{number + 1}" for number in reasons
    ]


def test_slices_for_agents_and_resources_are_kept_and_forgotten_and_made_again(monkeypatch):
    names = [f"/work/{number}" for number in range(8)]
    named = "".join(f'@id("{n[1:]}") forbid(principal, action, resource == Repository::"{n}");\n' for n in names)
    judged = engine(PERMIT + named)
    slices = judged._slices
    monkeypatch.setattr("pdp.engine.slices.KEPT", 5)
    for path in [*names, *names, "/work/else", "/work/other"]:
        verdict = judged.judge(call("git/log", {"repo_path": path}))
        assert policies(verdict) == ([path[1:]] if path in names else ["all"])
        assert slices._kept <= 5
        assert slices._kept == sum(len(one) for one in slices._own.values() if one is not slices._general["git/log"])
    # What nothing names shares one slice, and no name of an attacker's adds another.
    assert len([key for key in slices._own if key[2] is None]) == 1


def test_every_tool_has_its_slice_even_when_nothing_names_it():
    judged = engine('permit(principal, action == Action::"git/log", resource);')
    for name in TOOLS:
        arguments = {"repo_path": "/a", "message": "m", "files": [], "command": "ls", "query": "q"}
        known = REGISTRY.tools[name].input_schema["properties"]
        assert judged.judge(call(name, {k: v for k, v in arguments.items() if k in known})).errors == ()


@pytest.mark.parametrize("together", [0, 500])
def test_what_applies_to_all_and_what_applies_to_one_are_one_answer_in_one_set_or_in_two(together, monkeypatch):
    monkeypatch.setattr("pdp.engine.slices.TOGETHER", together)
    here = 'principal == Agent::"coder", action, resource == Repository::"/work/app"'
    ask = '@effect("warn")'
    judged = engine(
        f"""@id("p1") permit({here}); @id("s1") {ask} forbid({here}); {PERMIT}
        @id("s2") {ask} forbid(principal, action, resource); @id("p2") permit({here}, "none");
        @id("no1") forbid(principal, action == Action::"git/commit", resource == Repository::"/work/app");
        @id("no2") forbid(principal, action, resource) when {{ context.claims.tokens > 0 }};
        @id("bad") forbid({here}) when {{ context.claims.tokens * 9223372036854775807 > 9 && false }};
        """.replace(', "none"', "")
    )
    allowed = judged.judge(call("git/log", LOG))
    assert (allowed.effect, policies(allowed)) == (Effect.WARN, ["s1", "s2", "p1", "all", "p2"])
    assert policies(judged.judge(call("git/log", {"repo_path": "/work/other"}))) == ["s2", "all"]
    assert policies(judged.judge(call("git/commit", COMMIT))) == ["no1"]
    assert policies(judged.judge(call("git/log", LOG, agent="clerk", claims=Claims(tokens=1)))) == ["no2"]
    assert policies(judged.judge(call("git/log", LOG, claims=Claims(tokens=2)))) == ["bad"]


# --- escapes of Cedar's JSON in arguments


ESCAPES = [
    {"__entity": {"type": "Team", "id": "engineering"}},
    {"__extn": {"fn": "decimal", "arg": "1.0"}},
    {"__expr": 'Agent::"coder"'},
    {"type": "Agent", "id": "coder"},
    {"fn": "ip", "arg": "10.0.0.1"},
]
OPEN = tool(
    "open",
    "call",
    {
        "text": STRING,
        "number": {"type": "number"},
        "flag": {"type": "boolean"},
        "list": {"type": "array", "items": STRING},
        "records": {"type": "array", "items": {"type": "object", "properties": {"a": STRING, "n": {"type": "number"}}}},
        "nested": {"type": "object", "properties": {"in": {"type": "object", "properties": {"a": STRING}}, "free": {}}},
        "free": {"type": "object"},
        "type": STRING,
        "id": STRING,
    },
    [],
    access="read",
    open=True,
)


def places(escape):
    """Put an escape in each position that arguments have, as a value, inside of one, and as members of their own."""
    for name in OPEN["definition"]["inputSchema"]["properties"]:
        yield {name: escape}
        yield {name: [escape]}
        yield {name: {"a": escape, "in": {"a": escape, **escape}, "free": escape, **escape}}
        yield {name: [{"a": escape, "n": escape, **escape}]}
        yield {name: json.dumps(escape)}
    yield {**escape, "text": "x"}
    yield {"nested": {"in": {**escape, "a": "x"}, **escape}, "records": [{**escape, "a": "x", "n": 1.5}]}


def reserved(value):
    """Give the escapes in what goes to Cedar."""
    if isinstance(value, dict):
        own = [value] if value.keys() & {"__entity", "__extn", "__expr"} else []
        return own + [found for item in value.values() for found in reserved(item)]
    return [found for item in value for found in reserved(item)] if isinstance(value, list) else []


@pytest.mark.parametrize("escape", ESCAPES, ids=lambda escape: next(iter(escape)))
def test_no_argument_becomes_an_entity_or_an_extension_value_in_any_position(escape):
    known = registry({"open/call": OPEN})
    judged = CedarEngine.load(
        {
            "policy.cedar": (
                PERMIT
                + 'forbid(principal, action, resource) when { context.input == context.input && context.untyped.contains("") };'
            ).encode()
        },
        known,
        agents(),
    )
    seen = 0
    for arguments in places(escape):
        base = facts("open/call", {}, known=known)
        asked = dataclasses.replace(base, input=arguments)
        sent = json.loads(judged.question(asked).request["context"])
        assert all(found == {"__extn": {"fn": "decimal", "arg": "1.5000"}} for found in reserved(sent)), arguments
        # What was given as an object where the schema has none is not there at all, and is named.
        assert judged.judge(asked).effect is Effect.ALLOW, arguments
        assert (
            sent["untyped"] or all(isinstance(value, str) for value in arguments.values()) or arguments == {"free": {}}
        )
        seen += 1
    assert seen == 47
