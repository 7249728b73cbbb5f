"""A probe: each agent with each tool, with facts that the cases bring, judged under both bundles.

Rules: it is a probe and no proof: it shows what it met, and says how much that was. The facts of one agent's case are
tried for every other agent; a tool without a case gets the plainest arguments that its schema takes. All pairs are
tried once before any is tried again, until the time is up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import Final, TypeAlias

from exequatur.action import Action, ActionError
from exequatur.registry import ArgumentError, Tool
from exequatur.trust.canonical import JsonError, canonical
from pdp.bundle import cases
from pdp.bundle.cases import Case, Run
from pdp.bundle.wanted import Want
from pdp.model import Effect, ReasonKind
from pdp.policy.diff.change import Change
from pdp.policy.diff.flips import Sides, flipped
from pdp.policy.diff.samples import arguments

Pair: TypeAlias = tuple[str, str]
"""An agent and a tool."""

TRIES: Final = 12
"""The most that one agent is tried with one tool."""


@dataclass(frozen=True, slots=True)
class Probed:
    """What was found, and how much was tried: of all `pairs`, `met` were tried, and of `asked` a policy was asked."""

    changes: tuple[Change, ...]
    pairs: int
    met: int
    asked: int
    planned: int
    tried: int
    took_s: float


def probe(
    sides: Sides, listed: Sequence[Case], seconds: float, on_try: Callable[[int, int], None] = lambda _at, _of: None
) -> Probed:
    """Probe until `seconds` are over; `on_try` is told how far it is. Of each pair the gravest change is kept."""
    begun = time.monotonic()
    agents, tools = (sorted({*old, *new}) for old, new in _names(sides))
    seeds = _seeds(sides, listed)
    planned = sum(len(agents) - (seed.action.agent in set(agents)) for tool in tools for seed in seeds[tool][:TRIES])
    found: dict[Pair, Change] = {}
    met: set[Pair] = set()
    asked: set[Pair] = set()
    tried = 0
    for pair, seed in _plan(agents, tools, seeds):
        if time.monotonic() - begun >= seconds:
            break
        old, new = sides.judge(replace(seed, action=replace(seed.action, agent=pair[0])))
        tried += 1
        on_try(tried, planned)
        met.add(pair)
        if any(reason.kind is not ReasonKind.INVALID for each in (old, new) for reason in each.reasons):
            asked.add(pair)
        change = flipped(f"probe:{pair[0]}:{pair[1]}", old, new)
        if change is not None and change.wants_accepting and _graver(change, found.get(pair)):
            text = f"{change.text}, with the facts of `{seed.name}`" if seed.name else change.text
            found[pair] = replace(change, text=text)
    return Probed(
        changes=tuple(found[pair] for pair in sorted(found)),
        pairs=len(agents) * len(tools),
        met=len(met),
        asked=len(asked),
        planned=planned,
        tried=tried,
        took_s=time.monotonic() - begun,
    )


def _graver(change: Change, known: Change | None) -> bool:
    return known is None or (change.direction, change.allows) > (known.direction, known.allows)


def _plan(
    agents: Sequence[str], tools: Sequence[str], seeds: Mapping[str, Sequence[Case]]
) -> Iterator[tuple[Pair, Case]]:
    """Give what to try: each pair once, then again with other facts, in leaps, so that what is first is a sample."""
    count = len(agents) * len(tools)
    leap = next((step for step in range(max(1, count * 5 // 8), count + 2) if gcd(step, count) == 1), 1)
    for number in range(TRIES):
        for at in range(count):
            agent, tool = agents[at * leap % count // len(tools)], tools[at * leap % count % len(tools)]
            for seed in seeds[tool][number : number + 1]:
                if seed.action.agent != agent:  # which was judged as a case
                    yield (agent, tool), seed


def _names(sides: Sides) -> Iterator[tuple[Iterable[str], Iterable[str]]]:
    yield sides.old.agents, sides.new.agents
    yield sides.old.registry.tools, sides.new.registry.tools


def _seeds(sides: Sides, listed: Sequence[Case]) -> Mapping[str, list[Case]]:
    """Give the facts to try by tool, those first with which something is meant to be allowed."""
    found: dict[str, dict[object, Case]] = {}
    tools = {**sides.old.registry.tools, **sides.new.registry.tools}
    for case in sorted(listed, key=lambda each: each.want.effect):
        same = (case.action.arguments_json, repr(case.action.claims), case.time, case.door_enforced, repr(case.run))
        found.setdefault(case.action.tool, {}).setdefault(same, case)
    seeds = {name: list(found.get(name, {}).values()) for name in tools}
    for name, tool in tools.items():
        if not seeds[name]:
            seeds[name] = list(_plainest(tool))
    return seeds


def _plainest(tool: Tool) -> Iterator[Case]:
    try:
        given = arguments(tool)
        tool.resolve(given)
        action = Action.parse(agent="?", tool=tool.full, arguments_json=canonical(given), door="case")
    except (ActionError, ArgumentError, JsonError, RecursionError):
        return  # then it is among those that were not reached
    yield Case("", "", action, cases.A_MONDAY, False, Run(), Want(Effect.ALLOW))
