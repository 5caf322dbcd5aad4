"""The functions of `tree_code.py` in LLVM's language: how pages are read and written by them.

Layouts are those of `ledger/pages.py`. A writer writes one function: what stands in a loop is a
method, and what changes from turn to turn is a variable in memory, which LLVM turns into registers.
"""

from collections.abc import Callable, Sequence
from typing import Final

from llvmlite import ir

from atpar.ledger.limits import MAX_SUM
from atpar.ledger.pages import HASHED_AT, HEAD_BYTES, SLOT_BYTES
from atpar.node.machine_code import (
    BYTE,
    DIGEST_BYTES,
    WORD,
    Value,
    Writer,
    declare,
    find_memcmp,
    word,
)

ENTRY_FIELDS: Final = 4
GROUP_FIELDS: Final = 3
_SLOTS_AT: Final = HASHED_AT + HEAD_BYTES + 2
_INSIDE_AT: Final = 2
_OCCUPANCY_AT: Final = _SLOTS_AT - 2

_BYTES: Final = BYTE.as_pointer()
_COUNT: Final = ir.IntType(32)
_COUNTS: Final = _COUNT.as_pointer()
_WORDS: Final = WORD.as_pointer()
_SHORT: Final = ir.IntType(16)
_BIT: Final = ir.IntType(1)
_SUM: Final = ir.IntType(128)
"""Wide enough for the sum of all changes of a node, whatever is wrong with them."""
_NOTHING: Final = ir.Constant(_SUM, 0)


def write_tree_functions(module: Value, digest: Value) -> None:
    """Write both functions; digest(data, length, out) is a function of the module."""
    _DescentWriter(module).write()
    _AscentWriter(module, digest).write()


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
        there = self.b.bitcast(self.at(page, self.b.add(slot, word(DIGEST_BYTES))), _WORDS)
        return self.b.zext(self.b.call(self._swap_word, [self.b.load(there, align=1)]), _SUM)

    def store_sum(self, page: Value, slot: Value, total: Value) -> None:
        """Write the sum of a slot."""
        there = self.b.bitcast(self.at(page, self.b.add(slot, word(DIGEST_BYTES))), _WORDS)
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


class _DescentWriter(_TreeWriter):
    """descend(...), see `TreeCode._go_down`: where items belong in the pages of a round.

    (pages, data, offsets, spans: first items and then last ones, places of the nibble in the path,
    paths, their length, keys, key ends, odd, entries, entry ends, groups, number of groups). A
    group is a page of the next round: its first item, its last, and the place of its nibble.
    """

    def __init__(self, module: Value) -> None:
        parameters = [
            WORD, _BYTES, _COUNTS, _COUNTS, _COUNTS, _BYTES, WORD, _BYTES, _COUNTS, _BYTES,
            _COUNTS, _COUNTS, _COUNTS, _COUNTS,
        ]  # fmt: skip
        function = declare(module, "descend", parameters, result=ir.VoidType(), is_internal=False)
        self._compare = find_memcmp(module)
        super().__init__(function)
        self._count, self._data, self._offsets, self._spans, self._places = function.args[:5]
        self._paths, self._stride, self._keys, self._key_ends, self._odd = function.args[5:10]
        self._entries, self._entry_ends, self._groups, self._group_count = function.args[10:]
        self._entry_number, self._group_number = self.keep(0), self.keep(0)
        # The items that share a slot, and the node it is in: its place in the page (0: the page's
        # own), that node's own slot, and how many nibbles lead there.
        self._first, self._last = self.keep(0), self.keep(0)
        self._node, self._outer, self._width = self.keep(0), self.keep(0), self.keep(1)
        self._is_same = self.keep(ir.Constant(_BIT, 0))

    def write(self) -> None:
        """Write the function."""
        self.repeat(self._count, [], self._take_page)
        self.b.store(self.b.trunc(self.b.load(self._group_number), _COUNT), self._group_count)
        self.b.ret_void()

    def _take_page(self, index: Value, carried: list[Value]) -> list[Value]:
        b = self.b
        page = self.at(self._data, self.load_count(self._offsets, index))
        end = self.load_count(self._spans, b.add(self._count, index))
        place = self.load_count(self._places, index)
        b.store(self.load_count(self._spans, index), self._first)
        self.while_(
            lambda: b.icmp_unsigned("<", b.load(self._first), end),
            lambda: self._take_slot(page, end, place),
        )
        b.store(b.trunc(b.load(self._entry_number), _COUNT), self.at(self._entry_ends, index))
        return carried

    def _take_slot(self, page: Value, end: Value, place: Value) -> None:
        """Take the items that share the slot of the first one."""
        b = self.b
        nibble = self._get_nibble(b.load(self._first), place)
        bit = b.shl(word(1), b.zext(nibble, WORD))
        self._find_node(page, bit)
        below_at = b.sub(b.add(place, b.load(self._width)), word(1))
        below = self._get_nibble(b.load(self._first), below_at)
        b.store(b.add(b.load(self._first), word(1)), self._last)

        def shares_slot() -> Value:
            other = b.load(self._last)
            is_there = b.icmp_unsigned("<", other, end)
            # Reads one path beyond the end at most: `_Job` has one more.
            same = b.icmp_unsigned("==", self._get_nibble(other, place), nibble)
            same_below = b.icmp_unsigned("==", self._get_nibble(other, below_at), below)
            return b.and_(is_there, b.and_(same, same_below))

        self.while_(shares_slot, lambda: self.add_to(self._last, word(1)))
        self._place_items(page, place, b.shl(word(1), b.zext(below, WORD)))
        b.store(b.load(self._last), self._first)

    def _find_node(self, page: Value, bit: Value) -> None:
        """Note which node of the page the items belong to: its own, or one inside it."""
        b = self.b
        inside = self.load_short(page, _INSIDE_AT)
        for variable, value in ((self._node, 0), (self._outer, 0), (self._width, 1)):
            b.store(word(value), variable)
        with b.if_then(self.has(inside, bit)):
            occupancy = self.load_short(page, _OCCUPANCY_AT)
            rank = self._count_below(occupancy, bit)
            begin, _ = self._find_item(page, word(0), occupancy, rank)
            b.store(begin, self._node)
            b.store(self.find_slot(rank), self._outer)
            b.store(word(2), self._width)

    def _place_items(self, page: Value, place: Value, bit: Value) -> None:
        """Say where the items go that share a slot: into a leaf, a page below, or to Python."""
        b = self.b
        here = b.load(self._node)
        leaves = self.load_short(page, here)
        inside = self.load_short(page, b.add(here, word(_INSIDE_AT)))
        occupancy = self.load_short(page, b.add(here, word(_OCCUPANCY_AT)))
        rank = self._count_below(occupancy, bit)
        slot = b.add(here, self.find_slot(rank))
        with b.if_else(self.has(leaves, bit)) as (is_leaf, is_none):
            with is_leaf:
                self._place_leaf(page, slot, self._find_item(page, here, occupancy, rank))
            with is_none:
                has_page = b.and_(self.has(occupancy, bit), b.not_(self.has(inside, bit)))
                with b.if_else(has_page) as (then, otherwise):
                    with then:
                        self._place_below(slot, place)
                    with otherwise:
                        self._leave_to_python()

    def _place_leaf(self, page: Value, slot: Value, item: tuple[Value, Value]) -> None:
        b = self.b
        number = b.load(self._first)
        start = self.load_count(self._key_ends, number)
        length = b.sub(self.load_count(self._key_ends, b.add(number, word(1))), start)
        is_alone = b.icmp_unsigned("==", b.add(number, word(1)), b.load(self._last))
        fits = b.icmp_unsigned("==", b.sub(item[1], item[0]), length)
        b.store(ir.Constant(_BIT, 0), self._is_same)
        with b.if_then(b.and_(is_alone, fits)):
            texts = [self.at(page, item[0]), self.at(self._keys, start)]
            result = b.call(self._compare, [*texts, length])
            b.store(b.icmp_unsigned("==", result, ir.Constant(_COUNT, 0)), self._is_same)
        with b.if_else(b.load(self._is_same)) as (then, otherwise):
            with then:
                self._add_entry(slot, b.shl(number, word(1)))
            with otherwise:
                self._leave_to_python()

    def _place_below(self, slot: Value, place: Value) -> None:
        b = self.b
        number = b.load(self._group_number)
        under = b.add(place, b.load(self._width))
        group = (b.load(self._first), b.load(self._last), under)
        self._store_counts(self._groups, number, GROUP_FIELDS, group)
        self._add_entry(slot, b.or_(b.shl(number, word(1)), word(1)))
        self.add_to(self._group_number, word(1))

    def _leave_to_python(self) -> None:
        b = self.b

        def mark() -> None:
            b.store(ir.Constant(BYTE, 1), self.at(self._odd, b.load(self._first)))
            self.add_to(self._first, word(1))

        self.while_(lambda: b.icmp_unsigned("<", b.load(self._first), b.load(self._last)), mark)

    def _add_entry(self, slot: Value, source: Value) -> None:
        fields = (slot, self.b.load(self._node), self.b.load(self._outer), source)
        self._store_counts(self._entries, self.b.load(self._entry_number), ENTRY_FIELDS, fields)
        self.add_to(self._entry_number, word(1))

    def _store_counts(
        self, target: Value, number: Value, fields: int, values: Sequence[Value]
    ) -> None:
        row = self.at(target, self.b.mul(number, word(fields)))
        for place, value in enumerate(values):
            self.b.store(self.b.trunc(value, _COUNT), self.at(row, place))

    def _get_nibble(self, item: Value, place: Value) -> Value:
        return self.b.load(self.at(self._paths, self.b.add(self.b.mul(item, self._stride), place)))

    def _count_below(self, occupancy: Value, bit: Value) -> Value:
        """Return how many slots stand before that of a bit."""
        return self.count_bits(self.b.and_(occupancy, self.b.sub(bit, word(1))))

    def _find_item(
        self, page: Value, here: Value, occupancy: Value, rank: Value
    ) -> tuple[Value, Value]:
        """Return where the item of a slot begins in the page, and where it ends."""
        b = self.b
        size = self.count_bits(occupancy)
        ends = b.add(here, self.find_slot(size))
        items = b.add(ends, b.add(word(2), b.shl(size, word(1))))
        at = b.add(ends, b.shl(rank, word(1)))
        begin, stop = self.load_short(page, at), self.load_short(page, b.add(at, word(2)))
        return b.add(items, begin), b.add(items, stop)


class _AscentWriter(_TreeWriter):
    """apply(...), see `TreeCode._go_up`: write the slots of a round; 0, or 1 if a sum is wrong.

    (pages, data, offsets, entries, digests and amounts of items, digests, changes and written of
    the pages below, entry ends, digests, changes and written of these pages).
    """

    def __init__(self, module: Value, digest: Value) -> None:
        parameters = [
            WORD, _BYTES, _COUNTS, _COUNTS, _BYTES, _WORDS, _BYTES, _WORDS, _BYTES, _COUNTS,
            _BYTES, _WORDS, _BYTES,
        ]  # fmt: skip
        function = declare(module, "apply", parameters, result=WORD, is_internal=False)
        super().__init__(function)
        self._count, self._data, self._offsets, self._entries = function.args[:4]
        self._digests, self._amounts = function.args[4:6]
        self._below_digests, self._below_changes, self._below_written = function.args[6:9]
        self._entry_ends = function.args[9]
        self._out_digests, self._out_changes, self._out_written = function.args[10:]
        self._digest = digest
        self._move = module.declare_intrinsic("llvm.memcpy", [_BYTES, _BYTES, WORD])
        self._entry, self._wrong, self._written = self.keep(0), self.keep(0), self.keep(0)
        self._node, self._outer = self.keep(0), self.keep(0)
        self._change, self._change_below = self.keep(_NOTHING), self.keep(_NOTHING)
        self._held, self._total = self.keep(_NOTHING), self.keep(_NOTHING)
        self._source = self.keep(self._digests)

    def write(self) -> None:
        """Write the function."""
        self.repeat(self._count, [], self._take_page)
        self.b.ret(self.b.load(self._wrong))

    def _take_page(self, index: Value, carried: list[Value]) -> list[Value]:
        b = self.b
        page = self.at(self._data, self.load_count(self._offsets, index))
        end = self.load_count(self._entry_ends, index)
        for variable in (self._node, self._written):
            b.store(word(0), variable)
        b.store(_NOTHING, self._change)
        self.while_(
            lambda: b.icmp_unsigned("<", b.load(self._entry), end), lambda: self._take_entry(page)
        )
        with b.if_then(b.icmp_unsigned("!=", b.load(self._written), word(0))):
            self._close_node(page)
            out = self.at(self._out_digests, b.mul(index, word(DIGEST_BYTES)))
            self._hash_node(page, word(0), out)
            moved = b.trunc(b.load(self._change), WORD)
            with b.if_then(b.icmp_unsigned("!=", b.sext(moved, _SUM), b.load(self._change))):
                b.store(word(1), self._wrong)
            b.store(moved, self.at(self._out_changes, index))
        b.store(b.trunc(b.load(self._written), BYTE), self.at(self._out_written, index))
        return carried

    def _take_entry(self, page: Value) -> None:
        b = self.b
        row = self.at(self._entries, b.mul(b.load(self._entry), word(ENTRY_FIELDS)))
        origin = self.load_count(row, word(3))
        is_leaf = b.icmp_unsigned("==", b.and_(origin, word(1)), word(0))
        # A leaf has no page below: then what is read there is not looked at.
        number = b.select(is_leaf, word(0), b.lshr(origin, word(1)))
        is_written = b.icmp_unsigned(
            "!=", b.load(self.at(self._below_written, number)), ir.Constant(BYTE, 0)
        )
        with b.if_then(b.or_(is_leaf, is_written)):
            self._write_entry(page, row)
        self.add_to(self._entry, word(1))

    def _write_entry(self, page: Value, row: Value) -> None:
        b = self.b
        slot, inner, own_slot, origin = (self.load_count(row, word(field)) for field in range(4))
        number = b.lshr(origin, word(1))
        is_leaf = b.icmp_unsigned("==", b.and_(origin, word(1)), word(0))
        b.store(word(1), self._written)
        with b.if_then(b.icmp_unsigned("!=", inner, b.load(self._node))):
            self._close_node(page)
            b.store(inner, self._node)
            b.store(own_slot, self._outer)
            b.store(_NOTHING, self._change_below)
        b.store(self.load_sum(page, slot), self._held)
        offset = b.mul(number, word(DIGEST_BYTES))
        with b.if_else(is_leaf) as (then, otherwise):
            with then:
                b.store(self.at(self._digests, offset), self._source)
                amount = b.load(self.at(self._amounts, number))
                b.store(b.zext(amount, _SUM), self._total)
            with otherwise:
                b.store(self.at(self._below_digests, offset), self._source)
                moved = b.sext(b.load(self.at(self._below_changes, number)), _SUM)
                b.store(b.add(b.load(self._held), moved), self._total)
        no = ir.Constant(_BIT, 0)
        b.call(self._move, [self.at(page, slot), b.load(self._source), word(DIGEST_BYTES), no])
        self._write_total(page, slot)
        gained = b.sub(b.load(self._total), b.load(self._held))
        with b.if_else(b.icmp_unsigned("==", inner, word(0))) as (then, otherwise):
            with then:
                self.add_to(self._change, gained)
            with otherwise:
                self.add_to(self._change_below, gained)

    def _close_node(self, page: Value) -> None:
        """Hash the node inside the page that was written to last, if there is one."""
        b = self.b
        here = b.load(self._node)
        with b.if_then(b.icmp_unsigned("!=", here, word(0))):
            slot = b.load(self._outer)
            self._hash_node(page, here, self.at(page, slot))
            b.store(b.add(self.load_sum(page, slot), b.load(self._change_below)), self._total)
            self._write_total(page, slot)
            self.add_to(self._change, b.load(self._change_below))

    def _hash_node(self, page: Value, here: Value, out: Value) -> None:
        b = self.b
        size = self.count_bits(self.load_short(page, b.add(here, word(_OCCUPANCY_AT))))
        length = b.sub(self.find_slot(size), word(HASHED_AT))
        b.call(self._digest, [self.at(page, b.add(here, word(HASHED_AT))), length, out])

    def _write_total(self, page: Value, slot: Value) -> None:
        """Write `total` into a slot, and note it if it is no sum."""
        b = self.b
        value = b.load(self._total)
        is_low = b.icmp_signed("<", value, _NOTHING)
        is_high = b.icmp_signed(">", value, ir.Constant(_SUM, MAX_SUM))
        with b.if_then(b.or_(is_low, is_high)):
            b.store(word(1), self._wrong)
        self.store_sum(page, slot, value)
