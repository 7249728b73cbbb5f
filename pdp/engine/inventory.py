"""`agents.json` and `limits.json`: who the agents are, who speaks for them, and what a session may ask for at most.

Rules: what stands here is trusted, because the bundle is signed; an agent that is not listed does not exist; an agent
without enforcers is spoken for by nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from pdp.engine.reading import read_file

AGENTS_FILE: Final = "agents.json"
LIMITS_FILE: Final = "limits.json"


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

        Raises `PolicyError` naming the line and the member.
        """
        listed = read_file("agents", AGENTS_FILE, data)["agents"]
        return cls({name: _agent(name, members) for name, members in listed.items()})

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
        """Read `limits.json`; what is not said there has its default: 1,000 steps, 100 USD, one day.

        Raises `PolicyError` naming the line and the member.
        """
        if data is None:
            return cls()
        said = read_file("limits", LIMITS_FILE, data)
        return cls(**{name: said[name] for name in cls.__slots__ if name in said})


def _agent(name: str, members: dict[str, Any]) -> Agent:
    return Agent(
        id=name,
        owner=members["owner"],
        version=members.get("version", ""),
        models=_sorted(members, "models"),
        teams=_sorted(members, "teams"),
        environment=members.get("environment", ""),
        domains=_sorted(members, "domains"),
        enforcers=_sorted(members, "enforcers"),
    )


def _sorted(members: dict[str, Any], name: str) -> tuple[str, ...]:
    return tuple(sorted(members.get(name, ())))
