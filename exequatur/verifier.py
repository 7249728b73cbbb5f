"""The offline verifier: is a log's folder, to the last byte, what its checkpoint signs, and if not, where.

One file that needs Python and `cryptography`, and shares no code with the ledger that writes: an auditor can read it in
one sitting and run it alone. Formats: C2SP tlog-tiles, tlog-checkpoint and signed-note; trees as RFC 6962 has them.

It goes from what is signed down to what is said, so that the first thing that does not fit is the thing that is wrong:

1. the checkpoint bears a good signature of a key that was given, and that is neither revoked nor over;
2. the hashes at the right edge of each level give its root;
3. each full tile, from the top level down, gives the hash that stands for it above;
4. each entry has the hash that stands for it, and no bytes are left over;
5. each record is strict JSON in canonical form, and each writer's numbers are 1, 2, 3 and so on;
6. a checkpoint that is known from before, if one is given, signs the beginning of this log.

Memory: one tile a level and one bundle, whatever the size of the log. A log that grows meanwhile is no trouble.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_WIDTH: Final = 256
_HASH: Final = 32
_NOTE_BYTES: Final = 64 * 1024
_ED25519: Final = b"\x01"
_SIGNATURE: Final = re.compile("\u2014 ([^\\s+]+) ([A-Za-z0-9+/=]+)")
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,17}")
_TIME: Final = "time "

Progress = Callable[[int, int], None]
"""Told now and then how many entries are done, of how many."""


class _Broken(Exception):  # noqa: N818
    """Something does not fit: where, and what."""

    def __init__(self, where: str, text: str) -> None:
        super().__init__(f"{where}: {text}")
        self.where, self.text = where, text


@dataclass(frozen=True, slots=True)
class Fault:
    """The first thing that is wrong: a file, an entry or a hash of the log, and what is wrong with it."""

    where: str
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. `size` is the checkpoint's, in entries; `writers` has the last number of each that was read."""

    fault: Fault | None
    origin: str = ""
    size: int = 0
    root: bytes = b""
    time: str = ""
    writers: Mapping[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether everything fits."""
        return self.fault is None


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    origin: str
    size: int
    root: bytes
    time: str


@dataclass(frozen=True, slots=True)
class Trusted:
    """A verifier key (C2SP, `name+hash+base64`), what people call it, and until when it is believed, if at all."""

    text: str
    called: str = ""
    not_after: datetime | None = None
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class _Key:
    name: str
    id: bytes
    key: Ed25519PublicKey
    revoked: str  # why nothing that it signed is believed; empty if it is
    over: str  # why nothing that it signs now is believed; empty if it is

    @classmethod
    def of(cls, trusted: Trusted, now: datetime) -> _Key:
        name, _, rest = trusted.text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        try:
            raw = base64.b64decode(encoded, validate=True)
            key = Ed25519PublicKey.from_public_bytes(raw[1:])
        except (ValueError, binascii.Error):
            raise ValueError("a verifier key must read `name+hash+base64` with an Ed25519 key") from None
        made = hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4]
        if raw[:1] != _ED25519 or made.hex() != key_id or not name:
            raise ValueError(f"the verifier key of `{name}` does not have the hash that it claims")
        end, called = trusted.not_after, f"is signed by the key `{trusted.called or made.hex()}`, which"
        over = "" if end is None or now < end else f"{called} was good until {end:%Y-%m-%dT%H:%M:%SZ}"
        return cls(name, made, key, f"{called} is revoked" if trusted.revoked else "", over)


def verify(
    folder: Path,
    keys: str | Sequence[Trusted],
    *,
    known: str | None = None,
    now: datetime | None = None,
    progress: Progress | None = None,
) -> Report:
    """Verify the log in `folder` by a verifier key (C2SP, `name+hash+base64`) or several, and say what is wrong first.

    `known` is an older checkpoint of the same log, as a signed note: a log that does not begin with what it signs was
    cut or rewritten. Nothing else may be signed by a key that is over by `now`. Raises `ValueError` for no such keys.
    """
    given = [Trusted(keys)] if isinstance(keys, str) else keys
    ring = [_Key.of(trusted, now or datetime.now(UTC)) for trusted in given]
    if len({key.name for key in ring}) != 1:
        raise ValueError("the keys must be of one log, and there must be one")
    checkpoint = _Checkpoint("", 0, b"", "")
    writers: dict[str, int] = {}
    fault = None
    try:
        before = None if known is None else _open(known, ring, "the known checkpoint", once=True)
        checkpoint, tiles = _anchor(folder, ring)
        if before is not None:
            _check_size(before, checkpoint)
        tiles.check_upper()
        for entry, where, data in tiles.entries(progress or (lambda _done, _total: None)):
            _check_record(data, f"entry {entry} in {where}", writers)
        if before is not None:
            _check_beginning(before, tiles)
    except _Broken as broken:
        fault = Fault(broken.where, broken.text)
    return Report(fault, checkpoint.origin, checkpoint.size, checkpoint.root, checkpoint.time, writers)


def _check_size(before: _Checkpoint, now: _Checkpoint) -> None:
    if before.size > now.size:
        raise _Broken("checkpoint", f"the log has {now.size} entries and had {before.size}: its end was cut off")


def _check_beginning(before: _Checkpoint, tiles: _Tiles) -> None:
    if before.size and tiles.root_of(0, before.size) != before.root:
        text = f"its first {before.size} entries are not those that the known checkpoint signs: it was rewritten"
        raise _Broken("checkpoint", text)


def _anchor(folder: Path, ring: Sequence[_Key]) -> tuple[_Checkpoint, _Tiles]:
    """Read the checkpoint and the right edge that belongs to it; once more if the log grew in between."""
    note = _read(folder / "checkpoint", "checkpoint")
    while True:
        checkpoint = _open(note.decode("utf-8", "replace"), ring, "checkpoint")
        tiles = _Tiles(folder, checkpoint.size)
        try:
            tiles.read_edge()
        except _Broken:
            again = _read(folder / "checkpoint", "checkpoint")
            if again == note:
                raise
            note = again
            continue
        tiles.check_edge(checkpoint.root)
        return checkpoint, tiles


class _Tiles:
    """The tiles of a log of `size` entries."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = folder, size
        self._levels = max(1, -(-size.bit_length() // 8))
        self._edge: list[list[bytes]] = []
        self._last_bundle = b""
        self._cached: dict[int, tuple[int, list[bytes]]] = {}

    def read_edge(self) -> None:
        """Read what will be replaced when the log grows: the partial tile of each level, the partial bundle."""
        for level in range(self._levels):
            number, width = self._position(level)
            self._edge.append(self._read_tile(level, number, width) if width else [])
        number, width = self._position(0)
        if width:
            where, data = self._read_partial("entries", number, width)
            self._last_bundle = data
            self._last_where = where

    def check_edge(self, wanted: bytes) -> None:
        """Hold the right edge against the checkpoint's root; where it does not fit, find the hash that is to blame."""
        if _edge_root(self._edge) == wanted:
            return
        for level in reversed(range(self._levels)):
            number, width = self._position(level)
            for at in range(width):
                made = self._made(level, number * _WIDTH + at)
                if made is None or made == self._edge[level][at]:
                    continue
                repaired = [list(hashes) for hashes in self._edge]
                repaired[level][at] = made
                if _edge_root(repaired) == wanted:
                    raise _Broken(f"{_name(level, number, width)} hash {at}", "is not the hash of what is below it")
        raise _Broken("checkpoint", "signs another root than the tiles give")

    def check_upper(self) -> None:
        """Hold each full tile above the lowest level against the hash that stands for it, from the top down."""
        for level in reversed(range(1, self._levels)):
            for number in range(self._size >> 8 * (level + 1)):
                self._check_tile(level, number, self._tile(level, number))

    def entries(self, progress: Progress) -> Iterator[tuple[int, str, bytes]]:
        """Give each entry with its number and its bundle, after it was held against its hash."""
        full, width = self._position(0)
        for number in range(full):
            where = _name("entries", number, _WIDTH)
            data = _read(self._folder / where, where)
            tile = self._tile(0, number)
            yield from self._check_bundle(where, number, data, tile, full=True)
            progress((number + 1) * _WIDTH, self._size)
        if width:
            yield from self._check_bundle(self._last_where, full, self._last_bundle, self._edge[0], full=False)
        progress(self._size, self._size)

    def root_of(self, first: int, last: int) -> bytes:
        """The root of a range of entries that is a complete subtree, or ends one: from tiles alone."""
        count = last - first
        if count & (count - 1) or first % count:
            middle = first + (1 << (count - 1).bit_length() - 1)
            return _node(self.root_of(first, middle), self.root_of(middle, last))
        level = (count.bit_length() - 1) // 8
        number, at = divmod(first >> 8 * level, _WIDTH)
        return _root(self._tile(level, number)[at : at + (count >> 8 * level)])

    def _check_bundle(
        self, where: str, number: int, data: bytes, tile: Sequence[bytes], *, full: bool
    ) -> Iterator[tuple[int, str, bytes]]:
        """Hold a bundle against its tile, and a full tile against the hash above it; blame the one that is wrong."""
        found = list(_split(data, len(tile)))
        leaves = [hashlib.sha256(b"\x00" + entry).digest() for _, entry in found]
        if full:
            self._check_tile(0, number, tile)
        if leaves != tile:
            at = next(n for n, wanted in enumerate(tile) if n >= len(leaves) or leaves[n] != wanted)
            start, entry = found[at] if at < len(found) else (len(data), b"")
            text = f"bytes {start} to {start + len(entry)} are not what was signed"
            raise _Broken(f"entry {number * _WIDTH + at} in {where}", text)
        start, entry = found[-1]
        if start + len(entry) != len(data):
            raise _Broken(where, f"bytes {start + len(entry)} to {len(data)} belong to no entry")
        for at, (_, entry) in enumerate(found):
            yield number * _WIDTH + at, where, entry

    def _check_tile(self, level: int, number: int, tile: Sequence[bytes]) -> None:
        """Hold a full tile against the hash that stands for it above, and find the hash in it that is to blame."""
        if _root(tile) == self._tile(level + 1, number // _WIDTH)[number % _WIDTH]:
            return
        name = _name(level, number, _WIDTH)
        for at, stored in enumerate(tile):
            made = self._made(level, number * _WIDTH + at)
            if made is not None and made != stored:
                raise _Broken(f"{name} hash {at}", "is not the hash of what is below it")
        raise _Broken(name, "does not give the hash that stands for it above")

    def _made(self, level: int, at: int) -> bytes | None:
        """Compute a level's hash number `at` from what is below it; None where that cannot be read."""
        try:
            if level:
                return _root(self._read_tile(level - 1, at, _WIDTH))
            number, width = self._position(0)
            if at // _WIDTH == number:
                data = self._last_bundle
            else:
                data, width = _read(self._folder / _name("entries", at // _WIDTH, _WIDTH), ""), _WIDTH
            return hashlib.sha256(b"\x00" + list(_split(data, width))[at % _WIDTH][1]).digest()
        except (_Broken, IndexError):
            return None

    def _tile(self, level: int, number: int) -> list[bytes]:
        """Give a tile: of the right edge, or a full one, of which one a level is kept."""
        if number == self._position(level)[0]:
            return self._edge[level]
        if self._cached.get(level, (-1,))[0] != number:
            self._cached[level] = number, self._read_tile(level, number, _WIDTH)
        return self._cached[level][1]

    def _read_tile(self, level: int, number: int, width: int) -> list[bytes]:
        if width == _WIDTH:
            where = _name(level, number, width)
            data = _read(self._folder / where, where)
        else:
            where, data = self._read_partial(level, number, width)
            data = data[: width * _HASH] if where == _name(level, number, _WIDTH) else data
        if len(data) != width * _HASH:
            raise _Broken(where, f"has {len(data)} bytes, and {width * _HASH} are needed")
        return [data[at : at + _HASH] for at in range(0, len(data), _HASH)]

    def _read_partial(self, kind: int | str, number: int, width: int) -> tuple[str, bytes]:
        """Read a partial tile; where it is gone because the full one is there, that one."""
        where, full = _name(kind, number, width), _name(kind, number, _WIDTH)
        if not (self._folder / where).exists() and (self._folder / full).exists():
            data = _read(self._folder / full, full)
            if kind == "entries":
                ends = [start + len(entry) for start, entry in _split(data, width)]
                data = data[: ends[-1]] if len(ends) == width else data
            return full, data
        return where, _read(self._folder / where, where)

    def _position(self, level: int) -> tuple[int, int]:
        """The number and the width of a level's partial tile."""
        return self._size >> 8 * (level + 1), (self._size >> 8 * level) % _WIDTH


def _open(note: str, ring: Sequence[_Key], where: str, *, once: bool = False) -> _Checkpoint:
    """Verify a signed note and read its checkpoint; only the one spelling that signers write is taken.

    `once`: it was kept when it was good, so that a key that is over by now may have signed it.
    """
    name = ring[0].name
    text, blank, signatures = note.partition("\n\n")
    if not blank or not signatures.endswith("\n") or len(note) > _NOTE_BYTES:
        raise _Broken(where, "is no signed note")
    text += "\n"
    lines = [_SIGNATURE.fullmatch(line) for line in signatures[:-1].split("\n")]
    if not all(lines):
        raise _Broken(where, "has a line among its signatures that is none")
    signers = [key for key in ring if any(_is_signed(text, line[1], line[2], key) for line in lines if line)]
    faults = [key.revoked or ("" if once else key.over) for key in signers]
    if all(faults):
        raise _Broken(where, faults[0] if faults else f"bears no good signature of `{name}`")
    origin, size, encoded, *extensions = [*text[:-1].split("\n"), "", ""]
    root = _base64(encoded)
    if origin != name or not _SIZE.fullmatch(size) or root is None or len(root) != _HASH:
        raise _Broken(where, f"signs something that is no checkpoint of `{name}`")
    time = next((line.removeprefix(_TIME) for line in extensions if line.startswith(_TIME)), "")
    return _Checkpoint(origin, int(size), root, time)


def _is_signed(text: str, name: str, encoded: str, key: _Key) -> bool:
    signature = _base64(encoded)
    if name != key.name or signature is None or signature[:4] != key.id:
        return False
    try:
        key.key.verify(signature[4:], text.encode())
    except InvalidSignature:
        return False
    return True


def _base64(text: str) -> bytes | None:
    """Decode base64, in its one canonical spelling."""
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return None
    return data if base64.b64encode(data).decode() == text else None


def _check_record(data: bytes, where: str, writers: dict[str, int]) -> None:
    """Hold one record against the rules of records, and its number against its writer's last one."""
    try:
        record, _ = _DECODE(data.decode())  # what may follow is not canonical either
    except (ValueError, RecursionError):
        raise _Broken(where, "is not JSON") from None
    if not isinstance(record, dict) or type(record.get("v")) is not int or record["v"] != 1:
        raise _Broken(where, "is no record of version 1")
    writer, number = record.get("writer"), record.get("number")
    if not isinstance(writer, str) or type(number) is not int:
        raise _Broken(where, "bears no writer and number")
    if not _is_canonical(data, record):
        raise _Broken(where, "is not in canonical form: it can be read in two ways")
    if number != writers.get(writer, 0) + 1:
        raise _Broken(where, f"is number {number} of `{writer}`, whose last one was {writers.get(writer, 0)}")
    writers[writer] = number


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODE: Final = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode
_ENCODE: Final = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), check_circular=False
).encode


def _is_canonical(data: bytes, value: Any) -> bool:
    """Whether these are the RFC 8785 bytes of `value`: no name twice, no space, no other order or escape.

    What the standard encoder writes otherwise than RFC 8785 (fractions, names beyond the BMP) is compared without that.
    """
    try:
        if _ENCODE(value).encode() == data:
            return True
        if not _is_odd(value):
            return False
        again = json.loads(data, object_pairs_hook=_refuse_twice)
    except (ValueError, RecursionError):
        return False
    return bool(again == value)


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name is there twice")
    return dict(pairs)


def _is_odd(value: Any) -> bool:
    if isinstance(value, dict):
        return any(max(name, default="") > "\uffff" or _is_odd(item) for name, item in value.items())
    return any(map(_is_odd, value)) if isinstance(value, list) else isinstance(value, float)


def _split(data: bytes, most: int) -> Iterator[tuple[int, bytes]]:
    """Give at most `most` entries of a bundle with the byte at which each starts; one that is cut short ends it."""
    at = 0
    for _ in range(most):
        size = int.from_bytes(data[at : at + 2], "big")
        if at + 2 + size > len(data) or at + 2 > len(data):
            return
        yield at + 2, data[at + 2 : at + 2 + size]
        at += 2 + size


def _read(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise _Broken(where, "is missing") from None
    except OSError as error:
        raise _Broken(where, f"cannot be read: {(error.strerror or str(error)).lower()}") from None


def _name(kind: int | str, number: int, width: int) -> str:
    """A tile's path below the log's folder: `tile/0/x001/x234/067`, and `.p/<width>` behind it if it is partial."""
    digits = str(number)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    *upper, last = (digits[at : at + 3] for at in range(0, len(digits), 3))
    path = "/".join(("tile", str(kind), *(f"x{group}" for group in upper), last))
    return path if width == _WIDTH else f"{path}.p/{width}"


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _root(hashes: Sequence[bytes]) -> bytes:
    """The root over hashes (RFC 6962, section 2.1): neighbours in pairs, the odd one as it is."""
    level = list(hashes)
    while len(level) > 1:
        paired = [_node(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
        level = paired + level[len(paired) * 2 :]
    return level[0]


def _edge_root(edge: Sequence[Sequence[bytes]]) -> bytes:
    """The root of a whole log: each level's hashes, and all that is below them as one more."""
    below: list[bytes] = []
    for hashes in edge:
        if hashes or below:
            below = [_root([*hashes, *below])]
    return below[0] if below else hashlib.sha256(b"").digest()
