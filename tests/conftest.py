"""The same surroundings for every test: programs where `make` has put them, unless the environment says otherwise."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

pytest_plugins = ["postgres", "made_once"]

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ["COLUMNS"] = "140"  # as wide as a terminal, whoever runs the tests
# Hundreds of files are compiled once, not by each worker of each run, nor by each process that a test starts.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
for _name in (
    "opa-1.22.0",
    "caddy-2.11.9",
    "registry-3.1.2",
    "oras-1.2.3",
    "helm-4.3.1",
    "kube-score-1.20.0",
    "etcd-3.7.3",
    "kube-apiserver-1.36.3",
    "promtool-2.42.0",
):
    _variable = f"EXEQUATUR_{_name.rpartition('-')[0].upper().replace('-', '_')}"
    os.environ.setdefault(_variable, str(_CACHE / "exequatur" / "bin" / _name))
os.environ.setdefault("EXEQUATUR_HELM_3", str(_CACHE / "exequatur" / "bin" / "helm-3.22.0"))

_LONG = ("tests/test_docs.py", "tests/exequatur/cli/test_demo.py", "tests/faults/", "tests/e2e/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long, so that none of them runs alone at the end."""
    items.sort(key=lambda item: next((i for i, name in enumerate(_LONG) if item.nodeid.startswith(name)), len(_LONG)))
