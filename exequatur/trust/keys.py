"""Keys, one purpose each: who may sign bundles, and who may sign checkpoints.

Rules: a key's algorithm is a property of the key, never of what it signed; a key that does not load is an error, never
a key less; an empty ring trusts nobody and is refused. Files are named `KID.pem`, or `KID.ALG.pem` where the algorithm
is not RS256 or the curve's own ES. Reading the files is the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NewType, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey
from joserfc.registry import JWS_HEADER_REGISTRY

from exequatur.trust.canonical import quoted
from exequatur.trust.errors import (
    ExpiredError,
    FormatError,
    RevokedError,
    ScopeError,
    SignatureError,
    UnknownKeyError,
)
from exequatur.trust.key_policy import FILE, KID, KeyPolicy, Terms
from exequatur.trust.tokens import BUNDLE

RSA_BITS: Final = 2048
"""The smallest RSA modulus, in bits (NIST SP 800-131A)."""
RSA_EXPONENT: Final = 65537
"""The smallest RSA exponent (FIPS 186-5): with 1, anybody signs."""

CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
RSA_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
ALGORITHMS: Final = (*RSA_ALGORITHMS, *CURVES.values())
_PURPOSE: Final = "bundle"
"""What keys are for where nothing says so."""

_Public: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
_Private: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class _Registry(jws.JWSRegistry):
    """joserfc takes 128,000 bytes of payload; a bundle of 3,000 files has more.

    It also takes headers that change how the rest is read (`crit`, `b64`), or that bring a key along (`jwk`): no.
    """

    max_payload_length = 8 * 2**20
    default_header_registry = {name: JWS_HEADER_REGISTRY[name] for name in ("alg", "kid", "typ")}  # noqa: RUF012  as its base


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that may verify: its id, its one algorithm, and the key itself."""

    kid: str
    alg: str
    key: _Public = field(repr=False)

    def verify(self, token: str, types: tuple[str, ...] = BUNDLE) -> bytes:
        """Verify a compact JWS whose `typ` is one of `types`, and give its payload, the very bytes that were signed.

        Raises `SignatureError`.
        """
        try:
            signed = jws.deserialize_compact(token, _jwk(self.key), registry=_Registry(algorithms=[self.alg]))
        except (JoseError, ValueError, TypeError, KeyError):
            raise SignatureError(f"the signature does not hold by key `{self.kid}` ({self.alg})") from None
        typ = signed.protected.get("typ", "")
        if typ not in types:
            raise SignatureError(f"`{self.kid}` signed {quoted(str(typ))}, which is not what is wanted here")
        return signed.payload


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key: its id, its one algorithm, and the key itself, which no message ever shows."""

    kid: str
    alg: str
    key: _Private = field(repr=False)

    @classmethod
    def from_pem(cls, name: str, pem: bytes) -> SigningKey:
        """Load a private key named like its file (`KID.pem`, `KID.ALG.pem`); raises `FormatError`."""
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise FormatError(f"`{name}` holds no private key in PEM without a password") from None
        if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
            raise FormatError(f"`{name}` holds a key that signs no bundles: RSA or an elliptic curve is needed")
        kid, alg = _name(name, key.public_key())
        return cls(kid, alg, key)

    def sign_input(self, data: bytes) -> bytes:
        """Give the raw signature over `data`."""
        return _Registry(algorithms=[self.alg]).get_alg(self.alg).sign(data, _jwk(self.key))

    @property
    def public(self) -> PublicKey:
        """The key that verifies what this one signs."""
        return PublicKey(self.kid, self.alg, self.key.public_key())


@dataclass(frozen=True, slots=True)
class KeySet:
    """Keys by id, and on what terms they are trusted. Holds at least one, when `parse_key_set` made it."""

    keys: Mapping[str, PublicKey]
    policy: KeyPolicy

    @property
    def threshold(self) -> int:
        """How many owners must sign."""
        return self.policy.threshold

    @property
    def revoked(self) -> frozenset[str]:
        """The ids of keys that are not trusted any more, whatever else is said of them."""
        return self.policy.revoked

    def get(self, kid: str, now: datetime) -> PublicKey:
        """Give the key `kid`, if it may sign now; raises `UnknownKeyError`, `RevokedError`, `ExpiredError`."""
        if kid in self.policy.revoked:
            raise RevokedError(f"the key {quoted(kid)} is revoked")
        if kid not in self.keys:
            raise UnknownKeyError(f"no key {quoted(kid)}: the key folder has {_list(self.keys)}")
        end = self.policy.terms[kid].not_after
        if end is not None and now >= end:
            raise ExpiredError(f"the key `{kid}` was good until {end:%Y-%m-%dT%H:%M:%SZ}: sign with another")
        return self.keys[kid]


BundleKeys = NewType("BundleKeys", KeySet)
"""May sign bundles, and nothing else."""
PermitKeys = NewType("PermitKeys", KeySet)
"""May sign permits, and nothing else."""


def parse_key_set(files: Mapping[str, bytes]) -> BundleKeys:
    """Read a folder of `KID.pem` and `KID.ALG.pem`, and its `keys.json`; raises `TrustError` for whatever is wrong.

    Without `keys.json` each key is its own owner, and one signature is enough.
    """
    return BundleKeys(_key_set(files, "bundle"))


def parse_permit_keys(files: Mapping[str, bytes]) -> PermitKeys:
    """As `parse_key_set`, for a folder whose `keys.json` says `permit`."""
    return PermitKeys(_key_set(files, "permit"))


def trust_one(key: PublicKey, scope: str = "") -> BundleKeys:
    """Give the set of a key alone, which signs for this scope."""
    return BundleKeys(KeySet({key.kid: key}, KeyPolicy("bundle", terms={key.kid: Terms(key.kid, scope=scope)})))


def generate(alg: str) -> tuple[bytes, bytes]:
    """Make a key pair for `alg` (one of `ALGORITHMS`, or Ed25519): private and public PEM."""
    key: _Private | ed25519.Ed25519PrivateKey
    if alg == "Ed25519":
        key = ed25519.Ed25519PrivateKey.generate()
    elif alg in RSA_ALGORITHMS:
        key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    else:
        curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
        if alg not in curves:
            raise FormatError(f"`{alg}` is not an algorithm: take one of {', '.join((*ALGORITHMS, 'Ed25519'))}")
        key = ec.generate_private_key(curves[alg])
    return (
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )


def load_log_key(pem: bytes) -> ed25519.Ed25519PrivateKey:
    """Read the Ed25519 private key that signs checkpoints; raises `FormatError`."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise FormatError("the checkpoint key is no private key in PEM without a password") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise FormatError("the checkpoint key must be Ed25519: make one with `exequatur keys generate --alg Ed25519`")
    return key


def _key_set(files: Mapping[str, bytes], purpose: str) -> KeySet:
    keys: dict[str, PublicKey] = {}
    for name, pem in sorted(files.items()):
        if name == FILE:
            continue
        key = _public_key(name, pem)
        if key.kid in keys:
            raise FormatError(f"two files hold a key `{key.kid}`")
        keys[key.kid] = key
    if FILE not in files:
        if not keys:
            raise UnknownKeyError("the key folder is empty: put the public keys of those who may sign into it")
        if purpose != _PURPOSE:
            raise FormatError(f"the key folder has no `{FILE}`, which must say the purpose `{purpose}`")
        return KeySet(keys, KeyPolicy(purpose, terms={kid: Terms(kid) for kid in keys}))
    policy = KeyPolicy.parse(files[FILE])
    if policy.purpose != purpose:
        raise ScopeError(f"`{FILE}`: these keys are for the purpose `{policy.purpose}`, not for `{purpose}`")
    _check_all_listed(keys, policy)
    return KeySet({kid: key for kid, key in keys.items() if kid not in policy.revoked}, policy)


def _check_all_listed(keys: Mapping[str, PublicKey], policy: KeyPolicy) -> None:
    """Hold folder and `keys.json` against each other; one key under two names could count for two owners."""
    if unlisted := sorted(keys.keys() - policy.terms.keys() - policy.revoked):
        raise FormatError(f"`{FILE}` does not list the key `{unlisted[0]}`, whose file is there: list or remove it")
    if missing := sorted(policy.terms.keys() - keys.keys() - policy.revoked):
        raise FormatError(f"`{FILE}` lists the key `{missing[0]}`, which has no file: add it, or revoke the key")
    seen: dict[object, str] = {}
    for kid, key in keys.items():
        numbers = key.key.public_numbers()
        # A key and its negative, or a modulus with another exponent, are one secret.
        secret = numbers.n if isinstance(numbers, rsa.RSAPublicNumbers) else (numbers.curve.name, numbers.x)
        if secret in seen:
            raise FormatError(f"`{seen[secret]}` and `{kid}` are the same key under two names: keep one")
        seen[secret] = kid


def _public_key(name: str, pem: bytes) -> PublicKey:
    if b"PRIVATE KEY" in pem:
        raise FormatError(f"`{name}` holds a private key: only public keys belong there")
    if pem.count(b"-----BEGIN ") > 1:
        raise FormatError(f"`{name}` holds more than one key: give each its own file")
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise FormatError(f"`{name}` holds no public key in PEM") from None
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise FormatError(f"`{name}` holds a key that signs no bundles: RSA or an elliptic curve is needed")
    kid, alg = _name(name, key)
    return PublicKey(kid, alg, key)


def _name(name: str, key: _Public) -> tuple[str, str]:
    """Read key id and algorithm from a file's name, and hold them against the key."""
    if not name.endswith(".pem"):
        raise FormatError(f"`{name}` is not named KID.pem or KID.ALG.pem")
    kid, dot, alg = name.removesuffix(".pem").rpartition(".")
    if not dot or alg not in ALGORITHMS:
        kid, alg = name.removesuffix(".pem"), ""
    if not KID.fullmatch(kid):
        raise FormatError(f"`{name}` is not named KID.pem or KID.ALG.pem: a KID has letters, digits, `_`, `-` and `.`")
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < RSA_BITS:
            raise FormatError(f"`{name}` has {key.key_size} bits: at least {RSA_BITS} are needed")
        if key.public_numbers().e < RSA_EXPONENT:
            raise FormatError(f"`{name}` has a small exponent: at least {RSA_EXPONENT} is needed")
        allowed: tuple[str, ...] = RSA_ALGORITHMS
    else:
        allowed = tuple(alg for curve, alg in CURVES.items() if curve == key.curve.name)
    if not allowed or (alg and alg not in allowed):
        raise FormatError(f"`{name}`: its key cannot sign {alg or 'with any algorithm that is taken'}")
    return kid, alg or allowed[0]


def _jwk(key: _Public | _Private) -> RSAKey | ECKey:
    return RSAKey(key, key) if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey) else ECKey(key, key)


def _list(names: Mapping[str, object]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))
