"""A publisher of bundles for tests: builds the starter with the real `opa`, and signs it with keys made for the run."""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta
from pathlib import Path

from exequatur.trust.bundle import BundleClaims, sign
from exequatur.trust.keys import BundleKeys, SigningKey, generate, parse_key_set
from pdp.bundle.build import Built, build, read_folder
from policies import opa

STARTER = Path(__file__).parents[2] / "exequatur/cli/starter"
NOW = datetime(2026, 3, 1, tzinfo=UTC)
KID = "ops"


def sources(**changed: bytes | None) -> dict[str, bytes]:
    """Give the starter's files; a change's name has `__` for `/` and `_` for `.`, and None takes a file out."""
    files = read_folder(STARTER)
    for name, content in changed.items():
        stem, _, ending = name.replace("__", "/").rpartition("_")
        files.pop(f"{stem}.{ending}", None)
        if content is not None:
            files[f"{stem}.{ending}"] = content
    return files


def make(**changed: bytes | None) -> Built:
    """Build the starter, changed as `sources` says."""
    return build(sources(**changed), Path(opa()))


@functools.cache
def built() -> Built:
    """Give the starter, built."""
    return make()


@functools.cache
def pair(kid: str) -> tuple[bytes, bytes]:
    """Give a key pair of this name: private and public PEM."""
    return generate("ES256")


def keys(*kids: str) -> BundleKeys:
    """Give the ring that trusts these keys, or the usual one."""
    return parse_key_set({f"{kid}.pem": pair(kid)[1] for kid in kids or (KID,)})


def publish(
    sequence: int = 1,
    *,
    files: dict[str, bytes] | None = None,
    kid: str = KID,
    tenant: str = "default",
    expires_at: datetime = NOW + timedelta(days=30),
    not_before: datetime | None = None,
) -> bytes:
    """Sign the starter, or these files."""
    key = SigningKey.from_pem(f"{kid}.pem", pair(kid)[0])
    return sign(files or dict(built().files), key, BundleClaims(sequence, expires_at, not_before, tenant))
