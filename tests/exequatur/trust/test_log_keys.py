"""One good signature by a key that is neither revoked nor over makes a checkpoint; a folder says which those are."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exequatur.trust.errors import (
    ExpiredError,
    FormatError,
    RevokedError,
    ScopeError,
    SignatureError,
    TrustError,
    UnknownKeyError,
)
from exequatur.trust.log_keys import parse_log_keys
from exequatur.trust.note import Checkpoint, LogKey, recall_checkpoint, sign_checkpoint

NAME = "log.example.org/audit"
OLD, NEW, STRANGE = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2, 3))
STATE = Checkpoint(NAME, 7, bytes(range(32)), ("time 2026-11-21T00:00:00Z",))
NOW = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
END = NOW + dt.timedelta(days=1)
BY_OLD, BY_NEW, BY_BOTH = (sign_checkpoint(STATE, NAME, *keys) for keys in ([OLD], [NEW], [OLD, NEW]))


def vkey(key: Ed25519PrivateKey, name: str = NAME) -> bytes:
    return f"{LogKey(name, key.public_key())}\n".encode()


FILES = {"2026.vkey": vkey(OLD), "2027.vkey": vkey(NEW)}


def policy(terms: Mapping[str, Mapping[str, object]] | None = None, **members: object) -> dict[str, bytes]:
    """FILES with a `keys.json`."""
    keys = terms or {"2026": {}, "2027": {}}
    listed = {name: {"owner": "sre@example.org", **more} for name, more in keys.items()}
    return {**FILES, "keys.json": json.dumps({"purpose": "checkpoint", "keys": listed, **members}).encode()}


def test_while_one_key_takes_anothers_place_each_signature_is_enough():
    both = parse_log_keys(FILES)
    for note in (BY_OLD, BY_NEW, BY_BOTH):
        assert both.open(note, NOW) == STATE
    for file, data in FILES.items():
        one = parse_log_keys({file: data})
        assert one.open(BY_BOTH, NOW) == STATE
    with pytest.raises(SignatureError, match="no known key"):
        parse_log_keys({"2027.vkey": vkey(NEW)}).open(BY_OLD, NOW)
    with pytest.raises(SignatureError, match="no known key"):
        both.open(sign_checkpoint(STATE, NAME, STRANGE), NOW)


def test_one_file_may_have_any_name():
    for name in ("log.vkey", "ledger-key", "a b.txt"):
        assert parse_log_keys({name: vkey(OLD)}).open(BY_OLD, NOW) == STATE


def test_what_a_revoked_key_signed_is_not_believed_whatever_else_is_said_of_it():
    listed, unlisted = policy(revoked=["2026"]), policy({"2027": {}}, revoked=["2026"])
    gone = {name: data for name, data in unlisted.items() if name != "2026.vkey"}
    for files in (listed, unlisted, gone):
        keys = parse_log_keys(files)
        assert keys.open(BY_NEW, NOW) == STATE
        assert keys.open(BY_BOTH, NOW) == STATE
        with pytest.raises(SignatureError if files is gone else RevokedError) as error:
            keys.open(BY_OLD, NOW)
        if files is not gone:
            assert str(error.value) == "the checkpoint is signed by the key `2026`, which is revoked"


def test_revoking_every_key_takes_effect_and_is_no_fault():
    """Were it refused, whoever watches the folder would go on with the keys from before."""
    files = policy(revoked=["2026", "2027"])
    with pytest.raises(RevokedError):
        parse_log_keys(files).open(BY_BOTH, NOW)
    with pytest.raises(TrustError):
        parse_log_keys({"keys.json": files["keys.json"]}).open(BY_BOTH, NOW)


def test_from_its_end_on_a_key_signs_nothing_any_more():
    keys = parse_log_keys(policy({"2026": {"not_after": f"{END:%Y-%m-%dT%H:%M:%SZ}"}, "2027": {}}))
    assert keys.open(BY_OLD, END - dt.timedelta(seconds=1)) == STATE
    with pytest.raises(ExpiredError, match="the key `2026`, which was good until 2026-11-22T00:00:00Z"):
        keys.open(BY_OLD, END)
    assert keys.open(BY_BOTH, END) == STATE
    assert [key.raw for key in keys.once_good] == [
        OLD.public_key().public_bytes_raw(),
        NEW.public_key().public_bytes_raw(),
    ]


def test_a_bad_signature_by_a_known_key_does_not_hide_behind_a_good_one():
    text, signature = BY_OLD.split("\n\n")
    forged = f"{text}\n\n{signature}{BY_NEW.split(chr(10) * 2)[1]}".replace("time 2026", "time 2025")
    with pytest.raises(TrustError):
        parse_log_keys(FILES).open(forged, NOW)


@pytest.mark.parametrize(
    ("files", "kind", "words"),
    [
        ({}, UnknownKeyError, "holds no verifier key"),
        ({"a.vkey": b"\xff\xfe"}, FormatError, "must read"),
        ({"a.vkey": vkey(OLD)[:-6]}, FormatError, "must read"),
        ({**FILES, "b.vkey": b"no key"}, FormatError, "`b.vkey`: a verifier key must read"),
        ({**FILES, "README": vkey(STRANGE)}, FormatError, "`README` is not named NAME.vkey"),
        ({**FILES, "a b.vkey": vkey(STRANGE)}, FormatError, "`a b.vkey` is not named"),
        ({**FILES, "b.vkey": vkey(OLD)}, FormatError, "the same key is there under two names"),
        ({**FILES, "b.vkey": vkey(STRANGE, "other.example.org")}, FormatError, "of two logs"),
        (policy({"2026": {}}), FormatError, "does not list the key `2027`"),
        (policy({"2026": {}, "2027": {}, "2028": {}}), FormatError, "lists the key `2028`, which has no file"),
        (policy(purpose="bundle"), ScopeError, "for the purpose `bundle`, not for `checkpoint`"),
        (policy(threshold=2), FormatError, "nobody could ever sign|for bundles"),
        (policy({"2026": {"tenants": ["a"]}, "2027": {}}), FormatError, "a log has neither"),
        (policy({"2026": {"scope": "prod"}, "2027": {}}), FormatError, "a log has neither"),
        (policy(until="2027"), FormatError, "`/until` is not known"),
        ({**FILES, "keys.json": b"{"}, FormatError, "keys.json"),
    ],
)
def test_a_folder_that_could_be_read_in_two_ways_is_refused(files, kind, words):
    with pytest.raises(kind, match=words):
        parse_log_keys(files)


def test_a_threshold_of_several_owners_is_not_pretended_to_hold():
    terms = {"2026": {"owner": "a@example.org"}, "2027": {"owner": "b@example.org"}}
    with pytest.raises(FormatError, match="`/threshold` is for bundles"):
        parse_log_keys(policy(terms, threshold=2))


def test_a_note_that_was_kept_is_recalled_when_its_signer_is_gone():
    known = parse_log_keys({"a": vkey(NEW)}).once_good
    assert recall_checkpoint(BY_OLD, known, NAME) == (STATE, False)
    assert recall_checkpoint(BY_BOTH, known, NAME) == (STATE, True)
    with pytest.raises(FormatError, match="of the log"):
        recall_checkpoint(BY_OLD, known, "other.example.org")
    with pytest.raises(SignatureError):
        recall_checkpoint(BY_BOTH.replace("time 2026", "time 2027"), known, NAME)


def test_somebody_must_sign():
    with pytest.raises(ValueError, match="somebody must sign"):
        sign_checkpoint(STATE, NAME)
