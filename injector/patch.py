"""What injection makes of a pod, and the way there as an RFC 6902 patch.

Rules: pure. What is ours and already there is exactly as it would be made, or the pod is refused: so injection of what
was injected changes nothing. What is ours comes first among init containers, and the order of everything else stays.
What is merely unset is set as restricted pod security wants it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

from pydantic import ValidationError

from injector.case import Case, Claimed
from injector.catalogue import Catalogue, each_fault
from injector.claim import INJECTED, Claim, Refused, read_claim
from injector.made import Made, Object, make
from injector.pods import Pod
from injector.rules import faults

_FREE: Final = frozenset({"resources", "resizePolicy", "imagePullPolicy"})
"""Of a container of ours, what others may have changed: a namespace's limits, a rule to pull always."""

_QUANTITIES: Final = frozenset({"cpu", "memory", "ephemeral-storage"})
_TOKEN_VOLUME: Final = "kube-api-access-"  # noqa: S105  as the plugin for service accounts calls it


def inject(pod: Object, namespace: str, catalogue: Catalogue) -> Object:
    """Give `pod`, to be made in `namespace`, with the sidecar and all that belongs to it; raises `Refused`."""
    read = _read(pod)
    claim, wrong = read_claim(read, namespace, catalogue)
    if claim is None:
        is_injected = INJECTED in (read.metadata.labels or {})  # of what is ours nothing could be told apart
        raise Refused(*wrong, *(() if is_injected else faults(Case(read, catalogue))))
    made = make(claim, catalogue)
    if not claim.agent.service_account_token:
        pod = _without_token(pod)
    ours, theirs = _apart(pod, claim, made)
    found = (*wrong, *_marked(pod, made), *faults(Claimed(_read(theirs), catalogue, claim)))
    if found:
        raise Refused(*found)
    return _together(pod, ours, claim, made)


def difference(before: Any, after: Any, at: str = "") -> Iterator[Object]:
    """Give the operations (RFC 6902) that make `after` of `before`; lists of other things are replaced whole."""
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for name in before.keys() - after.keys():
            yield {"op": "remove", "path": f"{at}/{_escape(name)}"}
        for name, value in after.items():
            if name in before:
                yield from difference(before[name], value, f"{at}/{_escape(name)}")
            else:
                yield {"op": "add", "path": f"{at}/{_escape(name)}", "value": value}
    elif isinstance(before, list) and isinstance(after, list) and _names(before) == _names(after):
        for number, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from difference(old, new, f"{at}/{number}")
    else:
        yield {"op": "replace", "path": at, "value": after}


def _names(items: list[Any]) -> list[object]:
    return [item.get("name") if isinstance(item, dict) else None for item in items]


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _read(pod: Object) -> Pod:
    try:
        return Pod.model_validate(pod)
    except ValidationError as error:
        raise Refused(*each_fault(error)) from None


def _apart(pod: Object, claim: Claim, made: Made) -> tuple[Object, Object]:
    """Take out what is ours and as we make it: our init containers by name, and the pod without anything of ours."""
    spec: Object = pod["spec"]
    wanted = {container["name"]: container for container in made.init_containers}
    ours: Object = {}
    for container in spec.get("initContainers") or ():
        name = container["name"]
        if name in wanted and _like(container, wanted[name]):
            ours[name] = container
    theirs = {
        "initContainers": [item for item in spec.get("initContainers") or () if ours.get(item["name"]) is not item],
        "volumes": [item for item in spec.get("volumes") or () if item not in made.volumes],
        "containers": [
            _without(container, made) if container["name"] in claim.containers else container
            for container in spec["containers"]
        ],
    }
    return ours, {**pod, "spec": {**spec, **theirs}}


def _like(container: Object, wanted: Object) -> bool:
    """Whether a container is ours as we make it, or as the cluster's own rules may have changed it."""
    resources = container.get("resources") or {}
    return (
        {name: value for name, value in container.items() if name not in _FREE}
        == {name: value for name, value in wanted.items() if name not in _FREE}
        and container.get("imagePullPolicy") in (wanted["imagePullPolicy"], "Always")
        and resources.keys() <= {"requests", "limits"}
        and all((part or {}).keys() <= _QUANTITIES for part in resources.values())
    )


def _without(container: Object, made: Made) -> Object:
    lists = {"volumeMounts": made.mounts, "env": made.env}
    return container | {
        name: [item for item in container.get(name) or () if item not in ours] for name, ours in lists.items()
    }


def _marked(pod: Object, made: Made) -> Iterator[str]:
    """Say which of our labels and annotations say something else than we do."""
    for field, wanted in (("labels", made.labels), ("annotations", made.annotations)):
        found = pod["metadata"].get(field) or {}
        for name, value in wanted.items():
            if found.get(name, value) != value:
                yield f"`metadata.{field}[{name}]` is the injector's, and not what it writes"


def _without_token(pod: Object) -> Object:
    """Take out the token that the API server's own plugin has put in before us."""
    spec: Object = pod["spec"]
    volumes = spec.get("volumes") or []
    token = {item["name"] for item in volumes if item["name"].startswith(_TOKEN_VOLUME) and "projected" in item}
    changed: Object = {"volumes": [item for item in volumes if item["name"] not in token]} if token else {}
    for field in ("initContainers", "containers"):
        if spec.get(field):
            changed[field] = [_without_mounts(container, token) for container in spec[field]]
    return {**pod, "spec": spec | changed}


def _without_mounts(container: Object, volumes: AbstractSet[str]) -> Object:
    mounts = container.get("volumeMounts") or []
    kept = [mount for mount in mounts if mount["name"] not in volumes]
    return container if len(kept) == len(mounts) else container | {"volumeMounts": kept}


def _together(pod: Object, ours: Object, claim: Claim, made: Made) -> Object:
    """Put everything in its place; what is ours and there already stays where it is, if that may be."""
    spec: Object = pod["spec"]
    profile = (spec.get("securityContext") or {}).get("seccompProfile")
    first = [ours.get(container["name"], container) for container in made.init_containers]
    rest = [item for item in spec.get("initContainers") or () if ours.get(item["name"]) is not item]
    agents = [
        container | _longer(container, "volumeMounts", made.mounts) | _longer(container, "env", made.env)
        if container["name"] in claim.containers
        else container
        for container in spec["containers"]
    ]
    metadata: Object = pod["metadata"]
    return {
        **pod,
        "metadata": {
            **metadata,
            "labels": {**(metadata.get("labels") or {}), **made.labels},
            "annotations": {**(metadata.get("annotations") or {}), **made.annotations},
        },
        "spec": {
            **spec,
            **_longer(spec, "volumes", made.volumes),
            **_longer(spec, "imagePullSecrets", made.pull_secrets),
            "automountServiceAccountToken": False,
            "initContainers": first + [_restricted(container, profile) for container in rest],
            "containers": [_restricted(container, profile) for container in agents],
        },
    }


def _longer(holder: Object, name: str, items: Sequence[Object]) -> Object:
    """Give the list `name` with what is missing of `items` at its end; nothing, where nothing is."""
    found = holder.get(name) or []
    missing = [item for item in items if item not in found]
    return {name: [*found, *missing]} if missing else {}


def _restricted(container: Object, profile: Object | None) -> Object:
    """Set what is unset as restricted pod security wants it; `profile` is the pod's for seccomp."""
    security: Object = container.get("securityContext") or {}
    capabilities: Object = security.get("capabilities") or {}
    wanted: Object = {"allowPrivilegeEscalation": False, "runAsNonRoot": True}
    if not capabilities.get("drop"):
        wanted["capabilities"] = capabilities | {"drop": ["ALL"]}
    if profile is None:
        wanted["seccompProfile"] = {"type": "RuntimeDefault"}
    unset = {name: value for name, value in wanted.items() if name == "capabilities" or security.get(name) is None}
    return container | {"securityContext": security | unset} if unset else container
