"""Before a bundle may serve: verified here, then compiled and tried in a child process (`proof.py`).

Rules: the bytes that were verified are the bytes that are proved; what a bundle can do to a process (crash it, hang it,
eat its memory) it does to a child that has bounds and nothing to lose; every way in which that ends but one is a
refusal that names its reason.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from exequatur.trust.bundle import Floor
from exequatur.trust.canonical import Json, JsonError, parse
from exequatur.trust.errors import TrustError
from exequatur.trust.keys import BundleKeys
from exequatur.trust.opened import VerifiedBundle
from pdp.bundle.source import open_bundle
from pdp.engine.reading import sentence


class BundleRejected(Exception):  # noqa: N818  a verdict on a bundle, not an error of ours
    """A bundle that does not serve, and why, in one sentence."""


class NotProved(BundleRejected):
    """The machine did not get to the end of the proof: it says little about the bundle, and is tried again."""


@dataclass(frozen=True, slots=True)
class ProofLimits:
    """What proving one bundle may use."""

    wall_s: float = 120.0
    """Four times the processor time: what never ends must be refused for that, and not tried again for ever."""
    cpu_s: int = 30
    """The largest bundle that we have seen needs 3 s; a slow machine, a few times that."""
    memory_bytes: int = 2 * 2**30
    """Data that is not shared. Compiling a policy of 5 MB takes 300 MB."""


@dataclass(frozen=True, slots=True)
class Proven:
    """A bundle that may serve: its bytes, what they are, and its Rego as this machine's code.

    `wasm_module` is None where there is no Rego. It is code: give it to processes of ours alone.
    """

    data: bytes
    bundle: VerifiedBundle
    wasm_module: bytes | None
    cases: int

    @property
    def digest(self) -> bytes:
        """SHA-256 of the uncompressed tar, 32 bytes."""
        return self.bundle.digest

    @property
    def sequence(self) -> int:
        """The signed sequence; 0 where nobody signed."""
        return self.bundle.sequence


@dataclass(frozen=True, slots=True)
class Kept:
    """A proven bundle on disk, for those who serve it."""

    bundle: Path
    module: Path | None


PROOF_LIMITS: Final = ProofLimits()


def prove(
    data: bytes,
    keys: BundleKeys | None,
    *,
    now: datetime,
    tenant: str = "default",
    floor: Floor | None = None,
    limits: ProofLimits = PROOF_LIMITS,
    opa_binary: Path | None = None,
) -> Proven:
    """Verify an archive, then compile it and run its cases in a child process; blocks for a second, or the limit.

    `keys` None takes what nobody signed; `opa_binary` is needed where the bundle lists the engine `opa`. Raises
    `BundleRejected`.
    """
    try:
        bundle = open_bundle(data, keys, now=now, tenant=tenant, floor=floor)
    except TrustError as error:
        raise BundleRejected(str(error)) from None
    header, module = _ask_child(data, limits, opa_binary)
    match header:
        case {"rejected": str(reason)}:
            raise BundleRejected(reason)
        case {"cases": int(count)}:
            return Proven(data, bundle, module or None, count)
    raise BundleRejected("the process that proved the bundle said what is no answer")


def keep(proven: Proven, folder: Path) -> Kept:
    """Write a proven bundle where workers find it, named by its digest; raises `OSError`.

    `folder` must be ours alone: who can write there can run code as us.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = proven.digest.hex()
    bundle = _write(folder / f"{name}.tar.gz", proven.data)
    if proven.wasm_module is None:
        return Kept(bundle, None)
    return Kept(bundle, _write(folder / f"{name}.module", proven.wasm_module))


def _ask_child(data: bytes, limits: ProofLimits, opa_binary: Path | None) -> tuple[Json, bytes]:
    """Run the child, and give its line of JSON and what follows it."""
    child = [sys.executable, "-I", "-m", "exequatur", "pdp", "prove"]
    command = [*child, str(limits.cpu_s), str(limits.memory_bytes), *([] if opa_binary is None else [str(opa_binary)])]
    # What others have put into our environment is none of the bundle's business.
    environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    try:
        # What it leaves behind when it is killed is in a folder of ours.
        with tempfile.TemporaryDirectory(prefix="exequatur-proof-") as folder:
            environment["TMPDIR"] = folder
            done = subprocess.run(
                command, input=data, capture_output=True, timeout=limits.wall_s, env=environment, check=False
            )
    except subprocess.TimeoutExpired:
        raise NotProved(f"it was not proved within {limits.wall_s:g} s") from None
    except OSError as error:
        raise NotProved(f"no process to prove it: {(error.strerror or str(error)).lower()}") from None
    if done.returncode == -signal.SIGXCPU:
        raise BundleRejected(f"it used more than {limits.cpu_s} s of processor time to be proved")
    if done.returncode == -signal.SIGKILL:  # no limit of ours ends so: it was the machine, whose memory ran out, say
        raise NotProved("the process that proved it was killed by somebody else: has this machine memory enough")
    if done.returncode < 0:
        raise BundleRejected(f"the bundle killed the process that proved it (signal {-done.returncode})")
    line, newline, module = done.stdout.partition(b"\n")
    if done.returncode != 0 or not newline:
        said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise BundleRejected(
            f"the process that proved the bundle ended with exit code {done.returncode}: {sentence(said) or 'silently'}"
        )
    try:
        return parse(line), module
    except JsonError:
        return None, b""


def _write(path: Path, data: bytes) -> Path:
    """Write a file whole or not at all, for our eyes alone."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            Path(file.name).replace(path)
        except OSError:
            Path(file.name).unlink(missing_ok=True)
            raise
    return path
