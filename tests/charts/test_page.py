"""The page about Kubernetes: its commands run in their order, up to the answer that it promises.

A real control plane takes what needs a cluster; what it then has is run as processes, as nodes would run it. Nobody
builds and pushes an image here, and the page says so.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

import pods
from controllers import Controllers
from helm import Object
from injecting import Injector
from kube_schemas import MORE, OTHERS, definition
from pages import ROOT, blocks, lay
from pki import Authority
from stack import until

pytestmark = pytest.mark.cluster
PAGE = ROOT / "docs" / "kubernetes.md"
OPERATE = ROOT / "docs" / "operate.md"
ELSEWHERE = {"not run: an engine and a registry", "not run: nodes", "not run: the end"}
IMAGE = "registry.example/exequatur"
HERE = {"", "not run: a cluster", "not run: a cluster with its injector"}


WORDS = """
kubectl -n $NS get pod/volume -o name
kubectl -n $NS get pvc -l "$(part pdp)" -o name
{ pods pdp; said ledger; refused; ends $NS pdp-tls | grep notAfter; } > /dev/null
"""
"""What runbooks say of an installation; the last two lines are what it has."""


@pytest.fixture
def desk():
    folder = Path(tempfile.mkdtemp(prefix="ex-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def cluster(plane):
    """The control plane after cert-manager's installation."""
    for kind in ("Certificate", *MORE):
        plane.kubectl("apply", "--server-side", f"--filename={definition(kind)}")
    # kubectl fails at a definition that has no conditions yet.
    wait = ("wait", "--for=condition=Established", "--timeout=60s", "customresourcedefinitions", "--all")
    until(lambda: plane.kubectl(*wait, check=False).returncode == 0, 60, "cert-manager's kinds known", every_s=0.2)
    plane.namespace("cert-manager")
    return plane


def test_the_pages_commands_work_on_a_cluster(cluster, desk):
    env = {**cluster.environ(), "PATH": lay(desk), "HOME": str(desk), "EXEQUATUR_OPA": os.environ["EXEQUATUR_OPA"]}
    injector = Injector(cluster, Authority(desk / "pki"))
    said = ""

    def run(text: str) -> str:
        command = cluster.inside("timeout", "120", "bash", "-euo", "pipefail", "-c", text)
        done = subprocess.run(command, cwd=desk, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    with Controllers(cluster):
        for note, text in blocks(PAGE):
            assert note in HERE | ELSEWHERE
            if note in ELSEWHERE:
                continue
            if note == "not run: a cluster with its injector":
                injector.trust()
                injector.lead()
                injector.start()
            said = run(text)
        pod = cluster.get("pod", "assistant-1", "office")
        assert [container["name"] for container in pod["spec"]["initContainers"]] == ["exequatur-sidecar"]
        version = pod["metadata"]["annotations"]["exequatur.dev/injector"]
        assert said.splitlines()[1].split() == ["office", "assistant-1", version]
        for namespace in ("exequatur", "orchestrators"):
            cluster.service_account("default", namespace)
        theirs = [text for note, text in blocks(OPERATE) if note == "not run: the cluster of kubernetes.md"]
        held = run("\n".join([*theirs, WORDS]))
        assert held.splitlines()[-2:] == ["pod/volume", "persistentvolumeclaim/exequatur-pdp"]
        with pods.world() as world:
            (asked,) = [text for note, text in blocks(PAGE) if note == "not run: nodes"]
            done = judged(cluster, world, Authority(desk / "authority"), asked)
            (asked,) = [text for note, text in blocks(OPERATE) if note == "not run: its nodes"]
            operator = world.run(cluster.get("pod", "operator", "orchestrators"))
            shown = operator.containers["shell"].run("/bin/sh", "-c", asked.partition(" -- ")[2], timeout_s=60)
        assert left_by_uninstalling(cluster, run) == ["exequatur-pdp"]
    injector.stop()
    assert done.returncode == 1, f"{done.stdout}\n{done.stderr}"
    promised = re.search(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert promised is not None
    words = [re.sub(r"\W+", " ", line).strip() for line in promised[1].splitlines()]
    answer = re.sub(r"\W+", " ", done.stdout)
    assert [word for word in words if word not in answer] == []
    assert shown.returncode == 0, f"{shown.stdout}\n{shown.stderr}"
    assert re.search(r"default +serving +1\b", shown.stdout), shown.stdout


def left_by_uninstalling(cluster, run: Callable[[str], str]) -> list[str]:
    """Uninstall as the page does it; give the claims that were there before it removed those too."""
    release, rest = [text for note, text in blocks(PAGE) if note == "not run: the end"]
    run(release)
    assert everything(cluster, "pods") == [pod for pod in everything(cluster, "pods") if is_elsewhere(pod)]
    left = [claim["metadata"]["name"] for claim in everything(cluster, "persistentvolumeclaims")]
    run(rest)
    assert everything(cluster, "persistentvolumeclaims") == []
    return left


def is_elsewhere(pod: Object) -> bool:
    return bool(pod["metadata"]["namespace"] != "office")


def judged(cluster, world: pods.World, authority: Authority, asked: str) -> subprocess.CompletedProcess[str]:
    """Be cert-manager, the controllers and the nodes for what `cluster` has; then let the agent ask."""
    world.images[IMAGE] = pods.our_image(world.folder)
    for kind in ("configmaps", "secrets"):
        world.apply(everything(cluster, kind))
    for item in everything(cluster, "certificates"):
        namespace, name, spec = item["metadata"]["namespace"], item["metadata"]["name"], item["spec"]
        made = authority.issue(
            f"{namespace}-{name}", *spec.get("uris", ()), host=next(iter(spec.get("dnsNames", ())), "")
        )
        files = {"tls.crt": made.certificate, "tls.key": made.key, "ca.crt": made.roots}
        data = {file: base64.b64encode(path.read_bytes()).decode() for file, path in files.items()}
        metadata = {"name": spec["secretName"], "namespace": namespace}
        world.apply([{"kind": "Secret", "metadata": metadata, "data": data}])
    for kind, name in (("statefulset", "exequatur-ledger"), ("deployment", "exequatur-pdp")):
        pod = world.run(pods.pod_of(cluster.get(kind, name, "exequatur")))
        world.name("exequatur", name, pod.ip)
    agent = world.run(cluster.get("pod", "assistant-1", "office"))
    job = world.run(pods.pod_of(cluster.get("job", "session-of-assistant-1", "orchestrators")))
    opening = job.containers["open"]
    assert opening.wait(60)
    assert opening.ended == 0, opening.tail()
    question, _, command = asked.partition("|\n")
    return agent.containers["agent"].run("/bin/sh", "-c", f"{question} | {command.partition(' -- ')[2]}", timeout_s=60)


def everything(cluster, kind: str) -> list[Object]:
    return list(json.loads(cluster.kubectl("get", kind, "--all-namespaces", "--output=json").stdout)["items"])


def test_the_kinds_that_it_names_are_those_that_are_there():
    assert set(MORE).isdisjoint(OTHERS)
    assert all(kind in PAGE.read_text() for kind in MORE)
