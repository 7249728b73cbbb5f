"""Who we are: our TLS files, and the SPIFFE ID that they name us by."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from exequatur.sockets import ListenError

UNSAFE_PLAINTEXT: Final = "unsafe:plaintext"
"""The identity of every caller on a plain-text port: nobody in particular."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files: our certificate chain, its key, and the roots that sign our callers."""

    certificate: Path
    key: Path
    roots: Path

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Read chain, key and roots; raises `ListenError` naming the file that cannot be used."""
        contents = []
        for path in (self.certificate, self.key, self.roots):
            try:
                content = path.read_bytes()
            except OSError as error:
                raise ListenError(f"`{path}` cannot be read: {(error.strerror or '').lower()}") from None
            if b"-----BEGIN" not in content:
                raise ListenError(f"`{path}` holds no PEM")
            contents.append(content)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:  # gRPC would say no more than that it has no credentials
            context.load_cert_chain(self.certificate, self.key, password=lambda: "")
        except (OSError, ValueError):
            raise ListenError(f"`{self.certificate}` and `{self.key}` are no certificate and its key") from None
        try:
            context.load_verify_locations(self.roots)
        except (OSError, ValueError):
            raise ListenError(f"`{self.roots}` holds no certificates") from None
        return contents[0], contents[1], contents[2]


def expires_at(certificate: Path | None) -> datetime | None:
    """Say when the certificate in a PEM file ends; None without a file, or where it is none."""
    if certificate is None:
        return None
    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return None


def own_identity(files: TlsFiles | None) -> str:
    """Name ourselves as those we call will: by the SPIFFE ID in our certificate. Raises `ListenError`."""
    if files is None:
        return UNSAFE_PLAINTEXT
    try:
        ids = spiffe_ids(x509.load_pem_x509_certificate(files.read()[0]))
    except ValueError:
        ids = ()
    if len(ids) != 1:
        raise ListenError(f"`{files.certificate}` must be a PEM certificate with exactly one SPIFFE ID as URI SAN")
    return ids[0]


def spiffe_ids(certificate: x509.Certificate) -> tuple[str, ...]:
    """Give the SPIFFE IDs that a certificate names its owner by; a good one has one."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound):
        return ()
    return tuple(uri for uri in uris if uri.startswith("spiffe://"))
