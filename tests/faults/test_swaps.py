"""Policy changes, and the keys that sign it do, while callers ask: no call fails, and none is judged by what is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from besieged import besieged, small
from exequatur.trust.bundle import BundleClaims, sign
from exequatur.trust.keys import SigningKey, generate
from signing import public_pem
from stack import until
from swapping import digests, follow, misnamed, outdated

SWAPS = 4
OLD, NEW = (SigningKey.from_pem(f"{kid}.pem", generate("ES256")[0]) for kid in ("old", "new"))


def first() -> bytes:
    return sign(small(), OLD, BundleClaims(1, datetime.now(UTC) + timedelta(days=1)))


def test_bundles_and_keys_change_under_load_and_no_call_notices():
    with besieged(first=first, keys={"old.pem": public_pem(OLD)}) as target:
        before = target.pids
        with target.calls(pause_s=0.05, callers=4) as callers:
            for number in range(SWAPS):
                if number == 1:
                    (target.keys / "new.pem").write_bytes(public_pem(NEW))
                    until(lambda: "new" in target.tenant["keys"]["kids"], what="the new key")
                follow(target, 2 + number, NEW if number >= 1 else OLD)
                if number == 1:
                    (target.keys / "old.pem").unlink()
        assert target.pids == before
        assert target.process.stop() == 0
        records = target.records()
    told = [one for caller in callers for one in caller.told]
    assert [text for caller in callers for text in caller.failed] == []
    assert {one.sequence for one in told} >= {*range(2, 1 + SWAPS)}
    assert all(len(named) == 1 for named in digests(told).values())
    assert misnamed(told, records) == []
    assert outdated(records) == []
    assert [
        record["reason"] for record in records if record["kind"] == "bundle" and record["event"] == "withdrawn"
    ] == []
