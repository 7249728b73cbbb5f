"""From a proved bundle's bytes to a snapshot that judges.

Rules: whoever serves verifies the bytes again; who loads does not keep others waiting.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from exequatur.trust.bundle import Floor
from exequatur.trust.errors import TrustError
from exequatur.trust.keys import BundleKeys
from pdp.bundle.proving import BundleRejected
from pdp.bundle.source import open_bundle, read_archive_file
from pdp.engine.opa_engine import Server
from pdp.engine.reading import PolicyError
from pdp.engine.snapshot import Snapshot

TURN_S: Final = 0.0002
"""How long a thread that loads keeps others waiting: judging takes its turn some dozens of times a round, and 5 ms each
time, which is what Python gives, would make it a hundred times slower."""

PAUSE_S: Final = 0.003
"""How long a thread that loads rests between two pieces of its work: ten thousand policies take a second longer."""

_LOADING: Final = threading.Lock()


def load(
    path: Path,
    keys: BundleKeys | None,
    *,
    now: datetime,
    tenant: str = "default",
    floor: Floor | None = None,
    wasm_module: bytes | None = None,
    server: Server | None = None,
) -> Snapshot:
    """Read, verify and compile a bundle that was proved before. Raises `BundleRejected`."""
    try:
        with _beside_others():
            bundle = open_bundle(read_archive_file(path), keys, now=now, tenant=tenant, floor=floor)
            return Snapshot.load(bundle, wasm_module=wasm_module, server=server, proved=True, pause=_pause)
    except (TrustError, PolicyError) as error:
        raise BundleRejected(str(error)) from None


@contextmanager
def _beside_others() -> Iterator[None]:
    """Let other threads of this process have their turn often while this one loads; one loads at a time."""
    with _LOADING:
        usual = sys.getswitchinterval()
        sys.setswitchinterval(TURN_S)
        gc.disable()
        try:
            yield
        finally:
            # What was loaded stays until it is replaced: nothing in it needs to be looked through for garbage.
            gc.freeze()
            gc.enable()
            sys.setswitchinterval(usual)


def _pause() -> None:
    time.sleep(PAUSE_S)
