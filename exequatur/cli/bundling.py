"""The work of `exequatur bundle init`, `build`, `verify` and `inspect`.

Rules: a file is written whole or not at all; what was not verified is called so wherever it is shown.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from exequatur.cli import bundle_pictures as pictures
from exequatur.cli.bundle_opening import archive, facts, faults, rebuilt, rfc3339, ring, trust
from exequatur.cli.console import Exit, console, emit, errors, fail
from exequatur.cli.files import write_whole
from exequatur.cli.policy_opening import sources
from exequatur.trust.errors import TrustError
from exequatur.trust.opened import unsafe_read_unsigned
from pdp.bundle import build as building
from pdp.bundle.contents import contents, unverified_claims
from pdp.bundle.source import open_bundle
from pdp.engine.reading import PolicyError


def init(folder: Path) -> None:
    """Write the starter."""
    with faults():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            fail(f"`{folder}` is there and not empty: name another folder", Exit.NO)
        names = sorted(_copy(resources.files("exequatur.cli") / "starter", folder))
    console.print(pictures.starter(folder, names))


def build(folder: Path, out: Path, *, as_json: bool) -> None:
    """Build and write."""
    with faults():
        files = sources(folder)
        with errors.status("compiling, and running the cases"):
            built = building.build(files, building.find_opa(os.environ))
        failures = built.results.failures
        if not failures:
            write_whole(out, built.archive)
    value: dict[str, Any] = {
        "built": not failures,
        "cases": built.results.total,
        "failures": [
            {"where": item.where, "name": item.name, "wanted": item.wanted, "got": item.got} for item in failures
        ],
    }
    if failures:
        emit(value, as_json=as_json, render=lambda: pictures.failures(failures))
        fail(f"{len(failures)} of {built.results.total} cases failed, and nothing was written", Exit.NO)
    value |= {"out": str(out), "bytes": len(built.archive), "files": len(built.files)}
    emit(
        value,
        as_json=as_json,
        render=lambda: pictures.done(
            f"built {out}",
            f"{len(built.files)} files, {len(built.archive):,} bytes",
            pictures.held(built.results.total),
        ),
    )


def verify(path: Path, keys: Path, *, tenant: str, rebuild: bool, as_json: bool) -> None:
    """Verify for now, for this tenant."""
    trusted_keys = ring(keys)
    try:
        data = archive(path)
        bundle = open_bundle(data, trusted_keys, now=datetime.now(UTC), tenant=tenant)
        if rebuild:
            rebuilt(bundle.files)
    except building.OpaError as error:
        fail(str(error), Exit.CONFIG)
    except (TrustError, PolicyError) as error:
        if as_json:
            emit({"trusted": False, "error": str(error)}, as_json=True, render=lambda: None)
        fail(f"`{path}`: {error}", Exit.NO)
    value = {"trusted": True, "files": len(bundle.files), **facts(bundle), **trust(data, bundle, trusted_keys)}
    title = f"{path} is trusted"
    emit(value, as_json=as_json, render=lambda: pictures.signed(title, value))


def inspect(path: Path, keys: Path | None, *, tenant: str, as_json: bool) -> None:
    """Show a bundle; verified only where keys are given."""
    trusted_keys = None if keys is None else ring(keys)
    with faults(f"`{path}`: "):
        data = archive(path)
        if trusted_keys is not None:
            bundle = open_bundle(data, trusted_keys, now=datetime.now(UTC), tenant=tenant)
            about = {**facts(bundle), **trust(data, bundle, trusted_keys)}
        else:
            bundle = unsafe_read_unsigned(data)
            about = {"digest": bundle.digest.hex(), "revision": bundle.revision, **_said_of(data)}
        value = {"verified": bundle.signed, **about, **contents(bundle.files)}
    emit(value, as_json=as_json, render=lambda: pictures.bundle(str(path), value))


def _copy(source: Traversable, folder: Path, prefix: str = "") -> Iterator[str]:
    """Copy the starter's files, and name each."""
    (folder / prefix).mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        name = f"{prefix}{entry.name}"
        if entry.is_dir():
            yield from _copy(entry, folder, f"{name}/")
        else:
            (folder / name).write_bytes(entry.read_bytes())
            yield name


def _said_of(data: bytes) -> dict[str, Any]:
    """What a signature that was not verified says; its times in words where they are times."""
    claims = unverified_claims(data)
    for name in ("expires_at", "not_before"):
        with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError, OSError):
            claims[name] = rfc3339(datetime.fromtimestamp(claims[name], UTC))
    return claims
