"""The words that machine code for the curve is written in: numbers modulo p, points, entries.

**Numbers** modulo p = 2^255 - 19 are five limbs of 51 bits, least first, each in 64 bits with room
above. "Narrow" limbs are below 2^51 + 2^14, as products are; sums and differences of two narrow
numbers are below 2^53.6. A scalar product may be taken of two numbers of which one is below 2^54
and the other below 2^53.7: then each of its five sums is below 2^114.3 and its carry fits 64 bits.

**Lanes.** Where the processor multiplies eight times 52 bits at once (AVX-512 IFMA), the hot loop
adds to eight points at a time, one signature in each lane; elsewhere to one. The code is the same
but for the product (`_LaneWriter`) and for how entries come from the tables. That instruction
looks at 52 bits only, so there factors are narrow, and `tidy` makes sums so.

**Points** are (X, Y, Z, T) with x = X/Z, y = Y/Z, T = XY/Z on -x^2 + y^2 = 1 + d x^2 y^2. The law
of addition used is complete: no pair of points is an exception, whatever their order.

**Entries** of a table are multiples of a point, each as (y + x, y - x, 2dxy), in two cache lines.

Source: Hisil, Wong, Carter, Dawson, *Twisted Edwards Curves Revisited* (2008), section 3.1, for
the addition.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Final

from llvmlite import ir

from atpar.ledger.keys import CURVE_D, FIELD_PRIME
from atpar.node.machine_code import BYTE, WORD, Value, Writer, transpose, word

ENTRY_WORDS: Final = 16
"""Words of 64 bits for a multiple, of which 15 are used: two cache lines."""
_LIMB_BITS: Final = 51
_MASK: Final = 2**_LIMB_BITS - 1
_FOUR_PRIMES: Final = (2**53 - 76, *[2**53 - 4] * 4)
"""4 p: added before a subtraction, so that no limb falls below zero."""

_WIDE = ir.IntType(128)
NUMBER = ir.IntType(256)
WORDS = WORD.as_pointer()
LANES: Final = 8
_LANE_WORDS = ir.VectorType(WORD, LANES)
NEGATIVE: Final = 1
"""Added to the address of a multiple that is to be subtracted: an entry's own is even."""
ENTRY_BYTES: Final = 8 * ENTRY_WORDS
_LINE_BYTES: Final = 64
_FLAG = ir.IntType(32)
_PREFETCH = ir.FunctionType(ir.VoidType(), [BYTE.as_pointer(), _FLAG, _FLAG, _FLAG])
_TO_READ = [ir.Constant(_FLAG, number) for number in (0, 3, 1)]
"""Data to be read, into the nearest cache."""

Element = list[Value]
"""A number modulo p: five limbs."""
Extended = tuple[Element, Element, Element, Element]
"""X, Y, Z and T of a point."""
Multiple = tuple[Element, Element, Element]
"""y + x, y - x and 2dxy of a point."""


def split_number(number: int) -> list[int]:
    """Return a number as its five limbs, least first."""
    return [number >> _LIMB_BITS * place & _MASK for place in range(5)]


class CurveWriter(Writer):
    """Writes one function, in the words of the field and the curve. Products are calls."""

    def __init__(self, function: Value, multiply: Value = None) -> None:
        super().__init__(function)
        self._multiply = multiply

    # ---- memory

    def load(self, pointer: Value, number: int, *, stride: int = 1) -> Element:
        """Return one of the elements that stand in a row, a limb every `stride` words."""
        places = [(5 * number + limb) * stride for limb in range(5)]
        return [self.b.load(self.at(pointer, place)) for place in places]

    def store(self, pointer: Value, *elements: Element) -> None:
        """Write elements one after the other."""
        for place, limb in enumerate(flatten(*elements)):
            self.b.store(limb, self.at(pointer, place))

    def load_number(self, pointer: Value) -> Value:
        """Return the 256 bits that stand there, at any address."""
        return self.b.load(self.b.bitcast(pointer, NUMBER.as_pointer()), align=1)

    # ---- the field

    def fill(self, number: int) -> Value:
        """Return a constant as one limb is held."""
        return word(number)

    def constant(self, number: int) -> Element:
        """Return a constant as an element."""
        return [self.fill(limb) for limb in split_number(number)]

    def add(self, one: Element, other: Element) -> Element:
        """Return a sum, not reduced."""
        return [self.b.add(a, c) for a, c in zip(one, other, strict=True)]

    def subtract(self, one: Element, other: Element) -> Element:
        """Return a difference, not reduced. The other is narrow."""
        return [
            self.b.sub(self.b.add(a, self.fill(more)), c)
            for a, c, more in zip(one, other, _FOUR_PRIMES, strict=True)
        ]

    def select(self, condition: Value, one: Element, other: Element) -> Element:
        """Return one if the condition holds, else the other."""
        return [self.b.select(condition, a, c) for a, c in zip(one, other, strict=True)]

    def multiply(self, one: Element, other: Element) -> Element:
        """Return a product, narrow."""
        product = self.b.call(self._multiply, [*one, *other])
        return [self.b.extract_value(product, limb) for limb in range(5)]

    def tidy(self, element: Element) -> Element:
        """Return a sum or difference with narrow limbs."""
        b, mask, bits = self.b, self.fill(_MASK), self.fill(_LIMB_BITS)
        over = [b.lshr(limb, bits) for limb in element]
        kept = [b.and_(limb, mask) for limb in element]
        from_top = b.mul(over[4], self.fill(19))
        return [b.add(a, c) for a, c in zip(kept, [from_top, *over[:4]], strict=True)]

    def square(self, element: Element, times: int) -> Element:
        """Return an element squared so many times."""
        return self.repeat(times, element, lambda _, limbs: self.multiply(limbs, limbs))

    def reduce(self, element: Element) -> Value:
        """Return the number below p as 256 bits."""
        b, limbs = self.b, self._pass_carries(self._pass_carries(element, fold=True), fold=True)
        # Now below 2^255. It is p or more exactly if adding 19 carries out of the top.
        excess = b.lshr(b.add(limbs[0], word(19)), word(_LIMB_BITS))
        for limb in limbs[1:]:
            excess = b.lshr(b.add(limb, excess), word(_LIMB_BITS))
        limbs[0] = b.add(limbs[0], b.mul(excess, word(19)))
        number = ir.Constant(NUMBER, 0)
        for place, limb in enumerate(self._pass_carries(limbs, fold=False)):
            shift = ir.Constant(NUMBER, _LIMB_BITS * place)
            number = b.or_(number, b.shl(b.zext(limb, NUMBER), shift))
        return number

    def _pass_carries(self, element: Element, *, fold: bool) -> Element:
        """Return the same with 51 bits a limb; what passes the top comes back times 19, or goes."""
        b, limbs = self.b, list(element)
        for place in range(4):
            limbs[place + 1] = b.add(limbs[place + 1], b.lshr(limbs[place], word(_LIMB_BITS)))
            limbs[place] = b.and_(limbs[place], word(_MASK))
        over = b.lshr(limbs[4], word(_LIMB_BITS))
        limbs[4] = b.and_(limbs[4], word(_MASK))
        if fold:
            limbs[0] = b.add(limbs[0], b.mul(over, word(19)))
        return limbs

    # ---- the curve

    def add_multiple(self, point: Extended, multiple: Multiple, is_negative: Value) -> Extended:
        """Return a point with narrow coordinates plus, or minus, a table's multiple."""
        x, y, z, t = point
        y_plus_x, y_minus_x, xy2d = multiple
        a = self.multiply(
            self.tidy(self.subtract(y, x)), self.select(is_negative, y_plus_x, y_minus_x)
        )
        b = self.multiply(self.tidy(self.add(y, x)), self.select(is_negative, y_minus_x, y_plus_x))
        c, d = self.multiply(t, xy2d), self.add(z, z)
        less, more = self.tidy(self.subtract(d, c)), self.tidy(self.add(d, c))
        e, h = self.tidy(self.subtract(b, a)), self.tidy(self.add(b, a))
        f, g = self.select(is_negative, more, less), self.select(is_negative, less, more)
        return self.multiply(e, f), self.multiply(g, h), self.multiply(f, g), self.multiply(e, h)

    def make_multiple(self, x: Element, y: Element) -> Multiple:
        """Return an affine point as it stands in a table, narrow."""
        xy2d = self.multiply(self.multiply(x, y), self.constant(2 * CURVE_D % FIELD_PRIME))
        return self.tidy(self.add(y, x)), self.tidy(self.subtract(y, x)), xy2d


class HotWriter(CurveWriter):
    """Writes the loop that all the time goes into, for one point: products stand in place."""

    lanes = 1

    def multiply(self, one: Element, other: Element) -> Element:
        """Return a product, narrow."""
        b = self.b
        wide_one = [b.zext(limb, _WIDE) for limb in one]
        wide_other = [b.zext(limb, _WIDE) for limb in other]
        # 2^255 = 19, so a product of limbs whose places pass the top comes back times 19.
        folded = [b.zext(b.mul(limb, word(19)), _WIDE) for limb in other]
        sums = [
            self._sum(
                b.mul(wide_one[i], wide_other[place - i] if i <= place else folded[place - i + 5])
                for i in range(5)
            )
            for place in range(5)
        ]
        return self._carry(sums)

    def tidy(self, element: Element) -> Element:
        """Return it as it is: sums of 128 bits have the room."""
        return element

    def load_entry(self, place: Value) -> tuple[Multiple, Value]:
        """Return the multiple whose address stands there, and whether it is to be subtracted."""
        b = self.b
        address = b.load(place)
        entry = b.inttoptr(b.and_(address, word(~NEGATIVE)), WORDS)
        is_negative = b.trunc(address, ir.IntType(1))
        return (self.load(entry, 0), self.load(entry, 1), self.load(entry, 2)), is_negative

    def fetch(self, place: Value) -> None:
        """Have the multiples whose addresses stand there brought near; this waits for nothing."""
        b, near = self.b, BYTE.as_pointer()
        prefetch = b.module.declare_intrinsic("llvm.prefetch", [near], fnty=_PREFETCH)
        for lane in range(self.lanes):
            address = b.load(self.at(place, lane))
            for line in range(0, ENTRY_BYTES, _LINE_BYTES):
                b.call(prefetch, [b.inttoptr(b.add(address, word(line)), near), *_TO_READ])

    def store_lanes(self, value: Value, pointer: Value) -> None:
        """Write one word for each lane."""
        self.b.store(value, pointer)

    def _sum(self, terms: Iterable[Value]) -> Value:
        return functools.reduce(self.b.add, terms)

    def _carry(self, sums: list[Value]) -> Element:
        """Return five sums of products as a narrow number."""
        b, limbs, carry = self.b, [], word(0)
        for total in sums:
            carried = b.add(total, b.zext(carry, _WIDE))
            limbs.append(b.and_(b.trunc(carried, WORD), word(_MASK)))
            carry = b.trunc(b.lshr(carried, ir.Constant(_WIDE, _LIMB_BITS)), WORD)
        limbs[0] = b.add(limbs[0], b.mul(carry, word(19)))
        limbs[1] = b.add(limbs[1], b.lshr(limbs[0], word(_LIMB_BITS)))
        limbs[0] = b.and_(limbs[0], word(_MASK))
        return limbs


class _LaneWriter(HotWriter):
    """The same for eight points at once: every limb is a vector with a word for each."""

    lanes = LANES

    def __init__(self, function: Value) -> None:
        super().__init__(function)
        kind = ir.FunctionType(_LANE_WORDS, [_LANE_WORDS] * 3)
        module = function.module
        self._low = module.declare_intrinsic("llvm.x86.avx512.vpmadd52l.uq.512", fnty=kind)
        self._high = module.declare_intrinsic("llvm.x86.avx512.vpmadd52h.uq.512", fnty=kind)

    def fill(self, number: int) -> Value:
        """Return a constant in every lane."""
        return ir.Constant(_LANE_WORDS, [number] * LANES)

    def multiply(self, one: Element, other: Element) -> Element:
        """Return a product, narrow, of two narrow numbers.

        A product of limbs has 52 low bits, and high ones that count double at the next place. Ten
        places hold less than 2^55.9 each, 20 times that are below 2^60.3, and one round of
        carries, at most 19 x 2^9.3, leaves limbs below 2^51 + 2^13.6.
        """
        b, zero = self.b, self.fill(0)
        low, high = [zero] * 10, [zero] * 10
        for i, limb in enumerate(one):
            for j, factor in enumerate(other):
                low[i + j] = b.call(self._low, [low[i + j], limb, factor])
                high[i + j + 1] = b.call(self._high, [high[i + j + 1], limb, factor])
        sums = []
        for i in range(5):
            above = b.add(low[i + 5], b.add(high[i + 5], high[i + 5]))
            # It counts 19 times. Nine of them go where all counts double: fewer steps than shifts.
            double = b.add(high[i], b.add(above, b.shl(above, self.fill(3))))
            sums.append(b.add(b.add(low[i], above), b.add(double, double)))
        return self.tidy(sums)

    def tidy(self, element: Element) -> Element:
        """Return limbs below 2^60.3 as a narrow number.

        19 times the carry out of the top, which is below 2^9.3, is a product of 52 bits.
        """
        b, mask, bits = self.b, self.fill(_MASK), self.fill(_LIMB_BITS)
        over = [b.lshr(limb, bits) for limb in element]
        kept = [b.and_(limb, mask) for limb in element]
        first = b.call(self._low, [kept[0], over[4], self.fill(19)])
        return [first, *(b.add(a, c) for a, c in zip(kept[1:], over[:4], strict=True))]

    def load_entry(self, place: Value) -> tuple[Multiple, Value]:
        """Return one multiple for each lane, and which are to be subtracted."""
        b = self.b
        halves: list[list[Value]] = [[], []]
        for lane in range(LANES):
            address = b.and_(b.load(self.at(place, lane)), word(~NEGATIVE))
            entry = b.inttoptr(address, _LANE_WORDS.as_pointer())
            for half, rows in enumerate(halves):
                rows.append(b.load(b.gep(entry, [word(half)]), align=LANES * 8))
        limbs = [limb for rows in halves for limb in transpose(b, rows)]
        addresses = b.load(b.bitcast(place, _LANE_WORDS.as_pointer()), align=8)
        signs = b.and_(addresses, self.fill(NEGATIVE))
        is_negative = b.icmp_unsigned("!=", signs, self.fill(0))
        return (limbs[:5], limbs[5:10], limbs[10:15]), is_negative

    def store_lanes(self, value: Value, pointer: Value) -> None:
        """Write one word for each lane."""
        self.b.store(value, self.b.bitcast(pointer, _LANE_WORDS.as_pointer()), align=8)


def make_hot_writer(function: Value, lanes: int) -> HotWriter:
    """Return what writes arithmetic for so many points at once."""
    return HotWriter(function) if lanes == 1 else _LaneWriter(function)


def flatten(*elements: Element) -> list[Value]:
    """Return all limbs in a row, as a loop carries them from turn to turn."""
    return [limb for element in elements for limb in element]


def group_limbs(values: Sequence[Value]) -> list[Element]:
    """Return the elements whose limbs stand in a row: what `flatten` got."""
    return [list(values[start : start + 5]) for start in range(0, len(values), 5)]
