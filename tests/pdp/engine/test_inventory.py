"""The inventory of agents, and the caps of sessions."""

import pytest

from pdp.engine.inventory import Agents, Limits
from pdp.engine.reading import PolicyError
from policies import AGENTS, as_json


def test_agents_are_read_and_an_unlisted_one_does_not_exist():
    agents = Agents.parse(as_json({"agents": AGENTS}))
    assert list(agents) == ["clerk", "coder"]
    assert agents["coder"].teams == ("engineering",)
    assert agents["clerk"].enforcers == ()
    assert agents.get("nobody") is None


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        ({}, "`owner` must be"),
        ({"owner": ""}, "`owner` must be"),
        ({"owner": "a", "teams": "x"}, "`teams` must be a list"),
        ({"owner": "a", "teams": ["x", "x"]}, "different texts"),
        ({"owner": "a", "teams": [1]}, "different texts"),
        ({"owner": "a", "enforcers": ["spiffe://a\n"]}, "control characters"),
        ({"owner": "a", "enforcer": ["spiffe://a"]}, "unknown member `enforcer`"),
        ([], "an object is needed"),
    ],
)
def test_a_broken_agent_is_refused_by_name(agent, words):
    with pytest.raises(PolicyError, match=r"`agents\.json`: `coder`") as refused:
        Agents.parse(as_json({"agents": {"coder": agent}}))
    assert words in str(refused.value)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 257, "a\u202eb"])
def test_an_id_that_reads_as_another_is_refused(name):
    with pytest.raises(PolicyError, match="control characters"):
        Agents.parse(as_json({"agents": {name: {"owner": "a"}}}))


def test_caps_default_and_are_strict():
    assert Limits.parse(None) == Limits() == Limits.parse(b"{}")
    assert Limits.parse(as_json({"max_steps": 5})).max_steps == 5
    for wrong in ({"max_steps": "5"}, {"max_steps": -1}, {"max_steps": 1.5}, {"steps": 5}):
        with pytest.raises(PolicyError, match=r"limits\.json"):
            Limits.parse(as_json(wrong))
