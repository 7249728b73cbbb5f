"""The log on disk: entries and tree as C2SP tiles (c2sp.org/tlog-tiles), and a signed checkpoint.

Rules:
- The checkpoint is the commit point. Tiles and their folders are synced before it is written; what lies past it after
  a crash or a full disk was never acknowledged, and is written over.
- A file that the checkpoint needs is never written to: full tiles stay, a partial one is replaced by a wider one.
- Two checkpoints of the same size have the same root: entries whose tiles are written stay in the log, even if the disk
  then takes no checkpoint. They are not acknowledged until one that covers them is known to last.
- A log of which a byte is not what its checkpoint signs is not opened.
- One process; one thread at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exequatur.disk import Disk, lock_folder, reason, write_file
from exequatur.trust.errors import SignatureError, TrustError
from exequatur.trust.merkle import EMPTY_ROOT, consistency_proof, leaf_hash, root, split
from exequatur.trust.note import Checkpoint, LogKey, open_checkpoint, sign_checkpoint
from ledger.tiles import CHECKPOINT, ENTRIES, HASH_BYTES, WIDTH, pack_bundle, position, tile_name, unpack_bundle

Progress = Callable[[int, int], None]
"""Told how many entries are checked, of how many."""

_CACHED_TILES: Final = 512  # 4 MiB; a proof needs two a level


class LogError(Exception):
    """Why the log cannot be opened, read or written: one sentence for whoever runs the ledger."""


@dataclass(slots=True)
class _Edge:
    """The right edge of a log: its size, each level's hashes and the entries that no full tile has yet."""

    size: int = 0
    levels: list[list[bytes]] = field(default_factory=lambda: [[]])
    entries: list[bytes] = field(default_factory=list)

    def copy(self) -> _Edge:
        return _Edge(self.size, [list(level) for level in self.levels], list(self.entries))

    def root(self) -> bytes:
        """The root of the log: each level's hashes, and what is below them as one more."""
        below: list[bytes] = []
        for level in self.levels:
            if level or below:
                below = [root([*level, *below])]
        return below[0] if below else EMPTY_ROOT

    def grow(self, entries: Sequence[bytes]) -> dict[PurePosixPath, bytes]:
        """Add `entries`, and give each tile that changed by its name, as it is now."""
        files: dict[PurePosixPath, bytes] = {}
        changed: set[int] = set()
        for entry in entries:
            self.entries.append(entry)
            self.size += 1
            if len(self.entries) == WIDTH:
                files[tile_name(ENTRIES, (self.size - 1) // WIDTH, WIDTH)] = pack_bundle(self.entries)
                self.entries.clear()
            self._push(0, leaf_hash(entry), files, changed)
        for level in changed:
            number, width = position(self.size, level)
            if width:
                files[tile_name(level, number, width)] = b"".join(self.levels[level])
        if self.entries:
            files[tile_name(ENTRIES, *position(self.size, 0))] = pack_bundle(self.entries)
        return files

    def _push(self, level: int, item: bytes, files: dict[PurePosixPath, bytes], changed: set[int]) -> None:
        """Add one hash to a level; when that fills its tile, the tile's root goes one level up."""
        if level == len(self.levels):
            self.levels.append([])
        tile = self.levels[level]
        tile.append(item)
        changed.add(level)
        if len(tile) == WIDTH:
            files[tile_name(level, (self.size - 1) >> 8 * (level + 1), WIDTH)] = b"".join(tile)
            above = root(tile)
            tile.clear()
            self._push(level + 1, above, files, changed)


class Log:
    """One append-only log in one folder. Made by `open`."""

    def __init__(self, folder: Path, origin: str, keys: Sequence[Ed25519PrivateKey], disk: Disk, lock: int) -> None:
        """Use `open`."""
        self.folder: Final = folder
        self.note = ""
        """The newest checkpoint, as a signed note."""
        self.signed_at = datetime.min.replace(tzinfo=UTC)
        self.lasting = False
        """Whether the newest checkpoint is known to last: only then may its entries be acknowledged."""
        self.keys = tuple(keys)
        """Who signs each checkpoint from the next one on: all of them."""
        self._origin, self._disk, self._lock = origin, disk, lock
        self._edge = _Edge()
        self._tile = lru_cache(_CACHED_TILES)(self._read_tile)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        origin: str,
        keys: Sequence[Ed25519PrivateKey],
        now: datetime,
        disk: Disk | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Open or make the log of `origin`, and check every byte of it (some 250,000 entries a second).

        Each of `keys` signs its checkpoints, and one of them has signed the last. Raises `LogError` where checkpoint
        and tiles do not belong together, and for a folder in use.
        """
        disk = disk or Disk()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = lock_folder(folder)
        except BlockingIOError:
            raise LogError(f"the log `{folder}` is in use by another process") from None
        except OSError as error:
            raise LogError(f"the log `{folder}` cannot be opened: {reason(error)}") from None
        log = cls(folder, origin, keys, disk, lock)
        try:
            log._load(progress)
            log.checkpoint(now)
        except BaseException:
            log.close()
            raise
        return log

    @property
    def size(self) -> int:
        """How many entries the newest checkpoint has."""
        return self._edge.size

    @property
    def verifier_keys(self) -> tuple[LogKey, ...]:
        """What verifies its checkpoints."""
        return tuple(LogKey(self._origin, key.public_key()) for key in self.keys)

    def append(self, entries: Sequence[bytes], now: datetime) -> None:
        """Add `entries`, all or none, and sign a checkpoint over them; raises `LogError`.

        After an error `size` says whether they are in the log: if so, the next checkpoint signs them, and until it is
        `lasting` they must not be acknowledged.
        """
        edge, written = self._edge.copy(), list[Path]()
        try:
            self._write_tiles(edge.grow(entries), written)
        except OSError as error:
            for path in written:  # make room again; what stays is written over
                with contextlib.suppress(OSError):
                    self._disk.remove(path)
            raise LogError(f"the log `{self.folder}` cannot be written: {reason(error)}") from None
        before, self._edge, self.lasting = self._edge, edge, False
        self.checkpoint(now)
        self._tidy(before.size)

    def checkpoint(self, now: datetime) -> None:
        """Sign the log as it is, with the time, and make that last; raises `LogError`."""
        text = Checkpoint(self._origin, self.size, self._edge.root(), (f"time {now:%Y-%m-%dT%H:%M:%SZ}",))
        note = sign_checkpoint(text, self._origin, *self.keys)
        try:
            write_file(self._disk, self.folder / CHECKPOINT, note.encode())
            self.note, self.signed_at, self.lasting = note, now, False
            self._disk.sync_folder(self.folder)
        except OSError as error:
            raise LogError(f"the log `{self.folder}` cannot be written: {reason(error)}") from None
        self.lasting = True

    def prove_consistency(self, old: int) -> list[bytes]:
        """Prove that the log begins with its first `old` entries; of none, or of all, there is nothing to prove."""
        return consistency_proof(old, self.size, self._range)

    def root_at(self, size: int) -> bytes:
        """The root of the first `size` entries."""
        return self._range(0, size) if size else EMPTY_ROOT

    def read(self, first: int, last: int) -> list[bytes]:
        """Give the entries from `first` (inclusive) to `last` (exclusive); raises `LogError`."""
        found: list[bytes] = []
        for number in range(first // WIDTH, -(-last // WIDTH)):
            partial = number == position(self.size, 0)[0]
            bundle = self._edge.entries if partial else self._read_bundle(number, WIDTH)
            found += bundle[max(0, first - number * WIDTH) : last - number * WIDTH]
        return found

    def close(self) -> None:
        """Let go of the folder."""
        with contextlib.suppress(OSError):
            self._disk.close(self._lock)

    def _write_tiles(self, files: dict[PurePosixPath, bytes], written: list[Path]) -> None:
        """Write and sync tiles, then the folders that have new names in them; `written` gets what was begun."""
        folders: dict[Path, None] = {}
        for name, data in files.items():
            path = self.folder / name
            for folder in reversed(path.parents):
                if folder.is_relative_to(self.folder) and not folder.exists():
                    self._disk.make_folder(folder)
                    folders[folder.parent] = None
            written.append(path)
            fd = self._disk.create(path)
            try:
                self._disk.write(fd, data, 0)
                self._disk.sync(fd)
            finally:
                self._disk.close(fd)
            folders[path.parent] = None
        for folder in folders:
            self._disk.sync_folder(folder)

    def _tidy(self, old: int) -> None:
        """Remove the partial tiles that the last append replaced; what is left behind does no harm."""
        for kind in (ENTRIES, *range(len(self._edge.levels))):
            level = 0 if kind == ENTRIES else int(kind)
            was, now = position(old, level), position(self.size, level)
            if not was[1] or was == now:
                continue
            path = self.folder / tile_name(kind, *was)
            with contextlib.suppress(OSError):
                if was[0] == now[0]:
                    self._disk.remove(path)
                    continue
                for each in path.parent.iterdir():
                    self._disk.remove(each)
                self._disk.remove_folder(path.parent)

    def _load(self, progress: Progress | None) -> None:
        """Read what the checkpoint signs, and check all of it."""
        path = self.folder / CHECKPOINT
        try:
            note = path.read_text()
        except FileNotFoundError:
            if any(each.is_file() for each in (self.folder / "tile").rglob("*")):
                raise LogError(f"`{self.folder}` has tiles and no checkpoint: restore the checkpoint") from None
            return
        except (OSError, UnicodeDecodeError) as error:
            raise LogError(f"`{path}` cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
        try:
            checkpoint = open_checkpoint(note, self.verifier_keys, self._origin)
        except SignatureError as error:
            text = f"`{path}`: {error}: put the key that did beside the new one, until both have signed"
            raise LogError(text) from None
        except TrustError as error:
            raise LogError(f"`{path}`: {error}") from None
        self._edge = self._read_edge(checkpoint.size)
        if self._edge.root() != checkpoint.root:
            raise self._broken(f"`{path}` signs another root than the tiles give")
        self._check(progress)

    def _read_edge(self, size: int) -> _Edge:
        edge = _Edge(size, [])
        while size >> 8 * len(edge.levels) or not edge.levels:
            number, width = position(size, len(edge.levels))
            edge.levels.append(self._read_tile(len(edge.levels), number, width) if width else [])
        number, width = position(size, 0)
        edge.entries = self._read_bundle(number, width) if width else []
        if [leaf_hash(entry) for entry in edge.entries] != edge.levels[0]:
            raise self._broken(f"`{tile_name(ENTRIES, number, width)}` is not what its tile has the hashes of")
        return edge

    def _check(self, progress: Progress | None) -> None:
        """Hold each full tile against the hash above it, from the top down, and each full bundle against its tile."""
        for level in reversed(range(len(self._edge.levels))):
            for number in range(position(self.size, level)[0]):
                hashes = self._read_tile(level, number, WIDTH)
                if root(hashes) != self._hashes(level + 1, number // WIDTH)[number % WIDTH]:
                    raise self._broken(f"`{tile_name(level, number, WIDTH)}` does not give the hash above it")
                if level > 0:
                    continue
                if [leaf_hash(entry) for entry in self._read_bundle(number, WIDTH)] != hashes:
                    raise self._broken(f"`{tile_name(ENTRIES, number, WIDTH)}` is not what its tile has the hashes of")
                if progress:
                    progress((number + 1) * WIDTH, self.size)

    def _range(self, first: int, last: int) -> bytes:
        """The root of a range of entries, from tiles: a complete subtree is within one tile of its level."""
        count = last - first
        if count & (count - 1) or first % count:
            middle = first + split(count)
            return root([self._range(first, middle), self._range(middle, last)])
        level = (count.bit_length() - 1) // 8
        number, offset = divmod(first >> 8 * level, WIDTH)
        return root(self._hashes(level, number)[offset : offset + (count >> 8 * level)])

    def _hashes(self, level: int, number: int) -> Sequence[bytes]:
        partial = number == position(self.size, level)[0]
        return self._edge.levels[level] if partial else self._tile(level, number, WIDTH)

    def _read_tile(self, level: int, number: int, width: int) -> list[bytes]:
        data = self._read_file(tile_name(level, number, width))
        if len(data) != width * HASH_BYTES:
            raise self._broken(f"`{tile_name(level, number, width)}` has {len(data)} bytes, not {width * HASH_BYTES}")
        return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]

    def _read_bundle(self, number: int, width: int) -> list[bytes]:
        name = tile_name(ENTRIES, number, width)
        try:
            return unpack_bundle(self._read_file(name), width)
        except ValueError as error:
            raise self._broken(f"`{name}` is damaged: {error}") from None

    def _read_file(self, name: PurePosixPath) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise LogError(f"`{self.folder / name}` cannot be read: {reason(error)}") from None

    def _broken(self, text: str) -> LogError:
        return LogError(f"the log `{self.folder}` is not what its checkpoint signs: {text}")
