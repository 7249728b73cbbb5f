"""Schemas whose alternatives multiply: refused, or bounded by how deep arguments nest, before a validator hangs."""

import time

import pytest

from exequatur.argument_schema import ArgumentError, ArgumentSchema, SchemaError

TEXT = {"type": "string"}


def ladder(word, steps, start=0):
    """Two ways to the next step, at each step: two to the power of `steps` looks at one value."""
    steps_of = {f"l{n}": {word: [{"$ref": f"#/$defs/l{n + 1}"}] * 2} for n in range(steps)}
    return {"$ref": f"#/$defs/l{start}"}, {**steps_of, f"l{steps}": TEXT}


def compiled(part, defs):
    return ArgumentSchema.compile({"type": "object", "properties": {"q": part}, "$defs": defs}, is_open=False)


def nested(depth, leaf):
    value = leaf
    for _ in range(depth):
        value = {"c": value}
    return {"q": value}


@pytest.mark.parametrize("word", ["anyOf", "oneOf", "allOf"])
def test_alternatives_inside_each_other_are_refused_at_once(word):
    begun = time.process_time()
    with pytest.raises(SchemaError, match="looks at one value more than 1000 times"):
        compiled(*ladder(word, 40))
    assert time.process_time() - begun < 1
    compiled(*ladder(word, 5)).check({"q": "x"} if word != "oneOf" else {})


def test_below_the_arguments_members_they_bound_how_deep_a_call_may_nest():
    part, defs = ladder("anyOf", 40)
    schema = compiled({"type": "array", "items": part}, defs)
    schema.check({"q": []})
    with pytest.raises(ArgumentError, match="nest too deep, or are too many"):
        schema.check({"q": [1]})


def test_a_schema_that_holds_itself_in_two_alternatives_bounds_the_depth_of_arguments():
    one = {"type": "object", "properties": {"c": {"$ref": "#/$defs/e"}}, "required": ["c"]}
    two = {**one, "properties": {**one["properties"], "not": {"type": "boolean"}}}
    schema = compiled({"$ref": "#/$defs/e"}, {"e": {"anyOf": [one, two, TEXT]}})
    schema.check(nested(5, "x"))
    begun = time.process_time()
    for depth in range(6, 60):
        try:
            schema.check(nested(depth, 5))
        except ArgumentError:
            continue
        raise AssertionError(depth)
    with pytest.raises(ArgumentError, match="nest too deep"):
        schema.check(nested(40, "x"))
    assert time.process_time() - begun < 2


@pytest.mark.parametrize(
    "defs",
    [
        {"n": {"type": "object", "properties": {"c": {"$ref": "#/$defs/n"}}}},
        {"n": {"type": "object", "properties": {"c": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}}}},
        {"n": {"type": "object", "properties": {name: {"$ref": "#/$defs/n"} for name in "abcdefgh"}}},
    ],
    ids=["a chain", "a chain that may end", "a tree"],
)
def test_a_schema_that_holds_itself_once_is_for_any_depth(defs):
    compiled({"$ref": "#/$defs/n"}, defs).check(nested(60, {}))


def test_a_large_plain_schema_is_counted_in_no_time():
    part = {"type": "object", "properties": {f"p{n}": {"$ref": "#/$defs/t"} for n in range(500)}}
    begun = time.process_time()
    compiled(part, {"t": {"anyOf": [TEXT, {"type": "null"}]}}).check({"q": {"p1": None}})
    assert time.process_time() - begun < 1


def test_many_values_are_counted_together():
    kinds = [{"type": "object", "properties": {"kind": {"const": n}}, "required": ["kind"]} for n in range(100)]
    schema = compiled({"type": "array", "items": {"anyOf": kinds}}, {})
    schema.check({"q": [{"kind": 1}] * 100})
    with pytest.raises(ArgumentError, match="too many"):
        schema.check({"q": [{"kind": 1}] * 1_000})


def test_circles_through_the_same_value_are_refused_where_they_are_many():
    defs = {f"n{n}": {"anyOf": [{"$ref": f"#/$defs/n{m}"} for m in range(12)]} for n in range(12)}
    with pytest.raises(SchemaError, match="applies itself to the same value"):
        compiled({"$ref": "#/$defs/n0"}, defs)
