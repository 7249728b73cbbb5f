"""200,000 calls of the host's built-ins beside a real `opa eval`, and 2,000 through compiled modules."""

import pytest

import comparing

COMPARISONS = 200_000
ROUNDS = 20

pytestmark = pytest.mark.conformance


@pytest.mark.parametrize("number", range(ROUNDS))
def test_each_built_in_gives_what_opa_gives(number):
    each = -(-COMPARISONS // ROUNDS // len(comparing.generators()))
    calls = comparing.generate(each, f"round {number}")
    assert sum(map(len, calls.values())) >= COMPARISONS // ROUNDS
    assert comparing.compare(calls) == []


def test_a_compiled_module_and_its_host_give_the_same():
    assert comparing.compare_in_module(comparing.generate(-(-2_000 // len(comparing.generators())), "modules")) == []
