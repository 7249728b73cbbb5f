"""Folders of keys that change while we run: a ConfigMap or Secret of Kubernetes, a folder that people copy into.

Rules: what is good stays until something else is good; a change is taken when it was seen twice without a move in
between, so that nothing half-written is believed, nor called broken; names that begin with a dot are no keys (nor are
`..data` and what is behind it); a link must end inside of the folder; nothing but regular files is opened, and never
more of them than a key has bytes. Looking is quick as long as nothing moves: no file is read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeAlias, TypeVar

from exequatur.disk import reason
from exequatur.trust.errors import FormatError, TrustError
from exequatur.trust.key_policy import FILE

FILE_BYTES: Final = 64 * 1024
"""The largest file, in bytes: a key of RSA-16384 has 3 KiB, a policy of a hundred keys 20."""
FILES: Final = 1000
"""How many names a folder may have."""

_TRIES: Final = 5
_UNSETTLED: Final = 10  # looks in a row at a folder that never stands still, before somebody is told

_Stamp: TypeAlias = tuple[tuple[object, ...], ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """What one look gave: the keys that hold, whether they are others than before, what is newly wrong."""

    keys: T
    changed: bool
    fault: str
    """One sentence when something is wrong that was not said yet, else empty; `KeyFolder.fault` keeps it."""


class KeyFolder(Generic[T]):
    """Reads a folder of keys, or one file of a key, and reads it again when it has changed. For one thread."""

    def __init__(self, path: Path, parse: Callable[[Mapping[str, bytes]], T]) -> None:
        """Read `path` by `parse`, which gets files by name, and raises `TrustError`; nothing is read yet."""
        self.path: Final = path
        self.fault = ""
        """Why what is there now is not what holds; empty when it is."""
        self._parse = parse
        self._keys: T | None = None
        self._files: Mapping[str, bytes] = {}
        self._known: _Stamp | None = None  # what was dealt with
        self._moving: _Stamp | None = None  # what is waited for to stand still
        self._waited = 0

    @property
    def keys(self) -> T:
        """The keys that hold. Reads them the first time, and then raises as `read`."""
        return self.read() if self._keys is None else self._keys

    def read(self) -> T:
        """Read the keys now; raises `TrustError` for what cannot be read, and for what is no key."""
        for _ in range(_TRIES):
            before = _stamp(self.path)
            files = _read(self.path)
            if _stamp(self.path) == before:
                break
        else:
            raise FormatError("it changes while it is read: write keys to another folder, and rename it")
        self._keys, self._files, self.fault = self._parse(files), files, ""
        # The first look reads once more: what was written in the same instant has the same time.
        self._known = self._moving = None
        return self._keys

    def look(self) -> Seen[T]:
        """Look whether the keys have changed. Raises as `read` only if nothing was ever read."""
        keys, stamp = self.keys, self._now()
        if stamp == self._known:
            self._moving = None
            return Seen(keys, changed=False, fault="")
        if stamp != self._moving:
            return Seen(keys, changed=False, fault=self._wait(stamp))
        files, fresh, fault = self._files, keys, ""
        try:
            if (files := _read(self.path)) != self._files:
                _check_kept(self._files, files)
                fresh = self._parse(files)
        except TrustError as error:
            fault = str(error)
        if (now := self._now()) != stamp:
            return Seen(keys, changed=False, fault=self._wait(now))
        self._known, self._moving, self._waited = stamp, None, 0
        if fault:
            return Seen(keys, changed=False, fault=self._say(fault))
        changed = files != self._files
        self._keys, self._files, self.fault = fresh, files, ""
        return Seen(fresh, changed, fault="")

    def _now(self) -> _Stamp:
        try:
            return _stamp(self.path)
        except TrustError as error:
            return (("gone", str(error)),)

    def _wait(self, stamp: _Stamp) -> str:
        """Wait for what moves to stand still; says when that takes long."""
        self._moving, self._waited = stamp, self._waited + 1
        return self._say("it never stands still long enough to be read") if self._waited > _UNSETTLED else ""

    def _say(self, text: str) -> str:
        said, self.fault = self.fault, text
        return "" if said == text else text


def private_keys_hint(folder: Path) -> str:
    """Say which folder is meant, where somebody names that of the private keys."""
    public = folder / "public"
    return f": did you mean `{public}`" if public.is_dir() and any(folder.glob("*.key")) else ""


def _stamp(path: Path) -> _Stamp:
    """Tell everything apart by which files there are and when they were last written; raises `FormatError`."""
    with _naming():
        root = path.stat()
    marks = [("", *_mark(root))]
    if stat.S_ISDIR(root.st_mode):
        folder, name = os.fspath(path), ""
        try:
            for name in _names(path):
                marks.append((name, *_mark(os.stat(f"{folder}/{name}"))))  # noqa: PTH116  a third of the time
        except OSError as error:
            raise _cannot_read(error, name) from None
    return tuple(marks)


def _mark(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _names(folder: Path) -> list[str]:
    names = []
    with _naming(), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                names.append(entry.name)
            if len(names) > FILES:
                raise FormatError(f"it has more than {FILES} files: that is no folder of keys")
    return sorted(names)


def _read(path: Path) -> dict[str, bytes]:
    """Read every file; raises `FormatError`."""
    with _naming():
        root = Path(os.path.realpath(path, strict=True))
        if not root.is_dir():
            return {path.name: _content(root, path.name)}
    files = {}
    for name in _names(root):
        with _naming(name):
            real = Path(os.path.realpath(root / name, strict=True))
            if not real.is_relative_to(root):
                raise FormatError(f"`{name}` is a link that leaves the folder: put the file itself there")
            files[name] = _content(real, name)
    return files


def _check_kept(before: Mapping[str, bytes], files: Mapping[str, bytes]) -> None:
    """Refuse a folder that lost its `keys.json`: what it held back, revoked keys too, would be trusted again."""
    if FILE in before and FILE not in files:
        raise FormatError(f"`{FILE}` is gone: without it each key alone would be enough: put it back, or start anew")


def _content(path: Path, name: str) -> bytes:
    """Read a regular file; anything else, a pipe that nobody writes say, would be waited for without end."""
    with open(path, "rb", opener=lambda where, flags: os.open(where, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        data = file.read(FILE_BYTES + 1)
    if len(data) > FILE_BYTES:
        raise FormatError(f"`{name}` has more than {FILE_BYTES} bytes: that is no key")
    return data


@contextlib.contextmanager
def _naming(name: str = "") -> Iterator[None]:
    """Say of what could not be read what it is called in the folder; the folder is named by who asked."""
    try:
        yield
    except OSError as error:
        raise _cannot_read(error, name) from None


def _cannot_read(error: OSError, name: str) -> FormatError:
    text = f"it cannot be read: {reason(error)}"
    return FormatError(f"`{name}`: {text}" if name else text)
