"""The HTTP port of a daemon: is it alive, is it ready, what has it counted; and HTTP for those who serve more.

Rules: what is asked here changes nothing; the process's signals stay the daemon's.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator

import uvicorn
from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from exequatur.daemon import UNREACHABLE, Ready, StartError
from exequatur.sockets import unbound


@contextlib.asynccontextmanager
async def pages(address: str, ready: Ready, registry: Callable[[], CollectorRegistry]) -> AsyncIterator[int]:
    """Serve `/healthz`, `/readyz` and `/metrics` on `HOST:PORT` while the context lasts; yields the port."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        held = ready.held
        return JSONResponse({"ready": not held, "missing": list(held)}, status_code=503 if held else 200)

    async def metrics(_: Request) -> Response:
        # On a thread: a disk that hangs when it is asked for its room must not make us look dead.
        text = await asyncio.to_thread(lambda: generate_latest(registry()))
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    disable_created_metrics()  # type: ignore[no-untyped-call]  # counts over several processes have none either

    app = Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)])
    async with serving(app, address) as port:
        yield port


@contextlib.asynccontextmanager
async def serving(
    app: Starlette, address: str, *, tls: ssl.SSLContext | None = None, drain_s: float | None = None
) -> AsyncIterator[int]:
    """Serve `app` on `HOST:PORT` while the context lasts; yields the port.

    At the end nothing more is taken, and what was taken is answered within `drain_s` seconds.
    """
    host, _, port = address.rpartition(":")
    config = uvicorn.Config(
        app,
        host=host.strip("[]"),
        port=int(port),
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
        timeout_graceful_shutdown=None if drain_s is None else math.ceil(drain_s),
    )
    sock = _bound(config, address)
    server = _Quiet(config)
    running = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        await running


class _Quiet(uvicorn.Server):
    """A uvicorn server that leaves the process's signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture nothing."""
        yield


def _bound(config: uvicorn.Config, address: str) -> socket.socket:
    sock = unbound(config.host)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((config.host, config.port))
        sock.listen(config.backlog)  # who comes before the server runs is not turned away
    except OSError as error:
        sock.close()
        raise StartError(
            f"cannot listen on `{address}`: {(error.strerror or str(error)).lower()}", UNREACHABLE
        ) from None
    return sock
