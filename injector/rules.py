"""What a pod with an agent may not have. Each rule is one function, and says in one sentence a fault which field it is.

Rules: a rule reads the pod as its maker wrote it, without what injection adds; it says nothing where all is well, and a
pod is admitted only if every rule says nothing. The rules are those of Kubernetes' restricted pod security, and beyond
them whatever would let an agent run without its sidecar, be it, or reach what is the sidecar's alone.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from exequatur.trust.canonical import quoted
from injector.case import Case, Claimed
from injector.catalogue import OURS
from injector.claim import SPOOL
from injector.made import HEALTH_PORT, HTTP_PORT, MCP_UID, RUN, SIDECAR, SIDECAR_UID
from injector.orders import ordered
from injector.pods import GrpcCall, Volume

_VOLUMES: Final = {
    "configMap",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
"""Those of restricted pod security without `csi`: drivers hand out certificates in the name of the service account."""

_SELINUX_TYPES: Final = (None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
_OUR_IDS: Final = (SIDECAR_UID, MCP_UID)
_OUR_PORTS: Final = (HTTP_PORT, HEALTH_PORT)
_OUR_PATHS: Final = (RUN, f"/var{RUN}")  # /var/run is /run in almost every image
_APPARMOR: Final = "container.apparmor.security.beta.kubernetes.io/"
_SPOOLS: Final = f"{OURS}spool"  # how claims begin that hold records, and so their templates in a StatefulSet
_NO_IDENTITY: Final = "the chart's values give this agent no `serviceAccountToken`"

Faults = Iterator[str]


def nothing_of_the_node(case: Case) -> Faults:
    """Whoever is in a namespace of the node sees every pod of it."""
    spec = case.pod.spec
    for field, value in (("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc), ("hostNetwork", spec.host_network)):
        if value:
            yield f"`spec.{field}` must not be true"
    for at, container in case.containers():
        if any(port.host_port for port in container.ports or ()):
            yield f"`{at}.ports.hostPort` must not be set"


def no_shared_processes(case: Case) -> Faults:
    """In one process namespace an agent sees the sidecar's files through /proc."""
    if case.pod.spec.share_process_namespace:
        yield "`spec.shareProcessNamespace` must not be true"


def no_errands_of_the_node(case: Case) -> Faults:
    """A kubelet connects from the node's network, where no NetworkPolicy and no rule of the pod's holds."""
    for at, visit in case.visits():
        if not isinstance(visit, GrpcCall) and visit.host:
            yield f"`{at}.host` must not be set: a kubelet asks the pod itself, and nobody else in its name"
        if str(visit.port) in map(str, _OUR_PORTS):
            yield f"`{at}.port`: {visit.port} is the sidecar's"


def linux_alone(case: Case) -> Faults:
    """Nothing of ours runs on Windows."""
    system, security = case.pod.spec.os, case.pod.spec.security_context
    if system is not None and system.name != "linux":
        yield "`spec.os.name` must be linux"
    if security is not None and security.windows_options:
        yield "`spec.securityContext.windowsOptions` must not be set"
    for at, container in case.containers():
        if container.security_context is not None and container.security_context.windows_options:
            yield f"`{at}.securityContext.windowsOptions` must not be set"


def no_ephemeral_containers(case: Case) -> Faults:
    """A container that joins later joins another's processes."""
    if case.pod.spec.ephemeral_containers:
        yield "`spec.ephemeralContainers` must not be set"


def one_thing_a_name(case: Case) -> Faults:
    """What is found by its name is there once."""
    containers = [container.name for _, container in case.containers()]
    for what, names in (("container", containers), ("volume", [volume.name for _, volume in case.volumes()])):
        for name in sorted(name for name, count in Counter(names).items() if count > 1):
            yield f"two {what}s are called {quoted(name)}"


def known_volumes(case: Case) -> Faults:
    """Host paths, and drivers that may hand out identities."""
    for at, volume in case.volumes():
        if len(volume.kinds) != 1 or volume.kinds[0] not in _VOLUMES:
            yield f"`{at}` must be one of {', '.join(sorted(_VOLUMES))}, and is {quoted(', '.join(volume.kinds))}"


def no_secret_of_ours(case: Case) -> Faults:
    """A sidecar's key, and what MCP servers hold so that the agent need not."""
    held = case.catalogue.tool_secrets
    for at, name in case.secrets():
        if name is not None and (name.startswith(f"{SIDECAR}-") or name in held):
            yield f"`{at}`: the Secret {quoted(name)} is not for the agent's pod to read"


def no_token(case: Claimed) -> Faults:
    """A token of the service account is its identity elsewhere; a certificate of the pod may be the sidecar's here."""
    for at, source in case.projections():
        if source.pod_certificate is not None:
            yield f"`{at}.podCertificate` must not be set"
        if source.service_account_token is not None and not case.claim.agent.service_account_token:
            yield f"`{at}.serviceAccountToken` must not be set: {_NO_IDENTITY}"
    if case.pod.spec.automount_service_account_token and not case.claim.agent.service_account_token:
        yield f"`spec.automountServiceAccountToken` must not be true: {_NO_IDENTITY}"


def no_name_of_ours(case: Claimed) -> Faults:
    """Whoever has the name is taken for the thing."""
    names = [(at, container.name) for at, container in case.containers()]
    names += [(at, volume.name) for at, volume in case.volumes() if not _names_spool(case, volume)]
    for at, name in names:
        if name.startswith(OURS):
            yield f"`{at}`: names that begin with `{OURS}` are the injector's, and this is not as it makes it"
    for at, container in case.containers():
        for variable in container.env or ():
            if variable.name.startswith("EXEQUATUR_"):
                yield f"`{at}.env[{variable.name}]`: names that begin with `EXEQUATUR_` are the injector's"
        for port in container.ports or ():
            if port.container_port in _OUR_PORTS:
                yield f"`{at}.ports.containerPort`: {port.container_port} is the sidecar's"
    for at, name in case.mounted():
        if name.startswith(OURS):
            yield f"`{at}`: the volume is the injector's"


def no_path_of_ours(case: Claimed) -> Faults:
    """A mount over a door's folder puts another door there; so does who holds a folder above it, by renaming."""
    for at, container in case.containers():
        places = [
            (f"volumeMounts[{mount.name}].mountPath", mount.mount_path) for mount in container.volume_mounts or ()
        ]
        places += [
            (f"volumeDevices[{item.name}].devicePath", item.device_path) for item in container.volume_devices or ()
        ]
        places.append(("terminationMessagePath", container.termination_message_path or ""))
        for field, path in places:
            plain = posixpath.normpath("/" + path.lstrip("/")).rstrip("/") + "/"
            if any(plain.startswith(f"{ours}/") for ours in _OUR_PATHS):
                yield f"`{at}.{field}`: what is below `{RUN}` is the injector's"
            elif (
                path and container.name in case.claim.containers and any(ours.startswith(plain) for ours in _OUR_PATHS)
            ):
                yield f"`{at}.{field}`: `{RUN}` is below it, which is the injector's: mount folders of their own"


def no_propagated_mounts(case: Case) -> Faults:
    """What is mounted in one container must not appear in others."""
    for at, container in case.containers():
        for mount in container.volume_mounts or ():
            if mount.mount_propagation not in (None, "None"):
                yield f"`{at}.volumeMounts[{mount.name}].mountPropagation` must be None"


def unprivileged(case: Case) -> Faults:
    """A capability or a way to more privileges is a way to the sidecar's files."""
    for at, container in case.containers():
        security = container.security_context
        if security is None:
            continue
        if security.privileged:
            yield f"`{at}.securityContext.privileged` must not be true"
        if security.allow_privilege_escalation:
            yield f"`{at}.securityContext.allowPrivilegeEscalation` must not be true"
        if security.proc_mount not in (None, "Default"):
            yield f"`{at}.securityContext.procMount` must be Default"
        if security.capabilities is not None and security.capabilities.add:
            yield f"`{at}.securityContext.capabilities.add` must not be set"
        if security.capabilities is not None and security.capabilities.drop and "ALL" not in security.capabilities.drop:
            yield f"`{at}.securityContext.capabilities.drop` must have ALL"


def users_of_their_own(case: Case) -> Faults:
    """The sidecar's user may connect where the agent's may not, and read what it may not."""
    pod = case.pod.spec.security_context
    for at, container in case.containers():
        security = container.security_context
        own = None if security is None else security.run_as_user
        uid = own if own is not None or pod is None else pod.run_as_user
        if uid is None:
            yield f"`{at}.securityContext.runAsUser` must be set, here or on the pod: an image's user may be any"
        elif uid <= 0 or uid in _OUR_IDS:
            yield f"`{at}.securityContext.runAsUser` must not be {uid}"
        if security is not None and security.run_as_non_root is False:
            yield f"`{at}.securityContext.runAsNonRoot` must not be false"
        if security is not None and security.run_as_group in _OUR_IDS:
            yield f"`{at}.securityContext.runAsGroup` must not be {security.run_as_group}"
    if pod is None:
        return
    if pod.run_as_non_root is False:
        yield "`spec.securityContext.runAsNonRoot` must not be false"
    for field, groups in (
        ("runAsGroup", [pod.run_as_group]),
        ("fsGroup", [pod.fs_group]),
        ("supplementalGroups", pod.supplemental_groups or []),
    ):
        if set(_OUR_IDS).intersection(groups):
            yield f"`spec.securityContext.{field}` must not be {SIDECAR_UID} or {MCP_UID}"


def confined(case: Case) -> Faults:
    """Seccomp, AppArmor and SELinux as restricted pod security has them; a pod's own kernel parameters, none."""
    pod = case.pod.spec.security_context
    contexts = [(f"{at}.securityContext", container.security_context) for at, container in case.containers()]
    for at, security in [("spec.securityContext", pod), *contexts]:
        if security is None:
            continue
        if security.seccomp_profile is not None and security.seccomp_profile.type not in (
            "RuntimeDefault",
            "Localhost",
        ):
            yield f"`{at}.seccompProfile.type` must be RuntimeDefault or Localhost"
        allowed = ("RuntimeDefault",) if security is pod else ("RuntimeDefault", "Localhost")  # a pod's is ours too
        if security.app_armor_profile is not None and security.app_armor_profile.type not in allowed:
            yield f"`{at}.appArmorProfile.type` must be {' or '.join(allowed)}"
        options = security.se_linux_options
        if options is not None and (options.user or options.role or options.type not in _SELINUX_TYPES):
            yield f"`{at}.seLinuxOptions` must not choose user, role or such a type"
    if pod is not None and pod.sysctls:
        yield "`spec.securityContext.sysctls` must not be set"


def no_orders_by_annotation(case: Case) -> Faults:
    """AppArmor, container runtimes and network plugins take orders by annotation, past all that is judged here."""
    for name, value in (case.pod.metadata.annotations or {}).items():
        reason = ordered(name)
        if reason:
            yield f"`metadata.annotations[{name}]` {reason}"
        elif name.startswith(_APPARMOR) and value == "unconfined":
            yield f"`metadata.annotations[{name}]` must not be unconfined"


def no_devices_by_claim(case: Case) -> Faults:
    """A driver of devices moves network interfaces into a pod, and mounts what it likes."""
    if case.pod.spec.resource_claims:
        yield "`spec.resourceClaims` must not be set"
    for at, container in case.containers():
        if (container.resources or {}).get("claims"):
            yield f"`{at}.resources.claims` must not be set"


def names_resolve_as_for_others(case: Case) -> Faults:
    """The sidecar finds decision point and ledger by name: one that leads nowhere keeps records from them."""
    spec, metadata = case.pod.spec, case.pod.metadata
    for field, name in (("name", metadata.name), ("generateName", metadata.generate_name)):
        if "." in (name or ""):  # a pod's name is a host's in its own /etc/hosts, whole
            yield f"`metadata.{field}` must have no dot: it would stand for a host of that name"
    if spec.host_aliases:
        yield "`spec.hostAliases` must not be set"
    if spec.hostname_override:
        yield "`spec.hostnameOverride` must not be set"
    if spec.dns_policy not in (None, "ClusterFirst"):
        yield "`spec.dnsPolicy` must be ClusterFirst"
    for field in ("nameservers", "searches"):
        if (spec.dns_config or {}).get(field):
            yield f"`spec.dnsConfig.{field}` must not be set"


def records_last(case: Claimed) -> Faults:
    """Records lie on a volume that outlives the pod, or every answer waits for the ledger."""
    spool = case.claim.spool
    if spool is None:
        if case.catalogue.ledger is None:
            yield f"`metadata.annotations[{SPOOL}]` is missing: without a ledger, name a volume that holds the records"
        return
    volumes = [volume for _, volume in case.volumes() if volume.name == spool]
    if not volumes:
        yield f"`metadata.annotations[{SPOOL}]`: {quoted(spool)} is no volume of the pod"
    elif not _is_spool(volumes[0]):
        yield (
            f"`spec.volumes[{spool}]` must be a persistentVolumeClaim whose name begins with `{_SPOOLS}`: those are"
            " kept from all other pods"
        )
    if case.pod.spec.security_context is None or case.pod.spec.security_context.fs_group is None:
        yield f"`spec.securityContext.fsGroup` must be set: or user {SIDECAR_UID} cannot write to the spool's volume"


def no_way_to_a_spool(case: Claimed) -> Faults:
    """Whoever writes to a spool takes records out of it."""
    for at, volume in case.volumes():
        if volume.name != case.claim.spool and _is_spool(volume):
            yield f"`{at}`: claims whose name begins with `{_SPOOLS}` are for `{SPOOL}` alone"
        template = None if volume.ephemeral is None else volume.ephemeral.volume_claim_template
        if template is not None and {"dataSource", "dataSourceRef"} & (template.spec or {}).keys():
            yield f"`{at}.ephemeral.volumeClaimTemplate.spec` must have no source: it may be a spool's volume"
    for at, name in case.mounted():
        if name == case.claim.spool:
            yield f"`{at}`: the spool is the sidecar's alone"


def _is_spool(volume: Volume) -> bool:
    claim = volume.persistent_volume_claim
    return claim is not None and (claim.claim_name or "").startswith(_SPOOLS)


def _names_spool(case: Claimed, volume: Volume) -> bool:
    """Whether a volume may be called so: a StatefulSet's pod has its template's name, the claim too."""
    return volume.name == case.claim.spool and volume.name.startswith(_SPOOLS) and _is_spool(volume)


def shared_where_the_operator_says(case: Claimed) -> Faults:
    """A volume over a folder of programs would be a program of the agent's in an MCP server's container."""
    for name, door in case.claim.mcp_doors.items():
        for wanted, path in door.mounts.items():
            if not any(volume.name == wanted for _, volume in case.volumes()):
                yield f"`spec.volumes` has no `{wanted}` to share with the door `{name}`"
                continue
            for container in case.pod.spec.containers:
                if container.name not in case.claim.containers:
                    continue
                mounts = [mount for mount in container.volume_mounts or () if mount.name == wanted]
                if [mount.mount_path for mount in mounts] != [path] or mounts[0].sub_path or mounts[0].sub_path_expr:
                    yield (
                        f"`spec.containers[{container.name}].volumeMounts[{wanted}]` must be the whole volume, once, at"
                        f" `{path}`, as the door `{name}` has it"
                    )


OF_PODS: Final[tuple[Callable[[Case], Faults], ...]] = (
    nothing_of_the_node,
    no_shared_processes,
    no_errands_of_the_node,
    linux_alone,
    no_ephemeral_containers,
    one_thing_a_name,
    known_volumes,
    no_secret_of_ours,
    no_propagated_mounts,
    unprivileged,
    users_of_their_own,
    confined,
    no_orders_by_annotation,
    no_devices_by_claim,
    names_resolve_as_for_others,
)
OF_AGENTS: Final[tuple[Callable[[Claimed], Faults], ...]] = (
    no_token,
    no_name_of_ours,
    no_path_of_ours,
    records_last,
    no_way_to_a_spool,
    shared_where_the_operator_says,
)


def faults(case: Case) -> tuple[str, ...]:
    """Say everything that is wrong with a pod; nothing, where it may be."""
    found = [fault for rule in OF_PODS for fault in rule(case)]
    if isinstance(case, Claimed):
        found += [fault for rule in OF_AGENTS for fault in rule(case)]
    return tuple(found)
