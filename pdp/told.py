"""What a worker is told of the settings when its life begins: what it needs of them, as the supervisor has checked it.

Rules: a worker checks none of it again, and imports nothing that could; a member that is missing or not known ends it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from exequatur.identity import TlsFiles
from pdp.opa_address import OpaAddress

_PATHS: Final = ("state", "database", "log_key")
_LISTS: Final = ("openers", "auditors", "operators", "enforced")


@dataclass(frozen=True, slots=True)
class Told:
    """Each as in the settings; `opa` is the team's OPA server, None where ours are asked."""

    workers: int
    state: Path
    database: Path | None
    tls: TlsFiles | None
    unsafe_plaintext: bool
    unsafe_unsigned: bool
    openers: tuple[str, ...]
    auditors: tuple[str, ...]
    operators: tuple[str, ...]
    enforced: tuple[str, ...]
    ledger: str | None
    log_key: Path | None
    wait_for_ledger: bool
    opa: OpaAddress | None
    opa_shared: bool
    opa_timeout_ms: int
    reservation_ttl_s: int
    drain_grace_s: float
    log_level: str

    def written(self) -> dict[str, Any]:
        """Write it as JSON, for `read`."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return found

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> Self:
        """Read what `written` gave."""
        tls, opa = found["tls"], found["opa"]
        return cls(
            **{
                **found,
                **{name: _path(found[name]) for name in _PATHS},
                **{name: tuple(found[name]) for name in _LISTS},
                "tls": None if tls is None else TlsFiles(**{name: Path(path) for name, path in tls.items()}),
                "opa": None
                if opa is None
                else OpaAddress(url=opa["url"], token_file=_path(opa["token_file"]), roots=_path(opa["roots"])),
            }
        )

    def opa_at(self, place: str) -> OpaAddress:
        """Give the OPA server to ask: the team's, or ours on the socket `place`."""
        return self.opa or OpaAddress(socket=Path(place))


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
