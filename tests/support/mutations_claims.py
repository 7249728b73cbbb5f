"""Claims signed with fewer keys than are needed, and with all that was ever endorsed."""

from __future__ import annotations

import json
import random
import re

from exequatur.trust.archive import read_tar, unpack
from exequatur.trust.endorsing import write_endorsement
from exequatur.trust.tokens import SIGNATURES, detached, write_token
from mutations import (
    ALICE,
    BOB,
    LATE,
    MALLORY,
    REX,
    SEQUENCE,
    TWIN,
    Published,
    trick,
    unpart,
)
from mutations_tokens import evil, forged, resigned, signed_as
from signing import compact, part


@trick
def one_stolen_key(base: Published, chance: random.Random) -> bytes:
    return resigned(base, evil(base, chance), chance.choice([ALICE, BOB, TWIN]))


@trick
def a_stolen_key_with_endorsements_that_do_not_count(base: Published, chance: random.Random) -> bytes:
    """Two keys of one owner, a revoked key, a late one, a stranger, and himself."""
    claims = evil(base, chance)
    stolen, helpers = chance.choice(
        [(ALICE, [TWIN]), (TWIN, [ALICE]), (BOB, [REX]), (BOB, [LATE]), (ALICE, [REX, LATE, TWIN])]
    )
    helpers = chance.sample([*helpers, MALLORY], chance.randint(1, len(helpers) + 1))
    if chance.random() < 0.2:
        helpers.append(stolen)
    if chance.random() < 0.2:
        helpers += helpers
    tokens = [write_endorsement(helper, compact(claims)) for helper in helpers]
    return resigned(base, {**claims, "endorsements": tokens}, stolen)


@trick
def a_publisher_who_may_not(base: Published, chance: random.Random) -> bytes:
    """A good endorsement of BOB's does not help a key that is revoked, late or unknown."""
    claims = evil(base, chance)
    token = write_endorsement(BOB, compact(claims))
    return resigned(base, {**claims, "endorsements": [token]}, chance.choice([REX, LATE, MALLORY]))


@trick
def an_endorsement_of_something_else(base: Published, chance: random.Random) -> bytes:
    """ALICE's key is stolen, and BOB has endorsed other things."""
    claims = evil(base, chance)
    old = [base.claims["endorsements"][0], base.alone]
    for other in (base.newer, base.older, base.south, base.expired):
        token = json.loads(read_tar(unpack(other))[SIGNATURES])["signatures"][0]
        old += json.loads(unpart(token.split(".")[1]))["endorsements"]
    token = chance.choice(old)
    head, _, end = token.split(".")
    whole = f"{head}.{part(compact(claims))}.{end}"
    tokens = chance.choice(
        [[token], old, [token, token], [whole], [f"{head}.{end}"], [token + "="], [detached(base.token)]]
    )
    return resigned(base, {**claims, "endorsements": tokens}, ALICE)


@trick
def an_endorsement_of_another_kind(base: Published, chance: random.Random) -> bytes:
    """What BOB signed as a publisher is no endorsement, and an endorsement no publishing."""
    claims = evil(base, chance)
    if chance.random() < 0.5:
        typ = chance.choice(["", "JWT", "exequatur-Endorsement", "exequatur-endorsement "])
        return resigned(base, {**claims, "endorsements": [detached(write_token(BOB, compact(claims), typ))]}, ALICE)
    head, _, end = base.alone.split(".")
    alone = {name: value for name, value in base.claims.items() if name != "endorsements"} | {"sequence": SEQUENCE + 2}
    return signed_as(base, f"{head}.{part(compact(alone))}.{end}")


@trick
def endorsements_taken_out_or_put_in(base: Published, chance: random.Random) -> bytes:
    """ALICE's key is stolen: the claims that BOB endorsed, with one changed."""
    name, value = chance.choice(
        [
            *(("endorsements", []), ("endorsements", ["", ""]), ("endorsements", [1]), ("endorsements", "x")),
            *(
                ("endorsements", base.claims["endorsements"] * 2),
                ("endorsements", None),
                ("endorsements", {}),
            ),
            *(
                ("sequence", SEQUENCE + 1),
                ("exp", base.claims["exp"] + 1),
                ("tenant", "south"),
                ("scope", "prod"),
            ),
            *(
                ("nbf", 0),
                ("nbf", base.claims["exp"] - 1),
                ("files", base.claims["files"][1:]),
                ("raw", {}),
                ("more", 1),
            ),
        ]
    )
    return signed_as(base, forged(base, ALICE, {**base.claims, name: value}))


@trick
def claims_of_another_form(base: Published, chance: random.Random) -> bytes:
    """ALICE's key is stolen: the same claims, in bytes that endorsers did not see, or of other types."""
    whole = compact(base.claims)
    payload = chance.choice(
        [
            *(
                json.dumps(base.claims).encode(),
                whole + b" ",
                b" " + whole,
                whole.replace(b'"exp":', b'"exp":1,"exp":'),
            ),
            *(
                whole.replace(b'"sequence":7', b'"sequence":7.0'),
                whole.replace(b'"sequence":7', b'"sequence":"7"'),
            ),
            *(
                whole.replace(b'"sequence":7', b'"sequence":true'),
                whole.replace(b'"sequence":7', b'"sequence":-7'),
            ),
            *(
                whole.replace(b"default", b"\\u0064efault"),
                whole[:-1] + b',"x":1e400}',
                whole[:-1],
                b"",
                b"[]",
                b"{}",
            ),
            *(
                b"\xef\xbb\xbf" + whole,
                re.sub(rb'"exp":\d+,', b"", whole),
                whole.replace(b"SHA-256", b"SHA-1"),
            ),
            *(
                whole.replace(b"SHA-256", b"MD5"),
                whole.replace(b'"tenant":"default"', b'"tenant":["default"]'),
            ),
            *(
                whole.replace(b'"files":[', b'"files":[{},'),
                re.sub(rb'"files":\[.*?\]', b'"files":[]', whole),
            ),
        ]
    )
    return signed_as(base, write_token(ALICE, payload))
