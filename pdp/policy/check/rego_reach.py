"""How the entry point comes to each rule: whether the rule being true makes the answer stricter, or milder.

Rules: an entry of `deny`, `warn` and `require_approval` is stricter, `allow` and `obligations` are not; `not` turns it
round; what the entry point itself reads in its body must be there for any answer at all, and no answer is a denial.
A comprehension, a default and `some ... in` give something where a field is missing: what is read there is not missed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pdp.policy.check.known import Known
from pdp.policy.check.rego_facts import Narrowing, Scope
from pdp.policy.check.rego_tree import (
    COMPREHENSIONS,
    Clause,
    Node,
    Rule,
    RulePath,
    Tree,
    children,
    inside,
    iterated,
)

RESTRICTING: Final = ("deny", "warn", "require_approval")


@dataclass(frozen=True, slots=True)
class Read:
    """One term that a clause comes to; `stricter` if the clause must come true for an answer to be strict."""

    rule: Rule
    clause: Clause
    expression: Node | None
    term: Node
    stricter: bool
    tools: frozenset[str]


class Reach:
    """Walks from the entry point to all that it comes to."""

    def __init__(self, tree: Tree, known: Known, entrypoint: RulePath) -> None:
        self._tree, self._entrypoint = tree, entrypoint
        self._narrowing = Narrowing(tree, known)
        self._all = frozenset(known.tools)
        self._seen: set[tuple[RulePath, bool, frozenset[str]]] = set()
        self.reached: set[RulePath] = set()
        """The rules that the entry point comes to in any way."""

    def walk(self) -> Iterator[Read]:
        """Give all terms on the way, each with what hangs on it."""
        self._reach()
        todo = list(self._start())
        while todo:
            path, stricter, tools = todo.pop()
            if (path, stricter, tools) in self._seen:
                continue
            self._seen.add((path, stricter, tools))
            rules = self._tree.rules.get(path, [])
            if any(rule.default for rule in rules):
                continue
            for rule in rules:
                for clause in rule.clauses:
                    narrowed = self._narrowing.tools(Scope(self._tree, rule, clause), tools)
                    for read in self._reads(rule, clause, stricter, narrowed):
                        yield read
                        for target in self._targets(read.rule, read.term):
                            todo.append((target, read.stricter, narrowed))  # noqa: PERF401 - it grows while it is read

    def narrowed(self, rule: Rule, clause: Clause) -> frozenset[str]:
        """Give the tools that a clause is about."""
        return self._narrowing.tools(Scope(self._tree, rule, clause), self._all)

    def _start(self) -> Iterator[tuple[RulePath, bool, frozenset[str]]]:
        if self._entrypoint not in self._tree.rules:
            for path in self._tree.under(self._entrypoint):
                if len(path) == len(self._entrypoint) + 1:
                    yield path, path[-1] in RESTRICTING, self._all
            return
        sure = self._sure()
        for rule in self._tree.rules[self._entrypoint]:
            for clause in rule.clauses:
                for name, term in self._members(clause):
                    for node in inside(term):
                        for path in self._targets(rule, node):
                            if path not in sure:
                                yield path, name in RESTRICTING, self._all

    def _members(self, clause: Clause) -> Iterator[tuple[str, Node]]:
        value = clause.head.get("value", {})
        if value.get("type") == "object":
            for key, term in value["value"]:
                yield str(key.get("value")), term

    def _sure(self) -> set[RulePath]:
        """Give the rules without which there is no answer."""
        found: set[RulePath] = set()
        for rule in self._tree.rules[self._entrypoint]:
            for clause in rule.clauses:
                for expression in clause.body:
                    if not expression.get("negated"):
                        found |= {path for node in inside(expression) for path in self._targets(rule, node)}
        return {path for path in found if not any(rule.partial for rule in self._tree.rules[path])}

    def _targets(self, rule: Rule, node: Node) -> Iterator[RulePath]:
        """Give the rules that a node names: in a reference, or as the function of a call."""
        named = [node] if node.get("type") in ("ref", "var") else []
        terms = node.get("terms") if "terms" in node else node.get("value") if node.get("type") == "call" else None
        if isinstance(terms, list) and terms and isinstance(terms[0], dict) and terms[0].get("type") == "ref":
            named.append(terms[0])
        for each in named:
            stands = self._tree.absolute(rule, each)
            if stands is not None and stands[0] == "data":
                target = self._tree.rule_of(stands[1])
                yield from [target] if target else self._tree.under(stands[1])

    def _reads(self, rule: Rule, clause: Clause, stricter: bool, tools: frozenset[str]) -> Iterator[Read]:
        for part in ("key", "value"):
            if isinstance(clause.head.get(part), dict):
                for term in _terms(clause.head[part]):
                    yield Read(rule, clause, None, term, stricter, tools)
        for expression in clause.body:
            effect = stricter ^ bool(expression.get("negated"))
            for term in _terms(expression):
                yield Read(rule, clause, expression, term, effect, tools)

    def _reach(self) -> None:
        todo = [self._entrypoint] if self._entrypoint in self._tree.rules else self._tree.under(self._entrypoint)
        while todo:
            path = todo.pop()
            if path in self.reached:
                continue
            self.reached.add(path)
            for rule in self._tree.rules.get(path, []):
                for clause in rule.clauses:
                    for node in inside([*clause.body, clause.head.get("key"), clause.head.get("value")]):
                        todo.extend(self._targets(rule, node))


def _terms(node: Node) -> Iterator[Node]:
    """Go through what must be there for a node to be: not into comprehensions, nor what a list is drawn from."""
    each = iterated(node) if "terms" in node else None
    if each is not None:
        yield from _draw(each[1])
        if "domain" in node["terms"]:
            for expression in node["terms"]["body"]:
                yield from _terms(expression)
        return
    yield node
    if node.get("type") in COMPREHENSIONS:
        return
    for child in children(node):
        if isinstance(child, list):
            for item in child:
                yield from _terms(item)
        elif isinstance(child, dict):
            yield from _terms(child)


def _draw(source: Node) -> Iterator[Node]:
    """Give what a list is drawn from; a missing list has no items, so that a plain fact is not missed."""
    if source.get("type") in ("ref", "var"):
        yield {**source, "drawn": True}
    else:
        yield from _terms(source)
