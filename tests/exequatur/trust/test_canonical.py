"""One form of JSON in, one form out: what is refused, what is kept, and that the fast way is the standard's way."""

import json
import math
import struct
import sys
from decimal import Decimal

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from exequatur.trust.canonical import DEFAULT_LIMITS, JsonError, JsonLimits, canonical, parse, quoted

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SAFE_INTEGERS = st.integers(-(2**53) + 1, 2**53 - 1)
SCALARS = st.none() | st.booleans() | SAFE_INTEGERS | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=20
)


@given(VALUES)
@example({"\U0001f600": 1, "\ufb33": 2})  # UTF-16 order is not code point order
@example({"a": -0.0, "b": 1e21, "c": 1e-7, "d": 5e-324, "e": 1.7976931348623157e308})
@example({"\x7f\x80\u2028": '\x00\x1f"\\/\b\f\n\r\t'})
def test_canonical_bytes_are_the_standards_bytes(value):
    assert canonical(value) == rfc8785.dumps(value)


@given(VALUES)
def test_canonical_form_is_read_back_as_the_same_value(value):
    written = canonical(value)
    assert parse(written) == value
    assert canonical(parse(written)) == written


@given(st.binary(min_size=8, max_size=8))
def test_each_double_survives_the_way_there_and_back(raw):
    (number,) = struct.unpack("<d", raw)
    if math.isfinite(number):
        assert parse(canonical(number)) == number
    else:
        with pytest.raises(JsonError):
            canonical(number)


@given(
    st.binary()
    | st.text('[]{}:,"\\u dDeE01289.+-ntf\x00\ufeff\ud83d').map(lambda t: t.encode("utf-8", "surrogatepass"))
)
@example(b"1" * 5000)  # int() refuses more than 4,300 digits with a plain ValueError
@example(b"1e" + b"9" * 5000)
@example(b"0." + b"0" * 5000 + b"1")
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'"\\ud800"')
@example(b"\xed\xa0\x80")
def test_any_bytes_are_read_or_refused_with_one_error(data):
    try:
        value = parse(data)
    except JsonError:
        return
    assert parse(canonical(value)) == value


@given(
    st.text("0123456789", min_size=1, max_size=25),
    st.text("0123456789", max_size=25),
    st.integers(-400, 400) | st.none(),
)
def test_a_number_is_kept_exactly_or_refused(whole, fraction, exponent):
    text = (
        (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "") + ("" if exponent is None else f"e{exponent}")
    )
    try:
        value = parse(text.encode())
    except JsonError:
        assert Decimal(repr(float(text))) != Decimal(text)
    else:
        assert Decimal(canonical(value).decode()) == Decimal(text)
        assert isinstance(value, int) == (float(text).is_integer() and float(text) < 2**53)


@pytest.mark.parametrize(
    "text",
    [
        "9007199254740993",
        "-9007199254740993",
        "333333333.33333329",
        "1e400",
        "-1e400",
        "1e-400",
        "0.1000000000000000055",
        "1" * 400,
    ],
)
def test_a_number_whose_value_would_change_is_refused(text):
    with pytest.raises(JsonError, match="send it as a string"):
        parse(f'{{"n":{text}}}'.encode())


@pytest.mark.parametrize(
    ("text", "value"), [("-0", 0), ("-0.0", 0), ("1.0", 1), ("1E2", 100), ("0e99999999999", 0), ("4.50", 4.5)]
)
def test_numbers_of_one_value_become_one_value(text, value):
    found = parse(text.encode())
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not JSON"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"{} {}", "extra data"),
        (b"NaN", "`NaN`"),
        (b"[-Infinity]", "`-Infinity`"),
        (b'{"a":1,"a":1}', "`a` is there twice"),
        (b'{"x":[{"a":1,"\\u0061":2}]}', "`a` is there twice"),
        (b'"\\ud83d"', "lone surrogate"),
        (b'{"\\ude00":1}', "lone surrogate"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b'"\xc0\xae"', "not UTF-8"),  # an overlong dot
        (b'"\n"', "control character"),
        (b"[1,]", "not JSON"),
        (b"'a'", "not JSON"),
        (b"// a comment", "not JSON"),
        (b"01", "extra data"),
        ("\u0661".encode(), "not JSON"),  # a digit, but not JSON's
    ],
)
def test_what_is_not_i_json_is_refused(data, why):
    with pytest.raises(JsonError, match=why):
        parse(data)


def test_a_surrogate_pair_is_one_character():
    assert parse(b'"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.parametrize(
    ("limits", "inside", "over"),
    [
        (JsonLimits(bytes=8), b'"123456"', b'"1234567"'),
        (JsonLimits(depth=3), b'[[{"[[[[":"]{{{\\"["}],[[]]]', b"[[[[]]]]"),
        (JsonLimits(depth=1), b'{"a":"[[[["}', b'{"a":[]}'),
        (JsonLimits(keys=3), b'{"a":{"b":":::::"},"c":1}', b'{"a":{"b":1},"c":[{"d":1}]}'),
        (JsonLimits(string_bytes=4), b'["1234","\\u00e9\\u00e9"]', '["\u00e9\u00e92"]'.encode()),
        (JsonLimits(string_bytes=4), b'{"1234":"123"}', b'{"12345":1}'),
        (JsonLimits(items=3), b'[",,,\\",,",[1,{"a":2}]]', b'[",,,",[1,{"a":2,"b":3}]]'),
    ],
)
def test_each_limit_holds_exactly(limits, inside, over):
    assert parse(inside, limits) == json.loads(inside)
    with pytest.raises(JsonError):
        parse(over, limits)


def test_depth_is_measured_before_anything_recurses():
    assert parse(b"[" * 64 + b"]" * 64)
    for data in (b"[" * 65 + b"]" * 65, b"[" * 200_000, b'{"a":' * 30_000 + b"1" + b"}" * 30_000):
        with pytest.raises(JsonError, match="more than 64"):
            parse(data)


def test_a_caller_deep_in_its_own_stack_gets_our_error():
    def descend(left):
        return parse(b"[[[[[[[[1]]]]]]]]", JsonLimits(depth=100_000)) if left == 0 else descend(left - 1)

    for left in range(sys.getrecursionlimit() - 200, sys.getrecursionlimit()):
        try:
            descend(left)
        except (JsonError, RecursionError):
            continue
    assert descend(10) == [[[[[[[[1]]]]]]]]


def test_a_value_too_deep_to_write_is_refused():
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(JsonError, match="too deep"):
        canonical(nested)


@pytest.mark.parametrize(
    "value",
    [
        2**53,
        -(2**53),
        math.nan,
        math.inf,
        {"a": [math.nan]},
        {1: "a"},
        {None: 1},
        {"a": {True: 1}},
        b"x",
        {1, 2},
        object(),
        "\ud800",
        {"\udfff": 1},
    ],
)
def test_what_has_no_canonical_form_is_refused(value):
    with pytest.raises(JsonError):
        canonical(value)


def test_errors_hold_no_values():
    for data in (
        b'{"password":"hunter2" x',
        b'["hunter2", 1e999]',
        b'{"a":"hunter2","b":1,"b":2}',
        b'["hunter2\\ud800"]',
    ):
        with pytest.raises(JsonError) as caught:
            parse(data)
        assert "hunter2" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_a_hostile_name_is_quoted_harmlessly():
    assert quoted("a`\n\x1b[31m\u202e") == "`a'\\n\\x1b[31m\\u202e`"
    assert len(quoted("x" * 10_000)) < 100


def test_reading_a_large_document_takes_linear_time():
    data = b"[" + b",".join([b'{"k":"v"}'] * 1990) + b"]"
    assert len(data) < DEFAULT_LIMITS.bytes
    assert len(parse(data)) == 1990
