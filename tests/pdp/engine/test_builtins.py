"""Each built-in of the host gives what a real OPA gives; the long run is in tests/conformance."""

import random

import pytest

import comparing
from pdp.engine.builtins import BUILTINS, BuiltinError
from pdp.engine.builtins.values import Number, RegoObject, RegoSet, compare, dump_value, parse_value, to_text
from rego_values import value

COMPARISONS = 5_000
# Those that nothing can be compared with: the time of a decision is ours.
ALONE = {"time.now_ns"}


def test_each_built_in_has_cases_and_all_give_what_opa_gives():
    names = BUILTINS.keys() - ALONE
    assert comparing.generators().keys() == names
    calls = comparing.generate(-(-COMPARISONS // len(names)), "quick")
    assert sum(map(len, calls.values())) >= COMPARISONS
    assert comparing.compare(calls) == []


def test_a_compiled_module_and_its_host_give_the_same():
    assert comparing.compare_in_module(comparing.generate(4, "module")) == []


def test_a_comparison_finds_a_difference():
    assert comparing.compare_with_opa("sprintf", [("%d", (Number("1"),)), ("%d", ())]) == []
    different = comparing.ask_opa({"sprintf": [("%x", (Number("10"),))]})
    assert (
        different
        == {"sprintf": {"0": '["a"]'}}
        != {"sprintf": {"0": comparing.ask_ours("sprintf", ("%X", (Number("10"),)))}}
    )


def test_a_value_reads_as_it_was_written_and_sorts_as_opa_sorts():
    rng = random.Random("values")
    values = [value(rng, 3) for _ in range(500)]
    for one in values:
        assert parse_value(dump_value(one)) == one
        assert hash(parse_value(dump_value(one))) == hash(one)
    theirs = comparing.ask_opa({"sprintf": [("%v", (RegoSet(values[n : n + 5]),)) for n in range(0, 500, 5)]})
    for n in range(0, 500, 5):
        assert theirs["sprintf"][str(n // 5)] == to_text((to_text(RegoSet(values[n : n + 5])),))


def test_a_number_is_its_exact_value_and_no_boolean():
    assert Number("1") == Number("1.0") == Number("10e-1") != Number("1.0000000000000000000000000000001")
    assert len(RegoSet([Number("1"), Number("1.0"), True, "1"])) == 3
    assert RegoObject([(Number("1"), "a")]) == RegoObject([(Number("1e0"), "a")])
    assert compare(Number("1e999999999"), Number("-1e999999999")) == 1
    large = str(7 * 10**40)
    for one, other in (("0", "-0.0e9"), ("-5", "-5.0"), (large, "70e39"), (f"{large}.0", large), ("0.10", "1e-1")):
        assert (Number(one), hash(Number(one))) == (Number(other), hash(Number(other)))
    assert len(RegoSet([Number("1e999999999999999999"), Number("1e-999999999999999999")])) == 2


@pytest.mark.parametrize(
    "text",
    [b"", b"[", b"{1:}", b"tru", b"1 2", b'"\xff"', b"[" * 100_000, b"9" * 100_000, b'"\n"', b"{1,}", b"[1,]", b"-"],
)
def test_what_is_no_value_is_an_error_without_the_value(text):
    with pytest.raises(BuiltinError, match=r"^a (value|number) (cannot be read|is too deep|is too long)$"):
        parse_value(text)


BOMBS = {
    "width": ("sprintf", ("%1000000d" * 50, tuple(Number("1") for _ in range(50)))),
    "one operand, many times": ("sprintf", ("%1000000[1]d" * 50, (Number("1"),))),
    "width of a star": ("sprintf", ("%*d%*d", tuple(map(Number, ("1000000", "1", "1000000", "1"))))),
    "precision": ("sprintf", ("%.1000000f%.1000000f", (Number("0.5"), Number("0.5")))),
    "range": ("numbers.range_step", (Number("0"), Number("1e18"), Number("1"))),
    "large numbers": ("numbers.range_step", (Number("1" + "0" * 9000), Number("1" + "0" * 8999 + "9"), Number("0.5"))),
    "exponent": ("numbers.range_step", (Number("1e999999999"), Number("1"), Number("1"))),
    "time": ("time.date", (Number("1e999999999"),)),
    "exact time": ("time.date", (Number("1e-999999999"),)),
    "duration": ("time.parse_duration_ns", ("9" * 100_000 + "h",)),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_would_grow_without_bound_is_refused_before_it_is_built(bomb):
    name, arguments = BOMBS[bomb]
    with pytest.raises(BuiltinError):
        BUILTINS[name].function(*arguments)


def test_local_time_is_refused_since_it_depends_on_the_machine():
    with pytest.raises(BuiltinError, match="`Local` depends on the machine"):
        BUILTINS["time.clock"].function((Number("0"), "Local"))


def test_an_address_in_memory_is_never_shown():
    for verb in "pw":
        with pytest.raises(BuiltinError, match="would show memory"):
            BUILTINS["sprintf"].function(f"%{verb}", (Number("1" * 30),))
