"""What agents run to reach their MCP doors, `exequatur-mcp`, and the folders in which they find it and the doors.

Rule: who can write to such a folder decides what the agent runs, or whom it reaches. It is ours alone, or a volume that
nobody else has for writing.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Final

from exequatur import sockets

PROGRAM: Final = "exequatur-mcp"
"""It is installed beside our Python, or where EXEQUATUR_SHIM says."""


def put(target: Path) -> None:
    """Copy the program to `target`, whole or not at all. Raises `ListenError`, `OSError`."""
    source = Path(os.environ.get("EXEQUATUR_SHIM") or Path(sys.executable).with_name(PROGRAM))
    if not source.is_file():
        raise sockets.ListenError(f"`{source}` is not there to be put at `{target}`: install it, or leave out --shim")
    own(target.parent)
    fresh = target.with_name(f".{target.name}.new")
    shutil.copyfile(source, fresh)
    fresh.chmod(0o555)
    fresh.replace(target)


def own(folder: Path) -> None:
    """See that nobody can put anything in the place of what is ours in `folder`. Raises `ListenError`, `OSError`."""
    # In a pod the folder is a volume, which is everybody's who has it for writing: us alone. `/tmp` is no such thing.
    if not folder.is_mount() or folder.stat().st_mode & stat.S_ISVTX:
        sockets.own_folder(folder, make=True)
