"""Every setting of the decision point. Unset means nobody: without openers no session is ever opened."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from exequatur.settings import Settings
from exequatur.transport import TlsFiles, is_loopback
from pdp.opa_address import OpaAddress


class PdpSettings(Settings):
    """Judge what agents propose, by signed policy."""

    env_prefix: ClassVar[str] = "EXEQUATUR_PDP_"
    program: ClassVar[str] = "exequatur pdp serve"

    listen: str = Field(default="127.0.0.1:7070", description="HOST:PORT of the gRPC services")
    http: str = Field(default="127.0.0.1:9080", description="HOST:PORT of /healthz, /readyz and /metrics")
    workers: int = Field(default=1, ge=1, le=64, description="how many processes judge")
    tenant: str = Field(default="default", min_length=1, max_length=256, description="whose bundles are served")
    state: Path = Field(description="the folder of the store and the spools")
    bundle: Path = Field(description="a bundle, or a folder of them: the highest valid sequence is served")
    keys: Path | None = Field(default=None, description="the folder of public keys that may sign bundles, KID.pem each")
    unsafe_unsigned: bool = Field(default=False, description="serve a bundle that nobody signed: every effect WARNs")
    tls_certificate: Path | None = Field(default=None, description="our certificate chain, PEM; names us by SPIFFE ID")
    tls_key: Path | None = Field(default=None, description="its private key, PEM")
    tls_roots: Path | None = Field(default=None, description="the roots that sign our callers and the ledger, PEM")
    unsafe_plaintext: bool = Field(default=False, description="plain text, on loopback alone; nobody is proved")
    openers: tuple[str, ...] = Field(default=(), description="an identity that may open and close sessions")
    auditors: tuple[str, ...] = Field(default=(), description="an identity that may see every session")
    enforced: tuple[str, ...] = Field(
        default=(), description="an enforcer that leaves its agents no other way to their tools"
    )
    ledger: str | None = Field(default=None, description="the ledger, HOST:PORT; unset keeps records in the spools")
    log_key: Path | None = Field(default=None, description="a file with the ledger's C2SP verifier key")
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

    @model_validator(mode="after")
    def _signed_or_unsafe(self) -> Self:
        if self.unsafe_unsigned == (self.keys is not None):
            raise ValueError("give keys, the folder of those who may sign bundles, or unsafe_unsigned, not both")
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

    def opa_at(self, socket: str) -> OpaAddress:
        """Give the OPA server to ask: the team's, or ours on `socket`."""
        if self.opa_url is None:
            return OpaAddress(socket=Path(socket))
        return OpaAddress(url=self.opa_url, token_file=self.opa_token, roots=self.opa_roots)

    @property
    def tls(self) -> TlsFiles | None:
        """The TLS files; None for plain text."""
        if self.tls_certificate is None or self.tls_key is None or self.tls_roots is None:
            return None
        return TlsFiles(self.tls_certificate, self.tls_key, self.tls_roots)
