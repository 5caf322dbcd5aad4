"""Machine code that computes s B - k A for keys A whose multiples stand in a table.

A bank's payments are signed by the same few keys, and the sum that a signature check comes down to
needs no doublings if the multiples of its two points are looked up: 63 additions instead of 250
doublings and 60 additions. No package for Python offers that, so this module writes it down for
LLVM, which makes code for the processor at hand; Python's own integers would take ten times the
library's time. What the answer is good for, and why a wrong one could let nothing pass, stands in
`known_keys.py`; this module is arithmetic alone.

What numbers, points and entries are, and how many signatures go through at once, stands in
`curve_writer.py`.

**Waiting.** Tables of many keys are in no near cache, and an addition is too long for the processor
to look past its end. But all digits are known before the first addition, so entries are asked for a
few additions early.

**A table** of a point has a row for each window of so many bits of the factor, with the multiples 0
to 2^(bits - 1) of the point times 2^(bits x row). A digit is taken with its sign, so half of the
multiples do.

Inversions are shared by a batch (Montgomery's trick). Nothing here is secret: the time depends on
the data, and keys that sign never come near.
"""

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import llvmlite.binding as llvm
from llvmlite import ir

from atpar.ledger.keys import GROUP_ORDER, Point
from atpar.node.challenge_code import MOST_ADDED_BYTES, write_challenge
from atpar.node.curve_writer import (
    ENTRY_BYTES,
    ENTRY_WORDS,
    LANES,
    NEGATIVE,
    NUMBER,
    WORDS,
    CurveWriter,
    HotWriter,
    flatten,
    group_limbs,
    make_hot_writer,
    split_number,
)
from atpar.node.machine_code import BYTE, WORD, Value, compile_module, declare, word

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

_AHEAD: Final = 3
"""How many additions before its own an entry is asked for: what comes from the far cache arrives in
time, and more would only wait near."""
_LIMBS = ir.LiteralStructType([WORD] * 5)


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
    return LANES if llvm.get_host_cpu_features().get("avx512ifma") else 1


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
    return b"".join(limb.to_bytes(8, "little") for each in point for limb in split_number(each))


def write_module(lanes: int) -> str:
    """Return the functions in LLVM's language."""
    module = ir.Module("curve")
    multiply = _write_multiply(module)
    invert = _write_invert(module, multiply)
    _write_build(module, multiply, invert)
    check = _CheckWriter(module, multiply, invert, lanes)
    check.write()
    _write_confirm(module, write_challenge(module, lanes), check.function, lanes)
    return str(module)


def _write_multiply(module: Value) -> Value:
    """The product as a function, for where a call does not matter: it keeps the code short."""
    function = declare(module, "multiply", [WORD] * 10, result=_LIMBS, is_internal=True)
    writer = HotWriter(function)
    product: Value = ir.Constant(_LIMBS, ir.Undefined)
    for place, limb in enumerate(writer.multiply(*group_limbs(function.args))):
        product = writer.b.insert_value(product, limb, place)
    writer.b.ret(product)
    return function


def _write_invert(module: Value, multiply: Value) -> Value:
    """invert(out, in): the power p - 2, by the usual chain of 254 squarings and 11 products."""
    function = declare(module, "invert", [WORDS, WORDS], result=ir.VoidType(), is_internal=True)
    out, given = function.args
    w = CurveWriter(function, multiply)
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

    The lowest digit's comes first. An address has NEGATIVE added if the multiple is to be
    subtracted.
    """
    function = declare(module, name, [WORDS, WORD, WORDS], result=ir.VoidType(), is_internal=False)
    number, table, entries = function.args
    w = CurveWriter(function)
    b = w.b

    def take_digit(window: Value, carried: list[Value]) -> list[Value]:
        """Take the lowest bits, as a number from -half to half and a carry."""
        rest, carry, row = carried
        bits = b.add(b.and_(b.trunc(rest, WORD), word(2**shape.bits - 1)), carry)
        is_negative = b.icmp_unsigned(">", bits, word(shape.half))
        size = b.select(is_negative, b.sub(word(2**shape.bits), bits), bits)
        entry = b.add(row, b.mul(size, word(ENTRY_BYTES)))
        sign = b.select(is_negative, word(NEGATIVE), word(0))
        b.store(b.or_(entry, sign), w.at(entries, b.mul(window, word(lanes))))
        rest = b.lshr(rest, ir.Constant(NUMBER, shape.bits))
        return [rest, b.zext(is_negative, WORD), b.add(row, word(8 * shape.row_words))]

    w.repeat(shape.rows, [w.load_number(number), word(0), table], take_digit)
    b.ret_void()
    return function


def _write_sum_up(module: Value, lanes: int) -> Value:
    """sum_up(points, entries): s B - k A in each lane. The hot loop.

    X, Y and Z of the points are written, one lane beside the other.
    """
    function = declare(module, "sum_up", [WORDS] * 2, result=ir.VoidType(), is_internal=True)
    points, entries = function.args
    w = make_hot_writer(function, lanes)
    b = w.b

    def get_place(turn: Value) -> Value:
        return w.at(entries, b.mul(turn, word(lanes)))

    def add_entry(turn: Value, carried: list[Value]) -> list[Value]:
        ahead, last = b.add(turn, word(_AHEAD)), word(DIGITS - 1)
        w.fetch(get_place(b.select(b.icmp_unsigned("<", ahead, last), ahead, last)))
        multiple, is_negative = w.load_entry(get_place(turn))
        x, y, z, t = group_limbs(carried)
        return flatten(*w.add_multiple((x, y, z, t), multiple, is_negative))

    for turn in range(_AHEAD):
        w.fetch(get_place(word(turn)))
    zero, one = w.constant(0), w.constant(1)
    sums = w.repeat(DIGITS, flatten(zero, one, one, zero), add_entry)
    for place, limb in enumerate(sums[:15]):
        w.store_lanes(limb, w.at(points, place * lanes))
    b.ret_void()
    return function


def _write_build(module: Value, multiply: Value, invert: Value) -> None:
    """build(...), see `CurveCode.build`: each row is a chain of additions, made affine together."""
    parameters = [WORDS, WORD, WORD, WORDS, WORDS]
    function = declare(module, "build", parameters, result=ir.VoidType(), is_internal=False)
    point, rows, half, table, scratch = function.args
    w = CurveWriter(function, multiply)
    full = w.b.add(half, half)
    row_words = w.b.mul(w.b.add(half, word(1)), word(ENTRY_WORDS))
    zero, one = w.constant(0), w.constant(1)
    inverse = w.b.alloca(WORD, 5)
    never = ir.Constant(ir.IntType(1), 0)

    def get_place(multiple: Value) -> Value:
        return w.at(scratch, w.b.mul(multiple, word(POINT_WORDS)))

    def write_row(row: Value, carried: list[Value]) -> list[Value]:
        """Write the multiples of an affine point; return it doubled `bits` times."""
        x, y = group_limbs(carried)
        first = w.make_multiple(x, y)
        entries = w.at(table, w.b.mul(row, row_words))
        w.store(entries, one, one, zero)

        def add_next(index: Value, carried: list[Value]) -> list[Value]:
            x, y, z, t, product = group_limbs(carried)
            w.store(get_place(w.b.add(index, word(1))), x, y, z, product)
            total = w.add_multiple((x, y, z, t), first, never)
            return flatten(*total, w.multiply(product, z))

        chain = w.repeat(full, flatten(x, y, one, w.multiply(x, y), one), add_next)
        w.store(inverse, group_limbs(chain)[4])
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
        return flatten(w.load(last, 0), w.load(last, 1))

    w.repeat(rows, flatten(w.load(point, 0), w.load(point, 1)), write_row)
    w.b.ret_void()


class _CheckWriter(CurveWriter):
    """check(...), see `CurveCode.check`: digits, sums, one inversion, comparisons.

    In scratch stand the entries of a group of lanes, then the points of all, groups one after the
    other, and last the product of all Z before each.
    """

    def __init__(self, module: Value, multiply: Value, invert: Value, lanes: int) -> None:
        self._recode_key = write_recode(module, "recode_key", KEY_SHAPE, lanes)
        self._recode_base = write_recode(module, "recode_base", BASE_SHAPE, lanes)
        self._sum_up = _write_sum_up(module, lanes)
        self._invert, self._lanes = invert, lanes
        self.function = declare(
            module,
            "check",
            [WORD, WORD, WORDS, WORDS, WORDS, WORDS, BYTE.as_pointer()],
            result=ir.VoidType(),
            is_internal=False,
        )
        super().__init__(self.function, multiply)
        self._count, self._base_table, self._tables, self._numbers = self.function.args[:4]
        self._signatures, self._entries, self._verdicts = self.function.args[4:]
        self._inverse = self.b.alloca(WORD, 5)
        self._points = self.at(self._entries, DIGITS * lanes)
        self._products = self.at(self._points, self.b.mul(self._count, word(15)))

    def write(self) -> None:
        """Write the function."""
        self.repeat(self.b.udiv(self._count, word(self._lanes)), [], self._sum_group)
        total = self.repeat(self._count, self.constant(1), self._multiply_up)
        self.store(self._inverse, total)
        self.b.call(self._invert, [self._inverse, self._inverse])
        self.repeat(self._count, self.load(self._inverse, 0), self._compare)
        self.b.ret_void()

    def _sum_group(self, group: Value, carried: list[Value]) -> list[Value]:
        """Write the sums of as many signatures as there are lanes."""
        b = self.b
        first = b.mul(group, word(self._lanes))

        def write_entries(lane: Value, carried: list[Value]) -> list[Value]:
            index = b.add(first, lane)
            number = self.at(self._numbers, b.mul(index, word(4)))
            own = self.at(self._entries, lane)
            b.call(self._recode_key, [number, b.load(self.at(self._tables, index)), own])
            after = self.at(own, KEY_SHAPE.rows * self._lanes)
            b.call(self._recode_base, [self._get_factor(index), self._base_table, after])
            return carried

        self.repeat(self._lanes, [], write_entries)
        b.call(self._sum_up, [self._get_point(first), self._entries])
        return carried

    def _multiply_up(self, index: Value, product: list[Value]) -> list[Value]:
        self.store(self.at(self._products, self.b.mul(index, word(5))), product)
        return self.multiply(product, self.load(self._get_point(index), 2, stride=self._lanes))

    def _compare(self, step: Value, inverse: list[Value]) -> list[Value]:
        """Judge one signature, from the last on, with the inverse of all Z up to its own."""
        b = self.b
        index = b.sub(b.sub(self._count, word(1)), step)
        x, y, z = (
            self.load(self._get_point(index), number, stride=self._lanes) for number in range(3)
        )
        before = self.load(self.at(self._products, b.mul(index, word(5))), 0)
        own = self.multiply(inverse, before)
        sign = b.shl(self.reduce(self.multiply(x, own)), ir.Constant(NUMBER, 255))
        encoding = b.or_(self.reduce(self.multiply(y, own)), sign)
        is_same = b.icmp_unsigned("==", encoding, self.load_number(self._get_signature(index)))
        factor = self.load_number(self._get_factor(index))
        is_canonical = b.icmp_unsigned("<", factor, ir.Constant(NUMBER, GROUP_ORDER))
        b.store(b.zext(b.and_(is_same, is_canonical), BYTE), self.at(self._verdicts, index))
        return self.multiply(inverse, z)

    def _get_point(self, index: Value) -> Value:
        b = self.b
        group, lane = b.udiv(index, word(self._lanes)), b.urem(index, word(self._lanes))
        return self.at(self._points, b.add(b.mul(group, word(15 * self._lanes)), lane))

    def _get_signature(self, index: Value) -> Value:
        return self.at(self._signatures, self.b.mul(index, word(8)))

    def _get_factor(self, index: Value) -> Value:
        return self.at(self._get_signature(index), 4)


def _write_confirm(module: Value, challenge: Value, check: Value, lanes: int) -> None:
    """confirm(...), see `CurveCode.confirm`."""
    text = BYTE.as_pointer()
    parameters = [WORD, WORD, WORDS, text, text, WORDS, text, WORDS, text]
    function = declare(module, "confirm", parameters, result=ir.VoidType(), is_internal=False)
    count, base, tables, keys, messages, lengths, signatures, scratch, verdicts = function.args
    w = CurveWriter(function)
    b = w.b
    numbers = scratch
    blocks = w.at(numbers, b.mul(count, word(4)))
    rest = w.at(blocks, count)
    texts = w.at(rest, b.add(b.mul(count, word(CHECK_WORDS)), word(DIGITS * lanes)))
    counts = b.bitcast(blocks, ir.IntType(32).as_pointer())
    b.call(challenge, [count, keys, messages, lengths, signatures, numbers, counts, texts])
    words = b.bitcast(signatures, WORDS)
    b.call(check, [count, base, tables, numbers, words, rest, verdicts])
    b.ret_void()
