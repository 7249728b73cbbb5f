"""What Prometheus may know of the ledger."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from prometheus_client import CollectorRegistry

from exequatur.metrics import Families
from exequatur.refusals import Code
from ledger.log import Log

_COMMIT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """Counts of one process."""

    def __init__(self) -> None:
        """Begin at zero."""
        families = self.families = Families()
        self.registry: CollectorRegistry = families.registry
        self.records = families.counter("exequatur_ledger_records", "Records appended.")
        self._refused = families.refusals()
        self.alarms = families.alarms()
        self.errors = families.counter(
            "exequatur_ledger_errors", "Reads and writes of the log that failed: no record is taken meanwhile."
        )
        self.commits = families.histogram(
            "exequatur_ledger_commit_seconds", "How long a group of appends took to last.", _COMMIT_S
        )
        self._size = families.gauge("exequatur_ledger_size_records", "Records in the log.")
        self._signed = families.gauge(
            "exequatur_ledger_checkpoint_timestamp_seconds", "When a checkpoint was signed last, Unix time."
        )

    def watch(self, log: Log) -> None:
        """Ask `log` itself for its size and its newest checkpoint's time."""
        self._size.set_function(lambda: log.size)
        self._signed.set_function(lambda: log.signed_at.timestamp())  # noqa: PLW0108  it changes

    def refuse(self, code: Code) -> None:
        """Count a call that got no answer."""
        self._refused.labels(code.name.lower()).inc()

    def keeps(self, folder: Path, certificate_ends: Callable[[], datetime | None] | None) -> None:
        """Tell of the disk of the log's folder, and of when our certificate ends."""
        self.families.disk(folder)
        self.families.expires(certificate_ends)
