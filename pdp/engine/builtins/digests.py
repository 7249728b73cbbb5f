"""Hashes and message authentication codes, each of the UTF-8 of a string, given in hexadecimal."""

from __future__ import annotations

import hashlib
import hmac

from pdp.engine.builtins import builtin
from pdp.engine.builtins.operands import text
from pdp.engine.builtins.values import Value


@builtin("crypto.md5")
def md5(value: Value) -> Value:
    """Give the MD5 of a string."""
    return hashlib.md5(text(value, 1).encode(), usedforsecurity=False).hexdigest()


@builtin("crypto.sha1")
def sha1(value: Value) -> Value:
    """Give the SHA-1 of a string."""
    return hashlib.sha1(text(value, 1).encode(), usedforsecurity=False).hexdigest()


@builtin("crypto.sha256")
def sha256(value: Value) -> Value:
    """Give the SHA-256 of a string."""
    return hashlib.sha256(text(value, 1).encode()).hexdigest()


@builtin("crypto.hmac.md5")
def hmac_md5(message: Value, key: Value) -> Value:
    """Give the HMAC-MD5 of a message."""
    return _hmac(message, key, "md5")


@builtin("crypto.hmac.sha1")
def hmac_sha1(message: Value, key: Value) -> Value:
    """Give the HMAC-SHA-1 of a message."""
    return _hmac(message, key, "sha1")


@builtin("crypto.hmac.sha256")
def hmac_sha256(message: Value, key: Value) -> Value:
    """Give the HMAC-SHA-256 of a message."""
    return _hmac(message, key, "sha256")


@builtin("crypto.hmac.sha512")
def hmac_sha512(message: Value, key: Value) -> Value:
    """Give the HMAC-SHA-512 of a message."""
    return _hmac(message, key, "sha512")


@builtin("crypto.hmac.equal")
def hmac_equal(first: Value, second: Value) -> Value:
    """Compare two codes in a time that does not depend on where they differ."""
    return hmac.compare_digest(text(first, 1).encode(), text(second, 2).encode())


def _hmac(message: Value, key: Value, digest: str) -> str:
    data = text(message, 1).encode()
    return hmac.new(text(key, 2).encode(), data, digest).hexdigest()
