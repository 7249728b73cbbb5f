"""Every proof that we make holds, and none that was changed does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exequatur.trust.errors import TrustError
from exequatur.trust.merkle import (
    EMPTY_ROOT,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    range_of,
    root,
    verify_consistency,
    verify_inclusion,
)

LEAVES = [leaf_hash(bytes([number])) for number in range(70)]


def test_the_root_of_nothing_is_the_hash_of_nothing():
    assert root([]) == EMPTY_ROOT


@given(st.integers(1, 70), st.data())
def test_every_entry_is_proved_and_no_other(size, data):
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, size, range_of(LEAVES))
    top = root(LEAVES[:size])
    verify_inclusion(index=index, size=size, leaf=LEAVES[index], proof=proof, root=top)
    with pytest.raises(TrustError):
        verify_inclusion(index=index, size=size, leaf=leaf_hash(b"another"), proof=proof, root=top)
    with pytest.raises(TrustError):
        verify_inclusion(index=index, size=size, leaf=LEAVES[index], proof=[*proof, top], root=top)


@given(st.integers(1, 70), st.data())
def test_every_tree_is_proved_to_begin_with_its_past_and_with_no_other(new, data):
    old = data.draw(st.integers(1, new))
    proof = consistency_proof(old, new, range_of(LEAVES))
    before, after = root(LEAVES[:old]), root(LEAVES[:new])
    verify_consistency(old=old, new=new, old_root=before, new_root=after, proof=proof)
    with pytest.raises(TrustError):
        verify_consistency(old=old, new=new, old_root=leaf_hash(b"x"), new_root=after, proof=proof)
    with pytest.raises(TrustError):
        verify_consistency(old=old, new=new, old_root=before, new_root=leaf_hash(b"x"), proof=proof)
