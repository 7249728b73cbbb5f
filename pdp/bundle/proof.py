"""The child in which a bundle is proved: it compiles the policy, runs the cases, and says how that went.

Rules: it has bounds, and nothing to lose; who signed the bundle, and for whom, its parent has seen, so it needs no key
and nothing that checks signatures.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from exequatur.trust.archive import LIMITS
from exequatur.trust.errors import TrustError
from exequatur.trust.opened import unsafe_read_unsigned
from pdp.bundle import cases
from pdp.bundle.standing import standing
from pdp.engine.manifest import WASM
from pdp.engine.reading import PolicyError

NICE: Final = 10
"""How much the process that proves gives way to those that judge."""


def prove_main(argv: Sequence[str]) -> int:
    """Be the child: read an archive from standard input, answer with a line of JSON and the compiled module.

    `argv` holds the limits, CPU seconds and bytes of memory, and the path of `opa` or nothing.
    """
    # Native libraries may write to standard output; the answer has a way of its own.
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    cpu_s, memory_bytes, opa_binary = int(argv[0]), int(argv[1]), Path(argv[2]) if argv[2:] else None
    # Only a server has to be given a file.
    _limit(cpu_s, memory_bytes, LIMITS.unpacked_bytes if opa_binary else 0)
    try:
        header, module = _prove_here(sys.stdin.buffer.read(), opa_binary)
    except (PolicyError, TrustError) as error:
        header, module = {"rejected": str(error)}, b""
    except (MemoryError, RecursionError):
        header, module = {"rejected": f"it needs more than {memory_bytes // 2**20} MiB to be proved"}, b""
    with answer:
        answer.write(json.dumps(header).encode() + b"\n" + module)
    return 0


def _prove_here(data: bytes, opa_binary: Path | None) -> tuple[dict[str, Any], bytes]:
    # Whether and for whom it is signed, the parent has seen; here it is about what is inside.
    bundle = replace(unsafe_read_unsigned(data), signed=True)
    wasm = bundle.files.get(WASM)
    module = _compiled(wasm) if wasm is not None else b""
    with standing(bundle, opa_binary, wasm_module=module or None) as snapshot:
        results = cases.run(bundle.files, snapshot)
    if results.failures:
        count = f"{len(results.failures)} of {results.total} cases failed: "
        return {"rejected": count + str(results.failures[0])}, b""
    return {"cases": results.total}, module


def _compiled(wasm: bytes) -> bytes:
    from pdp.engine.rego import compile_module  # noqa: PLC0415 - as in `snapshot.py`

    return compile_module(wasm)


def _limit(cpu_s: int, memory_bytes: int, file_bytes: int = 0) -> None:
    """Bound this process. Address space is left alone: wasmtime reserves gigabytes that it never touches."""
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))  # first a signal that says why, then one that is sure
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
