"""The 16-ary sparse Merkle-sum tree behind the state root: batch update and root.

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
patched and hashed once, while it is in the processor's cache.

Nodes are kept in pages (`pages.py`) in the overlays next to the records (`View.get_node`,
`Overlay.nodes`), under length of the tree id + tree id + path, one byte a nibble. They hold the
keys of leaves, so that one can be pushed down, pulled up, or shown in a proof, without searching
the records. Empty slots take no room in the hash: most nodes of a large tree have
two or three entries, and sixteen slots with zeros made them three times as large and the update a
fifth slower; the occupancy says the same.
"""

import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from operator import eq, itemgetter
from typing import Final, NamedTuple, Protocol

from atpar.ledger.hashing import FEW, HashTag, hash_all
from atpar.ledger.limits import (
    MAX_SUM,
    MAX_TREE_ID_BYTES,
    MAX_TREE_KEY_BYTES,
    TREE_FANOUT,
)
from atpar.ledger.pages import (
    COUNT,
    HASHED_AT,
    HEAD_BYTES,
    SLOT_BYTES,
    TOP,
    Child,
    Opened,
    compute_sum,
    find_item,
    open_node,
    pack_u64,
    read_ends,
    read_masks,
    read_u64,
    write_slot,
)
from atpar.ledger.state import Overlay, View
from atpar.ledger.types import ZERO_HASH

_KEY_PREFIX: Final = HashTag.KEY.value
_BYTE: Final = [bytes([n]) for n in range(256)]
_AFTER: Final = [bytes([n + 1]) for n in range(TREE_FANOUT)]
"""Nibble -> the byte with which the paths after all of its own go on."""
_NIBBLES: Final = bytes.maketrans(b"0123456789abcdef", bytes(range(TREE_FANOUT)))

assert len(HashTag.NODE.value) + 1 + MAX_TREE_ID_BYTES == HEAD_BYTES


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


Change = tuple[bytes, bytes | None, int]
"""A `TreeChange` without names, which takes a tenth of the time to make."""


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


def compute_path(key: bytes) -> bytes:
    """Return where a key's leaf may stand: the hash of the key, one byte for each nibble."""
    return sha256(_KEY_PREFIX + key).hexdigest().encode().translate(_NIBBLES)


def compute_leaf_hash(tree: bytes, key: bytes, value: bytes) -> bytes:
    """Return the hash of one entry."""
    return sha256(compute_head(HashTag.LEAF, tree) + _BYTE[len(key)] + key + value).digest()


def compute_head(tag: HashTag, tree: bytes) -> bytes:
    """Return how everything that is hashed for a tree starts."""
    return tag.value + _BYTE[len(tree)] + tree.ljust(MAX_TREE_ID_BYTES, b"\0")


def compute_node_key(tree: bytes) -> bytes:
    """Return the key of the root node; those below add their path to it."""
    return _BYTE[len(tree)] + tree


# ---- update

Item = tuple[bytes, bytes | None, int, bytes]
"""One change, ready to place: where it belongs, its leaf hash (None deletes), amount, full key.

Where is the key of the root node and the 64 nibbles of the path: its prefixes are the keys of the
nodes that the change can touch, and items sort by it.
"""


_get_path = itemgetter(0)


class TreeCode(Protocol):
    """Writes new values of entries that are there, faster than Python."""

    def change_values(
        self,
        get_node: Callable[[bytes], bytes | None],
        nodes: dict[bytes, bytes | None],
        root_key: bytes,
        items: list[Item],
    ) -> list[Item]:
        """Write what changes the value of an entry into `nodes`; return the other items, in order.

        Where a sum would leave 0..MAX_SUM it writes nothing and returns all.
        """


_code: TreeCode | None = None


def use_tree_code(code: TreeCode | None) -> None:
    """Have values written by somebody who does the same faster, see `hashing.use_many_hashes`."""
    global _code  # noqa: PLW0603
    _code = code


def update_tree(overlay: Overlay, tree: bytes, changes: Iterable[Change]) -> TreeRoot:
    """Apply changes to a tree, write its nodes into the overlay, return the new root.

    Of several changes to one key the last counts; deleting an absent key does nothing.

    Raises:
        AssertionError: an amount or a sum left 0..MAX_SUM, which the rules of money exclude.
    """
    return update_tree_by(_code, overlay, tree, changes)


def update_tree_by(
    code: TreeCode | None, overlay: Overlay, tree: bytes, changes: Iterable[Change]
) -> TreeRoot:
    """As `update_tree`, with values written by the code given."""
    items = _prepare(tree, changes)
    if code is not None and len(items) >= FEW:
        root_key = compute_node_key(tree)
        get_node = _make_node_reader(overlay, root_key)
        items = code.change_values(get_node, overlay.nodes, root_key, items)
    if items:
        return _Update(overlay, tree, items).run()
    return _check_total(get_root(overlay, tree))


def _check_total(root: TreeRoot) -> TreeRoot:
    if not 0 <= root.total <= MAX_SUM:
        raise AssertionError(f"sum {root.total} is outside 0..{MAX_SUM}")
    return root


def _prepare(tree: bytes, changes: Iterable[Change]) -> list[Item]:
    """Hash keys and leaves, and sort by path."""
    if len(tree) > MAX_TREE_ID_BYTES:
        raise AssertionError(f"tree id {tree!r} has more than {MAX_TREE_ID_BYTES} bytes")
    keys, leaves, amounts = [], [], []
    for key, value, amount in changes:
        if not 1 <= len(key) <= MAX_TREE_KEY_BYTES:
            raise AssertionError(f"key of {len(key)} bytes, expected 1 to {MAX_TREE_KEY_BYTES}")
        if not 0 <= amount <= MAX_SUM:
            raise AssertionError(f"amount {amount} is outside 0..{MAX_SUM}")
        keys.append(key)
        leaves.append(b"" if value is None else _BYTE[len(key)] + key + value)
        amounts.append(amount)
    root_key = compute_node_key(tree)
    items: list[Item] = [
        (root_key + path.hex().encode().translate(_NIBBLES), digest, amount, key)
        if leaf
        else (root_key + path.hex().encode().translate(_NIBBLES), None, 0, key)
        for path, leaf, digest, amount, key in zip(
            hash_all(_KEY_PREFIX, keys),
            leaves,
            hash_all(compute_head(HashTag.LEAF, tree), leaves),
            amounts,
            keys,
            strict=True,
        )
    ]
    items.sort(key=_get_path)
    paths = [item[0] for item in items]
    if any(map(eq, paths, islice(paths, 1, None))):
        # The sort is stable, so the last of several is the one that stays.
        items = list({item[0]: item for item in items}.values())
    return items


def _make_node_reader(view: View, root_key: bytes) -> Callable[[bytes], bytes | None]:
    """Return a function that does what `view.get_node` does for the nodes of one tree.

    Every update writes the root node, so an overlay without it holds no node of the tree at all;
    asking it for each node would cost as much as finding the node.
    """
    tables = []
    while isinstance(view, Overlay):
        if root_key in view.nodes:
            tables.append(view.nodes)
        view = view.parent
    get_below = view.get_node
    if not tables:
        return get_below

    def get_node(key: bytes) -> bytes | None:
        for table in tables:
            if key in table:
                return table[key]
        return get_below(key)

    return get_node


class _Update:
    """One batch of changes to one tree: a depth-first walk over the pages it touches.

    The hot path of every block. New values of entries that are there are written into a copy of
    their page, whatever the number of changes in it. Where an entry comes or goes, the page is
    taken apart afterwards, and packed again. A sum changes by the differences of the slots below;
    none can be above the root's, which is checked.
    """

    __slots__ = ("_formed", "_get_node", "_head", "_items", "_nodes", "_paths", "_root_key")

    def __init__(self, overlay: Overlay, tree: bytes, items: Sequence[Item]) -> None:
        self._root_key = compute_node_key(tree)
        self._get_node = _make_node_reader(overlay, self._root_key)
        self._nodes = overlay.nodes
        self._head = compute_head(HashTag.NODE, tree)
        self._items = items
        self._paths = [item[0] for item in items]
        self._formed: dict[bytes, Child | None] = {}
        """What became of pages that no longer stand as such in their parent."""

    def run(self) -> TreeRoot:
        """Apply everything; return the new root."""
        root_key, end = self._root_key, len(self._items)
        root = self._get_node(root_key)
        try:
            if root is None:
                child = self._rebuild(root_key, Opened({}), [(0, end)])
            else:
                child = self._update_page(root_key, root, (0, end), compute_sum(root))
        except struct.error as error:
            raise AssertionError(f"a sum does not fit its slot: {error}") from error
        if child is None:
            return EMPTY_ROOT
        return _check_total(TreeRoot(child[0], child[1]))

    def _update_page(
        self, node_key: bytes, data: bytes, span: tuple[int, int], total: int
    ) -> Child | None:
        """Apply a range of items, which all lie below a node with this page and this sum.

        Returns what now stands in its place; a page of its own is written, and has an empty form.
        """
        page = bytearray(data)
        odd: list[tuple[int, int]] = []
        total += self._patch(page, 0, len(node_key), *span, odd)
        if odd:
            return self._rebuild(node_key, open_node(page, 0), odd)
        self._nodes[node_key] = changed = bytes(page)
        _, _, occupancy = read_masks(changed)
        return sha256(changed[HASHED_AT : TOP[occupancy]]).digest(), total, b""

    def _patch(
        self, page: bytearray, node: int, at: int, start: int, end: int, odd: list[tuple[int, int]]
    ) -> int:
        """Write what items[start:end] change in a node of a page; return how its sum changes.

        `at` is the length of the node's key. Items whose entry comes or goes are left alone and
        their ranges added to `odd`: the sum and the hashes above them then count for nothing.
        """
        paths = self._paths
        leaves, inside, occupancy = read_masks(page, node)
        top, delta, first = node + TOP[occupancy], 0, start
        while first < end:
            path, last = paths[first], first + 1
            nibble = path[at]
            if last < end and paths[last][at] == nibble:
                last = bisect_left(paths, path[:at] + _AFTER[nibble], last, end)
            span, bit, first = (first, last), 1 << nibble, last
            slot = node + TOP[occupancy & bit - 1]
            if leaves & bit:
                _, digest, total, key = self._items[span[0]]
                begin, stop = find_item(page, top, occupancy, bit)
                if last - span[0] > 1 or digest is None or page[begin:stop] != key:
                    odd.append(span)
                    continue
                (held,) = read_u64(page, slot + 32)
            elif inside & bit:
                below, _ = find_item(page, top, occupancy, bit)
                known = len(odd)
                change = self._patch(page, below, at + 1, *span, odd)
                if len(odd) > known:
                    continue
                (held,) = read_u64(page, slot + 32)
                _, _, occupied = read_masks(page, below)
                digest = sha256(page[below + HASHED_AT : below + TOP[occupied]]).digest()
                total = held + change
            elif occupancy & bit:
                (held,) = read_u64(page, slot + 32)
                child = self._update_below(path[: at + 1], span, held)
                if child is None or child[2]:
                    self._formed[path[: at + 1]] = child
                    odd.append(span)
                    continue
                digest, total, _ = child
            else:
                odd.append(span)
                continue
            write_slot(page, slot, digest, total)
            delta += total - held
        return delta

    def _update_below(self, node_key: bytes, span: tuple[int, int], total: int) -> Child | None:
        """Apply a range of items, which all lie below the page of a node with this sum.

        Returns what `_update_page` does.
        """
        data = self._get_node(node_key)
        if data is None:
            raise AssertionError(f"node missing at {node_key!r}")
        if span[1] - span[0] > 1:
            return self._update_page(node_key, data, span, total)
        return self._update_one(node_key, data, span, total)

    def _update_one(
        self, node_key: bytes, data: bytes, span: tuple[int, int], total: int
    ) -> Child | None:
        """Do what `_update_page` does, for one item.

        In a large tree one item is alone in most pages, and most often it finds its leaf there, or
        the page of a node further down.
        """
        path, digest, amount, key = self._items[span[0]]
        at = len(node_key)
        leaves, inside, occupancy = read_masks(data)
        bit = 1 << path[at]
        top = low_top = TOP[occupancy]
        slot = low_slot = TOP[occupancy & bit - 1]
        below = 0
        if inside & bit:
            ends = read_ends(data, top + 2 * COUNT[occupancy & bit - 1])
            below = top + 2 + 2 * COUNT[occupancy] + ends[0]
            at += 1
            leaves, inside, occupancy = read_masks(data, below)
            bit = 1 << path[at]
            low_top, low_slot = below + TOP[occupancy], below + TOP[occupancy & bit - 1]
        if leaves & bit and digest is not None:
            begin, stop = read_ends(data, low_top + 2 * COUNT[occupancy & bit - 1])
            items_at = low_top + 2 + 2 * COUNT[occupancy]
            if data[items_at + begin : items_at + stop] != key:
                return self._update_page(node_key, data, span, total)
            change = amount - read_u64(data, low_slot + 32)[0]
        elif occupancy & bit and not (leaves | inside) & bit:
            (held,) = read_u64(data, low_slot + 32)
            child = self._update_below(path[: at + 1], span, held)
            if child is None or child[2]:
                self._formed[path[: at + 1]] = child
                return self._rebuild(node_key, open_node(data, 0), [span])
            digest, amount, _ = child
            change = amount - held
        else:
            return self._update_page(node_key, data, span, total)
        after = low_slot + SLOT_BYTES
        parts = [data[:low_slot], digest, pack_u64(amount), data[after:]]
        if below:
            (held,) = read_u64(data, slot + 32)
            inner = b"".join((data[below + HASHED_AT : low_slot], *parts[1:3], data[after:low_top]))
            parts[0] = data[:slot]
            parts[1:1] = (
                sha256(inner).digest(),
                pack_u64(held + change),
                data[slot + SLOT_BYTES : low_slot],
            )
        self._nodes[node_key] = changed = b"".join(parts)
        return sha256(changed[HASHED_AT:top]).digest(), total + change, b""

    # ---- entries that come and go

    def _rebuild(
        self, node_key: bytes, opened: Opened, odd: Sequence[tuple[int, int]]
    ) -> Child | None:
        """Apply ranges of items to a page that was taken apart; return what stands in its place."""
        for first, last in odd:
            self._apply_all(opened, len(node_key), first, last)
        if node_key == self._root_key:
            return self._close_root(opened)
        child = self._close(opened, node_key)
        depth = len(node_key) - len(self._root_key)
        if child and isinstance(child[2], Opened) and not child[2].is_inside(depth):
            return self._keep(node_key, child, child[2])
        self._nodes[node_key] = None
        return child

    def _apply_all(self, opened: Opened, at: int, first: int, last: int) -> None:
        """Put items[first:last] where they belong, one nibble after the other."""
        paths = self._paths
        while first < last:
            path = paths[first]
            end = bisect_left(paths, path[:at] + _AFTER[path[at]], first, last)
            self._apply(opened, at, first, end)
            first = end

    def _apply(self, opened: Opened, at: int, first: int, last: int) -> None:
        """Put items[first:last], which share their nibble here, where they belong."""
        path = self._paths[first]
        nibble, below = path[at], at + 1
        child = opened.children.get(nibble)
        form = b"" if child is None else child[2]
        new: Child | None
        if isinstance(form, Opened):
            self._apply_all(form, below, first, last)
            new = b"", 0, form
        elif child is None or form:
            new = self._build(below, first, last, child)
        else:
            new = self._formed.pop(path[:below])
        if new is None:
            opened.children.pop(nibble, None)
        else:
            opened.children[nibble] = new

    def _build(self, at: int, first: int, last: int, old: Child | None) -> Child | None:
        """Return what stands where one leaf or nothing was, after items[first:last]."""
        leaves: dict[bytes, Child] = {}
        if old is not None and isinstance(old[2], bytes):
            leaves[self._root_key + compute_path(old[2])] = old
        for path, digest, amount, key in self._items[first:last]:
            if digest is None:
                leaves.pop(path, None)
            else:
                leaves[path] = digest, amount, key
        return _gather(at, sorted(leaves.items())) if leaves else None

    def _close(self, opened: Opened, node_key: bytes) -> Child | None:
        """Return a node whose children are known again: hash, sum, and the node; or its only leaf.

        Nodes below it that do not stand inside it are written.
        """
        children, depth = opened.children, len(node_key) + 1 - len(self._root_key)
        for nibble, child in list(children.items()):
            form, key = child[2], node_key + _BYTE[nibble]
            if isinstance(form, Opened):
                closed = child if child[0] else self._close(form, key)
                if closed is None:
                    del children[nibble]
                    continue
                form = closed[2]
                if isinstance(form, Opened) and not form.is_inside(depth):
                    closed = self._keep(key, closed, form)
                children[nibble] = closed
        if len(children) == 1 and node_key != self._root_key:
            (only,) = children.values()
            if isinstance(only[2], bytes) and only[2]:
                return only
        if not children:
            return None
        total = sum(child[1] for child in children.values())
        return sha256(opened.pack_hashed(self._head)).digest(), total, opened

    def _close_root(self, opened: Opened) -> Child | None:
        child = self._close(opened, self._root_key)
        if child is None:
            self._nodes[self._root_key] = None
            return None
        return self._keep(self._root_key, child, opened)

    def _keep(self, node_key: bytes, child: Child, opened: Opened) -> Child:
        """Write a node with a page of its own; return how it stands in its parent."""
        self._nodes[node_key] = opened.pack(self._head)
        return child[0], child[1], b""


def _gather(at: int, leaves: Sequence[tuple[bytes, Child]]) -> Child:
    """Return what stands where exactly these leaves, in path order, share `at` bytes."""
    if len(leaves) == 1:
        return leaves[0][1]
    children: dict[int, Child] = {}
    start = 0
    for end in range(1, len(leaves) + 1):
        nibble = leaves[start][0][at]
        if end == len(leaves) or leaves[end][0][at] != nibble:
            children[nibble] = _gather(at + 1, leaves[start:end])
            start = end
    return b"", 0, Opened(children)


# ---- root


def get_root(reader: NodeReader, tree: bytes) -> TreeRoot:
    """Return the root of a tree as the reader has it."""
    page = reader.get_node(compute_node_key(tree))
    if page is None:
        return EMPTY_ROOT
    _, _, occupancy = read_masks(page)
    return TreeRoot(sha256(page[HASHED_AT : TOP[occupancy]]).digest(), compute_sum(page))
