"""Nothing that was changed without enough keys verifies, whatever was done to it."""

from __future__ import annotations

from collections import Counter

import pytest

from exequatur.trust.bundle import verify
from exequatur.trust.errors import TrustError
from mutations import context, mutations, published, tricks, trust

COUNT = 5000


def test_the_bundle_that_is_changed_is_good():
    bundle = verify(published().good, trust(), **context())
    assert (bundle.kids, bundle.owners) == (("alice", "bob"), ("alice", "bob"))
    assert verify(published().newer, trust(), **context()).sequence == bundle.sequence + 1


def test_of_thousands_of_changed_bundles_none_is_accepted():
    accepted, tried, words = [], Counter(), set()
    for mutation in mutations(COUNT):
        tried[mutation.trick] += 1
        try:
            verify(mutation.data, trust(), **context())
        except TrustError as error:
            words.add(str(error))
            continue
        accepted.append((mutation.trick, mutation.number))
    assert accepted == []
    assert set(tried) == set(tricks())
    assert sum(tried.values()) == COUNT
    assert all("\n" not in text and text.isprintable() for text in words)


def test_each_trick_changes_the_bundle():
    for mutation in mutations(10 * len(tricks())):
        assert mutation.data not in (published().good, published().tar), mutation.trick


@pytest.mark.parametrize("cut", range(512, len(published().tar), 512))
def test_a_bundle_cut_at_any_block_is_refused(cut):
    with pytest.raises(TrustError):
        verify(published().tar[:cut], trust(), **context())
