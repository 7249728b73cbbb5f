"""`graph.reachable_paths`: each path from the first nodes, until it ends or comes to a node that it has already."""

from __future__ import annotations

from typing import Final

from pdp.engine.builtins import builtin
from pdp.engine.builtins.operands import STEP_FUEL, Meter, mapping, members
from pdp.engine.builtins.values import RegoObject, RegoSet, Value

_NODES: Final = 100_000
"""Nodes on all paths together, with what is in each; their number can double with each node of the graph."""


@builtin("graph.reachable_paths")
def reachable_paths(graph: Value, initial: Value) -> Value:
    """Give the set of paths, each an array of nodes.

    Refused: paths of more than 100,000 nodes together, or members of them where nodes are composite.
    """
    edges = mapping(graph, 1)
    meter = Meter(_NODES)
    if any(isinstance(node, tuple | RegoSet | RegoObject) for node in edges):
        # A path is hashed with all that is in its nodes, again and again.
        largest = max(_size(node) for node in edges)
        meter = Meter(_NODES // largest, fuel=STEP_FUEL * largest)
    found: dict[tuple[Value, ...], None] = {}
    for node in members(initial, 2):
        if node in edges:
            meter.spend()
            neighbours = _neighbours(edges[node])
            if not neighbours:
                found[node,] = None
            for neighbour in neighbours:
                _walk(edges, neighbour, (node,), found, meter)
    return RegoSet(found)


def _walk(
    edges: RegoObject, start: Value, before: tuple[Value, ...], found: dict[tuple[Value, ...], None], meter: Meter
) -> None:
    waiting = [(start, before)]
    while waiting:
        node, path = waiting.pop()
        meter.spend(len(path) + 1)
        if node not in edges:
            found[path] = None
            continue
        on, path = _neighbours(edges[node]), (*path, node)
        if not on:
            found[path] = None
        seen = set(path)
        for neighbour in on:
            if neighbour in seen:
                meter.spend()
                found[path] = None
            else:
                waiting.append((neighbour, path))


def _size(node: Value) -> int:
    if isinstance(node, RegoObject):
        return 1 + sum(_size(part) for pair in node.items() for part in pair)
    return 1 + sum(map(_size, node)) if isinstance(node, tuple | RegoSet) else 1


def _neighbours(value: Value) -> tuple[Value, ...]:
    return value if isinstance(value, tuple) else tuple(value) if isinstance(value, RegoSet) else ()
