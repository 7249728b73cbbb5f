"""What a kubelet is told, by a real gRPC health client, and that the port tells nothing else."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from exequatur.daemon import UNREACHABLE, Ready, StartError
from exequatur.probes import health
from exequatur.sockets import hold_port
from exequatur.transport import Peer, Server
from exequatur.web import pages
from pki import Authority

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def ask(port: int, service: str, host: str = "127.0.0.1") -> int:
    async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return (await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)).status


async def follow(port: int) -> tuple[int, int, int]:
    return await ask(port, "live"), await ask(port, "ready"), await ask(port, "")


async def test_ready_follows_the_latch_and_live_does_not():
    ready = Ready("log", "listener")
    async with health("127.0.0.1:0", ready) as port:
        assert await follow(port) == (SERVING, NOT_SERVING, NOT_SERVING)
        ready.release("log")
        assert await follow(port) == (SERVING, NOT_SERVING, NOT_SERVING)
        ready.release("listener")
        assert await follow(port) == (SERVING, SERVING, SERVING)
        ready.drain()
        assert await follow(port) == (SERVING, NOT_SERVING, NOT_SERVING)


async def test_probes_metrics_and_calls_are_served_over_both_families_where_one_address_is_both():
    ready = Ready()

    async def call(message: bytes, peer: Peer, seconds: float | None) -> bytes:
        return b"ok"

    server, (held, address) = Server({"/test/Call": call}, (), reuse_port=True), hold_port("[::]:0")
    with tempfile.TemporaryDirectory(prefix="ex-") as folder:
        own = server.listen_tcp(address, Authority(Path(folder)).issue("server", "spiffe://test/pdp"))
    await server.start()
    with held:
        async with health("[::]:0", ready) as port, pages("[::]:0", ready, CollectorRegistry) as page:
            for host, family in (("127.0.0.1", socket.AF_INET), ("[::1]", socket.AF_INET6)):
                assert await ask(port, "live", host) == SERVING
                for each in (page, own):
                    reader, writer = await asyncio.open_connection(host.strip("[]"), each, family=family)
                    if each == page:
                        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                        assert (await reader.read()).startswith(b"HTTP/1.1 200")
                    writer.close()
                    await writer.wait_closed()
    await server.stop(0)


@pytest.mark.parametrize("host", ["[::1]", "127.0.0.1"])
async def test_one_familys_loopback_is_nobody_elses(host):
    other = {"[::1]": "127.0.0.1", "127.0.0.1": "::1"}[host]
    async with health(f"{host}:0", Ready()) as port:
        assert await ask(port, "live", host) == SERVING
        with pytest.raises(OSError, match=r"Connect call failed"):
            await asyncio.open_connection(other, port)


async def test_who_watches_is_told_of_each_turn_and_does_not_hold_up_the_end():
    ready = Ready("log")
    async with health("127.0.0.1:0", ready) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="ready"))
        assert (await watched.read()).status == NOT_SERVING
        ready.release("log")
        assert (await watched.read()).status == SERVING
        ready.drain()
        async with asyncio.timeout(30):
            assert (await watched.read()).status == NOT_SERVING


async def test_nothing_but_health_is_there():
    async with health("127.0.0.1:0", Ready()) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await ask(port, "exequatur.v1.DecisionService")
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await ask(port, "x" * 2000)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        listing = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            _ = [
                answer
                async for answer in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                    iter([listing])
                )
            ]
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_taken_port_stops_the_start_and_none_serves_nothing():
    async with health(None, Ready()) as port:
        assert port == 0
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(StartError, match="address already in use") as error:
            async with health(f"127.0.0.1:{other.getsockname()[1]}", Ready()):
                pass
    assert error.value.code == UNREACHABLE


async def test_nobody_of_our_user_can_listen_beside_us_and_answer_for_us():
    async with health("127.0.0.1:0", Ready()) as port:
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            with pytest.raises(OSError, match="in use"):
                thief.bind(("127.0.0.1", port))
