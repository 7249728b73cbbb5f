"""The ledger's door: who may append what, and how callers share one commit.

Rules: a writer is an identity on the channel, `#`, and a spool's own id; it may append its next number and no other.
The same bytes again are acknowledged again; other bytes under a taken number are an alarm. Nothing is acknowledged
before it and a checkpoint over it are durable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from google.protobuf.message import DecodeError
from prometheus_client import CollectorRegistry, Counter, Gauge

from exequatur.record import RecordError, decode
from exequatur.transport import Code, Handler, Peer, Refusal
from exequatur.v1 import audit_pb2
from ledger.index import LogIndex
from ledger.log import Log, LogError

log_ = logging.getLogger(__name__)


class Metrics:
    """What Prometheus may know."""

    def __init__(self) -> None:
        """Count for this process."""
        self.registry = CollectorRegistry()
        self.appended = Counter("exequatur_ledger_records", "Records appended.", registry=self.registry)
        self.refused = Counter(
            "exequatur_ledger_refused", "Appends refused, by status.", ("code",), registry=self.registry
        )
        self.size = Gauge("exequatur_ledger_size_records", "Records in the log.", registry=self.registry)
        self.failures = Counter("exequatur_ledger_write_failures", "Writes that failed.", registry=self.registry)
        self.checkpoint = Gauge(
            "exequatur_ledger_checkpoint_seconds", "Time of the checkpoint.", registry=self.registry
        )


@dataclass(slots=True)
class _Job:
    writer: str
    first: int
    records: Sequence[bytes]
    known: int
    answer: asyncio.Future[bytes]


class Service:
    """Appends for all callers on one thread, group by group."""

    def __init__(
        self,
        log: Log,
        index: LogIndex,
        *,
        writers: frozenset[str],
        auditors: frozenset[str],
        clock: Callable[[], datetime],
        metrics: Metrics,
    ) -> None:
        """Serve `log`; `writers` may append, writers and `auditors` may look. Unset means nobody."""
        self._log = log
        self._index = index
        self._writers = writers
        self._auditors = auditors
        self._clock = clock
        self._metrics = metrics
        self._last = index.last_numbers()
        self._jobs: list[_Job] = []
        self._working: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "log")
        metrics.size.set(log.size)

    @property
    def handlers(self) -> dict[str, Handler]:
        """The calls by path."""
        return {
            "/exequatur.v1.AuditService/Append": self.append,
            "/exequatur.v1.AuditService/GetCheckpoint": self.get_checkpoint,
        }

    async def append(self, message: bytes, peer: Peer, _: float | None) -> bytes:
        """Append a writer's next records."""
        try:
            job = self._check(message, peer)
            self._jobs.append(job)
            if self._working is None:
                self._working = asyncio.create_task(self._work())
            return await job.answer
        except Refusal as refusal:
            self._metrics.refused.labels(refusal.code.name).inc()
            raise

    async def get_checkpoint(self, message: bytes, peer: Peer, _: float | None) -> bytes:
        """Show the newest checkpoint, with a proof from the size that the caller knows."""
        if peer.identity not in self._writers | self._auditors:
            raise Refusal(
                Code.PERMISSION_DENIED, f"`{peer.identity}` is neither a writer nor an auditor of this ledger"
            )
        try:
            known = audit_pb2.GetCheckpointRequest.FromString(message).known_size
        except DecodeError:
            raise Refusal(Code.INVALID_ARGUMENT, "the message is no GetCheckpointRequest") from None
        loop = asyncio.get_running_loop()
        note, proof = await loop.run_in_executor(self._thread, self._look, known)
        return audit_pb2.GetCheckpointResponse(checkpoint=note, consistency=proof).SerializeToString()

    async def keep_fresh(self, stop: asyncio.Event, every_s: float = 1.0) -> None:
        """Sign a checkpoint every second, so that a log that stands still is seen to be alive."""
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            try:
                await loop.run_in_executor(self._thread, self._log.checkpoint, self._clock())
                self._metrics.checkpoint.set(self._clock().timestamp())
            except OSError as error:
                self._metrics.failures.inc()
                log_.error("no checkpoint: %s", (error.strerror or str(error)).lower())  # noqa: TRY400
            try:
                await asyncio.wait_for(stop.wait(), every_s)
            except TimeoutError:
                continue

    async def close(self) -> None:
        """Finish what was accepted."""
        if self._working is not None:
            await self._working
        self._thread.shutdown()

    def _check(self, message: bytes, peer: Peer) -> _Job:
        """Hold a request against who sends it, and its records against its head; raises `Refusal`."""
        if peer.identity not in self._writers:
            raise Refusal(Code.PERMISSION_DENIED, f"`{peer.identity}` is no writer of this ledger: add it to `writers`")
        try:
            request = audit_pb2.AppendRequest.FromString(message)
        except DecodeError:
            raise Refusal(Code.INVALID_ARGUMENT, "the message is no AppendRequest") from None
        if not request.writer.startswith(peer.identity + "#"):
            raise Refusal(
                Code.PERMISSION_DENIED, f"the writer must begin with the caller's identity `{peer.identity}#`"
            )
        if not request.records or request.first_number < 1:
            raise Refusal(Code.INVALID_ARGUMENT, "an append needs `records`, and a `first_number` from 1")
        for offset, data in enumerate(request.records):
            number = request.first_number + offset
            try:
                record = decode(data)
            except RecordError as error:
                raise Refusal(Code.INVALID_ARGUMENT, f"record {number}: {error}") from None
            if record["writer"] != request.writer or record["number"] != number:
                raise Refusal(Code.INVALID_ARGUMENT, f"record {number} bears another writer or number")
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        return _Job(request.writer, request.first_number, list(request.records), request.known_size, answer)

    async def _work(self) -> None:
        """Commit group after group until nobody waits."""
        loop = asyncio.get_running_loop()
        while self._jobs:
            jobs, self._jobs = self._jobs, []
            results = await loop.run_in_executor(self._thread, self._commit, jobs)
            for job, result in zip(jobs, results, strict=True):
                if job.answer.cancelled():
                    continue
                if isinstance(result, Refusal):
                    job.answer.set_exception(result)
                else:
                    job.answer.set_result(result)
        self._working = None

    def _commit(self, jobs: Sequence[_Job]) -> list[bytes | Refusal]:
        """Append what is new in `jobs`, in one commit, and answer each."""
        last = dict(self._last)
        entries: list[bytes] = []
        results: list[bytes | Refusal | None] = []
        for job in jobs:
            try:
                fresh = self._fresh(job, last, entries)
            except Refusal as refusal:
                results.append(refusal)
                continue
            entries += fresh
            last[job.writer] = max(last.get(job.writer, 0), job.first + len(job.records) - 1)
            results.append(None)
        try:
            if entries:
                self._log.append(entries, self._clock())
                self._index.add(entries)
        except LogError as error:
            self._metrics.failures.inc()
            log_.error("records are not taken: %s", error)  # noqa: TRY400
            failed = Refusal(Code.UNAVAILABLE, f"records cannot be made durable: {error}")
            return [failed if result is None else result for result in results]
        self._last = last
        self._metrics.appended.inc(len(entries))
        self._metrics.size.set(self._log.size)
        return [
            self._answer(job, last) if result is None else result for job, result in zip(jobs, results, strict=True)
        ]

    def _fresh(self, job: _Job, last: dict[str, int], pending: Sequence[bytes]) -> Sequence[bytes]:
        """Give the records of `job` that are new; raises `Refusal` for a gap, and for other bytes under a number."""
        have = last.get(job.writer, 0)
        if job.first > have + 1:
            raise Refusal(Code.FAILED_PRECONDITION, f"the next number of `{job.writer}` is {have + 1}, not {job.first}")
        old = job.records[: max(0, have - job.first + 1)]
        for offset, data in enumerate(old):
            entry = self._index.entry_of(job.writer, job.first + offset)
            known = self._log.read(entry, entry + 1)[0] if entry is not None else None
            if data != known and data not in pending:
                log_.critical("alarm: other bytes for record %d of %s", job.first + offset, job.writer)
                text = f"record {job.first + offset} of `{job.writer}` is there with other content"
                raise Refusal(Code.ALREADY_EXISTS, text)
        return job.records[len(old) :]

    def _answer(self, job: _Job, last: dict[str, int]) -> bytes:
        note, proof = self._look(job.known)
        return audit_pb2.AppendResponse(
            acknowledged=last[job.writer], checkpoint=note, consistency=proof
        ).SerializeToString()

    def _look(self, known: int) -> tuple[str, list[bytes]]:
        return self._log.note, self._log.prove_consistency(known)
