"""The container of a bundle: a gzip tar of plain files, read with suspicion and written the same way each time.

Rules: what two readers could see differently is refused (names twice, links, odd paths, bytes after the end); nothing
is unpacked past its limit; two writes of the same files give the same bytes.
"""

from __future__ import annotations

import io
import re
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from exequatur.trust.errors import FormatError

_NAME: Final = re.compile(r"/?[A-Za-z0-9._@+-]+(?:/[A-Za-z0-9._@+-]+)*")
_GZIP: Final = b"\x1f\x8b"
_BLOCK: Final = 0xFFFF


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
    if len(data) > limits.archive_bytes:
        raise FormatError(f"the archive has {len(data)} bytes: at most {limits.archive_bytes} are taken")
    if not data.startswith(_GZIP):
        return data
    stream = zlib.decompressobj(wbits=31)
    try:
        tar = stream.decompress(data, limits.unpacked_bytes + 1)
    except zlib.error:
        raise FormatError("the gzip stream is damaged") from None
    if len(tar) > limits.unpacked_bytes:
        raise FormatError(f"the archive unpacks to more than {limits.unpacked_bytes} bytes")
    if not stream.eof:
        raise FormatError("the gzip stream is cut short")
    if stream.unused_data:
        raise FormatError("the archive has bytes after its gzip stream")
    return tar


def read_tar(tar: bytes, limits: BundleLimits = LIMITS) -> dict[str, bytes]:
    """Give the files of a tar by name, without a leading `/`; raises `FormatError` naming the entry."""
    if len(tar) > limits.unpacked_bytes:
        raise FormatError(f"the archive has more than {limits.unpacked_bytes} bytes")
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(
            fileobj=io.BytesIO(tar), mode="r:", errorlevel=2, encoding="utf-8", errors="strict"
        ) as reader:
            for entry in reader:
                _check(entry, files, limits)
                if entry.isdir():
                    continue
                content = reader.extractfile(entry)
                files[entry.name.lstrip("/")] = content.read() if content else b""
            end = reader.offset
    except (tarfile.TarError, UnicodeDecodeError, EOFError, ValueError, OverflowError):
        raise FormatError("the tar is damaged") from None
    if tar[end:].strip(b"\0"):
        raise FormatError("the tar has bytes after its end")
    if not files:
        raise FormatError("the archive is empty")
    return files


def write_archive(files: Mapping[str, bytes]) -> bytes:
    """Pack `files` into a gzip tar that depends on nothing but them: sorted names, no times, no owners."""
    return _gzip(write_tar(files))


def write_tar(files: Mapping[str, bytes]) -> bytes:
    """Pack `files` into a tar (ustar) that depends on nothing but them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as writer:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(files[name]), 0o644, 0
            writer.addfile(entry, io.BytesIO(files[name]))
    return out.getvalue()


def _gzip(data: bytes) -> bytes:
    """Wrap `data` in a gzip stream (RFC 1952) of stored blocks (RFC 1951, 3.2.4).

    Compressors differ from machine to machine; stored blocks do not, so that the same files are the same archive
    everywhere, and an archive can be held against what we would write, to the byte.
    """
    blocks = []
    for first in range(0, max(len(data), 1), _BLOCK):
        block = data[first : first + _BLOCK]
        size, last = len(block), first + _BLOCK >= len(data)
        blocks += [bytes([last]), size.to_bytes(2, "little"), (size ^ 0xFFFF).to_bytes(2, "little"), block]
    header = _GZIP + b"\x08\x00" + bytes(4) + b"\x00\xff"
    trailer = zlib.crc32(data).to_bytes(4, "little") + (len(data) % 2**32).to_bytes(4, "little")
    return b"".join((header, *blocks, trailer))


def _check(entry: tarfile.TarInfo, files: Mapping[str, bytes], limits: BundleLimits) -> None:
    name = entry.name
    shown = ascii(name[: limits.name_characters])[1:-1]
    if not entry.isreg() and not entry.isdir():
        raise FormatError(f"`{shown}` is not a plain file: links and devices are refused")
    if entry.pax_headers or entry.issparse():
        raise FormatError(f"`{shown}` carries extended headers: write the archive as ustar")
    if len(name) > limits.name_characters or not _NAME.fullmatch(name) or {".", ".."} & set(name.split("/")):
        raise FormatError(
            f"`{shown}` is not a name that is taken: write archives without `./`, `..` and odd characters"
        )
    if name.lstrip("/") in files:
        raise FormatError(f"`{shown}` is there twice")
    if len(files) >= limits.files:
        raise FormatError(f"the archive has more than {limits.files} files")
