"""The real injector behind the webhooks of an installed release, where no controller does the rest."""

from __future__ import annotations

import base64
import json
import sys

from control_plane import ADDRESS, ControlPlane
from pki import Authority
from stack import until

SERVICE, NAMESPACE = "exequatur-injector", "exequatur"


class Injector:
    """The injector's process, and its Service that leads to it."""

    def __init__(self, plane: ControlPlane, authority: Authority) -> None:
        self.plane = plane
        self.tls = authority.issue("injector", host=f"{SERVICE}.{NAMESPACE}.svc")
        self.catalogue = plane.folder / "catalogue.json"

    def lead(self) -> None:
        """Do what controllers would: say where the Service's pods are."""
        self.plane.create(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"name": SERVICE, "labels": {"kubernetes.io/service-name": SERVICE}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [ADDRESS], "conditions": {"ready": True}}],
                "ports": [{"name": "https", "port": 8443, "protocol": "TCP"}],
            },
            namespace=NAMESPACE,
        )

    def trust(self) -> None:
        """Do what cert-manager would: write into the webhooks whom the API server is to trust."""
        bundle = base64.b64encode(self.tls.roots.read_bytes()).decode()
        patch = [{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle}]
        for kind in ("mutatingwebhookconfiguration", "validatingwebhookconfiguration"):
            self.plane.kubectl("patch", kind, SERVICE, "--type=json", f"--patch={json.dumps(patch)}")

    def start(self) -> None:
        """Run the injector as its container would be, and wait until it says that it is ready."""
        kept = self.plane.get("configmap", "exequatur-catalogue", NAMESPACE)
        self.catalogue.write_text(kept["data"]["catalogue.json"])
        self.process = self.plane.spawn(
            "injector", sys.executable, "-I", "-m", "exequatur", "injector", "serve",
            f"--listen={ADDRESS}:8443", "--http=127.0.0.1:9083", f"--catalogue={self.catalogue}",
            f"--tls-certificate={self.tls.certificate}", f"--tls-key={self.tls.key}",
        )  # fmt: skip
        until(self._ready, 60, f"the injector up (see {self.plane.folder}/injector.log)", every_s=0.1)

    def stop(self) -> None:
        """SIGTERM it, and wait."""
        self.process.terminate()
        self.process.wait(timeout=30)

    def _ready(self) -> bool:
        ask = "import urllib.request as r; r.urlopen('http://127.0.0.1:9083/readyz', timeout=2)"
        return self.plane.run(sys.executable, "-c", ask, check=False).returncode == 0
