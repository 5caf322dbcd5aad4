"""How the nodes of a tree are kept: a page is one node, and the small ones right below it.

Reading and writing a record costs more than what stands in it, and most nodes of a large tree are
either nearly empty or nearly full. So a node has no record of its own, but stands inside its
parent's page, if it either

- holds leaves only, and takes at most `MAX_SMALL_BYTES`; or
- holds neither leaves nor nodes that stand inside it, and has an odd depth,

and is not the root. With a million entries a page is two full levels near the root, and one node
with its dozen leaves and few small nodes at the bottom. What stands where depends on the contents
alone. None of this is visible in a hash: a node's hash covers its head, occupancy and slots.

    node  = leaves u16 | inside u16 | head 30 | occupancy u16 | slots of 40 [| ends u16 | items]
    slot  = hash 32 | sum u64

`leaves` and `inside` say which nibbles hold a leaf, and a node that stands here; the other occupied
ones have a page of their own. There is one item per slot: a leaf's full key, a node, or nothing.
The ends are where each item begins, and where the last one ends, counted from the first; without
any item they are left out. A change of values moves nothing: it writes slots in place. Everything
else takes the page apart (`Opened`) and packs it again.
"""

import struct
from array import array
from typing import Final

from atpar.ledger.limits import MAX_TREE_KEY_BYTES, TREE_FANOUT

HASHED_AT: Final = 4
"""Where what is hashed of a node begins; it ends with the slots."""
HEAD_BYTES: Final = 30
SLOT_BYTES: Final = 40
MAX_SMALL_BYTES: Final = 288
"""A node of leaves that takes more has a page of its own, so a change copies little."""

_SLOTS_AT: Final = HASHED_AT + HEAD_BYTES + 2
TOP: Final = array("H", [_SLOTS_AT + SLOT_BYTES * n.bit_count() for n in range(1 << TREE_FANOUT)])
"""Occupancy -> where the slots end in a node. Masked below a nibble: where its slot begins."""
COUNT: Final = bytes(n.bit_count() for n in range(1 << TREE_FANOUT))

write_slot: Final = struct.Struct(">32sQ").pack_into
_read_slot: Final = struct.Struct(">32sQ").unpack_from
pack_u64: Final = struct.Struct(">Q").pack
read_u64: Final = struct.Struct(">Q").unpack_from
read_masks: Final = struct.Struct(f">HH{HEAD_BYTES}xH").unpack_from
"""Leaves, inside, occupancy."""
read_ends: Final = struct.Struct(">HH").unpack_from
"""Where an item begins, and where it ends."""
_ENDS: Final = [struct.Struct(f">{n + 1}H") for n in range(TREE_FANOUT + 1)]
_pack_u16 = struct.Struct(">H").pack
_pack_masks = struct.Struct(">HH").pack
_pack_slot = struct.Struct(">32sQ").pack

Buffer = bytes | bytearray


Child = tuple[bytes, int, "bytes | Opened"]
"""What stands under a nibble: hash, sum, form. The form is a leaf's full key; or empty for a node
with a page of its own; or a node taken apart, whose hash is empty while it changes."""


def _get_nibble(entry: tuple[int, Child]) -> int:
    return entry[0]


class Opened:
    """A node, taken apart: its children by nibble."""

    __slots__ = ("children",)

    def __init__(self, children: dict[int, Child]) -> None:
        self.children = children

    def is_inside(self, depth: int) -> bool:
        """Tell whether a node at this depth, not the root, stands in the page of its parent."""
        forms = [form for _, _, form in self.children.values()]
        if not any(forms):
            return depth % 2 == 1
        if not all(type(form) is bytes and form for form in forms):
            return False
        keys = sum(len(form) for form in forms if type(form) is bytes)
        return _SLOTS_AT + 2 + (SLOT_BYTES + 2) * len(forms) + keys <= MAX_SMALL_BYTES

    def pack_hashed(self, head: bytes) -> bytes:
        """Return what is hashed of the node. The digests of the children are known."""
        occupancy, slots = 0, []
        for nibble, (digest, total, _) in sorted(self.children.items(), key=_get_nibble):
            occupancy |= 1 << nibble
            slots.append(_pack_slot(digest, total))
        return b"".join((head, _pack_u16(occupancy), *slots))

    def pack(self, head: bytes) -> bytes:
        """Return the node with what stands inside it."""
        leaves = inside = end = 0
        items, ends = [], [0]
        for nibble, (_, _, form) in sorted(self.children.items(), key=_get_nibble):
            if isinstance(form, Opened):
                inside |= 1 << nibble
                item = form.pack(head)
            else:
                leaves |= bool(form) << nibble
                item = form
            items.append(item)
            end += len(item)
            ends.append(end)
        parts = [_pack_masks(leaves, inside), self.pack_hashed(head)]
        if end:
            parts += [_ENDS[len(items)].pack(*ends), *items]
        return b"".join(parts)


_LARGEST: Final = max(TOP[-1], MAX_SMALL_BYTES, MAX_TREE_KEY_BYTES)
assert TREE_FANOUT * _LARGEST < 1 << 16, "ends of items are u16"


def open_node(data: Buffer, at: int) -> Opened:
    """Take apart the node that begins at `at`."""
    leaves, inside, occupancy = read_masks(data, at)
    slot, top = at + _SLOTS_AT, at + TOP[occupancy]
    ends: tuple[int, ...] = ()
    items_at = 0
    if leaves | inside:
        layout = _ENDS[COUNT[occupancy]]
        ends = layout.unpack_from(data, top)
        items_at = top + layout.size
    children: dict[int, Child] = {}
    for nibble in range(TREE_FANOUT):
        bit = 1 << nibble
        if not occupancy & bit:
            continue
        digest, total = _read_slot(data, slot)
        form: bytes | Opened = b""
        if leaves & bit:
            rank = len(children)
            form = bytes(data[items_at + ends[rank] : items_at + ends[rank + 1]])
        elif inside & bit:
            form = open_node(data, items_at + ends[len(children)])
        children[nibble] = digest, total, form
        slot += SLOT_BYTES
    return Opened(children)


def find_item(data: Buffer, top: int, occupancy: int, bit: int) -> tuple[int, int]:
    """Return where the item of an occupied nibble begins and ends; `top` is the end of the slots.

    Only in a node that has items.
    """
    start, end = read_ends(data, top + 2 * COUNT[occupancy & bit - 1])
    items_at = top + 2 + 2 * COUNT[occupancy]
    return items_at + start, items_at + end


def compute_sum(data: Buffer) -> int:
    """Return the sum of all slots of a page's own node."""
    _, _, occupancy = read_masks(data, 0)
    slots = range(_SLOTS_AT, TOP[occupancy], SLOT_BYTES)
    return sum(read_u64(data, slot + 32)[0] for slot in slots)
