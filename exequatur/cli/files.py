"""Files that verbs write: whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole, or leave what was there. Raises `OSError`, which names the file that was to be written."""
    try:
        _write(path, data)
    except OSError as error:
        raise OSError(error.errno, f"cannot be written: {error.strerror or error}", str(path)) from None


def _write(path: Path, data: bytes) -> None:
    mask = os.umask(0)
    os.umask(mask)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(data)
            file.flush()
            temporary.chmod(0o666 & ~mask)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
