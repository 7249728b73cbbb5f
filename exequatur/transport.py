"""The server under every door: the only file that knows how our calls are served.

Rules: a handler is a function from (message bytes, peer, seconds left) to bytes, so that a broken message is ours
to answer and the server can be changed by measurement. The channel names the peer; no handler sees metadata. A
refusal carries a status and one sentence; any other exception is INTERNAL with an incident number, and its text
stays in our log. No TLS files, no port: plain text is for loopback alone, and has to be asked for by name.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from exequatur.identity import UNSAFE_PLAINTEXT, TlsFiles
from exequatur.refusals import Code, Refusal
from exequatur.renewal import Renewal, Shown
from exequatur.sockets import MOUNTED, ListenError, is_loopback, make_way, own_folder

log = logging.getLogger(__name__)

MESSAGE_BYTES: Final = 4 * 2**20
"""The largest message either way, in bytes: gRPC's own default, and 16 times our largest action."""

CALLS: Final = 1024
"""How many calls a connection has under way at once; what is more waits with the caller, or is UNAVAILABLE. A bound for
all connections together would let anybody who has a certificate keep all others out, by calls that say nothing.
Measured, each takes 21 KB."""

BYTES: Final = 128 * 2**20
"""How much of messages may be with handlers at once, of all callers: twice what the ledger lets wait."""

PAUSES: Final = 10
PAUSE_S: Final = 0.02
"""How long handshakes wait, once, before another certificate is shown: gRPC frees what it showed before, and a
handshake that was just begun may not have taken hold of it yet. Many short pauses, so that each of its threads has run
in between however little of the processor we get."""

OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_metadata_size", 8192),
    # A half-open link is found within 45 s; clients ping each 30 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),  # or each quiet client would be sent away after its third ping
    # A client keeps to one connection, hence to one replica: after this long, give or take a tenth, it is asked to come
    # again, and who was added gets a share. What it has asked is answered; a handshake costs us 2 ms.
    ("grpc.max_connection_age_ms", 300_000),
)


class Peer(NamedTuple):
    """Who calls, as the channel proved it: a SPIFFE ID, a socket's identity, or `unsafe:plaintext`."""

    identity: str


_STATUSES: Final = {code: grpc.StatusCode[code.name] for code in Code}

Handler = Callable[[bytes, Peer, float | None], Awaitable[bytes]]
"""From message bytes, peer and seconds left (None: no deadline) to message bytes. May raise `Refusal`."""


class Server:
    """One gRPC server over raw-bytes handlers, with health and reflection."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        services: Iterable[ServiceDescriptor],
        *,
        reuse_port: bool = False,
        refused: Callable[[Code], None] = lambda _: None,
    ) -> None:
        """Serve `handlers` (keys like `/exequatur.v1.DecisionService/Authorize`); nothing listens yet.

        `refused` hears the status of each call that gets no answer.
        """
        self._identity: str | None = None
        options = (*OPTIONS, ("grpc.max_concurrent_streams", CALLS), ("grpc.so_reuseport", int(reuse_port)))
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers((_Raw(handlers, self._peer, refused),))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._names = tuple(service.full_name for service in services)
        reflection.enable_server_reflection((*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    def listen_tcp(self, address: str, tls: TlsFiles | Renewal | None) -> int:
        """Open `HOST:PORT` with mutual TLS 1.3, or in plain text on loopback when `tls` is None. Returns the port.

        Files are read once; a `Renewal` is asked before each handshake.
        """
        if tls is None:
            if not is_loopback(address):
                raise ListenError(f"plain text is for loopback alone, and `{address}` is not: give TLS files")
            self._identity = UNSAFE_PLAINTEXT
            log.warning("unsafe: plain text on %s: every caller is `%s`", address, UNSAFE_PLAINTEXT)
            return self._open(address, lambda: self._server.add_insecure_port(address))
        if isinstance(tls, TlsFiles):
            chain, key, roots = tls.read()
            credentials = grpc.ssl_server_credentials([(key, chain)], roots, require_client_auth=True)
        else:
            credentials = _renewed(tls)
        return self._open(address, lambda: self._server.add_secure_port(address, credentials))

    def listen_unix(self, path: Path, identity: str, *, owner_uid: int | None = None, mounted: bool = False) -> None:
        """Open a Unix socket whose file is its owner's alone (0600): the kernel checks, the socket is the identity.

        A `mounted` one is for whoever sees it (0666): its folder is on a mount that one agent alone has, read-only.
        """
        own_folder(path.parent, make=mounted)
        make_way(path)
        self._identity = identity
        before = os.umask(0o177)
        try:
            self._open(str(path), lambda: self._server.add_insecure_port(f"unix:{path}"))
        finally:
            os.umask(before)
        path.chmod(MOUNTED if mounted else 0o600)
        if owner_uid is not None and owner_uid != os.getuid():
            try:
                os.chown(path, owner_uid, -1)
            except OSError as error:
                raise ListenError(f"`{path}` cannot be given to user {owner_uid}: {error.strerror}") from None

    async def start(self) -> None:
        """Begin to serve, and say so on the health service."""
        await self._server.start()
        for name in ("", *self._names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_s: float) -> None:
        """Stop being chosen, then finish what was accepted, for at most `grace_s` seconds."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)

    def _open(self, address: str, add: Callable[[], int]) -> int:
        try:
            return add()
        except RuntimeError:
            raise ListenError(f"cannot listen on `{address}`: taken, or not ours to use") from None

    def _peer(self, context: grpc.aio.ServicerContext[Any, Any]) -> Peer:
        """Name the caller by its channel: one SPIFFE ID in a TLS 1.3 certificate, or the listener's own identity."""
        if self._identity is not None:
            return Peer(self._identity)
        proved = context.auth_context()
        if proved.get("ssl_tls_version") not in ([b"TLSv1.3"], (b"TLSv1.3",)):
            raise Refusal(Code.UNAUTHENTICATED, "only TLS 1.3 is spoken here")
        identities = tuple(proved.get("peer_spiffe_id", ()))
        if len(identities) != 1:
            raise Refusal(Code.UNAUTHENTICATED, "the client certificate must carry exactly one SPIFFE ID as URI SAN")
        return Peer(identities[0].decode())


class _Raw(grpc.GenericRpcHandler):
    """Hands raw bytes to our handlers."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        peer: Callable[[grpc.aio.ServicerContext[Any, Any]], Peer],
        refused: Callable[[Code], None],
    ) -> None:
        room = _Room()
        self._calls: Final[dict[str, grpc.RpcMethodHandler[Any, Any]]] = {
            path: grpc.unary_unary_rpc_method_handler(_guard(path, room.holding(handler), peer, refused))
            for path, handler in handlers.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        return self._calls.get(handler_call_details.method)


class _Room:
    """How much of messages is with handlers."""

    def __init__(self) -> None:
        self._bytes = 0

    def holding(self, handler: Handler) -> Handler:
        """Refuse what there is no room for."""

        async def held(message: bytes, peer: Peer, left_s: float | None) -> bytes:
            if self._bytes + len(message) > BYTES:
                raise Refusal(Code.RESOURCE_EXHAUSTED, "too much is being asked at once: try again later")
            self._bytes += len(message)
            try:
                return await handler(message, peer, left_s)
            finally:
                self._bytes -= len(message)

        return held


def _guard(
    path: str,
    handler: Handler,
    peer: Callable[[grpc.aio.ServicerContext[Any, Any]], Peer],
    refused: Callable[[Code], None],
) -> Any:
    """Wrap `handler` so that what leaves is an answer, a refusal, or an incident number."""

    async def call(message: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        try:
            return await handler(message, peer(context), context.time_remaining())
        except Refusal as refusal:
            code, text = refusal.code, str(refusal)
        except asyncio.CancelledError:
            raise
        except Exception:
            incident = secrets.token_hex(4)
            log.exception("incident %s in %s", incident, path)
            code, text = Code.INTERNAL, f"an internal error, incident {incident}: see our log"
        refused(code)
        await context.abort(_STATUSES[code], text)
        raise RuntimeError("unreachable: abort raises")

    return call


def _renewed(renewal: Renewal) -> grpc.ServerCredentials:
    """Give credentials for one listener, whose handshakes go on with what holds then; callers have to prove who."""
    shown = renewal.now

    def newer() -> grpc.ServerCertificateConfiguration | None:
        # Asked before each handshake, on a thread of gRPC's, one at a time: the others wait for the answer.
        nonlocal shown
        if (now := renewal.now) is shown:
            return None
        for _ in range(PAUSES):
            time.sleep(PAUSE_S)
        shown = now
        return _configuration(now)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(shown),
        newer,  # type: ignore[arg-type]  # None is for no change, says the library's documentation
        require_client_authentication=True,
    )


def _configuration(shown: Shown) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(shown.key, shown.chain)], shown.roots)
