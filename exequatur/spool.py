"""A daemon's durable journal of the records that the ledger has not acknowledged yet.

Rules:
- `append_many` is one write and one sync; it returns after the sync, or raises and leaves nothing behind. After a crash
  too, all of its records are there or none.
- After a failed sync nothing is synced again: the file is given up, and the next append begins another one.
- A file ends where the next one begins; what stands behind is left over from a write that failed.
- A torn tail is what a crash leaves: reopening cuts it off. Damage before it is an error, never skipped.
- A writer's numbers start at 1 and have no gaps; the last file always stays, so that no number is given out twice.
- Nothing but the ledger's acknowledgement makes a record go away.

In the folder: `spool.json` names the writer, `acknowledged` the last number that the ledger has, `<first number>.seg`
holds records (`groups.py` says how), `lock` keeps other processes out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from uuid import uuid4

from exequatur.disk import Disk, lock_folder, reason, write_file
from exequatur.groups import MARK, group_behind, read_group, write_group
from exequatur.record import RecordError, encode
from exequatur.trust.canonical import Json, JsonError, parse

log = logging.getLogger(__name__)

SEGMENT_BYTES: Final = 8 * 2**20
"""When a file is followed by the next: what is acknowledged is removed by whole files."""


class SpoolError(Exception):
    """Records could not be kept, or cannot be read back: one sentence, naming the folder or the file."""


class UnwritableError(SpoolError):
    """One of the records is none; nothing was wrong with the disk."""


@dataclass(slots=True)
class _Segment:
    """A file of records: its first number, how many it has, and where the last of them ends, in bytes."""

    path: Path
    first: int
    count: int = 0
    end: int = len(MARK)

    @property
    def last(self) -> int:
        return self.first + self.count - 1


class Spool:
    """Records of one writer in one folder. Append from any thread; read and acknowledge from one at a time."""

    def __init__(self, folder: Path, writer: str, disk: Disk, lock: int, segment_bytes: int) -> None:
        """Use `open`."""
        self.writer: Final = writer
        """The identity that the ledger will see, `#`, and an id of this folder's own."""
        self.folder, self._disk, self._lock, self._segment_bytes = folder, disk, lock, segment_bytes
        self._segments: list[_Segment] = []
        self._acknowledged = 0
        self._fd: int | None = None  # the last segment's, while it may be written to
        self._writing = threading.Lock()
        self._state = threading.Lock()  # guards the segments and the waiters; never held during a sync
        self._cursor: tuple[Path, int, int] | None = None  # a group that was read last: file, first number, offset
        self._waiters: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._pending: list[tuple[Mapping[str, Json], asyncio.Future[int]]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    def open(cls, folder: Path, *, identity: str, disk: Disk | None = None, segment_bytes: int = SEGMENT_BYTES) -> Self:
        """Open the spool in `folder`, or make one; raises `SpoolError` for a folder in use, another's, or damaged."""
        disk = disk or Disk()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = lock_folder(folder)
        except BlockingIOError:
            raise SpoolError(f"the spool `{folder}` is in use by another process") from None
        except OSError as error:
            raise SpoolError(f"the spool `{folder}` cannot be opened: {reason(error)}") from None
        try:
            spool = cls(folder, _writer(folder, identity, disk), disk, lock, segment_bytes)
            spool._load()
        except OSError as error:
            disk.close(lock)
            raise SpoolError(f"the spool `{folder}` cannot be opened: {reason(error)}") from None
        except BaseException:
            disk.close(lock)
            raise
        return spool

    @property
    def last(self) -> int:
        """The last number that is durable; zero before the first."""
        with self._state:
            return self._segments[-1].last if self._segments else 0

    @property
    def acknowledged(self) -> int:
        """The last number that the ledger has."""
        return self._acknowledged

    def append_many(self, records: Sequence[Mapping[str, Json]]) -> int:
        """Make `records` durable, all or none, and return the last number. Blocks; raises `SpoolError`."""
        with self._writing:
            if self._closed:
                raise SpoolError(f"the spool `{self.folder}` is closed")
            first = self.last + 1
            try:
                encoded = [encode(record, writer=self.writer, number=first + n) for n, record in enumerate(records)]
            except RecordError as error:
                raise UnwritableError(str(error)) from None
            if not encoded:
                return first - 1
            group = write_group(first, encoded)
            try:
                if self._fd is None or self._segments[-1].end >= self._segment_bytes:
                    self._begin_segment(first, group, len(encoded))
                else:
                    self._extend_segment(self._fd, group, len(encoded))
            except OSError as error:
                raise SpoolError(f"the spool `{self.folder}` cannot be written: {reason(error)}") from None
        self._wake()
        return first - 1 + len(encoded)

    async def append(self, record: Mapping[str, Json]) -> int:
        """Make one record durable and return its number; those who call at the same time share a sync."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._pending.append((record, future))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        return await future

    def read(self, first: int, limit: int, max_bytes: int = 2**20) -> list[bytes]:
        """Give at most `limit` records from number `first` on, in at most `max_bytes` unless the first is larger.

        Raises `SpoolError` when they cannot be read back as they were written.
        """
        with self._state:
            segments = [(segment, segment.last) for segment in self._segments if segment.last >= first]
        found: list[bytes] = []
        size = 0
        for segment, last in segments:
            for record in self._read_segment(segment, first + len(found), last):
                size += len(record)
                if len(found) >= limit or (found and size > max_bytes):
                    return found
                found.append(record)
        return found

    def acknowledge(self, number: int) -> None:
        """Note that the ledger has every record up to `number`, and remove the files that it has wholly.

        A disk too full to note it is no error: what is sent again is acknowledged again.
        """
        if number > self.last:
            raise SpoolError(f"record {number} was never written to `{self.folder}`")
        if number <= self._acknowledged:
            return
        self._acknowledged = number
        with self._state:
            gone = [segment for segment in self._segments[:-1] if segment.last <= number]
            del self._segments[: len(gone)]
        with contextlib.suppress(OSError):
            for segment in gone:
                self._disk.remove(segment.path)
            write_file(self._disk, self.folder / "acknowledged", b"%d\n" % number)

    async def wait_for(self, number: int) -> None:
        """Return when record `number` is durable."""
        event = asyncio.Event()
        with self._state:
            if self._segments and self._segments[-1].last >= number:
                return
            self._waiters.append((number, asyncio.get_running_loop(), event))
        try:
            await event.wait()
        finally:
            with self._state:
                self._waiters = [waiter for waiter in self._waiters if waiter[2] is not event]

    def close(self) -> None:
        """Let go of the folder. What is not acknowledged stays in it."""
        with self._writing:
            if self._closed:
                return
            self._closed = True
            for fd in (self._fd, self._lock):
                if fd is not None:
                    with contextlib.suppress(OSError):  # all that was promised is synced
                        self._disk.close(fd)
            self._fd = None

    def _begin_segment(self, first: int, group: bytes, count: int) -> None:
        """Write `group` into a new file; on failure nothing of it is left."""
        path = self.folder / f"{first:020}.seg"
        fd = self._disk.create(path)
        try:
            self._disk.write(fd, MARK + group, 0)
            self._disk.sync(fd)
            self._disk.sync_folder(self.folder)
        except BaseException:
            with contextlib.suppress(OSError):
                self._disk.truncate(fd, 0)
            with contextlib.suppress(OSError):
                self._disk.close(fd)
            if all(segment.path != path for segment in self._segments):  # an empty file may hold the last number
                with contextlib.suppress(OSError):
                    self._disk.remove(path)
            raise
        old, self._fd = self._fd, fd
        with self._state:
            self._segments = [segment for segment in self._segments if segment.path != path]
            self._segments.append(_Segment(path, first, count, len(MARK) + len(group)))
        if old is not None:
            with contextlib.suppress(OSError):
                self._disk.close(old)

    def _extend_segment(self, fd: int, group: bytes, count: int) -> None:
        """Write `group` at the end of the last file; on failure it is cut off again, after a failed sync for good."""
        segment = self._segments[-1]
        good = True
        try:
            self._disk.write(fd, group, segment.end)
            good = False  # until it is synced: a failed sync may mark pages clean that never reached the disk
            self._disk.sync(fd)
        except BaseException:
            try:
                self._disk.truncate(fd, segment.end)
            except OSError:
                good = False
            if not good:
                self._fd = None
                with contextlib.suppress(OSError):
                    self._disk.close(fd)
            raise
        with self._state:
            segment.count += count
            segment.end += len(group)

    def _load(self) -> None:
        """Read every file, cut off what a crash tore, and find the last number."""
        paths = sorted(self.folder.glob("*.seg"))
        firsts = [_first_number(path) for path in paths]
        for path, first, following in zip(paths, firsts, [*firsts, None][1:], strict=True):
            self._segments.append(_scan(path, first, following))
        if self._segments:
            self._fd = self._cut_tail(self._segments[-1])
        last, noted = self.last, _read_acknowledged(self.folder)
        if noted > last:
            raise SpoolError(f"the ledger has record {noted} of `{self.folder}`, which ends at {last}: a file is lost")
        self._acknowledged = max(noted, self._segments[0].first - 1 if self._segments else 0)

    def _cut_tail(self, segment: _Segment) -> int:
        """Open the last file for writing, without what a crash left behind its last whole group."""
        size = segment.path.stat().st_size
        if size > segment.end:
            log.warning("cut %d bytes that a crash left behind the last record of %s", size - segment.end, segment.path)
        fd = self._disk.reopen(segment.path)
        if segment.count == 0:
            self._disk.write(fd, MARK, 0)
        self._disk.truncate(fd, segment.end)
        # What a crash left in the page cache alone must last before a record that follows it does.
        self._disk.sync(fd)
        self._disk.sync_folder(self.folder)
        return fd

    def _read_segment(self, segment: _Segment, first: int, last: int) -> Iterator[bytes]:
        """Give the records `first` to `last` of one file, from the group that was read last if that helps."""
        number, offset = segment.first, len(MARK)
        if self._cursor and self._cursor[0] == segment.path and self._cursor[1] <= first:
            _, number, offset = self._cursor
        try:
            with segment.path.open("rb") as file:
                while number <= last:
                    group = read_group(file, offset)
                    if group is None or group.first != number:
                        raise _damaged(segment.path, offset, number)
                    self._cursor = (segment.path, number, offset)
                    yield from group.records[max(first - number, 0) :]
                    number, offset = number + len(group.records), group.end
        except OSError as error:
            raise SpoolError(f"`{segment.path}` cannot be read: {reason(error)}") from None

    async def _flush(self) -> None:
        """Write what waits, again and again, until nothing does."""
        while self._pending:
            batch, self._pending = self._pending, []
            await self._write([item for item in batch if not item[1].done()])

    async def _write(self, batch: Sequence[tuple[Mapping[str, Json], asyncio.Future[int]]]) -> None:
        try:
            last = await asyncio.to_thread(self.append_many, [record for record, _ in batch])
        except UnwritableError as error:
            if len(batch) > 1:  # nothing was written: find the one that is to blame
                for item in batch:
                    await self._write([item])
            else:
                _tell(batch[0][1], error)
        except Exception as error:  # noqa: BLE001  each of those who wait is told
            for _, future in batch:
                _tell(future, error)
        else:
            for number, (_, future) in enumerate(batch, last - len(batch) + 1):
                _tell(future, number)

    def _wake(self) -> None:
        with self._state:
            last = self._segments[-1].last
            ripe = [waiter for waiter in self._waiters if waiter[0] <= last]
        for _, loop, event in ripe:
            with contextlib.suppress(RuntimeError):  # a loop that is closed waits for nothing
                loop.call_soon_threadsafe(event.set)


def _tell(future: asyncio.Future[int], outcome: int | Exception) -> None:
    if future.done():  # whoever asked went away
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _scan(path: Path, first: int, following: int | None) -> _Segment:
    """Find how far a file is whole; raises `SpoolError` where damage stands before what is whole."""
    segment = _Segment(path, first)
    with path.open("rb") as file:
        if file.read(len(MARK)) != MARK and (following is not None or group_behind(file, 0)):
            raise SpoolError(f"`{path}` is damaged at byte 0: it is no file of a spool")
        while following is None or segment.last + 1 < following:
            group = read_group(file, segment.end)
            if group is None or group.first != segment.last + 1:
                break
            segment.count += len(group.records)
            segment.end = group.end
        if group_behind(file, segment.end) if following is None else segment.last + 1 != following:
            raise _damaged(path, segment.end, segment.last + 1)
    return segment


def _damaged(path: Path, offset: int, number: int) -> SpoolError:
    return SpoolError(f"`{path}` is damaged at byte {offset}: record {number} is not as it was written")


def _first_number(path: Path) -> int:
    if not path.stem.isdecimal() or int(path.stem) < 1:
        raise SpoolError(f"`{path}` is no file of a spool: its name must be the number of its first record")
    return int(path.stem)


def _writer(folder: Path, identity: str, disk: Disk) -> str:
    """Read the writer's name, or make one for an empty folder."""
    path = folder / "spool.json"
    try:
        stored = parse(path.read_bytes())
    except FileNotFoundError:
        if any(folder.glob("*.seg")):
            raise SpoolError(f"`{path}` is missing: whose records these are is not known") from None
        writer = f"{identity}#{uuid4()}"
        write_file(disk, path, json.dumps({"v": 1, "writer": writer}).encode())
        disk.sync_folder(folder)
        return writer
    except JsonError as error:
        raise SpoolError(f"`{path}` is damaged: {error}") from None
    name = stored.get("writer") if isinstance(stored, dict) and stored.get("v") == 1 else None
    if not isinstance(name, str):
        raise SpoolError(f"`{path}` is damaged: it names no writer")
    if (owner := name.rpartition("#")[0]) != identity:
        raise SpoolError(f"the spool `{folder}` is of `{owner}`: give `{identity}` a folder of its own")
    return name


def _read_acknowledged(folder: Path) -> int:
    try:
        text = (folder / "acknowledged").read_text("ascii", "replace").strip()
    except FileNotFoundError:
        return 0
    if not text.isdecimal():
        raise SpoolError(f"`{folder / 'acknowledged'}` is damaged: remove it, and the ledger is asked again")
    return int(text)
