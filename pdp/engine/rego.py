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
`{"id", "parameters"?}`.
"""

from __future__ import annotations

import json
from typing import Final

from exequatur.trust.canonical import Json, JsonError, JsonLimits, canonical, parse
from pdp.engine.combine import refusal
from pdp.engine.document import Facts, rego_document
from pdp.engine.manifest import Role
from pdp.engine.reading import PolicyError, is_name, is_owasp, is_policy_id, sentence
from pdp.engine.wasm import ANSWER_BYTES, FILE, EvaluationError, Machine, RegoLimits, compile_module, load_module
from pdp.model import Effect, Obligation, Reason, ReasonKind, Verdict

__all__ = ["ENGINE", "FILE", "RegoEngine", "RegoLimits", "compile_module"]

ENGINE: Final = "rego"

_RESULT_LIMITS: Final = JsonLimits(bytes=ANSWER_BYTES, depth=32, keys=10_000, string_bytes=64 * 1024)


_LIMITS: Final = RegoLimits()


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
    ) -> RegoEngine:
        """Make the engine ready to judge.

        `data` is the bundle's `data.json`; `serialized_module` is what `compile_module` made of the same `wasm`.
        Raises `PolicyError` if the module is not one of OPA's, needs built-ins of its host, or lacks the entry point.
        """
        try:
            canonical_data = canonical(data)
        except JsonError as error:
            raise PolicyError(f"`data.json`: {error}") from None
        return cls(load_module(wasm, serialized_module, canonical_data, entrypoint, limits), entrypoint, role)

    def judge(self, facts: Facts) -> Verdict:
        """Judge one action. Raises nothing: whatever goes wrong is a denial of kind `ERROR`."""
        try:
            document = json.dumps(rego_document(facts), ensure_ascii=False, separators=(",", ":")).encode("utf-8")
            return _verdict(_answer(self._machine.evaluate(document)), self._role, self._entrypoint)
        except EvaluationError as error:
            text = f"`{self._entrypoint}` gave no usable answer: {error}"
        except Exception as error:  # noqa: BLE001 - fail closed, whatever it was
            text = f"`{self._entrypoint}` could not be asked: {type(error).__name__}"
        return refusal(text, engine=ENGINE, policy=self._entrypoint)


def _answer(result_set: bytes) -> dict[str, Json]:
    """Take the one result out of OPA's result set."""
    try:
        results = parse(result_set, _RESULT_LIMITS)
    except JsonError:
        raise EvaluationError("it is not JSON inside the limits") from None
    if not isinstance(results, list) or len(results) != 1:
        raise EvaluationError("it is undefined")
    answer = results[0].get("result") if isinstance(results[0], dict) else None
    if not isinstance(answer, dict) or not answer:
        raise EvaluationError("it is empty, or not an object")
    return answer


def _verdict(answer: dict[str, Json], role: Role, entrypoint: str) -> Verdict:
    unknown = answer.keys() - {"allow", "deny", "warn", "require_approval", "obligations"}
    if unknown:
        raise EvaluationError(f"it has the unknown member `{sentence(min(unknown))}`")
    allow = answer.get("allow", True if role is Role.RESTRICT else None)
    if not isinstance(allow, bool):
        raise EvaluationError("`allow` is not true or false")
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
        raise EvaluationError(f"`{name}` is not a set or a list")
    reasons: list[Reason] = []
    approvers: set[str] = set()
    for entry in sorted(entries, key=canonical):
        if isinstance(entry, str):
            reasons.append(Reason(kind, _words(name, entry), f"{entrypoint}#{name}", ENGINE))
            continue
        allowed = {"id", "reason", "owasp"} | ({"approvers"} if name == "require_approval" else set())
        if not isinstance(entry, dict) or not entry.keys() <= allowed:
            raise EvaluationError(f"`{name}` holds what is neither a message nor an object with `id` and `reason`")
        policy, owasp = entry.get("id"), entry.get("owasp", "")
        if not isinstance(policy, str) or not is_policy_id(policy):
            raise EvaluationError(f"`{name}` holds an entry without a usable `id`")
        if not isinstance(owasp, str) or not (owasp == "" or is_owasp(owasp)):
            raise EvaluationError(f"`{name}` holds an `owasp` that is not `ASI01` to `ASI10`")
        reasons.append(Reason(kind, _words(name, entry.get("reason")), policy, ENGINE, owasp))
        approvers.update(_approvers(entry.get("approvers", [])))
    return tuple(reasons), tuple(sorted(approvers))


def _words(name: str, text: Json) -> str:
    if not isinstance(text, str) or not text.strip():
        raise EvaluationError(f"`{name}` holds an entry without a reason")
    return sentence(text)


def _approvers(names: Json) -> list[str]:
    if not isinstance(names, list):
        raise EvaluationError("`approvers` is not a set or a list")
    found = [name for name in names if isinstance(name, str) and is_name(name)]
    if len(found) != len(names):
        raise EvaluationError("`approvers` holds what is not a name")
    return found


def _obligations(listed: Json) -> tuple[Obligation, ...]:
    if not isinstance(listed, list):
        raise EvaluationError("`obligations` is not a set or a list")
    found: list[Obligation] = []
    for item in sorted(listed, key=canonical):
        if not isinstance(item, dict) or not item.keys() <= {"id", "parameters"}:
            raise EvaluationError("`obligations` holds what is not an object with `id` and `parameters`")
        name, parameters = item.get("id"), item.get("parameters", {})
        if not isinstance(name, str) or not is_policy_id(name) or not isinstance(parameters, dict):
            raise EvaluationError("`obligations` holds one without a usable `id` or `parameters`")
        found.append(Obligation(name, parameters))
    return tuple(found)
