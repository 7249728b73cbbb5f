"""What a decision point counts, for Prometheus; over all workers when `PROMETHEUS_MULTIPROC_DIR` is set.

Rules: labels come from closed sets, never from a request; a count is never a condition for anything.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pdp.model import Decision

_LATENCY_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """One worker's metrics, in a registry of their own."""

    def __init__(self) -> None:
        """Register all metrics, so that each has a value before it first changes."""
        self.registry = CollectorRegistry()
        self.decisions = Counter(
            "exequatur_decisions",
            "Decisions by effect and by the kind of their first reason.",
            ("effect", "kind"),
            registry=self.registry,
        )
        self.repeats = Counter(
            "exequatur_repeated_answers", "Answers given again to an idempotency key.", registry=self.registry
        )
        self.calls = Counter(
            "exequatur_calls_refused", "Calls that were not judged, by status.", ("status",), registry=self.registry
        )
        self.latency = Histogram(
            "exequatur_answer_seconds",
            "From a call's arrival to its durable answer.",
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self.judging = Histogram(
            "exequatur_judging_seconds", "Judging one action alone.", buckets=_LATENCY_S, registry=self.registry
        )
        self.batch = Histogram(
            "exequatur_round_calls", "Calls that shared one commit.", buckets=_BATCH, registry=self.registry
        )
        self.races = Counter(
            "exequatur_store_races", "Rounds judged again since another worker was first.", registry=self.registry
        )
        self.store_errors = Counter("exequatur_store_errors", "Rounds that the store failed.", registry=self.registry)
        self.spool_errors = Counter("exequatur_spool_errors", "Rounds that had no record.", registry=self.registry)
        self.engine_errors = Counter(
            "exequatur_engine_errors", "Decisions with an error in their evidence.", registry=self.registry
        )
        self.opa_down = Gauge(
            "exequatur_opa_down",
            "1 where the last question of a worker to its OPA server had no answer.",
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.backlog = Gauge(
            "exequatur_spool_backlog",
            "Records that the ledger has not acknowledged.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.sequence = Gauge(
            "exequatur_bundle_sequence",
            "The lowest sequence number of a bundle in force.",
            registry=self.registry,
            multiprocess_mode="livemin",
        )

    def decided(self, decision: Decision, *, repeated: bool) -> None:
        """Count one decision."""
        kind = decision.reasons[0].kind.name.lower() if decision.reasons else "none"
        self.decisions.labels(decision.effect.name.lower(), kind).inc()
        self.judging.observe(decision.latency_us / 1e6)
        if repeated:
            self.repeats.inc()
        if decision.errors:
            self.engine_errors.inc()
