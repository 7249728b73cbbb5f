"""The conveyor: whatever waits is judged together, written once, recorded once, and then answered.

Rules: one thread does all of it, so that judging, store and spool need no locks. Nothing is answered before its
record is durable, and no policy judges before it is on record. Every failure is a denial: of the round when the store
or the spool fails, of the one request that is to blame when we do. A caller whose time has run out is not judged.
Where records must be the ledger's first, what was decided is told to nobody until it has them; the thread goes on
meanwhile, and what waits too long is taken back and denied.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final, Protocol

from exequatur.spool import SpoolError
from exequatur.trust.canonical import Json
from pdp.control.book import Book
from pdp.control.sessions import BusyError, ControlError, UnavailableError
from pdp.control.store import RaceError, Store, StoreError, View
from pdp.judge import rfc3339
from pdp.metrics import Metrics
from pdp.model import Effect, Session
from pdp.policies import Policies, Standing, Trial, changes
from pdp.requests import Ask, Open, Request, Result, Show, Withdraw
from pdp.rounds import Round, Rules, deny_all
from pdp.trial import Comparison, Key, Shadow, Tally, Trying

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
NOT_TAKEN: Final = "the ledger has not taken the record"

PATIENCE_S: Final = 10.0
"""How long the ledger may take, where it is waited for, when the caller sets no deadline, or a later one."""

ANSWER_S: Final = 0.1
"""How much of a caller's time is left for saying that it took too long; never more than a quarter of it."""

Acknowledged = Callable[[int], Awaitable[None]]
"""Returns when the ledger has the record of this number; awaited on the event loop that submits."""


class Journal(Protocol):
    """What the conveyor needs of a spool."""

    def append_many(self, records: Sequence[Mapping[str, Json]]) -> int:
        """Make records durable, all or none; raises `SpoolError`."""


@dataclass(slots=True, eq=False)
class _Job:
    request: Request
    answer: asyncio.Future[tuple[Result | ControlError, int]]
    """The result, and the number of the last record that is behind it."""
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
        halted: Callable[[str, bytes, str], None] = lambda *_: None,
        acknowledged: Acknowledged | None = None,
    ) -> None:
        """Serve under `policies`; nothing runs before `start`. With `acknowledged`, answers wait for the ledger.

        `halted` hears, on the event loop, of a trial that ended by itself: tenant, the candidate's digest, and why.
        """
        self._store, self._journal, self._policies = store, journal, policies
        self._rules, self._metrics, self._clock = rules, metrics, clock
        self._recorded, self._halted = Policies(), halted
        self._acknowledged, self._last_number = acknowledged, 0
        self._tallies: dict[Key, Tally] = {}
        self._shadow = Shadow(time.monotonic)
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
        """Put another standing of `tenant` in force: the next round is judged by it, once it is on record."""
        self._change(self._policies.having(tenant, standing))

    def drop(self, tenant: str, reason: str) -> None:
        """End the trial of a candidate."""
        self.put(tenant, replace(self._policies.of(tenant), trial=None, trial_ended=reason))

    def distrust(self, reason: str) -> None:
        """Withdraw the policies of all tenants, those to come too, until we are started again."""
        self._change(self._policies.distrusted(reason))

    def start(self) -> None:
        """Begin to serve; call it on the event loop that will submit."""
        self._loop = asyncio.get_running_loop()
        self._change(self._policies)
        self._thread.start()

    async def stop(self) -> None:
        """Serve what waits, then end."""
        self._stopping = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    async def submit(self, request: Request, seconds_left: float | None = None) -> Result:
        """Have `request` served; raises a `ControlError` when it is not.

        A caller who stops waiting before its round begins is not served; afterwards its decision stands on record,
        and what it reserved is charged when it expires, or given back where it was the ledger that it waited for.
        """
        if self._stopping or self._loop is None:
            raise UnavailableError("the decision point is stopping")
        if self._waiting >= WAITING:
            raise BusyError("too many calls are waiting: try again later")
        arrived = time.monotonic()
        self._waiting += 1
        try:
            job = self._enqueue(request, arrived, None if seconds_left is None else arrived + seconds_left)
            if self._acknowledged is None or isinstance(request, Show):  # which changes nothing
                result = (await job.answer)[0]
            else:
                result = await self._taken(job, self._acknowledged)
        finally:
            self._waiting -= 1
        self._metrics.latency.observe(time.monotonic() - arrived)
        if isinstance(result, ControlError):
            raise result
        return result

    def _enqueue(self, request: Request, arrived: float, deadline: float | None) -> _Job:
        job = _Job(request, asyncio.get_running_loop().create_future(), arrived, deadline)
        self._queue.put(job)
        return job

    async def _taken(self, job: _Job, acknowledged: Acknowledged) -> Result | ControlError:
        """Give a result once the ledger has its record; when that takes too long, take it back, and deny."""
        try:
            result, number = await job.answer
            patience_s = PATIENCE_S
            if job.deadline is not None:
                left_s = job.deadline - job.arrived
                patience_s = min(PATIENCE_S, job.deadline - time.monotonic() - min(ANSWER_S, left_s / 4))
            await asyncio.wait_for(acknowledged(number), max(patience_s, 0.0))
        except TimeoutError:
            withdrawal = self._withdraw(job.request, job.answer.result()[0])
            if isinstance(withdrawal, _Job):
                return (await withdrawal.answer)[0]
            return withdrawal
        except asyncio.CancelledError:  # the caller has gone, and was told nothing
            if not job.answer.cancelled():
                self._withdraw(job.request, job.answer.result()[0])
            raise
        self._count(result)
        return result

    def _withdraw(self, request: Request, result: Result | ControlError) -> _Job | Result | ControlError:
        """Begin to take back what was told to nobody; what takes nothing is denied, or an error, as it is."""
        if isinstance(result, ControlError):
            return result
        if isinstance(request, Ask) and isinstance(result, tuple):
            if all(answer.decision.effect is Effect.DENY for answer in result):
                self._count(result)
                return result
        elif not (isinstance(request, Open) and isinstance(result, Session)):
            return UnavailableError(NOT_TAKEN)
        return self._enqueue(Withdraw(request, result, NOT_TAKEN), time.monotonic(), None)

    def _change(self, policies: Policies) -> None:
        """Put `policies` in force, and wake the thread, which puts them on record."""
        self._policies = policies
        self._queue.put(None)

    def _run(self) -> None:
        """Live on the thread: serve rounds, and sweep between them, until told to end and nothing waits."""
        try:
            while not self._stopping or not self._queue.empty():
                jobs = self._collect()
                known = self._announce()
                if jobs:
                    self._metrics.batch.observe(len(jobs))
                    served = self._serve(jobs) if known else self._deny([job.request for job in jobs], NOT_RECORDED)
                    self._tell(self._answer, jobs, served, self._last_number)
                else:
                    self._try_in_the_shadow()
                if time.monotonic() - self._swept >= SWEEP_S:
                    self._sweep()
        finally:
            self._tell(self.ended.set)

    def _collect(self) -> list[_Job]:
        """Take everything that waits, up to a round's worth; wait for the first, but not past what is to be done."""
        jobs: list[_Job] = []
        size = 0
        due_s = self._shadow.due_s()
        try:
            job = self._queue.get(timeout=SWEEP_S if due_s is None else min(SWEEP_S, due_s))
            while job is not None:
                jobs.append(job)
                size += len(job.request.items) if isinstance(job.request, Ask) else 1
                if size >= ROUND:
                    break
                job = self._queue.get_nowait()
        except Empty:
            pass
        return jobs

    def _announce(self) -> bool:
        """Put on record what has come into force; says whether all of it is, and rounds may be judged by it."""
        policies = self._policies
        if policies is not self._recorded:
            now = rfc3339(self._now())
            if not self._record([{**record, "time": now} for record in changes(self._recorded, policies)]):
                return False
            self._recorded = policies
            tried = {(tenant, each.trial.snapshot.digest) for tenant, each in policies.standings.items() if each.trial}
            self._tallies = {key: tally for key, tally in self._tallies.items() if key in tried}
        return True

    def _serve(self, jobs: Sequence[_Job]) -> Sequence[Result | ControlError]:
        """Judge, write and record one round; whatever fails, each job gets a result."""
        requests = [job.request for job in jobs]
        # Whoever stopped waiting is late; what was told to nobody is taken back all the same.
        gone = [job.answer.cancelled() and not isinstance(job.request, Withdraw) for job in jobs]
        deadlines = [float("-inf") if late else job.deadline for late, job in zip(gone, jobs, strict=True)]
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
        self._tried(done.trying)
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
            self._store.write(done.book.changes)
        return done

    def _begin(self, view: View) -> Round:
        trying = Trying(dict(self._tallies))
        return Round(Book(view, self._now()), self._recorded, self._rules, trying)

    def _now(self) -> datetime:
        """Read the wall clock; it never goes back in this process."""
        self._last = max(self._last, self._clock())
        return self._last

    def _record(self, records: Sequence[Mapping[str, Json]]) -> bool:
        if not records:
            return True
        try:
            self._last_number = self._journal.append_many(records)
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
        results, records = deny_all(requests, text, self._recorded, self._now())
        self._record(records)
        return results

    def _answer(self, jobs: Sequence[_Job], results: Sequence[Result | ControlError], number: int) -> None:
        """Give each job its result, on the event loop; what waits for the ledger is counted when it is final."""
        for job, result in zip(jobs, results, strict=True):
            waits = self._acknowledged is not None and isinstance(job.request, Ask)
            if not waits or job.answer.done():
                self._count(result)
            if not job.answer.done():
                job.answer.set_result((result, number))

    def _count(self, result: Result | ControlError) -> None:
        """Count decisions, each once: as they are given, or stand on record for a caller who has gone."""
        if isinstance(result, tuple):
            for answer in result:
                self._metrics.decided(answer.decision, repeated=answer.repeated)

    def _tried(self, trying: Trying) -> None:
        """Take over what a round tried, now that it counts; a trial that was halted in it ends everywhere."""
        for compared in trying.compared:
            self._metrics.tried(compared.key[0], compared.result)
        for key, tally in trying.tallies.items():
            if tally.halted and not self._tallies.get(key, Tally()).halted:
                self._tell(self._halt, key, tally.halted)
        self._tallies = trying.tallies
        for tenant, _ in self._shadow.offer(trying.shadowed):
            self._metrics.tried(tenant, Comparison.SKIPPED)

    def _halt(self, key: Key, reason: str) -> None:
        """End a trial that halted by itself, on the event loop, unless another one has taken its place."""
        tenant, digest = key
        trial = self._policies.of(tenant).trial
        if trial is not None and trial.snapshot.digest == digest:
            self.drop(tenant, reason)
        self._halted(tenant, digest, reason)

    def _try_in_the_shadow(self) -> None:
        """Let one candidate judge one action, since nothing waits; now and then, put a difference on record."""
        compared = self._shadow.step(self._trial_of)
        if compared is not None:
            self._metrics.tried(compared.key[0], compared.result)
        sample = self._shadow.sample()
        if sample is not None:
            self._record([sample])

    def _trial_of(self, tenant: str) -> Trial | None:
        return self._recorded.of(tenant).trial

    def _sweep(self) -> None:
        """Charge what was never settled; now and then, forget what is long over."""
        self._swept = time.monotonic()
        try:
            swept = self._commit(lambda round_: round_.charge_overdue())
            if not self._record(swept.records):
                self._undo(swept)
            if self._swept - self._pruned >= PRUNE_S:
                with self._store.writing() as writing:
                    more = writing.prune(self._now())
                if not more:
                    self._pruned = self._swept
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
