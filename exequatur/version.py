"""`--version`: what is installed, in one line, without starting anything."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version


def main(_: Sequence[str]) -> int:
    """Print it; returns the exit code."""
    sys.stdout.write(f"exequatur {version('exequatur')}\n")
    return 0
