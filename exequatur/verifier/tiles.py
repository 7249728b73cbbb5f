"""The tree (C2SP tlog-tiles, RFC 6962): from the root that is signed down to each entry's bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from .broken import Broken, read

_WIDTH: Final = 256
_HASH: Final = 32

Progress = Callable[[int, int], None]
"""Told now and then how many entries are done, of how many."""


class Tiles:
    """The tiles of a log of `size` entries. What does not fit raises `Broken`."""

    def __init__(self, folder: Path, size: int) -> None:
        """Read below `folder`, and nothing yet."""
        self._folder, self._size = folder, size
        self._levels = max(1, -(-size.bit_length() // 8))
        self._edge: list[list[bytes]] = []
        self._last_bundle = b""
        self._cached: dict[int, tuple[int, list[bytes]]] = {}
        self._hashed: tuple[int, list[bytes]] = (-1, [])

    def read_edge(self) -> None:
        """Read what will be replaced when the log grows: the partial tile of each level, the partial bundle."""
        for level in range(self._levels):
            number, width = self._position(level)
            self._edge.append(self._read_tile(level, number, width) if width else [])
        number, width = self._position(0)
        if width:
            where, data = self._read_partial("entries", number, width)
            self._last_bundle = data
            self._last_where = where

    def check_edge(self, wanted: bytes) -> None:
        """Hold the right edge against the checkpoint's root; where it does not fit, find the hash that is to blame."""
        if _edge_root(self._edge) == wanted:
            return
        for level in reversed(range(self._levels)):
            number, width = self._position(level)
            for at in range(width):
                made = self._made(level, number * _WIDTH + at)
                if made is None or made == self._edge[level][at]:
                    continue
                repaired = [list(hashes) for hashes in self._edge]
                repaired[level][at] = made
                if _edge_root(repaired) == wanted:
                    raise Broken(f"{_name(level, number, width)} hash {at}", "is not the hash of what is below it")
        raise Broken("checkpoint", "signs another root than the tiles give")

    def check_upper(self) -> None:
        """Hold each full tile above the lowest level against the hash that stands for it, from the top down."""
        for level in reversed(range(1, self._levels)):
            for number in range(self._size >> 8 * (level + 1)):
                self._check_tile(level, number, self._tile(level, number))

    def entries(self, progress: Progress) -> Iterator[tuple[int, str, bytes]]:
        """Give each entry with its number and its bundle, after it was held against its hash."""
        full, width = self._position(0)
        for number in range(full):
            where = _name("entries", number, _WIDTH)
            data = read(self._folder / where, where)
            tile = self._tile(0, number)
            yield from self._check_bundle(where, number, data, tile, full=True)
            progress((number + 1) * _WIDTH, self._size)
        if width:
            yield from self._check_bundle(self._last_where, full, self._last_bundle, self._edge[0], full=False)
        progress(self._size, self._size)

    def root_of(self, first: int, last: int) -> bytes:
        """The root of a range of entries that is a complete subtree, or ends one: from tiles alone."""
        count = last - first
        if count & (count - 1) or first % count:
            middle = first + (1 << (count - 1).bit_length() - 1)
            return _node(self.root_of(first, middle), self.root_of(middle, last))
        level = (count.bit_length() - 1) // 8
        number, at = divmod(first >> 8 * level, _WIDTH)
        return _root(self._tile(level, number)[at : at + (count >> 8 * level)])

    def _check_bundle(
        self, where: str, number: int, data: bytes, tile: Sequence[bytes], *, full: bool
    ) -> Iterator[tuple[int, str, bytes]]:
        """Hold a bundle against its tile, and a full tile against the hash above it; blame the one that is wrong."""
        found = list(_split(data, len(tile)))
        leaves = [hashlib.sha256(b"\x00" + entry).digest() for _, entry in found]
        if full:
            self._check_tile(0, number, tile)
        if leaves != tile:
            at = next(n for n, wanted in enumerate(tile) if n >= len(leaves) or leaves[n] != wanted)
            start, entry = found[at] if at < len(found) else (len(data), b"")
            text = f"bytes {start} to {start + len(entry)} are not what was signed"
            raise Broken(f"entry {number * _WIDTH + at} in {where}", text)
        start, entry = found[-1]
        if start + len(entry) != len(data):
            raise Broken(where, f"bytes {start + len(entry)} to {len(data)} belong to no entry")
        for at, (_, entry) in enumerate(found):
            yield number * _WIDTH + at, where, entry

    def _check_tile(self, level: int, number: int, tile: Sequence[bytes]) -> None:
        """Hold a full tile against the hash that stands for it above, and find the hash in it that is to blame."""
        if _root(tile) == self._tile(level + 1, number // _WIDTH)[number % _WIDTH]:
            return
        name = _name(level, number, _WIDTH)
        for at, stored in enumerate(tile):
            made = self._made(level, number * _WIDTH + at)
            if made is not None and made != stored:
                raise Broken(f"{name} hash {at}", "is not the hash of what is below it")
        raise Broken(name, "does not give the hash that stands for it above")

    def _made(self, level: int, at: int) -> bytes | None:
        """Compute a level's hash number `at` from what is below it; None where that cannot be read."""
        try:
            return _root(self._read_tile(level - 1, at, _WIDTH)) if level else self._leaves(at // _WIDTH)[at % _WIDTH]
        except (Broken, IndexError):
            return None

    def _leaves(self, bundle: int) -> list[bytes]:
        """Compute the leaf hashes of a bundle, of which the last one asked for is kept; raises `Broken`."""
        if self._hashed[0] != bundle:
            number, width = self._position(0)
            if bundle == number:
                data = self._last_bundle
            else:
                data, width = read(self._folder / _name("entries", bundle, _WIDTH), ""), _WIDTH
            self._hashed = bundle, [hashlib.sha256(b"\x00" + entry).digest() for _, entry in _split(data, width)]
        return self._hashed[1]

    def _tile(self, level: int, number: int) -> list[bytes]:
        """Give a tile: of the right edge, or a full one, of which one a level is kept."""
        if number == self._position(level)[0]:
            return self._edge[level]
        if self._cached.get(level, (-1,))[0] != number:
            self._cached[level] = number, self._read_tile(level, number, _WIDTH)
        return self._cached[level][1]

    def _read_tile(self, level: int, number: int, width: int) -> list[bytes]:
        if width == _WIDTH:
            where = _name(level, number, width)
            data = read(self._folder / where, where)
        else:
            where, data = self._read_partial(level, number, width)
            data = data[: width * _HASH] if where == _name(level, number, _WIDTH) else data
        if len(data) != width * _HASH:
            raise Broken(where, f"has {len(data)} bytes, and {width * _HASH} are needed")
        return [data[at : at + _HASH] for at in range(0, len(data), _HASH)]

    def _read_partial(self, kind: int | str, number: int, width: int) -> tuple[str, bytes]:
        """Read a partial tile; where it is gone because the full one is there, that one."""
        where, full = _name(kind, number, width), _name(kind, number, _WIDTH)
        if not (self._folder / where).exists() and (self._folder / full).exists():
            data = read(self._folder / full, full)
            if kind == "entries":
                ends = [start + len(entry) for start, entry in _split(data, width)]
                data = data[: ends[-1]] if len(ends) == width else data
            return full, data
        return where, read(self._folder / where, where)

    def _position(self, level: int) -> tuple[int, int]:
        """The number and the width of a level's partial tile."""
        return self._size >> 8 * (level + 1), (self._size >> 8 * level) % _WIDTH


def _split(data: bytes, most: int) -> Iterator[tuple[int, bytes]]:
    """Give at most `most` entries of a bundle with the byte at which each starts; one that is cut short ends it."""
    at = 0
    for _ in range(most):
        size = int.from_bytes(data[at : at + 2], "big")
        if at + 2 + size > len(data) or at + 2 > len(data):
            return
        yield at + 2, data[at + 2 : at + 2 + size]
        at += 2 + size


def _name(kind: int | str, number: int, width: int) -> str:
    """A tile's path below the log's folder: `tile/0/x001/x234/067`, and `.p/<width>` behind it if it is partial."""
    digits = str(number)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    *upper, last = (digits[at : at + 3] for at in range(0, len(digits), 3))
    path = "/".join(("tile", str(kind), *(f"x{group}" for group in upper), last))
    return path if width == _WIDTH else f"{path}.p/{width}"


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _root(hashes: Sequence[bytes]) -> bytes:
    """The root over hashes (RFC 6962, section 2.1): neighbours in pairs, the odd one as it is."""
    level = list(hashes)
    while len(level) > 1:
        paired = [_node(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
        level = paired + level[len(paired) * 2 :]
    return level[0]


def _edge_root(edge: Sequence[Sequence[bytes]]) -> bytes:
    """The root of a whole log: each level's hashes, and all that is below them as one more."""
    below: list[bytes] = []
    for hashes in edge:
        if hashes or below:
            below = [_root([*hashes, *below])]
    return below[0] if below else hashlib.sha256(b"").digest()
