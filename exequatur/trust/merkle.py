"""RFC 6962 Merkle trees: hashes, roots, proofs, and their verification.

Rules: SHA-256 throughout, leaves and nodes are hashed apart (section 2.1), nothing here stores anything. What does
not verify raises `TrustError`; a wrong call is a `ValueError`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence

from exequatur.trust.errors import TrustError

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """Hash one entry."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


Range = Callable[[int, int], bytes]
"""The root of the entries from a first (inclusive) to a last (exclusive), a complete subtree or the right edge."""


def range_of(hashes: Sequence[bytes]) -> Range:
    """Make a `Range` over leaf hashes that are all in memory."""

    def root_of(first: int, last: int) -> bytes:
        if last - first == 1:
            return hashes[first]
        middle = first + split(last - first)
        return node_hash(root_of(first, middle), root_of(middle, last))

    return root_of


def split(size: int) -> int:
    """The largest power of two smaller than `size` (at least 2)."""
    return 1 << (size - 1).bit_length() - 1


def root(hashes: Sequence[bytes]) -> bytes:
    """The root over leaf hashes; of none, the hash of nothing."""
    return range_of(hashes)(0, len(hashes)) if hashes else EMPTY_ROOT


def inclusion_proof(index: int, size: int, root_of: Range) -> list[bytes]:
    """The audit path of entry `index` in a tree of `size` entries (section 2.1.1)."""
    if not 0 <= index < size:
        raise ValueError(f"entry {index} is not in a tree of {size}")
    proof: list[bytes] = []
    first, last = 0, size
    while last - first > 1:
        middle = first + split(last - first)
        if index < middle:
            proof.append(root_of(middle, last))
            last = middle
        else:
            proof.append(root_of(first, middle))
            first = middle
    return proof[::-1]


def consistency_proof(old: int, new: int, root_of: Range) -> list[bytes]:
    """Prove that the tree of `new` entries begins with the tree of `old` (section 2.1.2)."""
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} cannot begin with one of {old}")
    if old in (0, new):
        return []
    proof: list[bytes] = []
    first, last, whole = 0, new, True
    while last != old:
        middle = first + split(last - first)
        if old <= middle:
            proof.append(root_of(middle, last))
            last = middle
        else:
            proof.append(root_of(first, middle))
            first, whole = middle, False
    if not whole:
        proof.append(root_of(first, last))
    return proof[::-1]


def verify_inclusion(*, index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Check that `leaf` (a leaf hash) is entry `index` of the tree (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        raise TrustError(f"entry {index} is not in a tree of {size}")
    node, last, computed = index, size - 1, _hashes([leaf])[0]
    for sibling in _hashes(proof):
        if last == 0:
            raise TrustError("the inclusion proof is too long")
        if node & 1 or node == last:
            computed = node_hash(sibling, computed)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        node, last = node >> 1, last >> 1
    if last != 0 or not hmac.compare_digest(computed, root):
        raise TrustError("the inclusion proof does not lead to the root")


def verify_consistency(  # noqa: C901  the RFC's steps, one by one
    *, old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree of `new` entries begins with the tree of `old` (RFC 9162, section 2.1.4.2).

    Every tree begins with the empty one: there is nothing to prove, so asking is an error.
    """
    if not 0 < old <= new:
        raise TrustError(f"a tree of {new} entries is not proved to follow one of {old}")
    if old == new:
        if proof or not hmac.compare_digest(old_root, new_root):
            raise TrustError(f"two trees of {new} entries differ")
        return
    path = list(_hashes(proof))
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    if not path:
        raise TrustError("the consistency proof is empty")
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    before = after = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise TrustError("the consistency proof is too long")
        if node & 1 or node == last:
            before, after = node_hash(sibling, before), node_hash(sibling, after)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            after = node_hash(after, sibling)
        node, last = node >> 1, last >> 1
    if last != 0 or not hmac.compare_digest(before, old_root) or not hmac.compare_digest(after, new_root):
        raise TrustError("the consistency proof does not lead from the old root to the new one")


def _hashes(proof: Sequence[bytes]) -> Sequence[bytes]:
    if any(len(item) != hashlib.sha256().digest_size for item in proof):
        raise TrustError("a proof holds something that is no SHA-256")
    return proof
