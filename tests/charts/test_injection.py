"""A real API server, the chart's own webhooks, and the real injector behind them: what becomes of pods.

There is no kubelet: a pod that is admitted stays as it is, and exec into it ends where its node would be asked.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from pathlib import Path

import pytest
import yaml

from helm import CHART, NAMESPACE, ROOT, Object
from injecting import SERVICE, Injector
from kube_schemas import NEWEST, OLDEST, validate
from stack import until

pytestmark = pytest.mark.cluster
VALUES = ROOT / "tests" / "charts" / "values" / "one-machine-injected.yaml"
INJECTED, PLAIN, FREE = "team-a", "team-b", "team-c"
POD = yaml.safe_load("""
apiVersion: v1
kind: Pod
metadata:
  name: coder
  annotations: {exequatur.dev/agent: coder}
spec:
  serviceAccountName: coder
  containers:
    - name: main
      image: registry.example/coder:1
      securityContext: {runAsUser: 1000}
      volumeMounts: [{name: workspace, mountPath: /workspace}]
  volumes: [{name: workspace, emptyDir: {sizeLimit: 1Gi}}]
""")


@pytest.fixture(scope="module")
def injector(plane):
    for name, labels in (
        (NAMESPACE, {}),
        (INJECTED, {"exequatur.dev/inject": "enabled", "pod-security.kubernetes.io/enforce": "restricted"}),
        (PLAIN, {}),
        (FREE, {"exequatur.dev/inject": "enabled"}),
    ):
        if not plane.kubectl("get", "namespace", name, "--ignore-not-found").stdout:
            plane.namespace(name)
        if labels:
            plane.kubectl(
                "label", "--overwrite", "namespace", name, *(f"{key}={value}" for key, value in labels.items())
            )
        plane.service_account("coder", name)
    injector = Injector(plane, plane.authority)
    bundle = base64.b64encode(injector.tls.roots.read_bytes()).decode()
    plane.run(
        os.environ["EXEQUATUR_HELM"], "install", "exequatur", str(CHART), f"--namespace={NAMESPACE}", f"--values={VALUES}",
        "--set=certificates.source=secret", "--set=certificates.certManager.issuer.name=",
        *(f"--set=certificates.secrets.{part}={part}-tls" for part in ("pdp", "ledger", "injector")),
        f"--set=certificates.caBundle={bundle}", "--set=agents.coder.serviceAccounts={team-a/coder,team-c/coder}",
    )  # fmt: skip
    injector.lead()
    injector.start()
    yield injector
    injector.stop()


@pytest.fixture(scope="module")
def pod(injector):
    """An injected pod that stays."""
    (kept,) = injector.plane.create(POD, namespace=INJECTED)
    return kept


def attempt(injector, pod: Object, namespace: str = INJECTED) -> str:
    """Try to create a pod, without keeping it; give the reason why it is refused, or nothing."""
    args = ("create", "--dry-run=server", f"--namespace={namespace}", "--filename=-")
    done = injector.plane.kubectl(*args, stdin=json.dumps(changed(pod, "metadata|name", "tried")), check=False)
    return done.stderr if done.returncode else ""


def changed(pod: Object, path: str, value: object) -> Object:
    """Give a copy of `pod` in which what is at `path` is `value`; None takes it out."""
    copy = json.loads(json.dumps(pod))
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("|")]
    place = copy
    for part in parents:
        place = place[part] if isinstance(part, int) else place.setdefault(part, {})
    if value is None:
        del place[last]
    else:
        place[last] = value
    return copy


def test_a_pod_of_a_labelled_namespace_comes_back_injected_valid_and_restricted(pod):
    names = [container["name"] for container in pod["spec"]["initContainers"]]
    assert names == ["exequatur-sidecar", "exequatur-mcp-git"]
    assert pod["metadata"]["labels"] == {"exequatur.dev/injected": "true", "exequatur.dev/agent": "coder"}
    assert pod["spec"]["automountServiceAccountToken"] is False
    (agent,) = pod["spec"]["containers"]
    assert {"name": "EXEQUATUR_TARGET", "value": "unix:/run/exequatur/doors/grpc/s/door.sock"} in agent["env"]
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in agent["volumeMounts"]}
    ours = {"/run/exequatur/doors/grpc": True, "/run/exequatur/bin": True, "/run/exequatur/mcp/git": True}
    assert mounts == {"/workspace": False, **ours}
    assert "kube-api-access" not in json.dumps(pod)
    shown = {**pod, "metadata": {key: value for key, value in pod["metadata"].items() if key != "managedFields"}}
    for version in (OLDEST, NEWEST):
        validate(shown, version)


def test_a_pod_of_an_unlabelled_namespace_is_left_as_it_was(injector):
    (kept,) = injector.plane.create(POD, namespace=PLAIN)
    assert "initContainers" not in kept["spec"]
    assert "labels" not in kept["metadata"]
    assert "exequatur-" not in json.dumps(kept)


def test_what_was_injected_is_admitted_again_as_it_is(injector, pod):
    again = {key: pod[key] for key in ("apiVersion", "kind", "spec")}
    metadata = {key: pod["metadata"][key] for key in ("labels", "annotations")}
    (kept,) = injector.plane.create({**again, "metadata": {**metadata, "name": "again"}}, namespace=INJECTED)
    assert kept["spec"] == pod["spec"]


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("metadata|annotations", None, "`metadata.annotations[exequatur.dev/agent]` is missing"),
        (
            "metadata|annotations|exequatur.dev/agent",
            "stranger",
            "there is no agent `stranger`: the service account `team-c/coder` may be `coder`",
        ),
        ("metadata|annotations|exequatur.dev/doors", "shell", "`shell` is no door of the agent"),
        ("metadata|annotations|exequatur.dev/session", "pod-uid", "`pod-uid` is not among the agent's"),
        ("metadata|annotations|exequatur.dev/sidecar", "off", "is no annotation of ours"),
        ("spec|serviceAccountName", "default", "may not be the agent `coder`"),
        ("spec|hostNetwork", True, "`spec.hostNetwork`"),
        ("spec|shareProcessNamespace", True, "`spec.shareProcessNamespace`"),
        ("spec|containers|0|securityContext|runAsUser", 64113, "64113"),
        ("spec|containers|0|securityContext", None, "runAsUser"),
        ("spec|containers|0|securityContext|privileged", True, "privileged"),
        ("spec|volumes|0", {"name": "workspace", "hostPath": {"path": "/"}}, "hostPath"),
        ("spec|volumes|0", {"name": "workspace", "secret": {"secretName": "exequatur-sidecar-coder"}}, "secret"),
    ],
)
def test_what_may_not_be_is_refused_with_its_reason(injector, path, value, reason):
    said = attempt(injector, changed(POD, path, value), FREE if path != "spec|serviceAccountName" else INJECTED)
    assert 'admission webhook "inject.exequatur.dev" denied the request: exequatur: ' in said
    assert reason in said


def test_the_same_pod_without_what_may_not_be_is_admitted(injector):
    assert attempt(injector, POD) == ""


def test_a_stateful_sets_pod_has_its_records_on_a_claim_of_its_own(injector):
    template = {
        "metadata": {"name": "exequatur-spool"},
        "spec": {"accessModes": ["ReadWriteOncePod"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    metadata = {
        "labels": {"app": "coder"},
        "annotations": {**POD["metadata"]["annotations"], "exequatur.dev/spool": "exequatur-spool"},
    }
    spec = {**POD["spec"], "securityContext": {"fsGroup": 2000}}
    claim = {"name": "exequatur-spool", "persistentVolumeClaim": {"claimName": "exequatur-spool-coder-0"}}
    whole = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "coder"},
        "spec": {
            "serviceName": "coder",
            "selector": {"matchLabels": metadata["labels"]},
            "template": {"metadata": metadata, "spec": spec},
            "volumeClaimTemplates": [template],
        },
    }
    args = ("create", "--dry-run=server", f"--namespace={INJECTED}", "--filename=-")
    injector.plane.kubectl(*args, stdin=json.dumps(whole))
    made = {**POD, "metadata": metadata, "spec": {**spec, "volumes": [claim, *spec["volumes"]]}}
    assert attempt(injector, made) == ""


def test_nobody_enters_what_is_ours_and_nothing_is_added_to_the_pod(injector, pod):
    kubectl, at = injector.plane.kubectl, f"--namespace={INJECTED}"
    for verb in (("exec", "coder", "-c", "{}", "--", "true"), ("attach", "coder", "-c", "{}")):
        for container in ("exequatur-sidecar", "exequatur-mcp-git"):
            done = kubectl(verb[0], at, *(word.format(container) for word in verb[1:]), check=False)
            assert f"nobody may enter `{container}`: it is the injector's" in done.stderr
        done = kubectl(verb[0], at, *(word.format("main") for word in verb[1:]), check=False)
        assert "exequatur" not in done.stderr.replace("exequatur-", "")
        assert "does not have a host assigned" in done.stderr
    done = kubectl(
        "debug",
        at,
        "coder",
        "--image=registry.example/debug:1",
        "--container=debugger",
        "--profile=restricted",
        check=False,
    )
    assert "an agent's pod takes no ephemeral containers" in done.stderr


def test_what_is_ours_in_a_running_pod_never_changes(injector, pod):
    kubectl, at = injector.plane.kubectl, f"--namespace={INJECTED}"
    for args in (
        ("label", "pod", "coder", "exequatur.dev/injected-"),
        ("annotate", "--overwrite", "pod", "coder", "exequatur.dev/agent=reader"),
        ("set", "image", "pod/coder", "exequatur-sidecar=registry.example/other:1"),
    ):
        done = kubectl(args[0], at, *args[1:], check=False)
        assert re.search(
            "what is the injector's never changes|`metadata.(labels|annotations)`.* never change", done.stderr
        )
    done = kubectl("annotate", at, "pod", "coder", "k8s.v1.cni.cncf.io/networks=storage", check=False)
    assert "gives the pod another network interface" in done.stderr
    kubectl("label", at, "pod", "coder", "team=a")
    kubectl("set", "image", at, "pod/coder", "main=registry.example/coder:2")


OURS = (
    ("labels", "exequatur.dev/injected", None),
    ("labels", "exequatur.dev/agent", "reader"),
    ("labels", "exequatur.dev/more", "x"),
    ("annotations", "exequatur.dev/agent", None),
    ("annotations", "exequatur.dev/agent", "reader"),
    ("annotations", "exequatur.dev/spool", "x"),
)


@pytest.mark.parametrize("subresource", ["status", "resize"])
@pytest.mark.parametrize(("kind", "name", "value"), OURS)
def test_nobody_changes_it_by_the_pods_other_ways_in(injector, pod, subresource, kind, name, value):
    patch = json.dumps({"metadata": {kind: {name: value}}})
    args = ("patch", "pod", "coder", f"--namespace={INJECTED}", f"--subresource={subresource}", "--type=merge")
    done = injector.plane.kubectl(*args, f"--patch={patch}", check=False)
    if subresource == "status":  # by the other one the API server itself takes no metadata
        assert f"exequatur: `metadata.{kind}` of `exequatur.dev/` never change" in done.stderr
    now = injector.plane.get("pod", "coder", INJECTED)["metadata"]
    assert [now[kind].get(name) for kind, name, _ in OURS] == [
        pod["metadata"][kind].get(name) for kind, name, _ in OURS
    ]


def test_all_of_it_cannot_be_taken_off_at_once(injector, pod):
    args = ("patch", "pod", "coder", f"--namespace={INJECTED}", "--subresource=status", "--type=merge")
    done = injector.plane.kubectl(*args, '--patch={"metadata": {"labels": null, "annotations": null}}', check=False)
    assert "never change" in done.stderr


@pytest.mark.parametrize("way", ["pods/{}/binding", "bindings"])
@pytest.mark.parametrize(
    "more", [{"labels": {"exequatur.dev/agent": "reader"}}, {"annotations": {"exequatur.dev/x": "y"}}]
)
def test_a_binding_brings_nothing_of_ours(injector, pod, way, more):
    done = bind(injector, "coder", way, more)
    assert "never change" in done.stderr
    assert "nodeName" not in injector.plane.get("pod", "coder", INJECTED)["spec"]


def test_nodes_and_schedulers_say_what_they_have_to_say(injector):
    injector.plane.create(changed(POD, "metadata|name", "scheduled"), namespace=INJECTED)
    more = {"labels": {"topology.kubernetes.io/zone": "z"}, "annotations": {"scheduler.example/why": "x"}}
    assert bind(injector, "scheduled", "pods/{}/binding", more).stderr == ""
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    for patch in ({"status": status}, {"metadata": {"annotations": {"network.example/status": "up"}}}):
        args = ("patch", "pod", "scheduled", f"--namespace={INJECTED}", "--subresource=status", "--type=strategic")
        injector.plane.kubectl(*args, f"--patch={json.dumps(patch)}")
    kept = injector.plane.get("pod", "scheduled", INJECTED)
    assert (kept["spec"]["nodeName"], kept["status"]["phase"]) == ("n1", "Running")
    assert kept["metadata"]["annotations"]["network.example/status"] == "up"


def bind(injector, name: str, way: str, more: Object):
    """Say on which node a pod is, as a scheduler does."""
    target = {"apiVersion": "v1", "kind": "Node", "name": "n1"}
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, **more}, "target": target}
    path = f"/api/v1/namespaces/{INJECTED}/{way.format(name)}"
    return injector.plane.kubectl("create", f"--raw={path}", "--filename=-", stdin=json.dumps(binding), check=False)


@pytest.mark.parametrize("again", ["Never", "IfNeeded"])
def test_a_later_webhook_that_takes_the_sidecar_out_gets_no_pod_without_one(injector, again):
    plane = injector.plane
    tls = plane.authority.issue("stripper", host="localhost")
    script = Path(__file__).parent.parent / "support" / "stripping_webhook.py"
    process = plane.spawn(
        "stripper", sys.executable, str(script), "127.0.0.1", "9443", str(tls.certificate), str(tls.key)
    )
    hook = {
        "name": "strip.example.org",
        "clientConfig": {
            "url": "https://localhost:9443/",
            "caBundle": base64.b64encode(tls.roots.read_bytes()).decode(),
        },
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "reinvocationPolicy": again,
    }
    plane.create(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "zz-later"},
            "webhooks": [hook],
        }
    )
    try:
        plain = {
            **POD,
            "spec": {**POD["spec"], "initContainers": [dict(POD["spec"]["containers"][0], name="exequatur-x")]},
        }
        until(lambda: stripped(plane, plain), 20, "the later webhook called", every_s=0.1)
        done = plane.kubectl(
            "create", "--dry-run=server", f"--namespace={INJECTED}", "--output=json", "--filename=-",
            stdin=json.dumps(changed(POD, "metadata|name", "tried")), check=False,
        )  # fmt: skip
        if again == "IfNeeded":
            assert 'admission webhook "validate.exequatur.dev" denied the request' in done.stderr
            assert "another webhook has changed what it made" in done.stderr
        else:
            names = [container["name"] for container in json.loads(done.stdout)["spec"]["initContainers"]]
            assert names == ["exequatur-sidecar", "exequatur-mcp-git"]
    finally:
        plane.kubectl("delete", "mutatingwebhookconfiguration", "zz-later")
        process.kill()
        process.wait()
    until(lambda: not stripped(plane, plain), 20, "the later webhook forgotten", every_s=0.1)


def stripped(plane, pod: Object) -> bool:
    """Tell whether the later webhook is in force: where nothing is injected, it alone changes the pod."""
    args = ("create", "--dry-run=server", f"--namespace={PLAIN}", "--output=json", "--filename=-")
    done = plane.kubectl(*args, stdin=json.dumps(changed(pod, "metadata|name", "plain")), check=False)
    return done.returncode == 0 and "exequatur-x" not in done.stdout


def test_a_pod_that_was_not_injected_is_refused_where_the_injecting_webhook_is_gone(injector):
    plane = injector.plane
    hooks = plane.get("mutatingwebhookconfiguration", SERVICE)
    plane.kubectl("delete", "mutatingwebhookconfiguration", SERVICE)
    try:
        until(lambda: "injection would still change" in attempt(injector, POD, FREE), 20, "it is refused", every_s=0.1)
    finally:
        kept = {key: value for key, value in hooks["metadata"].items() if key in ("name", "labels", "annotations")}
        plane.create({**hooks, "metadata": kept})
    until(lambda: attempt(injector, POD, FREE) == "", 20, "it is admitted", every_s=0.1)


def test_without_an_injector_no_pod_starts_in_labelled_namespaces_and_every_other_does(injector):
    injector.stop()
    try:
        for namespace in (INJECTED, FREE):
            assert 'failed calling webhook "inject.exequatur.dev"' in attempt(injector, POD, namespace)
        assert attempt(injector, POD, PLAIN) == ""
        assert attempt(injector, POD, NAMESPACE) == ""
    finally:
        injector.start()
    assert attempt(injector, POD) == ""


def test_a_namespace_has_the_injectors_own_pods_whatever_its_label_says(injector):
    """Or it would wait for itself to start."""
    injector.plane.kubectl("label", "namespace", NAMESPACE, "exequatur.dev/inject=enabled")
    (kept,) = injector.plane.create(changed(POD, "metadata|name", "own"), namespace=NAMESPACE)
    assert "initContainers" not in kept["spec"]
