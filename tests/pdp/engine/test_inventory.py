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
        ({}, "/owner` is missing"),
        ({"owner": ""}, "/owner` must be a text of 1 to 256 characters"),
        ({"owner": "a", "teams": "x"}, "/teams` must be a list"),
        ({"owner": "a", "teams": ["x", "x"]}, "/teams` must not hold the same twice"),
        ({"owner": "a", "teams": [1]}, "/teams/0` must be a text"),
        ({"owner": "a", "enforcers": ["spiffe://a\n"]}, "/enforcers/0` must be a text of 1 to 256 characters without"),
        ({"owner": "a", "enforcer": ["spiffe://a"]}, "/enforcer` is not known: did you mean `enforcers`?"),
        ([], "` must be an object"),
    ],
)
def test_a_broken_agent_is_refused_by_line_and_member(agent, words):
    with pytest.raises(PolicyError, match=r"^`agents\.json:1`: `/agents/coder") as refused:
        Agents.parse(as_json({"agents": {"coder": agent}}))
    assert words in str(refused.value)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 257, "a\u202eb"])
def test_an_id_that_reads_as_another_is_refused(name):
    with pytest.raises(PolicyError, match="control characters"):
        Agents.parse(as_json({"agents": {name: {"owner": "a"}}}))


def test_caps_default_and_are_strict():
    assert Limits.parse(None) == Limits() == Limits.parse(b"{}")
    assert Limits.parse(as_json({"max_steps": 5})).max_steps == 5
    assert Limits.parse(as_json({"$schema": "./limits.schema.json", "max_lifetime_s": 0})) == Limits(max_lifetime_s=0)
    for wrong in ({"max_steps": "5"}, {"max_steps": -1}, {"max_steps": 1.5}, {"max_steps": 2**53}, {"steps": 5}):
        with pytest.raises(PolicyError, match=r"^`limits\.json:1`: `/(max_)?steps` "):
            Limits.parse(as_json(wrong))
