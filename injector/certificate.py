"""Our certificate, read again when its files change, without a restart and without a refused connection.

Rules: a pair that does not fit together, as in the middle of a change, leaves the one in force; connections that there
are go on. TLS 1.3 alone.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Final, TypeAlias

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""How often the files are looked at, in seconds: a kubelet changes them hours before the old one ends."""

_Stamp: TypeAlias = tuple[tuple[int, int, int], ...]


class CertificateError(Exception):
    """Certificate and key that cannot be used: one sentence."""


class Certificate:
    """The certificate that we show, whichever that is now."""

    def __init__(self, chain: Path, key: Path) -> None:
        """Read the files; raises `CertificateError`."""
        self._chain, self._key = chain, key
        self._seen = self._stamp()
        self._newest = self._load()
        self._fault = ""
        self.context: Final = self._load()
        """What a listener takes: each handshake then goes on with the newest certificate."""
        self.context.sni_callback = self._choose

    def look(self) -> bool:
        """Take another pair if there is one that fits together; says whether."""
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return False
            self._newest, self._seen, self._fault = self._load(), stamp, ""
        except CertificateError as error:
            if self._fault != str(error):
                self._fault = str(error)
                log.error("%s: the certificate that was read before goes on", error)  # noqa: TRY400  no bug of ours
            return False
        log.info("another certificate is shown from now on")
        return True

    async def keep_fresh(self) -> None:
        """Look at the files until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            await asyncio.to_thread(self.look)

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._newest

    def _stamp(self) -> _Stamp:
        try:
            found = [path.stat() for path in (self._chain, self._key)]
        except OSError as error:
            raise CertificateError(f"`{error.filename}` cannot be read: {(error.strerror or '').lower()}") from None
        return tuple((status.st_ino, status.st_mtime_ns, status.st_size) for status in found)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._chain, self._key, password=lambda: "")
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.filename:  # not what TLS says of their content
                text = f"`{error.filename}` cannot be read: {(error.strerror or '').lower()}"
                raise CertificateError(text) from None
            raise CertificateError(f"`{self._chain}` and `{self._key}` are no certificate and its key") from None
        return context
