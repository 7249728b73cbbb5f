"""The one command ends in one line, whatever stops it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from importlib.metadata import version
from types import SimpleNamespace

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


def test_a_daemon_that_does_not_hear_signals_yet_ends_quietly_at_ctrl_c(monkeypatch):
    def stop(_argv: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["exequatur", "ledger", "serve"])
    monkeypatch.setattr(sys, "flags", SimpleNamespace(isolated=1))
    monkeypatch.setattr(command, "imported", lambda _: SimpleNamespace(serve=stop))
    with pytest.raises(SystemExit) as left:
        command.main()
    assert left.value.code == 130


CTRL_C = "__import__('os').kill(__import__('os').getpid(), 2)"
MOMENTS = {
    "in a module": CTRL_C,
    "in a class that is being made": f"class Name:\n def __set_name__(*_): {CTRL_C}\nclass Owner:\n name = Name()",
    "where errors are lost": f"import weakref\ndef tell(_): {CTRL_C}\nn = set()\nr = weakref.ref(n, tell)\ndel n",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_while_a_program_is_imported_ends_it_quietly(tmp_path, moment):
    (tmp_path / "interrupted.py").write_text(f"{MOMENTS[moment]}\nprint('it went on')\n")
    code = "from exequatur.importing import imported; imported('interrupted')"
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_who_ignores_ctrl_c_goes_on_to(tmp_path):
    (tmp_path / "interrupted.py").write_text(f"{CTRL_C}\nprint('it went on')\n")
    code = (
        "import signal; signal.signal(2, signal.SIG_IGN)\n"
        "from exequatur.importing import imported; imported('interrupted')"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "it went on\n", "")


@pytest.mark.parametrize("program", [[], ["pdp"], ["ledger"], ["sidecar"], ["injector"]])
def test_every_program_says_its_version(program):
    command_line = [sys.executable, "-I", "-m", "exequatur", *program, "--version"]
    done = subprocess.run(command_line, capture_output=True, check=True, text=True)
    assert (done.stdout, done.stderr) == (f"exequatur {version('exequatur')}\n", "")
