"""What injection adds: in its place, once, valid for Kubernetes, and what the sidecar itself understands."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sidecar.fence
from admission import CATALOGUE, UID_RULES, annotated, apply, catalogue, changed, container, injected, pod, refusal
from injector.patch import difference
from kube_schemas import NEWEST, OLDEST, validate
from sidecar.doors import mcp_stdio
from sidecar.settings import SidecarSettings

FENCED = catalogue(uidRules=UID_RULES)
SPOOLED = changed(
    annotated(pod(securityContext={"fsGroup": 2000}), spool="records"),
    spec__volumes=[
        *pod()["spec"]["volumes"],
        {"name": "records", "persistentVolumeClaim": {"claimName": "exequatur-spool-coder-0"}},
    ],
)


def named(items, name):
    (found,) = [item for item in items if item["name"] == name]
    return found


def mounts(holder):
    return {item["name"]: (item["mountPath"], item.get("readOnly", False)) for item in holder.get("volumeMounts", ())}


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize(
    "value",
    [
        pod(),
        SPOOLED,
        annotated(pod(), agent="coder", doors="grpc"),
        annotated(pod(serviceAccountName="clerk", serviceAccount="clerk"), agent="clerk"),
        annotated(pod(containers=[container(), container("helper")]), container="main"),
    ],
    ids=["plain", "spool", "one door", "token", "two containers"],
)
@pytest.mark.parametrize("known", [catalogue(), FENCED], ids=["", "fenced"])
def test_an_injected_pod_is_one_of_every_supported_kubernetes(value, version, known):
    validate(injected(value, known), version)


def test_what_is_ours_comes_before_anything_of_the_pods_own():
    value = injected(pod(initContainers=[container("setup")]), FENCED)
    names = [item["name"] for item in value["spec"]["initContainers"]]
    assert names == ["exequatur-fence", "exequatur-sidecar", "exequatur-mcp-git", "setup"]
    policies = [item.get("restartPolicy") for item in value["spec"]["initContainers"]]
    assert policies == [None, "Always", "Always", None]


def test_the_sidecars_arguments_are_what_the_sidecar_takes():
    for value, waits in ((pod(), True), (SPOOLED, False)):
        made = named(injected(value)["spec"]["initContainers"], "exequatur-sidecar")
        assert made["command"] == ["/opt/exequatur/bin/exequatur"]
        assert made["args"][:2] == ["sidecar", "run"]
        found = SidecarSettings.load(made["args"][2:], {})
        assert [(item.door, item.enforced, item.mounted) for item in found.agents] == [
            ("grpc", False, True),
            ("mcp_stdio", True, True),
        ]
        assert {(item.agent, item.tenant, item.instance) for item in found.agents} == {
            ("coder", "default", "$(EXEQUATUR_INSTANCE)")
        }
        assert (found.pdp, found.ledger) == (CATALOGUE["pdp"], CATALOGUE["ledger"])
        assert found.wait_for_ledger is waits
        places = [path for path, _ in mounts(made).values()]
        for path in (found.spool, found.tls_key, found.log_key, found.shim, *(item.socket for item in found.agents)):
            assert any(str(path).startswith(place) for place in places), path


@pytest.mark.parametrize("listen", ["0.0.0.0", "[::]"])
def test_probes_and_metrics_are_where_the_cluster_has_its_addresses(listen):
    made = named(injected(pod(), catalogue(listen=listen))["spec"]["initContainers"], "exequatur-sidecar")
    found = SidecarSettings.load(made["args"][2:], {})
    assert (found.http, found.health) == (f"{listen}:9082", f"{listen}:9072")


@pytest.mark.parametrize("before", [[], ["teams"], ["registry", "teams"]])
def test_our_registrys_secrets_are_there_once_beside_the_pods_own(before):
    known = catalogue(pullSecrets=["registry", "mirror"])
    value = pod(imagePullSecrets=[{"name": name} for name in before])
    once = injected(value, known)
    assert [item["name"] for item in once["spec"]["imagePullSecrets"]] == sorted(
        {*before, "registry", "mirror"}, key=[*before, "registry", "mirror"].index
    )
    assert injected(once, known) == once
    assert injected(value)["spec"]["imagePullSecrets"] == value["spec"]["imagePullSecrets"]


def test_the_fences_arguments_are_what_the_fence_takes(capsys):
    fence = named(injected(pod(), FENCED)["spec"]["initContainers"], "exequatur-fence")
    assert fence["args"][:2] == ["sidecar", "fence"]
    assert "restartPolicy" not in fence  # the pod goes on when it has ended, and not before
    assert sidecar.fence.main([*fence["args"][2:], "--print"]) == 0
    rules = capsys.readouterr().out
    assert all(part in rules for part in ("64113", "64114", "10.0.0.0/8", "10.96.0.10"))


def test_an_mcp_servers_arguments_are_what_its_door_takes():
    value = injected(pod())["spec"]
    server = named(value["initContainers"], "exequatur-mcp-git")
    assert server["args"][:2] == ["sidecar", "mcp"]
    at = server["args"].index("--")
    assert server["args"][at + 1 :] == CATALOGUE["agents"]["coder"]["doors"]["git"]["command"]
    options = mcp_stdio._parser().parse_args(server["args"][2:at])
    places = mounts(server)
    assert options.server == "git"
    assert str(options.listen.parent) == places["exequatur-mcp-git"][0]
    assert options.socket.startswith(places["exequatur-door-git"][0] + "/")
    assert server["startupProbe"]["exec"]["command"] == ["test", "-S", str(options.listen)]
    sockets = [f"socket={options.socket}" in arg for arg in named(value["initContainers"], "exequatur-sidecar")["args"]]
    assert sum(sockets) == 1


@pytest.mark.parametrize(
    ("session", "source"),
    [
        (None, {"valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}),
        ("pod-uid", {"valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}}}),
        ("instance:night-shift", {"value": "night-shift"}),
    ],
)
def test_the_instance_is_what_the_operator_lets_it_be(session, source):
    made = named(injected(annotated(pod(), session=session))["spec"]["initContainers"], "exequatur-sidecar")
    assert made["env"] == [{"name": "EXEQUATUR_INSTANCE", **source}]


def test_the_agent_sees_doors_and_may_only_use_them():
    value = injected(pod())
    main = value["spec"]["containers"][0]
    assert mounts(main) == {
        "workspace": ("/workspace", False),
        "exequatur-door-grpc": ("/run/exequatur/doors/grpc", True),
        "exequatur-bin": ("/run/exequatur/bin", True),
        "exequatur-mcp-git": ("/run/exequatur/mcp/git", True),
    }
    assert main["env"] == [{"name": "EXEQUATUR_TARGET", "value": "unix:/run/exequatur/doors/grpc/s/door.sock"}]


def test_each_volume_of_ours_is_with_whom_it_is_for():
    value = injected(SPOOLED, FENCED)
    holders = {}
    for item in (*value["spec"]["initContainers"], *value["spec"]["containers"]):
        for name, (_, read_only) in mounts(item).items():
            holders.setdefault(name, {})[item["name"].removeprefix("exequatur-")] = "ro" if read_only else "rw"
    assert holders == {
        "exequatur-identity": {"sidecar": "ro"},
        "exequatur-trust": {"sidecar": "ro"},
        "records": {"sidecar": "rw"},
        "exequatur-door-grpc": {"sidecar": "rw", "main": "ro"},
        "exequatur-door-git": {"sidecar": "rw", "mcp-git": "ro"},
        "exequatur-bin": {"sidecar": "rw", "main": "ro"},  # or an MCP server would choose what the agent runs
        "exequatur-mcp-git": {"mcp-git": "rw", "main": "ro"},
        "exequatur-tmp-git": {"mcp-git": "rw"},
        "workspace": {"mcp-git": "rw", "main": "rw"},
    }
    secret = named(value["spec"]["volumes"], "exequatur-identity")["secret"]["secretName"]
    assert secret == "exequatur-sidecar-coder"


def test_an_agent_without_mcp_doors_has_no_program_for_them():
    value = injected(annotated(pod(), doors="grpc"))["spec"]
    assert "exequatur-bin" not in [volume["name"] for volume in value["volumes"]]
    assert "--shim" not in named(value["initContainers"], "exequatur-sidecar")["args"]
    assert mounts(value["containers"][0]).keys() == {"workspace", "exequatur-door-grpc"}


def test_a_label_says_which_agent_it_is():
    assert injected(pod())["metadata"]["labels"] == {
        "app": "coder",
        "exequatur.dev/injected": "true",
        "exequatur.dev/agent": "coder",
    }


def test_only_the_containers_that_are_the_agent_have_doors():
    value = injected(annotated(pod(containers=[container(), container("helper")]), container="main"))
    assert not {name for name in mounts(value["spec"]["containers"][1]) if name.startswith("exequatur-")}
    assert "env" not in value["spec"]["containers"][1]


def test_every_container_is_restricted_where_it_says_nothing():
    value = injected(pod(initContainers=[container("setup")]), FENCED)
    for item in (*value["spec"]["initContainers"], *value["spec"]["containers"]):
        security = item["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"]["drop"] == ["ALL"]
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        fence = item["name"] == "exequatur-fence"
        assert security["runAsNonRoot"] is not fence
        assert security["capabilities"].get("add", []) == (["NET_ADMIN"] if fence else [])
        if item["name"].startswith("exequatur-"):
            assert security["readOnlyRootFilesystem"] is True
            assert security["runAsUser"] == {"sidecar": 64113, "mcp-git": 64114, "fence": 0}[item["name"][10:]]


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ({"capabilities": {"add": []}}, {"capabilities": {"add": [], "drop": ["ALL"]}}),
        ({"capabilities": {"drop": ["ALL", "KILL"]}}, {"capabilities": {"drop": ["ALL", "KILL"]}}),
        ({"seccompProfile": {"type": "Localhost"}}, {"seccompProfile": {"type": "Localhost"}}),
        ({"runAsNonRoot": None}, {"runAsNonRoot": True}),
    ],
)
def test_what_a_container_says_stays(said, kept):
    value = injected(pod(containers=[container(securityContext={"runAsUser": 1000, **said})]))
    security = value["spec"]["containers"][0]["securityContext"]
    assert {name: security[name] for name in kept} == kept


def test_what_the_pod_says_for_all_stays():
    value = injected(pod(securityContext={"seccompProfile": {"type": "Localhost", "localhostProfile": "x"}}))
    assert "seccompProfile" not in value["spec"]["containers"][0]["securityContext"]
    assert value["spec"]["initContainers"][0]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_a_volume_that_is_only_called_like_a_token_stays():
    value = changed(pod(), spec__volumes__1={"name": "kube-api-access-x7k2p", "emptyDir": {}})
    assert "kube-api-access-x7k2p" in mounts(injected(value)["spec"]["containers"][0])


def test_the_token_goes_where_the_catalogue_gives_none():
    value = injected(pod(initContainers=[container("setup")]))["spec"]
    assert value["automountServiceAccountToken"] is False
    assert not [item for item in value["volumes"] if item["name"].startswith("kube-api-access")]
    for item in (*value["initContainers"], *value["containers"]):
        assert not [name for name in mounts(item) if name.startswith("kube-api-access")]


def test_the_token_stays_with_the_pods_own_containers_where_the_catalogue_gives_one():
    value = injected(annotated(pod(serviceAccountName="clerk", serviceAccount="clerk"), agent="clerk"))["spec"]
    assert value["automountServiceAccountToken"] is False  # or the API server's plugin would give it to the sidecar
    having = [
        item["name"]
        for item in (*value["initContainers"], *value["containers"])
        if any(name.startswith("kube-api-access") for name in mounts(item))
    ]
    assert having == ["main"]


def test_what_a_cluster_adds_to_ours_is_left_alone():
    value = injected(pod())
    made = named(value["spec"]["initContainers"], "exequatur-sidecar")
    made["resources"] = {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "256Mi", "cpu": "1"}}
    made["imagePullPolicy"] = "Always"
    value["spec"]["volumes"].append({"name": "added-later", "emptyDir": {}})
    value["spec"]["containers"][0]["env"].append({"name": "ADDED", "value": "later"})
    assert injected(value) == value


@pytest.mark.parametrize(
    "other",
    [
        {"env": [{"name": "PYTHONPATH", "value": "/workspace"}]},
        {"image": "registry.example/quiet"},
        {"args": ["sidecar", "run"]},
        {"command": ["/bin/sleep", "1000000"]},
        {"restartPolicy": None},
        {"securityContext": {"runAsUser": 1000}},
        {"lifecycle": {"postStart": {"exec": {"command": ["/workspace/x"]}}}},
        {"resources": {"claims": [{"name": "device"}]}},
        {"resources": {"limits": {"example.com/device": "1"}}},
        {"imagePullPolicy": "Never"},
        {"volumeMounts": []},
        {"workingDir": "/workspace"},
    ],
    ids="".join,
)
def test_a_false_sidecar_is_refused(other):
    value = injected(pod())
    named(value["spec"]["initContainers"], "exequatur-sidecar").update(other)
    assert "spec.initContainers[exequatur-sidecar]" in refusal(value)


def test_two_true_sidecars_are_refused():
    value = injected(pod())
    value["spec"]["initContainers"] *= 2
    assert "spec.initContainers[exequatur-sidecar]" in refusal(value)


def test_a_true_sidecar_that_would_come_too_late_is_put_first():
    value = injected(pod(initContainers=[container("setup")]))
    inits = value["spec"]["initContainers"]
    late = changed(value, spec__initContainers=[inits[-1], *inits[:-1]])
    assert injected(late) == value


SMALL = st.dictionaries(st.sampled_from(["a", "b/c", "d~e", "f"]), st.integers(0, 2), max_size=3)
PODS = st.fixed_dictionaries(
    {
        "initContainers": st.none() | st.lists(st.sampled_from(["setup", "warm"]), unique=True),
        "others": st.lists(st.sampled_from(["helper", "proxy"]), unique=True),
        "doors": st.none() | st.sampled_from(["grpc", "git", "grpc,git"]),
        "session": st.none() | st.sampled_from(["pod-uid", "instance:night-shift"]),
        "spool": st.booleans(),
        "profile": st.none() | st.sampled_from(["RuntimeDefault", "Localhost"]),
        "security": st.fixed_dictionaries(
            {"runAsUser": st.sampled_from([1, 1000])},
            optional={
                "runAsNonRoot": st.just(True),
                "allowPrivilegeEscalation": st.none() | st.just(False),
                "capabilities": st.sampled_from([{}, {"drop": ["ALL"]}, {"drop": ["ALL", "KILL"]}, {"add": []}]),
                "seccompProfile": st.just({"type": "RuntimeDefault"}),
            },
        ),
        "env": st.none() | st.just([{"name": "A", "value": "b"}]),
        "labels": st.none() | st.dictionaries(st.sampled_from(["app", "tier"]), st.text(max_size=3)),
        "fenced": st.booleans(),
    }
)


def test_the_network_knows_the_agent_by_a_label_that_nobody_else_writes():
    labels = injected(pod())["metadata"]["labels"]
    assert labels == {"app": "coder", "exequatur.dev/injected": "true", "exequatur.dev/agent": "coder"}
    another = pod()
    another["metadata"]["labels"] = {"exequatur.dev/agent": "clerk"}
    assert (
        refusal(another)
        == "exequatur: `metadata.labels[exequatur.dev/agent]` is the injector's, and not what it writes"
    )


@settings(max_examples=25, deadline=None)
@given(PODS)
def test_injection_of_what_was_injected_changes_nothing(drawn):
    value = SPOOLED if drawn["spool"] else pod()
    value = annotated(value, doors=drawn["doors"], session=drawn["session"], container="main")
    main = container(securityContext=drawn["security"], **({"env": drawn["env"]} if drawn["env"] else {}))
    value = changed(value, spec__containers=[container(name) for name in drawn["others"]] + [main])
    value["metadata"]["labels"] = drawn["labels"]
    if drawn["initContainers"] is not None:
        value["spec"]["initContainers"] = [container(name) for name in drawn["initContainers"]]
    if drawn["profile"]:
        value["spec"]["securityContext"]["seccompProfile"] = {"type": drawn["profile"], "localhostProfile": "x"}
    known = FENCED if drawn["fenced"] else catalogue()
    once = injected(value, known)
    assert once != value
    assert injected(once, known) == once


@settings(max_examples=25, deadline=None)
@given(
    st.recursive(SMALL, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner)),
    st.data(),
)
def test_a_difference_leads_from_one_value_to_the_other(before, data):
    after = data.draw(st.recursive(SMALL, lambda inner: st.lists(inner, max_size=3)))
    assert apply(before, list(difference(before, after))) == after
