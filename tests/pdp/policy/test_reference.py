"""The reference names each field of the document, and nothing that is not there, in both languages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cedarpy
import pytest

from exequatur.action import Claims
from pdp.engine.document import rego_document
from pdp.engine.schema import AGENT, CedarType, RecordOf, cedar_schema, context_type, input_type, render
from pdp.policy.reference import _CEDAR, KINDS, PARTS, UNTYPED, Field, cedar_path, page, rego_path
from policies import agents, facts, registry, tool

FIELDS = [field for part in PARTS for field in part.fields]
PAGE = Path(__file__).parents[3] / "docs" / "document.md"
PYTHON = {"text": str, "texts": (list, tuple), "number": int, "flag": bool, "time": str}
ANY = {"repo_path": "<argument>", "message": "<argument>", "git/log": "<tool>"}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Go through the document: an argument and a tool stand for all of their kind."""
    if not isinstance(value, Mapping):
        yield path, value
        return
    for name, item in value.items():
        yield from leaves(item, ".".join(filter(None, (path, ANY.get(name, name)))))


def types(type_: CedarType, path: str) -> Iterator[tuple[str, str]]:
    if not isinstance(type_, RecordOf):
        yield path, render(type_)
        return
    for name, member in type_.members.items():
        yield from types(member.type, f'{path}["<tool>"]' if "/" in name else f"{path}.{ANY.get(name, name)}")


def example(field: Field, path: str) -> str:
    """Write a path as an author would, for `git/commit`."""
    return path.replace("<argument>", "repo_path").replace("<tool>", "git/log")


@pytest.fixture(scope="module")
def schema() -> str:
    return cedar_schema(registry(), agents())


def test_rego_sees_each_field_of_the_reference_and_no_other():
    document = rego_document(facts("git/commit", {"repo_path": "/srv", "message": "x"}, claims=Claims(tokens=1)))
    found = dict(leaves(document))
    assert found.keys() == {field.path for field in FIELDS}
    for field in FIELDS:
        if field.kind != "any":
            assert isinstance(found[field.path], PYTHON[field.kind]), field.path
            assert isinstance(found[field.path], bool) == (field.kind == "flag"), field.path


def test_cedar_sees_each_field_of_the_reference_and_no_other():
    known = registry()
    commit = known.tools["git/commit"]
    found = {
        **dict(types(context_type(commit, known), "context")),
        **dict(types(AGENT, "principal")),
        "resource.<argument>": "String",
    }
    wanted = {path: field for field in (*FIELDS, UNTYPED) if (path := cedar_path(field))}
    assert found.keys() == wanted.keys()
    for path, field in wanted.items():
        assert field.kind == "any" or KINDS[field.kind][0] == found[path], path


@pytest.mark.parametrize("field", [*FIELDS, UNTYPED], ids=lambda field: field.path)
def test_each_spelling_in_cedar_is_valid_against_the_generated_schema(field, schema):
    """A guard where the reference says that the field may be missing, and none where it does not."""
    for path in filter(None, (cedar_path(field), _CEDAR.get(field.path, ""))):
        written = example(field, path)
        for placeholder, name in {"<id>": "coder", "<team>": "engineering", "<Type>": "Repository"}.items():
            written = written.replace(placeholder, name)
        written = written.replace("<server>/git/log", "git/log")
        value = written if " " in written else f"{written} == {written}"
        base, _, name = written.rpartition(".")
        guard = 'context.session.calls has "git/log" && ' if "calls" in path else f"{base} has {name} && "
        guard = guard if field.optional and name != "repo_path" else ""
        policy = f'forbid (principal, action == Action::"git/commit", resource) when {{ {guard}{value} }};'
        result = cedarpy.validate_policies(policy, schema)
        assert result.validation_passed, (policy, result.errors)


@pytest.mark.parametrize(
    ("rule", "held"),
    [
        ({"type": "string"}, "String"),
        ({"enum": ["a", "b"]}, "String"),
        ({"type": "integer"}, "Long"),
        ({"type": "boolean"}, "Bool"),
        ({"type": "number"}, "decimal"),
        ({"type": "array", "items": {"type": "string"}}, "Set<String>"),
        ({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, '{"a": Long}'),
        ({"type": ["string", "null"]}, "String"),
        ({"type": "object"}, None),
        ({"type": ["string", "integer"]}, None),
        ({}, None),
    ],
)
def test_what_the_page_says_that_cedar_holds_is_what_it_holds(rule, held):
    one = registry({"a/b": tool("a", "b", {"it": rule}, ["it"], access="read")}).tools["a/b"]
    member = input_type(one).members.get("it")
    assert (None if member is None else render(member.type)) == held
    assert member is None or member.required == ("null" not in rule.get("type", "") and held != "decimal")


def test_the_page_has_each_field_in_both_spellings():
    """If not: python docs/generate.py."""
    text = PAGE.read_text()
    assert text == page()
    for field in FIELDS:
        assert f"`{rego_path(field)}`" in text
        assert not cedar_path(field) or f"`{cedar_path(field)}`" in text
