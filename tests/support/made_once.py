"""What comes out the same each time is made once a test worker, by the part that makes it.

A WebAssembly module takes a quarter of a second of both cores to compile, and most tests judge by the same policy; the
command's verbs and options are read out of annotations each time that a test calls it; `opa` says its version.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest
import typer.testing
import wasmtime

from pdp.bundle import build
from pdp.engine import wasm

_compile, _engine, _version = wasm._compile, wasm._engine, build._check_version


@functools.lru_cache(maxsize=64)
def _code(module: bytes) -> bytes:
    return bytes(_compile(_engine(), module).serialize())


@functools.cache
def _version_once(opa: Path) -> str:
    return _version(opa)


def pytest_configure(config: pytest.Config) -> None:
    """Keep what was made, for as long as this worker lasts; what is refused is refused each time."""
    real, patch = os.environ.get("EXEQUATUR_OPA"), pytest.MonkeyPatch()
    patch.setattr(wasm, "_compile", lambda engine, module: wasmtime.Module.deserialize(engine, _code(module)))
    patch.setattr(build, "_check_version", lambda opa: (_version_once if str(opa) == real else _version)(opa))
    patch.setattr(typer.testing, "_get_command", functools.cache(typer.main.get_command))
    config.add_cleanup(patch.undo)
