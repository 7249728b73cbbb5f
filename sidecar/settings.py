"""Every setting of the sidecar. Unset means nobody: without agents there is no socket."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from exequatur.client import Tls
from exequatur.settings import Settings, spelled_out
from exequatur.sockets import is_loopback


class AgentSocket(BaseModel):
    """One agent instance and the socket that speaks for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    agent: str = Field(min_length=1, max_length=256, description="the agent's id, as the inventory has it")
    socket: Path = Field(description="the Unix socket that speaks for it; its folder must be ours alone")
    instance: str = Field(default="", description="which instance of the agent this is")
    tenant: str = Field(default="default", description="whose agent it is")
    uid: int | None = Field(default=None, ge=0, description="the user that the agent runs as, and who owns the socket")
    mounted: bool = Field(
        default=False,
        description="whether the socket's folder is on a mount that this agent alone has, read-only: we make it, and"
        " whoever sees the socket may use it",
    )
    door: Literal["grpc", "mcp_stdio"] = Field(default="grpc", description="how its actions come in")
    enforced: bool = Field(
        default=False,
        description="whether the agent has no other way to its tools, nor to this socket: then an outcome is the gate's"
        " own word; never at the door `grpc`, where the agent itself speaks",
    )

    @model_validator(mode="after")
    def _owned_or_mounted(self) -> Self:
        if self.mounted and self.uid is not None:
            raise ValueError("give `uid` or `mounted`, not both: the mount is the identity")
        return self

    @model_validator(mode="after")
    def _never_the_agents_own_word(self) -> Self:
        """See that no door is believed at which the agent itself speaks: it would give itself its money back."""
        if self.enforced and self.door == "grpc":
            raise ValueError("the door `grpc` is never `enforced`: the agent itself speaks there, and acts by itself")
        return self


class SidecarSettings(Settings):
    """Run the doors and the gate beside an agent."""

    env_prefix: ClassVar[str] = "EXEQUATUR_SIDECAR_"
    program: ClassVar[str] = "exequatur sidecar run"

    agents: tuple[AgentSocket, ...] = Field(
        min_length=1,
        description="one agent: agent=ID,socket=PATH[,instance=ID][,tenant=ID][,uid=OWNER][,mounted=true]"
        "[,door=grpc|mcp_stdio][,enforced=true]",
    )
    shim: Path | None = Field(
        default=None,
        description="where to put `exequatur-mcp`, the program by which agents reach MCP doors: in a folder that we"
        " alone can write to; EXEQUATUR_SHIM names it where it is not installed beside us",
    )
    pdp: str = Field(description="the decision point, HOST:PORT")
    ledger: str | None = Field(default=None, description="the ledger, HOST:PORT; unset keeps records in the spool")
    spool: Path = Field(description="the folder of records that the ledger has not acknowledged yet")
    tls_certificate: Path | None = Field(default=None, description="our certificate chain, PEM; names us by SPIFFE ID")
    tls_key: Path | None = Field(default=None, description="its private key, PEM")
    tls_roots: Path | None = Field(default=None, description="the roots that sign decision point and ledger, PEM")
    unsafe_plaintext: bool = Field(default=False, description="plain text to a decision point and a ledger on loopback")
    log_key: Path | None = Field(
        default=None, description="the ledger's C2SP verifier key: a file, or a folder of NAME.vkey that is watched"
    )
    wait_for_ledger: bool = Field(
        default=False,
        description="answer only once the ledger has acknowledged the record: for a `spool` that does not outlive us",
    )
    http: str = Field(default="127.0.0.1:9082", description="HOST:PORT of /healthz, /readyz and /metrics")
    health: str | None = Field(
        default=None, description="HOST:PORT of grpc.health.v1 for probes, in plain text: services `live` and `ready`"
    )
    decision_timeout_ms: int = Field(default=2000, gt=0, le=60_000, description="how long a decision may take")
    drain_grace_s: float = Field(default=5.0, gt=0, le=300, description="how long stopping may take, each step")

    @field_validator("agents", mode="before")
    @classmethod
    def _spelled_out(cls, value: object) -> object:
        return spelled_out(value, "an agent is spelt agent=ID,socket=PATH")

    @model_validator(mode="after")
    def _one_socket_an_agent(self) -> Self:
        sockets = [agent.socket for agent in self.agents]
        if len(set(sockets)) != len(sockets):
            raise ValueError("two agents cannot share a socket: the socket is the identity")
        folders = [path.parent for path in sockets]
        for agent in self.agents:
            if agent.mounted and folders.count(agent.socket.parent) > 1:
                raise ValueError("a mounted socket has its folder to itself: who sees the folder may use the socket")
        return self

    @model_validator(mode="after")
    def _one_word_a_door(self) -> Self:
        """See that doors of one kind are all enforced or none: the decision point knows them by our name and kind."""
        kinds = {agent.door for agent in self.agents}
        if len({(agent.door, agent.enforced) for agent in self.agents}) > len(kinds):
            raise ValueError("doors of one kind are all enforced, or none: the decision point knows a door by its kind")
        return self

    @model_validator(mode="after")
    def _proved_or_unsafe(self) -> Self:
        files = (self.tls_certificate, self.tls_key, self.tls_roots)
        if self.unsafe_plaintext:
            if any(files):
                raise ValueError("give TLS files or unsafe_plaintext, not both")
            if not (is_loopback(self.pdp) and (self.ledger is None or is_loopback(self.ledger))):
                raise ValueError("unsafe_plaintext is for a decision point and a ledger on loopback alone")
        elif not all(files):
            raise ValueError("give tls_certificate, tls_key and tls_roots")
        return self

    @model_validator(mode="after")
    def _somebody_to_wait_for(self) -> Self:
        if self.wait_for_ledger and self.ledger is None:
            raise ValueError("wait_for_ledger needs a ledger to wait for: give its HOST:PORT")
        return self

    @property
    def tls(self) -> Tls | None:
        """The TLS files; None for plain text."""
        if self.tls_certificate is None or self.tls_key is None or self.tls_roots is None:
            return None
        return Tls(self.tls_certificate, self.tls_key, self.tls_roots)
