"""What the chart promises of everything that it renders, whatever the values say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from helm import EXAMPLES, VALUES, Object, Objects, containers, notes, rendered
from injector.catalogue import McpDoor, read_catalogue
from injector.patch import inject
from injector.settings import InjectorSettings
from kube_schemas import NEWEST, OLDEST, validate
from ledger.settings import LedgerSettings
from pdp.settings import PdpSettings
from pdp.supervisor import STEPS
from pod_security import looseness, violations
from sidecar.settings import SidecarSettings

FILES = [*EXAMPLES, *VALUES]
each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
SETTINGS = {"pdp": PdpSettings, "ledger": LedgerSettings, "injector": InjectorSettings}
DRAINS = {"pdp": STEPS, "ledger": 2, "injector": 1}
"""How many graces each daemon may need to stop."""


def values(file: Path) -> Object:
    return dict(yaml.safe_load(file.read_text()))


def settings(objects: Objects, part: str):
    """Load a daemon's settings as its container would."""
    (pod,) = [pod for _, pod in objects.pods() if component(pod) == part]
    (container,) = containers(pod)
    group, verb, *flags = container["args"]
    assert (group, verb) == (part, "serve")
    environ = {item["name"]: item["value"] for item in container.get("env", []) if "value" in item}
    return SETTINGS[part].load(flags, environ)


def component(item: Object) -> str:
    return str(item["metadata"]["labels"]["app.kubernetes.io/component"])


def parts(objects: Objects) -> dict[str, Object]:
    return {component(pod): pod for _, pod in objects.pods()}


@each_file
def test_every_pod_is_restricted_and_more(file):
    pods = list(rendered(file).pods())
    assert pods
    for name, pod in pods:
        assert (name, violations(pod)) == (name, [])
        assert (name, looseness(pod)) == (name, [])


@each_file
def test_no_pod_may_ask_the_api_server_for_anything(file):
    objects = rendered(file)
    assert objects.of("Role", "RoleBinding") == []
    for role in objects.of("ClusterRole"):
        assert [(rule["resources"], rule["verbs"]) for rule in role["rules"]] == [
            (["certificaterequestpolicies"], ["use"])
        ]
    for binding in objects.of("ClusterRoleBinding"):
        (subject,) = binding["subjects"]
        assert subject == {"kind": "ServiceAccount", "namespace": "cert-manager", "name": "cert-manager"}
    accounts = objects.of("ServiceAccount")
    assert all(account["automountServiceAccountToken"] is False for account in accounts)
    used = {pod["spec"]["serviceAccountName"] for _, pod in objects.pods()}
    assert used == {account["metadata"]["name"] for account in accounts}
    assert "default" not in used


@each_file
def test_a_pod_is_given_more_time_to_stop_than_it_takes(file):
    objects = rendered(file)
    for part, pod in parts(objects).items():
        (container,) = containers(pod)
        pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        drain = DRAINS[part] * settings(objects, part).drain_grace_s
        assert pod["spec"]["terminationGracePeriodSeconds"] > pause + drain
        assert pause > 0 or "abrupt-stop" in values(file)["iAcceptRisk"]


@each_file
def test_dead_starting_and_not_ready_are_three_questions(file):
    objects = rendered(file)
    for part, pod in parts(objects).items():
        (container,) = containers(pod)
        port = int(settings(objects, part).health.rpartition(":")[2])
        asked = {name: container[name]["grpc"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
        assert {probe["port"] for probe in asked.values()} == {port}
        assert asked["livenessProbe"]["service"] == "live"
        assert asked["readinessProbe"]["service"] == "ready"


@each_file
def test_both_webhooks_fail_closed_for_labelled_namespaces_and_leave_all_others_alone(file):
    objects, given = rendered(file), values(file)
    found = objects.of("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
    assert len(found) == (2 if given.get("injector", {}).get("enabled") else 0)
    for item in found:
        (hook,) = item["webhooks"]
        assert hook["failurePolicy"] == "Fail"
        assert hook["sideEffects"] == "None"
        assert hook["timeoutSeconds"] <= 10
        assert hook["namespaceSelector"]["matchLabels"] == {"exequatur.dev/inject": "enabled"}
        assert hook["namespaceSelector"]["matchExpressions"] == [
            {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["exequatur"]}
        ]
        assert not hook.keys() & {"objectSelector", "matchConditions"}
        service = hook["clientConfig"]["service"]
        assert objects.one("Service", service["name"])["metadata"]["namespace"] == service["namespace"]
        assert (
            hook["clientConfig"].get("caBundle") or "cert-manager.io/inject-ca-from" in item["metadata"]["annotations"]
        )


@each_file
def test_what_the_injector_wrote_is_held_by_the_api_server_itself_where_it_injects(file):
    objects = rendered(file)
    policies = objects.of("ValidatingAdmissionPolicy")
    assert len(policies) == len(objects.of("MutatingWebhookConfiguration"))
    for policy, binding in zip(policies, objects.of("ValidatingAdmissionPolicyBinding"), strict=True):
        spec, selected = policy["spec"], policy["spec"]["matchConstraints"]
        (hook,) = objects.of("MutatingWebhookConfiguration")[0]["webhooks"]
        assert (spec["failurePolicy"], selected["namespaceSelector"]) == ("Fail", hook["namespaceSelector"])
        assert not spec.keys() & {"matchConditions", "paramKind", "auditAnnotations"}
        assert not selected.keys() & {"objectSelector", "excludeResourceRules"}
        assert {(kind, how) for rule in selected["resourceRules"] for kind in rule["resources"] for how in rule["operations"]} == {
            ("pods", "UPDATE"), ("pods/*", "UPDATE"), ("pods/binding", "CREATE"), ("bindings", "CREATE"),
        }  # fmt: skip
        assert len(spec["validations"]) == 2
        assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}


@each_file
def test_who_may_write_to_the_ledger_and_be_believed_follows_from_the_agents(file):
    objects, given = rendered(file), values(file)
    domain, agents = given["trustDomain"], given.get("agents", {})
    pdp = f"spiffe://{domain}/ns/exequatur/sa/{parts(objects)['pdp']['spec']['serviceAccountName']}"

    def identities(chosen):
        return {
            f"spiffe://{domain}/ns/{at.replace('/', '/sa/')}" for agent in chosen for at in agent["serviceAccounts"]
        }

    if "ledger" in parts(objects):
        writers = settings(objects, "ledger").writers
        assert set(writers) == {pdp, *identities(agents.values())}
        assert len(set(writers)) == len(writers)
    enforced = [agent for agent in agents.values() if any(door.get("enforced") for door in agent["doors"].values())]
    assert set(settings(objects, "pdp").enforced) == {f"{name}@mcp_stdio" for name in identities(enforced)}


@each_file
def test_an_answer_waits_for_the_ledger_exactly_where_no_spool_lasts(file):
    objects = rendered(file)
    pod = parts(objects)["pdp"]
    (volume,) = [item for item in pod["spec"]["volumes"] if item["name"] == "state"]
    found = settings(objects, "pdp")
    assert found.wait_for_ledger is ("emptyDir" in volume)
    assert (found.database is not None) is ("emptyDir" in volume)


@each_file
def test_every_daemon_takes_its_arguments_and_finds_its_files(file):
    objects = rendered(file)
    for part, pod in parts(objects).items():
        found = settings(objects, part)
        assert found.health
        mounts = [mount["mountPath"] for mount in containers(pod)[0]["volumeMounts"]]
        for name in type(found).model_fields:
            value = getattr(found, name)
            if isinstance(value, Path) or (isinstance(value, str) and value.startswith("/")):
                path = Path(value)
                assert any(path.is_relative_to(mount) for mount in mounts), f"{part}: {name}: {path}"
        ports = {port["name"]: port["containerPort"] for port in containers(pod)[0]["ports"]}
        listening = {getattr(found, name).rpartition(":")[2] for name in ("listen", "http", "health")}
        assert {str(port) for port in ports.values()} == listening


@each_file
def test_every_mount_has_its_volume_and_every_volume_its_mount(file):
    for name, pod in rendered(file).pods():
        volumes = [volume["name"] for volume in pod["spec"]["volumes"]]
        claims = [
            claim["metadata"]["name"]
            for item in rendered(file).of("StatefulSet")
            if item["spec"]["template"] is pod
            for claim in item["spec"].get("volumeClaimTemplates", [])
        ]
        mounted = {mount["name"] for container in containers(pod) for mount in container["volumeMounts"]}
        assert (name, mounted) == (name, {*volumes, *claims})


@each_file
def test_what_must_be_there_is_said_at_the_end(file):
    objects, said = rendered(file), notes(file)
    made = {("ConfigMap", item["metadata"]["namespace"], item["metadata"]["name"]) for item in objects.of("ConfigMap")}
    made |= {
        ("Secret", item["metadata"]["namespace"], item["spec"]["secretName"]) for item in objects.of("Certificate")
    }
    wanted = set()
    for _, pod in objects.pods():
        for volume in pod["spec"]["volumes"]:
            wanted |= {("Secret", "exequatur", volume["secret"]["secretName"])} if "secret" in volume else set()
            wanted |= {("ConfigMap", "exequatur", volume["configMap"]["name"])} if "configMap" in volume else set()
        wanted |= {("Secret", "exequatur", item["name"]) for item in pod["spec"].get("imagePullSecrets", [])}
    if "injector" in parts(objects):
        known = catalogue(objects)
        for agent in known.agents.values():
            secrets = {getattr(door, "env_from_secret", "") for door in agent.doors.values()} - {""}
            for account in agent.service_accounts:
                namespace, _, name = account.partition("/")
                names = {*secrets, *known.pull_secrets, f"exequatur-sidecar-{name}"}
                wanted |= {("Secret", namespace, name) for name in names}
    for kind, namespace, name in wanted - made:
        assert f"\n  {kind} {name} in {namespace}: " in said
    for _, pod in objects.pods():
        assert f"/{pod['spec']['serviceAccountName']}\n" in said, "whose rollout can be watched"


@each_file
def test_pods_run_where_and_as_what_the_values_say(file):
    objects, given = rendered(file), values(file)
    for part, pod in parts(objects).items():
        said = given.get("pods", {}) | given.get(part, {}).get("pods", {})
        for name in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
            assert pod["spec"].get(name) == (said.get(name) or None), (part, name)
        assert said.get("labels", {}).items() <= pod["metadata"]["labels"].items()
        assert said.get("annotations", {}).items() <= pod["metadata"].get("annotations", {}).items()
        account = objects.one("ServiceAccount", pod["spec"]["serviceAccountName"])["metadata"]
        assert account.get("annotations", {}) == said.get("serviceAccountAnnotations", {})
    for item in objects.all:
        assert given.get("commonLabels", {}).keys() <= item["metadata"]["labels"].keys()
    for item in objects.of("Deployment", "StatefulSet"):
        assert item["spec"]["selector"]["matchLabels"].items() <= item["spec"]["template"]["metadata"]["labels"].items()


@each_file
def test_all_listen_where_the_clusters_addresses_are(file):
    objects, given = rendered(file), values(file)
    listen, services = given.get("listenAddress", "0.0.0.0"), given.get("services", {})
    for part in parts(objects):
        found = settings(objects, part)
        assert {at.rpartition(":")[0] for at in (found.listen, found.http, found.health)} == {listen}
    if "injector" in parts(objects):
        assert catalogue(objects).listen == listen
    for service in objects.of("Service"):
        assert {name: service["spec"][name] for name in services} == services
        assert services.keys() >= service["spec"].keys() & {"ipFamilyPolicy", "ipFamilies"}


@each_file
def test_certificates_are_of_those_whom_settings_name(file):
    objects, given = rendered(file), values(file)
    certificates = {
        (item["metadata"]["namespace"], item["spec"]["secretName"]): item["spec"] for item in objects.of("Certificate")
    }
    if given["certificates"].get("source") == "secret":
        assert certificates == {}
        return
    for pod in parts(objects).values():
        (tls,) = [item["secret"]["secretName"] for item in pod["spec"]["volumes"] if item["name"] == "tls"]
        spec = certificates["exequatur", tls]
        assert spec["uris"] == [f"spiffe://{given['trustDomain']}/ns/exequatur/sa/{pod['spec']['serviceAccountName']}"]
    for agent in given.get("agents", {}).values():
        for at in agent["serviceAccounts"]:
            namespace, account = at.split("/")
            spec = certificates[namespace, f"exequatur-sidecar-{account}"]
            assert spec["uris"] == [f"spiffe://{given['trustDomain']}/ns/{namespace}/sa/{account}"]
    for spec in certificates.values():
        assert spec["privateKey"]["rotationPolicy"] == "Always"


@each_file
def test_where_requests_are_approved_each_namespace_has_the_names_that_are_its_own(file):
    objects, given = rendered(file), values(file)
    policies = objects.of("CertificateRequestPolicy")
    issuer = given["certificates"].get("certManager", {})
    if issuer.get("approval") != "approver-policy":
        assert objects.of("CertificateRequestPolicy", "ClusterRole", "ClusterRoleBinding") == []
        assert given["certificates"].get("source") == "secret" or "open-issuer" in given["iAcceptRisk"]
        return
    (role,), (bound,) = objects.of("ClusterRole"), objects.of("ClusterRoleBinding")
    assert role["rules"][0]["resourceNames"] == [item["metadata"]["name"] for item in policies]
    assert bound["roleRef"]["name"] == role["metadata"]["name"]
    allowed = {}
    for item in policies:
        spec = item["spec"]
        assert spec["selector"]["issuerRef"] == {"kind": "ClusterIssuer", "group": "cert-manager.io"} | issuer["issuer"]
        (namespace,) = spec["selector"]["namespace"]["matchNames"]
        assert namespace not in allowed
        allowed[namespace] = spec["allowed"]
        assert spec["allowed"]["uris"]["required"] is True
        start = f"spiffe://{given['trustDomain']}/ns/{namespace}/sa/"
        assert all(uri.startswith(start) for uri in spec["allowed"]["uris"]["values"])
        assert ("dnsNames" in spec["allowed"]) is (namespace == "exequatur")
        assert spec["allowed"].keys() <= {"uris", "dnsNames", "usages"}  # what is left out is refused
    asked = [(item["metadata"]["namespace"], item["spec"]) for item in objects.of("Certificate")]
    for namespace, spec in asked:
        assert set(spec["uris"]) <= set(allowed[namespace]["uris"]["values"])
        assert set(spec.get("dnsNames", ())) <= set(allowed[namespace].get("dnsNames", {}).get("values", ()))
        assert set(spec["usages"]) <= set(allowed[namespace]["usages"])
    readers = [*given["pdp"].get("openers", ()), *given["pdp"].get("auditors", ()), *given["pdp"].get("operators", ())]
    named = {name.partition("@")[0] for name in [*readers, *given["ledger"].get("auditors", ())]}
    found = {uri for one in allowed.values() for uri in one["uris"]["values"]}
    assert found == {uri for _, spec in asked for uri in spec["uris"]} | named


@each_file
def test_the_name_that_is_called_is_in_the_certificate_and_is_a_service(file):
    objects, given = rendered(file), values(file)
    called = {"pdp": settings(objects, "pdp").ledger} if "ledger" in parts(objects) else {}
    if given.get("injector", {}).get("enabled"):
        found = catalogue(objects)
        called |= {"sidecar to pdp": found.pdp}
        called |= {"sidecar to ledger": found.ledger} if "ledger" in parts(objects) else {}
    for who, address in called.items():
        host, port = address.rsplit(":", 1)
        name, namespace, _ = host.split(".", 2)
        service = objects.one("Service", name)
        assert service["metadata"]["namespace"] == namespace, who
        assert int(port) in [item["port"] for item in service["spec"]["ports"]]
        for item in objects.of("Certificate"):
            if item["metadata"]["name"] == name:
                assert host in item["spec"]["dnsNames"]


def catalogue(objects: Objects):
    (found,) = [item["data"] for item in objects.of("ConfigMap") if "catalogue.json" in item["data"]]
    return read_catalogue(found["catalogue.json"].encode())


@each_file
def test_the_injector_takes_the_catalogue_and_knows_what_the_values_say(file):
    objects, given = rendered(file), values(file)
    if not given.get("injector", {}).get("enabled"):
        assert not [item for item in objects.of("ConfigMap") if "catalogue.json" in item["data"]]
        return
    found = catalogue(objects)
    assert set(found.agents) == set(given["agents"])
    for name, agent in given["agents"].items():
        ours = found.agents[name]
        assert set(ours.service_accounts) == set(agent["serviceAccounts"])
        assert set(ours.sessions) == set(agent.get("sessions", ["pod-name"]))
        assert {door: getattr(how, "enforced", False) for door, how in ours.doors.items()} == {
            door: how.get("enforced", False) for door, how in agent["doors"].items()
        }
        assert ours.service_account_token is agent.get("serviceAccountToken", False)
    assert found.trust is bool(given["ledger"].get("verifierKeys"))
    assert (found.uid_rules is not None) is given["injector"].get("uidRules", {}).get("enabled", False)


@each_file
def test_what_the_injector_makes_of_an_agents_pod_is_valid_restricted_and_taken_by_the_sidecar(file):
    objects, given = rendered(file), values(file)
    if not given.get("injector", {}).get("enabled"):
        return
    known = catalogue(objects)
    for name, agent in known.agents.items():
        for account in agent.service_accounts:
            namespace, _, service_account = account.partition("/")
            pod = inject(agent_pod(name, service_account, agent), namespace, known)
            assert {fault.partition(":")[0] for fault in violations(pod)} <= {"exequatur-fence"}
            (sidecar,) = [item for item in pod["spec"]["initContainers"] if item["name"] == "exequatur-sidecar"]
            assert sidecar["args"][:2] == ["sidecar", "run"]
            found = SidecarSettings.load(sidecar["args"][2:], {})
            assert [socket.enforced for socket in found.agents if socket.door == "mcp_stdio"] == [
                door.enforced for door in agent.doors.values() if isinstance(door, McpDoor)
            ]
            assert found.wait_for_ledger
            assert (found.log_key is not None) is known.trust
            for version in (OLDEST, NEWEST):
                validate(pod, version)


def agent_pod(name: str, account: str, agent) -> Object:
    """Make the pod that an agent's team would."""
    mounts = {volume: path for door in agent.doors.values() for volume, path in getattr(door, "mounts", {}).items()}
    main = {
        "name": "main",
        "image": "registry.example/agent:1",
        "securityContext": {"runAsUser": 1000},
        "volumeMounts": [{"name": volume, "mountPath": path} for volume, path in mounts.items()],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "one", "annotations": {"exequatur.dev/agent": name}},
        "spec": {
            "serviceAccountName": account,
            "containers": [main],
            "volumes": [{"name": volume, "emptyDir": {}} for volume in mounts],
        },
    }


@each_file
def test_the_log_is_checked_by_the_same_keys_everywhere(file):
    objects, given = rendered(file), values(file)
    keys = given["ledger"].get("verifierKeys", {})
    found = [item for item in objects.of("ConfigMap") if item["metadata"]["name"] == "exequatur-trust"]
    wanted = {"exequatur"} | {
        at.split("/")[0] for agent in given.get("agents", {}).values() for at in agent["serviceAccounts"]
    }
    assert {item["metadata"]["namespace"] for item in found} == (wanted if keys else set())
    assert all(item["data"] == {f"{name}.vkey": key for name, key in keys.items()} for item in found)
    assert (settings(objects, "pdp").log_key is not None) is bool(keys)


@each_file
def test_no_secret_and_no_moving_image_is_in_what_is_rendered(file):
    objects, given = rendered(file), values(file)
    assert objects.of("Secret") == []
    assert "PRIVATE KEY" not in json.dumps(objects.all)
    if "mutable-image" not in given.get("iAcceptRisk", []):
        for _, pod in objects.pods():
            for container in containers(pod):
                assert re.search(r"@sha256:[0-9a-f]{64}$", container["image"])


@each_file
def test_what_must_outlive_the_release_does(file):
    objects = rendered(file)
    for claim in objects.of("PersistentVolumeClaim"):
        assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    for item in objects.of("StatefulSet"):
        assert set(item["spec"]["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}


@each_file
def test_several_are_spread_and_never_all_away(file):
    objects = rendered(file)
    for item in objects.of("Deployment"):
        several = item["spec"].get("replicas", 2) > 1
        name = item["metadata"]["name"]
        budgets = [budget for budget in objects.of("PodDisruptionBudget") if budget["metadata"]["name"] == name]
        assert len(budgets) == several
        if several:
            assert budgets[0]["spec"]["maxUnavailable"] == 1
            assert budgets[0]["spec"]["selector"] == item["spec"]["selector"]
            keys = [one["topologyKey"] for one in item["spec"]["template"]["spec"]["topologySpreadConstraints"]]
            assert keys == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
            assert item["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        if component(item) == "pdp" and not several:
            assert item["spec"]["strategy"] == {"type": "Recreate"}
    scaled = [item["spec"]["scaleTargetRef"]["name"] for item in objects.of("HorizontalPodAutoscaler")]
    assert scaled == [item["metadata"]["name"] for item in objects.of("Deployment") if "replicas" not in item["spec"]]
