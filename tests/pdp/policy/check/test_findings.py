"""Each example in the list of findings is one: what it shows gives its code."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdp.policy.check.findings import GROUPS, KINDS, Kind, found
from pdp.policy.check.whole import check
from policies import opa
from policy_mistakes import good

BY_CODE = {kind.code: kind for kind in KINDS}


def test_codes_are_different_and_in_a_group():
    assert len(BY_CODE) == len(KINDS)
    assert all(code[:3] in GROUPS and len(code) == len("EX101") for code in BY_CODE)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.language == "cedar"], ids=lambda kind: kind.code)
def test_example_in_cedar_has_its_code(kind: Kind):
    files = good(rego=False)
    files["policy.cedar"] += kind.example.encode()
    assert kind.code in {each.code for each in check(files, None)}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.language == "rego"], ids=lambda kind: kind.code)
def test_example_in_rego_has_its_code(kind: Kind):
    files = good()
    whole = kind.example if kind.example.startswith("package") else f"package exequatur\n\n{kind.example}\n"
    files["example.rego"] = whole.encode()
    assert kind.code in {each.code for each in check(files, Path(opa()))}


def test_finding_says_why_and_what_to_do():
    each = found("EX401", ("a.rego", 0))
    assert (each.file, each.line, each.severity) == ("a.rego", 1, "error")
    assert each.why == BY_CODE["EX401"].why
    assert each.fix == BY_CODE["EX401"].fix
