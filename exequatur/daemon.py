"""How a daemon lives: logs in lines, starts, says when it is ready and what is missing, drains, stops.

Rules: one stop event, set by SIGTERM or SIGINT; ready is a latch with named parts; live is another question; a log
line is one JSON object on standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

import uvicorn
import uvloop
from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from exequatur.settings import Settings, SettingsError, describe
from exequatur.transport import unbound

S = TypeVar("S", bound=Settings)

OK, CONFIG, UNREACHABLE = 0, 64, 69
"""Exit codes of a daemon: done; the configuration is wrong; a port or a service cannot be had."""


class StartError(Exception):
    """Why a daemon cannot start: one sentence for whoever starts it, and the exit code."""

    def __init__(self, text: str, code: int = CONFIG) -> None:
        """Keep the sentence and the exit code."""
        super().__init__(text)
        self.code = code


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message and what the call passed as `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """Render `record`; a traceback goes into one member so that a line stays a line."""
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logging(level: str) -> None:
    """Send every logger to standard error in JSON lines. Only a program calls this, never a library."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class Ready:
    """A latch with named parts: ready when each was released, and never again once draining has begun."""

    def __init__(self, *parts: str) -> None:
        """Hold `parts`, in the order in which people should read them."""
        self._held = dict.fromkeys(parts)
        self._draining = False
        self._watching: list[Callable[[], object]] = []

    def release(self, part: str) -> None:
        """Let go of `part`; letting go twice is no error, of an unknown part is a bug."""
        self._held.pop(part, None)
        self._tell()

    def drain(self) -> None:
        """Stop being ready, for good."""
        self._draining = True
        self._tell()

    @contextlib.contextmanager
    def watched(self, tell: Callable[[], object]) -> Iterator[None]:
        """Call `tell` whenever something may have changed, while the context lasts."""
        self._watching.append(tell)
        try:
            yield
        finally:
            self._watching.remove(tell)

    def _tell(self) -> None:
        for tell in self._watching:
            tell()

    @property
    def held(self) -> tuple[str, ...]:
        """What is still missing."""
        return (*self._held, *(("draining",) if self._draining else ()))


def serve(settings: type[S], argv: Sequence[str], main: Callable[[S, asyncio.Event], Awaitable[None]]) -> int:
    """Load `settings` from flags, environment and file, and run `main` with them; returns the exit code."""
    found = _load(settings, argv)
    if found is None:
        return CONFIG
    configure_logging(found.log_level)
    return run(lambda stop: main(found, stop))


def config(settings: type[Settings], argv: Sequence[str]) -> int:
    """Print the settings that would be in force; returns the exit code."""
    found = _load(settings, argv, verb="config")
    if found is None:
        return CONFIG
    sys.stdout.write(describe(found))
    return OK


def _load(settings: type[S], argv: Sequence[str], *, verb: str = "") -> S | None:
    try:
        return settings.load(argv, os.environ, verb=verb)
    except SettingsError as error:
        for fault in error.faults:
            print(f"error: {fault}", file=sys.stderr)  # noqa: T201
        return None


def run(main: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    """Run `main(stop)` to its end on uvloop; SIGTERM and SIGINT set `stop`. Returns the exit code."""

    async def body() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await main(stop)

    try:
        uvloop.run(body())
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.code
    return OK


@contextlib.asynccontextmanager
async def http(address: str, ready: Ready, registry: Callable[[], CollectorRegistry]) -> AsyncIterator[int]:
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
