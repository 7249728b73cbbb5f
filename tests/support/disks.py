"""Disks that fail, that stop in the middle, and that lose what was not synced."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

from exequatur.disk import Disk


class Crash(BaseException):
    """The process is gone; nothing after this runs in it."""


class Failing(Disk):
    """Counts its calls; the `nth` of them (from 0), or with `for_good` each from there on, raises `failure`.

    A write that fails has written half. Nothing is really synced: nobody pulls the plug on a test.
    """

    def __init__(self, nth: int | None = None, failure: BaseException | None = None, *, for_good: bool = False) -> None:
        self.calls: list[str] = []
        self.nth, self.for_good = nth, for_good
        self.failure = failure or OSError(errno.EIO, os.strerror(errno.EIO))

    def _count(self, name: str) -> bool:
        self.calls.append(name)
        n = len(self.calls) - 1
        return self.nth is not None and (n == self.nth or (self.for_good and n > self.nth))

    def write(self, fd: int, data: bytes, offset: int) -> None:
        if self._count("write"):
            super().write(fd, data[: len(data) // 2], offset)
            raise self.failure
        super().write(fd, data, offset)

    def close(self, fd: int) -> None:
        failed = self._count("close")
        super().close(fd)  # a descriptor is gone even when closing it fails
        if failed:
            raise self.failure

    def sync(self, fd: int) -> None:
        if self._count("sync"):
            raise self.failure

    def sync_folder(self, path: Path) -> None:
        if self._count("sync_folder"):
            raise self.failure


def _failing(name: str):
    def call(self: Failing, *arguments):
        if self._count(name):
            raise self.failure
        return getattr(Disk, name)(self, *arguments)

    return call


for _name in ("create", "reopen", "truncate", "replace", "remove", "make_folder", "remove_folder"):
    setattr(Failing, _name, _failing(_name))


class PowerCut(Failing):
    """Knows what would be left if the power went now: names of synced folders, bytes of synced files.

    `left` writes that into another folder; what was not synced may be there all the same, or in part, as `rng` has it.
    """

    def __init__(self, nth: int | None = None) -> None:
        super().__init__(nth, Crash(), for_good=True)
        self._made = 0  # a file's number is never used again, as an inode's is
        self._open: dict[int, int] = {}
        self._synced: dict[int, bytes] = {}
        self._last_bytes: dict[int, bytes] = {}
        self._names: dict[Path, int] = {}
        self._synced_names: dict[Path, int] = {}
        self._unsynced_folders: set[Path] = set()

    def _remember(self, fd: int) -> int:
        file = self._open[fd]
        self._last_bytes[file] = os.pread(fd, os.fstat(fd).st_size, 0)
        return file

    def create(self, path: Path) -> int:
        old = self._names.get(path)
        fd = super().create(path)
        if old is None:
            self._made += 1
        self._open[fd] = self._names[path] = self._made if old is None else old
        self._remember(fd)
        return fd

    def reopen(self, path: Path) -> int:
        fd = super().reopen(path)
        if path not in self._names:  # it was there before us, and lasts
            self._made += 1
            self._names[path] = self._synced_names[path] = self._made
            self._synced[self._made] = path.read_bytes()
        self._open[fd] = self._names[path]
        self._remember(fd)
        return fd

    def write(self, fd: int, data: bytes, offset: int) -> None:
        try:
            super().write(fd, data, offset)
        finally:
            self._remember(fd)

    def truncate(self, fd: int, size: int) -> None:
        super().truncate(fd, size)
        self._remember(fd)

    def sync(self, fd: int) -> None:
        super().sync(fd)
        file = self._remember(fd)
        self._synced[file] = self._last_bytes[file]

    def replace(self, source: Path, target: Path) -> None:
        super().replace(source, target)
        self._names[target] = self._names.pop(source)

    def remove(self, path: Path) -> None:
        super().remove(path)
        self._names.pop(path, None)

    def make_folder(self, path: Path) -> None:
        super().make_folder(path)
        self._unsynced_folders.add(path)

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self._unsynced_folders = {folder for folder in self._unsynced_folders if folder.parent != path}
        for name in {*self._names, *self._synced_names}:
            if name.parent == path:
                if name in self._names:
                    self._synced_names[name] = self._names[name]
                else:
                    del self._synced_names[name]

    def left(self, folder: Path, target: Path, rng: random.Random) -> None:
        """Write into `target` what is left of `folder`."""
        lost = {folder for folder in sorted(self._unsynced_folders) if rng.random() < 0.5}
        for path in sorted({*self._names, *self._synced_names}):
            file = rng.choice([self._names.get(path), self._synced_names.get(path)])
            if file is None or lost & {*path.parents}:
                continue
            last = self._last_bytes[file]
            content = rng.choice([self._synced.get(file, b""), last])
            if file not in self._synced:
                content = rng.choice([content, last[: rng.randint(0, len(last))], bytes(len(last))])
            place = target / path.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
