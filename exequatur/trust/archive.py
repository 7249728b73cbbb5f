"""The container of a bundle: a gzip tar of plain files, read with suspicion and written the same way each time.

Rules: what two readers could see differently is refused (names twice, links, odd paths, bytes after the end); nothing
is unpacked past its limit; two writes of the same files give the same bytes.
"""

from __future__ import annotations

import io
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from exequatur.trust.canonical import quoted
from exequatur.trust.errors import FormatError

_NAME: Final = re.compile(r"[A-Za-z0-9._@+-]+(?:/[A-Za-z0-9._@+-]+)*")
_GZIP: Final = b"\x1f\x8b"
_STORED: Final = 0xFFFF
_TRAILER_BYTES: Final = 8
_BLOCK: Final = 512
_MAGIC: Final = (b"ustar\x0000", b"ustar  \0")
_FOLDER: Final = b"5"
_PLAIN: Final = (b"0", b"\0", _FOLDER)
_EXTENDED: Final = (b"x", b"g", b"X", b"L", b"K", b"N", b"S")


@dataclass(frozen=True, slots=True)
class BundleLimits:
    """How large a bundle may be; sizes in bytes. Ten times the largest that we have seen."""

    archive_bytes: int = 16 * 2**20
    unpacked_bytes: int = 64 * 2**20
    files: int = 10_000
    name_characters: int = 200


LIMITS: Final = BundleLimits()


def unpack(data: bytes, limits: BundleLimits = LIMITS) -> bytes:
    """Give the tar inside a gzip, or a plain tar as it is; raises `FormatError`, also for a decompression bomb."""
    tar = inflate(data, limits)
    check_gzip(data, tar)
    return tar


def inflate(data: bytes, limits: BundleLimits = LIMITS) -> bytes:
    """As `unpack`, but the stream's own checksum is left for later (`check_gzip`).

    That checksum only says that something is damaged; whoever holds a hash of each file can say which.
    """
    if len(data) > limits.archive_bytes:
        raise FormatError(f"the archive has {len(data)} bytes: at most {limits.archive_bytes} are taken")
    if not data.startswith(_GZIP):
        return data
    stream = zlib.decompressobj(wbits=31)
    try:
        tar = stream.decompress(data[:-_TRAILER_BYTES], limits.unpacked_bytes + 1)
        if len(tar) > limits.unpacked_bytes:
            raise FormatError(f"the archive unpacks to more than {limits.unpacked_bytes} bytes")
        stream.decompress(_trailer(tar))  # ours: the stream must want just this, and then be over
    except zlib.error:
        raise FormatError("the gzip stream is damaged") from None
    if not stream.eof:
        raise FormatError("the gzip stream is cut short")
    if stream.unused_data:
        raise FormatError("the archive has bytes after its gzip stream")
    return tar


def check_gzip(data: bytes, tar: bytes) -> None:
    """Hold the checksum and the length at the end of a gzip stream against what came out of it."""
    if data.startswith(_GZIP) and not data.endswith(_trailer(tar)):
        raise FormatError("the gzip stream is damaged: its checksum differs")


def read_tar(tar: bytes, limits: BundleLimits = LIMITS) -> dict[str, bytes]:
    """Give the files of a tar by name, without a leading `/`; raises `FormatError` naming the entry.

    Takes POSIX ustar headers, and GNU's as far as they say the same. `tarfile` is not for hostile bytes: it takes
    the first bad header for the end, recurses once for each extended header, and Python 3.11.7 can be made to loop.
    """
    if len(tar) > limits.unpacked_bytes:
        raise FormatError(f"the archive has more than {limits.unpacked_bytes} bytes")
    files: dict[str, bytes] = {}
    names: set[str] = set()
    for header, content in _entries(tar):
        header.check(limits)
        if header.name in names:
            raise FormatError(f"{quoted(header.name)} is there twice")
        if len(names) >= limits.files:
            raise FormatError(f"the archive has more than {limits.files} files")
        names.add(header.name)
        if header.kind != _FOLDER:
            files[header.name] = content
    if not files:
        raise FormatError("the archive is empty")
    return files


def _entries(tar: bytes) -> Iterator[tuple[_Header, bytes]]:
    """Yield each header with its content; raises `FormatError` saying where, also for what is in no entry."""
    at, where = 0, "at its beginning"
    while any(block := tar[at : at + _BLOCK]):
        try:
            header = _Header.parse(block)
        except ValueError:
            raise FormatError(f"the tar is damaged {where}: byte {at} begins no header") from None
        first, last = at + _BLOCK, at + _BLOCK + header.size
        at, where = last + -header.size % _BLOCK, f"after {quoted(header.name)}"
        yield header, tar[first:last]
        if any(tar[last:at]):
            raise FormatError(f"the tar has bytes {where} that belong to no file")
    if len(tar) - at < 2 * _BLOCK:
        raise FormatError(f"the tar is cut short {where}: its end mark is missing")
    if tar.count(b"\0", at) != len(tar) - at:
        raise FormatError(f"the tar has bytes after its end, which is {where}")


def write_archive(files: Mapping[str, bytes]) -> bytes:
    """Pack `files` into a gzip tar that depends on nothing but them: sorted names, no times, no owners."""
    return store_gzip(write_tar(files))


def write_tar(files: Mapping[str, bytes]) -> bytes:
    """Pack `files` into a tar (ustar) that depends on nothing but them; raises `FormatError` for a name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as writer:
        for name in sorted(files):
            check_name(name)
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(files[name]), 0o644, 0
            try:
                writer.addfile(entry, io.BytesIO(files[name]))
            except ValueError:
                raise FormatError(f"{quoted(name)} is too long a name for a tar") from None
    return out.getvalue()


def check_name(name: str, limits: BundleLimits = LIMITS) -> None:
    """Refuse a name that two readers could take for two files, or that leads out of the bundle."""
    if len(name) > limits.name_characters or not _NAME.fullmatch(name) or {".", ".."} & set(name.split("/")):
        raise FormatError(
            f"{quoted(name)} is not a name that is taken: write archives without `./`, `..` and odd characters"
        )


@dataclass(frozen=True, slots=True)
class _Header:
    """One block before a file (POSIX.1-1988 ustar): its name without a leading `/`, its kind, its size in bytes."""

    name: str
    kind: bytes
    size: int

    @classmethod
    def parse(cls, block: bytes) -> _Header:
        """Read a block of 512 bytes; raises `ValueError`."""
        claimed = _octal(block[148:156])
        if len(block) != _BLOCK or sum(block) - sum(block[148:156]) + 8 * ord(" ") != claimed:
            raise ValueError("checksum")
        magic, prefix = block[257:265], _text(block[345:500])
        if magic not in _MAGIC or (prefix and magic != _MAGIC[0]):
            raise ValueError("magic")
        name = _text(block[:100])
        kind = block[156:157]
        whole = f"{prefix}/{name}" if prefix else name
        if kind == _FOLDER:
            whole = whole.removesuffix("/")
        return cls(whole.removeprefix("/"), kind, _octal(block[124:136]))

    def check(self, limits: BundleLimits) -> None:
        """Refuse whatever is no plain file or folder with a plain name."""
        if self.kind in _EXTENDED:
            raise FormatError("the archive has extended headers: write it as ustar, with names up to 100 characters")
        if self.kind not in _PLAIN:
            raise FormatError(f"{quoted(self.name)} is not a plain file: links and devices are refused")
        check_name(self.name, limits)
        if self.kind == _FOLDER and self.size:
            raise FormatError(f"{quoted(self.name)} is a folder that has content")


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8")


def _octal(field: bytes) -> int:
    digits = field.strip(b" \0")
    if not digits.isdigit():
        raise ValueError("no number")
    return int(digits, 8)


def store_gzip(data: bytes) -> bytes:
    """Wrap `data` in a gzip stream (RFC 1952) of stored blocks (RFC 1951, 3.2.4).

    Compressors differ from machine to machine; stored blocks do not, so that the same files are the same archive
    everywhere, and an archive can be held against what we would write, to the byte.
    """
    blocks = []
    for first in range(0, max(len(data), 1), _STORED):
        block = data[first : first + _STORED]
        size, last = len(block), first + _STORED >= len(data)
        blocks += [bytes([last]), size.to_bytes(2, "little"), (size ^ 0xFFFF).to_bytes(2, "little"), block]
    header = _GZIP + b"\x08\x00" + bytes(4) + b"\x00\xff"
    return b"".join((header, *blocks, _trailer(data)))


def _trailer(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little") + (len(data) % 2**32).to_bytes(4, "little")
