"""The whole corpus of hostile bundles, one by one, in front of one decision point that goes on judging."""

from __future__ import annotations

import re
import time

import pytest

from besieged import besieged
from hostile_bundles import CORPUS

pytestmark = pytest.mark.conformance

MEMORY: int = 400 * 2**20


def test_each_hostile_bundle_is_refused_by_name_and_nobody_notices(tally):
    slowest = (0.0, "")
    wrong: dict[str, str] = {}
    with besieged() as target, target.calls() as (caller,):
        before = target.pids
        for number, (name, one) in enumerate(CORPUS.items(), start=2):
            path = target.put(f"{name}.tar.gz", one.make(number))
            begun = time.monotonic()
            line = target.refused(path.name, timeout_s=180)
            slowest = max(slowest, (time.monotonic() - begun, name))
            path.unlink()
            if not re.search(one.why, line):
                wrong[name] = line
        memory, after = target.most_memory, target.pids
    note = f"slowest: {slowest[1]}, {slowest[0]:.0f} s; peak {memory // 2**20} MiB; {len(caller.told):,} calls"
    tally("hostile bundles", len(CORPUS), refused=len(CORPUS) - len(wrong), wrong=len(wrong), note=note)
    assert wrong == {}
    assert after == before
    assert caller.failed == []
    assert memory < MEMORY
