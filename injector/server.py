"""The injector's composition root: settings and a catalogue in, two webhooks served over TLS, an orderly end.

Rules: what cannot be read is an HTTP error, which an API server takes for a refusal; an exception is too, and its text
stays in our log. Reviews are judged beside the loop, a few at once, so that a large one holds up neither probes nor
small ones; of what waits, so many bytes are held and no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from exequatur import daemon, launch, probes, web
from injector.catalogue import Catalogue, CatalogueError, read_catalogue
from injector.certificate import Certificate, CertificateError
from injector.metrics import Metrics
from injector.review import LIMITS, Endpoint, Malformed, answer
from injector.settings import InjectorSettings

log = logging.getLogger(__name__)


_JUDGES: Final = 4  # at once: the interpreter lets one run, and a small one does not wait for the end of a large one
_HELD: Final = 10 * LIMITS.bytes  # of requests, all together; thousands of usual pods
_READ_S: Final = 10.0  # for a body: an API server itself waits half of that


class _Unread(Exception):  # noqa: N818
    """A request whose body is not read: a status, and one sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def serve(argv: Sequence[str]) -> int:
    """Run the injector until it is told to stop; returns the exit code."""
    return launch.serve(InjectorSettings, argv, _main)


def config(argv: Sequence[str]) -> int:
    """Print the settings in force; returns the exit code."""
    return launch.config(InjectorSettings, argv)


async def _main(settings: InjectorSettings, stop: asyncio.Event) -> None:
    ready = daemon.Ready("listener")
    metrics = Metrics()
    catalogue = _catalogue(settings)
    try:
        certificate = Certificate(settings.tls_certificate, settings.tls_key)
    except CertificateError as error:
        raise daemon.StartError(str(error)) from None
    metrics.shows(settings.tls_certificate)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(web.pages(settings.http, ready, lambda: metrics.registry))
        await stack.enter_async_context(probes.health(settings.health, ready))
        fresh = asyncio.create_task(certificate.keep_fresh())
        judges = stack.enter_context(ThreadPoolExecutor(_JUDGES, thread_name_prefix="judge"))
        app = application(catalogue, metrics, judges)
        async with web.serving(app, settings.listen, tls=certificate.context, drain_s=settings.drain_grace_s) as port:
            ready.release("listener")
            log.info("serving on port %d, for %d agents", port, len(catalogue.agents))
            await stop.wait()
            ready.drain()
        fresh.cancel()
        await asyncio.gather(fresh, return_exceptions=True)
    log.info("stopped")


def _catalogue(settings: InjectorSettings) -> Catalogue:
    try:
        return read_catalogue(settings.catalogue.read_bytes())
    except OSError as error:
        text = f"`{settings.catalogue}` cannot be read: {(error.strerror or '').lower()}"
        raise daemon.StartError(text) from None
    except CatalogueError as error:
        raise daemon.StartError(f"`{settings.catalogue}`: {error}") from None


class _Room:
    """What requests hold of our memory before they are answered."""

    def __init__(self, size: int) -> None:
        self._free = size

    @contextlib.contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """Give what takes so many bytes, until the end of the context; it raises `_Unread` where there are no more."""
        held = 0

        def take(size: int) -> None:
            nonlocal held
            if size > self._free:
                raise _Unread(503, "there are too many reviews at once: try again")
            self._free -= size
            held += size

        try:
            yield take
        finally:
            self._free += held


def application(catalogue: Catalogue, metrics: Metrics, judges: Executor) -> Starlette:
    """Give what answers `POST /mutate` and `POST /validate`, judged by `judges`."""
    room = _Room(_HELD)

    def failed(endpoint: Endpoint, status: int, text: str, **headers: str) -> Response:
        metrics.answered(endpoint.value, "failed")
        log.warning("/%s: %s", endpoint.value, text)
        return PlainTextResponse(f"{text}\n", status, headers)

    async def webhook(endpoint: Endpoint, request: Request) -> Response:
        try:
            with room.share() as take:
                body = await _body(request, take)
                found = await asyncio.get_running_loop().run_in_executor(judges, answer, endpoint, body, catalogue)
        except Malformed as error:
            return failed(endpoint, 400, str(error))
        except _Unread as error:  # and what is left of it will not be
            return failed(endpoint, error.status, str(error), connection="close")
        except ClientDisconnect:
            metrics.answered(endpoint.value, "failed")
            raise
        except Exception:
            incident = secrets.token_hex(4)
            metrics.answered(endpoint.value, "failed")
            log.exception("incident %s at /%s", incident, endpoint.value)
            return PlainTextResponse(f"an internal error, incident {incident}: see our log\n", 500)
        metrics.answered(endpoint.value, "allowed" if found.allowed else "refused")
        if not found.allowed:
            log.warning("refused: %s: %s", found.about, found.message)
        return Response(found.body, media_type="application/json")

    async def mutate(request: Request) -> Response:
        return await webhook(Endpoint.MUTATE, request)

    async def validate(request: Request) -> Response:
        return await webhook(Endpoint.VALIDATE, request)

    return Starlette(
        routes=[Route("/mutate", mutate, methods=["POST"]), Route("/validate", validate, methods=["POST"])]
    )


async def _body(request: Request, take: Callable[[int], None]) -> bytes:
    """Read a body of at most so many bytes, however many were announced; raises `_Unread`."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise _Unread(415, "the body must be application/json")
    parts, size = list[bytes](), 0
    try:
        async with asyncio.timeout(_READ_S):
            async for part in request.stream():
                size += len(part)
                if size > LIMITS.bytes:
                    raise _Unread(413, f"the body is over {LIMITS.bytes} bytes")
                take(len(part))
                parts.append(part)
    except TimeoutError:
        raise _Unread(408, f"the body did not come within {_READ_S:g} seconds") from None
    return b"".join(parts)
