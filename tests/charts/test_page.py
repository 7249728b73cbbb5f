"""The page about Kubernetes: those of its commands that need a cluster, run on a real control plane in their order.

What needs nodes, or an engine and a registry, is not run here either, and its page says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from injecting import Injector
from kube_schemas import MORE, OTHERS, definition
from pages import ROOT, blocks, lay
from pki import Authority

pytestmark = pytest.mark.cluster
PAGE = ROOT / "docs" / "kubernetes.md"
ELSEWHERE = {"not run: an engine and a registry", "not run: nodes"}
HERE = {"", "not run: a cluster", "not run: a cluster with its injector"}


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
    plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", "customresourcedefinitions", "--all")
    plane.namespace("cert-manager")
    return plane


def test_the_pages_commands_work_on_a_cluster(cluster, desk):
    env = {**cluster.environ(), "PATH": lay(desk), "HOME": str(desk), "EXEQUATUR_OPA": os.environ["EXEQUATUR_OPA"]}
    injector = Injector(cluster, Authority(desk / "pki"))
    said = ""
    for note, text in blocks(PAGE):
        assert note in HERE | ELSEWHERE
        if note in ELSEWHERE:
            continue
        if note == "not run: a cluster with its injector":
            injector.trust()
            injector.lead()
            injector.start()
        done = subprocess.run(
            cluster.inside("bash", "-euo", "pipefail", "-c", text),
            cwd=desk,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        said = done.stdout
    pod = cluster.get("pod", "assistant-1", "office")
    assert [container["name"] for container in pod["spec"]["initContainers"]] == ["exequatur-sidecar"]
    version = pod["metadata"]["annotations"]["exequatur.dev/injector"]
    assert said.splitlines()[1].split() == ["office", "assistant-1", version]


def test_the_kinds_that_it_names_are_those_that_are_there():
    assert set(MORE).isdisjoint(OTHERS)
    assert all(kind in PAGE.read_text() for kind in MORE)
