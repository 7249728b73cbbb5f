"""One pod to be judged, as its maker wrote it: what rules look at, each with the name of its field.

Rules: pure. Nothing that a pod holds is left out: init containers are containers, and what a projected volume, an
environment variable or a registry's password names is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from injector.catalogue import Catalogue
from injector.claim import Claim
from injector.pods import Container, EnvSource, GrpcCall, HttpGet, Pod, Probe, Projection, TcpSocket, Volume


@dataclass(frozen=True, slots=True)
class Case:
    """One pod to be judged, as its maker wrote it."""

    pod: Pod
    catalogue: Catalogue

    def containers(self) -> Iterator[tuple[str, Container]]:
        """Give every container of the maker's, and how its field is called."""
        spec = self.pod.spec
        for field, found in (("initContainers", spec.init_containers), ("containers", spec.containers)):
            for container in found or ():
                yield f"spec.{field}[{container.name}]", container

    def volumes(self) -> Iterator[tuple[str, Volume]]:
        """Give every volume of the maker's, and how its field is called."""
        for volume in self.pod.spec.volumes or ():
            yield f"spec.volumes[{volume.name}]", volume

    def secrets(self) -> Iterator[tuple[str, str | None]]:
        """Give each Secret that the pod names, and where."""
        for at, volume in self.volumes():
            if volume.secret is not None:
                yield f"{at}.secret.secretName", volume.secret.secret_name
        for at, projection in self.projections():
            if projection.secret is not None:
                yield f"{at}.secret.name", projection.secret.name
        for at, container in self.containers():
            yield from ((f"{at}.{field}", name) for field, name in _secrets(container))
        for secret in self.pod.spec.image_pull_secrets or ():
            yield "spec.imagePullSecrets", secret.name

    def projections(self) -> Iterator[tuple[str, Projection]]:
        """Give each source of a projected volume, and how its field is called."""
        for at, volume in self.volumes():
            if volume.projected is not None:
                for source in volume.projected.sources or ():
                    yield f"{at}.projected.sources", source

    def visits(self) -> Iterator[tuple[str, HttpGet | TcpSocket | GrpcCall]]:
        """Give each connection that a kubelet is to make for the pod, and how its field is called."""
        for at, container in self.containers():
            life = container.lifecycle
            for field, asked in (
                ("livenessProbe", container.liveness_probe),
                ("readinessProbe", container.readiness_probe),
                ("startupProbe", container.startup_probe),
                ("lifecycle.postStart", None if life is None else life.post_start),
                ("lifecycle.preStop", None if life is None else life.pre_stop),
            ):
                if asked is None:
                    continue
                grpc = asked.grpc if isinstance(asked, Probe) else None
                for kind, visit in (("httpGet", asked.http_get), ("tcpSocket", asked.tcp_socket), ("grpc", grpc)):
                    if visit is not None:
                        yield f"{at}.{field}.{kind}", visit

    def mounted(self) -> Iterator[tuple[str, str]]:
        """Give each use of a volume by a container, and its name."""
        for at, container in self.containers():
            for mount in container.volume_mounts or ():
                yield f"{at}.volumeMounts[{mount.name}]", mount.name
            for device in container.volume_devices or ():
                yield f"{at}.volumeDevices[{device.name}]", device.name
            for name, source in _sources(container):
                if source.file_key_ref is not None:
                    yield f"{at}.env[{name}].valueFrom.fileKeyRef", source.file_key_ref.volume_name or ""


@dataclass(frozen=True, slots=True)
class Claimed(Case):
    """One that may be an agent, and what it asks for."""

    claim: Claim


def _secrets(container: Container) -> Iterator[tuple[str, str | None]]:
    for name, source in _sources(container):
        if source.secret_key_ref is not None:
            yield f"env[{name}].valueFrom.secretKeyRef", source.secret_key_ref.name
    for many in container.env_from or ():
        if many.secret_ref is not None:
            yield "envFrom.secretRef", many.secret_ref.name


def _sources(container: Container) -> Iterator[tuple[str, EnvSource]]:
    """Give each environment variable that comes from elsewhere, and its source."""
    for variable in container.env or ():
        if variable.value_from is not None:
            yield variable.name, variable.value_from
