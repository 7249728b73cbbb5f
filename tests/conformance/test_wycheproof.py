"""Wycheproof's signatures: those that hold are taken, those that were tampered with, misspelt or forged are refused.

JWS go through our keys from PEM to payload. The rest are signatures of bare messages, which no bundle has: they try
the verifiers that ours stand on, as ours call them.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Final

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from joserfc.jwk import ECKey, RSAKey
from joserfc.jws import JWSRegistry

from exequatur.trust.errors import SignatureError
from exequatur.trust.keys import ALGORITHMS, parse_key_set
from exequatur.trust.note import LogKey
from others import members

pytestmark = pytest.mark.conformance


def groups(name: str) -> list[dict]:
    files = dict(members("wycheproof.tar.gz"))
    return json.loads(files[f"testvectors_v1/{name}_test.json"])["testGroups"]


def jwk_pem(jwk: dict) -> bytes:
    kind = {"RSA": RSAKey, "EC": ECKey}[jwk["kty"]]
    plain = {name: value for name, value in jwk.items() if name in ("kty", "n", "e", "crv", "x", "y")}
    return kind.import_key(plain).public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


# The vectors say `ES521` for ES512, and PS256 of the key of RFC 7520's figure 20, which signs by PS384.
MARKED: Final = {"ES521": "ES512"}
FIGURE_20: Final = (346, 350)


def holds(token: str, jwk: dict, alg: str) -> bool:
    key = parse_key_set({f"k.{alg}.pem": jwk_pem(jwk)}).keys["k"]
    try:
        key.verify(token)
    except SignatureError:
        return False
    return True


def test_every_jws_of_an_algorithm_that_we_take_is_judged_as_its_makers_say(tally):
    counts: Counter[str] = Counter()
    wrong = []
    for group in groups("json_web_signature"):
        jwk = group.get("public") or group["private"]
        # Keys for MACs do not load; a JWK's `use` and `key_ops` do not exist in PEM.
        if jwk["kty"] == "oct" or "alg" not in jwk:
            continue
        for case in group["tests"]:
            counts[case["result"]] += 1
            alg = MARKED.get(jwk["alg"], jwk["alg"])
            if case["tcId"] in FIGURE_20:
                assert not holds(case["jws"], jwk, alg), "the algorithm is the key's"
                alg = "PS384"
            if holds(case["jws"], jwk, alg) is not (case["result"] == "valid"):
                wrong.append((case["tcId"], case["comment"]))
    tally("Wycheproof: JWS", counts.total(), wrong=len(wrong))
    assert wrong == []
    assert counts == {"valid": 36, "invalid": 321}


def test_no_mac_is_taken_by_any_key_of_ours(tally):
    cases = groups("json_web_signature")
    macs = [case["jws"] for group in cases if group["private"]["kty"] == "oct" for case in group["tests"]]
    public = [group["public"] for group in cases if group.get("public", {}).get("alg") in ALGORITHMS]
    taken = [token for token in macs if any(holds(token, jwk, jwk["alg"]) for jwk in public)]
    tally("Wycheproof: JWS by a MAC, which no key of ours takes", len(macs), wrong=len(taken))
    assert (len(macs), len(public) > 0, taken) == (40, True, [])


@pytest.mark.parametrize(("name", "count"), [("ecdsa_secp256r1_sha256", 484), ("rsa_pss_2048_sha256_mgf1_32", 108)])
def test_the_algorithms_under_es256_and_ps256_judge_as_the_makers_say(name, count, tally):
    seen, wrong = 0, []
    for group in groups(name):
        pem = group["publicKeyPem"].encode()
        elliptic = name.startswith("ecdsa")
        key = ECKey.import_key(pem) if elliptic else RSAKey.import_key(pem)
        model = JWSRegistry.algorithms["ES256" if elliptic else "PS256"]
        for case in group["tests"]:
            seen += 1
            signature = bytes.fromhex(case["sig"])
            raw = _raw(signature) if elliptic else signature
            taken = raw is not None and model.verify(bytes.fromhex(case["msg"]), raw, key)
            if taken is not (case["result"] == "valid"):
                wrong.append((case["tcId"], case["comment"]))
    tally(f"Wycheproof: {name}", seen, wrong=len(wrong))
    assert (seen, wrong) == (count, [])


def _raw(der: bytes) -> bytes | None:
    """Give r and s as a JWS has them; None where the DER is not the one spelling, or a number does not fit."""
    try:
        r, s = decode_dss_signature(der)
        if encode_dss_signature(r, s) != der:
            return None
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    except (ValueError, OverflowError):
        return None


def test_ed25519_under_checkpoints_judges_as_the_makers_say(tally):
    seen, wrong = 0, []
    for group in groups("ed25519"):
        key = LogKey("log", load_pem_public_key(group["publicKeyPem"].encode()))
        key = LogKey.parse(str(key)).key
        for case in group["tests"]:
            seen += 1
            try:
                key.verify(bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"]))
                taken = True
            except InvalidSignature:
                taken = False
            if taken is not (case["result"] == "valid"):
                wrong.append((case["tcId"], case["comment"]))
    tally("Wycheproof: ed25519", seen, wrong=len(wrong))
    assert (seen, wrong) == (151, [])
