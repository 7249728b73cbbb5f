"""A volume of files as Kubernetes mounts it: what is in a ConfigMap or a Secret, and how it changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path


class Mounted:
    """A folder as the kubelet mounts a ConfigMap: names are links through `..data`, which is swapped at once."""

    def __init__(self, folder: Path) -> None:
        """Make `folder`, with nothing in it."""
        self.folder, self._turn = folder, 0
        folder.mkdir()

    def put(self, files: Mapping[str, bytes], *, before_swap: Callable[[], None] | None = None) -> None:
        """Have these files there and no others; `before_swap` runs when they are written and nobody sees them yet."""
        self._turn += 1
        fresh = self.folder / f"..2026_11_21_{self._turn}"
        fresh.mkdir()
        for name, data in files.items():
            (fresh / name).write_bytes(data)
        if before_swap:
            before_swap()
        old = self.folder / "..data"
        gone = old.resolve() if old.is_symlink() else None
        (self.folder / "..data_tmp").symlink_to(fresh.name)
        (self.folder / "..data_tmp").replace(old)
        for name in files:
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")
        for link in self.folder.iterdir():
            if not link.name.startswith("..") and link.name not in files:
                link.unlink()
        if gone is not None:
            for each in gone.iterdir():
                each.unlink()
            gone.rmdir()
