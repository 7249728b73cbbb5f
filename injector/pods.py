"""A pod, read strictly enough never to be misjudged.

Rules: a field that is not named here refuses the pod, so that a newer Kubernetes cannot bring a way around the rules;
what a rule reads has exactly its type (`"true"` is no boolean); null is unset, as it is to Kubernetes. `Any` marks what
no rule needs to read. There are no more of each than any pod has, so that one pod does not hold up all others.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

T = TypeVar("T")
Few: TypeAlias = Annotated[list[T], Field(max_length=100)]
"""Containers, and what a container has a handful of."""
Many: TypeAlias = Annotated[list[T], Field(max_length=1000)]
"""What charts make in loops: volumes, mounts, variables."""
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
"""A DNS label, as Kubernetes wants it too."""


class _Known(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, alias_generator=to_camel)


class _Open(BaseModel):
    """An object of which only these members matter."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, alias_generator=to_camel)


class Typed(_Open):
    """A seccomp or AppArmor profile."""

    type: str | None = None


class SeLinux(_Known):
    """SELinux options."""

    level: str | None = None
    role: str | None = None
    type: str | None = None
    user: str | None = None


class Capabilities(_Known):
    """Linux capabilities."""

    add: Few[str] | None = None
    drop: Few[str] | None = None


class SecurityContext(_Known):
    """What a container says of its privileges."""

    allow_privilege_escalation: bool | None = None
    app_armor_profile: Typed | None = None
    capabilities: Capabilities | None = None
    privileged: bool | None = None
    proc_mount: str | None = None
    read_only_root_filesystem: bool | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    run_as_user: int | None = None
    se_linux_options: SeLinux | None = None
    seccomp_profile: Typed | None = None
    windows_options: dict[str, Any] | None = None


class PodSecurityContext(_Known):
    """What a pod says of the privileges of its containers."""

    app_armor_profile: Typed | None = None
    fs_group: int | None = None
    fs_group_change_policy: Any = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    run_as_user: int | None = None
    se_linux_change_policy: Any = None
    se_linux_options: SeLinux | None = None
    seccomp_profile: Typed | None = None
    supplemental_groups: Many[int] | None = None
    supplemental_groups_policy: Any = None
    sysctls: Few[Any] | None = None
    windows_options: dict[str, Any] | None = None


class Named(_Open):
    """A reference by name."""

    name: str | None = None


class FileKey(_Open):
    """A reference to a file in a volume."""

    volume_name: str | None = None


class EnvSource(_Known):
    """Where an environment variable's value comes from."""

    config_map_key_ref: Any = None
    field_ref: Any = None
    file_key_ref: FileKey | None = None
    resource_field_ref: Any = None
    secret_key_ref: Named | None = None


class EnvVar(_Known):
    """One environment variable."""

    name: str = Field(max_length=1024)
    value: str | None = None
    value_from: EnvSource | None = None


class EnvFrom(_Known):
    """Where many environment variables come from."""

    prefix: str | None = None
    config_map_ref: Any = None
    secret_ref: Named | None = None


class Mount(_Known):
    """A volume's place in a container."""

    name: Name
    mount_path: str
    bind_mount_options: Any = None
    mount_propagation: str | None = None
    read_only: bool | None = None
    recursive_read_only: str | None = None
    sub_path: str | None = None
    sub_path_expr: str | None = None


class Device(_Known):
    """A block volume's place in a container."""

    name: Name
    device_path: str


class Port(_Open):
    """A port that a container says it listens on."""

    container_port: int | None = None
    host_port: int | None = None


class HttpGet(_Known):
    """A request that a kubelet makes."""

    host: str | None = None
    http_headers: Any = None
    path: Any = None
    port: int | str | None = None
    protocol: Any = None
    scheme: Any = None


class TcpSocket(_Known):
    """A connection that a kubelet makes."""

    host: str | None = None
    port: int | str | None = None


class GrpcCall(_Known):
    """A call that a kubelet makes, of the pod itself: there is no host."""

    mode: Any = None
    port: int | str | None = None
    service: Any = None


class Handler(_Known):
    """What a kubelet does when a container has started, or before it stops."""

    exec: Any = None
    http_get: HttpGet | None = None
    sleep: Any = None
    tcp_socket: TcpSocket | None = None


class Lifecycle(_Known):
    """What a kubelet does around a container's life."""

    post_start: Handler | None = None
    pre_stop: Handler | None = None
    stop_signal: Any = None


class Probe(_Known):
    """How a kubelet finds out how a container is."""

    exec: Any = None
    grpc: GrpcCall | None = None
    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    failure_threshold: Any = None
    initial_delay_seconds: Any = None
    period_seconds: Any = None
    success_threshold: Any = None
    termination_grace_period_seconds: Any = None
    timeout_seconds: Any = None


class Container(_Known):
    """A container, an init container or a native sidecar."""

    name: Name
    image: str | None = None
    args: Many[str] | None = None
    command: Many[str] | None = None
    env: Many[EnvVar] | None = None
    env_from: Few[EnvFrom] | None = None
    image_pull_policy: str | None = None
    lifecycle: Lifecycle | None = None
    liveness_probe: Probe | None = None
    ports: Many[Port] | None = None
    readiness_probe: Probe | None = None
    resize_policy: Any = None
    resources: dict[str, Any] | None = None
    restart_policy: str | None = None
    restart_policy_rules: Any = None
    security_context: SecurityContext | None = None
    startup_probe: Probe | None = None
    stdin: Any = None
    stdin_once: Any = None
    termination_message_path: str | None = None
    termination_message_policy: Any = None
    tty: Any = None
    volume_devices: Few[Device] | None = None
    volume_mounts: Many[Mount] | None = None
    working_dir: str | None = None


class Projection(_Known):
    """One source of a projected volume."""

    cluster_trust_bundle: Any = None
    config_map: Any = None
    downward_api: Any = Field(default=None, alias="downwardAPI")
    pod_certificate: dict[str, Any] | None = None
    secret: Named | None = None
    service_account_token: dict[str, Any] | None = None


class Projected(_Open):
    """A projected volume."""

    sources: Few[Projection] | None = None


class Template(_Open):
    """What a claim is made of that goes with the pod."""

    spec: dict[str, Any] | None = None


class Ephemeral(_Open):
    """A claim that goes with the pod."""

    volume_claim_template: Template | None = None


class SecretVolume(_Open):
    """A Secret as a volume."""

    secret_name: str | None = None


class Claim(_Open):
    """A reference to a PersistentVolumeClaim."""

    claim_name: str | None = None


class Volume(BaseModel):
    """A volume; `kinds` says which members it has beside its name, known to us or not."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, alias_generator=to_camel)

    name: Name
    persistent_volume_claim: Claim | None = None
    projected: Projected | None = None
    secret: SecretVolume | None = None
    ephemeral: Ephemeral | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """What kind of volume it is: one, or the pod is not to be believed."""
        known = {to_camel(name) for name in self.model_fields_set if getattr(self, name, None) is not None}
        extra = {name for name, value in (self.model_extra or {}).items() if value is not None}
        return tuple(sorted((known | extra) - {"name"}))


class HostSystem(_Open):
    """The operating system that a pod is for."""

    name: str | None = None


class Spec(_Known):
    """What a pod is to be."""

    containers: Few[Container] = Field(min_length=1)
    init_containers: Few[Container] | None = None
    ephemeral_containers: Few[Any] | None = None
    volumes: Many[Volume] | None = None
    security_context: PodSecurityContext | None = None
    automount_service_account_token: bool | None = None
    dns_config: dict[str, Any] | None = None
    dns_policy: str | None = None
    host_aliases: Few[Any] | None = None
    host_ipc: bool | None = Field(default=None, alias="hostIPC")
    host_network: bool | None = None
    host_pid: bool | None = Field(default=None, alias="hostPID")
    hostname_override: str | None = None
    image_pull_secrets: Few[Named] | None = None
    os: HostSystem | None = None
    service_account: str | None = None
    service_account_name: str | None = None
    share_process_namespace: bool | None = None

    active_deadline_seconds: Any = None
    affinity: Any = None
    enable_service_links: Any = None
    eviction_responders: Any = None
    host_users: Any = None
    hostname: Any = None
    node_name: Any = None
    node_selector: Any = None
    overhead: Any = None
    preemption_policy: Any = None
    priority: Any = None
    priority_class_name: Any = None
    readiness_gates: Any = None
    resource_claims: Any = None
    resources: Any = None
    restart_policy: Any = None
    runtime_class_name: Any = None
    scheduler_name: Any = None
    scheduling_gates: Any = None
    scheduling_group: Any = None
    set_hostname_as_fqdn: Any = Field(default=None, alias="setHostnameAsFQDN")
    subdomain: Any = None
    termination_grace_period_seconds: Any = None
    tolerations: Any = None
    topology_spread_constraints: Any = None


class Metadata(_Open):
    """What a pod is called, and what is noted on it."""

    name: str | None = None
    generate_name: str | None = None
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Pod(_Known):
    """A pod as an API server sends it."""

    api_version: str
    kind: str
    metadata: Metadata
    spec: Spec
    status: Any = None
