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
"""Where the hashed part of a node ends."""
_LENGTHS_AT: Final = _MASK_AT + 2
_EMPTY_SLOT: Final = bytes(_SLOT)
_EMPTY_NODE: Final = bytes(_LENGTHS_AT)
_KEY_PREFIX: Final = HashTag.KEY.value
_BYTE: Final = [bytes([n]) for n in range(256)]
_NIBBLE: Final = {ord(f"{n:x}"): n for n in range(TREE_FANOUT)}
_write_slot = struct.Struct(">32sQ").pack_into
_read_u64 = struct.Struct(">Q").unpack_from
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
    return sha256(_compute_prefix(HashTag.LEAF, tree) + _BYTE[len(key)] + key + value).digest()


def _compute_prefix(tag: HashTag, tree: bytes) -> bytes:
    return tag.value + _BYTE[len(tree)] + tree


# ---- update

_Item = tuple[bytes, bytes | None, int, bytes]
"""One change, ready to place: path digits, leaf hash (None deletes), amount, full key."""


class _Child(NamedTuple):
    """What stands in a slot."""

    digest: bytes
    total: int
    key: bytes | None
    """The full key of a leaf; None for a node."""


def update_tree(overlay: Overlay, tree: bytes, changes: Iterable[TreeChange]) -> TreeRoot:
    """Apply changes to a tree, write its nodes into the overlay, return the new root.

    Of several changes to one key the last counts; deleting an absent key does nothing.

    Raises:
        AssertionError: an amount or a sum left 0..MAX_SUM, which the rules of money exclude.
    """
    items = _prepare(tree, changes)
    before = get_root(overlay, tree)
    if not items:
        return before
    root = _Update(overlay, tree, items).update_node(b"", 0, len(items), before.total)
    return EMPTY_ROOT if root is None else TreeRoot(root.digest, root.total)


def _prepare(tree: bytes, changes: Iterable[TreeChange]) -> list[_Item]:
    """Hash keys and leaves, and sort by path."""
    leaf_prefix = _compute_prefix(HashTag.LEAF, tree)
    by_path: dict[bytes, _Item] = {}
    for key, value, amount in changes:
        if len(key) > MAX_KEY_BYTES:
            raise AssertionError(f"key of {len(key)} bytes, at most {MAX_KEY_BYTES}")
        if not 0 <= amount <= MAX_SUM:
            raise AssertionError(f"amount {amount} is outside 0..{MAX_SUM}")
        path = sha256(_KEY_PREFIX + key).hexdigest().encode()
        if value is None:
            by_path[path] = (path, None, 0, key)
        else:
            digest = sha256(leaf_prefix + _BYTE[len(key)] + key + value).digest()
            by_path[path] = (path, digest, amount, key)
    return sorted(by_path.values())


class _Update:
    """One batch of changes to one tree: a depth-first walk over the paths it touches.

    The hot path of every block. A node is one byte string: the walk copies it once, patches slots
    in place and hashes it once, whatever the number of changes below it. A node's new sum is its
    old one plus the differences of its slots, which costs less than adding sixteen numbers.
    """

    __slots__ = ("_get_node", "_hash_prefix", "_items", "_key_prefix", "_nodes")

    def __init__(self, overlay: Overlay, tree: bytes, items: Sequence[_Item]) -> None:
        self._get_node = overlay.get_node
        self._nodes = overlay.nodes
        self._key_prefix = _BYTE[len(tree)] + tree
        self._hash_prefix = _compute_prefix(HashTag.NODE, tree)
        self._items = items

    def update_node(self, path: bytes, start: int, end: int, total: int) -> _Child | None:
        """Apply items[start:end], which all lie below `path`, to the node there.

        `total` is the node's sum so far. Returns what now stands in its place: the node, its only
        leaf, or nothing.
        """
        items, depth, node_key = self._items, len(path), self._key_prefix + path
        data = self._get_node(node_key)
        node = bytearray(_EMPTY_NODE if data is None else data)
        occupancy, leaf_mask = node[0] << 8 | node[1], node[_MASK_AT] << 8 | node[_MASK_AT + 1]
        at = start
        while at < end:
            first, (item_path, digest, amount, key) = at, items[at]
            digit = item_path[depth]
            at += 1
            while at < end and items[at][0][depth] == digit:
                at += 1
            nibble = _NIBBLE[digit]
            slot_at = _SLOTS_AT + _SLOT * nibble
            old_total = _read_u64(node, slot_at + 32)[0]
            if leaf_mask >> nibble & 1:
                old_key = _get_key(node, nibble)
                if at - first == 1 and old_key == key and digest is not None:
                    _write_slot(node, slot_at, digest, amount)
                    total += amount - old_total
                    continue
                old = _Child(bytes(node[slot_at : slot_at + 32]), old_total, old_key)
                child = self._place(item_path[: depth + 1], first, at, old)
            elif occupancy >> nibble & 1:
                child = self.update_node(item_path[: depth + 1], first, at, old_total)
            else:
                child = self._place(item_path[: depth + 1], first, at, None)
            if child is None:
                _clear_slot(node, nibble)
                total -= old_total
            else:
                _fill_slot(node, nibble, child)
                total += child.total - old_total
        return self._store(node_key, node, total, is_root=not path, existed=data is not None)

    def _place(self, path: bytes, start: int, end: int, old: _Child | None) -> _Child | None:
        """Return what stands at a path that held at most one leaf, after items[start:end]."""
        leaves: dict[bytes, _Child | None] = {}
        if old is not None and old.key is not None:
            leaves[_compute_path(old.key)] = old
        for item_path, digest, amount, key in self._items[start:end]:
            leaves[item_path] = None if digest is None else _Child(digest, amount, key)
        return self._build(path, sorted((p, leaf) for p, leaf in leaves.items() if leaf))

    def _build(self, path: bytes, leaves: Sequence[tuple[bytes, _Child]]) -> _Child | None:
        """Return what stands at a path below which exactly these leaves are, in path order."""
        if len(leaves) < 2:
            return leaves[0][1] if leaves else None
        depth, node, total, start = len(path), bytearray(_EMPTY_NODE), 0, 0
        for at in range(1, len(leaves) + 1):
            digit = leaves[start][0][depth]
            if at < len(leaves) and leaves[at][0][depth] == digit:
                continue
            child = self._build(leaves[start][0][: depth + 1], leaves[start:at])
            assert child is not None
            _fill_slot(node, _NIBBLE[digit], child)
            total += child.total
            start = at
        return self._store(self._key_prefix + path, node, total, is_root=False, existed=False)

    def _store(
        self, node_key: bytes, node: bytearray, total: int, *, is_root: bool, existed: bool
    ) -> _Child | None:
        """Keep a patched node, or drop it when nothing or one leaf is left of it."""
        occupancy = node[0] << 8 | node[1]
        if occupancy & (occupancy - 1) == 0:
            is_leaf = occupancy and occupancy == node[_MASK_AT] << 8 | node[_MASK_AT + 1]
            if not occupancy or (is_leaf and not is_root):
                if existed:
                    self._nodes[node_key] = None
                return _get_child(node, occupancy.bit_length() - 1) if occupancy else None
        if not 0 <= total <= MAX_SUM:
            raise AssertionError(f"sum {total} is outside 0..{MAX_SUM} at {node_key!r}")
        self._nodes[node_key] = bytes(node)
        return _Child(sha256(self._hash_prefix + node[:_MASK_AT]).digest(), total, None)


# ---- one node


def _find_key(node: bytes | bytearray, nibble: int) -> tuple[int, int]:
    """Return where a leaf's key has its length, and where it starts (or would)."""
    leaf_mask = node[_MASK_AT] << 8 | node[_MASK_AT + 1]
    length_at = _LENGTHS_AT + (leaf_mask & ((1 << nibble) - 1)).bit_count()
    lengths_end = _LENGTHS_AT + leaf_mask.bit_count()
    return length_at, lengths_end + sum(node[_LENGTHS_AT:length_at])


def _get_key(node: bytes | bytearray, nibble: int) -> bytes:
    length_at, key_at = _find_key(node, nibble)
    return bytes(node[key_at : key_at + node[length_at]])


def _get_child(node: bytes | bytearray, nibble: int) -> _Child | None:
    if not (node[0] << 8 | node[1]) >> nibble & 1:
        return None
    slot_at = _SLOTS_AT + _SLOT * nibble
    is_leaf = (node[_MASK_AT] << 8 | node[_MASK_AT + 1]) >> nibble & 1
    return _Child(
        bytes(node[slot_at : slot_at + 32]),
        _read_u64(node, slot_at + 32)[0],
        _get_key(node, nibble) if is_leaf else None,
    )


def _fill_slot(node: bytearray, nibble: int, child: _Child) -> None:
    """Put a child into a slot, whatever stood there."""
    is_leaf = (node[_MASK_AT] << 8 | node[_MASK_AT + 1]) >> nibble & 1
    if is_leaf or child.key is not None:
        _clear_slot(node, nibble)
        if child.key is not None:
            length_at, key_at = _find_key(node, nibble)
            node[key_at:key_at] = child.key
            node[length_at:length_at] = _BYTE[len(child.key)]
            node[_MASK_AT + 1 - (nibble >> 3)] |= 1 << (nibble & 7)
    node[1 - (nibble >> 3)] |= 1 << (nibble & 7)
    _write_slot(node, _SLOTS_AT + _SLOT * nibble, child.digest, child.total)


def _clear_slot(node: bytearray, nibble: int) -> None:
    bit = 1 << (nibble & 7)
    if node[_MASK_AT + 1 - (nibble >> 3)] & bit:
        length_at, key_at = _find_key(node, nibble)
        del node[key_at : key_at + node[length_at]]
        del node[length_at]
        node[_MASK_AT + 1 - (nibble >> 3)] &= ~bit
    node[1 - (nibble >> 3)] &= ~bit
    slot_at = _SLOTS_AT + _SLOT * nibble
    node[slot_at : slot_at + _SLOT] = _EMPTY_SLOT


# ---- root


def get_root(reader: NodeReader, tree: bytes) -> TreeRoot:
    """Return the root of a tree as the reader has it."""
    node = reader.get_node(_BYTE[len(tree)] + tree)
    if node is None:
        return EMPTY_ROOT
    digest = sha256(_compute_prefix(HashTag.NODE, tree) + node[:_MASK_AT]).digest()
    return TreeRoot(digest, sum(_SUMS.unpack_from(node, _SLOTS_AT)))


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
    path, prefix = _compute_path(key), _BYTE[len(tree)] + tree
    steps: list[TreeStep] = []
    for depth in range(MAX_TREE_DEPTH):
        node = reader.get_node(prefix + path[:depth])
        if node is None:
            assert depth == 0, f"node missing at {path[:depth]!r}"
            return TreeProof((), None)
        occupancy, nibble = int.from_bytes(node[:_SLOTS_AT], "big"), _NIBBLE[path[depth]]
        siblings = b"".join(
            node[_SLOTS_AT + i * _SLOT : _SLOTS_AT + (i + 1) * _SLOT]
            for i in range(TREE_FANOUT)
            if occupancy >> i & 1 and i != nibble
        )
        steps.append(TreeStep(occupancy, siblings))
        child = _get_child(node, nibble)
        if child is None:
            return TreeProof(tuple(steps), None)
        if child.key is not None:
            leaf = TreeLeaf(child.key, read_value(child.key), child.total)
            return TreeProof(tuple(steps), leaf)
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
    prefix, leaf = _compute_prefix(HashTag.NODE, tree), proof.leaf
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
        body = bytearray(_MASK_AT)
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
