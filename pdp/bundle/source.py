"""Where bundles come from: one file, a folder in which the highest valid sequence wins, or a server (`remote.py`).

Rules: a look never raises; what is wrong with a file is said once, not each second; a file that somebody may still be
writing is looked at once more before it is called broken, or taken unsigned; older bundles may lie about, they only
lose; a sequence that two different bundles claim is nobody's. Keys come with each look: others verify everything anew.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol, TypeAlias

from exequatur.key_folder import KeyFolder
from exequatur.trust.archive import LIMITS
from exequatur.trust.bundle import Floor, check_floor, verify
from exequatur.trust.errors import EquivocationError, FormatError, NotYetValidError, RollbackError, TrustError
from exequatur.trust.keys import BundleKeys, parse_key_set
from exequatur.trust.opened import VerifiedBundle, unsafe_read_unsigned

if TYPE_CHECKING:
    from pdp.settings import Feed

ENDINGS: Final = (".tar.gz", ".tgz", ".tar")
EMPTY: Final = "holds no bundle"
_SERVED: Final = replace(LIMITS, unpacked_bytes=LIMITS.archive_bytes)
"""What is signed to be served is not compressed: it unpacks to less than it is, and a bomb is seen early."""

_Stamp: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Found:
    """A bundle whose signature holds and whose time has come. What is inside is not proved yet."""

    origin: str
    """Where it was found: a file's name, or an address."""
    data: bytes
    bundle: VerifiedBundle


@dataclass(frozen=True, slots=True)
class Look:
    """What one look gave: the bundle to serve next, if any, and what was newly found to be wrong."""

    found: Found | None
    faults: tuple[str, ...]
    confirmed_at: datetime | None = None
    """When the origin last said what its newest bundle is, and that was one to be trusted; None before it did."""
    away: tuple[str, ...] = ()
    """Those of `faults` that say nothing about a bundle: the source could not be read, or has none."""
    alarms: tuple[str, ...] = ()
    """Those of `faults` that nobody but who may sign can have made: two bundles of one sequence."""


class SourceError(Exception):
    """A server did not give what was asked for, and why, in one sentence."""

    def __init__(self, text: str, *, status: int = 0, retry_after: str = "") -> None:
        """`status` is 0 where there was no answer; `retry_after` is that header's value."""
        super().__init__(text)
        self.status, self.retry_after = status, retry_after


class Source(Protocol):
    """Where one tenant's bundles come from. `keys` None takes what nobody signed."""

    def refuse(self, digest: bytes) -> None:
        """Never give this bundle again: it could not be proved."""

    def look(self, keys: BundleKeys | None, *, now: datetime, floor: Floor | None, serving: bytes = b"") -> Look:
        """Say what to serve next; never raises. Blocks to read and verify, but asks no server: call it in a thread.

        `floor` is the newest that was ever served, `serving` the digest of what is served now. Gives a bundle only if
        it should take the place of what is served.
        """

    async def refresh(self) -> None:
        """Ask the origin now; returns when it has answered, or failed to."""

    async def run(self) -> None:
        """Keep asking the origin until cancelled; a folder needs no asking."""


@dataclass(frozen=True, slots=True)
class _File:
    """What is known of a file as it was at `stamp`: a bundle (without its files), or a fault."""

    stamp: _Stamp
    bundle: VerifiedBundle | None
    fault: str = ""
    settled: bool = False
    """Seen twice with this stamp: nobody is writing it."""
    early: bool = False
    """Its time may come."""


class FolderSource:
    """Looks for the bundle to serve in a folder, or at one file."""

    def __init__(self, path: Path, *, tenant: str = "default") -> None:
        """Look at `path`, a file or a folder; nothing is read yet."""
        self._path, self._tenant = path, tenant
        self._keys: BundleKeys | None = None
        self._files: dict[Path, _File] = {}
        self._said: set[str] = set()
        self._refused: set[bytes] = set()
        self._confirmed: datetime | None = None

    def refuse(self, digest: bytes) -> None:
        """Never give this bundle again."""
        self._refused.add(digest)

    async def refresh(self) -> None:
        """Do nothing: each look reads what is there."""

    async def run(self) -> None:
        """Do nothing, as `refresh`."""

    def look(self, keys: BundleKeys | None, *, now: datetime, floor: Floor | None, serving: bytes = b"") -> Look:
        """Look once; blocks to read files that are new."""
        faults: list[str] = []
        paths = self._paths(faults)
        away = tuple(fault for fault in faults if fault not in self._said)
        anew, self._keys = keys is not self._keys, keys
        self._files = {path: self._look_at(path, self._files.get(path), now, anew=anew) for path in paths}
        faults += [file.fault for file in self._files.values() if file.fault and (file.settled or file.early)]
        twofold: list[str] = []
        best = self._best(floor, faults, twofold, now, serving)
        found = None
        if best is not None and best[1].digest != serving:
            found = self._open(*best, now=now)
        new = tuple(fault for fault in faults if fault not in self._said)
        self._said = set(faults)
        return Look(found, new, self._confirmed, away, tuple(fault for fault in new if fault in twofold))

    def _paths(self, faults: list[str]) -> list[Path]:
        try:
            if not stat.S_ISDIR(self._path.stat().st_mode):
                return [self._path]
            paths = [path for path in self._path.iterdir() if path.name.endswith(ENDINGS) and path.name[0] != "."]
        except OSError as error:
            faults.append(f"`{self._path}`: {_cannot_read(error)}")
            return []
        if not paths:
            faults.append(f"`{self._path}` {EMPTY}: put a signed `*.tar.gz` there")
        return sorted(paths)

    def _look_at(self, path: Path, before: _File | None, now: datetime, *, anew: bool) -> _File:
        """Bring what is known of one file up to date; a file that is known and has not changed is not read."""
        try:
            status = path.stat()
        except OSError as error:
            return _File((0, 0, 0, 0), None, f"`{path.name}`: {_cannot_read(error)}", settled=True)
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns)
        same = before is not None and before.stamp == stamp
        known = before is not None and same and before.settled and not anew
        if before is not None and known and not before.early and not is_over(before.bundle, now):
            return before
        try:
            bundle = open_bundle(read_archive_file(path), self._keys, now=now, tenant=self._tenant)
        except TrustError as error:
            early = isinstance(error, NotYetValidError)
            return _File(stamp, None, f"`{path.name}`: {error}", settled=same, early=early)
        return _File(stamp, replace(bundle, files={}), settled=same or bundle.signed)

    def _best(
        self, floor: Floor | None, faults: list[str], twofold: list[str], now: datetime, serving: bytes
    ) -> tuple[Path, VerifiedBundle] | None:
        """Choose among the files that are good: the highest sequence; unsigned, the newest file."""
        good = [(path, file.bundle, file.stamp) for path, file in self._files.items() if file.bundle and file.settled]
        for path, bundle, _ in sorted(good, key=lambda item: (item[1].sequence, item[2]), reverse=True):
            if bundle.digest == serving and is_overtaken(bundle, floor):
                return None
            try:
                if bundle.signed:
                    _check_place(bundle, (other for _, other, _ in good), floor)
            except TrustError as error:
                faults.append(f"`{path.name}`: {error}")
                if isinstance(error, EquivocationError):
                    twofold.append(faults[-1])
                if isinstance(error, RollbackError):
                    return None  # what comes after is older still, and nobody needs to be told
                continue
            self._confirmed = now  # also by one that was refused: its publisher was heard
            if bundle.digest not in self._refused:
                return path, bundle
        return None

    def _open(self, path: Path, bundle: VerifiedBundle, *, now: datetime) -> Found | None:
        """Read the chosen file; None if it is another one by now, which the next look will see."""
        try:
            data = read_archive_file(path)
            again = open_bundle(data, self._keys, now=now, tenant=self._tenant)
        except TrustError:
            return None
        return Found(path.name, data, again) if again.digest == bundle.digest else None


def open_source(feed: Feed) -> Source:
    """Give the source that a feed names: a folder or a file, a web server, or a registry; nothing is asked yet.

    Raises `SourceError` for what is no address.
    """
    scheme, separator, _ = feed.bundle.partition("://")
    if not separator:
        return FolderSource(Path(feed.bundle), tenant=feed.tenant)
    from pdp.bundle import https, oci, remote, web  # noqa: PLC0415 - HTTP takes long to import, and not all need it

    access = web.Access.of(feed)
    asker = oci.OciAsker(feed.bundle, access) if scheme == "oci" else https.HttpsAsker(feed.bundle, access)
    return remote.RemoteSource(
        asker,
        tenant=feed.tenant,
        poll_s=feed.poll_s,
        long_poll_s=feed.long_poll_s,
        max_staleness_s=feed.max_staleness_s,
    )


def open_bundle(
    data: bytes, keys: BundleKeys | None, *, now: datetime, tenant: str = "default", floor: Floor | None = None
) -> VerifiedBundle:
    """Verify an archive; `keys` None takes what nobody signed, for any tenant. Raises `TrustError`."""
    if keys is None:
        return replace(unsafe_read_unsigned(data), tenant=tenant)
    return verify(data, keys, now=now, tenant=tenant, floor=floor, limits=_SERVED)


def read_archive_file(path: Path) -> bytes:
    """Read a bundle, never more of it than an archive may have; raises `FormatError`."""
    try:
        with _open_file(path) as file:
            return file.read(LIMITS.archive_bytes + 1)
    except OSError as error:
        raise FormatError(_cannot_read(error)) from None


def read_keys(folder: Path) -> BundleKeys:
    """Read a folder of public keys as whoever watches it does; raises `TrustError`."""
    return KeyFolder(folder, parse_key_set).read()


def _open_file(path: Path) -> BinaryIO:
    """Open a regular file; anything else, a pipe that nobody writes say, would be waited for without end."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no regular file")
    return file


def _check_place(bundle: VerifiedBundle, good: Iterable[VerifiedBundle], floor: Floor | None) -> None:
    check_floor(bundle, floor)
    if floor is not None and floor.sequence == bundle.sequence:
        return  # its digest was compared: it is the one that was served
    if any(other.sequence == bundle.sequence and other.digest != bundle.digest for other in good):
        raise EquivocationError(f"sequence {bundle.sequence} is there twice, with other content: sign one anew")


def is_overtaken(bundle: VerifiedBundle, floor: Floor | None) -> bool:
    """Say whether another decision point of the same store serves a newer one: then this source is behind, no more."""
    return bundle.signed and floor is not None and bundle.sequence < floor.sequence


def is_over(bundle: VerifiedBundle | None, now: datetime) -> bool:
    """Say whether a bundle that was good has expired since."""
    return bundle is not None and now >= bundle.expires_at


def _cannot_read(error: OSError) -> str:
    return f"it cannot be read: {(error.strerror or str(error)).lower()}"
