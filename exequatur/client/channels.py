"""Channels to our services, and how one is replaced while it is in use.

Rules: plain text over TCP has to be asked for by name; what the environment says of proxies and retries is not heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

import grpc
import grpc.aio

_Stubs = TypeVar("_Stubs")

_OPTIONS: Final = (
    # No service config from DNS, hence no policy of retries, and no proxy from the environment. What is left of retries
    # is what gRPC calls transparent: a call that a connection's end shows to have reached no handler is sent again.
    ("grpc.enable_retries", 1),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.enable_http_proxy", 0),
    # A half-open link is found within 45 s, a restarted service within one.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # How long one attempt to connect may take: a server that has just lost its neighbour is busy with handshakes.
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of PEM files: our certificate chain, its key, and the roots that sign the service."""

    certificate: Path
    key: Path
    roots: Path

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files; raises `OSError` for one that cannot be read."""
        return grpc.ssl_channel_credentials(
            self.roots.read_bytes(), self.key.read_bytes(), self.certificate.read_bytes()
        )


class Pem(Protocol):
    """What our TLS files held, PEM."""

    @property
    def chain(self) -> bytes:
        """Our certificate chain."""

    @property
    def key(self) -> bytes:
        """Its private key."""

    @property
    def roots(self) -> bytes:
        """The roots that sign the service."""


class Renewed(Protocol):
    """Our TLS files as they hold now: who is in `heard` is told when others hold."""

    @property
    def now(self) -> Pem:
        """What a channel is opened with now."""

    @property
    def heard(self) -> list[Callable[[], object]]:
        """Whom to tell."""


def open_channel(target: str, tls: Tls | None, *, unsafe_plaintext: bool = False) -> grpc.Channel:
    """Open a blocking channel to `unix:PATH` or `HOST:PORT`; raises `ValueError` for TCP without TLS."""
    if tls is not None:
        return grpc.secure_channel(target, tls.credentials(), options=_OPTIONS)
    _refuse_plaintext(target, unsafe_plaintext)
    return grpc.insecure_channel(target, options=_OPTIONS)


def open_async_channel(target: str, tls: Tls | Renewed | None, *, unsafe_plaintext: bool = False) -> grpc.aio.Channel:
    """Open a channel for the running event loop; as `open_channel`."""
    if tls is not None:
        credentials = tls.credentials() if isinstance(tls, Tls) else _held(tls.now)
        return grpc.aio.secure_channel(target, credentials, options=_OPTIONS)
    _refuse_plaintext(target, unsafe_plaintext)
    return grpc.aio.insecure_channel(target, options=_OPTIONS)


class Way(Generic[_Stubs]):
    """A channel for the running event loop, and another one in its place when our TLS files have changed."""

    def __init__(
        self,
        target: str,
        tls: Tls | Renewed | None,
        stubs: Callable[[grpc.aio.Channel], _Stubs],
        *,
        unsafe_plaintext: bool,
        longest_s: float,
    ) -> None:
        """Reach `target`; no call may take more than `longest_s` seconds."""
        self._open: Callable[[], grpc.aio.Channel] = lambda: open_async_channel(
            target, tls, unsafe_plaintext=unsafe_plaintext
        )
        self._stubs, self._longest_s = stubs, longest_s
        self._channel = self._open()
        self.now: _Stubs = stubs(self._channel)
        """What calls go by: read it anew for each call."""
        self._coming: asyncio.Task[None] | None = None
        self._going: set[asyncio.Task[None]] = set()
        self._withdraw: Callable[[], object] = lambda: None
        if tls is not None and not isinstance(tls, Tls):
            tls.heard.append(self._renew)
            self._withdraw = lambda: tls.heard.remove(self._renew)

    async def close(self) -> None:
        """Close every channel."""
        self._withdraw()
        tasks = [*self._going, *([self._coming] if self._coming else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._channel.close()

    def _renew(self) -> None:
        if self._coming is not None:
            self._coming.cancel()
        self._coming = asyncio.create_task(self._replace())

    async def _replace(self) -> None:
        """Take another channel as soon as it is connected: until then, the one that we have is as good as we have."""
        channel = self._open()
        try:
            await channel.channel_ready()
        except asyncio.CancelledError:
            await channel.close()
            raise
        going = asyncio.create_task(self._let_go(self._channel))
        self._going.add(going)
        going.add_done_callback(self._going.discard)
        self._channel, self.now = channel, self._stubs(channel)

    async def _let_go(self, channel: grpc.aio.Channel) -> None:
        """Close a channel when each call that was made on it has ended."""
        try:
            await asyncio.sleep(self._longest_s + 1)
        finally:
            await channel.close()


def _held(now: Pem) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(now.roots, now.key, now.chain)


def _refuse_plaintext(target: str, unsafe_plaintext: bool) -> None:
    if not target.startswith("unix:") and not unsafe_plaintext:
        raise ValueError(f"`{target}` needs TLS files; plain text has to be asked for with unsafe_plaintext")
