"""Rego as `opa parse` gives it, made to be asked: which rules there are, and what a name in them stands for.

Rules: nothing is read from text; a rule is known by its path under `data`; what a name stands for is said once, here:
a fact of the document by its path, a rule, a part of the data, or a variable.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from pdp.policy.check.known import ANY

Node: TypeAlias = dict[str, Any]
"""A term or an expression of OPA's syntax tree."""

RulePath: TypeAlias = tuple[str, ...]

COMPREHENSIONS: Final = frozenset({"arraycomprehension", "setcomprehension", "objectcomprehension"})
MEMBERSHIP: Final = ("internal.member_2", "internal.member_3")
_ASSIGNING: Final = frozenset({"assign", "eq"})


@dataclass(frozen=True, slots=True, eq=False)
class Clause:
    """One body with its head: one way in which a rule comes true."""

    head: Node
    body: Sequence[Node]
    line: int

    @property
    def is_plain(self) -> bool:
        """Whether it is only a value, without conditions."""
        return all(expression.get("generated") for expression in self.body)


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One rule, with its `else`s. `partial` if it fills a set or an object."""

    path: RulePath
    file: str
    line: int
    package: RulePath
    imports: Mapping[str, RulePath]
    clauses: tuple[Clause, ...]
    parameters: tuple[str, ...]
    own: frozenset[str]
    """Names of its own, which stand before rules of the same name."""
    default: bool
    partial: bool

    @property
    def name(self) -> str:
        """What people call it."""
        return ".".join(self.path)


@dataclass(slots=True)
class Tree:
    """All rules of a bundle by their path."""

    rules: dict[RulePath, list[Rule]] = field(default_factory=dict)

    def add(self, file: str, module: Node) -> None:
        """Add what `opa parse` gave of a file."""
        package = tuple(str(part["value"]) for part in module["package"]["path"][1:])
        imports = dict(_imports(module))
        for rule in module.get("rules", []):
            made = _rule(file, package, imports, rule)
            self.rules.setdefault(made.path, []).append(made)

    def all(self) -> Iterator[Rule]:
        """Go through all rules, in the order of files and lines."""
        yield from sorted((rule for rules in self.rules.values() for rule in rules), key=lambda r: (r.file, r.line))

    def rule_of(self, path: RulePath) -> RulePath | None:
        """Give the rule that a path under `data` leads to or into."""
        return next((path[:size] for size in range(len(path), 0, -1) if path[:size] in self.rules), None)

    def under(self, path: RulePath) -> list[RulePath]:
        """Give the rules under a path: what a whole package stands for."""
        return [known for known in self.rules if known[: len(path)] == path]

    def absolute(self, rule: Rule, node: Node) -> tuple[str, tuple[str, ...]] | None:
        """Say what a reference or a name stands for: `input` or `data` with the path, or None for a variable.

        A member whose name is not known is `ANY`.
        """
        parts = node["value"] if node["type"] == "ref" else [node]
        head, rest = parts[0], tuple(member_name(part) for part in parts[1:])
        if head["type"] != "var":
            return None
        name = str(head["value"])
        if name == "input":
            return "input", rest
        if name == "data":
            return "data", rest
        if name in rule.own:
            return None
        if name in rule.imports:
            root, *path = rule.imports[name]
            return root, (*path, *rest)
        own = (*rule.package, name)
        return ("data", (*own, *rest)) if self.under(own) else None


def member_name(part: Node) -> str:
    """Give a member's name, or `ANY`."""
    return str(part["value"]) if part["type"] in ("string", "number") else ANY


def line_of(node: Node, default: int) -> int:
    """Give the line of a node."""
    return int(node.get("location", {}).get("row", default))


def calls(node: Any) -> Iterator[tuple[str, list[Node], Node]]:
    """Give a node's own call, if it is one: operator, operands, and where it is."""
    if isinstance(node, dict):
        terms = node.get("terms") if "terms" in node else node["value"] if node.get("type") == "call" else None
        if isinstance(terms, list) and terms and terms[0].get("type") == "ref":
            yield operator(terms[0]), terms[1:], node


def operator(term: Node) -> str:
    """Give a called function's name as it is written."""
    return ".".join(str(part["value"]) for part in term["value"])


def children(node: Any) -> Iterator[Any]:
    """Give what is directly inside a node, without the name of the function that it calls."""
    if isinstance(node, list):
        yield from node
    elif isinstance(node, dict):
        if "terms" in node:
            terms = node["terms"]
            is_call = isinstance(terms, list)
            yield from terms[1:] if is_call else [terms]
            for changed in node.get("with", []):
                yield changed["value"]
        elif node.get("type") == "call" or node.get("type") == "ref":
            yield from node["value"][1:]
        elif "domain" in node and "body" in node:  # `every`
            yield from (node["domain"], *node["body"])
        elif "symbols" in node:
            yield from node["symbols"]
        elif isinstance(node.get("value"), (list, dict)):
            value = node["value"]
            yield from value if isinstance(value, list) else (v for v in value.values() if isinstance(v, (dict, list)))


def inside(node: Any) -> Iterator[Node]:
    """Go through a node and all that is in it, comprehensions too."""
    if isinstance(node, dict):
        yield node
    for child in children(node):
        yield from inside(child)


def assigned(expression: Node) -> tuple[Node, Node] | None:
    """Give the two sides of `:=` or `=`."""
    for name, operands, _ in calls(expression):
        if name in _ASSIGNING and len(operands) == 2:  # noqa: PLR2004 - two sides
            return operands[0], operands[1]
    return None


def iterated(expression: Node) -> tuple[list[Node], Node] | None:
    """Give the names and the collection of `some x in xs`, or of `every x in xs`."""
    terms = expression.get("terms")
    if isinstance(terms, dict) and "symbols" in terms:
        for name, operands, _ in calls(terms["symbols"][0]):
            if name in MEMBERSHIP:
                return operands[:-1], operands[-1]
    if isinstance(terms, dict) and "domain" in terms:
        return [each for each in (terms.get("key"), terms["value"]) if each], terms["domain"]
    return None


def constant(node: Node) -> Any:
    """Give a scalar's value as Python's, or None for what is no text, number or flag."""
    if node["type"] == "number":
        return json.loads(str(node["value"]))
    return node["value"] if node["type"] in ("string", "boolean") else None


def texts(node: Node) -> list[str]:
    """Give the texts of a text, or of a set or list of texts; what is not known is left out."""
    if node["type"] == "string":
        return [str(node["value"])]
    if node["type"] in ("set", "array"):
        return [str(item["value"]) for item in node["value"] if item["type"] == "string"]
    return []


def is_closed(node: Node) -> bool:
    """Whether it is a text, or a set or list of nothing but texts."""
    return node["type"] == "string" or (node["type"] in ("set", "array") and len(texts(node)) == len(node["value"]))


def _imports(module: Node) -> Iterator[tuple[str, RulePath]]:
    for each in module.get("imports", []):
        path = tuple(str(part["value"]) for part in each["path"]["value"])
        if path[0] in ("data", "input"):
            yield str(each.get("alias") or path[-1]), path


def _rule(file: str, package: RulePath, imports: Mapping[str, RulePath], rule: Node) -> Rule:
    head = rule["head"]
    parts = head.get("ref") or [{"type": "var", "value": head["name"]}]
    names: list[str] = []
    for number, part in enumerate(parts):
        if number and part["type"] != "string":
            break
        names.append(str(part["value"]))
    clauses: list[Clause] = []
    node: Node | None = rule
    while node is not None:
        clauses.append(Clause(node["head"], node.get("body", []), line_of(node["head"], line_of(rule, 1))))
        node = node.get("else")
    parameters = tuple(str(arg["value"]) if arg["type"] == "var" else "" for arg in head.get("args", []))
    return Rule(
        path=(*package, *names),
        file=file,
        line=line_of(head, line_of(rule, 1)),
        package=package,
        imports=imports,
        clauses=tuple(clauses),
        parameters=parameters,
        own=frozenset((*parameters, *_declared(clauses))),
        default=bool(rule.get("default")),
        partial="key" in head or len(names) < len(parts),
    )


def _declared(clauses: Sequence[Clause]) -> Iterator[str]:
    """Give the names that `some`, `every` and `:=` declare."""
    for clause in clauses:
        for node in inside([*clause.body, *(part for part in clause.head.values() if isinstance(part, dict))]):
            terms = node.get("terms")
            declaring: list[Any] = []
            if isinstance(terms, dict) and "symbols" in terms:
                each = iterated(node)
                declaring = each[0] if each else terms["symbols"]
            elif isinstance(terms, dict) and "domain" in terms:
                declaring = iterated(node)[0]  # type: ignore[index]  # it has a domain
            elif isinstance(terms, list) and operator(terms[0]) == "assign":
                declaring = [terms[1]]
            yield from (str(var["value"]) for var in inside(declaring) if var.get("type") == "var")
