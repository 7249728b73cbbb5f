"""A flipped byte anywhere in a bundle is refused; whatever the bytes, they verify or raise a `TrustError`."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exequatur.trust.archive import unpack
from exequatur.trust.errors import TrustError
from signing import FILES, Forge, check, compact, gzipped, jws, signed

ARCHIVE = signed(FILES)
TAR = unpack(ARCHIVE)


# A flipped byte, anywhere


@pytest.mark.parametrize("name", sorted(FILES))
def test_of_a_damaged_bundle_the_file_is_named(name):
    archive = bytearray(ARCHIVE)
    at = archive.index(FILES[name]) + FILES[name].index(b"e")
    archive[at] ^= 2
    with pytest.raises(TrustError, match=f"^`{name}`"):
        check(bytes(archive))


def holes(tar: bytes, check_one) -> list[int]:
    """Flip a bit of each byte, and say which nobody noticed."""
    unseen = []
    for at in range(len(tar)):
        damaged = bytearray(tar)
        damaged[at] ^= 1 << at % 8
        try:
            check_one(bytes(damaged))
        except TrustError:
            continue
        unseen.append(at)
    return unseen


def test_a_flipped_byte_anywhere_in_the_tar_is_refused():
    assert gzipped(TAR) == ARCHIVE
    assert check(TAR).files == FILES
    assert holes(TAR, lambda damaged: check(gzipped(damaged))) == []


def test_a_flipped_byte_anywhere_in_the_archive_is_refused():
    assert holes(ARCHIVE, check) == []


@given(st.integers(0), st.integers(1, 255))
@settings(deadline=None)
def test_any_other_byte_anywhere_in_either_form_is_refused(at, flip):
    for form in (ARCHIVE, TAR):
        damaged = bytearray(form)
        damaged[at % len(form)] ^= flip
        with pytest.raises(TrustError):
            check(bytes(damaged))


# Any bytes verify, or raise a TrustError


def verifies_or_raises(data: bytes, **options) -> None:
    for serve in (True, False):
        try:
            bundle = check(data, serve=serve, **options)
        except TrustError:
            continue
        assert bundle.signed
        assert bundle.files


@given(st.binary(max_size=2000), st.sampled_from([bytes, gzipped, lambda data: b"\x1f\x8b" + data]))
@settings(deadline=None, max_examples=300)
def test_any_bytes_verify_or_raise_a_trust_error(data, form):
    verifies_or_raises(form(data))


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_any_cut_and_splice_of_a_bundle_verifies_or_raises_a_trust_error(data):
    at = data.draw(st.integers(0, len(TAR)))
    taken = data.draw(st.integers(0, 1100))
    source = data.draw(st.integers(0, len(TAR)))
    put = data.draw(st.one_of(st.binary(max_size=64), st.just(TAR[source : source + 512])))
    verifies_or_raises(gzipped(TAR[:at] + put + TAR[at + taken :]))


@given(st.text(max_size=300), st.text(max_size=20), st.text(max_size=20))
@settings(deadline=None)
def test_any_token_verifies_or_raises_a_trust_error(one, two, three):
    head, body, signature = jws({"alg": "RS256", "kid": "dev"}, b"{}").split(".")
    for token in (one, f"{head}.{one}.{two}", f"{head}.{body}.{one}", f"{one}.{two}.{three}", f"{head}.{body}"):
        verifies_or_raises(Forge(token=lambda _, token=token: token).archive)
    assert signature


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


@given(
    st.sampled_from(
        ["sequence", "exp", "nbf", "tenant", "scope", "keyid", "files", "raw", "endorsements", "name", "hash"]
    ),
    JSON,
)
@settings(deadline=None, max_examples=200)
def test_any_claim_with_a_good_signature_verifies_or_raises_a_trust_error(name, value):
    if name in ("name", "hash"):
        forge = Forge(listed=lambda items: items[0].update({name: value}))
    else:
        forge = Forge(payload=compact({"files": [], **Forge().claims, name: value}))
    verifies_or_raises(forge.archive)


@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "x5c", "jwk", "jku"]), JSON))
@settings(deadline=None)
def test_any_header_verifies_or_raises_a_trust_error(header):
    verifies_or_raises(Forge(header={"alg": "RS256", "kid": "dev", **header}).archive)
