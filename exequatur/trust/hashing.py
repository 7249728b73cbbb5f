"""The hash of a file in a bundle, as OPA computes it: some by their parsed value, all others by their bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

HASHES: Final = {
    "SHA-256": "sha256",
    "SHA-224": "sha224",
    "SHA-384": "sha384",
    "SHA-512": "sha512",
    "SHA-512-224": "sha512_224",
    "SHA-512-256": "sha512_256",
}
"""OPA's names of SHA-2; the others that it takes, MD5 and SHA-1, are refused."""

_text: Final = json.JSONEncoder(ensure_ascii=False).encode
SIGNATURES: Final = ".signatures.json"
MANIFEST: Final = ".manifest"
_STRUCTURED: Final = ("data.json", MANIFEST)


def file_hash(name: str, content: bytes, algorithm: str = "SHA-256") -> str:
    """Hash a file as OPA does: `data.json` and `.manifest` by their parsed value, all others by their bytes.

    The former must have passed the strict parser; `algorithm` is one of `HASHES`.
    """
    hasher = hashlib.new(HASHES[algorithm])
    if is_structured(name):
        hasher.update(_structured(content))
    else:
        hasher.update(content)
    return hasher.hexdigest()


def raw_hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    """Hash the bytes of those files whose other hash is by value: JSON can be spelt in many ways."""
    return {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files) if is_structured(name)}


def is_structured(name: str) -> bool:
    """Whether a file is hashed by its value."""
    return name.rpartition("/")[2] in _STRUCTURED


class _Literal(str):
    """A number as it is written: OPA hashes `1.0` and `1.00` apart."""

    __slots__ = ()


def _structured(content: bytes) -> bytes:
    """Write a JSON value as Go's encoder does: sorted keys, no spaces, numbers as written, `<>&` raw."""
    value = json.loads(content.decode(), parse_int=_Literal, parse_float=_Literal)
    parts: list[str] = []
    _write(value, parts)
    return "".join(parts).encode()


def _write(value: Any, parts: list[str]) -> None:
    if isinstance(value, _Literal):
        parts.append(value)
    elif isinstance(value, str):
        parts.append(_text(value).replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))
    elif isinstance(value, dict):
        for mark, key in zip("{" + "," * len(value), sorted(value), strict=False):
            parts.append(mark)
            _write(key, parts)
            parts.append(":")
            _write(value[key], parts)
        parts.append("}" if value else "{}")
    elif isinstance(value, list):
        for mark, item in zip("[" + "," * len(value), value, strict=False):
            parts.append(mark)
            _write(item, parts)
        parts.append("]" if value else "[]")
    else:
        parts.append(json.dumps(value))
