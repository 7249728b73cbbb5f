"""Putting a signed bundle where decision points look for it: a folder, a web server, or a registry.

Rules:
- What is there is read first: nothing older is put over what is newer, nor another bundle of the same sequence. The
  same one is left alone.
- What is there and was never signed by the given keys does not count; without keys, what it says of itself counts.
- Whoever looks meanwhile sees the old bundle or the new one, whole. Where two push at once, the later is refused as
  far as the place can tell: a folder is locked, a web server compares ETags, a registry is read again at the end.
- The same bundle makes the same manifest, so that its digest can be pinned before it is pushed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from exequatur.trust.bundle import verify
from exequatur.trust.canonical import quoted
from exequatur.trust.errors import (
    FormatError,
    RevokedError,
    SignatureError,
    TrustError,
    UnknownKeyError,
)
from exequatur.trust.keys import BundleKeys
from exequatur.trust.opened import unsafe_read_unsigned
from pdp.bundle.contents import unverified_claims
from pdp.bundle.https import parse_url, read_etag
from pdp.bundle.oci import LAYER_TYPE, MANIFEST_TYPE, Reference, Registry, digest_of, layer_of
from pdp.bundle.source import ENDINGS, SourceError, open_bundle, read_archive_file
from pdp.bundle.web import WEB_LIMITS, Access, bearer, visit

ARTIFACT_TYPE: Final = "application/vnd.exequatur.bundle.v1"
EMPTY: Final = b"{}"
EMPTY_TYPE: Final = "application/vnd.oci.empty.v1+json"

_OK: Final = 200
_MISSING: Final = 404
_CHANGED: Final = 412
_PUT: Final = (200, 201, 204)
_STRANGERS: Final = (FormatError, RevokedError, SignatureError, UnknownKeyError)


class PushRefused(Exception):  # noqa: N818  a verdict, not an error of ours
    """A bundle that must not be put there, and why, in one sentence."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A bundle to put somewhere: its file's name, its bytes, and what they say."""

    name: str
    data: bytes
    digest: str
    sequence: int
    tenant: str


@dataclass(frozen=True, slots=True)
class Pushed:
    """Where a bundle is now. `pin` is its address for good, in a registry; `before` the sequence that was there."""

    where: str
    pin: str = ""
    before: int | None = None
    changed: bool = True


def pack(name: str, data: bytes, keys: BundleKeys | None, *, now: datetime) -> Parcel:
    """Look at a bundle before it is sent: trusted now by `keys`, or, without, at least signed. Raises `TrustError`."""
    claims = unverified_claims(data)
    sequence, tenant = claims.get("sequence"), claims.get("tenant", "default")
    if not isinstance(sequence, int) or not isinstance(tenant, str) or "expires_at" not in claims:
        raise SignatureError("it is not signed to be served: sign it with `exequatur bundle sign`")
    bundle = unsafe_read_unsigned(data) if keys is None else open_bundle(data, keys, now=now, tenant=tenant)
    return Parcel(name, data, bundle.digest.hex(), sequence, tenant)


def check_destination(destination: str, access: Access) -> None:
    """See that a place can be pushed to at all. Raises `SourceError`."""
    scheme, separator, _ = destination.partition("://")
    if scheme == "oci" and separator:
        if not Reference.parse(destination).tag:
            raise SourceError("a digest comes of what is pushed: name a tag")
    elif separator:
        access.check(parse_url(destination))
    elif not Path(destination).exists() and not destination.endswith(ENDINGS):
        hint = f", or `oci://{destination}` where it is a registry" if ":" in destination else ""
        raise SourceError(f"there is no such folder: make it first, or name a file `*.tar.gz`{hint}")


class Pusher:
    """Puts one parcel to one place."""

    def __init__(self, parcel: Parcel, access: Access, keys: BundleKeys | None, *, now: datetime) -> None:
        """Reach servers by `access`; `keys` say whose bundles count."""
        self._parcel, self._access, self._keys, self._now = parcel, access, keys, now

    async def push(self, destination: str) -> Pushed:
        """Put it there. Raises `PushRefused`, `SourceError`, and `OSError` for a folder."""
        scheme, separator, _ = destination.partition("://")
        if not separator:
            return self._to_folder(Path(destination))
        if scheme == "oci":
            return await self._to_registry(destination)
        return await self._to_server(destination)

    def _to_folder(self, path: Path) -> Pushed:
        with _alone(path if path.is_dir() else path.parent):
            return self._put(path)

    def _put(self, path: Path) -> Pushed:
        folder, target = (path, path / self._parcel.name) if path.is_dir() else (path.parent, path)
        there = [path]
        if path.is_dir():
            if not target.name.endswith(ENDINGS) or target.name.startswith("."):
                raise PushRefused(f"`{target.name}` would be left alone there: a bundle's name ends with `.tar.gz`")
            there = [file for file in sorted(path.iterdir()) if file.name.endswith(ENDINGS)]
        before = None
        for file in there:
            known = self._known(file)
            if known is None or (known.tenant != self._parcel.tenant and path.is_dir() and file != target):
                continue
            if self._is_there(known, str(file)):
                return Pushed(str(file), before=known.sequence, changed=False)
            before = max(before or 0, known.sequence)
        write_lasting(folder, target, self._parcel.data)
        return Pushed(str(target), before=before)

    async def _to_server(self, destination: str) -> Pushed:
        url = parse_url(destination)
        where = str(url.copy_with(query=None))
        async with visit(self._access) as server:
            token = bearer(self._access.read_token())
            headers = {"Content-Type": "application/gzip", **token}
            known = None
            async with server.ask("GET", url, {"Accept": "*/*", **token}) as reply:
                if reply.status == _MISSING:
                    headers["If-None-Match"] = "*"
                elif reply.status != _OK:
                    raise reply.refused()
                else:
                    known = self._read(await reply.read(WEB_LIMITS.body_bytes))
                    etag = read_etag(reply.headers)
                    headers |= {"If-Match": etag} if etag and not etag.startswith("W/") else {}
            if known is not None and self._is_there(known, where):
                return Pushed(where, before=known.sequence, changed=False)
            async with server.ask("PUT", url, headers, content=self._parcel.data) as reply:
                if reply.status == _CHANGED:
                    raise PushRefused(
                        f"`{where}`: somebody put another one there meanwhile: look at it, and push again"
                    )
                if reply.status not in _PUT:
                    raise reply.refused()
        return Pushed(where, before=known.sequence if known else None)

    async def _to_registry(self, destination: str) -> Pushed:
        reference = Reference.parse(destination)
        manifest = manifest_for(self._parcel)
        digest = digest_of(manifest)
        pin = reference.pinned(digest)
        async with visit(self._access) as server:
            registry = Registry(server, reference, self._access)
            standing = await self._standing(registry)
            known = None
            if standing is not None:
                known = self._read(await registry.blob(layer_of(standing, WEB_LIMITS.body_bytes)))
            if known is not None and self._is_there(known, destination):
                pin = reference.pinned(digest_of(standing or b""))
                return Pushed(destination, pin, before=known.sequence, changed=False)
            for blob in (EMPTY, self._parcel.data):
                await registry.upload(blob)
            if await self._standing(registry) != standing:
                raise PushRefused(f"`{destination}`: somebody moved the tag meanwhile: push again")
            await registry.tag(manifest, MANIFEST_TYPE)
        return Pushed(destination, pin, before=known.sequence if known else None)

    async def _standing(self, registry: Registry) -> bytes | None:
        """Read the manifest that a tag names; None where there is none."""
        try:
            return await registry.manifest()
        except SourceError as error:
            if error.status == _MISSING:
                return None
            raise

    def _is_there(self, known: Parcel, where: str) -> bool:
        """Say whether it is there already; raises `PushRefused` where it must not take the place of what is."""
        ours = self._parcel
        if known.digest == ours.digest:
            return True
        if known.tenant != ours.tenant:
            raise PushRefused(
                f"`{where}`: the bundle there is for tenant {quoted(known.tenant)}, this one for {quoted(ours.tenant)}"
            )
        if known.sequence > ours.sequence:
            raise PushRefused(
                f"`{where}`: sequence {known.sequence} is there, this one is {ours.sequence}: sign it anew"
            )
        if known.sequence == ours.sequence:
            raise PushRefused(f"`{where}`: another bundle of sequence {ours.sequence} is there: sign with a higher one")
        return False

    def _known(self, path: Path) -> Parcel | None:
        try:
            return self._read(read_archive_file(path))
        except TrustError:
            return None

    def _read(self, data: bytes) -> Parcel | None:
        """Read what is there; None for what does not count."""
        try:
            known = pack("", data, None, now=self._now)
            if self._keys is not None:
                verify(data, self._keys, now=self._now, tenant=known.tenant, serve=False)
        except _STRANGERS:
            return None
        except TrustError:
            return known  # it was good once, or would be with another signature
        return known


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep others from pushing into a folder meanwhile, where its file system knows locks."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # what is wrong with the folder is said by who writes there
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def manifest_for(parcel: Parcel) -> bytes:
    """Write the manifest of a bundle, as OPA and `oras` take it (Image specification 1.1, artifacts)."""
    empty = {"mediaType": EMPTY_TYPE, "digest": digest_of(EMPTY), "size": len(EMPTY)}
    layer = {
        "mediaType": LAYER_TYPE,
        "digest": digest_of(parcel.data),
        "size": len(parcel.data),
        "annotations": {"org.opencontainers.image.title": parcel.name},
    }
    value = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": empty,
        "layers": [layer],
    }
    return json.dumps(value, separators=(",", ":")).encode()


def write_lasting(folder: Path, target: Path, data: bytes) -> None:
    """Write a file whole, so that it lasts, under a name that nobody looks at before it has its own.

    Raises `OSError`, which names the file that was to be written.
    """
    try:
        _write(folder, target, data)
    except OSError as error:
        raise OSError(error.errno, f"cannot be written: {error.strerror or error}", str(target)) from None


def _write(folder: Path, target: Path, data: bytes) -> None:
    mask = os.umask(0)
    os.umask(mask)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".push-", delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o666 & ~mask)
            os.fsync(file.fileno())
            temporary.replace(target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
