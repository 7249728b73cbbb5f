"""`exequatur.json`: which engines judge, in which role, and how long an enforcer may act alone.

Rules: at least one engine decides, or the bundle is refused, since an empty set proves nothing; an engine is named at
most once, and one of `rego` and `opa` at most, which would be two readers of the same files; the rest is the published
schema's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from exequatur.schemas import Fault
from pdp.engine.reading import PolicyError, read_file

DOCUMENT_VERSION: Final = 1
"""The version of the document that policy sees (`pdp/engine/document.py`)."""

FILE: Final = "exequatur.json"
WASM: Final = "policy.wasm"
"""What `opa build` makes of the Rego in a bundle."""
_OF_REGO: Final = ("rego", "opa")
_OUTAGE_S: Final = 60


class Role(StrEnum):
    """What an engine's answer is for: a `decide` engine must allow, a `restrict` engine can only tighten."""

    DECIDE = "decide"
    RESTRICT = "restrict"


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine of the bundle. `entrypoint` is the Rego rule that is asked, such as `exequatur/decision`."""

    engine: str
    role: Role
    entrypoint: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The bundle's own settings. `outage_max_s` is in seconds; 0 means that an enforcer alone denies everything."""

    name: str
    engines: tuple[EngineSpec, ...]
    outage_max_s: int = _OUTAGE_S
    document_version: int = DOCUMENT_VERSION

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Read `exequatur.json`.

        Raises `PolicyError` naming the line and the member.
        """
        said = read_file("exequatur", FILE, data)
        engines = tuple(
            EngineSpec(item["engine"], Role(item["role"]), item.get("entrypoint", "")) for item in said["engines"]
        )
        if wrong := _wrong(engines):
            raise PolicyError(Fault("/engines", wrong).located(FILE, data))
        return cls(name=said["name"], engines=engines, outage_max_s=said.get("outage", {}).get("max_s", _OUTAGE_S))


def _wrong(engines: tuple[EngineSpec, ...]) -> str:
    """Say what is wrong with the engines as a whole; empty if nothing is."""
    names = [spec.engine for spec in engines]
    if len(set(names)) != len(names):
        return "must list each engine once, with one role"
    if set(_OF_REGO) <= set(names):
        return "must list one of `rego` and `opa`, not both: both judge by the bundle's `*.rego`"
    if not any(spec.role is Role.DECIDE for spec in engines):
        return "must give one engine the role `decide`: as it is, nothing could ever be allowed"
    return ""
