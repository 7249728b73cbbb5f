"""A real Kubernetes control plane: etcd and kube-apiserver in a folder, on the loopback of a network of their own.

Nothing else runs: no controller, no scheduler, no kubelet. What is created is admitted or refused, and then stays as
it is. All programs that talk to it run in the same network namespace (`ControlPlane.run`), where fixed ports are free
and `ADDRESS` is an address that a Service may have behind it: an EndpointSlice takes no loopback address.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from exequatur.trust.keys import generate
from pki import Authority
from stack import until

ADDRESS = "10.199.0.1"
"""This machine, in that network alone; not 127.0.0.1 because an EndpointSlice refuses loopback."""
_ETCD, _SERVER = "http://127.0.0.1:2379", "https://127.0.0.1:6443"
_PEERS = "http://127.0.0.1:2380"


@dataclass
class ControlPlane:
    """The two servers, the network that they are in, and a kubeconfig of an administrator."""

    folder: Path
    _running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.authority = Authority(self.folder / "pki", "cluster")
        self.kubeconfig = self.folder / "kubeconfig"
        self._network: subprocess.Popen[bytes] | None = None

    # -- programs -----------------------------------------------------------------------------------------------------

    def inside(self, *command: str) -> list[str]:
        """Give the command line that runs `command` in the control plane's network."""
        assert self._network is not None
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", f"--target={self._network.pid}", "--net", *user, "--", *command]

    def environ(self) -> dict[str, str]:
        """Give the environment in which kubectl and helm find this control plane."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("EXEQUATUR_", "KUBE"))}
        return {**kept, "KUBECONFIG": str(self.kubeconfig), "HOME": str(self.folder)}

    def run(self, *command: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `command` to its end."""
        done = subprocess.run(
            self.inside(*command), env=self.environ(), input=stdin, capture_output=True, text=True, check=False
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"`{' '.join(command)}` ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def spawn(self, log: str, *command: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start `command` as a daemon that ends with the control plane at the latest, and with us if we are killed."""
        bound = ["setpriv", "--pdeathsig=KILL", "--", *command]
        with (self.folder / f"{log}.log").open("ab") as out:
            popen = subprocess.Popen(self.inside(*bound), env={**self.environ(), **(env or {})}, stdout=out, stderr=out)
        self._running.append(popen)
        return popen

    # -- the cluster --------------------------------------------------------------------------------------------------

    def kubectl(self, *args: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run kubectl."""
        return self.run("kubectl", *args, stdin=stdin, check=check)

    def create(self, *objects: Mapping[str, Any], namespace: str = "default") -> list[dict[str, Any]]:
        """Create `objects` and give them as the server keeps them; raises `RuntimeError` with its reason."""
        text = yaml.safe_dump_all(objects)
        done = self.kubectl("create", f"--namespace={namespace}", "--filename=-", "--output=json", stdin=text)
        kept = json.loads(done.stdout)
        return list(kept["items"]) if kept["kind"] == "List" else [kept]

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any]:
        """Give an object as the server keeps it."""
        return dict(json.loads(self.kubectl("get", f"--namespace={namespace}", kind, name, "--output=json").stdout))

    def namespace(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """Create a namespace as the controllers would: with the service account that its pods have by default."""
        self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}})
        self.service_account("default", name)

    def service_account(self, name: str, namespace: str) -> None:
        """Create a service account."""
        self.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}, namespace=namespace)

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start both servers and wait until the API server says that it is ready."""
        self._open_network()
        self._write_files()
        self.spawn("etcd", os.environ["EXEQUATUR_ETCD"], *_etcd_flags(self.folder))
        self.server = self.spawn("kube-apiserver", os.environ["EXEQUATUR_KUBE_APISERVER"], *self._flags())
        until(self._ready, 90, f"the API server up (see {self.folder}/kube-apiserver.log)", every_s=0.2)

    def stop(self) -> None:
        """End everything that was started here, the last one first."""
        for popen in (*reversed(self._running), self._network):
            if popen is not None:
                popen.kill()
                popen.communicate()

    def _ready(self) -> bool:
        if self.server.poll() is not None:
            log = (self.folder / "kube-apiserver.log").read_text()
            raise RuntimeError(f"kube-apiserver ended with {self.server.returncode}: {log[-3000:]}")
        return self.kubectl("get", "--raw=/readyz", check=False).returncode == 0

    def _open_network(self) -> None:
        """Make a network namespace that lasts as long as a process that waits for its standard input to end."""
        user = [] if os.geteuid() == 0 else ["--map-root-user"]
        up = f"ip link set lo up && ip address add {ADDRESS}/32 dev lo && echo up && exec cat"
        self._network = subprocess.Popen(
            ["unshare", *user, "--net", "--", "sh", "-c", up], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._network.stdout is not None
        if self._network.stdout.readline() != b"up\n":
            raise RuntimeError("no network namespace can be made here: root or user namespaces are needed")

    def _write_files(self) -> None:
        private, public = generate("ES256")
        (self.folder / "accounts.key").write_bytes(private)
        (self.folder / "accounts.pub").write_bytes(public)
        self.serving = self.authority.issue("kube-apiserver")
        person = self.authority.issue("admin", organisation="system:masters")
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "clusters": [
                {"name": "tests", "cluster": {"server": _SERVER, "certificate-authority": str(person.roots)}},
            ],
            "users": [
                {
                    "name": "admin",
                    "user": {"client-certificate": str(person.certificate), "client-key": str(person.key)},
                },
            ],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "admin"}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(config))
        self.kubeconfig.chmod(0o600)

    def _flags(self) -> Sequence[str]:
        return (
            f"--etcd-servers={_ETCD}",
            "--bind-address=127.0.0.1",
            "--secure-port=6443",
            f"--tls-cert-file={self.serving.certificate}",
            f"--tls-private-key-file={self.serving.key}",
            f"--client-ca-file={self.authority.roots}",
            f"--cert-dir={self.folder / 'certs'}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.folder / 'accounts.pub'}",
            f"--service-account-signing-key-file={self.folder / 'accounts.key'}",
            "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112",
            # Webhooks' services are reached at their EndpointSlices: there is no kube-proxy.
            "--enable-aggregator-routing=true",
            "--endpoint-reconciler-type=none",
            f"--advertise-address={ADDRESS}",
        )


def _etcd_flags(folder: Path) -> Sequence[str]:
    return (
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={_ETCD}",
        f"--advertise-client-urls={_ETCD}",
        f"--listen-peer-urls={_PEERS}",
        f"--initial-advertise-peer-urls={_PEERS}",
        f"--initial-cluster=default={_PEERS}",
        # It is thrown away: nothing need outlast a crash.
        "--unsafe-no-fsync",
        "--log-level=warn",
    )


@contextlib.contextmanager
def running() -> Iterator[ControlPlane]:
    """A control plane in a folder with a short name, gone with it afterwards."""
    with tempfile.TemporaryDirectory(prefix="ex-") as name:
        plane = ControlPlane(Path(name))
        try:
            plane.start()
            yield plane
        finally:
            plane.stop()
