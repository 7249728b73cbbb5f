"""The workers: kept alive, told what to serve, and heard.

Rules: a worker that dies is started again, ever more slowly, and its life begins with how far each tenant's policy is
trusted, before it is told to serve any; workers end when their standard input does; a worker that does not do what it
was told in time is killed, since its next life will.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from exequatur.daemon import Ready
from pdp.activation import ACTIVE, CANDIDATE, Activation, Order, Refused, Stage, Step, Verb

log = logging.getLogger(__name__)

BACKOFF_S: Final = (0.1, 5.0)
"""The first and the longest pause before a dead worker is started again, in seconds."""

HEALTHY_S: Final = 10.0
"""A worker that lived this long starts again without a pause, in seconds."""

PREPARE_S: Final = 30.0
"""How long workers may take to prepare a bundle, in seconds."""

COMMIT_S: Final = 5.0
"""How long they may take to commit to it, which is an assignment, in seconds."""

LINE_BYTES: Final = 2**26
"""The longest line between us and a worker: a thousand keys, each as large as a key may be."""


@dataclass(frozen=True, slots=True)
class Hears:
    """Who hears what workers say that is not an answer."""

    gone: Callable[[int], None]
    """The process id of a life that has ended."""
    halted: Callable[[str, str, str], None]
    """A candidate that halted by itself: its tenant, its digest in hex, and why."""
    alarm: Callable[[str], None]
    """What somebody should look into."""
    distrusted: Callable[[str], None]
    """Why no policy may be trusted any more, whoever's."""
    refresh: Callable[[str], Awaitable[Mapping[str, Any]]]
    """A wish to look for newer bundles of a tenant now, or of all; gives the status afterwards."""


class Worker:
    """One worker process, over all its lives."""

    def __init__(self, number: int, start: Mapping[str, Any], environ: Mapping[str, str], crew: Crew) -> None:
        """Run worker `number`, told `start` first, for `crew`."""
        self.number, self.name = number, f"worker {number}"
        self._start = {**start, "number": number}
        self._environ, self._crew = environ, crew
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self.serves: dict[tuple[str, str], str] = {}
        """The digest, in hex, of what it said that it serves in this life, by tenant and role."""
        self.listens = False
        """Whether it said in this life that it takes calls."""

    @property
    def is_alive(self) -> bool:
        """Whether it can be told anything."""
        return self._process is not None and self._process.returncode is None

    async def run(self) -> None:
        """Keep it alive until `stop`."""
        pause, longest = BACKOFF_S
        while not self._stopping:
            began = time.monotonic()
            try:
                code = await self._live()
            except Exception:  # no process to spare, say: there may be one later
                log.exception("a life of %s failed", self.name)
                code = await self._end()
            if self._stopping:
                return
            if time.monotonic() - began >= HEALTHY_S:
                pause = BACKOFF_S[0]
            log.error("%s ended with %s, starting it again in %.1f s", self.name, ending(code), pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

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
            self.kill()

    def kill(self) -> None:
        """End this life now."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def tell(self, message: Mapping[str, Any]) -> None:
        """Write one line to it, if it lives."""
        process = self._process
        if process is not None and process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(json.dumps(message).encode() + b"\n")

    async def _live(self) -> int:
        """Live one life; returns the exit code."""
        self.serves, self.listens, self._process = {}, False, None
        process = self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-m", "exequatur", "pdp", "worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=dict(self._environ),
            limit=LINE_BYTES,
        )
        self.tell(self._start)
        self._crew.joined(self)
        if process.stdout is not None:
            async for line in process.stdout:
                self._crew.hear(self, line)
        return await self._end()

    async def _end(self) -> int:
        """See a life to its end, if it ever began; returns the exit code."""
        process = self._process
        if process is None:
            return -1
        if process.stdout is None or not process.stdout.at_eof():
            self.kill()  # nobody hears it any more
        code = await process.wait()
        self._crew.gone(self, process.pid)
        return code


class Crew:
    """All workers, and what each tenant has in force in them."""

    def __init__(
        self, count: int, start: Mapping[str, Any], environ: Mapping[str, str], ready: Ready, hears: Hears
    ) -> None:
        """Have `count` workers, each told `start` first; nothing runs yet."""
        self._ready, self._hears = ready, hears
        self.workers: Sequence[Worker] = [Worker(number, start, environ, self) for number in range(count)]
        self._activations: dict[tuple[str, str], Activation] = {}
        self._moved: dict[tuple[str, str], asyncio.Event] = {}
        self._committed: dict[tuple[str, str], float] = {}
        self._standings: dict[str, Mapping[str, Any]] = {}
        self._asking: set[asyncio.Task[None]] = set()

    def add(self, tenant: str, raise_floor: Callable[[Order], None]) -> None:
        """Serve a tenant too. Raises what `raise_floor` does, but for `Refused`, which is a refusal."""
        for role, raiser in ((ACTIVE, raise_floor), (CANDIDATE, lambda _: None)):
            self._activations[tenant, role] = Activation(raiser)
            self._moved[tenant, role] = asyncio.Event()

    def in_force(self, tenant: str, role: str = ACTIVE) -> Order | None:
        """Give what a tenant has in force."""
        return self._activations[tenant, role].in_force

    def serving(self, tenant: str) -> dict[str, str]:
        """Give the digest that each worker said that it serves to a tenant, in hex; empty where it serves none."""
        return {worker.name: worker.serves.get((tenant, ACTIVE), "") for worker in self.workers}

    @property
    def listening(self) -> int:
        """How many workers take calls."""
        return sum(worker.listens for worker in self.workers)

    @property
    def used(self) -> set[str]:
        """The digests of all bundles that a worker serves, or may be told to."""
        orders = [order for each in self._activations.values() for order in (each.in_force, each.pending) if order]
        return {order.digest for order in orders}.union(*(worker.serves.values() for worker in self.workers))

    async def activate(self, order: Order) -> float:
        """Bring `order` into force in all workers or in none; gives how long they took to commit, in seconds.

        Raises `Refused`.
        """
        key = order.tenant, order.role
        activation = self._activations[key]
        self._do(activation.begin(order, [worker.number for worker in self.workers if worker.is_alive]))
        await self._leave(key, Stage.PREPARING, PREPARE_S)
        if activation.fault:
            raise Refused(activation.fault)
        await self._leave(key, Stage.COMMITTING, COMMIT_S)
        return time.monotonic() - self._committed[key]

    def drop(self, tenant: str, reason: str) -> None:
        """End the trial of a candidate."""
        self._activations[tenant, CANDIDATE].drop()
        for worker in self.workers:
            worker.serves.pop((tenant, CANDIDATE), None)
        self._tell_all({"drop": {"tenant": tenant, "role": CANDIDATE, "reason": reason}})

    def stand(self, tenant: str, trusted_until: str | None, withdrawn: str) -> None:
        """Say how far a tenant's policy is trusted, now and in each life to come."""
        message = {"standing": {"tenant": tenant, "trusted_until": trusted_until, "withdrawn": withdrawn}}
        if self._standings.get(tenant) != message:
            self._standings[tenant] = message
            self._tell_all(message)

    def joined(self, worker: Worker) -> None:
        """Bring in a worker whose life has begun."""
        for message in self._standings.values():
            worker.tell(message)
        for activation in self._activations.values():
            self._do(activation.joined(worker.number))

    def gone(self, worker: Worker, pid: int) -> None:
        """Hear that a life has ended."""
        worker.serves, worker.listens = {}, False
        self._hears.gone(pid)
        for key, activation in self._activations.items():
            self._do(activation.gone(worker.number))
            self._moved[key].set()

    def hear(self, worker: Worker, line: bytes) -> None:
        """Hear one line of a worker."""
        try:
            message = json.loads(line)
        except ValueError:
            log.warning("%s said what is no JSON", worker.name)
            return
        match message:
            case {"listening": str(address)}:
                worker.listens = True
                self._ready.release(worker.name)
                log.info("%s serves on %s", worker.name, address)
            case {"tenant": str(tenant), "role": str(role)} if (tenant, role) in self._activations:
                self._answer(worker, (tenant, role), message)
            case {"halted": {"tenant": str(tenant), "digest": str(digest), "reason": str(reason)}}:
                self._hears.halted(tenant, digest, reason)
            case {"refresh": {"id": int(number), "tenant": str(tenant)}}:
                asking = asyncio.create_task(self._refresh(worker, number, tenant))
                self._asking.add(asking)
                asking.add_done_callback(self._asking.discard)
            case {"alarm": str(text)}:
                self._hears.alarm(text)
            case {"distrusted": str(reason)}:
                self._hears.distrusted(reason)
            case _:
                log.warning("%s said what is not known", worker.name)

    def _answer(self, worker: Worker, key: tuple[str, str], message: Mapping[str, Any]) -> None:
        activation = self._activations[key]
        match message:
            case {"prepared": str(digest)}:
                self._do(activation.prepared(worker.number, digest))
            case {"serving": str(digest), "sequence": int(sequence)}:
                worker.serves[key] = digest
                log.info(
                    "%s serves bundle %s, sequence %d, as %s of `%s`", worker.name, digest[:12], sequence, *key[::-1]
                )
                self._do(activation.serving(worker.number, digest))
            case {"refused": str(reason), "digest": str(digest)}:
                log.error("%s refused a proved bundle: %s", worker.name, reason)
                self._do(activation.refused(worker.number, digest, reason))
            case _:
                log.warning("%s said what is not known", worker.name)
        self._moved[key].set()

    async def _refresh(self, worker: Worker, number: int, tenant: str) -> None:
        status = await self._hears.refresh(tenant)
        worker.tell({"refreshed": {"id": number, "status": status}})

    async def _leave(self, key: tuple[str, str], stage: Stage, seconds: float) -> None:
        """Wait until an activation has left `stage`; make it after `seconds`."""
        activation, end = self._activations[key], time.monotonic() + seconds
        while activation.stage is stage:
            self._moved[key].clear()
            try:
                await asyncio.wait_for(self._moved[key].wait(), max(0.0, end - time.monotonic()))
            except TimeoutError:
                self._do(activation.late())

    def _do(self, steps: Sequence[Step]) -> None:
        """Carry out what an activation says, in its order."""
        for step in steps:
            worker, order = self.workers[step.worker], step.order
            key = order.tenant, order.role
            about = {"tenant": order.tenant, "role": order.role, "digest": order.digest}
            match step.verb:
                case Verb.PREPARE:
                    place = {"bundle": order.bundle, "module": order.module, "opa": order.opa}
                    when = {"sequence": order.sequence, "proved_at": order.proved_at}
                    keys = None if order.keys is None else dict(order.keys)
                    worker.tell({"prepare": {**about, **place, **when, "keys": keys}})
                case Verb.COMMIT:
                    self._committed[key] = time.monotonic()
                    canary = {
                        "canary_percent": order.canary_percent,
                        "canary_max_stricter_percent": order.canary_max_stricter_percent,
                    }
                    worker.tell({"commit": {**about, **canary}})
                case Verb.ABORT:
                    worker.tell({"abort": about})
                case Verb.END:
                    log.error("%s did not do what it was told, and is killed", worker.name)
                    worker.kill()

    def _tell_all(self, message: Mapping[str, Any]) -> None:
        for worker in self.workers:
            worker.tell(message)


def ending(code: int) -> str:
    """Say what a process ended with, and of a signal its name; what is mapped and does not fit on a disk is SIGBUS."""
    if code >= 0:
        return str(code)
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return str(code)
    why = ": look whether the disk of the state folder is full" if name == "SIGBUS" else ""
    return f"{code} ({name}{why})"
