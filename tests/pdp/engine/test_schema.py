"""The generated Cedar schema: deterministic, parsed by Cedar, and never more than the JSON Schema says."""

import copy
import json

import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exequatur.registry import definition_sha256
from pdp.engine.document import LEFT_OUT, held
from pdp.engine.inventory import Agents
from pdp.engine.reading import PolicyError
from pdp.engine.schema import cedar_schema, input_type, render, resource_types
from policies import STRING, TOOLS, agents, registry, tool


def typed(schema, **more):
    properties = {"x": schema}
    return input_type(
        registry({"a/b": tool("a", "b", properties, ["x"], access="read", **more)}).tools["a/b"]
    ).members.get("x")


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        ({"type": "string"}, "String"),
        ({"type": "string", "enum": ["a", "b"]}, "String"),
        ({"enum": ["a", "b"]}, "String"),
        ({"const": 5}, "Long"),
        ({"type": "integer", "minimum": 0}, "Long"),
        ({"type": "boolean"}, "Bool"),
        ({"type": "number"}, "decimal?"),
        ({"type": ["string", "null"]}, "String?"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "Long?"),
        ({"anyOf": [{"type": "string", "format": "uri"}, {"type": "string"}]}, "String"),
        ({"type": "array", "items": {"type": "string"}}, "Set<String>"),
        ({"type": "array", "items": {"type": ["string", "null"]}}, "Set<String>?"),
        ({"type": "object", "properties": {"a": STRING, "b": {}}, "required": ["a", "b"]}, '{"a": String}'),
        ({"type": "object", "properties": {}}, "{}"),
        ({}, None),
        (True, None),
        ({"type": ["string", "integer"]}, None),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, None),
        ({"enum": ["a", 1]}, None),
        ({"enum": [True, 1]}, None),
        ({"type": "array"}, None),
        ({"type": "array", "prefixItems": [{"type": "string"}]}, None),
        ({"type": "null"}, None),
    ],
)
def test_a_json_schema_becomes_a_type_that_holds_its_values_or_none(schema, wanted):
    member = typed(schema)
    found = None if member is None else render(member.type) + ("" if member.required else "?")
    assert found == wanted


def test_a_schema_that_refers_to_itself_ends():
    properties = {"x": {"$ref": "#/$defs/node"}}
    entry = tool("a", "b", properties, [], access="read")
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}, "name": STRING}}
    entry["definition"]["inputSchema"]["$defs"] = {"node": node}
    entry["definition_sha256"] = definition_sha256(entry["definition"]).hex()
    text = cedar_schema(registry({"a/b": entry}), agents())
    cedarpy.Schema.from_str(text)
    assert '"name"?: String' in text


def test_the_schema_is_the_same_whatever_the_order_of_the_registry():
    backwards = dict(reversed(copy.deepcopy(TOOLS).items()))
    assert cedar_schema(registry(), agents()) == cedar_schema(registry(backwards), agents())


def test_cedar_reads_the_schema_with_no_tools_no_teams_and_odd_names():
    cedarpy.Schema.from_str(cedar_schema(registry(), Agents({})))
    odd = {"type": "object", "properties": {'a"b\\c': STRING, "é ": STRING, "\u202e": STRING, "if": STRING}}
    known = registry({"a/b": tool("a", "b", {"x": odd}, [], access="write")})
    cedarpy.Schema.from_str(
        cedar_schema(known, Agents.parse(b'{"agents": {"x": {"owner": "o", "teams": ["\\"); permit", "\xc3\xa9"]}}}'))
    )


def test_tools_that_share_a_resource_share_its_attributes():
    found = resource_types(registry())
    assert render(found["Repository"]) == '{"files"?: Set<String>, "repo_path": String}'
    assert render(found["Shell"]) == '{"command": {"argv": Set<String>, "program": String, "simple": Bool}}'


def test_tools_that_contradict_each_other_are_refused():
    one = tool(
        "a", "one", {"p": STRING}, ["p"], access="read", resource={"type": "Thing"}, arguments={"p": {"kind": "path"}}
    )
    two = tool(
        "a", "two", {"p": STRING}, ["p"], access="read", resource={"type": "Thing"}, arguments={"p": {"kind": "url"}}
    )
    with pytest.raises(PolicyError, match=r"`a/two`.*`p`.*a resource type of its own"):
        cedar_schema(registry({"a/one": one, "a/two": two}), agents())


@pytest.mark.parametrize("kind", ["Agent", "Team", "Action", "String", "Set", "SessionFacts", "if"])
def test_a_resource_type_that_is_cedars_or_ours_is_refused(kind):
    with pytest.raises(PolicyError, match="resource type"):
        cedar_schema(registry({"a/b": tool("a", "b", {}, [], access="read", resource={"type": kind})}), agents())


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "b", "__entity", "__extn", "type", "id", "fn", "arg"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)
PROPERTIES = {
    "s": STRING,
    "n": {"type": "integer"},
    "d": {"type": "number"},
    "b": {"type": "boolean"},
    "l": {"type": "array", "items": STRING},
    "o": {"type": "object", "properties": {"a": STRING, "b": {"type": "number"}}},
    "m": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}
ANYTHING = registry({"a/b": tool("a", "b", PROPERTIES, [], access="read", resource={"type": "Thing"})})
SCHEMA = cedarpy.Schema.from_str(
    f"entity Agent; entity Thing; action x appliesTo {{principal: Agent, resource: Thing, context: {render(input_type(ANYTHING.tools['a/b']))}}};"
)
NO_ENTITIES = cedarpy.Entities.from_json_str("[]", SCHEMA)
ALLOW_ALL = cedarpy.PolicySet.from_str("permit(principal, action, resource);")


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from([*PROPERTIES, "__entity", "unknown"]), JSON, max_size=6))
def test_whatever_the_arguments_are_cedar_gets_what_the_schema_says_and_the_rest_is_named(arguments):
    untyped = []
    found = held(input_type(ANYTHING.tools["a/b"]), arguments, "", untyped)
    assert found is not LEFT_OUT
    uid = {
        "principal": {"type": "Agent", "id": "a"},
        "action": {"type": "Action", "id": "x"},
        "resource": {"type": "Thing", "id": "t"},
    }
    result = cedarpy.is_authorized({**uid, "context": json.dumps(found)}, ALLOW_ALL, NO_ENTITIES, SCHEMA)
    assert result.allowed, result.diagnostics.errors
    assert set(arguments) - set(found) <= set(untyped)
    assert '"__entity"' not in json.dumps(found).replace('\\"', "")


def test_references_that_fan_out_are_refused_before_they_are_followed():
    entry = tool("a", "b", {"x": {"$ref": "#/$defs/l0"}}, [], access="read")
    schema = entry["definition"]["inputSchema"]
    levels = range(5)
    schema["$defs"] = {
        f"l{n}": {"type": "object", "properties": {f"m{m}": {"$ref": f"#/$defs/l{n + 1}"} for m in range(100)}}
        for n in levels
    } | {f"l{len(levels)}": STRING}
    entry["definition_sha256"] = definition_sha256(entry["definition"]).hex()
    with pytest.raises(PolicyError, match=r"`a/b`: its arguments have more than 10000 parts"):
        cedar_schema(registry({"a/b": entry}), agents())
