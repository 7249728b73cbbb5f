"""What is counted is what happened, under labels that nobody outside can make, and each name is declared once."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
from types import SimpleNamespace

import grpc
import grpc.aio
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from exequatur.identity import expires_at
from exequatur.metrics import Families, Shipped
from exequatur.refusals import Code, Refusal
from exequatur.spool import Spool
from exequatur.transport import Server
from exequatur.v1 import decision_pb2
from injector.metrics import Metrics as InjectorMetrics
from ledger.metrics import Metrics as LedgerMetrics
from pdp.metrics import BundleMetrics
from pdp.metrics import Metrics as WorkerMetrics
from pdp.model import Effect, Reason, ReasonKind
from pki import Authority
from sidecar.metrics import Metrics as SidecarMetrics

ENDS = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"exequatur_{name}", labels)


@pytest.fixture
def spool(tmp_path):
    made = Spool.open(tmp_path / "spool-0", identity="test")
    yield made
    made.close()


def test_each_name_is_declared_once_and_says_what_it_is_in(tmp_path):
    """Two daemons may share a name only for the same thing: an alert asks for both."""
    supervisor, ledger, sidecar, worker = BundleMetrics(["acme"]), LedgerMetrics(), SidecarMetrics(), WorkerMetrics()
    supervisor.keeps(tmp_path, lambda: ENDS)
    ledger.keeps(tmp_path, lambda: ENDS)
    known: dict[str, object] = {}
    every = (worker, supervisor, ledger, sidecar, InjectorMetrics())
    for families in (metrics.families for metrics in every):
        for family in families.listed:
            assert family.name.startswith("exequatur_")
            assert family.meaning.endswith(".")
            assert ("Unix time" in family.meaning) == family.name.endswith("_timestamp_seconds"), family.name
            assert known.setdefault(family.name, dataclasses.replace(family, meaning="")) == dataclasses.replace(
                family, meaning=""
            )
        scraped = {metric.name for metric in families.registry.collect()}
        assert {family.name.removesuffix("_total") for family in families.listed} == scraped
    names = [family.name for families in (worker.families, supervisor.families) for family in families.listed]
    assert len(names) == len(set(names)), "a worker's and the supervisor's are scraped together"


def test_a_first_count_is_a_rise():
    """Prometheus sees none where a series begins at one."""
    for registry in (WorkerMetrics().registry, LedgerMetrics().registry, SidecarMetrics().collected()):
        assert value(registry, "calls_refused_total", status="unauthenticated") == 0
    registry = WorkerMetrics().registry
    for kind in ReasonKind:
        assert value(registry, "decisions_total", effect="deny", kind=kind.name.lower()) == 0
    for door in ("grpc", "mcp_stdio"):
        labels = {"door": door, "effect": "none", "why": "unanswered"}
        assert value(SidecarMetrics().collected(), "sidecar_actions_total", **labels) == 0


def test_every_decision_is_counted_under_labels_that_were_declared():
    metrics = WorkerMetrics()
    declared = next(f for f in metrics.families.listed if f.name == "exequatur_decisions_total").labels
    for effect, kind in itertools.product(Effect, [None, *ReasonKind]):
        reasons = () if kind is None else (Reason(kind, "so"),)
        metrics.decided(SimpleNamespace(effect=effect, reasons=reasons, latency_us=5, errors=()), repeated=False)
    samples = [s for m in metrics.registry.collect() for s in m.samples if s.name == "exequatur_decisions_total"]
    assert sum(sample.value for sample in samples) == len(Effect) * (len(ReasonKind) + 1)
    for name in ("effect", "kind"):
        assert {sample.labels[name] for sample in samples} == set(declared[name])


async def test_each_refused_call_is_counted_by_its_status_and_an_answer_is_not():
    refused = []

    async def handler(message, peer, left):
        if message == b"answer":
            return b"ok"
        if message == b"crash":
            raise RuntimeError("a bug")
        raise Refusal(Code[message.decode()], "no")

    service = decision_pb2.DESCRIPTOR.services_by_name["DecisionService"]
    server = Server({f"/{service.full_name}/Settle": handler}, (service,), refused=refused.append)
    port = server.listen_tcp("127.0.0.1:0", None)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(f"/{service.full_name}/Settle")
            assert await call(b"answer", timeout=30) == b"ok"
            for message in (b"PERMISSION_DENIED", b"crash", b"UNAUTHENTICATED"):
                with pytest.raises(grpc.aio.AioRpcError):
                    await call(message, timeout=30)
    finally:
        await server.stop(0)
    assert refused == [Code.PERMISSION_DENIED, Code.INTERNAL, Code.UNAUTHENTICATED]


def test_the_way_to_the_ledger_is_told_from_the_worst_of_our_spools(spool):
    families = Families()
    shipped, registry = Shipped(families), families.registry
    spool.append_many([{"kind": "bundle"}] * 3)
    fine = SimpleNamespace(failures=0, heard_at=ENDS)
    failing = SimpleNamespace(failures=2, heard_at=None)
    shipped.show([spool], [fine])
    assert value(registry, "spool_backlog_records") == 3
    assert value(registry, "ledger_down") == 0
    assert value(registry, "ledger_acknowledged_timestamp_seconds") == ENDS.timestamp()
    spool.acknowledge(2)
    shipped.show([spool], [fine, failing])
    assert value(registry, "spool_backlog_records") == 1
    assert value(registry, "ledger_down") == 1
    shipped.show([spool], [])
    assert value(registry, "ledger_down") == 0, "who has no ledger has none that fails"


def test_spools_and_their_disk_are_measured_when_they_are_asked_for(tmp_path, spool):
    metrics = BundleMetrics(["acme"])
    metrics.keeps(tmp_path, lambda: ENDS)
    before = value(metrics.registry, "spool_bytes")
    spool.append_many([{"kind": "bundle", "text": "x" * 10_000}])
    assert value(metrics.registry, "spool_bytes") >= before + 10_000
    assert 0 < value(metrics.registry, "disk_free_bytes") <= value(metrics.registry, "disk_size_bytes")
    assert value(metrics.registry, "certificate_expires_timestamp_seconds") == ENDS.timestamp()
    gone = BundleMetrics(["acme"])
    gone.keeps(tmp_path / "gone", None)
    assert value(gone.registry, "disk_free_bytes") == value(gone.registry, "disk_size_bytes") == 0
    assert value(gone.registry, "certificate_expires_timestamp_seconds") is None
    assert b"exequatur_spool_bytes 0.0" in generate_latest(gone.registry)


def test_the_end_of_a_certificate_is_read_from_its_file(tmp_path):
    files = Authority(tmp_path / "tls").issue("ledger", "spiffe://example.org/ledger")
    assert expires_at(files.certificate) > dt.datetime.now(dt.UTC)
    (tmp_path / "none.pem").write_text("none")
    assert expires_at(None) is expires_at(tmp_path / "none.pem") is expires_at(tmp_path / "missing") is None


def test_workers_that_listen_and_those_that_ended_are_counted():
    metrics, listening = BundleMetrics(["acme"]), [0]
    metrics.runs(2, lambda: listening[0])
    assert (value(metrics.registry, "workers"), value(metrics.registry, "workers_wanted")) == (0, 2)
    listening[0] = 2
    metrics.ended()
    assert (value(metrics.registry, "workers"), value(metrics.registry, "worker_ends_total")) == (2, 1)
