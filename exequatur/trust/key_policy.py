"""`keys.json`: whose keys they are that lie in a folder, what for, until when, and how many owners must sign.

Rules: it is read strictly, as the published schema `keys` says; an unknown member is an error, since it could be one
that takes trust away; `revoked` wins over everything; owners are counted, never keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from exequatur.trust.canonical import JsonError, parse, quoted
from exequatur.trust.errors import FormatError, ScopeError

FILE: Final = "keys.json"
KID: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
MOST_OWNERS: Final = 64
"""How many owners a threshold may ask for, and how many endorsements a bundle may carry."""

_OWNER: Final = re.compile(r"[!-~]{1,256}")
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]{1,256}")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_PURPOSES: Final = ("bundle", "permit", "checkpoint")


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a key is trusted. `tenants` None means every one; `scope` is what OPA calls so."""

    owner: str
    not_after: datetime | None = None
    tenants: frozenset[str] | None = None
    scope: str = ""

    def check(self, kid: str, *, tenant: str | None, scope: str) -> None:
        """Hold the terms against what was signed; raises `ScopeError`."""
        if self.scope != scope:
            raise ScopeError(f"`{kid}` signs for scope {quoted(self.scope)}, and this is signed for {quoted(scope)}")
        if self.tenants is not None and tenant is not None and tenant not in self.tenants:
            raise ScopeError(f"`{kid}` does not sign for tenant {quoted(tenant)}")


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """What `keys.json` says; `terms` by key id."""

    purpose: str
    threshold: int = 1
    terms: Mapping[str, Terms] = field(default_factory=dict)
    revoked: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, data: bytes) -> KeyPolicy:
        """Read a `keys.json`; raises `FormatError`."""
        try:
            value = parse(data)
        except JsonError as error:
            raise _wrong(str(error)) from None
        members = _members(value, "", ("purpose", "threshold", "keys", "revoked", "$schema"), ("purpose", "keys"))
        if members["purpose"] not in _PURPOSES:
            raise _wrong(f"`/purpose` must be one of {', '.join(f'`{name}`' for name in _PURPOSES)}")
        if not isinstance(members.get("$schema", ""), str):
            raise _wrong("`/$schema` must be a text")
        threshold = members.get("threshold", 1)
        if type(threshold) is not int or not 1 <= threshold <= MOST_OWNERS:
            raise _wrong(f"`/threshold` must be a whole number from 1 to {MOST_OWNERS}")
        keys = _members(members["keys"], "/keys")
        terms = {_kid(kid, "/keys"): _terms(f"/keys/{kid}", item) for kid, item in keys.items()}
        revoked = frozenset(_kid(kid, "/revoked") for kid in _texts("/revoked", members.get("revoked", [])))
        policy = cls(members["purpose"], threshold, terms, revoked)
        policy._check()
        return policy

    def _check(self) -> None:
        """Refuse a policy that counts one person twice, or by which nobody could ever sign."""
        spelt: dict[str, str] = {}
        for terms in self.terms.values():
            if spelt.setdefault(terms.owner.lower(), terms.owner) != terms.owner:
                raise _wrong(f"the owner {quoted(terms.owner)} is spelt in two ways: one person would count twice")
        able = max(map(len, self._groups()), default=0)
        if able < self.threshold:
            raise _wrong(
                f"nobody could ever sign: {self.threshold} owners are needed,"
                f" and {able} have keys for one scope and tenant"
            )

    def _groups(self) -> Iterable[set[str]]:
        """For each scope and tenant, the owners who may sign together, but for revocations.

        Revoking so many keys that nobody is left to sign is no mistake that could wait: it takes effect at once.
        """
        listed = self.terms.values()
        tenants = {None}.union(*(terms.tenants or () for terms in listed))
        for scope in {terms.scope for terms in listed}:
            for tenant in tenants:
                yield {
                    terms.owner
                    for terms in listed
                    if terms.scope == scope and (terms.tenants is None or tenant in terms.tenants)
                }


def _terms(where: str, value: Any) -> Terms:
    members = _members(value, where, ("owner", "not_after", "tenants", "scope"), ("owner",))
    owner, scope = members["owner"], members.get("scope", "")
    if not isinstance(owner, str) or not _OWNER.fullmatch(owner):
        raise _wrong(f"`{where}/owner` must be a name of 1 to 256 ASCII characters without spaces, such as an address")
    if not isinstance(scope, str) or (scope and not _NAME.fullmatch(scope)):
        raise _wrong(f"`{where}/scope` must be a text of at most 256 characters without control characters")
    tenants = _texts(f"{where}/tenants", members["tenants"]) if "tenants" in members else None
    if tenants is not None and not tenants:
        raise _wrong(f"`{where}/tenants` must name a tenant: leave it out for all, or revoke the key")
    not_after = _time(f"{where}/not_after", members["not_after"]) if "not_after" in members else None
    return Terms(owner, not_after, None if tenants is None else frozenset(tenants), scope)


def _members(
    value: Any, where: str, known: tuple[str, ...] | None = None, needed: tuple[str, ...] = ()
) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(f"{quoted(where) if where else 'the file'} must be an object")
    if known is not None and (unknown := sorted(value.keys() - set(known))):
        raise _wrong(f"{quoted(f'{where}/{unknown[0]}')} is not known: remove it, or correct its name")
    if missing := [name for name in needed if name not in value]:
        raise _wrong(f"`{where}/{missing[0]}` is missing")
    return value


def _kid(kid: str, where: str) -> str:
    if not KID.fullmatch(kid):
        raise _wrong(f"{quoted(kid)} in `{where}` is no KID: letters, digits, `_`, `-` and `.`")
    return kid


def _texts(where: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) and _NAME.fullmatch(item) for item in value):
        raise _wrong(f"`{where}` must be a list of texts of 1 to 256 characters without control characters")
    if len(set(value)) != len(value):
        raise _wrong(f"`{where}` must not hold the same twice")
    return value


def _time(where: str, value: Any) -> datetime:
    if isinstance(value, str) and _TIME.fullmatch(value):
        try:
            return datetime.fromisoformat(value).astimezone(UTC)
        except ValueError:
            pass
    raise _wrong(f"`{where}` must be a time such as `2027-01-01T00:00:00Z`")


def _wrong(words: str) -> FormatError:
    return FormatError(f"`{FILE}`: {words}")
