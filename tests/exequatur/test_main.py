"""The one command ends in one line, whatever stops it."""

from __future__ import annotations

import errno
import subprocess
import sys
from importlib.metadata import version

import pytest

from exequatur import __main__ as command
from exequatur.cli import app as cli


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt(), 130),
        (OSError(errno.ENOSPC, "No space left on device"), "error: no space left on device"),
    ],
)
def test_no_traceback_for_ctrl_c_or_an_answer_that_cannot_be_written(monkeypatch, error, said):
    def stop() -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["exequatur", "policy", "check", "x"])
    monkeypatch.setattr(cli, "command", lambda _: stop)
    with pytest.raises(SystemExit) as left:
        command.main()
    assert left.value.code == said


@pytest.mark.parametrize("program", [[], ["pdp"], ["ledger"], ["sidecar"], ["injector"]])
def test_every_program_says_its_version(program):
    command_line = [sys.executable, "-I", "-m", "exequatur", *program, "--version"]
    done = subprocess.run(command_line, capture_output=True, check=True, text=True)
    assert (done.stdout, done.stderr) == (f"exequatur {version('exequatur')}\n", "")
