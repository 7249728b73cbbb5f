"""The server under every door: the only file that knows how our calls are served.

Rules: a handler is a function from (message bytes, peer, seconds left) to bytes, so that a broken message is ours
to answer and the server can be changed by measurement. The channel names the peer; no handler sees metadata. A
refusal carries a status and one sentence; any other exception is INTERNAL with an incident number, and its text
stays in our log. No TLS files, no port: plain text is for loopback alone, and has to be asked for by name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import secrets
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import grpc
import grpc.aio
from cryptography import x509
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

if TYPE_CHECKING:
    from exequatur.renewal import Renewal

log = logging.getLogger(__name__)

UNSAFE_PLAINTEXT: Final = "unsafe:plaintext"
"""The identity of every caller on a plain-text port: nobody in particular."""

MESSAGE_BYTES: Final = 4 * 2**20
"""The largest message either way, in bytes: gRPC's own default, and 16 times our largest action."""

MOUNTED: Final = 0o666
"""The mode of a socket that whoever sees may use."""

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


class Code(Enum):
    """The gRPC statuses that we send."""

    INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
    DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED
    NOT_FOUND = grpc.StatusCode.NOT_FOUND
    ALREADY_EXISTS = grpc.StatusCode.ALREADY_EXISTS
    PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED
    RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
    FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
    INTERNAL = grpc.StatusCode.INTERNAL
    UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
    UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


class Refusal(Exception):  # noqa: N818
    """A call that is not served: a status for the caller's program, one sentence for its person."""

    def __init__(self, code: Code, text: str) -> None:
        """Keep the status and the sentence; the sentence is sent, so it holds no secret."""
        super().__init__(text)
        self.code = code


class Peer(NamedTuple):
    """Who calls, as the channel proved it: a SPIFFE ID, a socket's identity, or `unsafe:plaintext`."""

    identity: str


Handler = Callable[[bytes, Peer, float | None], Awaitable[bytes]]
"""From message bytes, peer and seconds left (None: no deadline) to message bytes. May raise `Refusal`."""


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


class ListenError(Exception):
    """Why a port or a socket cannot be opened: one sentence."""


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
        self._server = grpc.aio.server(options=(*OPTIONS, ("grpc.so_reuseport", int(reuse_port))))
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
            credentials = tls.server_credentials()
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
        self._calls: Final[dict[str, grpc.RpcMethodHandler[Any, Any]]] = {
            path: grpc.unary_unary_rpc_method_handler(_guard(path, handler, peer, refused))
            for path, handler in handlers.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        return self._calls.get(handler_call_details.method)


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
        await context.abort(code.value, text)
        raise RuntimeError("unreachable: abort raises")

    return call


def is_loopback(address: str) -> bool:
    """Whether `HOST:PORT` names this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hold_port(address: str) -> tuple[socket.socket, str]:
    """Make sure that `HOST:PORT` is free, and keep it for our own workers (Linux, `SO_REUSEPORT`).

    First bound without the option, so that a taken port is an error; then with it, without listening: a socket that
    does not listen is given no connection. Returns the socket to keep, and the address with its real port.
    """
    host, _, port = address.rpartition(":")
    try:
        with unbound(host) as probe:
            # Connections of our last life that linger do not count; who listens or holds the port still does.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host.strip("[]"), int(port)))
            real = probe.getsockname()[1]
        held = unbound(host)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host.strip("[]"), real))
    except (OSError, ValueError, OverflowError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise ListenError(f"cannot listen on `{address}`: {reason}") from None
    return held, f"{host}:{real}"


def unbound(host: str) -> socket.socket:
    """Make a socket for `host`, which may be in brackets; `::` is every address, those of IPv4 too."""
    if ":" not in host:
        return socket.socket(socket.AF_INET)
    made = socket.socket(socket.AF_INET6)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return made


def own_folder(folder: Path, *, make: bool) -> None:
    """See that `folder` is ours and writable by nobody else, or anybody could put another socket in its place.

    With `make` we make it, for all to pass and nobody to list: what is mounted is everybody's. Raises `ListenError`.
    """
    if make:
        folder.mkdir(mode=0o711, exist_ok=True)
        if folder.is_symlink():
            raise ListenError(f"`{folder}` must be a folder, and is a link: remove it")
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ListenError(f"`{folder}` must belong to this user and be writable by nobody else")
    if make:
        folder.chmod(0o711)  # whatever our umask is


def make_way(path: Path) -> None:
    """Take away a socket at `path` that nobody listens on. Raises `ListenError` where one does, or none can be."""
    if len(os.fsencode(path)) > 100:  # noqa: PLR2004  sockaddr_un holds 108 bytes
        raise ListenError(f"`{path}` is too long for a socket: at most 100 bytes")
    if _answers(path):
        raise ListenError(f"`{path}` is taken by a running process")
    path.unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    """Whether somebody listens on the socket at `path`."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
