"""Others' RFC 6962 proofs, good and bad: each is taken or refused as they say."""

from __future__ import annotations

import base64
import json

import pytest

from exequatur.trust.errors import TrustError
from exequatur.trust.merkle import verify_consistency, verify_inclusion
from others import members

pytestmark = pytest.mark.conformance


def holds(case: dict) -> bool:
    raw = base64.b64decode
    proof = [raw(item) for item in case["proof"] or []]
    try:
        if "leafIdx" in case:
            leaf, root = raw(case["leafHash"] or ""), raw(case["root"] or "")
            verify_inclusion(index=case["leafIdx"], size=case["treeSize"], leaf=leaf, proof=proof, root=root)
        else:
            old, new = raw(case["root1"] or ""), raw(case["root2"] or "")
            verify_consistency(old=case["size1"], new=case["size2"], old_root=old, new_root=new, proof=proof)
    except TrustError:
        return False
    return True


@pytest.mark.parametrize("kind", ["inclusion", "consistency"])
def test_every_proof_is_judged_as_its_makers_say(kind, tally):
    cases = [
        (name, json.loads(content))
        for name, content in members("merkle-proofs.tar.gz")
        if f"testdata/{kind}/" in name and name.endswith(".json")
    ]
    wrong = [name for name, case in cases if holds(case) is case["wantErr"]]
    tally(f"RFC 6962 {kind} proofs", len(cases), wrong=len(wrong))
    assert len(cases) == 98
    assert wrong == []
