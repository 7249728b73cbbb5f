"""Every NAME.key of a folder signs; a file that is left out by its name, or could be, is an error."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exequatur.trust.errors import TrustError
from exequatur.trust.keys import generate
from ledger.keys import parse_signing_keys

OLD, NEW = (generate("Ed25519")[0] for _ in range(2))


def test_all_keys_of_a_folder_sign_and_their_public_halves_lie_beside_them():
    keys = parse_signing_keys({"2026.key": OLD, "2026.vkey": b"x", "2027.key": NEW, "2027.vkey": b"y"})
    assert list(keys) == ["2026", "2027"]
    assert all(isinstance(key, Ed25519PrivateKey) for key in keys.values())


def test_one_file_may_have_any_name():
    assert len(parse_signing_keys({"ledger.pem": OLD})) == 1


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "holds no NAME.key"),
        ({"2026.vkey": b"x"}, "holds no NAME.key"),
        ({"2026.key": OLD, "2027.pem": NEW}, "`2027.pem` is not named NAME.key"),
        ({"2026.key": OLD, "README": b""}, "`README` is not named NAME.key"),
        ({"2026.key": OLD, "2027.key": NEW[:40]}, "`2027.key`: the checkpoint key is no private key"),
        ({"2026.key": OLD, "2027.key": generate("ES256")[0]}, "`2027.key`: the checkpoint key must be Ed25519"),
        ({"2026.key": OLD, "2027.key": OLD}, "the same key is there under two names"),
    ],
)
def test_what_is_no_such_folder_is_refused(files, words):
    with pytest.raises(TrustError, match=words):
        parse_signing_keys(files)
