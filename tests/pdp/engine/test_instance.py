"""Host calls: they reach pure functions only, are paid for, and whatever goes wrong in one denies."""

import dataclasses
import gc
import time
import weakref
from datetime import UTC, datetime

import pytest
import wasmtime

from pdp.engine import instance as instances
from pdp.engine.builtins import BUILTINS
from pdp.engine.reading import PolicyError
from pdp.engine.rego import RegoEngine
from pdp.engine.wasm import EvaluationError, RegoLimits, load_module
from pdp.model import Effect, ReasonKind
from policies import facts, registry
from rego_rules import Rules

DECISION = "exequatur/decision"
CALL = facts("shell/run", {"command": "ls"}, known=registry())
RULES = Rules()
engine = RULES.engine


def judge(judged, **document):
    return judged.judge(dataclasses.replace(CALL, input=document))


WRITES = RULES.add("""
decision := {"allow": true, "deny": {reason}} if { reason := sprintf("%d of %s, %v", [5, input.input.name, {"a", 1.0}]) }
""")


def test_a_rule_may_write_its_reason_with_sprintf():
    assert judge(engine(WRITES), name="é").reasons[0].text == '5 of é, {1.0, "a"}'


TELLS_THE_TIME = RULES.add('decision := {"allow": true, "deny": {sprintf("%d %d", [time.now_ns(), time.now_ns()])}}')


def test_the_time_is_that_of_the_decision_to_the_microsecond():
    judged = engine(TELLS_THE_TIME)
    for now, ns in (
        (datetime(2026, 1, 5, 10, 0, 0, 123457, tzinfo=UTC), "1767607200123457000"),
        (datetime(1969, 12, 31, 23, 59, 59, 1, tzinfo=UTC), "-999999000"),
    ):
        verdict = judged.judge(dataclasses.replace(CALL, now=now))
        assert verdict.reasons[0].text == f"{ns} {ns}"


PARSES = RULES.add("""
deny contains "too old" if time.parse_rfc3339_ns(input.input.x) < 0
decision := {"allow": true, "deny": deny}
""")


@pytest.mark.parametrize("argument", [None, {"secret": 1}, ["SECRET"], 7, "%!SECRET"])
def test_an_error_in_a_built_in_denies_by_its_name_without_values_and_is_not_undefined(argument):
    judged = engine(PARSES)
    verdict = judge(judged, x=argument)
    assert (verdict.effect, verdict.reasons[0].kind) == (Effect.DENY, ReasonKind.ERROR)
    assert "the built-in `time.parse_rfc3339_ns` failed: " in verdict.errors[0]
    assert "SECRET" not in verdict.errors[0]
    assert judged._machine._instance is None, "an instance that was stopped in the middle must not judge again"
    assert judge(judged, x="2026-01-05T10:00:00Z").effect is Effect.ALLOW


LOOP = "some i in numbers.range(1, 300)\n some j in numbers.range(1, 300)\n"
BUSY = {
    "many calls": f'{LOOP} sprintf("%d", [i * j]) == ""',
    "large results": f'{LOOP} sprintf("%1000d", [i * j]) == ""',
    "large arguments": f'{LOOP} sprintf("%s%d", [input.input.large, i * j]) == ""',
    "deep arguments": f'{LOOP} sprintf("%v%d", [input.input.deep, i * j]) == ""',
    "many numbers": f"{LOOP} numbers.range_step(i * j, (i * j) + 2000, 1) == []",
    "times": f'{LOOP} time.date([i * j * 100000000000000, "Europe/Berlin"])[0] == 0',
    "long texts": f'{LOOP} sprintf("%700000d", [i * j]) == ""',
}


BUSY_RULES = "\n".join(
    f'deny contains "busy" if {{\n input.input.busy == "{name}"\n {body}\n}}' for name, body in BUSY.items()
)
KEEPS_BUSY = RULES.add(f'{BUSY_RULES}\ndecision := {{"allow": true, "deny": deny}}')


@pytest.mark.parametrize("name", BUSY)
def test_host_calls_without_end_are_stopped_and_the_next_decision_is_right(name):
    judged = engine(KEEPS_BUSY)
    document = {"large": "x" * 30_000, "deep": [[[[str(n), n, {"a": n}]]] for n in range(300)]}
    assert judge(judged, busy="", **document).effect is Effect.ALLOW
    started = time.process_time()
    verdict = judge(judged, busy=name, **document)
    spent = time.process_time() - started
    assert (verdict.effect, verdict.reasons[0].kind) == (Effect.DENY, ReasonKind.ERROR)
    assert "it used more work " in verdict.errors[0]
    assert spent < 0.5
    assert judge(judged, busy="", **document).effect is Effect.ALLOW


REPEATS = RULES.add("""
decision := {"allow": sprintf("%s", [concat("", [input.input.large | some i in numbers.range(1, 4)])]) != ""}
""")


def test_a_text_past_the_cap_is_refused_however_much_fuel_there_is():
    judged = engine(REPEATS, limits=RegoLimits(fuel=10**10))
    assert judge(judged, large="x" * 100_000).effect is Effect.ALLOW
    assert "what it gave the built-in `sprintf` is too long" in judge(judged, large="x" * 300_000).errors[0]


ENDLESS = RULES.add('decision := count([i | some i in numbers.range(1, 10000000); sprintf("%d", [i]) == ""])')


def test_an_instance_that_was_stopped_is_freed_at_once(monkeypatch):
    """Each one holds up to 64 MB: a policy that runs out of fuel on demand must not eat the machine."""
    made = weakref.WeakSet()
    start = instances.Instance.__init__

    def count(self, *arguments):
        made.add(self)
        start(self, *arguments)

    monkeypatch.setattr(instances.Instance, "__init__", count)
    machine = load_module(*RULES.module, b"{}", ENDLESS, RegoLimits(fuel=1_000_000))
    gc.disable()
    try:
        for _ in range(20):
            with pytest.raises(EvaluationError):
                machine.evaluate(b"{}", now_ns=0)
    finally:
        gc.enable()
    assert len(made) <= 1


SAYS = RULES.add('decision := {"allow": sprintf("%s", [input.input.x]) != ""}')


def test_a_bug_in_a_built_in_denies(monkeypatch):
    judged = engine(SAYS)
    known = judged._machine._builtins
    (number,) = (number for number, builtin in known.items() if builtin is BUILTINS["sprintf"])

    def fail(*_):
        raise ZeroDivisionError("SECRET")

    monkeypatch.setitem(known, number, dataclasses.replace(BUILTINS["sprintf"], function=fail))
    verdict = judge(judged, x="a")
    assert (verdict.effect, verdict.reasons[0].kind) == (Effect.DENY, ReasonKind.ERROR)
    assert "`sprintf` failed: ZeroDivisionError" in verdict.errors[0]
    assert "SECRET" not in verdict.errors[0]


@pytest.mark.parametrize(
    "kind", ["(param i64) (result i32)", "(param i32 i32) (result i32)", "(param i32) (result i64)"]
)
def test_a_module_whose_functions_are_of_other_types_is_refused(kind):
    """They are called without a check of each call, so that one of another type would reach past its slots."""
    result = "i64.const 0" if "result i64" in kind else "i32.const 1024"
    wasm = wasmtime.wat2wasm(
        f'(module (import "env" "memory" (memory 2)) (func (export "opa_malloc") {kind} ({result})))'
    )
    with pytest.raises(PolicyError, match="a function of another type"):
        RegoEngine.load(bytes(wasm), {}, DECISION)
