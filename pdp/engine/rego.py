"""Rego, compiled by OPA to WebAssembly, judged in wasmtime.

Rules:
- The module gets the document and the bundle's data, and nothing else: no clock, network, environment or host function.
  A module that wants a built-in from its host is refused when it is loaded, by name and with the way out.
- Each evaluation has fuel and memory. One that runs out is a denial, and the next one gets a new instance.
- Only a result of the exact shape below counts. Anything else, undefined or empty, is a denial of kind `ERROR`: in Rego
  a failing expression makes its rule vanish, so a missing answer proves nothing.
- A denial by `deny` is `FORBIDDEN`; `allow: false` without one is `NOT_PERMITTED`.
- One engine is for one thread: a wasmtime store must not be entered twice at once.

The result, of which a `decide` engine must give `allow` and a `restrict` engine may leave it out (an `allow` of `true`
there adds nothing, one of `false` denies):

    {"allow": bool, "deny": [entry], "warn": [entry], "require_approval": [entry], "obligations": [obligation]}

An entry is a message, or `{"id", "reason", "owasp"?}` with `"approvers"?` in `require_approval`. An obligation is
`{"id", "parameters"?}`. ABI: https://www.openpolicyagent.org/docs/wasm, version 1.2 and up.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import wasmtime
from wasmtime import _bindings as bindings
from wasmtime._func import enter_wasm

from exequatur.trust.canonical import Json, JsonError, JsonLimits, canonical, parse
from pdp.engine.combine import refusal
from pdp.engine.document import Facts, rego_document
from pdp.engine.manifest import Role
from pdp.engine.reading import PolicyError, is_name, is_owasp, is_policy_id, sentence
from pdp.model import Effect, Obligation, Reason, ReasonKind, Verdict

ENGINE: Final = "rego"
FILE: Final = "policy.wasm"

_PAGE: Final = 64 * 1024
_KNOWN_IMPORTS: Final = {"memory", "opa_abort", "opa_println", *(f"opa_builtin{n}" for n in range(5))}
_INSTEAD: Final = {
    "time.": "use `input.request`, which has the time of the decision",
    "sprintf": "use `concat`",
    "strings.any_prefix_match": "use `some prefix in prefixes; startswith(text, prefix)`",
    "strings.any_suffix_match": "use `some suffix in suffixes; endswith(text, suffix)`",
    "object.subset": "compare the members with `every`",
    "regex.replace": "match with `regex.match`, or use `replace`",
    "regex.split": "use `split`, or match with `regex.match`",
    "trace": "take it out",
    "print": "take it out",
}
_RESULT_LIMITS: Final = JsonLimits(bytes=2**20, depth=32, keys=10_000, string_bytes=64 * 1024)


@dataclass(frozen=True, slots=True)
class RegoLimits:
    """What one evaluation may use."""

    fuel: int = 100_000_000
    """WebAssembly instructions, about; 40 ms at most where a usual decision takes 0.1 ms. See tests/bench."""
    memory_bytes: int = 64 * 2**20
    """The module's whole memory, with the bundle's data in it."""


_LIMITS: Final = RegoLimits()


class _EvaluationError(Exception):
    """The module gave no usable answer. The text holds no values."""


def compile_module(wasm: bytes) -> bytes:
    """Compile `policy.wasm` to machine code, 70 to 250 ms, for `RegoEngine.load` in other processes on this machine.

    Raises `PolicyError` if this is not a WebAssembly module. What comes back is code: it must reach `load` only from a
    process of ours.
    """
    return bytes(_compile(_engine(), wasm).serialize())


class RegoEngine:
    """One compiled policy with its data. Not for two threads at once."""

    def __init__(self, machine: _Machine, entrypoint: str, role: Role) -> None:
        """Use `load`."""
        self._machine = machine
        self._entrypoint = entrypoint
        self._role = role

    @classmethod
    def load(
        cls,
        wasm: bytes,
        data: Json,
        entrypoint: str,
        serialized_module: bytes | None = None,
        *,
        role: Role = Role.DECIDE,
        limits: RegoLimits = _LIMITS,
    ) -> RegoEngine:
        """Make the engine ready to judge.

        `data` is the bundle's `data.json`; `serialized_module` is what `compile_module` made of the same `wasm`.
        Raises `PolicyError` if the module is not one of OPA's, needs built-ins of its host, or lacks the entry point.
        """
        engine = _engine()
        if serialized_module is None:
            module = _compile(engine, wasm)
        else:
            try:
                module = wasmtime.Module.deserialize(engine, serialized_module)
            except wasmtime.WasmtimeError:
                raise PolicyError(f"`{FILE}`: its compiled form is not of this machine: compile it again") from None
        try:
            machine = _Machine(engine, module, canonical(data), limits)
            machine.check(entrypoint)
        except (_EvaluationError, JsonError, wasmtime.WasmtimeError, wasmtime.Trap, KeyError) as error:
            raise PolicyError(
                f"`{FILE}`: it cannot be started as a module built by `opa build -t wasm`: {error}"
            ) from None
        return cls(machine, entrypoint, role)

    def judge(self, facts: Facts) -> Verdict:
        """Judge one action. Raises nothing: whatever goes wrong is a denial of kind `ERROR`."""
        try:
            document = json.dumps(rego_document(facts), ensure_ascii=False, separators=(",", ":")).encode("utf-8")
            return _verdict(_answer(self._machine.evaluate(document)), self._role, self._entrypoint)
        except _EvaluationError as error:
            text = f"`{self._entrypoint}` gave no usable answer: {error}"
        except Exception as error:  # noqa: BLE001 - fail closed, whatever it was
            text = f"`{self._entrypoint}` could not be asked: {type(error).__name__}"
        return refusal(text, engine=ENGINE, policy=self._entrypoint)


def _engine() -> wasmtime.Engine:
    config = wasmtime.Config()
    config.consume_fuel = True
    return wasmtime.Engine(config)


def _compile(engine: wasmtime.Engine, wasm: bytes) -> wasmtime.Module:
    try:
        return wasmtime.Module(engine, wasm)
    except wasmtime.WasmtimeError:
        raise PolicyError(f"`{FILE}`: not a WebAssembly module: build it with `exequatur bundle build`") from None


class _Machine:
    """A module and its current instance: made when first needed, and made again after a trap."""

    def __init__(self, engine: wasmtime.Engine, module: wasmtime.Module, data: bytes, limits: RegoLimits) -> None:
        unknown = sorted({item.name or "?" for item in module.imports} - _KNOWN_IMPORTS)
        if unknown:
            raise PolicyError(
                f"`{FILE}`: it imports `{unknown[0]}`, which no module built by `opa` does: build it again"
            )
        self._engine = engine
        self._module = module
        self._data = data
        self._limits = limits
        self._entrypoint = 0
        self._instance: _Instance | None = None

    def check(self, entrypoint: str) -> None:
        """Raise `PolicyError` for a built-in that is left to the host, and for a missing entry point."""
        instance = self._instance = _Instance(self._engine, self._module, self._data, self._limits)
        wanted = sorted(instance.names("builtins"))
        if wanted:
            advice = "; ".join(f"`{name}`: {_advice(name)}" for name in wanted)
            raise PolicyError(f"`{FILE}`: the policy uses built-ins that are not in the module: {advice}")
        entrypoints = instance.names("entrypoints")
        if entrypoint not in entrypoints:
            raise PolicyError(f"`{FILE}`: there is no entry point `{entrypoint}`: build with `-e {entrypoint}`")
        self._entrypoint = entrypoints[entrypoint]

    def evaluate(self, document: bytes) -> bytes:
        """Evaluate the entry point; gives OPA's result set as JSON. Raises `_EvaluationError`."""
        instance = self._instance
        # A trap leaves an instance in the middle of things: it is put back only after a whole evaluation.
        self._instance = None
        try:
            if instance is None:
                instance = _Instance(self._engine, self._module, self._data, self._limits)
            answer = instance.evaluate(self._entrypoint, document, self._limits.fuel)
        except (wasmtime.Trap, wasmtime.WasmtimeError):
            raise _EvaluationError("it used more work or memory than an evaluation may") from None
        self._instance = instance
        return answer


class _Instance:
    """A running module: its store, its memory, and where its heap begins once the data is in it."""

    def __init__(self, engine: wasmtime.Engine, module: wasmtime.Module, data: bytes, limits: RegoLimits) -> None:
        self._store = store = wasmtime.Store(engine)
        store.set_limits(memory_size=limits.memory_bytes)
        # Loading the data costs more than a decision, and happens once: it has a budget of its own.
        store.set_fuel(limits.fuel * 10)
        linker = wasmtime.Linker(engine)
        i32 = wasmtime.ValType.i32()
        for n in range(5):
            function = wasmtime.Func(store, wasmtime.FuncType([i32] * (n + 2), [i32]), _no_builtin)
            linker.define(store, "env", f"opa_builtin{n}", function)
        linker.define(store, "env", "opa_abort", wasmtime.Func(store, wasmtime.FuncType([i32], []), self._abort))
        linker.define(store, "env", "opa_println", wasmtime.Func(store, wasmtime.FuncType([i32], []), _ignore))
        self._memory = wasmtime.Memory(store, _memory_type(module))
        linker.define(store, "env", "memory", self._memory)
        exports = linker.instantiate(store, module).exports(store)
        self._exports: Mapping[str, Any] = exports
        self._eval = _Function(store, exports["opa_eval"], 7)
        at = self._call("opa_malloc", len(data))
        self._write(at, data)
        self._data = self._call("opa_json_parse", at, len(data))
        if self._data == 0:
            raise _EvaluationError("`data.json` is not what it can read")
        self._heap = self._call("opa_heap_ptr_get")

    def names(self, export: str) -> dict[str, int]:
        """Give one of the module's own tables, `builtins` or `entrypoints`."""
        table = json.loads(self._text(self._call("opa_json_dump", self._call(export))))
        # Both calls have used the heap; the next evaluation starts where it was.
        self._exports["opa_heap_ptr_set"](self._store, self._heap)
        return {str(name): int(number) for name, number in table.items()}

    def evaluate(self, entrypoint: int, document: bytes, fuel: int) -> bytes:
        """Do one evaluation. Raises `wasmtime.Trap`, `WasmtimeError` or `_EvaluationError`."""
        start, size = self._heap, len(document)
        self._write(start, document)
        self._store.set_fuel(fuel)
        return self._text(self._eval(0, entrypoint, self._data, start, size, start + size, 0))

    def _abort(self, at: int) -> NoReturn:
        # The compiler's own words, such as that two rules conflict, with file and line; never values.
        words = sentence(self._text(at).decode("utf-8", "replace"))
        raise _EvaluationError(f"the module stopped, or ran out of memory: {words}")

    def _call(self, export: str, *arguments: int) -> int:
        return int(self._exports[export](self._store, *arguments))

    def _address(self) -> int:
        return ctypes.addressof(self._memory.data_ptr(self._store).contents)

    def _write(self, at: int, data: bytes) -> None:
        missing = at + len(data) - self._memory.data_len(self._store)
        if missing > 0:
            self._memory.grow(self._store, -(-missing // _PAGE))
        ctypes.memmove(self._address() + at, data, len(data))

    def _text(self, at: int) -> bytes:
        """Read up to the NUL, never past the memory's end or the limit of a result."""
        end = min(self._memory.data_len(self._store), at + _RESULT_LIMITS.bytes)
        address, found, step = self._address(), bytearray(), 1024
        while at < end:
            piece = ctypes.string_at(address + at, min(step, end - at))
            text, nul, _ = piece.partition(b"\0")
            found += text
            if nul:
                return bytes(found)
            at, step = at + len(piece), step * 4
        raise _EvaluationError("its answer is too long")


class _Function:
    """An export of 32-bit integers, called without `wasmtime.Func`'s conversions, which cost more than an evaluation.

    It does what `Func.__call__` does, on slots that are made once; wasmtime is pinned, for these names are its own.
    """

    def __init__(self, store: wasmtime.Store, function: Any, arguments: int) -> None:
        self._store = store
        self._function = function
        self._slots = (bindings.wasmtime_val_raw * arguments)()

    def __call__(self, *arguments: int) -> int:
        for slot, argument in zip(self._slots, arguments, strict=True):
            slot.i32 = argument
        with enter_wasm(self._store) as trap:
            error = bindings.wasmtime_func_call_unchecked(
                self._store._context(),  # noqa: SLF001
                ctypes.byref(self._function._func),  # noqa: SLF001
                self._slots,
                len(self._slots),
                trap,
            )
            if error:
                raise wasmtime.WasmtimeError._from_ptr(error)  # noqa: SLF001
        return int(self._slots[0].i32)


def _memory_type(module: wasmtime.Module) -> wasmtime.MemoryType:
    for item in module.imports:
        if item.name == "memory" and isinstance(item.type, wasmtime.MemoryType):
            return item.type
    raise PolicyError(f"`{FILE}`: it has no memory to share, which each module built by `opa` has: build it again")


def _no_builtin(*_: int) -> NoReturn:
    raise _EvaluationError("it called a built-in that is not in the module")


def _ignore(_: int) -> None:
    return


def _advice(builtin: str) -> str:
    for start, advice in _INSTEAD.items():
        if builtin.startswith(start):
            return advice
    return "write the rule without it, or in Cedar"


def _answer(result_set: bytes) -> dict[str, Json]:
    """Take the one result out of OPA's result set."""
    try:
        results = parse(result_set, _RESULT_LIMITS)
    except JsonError:
        raise _EvaluationError("it is not JSON inside the limits") from None
    if not isinstance(results, list) or len(results) != 1:
        raise _EvaluationError("it is undefined")
    answer = results[0].get("result") if isinstance(results[0], dict) else None
    if not isinstance(answer, dict) or not answer:
        raise _EvaluationError("it is empty, or not an object")
    return answer


def _verdict(answer: dict[str, Json], role: Role, entrypoint: str) -> Verdict:
    unknown = answer.keys() - {"allow", "deny", "warn", "require_approval", "obligations"}
    if unknown:
        raise _EvaluationError(f"it has the unknown member `{sentence(min(unknown))}`")
    allow = answer.get("allow", True if role is Role.RESTRICT else None)
    if not isinstance(allow, bool):
        raise _EvaluationError("`allow` is not true or false")
    deny, _ = _entries(answer, "deny", ReasonKind.FORBIDDEN, entrypoint)
    warn, _ = _entries(answer, "warn", ReasonKind.RESTRICTED, entrypoint)
    approval, approvers = _entries(answer, "require_approval", ReasonKind.RESTRICTED, entrypoint)
    obligations = _obligations(answer.get("obligations", []))
    if deny:
        return Verdict(ENGINE, Effect.DENY, deny)
    if not allow:
        text = f"`{entrypoint}` does not allow this action"
        return Verdict(ENGINE, Effect.DENY, (Reason(ReasonKind.NOT_PERMITTED, text, entrypoint, ENGINE),))
    permitted = Reason(ReasonKind.PERMITTED, f"`{entrypoint}` allows this action", entrypoint, ENGINE)
    effect = Effect.REQUIRE_APPROVAL if approval else Effect.WARN if warn else Effect.ALLOW
    return Verdict(ENGINE, effect, (*approval, *warn, permitted), obligations, approvers)


def _entries(
    answer: dict[str, Json], name: str, kind: ReasonKind, entrypoint: str
) -> tuple[tuple[Reason, ...], tuple[str, ...]]:
    """Give a list's reasons, sorted since Rego's sets come in no order, and all approvers named in it."""
    entries = answer.get(name, [])
    if not isinstance(entries, list):
        raise _EvaluationError(f"`{name}` is not a set or a list")
    reasons: list[Reason] = []
    approvers: set[str] = set()
    for entry in sorted(entries, key=canonical):
        if isinstance(entry, str):
            reasons.append(Reason(kind, _words(name, entry), f"{entrypoint}#{name}", ENGINE))
            continue
        allowed = {"id", "reason", "owasp"} | ({"approvers"} if name == "require_approval" else set())
        if not isinstance(entry, dict) or not entry.keys() <= allowed:
            raise _EvaluationError(f"`{name}` holds what is neither a message nor an object with `id` and `reason`")
        policy, owasp = entry.get("id"), entry.get("owasp", "")
        if not isinstance(policy, str) or not is_policy_id(policy):
            raise _EvaluationError(f"`{name}` holds an entry without a usable `id`")
        if not isinstance(owasp, str) or not (owasp == "" or is_owasp(owasp)):
            raise _EvaluationError(f"`{name}` holds an `owasp` that is not `ASI01` to `ASI10`")
        reasons.append(Reason(kind, _words(name, entry.get("reason")), policy, ENGINE, owasp))
        approvers.update(_approvers(entry.get("approvers", [])))
    return tuple(reasons), tuple(sorted(approvers))


def _words(name: str, text: Json) -> str:
    if not isinstance(text, str) or not text.strip():
        raise _EvaluationError(f"`{name}` holds an entry without a reason")
    return sentence(text)


def _approvers(names: Json) -> list[str]:
    if not isinstance(names, list):
        raise _EvaluationError("`approvers` is not a set or a list")
    found = [name for name in names if isinstance(name, str) and is_name(name)]
    if len(found) != len(names):
        raise _EvaluationError("`approvers` holds what is not a name")
    return found


def _obligations(listed: Json) -> tuple[Obligation, ...]:
    if not isinstance(listed, list):
        raise _EvaluationError("`obligations` is not a set or a list")
    found: list[Obligation] = []
    for item in sorted(listed, key=canonical):
        if not isinstance(item, dict) or not item.keys() <= {"id", "parameters"}:
            raise _EvaluationError("`obligations` holds what is not an object with `id` and `parameters`")
        name, parameters = item.get("id"), item.get("parameters", {})
        if not isinstance(name, str) or not is_policy_id(name) or not isinstance(parameters, dict):
            raise _EvaluationError("`obligations` holds one without a usable `id` or `parameters`")
        found.append(Obligation(name, parameters))
    return tuple(found)
