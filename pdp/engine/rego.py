"""Rego, compiled by OPA to WebAssembly, judged in wasmtime.

Rules:
- The module gets the document, the bundle's data, and pure built-ins (pdp/engine/builtins): no clock but the
  decision's time, no network, no environment. A module that wants any other built-in is refused when it is loaded, by
  name, file and line, with the way out. An error in a built-in of the host denies; it does not make a rule vanish.
- Each evaluation has fuel and memory. One that runs out is a denial, and the next one gets a new instance.
- What counts as an answer is in `pdp/engine/answer.py`; anything else is a denial of kind `ERROR`.
- One engine is for one thread: a wasmtime store must not be entered twice at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from exequatur.trust.canonical import Json, JsonError, JsonLimits, canonical, parse
from pdp.engine.answer import AnswerError, verdict
from pdp.engine.combine import refusal
from pdp.engine.data_references import check_references
from pdp.engine.document import Facts, rego_document
from pdp.engine.manifest import Role
from pdp.engine.reading import PolicyError
from pdp.engine.wasm import ANSWER_BYTES, FILE, EvaluationError, Machine, RegoLimits, compile_module, load_module
from pdp.model import Verdict

__all__ = ["ENGINE", "FILE", "RegoEngine", "RegoLimits", "compile_module"]

ENGINE: Final = "rego"

_RESULT_LIMITS: Final = JsonLimits(bytes=ANSWER_BYTES, depth=32, keys=10_000, string_bytes=64 * 1024)


_LIMITS: Final = RegoLimits()
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class RegoEngine:
    """One compiled policy with its data. Not for two threads at once."""

    def __init__(self, machine: Machine, entrypoint: str, role: Role) -> None:
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
        sources: Mapping[str, bytes] | None = None,
    ) -> RegoEngine:
        """Make the engine ready to judge.

        `data` is the bundle's `data.json`; `serialized_module` is what `compile_module` made of the same `wasm`;
        `sources` are the `*.rego` that it was built from, for the line of what is refused. Raises `PolicyError` if the
        module is not one of OPA's, needs a built-in that is not here, or lacks the entry point.
        """
        try:
            canonical_data = canonical(data)
        except JsonError as error:
            raise PolicyError(f"`data.json`: {error}") from None
        check_references(sources or {}, data)
        machine = load_module(wasm, serialized_module, canonical_data, entrypoint, limits, sources=sources)
        return cls(machine, entrypoint, role)

    def judge(self, facts: Facts) -> Verdict:
        """Judge one action. Raises nothing: whatever goes wrong is a denial of kind `ERROR`."""
        try:
            document = json.dumps(rego_document(facts), ensure_ascii=False, separators=(",", ":")).encode("utf-8")
            return verdict(
                _answer(self._machine.evaluate(document, now_ns=_ns(facts.now))), self._role, self._entrypoint, ENGINE
            )
        except (EvaluationError, AnswerError) as error:
            text = f"`{self._entrypoint}` gave no usable answer: {error}"
        except Exception as error:  # noqa: BLE001 - fail closed, whatever it was
            text = f"`{self._entrypoint}` could not be asked: {type(error).__name__}"
        return refusal(text, engine=ENGINE, policy=self._entrypoint)


def _ns(moment: datetime) -> int:
    """Give ns since 1970, without a float in between."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def _answer(result_set: bytes) -> Json:
    """Take the one result out of OPA's result set."""
    try:
        results = parse(result_set, _RESULT_LIMITS)
    except JsonError:
        raise EvaluationError("it is not JSON inside the limits") from None
    if not isinstance(results, list) or len(results) != 1:
        raise EvaluationError("it is undefined")
    return results[0].get("result") if isinstance(results[0], dict) else None
