"""One change between two bundles: its id, its direction, and what it is in one line; and who takes it on.

Rules: an id depends on what changed and on nothing else, so that it can stand in a pipeline; what is wider, and what
may be, wants to be accepted by that id.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TypeVar

from pdp.engine.reading import sentence

_T = TypeVar("_T")


class Direction(IntEnum):
    """Where a change goes; a larger number is worse. `CHANGED` may be wider, and nobody can tell."""

    NEUTRAL = 0
    TIGHTER = 1
    CHANGED = 2
    WIDER = 3


@dataclass(frozen=True, slots=True)
class Change:
    """One change. `allows` says that an action may run which might not."""

    id: str
    direction: Direction
    text: str
    allows: bool = False

    @property
    def wants_accepting(self) -> bool:
        """Whether somebody must have read it."""
        return self.direction >= Direction.CHANGED

    def printable(self) -> Change:
        """Give it fit for a terminal: names in a bundle are anybody's words."""
        name = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in self.id)
        return replace(self, id=name, text=sentence(self.text))


class Accepted:
    """The ids that somebody has read and takes on; `*` in one stands for any text."""

    def __init__(self, ids: Iterable[str]) -> None:
        """Take these; each must turn out to name a change."""
        self._patterns = {name: re.compile(".*".join(map(re.escape, name.split("*"))), re.DOTALL) for name in ids}
        self._used: set[str] = set()

    def takes(self, change: Change) -> bool:
        """Whether a change that wants it is accepted."""
        found = [name for name, pattern in self._patterns.items() if pattern.fullmatch(change.id)]
        if change.wants_accepting:
            self._used.update(found)
        return bool(found)

    @property
    def unused(self) -> tuple[str, ...]:
        """Those that named nothing."""
        return tuple(name for name in self._patterns if name not in self._used)


def added(name: str, what: str, direction: Direction = Direction.WIDER) -> Change:
    """Give the change that something is there now."""
    return Change(f"{name}:added", direction, f"{what} is new")


def removed(name: str, what: str, direction: Direction = Direction.TIGHTER) -> Change:
    """Give the change that something is not there any more."""
    return Change(f"{name}:removed", direction, f"{what} is gone")


def larger(name: str, what: str, old: int, new: int, *, widens: bool) -> Iterator[Change]:
    """Give the change of a number, that widens as it grows or as it falls."""
    if old != new:
        direction = Direction.WIDER if (new > old) is widens else Direction.TIGHTER
        yield Change(name, direction, f"{what}: {old:,} → {new:,}")


def in_both(old: Iterable[_T], new: Iterable[_T]) -> tuple[Sequence[_T], Sequence[_T]]:
    """Give what is gone and what came, in the order of each."""
    before, after = list(old), list(new)
    try:
        known_before: Container[_T] = set(before)
        known_after: Container[_T] = set(after)
    except TypeError:  # JSON's lists and objects
        known_before, known_after = before, after
    return [item for item in before if item not in known_after], [item for item in after if item not in known_before]


def listed(names: Iterable[object], most: int = 4) -> str:
    """Name some things, and say how many more there are."""
    found = [f"`{name}`" for name in names]
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more
