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

from helm import CHART, EXAMPLES, VALUES, helm, objects, render, rendered
from kube_schemas import NEWEST, OLDEST, OTHERS, validate

FILES = [*EXAMPLES, *VALUES]
each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)

IGNORED = {
    # Probed by gRPC for what they do, `live` and `ready`; the same port, which the check takes for the same probe.
    "pod-probes-identical": "two services of one health port",
    # Ours run as 64113, which the agents' pods know us by; a clash with a node's user says nothing where all is dropped.
    "container-security-context-user-group-id": "a user id that pods can be told by",
    # A CPU limit slows a decision down at the very time when there are many; what is requested is what is planned by.
    "container-cpu-limit": "throttling would delay decisions",
}
"""kube-score's checks that we do not hold to, and why."""


def test_there_are_enough_deployments():
    assert len(VALUES) >= 12
    assert {file.stem for file in EXAMPLES} == {"one-machine", "fleet"}


@each_file
def test_helm_lint_finds_nothing(file):
    done = helm("lint", "--strict", "--quiet", str(CHART), f"--values={file}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@cache
def _validated(text: str, version: str) -> None:
    validate(json.loads(text), version)


@each_file
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_knows_all_that_is_rendered(file, version):
    found = rendered(file).all
    assert len(found) > 10
    for item in found:
        assert "namespace" in item["metadata"] or item["kind"] in (
            "MutatingWebhookConfiguration",
            "ValidatingWebhookConfiguration",
        ), f"{item['kind']}/{item['metadata']['name']} goes to whatever namespace"
        try:
            _validated(json.dumps(item, sort_keys=True), version)
        except jsonschema.ValidationError as error:
            pytest.fail(f"{item['kind']}/{item['metadata']['name']}: {error.json_path}: {error.message}")


def test_a_misspelt_field_is_found_in_each_kind():
    kinds = {item["kind"]: item for file in FILES for item in rendered(file).all}
    assert set(OTHERS) & kinds.keys() == {"Certificate", "ServiceMonitor", "PrometheusRule"}
    for item in kinds.values():
        for wrong in ({**item, "spek": {}}, *([{**item, "spec": {**item["spec"], "x": 1}}] if "spec" in item else [])):
            with pytest.raises(jsonschema.ValidationError):
                validate(wrong, NEWEST)


@each_file
def test_nothing_is_there_twice_or_null(file):
    found = rendered(file).all
    names = [(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in found]
    assert len(set(names)) == len(names)
    assert "null" not in [text.partition(": ")[2] for text in yaml.safe_dump_all(found).splitlines()]


@each_file
def test_the_same_values_render_to_the_same_bytes(file):
    assert render(file) == render(file)


@each_file
def test_helm_3_renders_the_same(file):
    assert objects(render(file, program="EXEQUATUR_HELM_3")) == list(rendered(file).all)


@each_file
def test_kube_score_finds_nothing(file):
    ignored = [f"--ignore-test={name}" for name in IGNORED]
    done = subprocess.run(
        [os.environ["EXEQUATUR_KUBE_SCORE"], "score", "--output-format=ci", *ignored, "-"],
        input=render(file),
        capture_output=True,
        text=True,
        check=False,
    )
    bad = [line for line in done.stdout.splitlines() if not line.startswith(("[OK]", "[SKIPPED]"))]
    assert (bad, done.returncode) == ([], 0)


def test_each_value_file_says_what_it_is_for():
    for file in FILES:
        assert Path(file).read_text().startswith("# "), file
