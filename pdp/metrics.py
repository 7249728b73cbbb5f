"""What a decision point counts, for Prometheus; over all workers when `PROMETHEUS_MULTIPROC_DIR` is set.

Rules: those of `exequatur.metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from exequatur.metrics import Families, Shipped
from exequatur.refusals import Code
from pdp.model import Decision, Effect, ReasonKind

_LATENCY_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)

STATES: Final = ("serving", "stale", "expired", "withdrawn", "none")
"""What may become of a tenant's policy."""

LOOKS: Final = ("found", "same", "fault")
"""What a look for a newer bundle may give."""

COMPARED: Final = ("same", "stricter", "looser", "error", "skipped")
"""How a candidate's answer may compare with the one in force; `skipped`: it was not asked, for want of time."""

EFFECTS: Final = tuple(effect.name.lower() for effect in Effect)
KINDS: Final = (*(kind.name.lower() for kind in ReasonKind), "none")
TENANTS: Final = "the tenants in the settings"


class Metrics:
    """One worker's metrics, in a registry of their own."""

    def __init__(self) -> None:
        """Register all metrics, so that each has a value before it first changes."""
        families = self.families = Families()
        self.registry: CollectorRegistry = families.registry
        self.decisions = families.counter(
            "exequatur_decisions",
            "Decisions by effect and by the kind of their first reason.",
            effect=EFFECTS,
            kind=KINDS,
        )
        for kind in KINDS:  # or the first of a kind, which is the one to look into, would not be seen as a rise
            self.decisions.labels("deny", kind)
        self.repeats = families.counter(
            "exequatur_repeated_answers", "Answers given again to an idempotency key; no decision is counted twice."
        )
        self.calls = families.refusals()
        self.latency = families.histogram(
            "exequatur_answer_seconds", "From a call's arrival to its durable answer.", _LATENCY_S
        )
        self.judging = families.histogram("exequatur_judging_seconds", "Judging one action alone.", _LATENCY_S)
        self.batch = families.histogram("exequatur_round_calls", "Calls that shared one commit.", _BATCH)
        self.races = families.counter("exequatur_store_races", "Rounds judged again since another worker was first.")
        self.store_errors = families.counter(
            "exequatur_store_errors", "Rounds that the store failed: everything in them was denied."
        )
        self.spool_errors = families.counter(
            "exequatur_spool_errors", "Rounds that had no record: everything in them was denied."
        )
        self.engine_errors = families.counter(
            "exequatur_engine_errors", "Decisions with an error in their evidence: each is a denial."
        )
        self.opa_down = families.gauge(
            "exequatur_opa_down", "1 where the last question of a worker to its OPA server had no answer."
        )
        self.shipped = Shipped(families)
        self.trials = families.counter(
            "exequatur_trial_answers",
            "Answers of a candidate beside those of the policy in force.",
            tenant=TENANTS,
            result=COMPARED,
        )

    def tried(self, tenant: str, result: str) -> None:
        """Count one answer of a candidate."""
        self.trials.labels(tenant, result).inc()

    def refused(self, code: Code) -> None:
        """Count a call that got no answer."""
        self.calls.labels(code.name.lower()).inc()

    def decided(self, decision: Decision, *, repeated: bool) -> None:
        """Count one decision, or that it was given again."""
        if repeated:
            self.repeats.inc()
            return
        kind = decision.reasons[0].kind.name.lower() if decision.reasons else "none"
        self.decisions.labels(decision.effect.name.lower(), kind).inc()
        self.judging.observe(decision.latency_us / 1e6)
        if decision.errors:
            self.engine_errors.inc()


class BundleMetrics:
    """What the supervisor counts: of each tenant's bundles, of its workers, of its disk."""

    def __init__(self, tenants: Collection[str]) -> None:
        """Register all metrics, with a value for each of the tenants."""
        self.families = Families()
        self.registry: CollectorRegistry = self.families.registry
        self._sequence = self._gauge("sequence", "The sequence number of the bundle in force.")
        self._expires = self._gauge("expires_timestamp_seconds", "When the bundle in force expires, Unix time.")
        self._confirmed = self._gauge(
            "confirmed_timestamp_seconds", "When its source last said what is newest, Unix time."
        )
        self._state = self.families.gauge(
            "exequatur_bundle_state",
            "1 for what has become of a tenant's policy, 0 for what has not.",
            tenant=TENANTS,
            state=STATES,
        )
        self._looks = self.families.counter(
            "exequatur_bundle_looks", "Looks for a newer bundle, by what they gave.", tenant=TENANTS, result=LOOKS
        )
        self._refused = self._counter("refused", "Bundles that were refused.")
        self._activations = self._counter("activations", "Bundles that came into force.")
        self._alarms = self.families.alarms()
        self._workers = self.families.gauge("exequatur_workers", "Workers that listen.")
        self._wanted = self.families.gauge("exequatur_workers_wanted", "Workers that the settings ask for.")
        self._deaths = self.families.counter("exequatur_worker_ends", "Workers' processes that have ended.")
        for tenant in tenants:
            self.stands(tenant, "none")
            self._refused.labels(tenant)
            self._activations.labels(tenant)
            for result in LOOKS:
                self._looks.labels(tenant, result)

    def runs(self, wanted: int, listening: Callable[[], int]) -> None:
        """Ask `listening` how many of the `wanted` workers listen, whenever it is asked for."""
        self._wanted.set(wanted)
        self._workers.set_function(listening)

    def keeps(self, state: Path, certificate_ends: Callable[[], datetime | None] | None) -> None:
        """Tell of the disk of the folder `state` and the spools in it, and of when our certificate ends."""
        self.families.keeps(state, "spool-*/*.seg", certificate_ends)

    def ended(self) -> None:
        """Count a worker's process that has ended."""
        self._deaths.inc()

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

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return self.families.gauge(f"exequatur_bundle_{name}", meaning, tenant=TENANTS)

    def _counter(self, name: str, meaning: str) -> Counter:
        return self.families.counter(f"exequatur_bundle_{name}", meaning, tenant=TENANTS)


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
            if metric.name == "exequatur_trial_answers"
            for sample in metric.samples
            if sample.labels["tenant"] == tenant
        }
