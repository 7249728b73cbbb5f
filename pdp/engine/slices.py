"""Which Cedar policies an action must be put to: those whose scope can match it.

Rules:
- The index is over all three parts of the scope. Agents are in their teams and nothing else, actions in their groups,
  resources in nothing: so an entity that a scope names matches itself and its members, and a look-up finds all of it.
- What the index does not understand is in every slice: in doubt, Cedar itself is asked.
- What applies to every agent and resource is parsed once a tool. What names an agent, a team or a resource is parsed
  for those that it names, when they are first met; how much of that is kept has a limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, TypeAlias

import cedarpy
from cedarpy import pst

from exequatur.registry import Resource, Tool
from pdp.engine.cedar_text import Source
from pdp.engine.inventory import Agent
from pdp.engine.statements import Statement

KEPT: Final = 200_000
"""How many statements all slices of one engine may hold together; a kilobyte each."""

TOGETHER: Final = 500
"""Up to how many statements that apply to all are parsed again with those of one agent: it takes 50 us each, once.
Where there are more, the two are asked one after the other, which takes 40 us more each time."""

_AT_ONCE: Final = 20
"""Up to how many statements are parsed without letting other threads run: 50 us each, and 5 ms to get the turn back."""

_Name: TypeAlias = tuple[str, str | None] | None
"""An entity by type and id, all of a type, or whatever there is."""


@dataclass(frozen=True, slots=True)
class Policies:
    """Some statements as a parsed set. Cedar calls them `policy0`, `policy1`, … by their position.

    `numbers` are their places among all statements, ascending.
    """

    statements: tuple[Statement, ...]
    numbers: tuple[int, ...]
    parsed: cedarpy.PolicySet


@dataclass(frozen=True, slots=True)
class Slice:
    """What one action is put to, in a set or two: permits and plain forbids, and apart from them what only tightens."""

    hard: tuple[Policies, ...]
    soft: tuple[Policies, ...]

    def __len__(self) -> int:
        """Count the statements."""
        return sum(len(policies.numbers) for policies in (*self.hard, *self.soft))


class Slices:
    """The slices of one bundle's policies. Not for two threads at once."""

    def __init__(self, statements: Sequence[Statement]) -> None:
        self._statements = statements
        self._numbers: dict[tuple[str | None, _Name, _Name], list[int]] = {}
        self._named: set[_Name] = set()
        self._reads: dict[tuple[str | None, str | None], set[tuple[str, str]]] = {}
        for number, statement in enumerate(statements):
            self._add(number, statement)
        self._general: dict[str, Slice] = {}
        self._parsed: dict[tuple[int, ...], Policies] = {}
        self._own: dict[tuple[str, str, str | None], Slice] = {}
        self._kept = 0

    def _add(self, number: int, statement: Statement) -> None:
        who, what = _entity(statement.principal), _entity(statement.resource)
        if who is not None and who[1] is None:
            who = None  # every principal is an agent
        self._named.add(what)
        for action in _actions(statement.action):
            self._numbers.setdefault((action, who, what), []).append(number)
            self._reads.setdefault((action, what and what[0]), set()).update(statement.reads)

    def prepare(self, tool: Tool) -> AbstractSet[tuple[str, str]]:
        """Parse what applies to all calls of a tool; gives every fact that any policy can read in a call of it."""
        actions, kind = (None, tool.full, *tool.groups), tool.resource_type
        hard, soft = self._apart(self._find(actions, (None,), (None, (kind, None))))
        self._general[tool.full] = Slice((self._shared(hard),), (self._shared(soft),))
        reads: set[tuple[str, str]] = set()
        for action in actions:
            reads |= self._reads.get((action, None), set()) | self._reads.get((action, kind), set())
        return reads

    def of(self, tool: Tool, agent: Agent, resource: Resource) -> Slice:
        """Give the policies that one action must be put to."""
        known = resource.id if (resource.type, resource.id) in self._named else None
        key = (tool.full, agent.id, known)
        if key not in self._own:
            self._own[key] = self._make(tool, agent, None if known is None else (resource.type, known))
            self._drop()
        return self._own[key]

    def _make(self, tool: Tool, agent: Agent, resource: _Name) -> Slice:
        general = self._general[tool.full]
        whom: list[_Name] = [None, ("Agent", agent.id), *(("Team", team) for team in agent.teams)]
        what: list[_Name] = [None, (tool.resource_type, None), *([resource] if resource else [])]
        found = self._find((None, tool.full, *tool.groups), whom, what)
        hard, soft = self._apart(found)
        if (hard, soft) == (general.hard[0].numbers, general.soft[0].numbers):
            return general
        own = Slice(self._more(general.hard[0], hard), self._more(general.soft[0], soft))
        self._kept += len(own)
        return own

    def _find(self, actions: Iterable[str | None], whom: Iterable[_Name], what: Iterable[_Name]) -> set[int]:
        keys = ((action, who, which) for action in actions for who in whom for which in what)
        return {number for key in keys for number in self._numbers.get(key, ())}

    def _apart(self, numbers: AbstractSet[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Give the hard ones, and those that only tighten."""
        hard = tuple(number for number in sorted(numbers) if self._statements[number].soft is None)
        return hard, tuple(sorted(numbers - {*hard}))

    def _shared(self, numbers: tuple[int, ...]) -> Policies:
        """Parse statements; tools with the same ones share them."""
        if numbers not in self._parsed:
            self._parsed[numbers] = self._parse(numbers)
        return self._parsed[numbers]

    def _parse(self, numbers: tuple[int, ...]) -> Policies:
        statements = tuple(self._statements[number] for number in numbers)
        # What takes a millisecond or more is done beside other threads; what takes less, at once.
        parsed = cedarpy.PolicySet.from_str(joined(statements), release_gil=len(numbers) > _AT_ONCE)
        return Policies(statements, numbers, parsed)

    def _more(self, general: Policies, numbers: tuple[int, ...]) -> tuple[Policies, ...]:
        """Give the sets for all of `numbers`, of which `general` has some."""
        if numbers == general.numbers:
            return (general,)
        if len(general.numbers) <= TOGETHER:
            return (self._parse(numbers),)
        return general, self._parse(tuple(sorted({*numbers} - {*general.numbers})))

    def _drop(self) -> None:
        """Forget the oldest slices until the rest are few enough; each is made again when it is asked for."""
        while self._kept > KEPT and len(self._own) > 1:
            tool, agent, resource = next(iter(self._own))
            dropped, general = self._own.pop((tool, agent, resource)), self._general[tool]
            if dropped is not general:
                self._kept -= len(dropped)


def joined(statements: Iterable[Source | Statement]) -> str:
    """Give statements as one text."""
    return "\n".join(statement.text for statement in statements)


def _actions(constraint: pst.ActionConstraint) -> Iterable[str | None]:
    """Give the actions and groups that a scope names; None is for one that names none."""
    if isinstance(constraint, pst.ActionEq):
        return (constraint.entity.id,)
    if isinstance(constraint, pst.ActionIn):
        return {uid.id for uid in constraint.entities}
    return (None,)


def _entity(constraint: pst.PrincipalOrResourceConstraint) -> _Name:
    """Give whom or what a scope names."""
    if isinstance(constraint, pst.ScopeIs):
        return str(constraint.entity_type), None
    if isinstance(constraint, (pst.ScopeEq, pst.ScopeIn, pst.ScopeIsIn)) and isinstance(
        constraint.entity, pst.EntityUid
    ):
        return str(constraint.entity.type), constraint.entity.id
    return None
