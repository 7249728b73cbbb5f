"""Starts that are refused: each a process of its own, forked from one that has imported what the daemons import.

What a start costs is its imports; nothing but these is saved here. That a command line ends as this does, each file
that uses this shows for settings that are wrong (64), and `faults/test_bad_start.py` for what cannot be reached (69).
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from exequatur.__main__ import DAEMONS
from stack import Process

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(sorted({module for module, _ in DAEMONS.values() if module.endswith(".server")}))


def as_command(process: Process, code: int) -> str:
    """Start a daemon that has to end with `code` as people do; gives its one line of error."""
    done = subprocess.run(process.command, capture_output=True, text=True, timeout=60, env=_environ(), check=False)
    assert done.returncode == code, done.stderr
    return only_error(done.stderr)


def start(argv: Sequence[str], timeout_s: float = 60, **environ: str) -> tuple[int, str]:
    """Run `exequatur ARGV`, a daemon that has to end by itself; gives its exit code and its standard error."""
    env = _environ() | environ
    with tempfile.TemporaryDirectory(prefix="ex-") as folder:
        errors = Path(folder) / "errors"
        process = _FORKING.Process(target=_run, args=(tuple(argv), env, str(errors)))
        process.start()
        try:
            process.join(timeout_s)
            assert process.exitcode is not None, f"{argv} has not ended: {errors.read_text()}"
        finally:
            process.kill()
            process.join()
        return process.exitcode, errors.read_text()


def refusal(argv: Sequence[str], code: int, **environ: str) -> str:
    """Start a daemon that has to end with `code`; gives its one line of error."""
    ended, said = start(argv, **environ)
    assert ended == code, said
    return only_error(said)


def only_error(said: str) -> str:
    """Give the one line of error in what a daemon said, which must hold no traceback."""
    assert "Traceback" not in said
    assert '"traceback"' not in said
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, said
    return lines[0]


def _environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("EXEQUATUR_")}


def _run(argv: tuple[str, ...], env: Mapping[str, str], errors: str) -> None:
    file = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 2)
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115  whoever ran the tests captured it
    os.environ.clear()
    os.environ.update(env)
    module, function = DAEMONS[argv[:2]]
    sys.exit(getattr(importlib.import_module(module), function)(argv[2:]))
