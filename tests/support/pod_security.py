"""The Pod Security Standard `restricted`, and the more that our own containers hold to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from helm import containers

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def violations(template: Mapping[str, Any]) -> list[str]:
    """Say what of a pod template `restricted` would refuse."""
    return [
        *_of_pod(template["spec"]),
        *(fault for item in containers(dict(template)) for fault in _of_one(item, template)),
    ]


def looseness(template: Mapping[str, Any]) -> list[str]:
    """Say where a pod template is looser than ours are: writable roots, unbounded resources, tokens."""
    found = []
    if template["spec"].get("automountServiceAccountToken") is not False:
        found.append("a token is mounted")
    if template["spec"].get("enableServiceLinks") is not False:
        found.append("services come in as environment")
    for volume in template["spec"].get("volumes", []):
        found += [
            f"volume {volume['name']} holds a token"
            for source in volume.get("projected", {}).get("sources", [])
            if "serviceAccountToken" in source
        ]
        if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
            found.append(f"volume {volume['name']} has no limit")
    for item in containers(dict(template)):
        if item.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
            found.append(f"{item['name']} can write to its image")
        resources = item.get("resources", {})
        for kind, name in (("requests", "cpu"), ("requests", "memory"), ("limits", "memory")):
            if name not in resources.get(kind, {}):
                found.append(f"{item['name']} has no {name} in its {kind}")
    return found


def _of_pod(spec: Mapping[str, Any]) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
        if spec.get(name):
            yield name
    context = spec.get("securityContext", {})
    if context.get("sysctls"):
        yield "sysctls"
    for volume in spec.get("volumes", []):
        yield from (f"volume of kind {kind}" for kind in volume.keys() - VOLUMES - {"name"})


def _of_one(item: Mapping[str, Any], template: Mapping[str, Any]) -> Iterator[str]:
    own, pod = item.get("securityContext", {}), template["spec"].get("securityContext", {})
    both = {**pod, **own}
    if own.get("privileged") or own.get("allowPrivilegeEscalation") is not False:
        yield f"{item['name']}: privileges"
    if own.get("capabilities", {}).get("drop") != ["ALL"] or own["capabilities"].get("add"):
        yield f"{item['name']}: capabilities"
    if both.get("runAsNonRoot") is not True or both.get("runAsUser", 0) == 0:
        yield f"{item['name']}: may be root"
    if both.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield f"{item['name']}: seccomp"
    if own.get("procMount") or both.get("windowsOptions") or both.get("seLinuxOptions") or both.get("appArmorProfile"):
        yield f"{item['name']}: special"
    yield from (f"{item['name']}: host port" for port in item.get("ports", []) if port.get("hostPort"))
