"""When files change: a look at their times, now and then.

Rules: nothing is read but names, times and sizes; what cannot be looked at is as good as changed when it is back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

EVERY_S: Final = 0.5
"""Between two looks: a person does not notice it, and a folder of a thousand files takes 5 ms to look at."""

_Stamp: TypeAlias = tuple[tuple[str, int, int], ...]


def changes(path: Path, wait: Callable[[float], object]) -> Iterator[None]:
    """Give a turn at once, and another each time that a file or a folder has changed since the turn before began.

    Hidden files do not count: editors write them. `wait` is called between two looks, with seconds.
    """
    while True:
        before = _stamp(path)
        yield
        while _stamp(path) == before:
            wait(EVERY_S)


def _stamp(path: Path) -> _Stamp:
    found: list[tuple[str, int, int]] = []
    listed = [path] if path.is_file() else sorted(path.rglob("*"))
    for each in listed:
        if any(part.startswith(".") for part in each.relative_to(path).parts):
            continue
        try:
            about = each.stat()
        except OSError:
            continue
        if each.is_file():
            found.append((str(each), about.st_mtime_ns, about.st_size))
    return tuple(found)
