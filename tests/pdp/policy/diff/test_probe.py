"""The probe: what no case shows is met all the same, and how much was tried is said."""

from __future__ import annotations

from itertools import islice

import pytest

from differing import Draft, edited, side, usual
from exequatur.registry import Registry
from pdp.bundle import cases
from pdp.bundle.cases import Case
from pdp.policy.diff import flips
from pdp.policy.diff.flips import Sides
from pdp.policy.diff.probe import Probed, _plan, probe
from pdp.policy.diff.samples import arguments
from policies import STRING, as_json, tool

LONG = 60.0


def probed(edit, seconds: float = LONG) -> Probed:
    new = side(edited(edit).files())
    listed = [case for _, case in flips.named(cases.read(usual().files), cases.read(new.files))]
    return probe(Sides(usual().snapshot, new.snapshot), listed, seconds)


def opens_sales(draft: Draft) -> None:
    draft.cedar["sales.too"] = 'permit (principal in Team::"sales", action in Action::"read", resource);'


def test_what_no_case_shows_is_met():
    found = {change.id: change for change in probed(opens_sales).changes}
    assert set(found) == {"probe:clerk:git/log", "probe:clerk:crm/search"}
    assert all(change.allows for change in found.values())
    assert found["probe:clerk:git/log"].text == "DENY by `not_permitted` → ALLOW, with the facts of `a log is read`"


def test_how_much_was_tried_is_said():
    whole = probed(opens_sales)
    assert (whole.pairs, whole.met) == (3 * 5, 3 * 5 - 4), "four pairs have one case, which was judged as such"
    assert whole.tried == whole.planned == whole.met + 2, "two cases pay, and `coder` and `temp` are tried with each"
    assert whole.asked == whole.met - 5, "nobody may speak for `temp`, so that no policy was asked"


def test_the_time_bounds_it():
    stopped = probed(opens_sales, seconds=0.0)
    assert (stopped.tried, stopped.changes) == (0, ())
    assert stopped.planned == probed(opens_sales).planned


def test_what_is_the_same_has_no_findings():
    assert probed(None).changes == ()


def test_a_new_agent_is_tried_with_each_tool():
    def edit(draft: Draft) -> None:
        draft.agents["robot"] = {
            "owner": "a@example.com",
            "teams": ["engineering"],
            "enforcers": ["spiffe://example.com/r"],
        }

    assert {"probe:robot:git/log", "probe:robot:git/commit"} <= {change.id for change in probed(edit).changes}


def test_a_tool_without_a_case_gets_the_plainest_arguments():
    def edit(draft: Draft) -> None:
        draft.tools["disk/wipe"] = tool("disk", "wipe", {"path": STRING}, ["path"], access="write")
        draft.cedar["wipes"] = 'permit (principal, action == Action::"disk/wipe", resource);'

    assert "probe:coder:disk/wipe" in {change.id for change in probed(edit).changes}


KINDS = {
    "text": ({"type": "string", "minLength": 9}, None),
    "word": ({"type": "string", "maxLength": 2}, None),
    "number": ({"type": "integer", "minimum": 7}, None),
    "small": ({"type": "number", "maximum": 0.5}, None),
    "flag": ({"type": "boolean"}, None),
    "choice": ({"enum": ["a", "b"]}, None),
    "either": ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, None),
    "list": ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, None),
    "inner": ({"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}, None),
    "path": ({"type": "string"}, "path"),
    "paths": ({"type": "array", "items": {"type": "string"}}, "path"),
    "host": ({"type": "string"}, "host"),
    "url": ({"type": "string"}, "url"),
    "line": ({"type": "string"}, "command"),
    "argv": ({"type": "array", "items": {"type": "string"}}, "argv"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_sample_is_taken_by_its_schema(name):
    schema, kind = KINDS[name]
    entry = tool("a", "b", {name: schema}, [name], access="read", arguments={name: {"kind": kind}} if kind else {})
    found = Registry.parse(as_json({"tools": {"a/b": entry}})).tools["a/b"]
    found.resolve(arguments(found))


def test_a_schema_cannot_make_a_sample_large():
    entry = tool(
        "a",
        "b",
        {"x": {"type": "array", "minItems": 10**9, "items": {"type": "string", "minLength": 10**9}}},
        ["x"],
        access="read",
    )
    found = Registry.parse(as_json({"tools": {"a/b": entry}})).tools["a/b"]
    sample = arguments(found)["x"]
    assert isinstance(sample, list)
    assert (len(sample), len(str(sample[0]))) == (1000, 1000)


def test_the_cases_are_not_tried_again():
    listed: list[Case] = [case for _, case in flips.named((), cases.read(usual().files))]
    one = [case for case in listed if case.action.tool == "git/log"]
    assert len(one) == 1
    assert cases.judged(one[0], usual().snapshot).decision.effect.may_run
    seen: list[tuple[int, int]] = []
    probe(Sides(usual().snapshot, usual().snapshot), one, LONG, lambda at, of: seen.append((at, of)))
    assert seen[-1] == (len(seen), len(seen))
    assert len(seen) == 3 * 5 - 1


def test_what_is_tried_first_is_a_sample_of_all():
    """Where the time is up early, it was not the first agents alone that were met."""
    agents, tools = ([f"{word} {number}" for number in range(40)] for word in ("agent", "tool"))
    seed = next(case for _, case in flips.named((), cases.read(usual().files)))
    plan = _plan(agents, tools, {tool: [seed] for tool in tools})
    first = [pair for pair, _ in islice(plan, 200)]
    assert len(set(first)) == 200
    assert {agent for agent, _ in first} == set(agents)
    assert {tool for _, tool in first} == set(tools)
    assert len({pair for pair, _ in _plan(agents, tools, {tool: [seed] for tool in tools})}) == 40 * 40
