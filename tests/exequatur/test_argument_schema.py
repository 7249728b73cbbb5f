"""Closed schemas: what nobody declared is refused, whatever the combinators; what could reach out or hang is not loaded."""

import time

import pytest

from exequatur.argument_schema import ArgumentError, ArgumentSchema, SchemaError, _refuse

TEXT = {"type": "string"}


def compiled(schema: dict, *, is_open: bool = False) -> ArgumentSchema:
    return ArgumentSchema.compile({"type": "object", **schema}, is_open=is_open)


def admits(schema: dict, arguments: dict, *, is_open: bool = False) -> bool:
    try:
        compiled(schema, is_open=is_open).check(arguments)
    except ArgumentError:
        return False
    return True


BASE = {"properties": {"a": TEXT}}
MORE = {"properties": {"b": TEXT}}
CLOSED = {
    "plain": (BASE, {"a": "x"}, {"a": "x", "z": 1}),
    "nothing declared": ({}, {}, {"z": 1}),
    "said to be open by its server": ({**BASE, "additionalProperties": True}, {"a": "x"}, {"z": 1}),
    "said to be open, otherwise": ({**BASE, "unevaluatedProperties": {}}, {"a": "x"}, {"z": 1}),
    "nested": ({"properties": {"o": BASE}}, {"o": {"a": "x"}}, {"o": {"z": 1}}),
    "in a list": ({"properties": {"l": {"items": BASE}}}, {"l": [{"a": "x"}]}, {"l": [{"a": "x"}, {"z": 1}]}),
    "in a tuple": ({"properties": {"l": {"prefixItems": [BASE]}}}, {"l": [{"a": "x"}]}, {"l": [{"z": 1}]}),
    "in a map": ({"properties": {"m": {"additionalProperties": BASE}}}, {"m": {"k": {"a": "x"}}}, {"m": {"k": {"z": 1}}}),
    "in a pattern": ({"patternProperties": {"^p": BASE}}, {"p1": {"a": "x"}}, {"p1": {"z": 1}}),
    "all of": ({"allOf": [BASE, MORE]}, {"a": "x", "b": "y"}, {"a": "x", "b": "y", "z": 1}),
    "all of, one said to be open": ({"allOf": [{**BASE, "additionalProperties": True}, MORE]}, {"a": "x", "b": "y"}, {"z": 1}),
    "any of": ({"properties": {"o": {"anyOf": [BASE, {"type": "null"}]}}}, {"o": {"a": "x"}}, {"o": {"z": 1}}),
    "one of": ({"properties": {"o": {"oneOf": [{**BASE, "required": ["a"]}, {**MORE, "required": ["b"]}]}}}, {"o": {"b": "x"}}, {"o": {"b": "x", "z": 1}}),
    "a branch's member in the other branch": ({"oneOf": [{**BASE, "required": ["a"]}, {**MORE, "required": ["b"]}]}, {"b": "x"}, {"b": "x", "z": 1}),
    "if, then": ({**BASE, "if": {"required": ["a"]}, "then": MORE}, {"a": "x", "b": "y"}, {"a": "x", "z": 1}),
    "if said to be open": ({**BASE, "if": {"additionalProperties": True}}, {"a": "x"}, {"a": "x", "z": 1}),
    "a dependent schema": ({**BASE, "dependentSchemas": {"a": MORE}}, {"a": "x", "b": "y"}, {"b": "y"}),
    "a reference": ({"properties": {"o": {"$ref": "#/$defs/o"}}, "$defs": {"o": BASE}}, {"o": {"a": "x"}}, {"o": {"z": 1}}),
    "an escaped reference": ({"properties": {"o": {"$ref": "#/$defs/a%20~1b"}}, "$defs": {"a /b": BASE}}, {"o": {"a": "x"}}, {"o": {"z": 1}}),
    "an anchor": ({"properties": {"o": {"$ref": "#o"}}, "$defs": {"x": {"$anchor": "o", **BASE}}}, {"o": {"a": "x"}}, {"o": {"z": 1}}),
    "a reference with more beside it": ({"properties": {"o": {"$ref": "#/$defs/o", **MORE}}, "$defs": {"o": BASE}}, {"o": {"a": "x", "b": "y"}}, {"o": {"z": 1}}),
    "nested in a definition": ({"properties": {"o": {"$ref": "#/definitions/o"}}, "definitions": {"o": {"properties": {"i": BASE}}}}, {"o": {"i": {"a": "x"}}}, {"o": {"i": {"z": 1}}}),
    "a schema that refers to itself": ({"properties": {"a": TEXT, "child": {"$ref": "#"}}}, {"child": {"child": {"a": "x"}}}, {"child": {"child": {"z": 1}}}),
    "definitions in a circle": ({"properties": {"o": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"allOf": [{"$ref": "#/$defs/y"}, BASE]}, "y": {"anyOf": [{"$ref": "#/$defs/x"}, {}]}}}, {"o": {"a": "x"}}, {"o": {"z": 1}}),
}  # fmt: skip


@pytest.mark.parametrize("case", CLOSED)
def test_a_member_that_nobody_declared_is_refused(case):
    schema, good, bad = CLOSED[case]
    assert admits(schema, good)
    assert not admits(schema, bad)
    assert admits(schema, bad, is_open=True)  # so it is the closing that refused it


def test_a_map_of_anything_stays_one():
    schema = {"properties": {"env": {"type": "object", "additionalProperties": True}, "free": {"type": "object"}}}
    assert admits(schema, {"env": {"A": "x"}, "free": {"B": [1]}})


def test_a_typed_map_beside_members_is_kept():
    schema = {"properties": {"o": {**BASE, "additionalProperties": {"type": "integer"}}}}
    assert admits(schema, {"o": {"a": "x", "n": 1}})
    assert not admits(schema, {"o": {"a": "x", "n": "1"}})


def test_a_question_is_not_changed_by_closing():
    """Were `not` closed inside, an unknown member would make the refused shape acceptable."""
    schema = {
        "properties": {
            "o": {
                "type": "object",
                "not": {"properties": {"i": {"properties": {"bad": {"const": 1}}}}, "required": ["i"]},
            }
        }
    }
    assert not admits(schema, {"o": {"i": {"bad": 1, "z": 2}}})
    risky = {"properties": {"i": {"properties": {"force": {"const": True}}, "required": ["force"]}}, "required": ["i"]}
    schema = {"properties": {"i": {"type": "object"}, "why": TEXT}, "if": risky, "then": {"required": ["why"]}}
    assert not admits(schema, {"i": {"force": True, "z": 2}})
    assert admits(schema, {"i": {"force": True, "z": 2}, "why": "x"})


def test_nothing_is_ever_fetched():
    """The second lock: even a reference that slipped past the checks has no way out."""
    with pytest.raises(ValueError, match="outside the schema"):
        _refuse("http://127.0.0.1:1/")


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ({"properties": {"a": {"$ref": "http://127.0.0.1:1/x.json"}}}, "/properties/a/$ref"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "/properties/a/$ref"),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, "/properties/a/$ref"),
        ({"properties": {"a": {"$ref": "#none"}}}, "/properties/a/$ref"),
        ({"properties": {"a": {"$ref": "#/x-hidden/o"}}, "x-hidden": {"o": BASE}}, "/properties/a/$ref"),
        (
            {"properties": {"a": {"$ref": "#/x-hidden"}}, "x-hidden": {"$ref": "http://127.0.0.1:1/"}},
            "/properties/a/$ref",
        ),
        ({"$defs": {"x": {"allOf": [{"$dynamicRef": "other.json#a"}]}}}, "/$defs/x/allOf/0/$dynamicRef"),
        ({"properties": {"a": {"$id": "https://example.com/", "$ref": "#x"}}}, "/properties/a/$id"),
        ({"properties": {"a": {"$schema": "http://json-schema.org/draft-04/schema#"}}}, "/properties/a/$schema"),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, "/$schema"),
        ({"dependencies": {"a": ["b"]}}, "/dependencies"),
        ({"properties": {"a": {"additionalItems": False}}}, "/properties/a/additionalItems"),
        ({"properties": {"__entity": TEXT}}, "/properties/__entity"),
        ({"anyOf": [{"items": {"properties": {"__extn": TEXT}}}]}, "/anyOf/0/items/properties/__extn"),
        ({"$defs": {"a~/b": {"not": {"properties": {"__expr": TEXT}}}}}, "/$defs/a~0~1b/not/properties/__expr"),
        ({"properties": {"a": {"type": "strnig"}}}, "/properties/a/type"),
        ({"properties": {"a": {"pattern": "("}}}, "/properties/a/pattern"),
        ({"properties": {"a": {"pattern": "^(?=x)"}}}, "/properties/a/pattern"),
        ({"properties": {"a": {"pattern": r"(a)\1"}}}, "/properties/a/pattern"),
        ({"properties": {"a": {"pattern": "(a{1000}){1000}"}}}, "/properties/a/pattern"),
        ({"properties": {"a": {"items": [TEXT]}}}, "/properties/a/items"),
        ({"type": "string"}, "/type"),
    ],
)
def test_a_schema_that_cannot_be_served_is_refused_by_name(schema, pointer):
    with pytest.raises(SchemaError) as caught:
        compiled(schema)
    assert caught.value.pointer == pointer


@pytest.mark.parametrize("schema", [None, True, [], "object", {}, {"properties": {}}])
def test_a_schema_that_is_not_an_objects_is_refused(schema):
    with pytest.raises(SchemaError):
        ArgumentSchema.compile(schema, is_open=False)


def test_a_hostile_text_does_not_hang_a_pattern():
    schema = compiled({"properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}})
    began = time.process_time()
    with pytest.raises(ArgumentError):
        schema.check({"a": "a" * 60_000 + "!"})
    assert time.process_time() - began < 1


def fan(members: int, applied: int) -> dict:
    """As a hostile server would list it: many members, each of which applies many schemas, by name."""
    many = {f"c{n}": {"$anchor": f"a{n}", "type": "object"} for n in range(applied)}
    many[f"c{applied - 1}"]["properties"] = {"b": TEXT}
    every = {"allOf": [{"$ref": f"#a{n}"} for n in range(applied)]}
    return {
        "properties": {f"p{n}": {"$ref": "#/$defs/all"} for n in range(members)},
        "$defs": {"all": every, **many},
    }


def test_references_that_fan_out_close_what_they_list_or_are_refused_at_once():
    found = compiled(fan(80, 80))
    assert found.schema["properties"]["p0"]["unevaluatedProperties"] is False
    begun = time.process_time()
    with pytest.raises(SchemaError, match="applies more than 20000 schemas"):
        compiled(fan(3_000, 3_000))
    assert time.process_time() - begun < 2


def test_the_schema_that_was_given_is_not_changed():
    given = {"type": "object", "properties": {"o": {**BASE, "additionalProperties": True}}}
    before = repr(given)
    assert ArgumentSchema.compile(given, is_open=False).schema["properties"] != given["properties"]
    assert repr(given) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "the argument `who` is missing"),
        ({"who": "x", "o": {}}, "the argument `o/a` is missing"),
        ({"who": 5}, "the argument `who` is refused by the tool's schema (`type`)"),
        ({"who": "x", "kind": "SECRET"}, "the argument `kind` is refused by the tool's schema (`enum`)"),
        (
            {"who": "x", "list": ["SECRET", "SECRET"]},
            "the argument `list` is refused by the tool's schema (`uniqueItems`)",
        ),
        ({"who": "x", "typo": "SECRET"}, "unknown argument `typo`: the tool's schema does not have it"),
        (
            {"who": "x", "o": {"a": "x", "b\n`": "SECRET"}},
            "unknown argument `b\\n'` in `o`: the tool's schema does not have it",
        ),
    ],
)
def test_a_violation_names_the_member_and_not_its_value(arguments, words):
    schema = compiled(
        {
            "properties": {
                "who": TEXT,
                "kind": {"enum": ["x"]},
                "list": {"uniqueItems": True},
                "o": {**BASE, "required": ["a"]},
            },
            "required": ["who"],
        }
    )
    with pytest.raises(ArgumentError) as caught:
        schema.check(arguments)
    assert str(caught.value) == words
    assert caught.value.__cause__ is None
