"""How the daemons declare what they count, and what those that keep a spool count alike.

Rules: a label's values come from a closed set or from the settings, never from a request, and its declaration says
which; a count is never a condition for anything. `docs/metrics.md` is made from the declarations.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from exequatur.refusals import Code
from exequatur.shipper import Shipper
from exequatur.spool import Spool

Values: TypeAlias = tuple[str, ...] | str
"""Every value that a label may have; or, in words, where its values come from."""

STATUSES: Final = tuple(code.name.lower() for code in Code)
"""The statuses that we refuse calls with."""


@dataclass(frozen=True, slots=True)
class Family:
    """What one metric is: its name as it is scraped, and what its labels may say."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: Mapping[str, Values]


class Families:
    """Metrics in a registry of their own, and the list of what was declared."""

    def __init__(self) -> None:
        """Have none yet."""
        self.registry = CollectorRegistry()
        self.listed: list[Family] = []

    def counter(self, name: str, meaning: str, **labels: Values) -> Counter:
        """Declare a counter; one label with a closed set begins at zero for each, so that a first count is a rise."""
        self.listed.append(Family(f"{name}_total", "counter", meaning, labels))
        made = Counter(name, meaning, tuple(labels), registry=self.registry)
        match list(labels.values()):
            case [tuple(values)]:
                for value in values:
                    made.labels(value)
        return made

    def gauge(
        self, name: str, meaning: str, workers: Literal["livesum", "livemax"] = "livemax", **labels: Values
    ) -> Gauge:
        """Declare a gauge; `workers` says what makes one value of those of several processes."""
        self.listed.append(Family(name, "gauge", meaning, labels))
        return Gauge(name, meaning, tuple(labels), registry=self.registry, multiprocess_mode=workers)

    def histogram(self, name: str, meaning: str, buckets: Sequence[float]) -> Histogram:
        """Declare a histogram."""
        self.listed.append(Family(name, "histogram", meaning, {}))
        return Histogram(name, meaning, buckets=buckets, registry=self.registry)

    def refusals(self) -> Counter:
        """Declare the count of calls that were refused: the same in each daemon."""
        return self.counter("exequatur_calls_refused", "Calls that were refused, by status.", status=STATUSES)

    def alarms(self) -> Counter:
        """Declare the count of alarms: the same in each daemon."""
        return self.counter("exequatur_alarms", "What somebody should look into; the log says what.")

    def expires(self, at: Callable[[], datetime | None] | None) -> None:
        """Declare when the certificate that we show ends, looked up when it is asked for; not where we show none."""
        if at is None:
            return
        meaning = "When the certificate that we show ends, Unix time."
        gauge = self.gauge("exequatur_certificate_expires_timestamp_seconds", meaning)
        gauge.set_function(lambda: ends.timestamp() if (ends := at()) else 0.0)

    def disk(self, folder: Path) -> None:
        """Declare the room on the disk of `folder`, looked up when it is asked for."""
        about = "the disk that records are written to"
        free = self.gauge("exequatur_disk_free_bytes", f"What we may still write to {about}.")
        size = self.gauge("exequatur_disk_size_bytes", f"The size of {about}.")
        free.set_function(lambda: _usage(folder)[0])
        size.set_function(lambda: _usage(folder)[1])

    def keeps(self, folder: Path, spools: str, certificate_ends: Callable[[], datetime | None] | None) -> None:
        """Declare what is kept in `folder`: its disk, the spools' files that a pattern finds, and our certificate."""
        self.disk(folder)
        self.spools(folder, spools)
        self.expires(certificate_ends)

    def spools(self, folder: Path, pattern: str) -> None:
        """Declare how large the files are that `pattern` finds in `folder`, looked up when it is asked for."""
        gauge = self.gauge("exequatur_spool_bytes", "The size of the spools' files; they go as whole files of 8 MiB.")
        gauge.set_function(lambda: _bytes(folder, pattern))


class Shipped:
    """How far what is in our spools has come to the ledger."""

    def __init__(self, families: Families) -> None:
        """Declare them."""
        self._backlog = families.gauge(
            "exequatur_spool_backlog_records", "Records that the ledger has not acknowledged.", "livesum"
        )
        self._down = families.gauge("exequatur_ledger_down", "1 while calls to the ledger fail, or it is not believed.")
        self._heard = families.gauge(
            "exequatur_ledger_acknowledged_timestamp_seconds",
            "When the ledger acknowledged records last, Unix time; 0 before the first time since the start.",
        )

    def show(self, spools: Sequence[Spool], shippers: Sequence[Shipper]) -> None:
        """Say how it stands."""
        self._backlog.set(sum(spool.last - spool.acknowledged for spool in spools))
        self._down.set(int(any(shipper.failures for shipper in shippers)))
        self._heard.set(max((each.heard_at.timestamp() for each in shippers if each.heard_at), default=0.0))


def _usage(folder: Path) -> tuple[float, float]:
    """Give the bytes free and in all; a disk that cannot be asked has no room that we could rely on."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return 0.0, 0.0
    return float(usage.free), float(usage.total)


def _bytes(folder: Path, pattern: str) -> float:
    size = 0
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):  # it was acknowledged in between
            size += path.stat().st_size
    return float(size)
