"""Our TLS files, read again when they change: a certificate is renewed without a restart and without a lost call.

Rules:
- Certificate, key and roots are taken together, when they fit together and stood still from one look to the next;
  otherwise those that were good stay, and somebody is told once.
- Who we are does not change: spools and records name us by our SPIFFE ID, and peers let us in by it.
- A handshake reads no file. What stands, stands: who was let in stays until the connection ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, TypeAlias

from cryptography import x509

from exequatur.identity import TlsFiles, spiffe_ids
from exequatur.sockets import ListenError

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""How often the files are looked at, in seconds; a change is taken at the second look that sees it."""

_Stamp: TypeAlias = tuple[tuple[object, ...], ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """What the files held when they fitted together: PEM, the SPIFFE IDs that it names us by, and when it ends."""

    chain: bytes
    key: bytes = field(repr=False)
    roots: bytes
    identities: tuple[str, ...]
    begins: datetime
    ends: datetime

    @classmethod
    def read(cls, files: TlsFiles) -> Shown:
        """Read the files; raises `ListenError` for what cannot be used."""
        chain, key, roots = files.read()
        try:
            leaf = x509.load_pem_x509_certificate(chain)
        except ValueError:
            raise ListenError(f"`{files.certificate}` holds no certificate") from None
        return cls(chain, key, roots, spiffe_ids(leaf), leaf.not_valid_before_utc, leaf.not_valid_after_utc)


class Renewal:
    """Our certificate, its key and the roots, as they hold now; looked at by one thread."""

    def __init__(self, files: TlsFiles, alarmed: Callable[[str], None] = lambda _: None) -> None:
        """Read the files; raises `ListenError`. `alarmed` hears what somebody should look into."""
        self.files: Final = files
        self.heard: Final[list[Callable[[], object]]] = []
        """Called on the loop of `keep_fresh` when others hold."""
        self._alarmed, self._fault = alarmed, ""
        self._known: _Stamp = _stamp(files)
        self._moving: _Stamp | None = None
        self.now = Shown.read(files)
        """What holds: replaced as a whole, never changed."""

    def ends(self) -> datetime:
        """Say when our certificate ends."""
        return self.now.ends

    def look(self) -> bool:
        """Take what the files hold now, if it is other and can be used; says whether."""
        stamp = _stamp(self.files)
        if stamp == self._known:
            self._moving, self._fault = None, ""
            return False
        if stamp != self._moving:
            self._moving = stamp
            return False
        try:
            found = Shown.read(self.files)
            self._check(found)
        except ListenError as error:
            if _stamp(self.files) == stamp:  # it is tried again at each look: a certificate may begin later
                self._say(str(error))
            return False
        if _stamp(self.files) != stamp:
            return False
        self._known, self._moving, self._fault = stamp, None, ""
        if found == self.now:
            return False
        self.now = found
        return True

    async def keep_fresh(self) -> None:
        """Look at the files until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                changed = await asyncio.to_thread(self.look)
            except Exception:  # the next second is another try; without this, no change would be seen any more
                log.exception("the TLS files are not watched")
                continue
            if changed:
                log.warning("the TLS files have changed: our certificate ends at %s", self.now.ends.isoformat())
                for tell in self.heard:
                    tell()

    def _check(self, found: Shown) -> None:
        if found.identities != self.now.identities:
            names = ", ".join(found.identities) or "nobody"
            ours = ", ".join(self.now.identities) or "nobody"
            raise ListenError(f"`{self.files.certificate}` names `{names}`, and we are `{ours}`: restart to be another")
        if not found.begins <= datetime.now(UTC) < found.ends:
            raise ListenError(
                f"`{self.files.certificate}` holds from {found.begins.isoformat()} to {found.ends.isoformat()}, not now"
            )

    def _say(self, fault: str) -> None:
        if fault == self._fault:
            return
        self._fault = fault
        text = f"{fault}: the TLS files that were good stay"
        log.critical("alarm: %s", text)
        self._alarmed(text)


def renewal(files: TlsFiles | None, alarmed: Callable[[str], None] = lambda _: None) -> Renewal | None:
    """Watch `files`, if there are any. Raises `ListenError`."""
    return None if files is None else Renewal(files, alarmed)


@contextlib.asynccontextmanager
async def kept_fresh(watched: Renewal | None) -> AsyncIterator[None]:
    """Look at the files while the context lasts."""
    if watched is None:
        yield
        return
    looking = asyncio.create_task(watched.keep_fresh())
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


def _stamp(files: TlsFiles) -> _Stamp:
    marks: list[tuple[object, ...]] = []
    for path in (files.certificate, files.key, files.roots):
        try:
            status = os.stat(path)  # noqa: PTH116  a third of the time
        except OSError as error:
            marks.append((error.errno,))
        else:
            marks.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(marks)
