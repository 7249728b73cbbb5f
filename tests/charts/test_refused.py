"""Values that are misspelt or unsafe: each is refused, in one line that names it; a risk that is accepted is taken."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import pytest
import yaml

from helm import CHART, ROOT, RefusedError, helm, objects, render

BASE = ROOT / "tests" / "charts" / "values" / "several-teams.yaml"


@dataclass(frozen=True)
class Wrong:
    """Values that are laid over `BASE`, the path that the refusal must name, words in it, and the risk if it is one."""

    name: str
    values: str
    path: str
    words: str = ""
    risk: str = ""


MISSPELT = [
    Wrong("an unknown part", "sidecars: {}", "sidecars"),
    Wrong("an unknown member", "pdp: {replica: 2}", "pdp.replica"),
    Wrong("a member that looks right", "pdp: {bundle: {configMap: policy}}", "pdp.bundle.configMap"),
    Wrong("a number as text", "pdp: {replicas: '3'}", "pdp.replicas"),
    Wrong("half a pod", "pdp: {replicas: 1.5}", "pdp.replicas"),
    Wrong("no pods", "pdp: {replicas: 0}", "pdp.replicas"),
    Wrong("a truth as text", "injector: {enabled: 'yes'}", "injector.enabled"),
    Wrong("no such store", "pdp: {store: {kind: mysql}}", "pdp.store.kind"),
    Wrong("no such source", "pdp: {bundle: {from: git}}", "pdp.bundle.from"),
    Wrong("no such setting", "pdp: {settings: {max_stalenes_s: 5}}", "pdp.settings.max_stalenes_s"),
    Wrong("a setting that is the chart's", "pdp: {settings: {listen: '0.0.0.0:1'}}", "pdp.settings.listen"),
    Wrong("a short digest", "image: {digest: 'sha256:abc'}", "image.digest"),
    Wrong("a digest in the repository", "image: {repository: 'r.example/exequatur@sha256:abc'}", "image.repository"),
    Wrong("a repository in capitals", "image: {repository: 'r.example/Exequatur'}", "image.repository"),
    Wrong("pulled now and then", "image: {pullPolicy: Sometimes}", "image.pullPolicy"),
    Wrong("a repository of whichever registry", "image: {repository: platform/exequatur}", "image.repository", "localhost"),
    Wrong("one address to listen on", "listenAddress: 10.0.0.1", "listenAddress"),
    Wrong("a family that is none", "services: {ipFamilies: [IPv5]}", "services.ipFamilies"),
    Wrong("a toleration of another effect", "pods: {tolerations: [{effect: Never}]}", "pods.tolerations"),
    Wrong("a node selector in a list", "pods: {nodeSelector: [infra]}", "pods.nodeSelector"),
    Wrong("an affinity of no kind", "ledger: {pods: {affinity: {nodeafinity: {}}}}", "ledger.pods.affinity.nodeafinity"),
    Wrong("a label that the service selects by", "pods: {labels: {app.kubernetes.io/component: ledger}}", "pods.labels", "the chart writes it"),
    Wrong("a label that makes us an agent", "pdp: {pods: {labels: {exequatur.dev/injected: 'true'}}}", "pdp.pods.labels", "the chart writes it"),
    Wrong("a label that is all objects'", "commonLabels: {app.kubernetes.io/name: other}", "commonLabels", "the chart writes it"),
    Wrong("a label of helm's", "monitoring: {rules: {labels: {helm.sh/chart: other}}}", "monitoring.rules.labels", "the chart writes it"),
    Wrong("an annotation of ours", "injector: {pods: {annotations: {exequatur.dev/catalogue: x}}}", "injector.pods.annotations", "the chart writes it"),
    Wrong("an annotation that opens a container", "pods: {annotations: {container.apparmor.security.beta.kubernetes.io/pdp: unconfined}}", "pods.annotations"),
    Wrong("a port without number", "networkPolicy: {dns: [{namespace: kube-system, ports: [dns]}]}", "networkPolicy.dns"),
    Wrong("a book that is no page", "monitoring: {rules: {runbookUrl: wiki}}", "monitoring.rules.runbookUrl"),
    Wrong("a trust domain that is an address", "trustDomain: 'spiffe://example.org'", "trustDomain"),
    Wrong("an opener without scheme", "pdp: {openers: [example.org/orchestrator]}", "pdp.openers"),
    Wrong("an opener that is all", "pdp: {openers: ['*']}", "pdp.openers"),
    Wrong("an opener of another's", "ledger: {auditors: ['spiffe://']}", "ledger.auditors"),
    Wrong("a size without unit", "ledger: {volume: {size: 50}}", "ledger.volume.size"),
    Wrong("a size in words", "pdp: {spool: lots}", "pdp.spool"),
    Wrong("a duration in days", "certificates: {certManager: {duration: 90d}}", "certificates.certManager.duration"),
    Wrong("no such issuer", "certificates: {certManager: {issuer: {kind: ClusterIsuer}}}", "certificates.certManager.issuer.kind"),
    Wrong("a service account without namespace", "agents: {reader: {serviceAccounts: [reader]}}", "agents.reader.serviceAccounts"),
    Wrong("an agent of nobody", "agents: {reader: {serviceAccounts: []}}", "agents.reader.serviceAccounts"),
    Wrong("an agent without doors", "agents: {reader: {doors: null}}", "agents.reader"),
    Wrong("a session source that is none", "agents: {reader: {sessions: [whatever]}}", "agents.reader.sessions"),
    Wrong("a door in capitals", "agents: {reader: {doors: {Git: {kind: mcp, enforced: false, command: [x]}}}}", "agents.reader.doors"),
    Wrong("a long door", "agents: {reader: {doors: {a-name-of-more-than-twenty: {kind: mcp, enforced: false, command: [x]}}}}", "agents.reader.doors"),
    Wrong("a door of another kind", "agents: {reader: {doors: {web: {kind: http, enforced: false}}}}", "agents.reader.doors.web"),
    Wrong("an MCP door without command", "agents: {reader: {doors: {git: {kind: mcp, enforced: false}}}}", "agents.reader.doors.git"),
    Wrong("an MCP door that does not say", "agents: {reader: {doors: {git: {kind: mcp, command: [x]}}}}", "agents.reader.doors.git"),
    Wrong("an MCP door called grpc", "agents: {reader: {doors: {grpc: {kind: mcp, enforced: false, command: [x]}}}}", "agents.reader.doors.grpc"),
    Wrong("an agent that is believed", "agents: {reader: {doors: {grpc: {enforced: true}}}}", "agents.reader.doors.grpc", "the agent itself speaks at this door"),
    Wrong("an agent that is its own tool", "agents: {reader: {doors: {grpc: {toolChecksIdentity: true}}}}", "agents.reader.doors.grpc", "the agent itself that calls the tool"),
    Wrong("an agent that is believed", "agents: {reader: {doors: {grpc: {enforced: true}}}}", "agents.reader.doors.grpc", "the agent itself speaks at this door"),
    Wrong("an agent that is its own tool", "agents: {reader: {doors: {grpc: {toolChecksIdentity: true}}}}", "agents.reader.doors.grpc", "the agent itself that calls the tool"),
    Wrong("a verifier key that is none", "ledger: {verifierKeys: {main: abc}}", "ledger.verifierKeys.main"),
    Wrong("an origin with a blank", "ledger: {origin: 'our log'}", "ledger.origin"),
    Wrong("a network that is none", "networkPolicy: {orchestrators: [{cidr: 10.0.0.0}]}", "networkPolicy.orchestrators"),
    Wrong("a network that is too large", "networkPolicy: {orchestrators: [{cidr: 10.0.0.300/24}]}", "networkPolicy.orchestrators"),
    Wrong("a peer that is nobody", "networkPolicy: {monitoring: [{}]}", "networkPolicy.monitoring"),
    Wrong("a peer that is everybody", "networkPolicy: {monitoring: [{podLabels: {app: prometheus}}]}", "networkPolicy.monitoring"),
    Wrong("a place without ports", "networkPolicy: {bundles: [{cidr: 192.0.2.0/24}]}", "networkPolicy.bundles"),
    Wrong("a certificate for ten years", "certificates: {certManager: {duration: 87600h}}", "certificates.certManager.duration", "a year"),
    Wrong("a certificate for no time", "certificates: {certManager: {duration: 0h}}", "certificates.certManager.duration"),
    Wrong("a secret in an address", "pdp: {bundle: {from: url, name: '', url: 'https://policy.example/a?sig=x'}}", "pdp.bundle.url", "tokenSecret"),
    Wrong("a password in an address", "pdp: {bundle: {from: url, name: '', url: 'https://me:x@policy.example/a'}}", "pdp.bundle.url", "tokenSecret"),
    Wrong("a secret in a candidate's", "pdp: {settings: {candidate: 'https://policy.example/a?sig=x'}}", "pdp.settings.candidate"),
    Wrong("a server that is the sidecar", "agents: {analyst: {doors: {mail: {envFromSecret: exequatur-sidecar-analyst}}}}", "agents.analyst.doors.mail.envFromSecret", "is that sidecar"),
    Wrong("an unknown risk", "iAcceptRisk: [everything]", "iAcceptRisk"),
    Wrong("failing open, which is no value", "injector: {failurePolicy: Ignore}", "injector.failurePolicy"),
    Wrong("other security, which is no value", "pdp: {securityContext: {privileged: true}}", "pdp.securityContext"),
    Wrong("plain text, which is no value", "pdp: {settings: {unsafe_plaintext: true}}", "pdp.settings.unsafe_plaintext"),
    Wrong("policy that nobody signed", "pdp: {settings: {unsafe_unsigned: true}}", "pdp.settings.unsafe_unsigned"),
    Wrong("another selector, which is no value", "injector: {namespaceSelector: {}}", "injector.namespaceSelector"),
]  # fmt: skip
UNFIT = [
    Wrong("no image", "image: {repository: ''}", "image.repository"),
    Wrong("neither digest nor tag", "image: {digest: ''}", "image.digest"),
    Wrong("no trust domain", "trustDomain: ''", "trustDomain"),
    Wrong("no issuer", "certificates: {certManager: {issuer: {name: ''}}}", "certificates.certManager.issuer.name"),
    Wrong("no certificate", "certificates: {source: secret, secrets: {ledger: a, injector: b}}", "certificates.secrets.pdp"),
    Wrong("nobody trusts the injector", "certificates: {source: secret, secrets: {pdp: a, ledger: b, injector: c}}", "certificates.caBundle"),
    Wrong("no bundle", "pdp: {bundle: {name: ''}}", "pdp.bundle.name"),
    Wrong("a bundle from nowhere", "pdp: {bundle: {from: url, name: ''}}", "pdp.bundle.url"),
    Wrong("a bundle in plain text", "pdp: {bundle: {from: url, name: '', url: 'http://policy.example/a.tar.gz'}}", "pdp.bundle.url"),
    Wrong("a bundle from two places", "pdp: {bundle: {url: 'https://policy.example/a.tar.gz'}}", "pdp.bundle.url"),
    Wrong("no keys", "pdp: {keys: {configMap: ''}}", "pdp.keys.configMap"),
    Wrong("several on SQLite", "pdp: {replicas: 3}", "pdp.replicas", "postgresql"),
    Wrong("scaled on SQLite", "pdp: {autoscaling: {enabled: true}}", "pdp.autoscaling", "postgresql"),
    Wrong("scaled backwards", "pdp: {autoscaling: {enabled: true, minReplicas: 5, maxReplicas: 3}, store: {kind: postgresql, postgresql: {secret: x}}}\nnetworkPolicy: {database: [{namespace: db, ports: [5432]}]}", "pdp.autoscaling.maxReplicas"),
    Wrong("no database", "pdp: {store: {kind: postgresql}}", "pdp.store.postgresql.secret"),
    Wrong("no ledger", "ledger: {enabled: false}", "ledger.address"),
    Wrong("two ledgers", "ledger: {address: 'ledger.example:7071'}", "ledger.address"),
    Wrong("a ledger without name", "ledger: {origin: ''}", "ledger.origin"),
    Wrong("a ledger without key", "ledger: {keySecret: ''}", "ledger.keySecret"),
    Wrong("an injector for nobody", "agents: null", "agents"),
    Wrong("one account, two agents", "agents: {reader: {serviceAccounts: [team-a/coder]}}", "agents.reader.serviceAccounts", "coder"),
    Wrong("fenced, and no port said", "injector: {uidRules: {enabled: true, agentMay: ['10.0.0.0/8']}}", "injector.uidRules.agentMay"),
    Wrong("fenced by an image without nft", "injector: {uidRules: {enabled: true, dns: [10.96.0.10]}}", "injector.uidRules.image"),
    Wrong("fenced, and nobody loads it", "injector: {enabled: false, uidRules: {enabled: true}}", "injector.uidRules.enabled"),
    Wrong("one door of two", "agents: {analyst: {doors: {mail: {enforced: false, toolChecksIdentity: false}}}}", "agents.analyst.doors"),
    Wrong("made anew at once", "certificates: {certManager: {renewBefore: 3000h}}", "certificates.certManager.renewBefore"),
    Wrong("another log's key", "ledger: {origin: example.org/other}", "ledger.verifierKeys.main"),
    Wrong("a database that nobody reaches", "pdp: {store: {kind: postgresql, postgresql: {secret: x}}}", "networkPolicy.database"),
    Wrong("bundles that nobody reaches", "pdp: {bundle: {from: url, name: '', url: 'https://policy.example/a.tar.gz'}}", "networkPolicy.bundles"),
    Wrong("nobody answers on IPv6", "services: {ipFamilies: [IPv6]}", "listenAddress", "[::]"),
    Wrong("nobody answers on one of both", "services: {ipFamilyPolicy: PreferDualStack}", "listenAddress", "[::]"),
    Wrong("scraped by nobody", "monitoring: {serviceMonitor: {enabled: true}}", "networkPolicy.monitoring"),
    Wrong("less memory than it has at rest", "pdp: {resources: {requests: {memory: 128Mi}, limits: {memory: 128Mi}}}", "pdp.resources.limits.memory", "256Mi"),
    Wrong("less memory than four have", "pdp: {workers: 4, resources: {limits: {memory: 300Mi}}}", "pdp.resources.limits.memory", "496Mi"),
    Wrong("an agent that opens its own session", "pdp: {openers: ['spiffe://example.org/ns/team-a/sa/coder']}", "pdp.openers", "coder"),
    Wrong("an agent that reads of all tenants", "pdp: {auditors: ['spiffe://example.org/ns/team-a/sa/reader@default']}", "pdp.auditors", "reader"),
    Wrong("an agent that operates its judge", "pdp: {operators: ['spiffe://example.org/ns/finance/sa/analyst']}", "pdp.operators", "analyst"),
    Wrong("an agent that audits itself", "ledger: {auditors: ['spiffe://example.org/ns/team-b/sa/coder']}", "ledger.auditors", "coder"),
    Wrong("an agent beside the judge", "agents: {reader: {serviceAccounts: [exequatur/reader]}}", "agents.reader.serviceAccounts"),
]  # fmt: skip
RISKY = [
    Wrong("an image by tag", "image: {digest: '', tag: v1}", "image.tag", "", "mutable-image"),
    Wrong("a server by tag", "agents: {analyst: {doors: {mail: {image: 'r.example/mail:1'}}}}", "agents.analyst.doors.mail.image", "", "mutable-image"),
    Wrong("nobody checks the ledger", "ledger: {verifierKeys: null}", "ledger.verifierKeys", "", "unchecked-ledger"),
    Wrong("whoever asks is signed", "certificates: {certManager: {approval: ''}}", "certificates.certManager.approval", "", "open-issuer"),
    Wrong("no network policies", "networkPolicy: {enabled: false}", "networkPolicy.enabled", "", "no-network-policy"),
    Wrong("from everywhere", "networkPolicy: {orchestrators: [{cidr: 0.0.0.0/0}]}", "networkPolicy.orchestrators", "", "wide-ingress"),
    Wrong("watched from everywhere", "networkPolicy: {monitoring: [{cidr: '::/0'}]}", "networkPolicy.monitoring", "", "wide-ingress"),
    Wrong("audited from half of everywhere", "networkPolicy: {auditors: [{cidr: 128.0.0.0/1}]}", "networkPolicy.auditors", "", "wide-ingress"),
    Wrong("agents without sidecars", "injector: {enabled: false}", "injector.enabled", "", "unguarded-agents"),
    Wrong("an account that is everybody's", "agents: {reader: {serviceAccounts: [team-a/default]}}", "agents.reader.serviceAccounts", "", "default-service-account"),
    Wrong("everywhere", "networkPolicy: {bundles: [{cidr: 0.0.0.0/0, ports: [443]}]}", "networkPolicy.bundles", "", "wide-egress"),
    Wrong("an agent that goes everywhere", "agents: {analyst: {egress: [{cidr: '::/0', ports: [443]}]}}", "agents.analyst.egress", "", "wide-egress"),
    Wrong("fenced in by everything", "injector: {uidRules: {enabled: true, image: 'r.example/fence@sha256:5555555555555555555555555555555555555555555555555555555555555555', agentMay: ['0.0.0.0/0:443'], dns: [10.96.0.10]}}", "injector.uidRules.agentMay", "", "wide-egress"),
    Wrong("everywhere in parts", f"agents: {{analyst: {{egress: {[{'cidr': f'{n}.0.0.0/8', 'ports': [443]} for n in range(9)]}}}}}", "agents.analyst.egress", "together", "wide-egress"),
    Wrong("everywhere in many parts", f"networkPolicy: {{bundles: {[{'cidr': f'10.{n // 256}.{n % 256}.0/24', 'ports': [443]} for n in range(257)]}}}", "networkPolicy.bundles", "together", "wide-egress"),
    Wrong("all that IPv6 has given away", "agents: {analyst: {egress: [{cidr: '2000::/8', ports: [443]}]}}", "agents.analyst.egress", "", "wide-egress"),
    Wrong("IPv4 within IPv6", "agents: {analyst: {egress: [{cidr: '::ffff:0:0/96', ports: [443]}]}}", "agents.analyst.egress", "", "wide-egress"),
    Wrong("IPv4 within IPv6, spelt out", "agents: {analyst: {egress: [{cidr: '0:0:0:0:0:FFFF:0:0/97', ports: [443]}]}}", "agents.analyst.egress", "", "wide-egress"),
    Wrong("IPv4 behind a translator", "networkPolicy: {bundles: [{cidr: '64:ff9b::/96', ports: [443]}]}", "networkPolicy.bundles", "", "wide-egress"),
    Wrong("fenced in by a translator", "injector: {uidRules: {enabled: true, image: 'r.example/fence@sha256:5555555555555555555555555555555555555555555555555555555555555555', agentMay: ['[64:ff9b::/96]:443'], dns: [10.96.0.10]}}", "injector.uidRules.agentMay", "", "wide-egress"),
    Wrong("API servers everywhere", "networkPolicy: {apiServers: [0.0.0.0/0]}", "networkPolicy.apiServers", "", "wide-ingress"),
    Wrong("a door beside a door", "agents: {coder: {doors: {git: {toolChecksIdentity: false}}}}", "agents.coder.doors.git", "", "shared-network"),
    Wrong("a token for the cluster", "agents: {coder: {serviceAccountToken: true}}", "agents.coder.serviceAccountToken", "", "service-account-token"),
    Wrong("stopped at once", "pdp: {preStopSeconds: 0}", "pdp.preStopSeconds", "", "abrupt-stop"),
    Wrong("the ledger stopped at once", "ledger: {preStopSeconds: 0}", "ledger.preStopSeconds", "", "abrupt-stop"),
    Wrong("the injector stopped at once", "injector: {preStopSeconds: 0}", "injector.preStopSeconds", "", "abrupt-stop"),
    Wrong("sidecars without limits", "injector: {sidecarResources: {limits: {memory: null}}}", "injector.sidecarResources.limits", "", "no-limits"),
    Wrong("a fence by tag", "injector: {uidRules: {enabled: true, image: 'r.example/fence:1', agentMay: ['10.0.0.0/8:443'], dns: [10.96.0.10]}}", "injector.uidRules.image", "", "mutable-image"),
    Wrong("no limits", "pdp: {resources: {limits: {memory: null}}}", "pdp.resources.limits", "", "no-limits"),
    Wrong("one injector", "injector: {replicas: 1}", "injector.replicas", "", "one-replica"),
]  # fmt: skip
each = pytest.mark.parametrize


def refusal(wrong: Wrong, *risks: str) -> str:
    """Give the one line with which helm refuses; its own header, where it has one, says in which chart."""
    values = yaml.safe_load(wrong.values)
    with pytest.raises(RefusedError) as caught:
        render(BASE, values={**values, **({"iAcceptRisk": risks} if risks else {})})
    said = [line for line in str(caught.value).splitlines() if line and not line.startswith(("level=", "Use --debug"))]
    if said[0].startswith("Error: values don't meet the specifications of the schema(s)"):
        del said[:2]
    assert len(said) == 1, str(caught.value)
    return said[0]


def names(line: str, path: str) -> bool:
    """Tell whether a line names `path` as we do, or as helm does: the object, and the member that it does not know."""
    parent, _, last = path.rpartition(".")
    as_helm = "/" + path.replace(".", "/")
    above = "/" + parent.replace(".", "/") if parent else ""
    return (
        bool(re.search(rf"[:`] ?{re.escape(path)}\b", line))
        or f"'{as_helm}" in line
        or (f"'{above}'" in line and re.search(f"['`]{last}['`]", line) is not None)
    )


@each("wrong", [*MISSPELT, *UNFIT, *RISKY], ids=lambda wrong: wrong.name)
def test_wrong_values_are_refused_in_one_line_that_names_them(wrong):
    line = refusal(wrong)
    assert names(line, wrong.path), line
    assert wrong.words in line
    assert wrong.risk in line
    assert len(line) < 350


@each("wrong", RISKY, ids=lambda wrong: wrong.name)
def test_an_accepted_risk_is_taken_and_no_other(wrong):
    others = [risk for risk in risks() if risk != wrong.risk]
    refusal(wrong, *others)
    assert objects(render(BASE, values={**yaml.safe_load(wrong.values), "iAcceptRisk": [wrong.risk]}))


def test_one_risk_may_be_named_without_a_list():
    values = yaml.safe_load("pdp: {preStopSeconds: 0}")
    assert objects(render(BASE, values={**values, "iAcceptRisk": "abrupt-stop"}))
    for other in ("no-limits", "stop", "abrupt-stop-not"):
        with pytest.raises(RefusedError, match=r"abrupt-stop"):
            render(BASE, values={**values, "iAcceptRisk": other})


@each("wrong", RISKY, ids=lambda wrong: wrong.name)
def test_a_risk_is_refused_by_those_too_who_skip_the_schema(wrong):
    with pytest.raises(RefusedError, match=f"unless iAcceptRisk has `{wrong.risk}`"):
        render(BASE, values=yaml.safe_load(wrong.values), extra=["--skip-schema-validation"])


@each("values", ["pdp: {settings: {unsafe_plaintext: true}}", "pdp: {settings: {unsafe_unsigned: true}}"])
def test_what_is_no_value_is_none_without_the_schema_either(values):
    with pytest.raises(RefusedError, match="mutual TLS and signed policy are not to be had without"):
        render(BASE, values=yaml.safe_load(values), extra=["--skip-schema-validation"])


@each("network", ["10.0.0.0/8", "2001:db8::/32", "::1/128", "fd00:1::/48", "::ffff:10.0.0.0/104", "64:ff9b::a00:0/104"])
def test_a_network_of_ones_own_is_no_risk(network):
    assert render(BASE, values={"agents": {"analyst": {"egress": [{"cidr": network, "ports": [443]}]}}})


def test_every_risk_is_tried_and_said():
    assert {wrong.risk for wrong in RISKY} == set(risks())
    values = (CHART / "values.yaml").read_text()
    for risk in risks():
        assert re.search(rf"^#   {risk} +\S", values, re.MULTILINE), risk


def test_there_are_fifty():
    assert len({wrong.name for wrong in [*MISSPELT, *UNFIT, *RISKY]}) >= 50


def test_without_values_nothing_is_rendered():
    done = helm("template", "exequatur", str(CHART))
    assert done.returncode != 0
    assert done.stdout == ""


def test_what_was_wrong_is_right_without_it():
    assert objects(render(BASE))


def risks() -> list[str]:
    schema = json.loads((CHART / "values.schema.json").read_text())
    return list(schema["properties"]["iAcceptRisk"]["items"]["enum"])
