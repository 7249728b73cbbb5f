"""Where an OPA server is. Apart from what asks it, which takes a third of a second to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class OpaAddress:
    """A Unix socket, or a URL with a file that holds our token and the roots that sign its certificate, PEM."""

    socket: Path | None = None
    url: str = "http://opa"
    token_file: Path | None = None
    roots: Path | None = None
