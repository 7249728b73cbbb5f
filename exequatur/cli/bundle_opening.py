"""What the verbs of `exequatur bundle` share: reading bundles and keys, and saying what is wrong with them.

Rules: what is wrong with a bundle is exit code 1, what is wrong with the call 2, a missing tool or key set 64.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from exequatur.cli.console import Exit, errors, fail
from exequatur.key_folder import private_keys_hint
from exequatur.signer import SignerError
from exequatur.trust.errors import TrustError
from exequatur.trust.keys import BundleKeys
from exequatur.trust.opened import VerifiedBundle
from pdp.bundle import build as building
from pdp.bundle.cases import Results
from pdp.bundle.contents import unverified_claims
from pdp.bundle.source import read_archive_file, read_keys
from pdp.engine.reading import PolicyError


@contextlib.contextmanager
def faults(where: str = "") -> Iterator[None]:
    """Turn errors into one line and an exit code."""
    try:
        yield
    except (building.OpaError, SignerError) as error:
        fail(str(error), Exit.CONFIG)
    except (TrustError, PolicyError) as error:
        fail(f"{where}{error}", Exit.NO)
    except OSError as error:
        fail(f"`{error.filename}`: {(error.strerror or str(error)).lower()}")


def archive(path: Path) -> bytes:
    """Read a bundle; to name none is a wrong call, and says nothing about a bundle."""
    if not path.exists():
        fail(f"`{path}`: it is not there: name a bundle, such as `mine.tar.gz`")
    if path.is_dir():
        fail(f"`{path}`: it is a folder: name a bundle, as `exequatur bundle build` writes it")
    return read_archive_file(path)


def ring(folder: Path) -> BundleKeys:
    """Read the keys that may sign; what is wrong with them says nothing about a bundle."""
    try:
        return read_keys(folder)
    except TrustError as error:
        fail(f"`--keys {folder}`: {error}{private_keys_hint(folder)}", Exit.CONFIG)


def rebuilt(files: Mapping[str, bytes]) -> Results:
    """Build again, and hold the result against what is there. Raises `PolicyError` and `OpaError`."""
    with errors.status("building it again, to see that it is what its sources say"):
        return building.check_built(files, building.find_opa(os.environ))


def facts(bundle: VerifiedBundle) -> dict[str, Any]:
    """Say what is signed, and by whom."""
    return {
        "digest": bundle.digest.hex(),
        "kid": bundle.kid,
        "kids": list(bundle.kids),
        "owners": list(bundle.owners),
        "sequence": bundle.sequence,
        "expires_at": rfc3339(bundle.expires_at),
        "not_before": rfc3339(bundle.not_before),
        "tenant": bundle.tenant,
        "revision": bundle.revision,
    }


def trust(data: bytes, bundle: VerifiedBundle, keys: BundleKeys) -> dict[str, Any]:
    """Say who signed a bundle that `keys` trust, how many must, and whose endorsements count for nothing."""
    endorsers = unverified_claims(data).get("endorsed_by", [])
    return {
        "threshold": keys.threshold,
        "signed_by": [{"kid": kid, "owner": keys.policy.terms[kid].owner} for kid in bundle.kids],
        "not_counted": [kid for kid in endorsers if kid not in bundle.kids],
    }


def rfc3339(time: datetime | None) -> str | None:
    """Write a time as people and machines read it."""
    return None if time is None else time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
