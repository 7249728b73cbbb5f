"""A key is for one purpose and one algorithm; one that does not load stops the start."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from exequatur.trust.errors import FormatError, SignatureError, UnknownKeyError
from exequatur.trust.keys import ALGORITHMS, SigningKey, generate, load_log_key, parse_key_set
from exequatur.trust.tokens import write_token
from signing import NOW, bundle_keys, dev_key, jws, public_pem, rsa_pem

DEV = public_pem(dev_key())
CURVE = {alg: generate(alg) for alg in ("ES256", "ES384", "ES512")}


def private_pem(key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def as_public(pem: bytes) -> bytes:
    key = load_pem_private_key(pem, None)
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("name", "pem", "kid", "alg"),
    [
        ("dev.pem", DEV, "dev", "RS256"),
        ("dev.PS512.pem", DEV, "dev", "PS512"),
        ("team-a.2026.pem", DEV, "team-a.2026", "RS256"),
        ("team-a.2026.RS384.pem", DEV, "team-a.2026", "RS384"),
        ("p256.pem", CURVE["ES256"][1], "p256", "ES256"),
        ("p384.pem", CURVE["ES384"][1], "p384", "ES384"),
        ("p521.ES512.pem", CURVE["ES512"][1], "p521", "ES512"),
    ],
)
def test_a_key_has_the_id_and_the_algorithm_of_its_file(name, pem, kid, alg):
    key = parse_key_set({name: pem}).get(kid, NOW)
    assert (key.kid, key.alg) == (kid, alg)


@pytest.mark.parametrize(
    ("name", "pem", "words"),
    [
        ("dev.pem", b"", "no public key"),
        ("dev.pem", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no public key"),
        ("dev.pem", rsa_pem("dev"), "holds a private key"),
        ("dev.pem", DEV + CURVE["ES256"][1], "more than one key"),
        ("dev.pem", generate("Ed25519")[1], "signs no bundles"),
        ("dev.pem", as_public(private_pem(dsa.generate_private_key(1024))), "signs no bundles"),
        ("dev.pem", as_public(rsa_pem("weak", bits=1024)), "1024 bits: at least 2048"),
        ("dev.pem", as_public(rsa_pem("small", exponent=3)), "small exponent"),
        ("dev.pem", as_public(private_pem(ec.generate_private_key(ec.SECP256K1()))), "cannot sign"),
        ("dev.ES256.pem", DEV, "cannot sign ES256"),
        ("p256.ES384.pem", CURVE["ES256"][1], "cannot sign ES384"),
        ("p256.RS256.pem", CURVE["ES256"][1], "cannot sign RS256"),
        ("dev.pub", DEV, "not named KID.pem"),
        (".pem", DEV, "not named KID.pem"),
        ("a b.pem", DEV, "not named KID.pem"),
        ("../dev.pem", DEV, "not named KID.pem"),
        ("README.md", b"keys of the platform team", "no public key"),
    ],
)
def test_a_file_that_is_no_such_key_is_an_error_and_never_a_key_less(name, pem, words):
    with pytest.raises(FormatError, match=words):
        parse_key_set({"good.pem": DEV, name: pem})


def test_two_files_of_one_id_are_refused():
    with pytest.raises(FormatError, match="two files hold a key `dev`"):
        parse_key_set({"dev.pem": DEV, "dev.PS256.pem": DEV})


def test_an_empty_ring_trusts_nobody_and_is_refused():
    with pytest.raises(UnknownKeyError, match="empty"):
        parse_key_set({})
    with pytest.raises(UnknownKeyError, match="no key `dev`"):
        parse_key_set({"other.pem": DEV}).get("dev", NOW)


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_what_a_made_key_signs_its_public_half_verifies(alg):
    private, public = (rsa_pem("dev"), DEV) if alg[0] in "RP" else CURVE[alg]
    key = SigningKey.from_pem(f"k.{alg}.pem", private)
    ring = parse_key_set({f"k.{alg}.pem": public})
    assert ring.keys["k"].verify(write_token(key, b"payload")) == b"payload"
    assert key.public.verify(write_token(key, b"")) == b""
    with pytest.raises(SignatureError):
        ring.keys["k"].verify(write_token(key, b"payload")[:-4] + "AAAA")


@pytest.mark.parametrize(("marked", "used"), [("RS256", "PS256"), ("RS256", "RS512"), ("PS256", "RS256")])
def test_a_good_signature_of_another_algorithm_than_the_keys_is_refused(marked, used):
    token = write_token(SigningKey.from_pem(f"k.{used}.pem", rsa_pem("dev")), b"payload")
    with pytest.raises(SignatureError):
        parse_key_set({f"k.{marked}.pem": DEV}).keys["k"].verify(token)
    assert parse_key_set({f"k.{used}.pem": DEV}).keys["k"].verify(token) == b"payload"


def test_a_key_for_bundles_is_made_with_3072_bits():
    key = SigningKey.from_pem("k.pem", generate("RS256")[0])
    assert key.public.key.key_size == 3072


@pytest.mark.parametrize("alg", ["HS256", "none", "RS1", "Ed448", ""])
def test_no_key_is_made_for_an_algorithm_that_is_not_taken(alg):
    with pytest.raises(FormatError, match="is not an algorithm"):
        generate(alg)


@pytest.mark.parametrize(
    ("pem", "words"),
    [
        (b"", "no private key"),
        (DEV, "no private key"),
        (generate("Ed25519")[0], "signs no bundles"),
        (
            load_pem_private_key(rsa_pem("dev"), None).private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
            ),
            "without a password",
        ),
    ],
)
def test_what_cannot_sign_bundles_is_refused(pem, words):
    with pytest.raises(FormatError, match=words):
        SigningKey.from_pem("k.pem", pem)


def test_no_key_shows_itself():
    assert "RSAPrivateKey" not in repr(dev_key())
    assert repr(dev_key()) == "SigningKey(kid='dev', alg='RS256')"


def test_a_key_for_checkpoints_is_ed25519_alone():
    assert load_log_key(generate("Ed25519")[0])
    for pem, words in (
        (rsa_pem("dev"), "must be Ed25519"),
        (b"", "no private key"),
        (generate("Ed25519")[1], "no private"),
    ):
        with pytest.raises(FormatError, match=words):
            load_log_key(pem)


@pytest.mark.parametrize("member", ["crit", "b64", "jwk", "jku", "x5c", "x5u", "zip", "kids"])
def test_a_header_with_more_than_algorithm_and_key_is_refused(member):
    key = bundle_keys().keys["dev"]
    header = {"alg": "RS256", "kid": "dev", "typ": "JWT"}
    assert key.verify(jws(header, b"{}")) == b"{}"
    for value in (["exp"], False, "x", {}):
        with pytest.raises(SignatureError):
            key.verify(jws({**header, member: value}, b"{}"))
