"""The supervisor: keeps the port, proves bundles, keeps the workers alive, and tells them what to serve.

Rules: it alone looks for bundles, and no worker serves one that it has not proved; what is proved is kept as a copy in
the state folder, so that a worker that is started again serves the same bytes; a bundle that is refused changes
nothing. A worker that dies is started again, ever more slowly; workers end when their standard input does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from exequatur.daemon import Ready
from exequatur.trust.bundle import Floor
from exequatur.trust.keys import BundleKeys
from pdp.bundle.build import OpaError, find_opa
from pdp.bundle.loader import BundleRejected, NotProved, Proven, keep, prove
from pdp.bundle.source import Source, open_source
from pdp.control.store import Store, StoreError
from pdp.engine.opa import entrypoint_of
from pdp.engine.reading import PolicyError
from pdp.opa_server import NotReadyError, OpaServers, check
from pdp.settings import PdpSettings

log = logging.getLogger(__name__)

BACKOFF_S: Final = (0.1, 5.0)
"""The first and the longest pause before a dead worker is started again, in seconds."""

HEALTHY_S: Final = 10.0
"""A worker that lived this long starts again without a pause, in seconds."""

LOOK_S: Final = 1.0
"""How often bundles are looked for, in seconds."""

STEPS: Final = 4
"""How many graces a worker has to end: its server, its conveyor, its shipper, and one to spare."""

LINE_BYTES: Final = 2**20
"""The longest line between us and a worker."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What workers are told to serve: paths of our copies, the digest in hex, and when it was proved, RFC 3339.

    `opa` is where the bundle's OPA server is, a socket's path or the team's URL; empty for a bundle without.
    """

    bundle: str
    module: str
    digest: str
    sequence: int
    proved_at: str
    opa: str = ""


class Worker:
    """One worker process, over all its lives."""

    def __init__(
        self,
        number: int,
        start: Mapping[str, Any],
        ready: Ready,
        environ: Mapping[str, str],
        gone: Callable[[int], None],
    ) -> None:
        """Run worker `number`, told `start` first; `gone` hears each process id that has ended."""
        self.name = f"worker {number}"
        self._start = {**start, "number": number}
        self._ready, self._environ, self._gone = ready, environ, gone
        self._process: asyncio.subprocess.Process | None = None
        self._serving: Serving | None = None
        self.loaded = ""
        """The digest of what it serves in this life, in hex; empty until it says so."""
        self._stopping = False

    async def run(self) -> None:
        """Keep it alive until `stop`."""
        pause, longest = BACKOFF_S
        while not self._stopping:
            began = time.monotonic()
            code = await self._live()
            if self._stopping:
                return
            if time.monotonic() - began >= HEALTHY_S:
                pause = BACKOFF_S[0]
            log.error("%s ended with %d, starting it again in %.1f s", self.name, code, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

    def serve(self, serving: Serving) -> None:
        """Tell it what to serve, now and in each life to come."""
        self._serving = serving
        self._tell({"load": asdict(serving)})

    async def stop(self, grace_s: float) -> None:
        """Let it finish what it accepted; kill it when that takes longer than `grace_s` seconds."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), grace_s)
        except TimeoutError:
            log.error("%s did not stop within %.1f s and was killed", self.name, grace_s)  # noqa: TRY400
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def _live(self) -> int:
        """Live one life; returns the exit code."""
        self.loaded = ""
        process = self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-m", "exequatur", "pdp", "worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=dict(self._environ),
            limit=LINE_BYTES,
        )
        self._tell(self._start)
        if self._serving is not None:
            self._tell({"load": asdict(self._serving)})
        if process.stdout is not None:
            async for line in process.stdout:
                self._hear(line)
        code = await process.wait()
        self._gone(process.pid)
        return code

    def _tell(self, message: Mapping[str, Any]) -> None:
        process = self._process
        if process is not None and process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(json.dumps(message).encode() + b"\n")

    def _hear(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            log.warning("%s said what is no JSON", self.name)
            return
        match message:
            case {"listening": str(address)}:
                self._ready.release(self.name)
                log.info("%s serves on %s", self.name, address)
            case {"loaded": str(digest), "sequence": int(sequence)}:
                self.loaded = digest
                log.info("%s serves bundle %s, sequence %d", self.name, digest[:12], sequence)
            case {"refused": str(reason)}:
                log.error("%s refused a proved bundle: %s", self.name, reason)
            case _:
                log.warning("%s said what is not known", self.name)


async def watch(
    settings: PdpSettings, keys: BundleKeys | None, store: Store, crew: Sequence[Worker], ready: Ready
) -> None:
    """Look for a newer bundle each second; what is proved is told to the workers."""
    source = open_source(settings.feeds[0])
    serving, waiting, said = b"", None, ""
    async with OpaServers(settings.state / "serving") as servers:
        while True:
            try:
                proven, now = await _look(settings, keys, store, source, serving=serving, waiting=waiting)
                if proven is not None:
                    waiting = proven
                    place = await _opa(settings, proven, servers)
                    order = replace(_keep(proven, settings.state / "serving", now), opa=place)
                    if proven.bundle.signed:
                        store.raise_floor(settings.feeds[0].tenant, Floor(proven.sequence, proven.digest))
                    for worker in crew:
                        worker.serve(order)
                    ready.release("first bundle")
                    serving, waiting, said = proven.digest, None, ""
                # Those in no worker's hands but the newest's: one that starts again is told the newest.
                await servers.retire({serving.hex(), *(worker.loaded for worker in crew)})
            except (OSError, StoreError, NotReadyError) as error:
                if str(error) != said:
                    log.error("no new bundle can be served: %s", error)  # noqa: TRY400  the sentence says it all
                said = str(error)
            await asyncio.sleep(LOOK_S)


async def _opa(settings: PdpSettings, proven: Proven, servers: OpaServers) -> str:
    """See that an OPA server has the bundle, where it needs one, and say where. Raises `NotReadyError`."""
    rule = entrypoint_of(proven.bundle.files)
    if not rule:
        return ""
    if settings.opa_url is not None:
        await check(settings.opa_at(""), rule, proven.bundle.revision)
        return settings.opa_url
    program = await asyncio.to_thread(_program, settings)
    digest, files = proven.digest.hex(), proven.bundle.files
    return str(await servers.hold(digest, files, program, rule, proven.bundle.revision))


def _program(settings: PdpSettings) -> Path:
    """Find `opa`. Raises `NotReadyError`."""
    try:
        found = find_opa(os.environ if settings.opa is None else {"EXEQUATUR_OPA": str(settings.opa)})
    except OpaError as error:
        raise NotReadyError(str(error)) from None
    if found is None:
        raise NotReadyError("the engine `opa` needs the program `opa`: put it on the PATH, or name it with `opa`")
    return found


async def _look(
    settings: PdpSettings,
    keys: BundleKeys | None,
    store: Store,
    source: Source,
    *,
    serving: bytes,
    waiting: Proven | None,
) -> tuple[Proven | None, datetime]:
    """Look once, and prove what was found, unless it is `waiting`, proved already; says when it was valid."""
    now, floor = datetime.now(UTC), store.floor(settings.feeds[0].tenant)
    look = await asyncio.to_thread(source.look, keys, now=now, floor=floor, serving=serving)
    for fault in look.faults:
        log.error("a bundle is refused: %s", fault)
    if look.found is None:
        return None, now
    if waiting is not None and look.found.bundle.digest == waiting.digest:
        return waiting, now
    try:
        needed = entrypoint_of(look.found.bundle.files)
        program = await asyncio.to_thread(_program, settings) if needed else None
        proving = partial(prove, now=now, tenant=settings.feeds[0].tenant, floor=floor, opa_binary=program)
        return await asyncio.to_thread(proving, look.found.data, keys), now
    except PolicyError as error:
        source.refuse(look.found.bundle.digest)
        log.error("a bundle is refused: `%s`: %s", look.found.origin, error)  # noqa: TRY400
        return None, now
    except BundleRejected as error:
        if not isinstance(error, NotProved):
            source.refuse(look.found.bundle.digest)
        log.error("a bundle is refused: `%s`: %s", look.found.origin, error)  # noqa: TRY400
        return None, now


def _keep(proven: Proven, folder: Path, now: datetime) -> Serving:
    """Keep a copy for the workers, and remove older ones but the last, which a worker may be loading."""
    kept = keep(proven, folder)
    older = sorted(folder.glob("*.tar.gz"), key=lambda path: path.stat().st_mtime, reverse=True)[2:]
    for path in older:
        path.unlink(missing_ok=True)
        path.with_name(path.name.removesuffix(".tar.gz") + ".module").unlink(missing_ok=True)
    return Serving(
        bundle=str(kept.bundle),
        module=str(kept.module or ""),
        digest=proven.digest.hex(),
        sequence=proven.sequence,
        proved_at=now.isoformat(),
    )


async def supervise(
    crew: Sequence[Worker], watching: Coroutine[Any, Any, None], stop: asyncio.Event, ready: Ready, grace_s: float
) -> None:
    """Run the workers and `watching` until `stop` is set or `watching` fails, then let the workers finish."""
    running = [asyncio.create_task(worker.run()) for worker in crew]
    looking, stopped = asyncio.create_task(watching), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((looking, stopped), return_when=asyncio.FIRST_COMPLETED)
        if looking.done():
            looking.result()
    finally:
        ready.drain()
        await asyncio.gather(*(worker.stop(STEPS * grace_s) for worker in crew))
        for task in (*running, looking, stopped):
            task.cancel()
        await asyncio.gather(*running, looking, stopped, return_exceptions=True)


def environ_for_workers(metrics: os.PathLike[str]) -> dict[str, str]:
    """Give the environment of a worker: ours, and where its metrics go."""
    return {**os.environ, "PROMETHEUS_MULTIPROC_DIR": os.fspath(metrics)}
