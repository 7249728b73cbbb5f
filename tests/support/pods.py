"""A very small kubelet: runs what a manifest says as processes of this machine, to see how it lives.

A pod gets a network namespace, each of its containers namespaces of its own (`contained.py`), its volumes as folders
(`volumes.py`), its environment with what the downward API and the Services say of it, probes, and a life in the order
that Kubernetes gives it: init containers one after another, those that stay (native sidecars) until their startup
probe is answered; then the containers; at the end `preStop`, SIGTERM, the containers first and the sidecars after them
in reverse, and SIGKILL when the grace period is over.

What it leaves out: images (a name stands for an argument list), limits, seccomp, restarts. A container that ends by
itself is a failure of the test. Probes are asked all the time: no test waits for a period to pass.
"""

from __future__ import annotations

import contextlib
import copy
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from contained import Container, Mount, Plan, Who
from netns import Network
from volumes import Manifest, Volumes, contents

IMAGE_PATH = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
LOOK_S = 0.02
START_S = 60.0


@dataclass(frozen=True)
class Image:
    """What a name of an image stands for."""

    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    uid: int = 0
    gid: int = 0
    files: Mapping[str, Path] = field(default_factory=dict)
    """What it has beside this machine's programs, by path."""


def our_image(folder: Path) -> Image:
    """Make what our image has at `/opt/exequatur`: an environment of its own, over what this one has installed."""
    opt = folder / "opt"
    (opt / "bin").mkdir(parents=True)
    (opt / "lib").symlink_to(Path(sys.prefix) / "lib")
    (opt / "bin" / "python").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    (opt / "pyvenv.cfg").write_text((Path(sys.prefix) / "pyvenv.cfg").read_text())
    text = "from exequatur.__main__ import main\n\nmain()\n"
    (opt / "bin" / "exequatur").write_text(f"#!/opt/exequatur/bin/python -I\n{text}")
    (opt / "bin" / "exequatur").chmod(0o755)
    return Image(("/opt/exequatur/bin/exequatur",), uid=64113, gid=64113, files={"/opt/exequatur": opt})


@dataclass
class Pod:
    """A pod that runs."""

    world: World
    manifest: Manifest
    folder: Path
    network: str
    ip: str
    volumes: Volumes
    containers: dict[str, Container] = field(default_factory=dict)
    ready: threading.Event = field(default_factory=threading.Event)
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def name(self) -> str:
        """Its name."""
        return self.manifest["metadata"]["name"]

    @property
    def spec(self) -> Manifest:
        """Its spec."""
        return self.manifest["spec"]

    def start(self) -> None:
        """Start it in order; returns when every container is ready."""
        for spec in self.spec.get("initContainers", ()):
            container = self._launch(spec)
            if spec.get("restartPolicy") == "Always":
                self._await_probe(spec, container, "startupProbe")
            elif not container.wait(START_S) or container.ended != 0:
                raise RuntimeError(f"{self.name}/{spec['name']} failed: {container.tail()}")
        for spec in self.spec["containers"]:
            self._launch(spec)
        for spec in self._all:
            container = self.containers.get(spec["name"])
            if container is not None and (spec in self.spec["containers"] or spec.get("restartPolicy") == "Always"):
                self._await_probe(spec, container, "startupProbe")
                self._await_probe(spec, container, "readinessProbe")
        self.ready.set()

    def stop(self) -> float:
        """End it as a deleted pod ends; gives how long that took, in seconds. Raises when it had to be killed."""
        began = time.monotonic()
        end = began + self.spec.get("terminationGracePeriodSeconds", 30)
        self.stopping.set()
        staying = [spec for spec in self.spec.get("initContainers", ()) if spec.get("restartPolicy") == "Always"]
        killed: list[str] = []
        with ThreadPoolExecutor(max(len(self.spec["containers"]), 1)) as threads:
            for name in threads.map(lambda spec: self._terminate(spec, end), self.spec["containers"]):
                killed += name
        for spec in reversed(staying):
            killed += self._terminate(spec, end)
        self.remove()
        if killed:
            raise RuntimeError(f"{self.name}: killed at the end of the grace period: {killed}")
        return time.monotonic() - began

    def remove(self) -> None:
        """End what is left of it at once."""
        self.stopping.set()
        for container in self.containers.values():
            container.kill()
        self.world.network.remove(self.network)
        self.world.forget(self)

    def check(self) -> None:
        """See that nothing of it has ended by itself."""
        for name, container in self.containers.items():
            is_init = any(
                spec["name"] == name and spec.get("restartPolicy") != "Always"
                for spec in self.spec.get("initContainers", ())
            )
            if container.ended is not None and not is_init and not self.stopping.is_set():
                raise RuntimeError(f"{self.name}/{name} ended with {container.ended}: {container.tail()}")

    @property
    def _all(self) -> Sequence[Manifest]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    def _launch(self, spec: Manifest) -> Container:
        name = spec["name"]
        plan = self.world.plan(self, spec)
        container = Container(plan, self.folder / name, self.folder / f"{name}.log")
        self.containers[name] = container
        container.start()
        return container

    def _await_probe(self, spec: Manifest, container: Container, kind: str) -> None:
        probe = spec.get(kind)
        if probe is None:
            return
        end = time.monotonic() + START_S
        while not self._answers(spec, container, probe):
            self.check()
            if self.stopping.is_set():
                raise RuntimeError(f"{self.name} is being deleted")
            if time.monotonic() > end:
                raise TimeoutError(f"{self.name}/{spec['name']}: no {kind} in {START_S} s: {container.tail()}")
            time.sleep(LOOK_S)

    def _answers(self, spec: Manifest, container: Container, probe: Manifest) -> bool:
        match probe:
            case {"grpc": target}:
                return serves(f"{self.ip}:{_port(spec, target['port'])}", target.get("service", ""))
            case {"httpGet": target}:
                url = f"http://{self.ip}:{_port(spec, target['port'])}{target.get('path', '/')}"
                with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1) as answer:
                    return bool(200 <= answer.status < 400)
                return False
            case {"exec": target}:
                try:
                    return container.run(*target["command"]).returncode == 0
                except RuntimeError:
                    return False
        raise ValueError(f"a probe of {sorted(probe)}")

    def _terminate(self, spec: Manifest, end: float) -> list[str]:
        """Stop one container; gives its name when it had to be killed."""
        container = self.containers.get(spec["name"])
        if container is None or container.ended is not None:
            return []
        match (spec.get("lifecycle") or {}).get("preStop"):
            case {"sleep": {"seconds": seconds}}:
                container.wait(min(seconds, max(end - time.monotonic(), 0)))
            case {"exec": {"command": command}}:
                with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                    container.run(*command, timeout_s=max(end - time.monotonic(), 1))
        container.signal(signal.SIGTERM)
        if container.wait(max(end - time.monotonic(), 1)):
            return []
        container.kill()
        return [spec["name"]]


class World:
    """A cluster of one node: objects by name, names of Services, and the pods that run."""

    def __init__(self, folder: Path) -> None:
        """Run in `folder`. An image's name that begins with a key of `images` stands for that one."""
        self.folder = folder
        self.images = {"": Image()}
        self.network = Network()
        self.objects: dict[tuple[str, str, str], Manifest] = {}
        self.pods: list[Pod] = []
        self.hosts = folder / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n::1 localhost\n")
        self._services: dict[tuple[str, str], tuple[str, Sequence[Manifest]]] = {}
        self._closing: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    @property
    def node(self) -> str:
        """Our own address on the pods' network."""
        return self.network.node

    def apply(self, manifests: Sequence[Manifest], namespace: str = "default") -> None:
        """Keep objects for the pods that name them."""
        for manifest in manifests:
            meta = manifest["metadata"]
            self.objects[manifest["kind"], meta.get("namespace", namespace), meta["name"]] = manifest

    def name(self, namespace: str, service: str, address: str, ports: Sequence[Manifest] = ()) -> None:
        """Let pods find a Service by its names; those of its namespace hear of it in their environment too."""
        self._services[namespace, service] = address, ports
        short = f"{service}.{namespace}"
        with self.hosts.open("a") as hosts:
            hosts.write(f"{address} {short}.svc {short} {short}.svc.cluster.local\n")

    def at_end(self, close: Callable[[], None]) -> None:
        """Have `close` called before the network is taken down."""
        self._closing.append(close)

    def run(self, pod: Manifest) -> Pod:
        """Start a pod; returns when it is ready. When it does not become so, nothing of it is left."""
        made = self.make(pod)
        try:
            made.start()
        except BaseException:
            made.remove()
            raise
        return made

    def make(self, pod: Manifest) -> Pod:
        """Give a pod its network and its volumes; nothing of it runs yet."""
        pod = copy.deepcopy(dict(pod))
        pod["metadata"] = {"namespace": "default", "uid": str(uuid4()), **pod["metadata"]}
        folder = Path(tempfile.mkdtemp(prefix="p", dir=self.folder))
        folder.chmod(0o755)
        volumes = Volumes(folder / "volumes", self.folder / "claims", self.objects, pod)
        network, ip = self.network.add()
        made = Pod(self, pod, folder, network, ip, volumes)
        with self._lock:
            self.pods.append(made)
        return made

    def forget(self, pod: Pod) -> None:
        """Let go of a pod that is gone; its folder stays, for its logs."""
        with self._lock, contextlib.suppress(ValueError):
            self.pods.remove(pod)

    def plan(self, pod: Pod, spec: Manifest) -> Plan:
        """Say how a container of a pod runs."""
        image = next(image for name, image in sorted(self.images.items(), reverse=True) if _is_of(spec, name))
        env = self._environment(pod, spec)
        entrypoint = [_expand(word, env) for word in spec.get("command") or image.entrypoint]
        default = () if spec.get("command") else image.command
        arguments = [_expand(word, env) for word in spec.get("args") or default]
        mounts = [Mount(source, path, read_only=True) for path, source in image.files.items()]
        for mount in spec.get("volumeMounts", ()):
            source = pod.volumes.paths[mount["name"]] / _expand(mount.get("subPathExpr", mount.get("subPath", "")), env)
            mounts.append(Mount(source, mount["mountPath"], mount.get("readOnly", False)))
        context = spec.get("securityContext") or {}
        return Plan(
            argv=[*entrypoint, *arguments],
            env={"PATH": IMAGE_PATH, "HOSTNAME": pod.name, **env},
            who=_who(pod.spec.get("securityContext") or {}, context, image),
            network=pod.network,
            hostname=pod.name,
            hosts=self.hosts,
            mounts=mounts,
            working_dir=spec.get("workingDir", "/"),
            read_only=context.get("readOnlyRootFilesystem", False),
        )

    def _environment(self, pod: Pod, spec: Manifest) -> dict[str, str]:
        namespace = pod.manifest["metadata"]["namespace"]
        env: dict[str, str] = {}
        if pod.spec.get("enableServiceLinks", True):
            for (where, name), (address, ports) in self._services.items():
                if where == namespace:
                    env |= _links(name, address, ports)
        for source in spec.get("envFrom", ()):
            ref = source.get("configMapRef") or source["secretRef"]
            kind = "ConfigMap" if "configMapRef" in source else "Secret"
            files = contents(self.objects[kind, namespace, ref["name"]])
            env |= {source.get("prefix", "") + name: text.decode() for name, text in files.items()}
        for item in spec.get("env", ()):
            if "valueFrom" in item:
                env[item["name"]] = self._value(pod, item["valueFrom"])
            else:
                env[item["name"]] = _expand(item.get("value", ""), env)
        return env

    def _value(self, pod: Pod, source: Manifest) -> str:
        meta, spec = pod.manifest["metadata"], pod.spec
        match source:
            case {"fieldRef": {"fieldPath": path}}:
                if found := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
                    return (meta.get(found[1]) or {}).get(found[2], "")
                fields = {
                    **{f"metadata.{name}": meta[name] for name in ("name", "namespace", "uid")},
                    "status.podIP": pod.ip,
                    "status.podIPs": pod.ip,
                    "status.hostIP": pod.ip,
                    "spec.nodeName": "node",
                    "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
                }
                return fields[path]
            case {"secretKeyRef": ref}:
                return contents(self.objects["Secret", meta["namespace"], ref["name"]])[ref["key"]].decode()
            case {"configMapKeyRef": ref}:
                return contents(self.objects["ConfigMap", meta["namespace"], ref["name"]])[ref["key"]].decode()
        raise ValueError(f"a value from {sorted(source)}")

    def close(self) -> None:
        """End everything."""
        for close in reversed(self._closing):
            close()
        for pod in list(self.pods):
            pod.remove()
        self.network.close()


@contextlib.contextmanager
def world() -> Iterator[World]:
    """Have a cluster of one node in a folder with a short name; nothing of it is left afterwards."""
    with tempfile.TemporaryDirectory(prefix="ex-") as name:
        Path(name).chmod(0o755)
        made = World(Path(name))
        try:
            yield made
        finally:
            made.close()


def pod_of(workload: Manifest, suffix: str = "0") -> dict[str, Any]:
    """Make the pod that a Deployment's or a StatefulSet's controller would; claims by the set's templates."""
    meta, template = workload["metadata"], copy.deepcopy(workload["spec"]["template"])
    pod: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", **template}
    name = f"{meta['name']}-{suffix}"
    pod["metadata"] = {**pod.get("metadata", {}), "name": name, "namespace": meta.get("namespace", "default")}
    for claim in workload["spec"].get("volumeClaimTemplates", ()):
        volume = {"name": (own := claim["metadata"]["name"]), "persistentVolumeClaim": {"claimName": f"{own}-{name}"}}
        pod["spec"].setdefault("volumes", []).append(volume)
    return pod


def serves(target: str, service: str) -> bool:
    """Ask a health service, once."""
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
    with grpc.insecure_channel(target, options=options) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=2
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _who(pod: Manifest, container: Manifest, image: Image) -> Who:
    uid = container.get("runAsUser", pod.get("runAsUser", image.uid))
    gid = container.get("runAsGroup", pod.get("runAsGroup", image.gid))
    if container.get("runAsNonRoot", pod.get("runAsNonRoot", False)) and uid == 0:
        raise RuntimeError("container has runAsNonRoot and image will run as root")
    groups = {*pod.get("supplementalGroups", ()), *([pod["fsGroup"]] if "fsGroup" in pod else [])}
    capabilities = container.get("capabilities") or {}
    return Who(
        uid,
        gid,
        tuple(sorted(groups)),
        tuple(capabilities.get("add", ())),
        new_privileges=container.get("allowPrivilegeEscalation", True),
    )


def _is_of(spec: Manifest, name: str) -> bool:
    return str(spec.get("image", "")).startswith(name)


def _port(spec: Manifest, port: int | str) -> int:
    if isinstance(port, int):
        return port
    return next(item["containerPort"] for item in spec["ports"] if item.get("name") == port)


def _expand(text: str, env: Mapping[str, str]) -> str:
    """Put values in the place of `$(NAME)`; a name that is not there stays, `$$` is a dollar."""

    def value(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else env.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^)]+)\)", value, text)


def _links(name: str, address: str, ports: Sequence[Manifest]) -> dict[str, str]:
    """Give the variables by which a kubelet tells containers of the Services of their namespace."""
    prefix = name.upper().replace("-", "_")
    env = {f"{prefix}_SERVICE_HOST": address}
    for number, port in enumerate(ports):
        url = f"tcp://{address}:{port['port']}"
        if number == 0:
            env |= {f"{prefix}_SERVICE_PORT": str(port["port"]), f"{prefix}_PORT": url}
        if "name" in port:
            env[f"{prefix}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = str(port["port"])
        one = f"{prefix}_PORT_{port['port']}_TCP"
        env |= {one: url, f"{one}_PROTO": "tcp", f"{one}_PORT": str(port["port"]), f"{one}_ADDR": address}
    return env
