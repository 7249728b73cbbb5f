"""Many more changed bundles than each run of the tests has time for: none verifies."""

from __future__ import annotations

import pytest

from exequatur.trust.bundle import verify
from exequatur.trust.errors import TrustError
from mutations import context, mutations, tricks, trust

pytestmark = pytest.mark.conformance

COUNT = 30_000


def test_of_many_thousands_of_changed_bundles_none_is_accepted(tally):
    accepted = []
    for mutation in mutations(COUNT, seed=7):
        try:
            verify(mutation.data, trust(), **context())
        except TrustError:
            continue
        accepted.append((mutation.trick, mutation.number))
    tally("changed bundles", COUNT, refused=COUNT - len(accepted), wrong=len(accepted), note=f"{len(tricks())} tricks")
    assert accepted == []
