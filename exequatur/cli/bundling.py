"""The work of `exequatur bundle`.

Rules: what is wrong with a bundle is exit code 1, what is wrong with the call 2, a missing tool 64; a file is written
whole or not at all; what was not verified is called so wherever it is shown.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

from exequatur.cli import bundle_pictures as pictures
from exequatur.cli.console import Exit, console, emit, errors, fail
from exequatur.cli.files import write_whole
from exequatur.cli.policy_opening import sources
from exequatur.trust import bundle as trusted
from exequatur.trust.bundle import BundleClaims, VerifiedBundle
from exequatur.trust.errors import TrustError
from exequatur.trust.keys import ALGORITHMS, BundleKeys, SigningKey, trust_one
from pdp.bundle import build as building
from pdp.bundle.contents import contents, unverified_claims
from pdp.bundle.source import open_bundle, read_archive_file, read_keys
from pdp.engine.reading import PolicyError

_SPAN: Final = re.compile(r"(?P<number>[1-9][0-9]{0,5})(?P<unit>[mhd])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}


def init(folder: Path) -> None:
    """Write the starter."""
    with _faults():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            fail(f"`{folder}` is there and not empty: name another folder", Exit.NO)
        names = sorted(_copy(resources.files("exequatur.cli") / "starter", folder))
    console.print(pictures.starter(folder, names))


def build(folder: Path, out: Path, *, as_json: bool) -> None:
    """Build and write."""
    with _faults():
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
            f"built {out}", f"{len(built.files)} files, {len(built.archive):,} bytes", f"{value['cases']} cases hold"
        ),
    )


def sign(
    path: Path,
    key: Path,
    kid: str,
    *,
    sequence: int,
    expires: str,
    not_before: str,
    tenant: str,
    out: Path,
    as_json: bool,
) -> None:
    """Build again, compare, sign, write."""
    now = datetime.now(UTC).replace(microsecond=0)
    claims = BundleClaims(
        sequence,
        _time("--expires", expires, now),
        _time("--not-before", not_before, now) if not_before else None,
        tenant,
    )
    if claims.expires_at <= max(now, claims.not_before or now):
        fail("`--expires` is not after now, or not after `--not-before`: the bundle would never be valid")
    with _faults():
        signing_key = _signing_key(key, kid)
        bundle = trusted.unsafe_read_unsigned(_archive(path))
        with errors.status("building it again, to see that it is what its sources say"):
            building.check_built(bundle.files, building.find_opa(os.environ))
        data = trusted.sign(bundle.files, signing_key, claims)
        # What nobody else would trust must not leave this desk.
        ring = trust_one(signing_key.public)
        signed = trusted.verify(data, ring, now=claims.not_before or now, tenant=tenant)
        write_whole(out, data)
    value = {"out": str(out), **_facts(signed)}
    emit(value, as_json=as_json, render=lambda: pictures.signed(f"signed {out}", value))


def verify(path: Path, keys: Path, *, tenant: str, rebuild: bool, as_json: bool) -> None:
    """Verify for now, for this tenant."""
    ring = _ring(keys)
    try:
        bundle = open_bundle(_archive(path), ring, now=datetime.now(UTC), tenant=tenant)
        if rebuild:
            with errors.status("building it again"):
                building.check_built(bundle.files, building.find_opa(os.environ))
    except building.OpaError as error:
        fail(str(error), Exit.CONFIG)
    except (TrustError, PolicyError) as error:
        if as_json:
            emit({"trusted": False, "error": str(error)}, as_json=True, render=lambda: None)
        fail(f"`{path}`: {error}", Exit.NO)
    value = {"trusted": True, "files": len(bundle.files), **_facts(bundle)}
    title = f"{path} is trusted"
    emit(value, as_json=as_json, render=lambda: pictures.signed(title, value))


def inspect(path: Path, keys: Path | None, *, tenant: str, as_json: bool) -> None:
    """Show a bundle; verified only where keys are given."""
    ring = None if keys is None else _ring(keys)
    with _faults(f"`{path}`: "):
        data = _archive(path)
        if ring is not None:
            bundle = open_bundle(data, ring, now=datetime.now(UTC), tenant=tenant)
            about = _facts(bundle)
        else:
            bundle = trusted.unsafe_read_unsigned(data)
            about = {"digest": bundle.digest.hex(), "revision": bundle.revision, **_said_of(data)}
        value = {"verified": bundle.signed, **about, **contents(bundle.files)}
    emit(value, as_json=as_json, render=lambda: pictures.bundle(str(path), value))


@contextlib.contextmanager
def _faults(where: str = "") -> Iterator[None]:
    """Turn errors into one line and an exit code."""
    try:
        yield
    except building.OpaError as error:
        fail(str(error), Exit.CONFIG)
    except (TrustError, PolicyError) as error:
        fail(f"{where}{error}", Exit.NO)
    except OSError as error:
        fail(f"`{error.filename}`: {(error.strerror or str(error)).lower()}")


def _archive(path: Path) -> bytes:
    """Read a bundle; to name none is a wrong call, and says nothing about a bundle."""
    if not path.exists():
        fail(f"`{path}`: it is not there: name a bundle, such as `mine.tar.gz`")
    if path.is_dir():
        fail(f"`{path}`: it is a folder: name a bundle, as `exequatur bundle build` writes it")
    return read_archive_file(path)


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


def _ring(folder: Path) -> BundleKeys:
    """Read the keys that may sign; what is wrong with them says nothing about a bundle."""
    try:
        return read_keys(folder)
    except TrustError as error:
        fail(f"`--keys {folder}`: {error}", Exit.CONFIG)


def _signing_key(path: Path, kid: str) -> SigningKey:
    """Read a private key; its file's name says the algorithm where it is not the usual one."""
    named = path.name.removesuffix(path.suffix).rpartition(".")[2]
    algorithm = f".{named}" if named in ALGORITHMS else ""
    return SigningKey.from_pem(f"{kid}{algorithm}.pem", path.read_bytes())


def _time(option: str, text: str, now: datetime) -> datetime:
    """Read a time, or a span from now; to the second, as signatures have it."""
    if span := _SPAN.fullmatch(text):
        return now + timedelta(**{_UNITS[span["unit"]]: int(span["number"])})
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        fail(f"`{option}` must be `30d`, `12h`, `90m`, or a time with its zone such as `2027-01-01T00:00:00Z`")
    return time.astimezone(UTC).replace(microsecond=0)


def _facts(bundle: VerifiedBundle) -> dict[str, Any]:
    return {
        "digest": bundle.digest.hex(),
        "kid": bundle.kid,
        "sequence": bundle.sequence,
        "expires_at": _rfc3339(bundle.expires_at),
        "not_before": _rfc3339(bundle.not_before),
        "tenant": bundle.tenant,
        "revision": bundle.revision,
    }


def _said_of(data: bytes) -> dict[str, Any]:
    """What a signature that was not verified says; its times in words where they are times."""
    claims = unverified_claims(data)
    for name in ("expires_at", "not_before"):
        with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError, OSError):
            claims[name] = _rfc3339(datetime.fromtimestamp(claims[name], UTC))
    return claims


def _rfc3339(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
