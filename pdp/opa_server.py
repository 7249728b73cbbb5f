"""OPA servers of ours: one for each bundle that is served, and a temporary one for a bundle that is tried.

Rules:
- A server has one bundle for all its life, the files that were verified, whole. So a swap of bundles is a swap of
  servers: the old policy is judged by the old server until no worker judges by it any more.
- It listens on a Unix socket, mode 0600, in a folder of mode 0700: nobody else on the machine can ask it, or change
  what it holds. It has a bound on its memory, and nothing of our environment.
- It ends when its parent does, however that ends. One that dies is started again, ever more slowly; one that does not
  answer is killed first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final, Self

from exequatur.trust.archive import write_archive
from pdp import opa_launch
from pdp.engine.answer import AnswerError
from pdp.engine.opa import answered_by, revisions_in
from pdp.engine.reading import PolicyError, sentence
from pdp.opa_address import OpaAddress

log = logging.getLogger(__name__)

MEMORY_BYTES: Final = 2 * 2**30
"""What a server may have, as much as the process that proves a bundle. An empty one takes 40 MB."""

START_S: Final = 30.0
"""How long a server may take to load its bundle, in seconds; 5 MB of policy take 5 s."""

WATCH_S: Final = 1.0
MISSES: Final = 3
"""How often a server is asked whether it is up, in seconds, and how many times it may fail to say so."""

BACKOFF_S: Final = (0.1, 5.0)
"""The first and the longest pause before a dead server is started again, in seconds."""

HEALTHY_S: Final = 10.0
"""A server that lived this long starts again without a pause, in seconds."""

PATH_BYTES: Final = 100
"""The longest path of a socket; `sockaddr_un` holds 108 bytes."""

_LOOK_S: Final = 0.01
_SAID_BYTES: Final = 4096
_PLACE: Final = re.compile(r"(?P<file>[A-Za-z0-9._@+/-]+\.rego):(?P<line>\d+): (?:rego_\w+: )?(?P<text>[^\n]+)")


class NotReadyError(Exception):
    """A server does not hold a bundle yet. The text says which, and why."""


@contextlib.contextmanager
def temporary(files: Mapping[str, bytes], opa: Path) -> Iterator[OpaAddress]:
    """Run a server over a bundle's `files` while the context lasts. Raises `PolicyError` if it does not start."""
    with tempfile.TemporaryDirectory(prefix="exequatur-opa-") as name:
        folder = Path(name)
        archive, output = folder / "bundle.tar.gz", folder / "log"
        archive.write_bytes(write_archive(files))
        address = OpaAddress(socket=_checked(folder / "opa.sock"))
        with output.open("wb") as said:
            process = subprocess.Popen(
                _command(opa, archive, folder / "opa.sock"),
                cwd=folder,
                env=_environ(folder),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        try:
            _await(process, address, output)
            yield address
        finally:
            process.kill()
            process.wait()


class OpaServer:
    """One server, over all its lives."""

    def __init__(self, opa: Path, archive: Path, socket: Path) -> None:
        """Serve `archive` on `socket`, from `start` to `stop`. Raises `NotReadyError` for a path that is too long."""
        try:
            self.address = OpaAddress(socket=_checked(socket))
        except PolicyError as error:
            raise NotReadyError(str(error)) from None
        self._command = _command(opa, archive, socket)
        self._folder, self._socket = archive.parent, socket
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start it; call this on the event loop of the main thread, with which it ends."""
        self._running = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End it."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self._socket.unlink(missing_ok=True)

    async def _run(self) -> None:
        """Keep it alive."""
        pause, longest = BACKOFF_S
        while True:
            began = time.monotonic()
            try:
                end = f"ended with {await self._live()}"
            except OSError as error:
                end = f"cannot be started ({(error.strerror or str(error)).lower()})"
            if time.monotonic() - began >= HEALTHY_S:
                pause = BACKOFF_S[0]
            log.error("the OPA server %s, starting it again in %.1f s", end, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

    async def _live(self) -> int:
        """Live one life; returns the exit code."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            cwd=self._folder,
            env=_environ(self._folder),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        watching = asyncio.create_task(self._watch(process))
        try:
            if process.stderr is not None:
                while said := await process.stderr.read(_SAID_BYTES):
                    log.warning("the OPA server says: %s", sentence(said.decode("utf-8", "replace").strip()))
            return await process.wait()
        finally:
            watching.cancel()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Kill it when it does not answer any more, or never began to."""
        from pdp.opa import is_up  # noqa: PLC0415 - a third of a second, for those who use it

        began, missed, answered = time.monotonic(), 0, False
        while True:
            await asyncio.sleep(WATCH_S if answered else WATCH_S / 10)
            if await asyncio.to_thread(is_up, self.address, timeout_s=WATCH_S):
                missed, answered = 0, True
                continue
            missed += 1
            if missed >= MISSES and (answered or time.monotonic() - began >= START_S):
                log.error("the OPA server does not answer, and is killed")
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                return


class OpaServers:
    """The servers of the bundles in force, by digest in hex. A context: none is left afterwards."""

    def __init__(self, folder: Path) -> None:
        """Keep sockets and archives in `folder`, which must be ours alone."""
        self._folder = folder
        self._servers: dict[str, OpaServer] = {}
        self._unused: set[str] = set()

    async def __aenter__(self) -> Self:
        """Begin without any, and without what a crash has left."""
        for path in (*self._folder.glob("*.opa"), *self._folder.glob("*.sock")):
            path.unlink(missing_ok=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all of them."""
        await asyncio.gather(*(self._end(digest) for digest in list(self._servers)))

    async def hold(self, digest: str, files: Mapping[str, bytes], opa: Path, rule: str, revision: str) -> Path:
        """Have a server for a bundle; gives its socket once it answers by `revision`. Raises `NotReadyError`."""
        socket = self._folder / f"{digest[:16]}.sock"
        if digest not in self._servers:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            archive = self._folder / f"{digest}.opa"
            await asyncio.to_thread(archive.write_bytes, write_archive(files))
            server = self._servers[digest] = OpaServer(opa, archive, socket)
            server.start()
        address = self._servers[digest].address
        end = time.monotonic() + START_S
        while True:
            try:
                await check(address, rule, revision)
            except NotReadyError:
                if time.monotonic() >= end:
                    await self._end(digest)
                    raise
                await asyncio.sleep(_LOOK_S)
            else:
                return socket

    async def retire(self, used: Collection[str]) -> None:
        """End those that were not among the digests `used`, now and when this was last called."""
        unused = self._servers.keys() - set(used)
        for digest in unused & self._unused:
            await self._end(digest)
        self._unused = unused

    async def _end(self, digest: str) -> None:
        await self._servers.pop(digest).stop()
        (self._folder / f"{digest}.opa").unlink(missing_ok=True)


async def check(address: OpaAddress, rule: str, revision: str, *, shared: bool = False) -> None:
    """See that the server at `address` answers by the bundle of `revision`, alone unless it is `shared`.

    Raises `NotReadyError`.
    """
    from pdp.opa import look  # noqa: PLC0415 - a third of a second, for those who use it

    try:
        body = await asyncio.to_thread(look, address, rule, timeout_s=WATCH_S)
    except AnswerError as error:
        raise NotReadyError(f"the OPA server has no answer: {error}") from None
    if not answered_by(body, revision, shared=shared):
        found = revisions_in(body)
        has = (
            f"the revision `{sentence(found[0])}`" if len(found) == 1 and found[0] else "not one bundle with a revision"
        )
        raise NotReadyError(f"the OPA server has {has}, and not yet `{revision}`")


def fault(output: str) -> PolicyError:
    """Make one sentence of what OPA says over several lines about policy that it does not take."""
    if place := _PLACE.search(output):
        return PolicyError(f"`{place['file']}:{place['line']}`: {sentence(place['text'])}")
    text = output.strip().splitlines()[0] if output.strip() else "it gave no reason"
    return PolicyError(f"`opa`: {sentence(text.removeprefix('error: '))}")


def _command(opa: Path, archive: Path, socket: Path) -> list[str]:
    python = [sys.executable, "-I", "-S", opa_launch.__file__, str(os.getpid()), str(MEMORY_BYTES)]
    return [
        *python,
        *(str(opa), "run", "--server", "--bundle", str(archive)),
        *("--addr", f"unix://{socket}", "--unix-socket-perm", "600"),
        *("--log-level", "error", "--skip-version-check"),
        # A signal to all of us is for us: what was accepted is still judged, and then we end the server.
        *("--shutdown-wait-period", "3600"),
    ]


def _environ(folder: Path) -> dict[str, str]:
    """Give nothing of ours: a policy can read the environment of its server."""
    return {"HOME": str(folder)}


def _checked(socket: Path) -> Path:
    if len(os.fsencode(socket)) > PATH_BYTES:
        raise PolicyError(f"`{socket}` is too long for the socket of an OPA server: at most {PATH_BYTES} bytes")
    return socket


def _await(process: subprocess.Popen[bytes], address: OpaAddress, output: Path) -> None:
    from pdp.opa import is_up  # noqa: PLC0415 - a third of a second, for those who use it

    end = time.monotonic() + START_S
    while not is_up(address, timeout_s=WATCH_S):
        if process.poll() is not None:
            raise fault(output.read_text("utf-8", "replace"))
        if time.monotonic() >= end:
            raise PolicyError(f"`opa` did not load this bundle within {START_S:g} s")
        time.sleep(_LOOK_S)
