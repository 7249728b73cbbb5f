"""Checkpoints of a log: C2SP signed notes with Ed25519 (c2sp.org/signed-note, c2sp.org/tlog-checkpoint).

Rules: the text that was signed is the text that is parsed; a note without a good signature by a known key is nothing;
neither is one on which a known key's signature does not hold, or where one line is no signature. Lines of keys that
are not known, witnesses' for one, are passed over.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from exequatur.trust.canonical import quoted
from exequatur.trust.errors import FormatError, SignatureError

ED25519: Final = b"\x01"
_NAME: Final = re.compile(r"[^\s+]+")
_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,17}")
_LINE: Final = re.compile(r"[^\x00-\x1f]+")
_SIGNATURE: Final = re.compile(r"\u2014 (?P<name>[^\s+]+) (?P<base64>[A-Za-z0-9+/=]+)")
_NOTE_CHARACTERS: Final = 64 * 1024
_ROOT_BYTES: Final = hashlib.sha256().digest_size
_ID_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's state: its name, how many entries it has, the Merkle root (32 bytes), extension lines."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """The text that is signed."""
        lines = (self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions)
        return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True, slots=True)
class LogKey:
    """A key that may sign checkpoints under `name`, and nothing else."""

    name: str
    key: Ed25519PublicKey

    @property
    def raw(self) -> bytes:
        """The 32 bytes of the public key."""
        return self.key.public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def id(self) -> bytes:
        """The four bytes that name the key in a signature line."""
        return hashlib.sha256(self.name.encode() + b"\n" + ED25519 + self.raw).digest()[:4]

    def __str__(self) -> str:
        """The verifier key: `name+hash+key`."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(ED25519 + self.raw).decode()}"

    @classmethod
    def parse(cls, text: str) -> LogKey:
        """Read a verifier key; raises `FormatError`."""
        name, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        try:
            decoded = base64.b64decode(encoded, validate=True)
            key = cls(name, Ed25519PublicKey.from_public_bytes(decoded[1:]))
        except (ValueError, binascii.Error):
            raise FormatError("a verifier key must read `name+hash+base64` with an Ed25519 key") from None
        if key.id.hex() != key_id or decoded[:1] != ED25519 or not _NAME.fullmatch(name):
            raise FormatError(f"the verifier key of `{name}` does not have the hash that it claims")
        return key


def sign_checkpoint(checkpoint: Checkpoint, name: str, *keys: Ed25519PrivateKey) -> str:
    """Sign `checkpoint` as `name` by each of `keys`, of which there is at least one; returns the note."""
    text = checkpoint.text()
    if not _NAME.fullmatch(name):
        raise ValueError("a signer's name has no space and no plus")
    if not all(_LINE.fullmatch(line) for line in (checkpoint.origin, *checkpoint.extensions)):
        raise ValueError("a checkpoint's lines are not empty, and have no control characters")
    if len(checkpoint.root) != _ROOT_BYTES or checkpoint.size < 0:
        raise ValueError("a checkpoint has a size, and a root of 32 bytes")
    if not keys:
        raise ValueError("somebody must sign")
    signatures = (LogKey(name, key.public_key()).id + key.sign(text.encode()) for key in keys)
    lines = (f"\u2014 {name} {base64.b64encode(signature).decode()}\n" for signature in signatures)
    return f"{text}\n{''.join(lines)}"


def open_checkpoint(note: str, keys: Sequence[LogKey], origin: str) -> Checkpoint:
    """Verify `note` by one of `keys` and read its checkpoint.

    Raises `FormatError` for what is no checkpoint of `origin`, `SignatureError` where no known key signed it.
    """
    text, signed = _verified(note, keys)
    if not signed:
        raise SignatureError("no known key has signed the checkpoint")
    return _checkpoint(text, origin)


def recall_checkpoint(note: str, keys: Sequence[LogKey], origin: str) -> tuple[Checkpoint, bool]:
    """Read a note that was verified when it was kept; says whether one of `keys` signed it, or all that did are gone.

    For what lies in a folder of our own, where who could write could also remove it. Raises as `open_checkpoint` for a
    signature of a known key that does not hold, and for what is no checkpoint of `origin`.
    """
    text, signed = _verified(note, keys)
    return _checkpoint(text, origin), signed


def _verified(note: str, keys: Sequence[LogKey]) -> tuple[str, bool]:
    """Give the text, and whether one of `keys` signed it; raises where a line is a bad signature, or none."""
    if len(note) > _NOTE_CHARACTERS:
        raise FormatError("the note is too long")
    text, blank, signatures = note.partition("\n\n")
    if not blank or not signatures.endswith("\n"):
        raise FormatError("the note has no signatures")
    text += "\n"
    # Every line is looked at: a bad one must not hide behind a good one.
    return text, bool(sum(_signed(text, line, keys) for line in signatures[:-1].split("\n")))


def _checkpoint(text: str, origin: str) -> Checkpoint:
    lines = text.split("\n")[:-1]
    if len(lines) < 3 or not _DECIMAL.fullmatch(lines[1]) or not all(map(_LINE.fullmatch, lines)):  # noqa: PLR2004  origin, size, root
        raise FormatError("the note is no checkpoint")
    try:
        root = base64.b64decode(lines[2], validate=True)
    except (ValueError, binascii.Error):
        raise FormatError("the checkpoint's root is not base64") from None
    if len(root) != _ROOT_BYTES:
        raise FormatError("the checkpoint's root is no SHA-256")
    if lines[0] != origin:
        raise FormatError(f"the checkpoint is of the log {quoted(lines[0])}, not of {quoted(origin)}")
    return Checkpoint(lines[0], int(lines[1]), root, tuple(lines[3:]))


def _signed(text: str, line: str, keys: Sequence[LogKey]) -> bool:
    """Whether `line` is a signature of `text` by one of `keys`; raises where it is a bad one, or none at all."""
    match = _SIGNATURE.fullmatch(line)
    try:
        decoded = base64.b64decode(match["base64"], validate=True) if match else b""
    except (ValueError, binascii.Error):
        decoded = b""
    if match is None or len(decoded) <= _ID_BYTES:
        raise FormatError("a line below the checkpoint is no signature")
    for key in keys:
        if key.name == match["name"] and key.id == decoded[:_ID_BYTES]:
            try:
                key.key.verify(decoded[_ID_BYTES:], text.encode())
            except (InvalidSignature, UnicodeEncodeError):
                raise SignatureError(f"the checkpoint is not what {quoted(key.name)} signed") from None
            return True
    return False
