"""A real API server takes all that the chart renders, and the chart is installed, upgraded and removed by real helm."""

from __future__ import annotations

import json
import os

import pytest
import yaml

from helm import CHART, EXAMPLES, NAMESPACE, VALUES, Object, Objects, objects, rendered
from kube_schemas import OTHERS, definition

pytestmark = pytest.mark.cluster
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
FILES = [*EXAMPLES, *VALUES]


def namespaces(found: Objects) -> set[str]:
    return {item["metadata"]["namespace"] for item in found.all if "namespace" in item["metadata"]}


@pytest.fixture(scope="module")
def cluster(plane):
    """The control plane, with the others' kinds and with every namespace that any of the deployments names."""
    for kind in OTHERS:
        # Server-side: what these definitions are would not fit into an annotation.
        plane.kubectl("apply", "--server-side", f"--filename={definition(kind)}")
    plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", "customresourcedefinitions", "--all")
    for name in sorted(set().union(*(namespaces(rendered(file)) for file in FILES))):
        plane.namespace(name, RESTRICTED if name == NAMESPACE else {})
    return plane


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_api_server_takes_every_object_without_a_warning(cluster, file):
    text = yaml.safe_dump_all(rendered(file).all)
    done = cluster.kubectl(
        "create", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "--output=name", "--filename=-",
        stdin=text, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == len(rendered(file).all)


def test_a_misspelt_field_is_not_taken(cluster):
    """What the test above relies on."""
    item = {**rendered(FILES[0]).of("Service")[0], "spek": {}}
    done = cluster.kubectl(
        "create", "--dry-run=server", "--validate=strict", "--filename=-", stdin=json.dumps(item), check=False
    )
    assert 'unknown field "spek"' in done.stderr


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_helm_installs_upgrades_and_removes_it(cluster, file):
    def helm(*args: str) -> str:
        return cluster.run(os.environ["EXEQUATUR_HELM"], *args, f"--namespace={NAMESPACE}").stdout

    def there() -> set[tuple[str, str]]:
        args = ("get", "--filename=-", "--ignore-not-found", "--output=json")
        done = cluster.kubectl(*args, stdin=yaml.safe_dump_all(rendered(file).all))
        found = json.loads(done.stdout or '{"items": []}')
        items = found.get("items", [found])
        return {
            (item["kind"], item["metadata"]["name"]) for item in items if "deletionTimestamp" not in item["metadata"]
        }

    wanted = {(item["kind"], item["metadata"]["name"]) for item in rendered(file).all}
    helm("install", "exequatur", str(CHART), f"--values={file}")
    assert there() == wanted
    helm("upgrade", "exequatur", str(CHART), f"--values={file}", "--set=pdp.drainSeconds=9")
    deployment = cluster.get("deployment", "exequatur-pdp", NAMESPACE)
    assert "--drain-grace-s=9" in deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    assert deployment["metadata"]["generation"] == 2
    helm("upgrade", "exequatur", str(CHART), f"--values={file}", "--set=pdp.drainSeconds=9")
    assert cluster.get("deployment", "exequatur-pdp", NAMESPACE)["metadata"]["generation"] == 2
    helm("uninstall", "exequatur")
    assert there() == {(kind, name) for kind, name in wanted if kind == "PersistentVolumeClaim"}
    for claim in cluster.kubectl("get", "pvc", "--output=name", f"--namespace={NAMESPACE}").stdout.split():
        # There is no controller that would see that no pod uses it.
        bare = '{"metadata": {"finalizers": null}}'
        cluster.kubectl("patch", claim, "--type=merge", f"--patch={bare}", f"--namespace={NAMESPACE}")
        cluster.kubectl("delete", claim, f"--namespace={NAMESPACE}")


def test_pods_of_ours_are_admitted_where_restricted_security_is_enforced(cluster):
    cluster.namespace("restricted", RESTRICTED)
    templates = [template for file in EXAMPLES for _, template in rendered(file).pods()]
    for name in {template["spec"]["serviceAccountName"] for template in templates}:
        cluster.service_account(name, "restricted")
    pods = [pod(template, f"pod-{number}") for number, template in enumerate(templates)]
    args = ("create", "--dry-run=server", "--warnings-as-errors", "--output=name", "--filename=-")
    done = cluster.kubectl(*args, stdin=yaml.safe_dump_all(pods), check=False)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == len(pods)
    loose = pod(templates[0], "loose")
    del loose["spec"]["containers"][0]["securityContext"]["capabilities"]
    done = cluster.kubectl(*args, stdin=json.dumps(loose), check=False)
    assert 'violates PodSecurity "restricted:latest"' in done.stderr


def pod(template: Object, name: str) -> Object:
    """Make a pod of a template; a StatefulSet's claims become volumes, as its controller would have it."""
    copy = json.loads(json.dumps(template))
    volumes = copy["spec"]["volumes"]
    mounted = {mount["name"] for item in copy["spec"]["containers"] for mount in item["volumeMounts"]}
    claims = sorted(mounted - {volume["name"] for volume in volumes})
    volumes += [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in claims]
    metadata = {**copy["metadata"], "name": name, "namespace": "restricted"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": copy["spec"]}


def test_helm_says_what_is_next(cluster):
    text = cluster.run(
        os.environ["EXEQUATUR_HELM"], "install", "exequatur", str(CHART), "--dry-run=server",
        f"--namespace={NAMESPACE}", f"--values={EXAMPLES[0]}",
    ).stdout  # fmt: skip
    assert "NOTES:" in text
    assert objects(text.partition("MANIFEST:")[2].partition("NOTES:")[0])
