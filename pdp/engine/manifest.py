"""`exequatur.json`: which engines judge, in which role, and how long an enforcer may act alone.

Rules: at least one engine decides, or the bundle is refused, since an empty set proves nothing; an engine is named at
most once, and one of `rego` and `opa` at most, which would be two readers of the same files; whatever is not known is
an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pdp.engine.reading import Fields, PolicyError, read_object

DOCUMENT_VERSION: Final = 1
"""The version of the document that policy sees (`pdp/engine/document.py`)."""

FILE: Final = "exequatur.json"
_ENGINES: Final = ("cedar", "rego", "opa")
_OF_REGO: Final = ("rego", "opa")
_ENTRYPOINT: Final = re.compile(r"[a-z_][a-z0-9_]*(/[a-z_][a-z0-9_]*)+")
_MAX_OUTAGE_S: Final = 3600  # an hour; a longer outage is not an outage any more, it is an unguarded agent


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
    outage_max_s: int = 60
    document_version: int = DOCUMENT_VERSION

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Read `exequatur.json`.

        Raises `PolicyError`.
        """
        fields = read_object(FILE, data)
        if fields.take("document_version") != DOCUMENT_VERSION:
            raise fields.error("document_version", f"{DOCUMENT_VERSION}, the only version that is known here")
        name = fields.text("name")
        listed = fields.take("engines")
        if not isinstance(listed, list):
            raise fields.error("engines", "a list of objects")
        engines = tuple(_engine(Fields(f"`{FILE}`: engine {n + 1}", item)) for n, item in enumerate(listed))
        outage = Fields(f"`{FILE}`: `outage`", fields.take("outage", {}))
        max_s = outage.integer("max_s", default=60, low=0, high=_MAX_OUTAGE_S)
        outage.close()
        fields.close()
        _check_roles(engines)
        return cls(name=name, engines=engines, outage_max_s=max_s)


def _engine(fields: Fields) -> EngineSpec:
    engine = fields.text("engine")
    if engine not in _ENGINES:
        raise fields.error("engine", " or ".join(f"`{known}`" for known in _ENGINES))
    role = fields.text("role")
    if role not in set(Role):
        raise fields.error("role", " or ".join(f"`{known}`" for known in Role))
    entrypoint = fields.text("entrypoint") if engine in _OF_REGO else ""
    if engine in _OF_REGO and not _ENTRYPOINT.fullmatch(entrypoint):
        raise fields.error("entrypoint", "a rule's path with slashes, such as `exequatur/decision`")
    fields.close()
    return EngineSpec(engine, Role(role), entrypoint)


def _check_roles(engines: tuple[EngineSpec, ...]) -> None:
    names = [spec.engine for spec in engines]
    if len(set(names)) != len(names):
        raise PolicyError(f"`{FILE}`: an engine is listed twice: list each engine once, with one role")
    if set(_OF_REGO) <= set(names):
        raise PolicyError(f"`{FILE}`: `rego` and `opa` both judge by the bundle's `*.rego`: list one of them")
    if not any(spec.role is Role.DECIDE for spec in engines):
        raise PolicyError(
            f"`{FILE}`: no engine has the role `decide`, so nothing could ever be allowed: give one that role"
        )
