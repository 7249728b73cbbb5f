"""Signatures as compact JWS (RFC 7515), and where a bundle keeps its own.

Rules: what a header says is not yet verified, and only chooses the key that must verify all of it; `typ` keeps what
was signed for one purpose from passing for another; the key that signs may be anywhere, this only needs its signature.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from exequatur.trust.canonical import Json, JsonError, JsonLimits, parse
from exequatur.trust.errors import FormatError, SignatureError
from exequatur.trust.hashing import SIGNATURES

BUNDLE: Final = ("", "JWT")
"""What `typ` may say on a bundle: nothing, as we write it, or what `opa sign` writes."""
ENDORSEMENT: Final = "exequatur-endorsement"
"""What `typ` says on an endorsement, and on nothing else."""

_HEADER_LIMITS: Final = JsonLimits(bytes=8192, depth=64, keys=64, string_bytes=8192)
_SIGNATURES_LIMITS: Final = JsonLimits(bytes=16 * 2**20, depth=4, keys=8, string_bytes=16 * 2**20, items=8)
_ORDERS: Final = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}


class Signer(Protocol):
    """A key that signs, wherever it is: in memory (`SigningKey`), or where nobody sees it, such as a KMS or an HSM."""

    @property
    def kid(self) -> str:
        """The key's id, by which its public half is found."""

    @property
    def alg(self) -> str:
        """Its one algorithm, of `ALGORITHMS`."""

    def sign_input(self, data: bytes) -> bytes:
        """Give the raw signature of RFC 7518 over `data`: for an elliptic curve r and s side by side, no DER."""


def write_token(signer: Signer, payload: bytes, typ: str = "") -> str:
    """Sign `payload` into a compact JWS whose header names algorithm and key."""
    header = {"alg": signer.alg, "kid": signer.kid} | ({"typ": typ} if typ else {})
    text = f"{_encode(json.dumps(header, separators=(',', ':')).encode())}.{_encode(payload)}"
    return f"{text}.{_encode(_lower(signer.alg, signer.sign_input(text.encode())))}"


def is_lower(alg: str, token: str) -> bool:
    """Whether a good signature is the one of two that `write_token` writes; who has it can make the other."""
    text, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
    return bool(text) and _lower(alg, raw) == raw


def detached(token: str) -> str:
    """Take the payload out of a token (RFC 7515, appendix F)."""
    header, _, signature = token.split(".")
    return f"{header}..{signature}"


def attached(token: str, payload: bytes) -> str:
    """Put the payload into a detached token; raises `SignatureError` for what is none."""
    header, between, signature = token.partition("..")
    if not between or "." in header or "." in signature:
        raise SignatureError("an endorsement is no detached JWS")
    return f"{header}.{_encode(payload)}.{signature}"


def read_part(part: str, limits: JsonLimits = _HEADER_LIMITS) -> dict[str, Json]:
    """Read header or payload of a token that nobody verified; raises `SignatureError`."""
    try:
        value = parse(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)), limits)
    except (JsonError, ValueError, binascii.Error):
        raise SignatureError("the signature is no compact JWS") from None
    if not isinstance(value, dict):
        raise SignatureError("the signature is no compact JWS")
    return value


def read_signatures(content: bytes) -> str:
    """Give the one token of a `.signatures.json`; raises `TrustError`."""
    try:
        value = parse(content, _SIGNATURES_LIMITS)
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


def write_signatures(token: str) -> bytes:
    """Write the `.signatures.json` of a bundle, as `opa sign` does."""
    return json.dumps({"signatures": [token]}, indent=1).encode()


def _lower(alg: str, signature: bytes) -> bytes:
    """Of (r, s) and (r, -s), which an elliptic curve takes alike, give the one with the lower s."""
    if alg not in _ORDERS:
        return signature
    half = len(signature) // 2
    s, order = int.from_bytes(signature[half:]), _ORDERS[alg].group_order
    return signature[:half] + min(s, order - s).to_bytes(half) if 0 < s < order else signature


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
