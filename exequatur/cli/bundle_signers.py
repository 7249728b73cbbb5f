"""Who signs, and under which claims, as the options of `sign` and `endorse` say it.

Rules: one key, from a file or behind a command; a time is absolute once it is read, so that all who sign one bundle
sign the same; what an endorsement says is taken where an option says nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeAlias

from exequatur.cli.console import fail
from exequatur.cli.endorsements import Endorsement
from exequatur.signer import CommandSigner
from exequatur.trust.bundle import BundleClaims
from exequatur.trust.errors import FormatError
from exequatur.trust.keys import ALGORITHMS, SigningKey, parse_key_set

_SPAN: Final = re.compile(r"(?P<number>[1-9][0-9]{0,5})(?P<unit>[mhd])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}

AnySigner: TypeAlias = SigningKey | CommandSigner


@dataclass(frozen=True, slots=True)
class Who:
    """The options that name a key."""

    key: Path | None
    kid: str
    command: str
    public: Path | None
    digest: bool

    def signer(self) -> AnySigner:
        """Find the key. Raises `TrustError`, `SignerError` and `OSError`."""
        if (self.key is None) == (not self.command):
            fail("name who signs: `--key FILE`, or `--command '...'` with `--public KID.pem`")
        if self.key is not None:
            if self.public is not None or self.digest:
                fail("`--public` and `--digest` go with `--command`: a key file has both halves")
            return self._private(self.key)
        if self.public is None:
            fail("`--command` needs `--public KID.pem`, by which its signature is verified")
        keys = parse_key_set({self._name(self.public): self.public.read_bytes()}).keys
        return CommandSigner.parse(self.command, next(iter(keys.values())), digest=self.digest)

    def _private(self, path: Path) -> SigningKey:
        if path.is_dir():
            names = sorted(path.glob("*.key"))
            fail(f"`--key {path}` is a folder: name the key file" + (f", such as `{names[0]}`" if names else ""))
        try:
            return SigningKey.from_pem(self._name(path), path.read_bytes())
        except FormatError as error:
            raise type(error)(f"`--key {path}`: {error}") from None

    def _name(self, path: Path) -> str:
        """Give the name that says id and algorithm: the file's own, or with another id."""
        if not self.kid:
            return f"{path.stem}.pem"
        named = path.stem.rpartition(".")[2]
        return f"{self.kid}.{named}.pem" if named in ALGORITHMS else f"{self.kid}.pem"


@dataclass(frozen=True, slots=True)
class Terms:
    """The options that say what is claimed; empty where nothing was said."""

    sequence: int | None
    expires: str
    not_before: str
    tenant: str
    scope: str

    def claims(self, endorsement: Endorsement | None, now: datetime) -> BundleClaims:
        """Give the claims in full, to the second, as signatures have them."""
        said = endorsement.claims if endorsement else None
        if said is None and (self.sequence is None or not self.expires):
            fail("`--sequence` and `--expires` are needed, or an `--endorsement` that says them")
        claims = BundleClaims(
            self.sequence or (said.sequence if said else 0),
            _time("--expires", self.expires, now) if self.expires or said is None else said.expires_at,
            _time("--not-before", self.not_before, now) if self.not_before else said.not_before if said else None,
            self.tenant or (said.tenant if said else "default"),
            self.scope or (said.scope if said else ""),
        )
        start = max(now, claims.not_before or now)
        if claims.expires_at <= start:
            after = "now" if start == now else f"`--not-before`, {start:%Y-%m-%dT%H:%M:%SZ}"
            ends = f"{claims.expires_at:%Y-%m-%dT%H:%M:%SZ}, which is not after {after}"
            if said is None or self.expires:
                fail(f"`--expires` is {ends}: the bundle would never be valid")
            fail(f"what is endorsed expires at {ends}: have it endorsed anew, with a later `--expires`")
        return claims


def _time(option: str, text: str, now: datetime) -> datetime:
    """Read a time, or a span from now."""
    if span := _SPAN.fullmatch(text):
        return now + timedelta(**{_UNITS[span["unit"]]: int(span["number"])})
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        fail(f"`{option}` must be `30d`, `12h`, `90m`, or a time with its zone such as `2027-01-01T00:00:00Z`")
    return time.astimezone(UTC).replace(microsecond=0)
