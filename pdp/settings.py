"""Every setting of the decision point. Unset means nobody: without openers no session is ever opened."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from exequatur.settings import Settings
from exequatur.transport import TlsFiles, is_loopback


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
    reservation_ttl_s: int = Field(
        default=600, gt=0, le=86_400, description="after how long what is never settled is charged"
    )
    drain_grace_s: float = Field(default=5.0, gt=0, le=300, description="how long stopping may take, each step")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="what is logged")

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

    @property
    def tls(self) -> TlsFiles | None:
        """The TLS files; None for plain text."""
        if self.tls_certificate is None or self.tls_key is None or self.tls_roots is None:
            return None
        return TlsFiles(self.tls_certificate, self.tls_key, self.tls_roots)
