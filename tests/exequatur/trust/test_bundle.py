"""What is signed verifies; what was done to a bundle since, or by whom it should not, is refused, and it says where."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exequatur.trust.archive import BundleLimits, read_tar, unpack, write_archive, write_tar
from exequatur.trust.bundle import (
    BundleClaims,
    Floor,
    VerifiedBundle,
    check_floor,
    sign,
)
from exequatur.trust.endorsing import write_endorsement
from exequatur.trust.errors import (
    EquivocationError,
    ExpiredError,
    FormatError,
    NotYetValidError,
    RollbackError,
    ScopeError,
    SignatureError,
    ThresholdError,
    TrustError,
    UnknownKeyError,
)
from exequatur.trust.hashing import file_hash
from exequatur.trust.keys import SigningKey, generate
from exequatur.trust.opened import unsafe_read_unsigned
from signing import FILES, LATER, NOW, Forge, bundle_keys, check, dev_key, gzipped, key_set, part, public_pem, signed

SECOND = timedelta(seconds=1)
ARCHIVE = signed(FILES)
TAR = unpack(ARCHIVE)


# What holds


def test_what_is_signed_verifies_with_all_that_was_said_of_it():
    archive = signed(FILES, sequence=7, not_before=NOW, tenant="north")
    bundle = check(archive, tenant="north")
    assert bundle == VerifiedBundle(
        files=FILES,
        digest=hashlib.sha256(unpack(archive)).digest(),
        sequence=7,
        expires_at=LATER,
        not_before=NOW,
        tenant="north",
        kids=("dev",),
        owners=("dev",),
        revision="r1",
        signed=True,
    )


def test_two_signings_give_the_same_bytes_in_whatever_order_the_files_came():
    assert signed(FILES) == signed(dict(reversed(FILES.items()))) == sign(FILES, dev_key(), BundleClaims(1, LATER))


def test_signing_a_bundle_again_replaces_its_signature():
    again = read_tar(unpack(signed(FILES)))
    assert signed(again, sequence=2) == signed(FILES, sequence=2)


@pytest.mark.parametrize("alg", ["RS384", "RS512", "PS256", "PS384", "PS512"])
def test_a_key_signs_with_each_algorithm_of_rsa(alg):
    key = dataclasses.replace(dev_key(), alg=alg)
    assert check(signed(FILES, key=key), keys=bundle_keys(key)).files == FILES


@pytest.mark.parametrize("alg", ["ES256", "ES384", "ES512"])
def test_a_key_signs_with_the_algorithm_of_its_curve(alg):
    key = SigningKey.from_pem("curve.pem", generate(alg)[0])
    assert check(signed(FILES, key=key), keys=bundle_keys(key)).kid == "curve"


def test_the_forge_makes_what_verifies_when_nothing_is_wrong():
    assert check(Forge().archive).sequence == 7


NAMES = st.from_regex(r"[a-z0-9_]{1,12}(/[a-z0-9_]{1,12}){0,2}\.(rego|cedar|txt)", fullmatch=True)


@given(st.dictionaries(NAMES, st.binary(max_size=2000), min_size=1, max_size=8))
@settings(deadline=None, max_examples=25)
def test_any_files_come_back_as_they_were(files):
    assert check(signed(files)).files == files


def test_a_bundle_with_more_than_joserfc_takes_by_default_verifies():
    files = {f"policies/{number:04}.rego": b"package p" for number in range(2000)}
    assert len(check(signed(files)).files) == 2000


# The steps, in their order


def append(forge):
    forge.send = lambda data: data + bytes(512)


def hide_a_time_in_a_header(forge):
    def pack(files):
        tar = bytearray(write_tar(files))
        tar[136:147] = b"00000000001"
        tar[148:156] = b"%06o\0 " % (sum(tar[:148]) + 8 * 32 + sum(tar[156:512]))
        return gzipped(bytes(tar))

    forge.pack = pack


def endorse_another(forge):
    forge.endorsements = lambda tokens: tokens.__setitem__(slice(None), [write_endorsement(dev_key("eve"), b"{}")])


STEPS = [
    (1, append, FormatError, "bytes after its gzip stream"),
    (2, lambda forge: forge.after.update({"patch.json": b"{}"}), FormatError, "`patch.json`: delta"),
    (
        3,
        lambda forge: setattr(forge, "signatures", lambda token: json.dumps({"signatures": [token] * 2}).encode()),
        SignatureError,
        "exactly one",
    ),
    (4, lambda forge: forge.header.pop("kid"), UnknownKeyError, "names no key"),
    (5, lambda forge: setattr(forge, "key", dev_key("mallory")), SignatureError, "does not hold by key `dev`"),
    (6, lambda forge: forge.claims.update(sequence="7"), FormatError, "claim `sequence` is not of type int"),
    (7, lambda forge: setattr(forge, "form", lambda payload: payload + b" "), FormatError, "payload is not as"),
    (8, lambda forge: forge.claims.update(scope="prod"), ScopeError, "`dev` signs for scope ``"),
    (9, endorse_another, SignatureError, "endorsement by `eve` is not of this"),
    (10, lambda forge: setattr(forge, "endorsers", ()), ThresholdError, "1 of the 2 owners needed have signed: dev"),
    (11, lambda forge: forge.after.update({"evil.cedar": b""}), SignatureError, "`evil.cedar` is in the bundle, and"),
    (12, lambda forge: forge.after.update({"permits.cedar": b""}), SignatureError, "`permits.cedar` is not what was"),
    (13, hide_a_time_in_a_header, FormatError, "byte 146 of the tar"),
    (14, lambda forge: forge.claims.update(tenant="south"), ScopeError, "for tenant `south`, not for `default`"),
    (15, lambda forge: forge.claims.update(exp=1), ExpiredError, "expired at 1970-01-01T00:00:01Z"),
]
FLOOR = Floor(8, bytes(32))


@pytest.mark.parametrize("first", range(len(STEPS) + 1))
def test_of_all_that_is_wrong_the_first_step_speaks(first):
    forge, keys = Forge(endorsers=(dev_key("eve"),)), key_set(dev_key(), dev_key("eve"), threshold=2)
    assert check(forge.archive, keys=keys).kids == ("dev", "eve")
    for _, spoil, _, _ in STEPS[:first:-1]:
        spoil(forge)
    error, words = RollbackError, "sequence 7 after 8"
    if first < len(STEPS):
        _, spoil, error, words = STEPS[first]
        spoil(forge)
    with pytest.raises(error, match=words) as caught:
        check(forge.archive, keys=keys, floor=FLOOR)
    assert type(caught.value) is error


# Whose it is


def refused(forge: Forge, error: type[TrustError], words: str = ".", **options) -> None:
    with pytest.raises(error, match=words):
        check(forge.archive, **options)


def test_a_bundle_without_signatures_is_refused():
    refused(Forge(signatures=lambda _: None), SignatureError, "it has no `.signatures.json`")
    refused(Forge(signatures=lambda _: None), SignatureError, "it has no `.signatures.json`", serve=False)


def test_an_empty_list_of_signatures_is_refused():
    refused(Forge(signatures=lambda _: b'{"signatures": []}'), SignatureError, "exactly one")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"signatures": ["a", "a"]}', b'{"signatures": [1]}', b'{"signatures": "a"}']
)
def test_a_signatures_file_of_another_form_is_refused(content):
    refused(Forge(signatures=lambda _: content), TrustError, "`.signatures.json`")


def test_a_signature_for_a_plugin_is_refused():
    forge = Forge(signatures=lambda token: json.dumps({"signatures": [token], "plugin": "lenient"}).encode())
    refused(forge, SignatureError, "another verifier")


def test_a_key_that_is_not_known_is_refused_though_the_signature_holds():
    mallory = dev_key("mallory")
    refused(Forge(key=mallory, header={"alg": "RS256", "kid": "mallory"}), UnknownKeyError, "no key `mallory`")


def test_no_other_key_is_tried_than_the_one_that_is_named():
    other = dev_key("other")
    keys = bundle_keys(dev_key(), other)
    assert check(signed(FILES, key=other), keys=keys).kid == "other"
    refused(Forge(key=other), SignatureError, "does not hold by key `dev`", keys=keys)


def test_the_claim_keyid_names_the_key_where_the_header_does_not():
    forge = Forge(header={"alg": "RS256", "typ": "JWT"})
    forge.claims["keyid"] = "dev"
    assert check(forge.archive).kid == "dev"
    forge.claims["keyid"] = "mallory"
    refused(forge, UnknownKeyError, "no key `mallory`")


@pytest.mark.parametrize("kid", ["", 7, None, ["dev"]])
def test_a_kid_that_is_no_name_is_refused_and_nothing_is_guessed(kid):
    refused(Forge(header={"alg": "RS256", "kid": kid}), UnknownKeyError, "names no key")


def test_a_hostile_kid_is_shown_harmlessly():
    with pytest.raises(UnknownKeyError) as caught:
        check(Forge(header={"alg": "RS256", "kid": "\x1b[2J\u202e" + "x" * 200}).archive)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("alg", ["none", "None", "HS256", "RS512", "PS256", "ES256", "EdDSA", ""])
def test_the_algorithm_is_the_keys_and_not_the_headers(alg):
    refused(Forge(header={"alg": alg, "kid": "dev"}), SignatureError, "does not hold")


def test_a_mac_made_with_the_public_key_is_refused():
    text = f"{part(json.dumps({'alg': 'HS256', 'kid': 'dev'}).encode())}.{{}}"

    def forge_mac(token):
        signing_input = text.format(token.split(".")[1])
        return f"{signing_input}.{part(hmac.digest(public_pem(dev_key()), signing_input.encode(), 'sha256'))}"

    refused(Forge(token=forge_mac), SignatureError, "does not hold")


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "RS256", "kid": "dev", "crit": ["exp"], "exp": 1},
        {"alg": "RS256", "kid": "dev", "b64": False, "crit": ["b64"]},
        {"alg": "RS256", "kid": "dev", "zip": "DEF"},
        b'{"alg": "RS256", "kid": "mallory", "kid": "dev"}',
        b'{"alg": "RS256", "kid": "dev", "x": ' + b"[" * 100 + b"]" * 100 + b"}",
        b"[]",
        b"\xff",
    ],
)
def test_a_header_that_two_readers_could_take_differently_is_refused(header):
    refused(Forge(header=header), SignatureError)


def test_a_signature_of_another_spelling_is_refused():
    # The last character of 256 bytes in base64 has four bits that say nothing.
    def respell(token):
        last = token[-1]
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        return token[:-1] + alphabet[alphabet.index(last) ^ 1]

    for change in (respell, lambda token: token + "=", lambda token: token + "\n", lambda token: token + "."):
        refused(Forge(token=change), SignatureError)


# What is in it


def test_a_listed_file_that_is_missing_is_refused():
    refused(Forge(after={"data.json": None}), SignatureError, "`data.json` is signed, and missing")


def test_an_unlisted_file_is_refused():
    refused(Forge(after={"evil.rego": b"package evil"}), SignatureError, "`evil.rego` is in the bundle, and was not")


def test_an_empty_list_proves_nothing():
    refused(Forge(listed=lambda items: items.clear()), SignatureError, "was not signed")
    refused(Forge(files={}), FormatError, "the archive is empty|the signed list is empty")


def test_a_file_listed_twice_is_refused():
    refused(Forge(listed=lambda items: items.append(items[0])), FormatError, "twice")


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-1", "sha-256", "SHA256", ""])
def test_a_weak_or_unknown_hash_is_refused(algorithm):
    def weaken(items):
        items[1].update(algorithm=algorithm, hash=hashlib.sha1(b"").hexdigest())

    refused(Forge(listed=weaken), SignatureError, "only SHA-2 is taken")


@pytest.mark.parametrize("algorithm", ["SHA-224", "SHA-384", "SHA-512", "SHA-512-224", "SHA-512-256"])
def test_each_hash_of_sha_2_is_taken(algorithm):
    def change(items):
        for item in items:
            item.update(algorithm=algorithm, hash=file_hash(item["name"], FILES[item["name"]], algorithm))

    assert check(Forge(listed=change).archive).files == FILES


@pytest.mark.parametrize("change", [{"hash": "é"}, {"hash": ""}, {"hash": None}, {"name": 1}, {"algorithm": []}])
def test_an_odd_entry_of_the_list_is_refused(change):
    refused(Forge(listed=lambda items: items[0].update(change)), TrustError)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("data.yaml", "YAML"),
        ("deep/data.yml", "YAML"),
        ("patch.json", "delta"),
        ("deep/patch.json", "delta"),
        ("signatures.json", "slipped past"),
        ("deep/.signatures.json", "slipped past"),
        ("evil/x.signatures.json", "slipped past"),
        (".manifest.pb", "manifest"),
        ("deep/.manifest", "manifest"),
        ("x.manifest", "manifest"),
    ],
)
def test_what_opa_would_read_unverified_or_otherwise_is_refused_though_signed(name, words):
    forge = Forge(files={**FILES, name: b"{}"})
    refused(forge, FormatError, words)
    refused(forge, FormatError, words, serve=False)
    with pytest.raises(FormatError, match=words):
        unsafe_read_unsigned(write_archive({**FILES, name: b"{}"}))
    with pytest.raises(FormatError, match=words):
        signed({**FILES, name: b"{}"})


LOOSE = [
    b"",
    b"\xef\xbb\xbf{}",
    b'{"a": 1, "a": 2}',
    b'{"a": 1} {"b": 2}',
    b'{"a": 1} # comment',
    b"{'a': 1}",
    b'{"a": 01}',
    b'{"a": NaN}',
    b'{"a": Infinity}',
    b'{"a": 1e400}',
    b'{"a": "\\ud800"}',
    b'{"a": "\xff"}',
    b'{"a": "\x01"}',
    '{"a": 1}'.encode("utf-16"),
    b"[" * 10_000 + b"]" * 10_000,
    b"a: 1",
]


def loosely_signed(content: bytes) -> bytes:
    return Forge(files={**FILES, "tools.json": content}).archive


@pytest.mark.parametrize("name", ["data.json", ".manifest", "tools.json"])
@pytest.mark.parametrize("content", LOOSE, ids=range(len(LOOSE)))
def test_json_that_is_not_strict_is_refused_by_name_though_signed(name, content):
    with pytest.raises(FormatError, match=f"^`{name}`: "):
        signed({**FILES, name: content})
    archive = read_tar(TAR)
    with pytest.raises(FormatError, match=f"^`{name}`: "):
        check(write_archive({**archive, name: content}) if name != "tools.json" else loosely_signed(content))
    with pytest.raises(FormatError, match=f"^`{name}`: "):
        unsafe_read_unsigned(write_archive({**FILES, name: content}))


def test_a_payload_that_is_no_list_of_files_is_refused():
    for payload in (b"[]", b"{}", b'{"files": {}}', b'{"files": [], "files": []}', b'{"files": [1]}', b"\xff"):
        refused(Forge(payload=payload), FormatError, "the signed (payload|list)", serve=False)


def test_what_says_the_same_in_other_bytes_is_not_served():
    looser = Forge(signatures=lambda token: json.dumps({"signatures": [token]}).encode())
    assert check(looser.archive, serve=False).files == FILES
    refused(looser, FormatError, "`.signatures.json` is not as")
    repacked = Forge(pack=lambda files: gzip.compress(write_tar(files)))
    assert check(repacked.archive, serve=False).files == FILES
    refused(repacked, FormatError, "of the gzip stream is not as")


def test_a_gzip_that_does_not_add_up_is_refused_though_each_file_does():
    refused(Forge(send=lambda data: data[:-1] + b"\1"), FormatError, "its checksum differs", serve=False)


# For whom, and when


def test_a_bundle_of_another_tenant_or_scope_is_refused():
    refused(Forge(), ScopeError, "for tenant `default`, not for `north`", tenant="north")
    nobody = Forge()
    del nobody.claims["tenant"]
    refused(nobody, ScopeError, "for tenant ``, not for `default`")
    scoped = Forge()
    scoped.claims["scope"] = "write"
    refused(scoped, ScopeError, "`dev` signs for scope ``, and this is signed for `write`")


def test_a_bundle_is_good_from_nbf_until_just_before_exp():
    archive = signed(FILES, not_before=NOW, expires_at=NOW + SECOND)
    assert check(archive, now=NOW).not_before == NOW
    assert check(archive, now=NOW + SECOND / 2).expires_at == NOW + SECOND
    with pytest.raises(NotYetValidError, match="not valid before 2026-01-05T10:00:00Z"):
        check(archive, now=NOW - SECOND / 1000)
    with pytest.raises(ExpiredError, match="expired at 2026-01-05T10:00:01Z"):
        check(archive, now=NOW + SECOND)


@pytest.mark.parametrize("missing", ["sequence", "exp"])
def test_a_bundle_without_sequence_or_end_verifies_and_is_never_served(missing):
    forge = Forge()
    del forge.claims[missing]
    assert check(forge.archive, serve=False).files == FILES
    refused(forge, FormatError, "no `sequence` and `exp`")


@pytest.mark.parametrize(
    "claims",
    [
        {"sequence": 0},
        {"sequence": -1},
        {"sequence": True},
        {"sequence": 1.5},
        {"exp": True},
        {"exp": "2036-01-01"},
        {"exp": 2**53 - 1},
        {"exp": -(2**53) + 1},
        {"nbf": None},
        {"tenant": 1},
    ],
)
def test_an_odd_claim_is_refused(claims):
    forge = Forge()
    forge.claims.update(claims)
    refused(forge, FormatError, "signed (claim|time)")


def test_nobody_signs_what_would_never_hold():
    for claims in (BundleClaims(0, LATER), BundleClaims(1, NOW, NOW), BundleClaims(1, NOW, LATER)):
        with pytest.raises(ValueError, match="sequence starts at 1"):
            sign(FILES, dev_key(), claims)
    with pytest.raises(FormatError, match="no files"):
        signed({})


def test_an_older_bundle_with_a_good_signature_is_refused():
    newer, older = check(signed(FILES, sequence=8)), signed(FILES, sequence=7)
    with pytest.raises(RollbackError, match="sequence 7 after 8"):
        check(older, floor=Floor(newer.sequence, newer.digest))


def test_the_same_bundle_is_good_again_and_another_of_its_number_is_not():
    bundle = check(signed(FILES, sequence=8))
    floor = Floor(bundle.sequence, bundle.digest)
    assert check(signed(FILES, sequence=8), floor=floor) == bundle
    with pytest.raises(EquivocationError, match="somebody signed two"):
        check(signed({**FILES, "permits.cedar": b""}, sequence=8), floor=floor)
    assert check(signed(FILES, sequence=9), floor=floor).sequence == 9
    check_floor(bundle, None)


# What nobody signed


def test_an_unsigned_bundle_says_so_wherever_it_goes():
    bundle = unsafe_read_unsigned(write_archive(FILES))
    assert (bundle.signed, bundle.kid, bundle.sequence, bundle.files) == (False, "", 0, FILES)
    assert not unsafe_read_unsigned(signed(FILES)).signed
    assert unsafe_read_unsigned(signed(FILES)).files == FILES


def test_a_bundle_beyond_a_limit_is_refused():
    for limits in (BundleLimits(archive_bytes=9000), BundleLimits(unpacked_bytes=9000), BundleLimits(files=3)):
        with pytest.raises(FormatError, match=r"at most|more than"):
            check(ARCHIVE, limits=limits)


def test_a_time_is_told_in_utc_whatever_the_zone_of_the_clock():
    bundle = check(ARCHIVE, now=NOW.astimezone())
    assert bundle.expires_at == datetime(2036, 1, 1, tzinfo=UTC)
