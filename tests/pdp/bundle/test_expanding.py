"""Defaults and parameters write cases out, and nothing that is misspelt in them goes unseen."""

from __future__ import annotations

from pathlib import Path

import pytest

from exequatur import schemas
from pdp.bundle import expanding
from pdp.bundle.expanding import read_items
from pdp.bundle.reading import read_document
from pdp.engine.reading import PolicyError

WHOLE = "agent: a, tool: b/c, want: {effect: allow}"


def items(text: str) -> list[dict[str, object]]:
    return [item.value for item in read_items("cases/a.yaml", text.encode())]


def refusal(text: str) -> str:
    with pytest.raises(PolicyError) as caught:
        items(text)
    return str(caught.value)


def test_defaults_are_what_a_case_does_not_say():
    first, second = items("""
defaults: {agent: a, tool: b/c, session: {purpose: p, labels: [x]}, want: {effect: deny, kind: forbidden}}
cases:
  - name: one
  - {name: two, tool: b/d, session: {labels: []}, want: {effect: allow, kind: permitted}}
""")
    assert first == {
        "name": "one",
        "agent": "a",
        "tool": "b/c",
        "session": {"purpose": "p", "labels": ["x"]},
        "want": {"effect": "deny", "kind": "forbidden"},
    }
    assert second["session"] == {"purpose": "p", "labels": []}
    assert second["want"] == {"effect": "allow", "kind": "permitted"}


def test_a_case_is_run_for_each_of_its_parameters():
    listed = items("""
- name: "${who} reads ${n}"
  agent: $who
  tool: b/c
  arguments: {n: $n, list: [$n, "a${n}b", $$n, "$${n}", "5 $"], deep: {who: $who}}
  parameters: [{who: x, n: 1}, {who: y, n: null}, {who: z, n: {a: [true]}}]
  want: {effect: allow}
""")
    assert [case["name"] for case in listed] == ["x reads 1", "y reads null", 'z reads {"a": [true]}']
    assert listed[0]["arguments"] == {"n": 1, "list": [1, "a1b", "$n", "${n}", "5 $"], "deep": {"who": "x"}}
    assert listed[2]["arguments"]["n"] == {"a": [True]}  # type: ignore[index]
    assert "parameters" not in listed[0]


def test_cases_of_the_same_name_are_numbered():
    listed = items("- {name: n, agent: $a, tool: b/c, parameters: [{a: x}, {a: y}], want: {effect: allow}}")
    assert [case["name"] for case in listed] == ["n #1", "n #2"]


def test_without_parameters_a_dollar_is_a_dollar():
    (case,) = items(f"- {{name: n, {WHOLE}, arguments: {{a: $HOME, b: '${{x}}'}}}}")
    assert case["arguments"] == {"a": "$HOME", "b": "${x}"}


def test_a_parameter_may_be_what_is_wanted():
    listed = items(
        "- {name: n, agent: a, tool: b/c, session: {steps: $s}, parameters: [{s: 1, e: allow}, {s: 2, e: deny}], want: {effect: $e}}"
    )
    assert [(case["session"], case["want"]) for case in listed] == [
        ({"steps": 1}, {"effect": "allow"}),
        ({"steps": 2}, {"effect": "deny"}),
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"- {{name: n, {WHOLE}, parameters: [{{a: 1}}]}}", "3`: the parameter `a` is used nowhere in the case"),
        (f"- {{name: $b, {WHOLE}, parameters: [{{a: 1}}]}}", "3`: there is no parameter `b`"),
        (f"- {{name: '${{b}}', {WHOLE}, parameters: [{{b: 1}}, {{}}]}}", "3`: `parameters.1` must have 1 or more"),
        (f"- {{name: '${{b}}', {WHOLE}, parameters: [{{b: 1}}, {{c: 2}}]}}", "3`: there is no parameter `b`"),
        (f"- {{name: n, {WHOLE}, parameters: []}}", "3`: `parameters` must have 1 or more items"),
        (f"- {{name: n, {WHOLE}, parameters: [{{a-b: 1}}]}}", "3`: `parameters.0.a-b` must be named by letters"),
        (f"- {{name: $a, {WHOLE}, parameters: [{{a: 1}}]}}", "3`: `name` must be a text"),
        (
            "- {name: n, agent: a, tool: b/c, parameters: [{e: alow}], want: {effect: $e}}",
            "3`: `want.effect` must be one of",
        ),
        ("cases:\n- {name: n}", "4`: `agent` is missing"),
        ("cases:\n- {agent: a}", "4`: `name` is missing"),
        ("cases:\n- {name: n,\n   wnat: {}}", "5`: `wnat` is not known: did you mean `want`?"),
        ("cases:\n- {name: n,\n   want: {efect: deny}}", "5`: `want.efect` is not known: did you mean `effect`?"),
        ("defaults:\n  name: n\ncases: []", "4`: `defaults.name` does not belong here"),
        ("defaults:\n  tol: n\ncases: []", "4`: `defaults.tol` is not known: did you mean `tool`?"),
        ("default: {}\ncases: []", "3`: `default` is not known: did you mean `defaults`?"),
        ("defaults: {}", "3`: `cases` is missing"),
    ],
)
def test_what_is_misspelt_is_an_error_with_its_line(text, why):
    assert refusal(f"# one\n# two\n{text}").startswith(f"`cases/a.yaml:{why}")


@pytest.mark.parametrize("used", ["'" + "${a}" * 1000 + "'", "[" + "$a, " * 1000 + "]"])
def test_a_parameter_does_not_grow_a_case_without_end(used):
    said = refusal(f"- {{name: n, {WHOLE}, arguments: {{x: {used}}}, parameters: [{{a: {'x' * 2000}}}]}}")
    assert said.startswith("`cases/a.yaml:1`: its parameters write more than 1048576 characters into it")


def test_parameters_do_not_multiply_without_end(monkeypatch):
    monkeypatch.setattr(expanding, "MOST", 3)
    text = f"- {{name: n, {WHOLE}, arguments: {{a: $a}}, parameters: [{{a: 1}}, {{a: 2}}]}}\n"
    assert len(items(text)) == 2
    assert "more than 3 cases in one file" in refusal(text * 2)


@pytest.mark.parametrize("file", sorted(Path("policies").glob("*/cases/*.yaml")), ids=str)
def test_editors_and_readers_take_the_same_cases(file):
    assert schemas.check("cases", read_document(str(file), file.read_bytes()).value) is None
