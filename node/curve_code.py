"""Machine code that computes s B - k A for keys A whose multiples stand in a table.

A bank's payments are signed by the same few keys, and the sum that a signature check comes down to
needs no doublings if the multiples of its two points are looked up: 63 additions instead of 250
doublings and 60 additions. No package for Python offers that, so this module writes it down for
LLVM, which makes code for the processor at hand; Python's own integers would take ten times the
library's time. What the answer is good for, and why a wrong one could let nothing pass, stands in
`known_keys.py`; this module is arithmetic alone.

**Numbers** modulo p = 2^255 - 19 are five limbs of 51 bits, least first, each in 64 bits with room
above. "Narrow" limbs are below 2^51 + 2^14, as products are; sums and differences of two narrow
numbers are below 2^53.6. A scalar product may be taken of two numbers of which one is below 2^54
and the other below 2^53.7: then each of its five sums is below 2^114.3 and its carry fits 64 bits.

**Lanes.** Where the processor multiplies eight times 52 bits at once (AVX-512 IFMA), the hot loop
adds to eight points at a time, one signature in each lane; elsewhere to one. The code is the same
but for the product (`_LaneWriter`) and for how entries come from the tables. That instruction
looks at 52 bits only, so there factors are narrow, and `tidy` makes sums so.

**Waiting.** Tables of many keys are in no near cache, and an addition is too long for the processor
to look past its end. But all digits are known before the first addition, so entries are asked for a
few additions early.

**Points** are (X, Y, Z, T) with x = X/Z, y = Y/Z, T = XY/Z on -x^2 + y^2 = 1 + d x^2 y^2. The law
of addition used is complete: no pair of points is an exception, whatever their order.

**A table** of a point has a row for each window of so many bits of the factor, with the multiples 0
to 2^(bits - 1) of the point times 2^(bits x row), each as (y + x, y - x, 2dxy). A digit is taken
with its sign, so half of the multiples do.

Source: Hisil, Wong, Carter, Dawson, *Twisted Edwards Curves Revisited* (2008), section 3.1, for
the addition; Montgomery's trick for one inversion a batch. Nothing here is secret: the time depends
on the data, and keys that sign never come near.
"""

import ctypes
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import llvmlite.binding as llvm
from llvmlite import ir

from atpar.ledger.keys import CURVE_D, FIELD_PRIME, GROUP_ORDER, Point
from atpar.node.challenge_code import MOST_ADDED_BYTES, write_challenge
from atpar.node.machine_code import (
    BYTE,
    WORD,
    Value,
    Writer,
    compile_module,
    declare,
    transpose,
    word,
)

ENTRY_WORDS: Final = 16
"""Words of 64 bits for a multiple, of which 15 are used: two cache lines."""
POINT_WORDS: Final = 20
ALIGNMENT: Final = 128


@dataclass(frozen=True, slots=True)
class Shape:
    """How a table is laid out."""

    bits: int
    """Of the factor, for each row."""

    @property
    def rows(self) -> int:
        """So many that the last digit of a number below the order has no carry."""
        return 254 // self.bits + 1

    @property
    def half(self) -> int:
        """The last multiple of a row."""
        return 1 << self.bits - 1

    @property
    def row_words(self) -> int:
        """From one row to the next."""
        return (self.half + 1) * ENTRY_WORDS

    @property
    def words(self) -> int:
        """Of the whole table."""
        return self.rows * self.row_words

    @property
    def scratch_words(self) -> int:
        """What building it takes."""
        return (2 * self.half + 1) * POINT_WORDS


KEY_SHAPE: Final = Shape(7)
"""300 KB: there are many."""
BASE_SHAPE: Final = Shape(10)
"""1.7 MB: there is one. It saves eleven additions, and entries are asked for early."""
DIGITS: Final = KEY_SHAPE.rows + BASE_SHAPE.rows
"""Of the two factors of a sum."""
CHECK_WORDS: Final = 20
"""Of scratch for each point that is checked: its coordinates, and a product."""
_CONFIRM_WORDS: Final = 5
"""Of scratch for each signature, beside its text: k, and how many blocks are hashed."""

_LIMB_BITS: Final = 51
_MASK: Final = 2**_LIMB_BITS - 1
_FOUR_PRIMES: Final = (2**53 - 76, *[2**53 - 4] * 4)
"""4 p: added before a subtraction, so that no limb falls below zero."""

_WIDE = ir.IntType(128)
_NUMBER = ir.IntType(256)
_WORDS = WORD.as_pointer()
_LANES: Final = 8
_LANE_WORDS = ir.VectorType(WORD, _LANES)
_NEGATIVE: Final = 1
"""Added to the address of a multiple that is to be subtracted: an entry's own is even."""
_ENTRY_BYTES: Final = 8 * ENTRY_WORDS
_LINE_BYTES: Final = 64
_AHEAD: Final = 3
"""How many additions before its own an entry is asked for: what comes from the far cache arrives in
time, and more would only wait near."""
_FLAG = ir.IntType(32)
_PREFETCH = ir.FunctionType(ir.VoidType(), [BYTE.as_pointer(), _FLAG, _FLAG, _FLAG])
_TO_READ = [ir.Constant(_FLAG, number) for number in (0, 3, 1)]
"""Data to be read, into the nearest cache."""
_LIMBS = ir.LiteralStructType([WORD] * 5)

Element = list[Value]
"""A number modulo p: five limbs."""
Extended = tuple[Element, Element, Element, Element]
"""X, Y, Z and T of a point."""
Multiple = tuple[Element, Element, Element]
"""y + x, y - x and 2dxy of a point."""


@dataclass(frozen=True, slots=True)
class CurveCode:
    """The functions, ready to be called. Each call leaves the interpreter to other threads."""

    build: Callable[..., None]
    """(x and y as ten limbs, rows, half, table, scratch): fill the table of a point.

    Rows and half are its shape's, and scratch has `scratch_words`.
    """
    confirm: Callable[..., None]
    """(count, table of B, tables of -A, keys, messages, lengths, signatures, scratch, verdicts).

    Keys, messages of such lengths and signatures stand one after the other. First `challenge`,
    then `check`; scratch has `count_scratch_bytes`.
    """
    challenge: Callable[..., None]
    """(count, keys, messages, lengths, signatures, numbers, blocks, texts): write k of each.

    Blocks have 4 bytes for each; texts have room for all messages and MOST_ADDED_BYTES for each.
    """
    check: Callable[..., None]
    """(count, table of B, tables of -A, k of each, signatures, scratch, verdicts).

    Verdict i is 1 if s is below the group's order and the encoding of s B - k A is R, else 0.
    Scratch has CHECK_WORDS for each and DIGITS for each lane.
    """
    lanes: int
    """Of these there is a multiple in each call, at least one."""
    engine: object
    """Keeps the code in memory."""

    def count_scratch_bytes(self, count: int, message_bytes: int) -> int:
        """Return how much `confirm` needs."""
        words = (_CONFIRM_WORDS + CHECK_WORDS) * count + DIGITS * self.lanes
        return 8 * words + MOST_ADDED_BYTES * count + message_bytes


def count_lanes() -> int:
    """Return how many points this processor adds to at once."""
    return _LANES if llvm.get_host_cpu_features().get("avx512ifma") else 1


@functools.cache
def compile_curve_code(lanes: int) -> CurveCode:
    """Return the machine code for this processor. Takes a few tenths of a second, once a process.

    `lanes` is 1 or `count_lanes()`.

    Raises:
        OSError: this system allows no new code in memory.
        RuntimeError: LLVM cannot make code here.
    """
    engine = compile_module(write_module(lanes))
    address, text = ctypes.c_void_p, ctypes.c_char_p
    number = ctypes.c_uint64
    build = ctypes.CFUNCTYPE(None, text, number, number, address, address)
    check = ctypes.CFUNCTYPE(None, number, address, text, address, text, address, address)
    challenge = ctypes.CFUNCTYPE(None, number, *[text] * 4, *[address] * 3)
    confirm = ctypes.CFUNCTYPE(None, number, address, *[text] * 5, *[address] * 2)
    return CurveCode(
        build=build(engine.get_function_address("build")),
        confirm=confirm(engine.get_function_address("confirm")),
        challenge=challenge(engine.get_function_address("challenge")),
        check=check(engine.get_function_address("check")),
        lanes=lanes,
        engine=engine,
    )


def pack_point(point: Point) -> bytes:
    """Return a point as `CurveCode.build` reads it."""
    return b"".join(limb.to_bytes(8, "little") for each in point for limb in _split(each))


def write_module(lanes: int) -> str:
    """Return the functions in LLVM's language."""
    module = ir.Module("curve")
    multiply = _write_multiply(module)
    invert = _write_invert(module, multiply)
    _write_build(module, multiply, invert)
    check = _write_check(module, multiply, invert, lanes)
    _write_confirm(module, write_challenge(module, lanes), check, lanes)
    return str(module)


def _split(number: int) -> list[int]:
    return [number >> _LIMB_BITS * place & _MASK for place in range(5)]


class _Writer(Writer):
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
        for place, limb in enumerate(_flatten(*elements)):
            self.b.store(limb, self.at(pointer, place))

    def load_number(self, pointer: Value) -> Value:
        """Return the 256 bits that stand there, at any address."""
        return self.b.load(self.b.bitcast(pointer, _NUMBER.as_pointer()), align=1)

    # ---- the field

    def fill(self, number: int) -> Value:
        """Return a constant as one limb is held."""
        return word(number)

    def constant(self, number: int) -> Element:
        """Return a constant as an element."""
        return [self.fill(limb) for limb in _split(number)]

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
        number = ir.Constant(_NUMBER, 0)
        for place, limb in enumerate(self._pass_carries(limbs, fold=False)):
            shift = ir.Constant(_NUMBER, _LIMB_BITS * place)
            number = b.or_(number, b.shl(b.zext(limb, _NUMBER), shift))
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


class _HotWriter(_Writer):
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
        entry = b.inttoptr(b.and_(address, word(~_NEGATIVE)), _WORDS)
        is_negative = b.trunc(address, ir.IntType(1))
        return (self.load(entry, 0), self.load(entry, 1), self.load(entry, 2)), is_negative

    def fetch(self, place: Value) -> None:
        """Have the multiples whose addresses stand there brought near; this waits for nothing."""
        b, near = self.b, BYTE.as_pointer()
        prefetch = b.module.declare_intrinsic("llvm.prefetch", [near], fnty=_PREFETCH)
        for lane in range(self.lanes):
            address = b.load(self.at(place, lane))
            for line in range(0, _ENTRY_BYTES, _LINE_BYTES):
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


class _LaneWriter(_HotWriter):
    """The same for eight points at once: every limb is a vector with a word for each."""

    lanes = _LANES

    def __init__(self, function: Value) -> None:
        super().__init__(function)
        kind = ir.FunctionType(_LANE_WORDS, [_LANE_WORDS] * 3)
        module = function.module
        self._low = module.declare_intrinsic("llvm.x86.avx512.vpmadd52l.uq.512", fnty=kind)
        self._high = module.declare_intrinsic("llvm.x86.avx512.vpmadd52h.uq.512", fnty=kind)

    def fill(self, number: int) -> Value:
        """Return a constant in every lane."""
        return ir.Constant(_LANE_WORDS, [number] * _LANES)

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
        for lane in range(_LANES):
            address = b.and_(b.load(self.at(place, lane)), word(~_NEGATIVE))
            entry = b.inttoptr(address, _LANE_WORDS.as_pointer())
            for half, rows in enumerate(halves):
                rows.append(b.load(b.gep(entry, [word(half)]), align=_LANES * 8))
        limbs = [limb for rows in halves for limb in transpose(b, rows)]
        addresses = b.load(b.bitcast(place, _LANE_WORDS.as_pointer()), align=8)
        signs = b.and_(addresses, self.fill(_NEGATIVE))
        is_negative = b.icmp_unsigned("!=", signs, self.fill(0))
        return (limbs[:5], limbs[5:10], limbs[10:15]), is_negative

    def store_lanes(self, value: Value, pointer: Value) -> None:
        """Write one word for each lane."""
        self.b.store(value, self.b.bitcast(pointer, _LANE_WORDS.as_pointer()), align=8)


def make_hot_writer(function: Value, lanes: int) -> _HotWriter:
    """Return what writes arithmetic for so many points at once."""
    return _HotWriter(function) if lanes == 1 else _LaneWriter(function)


def _flatten(*elements: Element) -> list[Value]:
    return [limb for element in elements for limb in element]


def _group(values: Sequence[Value]) -> list[Element]:
    return [list(values[start : start + 5]) for start in range(0, len(values), 5)]


def _write_multiply(module: Value) -> Value:
    """The product as a function, for where a call does not matter: it keeps the code short."""
    function = declare(module, "multiply", [WORD] * 10, result=_LIMBS, is_internal=True)
    writer = _HotWriter(function)
    product: Value = ir.Constant(_LIMBS, ir.Undefined)
    for place, limb in enumerate(writer.multiply(*_group(function.args))):
        product = writer.b.insert_value(product, limb, place)
    writer.b.ret(product)
    return function


def _write_invert(module: Value, multiply: Value) -> Value:
    """invert(out, in): the power p - 2, by the usual chain of 254 squarings and 11 products."""
    function = declare(module, "invert", [_WORDS, _WORDS], result=ir.VoidType(), is_internal=True)
    out, given = function.args
    w = _Writer(function, multiply)
    z = w.load(given, 0)
    z2 = w.square(z, 1)
    z9 = w.multiply(w.square(z2, 2), z)
    z11 = w.multiply(z9, z2)
    ones = {5: w.multiply(w.square(z11, 1), z9)}  # z^(2^n - 1) by n
    for whole, first, second in ((10, 5, 5), (20, 10, 10), (40, 20, 20), (50, 10, 40)):
        ones[whole] = w.multiply(w.square(ones[second], first), ones[first])
    ones[100] = w.multiply(w.square(ones[50], 50), ones[50])
    ones[200] = w.multiply(w.square(ones[100], 100), ones[100])
    ones[250] = w.multiply(w.square(ones[200], 50), ones[50])
    w.store(out, w.multiply(w.square(ones[250], 5), z11))
    w.b.ret_void()
    return function


def write_recode(module: Value, name: str, shape: Shape, lanes: int) -> Value:
    """name(number, table, entries): where a factor's multiples stand, one every `lanes` words.

    The lowest digit's comes first. An address has _NEGATIVE added if the multiple is to be
    subtracted.
    """
    function = declare(
        module, name, [_WORDS, WORD, _WORDS], result=ir.VoidType(), is_internal=False
    )
    number, table, entries = function.args
    w = _Writer(function)
    b = w.b

    def take_digit(window: Value, carried: list[Value]) -> list[Value]:
        """Take the lowest bits, as a number from -half to half and a carry."""
        rest, carry, row = carried
        bits = b.add(b.and_(b.trunc(rest, WORD), word(2**shape.bits - 1)), carry)
        is_negative = b.icmp_unsigned(">", bits, word(shape.half))
        size = b.select(is_negative, b.sub(word(2**shape.bits), bits), bits)
        entry = b.add(row, b.mul(size, word(_ENTRY_BYTES)))
        sign = b.select(is_negative, word(_NEGATIVE), word(0))
        b.store(b.or_(entry, sign), w.at(entries, b.mul(window, word(lanes))))
        rest = b.lshr(rest, ir.Constant(_NUMBER, shape.bits))
        return [rest, b.zext(is_negative, WORD), b.add(row, word(8 * shape.row_words))]

    w.repeat(shape.rows, [w.load_number(number), word(0), table], take_digit)
    b.ret_void()
    return function


def _write_sum_up(module: Value, lanes: int) -> Value:
    """sum_up(points, entries): s B - k A in each lane. The hot loop.

    X, Y and Z of the points are written, one lane beside the other.
    """
    function = declare(module, "sum_up", [_WORDS] * 2, result=ir.VoidType(), is_internal=True)
    points, entries = function.args
    w = make_hot_writer(function, lanes)
    b = w.b

    def get_place(turn: Value) -> Value:
        return w.at(entries, b.mul(turn, word(lanes)))

    def add_entry(turn: Value, carried: list[Value]) -> list[Value]:
        ahead, last = b.add(turn, word(_AHEAD)), word(DIGITS - 1)
        w.fetch(get_place(b.select(b.icmp_unsigned("<", ahead, last), ahead, last)))
        multiple, is_negative = w.load_entry(get_place(turn))
        x, y, z, t = _group(carried)
        return _flatten(*w.add_multiple((x, y, z, t), multiple, is_negative))

    for turn in range(_AHEAD):
        w.fetch(get_place(word(turn)))
    zero, one = w.constant(0), w.constant(1)
    sums = w.repeat(DIGITS, _flatten(zero, one, one, zero), add_entry)
    for place, limb in enumerate(sums[:15]):
        w.store_lanes(limb, w.at(points, place * lanes))
    b.ret_void()
    return function


def _write_build(module: Value, multiply: Value, invert: Value) -> None:
    """build(...), see `CurveCode.build`: each row is a chain of additions, made affine together."""
    parameters = [_WORDS, WORD, WORD, _WORDS, _WORDS]
    function = declare(module, "build", parameters, result=ir.VoidType(), is_internal=False)
    point, rows, half, table, scratch = function.args
    w = _Writer(function, multiply)
    full = w.b.add(half, half)
    row_words = w.b.mul(w.b.add(half, word(1)), word(ENTRY_WORDS))
    zero, one = w.constant(0), w.constant(1)
    inverse = w.b.alloca(WORD, 5)
    never = ir.Constant(ir.IntType(1), 0)

    def get_place(multiple: Value) -> Value:
        return w.at(scratch, w.b.mul(multiple, word(POINT_WORDS)))

    def write_row(row: Value, carried: list[Value]) -> list[Value]:
        """Write the multiples of an affine point; return it doubled `bits` times."""
        x, y = _group(carried)
        first = w.make_multiple(x, y)
        entries = w.at(table, w.b.mul(row, row_words))
        w.store(entries, one, one, zero)

        def add_next(index: Value, carried: list[Value]) -> list[Value]:
            x, y, z, t, product = _group(carried)
            w.store(get_place(w.b.add(index, word(1))), x, y, z, product)
            total = w.add_multiple((x, y, z, t), first, never)
            return _flatten(*total, w.multiply(product, z))

        chain = w.repeat(full, _flatten(x, y, one, w.multiply(x, y), one), add_next)
        w.store(inverse, _group(chain)[4])
        w.b.call(invert, [inverse, inverse])

        def make_affine(index: Value, carried: list[Value]) -> list[Value]:
            place = get_place(w.b.sub(full, index))
            x, y, z, product = (w.load(place, number) for number in range(4))
            own = w.multiply(carried, product)
            w.store(place, w.multiply(x, own), w.multiply(y, own))
            return w.multiply(carried, z)

        w.repeat(full, w.load(inverse, 0), make_affine)

        def write_entry(index: Value, carried: list[Value]) -> list[Value]:
            multiple = w.b.add(index, word(1))
            place = get_place(multiple)
            entry = w.at(entries, w.b.mul(multiple, word(ENTRY_WORDS)))
            w.store(entry, *w.make_multiple(w.load(place, 0), w.load(place, 1)))
            return carried

        w.repeat(half, [], write_entry)
        last = get_place(full)
        return _flatten(w.load(last, 0), w.load(last, 1))

    w.repeat(rows, _flatten(w.load(point, 0), w.load(point, 1)), write_row)
    w.b.ret_void()


def _write_check(module: Value, multiply: Value, invert: Value, lanes: int) -> Value:
    """check(...), see `CurveCode.check`: digits, sums, one inversion, comparisons.

    In scratch stand the entries of a group of lanes, then the points of all, groups one after the
    other, and last the product of all Z before each.
    """
    recode_key = write_recode(module, "recode_key", KEY_SHAPE, lanes)
    recode_base = write_recode(module, "recode_base", BASE_SHAPE, lanes)
    sum_up = _write_sum_up(module, lanes)
    function = declare(
        module,
        "check",
        [WORD, WORD, _WORDS, _WORDS, _WORDS, _WORDS, BYTE.as_pointer()],
        result=ir.VoidType(),
        is_internal=False,
    )
    count, base_table, tables, numbers, signatures, scratch, verdicts = function.args
    w = _Writer(function, multiply)
    b = w.b
    one, inverse = w.constant(1), b.alloca(WORD, 5)
    entries = scratch
    points = w.at(entries, DIGITS * lanes)
    products = w.at(points, b.mul(count, word(15)))

    def get_point(index: Value) -> Value:
        group, lane = b.udiv(index, word(lanes)), b.urem(index, word(lanes))
        return w.at(points, b.add(b.mul(group, word(15 * lanes)), lane))

    def get_signature(index: Value) -> Value:
        return w.at(signatures, b.mul(index, word(8)))

    def get_factor(index: Value) -> Value:
        return w.at(get_signature(index), 4)

    def sum_group(group: Value, carried: list[Value]) -> list[Value]:
        first = b.mul(group, word(lanes))

        def write_entries(lane: Value, carried: list[Value]) -> list[Value]:
            index = b.add(first, lane)
            number, own = w.at(numbers, b.mul(index, word(4))), w.at(entries, lane)
            b.call(recode_key, [number, b.load(w.at(tables, index)), own])
            after = w.at(own, KEY_SHAPE.rows * lanes)
            b.call(recode_base, [get_factor(index), base_table, after])
            return carried

        w.repeat(lanes, [], write_entries)
        b.call(sum_up, [get_point(first), entries])
        return carried

    w.repeat(b.udiv(count, word(lanes)), [], sum_group)

    def multiply_up(index: Value, product: list[Value]) -> list[Value]:
        w.store(w.at(products, b.mul(index, word(5))), product)
        return w.multiply(product, w.load(get_point(index), 2, stride=lanes))

    w.store(inverse, w.repeat(count, one, multiply_up))
    b.call(invert, [inverse, inverse])

    def compare(step: Value, inverse: list[Value]) -> list[Value]:
        index = b.sub(b.sub(count, word(1)), step)
        x, y, z = (w.load(get_point(index), number, stride=lanes) for number in range(3))
        own = w.multiply(inverse, w.load(w.at(products, b.mul(index, word(5))), 0))
        sign = b.shl(w.reduce(w.multiply(x, own)), ir.Constant(_NUMBER, 255))
        encoding = b.or_(w.reduce(w.multiply(y, own)), sign)
        is_same = b.icmp_unsigned("==", encoding, w.load_number(get_signature(index)))
        factor = w.load_number(get_factor(index))
        is_canonical = b.icmp_unsigned("<", factor, ir.Constant(_NUMBER, GROUP_ORDER))
        b.store(b.zext(b.and_(is_same, is_canonical), BYTE), w.at(verdicts, index))
        return w.multiply(inverse, z)

    w.repeat(count, w.load(inverse, 0), compare)
    b.ret_void()
    return function


def _write_confirm(module: Value, challenge: Value, check: Value, lanes: int) -> None:
    """confirm(...), see `CurveCode.confirm`."""
    text = BYTE.as_pointer()
    parameters = [WORD, WORD, _WORDS, text, text, _WORDS, text, _WORDS, text]
    function = declare(module, "confirm", parameters, result=ir.VoidType(), is_internal=False)
    count, base, tables, keys, messages, lengths, signatures, scratch, verdicts = function.args
    w = _Writer(function)
    b = w.b
    numbers = scratch
    blocks = w.at(numbers, b.mul(count, word(4)))
    rest = w.at(blocks, count)
    texts = w.at(rest, b.add(b.mul(count, word(CHECK_WORDS)), word(DIGITS * lanes)))
    counts = b.bitcast(blocks, ir.IntType(32).as_pointer())
    b.call(challenge, [count, keys, messages, lengths, signatures, numbers, counts, texts])
    words = b.bitcast(signatures, _WORDS)
    b.call(check, [count, base, tables, numbers, words, rest, verdicts])
    b.ret_void()
