"""A fleet as the chart renders it, run by `pods.py`: ledger, decision points on PostgreSQL, Envoys, injected agents.

What the chart asks a cluster for is made here: certificates, the bundle and its keys, the ledger's key, the database.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

import bank
import postgres
from envoy import Service
from exequatur.client import Client, Tls
from exequatur.transport import TlsFiles
from exequatur.trust.bundle import BundleClaims, sign
from exequatur.trust.keys import generate, load_log_key
from exequatur.trust.note import LogKey
from helm import CHART, Object, Objects, objects, render
from injector.catalogue import read_catalogue
from injector.patch import inject
from pdp.bundle.build import build, find_opa
from pki import Authority
from pods import Pod, World, our_image, pod_of, world

RELEASE, TEAM = "exequatur", "team-a"
TRUST = "spiffe://example.org"
OPENER, AUDITOR = f"{TRUST}/ns/orchestrators/sa/orchestrator", f"{TRUST}/ns/audit/sa/verifier"
ORIGIN = "example.org/audit"
AGENTS = ("teller", "clerk")
LOAD = Path(__file__).with_name("load.py")
DATABASE = "database.test"

HEARD_S = 0.5
"""How long after a pod's deletion it is still sent new connections, in seconds: the way from API server to nodes."""


def identity(namespace: str, account: str) -> str:
    """Give the SPIFFE ID that the chart gives a service account."""
    return f"{TRUST}/ns/{namespace}/sa/{account}"


class Fleet:
    """The chart's fleet example with a test's names, running."""

    def __init__(self, w: World, database: str, values: Mapping[str, Any] | None = None) -> None:
        """Make what a cluster has to have; nothing runs yet."""
        self.world, self._authority = w, Authority(w.folder / "pki")
        self.pdp_service = Service(w, RELEASE, "exequatur-pdp", 7070, 9070)
        self.ledger_service = Service(w, RELEASE, "exequatur-ledger", 7071, 9071)
        private, _ = generate("Ed25519")
        self.log_key = LogKey(ORIGIN, load_log_key(private).public_key())
        w.apply([_map("keys", {"bank.pem": bank.public_pem()}), _map("policy", {"bank-1.tar.gz": _bundle()})], RELEASE)
        w.apply([_secret("ledger-key", {"main.key": private})], RELEASE)
        roots = self._authority.roots.read_bytes()
        w.apply([_secret("database", {"url": database.encode(), "ca.crt": roots})], RELEASE)
        for part, service in (("pdp", self.pdp_service), ("ledger", self.ledger_service)):
            name = f"exequatur-{part}"
            files = self._issue(identity(RELEASE, name), f"{name}.{RELEASE}.svc {service.address}")
            w.apply([_secret(f"{part}-tls", _tls(files))], RELEASE)
        for agent in AGENTS:
            w.apply([_secret(f"exequatur-sidecar-{agent}", _tls(self._issue(identity(TEAM, agent))))], TEAM)
        self.chart = Objects(tuple(objects(render(values=_values(self, values or {})))))
        w.apply(self.chart.all, RELEASE)
        found = self.chart.one("ConfigMap", "exequatur-catalogue")
        self.catalogue = read_catalogue(found["data"]["catalogue.json"].encode())
        self.pdps: list[Pod] = []
        self.ledger: Pod | None = None
        self.agents: dict[str, Pod] = {}
        self._numbers = iter(range(10**6))
        self._threads = ThreadPoolExecutor(8)
        self._ending: list[Future[float]] = []

    @property
    def log(self) -> Path:
        """The ledger's log."""
        return self.world.folder / "claims" / f"{RELEASE}.log-exequatur-ledger-0" / "log"

    def client(self, who: str = OPENER) -> Client:
        """Reach the decision points as somebody outside."""
        files = self._issue(who)
        tls = Tls(files.certificate, files.key, files.roots)
        return Client(f"{self.pdp_service.address}:7070", tls=tls, timeout_s=20)

    def start(self, replicas: int = 3) -> None:
        """Start ledger and decision points."""
        self.start_ledger()
        list(self._threads.map(lambda _: self.add_pdp(), range(replicas)))

    def add_pdp(self) -> Pod:
        """Add a decision point, as a Deployment does; returns when the Service sends it connections."""
        pod = self.world.run(pod_of(self.chart.one("Deployment", "exequatur-pdp"), f"a-{next(self._numbers)}"))
        self.pdp_service.add(pod.ip)
        self.pdps.append(pod)
        return pod

    def roll_pdp(self) -> None:
        """Put a new decision point in the oldest one's place: maxSurge 1, maxUnavailable 0."""
        self.add_pdp()
        old = self.pdps.pop(0)
        self._ending.append(self._threads.submit(self._end, old, self.pdp_service))

    def start_ledger(self) -> None:
        """Start the ledger on its volume."""
        self.ledger = self.world.run(pod_of(self.chart.one("StatefulSet", "exequatur-ledger"), "0"))
        self.ledger_service.add(self.ledger.ip)

    def roll_ledger(self) -> None:
        """Restart the ledger as a StatefulSet does: the old one has ended before the new one starts."""
        assert self.ledger is not None
        self._end(self.ledger, self.ledger_service)
        self.start_ledger()

    def add_agent(self, name: str, rate: float) -> Pod:
        """Open a session for an agent's pod, and start it: injected, with a load of `rate` actions a second."""
        pod = agent_pod(f"{name}-{next(self._numbers)}", name, ["python", str(LOAD), str(rate)])
        with self.client() as opener:
            opener.open_session(
                name,
                identity(TEAM, name),
                instance=pod["metadata"]["name"],
                lifetime=dt.timedelta(hours=1),
                scope=["*"],
                max_steps=10**6,
                budget_microusd=10**9,
            )
        self.agents[name] = self.world.run(inject(pod, TEAM, self.catalogue))
        return self.agents[name]

    def end_agent(self, name: str) -> Pod:
        """End an agent's pod: its own work first, its sidecar after it."""
        pod = self.agents.pop(name)
        pod.stop()
        return pod

    def settle_down(self) -> None:
        """Wait for the pods that are ending; raises what went wrong with one of them."""
        for ending in self._ending:
            ending.result(60)
        self._ending.clear()

    def stop(self) -> None:
        """End all in order; raises when one had to be killed."""
        self.settle_down()
        list(self._threads.map(lambda pod: pod.stop(), [*self.agents.values()]))
        list(self._threads.map(lambda pod: pod.stop(), self.pdps))
        if self.ledger is not None:
            self.ledger.stop()
        self._threads.shutdown()

    @staticmethod
    def _end(pod: Pod, service: Service) -> float:
        """Delete a pod: it stops, and meanwhile those who send connections hear of it."""
        heard = threading.Timer(HEARD_S, service.remove, [pod.ip])
        heard.start()
        took = pod.stop()
        heard.join()
        return took

    def _issue(self, name: str, host: str = "") -> TlsFiles:
        return self._authority.issue(name.removeprefix("spiffe://").replace("/", "-"), name, host=host or "nowhere")


def agent_pod(name: str, agent: str, command: Sequence[str], **container: Any) -> Object:
    """Make an agent's pod as its team would write it."""
    main = {
        "name": "main",
        "image": "registry.example/agent:1",
        "command": [*command],
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "readOnlyRootFilesystem": True},
        **container,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": TEAM, "annotations": {"exequatur.dev/agent": agent}},
        "spec": {"serviceAccountName": agent, "terminationGracePeriodSeconds": 40, "containers": [main]},
    }


@contextlib.contextmanager
def running(seed: Path, values: Mapping[str, Any] | None = None) -> Iterator[Fleet]:
    """Have a fleet on a PostgreSQL server of its own; nothing runs in it yet."""
    with postgres.running(seed) as server, world() as w:
        w.images["registry.example/exequatur"] = our_image(w.folder)
        node = w.node
        with w.hosts.open("a") as hosts:
            hosts.write(f"{node} {DATABASE}\n")
        with server.admin() as admin:
            admin.execute(f"ALTER SYSTEM SET listen_addresses = '127.0.0.1,{node}'")
        server.stop()
        server.start()
        with (server.data / "pg_hba.conf").open("a") as rules:
            rules.write("hostssl all all 10.0.0.0/8 scram-sha-256\n")
        query = "?sslmode=verify-full&sslrootcert=/etc/exequatur/database/ca.crt"
        fleet = Fleet(w, server.url(server.make(), host=DATABASE, query=query), values)
        with server.proved_by(fleet._issue("database", DATABASE)):
            yield fleet
            for pod in list(w.pods):
                pod.check()


def _values(fleet: Fleet, more: Mapping[str, Any]) -> Object:
    """Give the example's values with those of a test; where a test says None, the example's is left out."""
    agents = {name: {"serviceAccounts": [f"{TEAM}/{name}"], "doors": {"grpc": {"kind": "grpc"}}} for name in AGENTS}
    ours: Object = {
        "certificates": {
            "source": "secret",
            "secrets": {"pdp": "pdp-tls", "ledger": "ledger-tls", "injector": "injector-tls"},
            "caBundle": b64encode(fleet._authority.roots.read_bytes()).decode(),
        },
        "pdp": {
            "workers": 1,
            "replicas": 3,
            "openers": [OPENER],
            "auditors": [AUDITOR],
            "bundle": {"from": "configMap", "name": "policy", "url": "", "tokenSecret": ""},
            "keys": {"configMap": "keys"},
            "store": {"postgresql": {"secret": "database"}},
            "autoscaling": {"enabled": False},
            "settings": None,
            "preStopSeconds": 2,
        },
        "ledger": {
            "origin": ORIGIN,
            "keySecret": "ledger-key",
            "verifierKeys": {"main": str(fleet.log_key)},
            "auditors": [AUDITOR],
            "preStopSeconds": 1,
        },
        "agents": {"coder": None, **agents},
        "networkPolicy": {"bundles": []},
    }
    example = yaml.safe_load((CHART / "examples" / "fleet.yaml").read_text())
    return _merged(_merged(example, ours), more)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Object:
    merged = {**below}
    for name, value in above.items():
        is_both = isinstance(value, dict) and isinstance(below.get(name), dict)
        merged[name] = _merged(below[name], value) if is_both else value
    return {name: value for name, value in merged.items() if value is not None}


def _bundle() -> bytes:
    sources = bank.sources()
    agents = json.loads(sources["agents.json"])
    for name, entry in agents["agents"].items():
        entry["enforcers"] = [identity(TEAM, name)]
    built = build({**sources, "agents.json": json.dumps(agents).encode()}, find_opa(os.environ))
    assert not built.results.failures, built.results
    return sign(dict(built.files), bank.signing_key(), BundleClaims(1, dt.datetime.now(dt.UTC) + dt.timedelta(days=1)))


def _map(name: str, files: Mapping[str, bytes]) -> Object:
    return {"kind": "ConfigMap", "metadata": {"name": name}, "binaryData": _coded(files)}


def _secret(name: str, files: Mapping[str, bytes]) -> Object:
    return {"kind": "Secret", "metadata": {"name": name}, "data": _coded(files)}


def _coded(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: b64encode(content).decode() for name, content in files.items()}


def _tls(files: TlsFiles) -> dict[str, bytes]:
    return {
        "tls.crt": files.certificate.read_bytes(),
        "tls.key": files.key.read_bytes(),
        "ca.crt": files.roots.read_bytes(),
    }


def steady(seconds: float) -> None:
    """Let the load run for a while: here time itself is what is wanted."""
    time.sleep(seconds)
