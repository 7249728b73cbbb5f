"""Who is calling, what leaves on an error, and which ports open: against real sockets and a real client."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from exequatur import transport
from exequatur.client import open_async_channel
from exequatur.refusals import Code, Refusal
from exequatur.sockets import ListenError, hold_port
from exequatur.transport import Peer, Server
from exequatur.v1 import decision_pb2
from pki import Authority, channel_credentials

ECHO = "/test.Echo/Call"
SERVICES = (decision_pb2.DESCRIPTOR.services_by_name["DecisionService"],)


async def who(message: bytes, peer: Peer, seconds: float | None) -> bytes:
    if message == b"leak":
        raise ValueError("the secret is hunter2")
    if message == b"refuse":
        raise Refusal(Code.INVALID_ARGUMENT, "not like this")
    if message == b"deadline":
        return str(seconds).encode()
    return peer.identity.encode()


async def call(channel: grpc.aio.Channel, message: bytes = b"", **options: object) -> bytes:
    return await channel.unary_unary(ECHO)(message, **options)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


async def test_a_spiffe_id_in_the_certificate_names_the_peer(authority):
    server = Server({ECHO: who}, SERVICES)
    port = server.listen_tcp("127.0.0.1:0", authority.issue("server", "spiffe://test/pdp"))
    await server.start()
    files = authority.issue("client", "spiffe://test/sidecar")
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", channel_credentials(files)) as channel:
        assert await call(channel) == b"spiffe://test/sidecar"
    await server.stop(0)


@pytest.mark.parametrize("identities", [(), ("https://not/spiffe",)])
async def test_a_certificate_without_one_spiffe_id_is_nobody(authority, identities):
    server = Server({ECHO: who}, SERVICES)
    port = server.listen_tcp("127.0.0.1:0", authority.issue("server", "spiffe://test/pdp"))
    await server.start()
    files = authority.issue("client", *identities)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", channel_credentials(files)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(channel)
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    await server.stop(0)


async def test_a_certificate_of_another_authority_is_refused(authority, tmp_path):
    server = Server({ECHO: who}, SERVICES)
    port = server.listen_tcp("127.0.0.1:0", authority.issue("server", "spiffe://test/pdp"))
    await server.start()
    files = Authority(tmp_path / "other", "other").issue("client", "spiffe://test/sidecar")
    chain, key, _ = files.read()
    credentials = grpc.ssl_channel_credentials(authority.roots.read_bytes(), key, chain)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(channel, timeout=30)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    await server.stop(0)


def test_plain_text_beyond_loopback_opens_no_port():
    with pytest.raises(ListenError, match="loopback alone"):
        hold_and_listen("0.0.0.0:0")


def hold_and_listen(address: str) -> None:
    Server.listen_tcp(Server.__new__(Server), address, None)


async def test_unix_socket_is_its_owners_alone_and_names_the_peer():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "agent.sock"
        server = Server({ECHO: who}, SERVICES)
        server.listen_unix(path, "agent:coder")
        await server.start()
        assert path.stat().st_mode & 0o777 == 0o600
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            assert await call(channel) == b"agent:coder"
            impostor = Server({ECHO: who}, SERVICES)
            with pytest.raises(ListenError, match="taken by a running process"):
                impostor.listen_unix(path, "agent:impostor")
            await impostor.stop(0)
        await server.stop(0)


async def test_a_socket_folder_that_others_can_write_is_refused():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        server = Server({ECHO: who}, SERVICES)
        with pytest.raises(ListenError, match="writable by nobody else"):
            server.listen_unix(Path(folder) / "agent.sock", "agent:coder")
        await server.stop(0)


async def test_an_exception_leaves_as_an_incident_without_its_text():
    server = Server({ECHO: who}, SERVICES)
    port = server.listen_tcp("127.0.0.1:0", None)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(channel, b"leak")
        assert error.value.code() is grpc.StatusCode.INTERNAL
        assert "hunter2" not in str(error.value.details())
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(channel, b"refuse")
        assert (error.value.code(), error.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "not like this")
        assert await call(channel) == b"unsafe:plaintext"
        assert await call(channel, b"deadline") == b"None"
        assert 30 < float(await call(channel, b"deadline", timeout=60)) < 61
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    await server.stop(0)


def test_a_taken_port_is_one_clear_line_and_a_held_one_cannot_be_taken():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ListenError, match="address already in use"):
            hold_port(f"127.0.0.1:{other.getsockname()[1]}")
    held, address = hold_port("127.0.0.1:0")
    with held, socket.socket() as thief, pytest.raises(OSError, match="in use"):
        thief.bind(("127.0.0.1", int(address.rpartition(":")[2])))


async def test_clients_are_sent_to_another_replica_now_and_then_and_lose_no_call(monkeypatch):
    served = {"one": 0, "two": 0}

    def replica(name: str) -> Server:
        async def count(message: bytes, peer: Peer, seconds: float | None) -> bytes:
            served[name] += 1
            return b""

        return Server({ECHO: count}, SERVICES, reuse_port=True)

    young = {**dict(transport.OPTIONS), "grpc.max_connection_age_ms": 100}
    monkeypatch.setattr(transport, "OPTIONS", tuple(young.items()))
    one, two = replica("one"), replica("two")
    port = one.listen_tcp("127.0.0.1:0", None)
    await one.start()
    async with open_async_channel(f"127.0.0.1:{port}", None, unsafe_plaintext=True) as channel:
        assert await call(channel, wait_for_ready=True) == b""
        two.listen_tcp(f"127.0.0.1:{port}", None)
        await two.start()
        async with asyncio.timeout(20):
            while not served["two"]:
                assert await call(channel, timeout=30, wait_for_ready=True) == b""
    await one.stop(0)
    await two.stop(0)


class Full:
    """A handler that answers when the test says so."""

    def __init__(self) -> None:
        self.now, self.most, self.go, self.refused = 0, 0, asyncio.Event(), []
        self.changed, self.port = asyncio.Condition(), 0

    async def serve(self, message: bytes, peer: Peer, seconds: float | None) -> bytes:
        async with self.changed:
            self.now += 1
            self.most = max(self.most, self.now)
            self.changed.notify_all()
        await self.go.wait()
        self.now -= 1
        return b"answered"

    @contextlib.asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        server = Server({ECHO: self.serve}, SERVICES, refused=self.refused.append)
        self.port = server.listen_tcp("127.0.0.1:0", None)
        await server.start()
        try:
            async with self.another() as channel:
                yield channel
        finally:
            await server.stop(0)

    def another(self) -> grpc.aio.Channel:
        """Give a connection of its own to the same server."""
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", [("grpc.use_local_subchannel_pool", 1)])

    async def reached(self, number: int) -> None:
        """Wait until so many calls are under way, and all others had time to be."""
        async with asyncio.timeout(30), self.changed:
            await self.changed.wait_for(lambda: self.now >= number)
        await asyncio.sleep(0.1)


async def test_a_caller_with_calls_without_end_has_a_bounded_part_of_them_served_and_keeps_nobody_out(monkeypatch):
    monkeypatch.setattr(transport, "CALLS", 4)
    full = Full()
    async with full.channel() as channel:
        asking = [asyncio.create_task(call(channel, timeout=30)) for _ in range(40)]
        await full.reached(4)
        async with full.another() as other:
            asked = asyncio.create_task(call(other, timeout=30))
            await full.reached(5)
            full.go.set()
            assert await asked == b"answered"
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert b"answered" in found
        # Where the caller's count of what is under way and the server's differ for a moment, it is told to come again.
        assert {each.code() for each in found if each != b"answered"} <= {grpc.StatusCode.UNAVAILABLE}
    assert full.most == 5


@pytest.mark.parametrize("kind", ["watch", "silent"])
async def test_who_holds_calls_open_and_says_nothing_keeps_nobody_out(kind):
    """Thousands of them, of somebody whom no handler has seen: a bound for all would be theirs to fill."""
    full = Full()
    full.go.set()
    async with full.channel() as channel:
        if kind == "watch":
            request = health_pb2.HealthCheckRequest(service="")
            held = [health_pb2_grpc.HealthStub(channel).Watch(request) for _ in range(transport.CALLS)]
            await asyncio.gather(*(each.read() for each in held))
        else:
            held = [channel.stream_unary(ECHO)() for _ in range(transport.CALLS)]
            await asyncio.sleep(0.5)  # nothing tells that a call has come of which nothing else does
        async with full.another() as other:
            assert await asyncio.gather(*(call(other, timeout=30) for _ in range(20))) == [b"answered"] * 20
        for each in held:
            each.cancel()


async def test_messages_that_there_is_no_room_for_are_refused_and_counted(monkeypatch):
    monkeypatch.setattr(transport, "BYTES", 1000)
    full = Full()
    async with full.channel() as channel:
        asking = [asyncio.create_task(call(channel, b"x" * 600, timeout=30)) for _ in range(2)]
        with pytest.raises(grpc.aio.AioRpcError, match="too much is being asked at once") as error:
            await next(asyncio.as_completed(asking))
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert full.refused == [Code.RESOURCE_EXHAUSTED]
        full.go.set()
        assert b"answered" in await asyncio.gather(*asking, return_exceptions=True)
        assert await call(channel, b"x" * 600) == b"answered"
