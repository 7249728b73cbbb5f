"""Which agents there are, what their pods may have, how the sidecar is run beside them: one JSON file, read strictly.

Rules: an unknown member is an error; whatever ends up in a container's arguments is of a form that cannot end them; the
operator says which paths an MCP server's container shares with the agent, never the pod.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from exequatur.trust.canonical import JsonError, JsonLimits, parse

GRPC: Final = "grpc"
"""The name of the door for agents that call the SDK; every other door is an MCP server's."""

OURS: Final = "exequatur-"
"""What begins so is ours: containers, volumes, Secrets of sidecars."""

SHARED_BELOW: Final = ("/data/", "/mnt/", "/srv/", "/work/", "/workspace/", "/workspaces/")
"""Where an MCP server's container may mount a volume of the pod: nowhere that a program is run or configured from."""

LIMITS: Final = JsonLimits(bytes=2**20, keys=50_000)
"""A ConfigMap holds a mebibyte at most."""


class CatalogueError(Exception):
    """A catalogue that cannot be used: one sentence."""


def _shared(path: str) -> str:
    parts = path.split("/")
    if not f"{path}/".startswith(SHARED_BELOW) or "" in parts[1:] or {".", ".."} & set(parts):
        raise ValueError(f"must be below one of {', '.join(name[:-1] for name in SHARED_BELOW)}")
    return path


def _not_ours(name: str) -> str:
    if name.startswith(OURS):
        raise ValueError(f"must not begin with {OURS}")
    return name


def _reachable(address: str) -> str:
    """Refuse a name without a dot: a pod may be called so, and its own /etc/hosts would then be believed."""
    host = address.rpartition(":")[0].strip("[]")
    if "." not in host.strip("."):
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise ValueError("the host must be a name with a dot, as pdp.exequatur.svc, or an address") from None
    return address


def _not_a_sidecars(secret: str) -> str:
    if secret.startswith(f"{OURS}sidecar"):
        raise ValueError(f"must not begin with {OURS}sidecar: it would be the sidecar's identity")
    return secret


_LABEL: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
"""A tenant: letters, digits, dots, dashes and underscores."""
AgentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")]
"""An agent's id, which its pods have as a label."""
DoorName = Annotated[str, StringConstraints(pattern=rf"^{_LABEL}$", max_length=20)]
ObjectName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$", max_length=253)]
VolumeName = Annotated[str, StringConstraints(pattern=rf"^{_LABEL}$", max_length=63), AfterValidator(_not_ours)]
Address = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.\[\]:_-]+:[0-9]{1,5}$"), AfterValidator(_reachable)]
Image = Annotated[str, StringConstraints(pattern=r"^[^\s]+$", max_length=1024)]
Account = Annotated[str, StringConstraints(pattern=rf"^{_LABEL}/[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")]
Session = Annotated[str, StringConstraints(pattern=r"^(pod-name|pod-uid|instance:[A-Za-z0-9][A-Za-z0-9._-]{0,127})$")]
Quantities = Mapping[Literal["cpu", "memory", "ephemeral-storage"], str | int]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, alias_generator=to_camel)


class Resources(_Strict):
    """What a container of ours asks for and is held to."""

    requests: Quantities = Field(default_factory=dict)
    limits: Quantities = Field(default_factory=dict)


class BothResources(_Strict):
    """Resources of the sidecar, and of each MCP server's container."""

    sidecar: Resources = Resources()
    mcp: Resources = Resources()


class UidRules(_Strict):
    """Where users that are not ours may connect to, beside loopback."""

    image: Image | Literal[""] = ""
    agent_may: tuple[Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f.:/\[\]]+$")], ...] = ()
    dns: tuple[Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f.:]+$")], ...] = ()


class GrpcDoor(_Strict):
    """The door for agents that call the SDK, and then act by themselves: it has no way to be `enforced`."""

    kind: Literal["grpc"]


class McpDoor(_Strict):
    """An MCP server that runs in a container of ours, with the gate in front."""

    kind: Literal["mcp"]
    enforced: bool = False
    image: Image | Literal[""] = ""
    command: tuple[str, ...] = Field(min_length=1)
    mounts: Mapping[VolumeName, Annotated[str, AfterValidator(_shared)]] = Field(default_factory=dict)
    env_from_secret: Annotated[ObjectName | Literal[""], AfterValidator(_not_a_sidecars)] = ""


Door = Annotated[GrpcDoor | McpDoor, Field(discriminator="kind")]


class Agent(_Strict):
    """One agent: whose it is, which service accounts may run it, and which doors it has."""

    tenant: Word = "default"
    service_accounts: tuple[Account, ...] = Field(min_length=1)
    sessions: tuple[Session, ...] = Field(default=("pod-name",), min_length=1)
    service_account_token: bool = False
    doors: Mapping[DoorName, Door] = Field(min_length=1)

    @model_validator(mode="after")
    def _doors_by_name(self) -> Self:
        for name, door in self.doors.items():
            if (name == GRPC) is not isinstance(door, GrpcDoor):
                raise ValueError(f"the door `{name}`: `{GRPC}`, and no other, is of the kind grpc")
        return self


class Catalogue(_Strict):
    """What the injector knows."""

    version: Literal[1]
    image: Image
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    pull_secrets: tuple[ObjectName, ...] = ()
    """With which the registry is asked for our images; they are in each agent's namespace."""
    listen: Literal["0.0.0.0", "[::]"] = "0.0.0.0"  # noqa: S104  the pod's own addresses, for probes and metrics
    pdp: Address
    ledger: Address | None = None
    trust: bool = False
    resources: BothResources = BothResources()
    decision_timeout_ms: Annotated[int, Field(gt=0, le=60_000)] = 2000
    drain_grace_s: Annotated[int | float, Field(gt=0, le=300)] = 5
    uid_rules: UidRules | None = None
    agents: Mapping[AgentName, Agent]

    @property
    def tool_secrets(self) -> frozenset[str]:
        """The Secrets that MCP servers hold: an agent that reads one goes around its door."""
        doors = (door for agent in self.agents.values() for door in agent.doors.values())
        return frozenset(door.env_from_secret for door in doors if isinstance(door, McpDoor) and door.env_from_secret)


def read_catalogue(data: bytes) -> Catalogue:
    """Read a catalogue; raises `CatalogueError` naming the member that is wrong, never a value."""
    try:
        parse(data, LIMITS)  # refuses what two readers could take for two things
        return Catalogue.model_validate_json(data)
    except JsonError as error:
        raise CatalogueError(str(error)) from None
    except ValidationError as error:
        raise CatalogueError(first_fault(error)) from None


def first_fault(error: ValidationError) -> str:
    """Say what is wrong with the first member that is, in one sentence, without its value."""
    return next(iter(each_fault(error)))


def each_fault(error: ValidationError) -> Iterator[str]:
    """Say of each member that is wrong what it is, in one sentence, without its value."""
    for item in error.errors(include_url=False, include_input=False):
        text = str(item["msg"]).removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            text = "no such member is known here"
        loc = [part for at, part in enumerate(item["loc"]) if at < 2 or item["loc"][at - 2] != "doors"]  # noqa: PLR2004
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
        yield f"`{where or 'the document'}`: {text[:1].lower()}{text[1:]}"
