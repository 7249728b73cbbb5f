"""A policy that OPA compiled to WebAssembly, run in wasmtime with fuel and a memory limit.

Rules: bytes in, bytes out, and the same bytes for the same input and time; a module that asks its host for what is not
there is refused when it is loaded; an instance that was stopped in the middle never judges again. For one thread at a
time. ABI: https://www.openpolicyagent.org/docs/wasm, version 1.2 and up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import wasmtime

from pdp.engine.builtins import BUILTINS, Builtin
from pdp.engine.instance import ANSWER_BYTES, FILE, EvaluationError, Instance, RegoLimits
from pdp.engine.reading import PolicyError, sentence

__all__ = ["ANSWER_BYTES", "FILE", "EvaluationError", "Machine", "RegoLimits", "compile_module", "load_module"]

_KNOWN_IMPORTS: Final = {"memory", "opa_abort", "opa_println", *(f"opa_builtin{n}" for n in range(5))}
_OPA: Final = "give the bundle the engine `opa`"
_INSTEAD: Final = {
    "http.send": f"put what it would fetch into `data.json`, or {_OPA}",
    "net.lookup_ip_addr": f"put what it would look up into `data.json`, or {_OPA}",
    "opa.runtime": f"put what it would read into `data.json`, or {_OPA}",
    "rand.intn": f"a decision must be repeatable, so take it out, or {_OPA}",
    "uuid.rfc4122": f"a decision must be repeatable, so take it out, or {_OPA}",
    "trace": "take it out",
    "internal.print": "take `print` out",
}


def compile_module(wasm: bytes) -> bytes:
    """Compile `policy.wasm` to machine code, 70 to 250 ms, for `RegoEngine.load` in other processes on this machine.

    Raises `PolicyError` if this is not a WebAssembly module. What comes back is code: it must reach `load` only from a
    process of ours.
    """
    return bytes(_compile(_engine(), wasm).serialize())


def load_module(
    wasm: bytes,
    compiled: bytes | None,
    data: bytes,
    entrypoint: str,
    limits: RegoLimits,
    *,
    sources: Mapping[str, bytes] | None = None,
) -> Machine:
    """Make a machine whose `evaluate` asks `entrypoint`; `data` is canonical JSON.

    `compiled` is what `compile_module` made of the same `wasm`; `sources` are its `*.rego`, for the line of what is
    refused. Raises `PolicyError`.
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
        machine.check(entrypoint, sources or {})
    except (EvaluationError, wasmtime.WasmtimeError, wasmtime.Trap, LookupError, ValueError, AttributeError) as error:
        raise PolicyError(f"`{FILE}`: it does not start as a module that `opa build` made: {_words(error)}") from None
    return machine


def _words(error: Exception) -> str:
    """Give the last line of what wasmtime says: those before it hold names that the module gave itself."""
    return sentence(str(error).strip().rpartition("\n")[2].strip())


def _engine() -> wasmtime.Engine:
    config = wasmtime.Config()
    config.consume_fuel = True
    return wasmtime.Engine(config)


def _compile(engine: wasmtime.Engine, wasm: bytes) -> wasmtime.Module:
    try:
        return wasmtime.Module(engine, wasm)
    except wasmtime.WasmtimeError:
        raise PolicyError(
            f"`{FILE}`: not a WebAssembly module, or one with a function too large to compile: build it with "
            "`exequatur bundle build`, from fewer rules"
        ) from None


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
        self._builtins: dict[int, Builtin] = {}
        self._instance: Instance | None = None

    def check(self, entrypoint: str, sources: Mapping[str, bytes]) -> None:
        """Raise `PolicyError` for a built-in that the host does not have, and for a missing entry point."""
        instance = self._instance = self._start()
        wanted = instance.names("builtins")
        if missing := sorted(wanted.keys() - BUILTINS.keys()):
            raise PolicyError("; ".join(_refusal(name, sources) for name in missing))
        self._builtins.update({number: BUILTINS[name] for name, number in wanted.items()})
        entrypoints = instance.names("entrypoints")
        if entrypoint not in entrypoints:
            raise PolicyError(f"`{FILE}`: there is no entry point `{entrypoint}`: build with `-e {entrypoint}`")
        self._entrypoint = entrypoints[entrypoint]

    def evaluate(self, document: bytes, *, now_ns: int) -> bytes:
        """Evaluate the entry point; gives OPA's result set as JSON. Raises `EvaluationError`.

        `now_ns` is the decision's time, in ns since 1970, which is the time that the policy sees.
        """
        instance = self._instance
        # A trap leaves an instance in the middle of things: it is put back only after a whole evaluation.
        self._instance = None
        try:
            if instance is None:
                instance = self._start()
            answer = instance.evaluate(self._entrypoint, document, self._limits.fuel, now_ns)
        except (wasmtime.Trap, wasmtime.WasmtimeError):
            raise EvaluationError("it used more work or memory than an evaluation may") from None
        self._instance = instance
        return answer

    def _start(self) -> Instance:
        return Instance(self._engine, self._module, self._data, self._limits, self._builtins)


def _refusal(name: str, sources: Mapping[str, bytes]) -> str:
    where = _call_of(name, sources) or FILE
    return (
        f"`{where}`: the built-in `{name}` is not here: {_INSTEAD.get(name, f'write the rule without it, or {_OPA}')}"
    )


def _call_of(name: str, sources: Mapping[str, bytes]) -> str | None:
    """Find the first call by file and line; what stands in strings and comments is none."""
    called = r"print" if name == "internal.print" else re.escape(name)
    pattern = re.compile(rf'"(?:\\.|[^"\\\n])*"|`[^`]*`|#[^\n]*|(?<![\w.])(?P<call>{called})\s*\(')
    for file in sorted(sources):
        text = sources[file].decode("utf-8", "replace")
        for found in pattern.finditer(text):
            if found["call"]:
                return f"{file}:{text.count(chr(10), 0, found.start()) + 1}"
    return None
