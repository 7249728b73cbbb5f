"""Keys, one purpose each: who may sign bundles, and who may sign checkpoints.

Rules: a key's algorithm is a property of the key, never of what it signed; a key that does not load is an error, never
a key less; an empty ring trusts nobody and is refused. Files are named `KID.pem`, or `KID.ALG.pem` where the algorithm
is not RS256 or the curve's own ES. Reading the files is the caller's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
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
from exequatur.trust.errors import FormatError, SignatureError, UnknownKeyError

RSA_BITS: Final = 2048
"""The smallest RSA modulus, in bits (NIST SP 800-131A)."""
RSA_EXPONENT: Final = 65537
"""The smallest RSA exponent (FIPS 186-5): with 1, anybody signs."""

CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
RSA_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
ALGORITHMS: Final = (*RSA_ALGORITHMS, *CURVES.values())
_KID: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")

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

    def verify(self, token: str) -> bytes:
        """Verify a compact JWS and give its payload, the very bytes that were signed; raises `SignatureError`."""
        jwk = _jwk(self.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), self.key)
        try:
            return jws.deserialize_compact(token, jwk, registry=_Registry(algorithms=[self.alg])).payload
        except (JoseError, ValueError, TypeError, KeyError):
            raise SignatureError(f"the signature does not hold by key `{self.kid}` ({self.alg})") from None


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

    def sign(self, payload: bytes) -> str:
        """Sign `payload` into a compact JWS whose header names algorithm and key."""
        pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        header = {"alg": self.alg, "kid": self.kid}
        return jws.serialize_compact(header, payload, _jwk(pem, self.key), registry=_Registry(algorithms=[self.alg]))

    @property
    def public(self) -> PublicKey:
        """The key that verifies what this one signs."""
        return PublicKey(self.kid, self.alg, self.key.public_key())


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Keys by id. Made by `parse_public_keys`; holds at least one."""

    keys: Mapping[str, PublicKey]

    def get(self, kid: str) -> PublicKey:
        """Give the key `kid`; raises `UnknownKeyError`."""
        try:
            return self.keys[kid]
        except KeyError:
            raise UnknownKeyError(f"no key {quoted(kid)}: the key folder has {_list(self.keys)}") from None


BundleKeys = NewType("BundleKeys", KeyRing)
"""May sign bundles, and nothing else."""


def parse_public_keys(files: Mapping[str, bytes]) -> BundleKeys:
    """Read a folder of `KID.pem` and `KID.ALG.pem`; raises `FormatError` for any file that is no such key."""
    keys: dict[str, PublicKey] = {}
    for name, pem in sorted(files.items()):
        key = _public_key(name, pem)
        if key.kid in keys:
            raise FormatError(f"two files hold a key `{key.kid}`")
        keys[key.kid] = key
    if not keys:
        raise UnknownKeyError("the key folder is empty: put the public keys of those who may sign into it")
    return BundleKeys(KeyRing(keys))


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
    if not _KID.fullmatch(kid):
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


def _jwk(pem: bytes, key: object) -> RSAKey | ECKey:
    rsa_kind = isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey)
    return RSAKey.import_key(pem) if rsa_kind else ECKey.import_key(pem)


def _list(names: Mapping[str, object]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))
