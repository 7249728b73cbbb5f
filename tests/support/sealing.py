"""Bundles that `exequatur bundle sign` would never make, signed all the same: a publisher who is hostile, or broken.

`seal` puts a good signature around whatever it is given, so that what is wrong is inside and nowhere else.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import bank
from exequatur.trust.archive import write_archive
from exequatur.trust.hashing import file_hash, raw_hashes
from exequatur.trust.keys import SigningKey
from exequatur.trust.tokens import SIGNATURES
from signing import jws

Pack = Callable[[Mapping[str, bytes]], bytes]


def files(**changed: bytes | None) -> dict[str, bytes]:
    """Give the bank's files; a change's name has `__` for `/` and `_` for `.`, and None takes a file out."""
    found = dict(bank.files())
    for name, content in changed.items():
        stem, _, ending = name.replace("__", "/").rpartition("_")
        found.pop(f"{stem}.{ending}", None)
        if content is not None:
            found[f"{stem}.{ending}"] = content
    return found


def claims(sequence: int, /, **changed: Any) -> dict[str, Any]:
    """Give the claims of a bundle that is valid for a day; None takes one out."""
    expires = datetime.now(UTC) + timedelta(days=1)
    usual = {"sequence": sequence, "exp": int(expires.timestamp()), "tenant": "default"}
    return {name: value for name, value in {**usual, **changed}.items() if value is not None}


def listing(content: Mapping[str, bytes], **changed: Any) -> list[dict[str, Any]]:
    """Give the list of files as it is signed; `changed` goes into each entry."""
    return [
        {"algorithm": "SHA-256", "hash": file_hash(name, content[name]), "name": name, **changed}
        for name in sorted(content)
    ]


def payload(content: Mapping[str, bytes], sequence: int, /, **changed: Any) -> bytes:
    """Give what is signed, as `sign` writes it; `changed` goes to the claims."""
    whole = {"files": listing(content), "raw": raw_hashes(content), **claims(sequence, **changed)}
    return json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()


def token(signed: bytes, key: SigningKey | None = None, **header: Any) -> str:
    """Sign a payload with RS256, by the bank's key unless told otherwise; `header` is put over the usual one."""
    return jws({"alg": "RS256", "kid": "bank", **header}, signed, key or bank.signing_key())


def signatures(*tokens: str) -> bytes:
    """Give the file of signatures, as `sign` writes it."""
    return json.dumps({"signatures": [*tokens]}, indent=1).encode()


def seal(content: Mapping[str, bytes], sequence: int, pack: Pack = write_archive, /, **changed: Any) -> bytes:
    """Sign files, whatever they are; `changed` goes to the claims."""
    return pack({**content, SIGNATURES: signatures(token(payload(content, sequence, **changed)))})


def entry(name: str, content: bytes = b"", *, kind: bytes = b"0", **fields: Any) -> bytes:
    """Give one entry of a tar, whatever its name, kind and fields."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + content + bytes(-len(content) % 512)


def tar(content: Mapping[str, bytes], *more: bytes, before: Sequence[bytes] = ()) -> bytes:
    """Give a plain tar of files, with entries before and after them."""
    own = [entry(name, content[name]) for name in sorted(content)]
    return b"".join((*before, *own, *more)) + bytes(1024)
