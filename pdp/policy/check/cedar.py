"""What is wrong with a bundle's Cedar: each statement read by itself, so that one mistake does not hide another.

Rules: what Cedar's own reader and type checker can say, they say; whether a policy can ever apply is asked of the type
checker too: it does not look behind a condition that is always false, so that a mistake put there goes unseen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import cedarpy
from cedarpy import pst

from exequatur.registry import Tool
from exequatur.schemas import line_of
from pdp.engine.cedar_text import Source, SourceLimits, sources
from pdp.engine.links import FILE as LINKS
from pdp.engine.reading import PolicyError, sentence
from pdp.engine.schema import GROUPS, cedar_schema
from pdp.engine.slices import joined
from pdp.engine.statements import Statement, read_statements
from pdp.policy.check.cedar_conditions import condition_findings
from pdp.policy.check.findings import Finding, found
from pdp.policy.check.known import Known
from pdp.policy.check.places import located

_PROBE: Final = "exequatur_probe"
_POSITION: Final = re.compile(r"\bpolicy(\d+)\b")
_LINKED: Final = re.compile(r"links\.json")
_NAME: Final = re.compile(r"`((?:[^`\\]|\\.)*)`")
_NO_SCOPE: Final = "unable to find an applicable action"
_UNKNOWN_ACTION: Final = "unrecognized action"
_FAULTS: Final = {
    _UNKNOWN_ACTION: ("EX202", "names `{name}`, which is no tool and no group"),
    "enumerated entity type": ("EX204", "names `{name}`, and no agent is in such a team"),
    "optional attribute": ("EX403", "reads `{name}`, which may be missing, without `has`"),
    "not found": ("EX205", "reads `{name}`, which the calls that it is for do not have"),
    "unrecognized entity type": ("EX302", "names the type `{name}`, which nothing is of"),
    _NO_SCOPE: ("EX302", "is for tools none of which acts on this type of resource"),
}
"""What the type checker says: our code for it, and our words."""


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """A policy; `link` is the line of the link that made it of the template at `source`, or 0."""

    source: Source
    statement: Statement
    link: int = 0


def check_cedar(files: Mapping[str, bytes], known: Known | None, *, judged_by_rego: bool) -> list[Finding]:
    """Find what is wrong; `known` is None where the registry or the inventory cannot be read."""
    findings: list[Finding] = []
    whole = _split(files, findings)
    read = _read(files, whole, findings)
    for each in read:
        findings += _annotations(each)
    if known is None:
        return findings
    try:
        text = cedar_schema(known.registry, known.agents)
    except PolicyError as error:
        return [*findings, found("EX601", ("tools.json", 1), str(error))]
    schema = cedarpy.Schema.from_str(text)
    invalid = _invalid(read, schema, known, findings)
    probed = [each for number, each in enumerate(read) if number not in invalid]
    never = _impossible(probed, schema)
    findings += [found("EX301", _place(each), f"what {_name(each)} asks never holds") for each in never]
    possible = {*probed} - {*never}
    for each in read:
        findings += _names(each, known)
        findings += _width(each, known, judged_by_rego=judged_by_rego)
        findings += condition_findings(each.statement, known, contradictions=each in possible)
    return findings


def _place(each: _Read, token: re.Match[str] | None = None) -> tuple[str, int]:
    if each.link:
        return LINKS, each.link
    file, line, _ = located(each.source.where + ": ")
    if token is None:
        return file, line
    return file, line + each.source.text.count("\n", 0, token.start() - each.source.tokens[0].start())


def _name(each: _Read) -> str:
    return f"policy `{each.statement.id}`"


def _split(files: Mapping[str, bytes], findings: list[Finding]) -> list[Source]:
    """Take all files apart; of one that cannot be, what stands before the mistake."""
    whole: list[Source] = []
    for file in sorted(name for name in files if name.endswith(".cedar")):
        try:
            for source in sources({file: files[file]}, SourceLimits()):
                whole.append(source)  # noqa: PERF402 - what came before an error is kept
        except PolicyError as error:
            name, line, text = located(str(error))
            findings.append(found("EX101", (name, line), text))
    return whole


def _read(files: Mapping[str, bytes], whole: Sequence[Source], findings: list[Finding]) -> list[_Read]:
    """Read each statement by itself, then the templates with their links."""
    read: list[_Read] = []
    ids: dict[str, Source] = {}
    templates: list[Source] = []
    for source in whole:
        if any(token[0] == "?" for token in source.head):
            templates.append(source)
            continue
        try:
            (statement,) = read_statements({source.file: source.text.encode()})
            statement = replace(statement, where=source.where)
        except PolicyError as error:
            findings.append(_unreadable(source, str(error)))
            continue
        if "id" not in _notes(source):
            statement = replace(statement, id=f"{source.file}#{source.number}")
        elif statement.id in ids:
            where = ids[statement.id].where
            findings.append(_at(source, "EX210", f"the id `{statement.id}` is already that of the policy at {where}"))
        ids.setdefault(statement.id, source)
        read.append(_Read(source, statement))
    try:
        for statement in _linked(files, templates):
            source = next(each for each in templates if each.where == statement.where)
            read.append(_Read(source, statement, line_of(files[LINKS], statement.link)))
            if statement.id in ids:
                text = f"the id `{statement.id}` is already that of the policy at {ids[statement.id].where}"
                findings.append(found("EX210", _place(read[-1]), text))
    except PolicyError as error:
        file, line, text = located(str(error))
        findings.append(found("EX601" if _LINKED.match(file) else _code(text), (file, line), text))
    return read


def _linked(files: Mapping[str, bytes], templates: Sequence[Source]) -> tuple[Statement, ...]:
    if not templates and LINKS not in files:
        return ()
    by_file: dict[str, list[Source]] = {}
    for source in templates:
        by_file.setdefault(source.file, []).append(source)
    given = {name: data for name, data in files.items() if name.rpartition("/")[2] == LINKS}
    return read_statements({**given, **{file: _in_place(each) for file, each in by_file.items()}})


def _in_place(listed: Sequence[Source]) -> bytes:
    """Give statements on the lines where they stand in their file."""
    text = ""
    for source in listed:
        line = located(source.where + ": ")[1]
        text += "\n" * max(0, line - 1 - text.count("\n")) + source.text
    return text.encode("utf-8")


def _unreadable(source: Source, said: str) -> Finding:
    text = located(said)[2]
    code = _code(text)
    token = None
    if code == "EX206" and (named := re.search(r"`@(\w+)`", text)):
        token = next(
            (t for n, t in enumerate(source.tokens) if t[0] == named[1] and source.tokens[n - 1][0] == "@"), None
        )
    return _at(source, code, text, token)


def _code(text: str) -> str:
    if "annotation `@" in text or text.startswith("`@"):
        return "EX206"
    return "EX301" if "equals the group" in text else "EX101"


def _at(source: Source, code: str, text: str, token: re.Match[str] | None = None) -> Finding:
    file, line, _ = located(source.where + ": ")
    if token is not None:
        line += source.text.count("\n", 0, token.start() - source.tokens[0].start())
    return found(code, (file, line), text)


def _notes(source: Source) -> set[str]:
    """Give the names of a statement's annotations."""
    return {word[0] for before, word in pairwise(source.head) if before[0] == "@"}


def _annotations(each: _Read) -> Iterator[Finding]:
    notes = _notes(each.source)
    if "id" not in notes:
        yield found("EX211", _place(each))
    elif not each.statement.permits and "reason" not in notes:
        yield found("EX212", _place(each), f"{_name(each)} has no `@reason`")


def _invalid(read: Sequence[_Read], schema: cedarpy.Schema, known: Known, findings: list[Finding]) -> set[int]:
    """Say what the type checker says, in our codes and with the line of the word that it is about."""
    result = cedarpy.validate_policies(joined(each.statement for each in read), schema)
    faults: dict[int, list[str]] = {}
    for error in result.errors:
        position = _POSITION.search(error.policy_id)
        if position is not None:
            faults.setdefault(int(position[1]), []).append(error.error)
    for number, texts in sorted(faults.items()):
        each = read[number]
        unknown = any(_UNKNOWN_ACTION in text for text in texts)
        said = (text for text in dict.fromkeys(texts) if not (unknown and _NO_SCOPE in text))
        findings += [_fault(each, text, known) for text in said]
    return set(faults)


def _fault(each: _Read, text: str, known: Known) -> Finding:
    said = sentence(re.sub(r"^for policy `policy\d+`[,:] ", "", text))
    named = _NAME.search(said)
    name = named[1] if named else ""
    quoted = re.search(r'::"((?:[^"\\]|\\.)*)"', name)
    token = _token(each, f'"{quoted[1]}"' if quoted else name.rpartition(".")[2])
    empty = _empty_group(each, known)
    if _NO_SCOPE in said and empty is not None:
        text = f"{_name(each)} is for the group `{empty[0][1:-1]}`: no tool is in it"
        return found("EX303", _place(each, empty), text)
    for sign, (code, words) in _FAULTS.items():
        if sign in said:
            return found(code, _place(each, token), f"{_name(each)} {words.format(name=name)}")
    return found("EX201", _place(each), f"{_name(each)}: {said}")


def _token(each: _Read, text: str) -> re.Match[str] | None:
    tokens = [token for token in each.source.tokens if token[0] in (text, f'"{text}"')]
    return tokens[-1] if tokens else None


def _empty_group(each: _Read, known: Known) -> re.Match[str] | None:
    """Find a group that nothing is in, in the scope."""
    head = each.source.head
    for number, token in enumerate(head):
        name = token[0][1:-1]
        if (
            token.lastgroup == "text"
            and head[number - 2][0] == "Action"
            and name in GROUPS
            and name not in known.groups
        ):
            return token
    return None


def _impossible(read: Sequence[_Read], schema: cedarpy.Schema) -> list[_Read]:
    """Give the policies of which the type checker knows that they never apply."""
    texts = [f"{each.statement.text[:-1]} when {{ context.{_PROBE} }};" for each in read]
    if not texts:
        return []
    result = cedarpy.validate_policies("\n".join(texts), schema)
    seen = {error.policy_id for error in result.errors if _PROBE in error.error}
    return [each for number, each in enumerate(read) if f"policy{number}" not in seen]


def _names(each: _Read, known: Known) -> Iterator[Finding]:
    """Find agents that are not there, and groups that are empty beside tools in one list."""
    tokens = each.source.tokens
    for number, token in enumerate(tokens[2:], start=2):
        if tokens[number - 2][0] == "Agent" and token.lastgroup == "text" and token[0][1:-1] not in known.agents:
            yield found(
                "EX203", _place(each, token), f"{_name(each)} names the agent `{token[0][1:-1]}`, which is not listed"
            )
    who = getattr(each.statement.principal, "entity", None)
    if each.link and who is not None and str(who.type) == "Agent" and who.id not in known.agents:
        yield found("EX203", _place(each), f"{_name(each)} is for the agent `{who.id}`, which is not listed")
    empty = _empty_group(each, known)
    if empty is not None and _tools(each.statement, known):
        yield found(
            "EX303", _place(each, empty), f"{_name(each)} is for the group `{empty[0][1:-1]}` too: no tool is in it"
        )


def _tools(statement: Statement, known: Known) -> list[Tool]:
    """Give the tools that a policy's scope is for."""
    tools = list(known.tools.values())
    action, resource = statement.action, statement.resource
    if isinstance(action, pst.ActionEq):
        tools = [tool for tool in tools if tool.full == action.entity.id]
    elif isinstance(action, pst.ActionIn):
        names = {uid.id for uid in action.entities}
        tools = [tool for tool in tools if tool.full in names or names & {*tool.groups}]
    kind = getattr(resource, "entity_type", None) or getattr(getattr(resource, "entity", None), "type", None)
    return tools if kind is None else [tool for tool in tools if tool.resource_type == str(kind)]


def _telling(conditions: Sequence[re.Match[str]]) -> Sequence[re.Match[str]]:
    """Give the conditions; none, where all that they say is that true is true."""
    text = " ".join(token[0] for token in conditions)
    return () if not re.sub(r"when \{ true \} ?|unless \{ false \} ?", "", text) else conditions


def _width(each: _Read, known: Known, *, judged_by_rego: bool) -> Iterator[Finding]:
    statement = each.statement
    if not statement.permits:
        return
    tools = _tools(statement, known)
    conditions = _telling(each.source.tokens[len(each.source.head) : -1])
    dangerous = [tool.full for tool in tools if tool.dangerous]
    action = statement.action
    groups = {uid.id for uid in action.entities} if isinstance(action, pst.ActionIn) else set()
    to_all = isinstance(statement.principal, pst.ScopeAny) or getattr(statement.principal, "entity_type", "") == "Agent"
    for_all = isinstance(action, pst.ScopeAny) or "dangerous" in groups
    if dangerous and not conditions and (to_all or for_all):
        whom = "everybody" if to_all else "a whole team"
        what = f"`{dangerous[0]}`" + (f" and {len(dangerous) - 1} other dangerous tools" if len(dangerous) > 1 else "")
        yield found("EX501", _place(each), f"{_name(each)} permits {what} to {whom} without a condition")
    if judged_by_rego or any(token[0] == "untyped" for token in conditions):
        return
    for tool in tools:
        untyped = known.untyped(tool)
        if untyped:
            text = f"{_name(each)} permits `{tool.full}`, whose argument `{untyped[0]}` Cedar cannot hold"
            yield found("EX502", _place(each), text)
            return
