"""Proofs of what a tree holds under a key: built from its pages, verified from a root alone."""

from collections.abc import Callable
from hashlib import sha256
from typing import Annotated

from msgspec import Meta

from atpar.ledger.codec import Wire
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.hashing import HashTag
from atpar.ledger.limits import MAX_SUM, MAX_TREE_DEPTH, MAX_TREE_KEY_BYTES, TREE_FANOUT
from atpar.ledger.pages import (
    HASHED_AT,
    SLOT_BYTES,
    TOP,
    compute_sum,
    find_item,
    read_masks,
    read_u64,
)
from atpar.ledger.tree import (
    EMPTY_ROOT,
    NodeReader,
    TreeRoot,
    compute_head,
    compute_leaf_hash,
    compute_node_key,
    compute_path,
)

Sum = Annotated[int, Meta(ge=0, le=MAX_SUM, extra={"json": "decimal"})]
"""Minor units that some accounts hold together."""


class TreeStep(Wire, frozen=True):
    """One node on the way from the root: its occupied slots but the one on the path."""

    occupancy: Annotated[int, Meta(ge=0, le=65_535)]
    siblings: Annotated[bytes, Meta(max_length=TREE_FANOUT * SLOT_BYTES)]
    """[hash, sum u64] of each, in slot order."""


class TreeLeaf(Wire, frozen=True):
    """One entry of a tree."""

    key: Annotated[bytes, Meta(min_length=1, max_length=MAX_TREE_KEY_BYTES)]
    value: bytes
    amount: Sum


class TreeProof(Wire, frozen=True):
    """Shows what a tree holds under one key, or that it holds nothing there."""

    steps: Annotated[tuple[TreeStep, ...], Meta(max_length=MAX_TREE_DEPTH)]
    """Root first. None at all: the tree is empty."""
    leaf: TreeLeaf | None
    """The entry; or another key's entry on the path, which shows absence; null: an empty slot."""


def prove(
    reader: NodeReader, tree: bytes, key: bytes, read_value: Callable[[bytes], bytes]
) -> TreeProof:
    """Return the proof of what the tree holds under a key, or that it holds nothing.

    `read_value` returns the value of a key that the tree holds: the wanted one, or the one that
    stands on its path when it is absent.
    """
    path, root_key = compute_path(key), compute_node_key(tree)
    page, node = reader.get_node(root_key), 0
    if page is None:
        return TreeProof((), None)
    steps: list[TreeStep] = []
    for depth, nibble in enumerate(path):
        (leaves, inside, occupancy), bit = read_masks(page, node), 1 << nibble
        slots, slot, top = node + TOP[0], node + TOP[occupancy & bit - 1], node + TOP[occupancy]
        after = slot + SLOT_BYTES if occupancy & bit else slot
        steps.append(TreeStep(occupancy, page[slots:slot] + page[after:top]))
        if not occupancy & bit:
            return TreeProof(tuple(steps), None)
        if leaves & bit:
            start, end = find_item(page, top, occupancy, bit)
            found, (amount,) = page[start:end], read_u64(page, slot + 32)
            return TreeProof(tuple(steps), TreeLeaf(found, read_value(found), amount))
        if inside & bit:
            node, _ = find_item(page, top, occupancy, bit)
            continue
        page, node = reader.get_node(root_key + path[: depth + 1]), 0
        if page is None:
            raise AssertionError(f"node missing at {path[: depth + 1]!r}")
    raise AssertionError(f"two keys share the hash {path!r}")


def verify_tree_proof(
    proof: TreeProof, *, tree: bytes, key: bytes, root: TreeRoot
) -> TreeLeaf | None:
    """Return the entry that the root commits to under the key, or None where it has none.

    The path comes from the key and every sum from the parts; nothing else is believed.

    Raises:
        ProofInvalid: the proof does not lead to the root's hash and total.
    """
    path, leaf = compute_path(key), proof.leaf
    depth = len(proof.steps)
    if leaf is not None and compute_path(leaf.key)[:depth] != path[:depth]:
        raise ProofInvalid("leaf: its key does not lie on the path of the wanted one")
    if not proof.steps:
        computed = EMPTY_ROOT
        if leaf is not None:
            raise ProofInvalid("leaf: outside any node")
    else:
        computed = _climb(proof, tree, path)
    if computed != root:
        raise ProofInvalid(
            f"root: the proof leads to {computed.hash.hex()} with the sum {computed.total}, "
            f"the tree has {root.hash.hex()} with {root.total}"
        )
    return leaf if leaf is not None and leaf.key == key else None


def _climb(proof: TreeProof, tree: bytes, path: bytes) -> TreeRoot:
    head, leaf, slot, total = compute_head(HashTag.NODE, tree), proof.leaf, b"", 0
    if leaf is not None:
        digest = compute_leaf_hash(tree, leaf.key, leaf.value)
        slot = digest + leaf.amount.to_bytes(8, "big")
    for depth in range(len(proof.steps) - 1, -1, -1):
        step, nibble = proof.steps[depth], path[depth]
        if (step.occupancy >> nibble & 1) != bool(slot):
            raise ProofInvalid(f"steps[{depth}]: the slot on the path is not as claimed")
        count = step.occupancy.bit_count() - bool(slot)
        if len(step.siblings) != count * SLOT_BYTES:
            raise ProofInvalid(f"steps[{depth}]: {len(step.siblings)} bytes for {count} siblings")
        split = (step.occupancy & (1 << nibble) - 1).bit_count() * SLOT_BYTES
        node = b"%b%b%b%b%b" % (
            head,
            step.occupancy.to_bytes(2, "big"),
            step.siblings[:split],
            slot,
            step.siblings[split:],
        )
        total = compute_sum(bytes(HASHED_AT) + node)
        if total > MAX_SUM:
            raise ProofInvalid(f"steps[{depth}]: the sum {total} is above {MAX_SUM}")
        slot = sha256(node).digest() + total.to_bytes(8, "big")
    return TreeRoot(slot[:32], total)
