"""Conditions are found where authors wrote them."""

from __future__ import annotations

import pytest

from pdp.engine.statements import read_statements
from pdp.policy.cedar_conditions import Condition, Joined, Node, Policy, take_apart


def policy(body: str, head: str = "permit (principal, action, resource)") -> Policy:
    (statement,) = read_statements({"a.cedar": f"// first\n\n{head}{body};".encode()})
    return take_apart(statement)


def shape(node: Node) -> object:
    if isinstance(node, Condition):
        return node.text
    return (node.operator, *(shape(part) for part in node.parts))


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("context.a", "context.a"),
        ("context.a && context.b && context.c", ("&&", "context.a", "context.b", "context.c")),
        ("context.a || context.b && context.c", ("||", "context.a", ("&&", "context.b", "context.c"))),
        ("(context.a || context.b) && context.c", ("&&", ("||", "context.a", "context.b"), "context.c")),
        ("((context.a))", "context.a"),
        ("!(context.a && context.b)", ("!", ("&&", "context.a", "context.b"))),
        ("!context.a || context.b", ("||", "!context.a", "context.b")),
        ("if context.a && context.b then context.c else context.d || context.e", None),
        ('context.a == "x && y || z"', 'context.a == "x && y || z"'),
        ('context.a == "\\"&&" && context.b', ("&&", 'context.a == "\\"&&"', "context.b")),
        ("[context.a && context.b].contains(true)", "[context.a && context.b].contains(true)"),
        ("(context.a) == (context.b)", "(context.a) == (context.b)"),
        ("context.a // && context.x\n  && context.b", ("&&", "context.a", "context.b")),
        ("context\n  .a", "context .a"),
    ],
)
def test_operands_are_followed_into_brackets_and_no_further(body, found):
    (clause,) = policy(f" when {{ {body} }}").clauses
    assert shape(clause.node) == (found if found is not None else body)


def test_each_condition_knows_its_line_and_number():
    found = policy(
        """
when { context.a &&
       // why
       context.b }
unless {
    context.c
}"""
    )
    assert [(each.number, each.text, each.line) for each in found.conditions] == [
        (0, "context.a", 4),
        (1, "context.b", 6),
        (2, "context.c", 8),
    ]
    assert [clause.negated for clause in found.clauses] == [False, True]
    assert isinstance(found.clauses[0].node, Joined)
    assert (found.file, found.line) == ("a.cedar", 3)


def test_the_scope_is_taken_apart_and_annotations_are_not_in_the_way():
    head = '@id("permit.x")\n@reason("when (this) happens, that")\nforbid (principal in Team::"a, b", action in [Action::"a/b", Action::"c/d"], resource is R)'
    assert policy("", head).scope == (
        'principal in Team::"a, b"',
        'action in [Action::"a/b", Action::"c/d"]',
        "resource is R",
    )
    assert policy("", head).conditions == ()
