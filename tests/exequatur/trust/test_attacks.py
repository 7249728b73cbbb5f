"""Attacks on the way of an update, by their names in The Update Framework: each is refused, and says why.

Two owners of three must sign, unless a test says otherwise. What an attacker has is said by each test.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import tarfile
import tracemalloc
from base64 import urlsafe_b64decode
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from exequatur.trust.archive import LIMITS, BundleLimits, read_tar, unpack, write_archive, write_tar
from exequatur.trust.bundle import BundleClaims, Floor, check_floor, endorse, payload, sign, verify
from exequatur.trust.endorsing import write_endorsement
from exequatur.trust.errors import (
    EquivocationError,
    ExpiredError,
    FormatError,
    RevokedError,
    RollbackError,
    ScopeError,
    SignatureError,
    ThresholdError,
    TrustError,
    UnknownKeyError,
)
from exequatur.trust.keys import BundleKeys, SigningKey
from exequatur.trust.tokens import SIGNATURES, attached, detached, read_signatures, write_signatures, write_token
from mutations import curve_key
from signing import FILES, LATER, NOW, Forge, check, compact, dev_key, gzipped, jws, key_set, part, signed

ALICE, BOB, CAROL, TWIN, MALLORY = (curve_key(kid) for kid in ("alice", "bob", "carol", "twin", "mallory"))
DAY = timedelta(days=1)
EVIL = {**FILES, "permits.cedar": b"permit (principal, action, resource); // all of it\n"}
MOST = 2**53 - 1


def trusted(**options) -> BundleKeys:
    """Two of Alice, who has a second key, Bob and Carol."""
    return key_set(ALICE, BOB, CAROL, TWIN, **{"threshold": 2, "twin": {"owner": "alice"}, **options})


def by(*keys: SigningKey, files: dict[str, bytes] = FILES, **claims) -> bytes:
    """Sign as the first of `keys`, endorsed by the others."""
    return signed(files, key=keys[0], endorsers=keys[1:], **claims)


def refused(archive: bytes, error: type[TrustError], words: str, **options) -> None:
    with pytest.raises(error, match=words) as caught:
        check(archive, **{"keys": trusted(), **options})
    assert type(caught.value) is error


def test_what_enough_owners_signed_is_trusted_and_names_them():
    bundle = check(by(ALICE, BOB), keys=trusted())
    assert (bundle.kid, bundle.kids, bundle.owners) == ("alice", ("alice", "bob"), ("alice", "bob"))
    bundle = check(by(TWIN, CAROL, ALICE, BOB), keys=trusted())
    assert bundle.kids == ("twin", "alice", "bob", "carol")
    assert bundle.owners == ("alice", "bob", "carol")


# Rollback


def test_rollback_to_what_enough_owners_signed_once():
    newer = check(by(ALICE, BOB, sequence=8), keys=trusted())
    refused(by(ALICE, BOB, sequence=7), RollbackError, "sequence 7 after 8", floor=Floor(8, newer.digest))


def test_rollback_by_a_second_bundle_of_the_same_number():
    newer = check(by(ALICE, BOB, sequence=8), keys=trusted())
    again = by(CAROL, BOB, sequence=8)
    refused(again, EquivocationError, "served with other content", floor=Floor(8, newer.digest))


# Freeze


def test_freeze_ends_when_the_bundle_does():
    archive = by(ALICE, BOB, expires_at=NOW + DAY)
    assert check(archive, keys=trusted()).expires_at == NOW + DAY
    refused(archive, ExpiredError, "the bundle expired at 2026-01-06", now=NOW + DAY)


def ending(**ends: timedelta) -> BundleKeys:
    return trusted(**{kid: {"not_after": f"{NOW + end:%Y-%m-%dT%H:%M:%SZ}"} for kid, end in ends.items()})


def test_freeze_ends_when_the_publishers_key_does():
    keys = ending(alice=DAY, bob=9 * DAY)
    assert check(by(ALICE, BOB, CAROL), keys=keys).expires_at == NOW + DAY
    refused(by(ALICE, BOB, CAROL), ExpiredError, "the key `alice` was good until", keys=keys, now=NOW + DAY)


def test_freeze_ends_when_too_few_keys_are_good():
    keys = ending(bob=DAY, carol=3 * DAY)
    assert check(by(ALICE, BOB), keys=keys).expires_at == NOW + DAY
    assert check(by(ALICE, BOB, CAROL), keys=keys).expires_at == NOW + 3 * DAY
    archive = by(ALICE, BOB, CAROL, expires_at=NOW + 2 * DAY)
    assert check(archive, keys=keys).expires_at == NOW + 2 * DAY
    assert check(by(ALICE, BOB, CAROL), keys=keys, now=NOW + DAY).kids == ("alice", "carol")
    refused(by(ALICE, BOB), ThresholdError, "the key `bob` was good until 2026-01-06", keys=keys, now=NOW + DAY)


def test_freeze_does_not_end_later_by_a_second_key_of_an_owner_who_counts_once():
    keys = trusted(twin={"owner": "alice"}, bob={"not_after": f"{NOW + DAY:%Y-%m-%dT%H:%M:%SZ}"})
    assert check(by(ALICE, TWIN, BOB), keys=keys).expires_at == NOW + DAY


# Mix-and-match


def test_mix_and_match_of_the_files_of_two_bundles():
    one, two = read_tar(unpack(by(ALICE, BOB))), read_tar(unpack(by(ALICE, BOB, files=EVIL, sequence=2)))
    refused(write_archive({**two, "permits.cedar": one["permits.cedar"]}), SignatureError, "`permits.cedar` is not")
    refused(write_archive({**one, "permits.cedar": two["permits.cedar"]}), SignatureError, "`permits.cedar` is not")
    refused(write_archive({**one, SIGNATURES: two[SIGNATURES]}), SignatureError, "`permits.cedar` is not")


def republished(files: dict[str, bytes], endorsement: str, **claims) -> bytes:
    return sign(files, ALICE, dataclasses.replace(BundleClaims(1, LATER), **claims), [endorsement])


@pytest.mark.parametrize(
    "claims",
    [{"sequence": 2}, {"expires_at": LATER + DAY}, {"tenant": "north"}, {"not_before": NOW}, {"scope": "prod"}],
)
def test_mix_and_match_of_an_endorsement_of_the_same_files_with_other_claims(claims):
    endorsement = endorse(FILES, BOB, BundleClaims(1, LATER))
    assert check(republished(FILES, endorsement), keys=trusted()).kids == ("alice", "bob")
    prod = {kid: {"owner": owner, "scope": "prod"} for kid, owner in zip(("alice", "bob"), ("a", "b"), strict=True)}
    keys = key_set(ALICE, BOB, threshold=2, **prod) if "scope" in claims else trusted()
    tenant = claims.get("tenant", "default")
    refused(
        republished(FILES, endorsement, **claims),
        SignatureError,
        "the endorsement by `bob` is not of this bundle",
        keys=keys,
        tenant=tenant,
    )


def test_mix_and_match_of_an_endorsement_of_other_files():
    endorsement = endorse(FILES, BOB, BundleClaims(1, LATER))
    refused(republished(EVIL, endorsement), SignatureError, "the endorsement by `bob` is not of this bundle")


def test_mix_and_match_of_tenants_with_the_same_keys():
    refused(by(ALICE, BOB, tenant="north"), ScopeError, "for tenant `north`, not for `default`")
    refused(by(ALICE, BOB), ScopeError, "for tenant `default`, not for `north`", tenant="north")


def test_a_key_of_another_tenant_neither_publishes_nor_counts():
    keys = trusted(bob={"tenants": ["north"]}, alice={"tenants": ["default", "north"]})
    refused(by(BOB, ALICE), ScopeError, "`bob` does not sign for tenant `default`", keys=keys)
    refused(by(ALICE, BOB), ThresholdError, "`bob` does not sign for tenant `default`", keys=keys)
    assert check(by(ALICE, BOB, tenant="north"), keys=keys, tenant="north").kids == ("alice", "bob")
    assert check(by(ALICE, BOB, CAROL), keys=keys).kids == ("alice", "carol")


def test_a_key_of_another_scope_neither_publishes_nor_counts():
    keys = trusted(bob={"scope": "prod"})
    refused(by(BOB, ALICE), ScopeError, "`bob` signs for scope `prod`, and this is signed for ``", keys=keys)
    refused(by(ALICE, BOB), ThresholdError, "1 of the 2 owners needed have signed: alice; `bob` signs", keys=keys)


# Fast-forward


@pytest.mark.parametrize("sequence", [9, MOST])
def test_fast_forward_by_fewer_owners_than_are_needed(sequence):
    refused(by(ALICE, sequence=sequence), ThresholdError, "1 of the 2 owners", floor=Floor(8, bytes(32)))
    refused(by(ALICE, TWIN, sequence=sequence), ThresholdError, "1 of the 2 owners", floor=Floor(8, bytes(32)))


def test_fast_forward_by_enough_owners_is_believed_and_ends_the_numbers():
    """What `Floor` says of it: there is no way back but another floor, which the store's keeper sets."""
    last = check(by(ALICE, BOB, sequence=MOST), keys=trusted(), floor=Floor(8, bytes(32)))
    floor = Floor(last.sequence, last.digest)
    refused(by(ALICE, BOB, sequence=9), RollbackError, f"sequence 9 after {MOST}", floor=floor)
    with pytest.raises(FormatError, match="would change its value"):
        by(ALICE, BOB, sequence=MOST + 1)
    check_floor(last, floor)


@pytest.mark.parametrize("sequence", [MOST + 1, 2**63, 2**64, 10**400])
def test_fast_forward_beyond_what_numbers_hold(sequence):
    forge = Forge(claims={"sequence": sequence, "exp": int(LATER.timestamp()), "tenant": "default"})
    with pytest.raises(FormatError):
        check(forge.archive)


# Endless data


def test_endless_data_behind_a_small_gzip():
    bomb = gzip.compress(bytes(LIMITS.unpacked_bytes + 1), 1)
    assert len(bomb) < 2**20
    tracemalloc.start()
    refused(bomb, FormatError, "unpacks to more than")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * LIMITS.unpacked_bytes


def test_endless_data_in_a_gzip_of_gzips():
    refused(gzip.compress(gzip.compress(bytes(2**20))), FormatError, "byte 0 begins no header")


@pytest.mark.parametrize("size", [b"77777777777\0", b"00077777777\0", b"\x80" + bytes(3) + b"\xff" * 8, b"\xff" * 12])
def test_endless_data_as_a_header_says(size):
    """8 GiB, 16 MiB, 2^63 in the form of GNU, and a negative number: nothing is waited for, nothing is reserved."""
    tar = bytearray(write_tar({"a": b"x"}))
    tar[124:136] = size
    tar[148:156] = b"%06o\0 " % (sum(tar[:148]) + 8 * 32 + sum(tar[156:512]))
    tracemalloc.start()
    refused(gzipped(bytes(tar)), FormatError, "the tar is (cut short|damaged)")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_endless_data_as_many_small_files():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(1002):
            tar.addfile(tarfile.TarInfo(f"{number}"))
    refused(gzipped(out.getvalue()), FormatError, "more than 1000 files", limits=BundleLimits(files=1000))


ENDLESS = b"[" + b"[]," * 1_000_000 + b"[]]"


def test_endless_data_that_nobody_signed_is_never_parsed():
    """Thirty times its size in memory, and minutes: no key of ours, no reading."""
    stranger = {**FILES, "data.json": ENDLESS, "tools.json": ENDLESS}
    forge = Forge(header={"alg": "RS256", "kid": "mallory"}, key=dev_key("mallory"), after=stranger)
    with pytest.raises(UnknownKeyError):
        check(forge.archive)
    with pytest.raises(SignatureError, match=r"`tools.json` is not what was signed"):
        check(Forge(files={**FILES, "tools.json": b"{}"}, after={"tools.json": ENDLESS}).archive)
    with pytest.raises(SignatureError, match=r"`tools.json` is in the bundle, and was not signed"):
        check(Forge(after={"tools.json": ENDLESS}).archive)


def test_endless_data_in_place_of_what_must_be_read_to_be_hashed_is_bounded():
    with pytest.raises(FormatError, match=r"^`data.json`: the document has more than 1000000 members and list items"):
        check(Forge(after={"data.json": ENDLESS}).archive)


def test_endless_endorsements():
    archive = Forge(endorsers=tuple(dataclasses.replace(BOB, kid=f"k{number}") for number in range(64))).archive
    with pytest.raises(FormatError, match="more than 64 signatures"):
        check(archive)


# Keys stolen below the threshold


@pytest.mark.parametrize("thief", [(ALICE,), (BOB,), (ALICE, TWIN), (TWIN, ALICE), (ALICE, TWIN, MALLORY)])
def test_stolen_keys_of_fewer_owners_than_are_needed(thief):
    """All keys of one owner, and a stranger's: one owner."""
    refused(by(*thief, files=EVIL), ThresholdError, "1 of the 2 owners needed have signed")


def test_two_of_three_stolen_keys_where_three_are_needed():
    refused(by(ALICE, BOB, TWIN, files=EVIL), ThresholdError, "2 of the 3", keys=trusted(threshold=3))


def test_a_stolen_endorsement_completed_into_a_whole_signature_publishes_nothing():
    """Bob endorsed; Alice has not published. One key is enough here."""
    claims = BundleClaims(1, LATER)
    token = attached(endorse(FILES, BOB, claims), payload(FILES, claims))
    archive = write_archive({**FILES, SIGNATURES: write_signatures(token)})
    refused(archive, SignatureError, "`bob` signed `exequatur-endorsement`", keys=key_set(BOB))
    refused(archive, SignatureError, "`bob` signed `exequatur-endorsement`", keys=key_set(BOB), serve=False)


def test_what_somebody_published_alone_is_no_endorsement():
    """Bob published for consumers whom one signature is enough; his very payload would do as an endorsement."""
    theirs = detached(read_signatures(read_tar(unpack(by(BOB)))[SIGNATURES]))
    forge = Forge(header={"alg": "RS256", "kid": "dev"}, endorsements=lambda tokens: tokens.append(theirs))
    forge.claims["sequence"] = 1
    refused(forge.archive, SignatureError, "does not say so", keys=key_set(dev_key(), BOB, threshold=2))
    claims = json.loads(payload(FILES, BundleClaims(1, LATER)))
    whole = write_token(ALICE, compact({**claims, "endorsements": [theirs]}))
    refused(write_archive({**FILES, SIGNATURES: write_signatures(whole)}), SignatureError, "does not say so")
    for typ in ("", "JWT", "exequatur-Endorsement"):
        retyped = detached(write_token(BOB, compact(claims), typ))
        whole = write_token(ALICE, compact({**claims, "endorsements": [retyped]}))
        refused(write_archive({**FILES, SIGNATURES: write_signatures(whole)}), SignatureError, "does not say so")


def test_a_revoked_key_signs_nothing_though_its_file_is_there():
    keys = trusted(revoked=("bob",))
    refused(by(BOB, ALICE), RevokedError, "the key `bob` is revoked", keys=keys)
    refused(by(ALICE, BOB), ThresholdError, "1 of the 2 .*; the key `bob` is revoked", keys=keys)
    assert check(by(ALICE, BOB, CAROL), keys=keys).kids == ("alice", "carol")


def test_a_key_past_its_time_signs_nothing_whenever_it_signed():
    keys = ending(bob=timedelta())
    refused(by(BOB, ALICE), ExpiredError, "the key `bob` was good until 2026-01-05", keys=keys)
    refused(by(ALICE, BOB), ThresholdError, "the key `bob` was good until", keys=keys)
    refused(by(BOB, ALICE), ExpiredError, "the key `bob` was good until", keys=keys, serve=False)


def test_an_unknown_key_does_not_count_and_does_no_harm():
    assert check(by(ALICE, BOB, MALLORY), keys=trusted()).kids == ("alice", "bob")
    refused(by(ALICE, MALLORY), ThresholdError, "no key `mallory`: the key folder has")
    refused(by(MALLORY, ALICE, BOB), UnknownKeyError, "no key `mallory`")


def test_a_key_that_signs_twice_counts_once_and_is_refused():
    with pytest.raises(FormatError, match="`bob` signed the bundle twice"):
        by(ALICE, BOB, BOB)
    with pytest.raises(FormatError, match="`alice` signed the bundle twice"):
        by(ALICE, ALICE)
    twice = [endorse(FILES, BOB, BundleClaims(7, LATER))] * 2
    refused(
        Forge(endorsements=lambda tokens: tokens.extend(twice)).archive, FormatError, "twice", keys=key_set(dev_key())
    )


def test_an_endorsement_that_a_known_key_did_not_make_is_refused_and_not_passed_over():
    """Also where the others would be enough: somebody lied."""
    lie = write_endorsement(dataclasses.replace(MALLORY, kid="carol"), payload(FILES, BundleClaims(1, LATER)))
    archive = sign(FILES, ALICE, BundleClaims(1, LATER), [endorse(FILES, BOB, BundleClaims(1, LATER)), lie])
    refused(archive, SignatureError, "the endorsement by `carol` is not of this bundle")


@pytest.mark.parametrize("endorsement", ["", "x", "a..b", "..", "e30..AA", "a.b.c", "a..b.c"])
def test_what_is_no_endorsement_is_refused(endorsement):
    refused(
        Forge(endorsements=lambda tokens: tokens.append(endorsement)).archive,
        SignatureError,
        ".",
        keys=key_set(dev_key()),
    )
    with pytest.raises(SignatureError):
        sign(FILES, ALICE, BundleClaims(1, LATER), [endorsement, "é..x"])


@pytest.mark.parametrize("value", ["x", None, {}, [1], [None], [["x"]]])
def test_endorsements_of_another_type_are_refused(value):
    forge = Forge()
    forge.claims["endorsements"] = value
    with pytest.raises(FormatError, match="claim `endorsements`"):
        check(forge.archive)


def test_endorsements_are_held_to_the_one_form_though_nobody_serves_them():
    forge = Forge(endorsers=(BOB,), form=lambda text: text + b" ")
    with pytest.raises(FormatError, match="the signed payload is not as"):
        check(forge.archive, serve=False)


# Keys that nobody sees


def other_half(raw: bytes) -> bytes:
    """Of (r, s) give (r, -s)."""
    return raw[:32] + (ec.SECP256R1().group_order - int.from_bytes(raw[32:])).to_bytes(32)


class Vault:
    """A key elsewhere: it is asked for raw signatures, and gives now one and now the other of the two that hold."""

    def __init__(self, key: SigningKey) -> None:
        self.kid, self.alg, self._key, self.asked = key.kid, key.alg, key, 0

    def sign_input(self, data: bytes) -> bytes:
        self.asked += 1
        raw = self._key.sign_input(data)
        return other_half(raw) if self.asked % 2 else raw


def test_a_key_that_we_never_see_signs_and_endorses():
    for _ in range(8):
        vault, other = Vault(ALICE), Vault(BOB)
        claims = BundleClaims(1, LATER)
        archive = sign(FILES, vault, claims, [endorse(FILES, other, claims)])
        assert verify(archive, trusted(), now=NOW).kids == ("alice", "bob")


def test_the_other_of_two_signatures_that_hold_is_not_served():
    files = read_tar(unpack(by(ALICE, BOB)))
    head, body, end = read_signatures(files[SIGNATURES]).split(".")
    high = other_half(urlsafe_b64decode(end + "=="))
    archive = write_archive({**files, SIGNATURES: write_signatures(f"{head}.{body}.{part(high)}")})
    assert check(archive, keys=trusted(), serve=False).kids == ("alice", "bob")
    refused(archive, SignatureError, "the other of two that hold")


def test_a_signature_of_the_same_key_for_something_else_is_no_bundle():
    token = jws({"alg": "RS256", "kid": "dev", "typ": "txntoken+jwt"}, payload(FILES, BundleClaims(1, LATER)))
    archive = write_archive({**FILES, SIGNATURES: write_signatures(token)})
    with pytest.raises(SignatureError, match=r"`dev` signed `txntoken\+jwt`, which is not what is wanted here"):
        check(archive)
