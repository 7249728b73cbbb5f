"""`keys.json`: trust is what it says and no more; whatever is odd in it stops the start."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from exequatur import schemas
from exequatur.trust.errors import ExpiredError, FormatError, RevokedError, ScopeError, TrustError, UnknownKeyError
from exequatur.trust.key_policy import KeyPolicy
from exequatur.trust.keys import generate, parse_key_set, parse_permit_keys, trust_one
from signing import NOW, bundle_keys, dev_key, public_pem

ALICE, BOB = generate("ES256")[1], generate("ES384")[1]
USUAL: dict[str, Any] = {
    "purpose": "bundle",
    "threshold": 2,
    "keys": {
        "alice": {"owner": "alice@example.org", "not_after": "2027-01-01T00:00:00Z", "tenants": ["default"]},
        "bob": {"owner": "bob@example.org", "tenants": ["default", "north"], "scope": ""},
    },
    "revoked": ["mallory"],
}


def folder(policy: Any = None, **files: bytes) -> dict[str, bytes]:
    """Give a folder of two keys with a policy; a file's name has `_` for `.`."""
    named = {name.replace("_", "."): data for name, data in files.items()}
    data = policy if isinstance(policy, bytes) else json.dumps(USUAL if policy is None else policy).encode()
    return {"alice.pem": ALICE, "bob.ES384.pem": BOB, "keys.json": data, **named}


def changed(**members: Any) -> dict[str, Any]:
    return {**USUAL, **members}


def terms(**members: Any) -> dict[str, Any]:
    return changed(keys={**USUAL["keys"], "alice": {"owner": "alice@example.org", **members}})


def test_a_folder_says_whose_keys_they_are_and_how_many_must_sign():
    keys = parse_key_set(folder())
    assert (set(keys.keys), keys.threshold, keys.revoked) == ({"alice", "bob"}, 2, {"mallory"})
    alice = keys.policy.terms["alice"]
    assert (alice.owner, alice.not_after, alice.tenants, alice.scope) == (
        "alice@example.org",
        datetime(2027, 1, 1, tzinfo=UTC),
        frozenset({"default"}),
        "",
    )
    assert (keys.keys["alice"].alg, keys.keys["bob"].alg) == ("ES256", "ES384")


def test_a_folder_without_a_policy_trusts_each_key_for_everything_and_one_is_enough():
    keys = parse_key_set({"alice.pem": ALICE, "bob.pem": BOB})
    assert (keys.threshold, keys.revoked) == (1, frozenset())
    assert [(item.owner, item.not_after, item.tenants, item.scope) for item in keys.policy.terms.values()] == [
        ("alice", None, None, ""),
        ("bob", None, None, ""),
    ]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (folder(carol_pem=generate("ES256")[1]), "does not list the key `carol`, whose file is there"),
        (folder(changed(keys={**USUAL["keys"], "carol": {"owner": "c"}})), "lists the key `carol`, which has no file"),
        (folder(mallory_pem=ALICE), "`alice` and `mallory` are the same key under two names"),
        (folder({**USUAL, "keys": {}}), "nobody could ever sign: 2 owners are needed, and 0 have keys"),
        (folder(changed(threshold=3)), "nobody could ever sign: 3 owners are needed, and 2 have keys"),
        (folder(terms(scope="prod")), "nobody could ever sign"),
        (folder(terms(tenants=["south"])), "nobody could ever sign"),
        (folder(terms(owner="bob@example.org")), "nobody could ever sign"),
        (folder(terms(owner="BOB@example.org")), "is spelt in two ways: one person would count twice"),
        (folder(b""), "not JSON"),
        (folder(b'{"purpose": "bundle", "purpose": "bundle"}'), "`purpose` is there twice"),
        (folder(b"[]"), "the file must be an object"),
        (folder(changed(purpose="bundles")), "`/purpose` must be one of"),
        (folder({"keys": USUAL["keys"]}), "`/purpose` is missing"),
        (folder({"purpose": "bundle"}), "`/keys` is missing"),
        (folder(changed(treshold=2)), "`/treshold` is not known"),
        (folder(changed(threshold=0)), "`/threshold` must be a whole number from 1"),
        (folder(changed(threshold=True)), "`/threshold` must be a whole number from 1"),
        (folder(changed(threshold="2")), "`/threshold` must be a whole number from 1"),
        (folder(changed(revoked="mallory")), "`/revoked` must be a list"),
        (folder(changed(revoked=["x", "x"])), "`/revoked` must not hold the same twice"),
        (folder(changed(revoked=["a b"])), "`a b` in `/revoked` is no KID"),
        (folder(changed(keys={"../x": {"owner": "a"}})), "is no KID"),
        (folder(terms(owner="")), "`/keys/alice/owner` must be a name"),
        (folder(terms(owner="al ice")), "`/keys/alice/owner` must be a name"),
        (folder(terms(owner="аlice@example.org")), "`/keys/alice/owner` must be a name"),  # noqa: RUF001
        (folder(changed(keys={**USUAL["keys"], "alice": {}})), "`/keys/alice/owner` is missing"),
        (folder(changed(keys={**USUAL["keys"], "alice": "a"})), "`/keys/alice` must be an object"),
        (folder(terms(tenants=[])), "`/keys/alice/tenants` must name a tenant"),
        (folder(terms(not_after="2027-01-01")), "`/keys/alice/not_after` must be a time such as"),
        (folder(terms(not_after="2027-01-01T00:00:00+01:00")), "`/keys/alice/not_after` must be a time such as"),
        (folder(terms(not_after="2027-13-01T00:00:00Z")), "`/keys/alice/not_after` must be a time such as"),
        (folder(terms(not_after=1)), "`/keys/alice/not_after` must be a time such as"),
        (folder(terms(scope=7)), "`/keys/alice/scope` must be a text"),
        (folder(terms(note="x")), "`/keys/alice/note` is not known"),
    ],
)
def test_an_odd_policy_is_refused_and_says_where(files, words):
    with pytest.raises(TrustError) as refused:
        parse_key_set(files)
    assert words in str(refused.value)
    assert "`keys.json`" in str(refused.value) or "the same key" in str(refused.value)


def test_revoking_more_than_the_threshold_bears_takes_effect_and_is_no_fault():
    """Were it refused, whoever watches the folder would go on with the keys from before."""
    some, all_of_them = folder(changed(revoked=["bob"])), folder(changed(revoked=["alice", "bob"]))
    assert set(parse_key_set(some).keys) == {"alice"}
    for files in (all_of_them, {"keys.json": all_of_them["keys.json"]}):
        keys = parse_key_set(files)
        assert not keys.keys
        with pytest.raises(RevokedError):
            keys.get("alice", NOW)


def test_revoked_wins_though_the_key_is_listed_and_its_file_is_there():
    keys = parse_key_set(folder(changed(threshold=1, revoked=["bob"])))
    with pytest.raises(RevokedError, match="the key `bob` is revoked"):
        keys.get("bob", NOW)
    assert set(keys.keys) == {"alice"}
    gone = {name: data for name, data in folder(changed(threshold=1, revoked=["bob"])).items() if "bob" not in name}
    with pytest.raises(RevokedError):
        parse_key_set(gone).get("bob", NOW)
    unlisted = {**USUAL, "threshold": 1, "keys": {"alice": USUAL["keys"]["alice"]}, "revoked": ["bob"]}
    with pytest.raises(RevokedError):
        parse_key_set(folder(unlisted)).get("bob", NOW)


def test_a_key_is_good_until_just_before_its_end():
    keys, end = parse_key_set(folder()), datetime(2027, 1, 1, tzinfo=UTC)
    assert keys.get("alice", end - timedelta(microseconds=1)).kid == "alice"
    with pytest.raises(ExpiredError, match="the key `alice` was good until 2027-01-01T00:00:00Z"):
        keys.get("alice", end)
    assert keys.get("bob", end).kid == "bob"


@pytest.mark.parametrize("purpose", ["permit", "checkpoint"])
def test_keys_for_one_purpose_never_serve_another(purpose):
    with pytest.raises(ScopeError, match=f"these keys are for the purpose `{purpose}`, not for `bundle`"):
        parse_key_set(folder(changed(purpose=purpose)))
    with pytest.raises(ScopeError, match="these keys are for the purpose `bundle`, not for `permit`"):
        parse_permit_keys(folder())
    with pytest.raises(FormatError, match=r"has no `keys.json`, which must say the purpose `permit`"):
        parse_permit_keys({"alice.pem": ALICE})
    assert set(parse_permit_keys(folder(changed(purpose="permit"))).keys) == {"alice", "bob"}


def pem(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_one_secret_under_two_names_does_not_make_two_owners():
    """Whoever knows d signs for the point and for its negative; whoever knows p and q for each exponent."""
    numbers = dev_key().public.key.public_numbers()
    assert isinstance(numbers, rsa.RSAPublicNumbers)
    other_exponent = pem(rsa.RSAPublicNumbers(65539, numbers.n).public_key())
    private = ec.generate_private_key(ec.SECP256R1())
    point, order = private.private_numbers(), ec.SECP256R1().group_order
    negative = pem(ec.derive_private_key(order - point.private_value, ec.SECP256R1()).public_key())
    for one, two in ((public_pem(dev_key()), other_exponent), (pem(private.public_key()), negative)):
        policy = {"purpose": "bundle", "threshold": 2, "keys": {"one": {"owner": "a"}, "two": {"owner": "b"}}}
        with pytest.raises(FormatError, match="`one` and `two` are the same key under two names"):
            parse_key_set({"one.pem": one, "two.pem": two, "keys.json": json.dumps(policy).encode()})


def test_a_set_of_one_key_trusts_it_alone():
    assert set(trust_one(dev_key().public).keys) == {"dev"}
    with pytest.raises(UnknownKeyError):
        trust_one(dev_key().public).get("alice", NOW)
    assert trust_one(dev_key().public).policy == bundle_keys().policy


# The published schema says the same


TEXTS = ["bundle", "permit", "", "alice", "a b", "é", "x" * 257, "2027-01-01T00:00:00Z", "2027-01-01"]
OTHERS = [
    *(0, 1, 2, 64, 65, 1.5, True, None, [], ["default"], ["a", "a"], ["\n"], [1], {}),
    {"owner": "a"},
    {"alice": {}},
]
LIKELY = st.sampled_from([*TEXTS, *OTHERS, {"owner": "a", "scope": "b"}])
MEMBERS = ("purpose", "threshold", "keys", "revoked", "$schema", "more")
TERMS = ("owner", "not_after", "tenants", "scope", "more")


@given(
    st.dictionaries(st.sampled_from(MEMBERS), LIKELY, max_size=2),
    st.dictionaries(st.sampled_from(TERMS), LIKELY, max_size=2),
    st.sets(st.sampled_from(["purpose", "keys", "revoked"]), max_size=1),
)
@settings(deadline=None, max_examples=300)
def test_the_published_schema_and_the_reader_agree(members, owners_terms, missing):
    value = {**terms(**owners_terms), **members}
    value = {name: item for name, item in value.items() if name not in missing}
    try:
        KeyPolicy.parse(json.dumps(value).encode())
    except FormatError as error:
        refusal = str(error)
    else:
        refusal = ""
    across_members = "nobody could ever sign" in refusal or "spelt in two ways" in refusal
    if not across_members:
        assert (schemas.check("keys", value) is None) == (refusal == ""), (value, refusal)
