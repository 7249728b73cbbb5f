"""The work of `exequatur bundle sign` and `endorse`.

Rules: nobody signs what they could not have read, so the bundle is built again from its sources first, and must be what
they give; what others would not trust is not written; a reviewer is told what is signed before the key is touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from exequatur.cli import bundle_pictures as pictures
from exequatur.cli import endorsements
from exequatur.cli.bundle_opening import archive, facts, faults, rebuilt, rfc3339, ring, trust
from exequatur.cli.bundle_signers import Terms, Who
from exequatur.cli.console import console, emit
from exequatur.cli.endorsements import Endorsement
from exequatur.cli.files import write_whole
from exequatur.trust import bundle as trusted
from exequatur.trust.bundle import BundleClaims
from exequatur.trust.errors import TrustError
from exequatur.trust.keys import BundleKeys, trust_one
from exequatur.trust.opened import VerifiedBundle, unsafe_read_unsigned
from pdp.bundle.contents import unverified_claims


def sign(
    path: Path, who: Who, terms: Terms, *, endorsed: Sequence[Path], keys: Path | None, out: Path, as_json: bool
) -> None:
    """Build again, compare, sign, verify, write."""
    now = datetime.now(UTC).replace(microsecond=0)
    trusting = None if keys is None else ring(keys)
    with faults():
        signer = who.signer()
        given = [Endorsement.read(name) for name in endorsed]
        claims = terms.claims(given[0] if given else None, now)
        bundle = _covered(archive(path), claims, given, endorsed)
        rebuilt(bundle.files)
        data = trusted.sign(bundle.files, signer, claims, [item.token for item in given])
        # What nobody else would trust must not leave this desk.
        asked = trusting or trust_one(signer.public, claims.scope)
        signed = _verified(data, asked, claims, now, "" if keys is None else f"`--keys {keys}` would not trust it: ")
        write_whole(out, data)
    value = {"out": str(out), **facts(signed), **(trust(data, signed, asked) if trusting else {})}
    if trusting is None:
        value["endorsed_by"] = [item.kid for item in given]
    emit(value, as_json=as_json, render=lambda: pictures.signed(f"signed {out}", value))


def endorse(
    path: Path, who: Who, terms: Terms, *, endorsed: Path | None, against: Path | None, out: Path, as_json: bool
) -> None:
    """Build again, compare, show what is endorsed, endorse, write."""
    now = datetime.now(UTC).replace(microsecond=0)
    with faults():
        signer = who.signer()
        given = [] if endorsed is None else [Endorsement.read(endorsed)]
        claims = terms.claims(given[0] if given else None, now)
        bundle = _covered(archive(path), claims, given, [] if endorsed is None else [endorsed])
        value = {"out": str(out), "kid": signer.kid, **_said(bundle, claims)}
        if against is not None:
            value["against"] = _against(against, bundle.files)
        value["cases"] = rebuilt(bundle.files).total
        if not as_json:
            console.print(pictures.endorsing(str(path), value))
        token = trusted.endorse(bundle.files, signer, claims)
        write_whole(out, endorsements.write(token, bundle.files, claims))
    emit(value, as_json=as_json, render=lambda: pictures.done(f"endorsed {out}", "give it to who publishes"))


def _covered(data: bytes, claims: BundleClaims, given: Sequence[Endorsement], paths: Sequence[Path]) -> VerifiedBundle:
    """Read what was built; refuse an endorsement of anything else."""
    bundle = unsafe_read_unsigned(data)
    for item, path in zip(given, paths, strict=True):
        item.check(bundle.files, claims, path)
    return bundle


def _verified(data: bytes, keys: BundleKeys, claims: BundleClaims, now: datetime, where: str) -> VerifiedBundle:
    try:
        return trusted.verify(data, keys, now=max(now, claims.not_before or now), tenant=claims.tenant)
    except TrustError as error:
        raise type(error)(f"{where}{error}") from None


def _said(bundle: VerifiedBundle, claims: BundleClaims) -> dict[str, Any]:
    return {
        "sequence": claims.sequence,
        "expires_at": rfc3339(claims.expires_at),
        "not_before": rfc3339(claims.not_before),
        "tenant": claims.tenant,
        "scope": claims.scope,
        "payload_sha256": hashlib.sha256(trusted.payload(bundle.files, claims)).hexdigest(),
        "files": [
            {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in sorted(bundle.files.items())
        ],
    }


def _against(path: Path, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Say which files differ from an older bundle, whose signature is not looked at."""
    data = archive(path)
    old = unsafe_read_unsigned(data).files
    return {
        "path": str(path),
        "sequence": unverified_claims(data).get("sequence"),
        "added": sorted(files.keys() - old.keys()),
        "removed": sorted(old.keys() - files.keys()),
        "changed": sorted(name for name in files.keys() & old.keys() if files[name] != old[name]),
    }
