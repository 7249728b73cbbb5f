"""The durable journal of records: in a folder of segments, until the ledger has acknowledged them.

Rules: an append is one write of one frame and one fdatasync, and returns only after that; all of it is there after a
crash, or none. Numbers go up by one from 1 and are never used twice. A torn frame at the very end was never answered
for and is cut off when the folder is opened again; damage anywhere else is an error that names file and byte. Data
whose fsync failed is cut away and never synced again: the kernel may have dropped it and say yes the second time.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import threading
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from exequatur import record
from exequatur.trust.canonical import Json

SEGMENT_BYTES: Final = 8 * 2**20
"""When a segment is full: small enough to be removed soon, large enough that opening one is rare."""

SPOOL_BYTES: Final = 2**30
"""How much may wait for the ledger; beyond it appends fail, and so deny. About a million records."""

_FRAME: Final = struct.Struct("<IIQI")
"""Payload bytes, CRC-32 of number, count and payload, number of the first record, count of records."""

_SIZE: Final = struct.Struct("<I")


class SpoolError(Exception):
    """Why records cannot be kept or read: one sentence for whoever runs the daemon."""


@dataclass(slots=True)
class _Segment:
    path: Path
    first: int
    last: int
    size: int


class Spool:
    """One writer's journal in one folder, held by one process. Made by `open`; safe to use from several threads."""

    def __init__(self, folder: Path, writer: str, lock: int, segments: list[_Segment], acknowledged: int) -> None:
        """Take over what `open` has found."""
        self.folder = folder
        self.writer = writer
        self.last = segments[-1].last if segments else acknowledged
        self.acknowledged = acknowledged
        self._lock_file = lock
        self._segments = segments
        self._mutex = threading.RLock()
        self._file: int | None = None
        self._broken: str | None = None
        self._cursor = (0, 0, 0)  # number, offset in its segment, first of the segment
        self._pending: list[tuple[Mapping[str, Json], asyncio.Future[int]]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._waiting: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = []

    @classmethod
    def open(cls, folder: Path, *, identity: str) -> Self:
        """Open or make the journal of `identity` in `folder`; raises `SpoolError`."""
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(lock)
                raise SpoolError(f"`{folder}` is in use by another process") from None
            name = _name(folder)
            acknowledged = _acknowledged(folder)
            segments = _scan(folder, acknowledged)
        except OSError as error:
            raise SpoolError(f"`{error.filename or folder}`: {(error.strerror or str(error)).lower()}") from None
        return cls(folder, f"{identity}#{name}", lock, segments, acknowledged)

    def append_many(self, records: Sequence[Mapping[str, Json]]) -> int:
        """Make `records` durable, all or none, and return the last one's number; raises `SpoolError`."""
        with self._mutex:
            if not records:
                return self.last
            first = self.last + 1
            try:
                payload = b"".join(
                    _SIZE.pack(len(data)) + data
                    for data in (
                        record.encode(item, writer=self.writer, number=first + n) for n, item in enumerate(records)
                    )
                )
            except record.RecordError as error:
                raise SpoolError(str(error)) from None
            self._write(_frame(first, len(records), payload), first + len(records) - 1)
            self.last = first + len(records) - 1
            for number, loop, event in self._waiting:
                if number <= self.last and not loop.is_closed():
                    loop.call_soon_threadsafe(event.set)
            return self.last

    async def append(self, item: Mapping[str, Json]) -> int:
        """Make one record durable; callers that come together share one fsync. Raises `SpoolError`."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._pending.append((item, future))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        return await future

    async def _flush(self) -> None:
        while self._pending:
            batch, self._pending = self._pending, []
            try:
                last = await asyncio.to_thread(self.append_many, [item for item, _ in batch])
            except SpoolError as error:
                for _, future in batch:
                    if not future.cancelled():
                        future.set_exception(SpoolError(str(error)))
            else:
                for behind, (_, future) in enumerate(reversed(batch)):
                    if not future.cancelled():
                        future.set_result(last - behind)
        self._flushing = None

    async def wait_for(self, number: int) -> None:
        """Return once record `number` is there."""
        event = asyncio.Event()
        entry = (number, asyncio.get_running_loop(), event)
        with self._mutex:
            if self.last >= number:
                return
            self._waiting.append(entry)
        try:
            await event.wait()
        finally:
            with self._mutex:
                self._waiting.remove(entry)

    def read(self, first: int, limit: int) -> list[bytes]:
        """Give up to `limit` records from number `first` on; fewer at the end. Raises `SpoolError`."""
        with self._mutex:
            segments = [segment for segment in self._segments if segment.last >= first]
        found: list[bytes] = []
        for segment in segments:
            if len(found) >= limit:
                break
            number, offset, name = self._cursor
            start = offset if name == segment.first and number <= first else 0
            try:
                with segment.path.open("rb") as file:
                    file.seek(start)
                    data = file.read(segment.size - start)
            except OSError as error:
                raise SpoolError(f"`{segment.path}`: {(error.strerror or '').lower()}") from None
            position = 0
            for at, frame_first, payload in _frames(data, segment.path, start):
                if len(found) >= limit:
                    break
                position = at
                self._cursor = (frame_first, start + position, segment.first)
                for n, item in enumerate(_records(payload)):
                    if frame_first + n >= first and len(found) < limit:
                        found.append(item)
        return found

    def acknowledge(self, number: int) -> None:
        """The ledger has everything up to `number`: remember it, and remove whole segments."""
        with self._mutex:
            if not self.acknowledged < number <= self.last:
                return
            temporary = self.folder / "acknowledged.tmp"
            try:
                temporary.write_text(f"{number}\n")
                temporary.replace(self.folder / "acknowledged")
                self.acknowledged = number
                while len(self._segments) > 1 and self._segments[0].last <= number:
                    self._segments[0].path.unlink(missing_ok=True)
                    del self._segments[0]
            except OSError as error:  # it will be sent again, and acknowledged again
                raise SpoolError(f"`{self.folder}`: {(error.strerror or '').lower()}") from None

    def close(self) -> None:
        """Let go of the folder."""
        with self._mutex:
            if self._file is not None:
                os.close(self._file)
                self._file = None
            os.close(self._lock_file)

    def _write(self, frame: bytes, last: int) -> None:
        """Write one frame and sync it, or leave the journal as it was."""
        if self._broken:
            raise SpoolError(self._broken)
        if sum(segment.size for segment in self._segments) + len(frame) > SPOOL_BYTES:
            waiting = self.last - self.acknowledged
            raise SpoolError(f"`{self.folder}` is full: {waiting} records wait for the ledger")
        try:
            segment = self._current()
        except OSError as error:
            raise SpoolError(f"`{self.folder}`: {(error.strerror or '').lower()}") from None
        file = self._file
        if file is None:
            raise RuntimeError("a current segment is open")
        view = memoryview(frame)
        try:
            while view:
                view = view[os.write(file, view) :]
            os.fdatasync(file)
        except OSError as error:
            self._cut(file, segment, unsynced=not view)
            raise SpoolError(f"`{segment.path}`: {(error.strerror or '').lower()}") from None
        segment.size += len(frame)
        segment.last = last

    def _cut(self, file: int, segment: _Segment, *, unsynced: bool) -> None:
        """Take away what was not made durable; a segment whose fsync failed is not written to again."""
        try:
            os.ftruncate(file, segment.size)
            if unsynced:
                os.close(file)
                self._file = None
                if segment.size == 0:
                    segment.path.unlink(missing_ok=True)
                    self._segments.remove(segment)
        except OSError as error:
            self._broken = (
                f"`{segment.path}` could not be mended: {(error.strerror or '').lower()}: restart when it can"
            )

    def _current(self) -> _Segment:
        """The segment to write to; a new one where there is none, or the last one is full or was closed."""
        if self._file is not None and self._segments[-1].size < SEGMENT_BYTES:
            return self._segments[-1]
        if self._file is not None:
            os.close(self._file)
            self._file = None
        first = self.last + 1
        path = self.folder / f"{first:020d}.spool"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _sync_folder(self.folder)
        except OSError:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        self._file = file
        segment = _Segment(path, first, self.last, 0)
        self._segments.append(segment)
        return segment


def _frame(first: int, count: int, payload: bytes) -> bytes:
    check = zlib.crc32(payload, zlib.crc32(struct.pack("<QI", first, count)))
    return _FRAME.pack(len(payload), check, first, count) + payload


def _frames(data: bytes, path: Path, base: int = 0) -> list[tuple[int, int, bytes]]:
    """Split a segment into (offset, first number, payload); raises `SpoolError` naming the byte where it is damaged."""
    frames, at = [], 0
    while at < len(data):
        whole = _read_frame(data, at)
        if whole is None:
            raise SpoolError(f"`{path}` is damaged at byte {base + at}: keep the file, and restore the volume")
        first, payload, size = whole
        frames.append((at, first, payload))
        at += size
    return frames


def _read_frame(data: bytes, at: int) -> tuple[int, bytes, int] | None:
    """Read the frame at `at`: first number, payload, size; None where it is torn or damaged."""
    if len(data) - at < _FRAME.size:
        return None
    size, check, first, count = _FRAME.unpack_from(data, at)
    payload = data[at + _FRAME.size : at + _FRAME.size + size]
    if count < 1 or len(payload) != size:
        return None
    if zlib.crc32(payload, zlib.crc32(struct.pack("<QI", first, count))) != check:
        return None
    return first, payload, _FRAME.size + size


def _records(payload: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(payload):
        (size,) = _SIZE.unpack_from(payload, at)
        found.append(payload[at + _SIZE.size : at + _SIZE.size + size])
        at += _SIZE.size + size
    return found


def _scan(folder: Path, acknowledged: int) -> list[_Segment]:
    """Read every segment, cut a torn end off the last one, and hold the numbers against each other."""
    segments: list[_Segment] = []
    paths = sorted(folder.glob("*.spool"))
    following: int | None = None
    for path in paths:
        data = path.read_bytes()
        at = 0
        name = int(path.stem)
        if following is not None and name != following:
            raise SpoolError(f"`{path}` should begin with record {following}: a segment is missing")
        last = name - 1
        while at < len(data):
            whole = _read_frame(data, at)
            if whole is None:
                if path != paths[-1] or not _is_torn(data, at):
                    raise SpoolError(f"`{path}` is damaged at byte {at}: keep the file, and restore the volume")
                os.truncate(path, at)
                _sync_file(path)
                break
            first, payload, size = whole
            if first != last + 1:
                raise SpoolError(f"`{path}` has record {first} where {last + 1} should be, at byte {at}")
            last = first + len(_records(payload)) - 1
            at += size
        following = last + 1
        if at == 0:
            path.unlink()
        else:
            segments.append(_Segment(path, name, last, at))
    if segments and (segments[0].first > acknowledged + 1 or segments[-1].last < acknowledged):
        raise SpoolError(f"`{folder}` lacks records after {acknowledged}: a segment is missing")
    return segments


def _is_torn(data: bytes, at: int) -> bool:
    """Whether the frame at `at` was being written when we died: it reaches the end, or is nothing but zeros."""
    if len(data) - at < _FRAME.size or not any(data[at:]):
        return True
    size = _FRAME.unpack_from(data, at)[0]
    return at + _FRAME.size + int(size) >= len(data)


def _name(folder: Path) -> str:
    path = folder / "id"
    if path.exists():
        try:
            return str(uuid.UUID(path.read_text().strip()))
        except ValueError:
            raise SpoolError(f"`{path}` is damaged: it must hold the spool's own UUID") from None
    if any(folder.glob("*.spool")):
        raise SpoolError(f"`{path}` is missing, and the folder has records: restore it")
    name = str(uuid.uuid4())
    temporary = folder / "id.tmp"
    temporary.write_text(name + "\n")
    _sync_file(temporary)
    temporary.replace(path)
    _sync_folder(folder)
    return name


def _acknowledged(folder: Path) -> int:
    """What the ledger has; where that was lost, what is certain: records are sent again, and acknowledged again."""
    try:
        return int((folder / "acknowledged").read_text())
    except (FileNotFoundError, ValueError):
        segments = sorted(folder.glob("*.spool"))
        return int(segments[0].stem) - 1 if segments else 0


def _sync_file(path: Path) -> None:
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
