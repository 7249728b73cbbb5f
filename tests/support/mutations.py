"""Thousands of bundles that somebody changed without the keys: the same ones in each run, and none may be accepted.

`mutations(count)` goes round all tricks, each time with other choices; a family of tricks is a file
`mutations_<family>.py`, whose functions are marked `@trick`. What the attacker has: everything that was ever
published (`Published`), and keys of his own, one that was revoked, one past its time, and one of an owner who signed
already. What he lacks: as many keys of owners as are needed.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import importlib
import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from exequatur.trust.archive import read_tar, unpack
from exequatur.trust.bundle import BundleClaims, Floor, endorse, sign
from exequatur.trust.keys import BundleKeys, SigningKey, generate
from exequatur.trust.tokens import SIGNATURES
from signing import LATER, NOW, dev_key, key_set

FILES = {
    ".manifest": b'{"revision":"r1","roots":["exequatur","hosts"]}',
    "data.json": b'{"hosts": ["example.com"], "limit": 1.50}',
    "p.cedar": b"permit (principal, action, resource);\n",
    "d/decision.rego": b"package exequatur\n\ndecision := {}\n",
    "tools.json": b'{"tools": {}}',
}
SEQUENCE = 7
TENANT = "default"
BLOCK = 512

Trick = Callable[["Published", random.Random], bytes]
_TRICKS: dict[str, Trick] = {}


@dataclasses.dataclass(frozen=True)
class Mutation:
    """A changed bundle, and what was done to it."""

    trick: str
    number: int
    data: bytes


@functools.cache
def curve_key(kid: str) -> SigningKey:
    """Give the key `kid` of P-256."""
    return SigningKey.from_pem(f"{kid}.pem", generate("ES256")[0])


ALICE, BOB = dev_key("alice"), curve_key("bob")
MALLORY, TWIN, REX, LATE = (curve_key(kid) for kid in ("mallory", "twin", "rex", "late"))


@functools.cache
def trust() -> BundleKeys:
    """Give the keys that are trusted: two owners must sign."""
    return key_set(
        *(ALICE, BOB, TWIN, REX, LATE),
        threshold=2,
        revoked=("rex",),
        twin={"owner": "alice"},
        late={"not_after": f"{NOW - timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"},
    )


@dataclasses.dataclass(frozen=True)
class Published:
    """What was ever published, and with it the parts of the bundle that is changed."""

    good: bytes
    tar: bytes
    files: dict[str, bytes]
    token: str
    claims: dict[str, Any]
    newer: bytes
    older: bytes
    south: bytes
    expired: bytes
    early: bytes
    alone: str
    """The endorsement of BOB that was stolen before ALICE published."""

    @property
    def contents(self) -> dict[str, bytes]:
        """The files without the signature."""
        return {name: content for name, content in self.files.items() if name != SIGNATURES}


def publish(files: dict[str, bytes], claims: BundleClaims, publisher: SigningKey = ALICE) -> bytes:
    """Sign as it should be: ALICE publishes what BOB endorsed."""
    return sign(files, publisher, claims, [endorse(files, BOB, claims)])


@functools.cache
def published() -> Published:
    """Publish once a run."""
    claims = BundleClaims(SEQUENCE, LATER, tenant=TENANT)
    good = publish(FILES, claims)
    files = read_tar(unpack(good))
    token = json.loads(files[SIGNATURES])["signatures"][0]

    def other(content: bytes = b"forbid (principal, action, resource);\n", **changed: Any) -> bytes:
        return publish({**FILES, "p.cedar": content}, dataclasses.replace(claims, **changed))

    return Published(
        good,
        unpack(good),
        files,
        token,
        json.loads(unpart(token.split(".")[1])),
        newer=other(sequence=SEQUENCE + 1),
        older=other(sequence=SEQUENCE - 1),
        south=other(tenant="south"),
        expired=other(expires_at=NOW),
        early=other(not_before=NOW + timedelta(seconds=1)),
        alone=endorse(FILES, BOB, dataclasses.replace(claims, sequence=SEQUENCE + 2)),
    )


def floor() -> Floor:
    """The floor of a consumer that serves the bundle already."""
    return Floor(SEQUENCE, hashlib.sha256(published().tar).digest())


def context() -> dict[str, Any]:
    """Give what `verify` is asked with, beside the archive and the keys."""
    return {"now": NOW, "tenant": TENANT, "floor": floor()}


def mutations(count: int, seed: int = 6962) -> Iterator[Mutation]:
    """Give `count` mutations; the first ones are the same for each count."""
    base = published()
    turns = itertools.cycle(sorted(tricks().items()))
    for number, (name, trick) in enumerate(itertools.islice(turns, count)):
        yield Mutation(name, number, trick(base, random.Random(f"{seed}/{number}")))


def tricks() -> Mapping[str, Trick]:
    """Give the tricks of all families by name."""
    for file in sorted(Path(__file__).parent.glob("mutations_*.py")):
        importlib.import_module(file.stem)
    return _TRICKS


def unpart(text: str) -> bytes:
    """Decode a part of a token."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def trick(function: Trick) -> Trick:
    """Mark what changes a bundle."""
    _TRICKS[function.__name__.replace("_", " ")] = function
    return function


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Flip some bits of a few bytes."""
    changed = bytearray(data)
    while bytes(changed) == data:
        for _ in range(chance.choice([1, 1, 1, 2, 8])):
            changed[chance.randrange(len(data))] ^= chance.randint(1, 255)
    return bytes(changed)
