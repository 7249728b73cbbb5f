"""The sandbox itself: whatever a module is, it reaches nothing but its own memory, and its work ends."""

import contextlib

import pytest
import wasmtime

from pdp.engine.reading import PolicyError
from pdp.engine.rego import RegoEngine
from pdp.engine.wasm import EvaluationError, RegoLimits, load_module
from rego_rules import Rules

DECISION = "exequatur/decision"
RULES = Rules()
COMPARES = RULES.add('decision := {"allow": input.ok == data.ok}')
ECHOES = RULES.add("decision := input")


def test_a_machine_is_bytes_in_and_bytes_out():
    machine = load_module(*RULES.module, b'{"ok":1}', COMPARES, RegoLimits())
    assert machine.evaluate(b'{"ok":1}', now_ns=0) == b'[{"result":{"allow":true}}]'
    assert machine.evaluate(b'{"ok":2}', now_ns=0) == b'[{"result":{"allow":false}}]'


@pytest.mark.parametrize("document", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_document_that_is_not_json_gives_nothing_and_the_next_one_is_judged(document):
    machine = load_module(*RULES.module, b"{}", ECHOES, RegoLimits())
    with contextlib.suppress(EvaluationError):
        assert machine.evaluate(document, now_ns=0) == b"[]"
    assert machine.evaluate(b"5", now_ns=0) == b'[{"result":5}]'


@pytest.mark.parametrize("wasm", [b"", b"\0asm\1\0\0\0", b"not wasm", b"\0asm" + b"\xff" * 100])
def test_what_is_not_a_module_of_opa_is_refused(wasm):
    with pytest.raises(PolicyError, match=r"policy\.wasm"):
        RegoEngine.load(wasm, {}, "exequatur/decision")


def test_a_module_that_wants_more_of_its_host_is_refused():
    wasm = wasmtime.wat2wasm(
        '(module (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32))))'
    )
    with pytest.raises(PolicyError, match="`fd_write`"):
        RegoEngine.load(bytes(wasm), {}, "exequatur/decision")


WILD = """(module
  (import "env" "memory" (memory 2))
  (func (export "opa_malloc") (param i32) (result i32) (i32.const %(malloc)s))
  (func (export "opa_json_parse") (param i32 i32) (result i32) (i32.const 8))
  (func (export "opa_heap_ptr_get") (result i32) (i32.const %(heap)s))
  (func (export "opa_heap_ptr_set") (param i32))
  (func (export "opa_json_dump") (param i32) (result i32) (i32.const %(dump)s))
  (func (export "builtins") (result i32) (i32.const 0))
  (func (export "entrypoints") (result i32) (i32.const 0))
  (func (export "opa_eval") (param i32 i32 i32 i32 i32 i32 i32) (result i32) (i32.const 0)))"""


@pytest.mark.parametrize("wild", ["malloc", "heap", "dump"])
@pytest.mark.parametrize("at", [-1, -(2**31), 2**31 - 1])
def test_a_module_that_points_outside_of_its_memory_is_refused(wild, at):
    wasm = wasmtime.wat2wasm(WILD % {"malloc": 1024, "heap": 2048, "dump": 4096, wild: at})
    with pytest.raises(PolicyError, match=r"policy\.wasm"):
        RegoEngine.load(bytes(wasm), {}, "exequatur/decision")


HOSTILE = """(module
  (import "env" "memory" (memory 2))
  (import "env" "opa_builtin0" (func $call (param i32 i32) (result i32)))
  %(declared)s
  (data (i32.const 100) "{\\"time.now_ns\\":1}\\00")
  (data (i32.const 200) "{\\"exequatur/decision\\":0}\\00")
  (data (i32.const 300) "[{\\"result\\":{\\"allow\\":true}}]\\00")
  (func (export "opa_malloc") (param i32) (result i32) (i32.const 8192))
  (func (export "opa_json_parse") (param i32 i32) (result i32) (i32.const 8))
  (func (export "opa_heap_ptr_get") (result i32) (i32.const 4096))
  (func (export "opa_heap_ptr_set") (param i32))
  (func (export "opa_json_dump") (param i32) (result i32) (local.get 0))
  (func (export "opa_value_parse") (param i32 i32) (result i32) %(parsed)s)
  (func (export "builtins") (result i32) (i32.const 100))
  (func (export "entrypoints") (result i32) (i32.const 200))
  (func (export "opa_eval") (param i32 i32 i32 i32 i32 i32 i32) (result i32) %(judged)s (i32.const 300)))"""


def hostile(*, declared="", parsed="(i32.const 400)", judged=""):
    """Make a module that no compiler of OPA's makes, and that allows whatever it is asked."""
    wasm = wasmtime.wat2wasm(HOSTILE % {"declared": declared, "parsed": parsed, "judged": judged})
    return load_module(bytes(wasm), None, b"{}", DECISION, RegoLimits())


def test_a_hostile_module_that_is_harmless_is_one_that_is_judged():
    assert hostile(judged="(drop (call $call (i32.const 1) (i32.const 0)))").evaluate(b"{}", now_ns=0)


def test_a_module_that_calls_its_host_from_inside_of_a_call_does_not_go_on_when_the_stack_of_python_is_full():
    """A callback of ctypes that fails gives 0, which is "no trap": the module would go on to say that it allows."""
    machine = hostile(
        parsed="(call $call (i32.const 1) (i32.const 0))", judged="(drop (call $call (i32.const 1) (i32.const 0)))"
    )
    with pytest.raises(EvaluationError, match="while it was in one"):
        machine.evaluate(b"{}", now_ns=0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_host_function_that_cannot_even_make_a_trap_denies(monkeypatch):
    machine = hostile(judged="(drop (call $call (i32.const 7) (i32.const 0)))")

    def fail(_):
        raise MemoryError

    monkeypatch.setattr(wasmtime, "Trap", type("Trap", (wasmtime.Trap,), {"__init__": fail}))
    with pytest.raises(EvaluationError, match="not known"):
        machine.evaluate(b"{}", now_ns=0)


@pytest.mark.parametrize(
    "declared",
    ["(table 100000000 funcref)", "".join(f"(memory $m{number} 900)" for number in range(3)), "(table 1 funcref)" * 2],
)
def test_a_module_cannot_take_memory_past_its_own(declared):
    with pytest.raises(PolicyError, match=r"resource limit exceeded|exceeds table limits"):
        hostile(declared=declared)


def test_a_table_does_not_grow_past_its_limit():
    grown = "(drop (table.grow 0 (ref.null func) (i32.const 200000000)))"
    grown += "(if (i32.gt_u (table.size 0) (i32.const 100000)) (then unreachable))"
    assert hostile(declared="(table 1 funcref)", judged=grown).evaluate(b"{}", now_ns=0)
