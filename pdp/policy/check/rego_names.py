"""What a bundle's Rego names that is not there, asks that never holds, and has that nobody comes to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pdp.policy.check.findings import Finding, found
from pdp.policy.check.known import ANY, Known, Path, spelled
from pdp.policy.check.rego_facts import Scope
from pdp.policy.check.rego_reach import RESTRICTING, Reach
from pdp.policy.check.rego_tree import Clause, Node, Rule, RulePath, Tree, calls, constant, inside, line_of, texts

_COMPARISONS: Final = {
    "equal": lambda a, b: a == b,
    "eq": lambda a, b: a == b,
    "neq": lambda a, b: a != b,
}


def name_findings(tree: Tree, known: Known, data: Any) -> Iterator[Finding]:
    """Find names and values that are not there, and conditions that never hold."""
    for rule in tree.all():
        for clause in rule.clauses:
            scope = Scope(tree, rule, clause)
            for node in inside([*clause.body, clause.head.get("key"), clause.head.get("value")]):
                yield from _references(scope, known, data, node)
                if "terms" in node:
                    yield from _values(scope, known, node)
            for expression in clause.body:
                yield from _never(rule, clause, expression)
            yield from _two_values(scope)


def reach_findings(tree: Tree, known: Known, reach: Reach) -> Iterator[Finding]:
    """Find rules that the entry point does not come to, and clauses that no tool can meet."""
    unreached = {rule.path: rule for rule in reversed(list(tree.all())) if rule.path not in reach.reached}
    for path, rule in unreached.items():
        restricts = path[-1] in RESTRICTING
        yield found(
            "EX305" if restricts else "EX306", (rule.file, rule.line), f"the entry point never comes to `{rule.name}`"
        )
    for rule in tree.all():
        for clause in rule.clauses:
            yield from _arguments_of_others(tree, known, reach, rule, clause)


def _arguments_of_others(tree: Tree, known: Known, reach: Reach, rule: Rule, clause: Clause) -> Iterator[Finding]:
    scope = Scope(tree, rule, clause)
    asked = [
        (fact, term)
        for expression in clause.body
        if not expression.get("negated")
        for fact, term, how in scope.asked(expression)
        if fact.path[0] == "tool" and how != "!="
    ]
    tools = reach.narrowed(rule, clause)
    if not tools:
        real = all(set(texts(term)) & known.values.get(fact.path, frozenset()) for fact, term in asked)
        if asked and real:
            yield found("EX307", (rule.file, line_of(asked[-1][1], clause.line)))
        return
    if len(tools) == len(known.tools):
        return
    for node in inside([*clause.body, clause.head.get("key"), clause.head.get("value")]):
        fact = scope.fact(node) if node.get("type") in ("ref", "call") else None
        if fact is None or not known.is_fact(fact.path):
            continue
        if not any(known.has(known.tools[name], fact.path) for name in tools):
            name = f"`{min(tools)}`" if len(tools) == 1 else "none of these tools"
            has = "has no argument" if len(tools) == 1 else "has an argument"
            text = f"{name} {has} `{_member(fact.path)}`"
            yield found("EX304", (rule.file, line_of(node, clause.line)), text)


def _member(path: Path) -> str:
    return ".".join(path[1:] if path[0] == "input" else path[2:])


def _references(scope: Scope, known: Known, data: Any, node: Node) -> Iterator[Finding]:
    place = scope.rule.file, line_of(node, scope.clause.line)
    fact = scope.fact(node) if node.get("type") in ("ref", "call") else None
    if fact is not None and fact.path[-1:] != ("<full>",) and not known.is_fact(fact.path):
        yield found("EX205", place, f"`{spelled(fact.path)}` is not there in any call")
    stands = scope.tree.absolute(scope.rule, node) if node.get("type") == "ref" else None
    if stands is not None and stands[0] == "data" and stands[1] and not _exists(scope.tree, data, stands[1]):
        yield found("EX209", place, f"there is no rule and no data `data.{'.'.join(stands[1])}`")


def _exists(tree: Tree, data: Any, path: RulePath) -> bool:
    if tree.rule_of(path) or tree.under(path) or any(name == ANY for name in path[:1]):
        return True
    for name in path:
        if name == ANY:
            return True
        if isinstance(data, list):
            return True
        if not isinstance(data, Mapping) or name not in data:
            return False
        data = data[name]
    return True


def _values(scope: Scope, known: Known, expression: Node) -> Iterator[Finding]:
    for fact, term, _ in scope.asked(expression):
        allowed = known.values.get(fact.path)
        for value in texts(term) if allowed is not None else ():
            if value and value not in (allowed or ()):
                shown = "the tool's full name" if fact.path[-1] == "<full>" else f"`{spelled(fact.path)}`"
                place = scope.rule.file, line_of(term, line_of(expression, scope.clause.line))
                fix = known.fix_of_value(fact.path)
                yield found(known.code_of_value(fact.path), place, f"{shown} is never `{value}`", fix=fix)


def _never(rule: Rule, clause: Clause, expression: Node) -> Iterator[Finding]:
    """Find what is false whatever the document says."""
    place = rule.file, line_of(expression, clause.line)
    negated = bool(expression.get("negated"))
    terms = expression.get("terms")
    if isinstance(terms, dict) and terms.get("type") == "boolean" and terms["value"] == negated:
        yield found("EX301", place, f"this is never true, so `{rule.path[-1]}` never holds by it")
    for name, operands, _ in calls(expression):
        if name in _COMPARISONS and len(operands) == 2:  # noqa: PLR2004 - two sides
            one, other = (constant(operand) for operand in operands)
            if one is not None and other is not None and _COMPARISONS[name](one, other) == negated:
                yield found("EX301", place, f"two constants are compared, and `{rule.path[-1]}` never holds by it")


def _two_values(scope: Scope) -> Iterator[Finding]:
    """Find two conditions of which each wants another value of one fact."""
    seen: dict[Path, str] = {}
    for expression in scope.clause.body:
        if expression.get("negated"):
            continue
        for fact, term, how in scope.asked(expression):
            if how == "==" and seen.setdefault(fact.path, term["value"]) != term["value"]:
                text = f"two values of `{spelled(fact.path)}` are asked for at once"
                yield found("EX301", (scope.rule.file, line_of(expression, scope.clause.line)), text)
