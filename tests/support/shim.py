"""The agent's program, made by this machine's compiler as the image makes it."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "sidecar" / "shim" / "exequatur-mcp.c"


def build(folder: Path) -> Path:
    """Compile it into `folder`; a warning is an error."""
    program = folder / "exequatur-mcp"
    flags = ("-std=c11", "-O2", "-static", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
    subprocess.run(["cc", *flags, str(SOURCE), "-o", str(program)], check=True)
    return program
