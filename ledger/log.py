"""The log on disk: entries and tree as C2SP tiles (c2sp.org/tlog-tiles), and a signed checkpoint.

Rules: the checkpoint is the commit point. Tiles are durable before it is written, so what lies past it after a crash
was never acknowledged, and is written over. Only full tiles last; a partial one is replaced by the next. A log whose
edge does not give its checkpoint's root is not opened. One process, one thread at a time.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exequatur.trust.errors import TrustError
from exequatur.trust.merkle import EMPTY_ROOT, consistency_proof, leaf_hash, root, split
from exequatur.trust.note import Checkpoint, LogKey, open_checkpoint, sign_checkpoint

WIDTH: Final = 256
"""Hashes in a full tile, entries in a full bundle (tlog-tiles)."""

_HASH: Final = 32


class LogError(Exception):
    """Why the log cannot be opened, read or written: one sentence for whoever runs the ledger."""


class Log:
    """One append-only log in one folder. Made by `open`."""

    def __init__(self, folder: Path, origin: str, key: Ed25519PrivateKey, lock: int) -> None:
        """Start from nothing; `open` reads what is there."""
        self.folder = folder
        self.origin = origin
        self.note = ""
        self.size = 0
        self._key = key
        self._lock = lock
        self._edge: list[list[bytes]] = [[]]
        self._entries: list[bytes] = []
        self._tile = lru_cache(maxsize=512)(self._read_full_tile)

    @classmethod
    def open(cls, folder: Path, *, origin: str, key: Ed25519PrivateKey, now: datetime) -> Self:
        """Open or make the log of `origin`; raises `LogError` where checkpoint and tiles do not belong together."""
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(lock)
                raise LogError(f"`{folder}` is in use by another process") from None
            log = cls(folder, origin, key, lock)
            if (folder / "checkpoint").exists():
                log._load()
            elif any((folder / "tile").rglob("*.p/*")) or any((folder / "tile").glob("0/[0-9x]*")):
                raise LogError(f"`{folder}` has tiles and no checkpoint: restore it")
            log.checkpoint(now)
        except OSError as error:
            raise LogError(f"`{error.filename or folder}`: {(error.strerror or str(error)).lower()}") from None
        return log

    def append(self, entries: Sequence[bytes], now: datetime) -> None:
        """Add `entries`, all or none, and sign a checkpoint over them; raises `LogError`."""
        before = (self.size, [list(level) for level in self._edge], list(self._entries), self.note)
        try:
            folders = self._grow(entries)
            for folder in folders:
                _sync(folder)
            self.checkpoint(now)
        except OSError as error:
            self.size, self._edge, self._entries, self.note = before
            raise LogError(f"`{error.filename or self.folder}`: {(error.strerror or str(error)).lower()}") from None
        self._tidy(before[0])

    def checkpoint(self, now: datetime) -> None:
        """Sign the log as it is, with the time, and make that durable; raises `OSError`."""
        extension = f"time {now:%Y-%m-%dT%H:%M:%SZ}"
        note = sign_checkpoint(Checkpoint(self.origin, self.size, self._root(), (extension,)), self.origin, self._key)
        _write(self.folder / "checkpoint", note.encode())
        _sync(self.folder)
        self.note = note

    def prove_consistency(self, old: int) -> list[bytes]:
        """Prove that the log begins with its first `old` entries; of none, or of all, there is nothing to prove."""
        return consistency_proof(old, self.size, self._range) if 0 < old <= self.size else []

    def read(self, first: int, last: int) -> list[bytes]:
        """Give the entries from `first` (inclusive) to `last` (exclusive)."""
        found: list[bytes] = []
        for number in range(first // WIDTH, -(-last // WIDTH)):
            bundle = self._bundle(number)
            found += bundle[max(0, first - number * WIDTH) : last - number * WIDTH]
        return found

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._lock)

    def _load(self) -> None:
        """Read checkpoint and edge, and hold them against each other."""
        key = LogKey(self.origin, self._key.public_key())
        try:
            self.note = (self.folder / "checkpoint").read_text()
            checkpoint = open_checkpoint(self.note, [key], self.origin)
        except (TrustError, UnicodeDecodeError) as error:
            raise LogError(f"`{self.folder / 'checkpoint'}`: {error}") from None
        self.size = checkpoint.size
        self._edge, level = [], 0
        while self.size >> 8 * level or level == 0:
            number, width = self._position(level)
            path = self._path(str(level), number, width)
            data = path.read_bytes() if width else b""
            if len(data) != width * _HASH:
                raise LogError(f"`{path}` has {len(data)} bytes, and {width * _HASH} are needed")
            self._edge.append([data[at : at + _HASH] for at in range(0, len(data), _HASH)])
            level += 1
        number, width = self._position(0)
        self._entries = self._read_bundle(number, width) if width else []
        if [leaf_hash(entry) for entry in self._entries] != self._edge[0] or self._root() != checkpoint.root:
            raise LogError(
                f"`{self.folder}`: the tiles do not give the checkpoint's root: run `exequatur audit verify`"
            )

    def _grow(self, entries: Sequence[bytes]) -> set[Path]:
        """Add entries to the edge, write every tile that changed, and name the folders to sync."""
        folders: set[Path] = set()
        changed: set[int] = set()
        for entry in entries:
            self._entries.append(entry)
            if len(self._entries) == WIDTH:
                self._save(folders, "entries", self.size // WIDTH, WIDTH, _bundle(self._entries))
                self._entries.clear()
            self.size += 1
            self._push(0, leaf_hash(entry), folders, changed)
        for level in changed:
            number, width = self._position(level)
            if width:
                self._save(folders, str(level), number, width, b"".join(self._edge[level]))
        if self._entries:
            self._save(folders, "entries", self.size // WIDTH, len(self._entries), _bundle(self._entries))
        return folders

    def _push(self, level: int, item: bytes, folders: set[Path], changed: set[int]) -> None:
        """Add one hash to a level; a tile that it fills is written, and its root goes one level up."""
        if level == len(self._edge):
            self._edge.append([])
        tile = self._edge[level]
        tile.append(item)
        changed.add(level)
        if len(tile) == WIDTH:
            number = (self.size - 1) >> 8 * (level + 1)
            self._save(folders, str(level), number, WIDTH, b"".join(tile))
            above = root(tile)
            tile.clear()
            self._push(level + 1, above, folders, changed)

    def _save(self, folders: set[Path], kind: str, number: int, width: int, data: bytes) -> None:
        path = self._path(kind, number, width)
        missing = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, data)
        folders.add(path.parent)
        folders.update(folder.parent for folder in missing)

    def _tidy(self, old: int) -> None:
        """Remove partial tiles that a later one has replaced; what is left behind does no harm."""
        for kind in ("entries", *map(str, range(len(self._edge)))):
            level = 0 if kind == "entries" else int(kind)
            number, width = self._position(level)
            current = self._path(kind, number, width) if width else None
            for each in range(old >> 8 * (level + 1), number + 1):
                folder = self._path(kind, each, 1).parent
                if current is None or folder != current.parent:
                    shutil.rmtree(folder, ignore_errors=True)
                    continue
                for path in folder.iterdir():
                    if path != current:
                        path.unlink(missing_ok=True)

    def _position(self, level: int) -> tuple[int, int]:
        """The number and the width of a level's partial tile."""
        return self.size >> 8 * (level + 1), (self.size >> 8 * level) % WIDTH

    def _path(self, kind: str, number: int, width: int) -> Path:
        digits = f"{number:03d}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        path = self.folder.joinpath("tile", kind, *(f"x{group}" for group in groups[:-1]), groups[-1])
        return path if width == WIDTH else path.with_name(f"{path.name}.p") / str(width)

    def _root(self) -> bytes:
        """The root, from the edge: each level's hashes, and what is below them as one more."""
        below: list[bytes] = []
        for level in self._edge:
            if level or below:
                below = [root([*level, *below])]
        return below[0] if below else EMPTY_ROOT

    def _range(self, first: int, last: int) -> bytes:
        """The root of a range of entries, from tiles: a complete subtree is within one tile of its level."""
        count = last - first
        if count & (count - 1) or first % count:
            middle = first + split(count)
            return root([self._range(first, middle), self._range(middle, last)])
        level = (count.bit_length() - 1) // 8
        start = first >> 8 * level
        number, offset = divmod(start, WIDTH)
        hashes = self._edge[level] if number == self._position(level)[0] else self._tile(level, number)
        return root(hashes[offset : offset + (count >> 8 * level)])

    def _read_full_tile(self, level: int, number: int) -> list[bytes]:
        data = self._path(str(level), number, WIDTH).read_bytes()
        return [data[at : at + _HASH] for at in range(0, len(data), _HASH)]

    def _bundle(self, number: int) -> list[bytes]:
        if number == self._position(0)[0]:
            return self._entries
        return self._read_bundle(number, WIDTH)

    def _read_bundle(self, number: int, width: int) -> list[bytes]:
        path = self._path("entries", number, width)
        data, at, entries = path.read_bytes(), 0, []
        while at < len(data):
            size = int.from_bytes(data[at : at + 2], "big")
            entries.append(data[at + 2 : at + 2 + size])
            at += 2 + size
        if len(entries) != width or at != len(data):
            raise LogError(f"`{path}` has {len(entries)} entries, and {width} are needed")
        return entries


def _bundle(entries: Sequence[bytes]) -> bytes:
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def _write(path: Path, data: bytes) -> None:
    """Put `data` in place of `path` at once, synced."""
    temporary = path.with_name(path.name + ".tmp")
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]
        os.fsync(file)
    finally:
        os.close(file)
    temporary.replace(path)


def _sync(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
