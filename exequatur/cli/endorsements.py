"""The file in which an endorsement travels from who reviewed a bundle to who publishes it.

Rules: it says in words what was endorsed, so that whoever publishes signs the same times and the same number; the
words are never believed alone: the payload is written again from them and the bundle, and must be the one endorsed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from exequatur.trust.bundle import BundleClaims, payload
from exequatur.trust.canonical import Json, JsonError, JsonLimits, parse, quoted
from exequatur.trust.endorsing import endorser
from exequatur.trust.errors import FormatError, SignatureError

_MEMBERS: Final = {"claims", "endorsement", "payload_sha256"}
_TYPES: Final = {"sequence": int, "expires_at": str, "not_before": str, "tenant": str, "scope": str}
_NEEDED: Final = {"sequence", "expires_at", "tenant"}
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_LIMITS: Final = JsonLimits(bytes=64 * 1024)


@dataclass(frozen=True, slots=True)
class Endorsement:
    """Who endorsed what. `token` is the detached JWS, which nobody has verified yet."""

    kid: str
    claims: BundleClaims
    payload_sha256: str
    token: str

    @classmethod
    def read(cls, path: Path) -> Endorsement:
        """Read a file; raises `FormatError`, and `OSError`."""
        with path.open("rb") as file:
            data = file.read(_LIMITS.bytes + 1)
        try:
            return cls._of(parse(data, _LIMITS))
        except (JsonError, FormatError, SignatureError) as error:
            raise FormatError(f"`{path}` is no endorsement, as `exequatur bundle endorse` writes it: {error}") from None

    @classmethod
    def _of(cls, value: Json) -> Endorsement:
        if not isinstance(value, dict) or value.keys() != _MEMBERS:
            raise FormatError(f"an object with {', '.join(f'`{name}`' for name in sorted(_MEMBERS))} is needed")
        claims, token, digest = value["claims"], value["endorsement"], value["payload_sha256"]
        if not isinstance(claims, dict) or not isinstance(token, str) or not isinstance(digest, str):
            raise FormatError("a member has the wrong type")
        return cls(endorser(token), _claims(claims), digest, token)

    def check(self, files: Mapping[str, bytes], claims: BundleClaims, path: Path) -> None:
        """Refuse what does not cover just these files under just these claims; raises `FormatError`."""
        for name in _TYPES:
            theirs, ours = _said(getattr(self.claims, name)), _said(getattr(claims, name))
            if theirs != ours:
                raise FormatError(f"`{path}` endorses {name} {theirs}, not {ours}: leave the option out to take theirs")
        if hashlib.sha256(payload(files, claims)).hexdigest() != self.payload_sha256:
            raise FormatError(f"`{path}` endorses other files than this bundle's: `{self.kid}` must endorse this one")


def write(token: str, files: Mapping[str, bytes], claims: BundleClaims) -> bytes:
    """Write what an endorsement's file holds."""
    said = {name: getattr(claims, name) for name in _TYPES}
    value = {
        "claims": {
            name: _stamp(item) if isinstance(item, datetime) else item
            for name, item in said.items()
            if item not in ("", None)
        },
        "endorsement": token,
        "payload_sha256": hashlib.sha256(payload(files, claims)).hexdigest(),
    }
    return (json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode()


def _claims(value: Mapping[str, Json]) -> BundleClaims:
    if unknown := sorted(value.keys() - _TYPES.keys()):
        raise FormatError(f"the claim {quoted(unknown[0])} is not known")
    for name, kind in _TYPES.items():
        if name in value and type(value[name]) is not kind:
            raise FormatError(f"the claim `{name}` is not of type {kind.__name__}")
    if missing := sorted(_NEEDED - value.keys()):
        raise FormatError(f"the claim `{missing[0]}` is missing")
    given: dict[str, Any] = dict(value)
    for name in ("expires_at", "not_before"):
        if name in given:
            given[name] = _time(name, given[name])
    claims = BundleClaims(**given)
    if claims.sequence < 1 or (claims.not_before is not None and claims.not_before >= claims.expires_at):
        raise FormatError("the claims hold at no time")
    return claims


def _time(name: str, text: str) -> datetime:
    if _TIME.fullmatch(text):
        try:
            return datetime.fromisoformat(text).astimezone(UTC)
        except ValueError:
            pass
    raise FormatError(f"the claim `{name}` is no time such as `2027-01-01T00:00:00Z`")


def _said(value: object) -> str:
    if isinstance(value, datetime):
        return _stamp(value)
    return quoted(value) if isinstance(value, str) else str(value or "nothing")


def _stamp(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
