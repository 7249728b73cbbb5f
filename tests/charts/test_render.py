"""Every deployment that we have thought of renders to what Kubernetes takes, to the same bytes each time."""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path

import jsonschema
import pytest
import yaml

from helm import CHART, EXAMPLES, KUBERNETES, VALUES, helm, objects, render, rendered, text
from kube_schemas import NEWEST, OLDEST, OTHERS, validate

FILES = [*EXAMPLES, *VALUES]
FLEET = CHART / "examples" / "fleet.yaml"
each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)

IGNORED = {
    "container-image-pull-policy": "an image by digest is the same whenever it is pulled",
    "pod-probes-identical": "`live` and `ready` are two services of one health port, which it takes for one question",
    "networkpolicy-targets-pod": "agents' pods are not the chart's",
    "deployment-has-host-podantiaffinity": "topology spread constraints say it, over zones too",
}
"""kube-score's checks that we do not hold to, and why; so, too, that CPU has no limit: a limit slows decisions down just
when there are many."""
ALONE = {
    "deployment-replicas": "SQLite has one decision point",
    "deployment-strategy": "which lets go of its volume before the next one takes it",
}
"""Those that a deployment for one machine cannot hold to."""


def test_there_are_enough_deployments():
    assert len(VALUES) >= 12
    assert {file.stem for file in EXAMPLES} == {"laptop", "one-machine", "fleet"}


@each_file
def test_helm_lint_finds_nothing(file):
    done = helm("lint", "--strict", "--quiet", str(CHART), KUBERNETES, f"--values={file}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@cache
def _validated(item: str, version: str) -> None:
    validate(json.loads(item), version)


@each_file
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_knows_all_that_is_rendered(file, version):
    found = rendered(file).all
    assert len(found) > 10
    for item in found:
        assert "namespace" in item["metadata"] or item["kind"] in (
            "MutatingWebhookConfiguration",
            "ValidatingWebhookConfiguration",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionPolicyBinding",
            "CertificateRequestPolicy",
            "ClusterRole",
            "ClusterRoleBinding",
        ), f"{item['kind']}/{item['metadata']['name']} goes to whatever namespace"
        try:
            _validated(json.dumps(item, sort_keys=True), version)
        except jsonschema.ValidationError as error:
            pytest.fail(f"{item['kind']}/{item['metadata']['name']}: {error.json_path}: {error.message}")


def test_a_misspelt_field_is_found_in_each_kind():
    kinds = {item["kind"]: item for file in FILES for item in rendered(file).all}
    assert OTHERS.keys() <= kinds.keys()
    for item in kinds.values():
        for wrong in ({**item, "spek": {}}, *([{**item, "spec": {**item["spec"], "x": 1}}] if "spec" in item else [])):
            with pytest.raises(jsonschema.ValidationError):
                validate(wrong, NEWEST)


@each_file
def test_nothing_is_there_twice_or_null(file):
    found = rendered(file).all
    names = [(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in found]
    assert len(set(names)) == len(names)
    assert not [name for name, item in zip(names, found, strict=True) if has_null(item)]


def has_null(value: object) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value is None or any(has_null(item) for item in inner)


@each_file
def test_the_same_values_render_to_the_same_bytes(file):
    assert render(file) == text(file)


@pytest.mark.cluster  # another program that takes minutes to build
@each_file
def test_helm_3_renders_the_same(file):
    three = objects(render(file, program="EXEQUATUR_HELM_3"))
    assert sorted(three, key=json.dumps) == sorted(rendered(file).all, key=json.dumps)


@each_file
def test_kube_score_finds_nothing(file):
    values = yaml.safe_load(Path(file).read_text())
    names = [*IGNORED, *(ALONE if values["pdp"].get("store", {}).get("kind") != "postgresql" else ())]
    if "no-network-policy" in values.get("iAcceptRisk", []):
        names.append("pod-networkpolicy")
    ignored = ["--ignore-container-cpu-limit", *(f"--ignore-test={name}" for name in names)]
    done = subprocess.run(
        [os.environ["EXEQUATUR_KUBE_SCORE"], "score", "--output-format=ci", *ignored, "-"],
        input=text(file),
        capture_output=True,
        text=True,
        check=False,
    )
    bad = [line for line in done.stdout.splitlines() if not line.startswith(("[OK]", "[SKIPPED]"))]
    assert (bad, done.returncode) == ([], 0)


def test_each_value_file_says_what_it_is_for():
    for file in FILES:
        assert Path(file).read_text().startswith("# "), file


AWKWARD = ("on", "0x10", "1e3", "null", "123", "yes")
"""Names that Kubernetes takes and YAML, unless they are quoted, takes for something else."""


@pytest.mark.parametrize("name", AWKWARD)
def test_a_name_is_a_name_whatever_yaml_would_take_it_for(name):
    """A NetworkPolicy whose label is `true` selects no pod: the API server refuses it at best."""
    peer = {"namespace": name, "podLabels": {name: name}}
    values = {
        "nameOverride": name,
        "image": {"pullSecrets": [name]},
        "commonLabels": {name: name},
        "certificates": {"certManager": {"issuer": {"name": name}}},
        "pdp": {
            "tenant": name,
            "bundle": {"from": "url", "url": f"https://{name}/x", "tokenSecret": name, "rootsConfigMap": name},
            "keys": {"configMap": name},
            "store": {"postgresql": {"secret": name}},
            "pods": {"nodeSelector": {name: name}, "annotations": {name: name}, "priorityClassName": name},
        },
        "ledger": {"keySecret": name, "volume": {"storageClassName": name}},
        "agents": {
            name: {
                "serviceAccounts": [f"{name}/{name}"],
                "egress": [{**peer, "ports": [443]}],
                "doors": {name: {"kind": "mcp", "enforced": False, "command": [name], "mounts": {name: "/work"}}},
            },
            "1": {
                "serviceAccounts": ["team-z/1"],
                "doors": {"5": {"kind": "mcp", "enforced": False, "command": ["x"]}},
            },
        },
        "networkPolicy": {"orchestrators": [peer], "dns": [peer]},
    }
    text = render(FLEET, values=values, extra=["--namespace=off"])
    plain = [
        event.value
        for event in yaml.parse(text, Loader=yaml.CSafeLoader)
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and event.value in (name, "off", "1.5")
    ]
    assert plain == []
    for item in objects(text):
        validate(item, NEWEST)


def test_a_command_reaches_the_catalogue_as_it_was_written():
    command = ["x\u0085evil: y", "a\u2028b", "\u00a0 #", "$(HOME)", '"\\']
    door = {"kind": "mcp", "enforced": False, "command": command}
    found = objects(render(FLEET, values={"agents": {"coder": {"doors": {"git": door}}}}))
    (catalogue,) = [item["data"]["catalogue.json"] for item in found if "catalogue.json" in item.get("data", {})]
    assert json.loads(catalogue)["agents"]["coder"]["doors"]["git"]["command"] == command
