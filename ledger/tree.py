"""The 16-ary sparse Merkle-sum tree behind the state root: batch update, root, proof.

A tree maps keys to values with an amount each; its root commits to every entry and to the sum of
all amounts. The balances of one asset are one tree (the amount is `posted`, so the root's sum is
what all accounts hold together); every other section is a tree whose amounts are 0.

    leaf = H(leaf, id, full key, value)
    node = H(node, id, 16-bit occupancy, 16 x [child hash, child sum u64], zeros where empty)

`id` is its length in one byte, then 15 bytes padded with zeros; the key follows its own length. A
leaf sits at the shallowest unique prefix, at least one nibble long, of the hash of its key; a node
exists exactly where two or more leaves share a prefix, and at the root. So the shape depends on the
contents alone. The empty tree has the root of 32 zero bytes.

Sixteen-way because Python pays per hash call, not per byte: a million entries are five levels. A
block's changes are sorted by key hash and applied depth first, so every touched node is read,
rebuilt and hashed once.

Nodes are kept as bytes in the overlays next to the records (`View.get_node`, `Overlay.nodes`),
under length of the tree id + tree id + path, one byte a nibble:

    tag and id 30 | occupancy u16 | 16 x [hash 32, sum u64] | u8 length of each slot's key | keys

The first 672 bytes are exactly what is hashed. The keys of leaves (length 0: no leaf) let one be
pushed down, pulled up, or shown in a proof, without searching the records.
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
"""A key has 1 to 255 bytes: its length is one byte in hashes and in nodes."""
MAX_TREE_ID_BYTES: Final = 15

_ID_AT: Final = len(HashTag.NODE.value)
_OCCUPANCY_AT: Final = _ID_AT + 1 + MAX_TREE_ID_BYTES
_SLOTS_AT: Final = _OCCUPANCY_AT + 2
_SLOT: Final = 40
_HASHED: Final = _SLOTS_AT + TREE_FANOUT * _SLOT
_LENGTHS_AT: Final = _HASHED
_KEYS_AT: Final = _LENGTHS_AT + TREE_FANOUT
_KEY_PREFIX: Final = HashTag.KEY.value
_BYTE: Final = [bytes([n]) for n in range(256)]
_NIBBLES: Final = bytes.maketrans(b"0123456789abcdef", bytes(range(TREE_FANOUT)))
_write_slot = struct.Struct(">32sQ").pack_into
_read_slot = struct.Struct(">32sQ").unpack_from
_read_u64 = struct.Struct(">Q").unpack_from
_SUMS: Final = struct.Struct(">" + "32xQ" * TREE_FANOUT)

_Node = bytes | bytearray

assert _HASHED == 672


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
    return sha256(_KEY_PREFIX + key).hexdigest().encode().translate(_NIBBLES)


def compute_leaf_hash(tree: bytes, key: bytes, value: bytes) -> bytes:
    """Return the hash of one entry."""
    return sha256(_compute_head(HashTag.LEAF, tree) + _BYTE[len(key)] + key + value).digest()


def _compute_head(tag: HashTag, tree: bytes) -> bytes:
    """Return how everything that is hashed for a tree starts."""
    return tag.value + _BYTE[len(tree)] + tree.ljust(MAX_TREE_ID_BYTES, b"\0")


def _compute_node_key(tree: bytes) -> bytes:
    """Return the key of the root node; those below add their path to it."""
    return _BYTE[len(tree)] + tree


# ---- update

_Item = tuple[bytes, bytes | None, int, bytes]
"""One change, ready to place: where it belongs, its leaf hash (None deletes), amount, full key.

Where is the key of the root node and the 64 nibbles of the path: its prefixes are the keys of the
nodes that the change can touch, and items sort by it.
"""
_Child = tuple[bytes, int, bytes | None]
"""What stands in a slot: hash, sum, and for a leaf its full key (None for a node)."""


_EMPTY_CHILD: Final[_Child] = (ZERO_HASH, 0, None)


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
    root = _Update(overlay, tree, items).run(before.total)
    return EMPTY_ROOT if root is None else TreeRoot(root[0], root[1])


def _prepare(tree: bytes, changes: Iterable[TreeChange]) -> list[_Item]:
    """Hash keys and leaves, and sort by path."""
    if len(tree) > MAX_TREE_ID_BYTES:
        raise AssertionError(f"tree id {tree!r} has more than {MAX_TREE_ID_BYTES} bytes")
    head, root_key = _compute_head(HashTag.LEAF, tree), _compute_node_key(tree)
    by_path: dict[bytes, _Item] = {}
    for key, value, amount in changes:
        if not 1 <= len(key) <= MAX_KEY_BYTES:
            raise AssertionError(f"key of {len(key)} bytes, expected 1 to {MAX_KEY_BYTES}")
        if not 0 <= amount <= MAX_SUM:
            raise AssertionError(f"amount {amount} is outside 0..{MAX_SUM}")
        path = root_key + sha256(_KEY_PREFIX + key).hexdigest().encode().translate(_NIBBLES)
        if value is None:
            by_path[path] = (path, None, 0, key)
        else:
            digest = sha256(head + _BYTE[len(key)] + key + value).digest()
            by_path[path] = (path, digest, amount, key)
    return sorted(by_path.values())


class _Update:
    """One batch of changes to one tree: a depth-first walk over the paths it touches.

    The hot path of every block. A node is one byte string: the walk copies it once, patches slots
    in place and hashes it once, whatever the number of changes below it. A node's new sum is its
    old one plus the differences of its slots, which costs less than adding sixteen numbers.
    """

    __slots__ = ("_empty", "_get_node", "_items", "_nodes", "_paths", "_root_key")

    def __init__(self, overlay: Overlay, tree: bytes, items: Sequence[_Item]) -> None:
        self._get_node = overlay.get_node
        self._nodes = overlay.nodes
        self._root_key = _compute_node_key(tree)
        self._empty = _compute_head(HashTag.NODE, tree).ljust(_KEYS_AT, b"\0")
        self._items = items
        self._paths = [item[0] for item in items]

    def run(self, total: int) -> _Child | None:
        """Apply everything to a tree whose sum is `total`."""
        return self._update_node(self._root_key, 0, len(self._items), total)

    def _update_node(self, node_key: bytes, start: int, end: int, total: int) -> _Child | None:
        """Apply items[start:end], which all lie below a node.

        `total` is the node's sum so far. Returns what now stands in its place: the node, its only
        leaf, or nothing.
        """
        data, at = self._get_node(node_key), len(node_key)
        if data is None and node_key != self._root_key:
            raise AssertionError(f"node missing at {node_key!r}")
        node = bytearray(data or self._empty)
        # Ascending, so the last place of a nibble (found by a scan in C) ends its group.
        nibbles = bytes([path[at] for path in self._paths[start:end]])
        group_end = 0
        while group_end < len(nibbles):
            nibble, first = nibbles[group_end], start + group_end
            group_end = nibbles.rindex(nibble) + 1
            last = start + group_end
            slot_at = _SLOTS_AT + _SLOT * nibble
            old_total = _read_u64(node, slot_at + 32)[0]
            if node[_LENGTHS_AT + nibble] or not _is_occupied(node, nibble):
                child = self._update_leaf(node, nibble, first, last, at + 1)
            elif last - first == 1:
                child = self._update_one(first, at + 1, old_total)
            else:
                child = self._update_node(self._paths[first][: at + 1], first, last, old_total)
            _set_slot(node, nibble, child)
            total += (child[1] if child else 0) - old_total
        return self._store(node_key, node, total)

    def _update_one(self, index: int, at: int, total: int) -> _Child | None:
        """Apply items[index] alone to the node whose key is the first `at` bytes of its path.

        The same as `_update_node` without the grouping: in a large tree most nodes that a block
        touches have one change below them.
        """
        path, digest, amount, key = self._items[index]
        node_key, nibble = path[:at], path[at]
        data = self._get_node(node_key)
        if data is None:
            raise AssertionError(f"node missing at {node_key!r}")
        slot_at = _SLOTS_AT + _SLOT * nibble
        old_total = _read_u64(data, slot_at + 32)[0]
        if data[_LENGTHS_AT + nibble]:
            if digest is None or _get_key(data, nibble) != key:
                return self._update_node(node_key, index, index + 1, total)
        elif not _is_occupied(data, nibble):
            return self._update_node(node_key, index, index + 1, total)
        else:
            child = self._update_one(index, at + 1, old_total)
            if child is None or child[2] is not None:
                node = bytearray(data)
                _set_slot(node, nibble, child)
                return self._store(node_key, node, total + (child[1] if child else 0) - old_total)
            digest, amount, _ = child
        total += amount - old_total
        if not 0 <= total <= MAX_SUM:
            raise AssertionError(f"sum {total} is outside 0..{MAX_SUM} at {node_key!r}")
        node = bytearray(data)
        _write_slot(node, slot_at, digest, amount)
        self._nodes[node_key] = bytes(node)
        return sha256(node[:_HASHED]).digest(), total, None

    def _update_leaf(
        self, node: _Node, nibble: int, start: int, end: int, at: int
    ) -> _Child | None:
        """Return what a slot that holds at most one leaf holds after items[start:end].

        `at` is the length of what stood there, or would stand there as a node.
        """
        old = _get_child(node, nibble)
        _, digest, amount, key = self._items[start]
        if end - start == 1 and (old is None or old[2] == key):
            return None if digest is None else (digest, amount, key)
        leaves: dict[bytes, _Child | None] = {}
        if old is not None and old[2] is not None:
            leaves[self._root_key + _compute_path(old[2])] = old
        for path, digest, amount, key in self._items[start:end]:
            leaves[path] = None if digest is None else (digest, amount, key)
        return self._build(at, sorted((path, leaf) for path, leaf in leaves.items() if leaf))

    def _build(self, at: int, leaves: Sequence[tuple[bytes, _Child]]) -> _Child | None:
        """Return what stands where exactly these leaves, in path order, share `at` bytes."""
        if len(leaves) < 2:
            return leaves[0][1] if leaves else None
        node, total, start = bytearray(self._empty), 0, 0
        for end in range(1, len(leaves) + 1):
            nibble = leaves[start][0][at]
            if end < len(leaves) and leaves[end][0][at] == nibble:
                continue
            child = self._build(at + 1, leaves[start:end])
            _set_slot(node, nibble, child)
            total += child[1] if child else 0
            start = end
        return self._store(leaves[0][0][:at], node, total)

    def _store(self, node_key: bytes, node: bytearray, total: int) -> _Child | None:
        """Keep a changed node, or drop it when nothing or one leaf is left of it."""
        occupancy = node[_OCCUPANCY_AT] << 8 | node[_OCCUPANCY_AT + 1]
        if occupancy & (occupancy - 1) == 0:
            only = _get_child(node, occupancy.bit_length() - 1) if occupancy else None
            if only is None or (only[2] is not None and node_key != self._root_key):
                self._nodes[node_key] = None
                return only
        if not 0 <= total <= MAX_SUM:
            raise AssertionError(f"sum {total} is outside 0..{MAX_SUM} at {node_key!r}")
        self._nodes[node_key] = bytes(node)
        return sha256(node[:_HASHED]).digest(), total, None


# ---- one node


def _is_occupied(node: _Node, nibble: int) -> bool:
    return bool((node[_OCCUPANCY_AT] << 8 | node[_OCCUPANCY_AT + 1]) >> nibble & 1)


def _get_key(node: _Node, nibble: int) -> bytes:
    """Return the key of a leaf."""
    length_at = _LENGTHS_AT + nibble
    key_at = _KEYS_AT + sum(node[_LENGTHS_AT:length_at])
    return bytes(node[key_at : key_at + node[length_at]])


def _get_child(node: _Node, nibble: int) -> _Child | None:
    if not _is_occupied(node, nibble):
        return None
    digest, total = _read_slot(node, _SLOTS_AT + _SLOT * nibble)
    return digest, total, _get_key(node, nibble) or None


def _set_slot(node: bytearray, nibble: int, child: _Child | None) -> None:
    """Put a child, or nothing, into a slot, whatever stood there."""
    occupancy_at, bit = _OCCUPANCY_AT + 1 - (nibble >> 3), 1 << (nibble & 7)
    if child is None:
        digest, total, key = _EMPTY_CHILD
        node[occupancy_at] &= ~bit
    else:
        digest, total, key = child
        node[occupancy_at] |= bit
    _write_slot(node, _SLOTS_AT + _SLOT * nibble, digest, total)
    length_at = _LENGTHS_AT + nibble
    old_length = node[length_at]
    if key is not None or old_length:
        key_at = _KEYS_AT + sum(node[_LENGTHS_AT:length_at])
        node[key_at : key_at + old_length] = key or b""
        node[length_at] = len(key or b"")


# ---- root


def get_root(reader: NodeReader, tree: bytes) -> TreeRoot:
    """Return the root of a tree as the reader has it."""
    node = reader.get_node(_compute_node_key(tree))
    if node is None:
        return EMPTY_ROOT
    return TreeRoot(sha256(node[:_HASHED]).digest(), sum(_SUMS.unpack_from(node, _SLOTS_AT)))


# ---- proofs

Sum = Annotated[int, Meta(ge=0, le=MAX_SUM, extra={"json": "decimal"})]
"""Minor units that some accounts hold together."""


class TreeStep(Wire, frozen=True):
    """One node on the way from the root: its occupied slots but the one on the path."""

    occupancy: Annotated[int, Meta(ge=0, le=65_535)]
    siblings: Annotated[bytes, Meta(max_length=TREE_FANOUT * _SLOT)]
    """[hash, sum u64] of each, in slot order."""


class TreeLeaf(Wire, frozen=True):
    """One entry of a tree."""

    key: Annotated[bytes, Meta(min_length=1, max_length=MAX_KEY_BYTES)]
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
    path, root_key = _compute_path(key), _compute_node_key(tree)
    steps: list[TreeStep] = []
    for depth in range(MAX_TREE_DEPTH):
        node = reader.get_node(root_key + path[:depth])
        if node is None:
            if depth:
                raise AssertionError(f"node missing at {path[:depth]!r}")
            return TreeProof((), None)
        nibble = path[depth]
        siblings = b"".join(
            node[_SLOTS_AT + i * _SLOT : _SLOTS_AT + (i + 1) * _SLOT]
            for i in range(TREE_FANOUT)
            if i != nibble and _is_occupied(node, i)
        )
        occupancy = int.from_bytes(node[_OCCUPANCY_AT:_SLOTS_AT], "big")
        steps.append(TreeStep(occupancy, siblings))
        child = _get_child(node, nibble)
        if child is None:
            return TreeProof(tuple(steps), None)
        if child[2] is not None:
            return TreeProof(tuple(steps), TreeLeaf(child[2], read_value(child[2]), child[1]))
    raise AssertionError(f"two keys share the hash {path!r}")


def verify_tree_proof(
    proof: TreeProof, *, tree: bytes, key: bytes, root: TreeRoot
) -> TreeLeaf | None:
    """Return the entry that the root commits to under the key, or None where it has none.

    The path comes from the key and every sum from the parts; nothing else is believed.

    Raises:
        ProofInvalid: the proof does not lead to the root's hash and total.
    """
    path, leaf = _compute_path(key), proof.leaf
    depth = len(proof.steps)
    if leaf is not None and _compute_path(leaf.key)[:depth] != path[:depth]:
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
    head, leaf, slot, total = _compute_head(HashTag.NODE, tree), proof.leaf, b"", 0
    if leaf is not None:
        digest = compute_leaf_hash(tree, leaf.key, leaf.value)
        slot = digest + leaf.amount.to_bytes(8, "big")
    for depth in range(len(proof.steps) - 1, -1, -1):
        step, nibble = proof.steps[depth], path[depth]
        if (step.occupancy >> nibble & 1) != bool(slot):
            raise ProofInvalid(f"steps[{depth}]: the slot on the path is not as claimed")
        count = step.occupancy.bit_count() - bool(slot)
        if len(step.siblings) != count * _SLOT:
            raise ProofInvalid(f"steps[{depth}]: {len(step.siblings)} bytes for {count} siblings")
        below = (step.occupancy & ((1 << nibble) - 1)).bit_count() * _SLOT
        taken = step.siblings[:below] + slot + step.siblings[below:]
        node = bytearray(head.ljust(_HASHED, b"\0"))
        node[_OCCUPANCY_AT:_SLOTS_AT] = step.occupancy.to_bytes(2, "big")
        for index in range(TREE_FANOUT):
            if step.occupancy >> index & 1:
                at = _SLOTS_AT + index * _SLOT
                node[at : at + _SLOT], taken = taken[:_SLOT], taken[_SLOT:]
        total = sum(_SUMS.unpack_from(node, _SLOTS_AT))
        if total > MAX_SUM:
            raise ProofInvalid(f"steps[{depth}]: the sum {total} is above {MAX_SUM}")
        slot = sha256(node).digest() + total.to_bytes(8, "big")
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
    posted: Sum
    """The sum of all balances, computed by that tree."""
    supply: Sum
    """Minted minus burned."""
    attested: Sum
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
