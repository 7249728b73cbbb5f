"""A reference that OPA's interpreter and its compiler take for different things is refused where it is written."""

import json
import subprocess

import pytest

from pdp.engine.data_references import check_references
from pdp.engine.reading import PolicyError
from pdp.engine.rego import RegoEngine
from policies import opa, rego

DATA = {"names": {"2": "bar", "more": {"3": 1}}, "list": ["a", "b", "c"]}


def refused(expression: str) -> bool:
    source = f"package exequatur\n\n# data.names[2]\nx := {expression}\n"
    try:
        check_references({"a.rego": source.encode()}, DATA)
    except PolicyError as error:
        assert str(error).startswith("`a.rego:4`: `data")  # noqa: PT017
        return True
    return False


@pytest.mark.parametrize(
    "expression", ["data.names[2]", 'data["names"].more[3]', "1 + data.names[2]", "[data.names[7]]"]
)
def test_a_number_in_an_object_or_a_text_in_a_list_is_refused_with_file_and_line(expression):
    assert refused(expression)


@pytest.mark.parametrize(
    "expression",
    [
        'data.names["2"]',
        "data.list[2]",
        "data.list[9]",
        "data.list[i]",
        '"data.names[2]"',
        "`data.names[2]`",
        "data.unknown[2]",
        "input.data.names[2]",
    ],
)
def test_what_means_the_same_to_both_is_not_refused(expression):
    assert not refused(expression)


def test_the_two_do_differ_and_the_engine_refuses_to_load(tmp_path):
    source = 'package exequatur\n\ndecision := {"allow": data.names[2] == "bar"}\n'
    (tmp_path / "a.rego").write_text(source)
    (tmp_path / "data.json").write_text(json.dumps(DATA))
    command = [opa(), "eval", "-f", "raw", "-d", "a.rego", "-d", "data.json", "data.exequatur.decision.allow"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "true", "is this check still needed?"
    wasm = rego(source, json.dumps(DATA))
    assert RegoEngine.load(wasm, {"names": {}}, "exequatur/decision")
    with pytest.raises(PolicyError, match=r"`a\.rego:3`: .*write `\[\"2\"\]`"):
        RegoEngine.load(wasm, DATA, "exequatur/decision", sources={"a.rego": source.encode()})
