"""The agent's program is put where it finds its doors, whole, and where nobody else can put another."""

from __future__ import annotations

import stat
import sys
import tempfile
from pathlib import Path

import pytest

import containers
from exequatur.transport import ListenError
from sidecar import program

PUT = """
import sys
from pathlib import Path
from sidecar import program
target = Path(sys.argv[1])
program.put(target)
print([path.name for path in target.parent.iterdir()], oct(target.stat().st_mode))
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """What our image has beside our Python."""
    source = tmp_path / "opt" / "exequatur-mcp"
    source.parent.mkdir()
    source.write_bytes(b"#!/bin/sh\necho joined\n")
    monkeypatch.setattr(sys, "executable", str(source.with_name("python")))
    return source


def test_it_is_for_everybody_to_run_and_for_nobody_to_change(tmp_path, installed, monkeypatch):
    target = tmp_path / "bin" / "exequatur-mcp"
    for text in (
        b"#!/bin/sh\necho joined\n",
        b"#!/bin/sh\necho newer\n",
    ):  # a container starts again, with another image
        installed.write_bytes(text)
        program.put(target)
        assert target.read_bytes() == text
        assert [path.name for path in target.parent.iterdir()] == ["exequatur-mcp"]
        assert stat.S_IMODE(target.stat().st_mode) == 0o555
        assert stat.S_IMODE(target.parent.stat().st_mode) == 0o711
    monkeypatch.setenv("EXEQUATUR_SHIM", str(installed))
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    program.put(target)


def test_it_is_not_put_where_another_can_replace_it(tmp_path, installed):
    folder = tmp_path / "bin"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ListenError, match="writable by nobody else"):
        program.put(folder / "exequatur-mcp")
    assert not list(folder.iterdir())


def test_a_volume_is_ours_whatever_its_mode_is(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="ex-") as name:
        Path(name).chmod(0o755)
        installed, target = Path(name) / "installed", Path(name) / "bin" / "exequatur-mcp"
        installed.write_bytes(b"#!/bin/sh\n")
        target.parent.mkdir()
        monkeypatch.setenv("EXEQUATUR_SHIM", str(installed))
        start = containers.volume(target.parent, containers.SIDECAR)
        assert containers.python(PUT, target, start=start) == "['exequatur-mcp'] 0o100555"


def test_without_it_there_is_nothing_to_put(tmp_path, installed):
    installed.unlink()
    with pytest.raises(ListenError, match=r"is not there to be put at .*: install it, or leave out --shim"):
        program.put(tmp_path / "bin" / "exequatur-mcp")
