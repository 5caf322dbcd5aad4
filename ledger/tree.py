"""The 16-ary sparse Merkle-sum tree behind the state root: batch update, root, proof.

A tree maps keys to values with an amount each; its root commits to every entry and to the sum of
all amounts. The balances of one asset are one tree (the amount is `posted`, so the root's sum is
what all accounts hold together); every other section is a tree whose amounts are 0.

    leaf = H(leaf, id, full key, value)
    node = H(node, id, 16-bit occupancy, 16 x [child hash, child sum u64], zeros where empty)

`id` and key are length-prefixed. A leaf sits at the shallowest unique prefix, at least one nibble
long, of the hash of its key; a node exists exactly where two or more leaves share a prefix, and at
the root. So the shape depends on the contents alone. The empty tree has the root of 32 zero bytes.

Sixteen-way because Python pays per hash call, not per byte: a million entries are five levels. A
block's changes are sorted by key hash and applied depth first, so every touched node is read,
rebuilt and hashed once.

Nodes are kept as bytes in the overlays next to the records (`View.get_node`, `Overlay.nodes`),
under tree id + path in hexadecimal digits:

    occupancy u16 | 16 x [hash 32, sum u64] | leaf mask u16 | u8 length of each leaf's key | keys

The first 642 bytes are what is hashed. The keys let a leaf be pushed down, pulled up, or shown in
a proof, without searching the records.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Final, NamedTuple, Protocol

from msgspec import Meta

from atpar.ledger.codec import Wire, encode
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.hashing import HashTag, compute_hash
from atpar.ledger.limits import MAX_SUM, MAX_TREE_DEPTH, TREE_FANOUT
from atpar.ledger.state import Overlay
from atpar.ledger.types import ZERO_HASH, AssetCode, Hash, TimeMs

MAX_ASSET_ROWS: Final = 10_000
"""Assets that one state table can list."""
MAX_KEY_BYTES: Final = 255
"""A key's length is one byte in hashes and in nodes."""

_SLOT: Final = 40
_SLOTS_AT: Final = 2
_MASK_AT: Final = _SLOTS_AT + TREE_FANOUT * _SLOT
_KEYS_AT: Final = _MASK_AT + 2
_EMPTY_BODY: Final = bytes(_MASK_AT)
_KEY_PREFIX: Final = HashTag.KEY.value
_NIBBLE: Final = [int(chr(c), 16) if chr(c) in "0123456789abcdef" else 0 for c in range(128)]
_HEX: Final = [b"%x" % n for n in range(TREE_FANOUT)]
_SUMS: Final = struct.Struct(">" + "32xQ" * TREE_FANOUT)


class NodeReader(Protocol):
    """Where nodes are read from: any `View`."""

    def get_node(self, key: bytes) -> bytes | None:
        """Return the encoded tree node under a key, or None."""


class TreeChange(NamedTuple):
    """One entry to write: its full key, its value (None deletes), its part of the sum."""

    key: bytes
    value: bytes | None
    amount: int = 0
    """Minor units, 0 <= amount <= MAX_SUM; 0 outside balances, and for a deletion."""


@dataclass(frozen=True, slots=True)
class TreeRoot:
    """What a tree commits to: the root hash, and the sum of all amounts."""

    hash: bytes
    total: int


EMPTY_ROOT: Final = TreeRoot(ZERO_HASH, 0)
"""The root of every tree without entries."""


def compute_section_tree(section: int) -> bytes:
    """Return the tree id of a section of records, by its number."""
    return b"s" + section.to_bytes(1, "big")


def compute_asset_tree(code: str) -> bytes:
    """Return the tree id of the balances of an asset."""
    return b"a" + code.encode("ascii")


def compute_key_hash(key: bytes) -> bytes:
    """Return the 32-byte hash whose nibbles are the path of a key."""
    return sha256(_KEY_PREFIX + key).digest()


def _compute_path(key: bytes) -> bytes:
    return compute_key_hash(key).hex().encode()


def compute_leaf_hash(tree: bytes, key: bytes, value: bytes) -> bytes:
    """Return the hash of one entry."""
    return sha256(
        b"%b%c%b%c%b%b" % (HashTag.LEAF.value, len(tree), tree, len(key), key, value)
    ).digest()


def _node_hash_prefix(tree: bytes) -> bytes:
    return b"%b%c%b" % (HashTag.NODE.value, len(tree), tree)


def _node_key_prefix(tree: bytes) -> bytes:
    return b"%c%b" % (len(tree), tree)


# ---- update


class _Child(NamedTuple):
    """What a slot holds: its 40 bytes, and for a leaf its full key."""

    slot: bytes
    key: bytes | None


class _Item(NamedTuple):
    """One change, ready to place: path digits, and the new leaf (None deletes)."""

    path: bytes
    leaf: _Child | None


def update_tree(overlay: Overlay, tree: bytes, changes: Iterable[TreeChange]) -> TreeRoot:
    """Apply changes to a tree, write its nodes into the overlay, return the new root.

    Of several changes to one key the last counts; deleting an absent key does nothing.

    Raises:
        AssertionError: an amount or a sum left 0..MAX_SUM, which the rules of money exclude.
    """
    return _Update(overlay, tree).run(changes)


class _Update:
    """One batch of changes to one tree."""

    def __init__(self, overlay: Overlay, tree: bytes) -> None:
        self._tree = tree
        self._overlay = overlay
        self._key_prefix = _node_key_prefix(tree)
        self._hash_prefix = _node_hash_prefix(tree)

    def run(self, changes: Iterable[TreeChange]) -> TreeRoot:
        items = self._prepare(changes)
        if not items:
            return get_root(self._overlay, self._tree)
        self._update_node(b"", items)
        return get_root(self._overlay, self._tree)

    def _prepare(self, changes: Iterable[TreeChange]) -> list[_Item]:
        by_path: dict[bytes, _Item] = {}
        for key, value, amount in changes:
            if len(key) > MAX_KEY_BYTES:
                raise AssertionError(f"key of {len(key)} bytes, at most {MAX_KEY_BYTES}")
            path = _compute_path(key)
            if value is None:
                by_path[path] = _Item(path, None)
                continue
            if not 0 <= amount <= MAX_SUM:
                raise AssertionError(f"amount {amount} is outside 0..{MAX_SUM}")
            slot = compute_leaf_hash(self._tree, key, value) + amount.to_bytes(8, "big")
            by_path[path] = _Item(path, _Child(slot, key))
        return sorted(by_path.values())

    def _update_node(self, path: bytes, items: Sequence[_Item]) -> _Child | None:
        data = self._overlay.get_node(self._key_prefix + path)
        slots: list[_Child | None] = [None] * TREE_FANOUT if data is None else _unpack(data)
        for nibble, group in _group(items, len(path)):
            slots[nibble] = self._update_slot(path + _HEX[nibble], slots[nibble], group)
        return self._store(path, slots, existed=data is not None)

    def _update_slot(
        self, path: bytes, child: _Child | None, items: Sequence[_Item]
    ) -> _Child | None:
        if child is not None and child.key is None:
            return self._update_node(path, items)
        leaves = {item.path: item.leaf for item in items}
        if child is not None and child.key is not None:
            leaves.setdefault(_compute_path(child.key), child)
        return self._build(path, sorted((p, leaf) for p, leaf in leaves.items() if leaf))

    def _build(self, path: bytes, leaves: Sequence[tuple[bytes, _Child]]) -> _Child | None:
        if len(leaves) < 2:
            return leaves[0][1] if leaves else None
        slots: list[_Child | None] = [None] * TREE_FANOUT
        for nibble, group in _group([_Item(p, leaf) for p, leaf in leaves], len(path)):
            below = [(item.path, item.leaf) for item in group if item.leaf]
            slots[nibble] = self._build(path + _HEX[nibble], below)
        return self._store(path, slots, existed=False)

    def _store(
        self, path: bytes, slots: Sequence[_Child | None], *, existed: bool
    ) -> _Child | None:
        taken = [child for child in slots if child is not None]
        if not taken or (path and len(taken) == 1 and taken[0].key is not None):
            if existed:
                self._overlay.nodes[self._key_prefix + path] = None
            return taken[0] if taken else None
        data = _pack(slots)
        self._overlay.nodes[self._key_prefix + path] = data
        total = sum(_SUMS.unpack_from(data, _SLOTS_AT))
        if total > MAX_SUM:
            raise AssertionError(f"sum {total} is above {MAX_SUM} at {path!r}")
        digest = sha256(self._hash_prefix + data[:_MASK_AT]).digest()
        return _Child(digest + total.to_bytes(8, "big"), None)


def _group(items: Sequence[_Item], depth: int) -> Iterable[tuple[int, Sequence[_Item]]]:
    start = 0
    for end in range(1, len(items) + 1):
        if end == len(items) or items[end].path[depth] != items[start].path[depth]:
            yield _NIBBLE[items[start].path[depth]], items[start:end]
            start = end


def _pack(slots: Sequence[_Child | None]) -> bytes:
    occupancy = leaf_mask = 0
    body = bytearray(_EMPTY_BODY)
    lengths, keys = bytearray(), bytearray()
    for index, child in enumerate(slots):
        if child is not None:
            occupancy |= 1 << index
            body[_SLOTS_AT + index * _SLOT : _SLOTS_AT + (index + 1) * _SLOT] = child.slot
            if child.key is not None:
                leaf_mask |= 1 << index
                lengths.append(len(child.key))
                keys += child.key
    body[:_SLOTS_AT] = occupancy.to_bytes(2, "big")
    return bytes(body + leaf_mask.to_bytes(2, "big") + lengths + keys)


def _unpack(data: bytes) -> list[_Child | None]:
    occupancy = int.from_bytes(data[:_SLOTS_AT], "big")
    leaf_mask = int.from_bytes(data[_MASK_AT:_KEYS_AT], "big")
    slots: list[_Child | None] = [None] * TREE_FANOUT
    length_at = _KEYS_AT
    key_at = _KEYS_AT + leaf_mask.bit_count()
    for index in range(TREE_FANOUT):
        if occupancy >> index & 1:
            key = None
            if leaf_mask >> index & 1:
                key = data[key_at : key_at + data[length_at]]
                key_at += data[length_at]
                length_at += 1
            at = _SLOTS_AT + index * _SLOT
            slots[index] = _Child(data[at : at + _SLOT], key)
    return slots


# ---- root


def get_root(reader: NodeReader, tree: bytes) -> TreeRoot:
    """Return the root of a tree as the reader has it."""
    data = reader.get_node(_node_key_prefix(tree))
    if data is None:
        return EMPTY_ROOT
    digest = sha256(_node_hash_prefix(tree) + data[:_MASK_AT]).digest()
    return TreeRoot(digest, sum(_SUMS.unpack_from(data, _SLOTS_AT)))


# ---- proofs


class TreeStep(Wire, frozen=True):
    """One node on the way from the root: its occupied slots but the one on the path."""

    occupancy: Annotated[int, Meta(ge=0, le=65_535)]
    siblings: Annotated[bytes, Meta(max_length=TREE_FANOUT * _SLOT)]
    """[hash, sum u64] of each, in slot order."""


class TreeLeaf(Wire, frozen=True):
    """One entry of a tree."""

    key: Annotated[bytes, Meta(max_length=MAX_KEY_BYTES)]
    value: bytes
    amount: Annotated[int, Meta(ge=0, le=MAX_SUM)]


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
    path, prefix = _compute_path(key), _node_key_prefix(tree)
    steps: list[TreeStep] = []
    for depth in range(MAX_TREE_DEPTH):
        data = reader.get_node(prefix + path[:depth])
        if data is None:
            assert depth == 0, f"node missing at {path[:depth]!r}"
            return TreeProof((), None)
        slots, nibble = _unpack(data), _NIBBLE[path[depth]]
        siblings = b"".join(c.slot for i, c in enumerate(slots) if c is not None and i != nibble)
        steps.append(TreeStep(int.from_bytes(data[:_SLOTS_AT], "big"), siblings))
        child = slots[nibble]
        if child is None:
            return TreeProof(tuple(steps), None)
        if child.key is not None:
            amount = int.from_bytes(child.slot[32:], "big")
            return TreeProof(tuple(steps), TreeLeaf(child.key, read_value(child.key), amount))
    raise AssertionError(f"two keys share the hash {path!r}")


def verify_tree_proof(
    proof: TreeProof, *, tree: bytes, key: bytes, root: TreeRoot
) -> TreeLeaf | None:
    """Return the entry that the root commits to under the key, or None where it has none.

    The path comes from the key and every sum from the parts; nothing else is believed.

    Raises:
        ProofInvalid: the proof does not lead to the root's hash and total.
    """
    path, leaf = compute_key_hash(key).hex(), proof.leaf
    depth = len(proof.steps)
    if leaf is not None and compute_key_hash(leaf.key).hex()[:depth] != path[:depth]:
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


def _climb(proof: TreeProof, tree: bytes, path: str) -> TreeRoot:
    prefix, leaf = _node_hash_prefix(tree), proof.leaf
    slot = b""
    if leaf is not None:
        digest = compute_leaf_hash(tree, leaf.key, leaf.value)
        slot = digest + leaf.amount.to_bytes(8, "big")
    total = 0
    for depth in range(len(proof.steps) - 1, -1, -1):
        step, nibble = proof.steps[depth], int(path[depth], 16)
        if (step.occupancy >> nibble & 1) != bool(slot):
            raise ProofInvalid(f"steps[{depth}]: the slot on the path is not as claimed")
        count = step.occupancy.bit_count() - bool(slot)
        if len(step.siblings) != count * _SLOT:
            raise ProofInvalid(f"steps[{depth}]: {len(step.siblings)} bytes for {count} siblings")
        below = (step.occupancy & ((1 << nibble) - 1)).bit_count() * _SLOT
        taken = step.siblings[:below] + slot + step.siblings[below:]
        body = bytearray(_EMPTY_BODY)
        body[:_SLOTS_AT] = step.occupancy.to_bytes(2, "big")
        for index in range(TREE_FANOUT):
            if step.occupancy >> index & 1:
                at = _SLOTS_AT + index * _SLOT
                body[at : at + _SLOT], taken = taken[:_SLOT], taken[_SLOT:]
        total = sum(_SUMS.unpack_from(body, _SLOTS_AT))
        if total > MAX_SUM:
            raise ProofInvalid(f"steps[{depth}]: the sum {total} is above {MAX_SUM}")
        slot = sha256(prefix + body).digest() + total.to_bytes(8, "big")
    return TreeRoot(slot[:32], total)


# ---- the state root


class SectionRoot(Wire, frozen=True):
    """The root of one section of records."""

    section: Annotated[int, Meta(ge=0, le=255)]
    root: Hash


class AssetRow(Wire, frozen=True):
    """What the state root says about one asset."""

    asset: AssetCode
    root: Hash
    """Of the tree of its balances."""
    posted: Annotated[int, Meta(ge=0, le=MAX_SUM)]
    """The sum of all balances, computed by that tree."""
    supply: Annotated[int, Meta(ge=0, le=MAX_SUM)]
    """Minted minus burned."""
    attested: Annotated[int, Meta(ge=0, le=MAX_SUM)]
    """The last attested reserve."""
    as_of_ms: TimeMs
    """The instant of which that attestation speaks."""


class StateTable(Wire, frozen=True):
    """Everything that the state root hashes."""

    sections: Annotated[tuple[SectionRoot, ...], Meta(max_length=256)]
    """In ascending order of section number."""
    assets: Annotated[tuple[AssetRow, ...], Meta(max_length=MAX_ASSET_ROWS)]
    """In ascending order of code."""


def compute_state_root(sections: Sequence[SectionRoot], assets: Sequence[AssetRow]) -> bytes:
    """Return the 32-byte root of the whole state.

    Hashes the canonical bytes of the table: lengths are in them, so nothing is ambiguous.
    """
    return compute_hash(HashTag.STATE, encode(StateTable(tuple(sections), tuple(assets))))
