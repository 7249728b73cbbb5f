"""What made OPA take a bundle that nobody had signed, or signed otherwise, each replayed here: refused.

Each was tried on a real OPA before (1.9; some of them are closed there since).
"""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from exequatur.trust.archive import read_tar, unpack, write_archive, write_tar
from exequatur.trust.bundle import Floor, VerifiedBundle
from exequatur.trust.errors import (
    EquivocationError,
    ExpiredError,
    FormatError,
    NotYetValidError,
    RollbackError,
    ScopeError,
    SignatureError,
    TrustError,
    UnknownKeyError,
)
from exequatur.trust.tokens import SIGNATURES, write_signatures
from signing import FILES, LATER, NOW, Forge, bundle_keys, check, dev_key, gzipped, jws, key_set, signed

EVIL = b"package exequatur\n\ndecision := {}\n\nallow := true\n"
GOOD = signed(FILES, sequence=2)


def refused(archive: bytes, error: type[TrustError], words: str, **options) -> None:
    """Whether it is to be served, or only looked at."""
    for serve in (True, False):
        with pytest.raises(error, match=words):
            check(archive, serve=serve, **options)


def in_force() -> VerifiedBundle:
    return check(GOOD)


def test_a_bundle_whose_signature_was_taken_away_is_unsigned_whatever_the_key_folder_says():
    """GHSA-g2pf-6v5v-qcc8: a `signing` block without `keyid` took unsigned bundles."""
    stripped = {name: content for name, content in read_tar(unpack(GOOD)).items() if name != SIGNATURES}
    for keys in (bundle_keys(), key_set(dev_key()), key_set(dev_key(), dev={"scope": "x"})):
        refused(write_archive(stripped), SignatureError, "is not signed", keys=keys)
        refused(write_archive({**stripped, "policies/decision.rego": EVIL}), SignatureError, "is not signed", keys=keys)


def test_an_unsigned_delta_is_refused_after_a_signed_snapshot_and_alone():
    delta = {"patch.json": b'{"data": [{"op": "upsert", "path": "/hosts", "value": ["evil.com"]}]}'}
    about = {".manifest": b'{"revision": "evil", "roots": ["hosts"]}'}
    refused(write_archive({**delta, **about}), SignatureError, "is not signed")
    refused(write_archive({**read_tar(unpack(GOOD)), **delta}), FormatError, "`patch.json`: delta")
    refused(Forge(files={**about, **delta}).archive, FormatError, "`patch.json`: delta")


def test_an_older_bundle_with_a_good_signature_does_not_come_back():
    with pytest.raises(RollbackError, match="sequence 1 after 2"):
        check(signed(FILES, sequence=1), floor=Floor(2, in_force().digest))


def test_a_signature_that_is_over_or_not_yet_begun_is_refused():
    with pytest.raises(ExpiredError):
        check(signed(FILES, expires_at=NOW))
    with pytest.raises(NotYetValidError):
        check(signed(FILES, not_before=NOW + timedelta(seconds=1)))


@pytest.mark.parametrize("name", ["evil.rego", "policies/evil.rego", "._decision.rego", "evil.cedar", "notes.txt"])
def test_no_file_is_left_out_of_the_signature(name):
    """`exclude_files` leaves files out of the signature, and loads them."""
    refused(write_archive({**read_tar(unpack(GOOD)), name: EVIL}), SignatureError, "was not signed")


@pytest.mark.parametrize(
    "name", ["evil/x.signatures.json", "x.signatures.json", "signatures.json", "d/.signatures.json"]
)
def test_no_name_that_ends_as_the_signature_does_slips_past(name):
    refused(write_archive({**read_tar(unpack(GOOD)), name: b'{"allow": true}'}), FormatError, "have slipped past OPA")
    refused(Forge(files={**FILES, name: b"{}"}).archive, FormatError, "have slipped past OPA")


@pytest.mark.parametrize(
    "respelt",
    [b'{"a":1} {"b":2}', b'{"a":1} # c', b"{'a':1}", b'{"a":01}', b"a: 1", b'{"a":1,"a":1}', b'\xef\xbb\xbf{"a":1}'],
)
def test_what_hashes_like_the_signed_data_and_is_not_strict_json_is_refused(respelt):
    """OPA's hash is over the value, and reads YAML where JSON fails."""
    archive = Forge(files={**FILES, "data.json": b'{"a":1}'}, after={"data.json": respelt}).archive
    refused(archive, FormatError, "^`data.json`: ")
    empty = Forge(files={**FILES, "data.json": b"null"}, after={"data.json": b""}).archive
    refused(empty, FormatError, "^`data.json`: ")


@pytest.mark.parametrize("respelt", [b' {"a":1}', b'{"a": 1}', b'{"a":1}\n', b'{"\\u0061":1}'])
def test_what_hashes_like_the_signed_data_in_other_bytes_is_another_bundle(respelt):
    files = {**FILES, "data.json": b'{"a":1}'}
    with pytest.raises(SignatureError, match=r"`data.json` says what was signed, and is not spelt"):
        check(Forge(files=files, after={"data.json": respelt}).archive)
    unheld = Forge(files=files)
    unheld.claims["raw"] = {}
    with pytest.raises(FormatError, match=r"no `raw` hash of `.manifest`"):
        check(unheld.archive)


@pytest.mark.parametrize("name", ["data.yml", "data.yaml", "d/data.yml"])
def test_data_that_is_loaded_as_yaml_and_hashed_as_bytes_is_refused(name):
    refused(Forge(files={**FILES, name: b"allow: true\n"}).archive, FormatError, "data must be JSON")


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-1"])
def test_a_weak_hash_is_refused(algorithm):
    def weaken(items):
        for item in items:
            item["algorithm"] = algorithm

    refused(Forge(listed=weaken).archive, SignatureError, "only SHA-2 is taken")


def test_a_header_with_another_algorithm_than_the_keys_is_refused():
    """OPA ignores the header's `alg`."""
    refused(Forge(header={"alg": "ES256", "kid": "dev"}).archive, SignatureError, "does not hold by key `dev`")


def test_two_signatures_and_none_are_refused():
    files = read_tar(unpack(GOOD))
    token = json.loads(files[SIGNATURES])["signatures"][0]
    mine = jws({"alg": "RS256", "kid": "dev"}, b"{}")
    for tokens in ([], [token, token], [mine, token], [token, mine]):
        content = json.dumps({"signatures": tokens}, indent=1).encode()
        refused(write_archive({**files, SIGNATURES: content}), SignatureError, "exactly one signature")


@pytest.mark.parametrize("plugin", ["custom", "", "_Default"])
def test_no_bundle_chooses_who_verifies_it(plugin):
    forge = Forge(signatures=lambda token: json.dumps({"signatures": [token], "plugin": plugin}).encode())
    refused(forge.archive, SignatureError, "another verifier")


def test_a_signature_that_names_no_key_is_not_tried_on_each():
    refused(Forge(header={"alg": "RS256"}).archive, UnknownKeyError, "names no key")


def test_a_bundle_is_bound_to_a_tenant_and_a_scope_and_never_to_nobody():
    """An empty scope is every consumer's in OPA, as long as that has none."""
    unbound = Forge()
    del unbound.claims["tenant"]
    with pytest.raises(ScopeError, match="for tenant ``"):
        check(unbound.archive)
    refused(GOOD, ScopeError, "`dev` signs for scope `prod`", keys=key_set(dev_key(), dev={"scope": "prod"}))
    scoped = Forge()
    scoped.claims["scope"] = "prod"
    refused(scoped.archive, ScopeError, "this is signed for `prod`")
    assert check(scoped.archive, keys=key_set(dev_key(), dev={"scope": "prod"})).sequence == 7


def test_a_name_that_is_there_twice_is_refused():
    files = read_tar(unpack(GOOD))
    twice = write_tar({"policies/decision.rego": EVIL})[:1024] + unpack(GOOD)
    assert len(read_tar(unpack(GOOD))) == len(files)
    refused(gzipped(twice), FormatError, "is there twice")


def test_a_bundle_of_the_same_number_and_other_content_is_no_update():
    other = signed({**FILES, "permits.cedar": b""}, sequence=2)
    with pytest.raises(EquivocationError):
        check(other, floor=Floor(2, in_force().digest))


def test_a_signatures_file_beside_the_one_that_counts_is_refused():
    files = read_tar(unpack(GOOD))
    moved = {f"d/{SIGNATURES}": files[SIGNATURES], **{name: files[name] for name in FILES}}
    refused(write_archive(moved), SignatureError, "is not signed")
    refused(write_archive({**files, f"d/{SIGNATURES}": write_signatures("x")}), FormatError, "have slipped past OPA")


def test_what_holds_here_was_good():
    assert (in_force().sequence, in_force().expires_at) == (2, LATER)
