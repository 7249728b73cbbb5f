"""The records of a log's folder, read as tlog-tiles has them, for tests that count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def records(folder: Path) -> list[dict[str, Any]]:
    """Give all records up to the checkpoint's size; a log that grows meanwhile is read again."""
    while True:
        try:
            return _records(folder)
        except FileNotFoundError:
            continue


def _records(folder: Path) -> list[dict[str, Any]]:
    size = int((folder / "checkpoint").read_text().split("\n")[1])
    found: list[dict[str, Any]] = []
    for number in range(-(-size // 256)):
        width = min(256, size - number * 256)
        digits = f"{number:03d}"
        path = folder / "tile" / "entries" / digits
        data = (path if width == 256 else path.with_name(f"{digits}.p") / str(width)).read_bytes()
        at = 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 2], "big")
            found.append(json.loads(data[at + 2 : at + 2 + length]))
            at += 2 + length
    return found
