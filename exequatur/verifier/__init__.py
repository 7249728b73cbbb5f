"""The offline verifier: is a log's folder, to the last byte, what its checkpoint signs, and if not, where.

This folder needs Python and `cryptography`, and shares no code with the ledger that writes: an auditor can read it in
one sitting, and run a copy of it without the rest of us. Formats: C2SP tlog-tiles, tlog-checkpoint and signed-note;
trees as RFC 6962 has them.

It goes from what is signed down to what is said, so that the first thing that does not fit is the thing that is wrong:

1. the checkpoint bears a good signature of a key that was given, and that is neither revoked nor over (`note.py`);
2. the hashes at the right edge of each level give its root (this and the next two: `tiles.py`);
3. each full tile, from the top level down, gives the hash that stands for it above;
4. each entry has the hash that stands for it, and no bytes are left over;
5. each record is strict JSON in canonical form, and each writer's numbers are 1, 2, 3 and so on (`records.py`);
6. a checkpoint that is known from before, if one is given, signs the beginning of this log.

Memory: one tile a level and one bundle, whatever the size of the log. A log that grows meanwhile is no trouble.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from .broken import Broken, read
from .note import Checkpoint, Key, Trusted, open_note
from .records import check_record
from .tiles import Progress, Tiles

__all__ = ["Fault", "Progress", "Report", "Trusted", "verify"]


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
    ring = [Key.of(trusted, now or datetime.now(UTC)) for trusted in given]
    if len({key.name for key in ring}) != 1:
        raise ValueError("the keys must be of one log, and there must be one")
    checkpoint = Checkpoint("", 0, b"", "")
    writers: dict[str, int] = {}
    fault = None
    try:
        before = None if known is None else open_note(known, ring, "the known checkpoint", once=True)
        checkpoint, tiles = _anchor(folder, ring)
        if before is not None:
            _check_size(before, checkpoint)
        tiles.check_upper()
        for entry, where, data in tiles.entries(progress or (lambda _done, _total: None)):
            check_record(data, f"entry {entry} in {where}", writers)
        if before is not None:
            _check_beginning(before, tiles)
    except Broken as broken:
        fault = Fault(broken.where, broken.text)
    return Report(fault, checkpoint.origin, checkpoint.size, checkpoint.root, checkpoint.time, writers)


def _check_size(before: Checkpoint, now: Checkpoint) -> None:
    if before.size > now.size:
        raise Broken("checkpoint", f"the log has {now.size} entries and had {before.size}: its end was cut off")


def _check_beginning(before: Checkpoint, tiles: Tiles) -> None:
    if before.size and tiles.root_of(0, before.size) != before.root:
        text = f"its first {before.size} entries are not those that the known checkpoint signs: it was rewritten"
        raise Broken("checkpoint", text)


def _anchor(folder: Path, ring: Sequence[Key]) -> tuple[Checkpoint, Tiles]:
    """Read the checkpoint and the right edge that belongs to it; once more if the log grew in between."""
    note = read(folder / "checkpoint", "checkpoint")
    while True:
        checkpoint = open_note(note.decode("utf-8", "replace"), ring, "checkpoint")
        tiles = Tiles(folder, checkpoint.size)
        try:
            tiles.read_edge()
        except Broken:
            again = read(folder / "checkpoint", "checkpoint")
            if again == note:
                raise
            note = again
            continue
        tiles.check_edge(checkpoint.root)
        return checkpoint, tiles
