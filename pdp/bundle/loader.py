"""From a bundle's bytes to a snapshot that may serve: verified, proved in a child process, compiled.

Rules: the bytes that were verified are the bytes that are proved; what a bundle can do to a process (crash it, hang it,
eat its memory) it does to a child that has bounds and nothing to lose; every way in which that ends but one is a
refusal that names its reason; whoever serves verifies the bytes again.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from exequatur.trust.archive import LIMITS
from exequatur.trust.bundle import Floor, VerifiedBundle, unsafe_read_unsigned
from exequatur.trust.canonical import Json, JsonError, parse
from exequatur.trust.errors import TrustError
from exequatur.trust.keys import BundleKeys
from pdp import opa_server
from pdp.bundle import cases
from pdp.bundle.source import open_bundle, read_archive_file
from pdp.engine import opa, rego
from pdp.engine.reading import PolicyError, sentence
from pdp.engine.snapshot import Snapshot


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

TURN_S: Final = 0.0002
"""How long a thread that loads keeps others waiting: judging takes its turn some dozens of times a round, and 5 ms each
time, which is what Python gives, would make it a hundred times slower."""

PAUSE_S: Final = 0.003
"""How long a thread that loads rests between two pieces of its work: ten thousand policies take a second longer."""

NICE: Final = 10
"""How much the process that proves gives way to those that judge."""

_LOADING: Final = threading.Lock()

CASE_S: Final = 5.0
"""How long the OPA server may take over one case, in seconds: a machine that builds may have other work."""


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


def load(
    path: Path,
    keys: BundleKeys | None,
    *,
    now: datetime,
    tenant: str = "default",
    floor: Floor | None = None,
    wasm_module: bytes | None = None,
    server: opa.Server | None = None,
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
        from pdp.opa import Connection  # noqa: PLC0415 - a third of a second, for those who use it
    except ModuleNotFoundError:
        raise PolicyError("the engine `opa` needs `opa-python-client`: install `exequatur[opa]`") from None

    with opa_server.temporary(bundle.files, opa_binary) as address:
        connection = Connection(address, timeout_s=CASE_S)
        try:
            yield Snapshot.load(bundle, wasm_module=wasm_module, server=connection)
        finally:
            connection.close()


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
    wasm = bundle.files.get(rego.FILE)
    module = rego.compile_module(wasm) if wasm is not None else b""
    with standing(bundle, opa_binary, wasm_module=module or None) as snapshot:
        results = cases.run(bundle.files, snapshot)
    if results.failures:
        count = f"{len(results.failures)} of {results.total} cases failed: "
        return {"rejected": count + str(results.failures[0])}, b""
    return {"cases": results.total}, module


def _limit(cpu_s: int, memory_bytes: int, file_bytes: int = 0) -> None:
    """Bound this process. Address space is left alone: wasmtime reserves gigabytes that it never touches."""
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))  # first a signal that says why, then one that is sure
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


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
