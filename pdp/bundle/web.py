"""Asking a server that has bundles: over HTTPS, within bounds, with every failure as one sentence.

Rules:
- Nothing is read past its limit, whatever the headers say; a server that is silent or slow is left. Nothing is
  decompressed here.
- A redirect is followed on the same server alone. What is held against a digest may come from elsewhere, over HTTPS,
  and elsewhere hears no token and sees no certificate of ours.
- Tokens, certificates and roots are read anew when they change, so that they can be rotated. Nothing of the environment
  is used: no proxy, no `.netrc`. No sentence holds a token, a query, or a server's own words but its media types.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import logging
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import httpx2

from exequatur.trust.archive import LIMITS
from exequatur.trust.canonical import quoted
from pdp.bundle.source import SourceError

if TYPE_CHECKING:
    from pdp.settings import Feed

logging.getLogger("httpx2").setLevel(logging.WARNING)  # it would log each address, with its query

TOKEN_BYTES: Final = 64 * 1024
REDIRECTS: Final = 3
"""How many redirects one question may take."""

_PORTS: Final = 65535
_MOVED: Final = (301, 302, 303, 307, 308)
_NETWORK: Final = (httpx2.HTTPError, httpx2.InvalidURL, OSError, UnicodeError)


@dataclass(frozen=True, slots=True)
class WebLimits:
    """How long a server may take, in seconds, and how much it may send, in bytes."""

    connect_s: float = 5.0
    silence_s: float = 30.0
    whole_s: float = 300.0
    """One visit, with all its questions; 16 MB at 56 kB/s."""
    body_bytes: int = LIMITS.archive_bytes


WEB_LIMITS: Final = WebLimits()


@dataclass(frozen=True, slots=True)
class Access:
    """How a server is reached: our token's file, its roots (None: the system's), our certificate and its key, PEM."""

    token: Path | None = None
    roots: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    unsafe_plaintext: bool = False

    @classmethod
    def of(cls, feed: Feed) -> Self:
        """Give how the server of a feed is reached."""
        return cls(feed.token, feed.roots, feed.certificate, feed.key, feed.unsafe_plaintext)

    def read_token(self) -> str:
        """Read the token, empty where there is none. Raises `SourceError`."""
        if self.token is None:
            return ""
        try:
            with self.token.open("rb") as file:
                text = file.read(TOKEN_BYTES).decode("ascii").strip()
        except OSError as error:
            raise SourceError(f"our token `{self.token}` cannot be read: {_reason(error)}") from None
        except UnicodeError:
            text = ""
        if not text or not text.isprintable():
            raise SourceError(f"our token `{self.token}` is no token: it must be one line of ASCII")
        return text

    def check(self, url: httpx2.URL) -> None:
        """Refuse plain text, but on this machine, when it was asked for. Raises `SourceError`."""
        if url.scheme == "http" and not (self.unsafe_plaintext and is_loopback(url.host)):
            raise SourceError("plain text has to be asked for with `unsafe_plaintext`, and is for loopback alone")
        if url.scheme not in ("http", "https") or not url.host or (url.port or 1) > _PORTS:
            raise SourceError("it is no address of a server: give https://HOST[:PORT]/PATH")
        if url.userinfo:
            raise SourceError("an address holds no name and no password: a token has a file")

    def tls(self) -> ssl.SSLContext:
        """Read roots and certificate, if they have changed. Raises `SourceError`."""
        path = None
        try:
            stamps = []
            for path in (self.roots, self.certificate, self.key):
                status = None if path is None else path.stat()
                stamps.append(None if status is None else (status.st_mtime_ns, status.st_ino, status.st_size))
        except OSError as error:
            raise SourceError(f"`{path}` cannot be read: {_reason(error)}") from None
        return _tls(self.roots, self.certificate, self.key, tuple(stamps))


@functools.lru_cache(maxsize=32)
def _tls(roots: Path | None, certificate: Path | None, key: Path | None, stamps: tuple[object, ...]) -> ssl.SSLContext:
    """Read roots and certificate as they are at `stamps`: the system's roots alone take 20 ms. Raises `SourceError`."""
    del stamps
    path = roots
    try:
        context = ssl.create_default_context(cafile=None if path is None else str(path))
        if certificate is not None:
            path = certificate
            context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError):
        raise SourceError(f"`{path}` holds no certificate in PEM, or not its key") from None
    except OSError as error:
        raise SourceError(f"`{path}` cannot be read: {_reason(error)}") from None
    return context


def _no_password() -> str:
    """Nobody is asked for a password at a terminal."""
    return ""


class Reply:
    """A server's answer, whose body has not been read."""

    def __init__(self, response: httpx2.Response, limits: WebLimits) -> None:
        """Wrap what httpx gave."""
        self._response, self._limits = response, limits
        self.status, self.headers = response.status_code, response.headers
        self.elsewhere = False
        """Whether another server answers than the one that was named."""

    @property
    def media_type(self) -> str:
        """What the body is said to be, in lower case, without parameters; empty where nothing is said."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def read(self, limit: int) -> bytes:
        """Read the body, at most `limit` bytes of it. Raises `SourceError`."""
        return b"".join([chunk async for chunk in self.chunks(limit)])

    async def chunks(self, limit: int) -> AsyncIterator[bytes]:
        """Give the body as it comes, at most `limit` bytes of it. Raises `SourceError`."""
        coding = self.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise SourceError(f"it sends the content encoded as {quoted(coding)}, which was not asked for")
        declared = self.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            raise SourceError(f"it would send {int(declared)} bytes: at most {limit} are taken")
        count = 0
        async for chunk in self._response.aiter_raw():
            count += len(chunk)
            if count > limit:
                raise SourceError(f"it sends more than {limit} bytes: no more are taken")
            yield chunk

    def refused(self) -> SourceError:
        """Say what a status that is not what was hoped for means."""
        text = f"it answers with {self.status}"
        if phrase := _PHRASES.get(self.status):
            text += f": {phrase}"
        asked = self._response.request
        hint = _HINTS.get(self.status)
        if asked.method == "PUT" and self.status in _NO_PUT:
            hint = "it was asked to take the bundle by PUT, and it takes no PUT here"
        elif asked.url.scheme == "http" and self.status == _NOT_UNDERSTOOD:  # what most say to plain text on a TLS port
            hint = _TRY_TLS
        if hint:
            text += f": {hint}"
        return SourceError(text, status=self.status, retry_after=self.headers.get("retry-after", ""))


_PHRASES: Final = {status.value: status.phrase.lower() for status in HTTPStatus}
_HINTS: Final = {
    401: "it wants a token, or another one",
    403: "our token or certificate may not do this",
    404: "look at the address",
    405: "it does not take this here",
}
_NO_PUT: Final = (404, 405, 501)
_NOT_UNDERSTOOD: Final = 400
_GARBLED: Final = "it breaks off before the end, or what it sends is no HTTP"
_TRY_TLS: Final = "if it speaks TLS there, name it with `https://`"


class Visit:
    """Some questions to one server, one after the other."""

    def __init__(self, client: httpx2.AsyncClient, access: Access, limits: WebLimits) -> None:
        """Ask through `client`, which follows no redirects."""
        self._client, self._access, self._limits = client, access, limits

    @asynccontextmanager
    async def ask(
        self,
        method: str,
        url: httpx2.URL,
        headers: Mapping[str, str],
        *,
        content: bytes | None = None,
        elsewhere: bool = False,
    ) -> AsyncIterator[Reply]:
        """Ask one thing. `elsewhere` follows redirects of what is held against a digest. Raises `SourceError`."""
        self._access.check(url)
        home, client = url, self._client
        for _ in range(REDIRECTS + 1):
            async with _answer(client, method, url, headers, content) as response:
                reply = Reply(response, self._limits)
                if reply.status not in _MOVED or method not in ("GET", "HEAD"):
                    yield reply
                    return
                url = url.join(reply.headers.get("location", ""))
            if origin_of(url) == origin_of(home):
                continue
            if url.scheme != "https":
                raise SourceError("it redirects to an address without TLS, which is never followed")
            if not elsewhere:
                raise SourceError(f"it redirects to {quoted(url.host)}: name that server instead, if you trust it")
            async with self.stranger() as visit, visit.ask(method, url, {}, elsewhere=True) as reply:
                reply.elsewhere = True
                yield reply
                return
        raise SourceError(f"it redirects more than {REDIRECTS} times")

    @asynccontextmanager
    async def stranger(self) -> AsyncIterator[Visit]:
        """Go to another server than the one that was named: it sees no certificate of ours."""
        access = replace(self._access, token=None, certificate=None, key=None)
        async with _client(access, self._limits, 0) as client:
            yield Visit(client, access, self._limits)


@asynccontextmanager
async def visit(access: Access, limits: WebLimits = WEB_LIMITS, *, wait_s: int = 0) -> AsyncIterator[Visit]:
    """Visit a server, which may hold its first answer for `wait_s` seconds. Raises `SourceError`, and nothing else."""
    whole_s = limits.whole_s + wait_s
    try:
        async with asyncio.timeout(whole_s), _client(access, limits, wait_s) as client:
            yield Visit(client, access, limits)
    except _NETWORK as error:
        raise SourceError(_said(error, limits, whole_s)) from None


@asynccontextmanager
async def _answer(
    client: httpx2.AsyncClient, method: str, url: httpx2.URL, headers: Mapping[str, str], content: bytes | None
) -> AsyncIterator[httpx2.Response]:
    """Ask, and say of what does not even begin to answer in plain text what it may be."""
    async with AsyncExitStack() as stack:
        try:
            answer = await stack.enter_async_context(client.stream(method, url, headers=headers, content=content))
        except httpx2.RemoteProtocolError:
            if url.scheme == "https":
                raise
            raise SourceError(f"{_GARBLED}: {_TRY_TLS}") from None
        yield answer


def origin_of(url: httpx2.URL) -> tuple[str, str, int]:
    """Give what makes two addresses the same server: scheme, host and port."""
    return url.scheme, url.host, url.port or {"http": 80}.get(url.scheme, 443)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def bearer(token: str) -> dict[str, str]:
    """Give the header that carries a token, if there is one."""
    return {"Authorization": f"Bearer {token}"} if token else {}


def _client(access: Access, limits: WebLimits, wait_s: int) -> httpx2.AsyncClient:
    silence_s = limits.silence_s
    timeout = httpx2.Timeout(silence_s, connect=limits.connect_s, read=silence_s + wait_s)
    return httpx2.AsyncClient(
        verify=access.tls(),
        timeout=timeout,
        trust_env=False,
        follow_redirects=False,
        headers={"Accept-Encoding": "identity", "User-Agent": "exequatur"},
    )


def _said(error: BaseException, limits: WebLimits, whole_s: float) -> str:
    """Say in one sentence why there was no answer, or not the whole of it."""
    causes = _causes(error)
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is refused: {cause.verify_message.lower().rstrip('.')}"
    if tls := next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None):
        return f"TLS fails: {(tls.reason or 'unknown').lower().replace('_', ' ')}"
    system = next((cause for cause in reversed(causes) if isinstance(cause, OSError) and cause.strerror), None)
    said: dict[type[BaseException] | tuple[type[BaseException], ...], str] = {
        httpx2.ConnectTimeout: f"no connection within {limits.connect_s:g} s",
        httpx2.TimeoutException: f"it is silent for more than {limits.silence_s:g} s",
        httpx2.ConnectError: f"it cannot be reached: {_reason(system) if system else 'no connection'}",
        httpx2.RemoteProtocolError: _GARBLED,
        TimeoutError: f"it takes longer than {whole_s:g} s",
        (httpx2.InvalidURL, UnicodeError): "it redirects to what is no address",
    }
    return next((text for kinds, text in said.items() if isinstance(error, kinds)), "the connection breaks")


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _reason(error: OSError) -> str:
    if error.errno is None or error.errno <= 0:  # a name that does not resolve has numbers of its own
        return (error.strerror or "unknown").lower()
    return os.strerror(error.errno).lower()
