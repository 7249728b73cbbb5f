"""Changes of the container: its bytes, its compression, its tar."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import zlib

from exequatur.trust.archive import write_tar
from mutations import (
    BLOCK,
    Published,
    damaged,
    trick,
)
from signing import gzipped

# The bytes


@trick
def flipped_bits_of_the_archive(base: Published, chance: random.Random) -> bytes:
    return damaged(base.good, chance)


@trick
def flipped_bits_of_the_tar(base: Published, chance: random.Random) -> bytes:
    return gzipped(damaged(base.tar, chance))


@trick
def a_cut_archive(base: Published, chance: random.Random) -> bytes:
    return base.good[: chance.randrange(len(base.good))]


@trick
def a_cut_tar(base: Published, chance: random.Random) -> bytes:
    return gzipped(base.tar[: chance.randrange(len(base.tar))])


@trick
def bytes_moved_inside_the_tar(base: Published, chance: random.Random) -> bytes:
    while True:
        to, source, size = (chance.randrange(len(base.tar)) for _ in range(3))
        moved = base.tar[:to] + base.tar[source : source + size % 1200] + base.tar[to:]
        moved = moved[: len(base.tar)] if chance.random() < 0.5 else moved
        if moved != base.tar:
            return gzipped(moved)


@trick
def bytes_after_the_archive(base: Published, chance: random.Random) -> bytes:
    more = chance.choice([b"\0", bytes(512), base.good, b"\n", gzipped(b""), chance.randbytes(chance.randint(1, 40))])
    return base.good + more


@trick
def bytes_before_the_archive(base: Published, chance: random.Random) -> bytes:
    return chance.choice([b"\0", gzipped(b""), gzipped(bytes(1024)), b"\xef\xbb\xbf", chance.randbytes(8)]) + base.good


@trick
def another_compression(base: Published, chance: random.Random) -> bytes:
    raw = zlib.compressobj(chance.randrange(10), zlib.DEFLATED, -15)
    return chance.choice(
        [
            lambda: gzip.compress(base.tar, chance.randrange(10), mtime=0),
            lambda: gzip.compress(base.tar, chance.randrange(10), mtime=chance.randrange(2**32)),
            lambda: zlib.compress(base.tar, chance.randrange(10)),
            lambda: raw.compress(base.tar) + raw.flush(),
            lambda: bz2.compress(base.tar),
            lambda: lzma.compress(base.tar, preset=0),
            lambda: gzipped(base.good),
        ]
    )()


@trick
def another_gzip_header(base: Published, chance: random.Random) -> bytes:
    head, rest = bytearray(base.good[:10]), base.good[10:]
    flag, extra = chance.choice([(2, b""), (4, b"\2\0ab"), (8, b"name\0"), (16, b"note\0"), (32, b""), (0, b"")])
    head[3] = flag
    if flag == 2:
        extra = (zlib.crc32(bytes(head)) & 0xFFFF).to_bytes(2, "little")
    if flag == 0 or chance.random() < 0.3:
        head[chance.choice([4, 5, 6, 7, 8])] ^= chance.randint(1, 255)
    return bytes(head) + extra + rest


@trick
def two_gzip_members(base: Published, chance: random.Random) -> bytes:
    at = chance.randrange(len(base.tar) + 1)
    return gzipped(base.tar[:at]) + gzipped(base.tar[at:])


@trick
def a_gzip_that_does_not_add_up(base: Published, chance: random.Random) -> bytes:
    return base.good[:-8] + damaged(base.good[-8:], chance)


# The tar

HEADER = write_tar({"x": b""})[:BLOCK]


def entry(name: str, content: bytes = b"", kind: bytes = b"0", **fields: bytes) -> bytes:
    """Write one entry with any fields, and a good checksum unless `checksum` is given."""
    header = bytearray(HEADER)
    header[:100] = name.encode()[:100].ljust(100, b"\0")
    header[124:136] = b"%011o\0" % len(content)
    header[156:157] = kind
    places = {"mode": 100, "uid": 108, "gid": 116, "size": 124, "mtime": 136, "link": 157, "magic": 257, "prefix": 345}
    for field, value in fields.items():
        header[places[field] : places[field] + len(value)] = value
    return bytes(resummed(header)) + content + bytes(-len(content) % BLOCK)


def resummed(header: bytearray) -> bytearray:
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
    return header


def entries(files: dict[str, bytes]) -> list[bytes]:
    return [entry(name, files[name]) for name in sorted(files)]


def tarred(parts: list[bytes], end: int = 2) -> bytes:
    tar = b"".join(parts) + bytes(BLOCK * end)
    return tar + bytes(-len(tar) % 10240)


@trick
def a_second_entry_of_a_name(base: Published, chance: random.Random) -> bytes:
    name = chance.choice(sorted(base.files))
    content = chance.choice([base.files[name], b"", b"{}", damaged(base.files[name], chance)])
    parts = entries(base.files)
    parts.insert(chance.randrange(len(parts) + 1), entry(chance.choice([name, "./" + name, "/" + name]), content))
    return gzipped(tarred(parts))


@trick
def an_entry_of_another_kind(base: Published, chance: random.Random) -> bytes:
    kind = chance.choice([*b"1234567xgXLKNSDVMA \xff"]).to_bytes()
    name = chance.choice(["evil.rego", "d/evil", *sorted(base.files)])
    extra = entry(name, chance.choice([b"", b"18 path=evil.rego\n", b"x" * 600]), kind, link=b"/etc/passwd")
    parts = entries(base.files)
    parts.insert(chance.randrange(len(parts) + 1), extra)
    return gzipped(tarred(parts))


@trick
def a_name_that_leads_elsewhere(base: Published, chance: random.Random) -> bytes:
    name = chance.choice(sorted(base.files))
    spelt = chance.choice(
        [
            *(
                "./{}",
                "../{}",
                "/../{}",
                "d/../{}",
                "d//{}",
                "{}/",
                "{} ",
                " {}",
                "{}\\",
                "D/{}",
                "{}\u200b",
                "C:{}",
                "~/{}",
            ),
            *(
                "{}%00",
                "é/{}",
                "d/./{}",
                "{}/.",
                "//{}",
                "\u202e{}",
                "{}\n",
                "-{}/x",
                "\t{}",
            ),
        ]
    ).format(name)
    return gzipped(tarred([entry(spelt if item == name else item, base.files[item]) for item in sorted(base.files)]))


@trick
def a_name_split_into_prefix_and_name(base: Published, chance: random.Random) -> bytes:
    name = chance.choice(["d/decision.rego", *sorted(base.files)])
    folder, _, last = name.rpartition("/")
    prefix = chance.choice([folder, ".", "d", "x" * 155, "/"]).encode() or b"."
    parts = [
        entry(last, base.files[item], prefix=prefix) if item == name else entry(item, base.files[item])
        for item in sorted(base.files)
    ]
    return gzipped(tarred(parts))


@trick
def another_size(base: Published, chance: random.Random) -> bytes:
    name = chance.choice(sorted(base.files))
    real = len(base.files[name])
    size = chance.choice(
        [
            *(b"77777777777\0", b"\x80" + bytes(10) + b"\x01", b"\xff" * 12, b"-0000000001\0", b"00000000000\0"),
            *(
                b"%011o\0" % (real + chance.randint(1, 2000)),
                b"%011o\0" % max(0, real - chance.randint(1, real)),
            ),
            *(
                b"%d" % real + b" " * 6,
                b"0x%x" % real + bytes(4),
                bytes(12),
                b" " * 12,
                b"%o" % real + bytes(6),
            ),
        ]
    )[:12]
    parts = [
        entry(item, base.files[item], size=size) if item == name else entry(item, base.files[item])
        for item in sorted(base.files)
    ]
    return gzipped(tarred(parts))


@trick
def another_field_of_a_header(base: Published, chance: random.Random) -> bytes:
    tar = bytearray(base.tar)
    at = headers(base)[chance.choice(sorted(base.files))]
    first, last = chance.choice([(100, 124), (136, 148), (157, 257), (265, 345), (500, 512)])
    tar[at + chance.randrange(first, last)] ^= chance.randint(1, 255)
    tar[at : at + BLOCK] = resummed(tar[at : at + BLOCK])
    return gzipped(bytes(tar))


@trick
def another_magic_or_checksum(base: Published, chance: random.Random) -> bytes:
    tar = bytearray(base.tar)
    at = headers(base)[chance.choice(sorted(base.files))]
    if chance.random() < 0.5:
        tar[at + 257 : at + 265] = chance.choice([b"ustar  \0", bytes(8), b"ustar\x0001", b"USTAR\x0000", b"GNUtar \0"])
        tar[at : at + BLOCK] = resummed(tar[at : at + BLOCK])
    else:
        right = int(bytes(tar[at + 148 : at + 154]), 8)
        forms = [
            b"%o\0" % right,
            b"%07o\0" % right,
            b"%o " % right,
            b"%06o \0" % right,
            b"%08o" % right,
            b" %o \0" % right,
        ]
        tar[at + 148 : at + 156] = chance.choice(forms)[:8].ljust(8, b" ")
    return gzipped(bytes(tar)) if bytes(tar) != base.tar else gzipped(bytes(tar) + bytes(BLOCK))


@trick
def something_in_the_padding(base: Published, chance: random.Random) -> bytes:
    tar = bytearray(base.tar)
    name = chance.choice(sorted(base.files))
    last = headers(base)[name] + BLOCK + len(base.files[name])
    room = -len(base.files[name]) % BLOCK
    tar[last + chance.randrange(room) if room else -1] = chance.randint(1, 255)
    return gzipped(bytes(tar))


@trick
def another_end(base: Published, chance: random.Random) -> bytes:
    body = base.tar.rstrip(b"\0")
    body += bytes(-len(body) % BLOCK)
    blocks = chance.choice([0, 1, 2, 3, 5, 40, 200])
    tail = chance.choice([b"", b"", entry("evil.rego", b"package evil"), base.tar, b"x"])
    changed = body + bytes(BLOCK * blocks) + tail
    return gzipped(changed if changed != base.tar else changed + bytes(BLOCK))


@trick
def entries_in_another_order(base: Published, chance: random.Random) -> bytes:
    names = sorted(base.files)
    while names == sorted(base.files):
        chance.shuffle(names)
    return gzipped(tarred([entry(name, base.files[name]) for name in names]))


@trick
def folders_between(base: Published, chance: random.Random) -> bytes:
    parts = entries(base.files)
    folder = chance.choice(["d/", "d", "e/", ".", "./", "data.json/"])
    parts.insert(chance.randrange(len(parts) + 1), entry(folder, kind=b"5"))
    return gzipped(tarred(parts))


def headers(base: Published) -> dict[str, int]:
    """Where each entry begins."""
    found, at = {}, 0
    for name in sorted(base.files):
        found[name] = at
        at += BLOCK + len(base.files[name]) + -len(base.files[name]) % BLOCK
    return found
