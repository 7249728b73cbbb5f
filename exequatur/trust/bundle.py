"""Signed bundles in OPA's format, verified more strictly than OPA does.

`verify` is a pure function of bytes, keys, time and floor. Its steps, in this order, each with its own refusal:

 1. the archive is one tar, gzipped or not, of plain files, within limits, no name twice (`archive.py`);
 2. nothing in it is of a kind that OPA would load unverified, or read in two ways: deltas (`patch.json`), YAML data,
    a second `*signatures.json`, a second manifest;
 3. `.signatures.json` holds exactly one JWS;
 4. its key is named, by the header's `kid`, else the claim `keyid`, is known, not revoked and not past its time; never
    "try all keys";
 5. the signature holds, with the key's own algorithm, and says that it is a bundle's;
 6. the payload, the very bytes that were signed, parses strictly and has the claims that we know in their types;
 7. where it is to be served, or carries endorsements, it is to the byte in the one form that endorsers sign;
 8. the publisher's key is for this scope and this tenant;
 9. each endorsement is one, of another key each, and holds over this payload if its key counts (`endorsing.py`);
10. those who signed are of as many owners as are needed;
11. each file listed is there, and each file there is listed;
12. each has the hash that is listed, SHA-2 only, and JSON in it is strict; the first that differs ends it, so that
    what nobody signed is parsed once at most; what OPA hashes by value has, to be served, the bytes of the claim `raw`;
13. the archive is, to the byte, what we would write from its files: nothing hides between them, and nobody without
    the key can make a second archive of the same bundle;
14. the bundle is for this tenant;
15. it is valid now: `nbf` <= now < `exp`;
16. its `sequence` is not below the floor, and at the floor it is the same bundle.

A bundle without `sequence` and `exp` (one that `opa sign` made) verifies with `serve=False`, and is never served.
Source: OPA, "Bundles", signing; what its documents leave open was tried on OPA itself (tests/exequatur/trust).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from exequatur.trust.archive import (
    LIMITS,
    BundleLimits,
    check_gzip,
    inflate,
    read_tar,
    store_gzip,
    write_archive,
    write_tar,
)
from exequatur.trust.canonical import JsonError, parse, quoted
from exequatur.trust.contents import (
    JSON_LIMITS,
    check_hashes,
    check_json,
    check_listed,
    check_names,
    check_raw,
)
from exequatur.trust.endorsing import (
    check_endorsements,
    count_owners,
    distinct,
    endorser,
    payload_of,
    write_endorsement,
)
from exequatur.trust.errors import (
    EquivocationError,
    ExpiredError,
    FormatError,
    NotYetValidError,
    RollbackError,
    ScopeError,
    SignatureError,
    UnknownKeyError,
)
from exequatur.trust.hashing import SIGNATURES, file_hash, raw_hashes
from exequatur.trust.keys import BundleKeys
from exequatur.trust.opened import FOREVER, VerifiedBundle, revision_in
from exequatur.trust.tokens import (
    Signer,
    is_lower,
    read_part,
    read_signatures,
    write_signatures,
    write_token,
)

_TYPES: Final = dict.fromkeys(("sequence", "exp", "nbf"), int) | dict.fromkeys(("tenant", "scope"), str)
_HOLDERS: Final = {"endorsements": list, "raw": dict}


@dataclass(frozen=True, slots=True)
class BundleClaims:
    """What the publisher says about a bundle beside its files. Times are aware and UTC; `sequence` starts at 1."""

    sequence: int
    expires_at: datetime
    not_before: datetime | None = None
    tenant: str = "default"
    scope: str = ""
    """Who may use it, in OPA's words: a consumer with another `scope` refuses it."""


@dataclass(frozen=True, slots=True)
class Floor:
    """The newest bundle that was ever served: its sequence and its digest (32 bytes).

    A number that enough owners signed is believed, however high: from then on only higher ones pass, up to 2^53 - 1.
    Nothing that is signed leads back below; whoever keeps the store sets another floor.
    """

    sequence: int
    digest: bytes


def payload(files: Mapping[str, bytes], claims: BundleClaims) -> bytes:
    """Write what is signed: the claims, and each file's hash; the same bytes for the same input, everywhere.

    Raises `FormatError` for files that `verify` would refuse, and `ValueError` for claims that never hold.
    """
    return payload_of(_payload(_signable(files), claims))


def endorse(files: Mapping[str, bytes], signer: Signer, claims: BundleClaims) -> str:
    """Endorse what a publisher is going to sign with these `claims`: a detached JWS over `payload`."""
    return write_endorsement(signer, payload(files, claims))


def sign(files: Mapping[str, bytes], signer: Signer, claims: BundleClaims, endorsements: Sequence[str] = ()) -> bytes:
    """Pack and sign `files`; the archive is the same for the same input when the key is RS256.

    The endorsements are taken as they are: whoever has the endorsers' keys verifies the archive. Raises as `payload`.
    """
    files = _signable(files)
    signed = _payload(files, claims)
    if endorsements:
        kids = distinct([signer.kid, *map(endorser, endorsements)])[1:]
        signed["endorsements"] = [token for _, token in sorted(zip(kids, endorsements, strict=True))]
    token = write_token(signer, payload_of(signed))
    return write_archive({**files, SIGNATURES: write_signatures(token)})


def _signable(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Leave an earlier signature out, and refuse what would never verify."""
    files = {name: content for name, content in files.items() if name != SIGNATURES}
    if not files:
        raise FormatError("there are no files to sign")
    check_names(files)
    check_json(files)
    return files


def _payload(files: Mapping[str, bytes], claims: BundleClaims) -> dict[str, Any]:
    if claims.sequence < 1 or (claims.not_before is not None and claims.not_before >= claims.expires_at):
        raise ValueError("a bundle's sequence starts at 1, and it expires after it begins")
    signed: dict[str, Any] = {
        "exp": int(claims.expires_at.timestamp()),
        "files": [
            {"algorithm": "SHA-256", "hash": file_hash(name, files[name]), "name": name} for name in sorted(files)
        ],
        "sequence": claims.sequence,
        "tenant": claims.tenant,
    }
    if claims.not_before is not None:
        signed["nbf"] = int(claims.not_before.timestamp())
    if raw := raw_hashes(files):
        signed["raw"] = raw
    if claims.scope:
        signed["scope"] = claims.scope
    return signed


def verify(
    data: bytes,
    keys: BundleKeys,
    *,
    now: datetime,
    tenant: str = "default",
    floor: Floor | None = None,
    serve: bool = True,
    limits: BundleLimits = LIMITS,
) -> VerifiedBundle:
    """Verify an archive by the steps above. Raises a `TrustError` that says what is wrong and where, and nothing else.

    `serve=False` verifies what was signed by others' tools: no tenant, no times, no sequence needed.
    """
    tar = inflate(data, limits)  # 1
    files = read_tar(tar, limits)
    digest = hashlib.sha256(tar).digest()
    signatures = files.pop(SIGNATURES, None)
    if signatures is None:
        raise SignatureError("the bundle is not signed: it has no `.signatures.json`")
    check_names(files)  # 2
    token = read_signatures(signatures)  # 3
    key = keys.get(_kid(token), now)  # 4
    signed = key.verify(token)  # 5
    claims = _claims(signed)  # 6
    _check_form(signed, claims, serve=serve)  # 7
    keys.policy.terms[key.kid].check(  # 8
        key.kid, tenant=claims.get("tenant", "" if serve else None), scope=claims.get("scope", "")
    )
    endorsers, idle = check_endorsements(key.kid, claims, keys, now)  # 9
    signers = count_owners([key, *endorsers], idle, keys)  # 10
    listed = check_listed(files, claims["files"])  # 11
    check_hashes(files, listed)  # 12
    check_raw(files, claims.get("raw", {}), serve=serve)
    check_gzip(data, tar)  # now that a damaged file has been named
    bundle = VerifiedBundle(
        files=files,
        digest=digest,
        sequence=claims.get("sequence", 0),
        expires_at=min(_time(claims["exp"]) if "exp" in claims else FOREVER, signers.until),
        not_before=_time(claims["nbf"]) if "nbf" in claims else None,
        tenant=claims.get("tenant", ""),
        kids=signers.kids,
        owners=signers.owners,
        revision=revision_in(files),
        signed=True,
    )
    if serve:
        if signatures != write_signatures(token):  # 13
            raise FormatError(f"`{SIGNATURES}` is not as `exequatur bundle sign` writes it: sign it with that")
        if not is_lower(key.alg, token):
            raise SignatureError("the signature is the other of two that hold: sign it with `exequatur bundle sign`")
        _check_archive(data, tar, {**files, SIGNATURES: signatures})
        _check_now(bundle, tenant=tenant, now=now)  # 14, 15
        check_floor(bundle, floor)  # 16
    return bundle


def check_floor(bundle: VerifiedBundle, floor: Floor | None) -> None:
    """Refuse what is older than the floor (`RollbackError`), or another bundle of its number (`EquivocationError`)."""
    if floor is None or bundle.sequence > floor.sequence:
        return
    if bundle.sequence < floor.sequence:
        raise RollbackError(
            f"sequence {bundle.sequence} after {floor.sequence}: sign the older policy anew, with a higher one"
        )
    if bundle.digest != floor.digest:
        raise EquivocationError(
            f"sequence {bundle.sequence} was served with other content: somebody signed two bundles"
        )


def _kid(token: str) -> str:
    """The key's name, from what is not yet verified: it only chooses which key must verify all of it."""
    header, _, rest = token.partition(".")
    kid = read_part(header).get("kid")
    if kid is None:
        kid = read_part(rest.partition(".")[0], JSON_LIMITS).get("keyid")
    if not isinstance(kid, str) or not kid:
        raise UnknownKeyError("the signature names no key: its header has no `kid`")
    return kid


def _claims(payload: bytes) -> dict[str, Any]:
    try:
        claims = parse(payload, JSON_LIMITS)
    except JsonError as error:
        raise FormatError(f"the signed payload: {error}") from None
    if not isinstance(claims, dict) or not isinstance(claims.get("files"), list):
        raise FormatError("the signed payload lists no files")
    for name, kind in (_TYPES | _HOLDERS).items():
        if name in claims and (not isinstance(claims[name], kind) or isinstance(claims[name], bool)):
            raise FormatError(f"the signed claim `{name}` is not of type {kind.__name__}")
    if cast("int", claims.get("sequence", 1)) < 1:
        raise FormatError("the signed claim `sequence` must be 1 or more")
    if not all(isinstance(item, str) for item in cast("list[Any]", claims.get("endorsements", []))):
        raise FormatError("the signed claim `endorsements` holds what is no text")
    return claims


def _check_form(signed: bytes, claims: Mapping[str, Any], *, serve: bool) -> None:
    """Two payloads that say the same must be the same bytes: endorsers sign bytes."""
    if serve and ("sequence" not in claims or "exp" not in claims):
        raise FormatError("the signature has no `sequence` and `exp`: sign it with `exequatur bundle sign`")
    if (serve or "endorsements" in claims) and signed != payload_of(claims):
        raise FormatError("the signed payload is not as `exequatur bundle sign` writes it: sign it with that")


def _check_archive(data: bytes, tar: bytes, files: Mapping[str, bytes]) -> None:
    ours = write_tar(files)
    pairs = [("tar", tar, ours), ("gzip stream", data, data if data is tar else store_gzip(ours))]
    for name, theirs, wanted in pairs:
        if theirs != wanted:
            at = next((i for i, (a, b) in enumerate(zip(theirs, wanted, strict=False)) if a != b), len(wanted))
            raise FormatError(f"byte {at} of the {name} is not as `exequatur bundle sign` writes it: sign it with that")


def _check_now(bundle: VerifiedBundle, *, tenant: str, now: datetime) -> None:
    if bundle.tenant != tenant:
        raise ScopeError(f"the bundle is for tenant {quoted(bundle.tenant)}, not for {quoted(tenant)}")
    if bundle.not_before is not None and now < bundle.not_before:
        raise NotYetValidError(f"the bundle is not valid before {bundle.not_before:%Y-%m-%dT%H:%M:%SZ}")
    if now >= bundle.expires_at:
        raise ExpiredError(f"the bundle expired at {bundle.expires_at:%Y-%m-%dT%H:%M:%SZ}: sign it anew")


def _time(seconds: int) -> datetime:
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    except OverflowError:
        raise FormatError("a signed time is beyond the calendar") from None
