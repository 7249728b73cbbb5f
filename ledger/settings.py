"""Every setting of the ledger. Unset means nobody: without writers nothing is ever appended."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator

from exequatur.identity import TlsFiles
from exequatur.settings import Settings
from exequatur.sockets import is_loopback


class LedgerSettings(Settings):
    """Keep the audit log: take records, sign checkpoints."""

    env_prefix: ClassVar[str] = "EXEQUATUR_LEDGER_"
    program: ClassVar[str] = "exequatur ledger serve"

    folder: Path = Field(description="the folder of the log")
    origin: str = Field(
        min_length=1, pattern=r"^[^\s+]+$", description="the log's name in checkpoints, as `example.org/audit`"
    )
    key: Path = Field(
        description="the Ed25519 private key that signs checkpoints, PEM, or a folder of NAME.key that is watched:"
        " all of them sign"
    )
    listen: str = Field(default="127.0.0.1:7071", description="HOST:PORT of the gRPC service")
    http: str = Field(default="127.0.0.1:9081", description="HOST:PORT of /healthz, /readyz and /metrics")
    health: str | None = Field(
        default=None, description="HOST:PORT of grpc.health.v1 for probes, in plain text: services `live` and `ready`"
    )
    tls_certificate: Path | None = Field(default=None, description="our certificate chain, PEM")
    tls_key: Path | None = Field(default=None, description="its private key, PEM")
    tls_roots: Path | None = Field(default=None, description="the roots that sign our callers, PEM")
    unsafe_plaintext: bool = Field(default=False, description="plain text, on loopback alone; nobody is proved")
    writers: tuple[str, ...] = Field(default=(), description="an identity that may append")
    auditors: tuple[str, ...] = Field(default=(), description="an identity that may ask for checkpoints")
    drain_grace_s: float = Field(default=5.0, gt=0, le=300, description="how long stopping may take")

    @model_validator(mode="after")
    def _proved_or_unsafe(self) -> Self:
        files = (self.tls_certificate, self.tls_key, self.tls_roots)
        if self.unsafe_plaintext:
            if any(files):
                raise ValueError("give TLS files or unsafe_plaintext, not both")
            if not is_loopback(self.listen):
                raise ValueError("unsafe_plaintext is for loopback alone")
        elif not all(files):
            raise ValueError("give tls_certificate, tls_key and tls_roots")
        return self

    @property
    def tls(self) -> TlsFiles | None:
        """The TLS files; None for plain text."""
        if self.tls_certificate is None or self.tls_key is None or self.tls_roots is None:
            return None
        return TlsFiles(self.tls_certificate, self.tls_key, self.tls_roots)
