"""Become another program, one that ends when we do and has bounds; run by path, as a script.

    python -I -S opa_launch.py PARENT MEMORY PROGRAM ARGUMENT...

PARENT is the process that must be there, MEMORY the bytes of data that PROGRAM may have.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from typing import NoReturn

_PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> NoReturn:
    """Do it, or end when the parent has gone already."""
    parent, memory, *command = argv
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit(1)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = int(memory) if hard == resource.RLIM_INFINITY else min(int(memory), hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.execv(command[0], command)  # noqa: S606  no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
