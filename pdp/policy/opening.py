"""A folder of sources or a bundle, ready to be tried: what authors name on the command line.

Rules: a folder is built in memory, and `opa` is needed only for Rego; a bundle is taken as it is, and nobody asks who
signed it, since nothing that decides comes from here; the snapshot is in force whatever its dates say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from exequatur.trust.hashing import MANIFEST
from exequatur.trust.opened import unsafe_read_unsigned
from pdp.bundle import build, cases
from pdp.bundle.source import read_archive_file
from pdp.bundle.standing import standing
from pdp.engine.cedar import CedarEngine
from pdp.engine.snapshot import Snapshot
from pdp.engine.statements import read_statements
from pdp.policy.cedar_conditions import take_apart
from pdp.policy.cedar_probe import Probe
from pdp.policy.rego_source import ENGINES, Rego, laid_out


@dataclass(frozen=True, slots=True)
class Opened:
    """Files and what they compile to."""

    files: Mapping[str, bytes]
    snapshot: Snapshot
    opa: Path | None

    @property
    def cedar(self) -> CedarEngine | None:
        """The bundle's Cedar, if it has any."""
        return next((engine for _, engine in self.snapshot.engines if isinstance(engine, CedarEngine)), None)

    def probe(self) -> Probe:
        """Give the Cedar policies, taken apart."""
        return Probe(take_apart(statement) for statement in read_statements(self.files))

    @contextmanager
    def rego(self) -> Iterator[Rego | None]:
        """Lay the bundle's Rego out for `opa`; None where there is none. Raises `OpaError` where `opa` is missing."""
        spec = next((spec for spec, _ in self.snapshot.engines if spec.engine in ENGINES), None)
        if spec is None:
            yield None
            return
        with laid_out(self.files, spec.entrypoint, self.opa) as rego:
            yield rego


class Compiled:
    """Compiles Rego, and remembers the last result: most changes are to cases and to Cedar."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._key = b""
        self._module = b""

    def __call__(self, files: Mapping[str, bytes], entrypoint: str, opa: Path | None) -> bytes:
        """Do what `compile_rego` does."""
        key = hashlib.sha256(repr((entrypoint, sorted(_read_by_opa(files).items()))).encode()).digest()
        if key != self._key:
            self._module = build.compile_rego(files, entrypoint, opa)
            self._key = key
        return self._module


@contextmanager
def opened(path: Path, opa: Path | None, compiler: build.Compiler | None = None) -> Iterator[Opened]:
    """Open a folder or a bundle; an engine `opa` has its server while the context lasts.

    Raises `PolicyError`, `TrustError`, `OpaError`, and `OSError` for what cannot be read.
    """
    if path.is_dir():
        _, bundle = build.assemble(build.read_folder(path), opa, compiler)
    else:
        bundle = replace(unsafe_read_unsigned(read_archive_file(path)), signed=True)
    with standing(bundle, opa) as snapshot:
        yield Opened(bundle.files, cases.in_force(snapshot), opa)


def _read_by_opa(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name.endswith((".rego", ".json", MANIFEST))}
