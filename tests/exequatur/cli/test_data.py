"""The development bundle is found where the command is: in the tree, and in a wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from exequatur.cli import data

ROOT = Path(__file__).parents[3]


def test_in_the_tree_it_is_the_trees_own():
    assert data.data_dir() == ROOT / "bundles"


def test_a_wheel_carries_the_same_bytes_and_no_private_key(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    ask = "import sys; sys.path.insert(0, sys.argv[1]); from exequatur.cli import data; print(data.data_dir())"
    done = subprocess.run([sys.executable, "-I", "-c", ask, tmp_path], check=True, capture_output=True, text=True)
    found = Path(done.stdout.strip())
    assert found == tmp_path / "exequatur" / "data"
    for name in ("coding-agent.tar.gz", "keys/dev-never-in-production.pem"):
        assert (found / name).read_bytes() == (ROOT / "bundles" / name).read_bytes()
    for schema in (ROOT / "exequatur" / "schemas").glob("*.json"):
        assert (tmp_path / "exequatur" / "schemas" / schema.name).read_bytes() == schema.read_bytes()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"PRIVATE KEY-----\n" in path.read_bytes()]


def test_a_broken_installation_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(data, "__file__", str(tmp_path / "exequatur" / "cli" / "data.py"))
    with pytest.raises(FileNotFoundError, match="install it again"):
        data.data_dir()
