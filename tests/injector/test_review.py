"""Forty reviews as an API server sends them, and what each is answered; whatever is not understood is never allowed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admission import annotated, ask, changed, container, injected, pod, refusal, response, review
from injector.review import LIMITS, Malformed

INJECTED = injected(pod())
EXEC = {"kind": "PodExecOptions", "apiVersion": "v1", "stdin": True, "container": "main", "command": ["sh"]}


def connect(kind, container=None):
    options = {**EXEC, "kind": kind}
    del options["container"]
    if container is not None:
        options["container"] = container
    asked = review(options, "CONNECT", "exec" if kind == "PodExecOptions" else "attach", name="coder-x")
    asked["request"]["kind"] = {"group": "", "version": "v1", "kind": kind}
    return asked


def update(before, after, subresource="", who="alice"):
    return review(
        after, "UPDATE", subresource, oldObject=before, name="coder-x", userInfo={"username": who, "groups": []}
    )


def noted(**notes):
    return changed(INJECTED, metadata__annotations={**ANNOTATIONS, **notes})


def of(group="", version="v1", resource="pods", kind="Pod"):
    group_version = {"group": group, "version": version}
    return review(pod(), kind=group_version | {"kind": kind}, resource=group_version | {"resource": resource})


def sidecar(**other):
    value = changed(INJECTED)
    value["spec"]["initContainers"][0].update(other)
    return value


ANNOTATIONS, LABELS = INJECTED["metadata"]["annotations"], INJECTED["metadata"]["labels"]
NETWORK = {"k8s.v1.cni.cncf.io/networks": "storage"}
INTO_OURS = {"mounts.nri.containerd.io/container.exequatur-sidecar": "- source: /"}
TWO = pod(containers=[container(), container("helper")])

# Where, what is asked, and the answer: "patched", "as it is", "refused: why", or "malformed: why".
REVIEWS = {
    "a pod": ("mutate", review(pod()), "patched"),
    "a pod with a name": ("mutate", review(changed(pod(), metadata__name="coder-1"), name="coder-1"), "patched"),
    "a pod of which nothing is to be kept": ("mutate", review(pod(), dryRun=True), "patched"),
    "two containers, one of them the agent": ("mutate", review(annotated(TWO, container="main")), "patched"),
    "two containers, both the agent": ("mutate", review(annotated(TWO, container="main,helper")), "patched"),
    "two containers, and nobody says which": ("mutate", review(TWO), "refused: say which are the agent"),
    "a pod that has the sidecar": ("mutate", review(INJECTED), "as it is"),
    "a pod with a false sidecar": ("mutate", review(sidecar(image="x")), "refused: initContainers[exequatur-sidecar]"),
    "a pod with half a sidecar": (
        "mutate",
        review(changed(INJECTED, spec__containers=pod()["spec"]["containers"])),
        "patched",
    ),
    "no agent": ("mutate", review(annotated(pod(), agent=None)), "refused: exequatur.dev/agent"),
    "another's agent": ("mutate", review(pod(), namespace="team-b"), "refused: metadata.namespace"),
    "another's agent, namespace unsaid": (
        "mutate",
        review(changed(pod(), metadata__namespace=None), namespace="team-b"),
        "refused: the service account `team-b/coder` may be no agent",
    ),
    "no namespace": ("mutate", review(pod(), namespace=""), "refused: names no namespace"),
    "no pod": ("mutate", review(None), "refused: must hold a pod"),
    "a pod of another version": ("mutate", review(changed(pod(), apiVersion="v2")), "refused: `apiVersion`"),
    "a pod template": ("mutate", of(resource="podtemplates", kind="PodTemplate"), "refused: only pods"),
    "a deployment": ("mutate", of("apps", "v1", "deployments", "Deployment"), "refused: only pods"),
    "another group's pods": ("mutate", of("metrics.k8s.io", "v1", "pods", "Pod"), "refused: only pods"),
    "another kind among pods": ("mutate", of(kind="Binding"), "refused: must hold a pod"),
    "an update to be changed": ("mutate", update(INJECTED, INJECTED), "refused: `UPDATE` of `pods`"),
    "a deletion": ("validate", review(None, "DELETE", oldObject=INJECTED), "refused: `DELETE` of `pods`"),
    "a binding": ("validate", review({}, "CREATE", "binding"), "refused: `CREATE` of `pods/binding`"),
    "an eviction": ("validate", review({}, "CREATE", "eviction"), "refused: `CREATE` of `pods/eviction`"),
    "an injected pod": ("validate", review(INJECTED), "as it is"),
    "a pod that nobody injected": ("validate", review(pod()), "refused: injection would still change"),
    "a pod changed after injection": ("validate", review(sidecar(env=[])), "refused: exequatur-sidecar"),
    "a pod with an init container before ours": (
        "validate",
        review(changed(INJECTED, spec__initContainers=[container("x"), *INJECTED["spec"]["initContainers"]])),
        "refused: `/spec/initContainers`",
    ),
    "a pod made privileged after injection": (
        "validate",
        review(changed(INJECTED, spec__shareProcessNamespace=True)),
        "refused: spec.shareProcessNamespace",
    ),
    "an agent without its door": (
        "validate",
        review(changed(INJECTED, spec__containers__0__volumeMounts=pod()["spec"]["containers"][0]["volumeMounts"][:1])),
        "refused: `/spec/containers/0/volumeMounts`",
    ),
    "a new image of the agent": (
        "validate",
        update(INJECTED, changed(INJECTED, spec__containers__0__image="registry.example/agent:2")),
        "as it is",
    ),
    "a new image of the sidecar": ("validate", update(INJECTED, sidecar(image="x")), "refused: `spec.initContainers`"),
    "another agent, later": (
        "validate",
        update(INJECTED, changed(INJECTED, metadata__annotations={**ANNOTATIONS, "exequatur.dev/agent": "clerk"})),
        "refused: `metadata.annotations`",
    ),
    "the label taken away": (
        "validate",
        update(INJECTED, changed(INJECTED, metadata__labels={"app": "coder"})),
        "refused: `metadata.labels`",
    ),
    "another owner and another label": (
        "validate",
        update(INJECTED, changed(INJECTED, metadata__labels={**LABELS, "x": "y"}, metadata__ownerReferences=[])),
        "as it is",
    ),
    "an older pod, relabelled": ("validate", update(pod(), changed(pod(), metadata__labels={"x": "y"})), "as it is"),
    "an older pod that would seem injected": (
        "validate",
        update(pod(), changed(pod(), metadata__labels=LABELS)),
        "refused: `metadata.labels`",
    ),
    "another network, before the pod has started": (
        "validate",
        update(INJECTED, noted(**NETWORK)),
        "refused: `metadata.annotations[k8s.v1.cni.cncf.io/networks]` gives the pod another network",
    ),
    "another network, by the team's own robot": (
        "validate",
        update(INJECTED, noted(**NETWORK), who="system:serviceaccount:team-a:coder"),
        "refused: k8s.v1.cni.cncf.io/networks",
    ),
    "an order about the sidecar, later": (
        "validate",
        update(INJECTED, noted(**INTO_OURS)),
        "refused: is about what is the injector's",
    ),
    "what a network plugin says that it did": (
        "validate",
        update(INJECTED, noted(**NETWORK), who="system:serviceaccount:kube-system:multus"),
        "as it is",
    ),
    "what a node says that it did": (
        "validate",
        update(INJECTED, noted(**{"cni.projectcalico.org/podIP": "10.0.0.7/32"}), who="system:node:one"),
        "as it is",
    ),
    "a label beside what a network plugin said": (
        "validate",
        update(noted(**NETWORK), changed(noted(**NETWORK), metadata__labels={**LABELS, "x": "y"})),
        "as it is",
    ),
    "an ephemeral container": (
        "validate",
        update(INJECTED, changed(INJECTED, spec__ephemeralContainers=[container("x")]), "ephemeralcontainers"),
        "refused: no ephemeral containers",
    ),
    "a shell in the agent": ("validate", connect("PodExecOptions", "main"), "as it is"),
    "a shell in the only container": ("validate", connect("PodExecOptions"), "as it is"),
    "a shell in the sidecar": ("validate", connect("PodExecOptions", "exequatur-sidecar"), "refused: nobody may enter"),
    "a shell in an MCP server": ("validate", connect("PodExecOptions", "exequatur-mcp-git"), "refused: nobody may"),
    "a terminal of the sidecar": ("validate", connect("PodAttachOptions", "exequatur-sidecar"), "refused: nobody may"),
    "a shell in who knows what": ("validate", connect("PodExecOptions", 1), "refused: does not say which container"),
    "a review of yesterday": (
        "mutate",
        {**review(pod()), "apiVersion": "admission.k8s.io/v1beta1"},
        "malformed: must be admission.k8s.io/v1, and is `admission.k8s.io/v1beta1`",
    ),
    "another kind": ("mutate", {**review(pod()), "kind": "TokenReview"}, "malformed: `kind`"),
    "no request": ("mutate", {**review(pod()), "request": None}, "malformed: `request`"),
    "no uid": ("mutate", review(pod(), uid=""), "malformed: `request.uid`"),
    "a pod that is a list": ("mutate", review([pod()]), "malformed: `request.object`"),
    "an answer": ("mutate", {**review(pod()), "request": None, "response": {"allowed": True}}, "malformed: `request`"),
    "nothing": ("mutate", b"", "malformed: not JSON"),
    "half a review": ("mutate", json.dumps(review(pod())).encode()[:-40], "malformed: not JSON"),
    "no UTF-8": ("mutate", json.dumps(review(pod())).encode("utf-16"), "malformed: not UTF-8"),
    "one member twice": (
        "mutate",
        json.dumps(review(pod())).replace('"dryRun"', '"operation": "UPDATE", "dryRun"').encode(),
        "malformed: ",
    ),
    "one member of the pod twice": (
        "mutate",
        json.dumps(review(pod())).replace('"priority"', '"hostPID": true, "hostPID": false, "priority"').encode(),
        "malformed: ",
    ),
    "too many bytes": ("mutate", json.dumps(review(pod())).encode() + b" " * LIMITS.bytes, "malformed: the limit is"),
    "too deep": ("mutate", b'{"a":' * 100 + b"1" + b"}" * 100, "malformed: "),
}


@pytest.mark.parametrize(("endpoint", "asked", "wanted"), REVIEWS.values(), ids=REVIEWS)
def test_each_review_has_its_answer(endpoint, asked, wanted):
    kind, _, why = wanted.partition(": ")
    if kind == "malformed":
        with pytest.raises(Malformed) as error:
            ask(endpoint, asked)
        assert why in str(error.value)
        return
    given = ask(endpoint, asked)
    found = response(given)
    assert found["uid"] == asked["request"]["uid"]
    assert found["allowed"] is given.allowed is (kind != "refused")
    assert ("patch" in found) is (kind == "patched")
    if kind == "refused":
        assert found["status"] == {"code": 403, "reason": "Forbidden", "message": f"exequatur: {given.message}"}
        assert why in given.message
        assert "\n" not in given.message


def test_a_patched_pod_is_what_validation_wants():
    for name, (endpoint, asked, wanted) in REVIEWS.items():
        if (endpoint, wanted) == ("mutate", "patched"):
            value = injected(asked["request"]["object"])
            assert ask("validate", review(value)).allowed, name


@pytest.mark.parametrize(
    ("metadata", "request_", "about"),
    [
        ({"generateName": "coder-7d9f-"}, {}, "CREATE of pods `team-a/coder-7d9f-*`"),
        ({"name": "coder-0"}, {}, "CREATE of pods `team-a/coder-0`"),
        ({}, {"name": "coder-0"}, "CREATE of pods `team-a/coder-0`"),
        (
            {"generateName": "coder-7d9f-", "ownerReferences": [{"kind": "ReplicaSet", "name": "coder-7d9f"}]},
            {},
            "CREATE of pods `team-a/coder-7d9f-*` of `ReplicaSet/coder-7d9f`",
        ),
        ({"ownerReferences": [1]}, {}, "CREATE of pods `team-a/*`"),
        ({"name": "a\nb", "ownerReferences": {}}, {}, r"CREATE of pods `team-a/a\nb`"),
        (None, {}, "CREATE of pods `team-a/*`"),
    ],
)
def test_a_log_can_say_which_pod_was_refused_and_who_made_it(metadata, request_, about):
    assert ask("mutate", review(changed(pod(), metadata=metadata), **request_)).about == about


def test_a_refusal_is_bounded_whatever_the_pod_is_called():
    message = refusal(changed(pod(), spec__initContainers=[container("exequatur-" + "x" * 3000) for _ in range(50)]))
    assert len(message) <= 4100


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_damaged_review_is_malformed_refused_or_answered_never_an_exception(data):
    body = bytearray(json.dumps(review(INJECTED)).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at] = data.draw(st.integers(0, 255))
    try:
        ask(data.draw(st.sampled_from(["mutate", "validate"])), bytes(body))
    except Malformed:
        return
