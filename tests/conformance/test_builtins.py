"""200,000 calls of the host's built-ins beside a real `opa eval`, and 2,000 through compiled modules."""

import pytest

import comparing

COMPARISONS = 200_000
ROUNDS = 20

pytestmark = pytest.mark.conformance


def test_each_built_in_gives_what_opa_gives(tally):
    each = -(-COMPARISONS // ROUNDS // len(comparing.generators()))
    compared, differences = 0, []
    for number in range(ROUNDS):
        calls = comparing.generate(each, f"round {number}")
        compared += sum(map(len, calls.values()))
        differences += comparing.compare(calls)
    tally("built-ins of the host, beside `opa eval`", compared, wrong=len(differences))
    assert compared >= COMPARISONS
    assert differences == []


def test_a_compiled_module_and_its_host_give_the_same():
    assert comparing.compare_in_module(comparing.generate(-(-2_000 // len(comparing.generators())), "modules")) == []
