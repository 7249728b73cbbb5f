"""The shape of a log on disk: C2SP tiles (c2sp.org/tlog-tiles), read by whoever looks while the ledger writes.

Rules: a full tile never changes; a partial one is replaced, so that a reader who finds it gone begins again at the
checkpoint. Nothing is verified here: that is `exequatur audit verify`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Final

WIDTH: Final = 256
"""Hashes in a full tile, entries in a full bundle."""

HASH_BYTES: Final = 32
ENTRIES: Final = "entries"
CHECKPOINT: Final = "checkpoint"


class TileError(Exception):
    """A log that cannot be read: one sentence, naming the file."""


def tile_name(kind: int | str, number: int, width: int) -> PurePosixPath:
    """Where a tile of a level, or a bundle (`ENTRIES`), is below the log's folder."""
    digits = str(number)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    *upper, last = (digits[at : at + 3] for at in range(0, len(digits), 3))
    folder = PurePosixPath("tile", str(kind), *(f"x{group}" for group in upper))
    return folder / last if width == WIDTH else folder / f"{last}.p" / str(width)


def position(size: int, level: int) -> tuple[int, int]:
    """The number and the width of a level's partial tile in a log of `size` entries."""
    return size >> 8 * (level + 1), (size >> 8 * level) % WIDTH


def pack_bundle(entries: Sequence[bytes]) -> bytes:
    """Make a bundle: each entry behind its length, 2 bytes big-endian."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def unpack_bundle(data: bytes, width: int, *, exact: bool = True) -> list[bytes]:
    """Take a bundle of `width` entries apart; `exact` False takes the first ones of a larger bundle.

    Raises `ValueError` for what is cut short or has bytes left over.
    """
    entries, at = [], 0
    for _ in range(width):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if end > len(data) or at + 2 > len(data):
            raise ValueError("it is cut short")
        entries.append(data[at + 2 : end])
        at = end
    if exact and at != len(data):
        raise ValueError("it has bytes left over")
    return entries


class Reader:
    """Reads the entries of a log that may be growing."""

    def __init__(self, folder: Path) -> None:
        """Read the log in `folder`."""
        self._folder = folder

    def size(self) -> int:
        """How many entries the checkpoint has; raises `TileError`."""
        path = self._folder / CHECKPOINT
        try:
            return int(path.read_text("utf-8", "replace").split("\n")[1])
        except OSError as error:
            raise TileError(f"`{path}` cannot be read: {(error.strerror or str(error)).lower()}") from None
        except (IndexError, ValueError):
            raise TileError(f"`{path}` is no checkpoint") from None

    def read(self, first: int, last: int) -> list[bytes]:
        """Give the entries from `first` (inclusive) to `last` (exclusive), which the log must have."""
        found: list[bytes] = []
        for number in range(first // WIDTH, -(-last // WIDTH)):
            bundle = self._bundle(number, min(WIDTH, last - number * WIDTH))
            found += bundle[max(0, first - number * WIDTH) :]
        return found

    def _bundle(self, number: int, least: int) -> list[bytes]:
        """Give the first `least` entries of a bundle, from the full one or from the newest partial one."""
        while True:
            size = self.size()
            partial, width = position(size, 0)
            if number < partial:
                width = WIDTH
            elif number > partial or width < least:
                raise TileError(f"the log in `{self._folder}` has only {size} entries")
            path = self._folder / tile_name(ENTRIES, number, width)
            try:
                return unpack_bundle(path.read_bytes(), width)[:least]
            except ValueError as error:
                raise TileError(f"`{path}` is damaged: {error}") from None
            except OSError as error:
                if self.size() == size:
                    raise TileError(f"`{path}` cannot be read: {(error.strerror or str(error)).lower()}") from None
