"""The conveyor: whatever waits is judged together, written once, recorded once, and then answered.

Rules: one thread does all of it, so that judging, store and spool need no locks. Nothing is answered before its
record is durable. Every failure is a denial: of the round when the store or the spool fails, of the one request that
is to blame when we do. A caller whose time has run out is not judged at all.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final, Protocol

from exequatur.spool import SpoolError
from exequatur.trust.canonical import Json
from pdp.control.book import Book
from pdp.control.sessions import BusyError, ControlError, UnavailableError
from pdp.control.store import RaceError, Store, StoreError, View
from pdp.metrics import Metrics
from pdp.policies import Policies, Standing
from pdp.requests import Ask, Request, Result
from pdp.rounds import Round, Rules, deny_all

log = logging.getLogger(__name__)

WAITING: Final = 2048
"""How many calls may wait; at a thousand a second, two seconds' worth, which is longer than callers wait."""

ROUND: Final = 128
"""How many actions share a commit, give or take a batch; more would only make the first wait for the last."""

ALONE: Final = 8
"""How many rounds after a lost race hold the lock while they judge: who shares a session once does it again."""

SWEEP_S: Final = 1.0
PRUNE_S: Final = 3600.0
"""How often overdue reservations are looked for, and how often what is long over is forgotten."""

NOT_RECORDED: Final = "the decision could not be recorded"
NOT_STORED: Final = "the state could not be read or written"


class Journal(Protocol):
    """What the conveyor needs of a spool."""

    def append_many(self, records: Sequence[Mapping[str, Json]]) -> int:
        """Make records durable, all or none; raises `SpoolError`."""


@dataclass(slots=True, eq=False)
class _Job:
    request: Request
    answer: asyncio.Future[Result | ControlError]
    arrived: float
    deadline: float | None


class Conveyor:
    """Serves requests from an event loop on a thread of its own, one round after another."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        policies: Policies,
        rules: Rules,
        metrics: Metrics,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Serve under `policies`; nothing runs before `start`."""
        self._store, self._journal, self._policies = store, journal, policies
        self._rules, self._metrics, self._clock = rules, metrics, clock
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._waiting = 0
        self._stopping = False
        self._last = datetime.min.replace(tzinfo=UTC)
        self._swept = self._pruned = time.monotonic()
        self._alone = 0
        self._thread = Thread(target=self._run, name="conveyor", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.ended = asyncio.Event()
        """Set when the thread has ended; unless `stop` was called, nothing is served any more and never will be."""

    @property
    def policies(self) -> Policies:
        """What is in force."""
        return self._policies

    def put(self, tenant: str, standing: Standing) -> None:
        """Put another standing of `tenant` in force: the next round is judged by it."""
        self._policies = self._policies.having(tenant, standing)

    def distrust(self, reason: str) -> None:
        """Withdraw the policies of all tenants, those to come too, until we are started again."""
        self._policies = self._policies.distrusted(reason)

    def start(self) -> None:
        """Begin to serve; call it on the event loop that will submit."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Serve what waits, then end."""
        self._stopping = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    async def submit(self, request: Request, seconds_left: float | None = None) -> Result:
        """Have `request` served; raises a `ControlError` when it is not.

        A caller who stops waiting before its round begins is not served; afterwards its decision stands on record,
        and what it reserved is charged when it expires.
        """
        if self._stopping or self._loop is None:
            raise UnavailableError("the decision point is stopping")
        if self._waiting >= WAITING:
            raise BusyError("too many calls are waiting: try again later")
        arrived = time.monotonic()
        job = _Job(
            request, self._loop.create_future(), arrived, None if seconds_left is None else arrived + seconds_left
        )
        self._waiting += 1
        self._queue.put(job)
        try:
            result = await job.answer
        finally:
            self._waiting -= 1
        self._metrics.latency.observe(time.monotonic() - arrived)
        if isinstance(result, ControlError):
            raise result
        return result

    def _run(self) -> None:
        """Live on the thread: serve rounds, and sweep between them, until told to end and nothing waits."""
        ending = False
        try:
            while not ending or not self._queue.empty():
                jobs, told = self._collect()
                ending = ending or told
                if jobs:
                    self._metrics.batch.observe(len(jobs))
                    self._tell(_answer, jobs, self._serve(jobs))
                if time.monotonic() - self._swept >= SWEEP_S:
                    self._sweep()
        finally:
            self._tell(self.ended.set)

    def _collect(self) -> tuple[list[_Job], bool]:
        """Take everything that waits, up to a round's worth; wait for the first, but not past the next sweep."""
        jobs: list[_Job] = []
        size = 0
        try:
            job = self._queue.get(timeout=SWEEP_S)
            while job is not None:
                jobs.append(job)
                size += len(job.request.items) if isinstance(job.request, Ask) else 1
                if size >= ROUND:
                    return jobs, False
                job = self._queue.get_nowait()
        except Empty:
            return jobs, False
        return jobs, True

    def _serve(self, jobs: Sequence[_Job]) -> Sequence[Result | ControlError]:
        """Judge, write and record one round; whatever fails, each job gets a result."""
        requests = [job.request for job in jobs]
        # Whoever stopped waiting is late.
        deadlines = [float("-inf") if job.answer.cancelled() else job.deadline for job in jobs]
        try:
            done = self._commit(lambda round_: round_.serve(requests, deadlines))
        except StoreError as error:
            self._metrics.store_errors.inc()
            log.error("the store failed: %s", error)  # noqa: TRY400  the sentence says it all
            return self._deny(requests, NOT_STORED)
        except Exception:
            log.exception("a round of %d failed", len(requests))
            if len(jobs) > 1:  # nothing was written: find the one that is to blame
                return [self._serve([job])[0] for job in jobs]
            return self._deny(requests, "an internal error")
        if not self._record(done.records):
            self._undo(done)
            return self._deny(requests, NOT_RECORDED)
        self._count(done.results)
        return done.results

    def _commit(self, work: Callable[[Round], None]) -> Round:
        """Do `work` on a fresh round and write what it changes: unseen by others, or, after a lost race, alone."""
        if self._alone == 0:
            try:
                return self._commit_unseen(work)
            except RaceError:
                self._metrics.races.inc()
                self._alone = ALONE
        else:
            self._alone -= 1
        with self._store.writing() as writing:
            done = self._begin(writing)
            work(done)
            writing.write(done.book.changes)
        return done

    def _commit_unseen(self, work: Callable[[Round], None]) -> Round:
        """Judge on what is read without a lock; raises `RaceError` if it is not so any more when it is written."""
        with self._store.reading() as view:
            done = self._begin(view)
            work(done)
        if done.book.changes:
            with self._store.writing() as writing:
                writing.write(done.book.changes)
        return done

    def _begin(self, view: View) -> Round:
        return Round(Book(view, self._now()), self._policies, self._rules)

    def _now(self) -> datetime:
        """Read the wall clock; it never goes back in this process."""
        self._last = max(self._last, self._clock())
        return self._last

    def _record(self, records: Sequence[Mapping[str, Json]]) -> bool:
        if not records:
            return True
        try:
            self._journal.append_many(records)
        except SpoolError as error:
            self._metrics.spool_errors.inc()
            log.error("the spool failed: %s", error)  # noqa: TRY400  the sentence says it all
            return False
        return True

    def _undo(self, done: Round) -> None:
        """Give back what was reserved without a record; where that fails, it is charged when it expires."""
        changes = done.book.changes
        if not changes:
            return
        try:
            with self._store.writing() as writing:
                undone = self._begin(writing)
                undone.undo(changes)
                writing.write(undone.book.changes)
        except StoreError as error:
            log.error("what was not recorded could not be taken back: %s", error)  # noqa: TRY400

    def _deny(self, requests: Sequence[Request], text: str) -> Sequence[Result | ControlError]:
        """Say no to all of `requests`, on record where the spool still takes it."""
        results, records = deny_all(requests, text, self._policies, self._now())
        self._record(records)
        self._count(results)
        return results

    def _count(self, results: Sequence[Result | ControlError]) -> None:
        for result in results:
            if isinstance(result, tuple):
                for answer in result:
                    self._metrics.decided(answer.decision, repeated=answer.repeated)

    def _sweep(self) -> None:
        """Charge what was never settled; now and then, forget what is long over."""
        self._swept = time.monotonic()
        try:
            swept = self._commit(lambda round_: round_.charge_overdue())
            if not self._record(swept.records):
                self._undo(swept)
            if self._swept - self._pruned >= PRUNE_S:
                self._pruned = self._swept
                with self._store.writing() as writing:
                    writing.prune(self._now())
        except StoreError as error:
            self._metrics.store_errors.inc()
            log.error("the store failed: %s", error)  # noqa: TRY400  the sentence says it all
        except Exception:
            self._metrics.store_errors.inc()
            log.exception("the sweep failed")

    def _tell(self, what: Callable[..., object], *arguments: object) -> None:
        """Run `what` on the event loop."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(what, *arguments)


def _answer(jobs: Sequence[_Job], results: Sequence[Result | ControlError]) -> None:
    for job, result in zip(jobs, results, strict=True):
        if not job.answer.done():
            job.answer.set_result(result)
