"""A signer that is a command: keys that never leave a KMS, a vault or a token sign as well as a file does.

Rules: an argument list, never a shell; what is to be signed goes to its standard input, which is a file, so that
`/dev/stdin` can be opened too; its standard error and its terminal are the caller's, a PIN can be asked for; it sees
nothing of ours, no variable of ours either; what it gives is verified by the public key before anybody gets it.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import select
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from exequatur.trust.keys import PublicKey

SECONDS: Final = 120
"""How long a command may take: somebody may have to find the token and touch it."""
OUTPUT_BYTES: Final = 64 * 1024
"""The most that a command may print; the longest signature, of RSA with 16,384 bits, has 2,732 in base64."""
_OURS: Final = "EXEQUATUR_"
_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}


class SignerError(Exception):
    """The command did not sign: whoever named it must put it right."""


@dataclass(frozen=True, slots=True)
class CommandSigner:
    """Signs by running a command for the key whose public half is given."""

    public: PublicKey
    arguments: Sequence[str]
    digest: bool = False
    """Give it the SHA-2 digest of what is to be signed, in binary, and not the whole."""
    seconds: float = SECONDS

    @classmethod
    def parse(cls, command: str, public: PublicKey, *, digest: bool = False) -> CommandSigner:
        """Read a command line as a shell would, without one. Raises `SignerError`."""
        try:
            arguments = shlex.split(command)
        except ValueError as error:
            raise SignerError(f"the command cannot be read: {str(error).lower()}") from None
        if not arguments:
            raise SignerError("the command is empty: name the program that signs")
        return cls(public, tuple(arguments), digest)

    @property
    def kid(self) -> str:
        """The key's name."""
        return self.public.kid

    @property
    def alg(self) -> str:
        """The key's algorithm, as JWS calls it."""
        return self.public.alg

    def sign_input(self, data: bytes) -> bytes:
        """Give the JWS signature of `data` (RFC 7518: r||s for ES), which holds. Raises `SignerError`."""
        given = _digest(data, self.alg) if self.digest else data
        output = self._run(given)
        for signature in _read(output, self.public):
            if _holds(signature, data, self.public):
                return signature
        raise SignerError(self._unheld(output))

    def _run(self, given: bytes) -> bytes:
        """Run the command on `given`; gives what it printed."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        deadline = time.monotonic() + self.seconds
        with tempfile.TemporaryFile() as file:
            file.write(given)
            file.seek(0)
            try:
                process = subprocess.Popen(self.arguments, stdin=file, stdout=subprocess.PIPE, env=environ)
            except (OSError, ValueError) as error:
                reason = (getattr(error, "strerror", None) or str(error)).lower()
                raise SignerError(f"{self._name} cannot be run: {reason}") from None
        with process:
            try:
                output = self._printed(process, deadline)
                code = process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise SignerError(
                    f"{self._name} did not end within {self.seconds:g} s, and nothing was signed"
                ) from None
            finally:
                if process.poll() is None:
                    process.kill()
        if code != 0:
            ended = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise SignerError(f"{self._name} {ended}, nothing was signed: what it said is above")
        return output

    def _printed(self, process: subprocess.Popen[bytes], deadline: float) -> bytes:
        """Read what it prints to its end, never more than a signature could have, never after the deadline."""
        assert process.stdout is not None
        pipe: IO[bytes] = process.stdout
        output = b""
        while True:
            if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise subprocess.TimeoutExpired(self.arguments, self.seconds)
            part = os.read(pipe.fileno(), OUTPUT_BYTES)
            output += part
            if not part:
                return output
            if len(output) > OUTPUT_BYTES:
                process.kill()
                raise SignerError(f"{self._name} printed more than {OUTPUT_BYTES} bytes: a signature alone is wanted")

    @property
    def _name(self) -> str:
        return f"`{self.arguments[0]}`"

    def _unheld(self, output: bytes) -> str:
        if not output.strip():
            return f"{self._name} printed nothing: a signature is wanted on its standard output"
        given = "the digest on its standard input" if self.digest else "all of its standard input"
        return f"what {self._name} printed is no signature of {given} by key `{self.kid}`: {_wanted(self.public)}"


def _wanted(public: PublicKey) -> str:
    """Say what an algorithm means to somebody who must ask another tool for it."""
    size = public.alg[2:]
    if public.alg.startswith("ES"):
        return f"{public.alg} is ECDSA with SHA-{size}, as DER or r||s, in binary or base64"
    if public.alg.startswith("PS"):
        salt = f"MGF1 with SHA-{size} and {int(size) // 8} bytes of salt"
        return f"{public.alg} is RSASSA-PSS with SHA-{size}, {salt}, in binary or base64"
    return f"{public.alg} is RSASSA-PKCS1-v1_5 with SHA-{size}, in binary or base64"


def _digest(data: bytes, alg: str) -> bytes:
    hasher = hashes.Hash(_HASHES[alg[2:]])
    hasher.update(data)
    return hasher.finalize()


def _read(output: bytes, public: PublicKey) -> Iterator[bytes]:
    """Give each way to read what was printed: in binary or base64 of either alphabet, in DER or not."""
    texts = [output]
    packed = b"".join(output.split()).translate(bytes.maketrans(b"-_", b"+/"))
    with contextlib.suppress(binascii.Error):
        texts.append(base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True))
    for text in texts:
        yield text
        if isinstance(public.key, ec.EllipticCurvePublicKey):
            size = (public.key.curve.key_size + 7) // 8
            with contextlib.suppress(ValueError, OverflowError):
                r, s = decode_dss_signature(text)
                yield r.to_bytes(size) + s.to_bytes(size)


def _holds(signature: bytes, data: bytes, public: PublicKey) -> bool:
    """Whether this is the JWS signature of `data` by `public`, with its own algorithm and no other."""
    algorithm = _HASHES[public.alg[2:]]
    try:
        if isinstance(public.key, ec.EllipticCurvePublicKey):
            half = (public.key.curve.key_size + 7) // 8
            if len(signature) != 2 * half:
                return False
            r, s = int.from_bytes(signature[:half]), int.from_bytes(signature[half:])
            public.key.verify(encode_dss_signature(r, s), data, ec.ECDSA(algorithm))
        elif public.alg.startswith("PS"):
            scheme = padding.PSS(padding.MGF1(algorithm), padding.PSS.DIGEST_LENGTH)
            public.key.verify(signature, data, scheme, algorithm)
        else:
            public.key.verify(signature, data, padding.PKCS1v15(), algorithm)
    except InvalidSignature:
        return False
    return True
