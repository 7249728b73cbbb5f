"""A bundle that was opened: what is in it, and what is known of it.

Rules: verifying is `bundle.py`'s, which needs keys; whoever only reads what another process of ours has verified needs
none, nor what checks signatures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from exequatur.trust.archive import LIMITS, BundleLimits, read_tar, unpack
from exequatur.trust.canonical import parse
from exequatur.trust.contents import JSON_LIMITS, check_json, check_names
from exequatur.trust.hashing import MANIFEST, SIGNATURES

FOREVER: Final = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class VerifiedBundle:
    """A bundle that may be trusted, or, with `signed` False, one that somebody insisted on.

    `files` are without `.signatures.json`; `digest` is SHA-256 over the uncompressed tar. `kids` are the keys that
    signed and count, the publisher's first, and `owners` whose they are, each once. `expires_at` is the earliest of
    what was signed and the moment when too few of these keys are still good.
    """

    files: Mapping[str, bytes] = field(repr=False)
    digest: bytes
    sequence: int
    expires_at: datetime
    not_before: datetime | None
    tenant: str
    kids: tuple[str, ...]
    owners: tuple[str, ...]
    revision: str
    signed: bool

    @property
    def kid(self) -> str:
        """The publisher's key; empty where nobody signed."""
        return self.kids[0] if self.kids else ""


def unsafe_read_unsigned(data: bytes, limits: BundleLimits = LIMITS) -> VerifiedBundle:
    """Read an archive that nobody vouches for; whoever calls this makes every effect at least WARN."""
    tar = unpack(data, limits)
    files = read_tar(tar, limits)
    files.pop(SIGNATURES, None)
    check_names(files)
    check_json(files)
    return VerifiedBundle(
        files, hashlib.sha256(tar).digest(), 0, FOREVER, None, "default", (), (), revision_in(files), signed=False
    )


def revision_in(files: Mapping[str, bytes]) -> str:
    """Give the revision that `.manifest` names; empty where there is none."""
    manifest = parse(files[MANIFEST], JSON_LIMITS) if MANIFEST in files else {}
    revision = manifest.get("revision", "") if isinstance(manifest, dict) else ""
    return revision if isinstance(revision, str) else ""
