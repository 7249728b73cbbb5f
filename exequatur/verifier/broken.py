"""What does not fit in a log: where, and what; and its files, which may be missing."""

from __future__ import annotations

from pathlib import Path


class Broken(Exception):  # noqa: N818
    """Something does not fit: where, and what."""

    def __init__(self, where: str, text: str) -> None:
        """Keep both: they are reported."""
        super().__init__(f"{where}: {text}")
        self.where, self.text = where, text


def read(path: Path, where: str) -> bytes:
    """Read one of the log's files, which is called `where`. Raises `Broken`."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise Broken(where, "is missing") from None
    except OSError as error:
        raise Broken(where, f"cannot be read: {(error.strerror or str(error)).lower()}") from None
