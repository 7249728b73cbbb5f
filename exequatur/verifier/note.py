"""The checkpoint: a signed note (C2SP signed-note, tlog-checkpoint) by one of the keys that were given.

Only the one spelling that signers write is taken.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from .broken import Broken

_ROOT: Final = 32
_NOTE_BYTES: Final = 64 * 1024
_ED25519: Final = b"\x01"
_SIGNATURE: Final = re.compile("\u2014 ([^\\s+]+) ([A-Za-z0-9+/=]+)")
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,17}")
_TIME: Final = "time "


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log's signer says: the root over the first `size` entries, at a time."""

    origin: str
    size: int
    root: bytes
    time: str


@dataclass(frozen=True, slots=True)
class Trusted:
    """A verifier key (C2SP, `name+hash+base64`), what people call it, and until when it is believed, if at all."""

    text: str
    called: str = ""
    not_after: datetime | None = None
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class Key:
    """A key that was given, and whether it may have signed."""

    name: str
    id: bytes
    key: Ed25519PublicKey
    revoked: str  # why nothing that it signed is believed; empty if it is
    over: str  # why nothing that it signs now is believed; empty if it is

    @classmethod
    def of(cls, trusted: Trusted, now: datetime) -> Key:
        """Read a verifier key, as things are `now`. Raises `ValueError`."""
        name, _, rest = trusted.text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        try:
            raw = base64.b64decode(encoded, validate=True)
            key = Ed25519PublicKey.from_public_bytes(raw[1:])
        except (ValueError, binascii.Error):
            raise ValueError("a verifier key must read `name+hash+base64` with an Ed25519 key") from None
        made = hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4]
        if raw[:1] != _ED25519 or made.hex() != key_id or not name:
            raise ValueError(f"the verifier key of `{name}` does not have the hash that it claims")
        end, called = trusted.not_after, f"is signed by the key `{trusted.called or made.hex()}`, which"
        over = "" if end is None or now < end else f"{called} was good until {end:%Y-%m-%dT%H:%M:%SZ}"
        return cls(name, made, key, f"{called} is revoked" if trusted.revoked else "", over)


def open_note(note: str, ring: Sequence[Key], where: str, *, once: bool = False) -> Checkpoint:
    """Verify a signed note, which is called `where`, and read its checkpoint. Raises `Broken`.

    `once`: it was kept when it was good, so that a key that is over by now may have signed it.
    """
    name = ring[0].name
    text, blank, signatures = note.partition("\n\n")
    if not blank or not signatures.endswith("\n") or len(note) > _NOTE_BYTES:
        raise Broken(where, "is no signed note")
    text += "\n"
    lines = [_SIGNATURE.fullmatch(line) for line in signatures[:-1].split("\n")]
    if not all(lines):
        raise Broken(where, "has a line among its signatures that is none")
    signers = [key for key in ring if any(_is_signed(text, line[1], line[2], key) for line in lines if line)]
    faults = [key.revoked or ("" if once else key.over) for key in signers]
    if all(faults):
        raise Broken(where, faults[0] if faults else f"bears no good signature of `{name}`")
    origin, size, encoded, *extensions = [*text[:-1].split("\n"), "", ""]
    root = _base64(encoded)
    if origin != name or not _SIZE.fullmatch(size) or root is None or len(root) != _ROOT:
        raise Broken(where, f"signs something that is no checkpoint of `{name}`")
    time = next((line.removeprefix(_TIME) for line in extensions if line.startswith(_TIME)), "")
    return Checkpoint(origin, int(size), root, time)


def _is_signed(text: str, name: str, encoded: str, key: Key) -> bool:
    signature = _base64(encoded)
    if name != key.name or signature is None or signature[:4] != key.id:
        return False
    try:
        key.key.verify(signature[4:], text.encode())
    except InvalidSignature:
        return False
    return True


def _base64(text: str) -> bytes | None:
    """Decode base64, in its one canonical spelling."""
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return None
    return data if base64.b64encode(data).decode() == text else None
