"""Admission reviews as an API server sends them, the catalogue that they are judged by, and RFC 6902 read once more."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

from injector.catalogue import Catalogue, read_catalogue
from injector.review import Answer, Endpoint, answer

NAMESPACE, ACCOUNT = "team-a", "coder"

CATALOGUE: dict[str, Any] = {
    "version": 1,
    "image": "registry.example/exequatur@sha256:" + "0" * 64,
    "pullPolicy": "IfNotPresent",
    "pdp": "exequatur-pdp.exequatur.svc:7070",
    "ledger": "exequatur-ledger.exequatur.svc:7071",
    "trust": True,
    "resources": {
        "sidecar": {"requests": {"cpu": "0.05", "memory": "96Mi"}, "limits": {"memory": "256Mi"}},
        "mcp": {"limits": {"memory": "512Mi"}},
    },
    "decisionTimeoutMs": 2000,
    "drainGraceS": 5,
    "uidRules": None,
    "agents": {
        "coder": {
            "tenant": "default",
            "serviceAccounts": ["team-a/coder"],
            "sessions": ["pod-name", "pod-uid", "instance:night-shift"],
            "serviceAccountToken": False,
            "doors": {
                "grpc": {"kind": "grpc"},
                "git": {
                    "kind": "mcp",
                    "enforced": True,
                    "image": "",
                    "command": ["mcp-server-git", "--repository", "/workspace"],
                    "mounts": {"workspace": "/workspace"},
                    "envFromSecret": "git-token",
                },
            },
        },
        "clerk": {
            "tenant": "acme",
            "serviceAccounts": ["team-a/default", "team-a/clerk"],
            "sessions": ["pod-name"],
            "serviceAccountToken": True,
            "doors": {"grpc": {"kind": "grpc"}},
        },
    },
}
UID_RULES = {"image": "", "agentMay": ["10.0.0.0/8:443"], "dns": ["10.96.0.10"]}


def catalogue(**changes: Any) -> Catalogue:
    """Read the catalogue above, with other members where `changes` say so."""
    return read_catalogue(json.dumps(CATALOGUE | changes).encode())


def container(name: str = "main", **more: Any) -> dict[str, Any]:
    """Give a container with what an API server fills in."""
    return {
        "name": name,
        "image": "registry.example/agent:1",
        "resources": {},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {"runAsUser": 1000},
        "volumeMounts": [
            {"name": "workspace", "mountPath": "/workspace"},
            {
                "name": "kube-api-access-x7k2p",
                "readOnly": True,
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
            },
        ],
        **more,
    }


def pod(**spec: Any) -> dict[str, Any]:
    """Give the agent's pod as it reaches a webhook: defaults are filled in, and the service account's token is there."""
    token = [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {
            "downwardAPI": {
                "items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]
            }
        },
    ]
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "generateName": "coder-",
            "namespace": NAMESPACE,
            "creationTimestamp": None,
            "labels": {"app": "coder"},
            "annotations": {"exequatur.dev/agent": "coder"},
        },
        "spec": {
            "volumes": [
                {"name": "workspace", "emptyDir": {}},
                {"name": "kube-api-access-x7k2p", "projected": {"sources": token, "defaultMode": 420}},
            ],
            "containers": [container()],
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "serviceAccountName": ACCOUNT,
            "serviceAccount": ACCOUNT,
            "securityContext": {},
            "schedulerName": "default-scheduler",
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}],
            "priority": 0,
            "enableServiceLinks": True,
            "preemptionPolicy": "PreemptLowerPriority",
            **spec,
        },
        "status": {},
    }


def of_a_stateful_set(template: str) -> dict[str, Any]:
    """Give the agent's pod as the StatefulSet controller makes it, with its records on a claim by `template`."""
    value = annotated(pod(securityContext={"fsGroup": 2000}, hostname="coder-0", subdomain="coder"), spool=template)
    owner = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "name": "coder",
        "uid": "b5a1f1a4-0e4f-4b7f-9f0e-0d1f6a1c2b3d",
    }
    labels = {
        "app": "coder",
        "apps.kubernetes.io/pod-index": "0",
        "controller-revision-hash": "coder-6b8f7d9c5",
        "statefulset.kubernetes.io/pod-name": "coder-0",
    }
    value["metadata"] |= {
        "name": "coder-0",
        "labels": labels,
        "ownerReferences": [owner | {"controller": True, "blockOwnerDeletion": True}],
    }
    claim = {"name": template, "persistentVolumeClaim": {"claimName": f"{template}-coder-0"}}
    value["spec"]["volumes"].insert(0, claim)
    return value


def changed(value: dict[str, Any], **at: Any) -> dict[str, Any]:
    """Give a copy with other members; a key is a path like `spec__containers__0__name`."""
    value = copy.deepcopy(value)
    for path, new in at.items():
        *parents, last = path.split("__")
        place: Any = value
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
        place[int(last) if isinstance(place, list) else last] = new
    return value


def annotated(value: dict[str, Any], **notes: str | None) -> dict[str, Any]:
    """Give a copy with other annotations of ours; None takes one out."""
    value = copy.deepcopy(value)
    for name, text in notes.items():
        value["metadata"]["annotations"].pop(f"exequatur.dev/{name}", None)
        if text is not None:
            value["metadata"]["annotations"][f"exequatur.dev/{name}"] = text
    return value


def review(value: Any, operation: str = "CREATE", subresource: str = "", **request: Any) -> dict[str, Any]:
    """Give a review of `value`; `request` has other members of it."""
    group = {"group": "", "version": "v1"}
    return {
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": group | {"kind": "Pod"},
            "resource": group | {"resource": "pods"},
            "requestKind": group | {"kind": "Pod"},
            "requestResource": group | {"resource": "pods"},
            **({"subResource": subresource, "requestSubResource": subresource} if subresource else {}),
            "namespace": NAMESPACE,
            "operation": operation,
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller", "groups": []},
            "object": value,
            "oldObject": None,
            "dryRun": False,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
            **request,
        },
    }


def ask(endpoint: str, asked: dict[str, Any] | bytes, known: Catalogue | None = None) -> Answer:
    """Have a review answered."""
    body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    return answer(Endpoint(endpoint), body, known or catalogue())


def response(given: Answer | bytes) -> dict[str, Any]:
    """Read an answer as an API server does."""
    found = json.loads(given if isinstance(given, bytes) else given.body)
    assert (found["apiVersion"], found["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    assert found["response"]["uid"]
    return dict(found["response"])


def injected(value: dict[str, Any], known: Catalogue | None = None) -> dict[str, Any]:
    """Have a pod injected, and give it as the API server then has it; the pod must be admitted."""
    found = response(ask("mutate", review(value), known))
    assert found["allowed"], found
    if "patch" not in found:
        return value
    assert found["patchType"] == "JSONPatch"
    return dict(apply(value, json.loads(base64.b64decode(found["patch"]))))


def refusal(value: dict[str, Any], known: Catalogue | None = None) -> str:
    """Have a pod refused, and give the reason; a refusal patches nothing."""
    found = response(ask("mutate", review(value), known))
    assert not found["allowed"]
    assert "patch" not in found
    assert found["status"]["code"] == 403
    return str(found["status"]["message"])


def apply(document: Any, operations: list[dict[str, Any]]) -> Any:
    """Apply a JSON patch (RFC 6902), strictly: what an operation needs must be there."""
    document = {"": copy.deepcopy(document)}
    for operation in operations:
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")]
        place: Any = document
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        kind, value = operation["op"], copy.deepcopy(operation.get("value"))
        if isinstance(place, list):
            at = len(place) if last == "-" else int(last)
            if kind == "add":
                assert at <= len(place)
                place.insert(at, value)
                continue
            last = at
        elif kind != "add":
            assert last in place, operation
        assert kind in ("add", "replace", "remove"), operation
        if kind == "remove":
            del place[last]
        else:
            place[last] = value
    return document[""]
