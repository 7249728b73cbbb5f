"""What a process does not do, it does not import: most of a start is imports.

One fresh interpreter a process, asked what it has after its module is imported.
"""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from exequatur.importing import imported

NEEDLESS = {
    # The supervisor judges nothing, and serves gRPC to probes alone.
    "pdp.server": "grpc google.protobuf cedarpy wasmtime re2 yaml httpx2 sqlalchemy.dialects.postgresql",
    # The child that proves a bundle has no key, no store and no port.
    "pdp.bundle.proof": "grpc asyncio ssl cryptography joserfc sqlalchemy pydantic prometheus_client uvicorn wasmtime",
    # A worker gets its settings checked, and its supervisor serves HTTP; WebAssembly comes with a bundle that has Rego.
    "pdp.serving": "pydantic argparse uvicorn starlette click yaml wasmtime re2 httpx2 sqlalchemy.dialects.postgresql",
    "ledger.server": "sqlalchemy yaml cedarpy wasmtime httpx2",
    "sidecar.server": "sqlalchemy joserfc yaml cedarpy wasmtime httpx2",
    "sidecar.doors.mcp_stdio": "cryptography pydantic prometheus_client uvicorn starlette uvloop",
    "injector.server": "grpc google.protobuf sqlalchemy joserfc cedarpy",
}


@pytest.mark.parametrize("module", NEEDLESS)
def test_a_process_imports_nothing_that_it_does_not_need(module):
    script = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", script], check=True, capture_output=True, text=True)
    there = set(done.stdout.split())
    assert module in there
    assert not there & set(NEEDLESS[module].split())


def test_garbage_is_collected_again_after_an_import_that_fails():
    with pytest.raises(ModuleNotFoundError):
        imported("exequatur.nothing")
    assert gc.isenabled()
    assert imported("exequatur.version").__name__ == "exequatur.version"
    assert gc.isenabled()
