"""What is given to built-ins to keep them busy or to make them large: each call ends soon, and a loop of them as well."""

import contextlib
import random
import resource
import time
from pathlib import Path

import pytest

from pdp.engine.builtins import BUILTINS, BuiltinError
from pdp.engine.builtins.operands import Meter, paid_by
from pdp.engine.builtins.values import Number, RegoObject, RegoSet, Value, dump_value, is_larger, parse_value
from pdp.engine.wasm import EvaluationError, Machine, RegoLimits, load_module
from policies import rego

# Many times what it takes, on a machine that does other things.
SECONDS = 5.0
# Without a price for the searches of a pattern the first of the loops takes three times as long.
LOOP_SECONDS = 0.6
FULL = "a" * 2**20


def _copy(start: str, path: str) -> Value:
    return RegoObject({"op": "copy", "from": start, "path": path})


def _chain(nodes: int) -> RegoObject:
    # Two ways on from each node: twice the paths.
    return RegoObject({f"n{at}": (f"n{at + 1}", f"m{at + 1}") for at in range(nodes)} | {
        f"m{at}": (f"n{at + 1}", f"m{at + 1}") for at in range(nodes)
    })  # fmt: skip


MANY = tuple(Number.of(at) for at in range(4000))


BOMBS: dict[str, tuple[str, tuple[Value, ...]]] = {
    "nested repeats": ("regex.find_n", ("((a{0,30}){0,30})+b", "a" * 10_000, Number("-1"))),
    "a repeat of repeats": ("regex.find_n", ("((a{100}){100}){100}", FULL, Number("-1"))),
    "backtracking": ("regex.find_n", ("(a*)*(a|aa)+$x", FULL, Number("-1"))),
    "a state for each text": ("regex.replace", ("ab" * 2**19, "(a|b)*a(a|b){100}c", "")),
    "each search to the end": ("regex.find_n", ("a(.*b)?", FULL, Number("-1"))),
    "a match at each place": ("regex.split", ("", FULL)),
    "a long replacement": ("regex.replace", ("a" * 4096, "", "x" * 4096)),
    "many groups": ("regex.replace", ("a" * 1000, "(a*)", "$1" * 10_000)),
    "a long pattern": ("regex.find_n", ("a" * 5000, "a", Number("-1"))),
    "many letters": ("regex.find_n", (r"\pL{1000}", FULL, Number("-1"))),
    "deep pattern": ("regex.find_n", ("(" * 2000 + ")" * 2000, "a", Number("-1"))),
    "long template": ("regex.template_match", ("<" * 2**19 + ">" * 2**19, "a", "<", ">")),
    "stars against stars": ("regex.globs_match", ("a*b*" * 12 + "c", "b*a*" * 12 + "d")),
    "a long glob": ("regex.globs_match", ("[a-z]+" * 5000, "x" * 5000)),
    "a whole range": ("regex.globs_match", ("[\x00-\U0010ffff]" * 4000, "." * 4000)),
    "all of IPv4": ("net.cidr_expand", ("0.0.0.0/0",)),
    "all of IPv6": ("net.cidr_expand", ("::/0",)),
    "an address without end": ("net.cidr_is_valid", ("1:" * 2**19,)),
    "a mask without end": ("net.cidr_is_valid", ("1.2.3.4/" + "0" * 2**20,)),
    "many networks": ("net.cidr_merge", (tuple(f"10.{at // 256}.{at % 256}.0/25" for at in range(10_000)),)),
    "each network with each": ("net.cidr_contains_matches", (("10.0.0.0/8",) * 5000, ("10.0.0.1",) * 5000)),
    "paths that double": ("graph.reachable_paths", (_chain(40), ("n0",))),
    "one long path": (
        "graph.reachable_paths",
        (RegoObject({Number.of(at): (Number.of(at + 1),) for at in range(20_000)}), (Number("0"),)),
    ),
    "copies that double": ("json.patch", (RegoObject({"a": ()}), (_copy("", "/b"), _copy("/b", "/a/-")) * 60)),
    "copies of a long text": ("json.patch", ((FULL,), (_copy("/0", "/-"),) * 10_000)),
    "operations on a long array": (
        "json.patch",
        ((Number("0"),) * 50_000, (RegoObject({"op": "remove", "path": "/0"}),) * 50_000),
    ),
    "a deep path": ("json.patch", (RegoObject(), (RegoObject({"op": "add", "path": "/a" * 10_000, "value": "x"}),))),
    "a run in a run": ("object.subset", (("a",) * 100_000, ("a",) * 50_000 + ("b",))),
    "a large exponent": ("units.parse", ("1e999999",)),
    "a small exponent": ("units.parse_bytes", ("1e-999999",)),
    "many digits": ("units.parse", ("9" * 2**20,)),
    "a version without end": ("semver.compare", ("1.0.0-" + "9" * 2**19, "1.0.0-" + "8" * 2**19)),
    "matches that overlap": ("indexof_n", (FULL, "a" * 2**19)),
    "parts of each character": ("strings.split_n", (FULL, "", Number("-1"))),
    "prefixes and texts": (
        "strings.any_prefix_match",
        (tuple("a" * 20 + str(at) for at in range(20_000)), tuple("a" * 21 + str(at) for at in range(20_000))),
    ),
    "parameters": ("urlquery.decode_object", ("a=1&" * 2**18,)),
    "an escape in each place": ("urlquery.encode", ("\u65e5" * 2**18,)),
    "a long indent": ("json.marshal_with_options", ((((True,),),) * 1000, RegoObject({"indent": "x" * 100_000}))),
    "a layout as long as its time": ("time.parse_ns", ("x" * 2**20, "x" * 2**20)),
    "a layout of elements": ("time.format", ((Number("0"), "UTC", "1" * 2**20),)),
    "a duration of parts": ("time.parse_duration_ns", ("0h" * 2**19,)),
    "a zone in zones": ("time.format", ((Number("0"), "a/" * 2**19 + "a"),)),
    "digits that are not shown": ("sprintf", ("%.999999[1]g" * 10_000, (Number("1.5"),))),
    "texts that are not shown": ("sprintf", ("%[1].0x" * 100_000, ("\u00e9" * 2**18,))),
    "groups that are empty": ("regex.replace", ("a" * 1000, "()a", "$1" * 100_000)),
    "one key with many values": ("urlquery.encode_object", (RegoObject({"k" * 300_000: ("",) * 10_000}),)),
    "one mask for many": (
        "net.cidr_contains_matches",
        ("10.0.0.0/" + "0" * 500_000 + "8", ("10.0.0.1",) * 10_000),
    ),
    "a node of many": (
        "graph.reachable_paths",
        (RegoObject({"a": (MANY,), MANY: tuple(map(str, range(6000)))}), ("a",)),
    ),
    "an address in a URI": ("uri.parse", ("http://[" + "1:" * 2**18 + "]/",)),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_ends_soon_in_a_refusal_or_an_answer_that_can_be_written(bomb: str):
    name, arguments = BOMBS[bomb]
    started = time.process_time()
    size = 0
    # Either will do: it is the time that must not be taken.
    with contextlib.suppress(BuiltinError):
        size = len(dump_value(BUILTINS[name].function(*arguments)))
    assert size < 8 * 2**20
    assert time.process_time() - started < SECONDS


CALLS = (
    'regex.replace(input.text, "a(.*b)?", "")',
    'regex.replace(input.text, concat("", ["(a|b)*a(a|b){20}c", format_int(n, 10)]), "")',
    "graph.reachable_paths({i: [i + 1, i + 2] | some i in numbers.range(0, 14)}, [0])",
    'json.patch([], [{"op": "add", "path": "/0", "value": i} | some i in numbers.range(0, 99)])',
)


@pytest.fixture(scope="module")
def machine() -> Machine:
    rules = [
        f"decision := count([r | some n in numbers.range(1, 2000); r := [n, {call}]]) if input.call == {number}"
        for number, call in enumerate(CALLS)
    ]
    source = rego("\n".join(["package exequatur", *rules]))
    return load_module(source, None, b"{}", "exequatur/decision", RegoLimits())


@pytest.mark.parametrize("call", range(len(CALLS)))
def test_a_loop_of_costly_calls_is_stopped_by_the_fuel_of_the_evaluation(machine: Machine, call: int):
    started = time.process_time()
    with pytest.raises(EvaluationError, match="work"):
        machine.evaluate(dump_value(RegoObject({"text": "a" * 1800, "call": Number.of(call)})), now_ns=0)
    assert time.process_time() - started < LOOP_SECONDS


def test_steps_are_paid_for_while_they_are_taken():
    paid: list[int] = []
    meter = Meter(10_000)
    with paid_by(paid.append):
        meter.spend(150)
        assert paid == []
        meter.spend(60)
        assert sum(paid) == 210_000
    meter.spend(5000)
    assert sum(paid) == 210_000
    with pytest.raises(BuiltinError, match="too much work"):
        meter.spend(5000)


def test_comparing_a_large_value_again_and_again_is_paid_for():
    members = RegoSet([Number.of(at) for at in range(5000)])
    with pytest.raises(BuiltinError):
        BUILTINS["json.patch"].function(members, (RegoObject({"op": "test", "path": (), "value": members}),) * 5000)


def test_numbers_whose_remainders_are_the_same_do_not_take_quadratic_time():
    """The hash of an integer in Python is its remainder by 2^61 - 1."""
    multiples = ",".join(str((2**61 - 1) * at) for at in range(1, 10_001))
    fractions = ",".join(f"{(2**61 - 1) * at}e-{at}" for at in range(1, 5_001))
    for members in (multiples, fractions):
        started = time.process_time()
        parse_value(f"{{{members}}}".encode())
        assert time.process_time() - started < SECONDS


def test_compiled_patterns_that_are_kept_do_not_pile_up():
    """Each keeps what its searches have found out: the states of a machine that has one for each text."""
    rng = random.Random("texts")
    text = "".join(rng.choices("ab", k=8_000))
    before = _resident()
    for at in range(120):
        BUILTINS["regex.find_n"].function(f"(a|b)*a(a|b){{{20 + at % 20}}}c{at}", text, Number("1"))
    assert _resident() - before < 110 * 2**20


def test_classes_of_letters_are_paid_for_each_time_they_could_be_compiled():
    paid: list[int] = []
    with paid_by(paid.append):
        for _ in range(2):
            BUILTINS["regex.find_n"].function(r"(?:\pL\PL|\pN)x", "a", Number("1"))
    assert paid[: len(paid) // 2] == paid[len(paid) // 2 :]
    assert sum(paid) > 1_500_000


def test_a_result_is_counted_before_it_is_written():
    members = tuple("a" for _ in range(1000))
    assert not is_larger(members, 1000)
    assert is_larger(members, 999)
    assert is_larger(RegoObject({"a": members, members: RegoSet(members)}), 2000)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
