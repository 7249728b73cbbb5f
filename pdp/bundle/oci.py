"""Bundles from an OCI registry: one layer of one manifest, as OPA and `oras` put them there.

Rules:
- A tag is asked for anew each time; a digest pins one manifest for good. No tag is implied.
- The manifest's digest is that of its bytes, and must be the one that was pinned, and the one that the registry says;
  the layer's size and digest are held while it comes, so that a tag that moves in between mixes nothing.
- A manifest that is an index, or has another number of layers than one, is refused: which to take is nobody's guess.
- A token's file holds a token, or `NAME:PASSWORD`, which the registry hears, or the token server that it names.
Source: OCI Distribution 1.1 and Image 1.1 specifications; CNCF Distribution, "Token authentication"; OPA, "OCI".
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from urllib.request import parse_http_list, parse_keqv_list

import httpx2

from exequatur.trust.canonical import Json, JsonError, JsonLimits, parse, quoted
from pdp.bundle.remote import Answer
from pdp.bundle.source import SourceError
from pdp.bundle.web import WEB_LIMITS, Access, Reply, Visit, WebLimits, bearer, is_loopback, origin_of, visit

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
"""The only layer that OPA takes; ours have it."""

LAYER_TYPES: Final = (
    LAYER_TYPE,
    "application/vnd.oci.image.layer.v1.tar",  # what `oras push` says of a file
    "application/vnd.openpolicyagent.bundles",
    "application/gzip",
)
MANIFEST_LIMITS: Final = JsonLimits(bytes=256 * 1024, depth=16, keys=2000)
_TOKEN_LIMITS: Final = JsonLimits(bytes=64 * 1024, depth=8, keys=100)
_REFERENCE: Final = re.compile(
    r"oci://(?P<host>[^/@?#]+)/"
    r"(?P<repository>[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127})|@(?P<digest>sha256:[0-9a-f]{64}))"
)
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_OK: Final = 200
_CREATED: Final = 201
_ACCEPTED: Final = 202
_WANTS_TOKEN: Final = 401
_GONE: Final = 404
_LAYER_GONE: Final = "the layer that the manifest names is not there any more: was its tag moved meanwhile"


@dataclass(frozen=True, slots=True)
class Reference:
    """A manifest in a registry, by its tag or its digest."""

    host: str
    repository: str
    tag: str
    digest: str

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read `oci://HOST[:PORT]/REPOSITORY:TAG` or `...@sha256:DIGEST`; raises `SourceError`."""
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise SourceError("it must be oci://HOST[:PORT]/REPOSITORY:TAG, or end with @sha256: and 64 hex digits")
        return cls(match["host"], match["repository"], match["tag"] or "", match["digest"] or "")

    def __str__(self) -> str:
        """Give the address."""
        return f"oci://{self.host}/{self.repository}{f':{self.tag}' if self.tag else f'@{self.digest}'}"

    def pinned(self, digest: str) -> str:
        """Give the address of one manifest for good."""
        return f"oci://{self.host}/{self.repository}@{digest}"


@dataclass(frozen=True, slots=True)
class Layer:
    """A blob as its manifest describes it."""

    digest: str
    size: int


class OciAsker:
    """Asks a registry for one tag or digest."""

    exact = True

    def __init__(self, address: str, access: Access, limits: WebLimits = WEB_LIMITS) -> None:
        """Ask for `address`; raises `SourceError` for what is none."""
        self._reference, self._access, self._limits = Reference.parse(address), access, limits
        self.origin = str(self._reference)

    async def ask(self, tag: str, *, wait_s: int) -> Answer:  # noqa: ARG002 - a registry never waits
        """Ask for the manifest, and for its layer unless `tag` is the manifest's digest."""
        async with visit(self._access, self._limits) as server:
            registry = Registry(server, self._reference, self._access)
            if tag and await registry.says() == tag:
                return Answer(None, tag, holds=False)
            manifest = await registry.manifest()
            digest = digest_of(manifest)
            if digest == tag:
                return Answer(None, tag, holds=False)
            layer = layer_of(manifest, self._limits.body_bytes)
            return Answer(await registry.blob(layer), digest, holds=False)


class Registry:
    """One visit to a registry, for one repository."""

    def __init__(self, server: Visit, reference: Reference, access: Access) -> None:
        """Ask `server`; tokens are got when it wants one."""
        plain = access.unsafe_plaintext and access.roots is None and is_loopback(_host(reference.host))
        self._base = httpx2.URL(f"{'http' if plain else 'https'}://{reference.host}/v2/{reference.repository}/")
        self._server, self._reference, self._access = server, reference, access
        self._place = f"manifests/{reference.digest or reference.tag}"
        self._authorization: dict[str, str] | None = None

    async def says(self) -> str:
        """Ask which digest the manifest has: registries count who reads it; empty where that is not said."""
        async with self.ask("HEAD", self._place, {"Accept": MANIFEST_TYPE}) as reply:
            if reply.status != _OK:
                raise reply.refused()
            return str(reply.headers.get("docker-content-digest", ""))

    async def manifest(self) -> bytes:
        """Read the manifest; its digest is the one that was asked for. Raises `SourceError`."""
        async with self.ask("GET", self._place, {"Accept": MANIFEST_TYPE}) as reply:
            if reply.status != _OK:
                raise reply.refused()
            if reply.media_type != MANIFEST_TYPE:
                raise SourceError(f"what it has is {quoted(reply.media_type)}, and no manifest of one bundle")
            data = await reply.read(MANIFEST_LIMITS.bytes)
        digest, said = digest_of(data), reply.headers.get("docker-content-digest", "")
        if self._reference.digest not in ("", digest):
            raise SourceError(f"the manifest is not the one that is pinned: its digest is {digest}")
        if said.startswith("sha256:") and said != digest:
            raise SourceError(f"the manifest is not what the registry says it is: its digest is {digest}")
        return data

    async def blob(self, layer: Layer) -> bytes:
        """Read a layer, which may come from elsewhere, as it is held against its digest. Raises `SourceError`."""
        async with self.ask("GET", f"blobs/{layer.digest}", elsewhere=True) as reply:
            if reply.status != _OK:
                raise reply.refused() if reply.status != _GONE else SourceError(_LAYER_GONE, status=_GONE)
            hasher, chunks = hashlib.sha256(), []
            async for chunk in reply.chunks(layer.size):
                hasher.update(chunk)
                chunks.append(chunk)
        if sum(map(len, chunks)) != layer.size or f"sha256:{hasher.hexdigest()}" != layer.digest:
            raise SourceError("the layer is not what the manifest says: its size or its digest differs")
        return b"".join(chunks)

    async def upload(self, data: bytes) -> None:
        """Put a blob there, unless it is. Raises `SourceError`."""
        digest = digest_of(data)
        async with self.ask("HEAD", f"blobs/{digest}") as reply:
            if reply.status == _OK:
                return
        async with self.ask("POST", "blobs/uploads/") as reply:
            if reply.status != _ACCEPTED:
                raise reply.refused()
            place = self._base.join(reply.headers.get("location", "")).copy_merge_params({"digest": digest})
        if origin_of(place) != origin_of(self._base):
            raise SourceError(f"it would have us upload to {quoted(place.host)}, which nobody named")
        async with self.ask("PUT", str(place), {"Content-Type": "application/octet-stream"}, content=data) as reply:
            if reply.status != _CREATED:
                raise reply.refused()

    async def tag(self, manifest: bytes, media_type: str) -> None:
        """Let the tag name a manifest whose blobs are there. Raises `SourceError`."""
        headers = {"Content-Type": media_type}
        async with self.ask("PUT", self._place, headers, content=manifest) as reply:
            if reply.status != _CREATED:
                raise reply.refused()

    @asynccontextmanager
    async def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        content: bytes | None = None,
        elsewhere: bool = False,
    ) -> AsyncIterator[Reply]:
        """Ask about the repository; once more, with a token, if the registry wants one. Raises `SourceError`."""
        url = self._base.join(path)
        if self._authorization is None:
            self._authorization = self._known()
        given = {**(headers or {}), **self._authorization}
        async with self._server.ask(method, url, given, content=content, elsewhere=elsewhere) as reply:
            if reply.status != _WANTS_TOKEN:
                yield reply
                return
            challenges = reply.headers.get_list("www-authenticate")
            refused = reply.refused()
            if reply.elsewhere:  # who nobody named is given no password, nor says who is
                raise refused
        got = await self._answer(challenges)
        if got is None:
            raise refused
        self._authorization = got
        async with self._server.ask(method, url, {**given, **got}, content=content, elsewhere=elsewhere) as reply:
            yield reply

    def _known(self) -> dict[str, str]:
        """Give what is sent before anybody asks: a token that is one already."""
        token = self._access.read_token()
        return {} if ":" in token else bearer(token)

    async def _answer(self, challenges: list[str]) -> dict[str, str] | None:
        """Answer a challenge (RFC 9110, 11.6.1); None where there is no way to."""
        token = self._access.read_token()
        basic = {"Authorization": f"Basic {b64encode(token.encode()).decode()}"} if ":" in token else {}
        for challenge in challenges:
            scheme, _, rest = challenge.partition(" ")
            try:
                said = parse_keqv_list(parse_http_list(rest))
            except ValueError:
                continue
            if scheme.lower() == "basic" and basic:
                return basic
            if scheme.lower() == "bearer" and "realm" in said and (basic or not token):
                return bearer(await self._fetch_token(said, basic))
        return None

    async def _fetch_token(self, said: Mapping[str, str], basic: Mapping[str, str]) -> str:
        """Ask the token server that the registry names; without a password of ours, as anybody may."""
        wanted = {name: said[name] for name in ("service", "scope") if name in said}
        try:
            url = httpx2.URL(said["realm"]).copy_merge_params(wanted)
            async with self._server.stranger() as server, server.ask("GET", url, basic) as reply:
                if reply.status != _OK:
                    raise SourceError(f"its token server answers with {reply.status}", status=reply.status)
                value = parse(await reply.read(_TOKEN_LIMITS.bytes), _TOKEN_LIMITS)
        except (JsonError, httpx2.InvalidURL):
            raise SourceError("its token server gives no token") from None
        token = (value.get("token") or value.get("access_token")) if isinstance(value, dict) else None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise SourceError("its token server gives no token")
        return token


def digest_of(data: bytes) -> str:
    """Give a digest as registries write it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def layer_of(manifest: bytes, limit: int) -> Layer:
    """Find the one layer, of at most `limit` bytes, in a manifest (Image specification). Raises `SourceError`."""
    try:
        value = parse(manifest, MANIFEST_LIMITS)
    except JsonError as error:
        raise SourceError(f"the manifest cannot be read: {error}") from None
    layers = value.get("layers") if isinstance(value, dict) else None
    if not isinstance(layers, list) or len(layers) != 1:
        count = len(layers) if isinstance(layers, list) else 0
        raise SourceError(f"the manifest has {count} layers: a bundle is one")
    return _layer(layers[0], limit)


def _layer(value: Json, limit: int) -> Layer:
    match value:
        case {"mediaType": str(media_type), "digest": str(digest), "size": int(size)} if _DIGEST.fullmatch(digest):
            if media_type not in LAYER_TYPES:
                raise SourceError(f"the layer is {quoted(media_type)}, which is no bundle")
            if not 0 < size <= limit:
                raise SourceError(f"the layer has {size} bytes: at most {limit} are taken")
            return Layer(digest, size)
    raise SourceError("the manifest does not say of which type, size and SHA-256 its layer is")


def _host(authority: str) -> str:
    return authority.rpartition(":")[0] if re.search(r":\d+$", authority) else authority
