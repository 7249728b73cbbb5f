"""The answer of a Rego rule, by whichever engine it was asked, read as a verdict.

Rules:
- Only an answer of the exact shape below counts. Anything else, undefined or empty, is an `AnswerError`, which its
  engine makes a denial of kind `ERROR`: in Rego a failing expression makes its rule vanish, so a missing answer proves
  nothing.
- A denial by `deny` is `FORBIDDEN`; `allow: false` without one is `NOT_PERMITTED`.

The answer, of which a `decide` engine must give `allow` and a `restrict` engine may leave it out (an `allow` of `true`
there adds nothing, one of `false` denies):

    {"allow": bool, "deny": [entry], "warn": [entry], "require_approval": [entry], "obligations": [obligation]}

An entry is a message, or `{"id", "reason", "owasp"?}` with `"approvers"?` in `require_approval`. An obligation is
`{"id", "parameters"?}`.
"""

from __future__ import annotations

from exequatur.trust.canonical import Json, canonical
from pdp.engine.manifest import Role
from pdp.engine.reading import is_name, is_owasp, is_policy_id, sentence
from pdp.model import Effect, Obligation, Reason, ReasonKind, Verdict


class AnswerError(Exception):
    """The rule gave no usable answer. The text holds no values."""


def verdict(answer: Json, role: Role, entrypoint: str, engine: str) -> Verdict:
    """Read the answer that `engine` got from `entrypoint`. Raises `AnswerError`."""
    if not isinstance(answer, dict) or not answer:
        raise AnswerError("it is empty, or not an object")
    unknown = answer.keys() - {"allow", "deny", "warn", "require_approval", "obligations"}
    if unknown:
        raise AnswerError(f"it has the unknown member `{sentence(min(unknown))}`")
    allow = answer.get("allow", True if role is Role.RESTRICT else None)
    if not isinstance(allow, bool):
        raise AnswerError("`allow` is not true or false")
    deny, _ = _entries(answer, "deny", ReasonKind.FORBIDDEN, entrypoint, engine)
    warn, _ = _entries(answer, "warn", ReasonKind.RESTRICTED, entrypoint, engine)
    approval, approvers = _entries(answer, "require_approval", ReasonKind.RESTRICTED, entrypoint, engine)
    obligations = _obligations(answer.get("obligations", []))
    if deny:
        return Verdict(engine, Effect.DENY, deny)
    if not allow:
        text = f"`{entrypoint}` does not allow this action"
        return Verdict(engine, Effect.DENY, (Reason(ReasonKind.NOT_PERMITTED, text, entrypoint, engine),))
    permitted = Reason(ReasonKind.PERMITTED, f"`{entrypoint}` allows this action", entrypoint, engine)
    effect = Effect.REQUIRE_APPROVAL if approval else Effect.WARN if warn else Effect.ALLOW
    return Verdict(engine, effect, (*approval, *warn, permitted), obligations, approvers)


def _entries(
    answer: dict[str, Json], name: str, kind: ReasonKind, entrypoint: str, engine: str
) -> tuple[tuple[Reason, ...], tuple[str, ...]]:
    """Give a list's reasons, sorted since Rego's sets come in no order, and all approvers named in it."""
    entries = answer.get(name, [])
    if not isinstance(entries, list):
        raise AnswerError(f"`{name}` is not a set or a list")
    reasons: list[Reason] = []
    approvers: set[str] = set()
    for entry in sorted(entries, key=canonical):
        if isinstance(entry, str):
            reasons.append(Reason(kind, _words(name, entry), f"{entrypoint}#{name}", engine))
            continue
        allowed = {"id", "reason", "owasp"} | ({"approvers"} if name == "require_approval" else set())
        if not isinstance(entry, dict) or not entry.keys() <= allowed:
            raise AnswerError(f"`{name}` holds what is neither a message nor an object with `id` and `reason`")
        policy, owasp = entry.get("id"), entry.get("owasp", "")
        if not isinstance(policy, str) or not is_policy_id(policy):
            raise AnswerError(f"`{name}` holds an entry without a usable `id`")
        if not isinstance(owasp, str) or not (owasp == "" or is_owasp(owasp)):
            raise AnswerError(f"`{name}` holds an `owasp` that is not `ASI01` to `ASI10`")
        reasons.append(Reason(kind, _words(name, entry.get("reason")), policy, engine, owasp))
        approvers.update(_approvers(entry.get("approvers", [])))
    return tuple(reasons), tuple(sorted(approvers))


def _words(name: str, text: Json) -> str:
    if not isinstance(text, str) or not text.strip():
        raise AnswerError(f"`{name}` holds an entry without a reason")
    return sentence(text)


def _approvers(names: Json) -> list[str]:
    if not isinstance(names, list):
        raise AnswerError("`approvers` is not a set or a list")
    found = [name for name in names if isinstance(name, str) and is_name(name)]
    if len(found) != len(names):
        raise AnswerError("`approvers` holds what is not a name")
    return found


def _obligations(listed: Json) -> tuple[Obligation, ...]:
    if not isinstance(listed, list):
        raise AnswerError("`obligations` is not a set or a list")
    found: list[Obligation] = []
    for item in sorted(listed, key=canonical):
        if not isinstance(item, dict) or not item.keys() <= {"id", "parameters"}:
            raise AnswerError("`obligations` holds what is not an object with `id` and `parameters`")
        name, parameters = item.get("id"), item.get("parameters", {})
        if not isinstance(name, str) or not is_policy_id(name) or not isinstance(parameters, dict):
            raise AnswerError("`obligations` holds one without a usable `id` or `parameters`")
        found.append(Obligation(name, parameters))
    return tuple(found)
