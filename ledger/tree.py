"""The 16-ary sparse Merkle-sum tree behind the state root: batch update, root, proof.

A tree maps keys to values with an amount each; its root commits to every entry and to the sum of
all amounts. The balances of one asset are one tree (the amount is `posted`, so the root's sum is
what all accounts hold together); every other section is a tree whose amounts are 0.

    leaf = H(leaf, id, full key, value)
    node = H(node, id, 16-bit occupancy, [child hash, child sum u64] of each occupied slot)

`id` is its length in one byte, then 15 bytes padded with zeros; the key follows its own length. A
leaf sits at the shallowest unique prefix, at least one nibble long, of the hash of its key; a node
exists exactly where two or more leaves share a prefix, and at the root. So the shape depends on the
contents alone. The empty tree has the root of 32 zero bytes.

Sixteen-way because Python pays per hash call, not per byte: a million entries are five levels. A
block's changes are sorted by key hash and applied depth first, so every touched node is read,
copied and hashed once, while it is in the processor's cache.

Nodes are kept as bytes in the overlays next to the records (`View.get_node`, `Overlay.nodes`),
under length of the tree id + tree id + path, one byte a nibble:

    tag and id 30 | occupancy u16 | slots of 40 | u8 length of each slot's key | keys of the leaves

Everything before the lengths is exactly what is hashed. The keys of leaves (length 0: a node) let
one be pushed down, pulled up, or shown in a proof, without searching the records. Empty slots take
no room in the hash: most nodes of a large tree have two or three entries, and sixteen slots with
zeros made them three times as large and the update a fifth slower; the occupancy says the same.
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
from atpar.ledger.limits import (
    MAX_ASSETS,
    MAX_SUM,
    MAX_TREE_DEPTH,
    MAX_TREE_ID_BYTES,
    MAX_TREE_KEY_BYTES,
    TREE_FANOUT,
)
from atpar.ledger.state import Overlay, View
from atpar.ledger.types import ZERO_HASH, AssetCode, Hash, TimeMs

_ID_AT: Final = len(HashTag.NODE.value)
_OCCUPANCY_AT: Final = _ID_AT + 1 + MAX_TREE_ID_BYTES
_SLOTS_AT: Final = _OCCUPANCY_AT + 2
_SLOT: Final = 40
_KEY_PREFIX: Final = HashTag.KEY.value
_BYTE: Final = [bytes([n]) for n in range(256)]
_NIBBLES: Final = bytes.maketrans(b"0123456789abcdef", bytes(range(TREE_FANOUT)))
_write_slot = struct.Struct(">32sQ").pack_into
_read_slot = struct.Struct(">32sQ").unpack_from
_pack_u64 = struct.Struct(">Q").pack
_read_u64 = struct.Struct(">Q").unpack_from

_Node = bytes | bytearray

assert _SLOTS_AT == 32


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
_Child = tuple[bytes, int, bytes]
"""What stands in a slot: hash, sum, and for a leaf its full key (empty for a node)."""


def update_tree(overlay: Overlay, tree: bytes, changes: Iterable[TreeChange]) -> TreeRoot:
    """Apply changes to a tree, write its nodes into the overlay, return the new root.

    Of several changes to one key the last counts; deleting an absent key does nothing.

    Raises:
        AssertionError: an amount or a sum left 0..MAX_SUM, which the rules of money exclude.
    """
    items = _prepare(tree, changes)
    if not items:
        return get_root(overlay, tree)
    return _Update(overlay, tree, items).run()


def _prepare(tree: bytes, changes: Iterable[TreeChange]) -> list[_Item]:
    """Hash keys and leaves, and sort by path."""
    if len(tree) > MAX_TREE_ID_BYTES:
        raise AssertionError(f"tree id {tree!r} has more than {MAX_TREE_ID_BYTES} bytes")
    head, root_key = _compute_head(HashTag.LEAF, tree), _compute_node_key(tree)
    by_path: dict[bytes, _Item] = {}
    for key, value, amount in changes:
        if not 1 <= len(key) <= MAX_TREE_KEY_BYTES:
            raise AssertionError(f"key of {len(key)} bytes, expected 1 to {MAX_TREE_KEY_BYTES}")
        if not 0 <= amount <= MAX_SUM:
            raise AssertionError(f"amount {amount} is outside 0..{MAX_SUM}")
        path = root_key + sha256(_KEY_PREFIX + key).hexdigest().encode().translate(_NIBBLES)
        if value is None:
            by_path[path] = (path, None, 0, key)
        else:
            digest = sha256(head + _BYTE[len(key)] + key + value).digest()
            by_path[path] = (path, digest, amount, key)
    return sorted(by_path.values())


def _find_nodes(view: View, root_key: bytes) -> View:
    """Return the uppermost view that can hold nodes of the tree.

    Every update writes the root node, so an overlay without it holds no node of the tree at all;
    asking it for each node would cost as much as finding the node.
    """
    while isinstance(view, Overlay) and root_key not in view.nodes:
        view = view.parent
    return view


class _Update:
    """One batch of changes to one tree: a depth-first walk over the paths it touches.

    The hot path of every block. A node is one byte string: it is copied once with its slots patched
    and hashed once, whatever the number of changes below it. Its new sum is its old one plus the
    differences of its slots.
    """

    __slots__ = ("_empty", "_get_node", "_items", "_nodes", "_paths", "_root_key")

    def __init__(self, overlay: Overlay, tree: bytes, items: Sequence[_Item]) -> None:
        self._root_key = _compute_node_key(tree)
        self._get_node = _find_nodes(overlay, self._root_key).get_node
        self._nodes = overlay.nodes
        self._empty = _compute_head(HashTag.NODE, tree) + bytes(2)
        self._items = items
        self._paths = [item[0] for item in items]

    def run(self) -> TreeRoot:
        """Apply everything; return the new root."""
        root = self._get_node(self._root_key)
        total = 0 if root is None else _compute_sum(root)
        child = self._update_node(self._root_key, 0, len(self._items), total)
        return EMPTY_ROOT if child is None else TreeRoot(child[0], child[1])

    def _update_node(self, node_key: bytes, start: int, end: int, total: int) -> _Child | None:
        """Apply items[start:end], which all lie below a node.

        `total` is the node's sum so far. Returns what now stands in its place: the node, its only
        leaf, or nothing.
        """
        items, paths, at = self._items, self._paths, len(node_key)
        data = self._get_node(node_key)
        if data is None and node_key != self._root_key:
            raise AssertionError(f"node missing at {node_key!r}")
        node = bytearray(data or self._empty)
        occupancy = node[_OCCUPANCY_AT] << 8 | node[_OCCUPANCY_AT + 1]
        top = _SLOTS_AT + _SLOT * occupancy.bit_count()
        # Ascending, so the last place of a nibble (found by a scan in C) ends its group.
        nibbles = bytes([path[at] for path in paths[start:end]])
        done = 0
        while done < len(nibbles):
            nibble, first = nibbles[done], start + done
            done = nibbles.rindex(nibble) + 1
            last, bit = start + done, 1 << nibble
            rank = (occupancy & bit - 1).bit_count()
            slot_at = _SLOTS_AT + _SLOT * rank
            if not occupancy & bit:
                child = self._update_leaf(None, first, last, at + 1)
            elif node[top + rank]:
                _, digest, amount, key = items[first]
                if digest is not None and last - first == 1 and _get_key(node, top, rank) == key:
                    total += amount - _read_u64(node, slot_at + 32)[0]
                    _write_slot(node, slot_at, digest, amount)
                    continue
                child = self._update_leaf(_get_child(node, nibble), first, last, at + 1)
            else:
                (old_total,) = _read_u64(node, slot_at + 32)
                if last - first == 1:
                    child = self._update_one(items[first], first, at + 1, old_total)
                else:
                    child = self._update_node(paths[first][: at + 1], first, last, old_total)
                if child is not None and not child[2]:
                    _write_slot(node, slot_at, child[0], child[1])
                    total += child[1] - old_total
                    continue
            total += _set_slot(node, nibble, child)
            occupancy = node[_OCCUPANCY_AT] << 8 | node[_OCCUPANCY_AT + 1]
            top = _SLOTS_AT + _SLOT * occupancy.bit_count()
        return self._store(node_key, node, total)

    def _update_one(self, item: _Item, index: int, at: int, total: int) -> _Child | None:
        """Apply one item, items[index], to the node whose key is the first `at` bytes of its path.

        The same as `_update_node` without the grouping: in a large tree most nodes that a block
        touches have one change below them.
        """
        path = item[0]
        node_key, bit = path[:at], 1 << path[at]
        node = self._get_node(node_key)
        if node is None:
            raise AssertionError(f"node missing at {node_key!r}")
        occupancy = node[_OCCUPANCY_AT] << 8 | node[_OCCUPANCY_AT + 1]
        if not occupancy & bit:
            return self._update_node(node_key, index, index + 1, total)
        rank, count = (occupancy & bit - 1).bit_count(), occupancy.bit_count()
        slot_at, top = _SLOTS_AT + _SLOT * rank, _SLOTS_AT + _SLOT * count
        (old_total,) = _read_u64(node, slot_at + 32)
        length = node[top + rank]
        if length:
            _, digest, amount, key = item
            key_at = top + count + sum(node[top : top + rank])
            if digest is None or node[key_at : key_at + length] != key:
                return self._update_node(node_key, index, index + 1, total)
        else:
            child = self._update_one(item, index, at + 1, old_total)
            if child is None or child[2]:
                return self._reshape(node_key, node, path[at], child, total)
            digest, amount, _ = child
        total += amount - old_total
        if not 0 <= total <= MAX_SUM:
            raise AssertionError(f"sum {total} is outside 0..{MAX_SUM} at {node_key!r}")
        changed = b"".join((node[:slot_at], digest, _pack_u64(amount), node[slot_at + _SLOT :]))
        self._nodes[node_key] = changed
        return sha256(changed[:top]).digest(), total, b""

    def _reshape(
        self, node_key: bytes, data: bytes, nibble: int, child: _Child | None, total: int
    ) -> _Child | None:
        """Put what is left of a node below into its slot."""
        node = bytearray(data)
        total += _set_slot(node, nibble, child)
        return self._store(node_key, node, total)

    def _update_leaf(self, old: _Child | None, start: int, end: int, at: int) -> _Child | None:
        """Return what stands where one leaf was, or nothing, after items[start:end].

        `at` is the length of the key that a node there has.
        """
        path, digest, amount, key = self._items[start]
        if end - start == 1 and (old is None or old[2] == key):
            return None if digest is None else (digest, amount, key)
        leaves: dict[bytes, _Child | None] = {}
        if old is not None:
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
            if end == len(leaves) or leaves[end][0][at] != nibble:
                total += _set_slot(node, nibble, self._build(at + 1, leaves[start:end]))
                start = end
        return self._store(leaves[0][0][:at], node, total)

    def _store(self, node_key: bytes, node: bytearray, total: int) -> _Child | None:
        """Keep a changed node, or drop it when nothing or one leaf is left of it."""
        occupancy = _get_occupancy(node)
        if occupancy & occupancy - 1 == 0:
            only = _get_child(node, occupancy.bit_length() - 1) if occupancy else None
            if only is None or (only[2] and node_key != self._root_key):
                self._nodes[node_key] = None
                return only
        if not 0 <= total <= MAX_SUM:
            raise AssertionError(f"sum {total} is outside 0..{MAX_SUM} at {node_key!r}")
        self._nodes[node_key] = bytes(node)
        return _hash_node(node), total, b""


# ---- one node


def _get_occupancy(node: _Node) -> int:
    return node[_OCCUPANCY_AT] << 8 | node[_OCCUPANCY_AT + 1]


def _hash_node(node: _Node) -> bytes:
    return sha256(node[: _SLOTS_AT + _SLOT * _get_occupancy(node).bit_count()]).digest()


def _compute_sum(node: _Node) -> int:
    return sum(
        _read_u64(node, _SLOTS_AT + 32 + _SLOT * rank)[0]
        for rank in range(_get_occupancy(node).bit_count())
    )


def _locate(node: _Node, nibble: int) -> tuple[int, int, int]:
    """Return where the slot, its key's length, and its key are, or would be inserted."""
    occupancy = _get_occupancy(node)
    rank, count = (occupancy & (1 << nibble) - 1).bit_count(), occupancy.bit_count()
    lengths_at = _SLOTS_AT + _SLOT * count
    key_at = lengths_at + count + sum(node[lengths_at : lengths_at + rank])
    return _SLOTS_AT + _SLOT * rank, lengths_at + rank, key_at


def _get_key(node: _Node, top: int, rank: int) -> _Node:
    """Return the key of the leaf in the slot of this rank; `top` is where the lengths are."""
    lengths_end = top + (top - _SLOTS_AT) // _SLOT
    key_at = lengths_end + sum(node[top : top + rank])
    return node[key_at : key_at + node[top + rank]]


def _get_child(node: _Node, nibble: int) -> _Child | None:
    if not _get_occupancy(node) >> nibble & 1:
        return None
    slot_at, length_at, key_at = _locate(node, nibble)
    digest, total = _read_slot(node, slot_at)
    return digest, total, bytes(node[key_at : key_at + node[length_at]])


def _set_slot(node: bytearray, nibble: int, child: _Child | None) -> int:
    """Put a child, or nothing, into a slot, whatever stood there; return how the sum changes."""
    occupancy, bit, old_total = _get_occupancy(node), 1 << nibble, 0
    slot_at, length_at, key_at = _locate(node, nibble)
    held, key_end = 0, key_at
    if occupancy & bit:
        held, key_end = 1, key_at + node[length_at]
        old_total = _read_u64(node, slot_at + 32)[0]
    digest, total, key = (b"", 0, b"") if child is None else child
    # From the back, so that no offset moves before it is used.
    node[key_at:key_end] = key
    node[length_at : length_at + held] = b"" if child is None else _BYTE[len(key)]
    slot = b"" if child is None else digest + total.to_bytes(8, "big")
    node[slot_at : slot_at + _SLOT * held] = slot
    occupancy = occupancy & ~bit if child is None else occupancy | bit
    node[_OCCUPANCY_AT:_SLOTS_AT] = occupancy.to_bytes(2, "big")
    return total - old_total


# ---- root


def get_root(reader: NodeReader, tree: bytes) -> TreeRoot:
    """Return the root of a tree as the reader has it."""
    node = reader.get_node(_compute_node_key(tree))
    return EMPTY_ROOT if node is None else TreeRoot(_hash_node(node), _compute_sum(node))


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
    path, root_key = _compute_path(key), _compute_node_key(tree)
    steps: list[TreeStep] = []
    for depth in range(MAX_TREE_DEPTH):
        node = reader.get_node(root_key + path[:depth])
        if node is None:
            if depth:
                raise AssertionError(f"node missing at {path[:depth]!r}")
            return TreeProof((), None)
        occupancy, child = _get_occupancy(node), _get_child(node, path[depth])
        slot_at, _, _ = _locate(node, path[depth])
        after = slot_at + _SLOT * (child is not None)
        end = _SLOTS_AT + _SLOT * occupancy.bit_count()
        steps.append(TreeStep(occupancy, node[_SLOTS_AT:slot_at] + node[after:end]))
        if child is None:
            return TreeProof(tuple(steps), None)
        _, amount, found = child
        if found:
            return TreeProof(tuple(steps), TreeLeaf(found, read_value(found), amount))
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
        split = (step.occupancy & (1 << nibble) - 1).bit_count() * _SLOT
        node = b"%b%b%b%b%b" % (
            head,
            step.occupancy.to_bytes(2, "big"),
            step.siblings[:split],
            slot,
            step.siblings[split:],
        )
        total = _compute_sum(node)
        if total > MAX_SUM:
            raise ProofInvalid(f"steps[{depth}]: the sum {total} is above {MAX_SUM}")
        slot = _hash_node(node) + total.to_bytes(8, "big")
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
    assets: Annotated[tuple[AssetRow, ...], Meta(max_length=MAX_ASSETS)]
    """In ascending order of code."""


def compute_state_root(sections: Sequence[SectionRoot], assets: Sequence[AssetRow]) -> bytes:
    """Return the 32-byte root of the whole state.

    Hashes the canonical bytes of the table: lengths are in them, so nothing is ambiguous.
    """
    return compute_hash(HashTag.STATE, encode(StateTable(tuple(sections), tuple(assets))))
