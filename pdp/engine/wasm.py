"""A policy that OPA compiled to WebAssembly, run in wasmtime with fuel and a memory limit.

Rules: bytes in, bytes out; the host gives the module nothing but its memory; what a module says of addresses is
checked before it is used; an instance that was stopped in the middle never judges again. For one thread at a time.
ABI: https://www.openpolicyagent.org/docs/wasm, version 1.2 and up.
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

from pdp.engine.reading import PolicyError, sentence

FILE: Final = "policy.wasm"
ANSWER_BYTES: Final = 2**20
"""The longest answer that is read."""

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


@dataclass(frozen=True, slots=True)
class RegoLimits:
    """What one evaluation may use."""

    fuel: int = 100_000_000
    """WebAssembly instructions, about; 20 ms at most where a usual decision takes 0.1 ms. See tests/bench."""
    memory_bytes: int = 64 * 2**20
    """The module's whole memory, with the bundle's data in it."""


class EvaluationError(Exception):
    """The module gave no usable answer. The text holds no values."""


def compile_module(wasm: bytes) -> bytes:
    """Compile `policy.wasm` to machine code, 70 to 250 ms, for `RegoEngine.load` in other processes on this machine.

    Raises `PolicyError` if this is not a WebAssembly module. What comes back is code: it must reach `load` only from a
    process of ours.
    """
    return bytes(_compile(_engine(), wasm).serialize())


def load_module(wasm: bytes, compiled: bytes | None, data: bytes, entrypoint: str, limits: RegoLimits) -> Machine:
    """Make a machine whose `evaluate` asks `entrypoint`; `data` is canonical JSON.

    `compiled` is what `compile_module` made of the same `wasm`. Raises `PolicyError`.
    """
    engine = _engine()
    if compiled is None:
        module = _compile(engine, wasm)
    else:
        try:
            module = wasmtime.Module.deserialize(engine, compiled)
        except wasmtime.WasmtimeError:
            raise PolicyError(f"`{FILE}`: its compiled form is not of this machine: compile it again") from None
    try:
        machine = Machine(engine, module, data, limits)
        machine.check(entrypoint)
    except (EvaluationError, wasmtime.WasmtimeError, wasmtime.Trap, LookupError, ValueError, AttributeError) as error:
        raise PolicyError(f"`{FILE}`: it does not start as a module that `opa build` made: {error}") from None
    return machine


def _engine() -> wasmtime.Engine:
    config = wasmtime.Config()
    config.consume_fuel = True
    return wasmtime.Engine(config)


def _compile(engine: wasmtime.Engine, wasm: bytes) -> wasmtime.Module:
    try:
        return wasmtime.Module(engine, wasm)
    except wasmtime.WasmtimeError:
        raise PolicyError(f"`{FILE}`: not a WebAssembly module: build it with `exequatur bundle build`") from None


class Machine:
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
        """Evaluate the entry point; gives OPA's result set as JSON. Raises `EvaluationError`."""
        instance = self._instance
        # A trap leaves an instance in the middle of things: it is put back only after a whole evaluation.
        self._instance = None
        try:
            if instance is None:
                instance = _Instance(self._engine, self._module, self._data, self._limits)
            answer = instance.evaluate(self._entrypoint, document, self._limits.fuel)
        except (wasmtime.Trap, wasmtime.WasmtimeError):
            raise EvaluationError("it used more work or memory than an evaluation may") from None
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
            raise EvaluationError("`data.json` is not what it can read")
        self._heap = self._call("opa_heap_ptr_get")

    def names(self, export: str) -> dict[str, int]:
        """Give one of the module's own tables, `builtins` or `entrypoints`."""
        table = json.loads(self._text(self._call("opa_json_dump", self._call(export))))
        # Both calls have used the heap; the next evaluation starts where it was.
        self._exports["opa_heap_ptr_set"](self._store, self._heap)
        return {str(name): int(number) for name, number in table.items()}

    def evaluate(self, entrypoint: int, document: bytes, fuel: int) -> bytes:
        """Do one evaluation. Raises `wasmtime.Trap`, `WasmtimeError` or `EvaluationError`."""
        start, size = self._heap, len(document)
        self._write(start, document)
        self._store.set_fuel(fuel)
        return self._text(self._eval(0, entrypoint, self._data, start, size, start + size, 0))

    def _abort(self, at: int) -> NoReturn:
        # The compiler's own words, such as that two rules conflict, with file and line; never values.
        words = sentence(self._text(at).decode("utf-8", "replace"))
        raise EvaluationError(f"the module stopped, or ran out of memory: {words}")

    def _call(self, export: str, *arguments: int) -> int:
        return int(self._exports[export](self._store, *arguments))

    def _address(self) -> int:
        return ctypes.addressof(self._memory.data_ptr(self._store).contents)

    def _write(self, at: int, data: bytes) -> None:
        _check_address(at)
        missing = at + len(data) - self._memory.data_len(self._store)
        if missing > 0:
            self._memory.grow(self._store, -(-missing // _PAGE))
        ctypes.memmove(self._address() + at, data, len(data))

    def _text(self, at: int) -> bytes:
        """Read up to the NUL, never outside of the memory or past the limit of a result."""
        _check_address(at)
        end = min(self._memory.data_len(self._store), at + ANSWER_BYTES)
        address, found, step = self._address(), bytearray(), 1024
        while at < end:
            piece = ctypes.string_at(address + at, min(step, end - at))
            text, nul, _ = piece.partition(b"\0")
            found += text
            if nul:
                return bytes(found)
            at, step = at + len(piece), step * 4
        raise EvaluationError("its answer is too long")


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


def _check_address(at: int) -> None:
    # What a module gives is a signed number, and is added to a real address.
    if at < 0:
        raise EvaluationError("it points outside of its memory")


def _memory_type(module: wasmtime.Module) -> wasmtime.MemoryType:
    for item in module.imports:
        if item.name == "memory" and isinstance(item.type, wasmtime.MemoryType):
            return item.type
    raise PolicyError(f"`{FILE}`: it has no memory to share, which each module built by `opa` has: build it again")


def _no_builtin(*_: int) -> NoReturn:
    raise EvaluationError("it called a built-in that is not in the module")


def _ignore(_: int) -> None:
    return


def _advice(builtin: str) -> str:
    for start, advice in _INSTEAD.items():
        if builtin.startswith(start):
            return advice
    return "write the rule without it, or in Cedar"
