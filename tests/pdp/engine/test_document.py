"""The document: the same facts for both languages; trusted facts and claims never mix."""

import json
from datetime import timedelta, timezone

import pytest

from exequatur.action import Claims
from pdp.engine.document import LEFT_OUT, cedar_context, held, rego_document
from pdp.engine.schema import BOOL, DECIMAL, LONG, STRING, Member, RecordOf, SetOf, context_type, input_type
from policies import NOW, facts, registry

REGISTRY = registry()
FACTS = facts(
    "git/log",
    {"repo_path": "/work/app", "max_count": 3},
    known=REGISTRY,
    labels=frozenset({"b", "a"}),
    delegation_chain=("root", "middle", "parent"),
    claims=Claims("because", 5, 6, "m", ("web",)),
    now=NOW.astimezone(timezone(timedelta(hours=9))),
)


def test_the_document_for_rego_is_just_this():
    assert json.loads(json.dumps(rego_document(FACTS))) == {
        "agent": {
            "id": "coder",
            "owner": "platform@example.com",
            "version": "1",
            "models": [],
            "teams": ["engineering"],
            "environment": "dev",
            "domains": ["code"],
        },
        "session": {
            "id": "s1",
            "subject": "anna@example.com",
            "delegation_root": "root",
            "delegation_parent": "parent",
            "delegation_depth": 3,
            "intent": {"purpose": "fix a bug", "task": "T-1", "domains": ["code"]},
            "labels": ["a", "b"],
            "steps": 2,
            "age_s": 3600,
            "spent_microusd": 0,
            "calls": {"git/log": 2},
            "last_minute": {"reads": 0, "writes": 0},
        },
        "tool": {
            "server": "git",
            "name": "log",
            "access": "read",
            "bulk": False,
            "dangerous": False,
            "data_classes": [],
            "egress": False,
            "environment": "",
            "door": "cooperative",
        },
        "resource": {"type": "Repository", "id": "/work/app", "attributes": {"repo_path": "/work/app"}},
        "input": {"repo_path": "/work/app", "max_count": 3},
        "claims": {"reason": "because", "cost_estimate_microusd": 5, "tokens": 6, "model": "m", "provenance": ["web"]},
        "request": {"time": "2026-01-05T10:00:00.000Z", "weekday": "monday", "hour": 10},
    }


def test_cedar_sees_the_same_facts():
    tool = FACTS.tool
    context = json.loads(json.dumps(cedar_context(FACTS, context_type(tool, REGISTRY), input_type(tool), [])))
    other = json.loads(json.dumps(rego_document(FACTS)))
    assert {part: context[part] for part in ("session", "tool", "claims", "request", "input")} == {
        part: other[part] for part in ("session", "tool", "claims", "request", "input")
    }
    assert context["untyped"] == []


@pytest.mark.parametrize(
    ("type_", "value", "wanted"),
    [
        (STRING, "x", "x"),
        (STRING, 1, LEFT_OUT),
        (LONG, 1, 1),
        (LONG, True, LEFT_OUT),
        (LONG, 1.5, LEFT_OUT),
        (LONG, 1e20, LEFT_OUT),
        (BOOL, True, True),
        (BOOL, 1, LEFT_OUT),
        (DECIMAL, 1.25, {"__extn": {"fn": "decimal", "arg": "1.2500"}}),
        (DECIMAL, -3, {"__extn": {"fn": "decimal", "arg": "-3.0000"}}),
        (DECIMAL, 0.00001, LEFT_OUT),
        (DECIMAL, 1e15, LEFT_OUT),
        (DECIMAL, "1.0", LEFT_OUT),
        (DECIMAL, {"__extn": {"fn": "decimal", "arg": "1.0"}}, LEFT_OUT),
        (SetOf(STRING), ["a"], ["a"]),
        (SetOf(STRING), ["a", None], LEFT_OUT),
        (SetOf(STRING), "a", LEFT_OUT),
        (RecordOf({}), [], LEFT_OUT),
        (RecordOf({"a": Member(STRING, required=True)}), {"a": "x", "b": 1}, {"a": "x"}),
        (STRING, None, LEFT_OUT),
    ],
)
def test_a_value_is_held_as_its_type_or_left_out_and_named(type_, value, wanted):
    untyped = []
    found = held(type_, value, "here", untyped)
    assert found is wanted if wanted is LEFT_OUT else found == wanted
    assert bool(untyped) == (wanted is LEFT_OUT or value == {"a": "x", "b": 1})


def test_a_list_whose_order_is_lost_is_held_and_named():
    untyped = []
    assert held(SetOf(STRING), ["b", "a", "a"], "files", untyped) == ["b", "a", "a"]
    assert untyped == ["files"]
