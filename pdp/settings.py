"""Every setting of the decision point. Unset means nobody: without openers no session is ever opened."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Final, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from exequatur.identity import TlsFiles
from exequatur.settings import Settings, spelled_out
from exequatur.sockets import is_loopback
from pdp.opa_address import OpaAddress
from pdp.told import Told

REMOTE: Final = ("https://", "http://", "oci://")
"""How a bundle's address begins where it is no path."""

Tenant: TypeAlias = Annotated[str, Field(min_length=1, max_length=256, description="whose bundles are served")]
Keys: TypeAlias = Annotated[
    Path | None, Field(description="the folder of public keys that may sign bundles, KID.pem each")
]
Token: TypeAlias = Annotated[
    Path | None, Field(description="a file with our bearer token for the bundles' server, read each time")
]
Roots: TypeAlias = Annotated[
    Path | None,
    Field(description="the roots that sign the bundles' server's certificate, PEM; unset takes the system's"),
]
Certificate: TypeAlias = Annotated[
    Path | None, Field(description="the certificate chain that we show to the bundles' server, PEM")
]
PrivateKey: TypeAlias = Annotated[Path | None, Field(description="its private key, PEM")]
Poll: TypeAlias = Annotated[
    float, Field(ge=1, le=3600, description="how often the bundles' server is asked for a newer one")
]
LongPoll: TypeAlias = Annotated[
    int,
    Field(ge=0, le=3600, description="how long a server that can may hold its answer until there is a newer bundle"),
]
Staleness: TypeAlias = Annotated[
    int,
    Field(
        ge=0,
        description="how long policy is trusted after its source last said that it is the newest; 0: until it expires",
    ),
]
Lowest: TypeAlias = Annotated[
    int, Field(ge=0, description="the lowest sequence that may be served, whatever the store says")
]
Candidate: TypeAlias = Annotated[
    str | None, Field(description="where a bundle comes from that is tried beside the one in force, as `bundle`")
]
Percent: TypeAlias = Annotated[
    int,
    Field(
        ge=0, le=100, description="of how many sessions in a hundred the candidate may make answers stricter; 0: none"
    ),
]
Stricter: TypeAlias = Annotated[
    int,
    Field(ge=0, le=100, description="of how many answers in a hundred, made stricter, the candidate is taken back"),
]


class Feed(BaseModel):
    """Where one tenant's bundles come from, who may sign them, and how far they are trusted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: Tenant = "default"
    bundle: str = Field(min_length=1, description="a path, https://..., oci://HOST/REPOSITORY:TAG or @sha256:...")
    keys: Keys = None
    token: Token = None
    roots: Roots = None
    certificate: Certificate = None
    key: PrivateKey = None
    poll_s: Poll = 10
    long_poll_s: LongPoll = 0
    max_staleness_s: Staleness = 0
    floor: Lowest = 0
    candidate: Candidate = None
    canary_percent: Percent = 0
    canary_max_stricter_percent: Stricter = 5
    unsafe_plaintext: bool = Field(default=False, description="plain text to a bundles' server on loopback")

    @property
    def shown(self) -> str:
        """Where bundles come from, as others may read it: the query of a signed URL is a secret."""
        return self.bundle.partition("?")[0] if self.bundle.startswith(REMOTE) else self.bundle

    @property
    def trial(self) -> Feed | None:
        """Where the candidate comes from; None where none is tried."""
        return None if self.candidate is None else self.model_copy(update={"bundle": self.candidate, "candidate": None})

    @model_validator(mode="after")
    def _reached_safely(self) -> Self:
        for place in (self.bundle, self.candidate):
            if place is not None:
                _check_place(place)
        remote = any(place.startswith(REMOTE) for place in (self.bundle, self.candidate or ""))
        if (self.token or self.roots or self.certificate or self.key) and not remote:
            raise ValueError("a token, roots and a certificate are for bundles that a server has")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("give the certificate for the bundles' server and its key, or neither")
        if self.candidate is None and self.canary_percent:
            raise ValueError("a canary needs a candidate")
        return self


class PdpSettings(Settings):
    """Judge what agents propose, by signed policy."""

    env_prefix: ClassVar[str] = "EXEQUATUR_PDP_"
    program: ClassVar[str] = "exequatur pdp serve"

    listen: str = Field(default="127.0.0.1:7070", description="HOST:PORT of the gRPC services")
    http: str = Field(default="127.0.0.1:9080", description="HOST:PORT of /healthz, /readyz and /metrics")
    health: str | None = Field(
        default=None, description="HOST:PORT of grpc.health.v1 for probes, in plain text: services `live` and `ready`"
    )
    workers: int = Field(default=1, ge=1, le=64, description="how many processes judge")
    state: Path = Field(description="the folder of the store and the spools")
    database: Path | None = Field(
        default=None,
        description="a file with postgresql://USER:PASSWORD@HOST[:PORT]/NAME?sslmode=verify-full&sslrootcert=FILE, the "
        "store that several decision points share; unset keeps it in `state`",
    )
    tenants: tuple[Feed, ...] = Field(
        default=(),
        description="one tenant of several, instead of the settings from `tenant` to `canary_max_stricter_percent`: "
        "tenant=NAME,bundle=...,keys=FOLDER[,token=FILE][,roots=FILE][,certificate=FILE,key=FILE][,poll_s=N]"
        "[,long_poll_s=N][,max_staleness_s=N][,floor=N][,candidate=...][,canary_percent=N]"
        "[,canary_max_stricter_percent=N]",
    )
    tenant: Tenant = "default"
    bundle: str | None = Field(
        default=None,
        description="a bundle, or a folder of them: the highest valid sequence is served; or https://..., or "
        "oci://HOST/REPOSITORY:TAG or @sha256:...",
    )
    keys: Keys = None
    bundle_token: Token = None
    bundle_roots: Roots = None
    bundle_certificate: Certificate = None
    bundle_key: PrivateKey = None
    bundle_poll_s: Poll = 10
    bundle_long_poll_s: LongPoll = 0
    max_staleness_s: Staleness = 0
    floor: Lowest = 0
    candidate: Candidate = None
    canary_percent: Percent = 0
    canary_max_stricter_percent: Stricter = 5
    unsafe_unsigned: bool = Field(default=False, description="serve a bundle that nobody signed: every effect WARNs")
    tls_certificate: Path | None = Field(default=None, description="our certificate chain, PEM; names us by SPIFFE ID")
    tls_key: Path | None = Field(default=None, description="its private key, PEM")
    tls_roots: Path | None = Field(default=None, description="the roots that sign our callers and the ledger, PEM")
    unsafe_plaintext: bool = Field(default=False, description="plain text, on loopback alone; nobody is proved")
    openers: tuple[str, ...] = Field(
        default=(), description="an identity that may open and close sessions; IDENTITY@TENANT for one tenant alone"
    )
    auditors: tuple[str, ...] = Field(
        default=(), description="an identity that may see every session, or, as IDENTITY@TENANT, those of one tenant"
    )
    operators: tuple[str, ...] = Field(
        default=(), description="an identity that may see what is served, and have newer bundles looked for"
    )
    enforced: tuple[str, ...] = Field(
        default=(),
        description="an enforcer that leaves its agents no other way to their tools; IDENTITY@DOOR where only one of"
        " its doors does, as mcp_stdio; never its door grpc, where agents ask and then act by themselves",
    )
    ledger: str | None = Field(default=None, description="the ledger, HOST:PORT; unset keeps records in the spools")
    log_key: Path | None = Field(
        default=None, description="the ledger's C2SP verifier key: a file, or a folder of NAME.vkey that is watched"
    )
    wait_for_ledger: bool = Field(
        default=False,
        description="answer only once the ledger has acknowledged the record: for a `state` that does not outlive us",
    )
    opa: Path | None = Field(
        default=None, description="the program `opa`, for bundles whose Rego an OPA server judges; unset looks on PATH"
    )
    opa_url: str | None = Field(
        default=None, description="an OPA server that your team runs, http(s)://HOST:PORT; unset starts one"
    )
    opa_token: Path | None = Field(default=None, description="a file with our token for that server, read each time")
    opa_roots: Path | None = Field(default=None, description="the roots that sign that server's certificate, PEM")
    opa_timeout_ms: int = Field(default=200, ge=1, le=10_000, description="how long an OPA server may take to answer")
    reservation_ttl_s: int = Field(
        default=600, gt=0, le=86_400, description="after how long what is never settled is charged"
    )
    drain_grace_s: float = Field(default=5.0, gt=0, le=300, description="how long stopping may take, each step")

    @field_validator("tenants", mode="before")
    @classmethod
    def _spelled_out(cls, value: object) -> object:
        return spelled_out(value, "a tenant is spelt tenant=NAME,bundle=...,keys=FOLDER")

    @field_validator("bundle")
    @classmethod
    def _some_source(cls, value: str | None, info: ValidationInfo) -> str | None:
        if not value and not info.data.get("tenants", True):
            raise ValueError("say where bundles come from, here or in tenants")
        return value

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        if not self.tenants:
            try:
                self.feeds  # noqa: B018 - it is checked where it is made
            except ValidationError as error:
                raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
            return self
        fields = type(self).model_fields
        given = [name for name in _FLAT.values() if getattr(self, name) != fields[name].default]
        if given:
            raise ValueError(f"`{given[0]}` is for one tenant: with tenants, say it for each of them")
        if any(feed.unsafe_plaintext for feed in self.tenants):
            raise ValueError("`unsafe_plaintext` is for all: say it once, beside tenants")
        names = [feed.tenant for feed in self.tenants]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"the tenant `{twice}` is there twice")
        return self

    @model_validator(mode="after")
    def _signed_or_unsafe(self) -> Self:
        for feed in self.feeds:
            if self.unsafe_unsigned == (feed.keys is not None):
                raise ValueError("give keys, the folder of those who may sign bundles, or unsafe_unsigned, not both")
            if not self.unsafe_plaintext and any(
                place.startswith("http://") for place in (feed.bundle, feed.candidate or "")
            ):
                raise ValueError("a bundle's address must begin with https:// unless unsafe_plaintext is set")
        return self

    @model_validator(mode="after")
    def _proved_or_unsafe(self) -> Self:
        files = (self.tls_certificate, self.tls_key, self.tls_roots)
        if self.unsafe_plaintext:
            if any(files):
                raise ValueError("give TLS files or unsafe_plaintext, not both")
            if not is_loopback(self.listen) or not (self.ledger is None or is_loopback(self.ledger)):
                raise ValueError("unsafe_plaintext is for loopback alone: listen and ledger")
        elif not all(files):
            raise ValueError("give tls_certificate, tls_key and tls_roots")
        return self

    @model_validator(mode="after")
    def _no_agents_word_is_enforced(self) -> Self:
        for name in self.enforced:
            if name.endswith("@grpc"):
                raise ValueError(f"`{name}` in enforced: agents ask at the door grpc and then act by themselves")
        return self

    @model_validator(mode="after")
    def _somebody_to_wait_for(self) -> Self:
        if self.wait_for_ledger and self.ledger is None:
            raise ValueError("wait_for_ledger needs a ledger to wait for: give its HOST:PORT")
        return self

    @model_validator(mode="after")
    def _opa_proved_or_near(self) -> Self:
        if self.opa_url is None:
            if self.opa_token or self.opa_roots:
                raise ValueError("opa_token and opa_roots are for the server that opa_url names")
            return self
        try:
            url = urlsplit(self.opa_url)
            place = f"{url.hostname}:{url.port}"
        except ValueError:
            raise ValueError("opa_url must be http(s)://HOST:PORT") from None
        if url.scheme not in ("http", "https") or not url.hostname or url.port is None or url.path.strip("/"):
            raise ValueError("opa_url must be http(s)://HOST:PORT")
        if url.username or url.password or url.query or url.fragment:
            raise ValueError("opa_url must be http(s)://HOST:PORT: a token has a file, opa_token")
        if url.scheme == "http" and not is_loopback(place):
            raise ValueError("opa_url must begin with https:// unless it is on loopback")
        if (url.scheme == "https") != (self.opa_roots is not None):
            raise ValueError("give opa_roots with an opa_url that begins with https://, and only then")
        return self

    @property
    def feeds(self) -> tuple[Feed, ...]:
        """Every tenant's feed."""
        if self.tenants:
            return tuple(feed.model_copy(update={"unsafe_plaintext": self.unsafe_plaintext}) for feed in self.tenants)
        flat = {name: getattr(self, ours) for name, ours in _FLAT.items()}
        return (Feed(**flat, unsafe_plaintext=self.unsafe_plaintext),)

    @property
    def opa_shared(self) -> bool:
        """Whether one OPA server holds the bundles of several tenants: each of ours has one."""
        return self.opa_url is not None and len(self.feeds) > 1

    @property
    def opa_team(self) -> OpaAddress | None:
        """The team's OPA server; None where each bundle has one of ours."""
        if self.opa_url is None:
            return None
        return OpaAddress(url=self.opa_url, token_file=self.opa_token, roots=self.opa_roots)

    @property
    def told(self) -> Told:
        """What a worker needs of them."""
        same = {name: getattr(self, name) for name in Told.__slots__ if name != "opa"}
        return Told(**same, opa=self.opa_team)

    @property
    def tls(self) -> TlsFiles | None:
        """The TLS files; None for plain text."""
        if self.tls_certificate is None or self.tls_key is None or self.tls_roots is None:
            return None
        return TlsFiles(self.tls_certificate, self.tls_key, self.tls_roots)


_FLAT: Final = {
    name: f"bundle_{name}" if name in ("token", "roots", "certificate", "key", "poll_s", "long_poll_s") else name
    for name in Feed.model_fields
    if name != "unsafe_plaintext"
}
"""Which setting says it for one tenant, by what a feed calls it."""


def _check_place(place: str) -> None:
    """See that a bundle's address is one that can be asked safely. Raises `ValueError`."""
    scheme, separator, _ = place.partition("://")
    if not separator:
        return
    if f"{scheme}://" not in REMOTE:
        raise ValueError(f"`{scheme}://` is no way to a bundle: give a path, https:// or oci://")
    try:
        url = urlsplit(place)
        port = url.port
    except ValueError:
        raise ValueError(
            "a bundle's address must be https://HOST[:PORT]/PATH or oci://HOST[:PORT]/REPOSITORY"
        ) from None
    if not url.hostname or not url.path.strip("/"):
        raise ValueError("a bundle's address must be https://HOST[:PORT]/PATH or oci://HOST[:PORT]/REPOSITORY")
    if url.username or url.password or url.fragment:
        raise ValueError("a bundle's address holds no name and no password: a token has a file")
    if scheme == "http" and not is_loopback(f"{url.hostname}:{port}"):
        raise ValueError("a bundle's address must begin with https:// unless it is on loopback")
