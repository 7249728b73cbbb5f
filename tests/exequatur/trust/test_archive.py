"""Hostile archives are refused with a word, in little time and memory; honest ones come back as they were."""

from __future__ import annotations

import contextlib
import gzip
import io
import tarfile
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exequatur.trust.archive import BundleLimits, read_tar, unpack, write_archive, write_tar
from exequatur.trust.errors import FormatError, TrustError

FILES = {"a.rego": b"package a", "deep/er/b.json": b"{}", "empty": b""}


def entry(name: str, content: bytes = b"", *, kind: bytes = b"0", **fields) -> bytes:
    """Give a header with its content, whatever the name."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def tar_of(*entries: bytes) -> bytes:
    return b"".join(entries) + bytes(1024)


def refused(data: bytes, words: str, limits: BundleLimits | None = None) -> None:
    with pytest.raises(FormatError, match=words):
        read_tar(unpack(data, limits or BundleLimits()), limits or BundleLimits())


@pytest.mark.parametrize("compress", [bytes, gzip.compress, lambda data: gzip.compress(data, 0)])
def test_a_tar_is_read_plain_or_in_any_gzip(compress):
    assert read_tar(unpack(compress(write_tar(FILES)))) == FILES


def test_what_we_write_others_read():
    with tarfile.open(fileobj=io.BytesIO(write_archive(FILES))) as reader:
        assert [(item.name, item.mtime, item.uid, item.mode) for item in reader] == [
            (name, 0, 0, 0o644) for name in sorted(FILES)
        ]


@pytest.mark.parametrize("size", [0, 1, 0xFFFF - 1024, 0xFFFF, 0x10000, 3 * 0xFFFF])
def test_a_gzip_of_stored_blocks_is_whole_at_each_edge(size):
    content = bytes(range(256)) * (size // 256 + 1)
    files = {"x": content[:size]}
    assert gzip.decompress(write_archive(files)) == write_tar(files)
    assert read_tar(unpack(write_archive(files))) == files


def test_two_writes_give_the_same_bytes():
    assert write_archive(FILES) == write_archive(dict(reversed(FILES.items())))


def test_gnu_headers_folders_and_a_leading_slash_are_read():
    tar = tar_of(entry("/deep/", kind=b"5"), entry("/deep/a", b"1"), entry("b", b"2", kind=b"\0"))
    assert read_tar(tar) == {"deep/a": b"1", "b": b"2"}


def test_a_name_that_needs_the_prefix_field_comes_back():
    name = "/".join(["x" * 40] * 4)
    assert read_tar(write_tar({name: b"1"})) == {name: b"1"}


@pytest.mark.parametrize(
    "name",
    ["../a", "a/../b", "./a", ".", "..", "//a", "a//b", "a b", "a\\b", "é", "a\nb", "a:b", "x" * 101, "", "a/.", "~/*"],
)
def test_a_name_that_leads_elsewhere_or_reads_in_two_ways_is_refused(name):
    with pytest.raises(FormatError):
        write_tar({name: b""})
    for place in ("", "/"):
        with pytest.raises(FormatError) as caught:
            read_tar(tar_of(entry(place + name, b"1")))
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"6", b"7", b"Z", b"\xff"])
def test_links_and_devices_are_refused(kind):
    refused(tar_of(entry("a", kind=kind, linkname="/etc/passwd")), "`a` is not a plain file")


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K", b"S"])
def test_extended_headers_are_refused_however_many(kind):
    refused(tar_of(*[entry("a", b"x" * 200, kind=kind)] * 5_000), "extended headers")


@pytest.mark.parametrize("again", ["a", "/a"])
def test_a_name_twice_is_refused(again):
    refused(tar_of(entry("a", b"1"), entry(again, b"2")), "`a` is there twice")


def test_a_folder_and_a_file_of_one_name_are_refused():
    refused(tar_of(entry("a/", kind=b"5"), entry("a", b"2")), "`a` is there twice")


def test_a_folder_with_content_is_refused():
    refused(tar_of(entry("a/", b"hidden", kind=b"5")), "`a` is a folder that has content")


def test_what_stands_after_the_end_is_refused():
    whole = tar_of(entry("a", b"1"))
    refused(whole + entry("b", b"2"), "bytes after its end, which is after `a`")
    refused(whole + bytes(512) + b"x", "bytes after its end")
    refused(gzip.compress(whole) + b"x" * 8, "bytes after its gzip stream")
    refused(gzip.compress(whole) + b"x", "damaged")
    refused(gzip.compress(whole) + gzip.compress(whole), "bytes after its gzip stream")
    refused(gzip.compress(whole) + bytes(512), "bytes after its gzip stream")


def test_what_hides_behind_a_file_is_refused():
    tar = bytearray(tar_of(entry("a", b"1"), entry("b", b"2")))
    tar[700] = 1
    refused(bytes(tar), "bytes after `a` that belong to no file")


def test_what_is_cut_short_is_refused_wherever_it_is_cut():
    tar = tar_of(entry("a", b"1" * 600), entry("b", b"2"))
    for whole in (tar, gzip.compress(tar)):
        for end in range(len(whole)):
            with pytest.raises(FormatError):
                read_tar(unpack(whole[:end]))


def test_a_gzip_that_never_ends_is_refused_though_its_tar_is_whole():
    tar = tar_of(entry("a", b"1"))
    packer = zlib.compressobj(wbits=31)
    endless = packer.compress(tar) + packer.flush(zlib.Z_SYNC_FLUSH)
    begun = b"\0\x64\0\x9b\xff"  # a block of 100 bytes, not the last one
    for rest in (b"", gzip.compress(tar)[-8:], begun + gzip.compress(tar)[-8:]):
        refused(endless + rest, "cut short|damaged")


def test_a_gzip_whose_checksum_or_length_differs_is_refused():
    data = gzip.compress(write_tar(FILES))
    for at in range(1, 9):
        damaged = bytearray(data)
        damaged[-at] ^= 1
        refused(bytes(damaged), "its checksum differs")


def test_an_empty_archive_is_nothing():
    refused(bytes(1024), "empty")
    refused(tar_of(entry("a/", kind=b"5")), "empty")
    refused(b"", "cut short")


@pytest.mark.parametrize("field", [b"-0000000001\0", b"\x80" + bytes(11), b"\xff" * 12, b"77777777777\0", b"8" * 11])
def test_a_size_that_is_no_size_is_refused(field):
    header = bytearray(entry("a"))
    header[124:136] = field.ljust(12, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    refused(tar_of(bytes(header)), "damaged|cut short")


def test_a_header_that_does_not_add_up_is_refused_and_found():
    refused(tar_of(entry("a", b"1"), entry("b", b"2").replace(b"b", b"c", 1)), "damaged after `a`: byte 1024")
    refused(b"x" * 10240, "at its beginning: byte 0")


def test_a_decompression_bomb_is_stopped_before_it_is_unpacked():
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(100)) + packer.flush()
    tracemalloc.start()
    refused(bomb, "unpacks to more than 67108864 bytes")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150 * 2**20


def test_each_limit_is_exact():
    tar = write_tar(FILES)
    archive = write_archive(FILES)
    limits = BundleLimits(archive_bytes=len(archive), unpacked_bytes=len(tar), files=3)
    assert read_tar(unpack(archive, limits), limits) == FILES
    refused(archive, "at most", BundleLimits(archive_bytes=len(archive) - 1))
    refused(archive, "unpacks to more than", BundleLimits(unpacked_bytes=len(tar) - 1))
    refused(tar, "has more than", BundleLimits(unpacked_bytes=len(tar) - 1))
    refused(tar, "more than 2 files", BundleLimits(files=2))


@given(st.binary(max_size=4000))
@settings(deadline=None)
def test_any_bytes_are_files_or_raise_a_trust_error(data):
    for form in (data, gzip.compress(data), b"\x1f\x8b\x08\x00" + data, tar_of(data[:512].ljust(512, b"\0"))):
        with contextlib.suppress(TrustError):
            assert read_tar(unpack(form))
