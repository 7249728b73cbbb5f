"""`agents.json` and `limits.json`: who the agents are, who speaks for them, and what a session may ask for at most.

Rules: what stands here is trusted, because the bundle is signed; an agent that is not listed does not exist; an agent
without enforcers is spoken for by nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from pdp.engine.reading import Fields, PolicyError, is_name, read_object

AGENTS_FILE: Final = "agents.json"
LIMITS_FILE: Final = "limits.json"
_MANY: Final = 2**53 - 1  # the largest whole number that every JSON reader keeps


@dataclass(frozen=True, slots=True)
class Agent:
    """A non-human identity as the bundle knows it. `enforcers` are the channel identities that may speak for it."""

    id: str
    owner: str
    version: str = ""
    models: tuple[str, ...] = ()
    teams: tuple[str, ...] = ()
    environment: str = ""
    domains: tuple[str, ...] = ()
    enforcers: tuple[str, ...] = ()


class Agents(Mapping[str, Agent]):
    """The inventory: agents by id, in the order of their ids."""

    __slots__ = ("_agents",)

    def __init__(self, agents: Mapping[str, Agent]) -> None:
        self._agents = MappingProxyType(dict(sorted(agents.items())))

    @classmethod
    def parse(cls, data: bytes) -> Agents:
        """Read `agents.json`.

        Raises `PolicyError` naming the agent and the member.
        """
        fields = read_object(AGENTS_FILE, data)
        listed = fields.objects("agents")
        fields.close()
        return cls({name: _agent(name, member) for name, member in listed.items()})

    def __getitem__(self, agent: str) -> Agent:
        """Give an agent by its id; raises `KeyError` for one that is not listed."""
        return self._agents[agent]

    def __iter__(self) -> Iterator[str]:
        """Go through the ids."""
        return iter(self._agents)

    def __len__(self) -> int:
        """Count the agents."""
        return len(self._agents)


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a session may be given. Steps are actions, money is micro-USD, time is seconds."""

    max_steps: int = 1_000
    max_budget_microusd: int = 100_000_000
    max_lifetime_s: int = 86_400

    @classmethod
    def parse(cls, data: bytes | None) -> Limits:
        """Read `limits.json`; without one the defaults hold: 1,000 steps, 100 USD, one day.

        Raises `PolicyError` naming the member.
        """
        if data is None:
            return cls()
        fields = read_object(LIMITS_FILE, data)
        limits = cls(
            max_steps=fields.integer("max_steps", default=cls().max_steps, low=0, high=_MANY),
            max_budget_microusd=fields.integer(
                "max_budget_microusd", default=cls().max_budget_microusd, low=0, high=_MANY
            ),
            max_lifetime_s=fields.integer("max_lifetime_s", default=cls().max_lifetime_s, low=0, high=_MANY),
        )
        fields.close()
        return limits


def _agent(name: str, fields: Fields) -> Agent:
    if not is_name(name):
        raise PolicyError(f"`{AGENTS_FILE}`: an agent's id must be 1 to 256 characters without control characters")
    agent = Agent(
        id=name,
        owner=fields.text("owner"),
        version=fields.text("version", default=""),
        models=fields.texts("models"),
        teams=fields.texts("teams"),
        environment=fields.text("environment", default=""),
        domains=fields.texts("domains"),
        enforcers=fields.texts("enforcers"),
    )
    fields.close()
    return agent
