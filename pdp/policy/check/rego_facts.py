"""What a term of Rego is, as far as one can tell without running it: a fact, something that agents choose, a constant.

Rules: in doubt a term is unknown, and no finding comes of it. A fact read by `object.get` is there for sure; so is
what a rule or a variable was made of, since where that is missing the rule or the variable is, and says so itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from exequatur.registry import Tool
from pdp.policy.check.known import TOOL, Known, Path
from pdp.policy.check.rego_tree import (
    MEMBERSHIP,
    Clause,
    Node,
    Rule,
    Tree,
    assigned,
    calls,
    inside,
    is_closed,
    iterated,
    member_name,
    texts,
)

_DEEPEST: Final = 8  # rules through which a name is followed
_JOINING: Final = {"concat": "/", "sprintf": "%s/%s"}
_EQUAL: Final = ("equal", "eq", "assign")
_PLAIN: Final = frozenset({("request", "time"), ("request", "weekday"), ("session", "id"), ("agent",), ("tool",)})


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact by its path; its first `safe` members are known to be there."""

    path: Path
    safe: int


@dataclass(frozen=True)
class Scope:
    """One clause of a rule, asked what its names stand for."""

    tree: Tree
    rule: Rule
    clause: Clause
    depth: int = 0

    @cached_property
    def variables(self) -> dict[str, Node]:
        """What each variable is set to, where it is set once as a whole."""
        found: dict[str, list[Node]] = {}
        for expression in _expressions(self.clause):
            sides = assigned(expression)
            if sides and sides[0]["type"] == "var":
                found.setdefault(str(sides[0]["value"]), []).append(sides[1])
        return {name: terms[0] for name, terms in found.items() if len(terms) == 1}

    @cached_property
    def drawn(self) -> dict[str, list[Node]]:
        """What each variable is taken out of: by `some`, by `every`, or by taking something apart."""
        found: dict[str, list[Node]] = {}
        for expression in _expressions(self.clause):
            for names, source in _drawn(expression):
                for node in inside(names):
                    if node.get("type") == "var":
                        found.setdefault(str(node["value"]), []).append(source)
        return found

    def fact(self, term: Node) -> Fact | None:
        """Give the fact that a term is."""
        if self.depth > _DEEPEST:
            return None
        if term["type"] in ("ref", "var"):
            return self._named(term)
        return next((self._made(name, operands) for name, operands, _ in calls(term)), None)

    def _made(self, name: str, operands: list[Node]) -> Fact | None:
        """Give the fact that a call gives."""
        if name == "object.get":
            return self._got(operands[0], operands[1])
        if name in _JOINING and operands[0].get("value") == _JOINING[name]:
            return self._full(operands[1])
        return self.fact(operands[0]) if name in ("lower", "trim_space") else None

    def _named(self, term: Node) -> Fact | None:
        stands = self.tree.absolute(self.rule, term)
        if stands is not None and stands[0] == "input":
            return Fact(stands[1], 0)
        if stands is not None:
            return self._of_rule(stands[1])
        parts = term["value"] if term["type"] == "ref" else [term]
        name = str(parts[0]["value"])
        if name not in self.variables:
            return None
        within = Scope(self.tree, self.rule, self.clause, self.depth + 1).fact(self.variables[name])
        return None if within is None else _longer(within, tuple(member_name(part) for part in parts[1:]))

    def _of_rule(self, path: tuple[str, ...]) -> Fact | None:
        known = self.tree.rule_of(path)
        rules = self.tree.rules.get(known or (), [])
        if known is None or len(rules) != 1 or rules[0].partial or rules[0].parameters or len(rules[0].clauses) != 1:
            return None
        clause = rules[0].clauses[0]
        value = clause.head.get("value")
        within = Scope(self.tree, rules[0], clause, self.depth + 1).fact(value) if value else None
        return None if within is None else _longer(within, path[len(known) :])

    def _got(self, base: Node, key: Node) -> Fact | None:
        found = self.fact(base)
        keys = key["value"] if key["type"] == "array" else [key]
        if found is None:
            return None
        path = (*found.path, *(member_name(part) for part in keys))
        return Fact(path, len(path))

    def _full(self, parts: Node) -> Fact | None:
        items = [self.fact(item) for item in parts["value"]] if parts["type"] == "array" else []
        paths = [item.path for item in items if item]
        return Fact(TOOL, len(TOOL)) if paths == [("tool", "server"), ("tool", "name")] else None

    def asked(self, expression: Node) -> Iterator[tuple[Fact, Node, str]]:
        """Give the facts that an expression compares: with which term, and how (`==`, `!=` or `in`)."""
        for name, operands, _ in calls(expression):
            if name in (*_EQUAL, "neq") and len(operands) == 2:  # noqa: PLR2004 - two sides
                how = "!=" if name == "neq" else "=="
                for one, other in (operands, operands[::-1]):
                    fact = self.fact(one)
                    if fact and is_closed(other) and other["type"] == "string":
                        yield fact, other, how
            elif name in MEMBERSHIP:
                fact = self.fact(operands[-2])
                if fact and is_closed(operands[-1]):
                    yield fact, operands[-1], "in"
                fact = self.fact(operands[-1])
                if fact and operands[-2]["type"] == "string":
                    yield fact, operands[-2], "in"


def _drawn(expression: Node) -> Iterator[tuple[list[Node], Node]]:
    """Give what an expression takes out of something, and out of what."""
    each, sides = iterated(expression), assigned(expression)
    if each is not None:
        yield each
    elif sides is not None and sides[0]["type"] != "var":
        yield [sides[0]], sides[1]
    for name, operands, _ in calls(expression):
        if name == "walk":
            yield operands[1:], operands[0]


def _longer(fact: Fact, rest: tuple[str, ...]) -> Fact:
    return Fact((*fact.path, *rest), len(fact.path))


def _expressions(clause: Clause) -> Iterator[Node]:
    """Give all expressions of a clause, those inside comprehensions too."""
    for node in (*clause.body, *(part for name, part in clause.head.items() if name in ("key", "value") and part)):
        for each in inside(node):
            if "terms" in each:
                yield each


def is_sent(path: Path) -> bool:
    """Whether the agent, or somebody who sent it, chooses this fact's value freely."""
    return not any(path[: len(plain)] == plain for plain in _PLAIN)


class Narrowing:
    """Which tools a clause is about."""

    def __init__(self, tree: Tree, known: Known) -> None:
        self._tree, self._known = tree, known

    def tools(self, scope: Scope, tools: frozenset[str], depth: int = 0) -> frozenset[str]:
        """Give those of `tools` for which a clause's plain conditions on the tool can hold."""
        for expression in scope.clause.body:
            if expression.get("negated"):
                continue
            for fact, term, how in scope.asked(expression):
                if how != "!=" and fact.path[0] == "tool":
                    tools &= self._meant(fact.path, texts(term))
            if depth < _DEEPEST:
                tools &= self._by_rule(scope, expression, tools, depth)
        return tools

    def _meant(self, path: Path, values: list[str]) -> frozenset[str]:
        return frozenset(name for name, tool in self._known.tools.items() if _value(tool, path) in (None, *values))

    def _by_rule(self, scope: Scope, expression: Node, tools: frozenset[str], depth: int) -> frozenset[str]:
        """Follow a condition that is a rule by itself, such as `pays`."""
        term = expression.get("terms")
        if not isinstance(term, dict) or term.get("type") not in ("var", "ref"):
            return tools
        stands = self._tree.absolute(scope.rule, term)
        rules = self._tree.rules.get(stands[1], []) if stands and stands[0] == "data" else []
        if not rules or any(rule.partial or rule.default or rule.parameters for rule in rules):
            return tools
        return frozenset().union(
            *(
                self.tools(Scope(self._tree, rule, clause), tools, depth + 1)
                for rule in rules
                for clause in rule.clauses
            )
        )


def _value(tool: Tool, path: Path) -> str | None:
    if path == TOOL:
        return tool.full
    value = getattr(tool, path[1], None) if len(path) == 2 and path[1] in ("server", "name", "access") else None  # noqa: PLR2004
    return value if isinstance(value, str) else None
