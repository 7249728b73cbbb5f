"""Other processes of this machine as `/proc` shows them, where each may end, or begin a thread, between two looks."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def children(pid: int, word: str = "") -> list[int]:
    """Give the ids of a process's children, whichever of its threads began them, whose command line holds `word`."""
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += [int(child) for child in (task / "children").read_text().split()]
    return sorted(child for child in found if not word or word.encode() in command_line(child))


def named(word: str) -> set[int]:
    """Give the ids of all processes, whoever's they are, whose command line holds `word`."""
    return {pid for path in Path("/proc").glob("[0-9]*") if word.encode() in command_line(pid := int(path.name))}


def command_line(pid: int) -> bytes:
    """Give the arguments of a process, each before a zero byte; nothing when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def runs(pid: int) -> bool:
    """Say whether a process runs; one that has ended and waits to be collected does not."""
    return _state(Path(f"/proc/{pid}")) not in ("", "Z", "X")


def freeze(pid: int) -> None:
    """Have a process stand still, and wait until it does: a signal takes its time to reach all threads."""
    from stack import until

    os.kill(pid, signal.SIGSTOP)
    until(lambda: all(_state(task) in "TZX" for task in Path(f"/proc/{pid}/task").iterdir()), what="standstill")


def _state(of: Path) -> str:
    """Give the letter of a process or a thread as proc(5) has it; nothing when it has gone."""
    try:
        return (of / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
