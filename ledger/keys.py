"""Which private keys sign checkpoints: one file, or a folder in which a new one lies beside the old for a while.

Rules: every NAME.key of a folder signs; the NAME.vkey beside it, which `exequatur keys generate` writes too, is for
others; anything else in the folder is an error, so that no key is left out by a wrong name.
"""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exequatur.trust.errors import FormatError, UnknownKeyError
from exequatur.trust.keys import load_log_key


def parse_signing_keys(files: Mapping[str, bytes]) -> Mapping[str, Ed25519PrivateKey]:
    """Read private keys by the name of their file; raises `TrustError`."""
    keys: dict[str, Ed25519PrivateKey] = {}
    for name, pem in sorted(files.items()):
        if name.endswith(".vkey"):
            continue
        if len(files) > 1 and not name.endswith(".key"):
            raise FormatError(f"`{name}` is not named NAME.key: only keys that sign checkpoints belong there")
        try:
            keys[name.removesuffix(".key")] = load_log_key(pem)
        except FormatError as error:
            raise FormatError(f"`{name}`: {error}" if len(files) > 1 else str(error)) from None
    if not keys:
        raise UnknownKeyError("it holds no NAME.key: make one with `exequatur keys generate --alg Ed25519`")
    if len({key.private_bytes_raw() for key in keys.values()}) < len(keys):
        raise FormatError("the same key is there under two names: keep one")
    return keys
