"""Logs for tests: a fixed key, records of any writer, and a log that opens in a line."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from disks import Failing
from exequatur.disk import Disk
from exequatur.record import encode
from exequatur.trust.note import LogKey
from ledger.log import Log

ORIGIN = "example.org/audit"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
LOG_KEY = LogKey(ORIGIN, KEY.public_key())
VERIFIER_KEY = str(LOG_KEY)
NOW = dt.datetime(2026, 1, 5, 10, tzinfo=dt.UTC)
WRITER = "spiffe://example.org/pdp#1"


def records(first: int, count: int, writer: str = WRITER, **members) -> list[bytes]:
    """Records `first` and on of `writer`."""
    kind = {"kind": "decision", "decision_id": "d", "effect": "allow", "tool": "git/git_status", **members}
    return [encode(kind, writer=writer, number=number) for number in range(first, first + count)]


def open_log(folder: Path, disk: Disk | None = None, keys: Sequence[Ed25519PrivateKey] = (KEY,)) -> Log:
    """Open the log in `folder`, on a disk that does not really sync."""
    return Log.open(folder, origin=ORIGIN, keys=keys, now=NOW, disk=disk or Failing())


def make_log(folder: Path, size: int, step: int = 1000) -> Path:
    """Make a log of `size` records of one writer, appended by `step`."""
    log = open_log(folder)
    for first in range(1, size + 1, step):
        log.append(records(first, min(step, size + 1 - first)), NOW)
    log.close()
    return folder
