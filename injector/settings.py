"""Every setting of the injector. There is no plain text: an API server speaks to webhooks by TLS alone."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from exequatur.settings import Settings


class InjectorSettings(Settings):
    """Put the sidecar into agents' pods, or refuse them."""

    env_prefix: ClassVar[str] = "EXEQUATUR_INJECTOR_"
    program: ClassVar[str] = "exequatur injector serve"

    catalogue: Path = Field(description="which agents there are, and how the sidecar is run beside them: JSON")
    listen: str = Field(default="127.0.0.1:8443", description="HOST:PORT of /mutate and /validate, by TLS")
    tls_certificate: Path = Field(description="our certificate chain, PEM; read again when it changes")
    tls_key: Path = Field(description="its private key, PEM; read again when it changes")
    http: str = Field(default="127.0.0.1:9083", description="HOST:PORT of /healthz, /readyz and /metrics")
    health: str | None = Field(
        default=None, description="HOST:PORT of grpc.health.v1 for probes, in plain text: services `live` and `ready`"
    )
    drain_grace_s: float = Field(default=5.0, gt=0, le=300, description="how long stopping may take")
