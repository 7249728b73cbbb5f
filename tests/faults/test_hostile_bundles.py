"""Bundles made to crash, hang, fill or fool a decision point, put in front of one that serves: each refused by name.

The supervisor and its workers must be the same processes at the end, no call may have failed, and none of them may have
taken much memory. What is cheap to refuse is here, with a few that are not; all of them are in tests/conformance.
"""

from __future__ import annotations

import re

import bank
from besieged import besieged
from hostile_bundles import CHOSEN, CORPUS

MEMORY: int = 400 * 2**20
"""What a process of ours may have had at the most, in bytes: an archive is read whole, unpacked, and written again."""


def test_hostile_bundles_are_refused_by_name_and_nobody_notices():
    with (
        besieged(first=lambda: bank.archive(engine="cedar"), workers=1) as target,
        target.calls(pause_s=0.1) as (caller,),
    ):
        before = target.pids
        for number, name in enumerate(CHOSEN, start=2):
            target.put(f"{name}.tar.gz", CORPUS[name].make(number))
        said = {name: target.refused(f"{name}.tar.gz") for name in CHOSEN}
        wrong = {name: line for name, line in said.items() if not re.search(CORPUS[name].why, line)}
        assert wrong == {}
        assert target.pids == before
        assert target.most_memory < MEMORY
    assert caller.failed == []
    assert {told.sequence for told in caller.told} == {1}
