"""A bundle that is tried here, by whatever engines it lists."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from exequatur.trust.opened import VerifiedBundle
from pdp.engine import opa
from pdp.engine.reading import PolicyError
from pdp.engine.snapshot import Snapshot

CASE_S: Final = 5.0
"""How long the OPA server may take over one case, in seconds: a machine that builds may have other work."""


@contextmanager
def standing(
    bundle: VerifiedBundle, opa_binary: Path | None, *, wasm_module: bytes | None = None
) -> Iterator[Snapshot]:
    """Compile a bundle to be tried here; one that lists the engine `opa` has a server while the context lasts.

    Raises `PolicyError`, also when it needs `opa` and there is none.
    """
    if not opa.entrypoint_of(bundle.files):
        yield Snapshot.load(bundle, wasm_module=wasm_module)
        return
    if opa_binary is None:
        raise PolicyError("the engine `opa` needs the program `opa`, which is not here: `EXEQUATUR_OPA` names it")
    opa.check_revision(bundle.files)
    try:
        from pdp import opa_server  # noqa: PLC0415 - as below
        from pdp.opa import Connection  # noqa: PLC0415 - a third of a second, for those who use it
    except ModuleNotFoundError:
        raise PolicyError("the engine `opa` needs `opa-python-client`: install `exequatur[opa]`") from None

    with opa_server.temporary(bundle.files, opa_binary) as address:
        connection = Connection(address, timeout_s=CASE_S)
        try:
            yield Snapshot.load(bundle, wasm_module=wasm_module, server=connection)
        finally:
            connection.close()
