"""Bundles that follow each other while callers ask all the time, and what must be true of every decision."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from besieged import Besieged, Told, small
from exequatur.trust.bundle import BundleClaims, sign
from exequatur.trust.keys import SigningKey
from stack import until

GRACE = timedelta(seconds=2)
"""How long after a bundle came into force in one worker no decision may be by an older one."""


def follow(target: Besieged, sequence: int, key: SigningKey, files: Mapping[str, bytes] | None = None) -> None:
    """Publish the next bundle, take the one before it away, and wait until it is in force."""
    expires = datetime.now().astimezone() + timedelta(days=1)
    before = list(target.bundles.glob("*.tar.gz"))
    target.put(f"{sequence}.tar.gz", sign(files or small(), key, BundleClaims(sequence, expires)))
    until(lambda: serves(target, sequence), 60, f"service under {sequence}", every_s=0.05)
    for path in before:
        path.unlink()


def serves(target: Besieged, sequence: int) -> bool:
    """Whether all workers say that they serve this sequence."""
    said = target.process.log.read_text()
    return sum(f", sequence {sequence}, as active" in line for line in said.splitlines()) >= len(target.pids) - 1


def outdated(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Give the decisions by a bundle when a newer one had been in force, in some worker, for longer than `GRACE`."""
    began: dict[int, datetime] = {}
    decisions = []
    for record in records:
        at = datetime.fromisoformat(record["time"])
        if record["kind"] == "bundle" and record["event"] == "in_force":
            began[record["sequence"]] = min(at, began.get(record["sequence"], at))
        elif record["kind"] == "decision":
            decisions.append((at, record["sequence"], record["decision_id"]))
    over = {old: min((at for new, at in began.items() if new > old), default=None) for old in began}
    return [name for at, sequence, name in decisions if (end := over[sequence]) is not None and at - end > GRACE]


def misnamed(told: Iterable[Told], records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Give the decisions that named another bundle to their caller than to the record, or that are not on record."""
    known = {record["decision_id"]: record["bundle"] for record in records if record["kind"] == "decision"}
    return [one.decision for one in told if known.get(one.decision) != one.digest]


def digests(told: Iterable[Told]) -> dict[int, set[str]]:
    """Give the digests that answers named, by sequence."""
    found: dict[int, set[str]] = defaultdict(set)
    for one in told:
        found[one.sequence].add(one.digest)
    return dict(found)


def percentile(seconds: Sequence[float], share: float) -> float:
    """Give a percentile, in milliseconds."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000
