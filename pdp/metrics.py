"""What a decision point counts, for Prometheus; over all workers when `PROMETHEUS_MULTIPROC_DIR` is set.

Rules: labels come from closed sets or from the settings, never from a request; a count is never a condition for
anything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from pdp.model import Decision

_LATENCY_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)

STATES: Final = ("serving", "stale", "expired", "withdrawn", "none")
"""What may become of a tenant's policy."""

LOOKS: Final = ("found", "same", "fault")
"""What a look for a newer bundle may give."""


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
        self.trials = Counter(
            "exequatur_trial",
            "Answers of a candidate beside those of the policy in force.",
            ("tenant", "result"),
            registry=self.registry,
        )

    def tried(self, tenant: str, result: str) -> None:
        """Count one answer of a candidate."""
        self.trials.labels(tenant, result).inc()

    def decided(self, decision: Decision, *, repeated: bool) -> None:
        """Count one decision."""
        kind = decision.reasons[0].kind.name.lower() if decision.reasons else "none"
        self.decisions.labels(decision.effect.name.lower(), kind).inc()
        self.judging.observe(decision.latency_us / 1e6)
        if repeated:
            self.repeats.inc()
        if decision.errors:
            self.engine_errors.inc()


class BundleMetrics:
    """What the supervisor counts of each tenant's bundles."""

    def __init__(self, tenants: Collection[str]) -> None:
        """Register all metrics, with a value for each of the tenants."""
        self.registry = CollectorRegistry()
        self._sequence = self._gauge("sequence", "The sequence number of the bundle in force.")
        self._expires = self._gauge("expires_seconds", "When the bundle in force expires, Unix time.")
        self._confirmed = self._gauge("confirmed_seconds", "When its source last said what is newest, Unix time.")
        self._state = Gauge(
            "exequatur_bundle_state",
            "1 for what has become of a tenant's policy, 0 for what has not.",
            ("tenant", "state"),
            registry=self.registry,
        )
        self._looks = self._counter("looks", "Looks for a newer bundle, by what they gave.", "result")
        self._refused = self._counter("refused", "Bundles that were refused.")
        self._activations = self._counter("activations", "Bundles that came into force.")
        self._alarms = Counter("exequatur_bundle_alarms", "What somebody should look into.", registry=self.registry)
        for tenant in tenants:
            self.stands(tenant, "none")
            self._refused.labels(tenant)
            self._activations.labels(tenant)
            for result in LOOKS:
                self._looks.labels(tenant, result)

    def looked(self, tenant: str, result: str) -> None:
        """Count a look."""
        self._looks.labels(tenant, result).inc()

    def refused(self, tenant: str) -> None:
        """Count a refusal."""
        self._refused.labels(tenant).inc()

    def activated(self, tenant: str, sequence: int, expires_at: datetime) -> None:
        """Count a bundle that is in force now."""
        self._activations.labels(tenant).inc()
        self._sequence.labels(tenant).set(sequence)
        self._expires.labels(tenant).set(expires_at.timestamp())

    def confirmed(self, tenant: str, at: datetime) -> None:
        """Say when a tenant's source was last heard."""
        self._confirmed.labels(tenant).set(at.timestamp())

    def stands(self, tenant: str, state: str) -> None:
        """Say what has become of a tenant's policy."""
        for each in STATES:
            self._state.labels(tenant, each).set(int(each == state))

    def alarmed(self) -> None:
        """Count an alarm."""
        self._alarms.inc()

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"exequatur_bundle_{name}", text, ("tenant",), registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"exequatur_bundle_{name}", text, ("tenant", *labels), registry=self.registry)


class Together:
    """Collects what all workers have counted, from their `folder`, and what the supervisor has."""

    def __init__(self, folder: str, ours: CollectorRegistry) -> None:
        """Collect from `folder` and from `ours`."""
        self._workers = MultiProcessCollector(None, folder)  # type: ignore[no-untyped-call]
        self._ours = ours

    def collect(self) -> Iterable[Metric]:
        """Give every metric."""
        yield from self._workers.collect()  # type: ignore[no-untyped-call]
        yield from self._ours.collect()

    def trials(self, tenant: str) -> dict[str, int]:
        """Give how often a tenant's candidates have compared with what was in force, by result."""
        return {
            sample.labels["result"]: int(sample.value)
            for metric in self._workers.collect()  # type: ignore[no-untyped-call]
            if metric.name == "exequatur_trial"
            for sample in metric.samples
            if sample.labels["tenant"] == tenant
        }
