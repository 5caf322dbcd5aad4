"""Machine code that writes new values into the pages of a tree: most of what a block does to one.

`ledger/tree.py` says what a tree and `ledger/pages.py` what a page is. Where the entries that a
block changes are there already, nothing moves: leaves get new hashes and amounts, and the nodes
above them are hashed anew. That is done here, for all entries together; whatever else an item asks
for (an entry that comes or goes) is left to Python, which takes the pages as they are afterwards.
The pages hold the same bytes whoever wrote them, since what stands where depends on the contents.

Pages are found by Python, so it goes down the tree in rounds: `descend` says where in the pages of
a round the items belong, and which pages further down to fetch, joined, for the next. Then `apply`
goes up again: it writes slots, hashes nodes, and hands on each page's hash and change of sum.
"""

import ctypes
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from llvmlite import ir

from atpar.ledger.limits import MAX_SUM
from atpar.ledger.pages import HASHED_AT, HEAD_BYTES, SLOT_BYTES
from atpar.node.machine_code import (
    BYTE,
    WORD,
    Value,
    Writer,
    declare,
    find_function,
    find_memcmp,
    word,
)

_DIGEST_BYTES: Final = 32
_SLOTS_AT: Final = HASHED_AT + HEAD_BYTES + 2
_INSIDE_AT: Final = 2
_OCCUPANCY_AT: Final = _SLOTS_AT - 2
_ENTRY_FIELDS: Final = 4
_GROUP_FIELDS: Final = 3

_BYTES: Final = BYTE.as_pointer()
_COUNT: Final = ir.IntType(32)
_COUNTS: Final = _COUNT.as_pointer()
_WORDS: Final = WORD.as_pointer()
_SHORT: Final = ir.IntType(16)
_BIT: Final = ir.IntType(1)
_SUM: Final = ir.IntType(128)
"""Wide enough for the sum of all changes of a node, whatever is wrong with them."""

_Item = tuple[bytes, bytes | None, int, bytes]
"""As in `ledger.tree`: path, leaf hash (None deletes), amount, key."""


@dataclass(slots=True)
class _Round:
    """Pages of which none is above another, joined, and what is to be done in them."""

    keys: list[bytes]
    """Under which each page is kept."""
    data: bytearray
    offsets: "array[int]"
    """Where each page begins, and the last one ends."""
    entries: "array[int]"
    """Slots to write, page by page: where it is, its node (0: the page's own), that node's own
    slot, and 2 x item, or 2 x page of the next round + 1."""
    entry_ends: "array[int]"
    """Where the entries of each page end."""
    digests: "ctypes.Array[ctypes.c_char]"
    changes: "array[int]"
    """Of the sum of each page."""
    written: bytearray
    """Whether a page was changed at all."""

    def hand_over(self, nodes: dict[bytes, bytes | None]) -> None:
        """Put the pages that were changed among the nodes of a block."""
        data, ends = memoryview(self.data), self.offsets
        for place, key in enumerate(self.keys):
            if self.written[place]:
                nodes[key] = bytes(data[ends[place] : ends[place + 1]])


class TreeCode:
    """Writes values, see `atpar.ledger.tree.TreeCode`."""

    def __init__(self, engine: Any) -> None:
        """Use the functions of a module that `write_tree_functions` wrote to."""
        self._engine = engine
        size, address, text = ctypes.c_uint64, ctypes.c_void_p, ctypes.c_char_p
        down = (size, *[address] * 4, text, size, text, *[address] * 6)
        self._descend = find_function(engine, "descend", None, *down)
        up = (size, *[address] * 3, text, *[address] * 8)
        self._apply = find_function(engine, "apply", size, *up)

    def change_values(
        self,
        get_node: Callable[[bytes], bytes | None],
        nodes: dict[bytes, bytes | None],
        root_key: bytes,
        items: list[_Item],
    ) -> list[_Item]:
        """Write the items that change an entry that is there; return the others, in order.

        All of them, with nothing written, if a sum left 0..MAX_SUM: perhaps only because what goes
        has not gone yet. Python takes all changes together, and has the last word.

        Raises:
            AssertionError: a page is missing.
        """
        root = get_node(root_key)
        if root is None:
            return items
        placed = [item for item in items if item[1] is not None]
        if not placed:
            return items
        job = _Job(placed)
        pages = [(root_key, root, 0, len(placed), len(root_key))]
        rounds: list[_Round] = []
        while pages:
            done, groups = self._go_down(job, pages)
            rounds.append(done)
            pages = []
            for first, last, at in zip(groups[::3], groups[1::3], groups[2::3], strict=True):
                key = placed[first][0][:at]
                page = get_node(key)
                if page is None:
                    raise AssertionError(f"node missing at {key!r}")
                pages.append((key, page, first, last, at))
        if not self._go_up(job, rounds):
            return items
        for done in rounds:
            done.hand_over(nodes)
        if len(placed) == len(items) and not any(job.odd):
            return []
        odd = {item[0] for item, is_odd in zip(placed, job.odd, strict=True) if is_odd}
        return [item for item in items if item[1] is None or item[0] in odd]

    def _go_down(
        self, job: "_Job", pages: Sequence[tuple[bytes, bytes, int, int, int]]
    ) -> tuple[_Round, "array[int]"]:
        keys, contents, firsts, lasts, ats = zip(*pages, strict=True)
        count = len(keys)
        room = sum(lasts) - sum(firsts)
        done = _Round(
            keys=list(keys),
            data=bytearray().join(contents),
            offsets=array("I", accumulate(map(len, contents), initial=0)),
            entries=array("I", bytes(4 * _ENTRY_FIELDS * room)),
            entry_ends=array("I", bytes(4 * count)),
            digests=ctypes.create_string_buffer(_DIGEST_BYTES * count),
            changes=array("q", bytes(8 * count)),
            written=bytearray(count),
        )
        groups, group_count = array("I", bytes(4 * _GROUP_FIELDS * room)), array("I", bytes(4))
        spans, places = array("I", [*firsts, *lasts]), array("I", ats)
        self._descend(
            count,
            _address(done.data),
            _address(done.offsets),
            _address(spans),
            _address(places),
            job.paths,
            job.stride,
            job.keys,
            _address(job.key_ends),
            _address(job.odd),
            _address(done.entries),
            _address(done.entry_ends),
            _address(groups),
            _address(group_count),
        )
        return done, groups[: _GROUP_FIELDS * group_count[0]]

    def _go_up(self, job: "_Job", rounds: list[_Round]) -> bool:
        """Write the slots of all rounds, from the last on; return whether all sums are sums."""
        below: _Round | None = None
        for done in reversed(rounds):
            child = below or done  # the lowest round has no entries that look further down
            wrong = self._apply(
                len(done.keys),
                _address(done.data),
                _address(done.offsets),
                _address(done.entries),
                job.digests,
                _address(job.amounts),
                ctypes.addressof(child.digests),
                _address(child.changes),
                _address(child.written),
                _address(done.entry_ends),
                ctypes.addressof(done.digests),
                _address(done.changes),
                _address(done.written),
            )
            if wrong:
                return False
            below = done
        return True


class _Job:
    """The items of one update, side by side."""

    def __init__(self, items: Sequence[_Item]) -> None:
        paths, digests, amounts, keys = zip(*items, strict=True)
        self.paths = b"".join((*paths, bytes(len(paths[0]))))  # see `_write_descend`
        self.stride = len(paths[0])
        self.digests = b"".join(digests)
        self.amounts = array("Q", amounts)
        self.keys = b"".join(keys)
        self.key_ends = array("I", accumulate(map(len, keys), initial=0))
        self.odd = bytearray(len(items))
        """Whether an item is left to Python."""


def _address(memory: "array[Any] | bytearray") -> int:
    """Return where memory stands that is held by the caller, and keeps its size."""
    if isinstance(memory, array):
        return memory.buffer_info()[0]
    return ctypes.addressof((ctypes.c_char * len(memory)).from_buffer(memory))


# ---- the code


def write_tree_functions(module: Value, digest: Value) -> None:
    """Write both functions; digest(data, length, out) is a function of the module."""
    _write_descend(module)
    _write_apply(module, digest)


class _TreeWriter(Writer):
    """Writes one function, in the words of `ledger/pages.py`."""

    def __init__(self, function: Value) -> None:
        super().__init__(function)
        module = function.module
        self._count_bits = module.declare_intrinsic("llvm.ctpop", [WORD])
        self._swap_short = module.declare_intrinsic("llvm.bswap", [_SHORT])
        self._swap_word = module.declare_intrinsic("llvm.bswap", [WORD])

    def keep(self, value: Value | int) -> Value:
        """Return a place in memory for a variable. Before any loop: it takes room each time."""
        first = word(value) if isinstance(value, int) else value
        place = self.b.alloca(first.type)
        self.b.store(first, place)
        return place

    def load_count(self, counts: Value, place: Value) -> Value:
        """Return one of 32-bit numbers as a word."""
        return self.b.zext(self.b.load(self.at(counts, place)), WORD)

    def load_short(self, page: Value, place: Value | int) -> Value:
        """Return the big-endian 16 bits that stand so many bytes further on, as a word."""
        there = self.b.bitcast(self.at(page, place), _SHORT.as_pointer())
        return self.b.zext(self.b.call(self._swap_short, [self.b.load(there, align=1)]), WORD)

    def load_sum(self, page: Value, slot: Value) -> Value:
        """Return the sum of a slot, as `_SUM`."""
        there = self.b.bitcast(self.at(page, self.b.add(slot, word(_DIGEST_BYTES))), _WORDS)
        return self.b.zext(self.b.call(self._swap_word, [self.b.load(there, align=1)]), _SUM)

    def store_sum(self, page: Value, slot: Value, total: Value) -> None:
        """Write the sum of a slot."""
        there = self.b.bitcast(self.at(page, self.b.add(slot, word(_DIGEST_BYTES))), _WORDS)
        swapped = self.b.call(self._swap_word, [self.b.trunc(total, WORD)])
        self.b.store(swapped, there, align=1)

    def count_bits(self, bits: Value) -> Value:
        """Return how many bits are set."""
        return self.b.call(self._count_bits, [bits])

    def find_slot(self, rank: Value) -> Value:
        """Return where the slot of this rank begins in a node; of a node's size, where they end."""
        return self.b.add(self.b.mul(rank, word(SLOT_BYTES)), word(_SLOTS_AT))

    def has(self, bits: Value, bit: Value) -> Value:
        """Return whether a bit is set."""
        return self.b.icmp_unsigned("!=", self.b.and_(bits, bit), word(0))

    def add_to(self, place: Value, value: Value) -> None:
        """Add to a variable."""
        self.b.store(self.b.add(self.b.load(place), value), place)

    def while_(self, condition: Callable[[], Value], body: Callable[[], None]) -> None:
        """Write a loop that goes on as long as a condition holds."""
        b = self.b
        head, inside, after = (b.append_basic_block() for _ in range(3))
        b.branch(head)
        b.position_at_end(head)
        b.cbranch(condition(), inside, after)
        b.position_at_end(inside)
        body()
        b.branch(head)
        b.position_at_end(after)


def _write_descend(module: Value) -> None:
    """descend(...), see `TreeCode._go_down`: where items belong in the pages of a round.

    (pages, data, offsets, spans: first items and then last ones, places of the nibble in the path,
    paths, their length, keys, key ends, odd, entries, entry ends, groups, number of groups). A
    group is a page of the next round: its first item, its last, and the place of its nibble.
    """
    parameters = [
        WORD, _BYTES, _COUNTS, _COUNTS, _COUNTS, _BYTES, WORD, _BYTES, _COUNTS, _BYTES,
        _COUNTS, _COUNTS, _COUNTS, _COUNTS,
    ]  # fmt: skip
    function = declare(module, "descend", parameters, result=ir.VoidType(), is_internal=False)
    count, data, offsets, spans, places, paths, stride, keys, key_ends, odd = function.args[:10]
    entries, entry_ends, groups, group_count = function.args[10:]
    compare = find_memcmp(module)
    w = _TreeWriter(function)
    b = w.b
    entry_number, group_number = w.keep(0), w.keep(0)
    first, last = w.keep(0), w.keep(0)
    node, outer, width = w.keep(0), w.keep(0), w.keep(1)
    is_same = w.keep(ir.Constant(_BIT, 0))

    def store_counts(target: Value, number: Value, fields: int, values: Sequence[Value]) -> None:
        row = w.at(target, b.mul(number, word(fields)))
        for place, value in enumerate(values):
            b.store(b.trunc(value, _COUNT), w.at(row, place))

    def add_entry(slot: Value, source: Value) -> None:
        fields = (slot, b.load(node), b.load(outer), source)
        store_counts(entries, b.load(entry_number), _ENTRY_FIELDS, fields)
        w.add_to(entry_number, word(1))

    def leave_to_python() -> None:
        def mark() -> None:
            b.store(ir.Constant(BYTE, 1), w.at(odd, b.load(first)))
            w.add_to(first, word(1))

        w.while_(lambda: b.icmp_unsigned("<", b.load(first), b.load(last)), mark)

    def take_page(index: Value, carried: list[Value]) -> list[Value]:
        page = w.at(data, w.load_count(offsets, index))
        end = w.load_count(spans, b.add(count, index))
        place = w.load_count(places, index)
        b.store(w.load_count(spans, index), first)
        w.while_(
            lambda: b.icmp_unsigned("<", b.load(first), end), lambda: take_slot(page, end, place)
        )
        b.store(b.trunc(b.load(entry_number), _COUNT), w.at(entry_ends, index))
        return carried

    def get_nibble(item: Value, place: Value) -> Value:
        return b.load(w.at(paths, b.add(b.mul(item, stride), place)))

    def take_slot(page: Value, end: Value, place: Value) -> None:
        """Take the items that share the slot of the first one."""
        nibble = get_nibble(b.load(first), place)
        bit = b.shl(word(1), b.zext(nibble, WORD))
        inside = w.load_short(page, _INSIDE_AT)
        for variable, value in ((node, 0), (outer, 0), (width, 1)):
            b.store(word(value), variable)
        with b.if_then(w.has(inside, bit)):
            occupancy = w.load_short(page, _OCCUPANCY_AT)
            rank = w.count_bits(b.and_(occupancy, b.sub(bit, word(1))))
            begin, _ = find_item(page, word(0), occupancy, rank)
            b.store(begin, node)
            b.store(w.find_slot(rank), outer)
            b.store(word(2), width)
        below = get_nibble(b.load(first), b.sub(b.add(place, b.load(width)), word(1)))
        b.store(b.add(b.load(first), word(1)), last)

        def shares_slot() -> Value:
            other = b.load(last)
            is_there = b.icmp_unsigned("<", other, end)
            # Reads one path beyond the end at most: `_Job` has one more.
            same = b.icmp_unsigned("==", get_nibble(other, place), nibble)
            under = b.sub(b.add(place, b.load(width)), word(1))
            same_below = b.icmp_unsigned("==", get_nibble(other, under), below)
            return b.and_(is_there, b.and_(same, same_below))

        w.while_(shares_slot, lambda: w.add_to(last, word(1)))
        place_items(page, place, b.shl(word(1), b.zext(below, WORD)))
        b.store(b.load(last), first)

    def find_item(page: Value, here: Value, occupancy: Value, rank: Value) -> tuple[Value, Value]:
        """Return where the item of a slot begins in the page, and where it ends."""
        size = w.count_bits(occupancy)
        ends = b.add(here, w.find_slot(size))
        items = b.add(ends, b.add(word(2), b.shl(size, word(1))))
        at = b.add(ends, b.shl(rank, word(1)))
        begin, stop = w.load_short(page, at), w.load_short(page, b.add(at, word(2)))
        return b.add(items, begin), b.add(items, stop)

    def place_items(page: Value, place: Value, bit: Value) -> None:
        here = b.load(node)
        leaves = w.load_short(page, here)
        inside = w.load_short(page, b.add(here, word(_INSIDE_AT)))
        occupancy = w.load_short(page, b.add(here, word(_OCCUPANCY_AT)))
        rank = w.count_bits(b.and_(occupancy, b.sub(bit, word(1))))
        slot = b.add(here, w.find_slot(rank))
        with b.if_else(w.has(leaves, bit)) as (is_leaf, is_none):
            with is_leaf:
                place_leaf(page, slot, find_item(page, here, occupancy, rank))
            with is_none:
                has_page = b.and_(w.has(occupancy, bit), b.not_(w.has(inside, bit)))
                with b.if_else(has_page) as (then, otherwise):
                    with then:
                        number = b.load(group_number)
                        under = b.add(place, b.load(width))
                        group = (b.load(first), b.load(last), under)
                        store_counts(groups, number, _GROUP_FIELDS, group)
                        add_entry(slot, b.or_(b.shl(number, word(1)), word(1)))
                        w.add_to(group_number, word(1))
                    with otherwise:
                        leave_to_python()

    def place_leaf(page: Value, slot: Value, item: tuple[Value, Value]) -> None:
        number = b.load(first)
        start = w.load_count(key_ends, number)
        length = b.sub(w.load_count(key_ends, b.add(number, word(1))), start)
        is_alone = b.icmp_unsigned("==", b.add(number, word(1)), b.load(last))
        fits = b.icmp_unsigned("==", b.sub(item[1], item[0]), length)
        b.store(ir.Constant(_BIT, 0), is_same)
        with b.if_then(b.and_(is_alone, fits)):
            result = b.call(compare, [w.at(page, item[0]), w.at(keys, start), length])
            b.store(b.icmp_unsigned("==", result, ir.Constant(_COUNT, 0)), is_same)
        with b.if_else(b.load(is_same)) as (then, otherwise):
            with then:
                add_entry(slot, b.shl(number, word(1)))
            with otherwise:
                leave_to_python()

    w.repeat(count, [], take_page)
    b.store(b.trunc(b.load(group_number), _COUNT), group_count)
    b.ret_void()


def _write_apply(module: Value, digest: Value) -> None:
    """apply(...), see `TreeCode._go_up`: write the slots of a round; 0, or 1 if a sum is wrong.

    (pages, data, offsets, entries, digests and amounts of items, digests, changes and written of
    the pages below, entry ends, digests, changes and written of these pages).
    """
    parameters = [
        WORD, _BYTES, _COUNTS, _COUNTS, _BYTES, _WORDS, _BYTES, _WORDS, _BYTES, _COUNTS,
        _BYTES, _WORDS, _BYTES,
    ]  # fmt: skip
    function = declare(module, "apply", parameters, result=WORD, is_internal=False)
    count, data, offsets, entries, digests, amounts = function.args[:6]
    below_digests, below_changes, below_written, entry_ends = function.args[6:10]
    out_digests, out_changes, out_written = function.args[10:]
    w = _TreeWriter(function)
    b = w.b
    move = module.declare_intrinsic("llvm.memcpy", [_BYTES, _BYTES, WORD])
    nothing = ir.Constant(_SUM, 0)
    entry, wrong, written = w.keep(0), w.keep(0), w.keep(0)
    node, outer = w.keep(0), w.keep(0)
    change, change_below = w.keep(nothing), w.keep(nothing)
    held, total, source = w.keep(nothing), w.keep(nothing), w.keep(digests)

    def hash_node(page: Value, here: Value, out: Value) -> None:
        size = w.count_bits(w.load_short(page, b.add(here, word(_OCCUPANCY_AT))))
        length = b.sub(w.find_slot(size), word(HASHED_AT))
        b.call(digest, [w.at(page, b.add(here, word(HASHED_AT))), length, out])

    def write_total(page: Value, slot: Value) -> None:
        """Write `total` into a slot, and note it if it is no sum."""
        value = b.load(total)
        is_low = b.icmp_signed("<", value, nothing)
        is_high = b.icmp_signed(">", value, ir.Constant(_SUM, MAX_SUM))
        with b.if_then(b.or_(is_low, is_high)):
            b.store(word(1), wrong)
        w.store_sum(page, slot, value)

    def close_node(page: Value) -> None:
        """Hash the node inside the page that was written to last, if there is one."""
        here = b.load(node)
        with b.if_then(b.icmp_unsigned("!=", here, word(0))):
            slot = b.load(outer)
            hash_node(page, here, w.at(page, slot))
            b.store(b.add(w.load_sum(page, slot), b.load(change_below)), total)
            write_total(page, slot)
            w.add_to(change, b.load(change_below))

    def write_entry(page: Value, row: Value) -> None:
        slot, inner, own_slot, origin = (w.load_count(row, word(field)) for field in range(4))
        number = b.lshr(origin, word(1))
        is_leaf = b.icmp_unsigned("==", b.and_(origin, word(1)), word(0))
        b.store(word(1), written)
        with b.if_then(b.icmp_unsigned("!=", inner, b.load(node))):
            close_node(page)
            b.store(inner, node)
            b.store(own_slot, outer)
            b.store(nothing, change_below)
        b.store(w.load_sum(page, slot), held)
        offset = b.mul(number, word(_DIGEST_BYTES))
        with b.if_else(is_leaf) as (then, otherwise):
            with then:
                b.store(w.at(digests, offset), source)
                b.store(b.zext(b.load(w.at(amounts, number)), _SUM), total)
            with otherwise:
                b.store(w.at(below_digests, offset), source)
                moved = b.sext(b.load(w.at(below_changes, number)), _SUM)
                b.store(b.add(b.load(held), moved), total)
        no = ir.Constant(_BIT, 0)
        b.call(move, [w.at(page, slot), b.load(source), word(_DIGEST_BYTES), no])
        write_total(page, slot)
        gained = b.sub(b.load(total), b.load(held))
        with b.if_else(b.icmp_unsigned("==", inner, word(0))) as (then, otherwise):
            with then:
                w.add_to(change, gained)
            with otherwise:
                w.add_to(change_below, gained)

    def take_entry(page: Value) -> None:
        row = w.at(entries, b.mul(b.load(entry), word(_ENTRY_FIELDS)))
        origin = w.load_count(row, word(3))
        is_leaf = b.icmp_unsigned("==", b.and_(origin, word(1)), word(0))
        # A leaf has no page below: then what is read there is not looked at.
        number = b.select(is_leaf, word(0), b.lshr(origin, word(1)))
        is_written = b.icmp_unsigned(
            "!=", b.load(w.at(below_written, number)), ir.Constant(BYTE, 0)
        )
        with b.if_then(b.or_(is_leaf, is_written)):
            write_entry(page, row)
        w.add_to(entry, word(1))

    def take_page(index: Value, carried: list[Value]) -> list[Value]:
        page = w.at(data, w.load_count(offsets, index))
        end = w.load_count(entry_ends, index)
        for variable in (node, written):
            b.store(word(0), variable)
        b.store(nothing, change)
        w.while_(lambda: b.icmp_unsigned("<", b.load(entry), end), lambda: take_entry(page))
        with b.if_then(b.icmp_unsigned("!=", b.load(written), word(0))):
            close_node(page)
            hash_node(page, word(0), w.at(out_digests, b.mul(index, word(_DIGEST_BYTES))))
            moved = b.trunc(b.load(change), WORD)
            with b.if_then(b.icmp_unsigned("!=", b.sext(moved, _SUM), b.load(change))):
                b.store(word(1), wrong)
            b.store(moved, w.at(out_changes, index))
        b.store(b.trunc(b.load(written), BYTE), w.at(out_written, index))
        return carried

    w.repeat(count, [], take_page)
    b.ret(b.load(wrong))
