"""What is wrong in one Cedar policy's conditions, beyond what its type checker knows: values, contradictions, sums."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pdp.engine.statements import Statement
from pdp.policy.cedar_conditions import Condition, Joined, Node, take_apart
from pdp.policy.check.findings import Finding, found
from pdp.policy.check.known import Known, Path

_TEXT: Final = r'"((?:[^"\\]|\\.)*)"'
_FACT: Final = r"((?:context|principal|resource)(?:\.\w+)+)"
_COMPARED: Final = re.compile(rf"{_FACT} ?(==) ?{_TEXT}|{_TEXT} ?(==) ?{_FACT}")
_ONE_OF: Final = re.compile(rf"\[([^\[\]]*)\]\.contains\({_FACT}\)")
_CONTAINS: Final = re.compile(rf"{_FACT}\.contains(?:All|Any)?\(\[?({_TEXT}(?:, ?{_TEXT})*)\]?\)")
_MEMBER: Final = re.compile(r'principal (==|in) (?:Agent|Team)::"((?:[^"\\]|\\.)*)"')
_BLANKS: Final = re.compile(r"\s*(\.|\(|\[|\)|\]|,)\s*")
_LITERAL: Final = re.compile(_TEXT)
_PRODUCT: Final = re.compile(r"([^\s*&|]+) ?\* ?([^\s*&|]+)")
_SENT: Final = re.compile(r"\(*context\.(?:input|claims)\b")
_FITS: Final = 1024
"""An argument is a number of at most 2^53, or it is refused: times this is more than 64 bits hold, a sum never is."""


def condition_findings(statement: Statement, known: Known, *, contradictions: bool) -> Iterator[Finding]:
    """Find what never holds in a policy's conditions; `contradictions` as well, if nothing else says so already."""
    policy = take_apart(statement)
    name = f"policy `{statement.id}`"
    for condition in policy.conditions:
        place = policy.file, condition.line
        text = _BLANKS.sub(lambda blank: blank[1], condition.text)
        for path, value in _values(text):
            allowed = known.values.get(path)
            if allowed is not None and value and value not in allowed:
                said = f"{name} asks for `{value}` in `{'.'.join(path)}`"
                yield found(known.code_of_value(path), place, said, fix=known.fix_of_value(path))
        if any(_overflows(*product.groups()) for product in _PRODUCT.finditer(_LITERAL.sub('""', text))):
            yield found("EX404", place, f"{name} multiplies what the agent sends, which can overflow")
    if contradictions:
        yield from _contradictions(statement, known, policy.file, [c.node for c in policy.clauses if not c.negated])


def _values(text: str) -> Iterator[tuple[Path, str]]:
    """Give facts with a text that they are compared with."""
    for match in _COMPARED.finditer(text):
        yield _path(match[1] or match[6]), match[3] or match[4] or ""
    for match in _ONE_OF.finditer(text):
        for literal in _LITERAL.findall(match[1]):
            yield _path(match[2]), literal
    for match in _CONTAINS.finditer(text):
        for literal in _LITERAL.findall(match[2]):
            yield _path(match[1]), literal


def _path(fact: str) -> Path:
    root, *rest = fact.split(".")
    if root == "principal":
        return ("agent", *rest)
    return ("resource", "attributes", *rest) if root == "resource" else tuple(rest)


def _overflows(one: str, other: str) -> bool:
    if not _SENT.match(one):
        one, other = other, one
    number = other.strip("()")
    return bool(_SENT.match(one)) and (bool(_SENT.match(other)) or (number.isdigit() and int(number) >= _FITS))


def _contradictions(statement: Statement, known: Known, file: str, nodes: list[Node]) -> Iterator[Finding]:
    """Find two conditions that must both hold and never do, and an agent that is not in the team."""
    seen: dict[str, str] = {}
    who = getattr(statement.principal, "entity", None)
    agent = known.agents.get(who.id) if who is not None and str(who.type) == "Agent" else None
    for condition in _conjuncts(nodes):
        text = _BLANKS.sub(lambda blank: blank[1], condition.text)
        match = re.fullmatch(rf"{_FACT} ?== ?({_TEXT}|\w+)", text)
        if match and seen.setdefault(match[1], match[2]) != match[2]:
            text = f"policy `{statement.id}` asks for two values of `{match[1]}` at once"
            yield found("EX301", (file, condition.line), text)
        member = _MEMBER.fullmatch(condition.text)
        if agent is not None and member and member[2] not in (agent.id, *agent.teams):
            text = f"policy `{statement.id}` is for `{agent.id}`, who is not `{member[2]}`"
            yield found("EX301", (file, condition.line), text)
    tools = [tool for tool in known.tools.values() if _is_meant(tool.full, seen)]
    if not tools and seen:
        yield found("EX307", (file, int(statement.where.strip("`").rpartition(":")[2])))


def _is_meant(full: str, asked: dict[str, str]) -> bool:
    server, _, name = full.partition("/")
    own = {"context.tool.server": f'"{server}"', "context.tool.name": f'"{name}"'}
    return all(asked.get(fact, value) == value for fact, value in own.items())


def _conjuncts(nodes: list[Node]) -> Iterator[Condition]:
    for node in nodes:
        if isinstance(node, Condition):
            yield node
        elif isinstance(node, Joined) and node.operator == "&&":
            yield from _conjuncts(list(node.parts))
