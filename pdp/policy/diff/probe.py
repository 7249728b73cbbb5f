"""A probe: each agent with each tool, with facts that the cases bring, judged under both bundles.

Rules: it is a probe and no proof: it shows what it met, and says how much that was. The facts of one agent's case are
tried for every other agent; a tool without a case gets the plainest arguments that its schema takes. All pairs are
tried once before any is tried again, until the time is up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

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

TRIES: Final = 12
"""The most that one agent is tried with one tool."""


@dataclass(frozen=True, slots=True)
class Probed:
    """What was found, and how much was tried. `unreached` pairs never came to a policy, in cases or here."""

    changes: tuple[Change, ...]
    pairs: int
    planned: int
    tried: int
    unreached: int
    took_s: float


def probe(
    sides: Sides, listed: Sequence[Case], seconds: float, on_try: Callable[[int, int], None] = lambda _at, _of: None
) -> Probed:
    """Probe until `seconds` are over; `on_try` is told how far it is. Of each pair the gravest change is kept."""
    begun = time.monotonic()
    pairs = list(product(*(sorted({*old, *new}) for old, new in _names(sides))))
    seeds = _seeds(sides, listed)
    plan = [
        (pair, seed)
        for number in range(TRIES)
        for pair in pairs
        for seed in seeds[pair[1]][number : number + 1]
        if seed.action.agent != pair[0]  # which was judged as a case
    ]
    found: dict[tuple[str, str], Change] = {}
    reached = {(case.action.agent, case.action.tool) for case in listed}
    counts: dict[tuple[str, str], int] = {}
    tried = 0
    for (agent, tool), seed in plan:
        if time.monotonic() - begun >= seconds:
            break
        case = replace(seed, action=replace(seed.action, agent=agent))
        old, new = sides.judge(case)
        tried += 1
        on_try(tried, len(plan))
        if any(reason.kind is not ReasonKind.INVALID for each in (old, new) for reason in each.reasons):
            reached.add((agent, tool))
        change = flipped(f"probe:{agent}:{tool}", old, new)
        if change is not None and change.wants_accepting:
            counts[agent, tool] = counts.get((agent, tool), 0) + 1
            known = found.get((agent, tool))
            if known is None or (change.direction, change.allows) > (known.direction, known.allows):
                text = f"{change.text}, with the facts of `{seed.name}`" if seed.name else change.text
                found[agent, tool] = replace(change, text=text)
    return Probed(
        tuple(found.values()), len(pairs), len(plan), tried, len(set(pairs) - reached), time.monotonic() - begun
    )


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
