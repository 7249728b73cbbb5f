"""Rego as WebAssembly: bounded, replayable, and a missing answer is a denial."""

import dataclasses
import re
import time

import pytest

from pdp.engine.manifest import Role
from pdp.engine.reading import PolicyError
from pdp.engine.rego import RegoEngine, RegoLimits, compile_module
from pdp.model import Effect, Obligation, ReasonKind
from policies import facts, registry
from rego_rules import Rules

REGISTRY = registry()
LOG = {"repo_path": "/work/app"}
RULES = Rules()
engine = RULES.engine


def call(name="git/log", arguments=LOG, **changes):
    return facts(name, arguments, known=REGISTRY, **changes)


def judge(rule, *arguments, role=Role.DECIDE, **changes):
    return engine(rule, role=role).judge(call(*arguments, **changes))


ALLOWS = RULES.add('decision := {"allow": true}')
DOES_NOT_ALLOW = RULES.add('decision := {"allow": false}')
FORBIDS = RULES.add('decision := {"allow": true, "deny": {{"id": "no", "reason": "never this", "owasp": "ASI01"}}}')


def test_allow_and_the_two_kinds_of_denial():
    allowed = judge(ALLOWS)
    assert (allowed.effect, allowed.reasons[0].kind) == (Effect.ALLOW, ReasonKind.PERMITTED)
    not_permitted = judge(DOES_NOT_ALLOW)
    assert (not_permitted.effect, not_permitted.reasons[0].kind) == (Effect.DENY, ReasonKind.NOT_PERMITTED)
    forbidden = judge(FORBIDS)
    assert (forbidden.effect, forbidden.reasons[0].kind) == (Effect.DENY, ReasonKind.FORBIDDEN)
    assert (forbidden.reasons[0].policy, forbidden.reasons[0].text, forbidden.reasons[0].owasp) == (
        "no",
        "never this",
        "ASI01",
    )


TIGHTENS = RULES.add("""
decision := {
    "allow": true,
    "warn": {"w2", "w1"},
    "require_approval": {{"id": "big", "reason": "ask first", "approvers": ["security", "finance"]}},
    "obligations": {{"id": "redact", "parameters": {"fields": ["a"]}}, {"id": "mark"}},
}""")


def test_what_tightens_comes_sorted_with_approvers_and_obligations():
    verdict = judge(TIGHTENS)
    assert verdict.effect is Effect.REQUIRE_APPROVAL
    assert [reason.text for reason in verdict.reasons[:3]] == ["ask first", "w1", "w2"]
    assert verdict.reasons[1].policy == f"{TIGHTENS}#warn"
    assert verdict.approvers == ("finance", "security")
    assert verdict.obligations == (Obligation("mark"), Obligation("redact", {"fields": ["a"]}))


ASKS_WITHOUT_ALLOWING = RULES.add('decision := {"allow": false, "require_approval": {"ask"}}')


def test_an_approval_does_not_stand_in_for_a_permission():
    verdict = judge(ASKS_WITHOUT_ALLOWING)
    assert (verdict.effect, verdict.reasons[0].kind) == (Effect.DENY, ReasonKind.NOT_PERMITTED)


DENIES_NOTHING = RULES.add('decision := {"deny": set()}')
WARNS = RULES.add('decision := {"warn": {"w"}}')


def test_an_engine_that_restricts_may_leave_allow_out_and_its_false_still_denies():
    assert judge(DENIES_NOTHING, role=Role.RESTRICT).effect is Effect.ALLOW
    assert judge(WARNS, role=Role.RESTRICT).effect is Effect.WARN
    assert judge(DOES_NOT_ALLOW, role=Role.RESTRICT).effect is Effect.DENY
    for role, wanted in ((Role.DECIDE, ReasonKind.ERROR), (Role.RESTRICT, ReasonKind.PERMITTED)):
        assert judge(DENIES_NOTHING, role=role).reasons[0].kind is wanted


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
ANSWERS = RULES.add("decision := input.input.answer")


@pytest.mark.parametrize("role", Role)
def test_an_answer_that_is_undefined_empty_or_of_another_shape_is_a_denial(role):
    judged = engine(ANSWERS, role=role)
    base = call()
    right = judged.judge(dataclasses.replace(base, input={"answer": {"allow": True, "warn": [ENTRY]}}))
    assert right.effect is Effect.WARN
    for wrong in [{}, *({"answer": shape} for shape in SHAPES)]:
        verdict = judged.judge(dataclasses.replace(base, input=wrong))
        assert (wrong, verdict.effect, verdict.reasons[0].kind) == (wrong, Effect.DENY, ReasonKind.ERROR)
        assert verdict.errors
        assert verdict.reasons[0].policy == ANSWERS


NO_REMOVAL = RULES.add("""
deny contains "no recursive removal" if regex.match(`rm\\s+-rf`, input.input.command)
decision := {"allow": true, "deny": deny}
""")


def test_a_tab_does_not_slip_by_a_pattern():
    judged = engine(NO_REMOVAL)
    for command in ("rm -rf /", "rm\t-rf /", "rm \t\n -rf /", "sudo rm\f-rf /"):
        verdict = judged.judge(facts_of_command(command))
        assert (verdict.effect, verdict.reasons[0].text) == (Effect.DENY, "no recursive removal")
    assert judged.judge(facts_of_command("rm -r /tmp/x")).effect is Effect.ALLOW


def facts_of_command(command):
    return dataclasses.replace(call("shell/run", {"command": "ls"}), input={"command": command})


EVERY_PART = RULES.add("""
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
""")


def test_the_document_has_every_part_and_the_data_is_there():
    verdict = engine(EVERY_PART, data={"hosts": ["pypi.org"]}).judge(call())
    assert [reason.text for reason in verdict.reasons[:2]] == ["2026-01-05T10:00:00.000Z", "monday"]


ENDLESS = {
    "loop": "some i in numbers.range(1, 10000000)\n i < 0",
    "comprehension": "count([i | some i in numbers.range(1, 10000000); i % 2 == 0]) > 0",
    "nested": "some i in numbers.range(1, 3000)\n some j in numbers.range(1, 3000)\n i * j < 0",
    "set": "count({k | some i in numbers.range(1, 5000); some j in numbers.range(1, 5000); k := i * j}) > 0",
    "text": 'count(regex.find_all_string_submatch_n(`(a|b)*`, concat("", [c | some i in numbers.range(1, 2000000); c := "a"]), -1)) > 0',
}
SLOW = {
    name: RULES.add(f"""
deny contains "slow" if {{
    input.session.steps > 50
    {body}
}}
decision := {{"allow": input.session.steps != 7, "deny": deny}}
""")
    for name, body in ENDLESS.items()
}


@pytest.mark.parametrize("name", SLOW)
def test_work_without_end_is_stopped_and_the_next_decision_is_right(name):
    judged = engine(SLOW[name])
    assert judged.judge(call()).effect is Effect.ALLOW
    started = time.process_time()
    verdict = judged.judge(call(steps=51))
    spent = time.process_time() - started
    assert (verdict.effect, verdict.reasons[0].kind) == (Effect.DENY, ReasonKind.ERROR)
    assert "it used more work " in verdict.errors[0], "and did not run out of memory before it"
    assert spent < 1
    assert judged._machine._instance is None, "an instance that was stopped in the middle must not judge again"
    assert judged.judge(call()).effect is Effect.ALLOW
    assert judged.judge(call(steps=7)).reasons[0].kind is ReasonKind.NOT_PERMITTED
    assert judged.judge(call(steps=51)).reasons[0].kind is ReasonKind.ERROR


LARGE = RULES.add("""
big := [text | some i in numbers.range(1, 20000); text := concat("", ["xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", input.session.id])]
decision := {"allow": count(big) > 0}
""")


def test_memory_is_bounded():
    enough = engine(LARGE).judge(call())
    assert enough.effect is Effect.ALLOW
    small = engine(LARGE, limits=RegoLimits(memory_bytes=2 * 2**20))
    verdict = small.judge(call())
    assert (verdict.effect, verdict.reasons[0].kind) == (Effect.DENY, ReasonKind.ERROR)
    assert small.judge(call()).effect is Effect.DENY


MATCHES = RULES.add("""
deny contains "match" if regex.match(input.input.pattern, input.input.text)
decision := {"allow": true, "deny": deny, "warn": {input.input.text}}
""")


def test_many_decisions_by_one_instance_do_not_touch_each_other():
    """One instance starts each evaluation from the same heap; patterns are compiled anew, values are not kept."""
    judged, base = engine(MATCHES), call()
    for n in range(1500):
        pattern, text = f"^a{n % 61}b+$", f"a{n % 7}{'b' * (n % 5)}"
        verdict = judged.judge(dataclasses.replace(base, input={"pattern": pattern, "text": text}))
        assert (verdict.effect is Effect.DENY) == bool(re.fullmatch(pattern.strip("^$"), text)), (pattern, text)


COUNTS = RULES.add(
    'decision := {"allow": count(input.input.text) == 200000, "warn": [substring(input.input.text, 199990, 10)]}'
)


def test_large_input_is_judged_whole():
    verdict = engine(COUNTS).judge(dataclasses.replace(call(), input={"text": "x" * 199_990 + "0123456789"}))
    assert (verdict.effect, verdict.reasons[0].text) == (Effect.WARN, "0123456789")


QUOTES = RULES.add('decision := {"allow": true, "deny": {concat("", ["no: ", input.input.text])}}')


def test_messages_are_made_fit_for_a_terminal_and_a_record():
    verdict = engine(QUOTES).judge(dataclasses.replace(call(), input={"text": "\x1b[31m\n\u202e" + "x" * 900}))
    assert verdict.reasons[0].text.isprintable()
    assert len(verdict.reasons[0].text) <= 500


NOT_HERE = {
    "http.send": ('http.send({"method": "get", "url": "http://169.254.169.254/"}).status_code == 200', "`data.json`"),
    "net.lookup_ip_addr": ('net.lookup_ip_addr("example.com") != set()', "`data.json`"),
    "opa.runtime": ("opa.runtime().env.SECRET", "`data.json`"),
    "rand.intn": ('rand.intn("x", 10) > 2', "must be repeatable"),
    "uuid.rfc4122": ('uuid.rfc4122("x") != ""', "must be repeatable"),
    "io.jwt.decode": ('io.jwt.decode("x") != []', "write the rule without it"),
    "trace": ('trace("x")', "take it out"),
}


@pytest.fixture(scope="module")
def refusals():
    """What is said of a module that wants all of them."""
    rules = Rules()
    for name, (expression, _) in NOT_HERE.items():
        rule = rules.add(f"""
# {name}("in a comment")
text := concat("", ["{name}(", `{name}(`])
default allow := false
allow if {{
    {expression}
}}
decision := {{"allow": allow}}
""")
    sources = {name: text.encode() for name, text in rules.sources.items()}
    with pytest.raises(PolicyError) as refused:
        rules.engine(rule, sources=sources)
    return str(refused.value).split("; ")


@pytest.mark.parametrize("name", NOT_HERE)
def test_a_built_in_that_is_not_here_is_refused_when_loading_by_file_and_line_with_the_way_out(refusals, name):
    where = f"`rule_{[*NOT_HERE].index(name)}.rego:7`"
    (refusal,) = [text for text in refusals if text.startswith(f"{where}: the built-in `{name}` is not here: ")]
    assert NOT_HERE[name][1] in refusal
    if name != "trace":
        assert "the engine `opa`" in refusal
    assert len(refusals) == len(NOT_HERE)


STEPS = RULES.add('decision := {"allow": input.session.steps == 2}')


def test_an_entry_point_that_is_not_there_is_refused_with_the_way_out():
    with pytest.raises(PolicyError, match="build with `-e exequatur/other`"):
        engine("exequatur/other")


def test_the_compiled_form_judges_the_same_and_another_file_is_refused():
    judged = engine(STEPS)
    assert judged.judge(call()).effect is Effect.ALLOW
    assert judged.judge(call(steps=3)).effect is Effect.DENY
    wasm, _ = RULES.module
    for broken in (b"", wasm, b"x" * 1000):
        with pytest.raises(PolicyError, match="compile it again"):
            RegoEngine.load(wasm, {}, STEPS, broken)
    with pytest.raises(PolicyError, match="not a WebAssembly module"):
        compile_module(b"x")


READS_DATA = RULES.add("""
deny contains "slow" if { input.session.steps > 50; some i in numbers.range(1, 10000000); i < 0 }
decision := {"allow": input.resource.id in data.repositories, "deny": deny}
""")


def test_data_is_given_once_and_survives_a_trap():
    judged = engine(READS_DATA, data={"repositories": [f"/work/{n}" for n in range(2000)] + ["/work/app"]})
    assert judged.judge(call()).effect is Effect.ALLOW
    assert judged.judge(call(steps=51)).effect is Effect.DENY
    assert judged.judge(call()).effect is Effect.ALLOW


CONFLICT = RULES.add(
    'x := 1 if input.session.steps == 2\nx := 2 if input.session.steps > 1\ndecision := {"allow": x == 1}'
)


def test_rules_that_conflict_deny_and_are_told_by_file_and_line():
    verdict = judge(CONFLICT)
    assert (verdict.effect, verdict.reasons[0].kind) == (Effect.DENY, ReasonKind.ERROR)
    assert f"{CONFLICT.removesuffix('/decision')}.rego:3:1" in verdict.errors[0]


def test_facts_that_cannot_be_written_deny():
    judged = engine(ALLOWS)
    for broken in ("\ud800", object(), {1, 2}):
        verdict = judged.judge(dataclasses.replace(call(), input={"x": broken}))
        assert (verdict.effect, verdict.reasons[0].kind) == (Effect.DENY, ReasonKind.ERROR)
    assert judged.judge(call()).effect is Effect.ALLOW
