"""Agents and limits, there and back: what is wider one way is tighter the other way."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pdp.engine.inventory import Agent, Limits
from pdp.policy.diff import declared
from pdp.policy.diff.change import Change, Direction
from pdp.policy.diff.mentions import Mentions

SILENT = Mentions((), ())
"""No policy names anything."""

NAMES = st.frozensets(st.sampled_from("abc"), max_size=3).map(lambda names: tuple(sorted(names)))
AGENTS = st.dictionaries(st.sampled_from(("x", "y")), st.tuples(NAMES, NAMES, NAMES, NAMES)).map(
    lambda found: {
        name: Agent(name, "o", models=models, teams=teams, domains=domains, enforcers=enforcers)
        for name, (models, teams, domains, enforcers) in found.items()
    }
)
COUNTS = st.integers(0, 9)
LIMITS = st.builds(Limits, COUNTS, COUNTS, COUNTS)


def changes(old: dict[str, Agent], new: dict[str, Agent]) -> dict[str, Change]:
    return {each.id: each for each in declared.agents(old, new, SILENT)}


def turned(name: str) -> str:
    """Give the id of a change as it is the other way round."""
    stem, _, last = name.rpartition(":")
    return f"{stem}:{ {'added': 'removed', 'removed': 'added'}.get(last, last) }"


@settings(max_examples=60, deadline=None)
@given(AGENTS, AGENTS)
def test_agents_there_and_back(old, new):
    there, back = changes(old, new), changes(new, old)
    assert set(map(turned, there)) == set(back)
    assert bool(there) is (old != new)
    for name, change in back.items():
        if change.direction is Direction.TIGHTER:
            assert there[turned(name)].direction is Direction.WIDER


@settings(max_examples=30, deadline=None)
@given(LIMITS, LIMITS)
def test_limits_there_and_back(old, new):
    there, back = ({each.id: each.direction for each in declared.limits(*pair)} for pair in ((old, new), (new, old)))
    opposite = {Direction.WIDER: Direction.TIGHTER, Direction.TIGHTER: Direction.WIDER}
    assert back == {name: opposite[direction] for name, direction in there.items()}
