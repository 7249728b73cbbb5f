"""What Kubernetes takes, offline: the schemas of its own kinds, and of the few others that the chart may render.

Both strictly: a field that the schema does not know is a fault, since an API server would drop it without a word.
"""

from __future__ import annotations

import functools
import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jsonschema
import kubernetes_validate
import yaml
from kubernetes_validate import utils

OLDEST, NEWEST = "1.33", kubernetes_validate.latest_version()

# The library reads 1.4 MB of definitions for each object.
utils.schema_contents = functools.cache(utils.schema_contents)


@dataclass(frozen=True)
class Source:
    """A folder of a Go module, in the one version that has this sum."""

    module: str
    sum: str
    folder: str


_CERT_MANAGER: Final = Source(
    "github.com/cert-manager/cert-manager@v1.21.2",
    "h1:UWgoYM+KLNtRlqmoWOKjKBOBUPVHeepQ6/ac3ERJW68=",
    "deploy/crds",
)
_PROMETHEUS: Final = Source(
    "github.com/prometheus-operator/prometheus-operator@v0.88.0",
    "h1:3T/dCQdk7CUVRqVfwRHoC5g66fC/ML6XQQLtQVL6Q5o=",
    "example/prometheus-operator-crd",
)
_APPROVER: Final = Source(
    "github.com/cert-manager/approver-policy@v0.28.0",
    "h1:tZNWjYkGd5+Cs9qflP4xkzml5pWTserC4AEWI9omPZA=",
    "deploy/crds",
)
OTHERS: Final[Mapping[str, tuple[Source, str]]] = {
    "Certificate": (_CERT_MANAGER, "cert-manager.io_certificates.yaml"),
    "CertificateRequestPolicy": (_APPROVER, "policy.cert-manager.io_certificaterequestpolicies.yaml"),
    "ServiceMonitor": (_PROMETHEUS, "monitoring.coreos.com_servicemonitors.yaml"),
    "PodMonitor": (_PROMETHEUS, "monitoring.coreos.com_podmonitors.yaml"),
    "PrometheusRule": (_PROMETHEUS, "monitoring.coreos.com_prometheusrules.yaml"),
}
"""The kinds that are not Kubernetes' own: who defines each, and in which file."""
MORE: Final[Mapping[str, tuple[Source, str]]] = {
    "ClusterIssuer": (_CERT_MANAGER, "cert-manager.io_clusterissuers.yaml"),
}
"""Those that only our pages name."""


@functools.cache
def _fetched(source: Source) -> Path:
    """Give the folder, which is fetched the first time."""
    with tempfile.TemporaryDirectory(prefix="ex-") as empty:
        command = ["go", "mod", "download", "-json", source.module]
        done = subprocess.run(command, cwd=empty, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    if found["Sum"] != source.sum:
        raise RuntimeError(f"`{source.module}` is not what it was: its sum is {found['Sum']}")
    return Path(found["Dir"]) / source.folder


def definition(kind: str) -> Path:
    """Give the file that defines one of `OTHERS` or `MORE`."""
    source, file = {**OTHERS, **MORE}[kind]
    return _fetched(source) / file


@functools.cache
def _other(kind: str, version: str) -> Any:
    spec = yaml.load(definition(kind).read_text(), Loader=yaml.CSafeLoader)["spec"]
    (schema,) = [item["schema"]["openAPIV3Schema"] for item in spec["versions"] if item["name"] == version]
    assert spec["names"]["kind"] == kind
    return jsonschema.Draft202012Validator(_strict({**schema, "title": spec["group"]}))


def _strict(schema: Any) -> Any:
    """Turn Kubernetes' dialect into JSON Schema that refuses what it does not know."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: _strict(value) for name, value in schema.items() if name != "properties"}
    if schema.get("x-kubernetes-int-or-string"):
        kept["type"] = ["integer", "string"]
    if isinstance(schema.get("properties"), dict):
        kept["properties"] = {name: _strict(value) for name, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            kept.setdefault("additionalProperties", False)
            if "apiVersion" in schema["properties"]:
                kept["properties"]["metadata"] = {"type": "object"}
    return kept


def validate(item: Mapping[str, Any], version: str) -> None:
    """See that Kubernetes `version` knows all of `item`; raises `jsonschema.ValidationError`."""
    if item["kind"] in OTHERS:
        _other(item["kind"], item["apiVersion"].partition("/")[2]).validate(item)
    else:
        kubernetes_validate.validate(dict(item), version, strict=True)
