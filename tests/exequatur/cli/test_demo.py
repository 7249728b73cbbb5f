"""The demo tells its story on real processes, and leaves nothing: at its end, at Ctrl-C, at any moment."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from exequatur.cli.demo import MAX_STEPS, STORY

FOLDERS = "exequatur-*-*"


def start(mark: str, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-I", "-m", "exequatur", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200", "DEMO_MARK": mark, **environ},
        start_new_session=True,
    )


def running(mark: str) -> list[str]:
    """The command lines of all processes that have our mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"DEMO_MARK={mark}".encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append((path / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def folders(process: subprocess.Popen[str]) -> list[Path]:
    return list(Path("/tmp").glob(f"exequatur-*-{process.pid}-*"))


@pytest.fixture
def mark() -> str:
    return uuid.uuid4().hex


def wait_until(process: subprocess.Popen[str], condition) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def test_the_story_has_every_effect_and_ends_at_the_step_cap():
    assert {call.effect for call in STORY} == {"allow", "warn", "require_approval", "deny"}
    assert len(STORY) >= 12
    assert sum(call.effect in ("allow", "warn") for call in STORY) == MAX_STEPS
    assert STORY[-1].why == "exhausted"


def test_it_runs_shows_what_was_decided_and_leaves_nothing(mark):
    process = start(mark)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    for call in STORY:
        assert call.tool in out
    assert len(re.findall(r"^ *\d+ +git_", out, re.MULTILINE)) == len(STORY)
    assert "files.secret" in out
    assert re.search(r"git_reset +require +git\.reset", out)
    assert "The ledger verifies" in out
    assert "not-a-real-one" not in out
    assert running(mark) == []
    assert folders(process) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["pdp serve", "mcp_server_git"])
def test_a_signal_at_any_moment_leaves_nothing(mark, number, moment):
    process = start(mark)
    wait_until(process, lambda: any(moment in line for line in running(mark)))
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    assert running(mark) == []
    assert folders(process) == []


def test_an_impatient_second_signal_leaves_nothing_either(mark):
    process = start(mark)
    wait_until(process, lambda: any("mcp_server_git" in line for line in running(mark)))
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)  # the second one is to fall into the stopping, wherever that is
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert running(mark) == []
    assert folders(process) == []


def test_a_daemon_that_does_not_start_is_one_clear_line(mark):
    process = start(mark)
    wait_until(process, lambda: any("pdp serve" in line for line in running(mark)))
    for path in Path("/proc").glob("[0-9]*"):
        try:
            mine = f"DEMO_MARK={mark}".encode() in (path / "environ").read_bytes()
            if mine and b"pdp\0serve" in (path / "cmdline").read_bytes():
                os.kill(int(path.name), signal.SIGKILL)
        except OSError:
            continue
    out, err = process.communicate(timeout=60)
    assert process.returncode == 69
    assert re.fullmatch(r"error: the decision point ended with code -9: .*", err.strip())
    assert out == ""
    assert running(mark) == []
    assert folders(process) == []


def test_a_missing_git_is_one_clear_line(mark):
    process = start(mark, PATH="/nowhere")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 69
    assert err.strip() == "error: `git` is not on the path: install it from your packages"
    assert out == ""
