"""Folders for tests: with a short name, as sockets need it, and in memory, where there is room and syncing is no wait."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 2**28


@contextlib.contextmanager
def quick() -> Iterator[Path]:
    """A folder that is gone afterwards: nothing in it has to outlive the machine."""
    in_memory = os.access(_MEMORY, os.W_OK | os.X_OK) and shutil.disk_usage(_MEMORY).free >= _ROOM_BYTES
    with tempfile.TemporaryDirectory(prefix="ex-", dir=_MEMORY if in_memory else None) as name:
        yield Path(name)
