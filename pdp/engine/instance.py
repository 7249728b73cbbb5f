"""One running module: its memory, its calls, and what it may call.

Rules: the module reaches its memory, pure built-ins (pdp/engine/builtins) and nothing else; what it says of addresses
is checked before it is used; each host call is paid from the fuel of the evaluation, and what goes wrong in one ends
the evaluation; an instance holds no reference to itself, so that one that was stopped is freed at once.
"""

from __future__ import annotations

import ctypes
import json
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import wasmtime
from wasmtime import _bindings as bindings

from pdp.engine.builtins import Builtin, BuiltinError
from pdp.engine.builtins.operands import paid_by
from pdp.engine.builtins.values import TEXT_BYTES, Number, Undefined, Value, dump_value, is_larger, parse_value
from pdp.engine.manifest import WASM
from pdp.engine.reading import PolicyError, sentence

FILE: Final = WASM
ANSWER_BYTES: Final = 2**20
"""The longest answer that is read."""
CALL_FUEL: Final = 100_000
"""What one host call costs whatever it does: 50 us of host code, where 100,000,000 of fuel are 20 ms of a module's."""
VALUE_FUEL: Final = 8_000
"""What each value costs that goes into a host call or comes out, about: it is read and written by Python."""
BYTE_FUEL: Final = 20
"""What each byte costs of what goes in and comes out: texts are copied a few times."""
TABLE_ELEMENTS: Final = 100_000
"""The largest table of functions: OPA's modules have some hundreds, and one for each rule."""

_PAGE: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class RegoLimits:
    """What one evaluation may use."""

    fuel: int = 100_000_000
    """WebAssembly instructions, about; 20 ms at most where a usual decision takes 0.1 ms. See tests/bench."""
    memory_bytes: int = 64 * 2**20
    """The module's whole memory, with the bundle's data in it."""


class EvaluationError(Exception):
    """The module gave no usable answer. The text holds no values."""


class Instance:
    """A running module: its store, its memory, and where its heap begins once the data is in it."""

    def __init__(
        self,
        engine: wasmtime.Engine,
        module: wasmtime.Module,
        data: bytes,
        limits: RegoLimits,
        builtins: Mapping[int, Builtin],
    ) -> None:
        self._store = store = wasmtime.Store(engine)
        # Tables, and memories of the module's own, are not in the first limit.
        store.set_limits(limits.memory_bytes, table_elements=TABLE_ELEMENTS, instances=1, tables=1, memories=1)
        # Loading the data costs more than a decision, and happens once: it has a budget of its own.
        store.set_fuel(limits.fuel * 10)
        self._builtins = builtins
        self._now_ns = 0
        self._failure: BaseException | None = None
        self._calling = False
        self._callbacks: list[Any] = []
        linker = wasmtime.Linker(engine)
        for n in range(5):
            self._define(linker, f"opa_builtin{n}", n + 2, 1, lambda me, given: me._builtin(*given))  # noqa: SLF001
        self._define(linker, "opa_abort", 1, 0, lambda me, given: me._abort(*given))  # noqa: SLF001
        self._define(linker, "opa_println", 1, 0, lambda _me, _given: 0)
        self._memory = wasmtime.Memory(store, _memory_type(module))
        linker.define(store, "env", "memory", self._memory)
        self._exports: Mapping[str, Any] = linker.instantiate(store, module).exports(store)
        self._functions: dict[str, _Function] = {}
        at = self._call("opa_malloc", len(data))
        self._write(at, data)
        self._data = self._call("opa_json_parse", at, len(data))
        if self._data == 0:
            raise EvaluationError("`data.json` is not what it can read")
        self._heap = self._call("opa_heap_ptr_get")

    def names(self, export: str) -> dict[str, int]:
        """Give one of the module's own tables, `builtins` or `entrypoints`."""
        table = json.loads(self._text(self._call("opa_json_dump", self._call(export)), ANSWER_BYTES))
        # Both calls have used the heap; the next evaluation starts where it was.
        self._call("opa_heap_ptr_set", self._heap)
        return {str(name): int(number) for name, number in table.items()}

    def evaluate(self, entrypoint: int, document: bytes, fuel: int, now_ns: int) -> bytes:
        """Do one evaluation. Raises `wasmtime.Trap`, `WasmtimeError` or `EvaluationError`."""
        start, size = self._heap, len(document)
        self._write(start, document)
        self._store.set_fuel(fuel)
        self._now_ns = now_ns
        return self._text(self._call("opa_eval", 0, entrypoint, self._data, start, size, start + size, 0), ANSWER_BYTES)

    def _builtin(self, number: int, _context: int, *addresses: int) -> int:
        """Do what `opa_builtin0` to `opa_builtin4` ask for, one at a time."""
        known = self._builtins.get(number)
        if known is None or known.arity != len(addresses):
            raise EvaluationError("it called a built-in that is not known")
        # No module of OPA's does: it would go on until Python's stack is full, where a callback cannot even fail.
        if self._calling:
            raise EvaluationError("it called a built-in while it was in one")
        # Not put back after a failure: such an instance never judges again.
        self._calling = True
        address = self._answer(known, addresses)
        self._calling = False
        return address

    def _answer(self, known: Builtin, addresses: tuple[int, ...]) -> int:
        """Do one host call; gives the address of the result, 0 where there is none."""
        given = [self._text(self._call("opa_value_dump", address), TEXT_BYTES, known.name) for address in addresses]
        self._pay(CALL_FUEL + sum(map(_price, given)), known.name)
        try:
            with paid_by(lambda fuel: self._pay(fuel, known.name)):
                answer = self._ask(known, list(map(parse_value, given)))
            if not isinstance(answer, Undefined) and is_larger(answer, self._store.get_fuel() // VALUE_FUEL):
                raise self._exhausted(known.name)
            result = None if isinstance(answer, Undefined) else dump_value(answer)
        except BuiltinError as error:
            raise EvaluationError(f"the built-in `{known.name}` failed: {error}") from None
        except (RecursionError, MemoryError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise EvaluationError(f"the built-in `{known.name}` failed: {type(error).__name__}") from None
        if result is None:
            return 0
        if len(result) > TEXT_BYTES:
            raise EvaluationError(f"the built-in `{known.name}` failed: its result is too long")
        self._pay(_price(result), known.name)
        at = self._call("opa_malloc", len(result))
        self._write(at, result)
        address = self._call("opa_value_parse", at, len(result))
        if address == 0:
            raise EvaluationError(f"the built-in `{known.name}` failed: its result cannot be read")
        return address

    def _ask(self, known: Builtin, values: list[Value]) -> Value | Undefined:
        return known.function(Number.of(self._now_ns), *values) if known.needs_time else known.function(*values)

    def _pay(self, fuel: int, name: str) -> None:
        left = self._store.get_fuel() - fuel
        if left < 0:
            raise self._exhausted(name)
        self._store.set_fuel(left)

    @staticmethod
    def _exhausted(name: str) -> EvaluationError:
        return EvaluationError(f"it used more work than an evaluation may, at the built-in `{name}`")

    def _abort(self, at: int) -> int:
        # The compiler's own words, such as that two rules conflict, with file and line; never values.
        words = sentence(self._text(at, ANSWER_BYTES).decode("utf-8", "replace"))
        raise EvaluationError(f"the module stopped, or ran out of memory: {words}")

    def _call(self, export: str, *arguments: int) -> int:
        """Call an export. Raises what a host function raised inside of it, or `Trap`, or `WasmtimeError`."""
        function = self._functions.get(export)
        if function is None:
            function = self._functions[export] = _Function(self._store, self._exports[export], len(arguments))
        try:
            result = function(*arguments)
        except (wasmtime.Trap, wasmtime.WasmtimeError):
            if self._failure is None:
                raise
            result = 0
        # It counts without a trap, too: a host function that could not make one has let the module go on.
        if self._failure is not None:
            raise self._take_failure() from None
        return result

    def _take_failure(self) -> BaseException:
        # Taken, not kept: its traceback holds this instance.
        failure, self._failure = self._failure, None
        return failure or EvaluationError("a host function failed")

    def _define(
        self,
        linker: wasmtime.Linker,
        name: str,
        parameters: int,
        results: int,
        handler: Callable[[Instance, list[int]], int],
    ) -> None:
        """Give the module a host function, without the conversions of `wasmtime.Func`, which cost 100 us a call.

        That class also keeps each function, and what it belongs to, in a table of the process, as long as its store
        lives: an instance whose methods are in there is never freed. This one holds it weakly.
        """
        me = weakref.ref(self)

        def callback(_environment: Any, _caller: Any, slots: Any, _count: int) -> int:
            instance = me()
            try:
                # It is alive: what calls is one of its own functions.
                slots[0].i32 = handler(cast("Instance", instance), [slots[n].i32 for n in range(parameters)])
            except BaseException as error:  # noqa: BLE001 - it is raised again by `_call`
                if instance is not None:
                    instance._failure = error  # noqa: SLF001
                return ctypes.cast(wasmtime.Trap("host")._consume(), ctypes.c_void_p).value or 0  # noqa: SLF001
            return 0

        kept = bindings.wasmtime_func_unchecked_callback_t(callback)
        self._callbacks.append(kept)
        i32 = wasmtime.ValType.i32()
        kind = wasmtime.FuncType([i32] * parameters, [i32] * results)
        raw = bindings.wasmtime_func_t()
        bindings.wasmtime_func_new_unchecked(
            self._store._context(),  # noqa: SLF001
            kind.ptr(),
            kept,
            None,
            _NO_FINALIZER,
            ctypes.byref(raw),
        )
        linker.define(self._store, "env", name, wasmtime.Func._from_raw(raw))  # noqa: SLF001

    def _address(self) -> int:
        return ctypes.addressof(self._memory.data_ptr(self._store).contents)

    def _write(self, at: int, data: bytes) -> None:
        _check_address(at)
        missing = at + len(data) - self._memory.data_len(self._store)
        if missing > 0:
            self._memory.grow(self._store, -(-missing // _PAGE))
        ctypes.memmove(self._address() + at, data, len(data))

    def _text(self, at: int, limit: int, builtin: str | None = None) -> bytes:
        """Read up to the NUL, never outside of the memory or past the limit."""
        _check_address(at)
        end = min(self._memory.data_len(self._store), at + limit)
        address, found, step = self._address(), bytearray(), 1024
        while at < end:
            piece = ctypes.string_at(address + at, min(step, end - at))
            text, nul, _ = piece.partition(b"\0")
            found += text
            if nul:
                return bytes(found)
            at, step = at + len(piece), step * 4
        raise EvaluationError(
            f"what it gave the built-in `{builtin}` is too long" if builtin else "its answer is too long"
        )


class _Function:
    """An export of 32-bit integers, called without `wasmtime.Func`'s conversions, which cost more than an evaluation.

    It does what `Func.__call__` does, on slots that are made once; wasmtime is pinned, for these names are its own. No
    one looks at types after this: a function of another type would read and write past the slots.
    """

    def __init__(self, store: wasmtime.Store, function: Any, parameters: int) -> None:
        kind = function.type(store)
        types = {str(value) for value in (*kind.params, *kind.results)}
        if len(kind.params) != parameters or len(kind.results) > 1 or types - {"i32"}:
            raise EvaluationError("it has a function of another type than each module built by `opa` has")
        self._store = store
        self._function = function
        # The result comes back in the first slot, also where there are no parameters.
        self._slots = (bindings.wasmtime_val_raw * max(1, parameters))()

    def __call__(self, *arguments: int) -> int:
        for slot, argument in zip(self._slots, arguments, strict=False):
            slot.i32 = argument
        trap = _TrapPointer()
        error = bindings.wasmtime_func_call_unchecked(
            self._store._context(),  # noqa: SLF001
            ctypes.byref(self._function._func),  # noqa: SLF001
            self._slots,
            len(self._slots),
            ctypes.byref(trap),
        )
        if error:
            raise wasmtime.WasmtimeError._from_ptr(error)  # noqa: SLF001
        if trap:
            raise wasmtime.Trap._from_ptr(trap)  # noqa: SLF001
        return int(self._slots[0].i32)


_TrapPointer: Final = ctypes.POINTER(bindings.wasm_trap_t)
_NO_FINALIZER: Final = ctypes.cast(0, ctypes.CFUNCTYPE(None, ctypes.c_void_p))


def _price(value: bytes) -> int:
    # Commas and brackets in a text make it dearer than it is; counting them right would cost what it is to save.
    return BYTE_FUEL * len(value) + VALUE_FUEL * (value.count(b",") + value.count(b"[") + value.count(b"{"))


def _check_address(at: int) -> None:
    # What a module gives is a signed number, and is added to a real address.
    if at < 0:
        raise EvaluationError("it points outside of its memory")


def _memory_type(module: wasmtime.Module) -> wasmtime.MemoryType:
    for item in module.imports:
        if item.name == "memory" and isinstance(item.type, wasmtime.MemoryType):
            return item.type
    raise PolicyError(f"`{FILE}`: it has no memory to share, which each module built by `opa` has: build it again")
