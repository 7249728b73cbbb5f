"""What a pod asks for in its annotations, held against what the catalogue gives to its namespace and service account.

Rules: the namespace is the request's and the service account the pod's, so that neither can be somebody else's; an
annotation of ours that is not known here refuses the pod; what is asked for is in the catalogue, or the pod is refused.
Everything that is wrong is said at once, and what would be right, as far as it is this service account's to know.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from exequatur.trust.canonical import quoted
from injector.catalogue import GRPC, Agent, Catalogue, GrpcDoor, McpDoor
from injector.pods import Metadata, Pod

DOMAIN: Final = "exequatur.dev/"
AGENT, CONTAINER, SESSION, DOORS, SPOOL = (
    f"{DOMAIN}{name}" for name in ("agent", "container", "session", "doors", "spool")
)
_ASKED: Final = (AGENT, CONTAINER, SESSION, DOORS, SPOOL)
INJECTED, INJECTOR = f"{DOMAIN}injected", f"{DOMAIN}injector"
"""The label and the annotation that injection leaves; which agent it is becomes a label too, for NetworkPolicies."""

_SHOWN: Final = 8  # faults in one refusal; an API server shows it in one line
_LONGEST_FAULT: Final = 500
_LONGEST_NAME: Final = 320  # of a namespace and a service account


class Refused(Exception):  # noqa: N818
    """A pod that is not admitted: what is wrong with it, for whoever made it."""

    def __init__(self, *faults: str) -> None:
        """Keep `faults`, each one sentence that names the field."""
        rest = len(faults) - _SHOWN
        shown = "; ".join(fault[:_LONGEST_FAULT] for fault in faults[:_SHOWN]) + (
            f"; and {rest} more" if rest > 0 else ""
        )
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown))
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


def read_claim(pod: Pod, namespace: str, catalogue: Catalogue) -> tuple[Claim | None, tuple[str, ...]]:
    """Read what `pod`, to be made in `namespace`, asks for, as far as one can tell, and what is wrong with that.

    There is no claim where it cannot be told which agent it is.
    """
    spec, wrong = pod.spec, list(_strangers(pod.metadata))
    if pod.metadata.namespace not in (None, "", namespace):
        wrong.append("`metadata.namespace` is not the namespace of the request")
    account = spec.service_account_name or "default"
    if spec.service_account and spec.service_account != account:
        wrong.append("`spec.serviceAccount` and `spec.serviceAccountName` are two accounts: leave the first out")
    notes = pod.metadata.annotations or {}
    name = notes.get(AGENT)
    known = {
        key: agent for key, agent in catalogue.agents.items() if f"{namespace}/{account}" in agent.service_accounts
    }
    if name is None or name not in known:
        return None, (*wrong, _nobody(name, name in catalogue.agents, f"{namespace}/{account}", list(known)))
    agent = known[name]
    claim = Claim(
        name,
        agent,
        account,
        _session(notes.get(SESSION), agent, wrong),
        _containers(notes.get(CONTAINER), pod, wrong),
        _doors(notes.get(DOORS), agent, wrong),
        notes.get(SPOOL),
    )
    return claim, tuple(wrong)


def _strangers(metadata: Metadata) -> Iterator[str]:
    """Say which annotations and labels have our domain, and are none of ours."""
    for name in sorted(metadata.annotations or {}):
        if name.startswith(DOMAIN) and name not in (*_ASKED, INJECTOR):
            yield f"`metadata.annotations[{name}]` is no annotation of ours: there are {_listed(_ASKED)}"
    for name in sorted(metadata.labels or {}):
        if name.startswith(DOMAIN) and name not in (INJECTED, AGENT):
            yield f"`metadata.labels[{name}]` is no label for pods"


def _nobody(name: str | None, is_other: bool, account: str, known: Sequence[str]) -> str:
    """Say that a pod is no agent, and which one it may be: of others' it is not told."""
    may = f"the service account {quoted(account, _LONGEST_NAME)} may be "
    may += _listed(known) if known else "no agent: ask who keeps the chart's values for one in `agents`"
    if name is None:
        return f"`metadata.annotations[{AGENT}]` is missing, which says what agent this is: {may}"
    if is_other:
        return f"`spec.serviceAccountName`: this pod may not be the agent `{name}`: {may}"
    return f"`metadata.annotations[{AGENT}]`: there is no agent {quoted(name)}: {may}"


def _session(value: str | None, agent: Agent, wrong: list[str]) -> str:
    if value in agent.sessions:
        return value
    if value is not None:
        wrong.append(
            f"`metadata.annotations[{SESSION}]`: {quoted(value)} is not among the agent's: {_listed(agent.sessions)}"
        )
    return agent.sessions[0]


def _containers(value: str | None, pod: Pod, wrong: list[str]) -> tuple[str, ...]:
    known = [container.name for container in pod.spec.containers]
    if value is not None:
        return _chosen(CONTAINER, value, known, "container of the pod", wrong)
    if len(known) > 1:
        wrong.append(
            f"`metadata.annotations[{CONTAINER}]` is missing: the pod has {len(known)} containers, say which are the"
            " agent"
        )
        return ()
    return tuple(known)


def _doors(value: str | None, agent: Agent, wrong: list[str]) -> Mapping[str, GrpcDoor | McpDoor]:
    ordered = sorted(agent.doors, key=lambda name: (name != GRPC, name))
    names = ordered if value is None else _chosen(DOORS, value, ordered, "door of the agent", wrong)
    return {name: agent.doors[name] for name in ordered if name in names}


def _chosen(annotation: str, value: str, known: Sequence[str], what: str, wrong: list[str]) -> tuple[str, ...]:
    """Give what an annotation chooses among what there is."""
    names = value.split(",")
    strangers = itertools.islice((name for name in names if name not in known), _SHOWN)
    at, there_are = f"`metadata.annotations[{annotation}]`", f"and there are {_listed(known)}"
    wrong += [f"{at}: {quoted(name)} is no {what}, {there_are}" for name in strangers]
    if len(set(names)) != len(names):
        wrong.append(f"`metadata.annotations[{annotation}]` names one twice")
    return tuple(name for name in known if name in names)


def _listed(names: Sequence[str]) -> str:
    shown = [f"`{name}`" for name in names[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
