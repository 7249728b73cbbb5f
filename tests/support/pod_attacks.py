"""What whoever makes pods in a labelled namespace may not have: for each rule pods, each with the field that is to blame."""

from __future__ import annotations

from admission import (
    annotated,
    changed,
    container,
    pod,
)

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
