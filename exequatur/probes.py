"""The port for a kubelet's probes: `grpc.health.v1` in plain text, and nothing else.

Rules: `live` is SERVING while the process answers, also while it drains; `ready` and the empty name follow `Ready`.
Who reaches the port learns that and can change nothing: so it needs no certificate, and may listen on any address.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from exequatur.daemon import UNREACHABLE, Ready, StartError
from exequatur.sockets import ListenError, hold_port

LIVE: Final = "live"
READY: Final = ("ready", "")
"""The services to ask for; any other is NOT_FOUND."""

OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # or another process of our user could answer for us
    ("grpc.max_receive_message_length", 1024),
    ("grpc.max_send_message_length", 1024),
    ("grpc.max_metadata_size", 4096),
    ("grpc.max_concurrent_streams", 16),  # a connection's; a limit for all would let one caller keep a kubelet out
    ("grpc.max_connection_idle_ms", 60_000),
)


@contextlib.asynccontextmanager
async def health(address: str | None, ready: Ready) -> AsyncIterator[int]:
    """Serve health on `HOST:PORT` while the context lasts; yields the port, 0 where `address` is None."""
    if address is None:
        yield 0
        return
    import grpc.aio  # noqa: PLC0415 - gRPC takes long to import, and not every daemon serves it
    from grpc_health.v1 import health as library  # noqa: PLC0415
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

    server = grpc.aio.server(options=OPTIONS)
    servicer = library.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    changed = asyncio.Event()

    async def follow() -> None:
        while True:
            changed.clear()
            state = health_pb2.HealthCheckResponse
            for name in READY:
                await servicer.set(name, state.NOT_SERVING if ready.held else state.SERVING)
            await changed.wait()

    await servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    await servicer.set(LIVE, health_pb2.HealthCheckResponse.SERVING)
    try:
        free, address = hold_port(address)
        free.close()
        port = server.add_insecure_port(address)
    except ListenError as error:
        raise StartError(str(error), UNREACHABLE) from None
    except RuntimeError:
        raise StartError(f"cannot listen on `{address}`: taken, or not ours to use", UNREACHABLE) from None
    with ready.watched(changed.set):
        following = asyncio.create_task(follow())
        await server.start()
        try:
            yield port
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await server.stop(None)
