"""What whoever makes pods in a labelled namespace may not do: each case one pod, and the field that its refusal names."""

from __future__ import annotations

import pytest

from admission import (
    CATALOGUE,
    annotated,
    catalogue,
    changed,
    container,
    injected,
    of_a_stateful_set,
    pod,
    refusal,
)
from injector import rules
from pod_attacks import CASES, MAIN, TWO_VOLUMES, main, mount, security, spec, spooled, volume

TABLE = [
    pytest.param(rule, value, field, id=f"{rule}: {name}")
    for rule, cases in CASES.items()
    for name, (value, field) in cases.items()
]


@pytest.mark.parametrize(("rule", "value", "field"), TABLE)
def test_a_pod_does_not_get_what_it_may_not_have(rule, value, field):
    message = refusal(value)
    assert message.startswith("exequatur: ")
    assert field in message, (rule, message)


@pytest.mark.parametrize(
    "name",
    [
        "k8s.v1.cni.cncf.io/networks",
        "v1.multus-cni.io/default-network",
        "networking.gke.io/interfaces",
        "k8s.ovn.org/pod-networks",
        "ovn.kubernetes.io/logical_switch",
        "attached.default.ovn.kubernetes.io/routes",
        "cni.projectcalico.org/allowedSourcePrefixes",
        "policy.cilium.io/no-track-port",
        "ipam.cilium.io/ip-pool",
        "ipam.example.org/address",
        "devices.nri.io/container.main",
        "mounts.nri.containerd.io/pod",
        "cdi.k8s.io/nic",
        "io.kubernetes.cri-o.Devices",
        "seccomp-profile.kubernetes.cri-o.io/POD",
        "io.katacontainers.config.hypervisor.path",
        "run.oci.hooks.stdout",
    ],
)
def test_no_other_network_and_no_order_to_the_runtime_by_annotation(name):
    value = pod()
    value["metadata"]["annotations"][name] = "x"
    assert f"`metadata.annotations[{name}]` " in refusal(value)


def test_every_rule_has_its_attacks():
    assert {rule.__name__ for rule in (*rules.OF_PODS, *rules.OF_AGENTS)} == CASES.keys()


def test_everything_that_is_wrong_is_said_at_once():
    message = refusal(spec(hostPID=True, hostIPC=True, shareProcessNamespace=True))
    assert all(name in message for name in ("spec.hostPID", "spec.hostIPC", "spec.shareProcessNamespace"))


def test_what_is_wrong_with_the_claim_does_not_hide_what_is_wrong_with_the_pod():
    wrong = annotated(spec(hostPID=True), session="other", doors="grpc,shell", container="helper", spool="gone", x="y")
    message = refusal(wrong)
    for part in (
        "`metadata.annotations[exequatur.dev/x]` is no annotation of ours: there are `exequatur.dev/agent`, ",
        "`other` is not among the agent's: `pod-name`, `pod-uid`, `instance:night-shift`",
        "`shell` is no door of the agent, and there are `grpc`, `git`",
        "`helper` is no container of the pod, and there are `main`",
        "`gone` is no volume of the pod",
        "`spec.hostPID` must not be true",
    ):
        assert part in message
    assert "`spec.hostPID` must not be true" in refusal(annotated(spec(hostPID=True), agent="nobody"))
    members = refusal(spec(newOne=1, newTwo=2))
    assert "`spec.newOne`" in members
    assert "`spec.newTwo`" in members


def test_a_pod_that_was_injected_for_an_agent_that_is_gone_is_told_just_that():
    gone = catalogue(agents={"clerk": CATALOGUE["agents"]["clerk"]})
    assert refusal(injected(pod()), gone) == (
        "exequatur: `metadata.annotations[exequatur.dev/agent]`: there is no agent `coder`: the service account"
        " `team-a/coder` may be no agent: ask who keeps the chart's values for one in `agents`"
    )


def test_who_may_be_an_agent_is_told_which():
    for agent in ("coder", "cleark", None):
        value = annotated(spec(serviceAccountName="clerk", serviceAccount="clerk"), agent=agent)
        message = refusal(value)
        assert message.endswith(": the service account `team-a/clerk` may be `clerk`")


def test_a_token_that_the_catalogue_gives_may_be_asked_for_by_word():
    value = annotated(
        pod(serviceAccountName="clerk", automountServiceAccountToken=True, serviceAccount="clerk"), agent="clerk"
    )
    assert injected(value)["spec"]["automountServiceAccountToken"] is False


def test_without_a_ledger_records_need_a_volume():
    alone = catalogue(ledger=None)
    assert "exequatur.dev/spool" in refusal(pod(), alone)
    value = injected(spooled(), alone)
    assert "--ledger" not in value["spec"]["initContainers"][0]["args"]


@pytest.mark.parametrize(
    "value",
    [
        spec(hostUsers=False, runtimeClassName="gvisor", nodeName="n", activeDeadlineSeconds=60),
        spec(dnsConfig={"options": [{"name": "ndots", "value": "2"}]}),
        spec(shareProcessNamespace=False, hostPID=False, hostIPC=None, ephemeralContainers=None, os={"name": "linux"}),
        volume(image={"reference": "registry.example/data:1"}),
        volume(persistentVolumeClaim={"claimName": "data"}),
        volume(secret={"secretName": "mine"}),
        volume(projected={"sources": [{"configMap": {"name": "x"}}, {"secret": {"name": "mine"}}]}),
        volume(ephemeral={"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]}}}),
        spec(securityContext=None),
        spec(dnsPolicy=None),
        security(procMount="Default"),
        pod()
        | {
            "spec": spec(
                containers=mount("workspace-2", mountPropagation="None")["spec"]["containers"], volumes=TWO_VOLUMES
            )["spec"]
        },
        annotated(spec(containers=[container(), container("helper", volumeMounts=[])]), container="main"),
        annotated(
            spec(containers=[container(), container("x", volumeMounts=[{"name": "workspace", "mountPath": "/run"}])]),
            container="main",
        ),
        changed(
            pod(),
            metadata__annotations={
                "exequatur.dev/agent": "coder",
                "example.org/mood": "unconfined",
                "prometheus.io/scrape": "true",
                "cilium.io.example.org/x": "y",
                "sidecar.istio.io/status": "{}",
                "container.apparmor.security.beta.kubernetes.io/main": "runtime/default",
            },
        ),
        security(appArmorProfile={"type": "Localhost", "localhostProfile": "x"}, readOnlyRootFilesystem=True),
        security(seLinuxOptions={"level": "s0:c1,c2"}, seccompProfile={"type": "Localhost", "localhostProfile": "x"}),
        spec(securityContext={"runAsUser": 1000, "fsGroup": 2000}, containers=[container(securityContext=None)]),
        spec(initContainers=[container("proxy", restartPolicy="Always")]),
        main(
            ports=[{"containerPort": 8080, "name": "http"}],
            livenessProbe={"httpGet": {"port": "http", "path": "/", "host": "", "scheme": "HTTP"}, "periodSeconds": 10},
            readinessProbe={"grpc": {"port": 8080, "service": ""}},
            startupProbe={"exec": {"command": ["true"]}},
        ),
        main(ports=[{"containerPort": 8080}], lifecycle={"preStop": {"sleep": {"seconds": 5}}}, stdin=True, tty=True),
    ],
    ids=str,
)
def test_what_harms_nobody_is_let_through(value):
    assert injected(value)["spec"]["initContainers"][0]["name"] == "exequatur-sidecar"


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (spec(hostPID="true"), "spec.hostPID"),
        (spec(shareProcessNamespace=1), "spec.shareProcessNamespace"),
        (security(runAsUser="1000"), "spec.containers[0].securityContext.runAsUser"),
        (security(runAsUser=1000.5), "spec.containers[0].securityContext.runAsUser"),
        (security(runAsUser=True), "spec.containers[0].securityContext.runAsUser"),
        (security(capabilities={"add": "SYS_ADMIN"}), "spec.containers[0].securityContext.capabilities.add"),
        (spec(containers={"name": "main"}), "spec.containers"),
        (spec(containers=[]), "spec.containers"),
        (spec(containers=None), "spec.containers"),
        (spec(volumes=["x"]), "spec.volumes[0]"),
        (spec(HostPID=True), "spec.HostPID"),
        (spec(hostPid=True), "spec.hostPid"),
        (spec(somethingNew={"x": 1}), "spec.somethingNew"),
        (main(somethingNew=True), "spec.containers[0].somethingNew"),
        (security(somethingNew=True), "spec.containers[0].securityContext.somethingNew"),
        (main(livenessProbe={"somethingNew": {"host": "x"}}), "spec.containers[0].livenessProbe.somethingNew"),
        (main(lifecycle={"preStop": {"httpGet": 1}}), "spec.containers[0].lifecycle.preStop.httpGet"),
        (volume(ephemeral={"volumeClaimTemplate": [1]}), "spec.volumes[2].ephemeral.volumeClaimTemplate"),
        (
            volume(ephemeral={"volumeClaimTemplate": {"spec": "x"}}),
            "spec.volumes[2].ephemeral.volumeClaimTemplate.spec",
        ),
        (annotated(pod(), **{"a\nb": "x"}), r"metadata.annotations[exequatur.dev/a\nb]"),
        (spec(initContainers=[container("exequatur-sidecar\n")]), "spec.initContainers[0].name"),
        (changed(pod(), somethingNew=1), "somethingNew"),
        (changed(pod(), metadata=None), "metadata"),
        (changed(pod(), metadata__annotations=["exequatur.dev/agent"]), "metadata.annotations"),
        (changed(pod(), metadata__labels={"app": None}), "metadata.labels.app"),
        (changed(pod(), spec=None), "spec"),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_what_could_be_misread_is_refused(value, field):
    assert f"`{field}`" in refusal(value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (annotated(pod(), agent=None), "metadata.annotations[exequatur.dev/agent]` is missing"),
        (annotated(pod(), agent="nobody"), "no agent `nobody`"),
        (annotated(pod(), agent=""), "no agent ``"),
        (annotated(pod(), agent="clerk"), "spec.serviceAccountName"),
        (spec(serviceAccountName="other", serviceAccount="other"), "spec.serviceAccountName"),
        (spec(serviceAccountName=None, serviceAccount=None), "may not be the agent `coder`"),
        (spec(serviceAccount="clerk"), "spec.serviceAccount"),
        (changed(pod(), metadata__namespace="team-b"), "metadata.namespace"),
        (annotated(pod(), session="instance:other"), "exequatur.dev/session"),
        (annotated(pod(), session="instance:night-shift,door=grpc"), "exequatur.dev/session"),
        (annotated(pod(), doors="grpc,http"), "`http` is no door"),
        (annotated(pod(), doors=""), "is no door"),
        (annotated(pod(), doors="grpc,grpc"), "names one twice"),
        (annotated(pod(), container="helper"), "`helper` is no container"),
        (annotated(pod(), container="main,main"), "names one twice"),
        (annotated(pod(containers=[container(), container("helper")])), "say which are the agent"),
        (annotated(pod(), agents="coder"), "metadata.annotations[exequatur.dev/agents]"),
        (annotated(pod(), injector="9.9.9"), "metadata.annotations[exequatur.dev/injector]"),
        (changed(pod(), metadata__labels={"exequatur.dev/injected": "false"}), "metadata.labels[exequatur.dev/inj"),
        (changed(pod(), metadata__labels={"exequatur.dev/inject": "disabled"}), "metadata.labels[exequatur.dev/inj"),
        (changed(pod(), metadata__labels={"exequatur.dev/agent": "clerk"}), "metadata.labels[exequatur.dev/agent]"),
    ],
)
def test_a_pod_is_no_agent_but_its_own(value, reason):
    assert reason in refusal(value)


@pytest.mark.parametrize("template", ["exequatur-spool", "exequatur-spool-records"])
def test_a_stateful_sets_template_is_a_spool(template):
    value = of_a_stateful_set(template)
    once = injected(value)
    (sidecar, *_) = once["spec"]["initContainers"]
    assert {"name": template, "mountPath": "/var/lib/exequatur"} in sidecar["volumeMounts"]
    assert "--wait-for-ledger" not in sidecar["args"]
    assert [item for item in once["spec"]["volumes"] if item["name"].startswith("exequatur-spool")] == [
        {"name": template, "persistentVolumeClaim": {"claimName": f"{template}-coder-0"}}
    ]
    assert injected(once) == once


def test_a_stateful_sets_spool_is_mounted_by_nobody_else():
    value = of_a_stateful_set("exequatur-spool")
    value["spec"]["containers"][0]["volumeMounts"].append({"name": "exequatur-spool", "mountPath": "/records"})
    assert f"`{MAIN}.volumeMounts[exequatur-spool]`: the spool is the sidecar's alone" in refusal(value)


def test_the_default_account_is_one_like_any_other():
    value = injected(annotated(spec(serviceAccountName="", serviceAccount=""), agent="clerk"))
    (secret,) = [item["secret"] for item in value["spec"]["volumes"] if "secret" in item]
    assert secret["secretName"] == "exequatur-sidecar-default"


def test_an_agent_may_use_fewer_doors_than_it_has():
    value = injected(annotated(pod(), doors="grpc"))
    assert [item["name"] for item in value["spec"]["initContainers"]] == ["exequatur-sidecar"]
    value = injected(annotated(pod(), doors="git"))
    assert "env" not in value["spec"]["containers"][0]


def test_a_server_is_given_the_operators_image_and_no_other():
    agents = changed(CATALOGUE["agents"], coder__doors__git__image="registry.example/git@sha256:" + "1" * 64)
    value = injected(pod(), catalogue(agents=agents))
    assert value["spec"]["initContainers"][1]["image"] == "registry.example/git@sha256:" + "1" * 64
    assert value["spec"]["initContainers"][1]["envFrom"] == [{"secretRef": {"name": "git-token"}}]
