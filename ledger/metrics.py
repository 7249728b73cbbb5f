"""What Prometheus may know of the ledger."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ledger.log import Log


class Metrics:
    """Counts of one process."""

    def __init__(self) -> None:
        """Begin at zero."""
        registry = self.registry = CollectorRegistry()
        self.records = Counter("exequatur_ledger_records", "Records appended.", registry=registry)
        self.refused = Counter("exequatur_ledger_refused", "Appends refused, by status.", ("code",), registry=registry)
        self.alarms = Counter(
            "exequatur_ledger_alarms", "Other bytes under a taken number, or a lost end of the log.", registry=registry
        )
        self.failures = Counter(
            "exequatur_ledger_failures", "Reads and writes of the log that failed.", registry=registry
        )
        self.commits = Histogram(
            "exequatur_ledger_commit_seconds",
            "How long a group of appends took to last.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
            registry=registry,
        )
        self._size = Gauge("exequatur_ledger_size", "Records in the log.", registry=registry)
        self._signed = Gauge("exequatur_ledger_checkpoint_time_seconds", "When it was signed last.", registry=registry)

    def watch(self, log: Log) -> None:
        """Ask `log` itself for its size and its newest checkpoint's time."""
        self._size.set_function(lambda: log.size)
        self._signed.set_function(lambda: log.signed_at.timestamp())  # noqa: PLW0108  it changes
