"""Bundles from a web server, asked for as OPA asks for them.

Rules: a server that knows an ETag is not asked for the same bundle twice; one that answers with OPA's media type for
bundles understood that it may hold its answer until there is a newer bundle (`Prefer: modes=snapshot;wait=N`), any
other is polled; what is said to be a page, or JSON, is no bundle.
Source: OPA, "Bundles", bundle service API and HTTP long polling.
"""

from __future__ import annotations

import re
from typing import Final

import httpx2

from exequatur.trust.canonical import quoted
from pdp.bundle.remote import Answer
from pdp.bundle.source import SourceError
from pdp.bundle.web import WEB_LIMITS, Access, WebLimits, bearer, visit

BUNDLES: Final = "application/vnd.openpolicyagent.bundles"
"""What OPA's bundle servers send that can hold an answer."""

MEDIA_TYPES: Final = (
    "",
    "application/gzip",
    "application/x-gzip",
    "application/octet-stream",
    "binary/octet-stream",  # S3, where nobody said what it is
    "application/x-tar",
    BUNDLES,
)
_VENDOR: Final = re.compile(r"application/vnd\.[a-z0-9.-]+\+gzip")
_ETAG: Final = re.compile(r'(?:W/)?"[\x21\x23-\x7e]{0,256}"')
_OK: Final = 200
_UNCHANGED: Final = 304


class HttpsAsker:
    """Asks a web server for one address."""

    exact = False

    def __init__(self, url: str, access: Access, limits: WebLimits = WEB_LIMITS) -> None:
        """Ask for `url`; raises `SourceError` for what is no address."""
        self._url = parse_url(url)
        self._access, self._limits = access, limits
        self.origin = str(self._url.copy_with(query=None))

    async def ask(self, tag: str, *, wait_s: int) -> Answer:
        """Ask for the bundle, unless it is the one that `tag` names."""
        wait = f";wait={wait_s}" if wait_s else ""
        headers = {"Accept": f"{BUNDLES}, application/gzip;q=0.9, */*;q=0.5", "Prefer": f"modes=snapshot{wait}"}
        if tag:
            headers["If-None-Match"] = tag
        async with visit(self._access, self._limits, wait_s=wait_s) as server:
            headers |= bearer(self._access.read_token())
            async with server.ask("GET", self._url, headers) as reply:
                etag = read_etag(reply.headers)
                holds = reply.media_type == BUNDLES
                if reply.status == _UNCHANGED:
                    if not tag:
                        raise SourceError("it answers with 304, and nothing was asked that this could mean")
                    if etag and etag.removeprefix("W/") != tag.removeprefix("W/"):
                        raise SourceError("it answers with 304 for another ETag than the one that was asked about")
                    return Answer(None, tag, holds or None)
                if reply.status != _OK:
                    raise reply.refused()
                check_media_type(reply.media_type)
                return Answer(await reply.read(self._limits.body_bytes), etag, holds)


def parse_url(text: str) -> httpx2.URL:
    """Read an address; raises `SourceError`."""
    try:
        return httpx2.URL(text)
    except (httpx2.InvalidURL, UnicodeError):
        raise SourceError("it is no address: give https://HOST[:PORT]/PATH") from None


def read_etag(headers: httpx2.Headers) -> str:
    """Give an ETag that can be sent back; empty where there is none (RFC 9110, 8.8.3)."""
    etag = headers.get("etag", "")
    return etag if _ETAG.fullmatch(etag) else ""


def check_media_type(media_type: str) -> None:
    """Refuse what says itself that it is no bundle. Raises `SourceError`."""
    if media_type not in MEDIA_TYPES and not _VENDOR.fullmatch(media_type):
        raise SourceError(f"it answers with {quoted(media_type)}, which is no bundle: look at the address")
