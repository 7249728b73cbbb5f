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

TOKEN = {"projected": {"sources": [{"serviceAccountToken": {"audience": "exequatur", "path": "token"}}]}}
CLAIM = {"name": "records", "persistentVolumeClaim": {"claimName": "exequatur-spool-coder-0"}}
VOLUMES = pod()["spec"]["volumes"]
TWO_VOLUMES = [*VOLUMES, {"name": "workspace-2", "emptyDir": {}}]
MOUNTS = container()["volumeMounts"]


def spec(**more):
    return changed(pod(), **{f"spec__{name}": value for name, value in more.items()})


def main(**more):
    return spec(containers=[container(**more)])


def security(**more):
    return main(securityContext={"runAsUser": 1000, **more})


def volume(**kind):
    return spec(volumes=[*VOLUMES, {"name": "more", **kind}])


def mount(name, **more):
    return main(volumeMounts=[*MOUNTS, {"name": name, "mountPath": "/more", **more}])


def env(**more):
    return main(env=[{"name": "MORE", **more}])


def spooled(**more):
    return annotated(
        spec(volumes=[*VOLUMES, CLAIM], **({"securityContext": {"fsGroup": 2000}} | more)), spool="records"
    )


MAIN, SECURITY = "spec.containers[main]", "spec.containers[main].securityContext"
CASES = {
    "nothing_of_the_node": {
        "the node's processes": (spec(hostPID=True), "spec.hostPID"),
        "the node's memory": (spec(hostIPC=True), "spec.hostIPC"),
        "the node's network": (spec(hostNetwork=True), "spec.hostNetwork"),
        "a port of the node": (main(ports=[{"containerPort": 80, "hostPort": 80}]), f"{MAIN}.ports.hostPort"),
    },
    "no_shared_processes": {
        "processes shared with the sidecar": (spec(shareProcessNamespace=True), "spec.shareProcessNamespace"),
    },
    "no_errands_of_the_node": {
        f"{field}: {kind}": (
            main(**{field.partition(".")[0]: inner({kind: {"port": 80, "host": "169.254.169.254"}})}),
            f"{MAIN}.{field}.{kind}.host",
        )
        for field, inner in (
            *((f"{probe}Probe", dict) for probe in ("liveness", "readiness", "startup")),
            ("lifecycle.postStart", lambda handler: {"postStart": handler}),
            ("lifecycle.preStop", lambda handler: {"preStop": handler}),
        )
        for kind in ("httpGet", "tcpSocket")
    }
    | {
        "an errand of an init container's": (
            spec(
                initContainers=[
                    container("x", restartPolicy="Always", startupProbe={"tcpSocket": {"port": 1, "host": "10.0.0.1"}})
                ]
            ),
            "spec.initContainers[x].startupProbe.tcpSocket.host",
        ),
        "the sidecar's health as one's own": (
            main(readinessProbe={"grpc": {"port": 9072, "service": "ready"}}),
            f"{MAIN}.readinessProbe.grpc.port",
        ),
        "the sidecar's port in so many letters": (
            main(livenessProbe={"httpGet": {"port": "9082", "path": "/metrics"}}),
            f"{MAIN}.livenessProbe.httpGet.port",
        ),
    },
    "linux_alone": {
        "a Windows pod": (spec(os={"name": "windows"}), "spec.os.name"),
        "a Windows host process": (
            spec(securityContext={"windowsOptions": {"hostProcess": True}}),
            "spec.securityContext.windowsOptions",
        ),
        "a Windows user": (security(windowsOptions={"runAsUserName": "x"}), f"{SECURITY}.windowsOptions"),
    },
    "no_ephemeral_containers": {
        "born with an ephemeral container": (spec(ephemeralContainers=[container("x")]), "spec.ephemeralContainers"),
    },
    "one_thing_a_name": {
        "two containers of one name": (
            annotated(spec(containers=[container(), container()]), container="main"),
            "two containers are called `main`",
        ),
        "an init container of a container's name": (spec(initContainers=[container()]), "two containers"),
        "two volumes of one name": (spec(volumes=[*VOLUMES, VOLUMES[0]]), "two volumes are called `workspace`"),
    },
    "known_volumes": {
        "a path of the node": (volume(hostPath={"path": "/var/lib/kubelet"}), "spec.volumes[more]"),
        "a driver that hands out identities": (volume(csi={"driver": "csi.spiffe.io"}), "spec.volumes[more]"),
        "a driver of yesterday": (volume(flexVolume={"driver": "x/y"}), "spec.volumes[more]"),
        "a server of files": (volume(nfs={"server": "x", "path": "/"}), "spec.volumes[more]"),
        "a kind that nobody knows yet": (volume(newKind={"x": 1}), "spec.volumes[more]"),
        "two kinds in one volume": (volume(emptyDir={}, hostPath={"path": "/"}), "spec.volumes[more]"),
        "no kind": (volume(), "spec.volumes[more]"),
    },
    "no_secret_of_ours": {
        "the sidecar's key as a volume": (
            volume(secret={"secretName": "exequatur-sidecar-coder"}),
            "spec.volumes[more].secret.secretName",
        ),
        "another sidecar's key as a volume": (
            volume(secret={"secretName": "exequatur-sidecar-clerk"}),
            "spec.volumes[more].secret.secretName",
        ),
        "the sidecar's key among others": (
            volume(projected={"sources": [{"secret": {"name": "exequatur-sidecar-coder"}}]}),
            "spec.volumes[more].projected.sources.secret.name",
        ),
        "the sidecar's key as a variable": (
            env(valueFrom={"secretKeyRef": {"name": "exequatur-sidecar-coder", "key": "tls.key"}}),
            f"{MAIN}.env[MORE].valueFrom.secretKeyRef",
        ),
        "the sidecar's key as variables": (
            main(envFrom=[{"secretRef": {"name": "exequatur-sidecar-coder"}}]),
            f"{MAIN}.envFrom.secretRef",
        ),
        "the sidecar's key for the registry": (
            spec(imagePullSecrets=[{"name": "exequatur-sidecar-coder"}]),
            "spec.imagePullSecrets",
        ),
        "an init container with the sidecar's key": (
            spec(initContainers=[container("x", envFrom=[{"secretRef": {"name": "exequatur-sidecar-coder"}}])]),
            "spec.initContainers[x].envFrom.secretRef",
        ),
        "what the MCP server holds": (main(envFrom=[{"secretRef": {"name": "git-token"}}]), f"{MAIN}.envFrom"),
    },
    "no_token": {
        "a token of the service account": (volume(**TOKEN), "spec.volumes[more].projected.sources.serviceAccountToken"),
        "a token under the plugin's name": (
            spec(volumes=[*VOLUMES, {"name": "other-api-access", **TOKEN}]),
            "spec.volumes[other-api-access].projected.sources.serviceAccountToken",
        ),
        "a token by word": (spec(automountServiceAccountToken=True), "spec.automountServiceAccountToken"),
        "a certificate of the pod": (
            volume(projected={"sources": [{"podCertificate": {"signerName": "example.org/x", "keyType": "ED25519"}}]}),
            "spec.volumes[more].projected.sources.podCertificate",
        ),
    },
    "no_name_of_ours": {
        "a container called like the sidecar": (
            annotated(spec(containers=[container(), container("exequatur-sidecar")]), container="main"),
            "spec.containers[exequatur-sidecar]",
        ),
        "an init container that only begins so": (
            spec(initContainers=[container("exequatur-x")]),
            "spec.initContainers[exequatur-x]",
        ),
        "another door's volume": (
            spec(volumes=[*VOLUMES, {"name": "exequatur-door-grpc", "emptyDir": {}}]),
            "spec.volumes[exequatur-door-grpc]",
        ),
        "a false spool": (
            annotated(
                spec(volumes=[*VOLUMES, {"name": "exequatur-spool", "emptyDir": {"sizeLimit": "2Gi"}}]),
                spool="exequatur-spool",
            ),
            "spec.volumes[exequatur-spool]",
        ),
        "the sidecar's key as a spool": (
            annotated(spec(volumes=[*VOLUMES, CLAIM | {"name": "exequatur-identity"}]), spool="exequatur-identity"),
            "spec.volumes[exequatur-identity]",
        ),
        "a spool that no annotation names": (
            spec(volumes=[*VOLUMES, CLAIM | {"name": "exequatur-spool"}]),
            "spec.volumes[exequatur-spool]",
        ),
        "a spool's name, and another's claim": (
            annotated(
                spec(
                    volumes=[*VOLUMES, {"name": "exequatur-spool", "persistentVolumeClaim": {"claimName": "data"}}],
                    securityContext={"fsGroup": 2000},
                ),
                spool="exequatur-spool",
            ),
            "names that begin with `exequatur-` are the injector's",
        ),
        "the sidecar's key mounted": (mount("exequatur-identity"), f"{MAIN}.volumeMounts[exequatur-identity]"),
        "the door mounted to write": (
            mount("exequatur-door-grpc"),
            f"{MAIN}.volumeMounts[exequatur-door-grpc]",
        ),
        "the agent's program, to be written": (
            mount("exequatur-bin", mountPath="/own"),
            f"{MAIN}.volumeMounts[exequatur-bin]",
        ),
        "a volume as a device": (
            main(volumeDevices=[{"name": "exequatur-spool", "devicePath": "/dev/x"}]),
            f"{MAIN}.volumeDevices[exequatur-spool]",
        ),
        "a file of ours as a variable": (
            env(valueFrom={"fileKeyRef": {"volumeName": "exequatur-identity", "path": "tls.key", "key": "x"}}),
            f"{MAIN}.env[MORE].valueFrom.fileKeyRef",
        ),
        "another target": (
            main(env=[{"name": "EXEQUATUR_TARGET", "value": "unix:/tmp/x"}]),
            f"{MAIN}.env[EXEQUATUR_TARGET]",
        ),
        "the port of probes": (main(ports=[{"containerPort": 9072}]), f"{MAIN}.ports.containerPort"),
    },
    "no_path_of_ours": {
        "another door's folder": (
            mount("workspace", mountPath="/run/exequatur/doors/grpc/s"),
            f"{MAIN}.volumeMounts[workspace].mountPath",
        ),
        "the folder of all": (mount("workspace", mountPath="/run/exequatur"), f"{MAIN}.volumeMounts[workspace]"),
        "the same by another name": (
            mount("workspace", mountPath="//var/./run/x/../exequatur/"),
            f"{MAIN}.volumeMounts[workspace].mountPath",
        ),
        "the folder above": (mount("workspace", mountPath="/run"), f"{MAIN}.volumeMounts[workspace].mountPath"),
        "the folder above by another name": (
            mount("workspace", mountPath="/var/run/."),
            f"{MAIN}.volumeMounts[workspace].mountPath",
        ),
        "the folder above that": (mount("workspace", mountPath="/var"), f"{MAIN}.volumeMounts[workspace].mountPath"),
        "everything": (mount("workspace", mountPath="/"), f"{MAIN}.volumeMounts[workspace].mountPath"),
        "a device there": (
            main(volumeDevices=[{"name": "block", "devicePath": "/run/exequatur/x"}]),
            f"{MAIN}.volumeDevices[block].devicePath",
        ),
        "the last words there": (
            main(terminationMessagePath="/run/exequatur/doors/grpc/s/door.sock"),
            f"{MAIN}.terminationMessagePath",
        ),
    },
    "no_propagated_mounts": {
        "mounts that go on": (
            mount("workspace", mountPropagation="Bidirectional"),
            f"{MAIN}.volumeMounts[workspace].mountPropagation",
        ),
    },
    "unprivileged": {
        "all privileges": (security(privileged=True), f"{SECURITY}.privileged"),
        "a way to more": (security(allowPrivilegeEscalation=True), f"{SECURITY}.allowPrivilegeEscalation"),
        "the whole of /proc": (security(procMount="Unmasked"), f"{SECURITY}.procMount"),
        "a capability": (security(capabilities={"add": ["SYS_PTRACE"]}), f"{SECURITY}.capabilities.add"),
        "a harmless capability": (security(capabilities={"add": ["NET_BIND_SERVICE"]}), f"{SECURITY}.capabilities.add"),
        "some capabilities kept": (security(capabilities={"drop": ["KILL"]}), f"{SECURITY}.capabilities.drop"),
        "an init container with privileges": (
            spec(initContainers=[container("x", securityContext={"runAsUser": 1000, "privileged": True})]),
            "spec.initContainers[x].securityContext.privileged",
        ),
    },
    "users_of_their_own": {
        "no user": (security(runAsUser=None), f"{SECURITY}.runAsUser"),
        "no security context": (main(securityContext=None), f"{SECURITY}.runAsUser"),
        "root": (security(runAsUser=0), f"{SECURITY}.runAsUser"),
        "the sidecar's user": (security(runAsUser=64113), f"{SECURITY}.runAsUser"),
        "the MCP server's user": (security(runAsUser=64114), f"{SECURITY}.runAsUser"),
        "the sidecar's user, from the pod": (
            spec(containers=[container(securityContext={})], securityContext={"runAsUser": 64113}),
            f"{SECURITY}.runAsUser",
        ),
        "root, allowed by word": (security(runAsNonRoot=False), f"{SECURITY}.runAsNonRoot"),
        "root, allowed by the pod": (
            spec(securityContext={"runAsNonRoot": False}),
            "spec.securityContext.runAsNonRoot",
        ),
        "the sidecar's group": (security(runAsGroup=64113), f"{SECURITY}.runAsGroup"),
        "the sidecar's group, from the pod": (
            spec(securityContext={"supplementalGroups": [1, 64113]}),
            "spec.securityContext.supplementalGroups",
        ),
        "the sidecar's group on volumes": (spec(securityContext={"fsGroup": 64113}), "spec.securityContext.fsGroup"),
    },
    "confined": {
        "no filter of calls": (security(seccompProfile={"type": "Unconfined"}), f"{SECURITY}.seccompProfile.type"),
        "no filter of calls, from the pod": (
            spec(securityContext={"seccompProfile": {"type": "Unconfined"}}),
            "spec.securityContext.seccompProfile.type",
        ),
        "no AppArmor": (security(appArmorProfile={"type": "Unconfined"}), f"{SECURITY}.appArmorProfile.type"),
        "another AppArmor profile for the sidecar": (
            spec(securityContext={"appArmorProfile": {"type": "Localhost", "localhostProfile": "x"}}),
            "spec.securityContext.appArmorProfile.type",
        ),
        "an SELinux type": (security(seLinuxOptions={"type": "spc_t"}), f"{SECURITY}.seLinuxOptions"),
        "an SELinux user": (spec(securityContext={"seLinuxOptions": {"user": "x"}}), "spec.securityContext.seLinux"),
        "an SELinux role": (security(seLinuxOptions={"role": "x"}), f"{SECURITY}.seLinuxOptions"),
        "kernel parameters": (
            spec(securityContext={"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "0"}]}),
            "spec.securityContext.sysctls",
        ),
    },
    "no_orders_by_annotation": {
        "no AppArmor by annotation": (
            changed(
                pod(),
                metadata__annotations={
                    "exequatur.dev/agent": "coder",
                    "container.apparmor.security.beta.kubernetes.io/main": "unconfined",
                },
            ),
            "metadata.annotations[container.apparmor",
        ),
        "the sidecar's AppArmor by annotation": (
            changed(
                pod(),
                metadata__annotations={
                    "exequatur.dev/agent": "coder",
                    "container.apparmor.security.beta.kubernetes.io/exequatur-sidecar": "localhost/x",
                },
            ),
            "metadata.annotations[container.apparmor.security.beta.kubernetes.io/exequatur-sidecar]",
        ),
        "a mount into the sidecar by annotation": (
            changed(
                pod(),
                metadata__annotations={
                    "exequatur.dev/agent": "coder",
                    "mounts.nri.containerd.io/container.exequatur-sidecar": "- source: /",
                },
            ),
            "metadata.annotations[mounts.nri.containerd.io/container.exequatur-sidecar]",
        ),
    },
    "no_devices_by_claim": {
        "a claim of the pod's": (
            spec(resourceClaims=[{"name": "nic", "resourceClaimName": "nic"}]),
            "spec.resourceClaims",
        ),
        "a claim of a container's": (main(resources={"claims": [{"name": "nic"}]}), f"{MAIN}.resources.claims"),
    },
    "names_resolve_as_for_others": {
        "the ledger's name": (
            spec(hostAliases=[{"ip": "127.0.0.1", "hostnames": ["exequatur-ledger.exequatur.svc"]}]),
            "spec.hostAliases",
        ),
        "a pod called like the ledger": (
            changed(pod(), metadata__name="exequatur-ledger.exequatur.svc"),
            "metadata.name",
        ),
        "a pod to be called so": (changed(pod(), metadata__generateName="ledger.exequatur."), "metadata.generateName"),
        "the pod as the ledger": (
            spec(hostnameOverride="exequatur-ledger.exequatur.svc"),
            "spec.hostnameOverride",
        ),
        "no cluster's names": (spec(dnsPolicy="Default"), "spec.dnsPolicy"),
        "others' names": (spec(dnsConfig={"nameservers": ["10.1.1.1"]}), "spec.dnsConfig.nameservers"),
        "names completed otherwise": (spec(dnsConfig={"searches": ["x.org"]}), "spec.dnsConfig.searches"),
    },
    "records_last": {
        "a spool that is not there": (annotated(pod(), spool="records"), "`records` is no volume"),
        "a spool that goes with the pod": (
            annotated(pod(securityContext={"fsGroup": 1}), spool="workspace"),
            "must be",
        ),
        "a spool that others may mount": (
            changed(spooled(), spec__volumes__2__persistentVolumeClaim__claimName="data"),
            "spec.volumes[records]",
        ),
        "a spool that nobody can write, nothing said": (spooled(securityContext=None), "spec.securityContext.fsGroup"),
        "a spool that nobody can write": (spooled(securityContext={}), "spec.securityContext.fsGroup"),
    },
    "no_way_to_a_spool": {
        "a spool of an MCP server's": (
            annotated(
                spec(
                    securityContext={"fsGroup": 2000},
                    volumes=[CLAIM | {"name": "workspace"}, VOLUMES[1]],
                ),
                spool="workspace",
            ),
            f"{MAIN}.volumeMounts[workspace]",
        ),
        "another pod's spool": (
            volume(persistentVolumeClaim={"claimName": "exequatur-spool-coder-0"}),
            "spec.volumes[more]",
        ),
        "the spool by a second volume": (
            changed(spooled(), spec__volumes=[*VOLUMES, CLAIM, {**CLAIM, "name": "more"}]),
            "spec.volumes[more]",
        ),
        "a copy of a spool": (
            volume(
                ephemeral={
                    "volumeClaimTemplate": {
                        "spec": {"dataSource": {"kind": "PersistentVolumeClaim", "name": "exequatur-spool-coder-0"}}
                    }
                }
            ),
            "spec.volumes[more].ephemeral",
        ),
        "the spool, mounted": (
            changed(
                spooled(),
                spec__containers=[container(volumeMounts=[*MOUNTS, {"name": "records", "mountPath": "/records"}])],
            ),
            f"{MAIN}.volumeMounts[records]",
        ),
    },
    "shared_where_the_operator_says": {
        "nothing to share": (
            spec(volumes=VOLUMES[1:], containers=[container(volumeMounts=MOUNTS[1:])]),
            "spec.volumes",
        ),
        "a folder of programs": (
            main(volumeMounts=[{"name": "workspace", "mountPath": "/usr/bin"}]),
            f"{MAIN}.volumeMounts[workspace]",
        ),
        "a part of it": (
            main(volumeMounts=[{"name": "workspace", "mountPath": "/workspace", "subPath": "x"}]),
            f"{MAIN}.volumeMounts[workspace]",
        ),
        "a part that depends": (
            main(volumeMounts=[{"name": "workspace", "mountPath": "/workspace", "subPathExpr": "$(A)"}]),
            f"{MAIN}.volumeMounts[workspace]",
        ),
        "two places": (mount("workspace"), f"{MAIN}.volumeMounts[workspace]"),
    },
}
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
