"""Checkpoints as C2SP notes: only what a known key signed, whole, and for this log."""

from __future__ import annotations

import base64
import contextlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from exequatur.trust.errors import FormatError, SignatureError, TrustError
from exequatur.trust.note import Checkpoint, LogKey, open_checkpoint, sign_checkpoint

NAME = "log.example.org"
KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))
LOG = LogKey(NAME, KEY.public_key())
STATE = Checkpoint(NAME, 7, bytes(range(32)), ("first", "second line"))
NOTE = sign_checkpoint(STATE, NAME, KEY)


def line(signature: bytes, name: str = NAME) -> str:
    return f"\u2014 {name} {base64.b64encode(signature).decode()}\n"


def signed_text(text: str) -> str:
    return f"{text}\n{line(LOG.id + KEY.sign(text.encode()))}"


def test_what_was_signed_comes_back():
    assert open_checkpoint(NOTE, [LOG], NAME) == STATE


def test_keys_and_texts_are_written_as_others_write_them():
    go = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
    assert str(LogKey.parse(go)) == go
    assert NOTE.startswith(
        f"{NAME}\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\nfirst\nsecond line\n\n\u2014 {NAME} "
    )


def test_a_verifier_key_comes_back_from_its_text():
    again = LogKey.parse(f"{LOG}\n")
    assert (str(again), again.raw, again.id) == (str(LOG), LOG.raw, LOG.id)


@pytest.mark.parametrize(
    "text",
    [
        "",
        NAME,
        f"{NAME}+{LOG.id.hex()}",
        f"{NAME}+00000000+{str(LOG).rpartition('+')[2]}",
        f"other+{LOG.id.hex()}+{str(LOG).rpartition('+')[2]}",
        str(LOG)[:-4],
        f"{LOG}+",
        f"a b{str(LOG)[len(NAME) :]}",
        str(LOG).replace("+AY", "+AZ", 1)[:-1] + "!",
    ],
)
def test_a_verifier_key_that_does_not_add_up_is_refused(text):
    with pytest.raises(FormatError):
        LogKey.parse(text)


def test_another_key_or_another_name_signs_nothing():
    for keys in ([], [LogKey(NAME, OTHER.public_key())], [LogKey("other", KEY.public_key())]):
        with pytest.raises(SignatureError, match="no known key"):
            open_checkpoint(NOTE, keys, NAME)


def test_witnesses_may_sign_too_and_are_passed_over():
    note = NOTE + line(b"\4" * 80, "witness.example.net")
    assert open_checkpoint(note, [LOG], NAME) == STATE
    witness = sign_checkpoint(STATE, "witness", OTHER).split("\n\n")[1]
    text, ours = NOTE.split("\n\n")
    assert open_checkpoint(f"{text}\n\n{witness}{ours}", [LOG], NAME) == STATE


def test_a_bad_signature_does_not_hide_beside_a_good_one():
    with pytest.raises(SignatureError, match=r"is not what `log.example.org` signed"):
        open_checkpoint(NOTE + line(LOG.id + bytes(64)), [LOG], NAME)
    for junk in ("junk\n", "\n", "\u2014 a\n", "\u2014 a !!!!\n", "\u2014 a AAAA\n", "- a AAAAAAAA\n"):
        with pytest.raises(FormatError, match="no signature"):
            open_checkpoint(NOTE + junk, [LOG], NAME)


def test_a_checkpoint_of_another_log_is_refused():
    with pytest.raises(FormatError, match=r"of the log `log.example.org`, not of `log.example.net`"):
        open_checkpoint(NOTE, [LOG], "log.example.net")


ROOT = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "text",
    [
        f"{NAME}\n",
        f"{NAME}\n7\n",
        f"{NAME}\n07\n{ROOT}\n",
        f"{NAME}\n-7\n{ROOT}\n",
        f"{NAME}\n\u0667\n{ROOT}\n",
        f"{NAME}\n7 \n{ROOT}\n",
        f"{NAME}\n{'9' * 19}\n{ROOT}\n",
        f"{NAME}\n7\n{ROOT[:-4]}\n",
        f"{NAME}\n7\n{ROOT} \n",
        f"{NAME}\n7\n!{ROOT}\n",
        f"{NAME}\n7\n{ROOT}\na\x1b[2J\n",
        f"{NAME}\r\n7\n{ROOT}\n",
    ],
)
def test_a_signed_text_that_is_no_checkpoint_is_refused(text):
    with pytest.raises(FormatError):
        open_checkpoint(signed_text(text), [LOG], NAME)


def test_a_note_beyond_any_measure_is_refused_unread():
    with pytest.raises(FormatError, match="too long"):
        open_checkpoint(sign_checkpoint(Checkpoint(NAME, 7, bytes(32), ("x" * 70_000,)), NAME, KEY), [LOG], NAME)


@pytest.mark.parametrize(
    ("checkpoint", "name"),
    [
        (Checkpoint(NAME, 7, bytes(31)), NAME),
        (Checkpoint(NAME, -1, bytes(32)), NAME),
        (Checkpoint("", 7, bytes(32)), NAME),
        (Checkpoint("a\nb", 7, bytes(32)), NAME),
        (Checkpoint(NAME, 7, bytes(32), ("",)), NAME),
        (Checkpoint(NAME, 7, bytes(32), ("a\n\nb",)), NAME),
        (STATE, "a b"),
        (STATE, "a+b"),
        (STATE, ""),
    ],
)
def test_nobody_signs_what_could_not_be_opened(checkpoint, name):
    with pytest.raises(ValueError):
        sign_checkpoint(checkpoint, name, KEY)


def test_a_flipped_bit_anywhere_is_refused():
    whole = NOTE.encode()
    unseen = []
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        try:
            open_checkpoint(bytes(damaged).decode("utf-8", "surrogateescape"), [LOG], NAME)
        except TrustError:
            continue
        unseen.append(at)
    assert unseen == []


@given(st.text())
def test_any_text_opens_or_raises_a_trust_error(text):
    for note in (text, f"{text}\n\n{text}", f"{STATE.text()}\n{text}", NOTE + text, "x" * 70_000):
        with contextlib.suppress(TrustError):
            assert open_checkpoint(note, [LOG], NAME) == STATE


@given(
    st.integers(0, 10**18 - 1),
    st.binary(min_size=32, max_size=32),
    st.lists(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), min_size=1), max_size=3),
)
def test_any_checkpoint_comes_back(size, root, extensions):
    checkpoint = Checkpoint(NAME, size, root, tuple(extensions))
    assert open_checkpoint(sign_checkpoint(checkpoint, NAME, KEY), [LOG], NAME) == checkpoint
