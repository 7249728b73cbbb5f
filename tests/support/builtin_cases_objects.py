"""Calls of the built-ins on objects and graphs."""

from __future__ import annotations

import random
from collections.abc import Iterator

from comparing import Arguments, cases, refused
from pdp.engine.builtins.patches import patch
from pdp.engine.builtins.values import BuiltinError, Number, RegoObject, RegoSet, Value
from rego_values import value

_KEYS = ("a", "b", "c", "0", "1", "~", "/", "")
_LEAVES: tuple[Value, ...] = (
    None, True, False, Number("0"), Number("1"), Number("1.0"), Number("2"), Number("1e0"), "a", "b", "0", "", "~0/~1",
)  # fmt: skip


@cases("object.subset")
def _subset(rng: random.Random, count: int) -> Iterator[Arguments]:
    for _ in range(count):
        whole = _small(rng, 3) if rng.random() < 0.95 else value(rng)
        part = _less(rng, whole)
        if rng.random() < 0.1 and isinstance(part, tuple):
            part = RegoSet(part)
        yield whole, part


def _small(rng: random.Random, depth: int) -> Value:
    if depth == 0 or rng.random() < 0.3:
        return rng.choice(_LEAVES)
    items = [_small(rng, depth - 1) for _ in range(rng.randrange(5))]
    kind = rng.randrange(5)
    if kind < 2:
        return tuple(items)
    if kind == 2:
        return RegoSet(items)
    return RegoObject((rng.choice(_KEYS) if rng.random() < 0.9 else _small(rng, 1), item) for item in items)


def _less(rng: random.Random, whole: Value) -> Value:
    roll = rng.random()
    if roll < 0.05:
        return _small(rng, 2)
    if isinstance(whole, RegoObject):
        return RegoObject((key, _less(rng, item)) for key, item in whole.items() if rng.random() < 0.7)
    if isinstance(whole, RegoSet):
        return RegoSet(item for item in whole if rng.random() < 0.7)
    if isinstance(whole, tuple):
        start = rng.randrange(len(whole) + 1)
        return whole[start : start + rng.randrange(5)]
    return whole


@cases("json.patch")
def _patch(rng: random.Random, count: int) -> Iterator[Arguments]:
    made = 0
    while made < count:
        document = _composite(rng) if rng.random() < 0.97 else value(rng)
        operations: tuple[Value, ...] = ()
        here = document
        for _ in range(rng.choice((1, 1, 2, 2, 3, 4, 6))):
            operation = _operation(rng, here)
            after = _applied(document, (*operations, operation))
            # What fails ends it all: most operations are such as go on.
            if after is not None or rng.random() < 0.1:
                operations = (*operations, operation)
                here = here if after is None else after[0]
        given: Value = operations if rng.random() < 0.99 else value(rng)
        if not refused("json.patch", (document, given), "OPA fails", "taken away"):
            made += 1
            yield document, given


def _composite(rng: random.Random) -> Value:
    while not isinstance(made := _small(rng, 3), tuple | RegoObject | RegoSet):
        pass
    return made


def _applied(document: Value, operations: Arguments) -> tuple[Value] | None:
    try:
        return (patch(document, operations),)
    except BuiltinError:
        return None


def _operation(rng: random.Random, document: Value) -> Value:
    if rng.random() < 0.01:
        return value(rng, 1)
    name = rng.choice(("add", "add", "remove", "replace", "move", "copy", "test"))
    members: dict[Value, Value] = {"op": name, "path": _path(rng, document)}
    if name in {"move", "copy"}:
        members["from"] = _path(rng, document)
    if name in {"add", "replace", "test"}:
        members["value"] = _at(document, members["path"]) if name == "test" else _small(rng, 2)
    if isinstance(members["path"], tuple) and members["path"] and rng.random() < 0.5 and "value" in members:
        # A set takes only what is its own key.
        members["value"] = members["path"][-1]
    if rng.random() < 0.02:
        del members[rng.choice(list(members))]
    if rng.random() < 0.02:
        members[rng.choice(list(members) or ["op"])] = value(rng, 1)
    return RegoObject(members)


def _path(rng: random.Random, document: Value) -> Value:
    """Give a path, mostly one that is there."""
    keys: list[Value] = []
    here = document
    while isinstance(here, tuple | RegoObject | RegoSet) and rng.random() < 0.8:
        if rng.random() < 0.1 or not len(here):
            keys.append(rng.choice((*_KEYS, "-", "-1", "01", "1.0", "+1", ".", Number("1.0"), _small(rng, 1))))
            break
        key: Value
        if isinstance(here, tuple):
            at = rng.randrange(len(here))
            key, here = (Number(str(at)) if rng.random() < 0.5 else str(at)), here[at]
        elif isinstance(here, RegoObject):
            key = rng.choice(list(here))
            here = here[key]
        else:
            key = here = rng.choice(list(here))
        keys.append(key)
    if rng.random() < 0.15:
        keys.append(rng.choice((*_KEYS, "-", "2")))
    if not keys and rng.random() < 0.9:
        keys.append(rng.choice(_KEYS))
    if all(isinstance(key, str) for key in keys) and rng.random() < 0.8:
        return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in keys)
    return tuple(keys)


def _at(document: Value, path: Value) -> Value:
    here = document
    keys = path if isinstance(path, tuple) else str(path).split("/")[1:]
    for key in keys:
        if isinstance(here, RegoObject) and key in here:
            here = here[key]
        elif isinstance(here, tuple) and str(key).isdigit() and int(str(key)) < len(here):
            here = here[int(str(key))]
        elif isinstance(here, RegoSet) and key in here:
            here = key
    return here


@cases("graph.reachable_paths")
def _graph(rng: random.Random, count: int) -> Iterator[Arguments]:
    nodes: tuple[Value, ...] = ("a", "b", "c", "d", Number("1"), None, (), ("a",))
    for _ in range(count):
        edges: dict[Value, Value] = {}
        for node in rng.choices(nodes, k=rng.randrange(6)):
            items = rng.choices(nodes, k=rng.choice((0, 1, 1, 2, 2, 3)))
            edges[node] = rng.choice((tuple(items), RegoSet(items)))
            if rng.random() < 0.05:
                edges[node] = value(rng, 1)
        start = rng.choices(nodes, k=rng.randrange(4))
        first: Value = rng.choice((tuple(start), RegoSet(start)))
        yield (
            RegoObject(edges) if rng.random() < 0.98 else value(rng),
            first if rng.random() < 0.98 else value(rng),
        )
