"""Restrictions that can vanish: what they rest on may be missing, or a built-in in them may fail.

Rules: a finding needs a way from the entry point on which a strict answer hangs on the term, and a tool that has the
field without requiring it; what the same rule asks about a field, or another rule of its name about its absence, is a
guard; what is in the bundle's own data is as it was signed, and cannot be chosen by an agent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pdp.policy.check.findings import Finding, found
from pdp.policy.check.known import Known, Path, spelled
from pdp.policy.check.rego_facts import Scope, is_sent
from pdp.policy.check.rego_reach import Reach, Read
from pdp.policy.check.rego_tree import Clause, Node, Rule, Tree, calls, inside, line_of, operator

_IS: Final = re.compile(
    r"is_(string|number|boolean|array|object|set|null)|\w+(\.\w+)*\.is_valid|regex\.is_valid|json\.is_valid"
)
_COMPARING: Final = frozenset({"gt", "gte", "lt", "lte", "neq", "equal", "regex.match"})
_FAILING: Final = {
    "to_number": (0,),
    "json.unmarshal": (0,),
    "yaml.unmarshal": (0,),
    "base64.decode": (0,),
    "base64url.decode": (0,),
    "hex.decode": (0,),
    "urlquery.decode": (0,),
    "urlquery.decode_object": (0,),
    "time.parse_ns": (1,),
    "time.parse_rfc3339_ns": (0,),
    "time.parse_duration_ns": (0,),
    "units.parse": (0,),
    "units.parse_bytes": (0,),
    "semver.compare": (0, 1),
    "net.cidr_contains": (0, 1),
    "net.cidr_intersects": (0, 1),
    "net.cidr_expand": (0,),
    "io.jwt.decode": (0,),
    "regex.match": (0,),
    "regex.split": (0,),
    "regex.find_n": (0,),
    "regex.find_all_string_submatch_n": (0,),
    "regex.replace": (1,),
    "regex.template_match": (0,),
    "glob.match": (0,),
    "div": (1,),
    "rem": (1,),
}
_ON_NUMBERS: Final = frozenset({"div", "rem"})
_SIGNS: Final = {"div": "/", "rem": "%"}


def vanishing(tree: Tree, known: Known, reach: Reach) -> Iterator[Finding]:
    """Find what a strict answer rests on that may not be there."""
    said: set[tuple[str, int, str]] = set()
    taint = Taint(tree)
    for read in reach.walk():
        if not read.stricter:
            continue
        for finding in (*_missing(tree, known, read), *_failing(tree, known, taint, read)):
            if (finding.file, finding.line, finding.code) not in said:
                said.add((finding.file, finding.line, finding.code))
                yield finding


def _missing(tree: Tree, known: Known, read: Read) -> Iterator[Finding]:
    if read.term.get("type") != "ref" or read.term.get("drawn"):
        return
    scope = Scope(tree, read.rule, read.clause)
    fact = scope.fact(read.term)
    if fact is None or len(fact.path) <= fact.safe:
        return
    tools = [known.tools[name] for name in sorted(read.tools)]
    if not known.optional(tools, fact.path, fact.safe) or _is_guarded(tree, read, fact.path):
        return
    names = ", ".join(f'"{name}"' for name in fact.path)
    fix = f"read it as `object.get(input, [{names}], ...)` with the stricter value, or ask before, by `is_number` or so"
    place = read.rule.file, line_of(read.term, read.clause.line)
    yield found(
        "EX401", place, f"`{spelled(fact.path)}` may be missing, and then `{read.rule.path[-1]}` does not hold", fix=fix
    )


def _is_guarded(tree: Tree, read: Read, path: Path) -> bool:
    """Whether the same clause asks for the field, or another clause of the rule holds where it is not there."""
    scope = Scope(tree, read.rule, read.clause)
    if any(_asks_for(scope, expression, path) for expression in read.clause.body if expression is not read.expression):
        return True
    if read.expression is not None and _asks_for(scope, read.expression, path):
        return True
    return any(
        expression.get("negated") and _is_fact(Scope(tree, rule, clause), expression.get("terms"), path)
        for rule in tree.rules[read.rule.path]
        for clause in rule.clauses
        for expression in clause.body
    )


def _asks_for(scope: Scope, expression: Node, path: Path) -> bool:
    """Whether an expression does nothing but ask whether a field is there, or of what type it is."""
    if expression.get("negated"):
        return False
    if _is_fact(scope, expression.get("terms"), path):
        return True
    for name, operands, _ in calls(expression):
        if _IS.fullmatch(name) and _is_fact(scope, operands[0], path):
            return True
        if name == "neq" and any(each["type"] == "null" for each in operands):
            return any(_is_fact(scope, each, path) for each in operands)
        if name == "internal.member_2" and operands[0].get("value") == path[-1]:
            return any(inner == "object.keys" for node in inside(operands[1]) for inner, _, _ in calls(node))
    return False


def _is_fact(scope: Scope, term: object, path: Path) -> bool:
    if not isinstance(term, dict) or term.get("type") not in ("ref", "var"):
        return False
    fact = scope.fact(term)
    return fact is not None and fact.path == path


def _failing(tree: Tree, known: Known, taint: Taint, read: Read) -> Iterator[Finding]:
    for name, operands, node in calls(read.term):
        for place in _FAILING.get(name, ()):
            if place >= len(operands):
                continue
            term = operands[place]
            scope = Scope(tree, read.rule, read.clause)
            fact = scope.fact(term)
            if not taint.chosen(read.rule, read.clause, term) or _is_looked_at(scope, read, term, node):
                continue
            if fact and name not in _ON_NUMBERS and not known.is_text(fact.path):
                continue
            shown = f"`{_SIGNS.get(name, name)}`"
            text = f"{shown} can fail on what it is given, and then `{read.rule.path[-1]}` does not hold"
            yield found("EX402", (read.rule.file, line_of(node, read.clause.line)), text)


def _is_looked_at(scope: Scope, read: Read, term: Node, call: Node) -> bool:
    """Whether another expression of the clause compares the same thing, or asks what it is."""
    fact = scope.fact(term)
    names = {
        str(node["value"]) for node in inside(term) if node.get("type") == "var" and node["value"] in read.rule.own
    }
    for expression in read.clause.body:
        if expression.get("negated") or any(node is call for node in inside(expression)):
            continue
        for name, operands, _ in calls(expression):
            if not (_IS.fullmatch(name) or name in _COMPARING):
                continue
            for operand in operands:
                other = scope.fact(operand)
                mentioned = {str(node["value"]) for node in inside(operand) if node.get("type") == "var"}
                if (fact and other and other.path == fact.path) or (fact is None and names & mentioned):
                    return True
    return False


class Taint:
    """Whether an agent, or whoever sent it, chooses a term."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._known: dict[int, bool] = {}
        self._given: dict[tuple[tuple[str, ...], int], list[tuple[Rule, Clause, Node]]] = {}
        for rule in tree.all():
            for clause in rule.clauses:
                for node in inside([*clause.body, clause.head.get("key"), clause.head.get("value")]):
                    self._remember(rule, clause, node)

    def _remember(self, rule: Rule, clause: Clause, node: Node) -> None:
        terms = node.get("terms") if "terms" in node else node.get("value") if node.get("type") == "call" else None
        if not isinstance(terms, list) or not terms or terms[0].get("type") != "ref":
            return
        stands = self._tree.absolute(rule, terms[0])
        if stands is not None and stands[1] in self._tree.rules:
            for number, operand in enumerate(terms[1:]):
                self._given.setdefault((stands[1], number), []).append((rule, clause, operand))

    def chosen(self, rule: Rule, clause: Clause, term: Node) -> bool:
        """Say whether it is."""
        if id(term) not in self._known:
            self._known[id(term)] = False  # while it is being asked: a rule does not choose for itself
            self._known[id(term)] = self._chosen(rule, clause, term)
        return self._known[id(term)]

    def _chosen(self, rule: Rule, clause: Clause, term: Node) -> bool:
        scope = Scope(self._tree, rule, clause)
        if term.get("type") in ("ref", "var"):
            return self._named(scope, term)
        for _, operands, node in calls(term):
            name = operator(node["value"][0] if "terms" not in node else node["terms"][0])
            if name == "object.get":
                return self.chosen(rule, clause, operands[0]) or self.chosen(rule, clause, operands[2])
            if name in ("count", "is_string", "is_number"):
                return name == "count" and self.chosen(rule, clause, operands[0])
            return any(self.chosen(rule, clause, operand) for operand in operands)
        return any(self.chosen(rule, clause, node) for node in inside(term) if node.get("type") in ("ref", "var"))

    def _named(self, scope: Scope, term: Node) -> bool:
        rule, clause = scope.rule, scope.clause
        stands = self._tree.absolute(rule, term)
        if stands is not None and stands[0] == "input":
            return is_sent(stands[1])
        if stands is not None:
            known = self._tree.rule_of(stands[1])
            return any(
                self.chosen(each, way, way.head[part])
                for each in self._tree.rules.get(known or (), [])
                for way in each.clauses
                for part in ("key", "value")
                if isinstance(way.head.get(part), dict)
            )
        name = str((term["value"][0] if term["type"] == "ref" else term)["value"])
        if name in rule.parameters:
            given = self._given.get((rule.path, rule.parameters.index(name)), [])
            return any(self.chosen(*each) for each in given)
        sources = [*scope.drawn.get(name, ()), *([scope.variables[name]] if name in scope.variables else ())]
        return any(self.chosen(rule, clause, source) for source in sources)
