"""Kubernetes' NetworkPolicies, evaluated: may this pod open a connection to that one?

Only what the chart uses: `matchLabels` and `matchExpressions`, ports by number or name, `ipBlock` with `except`. A pod
that no policy selects in a direction may do all in it; one that is selected may do what some rule allows.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Peer:
    """An end of a connection: a pod of a namespace, or an address outside the cluster."""

    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    ip: str = ""
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)

    @property
    def of_namespace(self) -> Mapping[str, str]:
        """Its namespace's labels; each namespace has its name for one."""
        return {"kubernetes.io/metadata.name": self.namespace, **self.namespace_labels}


def allowed(
    policies: Iterable[Mapping[str, Any]], source: Peer, target: Peer, port: int, protocol: str = "TCP"
) -> bool:
    """Tell whether `source` may connect to `port` of `target`: its egress and the other's ingress must both allow it."""
    kept = list(policies)
    return _way(kept, "Egress", source, target, target, port, protocol) and _way(
        kept, "Ingress", target, source, target, port, protocol
    )


def selected(policies: Iterable[Mapping[str, Any]], pod: Peer, way: str) -> bool:
    """Tell whether a policy restricts `pod` in that direction."""
    return any(_applies(policy, pod, way) for policy in policies)


def _way(
    policies: list[Mapping[str, Any]], way: str, pod: Peer, other: Peer, target: Peer, port: int, protocol: str
) -> bool:
    if not pod.namespace:
        return True
    applying = [policy for policy in policies if _applies(policy, pod, way)]
    if not applying:
        return True
    side = "to" if way == "Egress" else "from"
    return any(
        _ports(rule.get("ports"), target, port, protocol) and _peers(rule.get(side), other, policy)
        for policy in applying
        for rule in policy["spec"].get(way.lower()) or []
    )


def _applies(policy: Mapping[str, Any], pod: Peer, way: str) -> bool:
    return (
        bool(pod.namespace)
        and policy["metadata"]["namespace"] == pod.namespace
        and way in policy["spec"]["policyTypes"]
        and matches(policy["spec"].get("podSelector") or {}, pod.labels)
    )


def _ports(wanted: Any, target: Peer, port: int, protocol: str) -> bool:
    if not wanted:
        return True
    for item in wanted:
        number = item.get("port")
        if isinstance(number, str):
            number = target.ports.get(number, -1)
        last = item.get("endPort", number)
        if item.get("protocol", "TCP") == protocol and (number is None or number <= port <= last):
            return True
    return False


def _peers(wanted: Any, other: Peer, policy: Mapping[str, Any]) -> bool:
    if not wanted:
        return True
    return any(_peer(item, other, policy["metadata"]["namespace"]) for item in wanted)


def _peer(item: Mapping[str, Any], other: Peer, namespace: str) -> bool:
    if "ipBlock" in item:
        if not other.ip:
            return False
        block, address = item["ipBlock"], ipaddress.ip_address(other.ip)
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(part) for part in block.get("except", ())
        )
    if not other.namespace:
        return False
    if "namespaceSelector" in item:
        if not matches(item["namespaceSelector"] or {}, other.of_namespace):
            return False
    elif other.namespace != namespace:
        return False
    return matches(item.get("podSelector") or {}, other.labels)


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Tell whether a label selector takes `labels`; an empty one takes all."""
    if any(labels.get(name) != value for name, value in (selector.get("matchLabels") or {}).items()):
        return False
    for item in selector.get("matchExpressions") or []:
        has, value, values = item["key"] in labels, labels.get(item["key"]), item.get("values", [])
        fits = {
            "In": has and value in values,
            "NotIn": not has or value not in values,
            "Exists": has,
            "DoesNotExist": not has,
        }[item["operator"]]
        if not fits:
            return False
    return True
