"""Importing what a process runs: once, and for as long as it lives."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import threading
from types import FrameType, ModuleType
from typing import Final

INTERRUPTED: Final = 130
"""The exit code that shells know for Ctrl-C."""


def imported(module: str) -> ModuleType:
    """Import what stays until the process ends: to look through it for garbage takes an eighth of a start.

    Ctrl-C meanwhile ends the process, without a word: nothing is begun yet. Raises as an import does.
    """
    ours = threading.current_thread() is threading.main_thread()
    # A `KeyboardInterrupt` would be lost in a weak reference's callback, of which importing has many, and would become
    # another error in a class that is being made.
    guards = ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    gc.disable()
    try:
        if guards:
            signal.signal(signal.SIGINT, _leave)
        return importlib.import_module(module)
    finally:
        gc.freeze()
        gc.enable()
        if guards:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)
