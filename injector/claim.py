"""What a pod asks for in its annotations, held against what the catalogue gives to its namespace and service account.

Rules: the namespace is the request's and the service account the pod's, so that neither can be somebody else's; an
annotation of ours that is not known here refuses the pod; what is asked for is in the catalogue, or the pod is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from exequatur.trust.canonical import quoted
from injector.catalogue import GRPC, Agent, Catalogue, GrpcDoor, McpDoor
from injector.pods import Metadata, Pod

DOMAIN: Final = "exequatur.dev/"
AGENT, CONTAINER, SESSION, DOORS, SPOOL = (
    f"{DOMAIN}{name}" for name in ("agent", "container", "session", "doors", "spool")
)
INJECTED, INJECTOR = f"{DOMAIN}injected", f"{DOMAIN}injector"
"""The label and the annotation that injection leaves; which agent it is becomes a label too, for NetworkPolicies."""

_SHOWN: Final = 8  # faults in one refusal; an API server shows it in one line


class Refused(Exception):  # noqa: N818
    """A pod that is not admitted: what is wrong with it, for whoever made it."""

    def __init__(self, *faults: str) -> None:
        """Keep `faults`, each one sentence that names the field."""
        rest = len(faults) - _SHOWN
        super().__init__("; ".join(faults[:_SHOWN]) + (f"; and {rest} more" if rest > 0 else ""))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Claim:
    """What a pod may have, and asks for."""

    name: str
    """The agent's id."""
    agent: Agent
    account: str
    """The pod's service account, which names the sidecar's identity and its Secret."""
    session: str
    containers: tuple[str, ...]
    """Which containers of the pod are the agent."""
    doors: Mapping[str, GrpcDoor | McpDoor]
    spool: str | None
    """The volume of the pod that holds the sidecar's spool; None for one that goes with the pod."""

    @property
    def mcp_doors(self) -> Mapping[str, McpDoor]:
        """The doors that are MCP servers'."""
        return {name: door for name, door in self.doors.items() if isinstance(door, McpDoor)}


def read_claim(pod: Pod, namespace: str, catalogue: Catalogue) -> Claim:
    """Read what `pod`, to be made in `namespace`, asks for; raises `Refused`."""
    notes = _notes(pod.metadata)
    account = _account(pod, namespace)
    name = notes.get(AGENT)
    if name is None:
        raise Refused(f"`metadata.annotations[{AGENT}]` is missing: say which agent of the catalogue this pod is")
    agent = catalogue.agents.get(name)
    if agent is None:
        raise Refused(f"`metadata.annotations[{AGENT}]`: the catalogue has no agent {quoted(name)}")
    if f"{namespace}/{account}" not in agent.service_accounts:
        raise Refused(
            f"`spec.serviceAccountName`: {quoted(account)} of the namespace {quoted(namespace)} may not be the agent"
            f" `{name}`: the catalogue names its service accounts"
        )
    session = notes.get(SESSION, agent.sessions[0])
    if session not in agent.sessions:
        raise Refused(
            f"`metadata.annotations[{SESSION}]`: {quoted(session)} is not among the agent's:"
            f" {', '.join(f'`{known}`' for known in agent.sessions)}"
        )
    doors = _doors(notes.get(DOORS), agent)
    spool = notes.get(SPOOL)
    return Claim(name, agent, account, session, _containers(notes.get(CONTAINER), pod), doors, spool)


def _notes(metadata: Metadata) -> Mapping[str, str]:
    """Give the annotations of ours, all of them known."""
    notes = {name: value for name, value in (metadata.annotations or {}).items() if name.startswith(DOMAIN)}
    labels = {name for name in metadata.labels or {} if name.startswith(DOMAIN)}
    unknown = sorted(notes.keys() - {AGENT, CONTAINER, SESSION, DOORS, SPOOL, INJECTOR})
    faults = [f"`metadata.annotations[{name}]` is no annotation of ours" for name in unknown]
    faults += [f"`metadata.labels[{name}]` is no label for pods" for name in sorted(labels - {INJECTED, AGENT})]
    if faults:
        raise Refused(*faults)
    return notes


def _account(pod: Pod, namespace: str) -> str:
    spec = pod.spec
    if pod.metadata.namespace not in (None, "", namespace):
        raise Refused("`metadata.namespace` is not the namespace of the request")
    account = spec.service_account_name or "default"
    if spec.service_account and spec.service_account != account:
        raise Refused("`spec.serviceAccount` and `spec.serviceAccountName` are two accounts: leave the first out")
    return account


def _containers(value: str | None, pod: Pod) -> tuple[str, ...]:
    known = [container.name for container in pod.spec.containers]
    if value is None:
        if len(known) == 1:
            return tuple(known)
        raise Refused(
            f"`metadata.annotations[{CONTAINER}]` is missing: the pod has {len(known)} containers, say which are the"
            " agent"
        )
    names = value.split(",")
    return _chosen(CONTAINER, names, known, "is no container of the pod")


def _doors(value: str | None, agent: Agent) -> Mapping[str, GrpcDoor | McpDoor]:
    ordered = sorted(agent.doors, key=lambda name: (name != GRPC, name))
    names = ordered if value is None else _chosen(DOORS, value.split(","), ordered, "is no door of the agent")
    return {name: agent.doors[name] for name in ordered if name in names}


def _chosen(annotation: str, names: Sequence[str], known: Sequence[str], otherwise: str) -> tuple[str, ...]:
    stranger = next((name for name in names if name not in known), None)
    if stranger is not None:
        raise Refused(f"`metadata.annotations[{annotation}]`: {quoted(stranger)} {otherwise}")
    if len(set(names)) != len(names):
        raise Refused(f"`metadata.annotations[{annotation}]` names one twice")
    return tuple(names)
