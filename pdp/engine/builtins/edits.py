"""The tree of edits that `json.patch` works on, as OPA has it (internal/edittree).

Rule: step by step what OPA does. An array finds an element that was not touched yet by its place in the array as it
was in the beginning, also after others were taken out before it: removing the first of `[1, 2, 3]` and then reading
the first gives 1, and puts it back. Where OPA's own books do not add up, and it panics, here is an error.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from pdp.engine.builtins.operands import Meter, atoi
from pdp.engine.builtins.values import DEPTH, BuiltinError, Number, RegoObject, RegoSet, Value

Path: TypeAlias = tuple[Value, ...]

_CHARACTERS: Final = 16
"""Characters of a text that count as one member."""


class _Gone:
    """The type of `_GONE`."""


_GONE: Final = _Gone()
"""What stands in the place of something that was deleted."""


class Edits:
    """A value and the changes to it."""

    def __init__(self, value: Value, meter: Meter) -> None:
        self._meter: Final = meter
        self._value: Value | _Gone = value
        # By key, in an object or a set. `None` is Go's nil map: it can be read, and not be written.
        self._changes: dict[Value, Value | Edits | _Gone] | None = None
        # By place, in an array.
        self._scalars: dict[int, Value] | None = None
        self._trees: dict[int, Edits] | None = None
        self._inserted: list[bool] = []
        self._eliminated: list[bool] = []
        if isinstance(value, RegoObject | RegoSet):
            self._changes = {}
        if _is_composite(value):
            self._scalars, self._trees = {}, {}
        if isinstance(value, tuple):
            self._begin(value)

    def insert(self, path: Path, value: Value) -> None:
        """Put a value at a path, whose last part is a new or an old key."""
        measure(value, self._meter)
        if path:
            self.find(path[:-1])._insert(path[-1], value)  # noqa: SLF001 - its own class
            return
        self._value = value
        for changes in (self._changes, self._scalars, self._trees):
            if changes:
                changes.clear()
        if isinstance(value, tuple):
            self._begin(value)

    def delete(self, path: Path) -> None:
        """Take away what is at a path."""
        if path:
            self.find(path[:-1])._delete(path[-1])  # noqa: SLF001 - its own class
            return
        self._present()
        self._value = _GONE
        self._changes = self._scalars = self._trees = None

    def find(self, path: Path) -> Edits:
        """Give the tree at a path; what is on the way becomes part of the tree."""
        self._meter.spend(len(path))
        if len(path) > DEPTH:
            raise BuiltinError("a path of the patch is too deep")
        tree = self
        for key in path:
            tree = tree._child(key)
        return tree

    def render(self) -> Value:
        """Give the value with its changes."""
        value = self._present()
        if isinstance(value, tuple):
            return self._render_array(value)
        if not self._changes or not isinstance(value, RegoObject | RegoSet):
            return value
        self._meter.spend(len(value) + len(self._changes))
        changed = [
            (key, child.render() if isinstance(child, Edits) else child)
            for key, child in self._changes.items()
            if not isinstance(child, _Gone)
        ]
        if isinstance(value, RegoSet):
            kept = [item for item in value if item not in self._changes]
            return RegoSet([item for _, item in changed] + kept)
        return RegoObject(changed + [(key, item) for key, item in value.items() if key not in self._changes])

    def _begin(self, value: tuple[Value, ...]) -> None:
        self._meter.spend(len(value))
        self._inserted, self._eliminated = [False] * len(value), [False] * len(value)

    def _present(self) -> Value:
        if isinstance(self._value, _Gone):
            raise BuiltinError("the document was taken away by the patch")
        return self._value

    def _child(self, key: Value) -> Edits:
        value = self._present()
        if isinstance(value, tuple):
            return self._element(value, key)
        if not isinstance(value, RegoObject | RegoSet):
            raise _missing()
        if isinstance(value, RegoSet) and _is_composite(key):
            value = self._collapse()
        if self._changes and key in self._changes:
            child = self._changes[key]
            if isinstance(child, _Gone):
                raise _panic() if isinstance(value, RegoSet) else _missing()
            return child if isinstance(child, Edits) else Edits(child, self._meter)
        if key not in value:
            raise _missing()
        return self._insert(key, value[key] if isinstance(value, RegoObject) else key)

    def _element(self, value: tuple[Value, ...], key: Value) -> Edits:
        at = _index(len(self._inserted), key)
        if self._scalars and at in self._scalars:
            return Edits(self._scalars[at], self._meter)
        if self._trees and at in self._trees:
            return self._trees[at]
        if not 0 <= at < min(len(value), len(self._inserted)):
            raise _missing()
        self._delete_at(at)
        return self._insert_at(at, value[at])

    def _insert(self, key: Value, item: Value) -> Edits:
        value = self._present()
        if isinstance(value, tuple):
            at = _index(len(self._inserted), key)
            if not 0 <= at <= len(self._inserted):
                raise _missing()
            return self._insert_at(at, item)
        if isinstance(value, RegoSet):
            if key != item:
                raise BuiltinError("a member of a set must be put at its own path")
            if _is_composite(key):
                self._collapse()
        elif not isinstance(value, RegoObject):
            raise _missing()
        child = Edits(item, self._meter)
        self._change(key, child if _is_composite(item) else item)
        return child

    def _delete(self, key: Value) -> None:
        value = self._present()
        if isinstance(value, tuple):
            at = _index(len(self._inserted), key)
            if not 0 <= at < len(self._inserted):
                raise _missing()
            self._delete_at(at)
            return
        if not isinstance(value, RegoObject | RegoSet):
            raise _missing()
        if isinstance(value, RegoSet) and _is_composite(key):
            value = self._collapse()
        gone = self._changes is not None and isinstance(self._changes.get(key), _Gone)
        if gone or not (key in value or (self._changes and key in self._changes)):
            raise _missing()
        self._change(key, _GONE)

    def _change(self, key: Value, child: Value | Edits | _Gone) -> None:
        if self._changes is None:
            raise _panic()
        # Equal keys can differ in their text, 1 and 1.0: the last one stays.
        self._changes.pop(key, None)
        self._changes[key] = child

    def _collapse(self) -> RegoSet:
        """Make a set of its changes: the path of a member is what the member is by now."""
        value = self.render()
        self._value = value
        if self._changes:
            self._changes.clear()
        return value if isinstance(value, RegoSet) else RegoSet()

    def _insert_at(self, at: int, item: Value) -> Edits:
        scalars, trees = self._maps()
        self._shift(at, 1, scalars, trees)
        self._inserted.insert(at, True)
        child = Edits(item, self._meter)
        if _is_composite(item):
            trees[at] = child
        else:
            scalars[at] = item
        return child

    def _delete_at(self, at: int) -> None:
        scalars, trees = self._maps()
        # What moves is found before anything is taken out, and the order of both matters: see `_shift`.
        self._shift(at + 1, -1, scalars, trees, without=at)
        if not self._inserted[at]:
            before = self._inserted[:at].count(False)
            kept = [place for place, eliminated in enumerate(self._eliminated) if not eliminated]
            if before >= len(kept):
                raise _panic()
            self._eliminated[kept[before]] = True
        del self._inserted[at]

    def _shift(
        self, start: int, by: int, scalars: dict[int, Value], trees: dict[int, Edits], without: int | None = None
    ) -> None:
        """Move what was inserted from `start` on, scalars first, as OPA does: one that meets a tree is lost."""
        self._meter.spend(len(self._inserted) + len(self._eliminated))
        moved_scalars: list[int] = []
        moved_trees: list[int] = []
        for place in range(start, len(self._inserted)):
            if self._inserted[place]:
                if place not in scalars and place not in trees:
                    raise _panic()
                (moved_scalars if place in scalars else moved_trees).append(place)
        if without is not None:
            scalars.pop(without, None)
            trees.pop(without, None)
        step = -1 if by > 0 else 1
        for place in moved_scalars[::step]:
            item = scalars.pop(place, None)
            trees.pop(place, None)
            scalars[place + by] = item
        for place in moved_trees[::step]:
            tree = trees.pop(place, None)
            scalars.pop(place, None)
            if tree is None:
                raise _panic()
            trees[place + by] = tree

    def _maps(self) -> tuple[dict[int, Value], dict[int, Edits]]:
        if self._scalars is None or self._trees is None:
            raise _panic()
        return self._scalars, self._trees

    def _render_array(self, value: tuple[Value, ...]) -> Value:
        self._meter.spend(len(self._inserted))
        kept = iter([item for item, gone in zip(value, self._eliminated, strict=True) if not gone])
        found: list[Value] = []
        for place, inserted in enumerate(self._inserted):
            if not inserted:
                found.append(next(kept))
            elif self._scalars and place in self._scalars:
                found.append(self._scalars[place])
            elif self._trees and place in self._trees:
                found.append(self._trees[place].render())
            else:
                raise _panic()
        return tuple(found)


def _index(length: int, key: Value) -> int:
    """Give the place that a part of a path names."""
    if key == "-":
        return length
    if isinstance(key, str) and key != "0" and key.startswith("0"):
        raise _missing()
    at = atoi(str(key)) if isinstance(key, str | Number) else None
    if at is None:
        raise _missing()
    return at


def measure(value: Value, meter: Meter) -> None:
    """Spend what a value holds: operations that copy can double it each time, and to compare takes as long."""
    waiting = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        meter.spend(1 + len(item) // _CHARACTERS if isinstance(item, str) else 1)
        if depth > DEPTH:
            raise BuiltinError("a value is too deep")
        if isinstance(item, RegoObject):
            waiting += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, tuple | RegoSet):
            waiting += [(part, depth + 1) for part in item]


def _is_composite(value: Value) -> bool:
    return isinstance(value, tuple | RegoObject | RegoSet)


def _missing() -> BuiltinError:
    return BuiltinError("a path of the patch leads to nothing")


def _panic() -> BuiltinError:
    return BuiltinError("the patch cannot be applied: OPA fails on it as well")
