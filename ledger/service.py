"""The ledger's door: who may append what, and how callers share one commit.

Rules: a writer is an identity on the channel, `#`, and a spool's own id; it may append its next number and no other.
The same bytes again are acknowledged again; other bytes under a taken number are an alarm, and so is a caller who knows
a longer log than this one. Nothing is acknowledged before it and a checkpoint over it last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import DecodeError

from exequatur.key_folder import KeyFolder
from exequatur.record import RecordError, decode
from exequatur.refusals import Code, Refusal
from exequatur.transport import Handler, Peer
from exequatur.v1 import audit_pb2
from ledger.index import IndexFault, LogIndex
from ledger.log import Log, LogError
from ledger.metrics import Metrics

log_ = logging.getLogger(__name__)

_T = TypeVar("_T")

WAITING_BYTES: Final = 64 * 2**20
"""How much may wait for its commit; callers keep their records, and come back."""


@dataclass(frozen=True, slots=True)
class _Job:
    """What one caller wants appended."""

    writer: str
    first: int
    records: Sequence[bytes]
    known: int
    answer: asyncio.Future[bytes]

    @property
    def last(self) -> int:
        return self.first + len(self.records) - 1


@dataclass(slots=True)
class _Group:
    """What one commit adds: entries in order, and the same by writer and number."""

    entries: list[bytes] = field(default_factory=list)
    records: dict[tuple[str, int], bytes] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)

    def add(self, job: _Job, count: int) -> None:
        """Take the last `count` records of `job`."""
        for number in range(job.last - count + 1, job.last + 1):
            self.entries.append(job.records[number - job.first])
            self.records[job.writer, number] = self.entries[-1]
            self.last[job.writer] = number


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
        signers: KeyFolder[Mapping[str, Ed25519PrivateKey]] | None = None,
    ) -> None:
        """Serve `log`; `writers` may append, writers and `auditors` may look. Raises `IndexFault`.

        `signers` is where the keys that sign its checkpoints are looked for, each second.
        """
        self._log, self._index, self._clock, self._metrics = log, index, clock, metrics
        self._signers = signers
        self._writers, self._auditors = writers, auditors
        self._last = index.last_numbers()
        self._jobs: list[_Job] = []
        self._waiting_bytes = 0
        self._working: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "log")
        self._trouble = ""
        metrics.watch(log)

    @property
    def handlers(self) -> dict[str, Handler]:
        """The calls by path."""
        return {
            "/exequatur.v1.AuditService/Append": self.append,
            "/exequatur.v1.AuditService/GetCheckpoint": self.get_checkpoint,
        }

    async def append(self, message: bytes, peer: Peer, _: float | None) -> bytes:
        """Append a writer's next records."""
        job = self._read(message, peer)
        self._waiting_bytes += len(message)
        try:
            self._jobs.append(job)
            if self._working is None or self._working.done():
                self._working = asyncio.create_task(self._work())
            return await job.answer
        finally:
            self._waiting_bytes -= len(message)

    async def get_checkpoint(self, message: bytes, peer: Peer, _: float | None) -> bytes:
        """Show the newest checkpoint, with a proof from the size that the caller knows."""
        if peer.identity not in self._writers | self._auditors:
            text = f"`{peer.identity}` is neither a writer nor an auditor of this ledger"
            raise Refusal(Code.PERMISSION_DENIED, text)
        try:
            known = audit_pb2.GetCheckpointRequest.FromString(message).known_size
        except DecodeError:
            raise Refusal(Code.INVALID_ARGUMENT, "the message is no `GetCheckpointRequest`") from None
        note, proof = await self._on_thread(self._look, known, peer.identity)
        return audit_pb2.GetCheckpointResponse(checkpoint=note, consistency=proof).SerializeToString()

    async def keep_fresh(self, stop: asyncio.Event, every_s: float = 1.0) -> None:
        """Sign a checkpoint every second, so that a log that stands still is seen to be alive."""
        while not stop.is_set():
            try:
                await self._on_thread(self._refresh, every_s / 2)
            except Exception:  # the next second is another try; without this, freshness would end unseen
                log_.exception("no checkpoint")
            try:
                await asyncio.wait_for(stop.wait(), every_s)
            except TimeoutError:
                continue

    async def close(self) -> None:
        """Finish what was accepted."""
        if self._working is not None:
            await self._working
        self._thread.shutdown()

    def _read(self, message: bytes, peer: Peer) -> _Job:
        """Hold a request against who sends it, and its records against its head; raises `Refusal`."""
        if peer.identity not in self._writers:
            raise Refusal(Code.PERMISSION_DENIED, f"`{peer.identity}` is no writer of this ledger: add it to `writers`")
        if self._waiting_bytes + len(message) > WAITING_BYTES:
            raise Refusal(Code.RESOURCE_EXHAUSTED, "too many records are waiting: try again later")
        try:
            request = audit_pb2.AppendRequest.FromString(message)
        except DecodeError:
            raise Refusal(Code.INVALID_ARGUMENT, "the message is no `AppendRequest`") from None
        if not request.writer.startswith(peer.identity + "#"):
            raise Refusal(Code.PERMISSION_DENIED, f"the writer must begin with the caller's own `{peer.identity}#`")
        if not request.records or request.first_number < 1:
            raise Refusal(Code.INVALID_ARGUMENT, "an append needs `records`, and a `first_number` from 1 on")
        for number, data in enumerate(request.records, request.first_number):
            try:
                record = decode(data)
            except RecordError as error:
                raise Refusal(Code.INVALID_ARGUMENT, f"record {number}: {error}") from None
            if record["writer"] != request.writer or record["number"] != number:
                raise Refusal(Code.INVALID_ARGUMENT, f"record {number} bears another writer or number")
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        return _Job(request.writer, request.first_number, list(request.records), request.known_size, answer)

    async def _work(self) -> None:
        """Commit group after group until nobody waits; whatever happens, each who waits is answered."""
        while self._jobs:
            jobs, self._jobs = self._jobs, []
            results: Sequence[bytes | Exception]
            try:
                results = await self._on_thread(self._commit, jobs)
            except Exception as error:  # noqa: BLE001  each of those who wait is told
                results = [error] * len(jobs)
            for job, result in zip(jobs, results, strict=True):
                if job.answer.done():
                    continue
                if isinstance(result, Exception):
                    job.answer.set_exception(result)
                else:
                    job.answer.set_result(result)

    def _commit(self, jobs: Sequence[_Job]) -> list[bytes | Exception]:
        """Append what is new in `jobs`, in one commit, and answer each."""
        group = _Group()
        refused: dict[int, Refusal] = {}
        for at, job in enumerate(jobs):
            try:
                group.add(job, self._count_new(job, group))
            except Refusal as refusal:
                refused[at] = refusal
        failed = self._append(group)
        return [refused.get(at) or failed or self._answer(job) for at, job in enumerate(jobs)]

    def _count_new(self, job: _Job, group: _Group) -> int:
        """How many of the records are new; raises `Refusal` for a gap, and for other bytes under a taken number."""
        self._check_known(job.known, job.writer)
        have = max(self._last.get(job.writer, 0), group.last.get(job.writer, 0))
        if job.first > have + 1:
            raise Refusal(Code.FAILED_PRECONDITION, f"the next number of `{job.writer}` is {have + 1}, not {job.first}")
        for number in range(job.first, min(have, job.last) + 1):
            known = group.records.get((job.writer, number)) or self._look_up(job.writer, number)
            if known != job.records[number - job.first]:
                raise self._alarm(Code.ALREADY_EXISTS, f"record {number} of `{job.writer}` is there with other content")
        return max(0, job.last - have)

    def _look_up(self, writer: str, number: int) -> bytes | None:
        """Find a record in the log; raises `Refusal` where that cannot be done."""
        try:
            if self._index.size < self._log.size:
                self._index.catch_up()
            entry = self._index.entry_of(writer, number)
            return None if entry is None else self._log.read(entry, entry + 1)[0]
        except (IndexFault, LogError) as error:
            raise self._unavailable(error) from None

    def _append(self, group: _Group) -> Refusal | None:
        """Make the group last; gives the refusal for all if that cannot be done."""
        wanted = self._log.size + len(group.entries)
        try:
            with self._metrics.commits.time():
                if group.entries:
                    self._log.append(group.entries, self._clock())
                elif not self._log.lasting:
                    self._log.checkpoint(self._clock())
        except LogError as error:
            return self._unavailable(error)
        finally:
            if group.entries and self._log.size == wanted:
                self._last |= group.last
                self._metrics.records.inc(len(group.entries))
                self._update_index()
        self._recovered()
        return None

    def _update_index(self) -> None:
        try:
            self._index.catch_up()
        except IndexFault as error:  # the records are in the log: the index catches up when it can
            log_.warning("%s", error)

    def _answer(self, job: _Job) -> bytes | Refusal:
        try:
            note, proof = self._look(job.known, job.writer)
        except Refusal as refusal:
            return refusal
        acknowledged = self._last[job.writer]
        response = audit_pb2.AppendResponse(acknowledged=acknowledged, checkpoint=note, consistency=proof)
        return response.SerializeToString()

    def _look(self, known: int, who: str) -> tuple[str, list[bytes]]:
        """The newest checkpoint, and the proof that it extends one of `known` entries; raises `Refusal`."""
        self._check_known(known, who)
        try:
            return self._log.note, self._log.prove_consistency(max(known, 0))
        except LogError as error:
            raise self._unavailable(error) from None

    def _check_known(self, known: int, who: str) -> None:
        if known > self._log.size:
            text = f"this log has {self._log.size} entries, and `{who}` has seen {known}: its end was lost"
            raise self._alarm(Code.FAILED_PRECONDITION, text)

    def _refresh(self, older_than_s: float) -> None:
        if self._look_at_keys():
            older_than_s = 0.0
        if (self._clock() - self._log.signed_at).total_seconds() < older_than_s and self._log.lasting:
            return
        try:
            self._log.checkpoint(self._clock())
        except LogError as error:
            self._unavailable(error)
        else:
            self._recovered()

    def _look_at_keys(self) -> bool:
        """Sign by the keys that are there from now on; says whether they are others."""
        if self._signers is None:
            return False
        seen = self._signers.look()
        if seen.fault:
            self._metrics.alarms.inc()
            log_.critical("alarm: `%s`: %s: the keys that signed go on", self._signers.path, seen.fault)
        if seen.changed:
            self._log.keys = tuple(seen.keys.values())
            log_.warning("checkpoints are signed by %s", ", ".join(map(str, self._log.verifier_keys)))
        return seen.changed

    def _unavailable(self, error: Exception) -> Refusal:
        """Say once what is wrong, and refuse until it is not."""
        self._metrics.errors.inc()
        if self._trouble != str(error):
            self._trouble = str(error)
            log_.error("records are not taken: %s", error)
        return Refusal(Code.UNAVAILABLE, f"records cannot be made durable: {error}")

    def _recovered(self) -> None:
        if self._trouble:
            self._trouble = ""
            log_.warning("records are taken again")

    def _alarm(self, code: Code, text: str) -> Refusal:
        self._metrics.alarms.inc()
        log_.critical("alarm: %s", text)
        return Refusal(code, text)

    async def _on_thread(self, work: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
