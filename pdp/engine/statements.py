"""Cedar policies as statements: each with its file and line, its id and what its annotations say.

Rules:
- Each statement parses as exactly one policy; `pdp/engine/cedar_text.py` says where it begins and ends. Many are parsed
  together, while other threads go on; where that fails, each is parsed by itself, and the first that is to blame named.
- An annotation that is not known, or a value that is not, is an error: what `@effect("wran")` meant is not ours to say.
- A template is no statement; each of its links is one, with the link's entities written where the slots were.
- A template without a link is an error: whoever wrote it believes that it holds.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, pairwise
from typing import Final

import cedarpy
from cedarpy import pst

from exequatur.trust.canonical import JsonError, parse
from pdp.engine.cedar_text import Source, SourceLimits, sources
from pdp.engine.links import FILE, Link, link_error, literal, read_links
from pdp.engine.reading import Fields, PolicyError, is_name, is_owasp, is_policy_id, sentence
from pdp.engine.schema import GROUPS
from pdp.engine.scopes import Heads
from pdp.model import Effect, Obligation


@dataclass(frozen=True, slots=True)
class Statement:
    """One policy. `soft` is the effect of a forbid that only tightens, and None for permits and plain forbids.

    `where` is its place; `link` is empty, or the JSON pointer of the link that made it of the template at `where`.
    `reads` is every fact that its conditions can read: a part of the context, `principal` or `resource`, and its
    member, such as `("session", "labels")`; `*` stands for all of them.
    """

    id: str
    where: str
    text: str
    permits: bool
    principal: pst.PrincipalOrResourceConstraint
    action: pst.ActionConstraint
    resource: pst.PrincipalOrResourceConstraint
    reads: frozenset[tuple[str, str]]
    reason: str
    soft: Effect | None = None
    approvers: tuple[str, ...] = ()
    obligation: Obligation | None = None
    owasp: str = ""
    link: str = ""


ALL: Final = "*"
"""In `Statement.reads`: every part, or every member of a part."""

TOGETHER: Final = 50
"""How many statements are parsed by one call, and read between two pauses: 5 ms of work."""

_LIMITS: Final = SourceLimits()
_KNOWN: Final = frozenset({"id", "reason", "effect", "approvers", "obligation", "owasp"})
_SOFT: Final = {"warn": Effect.WARN, "require_approval": Effect.REQUIRE_APPROVAL}
_DOES: Final = {None: "forbids", Effect.WARN: "warns about", Effect.REQUIRE_APPROVAL: "wants a person's yes to"}
_ESCAPE: Final = re.compile(r"\\(?:u\{([0-9A-Fa-f]{1,6})\}|x([0-7][0-9A-Fa-f]))")
_SLOTS: Final[Mapping[str, pst.SlotName]] = {"principal": "principal", "resource": "resource"}
_PLAIN_TEXT: Final = re.compile(r'"[^"\\]*"')


def read_statements(
    files: Mapping[str, bytes], limits: SourceLimits = _LIMITS, *, pause: Callable[[], None] = lambda: None
) -> tuple[Statement, ...]:
    """Read all `*.cedar` files of a bundle, in the order of their names; `pause` is called now and then.

    Raises `PolicyError` with file and line.
    """
    found: dict[str, Statement] = {}
    templates: dict[str, tuple[Source, Statement]] = {}
    heads = Heads()
    for source, is_parsed in _parsed(sources(files, limits), pause):
        statement, is_template = _read(source, heads, is_parsed=is_parsed)
        known = found.get(statement.id) or templates.get(statement.id, (None, None))[1]
        if known is not None:
            raise PolicyError(f"{source.where}: the id `{statement.id}` is already that of the policy at {known.where}")
        if is_template:
            templates[statement.id] = (source, statement)
        else:
            found[statement.id] = statement
    _link(files, templates, found, limits, heads)
    return tuple(found.values())


def _parsed(listed: Iterator[Source], pause: Callable[[], None]) -> Iterator[tuple[Source, bool]]:
    """Give each source, and whether it is known to parse as exactly one policy."""
    while together := list(islice(listed, TOGETHER)):
        try:
            parsed = cedarpy.PolicySet.from_str("\n".join(source.text for source in together), release_gil=True)
            is_parsed = len(parsed) + len(parsed.templates()) == len(together)
        except ValueError:
            is_parsed = False
        yield from ((source, is_parsed) for source in together)
        pause()


def _link(
    files: Mapping[str, bytes],
    templates: Mapping[str, tuple[Source, Statement]],
    found: dict[str, Statement],
    limits: SourceLimits,
    heads: Heads,
) -> None:
    """Add the policies that links make of templates to `found`."""
    linked: set[str] = set()
    for link in read_links(files):
        error = partial(link_error, files)
        if link.template not in templates:
            raise error(f"{link.pointer}/template", "must be the `@id` of a template in `*.cedar`")
        source, template = templates[link.template]
        if link.id in found or link.id in templates:
            raise error(f"{link.pointer}/id", "must be an id that no other policy has")
        slots = {slot for slot in _SLOTS if _is_open(getattr(template, slot))}
        for slot in sorted(slots ^ link.values.keys()):
            wanted = "is missing: the template has this slot" if slot in slots else "is not a slot of the template"
            raise error(f"{link.pointer}/{slot}", wanted)
        if len(found) >= limits.statements:
            raise error(link.pointer, f"must not be there: there are {limits.statements} policies before it")
        try:
            found[link.id] = _linked(source, link, limits, heads)
        except PolicyError as fault:
            raise error(link.pointer, f"makes a policy that is not valid: {fault}") from None
        linked.add(link.template)
    for name, (source, _) in templates.items():
        if name not in linked:
            raise PolicyError(
                f"{source.where}: a template has no effect by itself: link it in `{FILE}`, or write out whom it is for"
            )


def _is_open(constraint: pst.PrincipalOrResourceConstraint) -> bool:
    return isinstance(getattr(constraint, "entity", None), pst.Slot)


def _linked(source: Source, link: Link, limits: SourceLimits, heads: Heads) -> Statement:
    """Write a link's entities where the template's slots are, and read the policy that this makes."""
    text, at, start = "", 0, source.tokens[0].start()
    for mark, slot in pairwise(source.head):
        if mark[0] == "?":
            text += source.text[at : mark.start() - start] + literal(link.values[_SLOTS[slot[0]]])
            at = slot.end() - start
    return _read(source.rewritten(text + source.text[at:], limits), heads, link)[0]


def _read(source: Source, heads: Heads, link: Link | None = None, *, is_parsed: bool = False) -> tuple[Statement, bool]:
    """Read one statement, and say whether it is a template. `link` is the one that made it of a template."""
    where = source.where
    words, head = [token[0] for token in source.tokens], source.head
    _check_groups(where, words)
    try:
        if not is_parsed:
            _check_one(cedarpy.PolicySet.from_str(source.text))
        scope, is_template = heads.read(source, head)
    except ValueError as error:
        raise PolicyError(f"{where}: {sentence(str(error))}") from None
    notes = dict(scope.annotations)
    if is_template and "id" not in notes:
        raise PolicyError(f"{where}: a template needs an `@id`, by which its links name it")
    if link is not None:
        notes |= {**link.annotations, "id": link.id}
    statement = _annotated(source, notes, scope, _reads(words[len(head) :]))
    return (statement if link is None else replace(statement, link=link.pointer)), is_template


def _check_one(parsed: cedarpy.PolicySet) -> None:
    """Hold that the splitter and Cedar agree on where a policy ends."""
    if len(parsed) + len(parsed.templates()) != 1:
        raise ValueError("exactly one policy is needed here")


def _check_groups(where: str, words: Sequence[str]) -> None:
    """Refuse a group that is compared: no action *equals* it, so what is asked never holds."""
    if "Action" not in words:
        return
    opened: list[int] = []
    for at, word in enumerate(words):
        if word == "[":
            opened.append(at)
        elif word == "]" and opened:
            opened.pop()
        if word != "Action" or words[at + 1 : at + 2] != ["::"]:
            continue
        name = _ESCAPE.sub(_unescaped, words[at + 2][1:-1]) if at + 2 < len(words) else ""
        before = words[opened[-1] - 1] if opened else words[at - 1]
        if name in GROUPS and before != "in":
            raise PolicyError(
                f'{where}: no action equals the group `Action::"{name}"`, so this never holds: write `in`'
            )


def _unescaped(escape: re.Match[str]) -> str:
    number = int(escape[1] or escape[2], 16)
    return chr(number) if number <= sys.maxunicode else escape[0]


def _annotated(
    source: Source, notes: Mapping[str, str], policy: pst.Template, reads: frozenset[tuple[str, str]]
) -> Statement:
    where = source.where
    unknown = sorted(notes.keys() - _KNOWN)
    if unknown:
        known = ", ".join(f"`@{name}`" for name in sorted(_KNOWN))
        raise PolicyError(f"{where}: unknown annotation `@{sentence(unknown[0])}`: known are {known}")
    name = notes.get("id", f"{source.file}#{source.number}")
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
        text=source.text,
        permits=permits,
        principal=policy.principal,
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
