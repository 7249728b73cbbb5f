"""Annotations by which a pod orders what nobody else is asked about: another network, another way to run a container.

Rules: pure. A closed list, each entry with its reason; it holds for pods that are made and for those that are changed,
as a network plugin reads them only when the pod starts. What a service mesh takes from annotations is not in it: that
changes neither NetworkPolicies nor rules by user, and no promise of ours stands on a mesh.
"""

from __future__ import annotations

from typing import Final

from injector.catalogue import OURS

_INTERFACES: Final = "gives the pod another network interface, which NetworkPolicies do not see"
_ADDRESSES: Final = "chooses the pod's address or its routes, which NetworkPolicies of others may trust"
_RUNTIME: Final = "orders something of the container runtime: devices, mounts, hooks, privileges"

DOMAINS: Final = {
    "k8s.v1.cni.cncf.io": _INTERFACES,  # Multus, and who reads the same
    "v1.multus-cni.io": _INTERFACES,  # in place of the cluster's own
    "danm.k8s.io": _INTERFACES,
    "networking.gke.io": _INTERFACES,
    "k8s.aliyun.com": _INTERFACES,
    "vpc.amazonaws.com": _INTERFACES,
    "networkservicemesh.io": _INTERFACES,
    "k8s.ovn.org": _ADDRESSES,  # OVN-Kubernetes
    "ovn.kubernetes.io": _ADDRESSES,  # Kube-OVN
    "cni.projectcalico.org": _ADDRESSES,  # and which sources it may claim to be
    "cilium.io": _ADDRESSES,  # and ports of which connections are not tracked
    "antrea.io": _ADDRESSES,
    "spidernet.io": _ADDRESSES,
    "nri.io": _RUNTIME,
    "nri.containerd.io": _RUNTIME,
    "cdi.k8s.io": _RUNTIME,
    "cri-o.io": _RUNTIME,
    "crio.io": _RUNTIME,
}
"""Whose annotations are orders: of the domain, and of every domain below it."""

_PREFIXES: Final = {
    "io.kubernetes.cri-o.": _RUNTIME,
    "io.katacontainers.": _RUNTIME,
    "dev.gvisor.": _RUNTIME,
    "run.oci.": _RUNTIME,  # crun
    "io.containers.": _RUNTIME,
    "ipam.": _ADDRESSES,
}


def ordered(annotation: str) -> str:
    """Say why a pod may not have this annotation; nothing, where it may."""
    if OURS in annotation:
        return "is about what is the injector's"
    domain, slash, _ = annotation.partition("/")
    while slash and domain:
        if domain in DOMAINS:
            return DOMAINS[domain]
        domain = domain.partition(".")[2]
    return next((reason for prefix, reason in _PREFIXES.items() if annotation.startswith(prefix)), "")
