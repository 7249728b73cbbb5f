"""Rego as WebAssembly: bounded, replayable, and a missing answer is a denial."""

import dataclasses
import re
import time

import pytest

from pdp.engine.manifest import Role
from pdp.engine.reading import PolicyError
from pdp.engine.rego import RegoEngine, RegoLimits, compile_module
from pdp.model import Effect, Obligation, ReasonKind
from policies import facts, registry, rego

REGISTRY = registry()
LOG = {"repo_path": "/work/app"}


def engine(source, role=Role.DECIDE, data=None, **more):
    text = source if source.startswith("package") else f"package exequatur\n{source}"
    return RegoEngine.load(rego(text), data or {}, "exequatur/decision", role=role, **more)


def call(name="git/log", arguments=LOG, **changes):
    return facts(name, arguments, known=REGISTRY, **changes)


def judge(source, *arguments, role=Role.DECIDE, **changes):
    return engine(source, role).judge(call(*arguments, **changes))


def test_allow_and_the_two_kinds_of_denial():
    allowed = judge('decision := {"allow": true}')
    assert (allowed.effect, allowed.reasons[0].kind) == (Effect.ALLOW, ReasonKind.PERMITTED)
    not_permitted = judge('decision := {"allow": false}')
    assert (not_permitted.effect, not_permitted.reasons[0].kind) == (Effect.DENY, ReasonKind.NOT_PERMITTED)
    forbidden = judge('decision := {"allow": true, "deny": {{"id": "no", "reason": "never this", "owasp": "ASI01"}}}')
    assert (forbidden.effect, forbidden.reasons[0].kind) == (Effect.DENY, ReasonKind.FORBIDDEN)
    assert (forbidden.reasons[0].policy, forbidden.reasons[0].text, forbidden.reasons[0].owasp) == (
        "no",
        "never this",
        "ASI01",
    )


def test_what_tightens_comes_sorted_with_approvers_and_obligations():
    verdict = judge("""
    decision := {
        "allow": true,
        "warn": {"w2", "w1"},
        "require_approval": {{"id": "big", "reason": "ask first", "approvers": ["security", "finance"]}},
        "obligations": {{"id": "redact", "parameters": {"fields": ["a"]}}, {"id": "mark"}},
    }""")
    assert verdict.effect is Effect.REQUIRE_APPROVAL
    assert [reason.text for reason in verdict.reasons[:3]] == ["ask first", "w1", "w2"]
    assert verdict.reasons[1].policy == "exequatur/decision#warn"
    assert verdict.approvers == ("finance", "security")
    assert verdict.obligations == (Obligation("mark"), Obligation("redact", {"fields": ["a"]}))


def test_an_approval_does_not_stand_in_for_a_permission():
    verdict = judge('decision := {"allow": false, "require_approval": {"ask"}}')
    assert (verdict.effect, verdict.reasons[0].kind) == (Effect.DENY, ReasonKind.NOT_PERMITTED)


def test_an_engine_that_restricts_may_leave_allow_out_and_its_false_still_denies():
    assert judge('decision := {"deny": set()}', role=Role.RESTRICT).effect is Effect.ALLOW
    assert judge('decision := {"warn": {"w"}}', role=Role.RESTRICT).effect is Effect.WARN
    assert judge('decision := {"allow": false}', role=Role.RESTRICT).effect is Effect.DENY
    for role, wanted in ((Role.DECIDE, ReasonKind.ERROR), (Role.RESTRICT, ReasonKind.PERMITTED)):
        assert judge('decision := {"deny": set()}', role=role).reasons[0].kind is wanted


ENTRY = {"id": "a", "reason": "r"}
SHAPES = [
    {},
    True,
    "allow",
    [True],
    {"allow": "true"},
    {"allow": 1},
    {"allow": None},
    {"alow": True},
    {"allow": True, "denied": ["x"]},
    {"allow": True, "deny": "x"},
    {"allow": True, "deny": True},
    {"allow": True, "deny": {"x": "y"}},
    {"allow": True, "deny": [1]},
    {"allow": True, "deny": [""]},
    {"allow": True, "deny": [None]},
    {"allow": True, "warn": None},
    {"allow": True, "warn": [{"id": "a"}]},
    {"allow": True, "warn": [{"reason": "a"}]},
    {"allow": True, "warn": [{"id": "a b", "reason": "r"}]},
    {"allow": True, "warn": [{**ENTRY, "approvers": ["x"]}]},
    {"allow": True, "warn": [{**ENTRY, "owasp": "LLM01"}]},
    {"allow": True, "require_approval": [{**ENTRY, "approvers": "x"}]},
    {"allow": True, "require_approval": [{**ENTRY, "approvers": [1]}]},
    {"allow": True, "require_approval": [{**ENTRY, "approvers": ["a\nb"]}]},
    {"allow": True, "obligations": ["redact"]},
    {"allow": True, "obligations": [{"id": "redact", "params": {}}]},
    {"allow": True, "obligations": [{"id": "redact", "parameters": []}]},
    {"allow": True, "obligations": [{"parameters": {}}]},
    {"allow": True, "obligations": {"id": "redact"}},
]


@pytest.mark.parametrize("role", Role)
def test_an_answer_that_is_undefined_empty_or_of_another_shape_is_a_denial(role):
    judged = engine("decision := input.input.answer", role)
    base = call()
    right = judged.judge(dataclasses.replace(base, input={"answer": {"allow": True, "warn": [ENTRY]}}))
    assert right.effect is Effect.WARN
    for wrong in [{}, *({"answer": shape} for shape in SHAPES)]:
        verdict = judged.judge(dataclasses.replace(base, input=wrong))
        assert (wrong, verdict.effect, verdict.reasons[0].kind) == (wrong, Effect.DENY, ReasonKind.ERROR)
        assert verdict.errors
        assert verdict.reasons[0].policy == "exequatur/decision"


def test_a_tab_does_not_slip_by_a_pattern():
    source = """
    deny contains "no recursive removal" if regex.match(`rm\\s+-rf`, input.input.command)
    decision := {"allow": true, "deny": deny}
    """
    judged = engine(source)
    for command in ("rm -rf /", "rm\t-rf /", "rm \t\n -rf /", "sudo rm\f-rf /"):
        verdict = judged.judge(facts_of_command(command))
        assert (verdict.effect, verdict.reasons[0].text) == (Effect.DENY, "no recursive removal")
    assert judged.judge(facts_of_command("rm -r /tmp/x")).effect is Effect.ALLOW


def facts_of_command(command):
    return dataclasses.replace(call("shell/run", {"command": "ls"}), input={"command": command})


def test_the_document_has_every_part_and_the_data_is_there():
    source = """
    decision := {"allow": ok, "warn": [input.request.time, input.request.weekday]}
    ok if {
        input.agent.teams == ["engineering"]
        input.session.intent.task == "T-1"
        input.session.calls["git/log"] == 2
        input.session.age_s == 3600
        input.tool.access == "read"
        input.tool.door == "cooperative"
        input.resource == {"type": "Repository", "id": "/work/app", "attributes": {"repo_path": "/work/app"}}
        input.input.repo_path == "/work/app"
        input.claims.provenance == []
        input.request.hour == 10
        data.hosts[_] == "pypi.org"
    }
    """
    verdict = engine(source, data={"hosts": ["pypi.org"]}).judge(call())
    assert [reason.text for reason in verdict.reasons[:2]] == ["2026-01-05T10:00:00.000Z", "monday"]


SLOW = {
    "loop": "some i in numbers.range(1, 10000000)\n i < 0",
    "comprehension": "count([i | some i in numbers.range(1, 10000000); i % 2 == 0]) > 0",
    "nested": "some i in numbers.range(1, 3000)\n some j in numbers.range(1, 3000)\n i * j < 0",
    "set": "count({k | some i in numbers.range(1, 5000); some j in numbers.range(1, 5000); k := i * j}) > 0",
    "text": 'count(regex.find_all_string_submatch_n(`(a|b)*`, concat("", [c | some i in numbers.range(1, 2000000); c := "a"]), -1)) > 0',
}


@pytest.mark.parametrize("name", SLOW)
def test_work_without_end_is_stopped_and_the_next_decision_is_right(name):
    source = f"""
    deny contains "slow" if {{
        input.session.steps > 50
        {SLOW[name]}
    }}
    decision := {{"allow": input.session.steps != 7, "deny": deny}}
    """
    judged = engine(source)
    assert judged.judge(call()).effect is Effect.ALLOW
    started = time.process_time()
    verdict = judged.judge(call(steps=51))
    spent = time.process_time() - started
    assert (verdict.effect, verdict.reasons[0].kind) == (Effect.DENY, ReasonKind.ERROR)
    assert spent < 0.25
    assert judged._machine._instance is None, "an instance that was stopped in the middle must not judge again"
    assert judged.judge(call()).effect is Effect.ALLOW
    assert judged.judge(call(steps=7)).reasons[0].kind is ReasonKind.NOT_PERMITTED
    assert judged.judge(call(steps=51)).reasons[0].kind is ReasonKind.ERROR


def test_memory_is_bounded():
    source = """
    big := [text | some i in numbers.range(1, 20000); text := concat("", ["xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", input.session.id])]
    decision := {"allow": count(big) > 0}
    """
    enough = engine(source).judge(call())
    assert enough.effect is Effect.ALLOW
    small = engine(source, limits=RegoLimits(memory_bytes=2 * 2**20))
    verdict = small.judge(call())
    assert (verdict.effect, verdict.reasons[0].kind) == (Effect.DENY, ReasonKind.ERROR)
    assert small.judge(call()).effect is Effect.DENY


def test_many_decisions_by_one_instance_do_not_touch_each_other():
    """One instance starts each evaluation from the same heap; patterns are compiled anew, values are not kept."""
    source = """
    deny contains "match" if regex.match(input.input.pattern, input.input.text)
    decision := {"allow": true, "deny": deny, "warn": {input.input.text}}
    """
    judged, base = engine(source), call()
    for n in range(1500):
        pattern, text = f"^a{n % 61}b+$", f"a{n % 7}{'b' * (n % 5)}"
        verdict = judged.judge(dataclasses.replace(base, input={"pattern": pattern, "text": text}))
        assert (verdict.effect is Effect.DENY) == bool(re.fullmatch(pattern.strip("^$"), text)), (pattern, text)


def test_large_input_is_judged_whole():
    source = (
        'decision := {"allow": count(input.input.text) == 200000, "warn": [substring(input.input.text, 199990, 10)]}'
    )
    verdict = engine(source).judge(dataclasses.replace(call(), input={"text": "x" * 199_990 + "0123456789"}))
    assert (verdict.effect, verdict.reasons[0].text) == (Effect.WARN, "0123456789")


def test_messages_are_made_fit_for_a_terminal_and_a_record():
    source = 'decision := {"allow": true, "deny": {concat("", ["no: ", input.input.text])}}'
    verdict = engine(source).judge(dataclasses.replace(call(), input={"text": "\x1b[31m\n\u202e" + "x" * 900}))
    assert verdict.reasons[0].text.isprintable()
    assert len(verdict.reasons[0].text) <= 500


@pytest.mark.parametrize(
    ("expression", "name", "advice"),
    [
        (
            'http.send({"method": "get", "url": "http://169.254.169.254/"}).status_code == 200',
            "http.send",
            "`data.json`",
        ),
        ('net.lookup_ip_addr("example.com") != set()', "net.lookup_ip_addr", "`data.json`"),
        ("opa.runtime().env.SECRET", "opa.runtime", "`data.json`"),
        ('rand.intn("x", 10) > 2', "rand.intn", "must be repeatable"),
        ('uuid.rfc4122("x") != ""', "uuid.rfc4122", "must be repeatable"),
        ('io.jwt.decode("x") != []', "io.jwt.decode", "write the rule without it"),
        ('trace("x")', "trace", "take it out"),
    ],
)
def test_a_built_in_that_is_not_here_is_refused_when_loading_by_file_and_line_with_the_way_out(
    expression, name, advice
):
    source = f"""package exequatur

# {name}("in a comment")
text := concat("", ["{name}(", `{name}(`])
default allow := false
allow if {{
    {expression}
}}
decision := {{"allow": allow}}
"""
    with pytest.raises(PolicyError) as refused:
        RegoEngine.load(rego(source), {}, "exequatur/decision", sources={"policy.rego": source.encode()})
    assert str(refused.value).startswith(f"`policy.rego:7`: the built-in `{name}` is not here: ")
    assert advice in str(refused.value)
    if name != "trace":
        assert "the engine `opa`" in str(refused.value)


def test_an_entry_point_that_is_not_there_is_refused_with_the_way_out():
    wasm = rego('package exequatur\ndecision := {"allow": true}')
    with pytest.raises(PolicyError, match="build with `-e exequatur/other`"):
        RegoEngine.load(wasm, {}, "exequatur/other")


def test_the_compiled_form_judges_the_same_and_another_file_is_refused():
    wasm = rego('package exequatur\ndecision := {"allow": input.session.steps == 2}')
    compiled = compile_module(wasm)
    judged = RegoEngine.load(wasm, {}, "exequatur/decision", compiled)
    assert judged.judge(call()).effect is Effect.ALLOW
    assert judged.judge(call(steps=3)).effect is Effect.DENY
    for broken in (b"", wasm, b"x" * 1000):
        with pytest.raises(PolicyError, match="compile it again"):
            RegoEngine.load(wasm, {}, "exequatur/decision", broken)
    with pytest.raises(PolicyError, match="not a WebAssembly module"):
        compile_module(b"x")


def test_data_is_given_once_and_survives_a_trap():
    source = """
    deny contains "slow" if { input.session.steps > 50; some i in numbers.range(1, 10000000); i < 0 }
    decision := {"allow": input.resource.id in data.repositories, "deny": deny}
    """
    judged = engine(source, data={"repositories": [f"/work/{n}" for n in range(2000)] + ["/work/app"]})
    assert judged.judge(call()).effect is Effect.ALLOW
    assert judged.judge(call(steps=51)).effect is Effect.DENY
    assert judged.judge(call()).effect is Effect.ALLOW


def test_rules_that_conflict_deny_and_are_told_by_file_and_line():
    verdict = judge(
        'x := 1 if input.session.steps == 2\nx := 2 if input.session.steps > 1\ndecision := {"allow": x == 1}'
    )
    assert (verdict.effect, verdict.reasons[0].kind) == (Effect.DENY, ReasonKind.ERROR)
    assert "policy.rego:3:1" in verdict.errors[0]


def test_facts_that_cannot_be_written_deny():
    judged = engine('decision := {"allow": true}')
    for broken in ("\ud800", object(), {1, 2}):
        verdict = judged.judge(dataclasses.replace(call(), input={"x": broken}))
        assert (verdict.effect, verdict.reasons[0].kind) == (Effect.DENY, ReasonKind.ERROR)
    assert judged.judge(call()).effect is Effect.ALLOW
