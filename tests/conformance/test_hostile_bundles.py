"""Bundles that are large in the way that costs most: refused within seconds by the process that proves them."""

from __future__ import annotations

import json
import os
import re
import time
from datetime import UTC, datetime, timedelta

import pytest

import bank
from exequatur.trust.bundle import BundleClaims, sign
from exequatur.trust.errors import FormatError
from exequatur.trust.keys import parse_key_set
from pdp.bundle.build import compile_rego, find_opa
from pdp.bundle.proving import BundleRejected, prove

pytestmark = pytest.mark.conformance

SECONDS = 5
"""Of processor time, on a machine with nothing else to do; the tests allow for one that has."""
RULES = 100_000


def refusal(**changed: bytes) -> tuple[str, float]:
    """Give why a bundle is not signed, or not proved, and the seconds of processor time that it took to say so."""
    now, keys = datetime.now(UTC), parse_key_set({"bank.pem": bank.public_pem()})
    before, begun = sum(os.times()[:4]), time.monotonic()
    with pytest.raises((BundleRejected, FormatError)) as caught:
        prove(publish(changed, now), keys, now=now)
    return str(caught.value), min(time.monotonic() - begun, sum(os.times()[:4]) - before)


def publish(changed: dict[str, bytes], now: datetime) -> bytes:
    claims = BundleClaims(2, now + timedelta(days=1))
    return sign({**bank.files(), **changed}, bank.signing_key(), claims)


WIDE = b"{" + b",".join(b'"%d":0' % number for number in range(600_000)) + b"}"
LARGE = json.dumps({"x": [list(range(100))] * 12_000}).encode()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"data.json": WIDE}, r"`data\.json`: .*members"),
        ({"data.json": LARGE}, r"`data\.json`: .*members|`policy\.wasm`: .*(memory|stopped)"),
        ({"tools.json": b'{"tools":' + WIDE + b"}"}, r"`tools\.json`: .*members"),
        ({"x.cedar": b"// " + b"x" * 10_000_000}, r"`x\.cedar`: it has \d+ bytes"),
    ],
    ids=["wide-data", "large-data", "wide-tools", "ten-megabytes"],
)
def test_a_large_bundle_is_refused_in_time(changed, why, tally):
    said, seconds = refusal(**changed)
    right = bool(re.search(why, said)) and seconds < 2 * SECONDS
    tally(f"hostile bundles: {min(changed)}, {len(min(changed.values())):,} bytes", 1, wrong=not right)
    assert re.search(why, said), said
    assert seconds < 2 * SECONDS


def test_a_hundred_thousand_rules_of_rego_are_refused_in_time(tally):
    rules = "".join(
        f'deny contains {{"id": "r{n}", "reason": "no"}} if input.tool.name == "t{n}"\n' for n in range(RULES)
    )
    source = f'package exequatur\n\ndecision := {{"deny": deny}}\n\n{rules}'.encode()
    module = compile_rego({"decision.rego": source, "data.json": b"{}"}, "exequatur/decision", find_opa(os.environ))
    said, seconds = refusal(**{"policy.wasm": module})
    tally("hostile bundles: 100,000 rules of Rego", 1, wrong=seconds >= 2 * SECONDS)
    assert said.startswith("`policy.wasm`: not a WebAssembly module"), said
    assert seconds < 2 * SECONDS
