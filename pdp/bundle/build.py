"""A folder of policy, made into the files of a bundle.

Rules: nothing of the machine goes in (no times, no paths, no owners), so that two builds of the same sources by the
same `opa` are the same bytes; what is generated is never taken from the sources; a bundle that could not be served, or
whose cases do not come true, is not built.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from exequatur.registry import Registry, RegistryError
from exequatur.trust.archive import LIMITS, BundleLimits, write_archive
from exequatur.trust.canonical import Json, JsonError, parse
from exequatur.trust.errors import TrustError
from exequatur.trust.hashing import MANIFEST, SIGNATURES
from exequatur.trust.opened import VerifiedBundle, unsafe_read_unsigned
from pdp.bundle import cases
from pdp.bundle.standing import standing
from pdp.engine import cedar, inventory, manifest, rego
from pdp.engine import opa as opa_engine
from pdp.engine.inventory import Agents
from pdp.engine.manifest import Manifest
from pdp.engine.reading import BUNDLE_JSON, PolicyError
from pdp.engine.schema import cedar_schema
from pdp.engine.snapshot import DATA_FILE, TOOLS_FILE
from pdp.opa_server import fault

OPA_VERSION: Final = "1.22.0"
"""By which bundles are built: another one may make another `policy.wasm` of the same sources."""
OPA_SOURCE: Final = f"github.com/open-policy-agent/opa@v{OPA_VERSION}"
OPA_SECONDS: Final = 120
GENERATED: Final = (rego.FILE, cedar.SCHEMA_FILE)

_VERSION: Final = re.compile(r"^Version: (?P<text>(?P<major>\d+)\.\S+)", re.MULTILINE)


class OpaError(Exception):
    """`opa` is missing, too old, or does not run: whoever builds must get it."""


Compiler: TypeAlias = Callable[[Mapping[str, bytes], str, Path | None], bytes]
"""What makes `policy.wasm` of files and an entry point: `compile_rego`, or what remembers its results."""


@dataclass(frozen=True, slots=True)
class Built:
    """A bundle's files, the archive of them (not signed), and how its cases went."""

    files: Mapping[str, bytes]
    archive: bytes
    results: cases.Results


def read_folder(folder: Path, limits: BundleLimits = LIMITS) -> dict[str, bytes]:
    """Read the sources: all files but hidden ones, and `.manifest`. Raises `PolicyError` for a link, or too much."""
    files: dict[str, bytes] = {}
    left = limits.unpacked_bytes
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name != MANIFEST and any(part.startswith(".") for part in name.split("/")):
            continue
        if path.is_symlink():
            raise PolicyError(f"`{name}` is a link: put the file itself there")
        if path.is_file():
            left -= path.stat().st_size
            if left < 0:
                raise PolicyError(f"`{name}`: the folder has more than {limits.unpacked_bytes} bytes")
            files[name] = path.read_bytes()
    if not files:
        raise PolicyError("the folder is empty: `exequatur bundle init` writes a start")
    return files


def build(sources: Mapping[str, bytes], opa: Path | None) -> Built:
    """Compile and check a bundle; `opa` may be None as long as nothing is written in Rego.

    Raises `PolicyError` with file and line where there is one, and `OpaError`. Cases that fail are in the results.
    """
    archive, bundle = assemble(sources, opa)
    with standing(bundle, opa) as snapshot:
        return Built(bundle.files, archive, cases.run(bundle.files, snapshot))


def assemble(
    sources: Mapping[str, bytes], opa: Path | None, compiler: Compiler | None = None
) -> tuple[bytes, VerifiedBundle]:
    """Compile a bundle without running its cases: its archive, and what a reader sees in it, taken as signed.

    Whether it is signed is not known yet; its cases are about the policies. `compiler` stands in for `compile_rego`.
    Raises as `build`.
    """
    files = {name: data for name, data in sources.items() if name not in (*GENERATED, SIGNATURES)}
    settings = Manifest.parse(_file(files, manifest.FILE))
    nested = sorted(name for name in files if name.endswith("/" + DATA_FILE))
    if nested:
        raise PolicyError(f"`{nested[0]}`: data belongs in one `{DATA_FILE}` at the top: move it there")
    files[MANIFEST] = _manifest(files.get(MANIFEST))
    _pack(files)  # what no bundle may hold is said before the compilers say it in their way
    for spec in settings.engines:
        if spec.engine == rego.ENGINE:
            files[rego.FILE] = (compiler or compile_rego)(files, spec.entrypoint, opa)
        elif spec.engine == opa_engine.ENGINE:
            check_rego(files, spec.entrypoint, opa)
        else:
            files[cedar.SCHEMA_FILE] = _schema(files).encode()
    if opa_engine.entrypoint_of(files):
        files[MANIFEST] = _with_revision(files)
    archive, bundle = _pack(files)
    return archive, replace(bundle, files=files, signed=True)


def check_built(files: Mapping[str, bytes], opa: Path | None) -> cases.Results:
    """Build again from the sources among `files`, and hold the result against them: reviewers read sources.

    Raises as `build`, and `PolicyError` for the first file that differs or the first case that fails.
    """
    rebuilt = build(files, opa)
    names = rebuilt.files.keys() | files.keys()
    differing = sorted(name for name in names if rebuilt.files.get(name) != files.get(name))
    if differing:
        raise PolicyError(f"`{differing[0]}` is not what the sources give{_why(differing[0], opa)}")
    if rebuilt.results.failures:
        raise PolicyError(str(rebuilt.results.failures[0]))
    return rebuilt.results


def _why(name: str, opa: Path | None) -> str:
    """Say what to do about a file that differs: another `opa` makes another module of the same sources."""
    version = _check_version(opa) if name == rego.FILE and opa is not None else OPA_VERSION
    if version == OPA_VERSION:
        return ": one was changed without the other: build the bundle again"
    return f" by `opa` {version}: bundles are built by {OPA_VERSION}: `go install {OPA_SOURCE}`, then try again"


def find_opa(environ: Mapping[str, str]) -> Path | None:
    """Find `opa`: `EXEQUATUR_OPA`, else on the `PATH`, else in the cache. Raises `OpaError` if it is too old."""
    if named := environ.get("EXEQUATUR_OPA"):
        found: Path | None = Path(named).absolute()
        if not Path(named).is_file():
            raise OpaError(f"`EXEQUATUR_OPA` names `{named}`, which is not there")
    else:
        on_path = shutil.which("opa", path=environ.get("PATH", ""))
        found = Path(on_path).absolute() if on_path else _cached_opa(environ)
    if found is not None:
        _check_version(found)
    return found


def compile_rego(files: Mapping[str, bytes], entrypoint: str, opa: Path | None) -> bytes:
    """Compile all `*.rego` to WebAssembly. Raises `PolicyError` with file and line, and `OpaError`."""
    with rego_folder(files, opa) as (folder, program):
        # The module embeds the path that it is given: `.` is the same everywhere.
        command = ["build", "-t", "wasm", "-e", entrypoint, "-o", "../out.tar.gz", "-b", "."]
        done = run_opa(program, command, folder)
        if done.returncode != 0:
            raise fault(done.stdout + done.stderr)
        with tarfile.open(folder.parent / "out.tar.gz") as archive:
            member = archive.extractfile(f"/{rego.FILE}")
            if member is None:
                raise OpaError(f"`opa build` made no `{rego.FILE}`")
            return member.read()


def check_rego(files: Mapping[str, bytes], entrypoint: str, opa: Path | None) -> None:
    """See that an OPA server can judge by all `*.rego`. Raises `PolicyError` with file and line, and `OpaError`."""
    with rego_folder(files, opa) as (folder, program):
        # `check` does not know entry points, and `build` is not strict.
        for command in (
            ["check", "--strict", "-b", "."],
            ["build", "-t", "plan", "-e", entrypoint, "-o", "../out.tar.gz", "-b", "."],
        ):
            done = run_opa(program, command, folder)
            if done.returncode != 0:
                raise fault(done.stdout + done.stderr)


@contextmanager
def rego_folder(files: Mapping[str, bytes], opa: Path | None) -> Iterator[tuple[Path, Path]]:
    """Lay out what OPA reads in a temporary folder; gives that and `opa`. Raises `PolicyError` and `OpaError`."""
    given = {name: data for name, data in files.items() if name.endswith(".rego") or name in (DATA_FILE, MANIFEST)}
    if not any(name.endswith(".rego") for name in given):
        raise PolicyError(f"no `*.rego` file: add one, or take its engine out of `{manifest.FILE}`")
    if opa is None:
        raise OpaError(f"`opa` is needed to compile Rego: `go install {OPA_SOURCE}`, or name it with `EXEQUATUR_OPA`")
    with tempfile.TemporaryDirectory(prefix="exequatur-build-") as name:
        folder = Path(name) / "in"
        for file, data in given.items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        yield folder, opa


def run_opa(opa: Path, arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `opa` in a folder, without an environment. Raises `OpaError` if it does not run, or does not end."""
    try:
        return subprocess.run(
            [str(opa), *arguments],
            cwd=folder,
            env={"HOME": str(folder)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=OPA_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OpaError(f"`opa {arguments[0]}` did not end within {OPA_SECONDS} s") from None
    except OSError as error:
        raise OpaError(f"`{opa}` does not run: {(error.strerror or str(error)).lower()}") from None


def _cached_opa(environ: Mapping[str, str]) -> Path | None:
    home = environ.get("HOME", "")
    cache = Path(environ.get("XDG_CACHE_HOME") or f"{home}/.cache") / "exequatur" / "bin"
    found = [path for path in cache.glob("opa-*") if path.is_file()]
    return max(found, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)], default=None)


def _check_version(opa: Path) -> str:
    version = _VERSION.search(run_opa(opa, ["version"], Path(tempfile.gettempdir())).stdout)
    if version is None:
        raise OpaError(f"`{opa}` does not say its version: is it `opa`?")
    if int(version["major"]) < 1:
        raise OpaError(f"`{opa}` is {version['text']}: 1.0 or newer is needed: `go install {OPA_SOURCE}`")
    return version["text"]


def _pack(files: Mapping[str, bytes]) -> tuple[bytes, VerifiedBundle]:
    """Give the archive, and what a reader sees in it."""
    try:
        archive = write_archive(files)
        return archive, unsafe_read_unsigned(archive)
    except TrustError as error:
        raise PolicyError(str(error)) from None


def _manifest(data: bytes | None) -> bytes:
    """Give OPA's manifest: the author's own, without `wasm`, on which an OPA without a Wasm runtime cannot start."""
    try:
        given: Json = parse(data, BUNDLE_JSON) if data is not None else {}
    except JsonError as error:
        raise PolicyError(f"`{MANIFEST}`: {error}") from None
    if not isinstance(given, dict):
        raise PolicyError(f"`{MANIFEST}`: an object is needed here")
    whole: dict[str, Json] = {"roots": [""], "rego_version": 1, **given}
    whole.pop("wasm", None)
    return _written(whole)


def _with_revision(files: Mapping[str, bytes]) -> bytes:
    """Give OPA's manifest with the revision by which a server's answers are known."""
    about: dict[str, Json] = json.loads(files[MANIFEST])
    return _written({**about, "revision": opa_engine.revision_of(files)})


def _written(about: Mapping[str, Json]) -> bytes:
    return (json.dumps(about, sort_keys=True, ensure_ascii=False, indent=1) + "\n").encode()


def _schema(files: Mapping[str, bytes]) -> str:
    try:
        registry = Registry.parse(_file(files, TOOLS_FILE))
    except RegistryError as error:
        raise PolicyError(str(error)) from None
    return cedar_schema(registry, Agents.parse(_file(files, inventory.AGENTS_FILE)))


def _file(files: Mapping[str, bytes], name: str) -> bytes:
    if name not in files:
        raise PolicyError(f"`{name}` is missing: `exequatur bundle init` writes a start with all files")
    return files[name]
