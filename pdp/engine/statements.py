"""Cedar source into statements: one policy each, with its file and line, its id and what its annotations say.

Rules:
- Cedar's parser is native and recursive: text that nests or chains beyond `SourceLimits` never reaches it (800
  parentheses end the process: https://github.com/cedar-policy/cedar/pull/2383).
- The statements are the file, to the last character: each parses as exactly one policy, and what is between them is
  white space and comments.
- An annotation that is not known, or a value that is not, is an error: what `@effect("wran")` meant is not ours to say.
- Text that shows a reader something else than it says (bidirectional controls, lone carriage returns) is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import cedarpy
from cedarpy import pst

from exequatur.trust.canonical import JsonError, parse
from pdp.engine.reading import Fields, PolicyError, is_name, is_owasp, is_policy_id, sentence
from pdp.model import Effect, Obligation


@dataclass(frozen=True, slots=True)
class SourceLimits:
    """What may reach the native parser. A quarter of what was seen to crash it, or less."""

    file_bytes: int = 4 * 2**20
    statement_chars: int = 256 * 1024
    nesting: int = 200
    """Brackets of any kind inside each other; 600 are fine, 800 end the process."""
    conditionals: int = 200
    """`if`s in one statement: they nest without brackets; 2,000 are fine, 20,000 end the process."""
    operators: int = 2_000
    """In one statement: `.`, `&&`, `+` and the like; a path of 2,000 members takes 0.3 s to check, quadratically."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One policy. `soft` is the effect of a forbid that only tightens, and None for permits and plain forbids.

    `reads` is every fact that its conditions can read: a part of the context, `principal` or `resource`, and its
    member, such as `("session", "labels")`; `*` stands for all of them.
    """

    id: str
    where: str
    text: str
    permits: bool
    action: pst.ActionConstraint
    resource: pst.PrincipalOrResourceConstraint
    reads: frozenset[tuple[str, str]]
    reason: str
    soft: Effect | None = None
    approvers: tuple[str, ...] = ()
    obligation: Obligation | None = None
    owasp: str = ""


ALL: Final = "*"
"""In `Statement.reads`: every part, or every member of a part."""

_LIMITS: Final = SourceLimits()
_KNOWN: Final = frozenset({"id", "reason", "effect", "approvers", "obligation", "owasp"})
_SOFT: Final = {"warn": Effect.WARN, "require_approval": Effect.REQUIRE_APPROVAL}
_DOES: Final = {None: "forbids", Effect.WARN: "warns about", Effect.REQUIRE_APPROVAL: "wants a person's yes to"}
_TOKEN: Final = re.compile(
    r"""(?P<space>\s+) | (?P<comment>//[^\n\r]*) | (?P<text>"(?:[^"\\]|\\.)*") | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<open>[(\[{]) | (?P<close>[)\]}]) | (?P<end>;) | (?P<plain>::|[0-9]+|[,@:?]) | (?P<operator>[^\s"\w])
      | (?P<bad>.)""",
    re.VERBOSE | re.DOTALL,
)
_PLAIN_TEXT: Final = re.compile(r'"[^"\\]*"')
_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]|\r(?!\n)"
)


def read_statements(files: Mapping[str, bytes], limits: SourceLimits = _LIMITS) -> tuple[Statement, ...]:
    """Read all `*.cedar` files of a bundle, in the order of their names.

    Raises `PolicyError` with file and line.
    """
    found: dict[str, Statement] = {}
    for file in sorted(files):
        text = _decode(file, files[file], limits)
        for number, tokens in enumerate(_split(file, text), start=1):
            where = f"`{file}:{_line(text, tokens[0].start())}`"
            _check_size(where, tokens, limits)
            statement = _read(where, f"{file}#{number}", text, tokens)
            if statement.id in found:
                other = found[statement.id].where
                raise PolicyError(f"{where}: the id `{statement.id}` is already that of the policy at {other}")
            found[statement.id] = statement
    return tuple(found.values())


def _decode(file: str, data: bytes, limits: SourceLimits) -> str:
    if len(data) > limits.file_bytes:
        raise PolicyError(f"`{file}`: it has {len(data)} bytes, the limit is {limits.file_bytes}: split the file")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PolicyError(f"`{file}:{line}`: not UTF-8") from None
    unseen = _UNSEEN.search(text)
    if unseen:
        line = text.count("\n", 0, unseen.start()) + 1
        raise PolicyError(f"`{file}:{line}`: a control character that readers do not see: write it as an escape")
    return text


def _split(file: str, text: str) -> Iterator[list[re.Match[str]]]:
    """Give the tokens of each statement."""
    tokens: list[re.Match[str]] = []
    depth = 0
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if kind in ("space", "comment"):
            continue
        if kind == "bad":
            raise PolicyError(f"`{file}:{_line(text, token.start())}`: not Cedar from here on: is a quote left open")
        tokens.append(token)
        depth += (kind == "open") - (kind == "close")
        if kind == "end" and depth == 0:
            yield tokens
            tokens = []
    if tokens:
        raise PolicyError(f"`{file}:{_line(text, tokens[0].start())}`: a bracket or the `;` is missing from here on")


def _check_size(where: str, tokens: Sequence[re.Match[str]], limits: SourceLimits) -> None:
    kinds = Counter(token.lastgroup for token in tokens)
    depth = deepest = 0
    for token in tokens:
        depth += (token.lastgroup == "open") - (token.lastgroup == "close")
        deepest = max(deepest, depth)
    within = (
        deepest <= limits.nesting
        and sum(token[0] == "if" for token in tokens) <= limits.conditionals
        and kinds["operator"] + kinds["open"] <= limits.operators
        and tokens[-1].end() - tokens[0].start() <= limits.statement_chars
    )
    if not within:
        raise PolicyError(f"{where}: this policy nests too deep or is too long to be parsed safely: split it")


def _head_size(tokens: Sequence[re.Match[str]]) -> int:
    """Give how many tokens the annotations and the scope are: up to the bracket that closes `permit(` or `forbid(`."""
    depth, inside, previous = 0, False, ""
    for number, token in enumerate(tokens):
        depth += (token.lastgroup == "open") - (token.lastgroup == "close")
        inside = inside or (token.lastgroup == "word" and depth == 0 and previous != "@")
        if inside and depth == 0 and token.lastgroup == "close":
            return number + 1
        previous = token[0]
    return len(tokens)


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _read(where: str, number: str, text: str, tokens: Sequence[re.Match[str]]) -> Statement:
    head, start = _head_size(tokens), tokens[0].start()
    whole = text[start : tokens[-1].end()]
    try:
        parsed = cedarpy.PolicySet.from_str(whole)
        scope = cedarpy.policies_to_pst(f"{text[start : tokens[head - 1].end()]};")
    except ValueError as error:
        raise PolicyError(f"{where}: {sentence(str(error))}") from None
    if parsed.templates() or scope.templates:
        raise PolicyError(f"{where}: a template has no effect by itself: write out whom and what it is for")
    # Both counts: the splitter and Cedar must agree on where a policy ends.
    if len(parsed) != 1 or len(scope.static_policies) != 1:
        raise PolicyError(f"{where}: exactly one policy is needed here")
    (policy,) = scope.static_policies.values()
    return _annotated(where, number, whole, _reads([token[0] for token in tokens[head:]]), policy)


def _annotated(
    where: str, number: str, text: str, reads: frozenset[tuple[str, str]], policy: pst.Template
) -> Statement:
    notes = dict(policy.annotations)
    unknown = sorted(notes.keys() - _KNOWN)
    if unknown:
        known = ", ".join(f"`@{name}`" for name in sorted(_KNOWN))
        raise PolicyError(f"{where}: unknown annotation `@{sentence(unknown[0])}`: known are {known}")
    name = notes.get("id", number)
    if "id" in notes and not is_policy_id(name):
        raise PolicyError(f"{where}: `@id` must be 1 to 128 letters, digits and `_ . : / # -`, a letter or digit first")
    permits = policy.effect == "permit"
    soft = _soft(where, notes.get("effect"), permits=permits)
    does = "permits" if permits else _DOES[soft]
    reason = notes.get("reason", f"policy `{name}` {does} this action")
    if not reason.strip() or sentence(reason) != reason:
        raise PolicyError(f"{where}: `@reason` must be one sentence of at most 500 printable characters")
    owasp = notes.get("owasp", "")
    if "owasp" in notes and not is_owasp(owasp):
        raise PolicyError(f"{where}: `@owasp` must be one of `ASI01` to `ASI10`")
    return Statement(
        id=name,
        where=where,
        text=text,
        permits=permits,
        action=policy.action,
        resource=policy.resource,
        reads=reads,
        reason=reason,
        soft=soft,
        approvers=_approvers(where, notes.get("approvers"), soft),
        obligation=_obligation(where, notes.get("obligation"), denies=not permits and soft is None),
        owasp=owasp,
    )


def _reads(body: Sequence[str]) -> frozenset[tuple[str, str]]:
    """Find what a policy's conditions can read; what is not plainly one member of one thing is all of that thing.

    Cedar has no variables of one's own, and no attribute of ours is an entity: each way to a fact begins with
    `context`, `principal` or `resource`.
    """
    words = [*body, "", "", "", "", "", ""]
    found: set[tuple[str, str]] = set()
    for at, word in enumerate(body):
        if word == "context" and words[at + 1] == ".":
            found.add((words[at + 2], _member(*words[at + 3 : at + 6])))
        elif word == "context":
            found.add((ALL, ALL))
        elif word in ("principal", "resource") and not _only_compared(words[at + 1], words[at + 2]):
            found.add((word, _member(*words[at + 1 : at + 4])))
    return frozenset(found)


def _only_compared(then: str, after: str) -> bool:
    """Whether an entity is only looked at as such: its attributes are not read here."""
    return then in ("in", "is") or (then in ("=", "!") and after == "=")


def _member(then: str, name: str, close: str) -> str:
    """Give the member that is read by `.name`, `has name` or `["name"]`, or all of them."""
    if then == "." or (then == "has" and name.isidentifier()):
        return name
    if _PLAIN_TEXT.fullmatch(name) and (then == "has" or (then == "[" and close == "]")):
        return name[1:-1]
    return ALL


def _soft(where: str, effect: str | None, *, permits: bool) -> Effect | None:
    if effect is None:
        return None
    if permits:
        raise PolicyError(f"{where}: `@effect` softens a forbid: it has no meaning on a permit")
    if effect not in _SOFT:
        raise PolicyError(f"{where}: `@effect` must be `warn` or `require_approval`")
    return _SOFT[effect]


def _approvers(where: str, listed: str | None, soft: Effect | None) -> tuple[str, ...]:
    if listed is None:
        return ()
    names = [name.strip() for name in listed.split(",")]
    if soft is not Effect.REQUIRE_APPROVAL:
        raise PolicyError(f'{where}: `@approvers` needs `@effect("require_approval")`')
    if not all(is_name(name) for name in names) or len(set(names)) != len(names):
        raise PolicyError(f"{where}: `@approvers` must be different names with commas between them")
    return tuple(sorted(names))


def _obligation(where: str, text: str | None, *, denies: bool) -> Obligation | None:
    """Read `@obligation`: an id, or an object of `id` and `parameters` in JSON."""
    if text is None:
        return None
    if denies:
        raise PolicyError(
            f"{where}: `@obligation` goes with an action that may run: it has no meaning on a plain forbid"
        )
    if is_policy_id(text):
        return Obligation(text)
    try:
        fields = Fields(f"{where}: `@obligation`", parse(text.encode("utf-8")))
    except (JsonError, UnicodeEncodeError):
        raise PolicyError(f"{where}: `@obligation` must be an id, or JSON with `id` and `parameters`") from None
    name, parameters = fields.text("id"), fields.take("parameters", {})
    fields.close()
    if not is_policy_id(name) or not isinstance(parameters, dict):
        raise PolicyError(f"{where}: `@obligation` must have a usable `id`, and an object as `parameters`")
    return Obligation(name, parameters)
