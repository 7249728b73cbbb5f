"""What injection adds: the sidecar, the fence, MCP servers' containers, and the volumes between them and the agent.

Rules: everything is written as an API server would give it back, defaults and all, so that what comes back can be
compared; nothing that the pod says stands in an argument, but the name that Kubernetes gives it; each volume is mounted
where it is written, and read-only everywhere else; what the agent runs comes from the sidecar's container alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final, TypeAlias

from injector.catalogue import GRPC, OURS, Catalogue, GrpcDoor, McpDoor, Resources
from injector.claim import AGENT, INJECTED, INJECTOR, Claim

Object: TypeAlias = dict[str, Any]

VERSION: Final = version("exequatur")
SIDECAR_UID, MCP_UID = 64113, 64114
HTTP_PORT, HEALTH_PORT = 9082, 9072
RUN: Final = "/run/exequatur"
TARGET: Final = "EXEQUATUR_TARGET"
SIDECAR, FENCE = f"{OURS}sidecar", f"{OURS}fence"
IDENTITY, TRUST, SPOOL, BIN = f"{OURS}identity", f"{OURS}trust", f"{OURS}spool", f"{OURS}bin"

_EXECUTABLE: Final = "/opt/exequatur/bin/exequatur"
_TLS: Final = "/etc/exequatur/tls"
_TRUST: Final = "/etc/exequatur/trust"
_STATE: Final = "/var/lib/exequatur"
_SOCKETS: Final = "1Mi"  # a folder and a socket
_PROGRAMS: Final = "16Mi"  # the agent's program, under 1 MiB, and while it is replaced another
_SCRATCH: Final = "64Mi"
_RECORDS: Final = "1Gi"  # each answer waits for the ledger: what is here was not acknowledged for that long


@dataclass(frozen=True, slots=True)
class Made:
    """What injection adds to one pod."""

    init_containers: tuple[Object, ...]
    """In order, before any of the pod's own."""
    volumes: tuple[Object, ...]
    mounts: tuple[Object, ...]
    """Of the agent's containers."""
    env: tuple[Object, ...]
    """Of the agent's containers."""
    pull_secrets: tuple[Object, ...]
    labels: dict[str, str]
    annotations: dict[str, str]


def make(claim: Claim, catalogue: Catalogue) -> Made:
    """Make what the pod that claims this gets."""
    fence = (_fence(catalogue),) if catalogue.uid_rules is not None else ()
    servers = tuple(_mcp(name, door, catalogue) for name, door in claim.mcp_doors.items())
    mounts = [_mount(f"{OURS}mcp-{name}", f"{RUN}/mcp/{name}", read_only=True) for name in claim.mcp_doors]
    env = []
    if claim.mcp_doors:
        mounts.insert(0, _mount(BIN, f"{RUN}/bin", read_only=True))
    if GRPC in claim.doors:
        mounts.insert(0, _mount(f"{OURS}door-{GRPC}", f"{RUN}/doors/{GRPC}", read_only=True))
        env.append({"name": TARGET, "value": f"unix:{_socket(GRPC)}"})
    return Made(
        init_containers=(*fence, _sidecar(claim, catalogue), *servers),
        volumes=tuple(_volumes(claim, catalogue)),
        mounts=tuple(mounts),
        env=tuple(env),
        pull_secrets=tuple({"name": name} for name in catalogue.pull_secrets),
        labels={INJECTED: "true", AGENT: claim.name},
        annotations={INJECTOR: VERSION},
    )


def _volumes(claim: Claim, catalogue: Catalogue) -> list[Object]:
    secret = f"{SIDECAR}-{claim.account}"
    # Readable by every user: only the sidecar has the volume, and a pod's group is not ours to choose.
    volumes: list[Object] = [{"name": IDENTITY, "secret": {"secretName": secret, "defaultMode": 0o444}}]
    if catalogue.trust:
        volumes.append({"name": TRUST, "configMap": {"name": TRUST, "defaultMode": 0o444}})
    if claim.spool is None:
        volumes.append({"name": SPOOL, "emptyDir": {"sizeLimit": _RECORDS}})
    volumes += [_memory(f"{OURS}door-{name}", _SOCKETS) for name in claim.doors]
    if claim.mcp_doors:
        volumes.append(_memory(BIN, _PROGRAMS))
    for name in claim.mcp_doors:
        volumes += [_memory(f"{OURS}mcp-{name}", _SOCKETS), _memory(f"{OURS}tmp-{name}", _SCRATCH)]
    return volumes


def _sidecar(claim: Claim, catalogue: Catalogue) -> Object:
    args = ["sidecar", "run"]
    for name, door in claim.doors.items():
        kind = ["door=grpc"] if isinstance(door, GrpcDoor) else ["door=mcp_stdio", *["enforced=true"] * door.enforced]
        words = [f"agent={claim.name}", f"tenant={claim.agent.tenant}", "instance=$(EXEQUATUR_INSTANCE)"]
        words += [f"socket={_socket(name)}", "mounted=true", *kind]
        args += ["--agents", ",".join(words)]
    if claim.mcp_doors:
        args += ["--shim", f"{RUN}/bin/exequatur-mcp"]
    args += ["--pdp", catalogue.pdp]
    if catalogue.ledger is not None:
        args += ["--ledger", catalogue.ledger]
    if catalogue.trust:
        args += ["--log-key", _TRUST]
    args += ["--spool", f"{_STATE}/spool"]
    args += ["--tls-certificate", f"{_TLS}/tls.crt", "--tls-key", f"{_TLS}/tls.key", "--tls-roots", f"{_TLS}/ca.crt"]
    args += ["--http", f"{catalogue.listen}:{HTTP_PORT}", "--health", f"{catalogue.listen}:{HEALTH_PORT}"]
    args += ["--decision-timeout-ms", str(catalogue.decision_timeout_ms)]
    args += ["--drain-grace-s", str(catalogue.drain_grace_s)]
    if claim.spool is None:
        args.append("--wait-for-ledger")
    mounts = [_mount(IDENTITY, _TLS, read_only=True)]
    if catalogue.trust:
        mounts.append(_mount(TRUST, _TRUST, read_only=True))
    mounts.append(_mount(claim.spool or SPOOL, _STATE))
    mounts += [_mount(f"{OURS}door-{name}", f"{RUN}/doors/{name}") for name in claim.doors]
    if claim.mcp_doors:
        mounts.append(_mount(BIN, f"{RUN}/bin"))
    return {
        **_container(SIDECAR, catalogue.image, args, catalogue, catalogue.resources.sidecar),
        "restartPolicy": "Always",
        "env": [{"name": "EXEQUATUR_INSTANCE", **_instance(claim.session)}],
        "ports": [{"name": "exequatur-http", "containerPort": HTTP_PORT, "protocol": "TCP"}],
        "startupProbe": _probe({"grpc": {"port": HEALTH_PORT, "service": "ready"}}, period_s=1, failures=120),
        "livenessProbe": _probe({"grpc": {"port": HEALTH_PORT, "service": "live"}}, period_s=10, failures=3),
        "securityContext": _security(SIDECAR_UID),
        "volumeMounts": mounts,
    }


def _mcp(name: str, door: McpDoor, catalogue: Catalogue) -> Object:
    listen = f"{RUN}/mcp/{name}/{name}.sock"
    args = ["sidecar", "mcp", "--server", name, "--listen", listen, "--socket", _socket(name), "--", *door.command]
    secret = [{"secretRef": {"name": door.env_from_secret}}] if door.env_from_secret else []
    return {
        **_container(f"{OURS}mcp-{name}", door.image or catalogue.image, args, catalogue, catalogue.resources.mcp),
        "restartPolicy": "Always",
        "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108  its own, in memory
        **({"envFrom": secret} if secret else {}),
        "startupProbe": _probe({"exec": {"command": ["test", "-S", listen]}}, period_s=1, failures=120),
        "securityContext": _security(MCP_UID),
        "volumeMounts": [
            _mount(f"{OURS}door-{name}", f"{RUN}/doors/{name}", read_only=True),
            _mount(f"{OURS}mcp-{name}", f"{RUN}/mcp/{name}"),
            _mount(f"{OURS}tmp-{name}", "/tmp"),  # noqa: S108
            *(_mount(volume, path) for volume, path in door.mounts.items()),
        ],
    }


def _fence(catalogue: Catalogue) -> Object:
    """Make the one container with a privilege: rules by user need it, once, before anything else of the pod runs."""
    rules = catalogue.uid_rules
    assert rules is not None
    args = ["sidecar", "fence"]
    for uid in (SIDECAR_UID, MCP_UID):
        args += ["--free-uid", str(uid)]
    for address in rules.agent_may:
        args += ["--agent-may", address]
    for address in rules.dns:
        args += ["--dns", address]
    security = _security(0) | {"runAsNonRoot": False, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}}
    return {
        **_container(FENCE, rules.image or catalogue.image, args, catalogue, catalogue.resources.sidecar),
        "securityContext": security,
    }


def _container(name: str, image: str, args: list[str], catalogue: Catalogue, resources: Resources) -> Object:
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": catalogue.pull_policy,
        "command": [_EXECUTABLE],
        "args": args,
        "resources": resources.model_dump(exclude_defaults=True),
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    }


def _security(uid: int) -> Object:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsGroup": uid,
        "runAsNonRoot": True,
        "runAsUser": uid,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _probe(how: Object, *, period_s: int, failures: int) -> Object:
    return {**how, "periodSeconds": period_s, "failureThreshold": failures, "successThreshold": 1, "timeoutSeconds": 3}


def _instance(session: str) -> Object:
    kind, _, literal = session.partition(":")
    if literal:
        return {"value": literal}
    path = {"pod-name": "metadata.name", "pod-uid": "metadata.uid"}[kind]
    return {"valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _socket(door: str) -> str:
    return f"{RUN}/doors/{door}/s/door.sock"


def _mount(volume: str, path: str, *, read_only: bool = False) -> Object:
    return {"name": volume, "mountPath": path, **({"readOnly": True} if read_only else {})}


def _memory(name: str, size: str) -> Object:
    return {"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": size}}
