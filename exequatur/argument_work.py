"""How often a schema looks at one value: alternatives multiply, level by level, and a validator tries them all.

Two kilobytes of `anyOf` inside each other are a million million looks at one text; a schema that may hold itself, in
two of its alternatives, is two to the power of how deep the arguments nest, which the agent says. So looks are counted
before: for a schema, at each depth, the most that any value there can get; for arguments, the sum over their values.
Nothing here knows JSON Schema's words: a schema is a number, with those it applies to the same value and to its parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from heapq import heapify, heappop, heappush
from typing import Final

from exequatur.trust.canonical import Json

LOOKS: Final = 1_000
"""At one value, at most. A look takes 1 to 20 us; a union of thirty kinds of objects makes a hundred."""
FEW: Final = 64
"""Up to here nobody counts: arguments are bounded by their bytes."""
ALL: Final = 50_000
"""At all values of one call's arguments, at most: some hundredths of a second."""
STEPS: Final = 200_000
"""To count them, for one tool: a fifth of a second."""
DEPTH: Final = 64
"""How deep arguments nest at most (`JsonLimits.depth`)."""
CIRCLES: Final = 8
"""Of schemas that apply each other to the same value."""
ANYWHERE: Final = ""
"""In `Graph.parts`: a part of the value that has no name, or any of them."""


class TooMuchError(ValueError):
    """One value would be looked at too often, or without end."""


@dataclass(frozen=True, slots=True)
class Graph:
    """What each schema applies to the value that it is given, and to that value's parts, by their name."""

    same: Mapping[int, Sequence[int]]
    parts: Mapping[int, Mapping[str, Sequence[int]]]


@dataclass(frozen=True, slots=True)
class Work:
    """The most looks that a value can get, by its depth; one that is deeper is as the last, or is `bounded` out."""

    looks: tuple[int, ...]
    bounded: bool

    @property
    def is_little(self) -> bool:
        """Whether no arguments need to be counted."""
        return not self.bounded and max(self.looks) <= FEW

    def admits(self, arguments: Json) -> bool:
        """Whether these arguments are looked at seldom enough."""
        left = ALL
        todo: list[tuple[Json, int]] = [(arguments, 0)]
        while todo:
            value, depth = todo.pop()
            if depth >= len(self.looks) and self.bounded:
                return False
            left -= self.looks[min(depth, len(self.looks) - 1)]
            if left < 0:
                return False
            todo.extend((part, depth + 1) for part in _parts(value))
        return True


def measure(root: int, graph: Graph) -> Work:
    """Count the looks at each depth. Raises `TooMuchError` where the arguments or their members get too many."""
    order = _ordered(graph)
    places = {one: place for place, one in enumerate(order)}
    here = {ANYWHERE: Counter({root: 1})}
    looks: list[int] = []
    seen: list[Counter[int]] = []
    steps = 0
    for depth in range(DEPTH + 1):
        most = Counter[int]()
        total = 0
        for counts in here.values():
            steps += _spread(counts, order, places, graph)
            if steps > STEPS:
                raise TooMuchError("applies too many schemas to be counted: write it plainer")
            total = max(total, counts.total())
            most |= counts
        if total > LOOKS:
            if depth <= 1:
                raise TooMuchError(f"looks at one value more than {LOOKS} times, in alternatives: write it plainer")
            return Work(tuple(looks), bounded=True)
        looks.append(total)
        if not most or most in seen:
            break
        seen.append(most)
        here = _inside(most, graph)
    # What comes again may come at any depth from here on.
    return Work((*looks, max(looks)), bounded=False)


def _ordered(graph: Graph) -> list[int]:
    """Give all schemas, each before those that it applies to the same value.

    A validator does not go round in a circle: a few are opened, where there are many a value could be looked at in as
    many orders as they have, and that is refused.
    """
    edges = {one: {*graph.same.get(one, ())} for one in graph.same}
    for _ in range(CIRCLES):
        try:
            return [*TopologicalSorter(edges).static_order()][::-1]
        except CycleError as error:
            circle = error.args[1]
            # graphlib names each before the one that has it among its own.
            edges[circle[1]].discard(circle[0])
    raise TooMuchError("applies itself to the same value, in many ways: write it plainer")


def _spread(counts: Counter[int], order: Sequence[int], places: Mapping[int, int], graph: Graph) -> int:
    """Add what is applied to the same value, and what that applies; gives the steps that it took."""
    todo = [places[one] for one in counts]
    heapify(todo)
    known, steps = set(todo), 0
    while todo:
        place = heappop(todo)
        one = order[place]
        for other in graph.same.get(one, ()):
            steps += 1
            if places[other] <= place:
                continue  # back in a circle
            counts[other] += counts[one]
            if places[other] not in known:
                known.add(places[other])
                heappush(todo, places[other])
    return steps + len(known)


def _inside(counts: Counter[int], graph: Graph) -> dict[str, Counter[int]]:
    """Give what is applied to each part, by its name."""
    named: dict[str, Counter[int]] = {ANYWHERE: Counter()}
    for one, count in counts.items():
        for name, others in graph.parts.get(one, {}).items():
            found = named.setdefault(name, Counter())
            for other in others:
                found[other] += count
    anywhere = named[ANYWHERE]
    return {name: found if name == ANYWHERE else found + anywhere for name, found in named.items()}


def _parts(value: Json) -> Iterator[Json]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value
