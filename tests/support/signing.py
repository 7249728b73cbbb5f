"""Keys and signed bundles for tests: one key of each name a process, made when it is first asked for."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from exequatur.trust.archive import store_gzip, write_archive
from exequatur.trust.bundle import BundleClaims, VerifiedBundle, endorse, sign, verify
from exequatur.trust.endorsing import write_endorsement
from exequatur.trust.hashing import file_hash, raw_hashes
from exequatur.trust.keys import BundleKeys, SigningKey, parse_key_set

NOW = datetime(2026, 1, 5, 10, 0, tzinfo=UTC)
LATER = datetime(2036, 1, 1, tzinfo=UTC)
FILES: dict[str, bytes] = {
    ".manifest": b'{"revision": "r1", "roots": ["exequatur", "hosts"]}',
    "data.json": b'{"hosts": ["example.com"], "limit": 1.50}',
    "permits.cedar": b"permit (principal, action, resource);\n",
    "policies/decision.rego": b"package exequatur\n\ndecision := {}\n",
}
"""A small bundle, of files of each kind."""


@functools.cache
def rsa_pem(kid: str, bits: int = 2048, exponent: int = 65537) -> bytes:
    """Give a private RSA key in PEM. 2048 bits: the least that is taken, and the quickest to make."""
    key = rsa.generate_private_key(public_exponent=exponent, key_size=bits)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@functools.cache
def dev_key(kid: str = "dev") -> SigningKey:
    """Give the signing key `kid` (RS256)."""
    return SigningKey.from_pem(f"{kid}.pem", rsa_pem(kid))


def public_pem(key: SigningKey) -> bytes:
    """Give the public half of a signing key in PEM."""
    return key.public.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def bundle_keys(*keys: SigningKey) -> BundleKeys:
    """Trust `keys`, or the key `dev`."""
    return parse_key_set({f"{key.kid}.{key.alg}.pem": public_pem(key) for key in keys}) if keys else _usual()


@functools.cache
def _usual() -> BundleKeys:
    return bundle_keys(dev_key())


def key_set(
    *keys: SigningKey,
    threshold: int = 1,
    revoked: tuple[str, ...] = (),
    purpose: str = "bundle",
    **terms: dict[str, Any],
) -> BundleKeys:
    """Trust `keys` by a `keys.json`; `terms` says by kid what is not usual, and each key is its own owner."""
    listed = {key.kid: {"owner": key.kid, **terms.get(key.kid, {})} for key in keys}
    policy = {"purpose": purpose, "threshold": threshold, "keys": listed, "revoked": list(revoked)}
    files = {f"{key.kid}.{key.alg}.pem": public_pem(key) for key in keys}
    return parse_key_set({**files, "keys.json": json.dumps(policy).encode()})


def signed(
    files: Mapping[str, bytes],
    sequence: int = 1,
    expires_at: datetime = LATER,
    key: SigningKey | None = None,
    not_before: datetime | None = None,
    tenant: str = "default",
    endorsers: Sequence[SigningKey] = (),
) -> bytes:
    """Pack and sign `files`, endorsed by others first."""
    claims = BundleClaims(sequence, expires_at, not_before, tenant)
    return sign(files, key or dev_key(), claims, [endorse(files, endorser, claims) for endorser in endorsers])


def part(data: bytes) -> str:
    """Encode a part of a JWS."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jws(header: dict[str, Any] | bytes, payload: bytes, key: SigningKey | None = None) -> str:
    """Sign any header and any payload with RSA PKCS #1 v1.5 and SHA-256, whatever the header says."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    text = f"{part(head)}.{part(payload)}"
    private = (key or dev_key()).key
    assert isinstance(private, rsa.RSAPrivateKey)
    return f"{text}.{part(_signature(private, text.encode()))}"


@functools.lru_cache(maxsize=256)
def _signature(key: rsa.RSAPrivateKey, data: bytes) -> bytes:
    return key.sign(data, padding.PKCS1v15(), hashes.SHA256())


def compact(value: Any) -> bytes:
    """Write JSON as payloads are written, also such JSON as none has."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


@dataclass
class Forge:
    """A publisher who can do anything wrong: change a field, then ask for the `archive`."""

    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    claims: dict[str, Any] = field(
        default_factory=lambda: {"sequence": 7, "exp": int(LATER.timestamp()), "tenant": "default"}
    )
    header: dict[str, Any] | bytes = field(default_factory=lambda: {"alg": "RS256", "kid": "dev"})
    key: SigningKey = field(default_factory=dev_key)
    endorsers: tuple[SigningKey, ...] = ()
    endorsements: Callable[[list[str]], object] = lambda _: None
    """Changes the endorsements before they are signed."""
    payload: bytes | None = None
    """The signed payload, where it is not the list of files and the claims."""
    listed: Callable[[list[dict[str, Any]]], object] = lambda _: None
    """Changes the list of files before it is signed."""
    form: Callable[[bytes], bytes] = lambda payload: payload
    """Changes how the payload is written."""
    token: Callable[[str], str] = lambda token: token
    """Changes the token after it was signed."""
    signatures: Callable[[str], bytes | None] = lambda token: json.dumps({"signatures": [token]}, indent=1).encode()
    """Writes the signatures file; None leaves it out."""
    after: dict[str, bytes | None] = field(default_factory=dict)
    """Files put in after signing, or, None, taken out."""
    pack: Callable[[Mapping[str, bytes]], bytes] = write_archive
    send: Callable[[bytes], bytes] = lambda data: data
    """Changes the archive on its way."""

    @property
    def archive(self) -> bytes:
        """The bundle."""
        listed = [
            {"name": name, "hash": file_hash(name, self.files[name]), "algorithm": "SHA-256"}
            for name in sorted(self.files)
        ]
        self.listed(listed)
        raw = raw_hashes(self.files)
        claims = {"files": listed, **({"raw": raw} if raw else {}), **self.claims}
        endorsements = [write_endorsement(key, compact(claims)) for key in self.endorsers]
        self.endorsements(endorsements)
        if endorsements:
            claims["endorsements"] = endorsements
        payload = self.payload or self.form(compact(claims))
        signatures = self.signatures(self.token(jws(self.header, payload, self.key)))
        whole = {**self.files, **self.after, ".signatures.json": signatures}
        return self.send(self.pack({name: content for name, content in whole.items() if content is not None}))


def check(archive: bytes, **options: Any) -> VerifiedBundle:
    """Verify by the key `dev`, now, unless told otherwise."""
    return verify(archive, options.pop("keys", bundle_keys()), now=options.pop("now", NOW), **options)


def gzipped(tar: bytes) -> bytes:
    """Wrap a tar as `write_archive` would, so that only its own content can tell."""
    return store_gzip(tar)
