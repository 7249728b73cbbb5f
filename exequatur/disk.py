"""The system calls that change a disk, in one place, so that tests can fail each of them and cut the power.

Rules: nothing here retries, and nothing hides an error. Who needs a change to last syncs the file and its folder.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class Disk:
    """The real one."""

    def create(self, path: Path) -> int:
        """Open a new, empty file for writing, its owner's alone; an old one of that name is cut to nothing."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def reopen(self, path: Path) -> int:
        """Open an existing file for writing."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def write(self, fd: int, data: bytes, offset: int) -> None:
        """Write all of `data` at `offset`; raises `OSError` where some of it may be there."""
        rest = memoryview(data)
        while rest:
            written = os.pwrite(fd, rest, offset)
            rest, offset = rest[written:], offset + written

    def truncate(self, fd: int, size: int) -> None:
        """Cut a file to `size` bytes."""
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Make a file's bytes and size last. After an error, what was written since the last sync is in doubt."""
        os.fdatasync(fd)

    def close(self, fd: int) -> None:
        """Let go of a file."""
        os.close(fd)

    def replace(self, source: Path, target: Path) -> None:
        """Give `source` the name `target`, at once."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """Remove a file; one that is not there is no error."""
        path.unlink(missing_ok=True)

    def make_folder(self, path: Path) -> None:
        """Make a folder for its owner alone."""
        path.mkdir(mode=0o700, exist_ok=True)

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        path.rmdir()

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder last."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def lock_folder(folder: Path) -> int:
    """Keep other processes out of `folder` until the descriptor is closed; raises `BlockingIOError` if one is in."""
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def write_file(disk: Disk, path: Path, data: bytes) -> None:
    """Give `path` new content, whole or not at all, even over a crash."""
    fresh = path.with_name(path.name + ".new")
    fd = disk.create(fresh)
    try:
        disk.write(fd, data, 0)
        disk.sync(fd)
    finally:
        disk.close(fd)
    disk.replace(fresh, path)


def reason(error: OSError) -> str:
    """Say what the system said, as the end of a sentence."""
    return (error.strerror or str(error)).lower()
