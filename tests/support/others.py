"""Where others' test cases are: `EXEQUATUR_CONFORMANCE_DIR`, or `conformance` in a `shared` folder beside the checkout."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

_BESIDE = Path(__file__).parents[3] / "shared" / "conformance"


def folder() -> Path:
    """Give the folder; a missing one is an error, never a pass."""
    path = Path(os.environ.get("EXEQUATUR_CONFORMANCE_DIR") or _BESIDE)
    if not path.is_dir():
        raise FileNotFoundError(f"`{path}` has no test cases: set EXEQUATUR_CONFORMANCE_DIR")
    return path


def members(archive: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file in one of the archives."""
    with tarfile.open(folder() / archive) as reader:
        for entry in reader:
            if entry.isfile():
                content = reader.extractfile(entry)
                assert content is not None
                yield entry.name, content.read()
