"""Who may open a connection to whom: what each part needs is there, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from helm import EXAMPLES, VALUES, Object, Objects, containers, rendered
from net_policies import Peer, allowed, selected

FILES = [
    file
    for file in [*EXAMPLES, *VALUES]
    if yaml.safe_load(file.read_text()).get("networkPolicy", {}).get("enabled", True)
]
each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
STRANGER = Peer("elsewhere", {"app": "stranger"})
OUTSIDE = Peer(ip="8.8.8.8")
DNS = Peer("kube-system", {"k8s-app": "kube-dns"})
GRPC, HTTP = {"pdp": 7070, "ledger": 7071}, {"pdp": 9080, "ledger": 9081, "injector": 9083}


class Cluster:
    """The release's pods, an injected pod of each service account, and the policies over all of them."""

    def __init__(self, file: Path) -> None:
        self.objects: Objects = rendered(file)
        self.values: Object = yaml.safe_load(file.read_text())
        self.policies = self.objects.of("NetworkPolicy")
        self.parts: dict[str, Peer] = {}
        for _, pod in self.objects.pods():
            ports = {port["name"]: port["containerPort"] for item in containers(pod) for port in item.get("ports", [])}
            labels = pod["metadata"]["labels"]
            self.parts[labels["app.kubernetes.io/component"]] = Peer("exequatur", labels, "10.244.0.9", ports=ports)
        self.agents = {
            (name, at): Peer(at.split("/")[0], {"exequatur.dev/injected": "true", "exequatur.dev/agent": name})
            for name, agent in self.values.get("agents", {}).items()
            for at in agent["serviceAccounts"]
        }

    def may(self, source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
        return allowed(self.policies, source, target, port, protocol)


def peers(items: list[Object]) -> list[Peer]:
    """Give one of each of those that a value names."""
    return [
        Peer(ip=item["cidr"].partition("/")[0])
        if "cidr" in item
        else Peer(item["namespace"], item.get("podLabels", {}))
        for item in items
    ]


@pytest.fixture
def cluster(request):
    return Cluster(request.param)


each_cluster = pytest.mark.parametrize("cluster", FILES, ids=lambda file: file.stem, indirect=True)


@each_cluster
def test_every_pod_is_under_a_policy_in_both_directions(cluster):
    assert cluster.parts
    for pod in [*cluster.parts.values(), *cluster.agents.values()]:
        assert selected(cluster.policies, pod, "Ingress")
        assert selected(cluster.policies, pod, "Egress")


@each_cluster
def test_whoever_records_reaches_the_ledger_and_whoever_asks_reaches_the_decision_point(cluster):
    pdp, ledger = cluster.parts["pdp"], cluster.parts.get("ledger")
    outside = peers(cluster.values.get("networkPolicy", {}).get("ledger", []))
    for target in [ledger] if ledger else outside:
        assert cluster.may(pdp, target, 7071)
    for agent in cluster.agents.values():
        assert cluster.may(agent, pdp, 7070)
        for target in [ledger] if ledger else outside:
            assert cluster.may(agent, target, 7071)
    for peer in peers(cluster.values.get("networkPolicy", {}).get("orchestrators", [])):
        assert cluster.may(peer, pdp, 7070)
        assert not cluster.may(peer, pdp, 9080)


@each_cluster
def test_the_api_server_reaches_the_injector(cluster):
    if "injector" not in cluster.parts:
        return
    given = cluster.values.get("networkPolicy", {}).get("apiServers", [])
    for address in [cidr.partition("/")[0] for cidr in given] or ["10.0.0.1"]:
        assert cluster.may(Peer(ip=address), cluster.parts["injector"], 8443)
    assert cluster.may(OUTSIDE, cluster.parts["injector"], 8443) is not bool(given)


@each_cluster
def test_metrics_are_read_by_monitoring_alone(cluster):
    readers = peers(cluster.values.get("networkPolicy", {}).get("monitoring", []))
    for part, pod in cluster.parts.items():
        assert all(cluster.may(reader, pod, HTTP[part]) for reader in readers)
        assert not cluster.may(STRANGER, pod, HTTP[part])
    for agent in cluster.agents.values():
        assert all(cluster.may(reader, agent, 9082) for reader in readers)
        assert not cluster.may(STRANGER, agent, 9082)


@each_cluster
def test_names_are_resolved_by_those_who_call_others(cluster):
    given = cluster.values.get("networkPolicy", {}).get("dns", [])
    asked = [(server, item.get("ports", [53])) for item in given for server in peers([item])] or [(DNS, [53])]
    for pod in [cluster.parts["pdp"], *cluster.agents.values()]:
        for server, ports in asked:
            for port in {53, *ports}:
                assert cluster.may(pod, server, port, "UDP") is (port in ports)
                assert cluster.may(pod, server, port) is (port in ports)


@each_cluster
def test_bundles_and_database_are_reached_by_the_decision_point_alone(cluster):
    policy = cluster.values.get("networkPolicy", {})
    for name in ("bundles", "database"):
        for item in policy.get(name, []):
            for target in peers([item]):
                assert all(cluster.may(cluster.parts["pdp"], target, port) for port in item["ports"])
                assert not cluster.may(cluster.parts["pdp"], target, 22)
                others = [pod for part, pod in cluster.parts.items() if part != "pdp"]
                assert not any(cluster.may(pod, target, item["ports"][0]) for pod in others)


@each_cluster
def test_a_stranger_reaches_nothing_and_nothing_reaches_out(cluster):
    pods = [*cluster.parts.values(), *cluster.agents.values()]
    for pod in pods:
        for port in {7070, 7071, 8443, 9070, 9071, 9072, 9080, 9081, 9082, 9083} - {8443}:
            assert not cluster.may(STRANGER, pod, port)
        for target in (STRANGER, OUTSIDE):
            assert not cluster.may(pod, target, 443)
    for part, pod in cluster.parts.items():
        for agent in cluster.agents.values():
            assert not any(cluster.may(pod, agent, port) for port in (80, 443, 8080, 9072, 9082))
        if part != "injector":
            assert not cluster.may(STRANGER, pod, 8443)


@each_cluster
def test_an_agent_goes_only_where_its_own_values_say(cluster):
    for (name, _), pod in cluster.agents.items():
        for item in cluster.values["agents"][name].get("egress", []):
            for target in peers([item]):
                assert all(cluster.may(pod, target, port) for port in item["ports"])
                assert not cluster.may(pod, target, 1)
                for (other, _), stranger in cluster.agents.items():
                    if other != name:
                        assert not cluster.may(stranger, target, item["ports"][0])
        for other in cluster.agents.values():
            assert not cluster.may(pod, other, 8080)
        assert not cluster.may(pod, cluster.parts.get("injector", STRANGER), 9083)


def test_the_evaluation_itself_can_say_no_and_yes():
    """Where no policy is, all is allowed: what the tests above find closed was closed by a policy."""
    assert allowed([], STRANGER, Peer("exequatur"), 7070)
    nothing = {
        "metadata": {"namespace": "exequatur"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }
    assert not allowed([nothing], STRANGER, Peer("exequatur"), 7070)
    everybody = {**nothing, "spec": {**nothing["spec"], "ingress": [{"from": None, "ports": [{"port": 7070}]}]}}
    assert allowed([nothing, everybody], STRANGER, Peer("exequatur"), 7070)
    assert not allowed([nothing, everybody], STRANGER, Peer("exequatur"), 7071)
