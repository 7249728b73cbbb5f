"""The demo tells its story on real processes, and leaves nothing: at its end, at Ctrl-C, at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import typer

from exequatur.cli import demo, demo_stage
from exequatur.cli.demo import MAX_STEPS, STORY, House
from exequatur.cli.demo_stage import Stage, free_ports
from logs import VERIFIER_KEY, make_log
from pages import AUDIT, walk
from processes import children, command_line, runs
from stack import until


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


def folders(pid: int | str = "*") -> list[Path]:
    return list(Path("/tmp").glob(f"exequatur-*-{pid}-*"))


def descendants(pid: int) -> list[int]:
    return [found for child in children(pid) for found in (child, *descendants(child))]


@pytest.fixture
def mark() -> str:
    return uuid.uuid4().hex


def has_begun(process: subprocess.Popen[str], moment: str) -> bool:
    assert process.poll() is None, process.communicate()
    return any(moment.encode() in command_line(pid).replace(b"\0", b" ") for pid in descendants(process.pid))


def wait_for(process: subprocess.Popen[str], moment: str) -> None:
    until(lambda: has_begun(process, moment), 120, moment, every_s=0.05)


def test_the_story_has_every_effect_and_ends_at_the_step_cap():
    assert {call.effect for call in STORY} == {"allow", "warn", "require_approval", "deny"}
    assert len(STORY) >= 12
    assert sum(call.effect in ("allow", "warn") for call in STORY) == MAX_STEPS
    assert STORY[-1].why == "exhausted"


def test_its_ports_are_given_to_nobody_else_before_the_daemons_listen():
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert max(ports) < first or first < 32_768  # Linux's own is 32768; a machine that begins lower has no such ports


def test_ports_that_are_taken_are_not_given(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setattr(demo_stage, "_PORTS", range(port, port + 1))
        assert free_ports(1) == []
    assert free_ports(1) == [port]


def test_it_runs_as_its_page_says_shows_what_was_decided_and_leaves_nothing(mark):
    before = folders()
    out, ended, _ = walk(AUDIT, COLUMNS="200", DEMO_MARK=mark)[0].partition("Nothing is running any more")
    assert ended
    for call in STORY:
        assert call.tool in out
    assert len(re.findall(r"^ *\d+ +git_", out, re.MULTILINE)) == len(STORY)
    assert "files.secret" in out
    assert re.search(r"git_reset +require +git\.reset", out)
    assert "The ledger verifies" in out
    assert "not-a-real-one" not in out
    assert running(mark) == []
    assert [left for left in folders() if left not in before and not runs(int(left.name.split("-")[2]))] == []


def test_without_a_folder_to_keep_it_ends_all_the_same_and_tells_of_calls_that_no_record_is_of(
    monkeypatch, tmp_path, capsys
):
    """All that is not played here is real: the stage, the log that was written, and what is made of it."""
    house = House("", None, tmp_path, make_log(tmp_path / "log", 0), VERIFIER_KEY)

    async def start(_stage):
        return house

    async def play(*_):
        return []

    monkeypatch.setattr(demo, "_start", start)
    monkeypatch.setattr(demo, "_play", play)
    with pytest.raises(typer.Exit) as ended:
        demo.demo(None)
    assert ended.value.exit_code == 1
    out, err = capsys.readouterr()
    assert "The ledger verifies" in out
    assert "Nothing is running any more, and nothing was left behind." in out
    assert f"{len(STORY)} calls were made, 0 are on record" in err
    assert folders(os.getpid()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["_play", "stop"])
def test_a_signal_that_somebody_keeps_to_themselves_ends_it_all_the_same(monkeypatch, tmp_path, capsys, number, moment):
    """As `asyncio.wait_for` of Python 3.11 does when what it waits for is done at the same moment."""
    house = House("", None, tmp_path, make_log(tmp_path / "log", 0), VERIFIER_KEY)

    async def start(_stage):
        return house

    async def play(*_):
        return []

    async def keep_it(*_):
        with contextlib.suppress(asyncio.CancelledError):
            os.kill(os.getpid(), number)
            await asyncio.sleep(60)
        return []

    monkeypatch.setattr(demo, "_start", start)
    monkeypatch.setattr(demo, "_play", play)
    monkeypatch.setattr(demo if moment == "_play" else Stage, moment, keep_it)
    with pytest.raises(typer.Exit) as ended:
        demo.demo(tmp_path / "kept")
    assert ended.value.exit_code == 130
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "kept").exists()
    assert folders(os.getpid()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["pdp serve", "mcp_server_git"])
def test_a_signal_at_any_moment_leaves_nothing(mark, number, moment):
    process = start(mark)
    wait_for(process, moment)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopped; nothing is left running" in err
    assert "Traceback" not in out + err
    assert running(mark) == []
    assert folders(process.pid) == []


def test_an_impatient_second_signal_leaves_nothing_either(mark):
    process = start(mark)
    wait_for(process, "mcp_server_git")
    process.send_signal(signal.SIGINT)
    until(lambda: not children(process.pid, "sidecar\0mcp"), 30, "the stopping")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode
    assert running(mark) == []
    assert folders(process.pid) == []


def test_a_daemon_that_does_not_start_is_one_clear_line(mark):
    process = start(mark)
    wait_for(process, "pdp serve")
    for pid in children(process.pid, "pdp\0serve"):
        os.kill(pid, signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 69
    assert re.fullmatch(r"error: the decision point ended with code -9: .*", err.strip())
    assert out == ""
    assert running(mark) == []
    assert folders(process.pid) == []


def test_a_missing_git_is_one_clear_line(mark):
    process = start(mark, PATH="/nowhere")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 69
    assert err.strip() == "error: `git` is not on the path: install it from your packages"
    assert out == ""
