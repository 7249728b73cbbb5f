"""Whose signatures stand behind a bundle: its publisher's, and those of who endorsed it.

Rules: an endorsement is a detached JWS over the payload without endorsements, marked as one by `typ`; one that a known
key did not make is a refusal; one by a key that is unknown, revoked, past its time, or for others, counts for nothing;
owners are counted, never keys.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from exequatur.trust.canonical import JsonError, canonical
from exequatur.trust.errors import FormatError, SignatureError, ThresholdError, TrustError
from exequatur.trust.key_policy import MOST_OWNERS
from exequatur.trust.keys import BundleKeys, PublicKey
from exequatur.trust.opened import FOREVER
from exequatur.trust.tokens import ENDORSEMENT, Signer, attached, detached, read_part, write_token


@dataclass(frozen=True, slots=True)
class Signers:
    """Who signed a bundle, publisher first, and until when there are enough of them."""

    kids: tuple[str, ...]
    owners: tuple[str, ...]
    until: datetime


def write_endorsement(signer: Signer, payload: bytes) -> str:
    """Endorse a payload that carries no endorsements."""
    return detached(write_token(signer, payload, ENDORSEMENT))


def endorser(endorsement: str) -> str:
    """Give the key's id of an endorsement that nobody verified; raises `SignatureError`."""
    header = read_part(attached(endorsement, b"").partition(".")[0])
    kid = header.get("kid")
    if header.get("typ") != ENDORSEMENT or not isinstance(kid, str) or not kid:
        raise SignatureError("an endorsement does not say so, or names no key")
    return kid


def payload_of(claims: Mapping[str, Any]) -> bytes:
    """Write claims in the one form in which they are signed; raises `FormatError`."""
    try:
        return canonical(dict(claims))
    except JsonError as error:
        raise FormatError(f"the signed payload: {error}") from None


def distinct(kids: Iterable[str]) -> tuple[str, ...]:
    """Refuse that a key signs twice, and more signatures than anybody needs."""
    seen = tuple(itertools.islice(kids, MOST_OWNERS + 1))
    if len(seen) > MOST_OWNERS:
        raise FormatError(f"the bundle has more than {MOST_OWNERS} signatures")
    if twice := sorted({kid for kid in seen if seen.count(kid) > 1}):
        raise FormatError(f"`{twice[0]}` signed the bundle twice: publisher and endorsers are different keys")
    return seen


def check_endorsements(
    publisher: str, claims: Mapping[str, Any], keys: BundleKeys, now: datetime
) -> tuple[list[PublicKey], dict[str, str]]:
    """Verify each endorsement; gives the keys of those that count, and why others do not."""
    endorsements: list[str] = claims.get("endorsements", [])
    kids = distinct([publisher, *map(endorser, endorsements)])[1:]
    payload = payload_of({name: value for name, value in claims.items() if name != "endorsements"})
    good, idle = [], {}
    for kid, endorsement in zip(kids, endorsements, strict=True):
        try:
            key = keys.get(kid, now)
            keys.policy.terms[kid].check(kid, tenant=claims.get("tenant"), scope=claims.get("scope", ""))
        except TrustError as error:
            idle[kid] = str(error)
            continue
        try:
            key.verify(attached(endorsement, payload), (ENDORSEMENT,))
        except SignatureError:
            raise SignatureError(
                f"the endorsement by `{kid}` is not of this bundle with these claims: endorse it anew"
            ) from None
        good.append(key)
    return good, idle


def count_owners(signed: Iterable[PublicKey], idle: Mapping[str, str], keys: BundleKeys) -> Signers:
    """Refuse signatures of fewer owners than needed (`ThresholdError`); the publisher's is the first."""
    kids = tuple(key.kid for key in signed)
    ends: dict[str, datetime] = {}
    for kid in kids:
        terms = keys.policy.terms[kid]
        ends[terms.owner] = max(ends.get(terms.owner, terms.not_after or FOREVER), terms.not_after or FOREVER)
    if len(ends) < keys.threshold:
        why = "".join(f"; {words}" for words in idle.values())
        raise ThresholdError(f"{len(ends)} of the {keys.threshold} owners needed have signed: {', '.join(ends)}{why}")
    enough = sorted(ends.values(), reverse=True)[keys.threshold - 1]
    return Signers(kids, tuple(ends), min(enough, keys.policy.terms[kids[0]].not_after or FOREVER))
