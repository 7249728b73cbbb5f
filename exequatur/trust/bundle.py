"""Signed bundles in OPA's format, verified more strictly than OPA does.

`verify` is a pure function of bytes, keys, time and floor. Its steps, in this order, each with its own refusal:

 1. the archive is one tar, gzipped or not, of plain files, within limits, no name twice (`archive.py`);
 2. nothing in it is of a kind that OPA would load unverified, or read in two ways: deltas (`patch.json`), YAML data,
    a second `*signatures.json`, a second manifest;
 3. all JSON in it is strict;
 4. `.signatures.json` holds exactly one JWS;
 5. the key is named: the header's `kid`, else the claim `keyid`, else refused; never "try all keys";
 6. the signature holds, with the key's own algorithm;
 7. the payload, the very bytes that were signed, parses strictly and has the claims that we know in their types;
 8. each file listed is there with its hash, and each file there is listed; SHA-2 only;
 9. the archive is, to the byte, what we would write from its files: nothing hides between them;
10. the bundle is for this tenant;
11. it is valid now: `nbf` <= now < `exp`;
12. its `sequence` is not below the floor, and at the floor it is the same bundle.

A bundle without `sequence` and `exp` (one that `opa sign` made) verifies with `serve=False`, and is never served.
Source: OPA, "Bundles", signing; what its documents leave open was tried on OPA itself (tests/exequatur/trust).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from exequatur.trust.archive import (
    LIMITS,
    BundleLimits,
    check_gzip,
    inflate,
    read_tar,
    unpack,
    write_archive,
    write_tar,
)
from exequatur.trust.canonical import Json, JsonError, JsonLimits, parse, quoted
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
from exequatur.trust.keys import BundleKeys, SigningKey

SIGNATURES: Final = ".signatures.json"
MANIFEST: Final = ".manifest"
JSON_LIMITS: Final = JsonLimits(bytes=32 * 2**20, depth=64, keys=500_000, string_bytes=2**20)
_SIGNATURES_LIMITS: Final = JsonLimits(bytes=16 * 2**20, depth=4, keys=8, string_bytes=16 * 2**20)
_HASHES: Final = {
    "SHA-256": "sha256",
    "SHA-224": "sha224",
    "SHA-384": "sha384",
    "SHA-512": "sha512",
    "SHA-512-224": "sha512_224",
    "SHA-512-256": "sha512_256",
}
_STRUCTURED: Final = ("data.json", MANIFEST)
_DISTANT: Final = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class BundleClaims:
    """What the publisher says about a bundle beside its files. Times are aware and UTC; `sequence` starts at 1."""

    sequence: int
    expires_at: datetime
    not_before: datetime | None = None
    tenant: str = "default"


@dataclass(frozen=True, slots=True)
class Floor:
    """The newest bundle that was ever served: its sequence and its digest (32 bytes)."""

    sequence: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class VerifiedBundle:
    """A bundle that may be trusted, or, with `signed` False, one that somebody insisted on.

    `files` are without `.signatures.json`; `digest` is SHA-256 over the uncompressed tar.
    """

    files: Mapping[str, bytes] = field(repr=False)
    digest: bytes
    sequence: int
    expires_at: datetime
    not_before: datetime | None
    tenant: str
    kid: str
    revision: str
    signed: bool


def sign(files: Mapping[str, bytes], key: SigningKey, claims: BundleClaims) -> bytes:
    """Pack and sign `files`; the archive is the same for the same input when `key` is RS256.

    Raises `FormatError` for files that `verify` would refuse, and `ValueError` for claims that never hold.
    """
    if claims.sequence < 1 or (claims.not_before is not None and claims.not_before >= claims.expires_at):
        raise ValueError("a bundle's sequence starts at 1, and it expires after it begins")
    files = {name: content for name, content in files.items() if name != SIGNATURES}
    if not files:
        raise FormatError("there are no files to sign")
    _check_names(files)
    _check_json(files)
    payload: dict[str, Json] = {
        "exp": int(claims.expires_at.timestamp()),
        "files": [
            {"algorithm": "SHA-256", "hash": file_hash(name, files[name]), "name": name} for name in sorted(files)
        ],
        "sequence": claims.sequence,
        "tenant": claims.tenant,
    }
    if claims.not_before is not None:
        payload["nbf"] = int(claims.not_before.timestamp())
    token = key.sign(json.dumps(payload, sort_keys=True, separators=(",", ":")).encode())
    return write_archive({**files, SIGNATURES: _signatures_file(token)})


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
    _check_names(files)  # 2
    _check_json(files)  # 3
    token = _token(signatures)  # 4
    kid = _kid(token)  # 5
    payload = keys.get(kid).verify(token)  # 6
    claims = _claims(payload)  # 7
    _check_files(files, claims["files"])  # 8
    check_gzip(data, tar)  # now that a damaged file has been named
    bundle = VerifiedBundle(
        files=files,
        digest=digest,
        sequence=claims.get("sequence", 0),
        expires_at=_time(claims["exp"]) if "exp" in claims else _DISTANT,
        not_before=_time(claims["nbf"]) if "nbf" in claims else None,
        tenant=claims.get("tenant", ""),
        kid=kid,
        revision=_revision(files),
        signed=True,
    )
    if serve:
        if "sequence" not in claims or "exp" not in claims:
            raise FormatError("the signature has no `sequence` and `exp`: sign it with `exequatur bundle sign`")
        if signatures != _signatures_file(token):  # 9
            raise FormatError(f"`{SIGNATURES}` is not as `exequatur bundle sign` writes it: sign it with that")
        _check_archive(data, tar, {**files, SIGNATURES: signatures})
        _check_now(bundle, tenant=tenant, now=now)  # 10, 11
        check_floor(bundle, floor)  # 12
    return bundle


def unsafe_read_unsigned(data: bytes, limits: BundleLimits = LIMITS) -> VerifiedBundle:
    """Read an archive that nobody vouches for; whoever calls this makes every effect at least WARN."""
    tar = unpack(data, limits)
    files = read_tar(tar, limits)
    files.pop(SIGNATURES, None)
    _check_names(files)
    _check_json(files)
    return VerifiedBundle(
        files, hashlib.sha256(tar).digest(), 0, _DISTANT, None, "default", "", _revision(files), signed=False
    )


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


def file_hash(name: str, content: bytes, algorithm: str = "SHA-256") -> str:
    """Hash a file as OPA does: `data.json` and `.manifest` by their parsed value, all others by their bytes.

    The former must have passed the strict parser; `algorithm` is one of OPA's names for SHA-2.
    """
    hasher = hashlib.new(_HASHES[algorithm])
    if name.rpartition("/")[2] in _STRUCTURED:
        hasher.update(_structured(content))
    else:
        hasher.update(content)
    return hasher.hexdigest()


class _Literal(str):
    """A number as it is written: OPA hashes `1.0` and `1.00` apart."""

    __slots__ = ()


def _structured(content: bytes) -> bytes:
    """Write a JSON value as Go's encoder does: sorted keys, no spaces, numbers as written, `<>&` raw."""
    value = json.loads(content.decode(), parse_int=_Literal, parse_float=_Literal)
    parts: list[str] = []
    _write(value, parts)
    return "".join(parts).encode()


def _write(value: Any, parts: list[str]) -> None:
    if isinstance(value, _Literal):
        parts.append(value)
    elif isinstance(value, str):
        parts.append(json.dumps(value, ensure_ascii=False).replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))
    elif isinstance(value, dict):
        for mark, key in zip("{" + "," * len(value), sorted(value), strict=False):
            parts.append(mark)
            _write(key, parts)
            parts.append(":")
            _write(value[key], parts)
        parts.append("}" if value else "{}")
    elif isinstance(value, list):
        for mark, item in zip("[" + "," * len(value), value, strict=False):
            parts.append(mark)
            _write(item, parts)
        parts.append("]" if value else "[]")
    else:
        parts.append(json.dumps(value))


def _check_names(files: Mapping[str, bytes]) -> None:
    for name in files:
        base = name.rpartition("/")[2]
        if base in ("data.yaml", "data.yml"):
            raise FormatError(f"`{name}`: data must be JSON, YAML can be read in two ways")
        if base == "patch.json":
            raise FormatError(f"`{name}`: delta bundles are refused, OPA verifies none")
        if name.endswith("signatures.json"):
            raise FormatError(f"`{name}`: signatures are in `{SIGNATURES}` alone, others have slipped past OPA")
        if name.endswith((MANIFEST, ".manifest.pb")) and name != MANIFEST:
            raise FormatError(f"`{name}`: OPA would take it for the manifest, which is `{MANIFEST}` alone")


def _check_json(files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        if name.endswith(".json") or name == MANIFEST:
            try:
                parse(content, JSON_LIMITS)
            except JsonError as error:
                raise FormatError(f"`{name}`: {error}") from None


def _token(signatures: bytes) -> str:
    try:
        value = parse(signatures, _SIGNATURES_LIMITS)
    except JsonError as error:
        raise FormatError(f"`{SIGNATURES}`: {error}") from None
    if not isinstance(value, dict):
        raise FormatError(f"`{SIGNATURES}` is no object")
    tokens = value.get("signatures")
    if not isinstance(tokens, list) or len(tokens) != 1 or not isinstance(tokens[0], str):
        raise SignatureError(f"`{SIGNATURES}` must hold exactly one signature")
    if value.keys() - {"signatures", "plugin"} or value.get("plugin", "_default") != "_default":
        raise SignatureError(f"`{SIGNATURES}` asks for another verifier than the usual one")
    return tokens[0]


def _signatures_file(token: str) -> bytes:
    return json.dumps({"signatures": [token]}, indent=1).encode()


def _kid(token: str) -> str:
    """The key's name, from what is not yet verified: it only chooses which key must verify all of it."""
    header, _, rest = token.partition(".")
    kid = _unverified(header).get("kid")
    if kid is None:
        kid = _unverified(rest.partition(".")[0]).get("keyid")
    if not isinstance(kid, str) or not kid:
        raise UnknownKeyError("the signature names no key: its header has no `kid`")
    return kid


def _unverified(part: str) -> dict[str, Json]:
    try:
        value = parse(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)), JSON_LIMITS)
    except (JsonError, ValueError, binascii.Error):
        raise SignatureError("the signature is no compact JWS") from None
    if not isinstance(value, dict):
        raise SignatureError("the signature is no compact JWS")
    return value


def _claims(payload: bytes) -> dict[str, Any]:
    try:
        claims = parse(payload, JSON_LIMITS)
    except JsonError as error:
        raise FormatError(f"the signed payload: {error}") from None
    if not isinstance(claims, dict) or not isinstance(claims.get("files"), list):
        raise FormatError("the signed payload lists no files")
    for name, kind in (("sequence", int), ("exp", int), ("nbf", int), ("tenant", str)):
        if name in claims and (not isinstance(claims[name], kind) or isinstance(claims[name], bool)):
            raise FormatError(f"the signed claim `{name}` is not of type {kind.__name__}")
    if cast("int", claims.get("sequence", 1)) < 1:
        raise FormatError("the signed claim `sequence` must be 1 or more")
    if claims.get("scope", "") != "":
        raise ScopeError("the bundle is signed for a scope, and this consumer has none")
    return claims


def _check_files(files: Mapping[str, bytes], listed: list[Any]) -> None:
    """Hold the files against the list, both ways, and say which one differs."""
    seen: set[str] = set()
    for item in listed:
        if not isinstance(item, dict) or not all(isinstance(item.get(k), str) for k in ("name", "hash", "algorithm")):
            raise FormatError("the signed list has an entry without `name`, `hash` and `algorithm`")
        name, algorithm = item["name"], item["algorithm"]
        if name in seen:
            raise FormatError(f"the signed list has {quoted(name)} twice")
        seen.add(name)
        if name not in files:
            raise SignatureError(f"{quoted(name)} is signed, and missing from the bundle")
        if algorithm not in _HASHES:
            raise SignatureError(f"`{name}` is listed with {quoted(algorithm)}: only SHA-2 is taken")
        if file_hash(name, files[name], algorithm) != item["hash"]:
            raise SignatureError(f"`{name}` is not what was signed: its {algorithm} differs")
    if unlisted := sorted(files.keys() - seen):
        raise SignatureError(f"`{unlisted[0]}` is in the bundle, and was not signed")
    if not seen:
        raise FormatError("the signed list is empty")


def _check_archive(data: bytes, tar: bytes, files: Mapping[str, bytes]) -> None:
    pairs = [("tar", tar, write_tar(files))]
    if data is not tar:
        pairs.append(("gzip stream", data, write_archive(files)))
    for name, theirs, ours in pairs:
        if theirs != ours:
            at = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), len(ours))
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


def _revision(files: Mapping[str, bytes]) -> str:
    manifest = parse(files[MANIFEST], JSON_LIMITS) if MANIFEST in files else {}
    revision = manifest.get("revision", "") if isinstance(manifest, dict) else ""
    return revision if isinstance(revision, str) else ""
