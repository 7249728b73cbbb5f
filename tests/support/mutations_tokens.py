"""Changes of the token, and tokens that somebody else made."""

from __future__ import annotations

import dataclasses
import hmac
import json
import random
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from exequatur.trust.archive import read_tar, unpack, write_archive
from exequatur.trust.bundle import BundleClaims, endorse, sign
from exequatur.trust.hashing import file_hash, raw_hashes
from exequatur.trust.keys import SigningKey
from exequatur.trust.tokens import ENDORSEMENT, SIGNATURES, write_signatures, write_token
from mutations import (
    ALICE,
    BOB,
    FILES,
    MALLORY,
    SEQUENCE,
    TENANT,
    Published,
    damaged,
    trick,
    unpart,
)
from signing import LATER, compact, part, public_pem


def signed_as(base: Published, token: str) -> bytes:
    return write_archive({**base.files, SIGNATURES: write_signatures(token)})


def forged(base: Published, key: SigningKey, claims: dict[str, Any] | None = None, typ: str = "") -> str:
    return write_token(key, compact(base.claims if claims is None else claims), typ)


def compact_as_is(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def evil(base: Published, chance: random.Random) -> dict[str, Any]:
    """Claim what an attacker wants: his files, a higher number, a longer life."""
    files = {**base.contents, "p.cedar": b"permit (principal, action, resource); // all\n"}
    return {
        **{name: value for name, value in base.claims.items() if name != "endorsements"},
        "files": listing(files),
        "raw": raw_hashes(files),
        "sequence": chance.choice([SEQUENCE + 1, SEQUENCE, 2**53 - 1, 2**40]),
        "exp": int(LATER.timestamp()) + chance.randrange(10**6),
    }


def evil_files(base: Published) -> dict[str, bytes]:
    return {**base.contents, "p.cedar": b"permit (principal, action, resource); // all\n"}


def listing(files: dict[str, bytes]) -> list[dict[str, str]]:
    return [{"algorithm": "SHA-256", "hash": file_hash(name, files[name]), "name": name} for name in sorted(files)]


def resigned(base: Published, claims: dict[str, Any], key: SigningKey, typ: str = "") -> bytes:
    return write_archive({**evil_files(base), SIGNATURES: write_signatures(forged(base, key, claims, typ))})


@trick
def a_token_of_another_spelling(base: Published, chance: random.Random) -> bytes:
    head, body, end = base.token.split(".")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

    def respelt(text: str) -> str:
        """Change bits that base64 does not need, where there are some; else add what it does not need."""
        spare = {2: 16, 3: 4}.get(len(text) % 4)
        if spare is None:
            return text + chance.choice(["=", "A", "\n"])
        return text[:-1] + alphabet[alphabet.index(text[-1]) ^ chance.randrange(1, spare)]

    return signed_as(
        base,
        chance.choice(
            [
                lambda: f"{respelt(head)}.{body}.{end}",
                lambda: f"{head}.{respelt(body)}.{end}",
                lambda: f"{head}.{body}.{respelt(end)}",
                lambda: f"{head}=.{body}.{end}",
                lambda: f"{head}.{body}.{end}" + "=" * chance.randint(1, 4),
                lambda: f"{head}.{body}.{end}.",
                lambda: f".{head}.{body}.{end}",
                lambda: f"{head}.{body}",
                lambda: f"{head}.{body}.",
                lambda: f"{head}..{end}",
                lambda: f"{head}.{body}.{end[:-1]}",
                lambda: f"{head}.{body}.{end.replace('-', '+').replace('_', '/')}+",
                lambda: f" {base.token}",
                lambda: f"{head}.\n{body}.{end}",
                lambda: f"{head}.{body}." + part(b"\0" + unpart(end)),
                lambda: f"{head}.{body}." + part(unpart(end) + b"\0"),
                lambda: json.dumps({"protected": head, "payload": body, "signature": end}),
            ]
        )(),
    )


@trick
def flipped_bits_of_the_token(base: Published, chance: random.Random) -> bytes:
    parts = [unpart(item) for item in base.token.split(".")]
    at = chance.randrange(3)
    parts[at] = damaged(parts[at], chance)
    return signed_as(base, ".".join(map(part, parts)))


@trick
def another_header(base: Published, chance: random.Random) -> bytes:
    _, body, end = base.token.split(".")
    header = chance.choice(
        [
            {"alg": alg, "kid": "alice"}
            for alg in ("none", "None", "HS256", "RS512", "PS256", "ES256", "EdDSA", "", None)
        ]
        + [
            {"alg": "RS256", "kid": kid}
            for kid in ("bob", "mallory", "twin", "rex", "late", "", None, 7, "../alice", "ALICE")
        ]
        + [{"alg": "RS256"}, {"kid": "alice"}, {}, {"alg": "RS256", "kid": "alice", "typ": "JWT"}]
        + [{"alg": "RS256", "kid": "alice", "typ": ENDORSEMENT}, {"alg": "RS256", "kid": "alice", "crit": ["exp"]}]
        + [
            {"alg": "RS256", "kid": "alice", "b64": False, "crit": ["b64"]},
            {"alg": "RS256", "kid": "alice", "zip": "DEF"},
        ]
        + [
            {"alg": "RS256", "kid": "alice", "jwk": {"kty": "oct", "k": "AA"}},
            {"alg": "RS256", "kid": "alice", "jku": "x"},
        ]
        + [{"kid": "alice", "alg": "RS256"}]
    )
    token = f"{part(compact_as_is(header))}.{body}.{chance.choice([end, '', part(b'x' * 256)])}"
    return signed_as(base, token)


@trick
def a_mac_by_what_is_public(base: Published, chance: random.Random) -> bytes:

    alg = chance.choice(["HS256", "HS384", "HS512"])
    secret = chance.choice([public_pem(ALICE), public_pem(ALICE).strip(), public_pem(BOB), b"", b"alice"])
    text = f"{part(compact_as_is({'alg': alg, 'kid': 'alice'}))}.{part(compact(evil(base, chance)))}"
    return signed_as(base, f"{text}.{part(hmac.digest(secret, text.encode(), 'sha' + alg[2:]))}")


@trick
def a_key_that_nobody_trusts(base: Published, chance: random.Random) -> bytes:
    key = dataclasses.replace(MALLORY, kid=chance.choice(["mallory", "alice", "bob", "rex", "", "alice "]))
    return resigned(base, evil(base, chance), key)


@trick
def another_curve_signature_that_holds(base: Published, chance: random.Random) -> bytes:
    """Whoever has (r, s) has (r, -s) too: BOB published this one."""
    claims = BundleClaims(SEQUENCE + chance.randint(1, 9), LATER, tenant=TENANT)
    files = read_tar(unpack(sign(FILES, BOB, claims, [endorse(FILES, ALICE, claims)])))
    head, body, end = json.loads(files[SIGNATURES])["signatures"][0].split(".")
    raw = unpart(end)
    other = ec.SECP256R1().group_order - int.from_bytes(raw[32:])
    return write_archive(
        {**files, SIGNATURES: write_signatures(f"{head}.{body}.{part(raw[:32] + other.to_bytes(32))}")}
    )
