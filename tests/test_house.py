"""The rules of the house that a reader would otherwise have to remember."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("exequatur", "pdp", "sidecar", "ledger", "injector")
MODULES = [
    path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    if "v1" not in path.parts and "starter" not in path.parts
]


def test_a_daemon_starts_without_what_only_people_need():
    """One process imports them one after another: what the last one has not loaded, none has."""
    daemons = (
        "sidecar.doors.mcp_stdio",
        "sidecar.server",
        "injector.server",
        "ledger.server",
        "pdp.server",
        "pdp.supervisor",
    )
    script = (
        f"import importlib, sys\nfor name in {daemons}:\n    importlib.import_module(name)\n"
        "    print(name, [heavy for heavy in ('typer', 'rich', 'mcp', 'hypothesis') if heavy in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{name} []" for name in daemons]


def test_the_sdk_alone_needs_no_extra():
    heavy = ("typer", "starlette", "uvicorn", "sqlalchemy", "cedarpy", "wasmtime", "pydantic", "yaml")
    script = f"import sys, exequatur.client; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_what_it_is_for(path):
    text = path.read_text()
    assert re.match(r'r?"""[^\s"]', text)
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", text)
    assert text.count("\n") <= 480, "which two things is it?"


def test_no_start_passes_a_secret_or_a_shell():
    for path in MODULES:
        assert "shell=True" not in path.read_text(), path


def test_dependencies_are_pinned_by_hash():
    for name in ("demo", "dev"):
        text = (ROOT / "requirements" / f"{name}.txt").read_text()
        pins = re.findall(r"^[a-z0-9][^\s=]*==", text, re.MULTILINE)
        assert len(pins) > 30
        assert text.count("--hash=sha256:") >= len(pins)
