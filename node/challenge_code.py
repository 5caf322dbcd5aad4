"""Machine code for the number k of a signature: SHA-512 of R, A and the message, modulo the order.

Part of `curve_code.py`'s module: what a signature check hashes is a few hundred bytes, and eight
signatures are hashed side by side where there are eight lanes, as their sums are. The code also
lays out the texts, one after the other, each padded to whole blocks.

Source: FIPS 180-4; RFC 8032 section 5.1.7 for k.
"""

from collections.abc import Sequence
from math import isqrt
from typing import Final

from llvmlite import ir

from atpar.ledger.keys import GROUP_ORDER
from atpar.node.hash_code import cube_root, list_primes
from atpar.node.machine_code import BYTE, WORD, Value, Writer, declare, transpose, word

BLOCK_BYTES: Final = 128
MOST_ADDED_BYTES: Final = 64 + 17 + BLOCK_BYTES - 1
"""To a message: R and A before it, what ends it, and zeros up to a whole block."""

_ROUNDS: Final = 80
_WIDE: Final = ir.IntType(512)
_NUMBER: Final = ir.IntType(256)
_WORDS: Final = WORD.as_pointer()
_BYTES: Final = BYTE.as_pointer()
_COUNTS: Final = ir.IntType(32).as_pointer()
_NUMBER_WORDS: Final = 4
_TWO_BITS: Final = 252
_REST: Final = GROUP_ORDER - 2**_TWO_BITS
"""2^252 is its negative modulo the order."""
_START: Final = [isqrt(prime << 128) % 2**64 for prime in list_primes(8)]
_ADDED: Final = [cube_root(prime << 192) % 2**64 for prime in list_primes(_ROUNDS)]


class _ChallengeWriter(Writer):
    """Writes one function, in the words of SHA-512; a value has a word for each lane."""

    def __init__(self, function: Value, lanes: int) -> None:
        super().__init__(function)
        self.lanes = lanes
        self.kind = WORD if lanes == 1 else ir.VectorType(WORD, lanes)
        suffix = "i64" if lanes == 1 else f"v{lanes}i64"
        unary = ir.FunctionType(self.kind, [self.kind])
        rotation = ir.FunctionType(self.kind, [self.kind] * 3)
        module = function.module
        self._swap = module.declare_intrinsic(f"llvm.bswap.{suffix}", fnty=unary)
        self._turn = module.declare_intrinsic(f"llvm.fshr.{suffix}", fnty=rotation)

    def fill(self, number: int) -> Value:
        """Return a constant in every lane."""
        return word(number) if self.lanes == 1 else ir.Constant(self.kind, [number] * self.lanes)

    def spread(self, value: Value) -> Value:
        """Return one word in every lane."""
        if self.lanes == 1:
            return value
        return self.gather([value] * self.lanes)

    def gather(self, values: Sequence[Value]) -> Value:
        """Return words as lanes."""
        if self.lanes == 1:
            return values[0]
        lanes: Value = ir.Constant(self.kind, ir.Undefined)
        for place, value in enumerate(values):
            lanes = self.b.insert_element(lanes, value, ir.Constant(ir.IntType(32), place))
        return lanes

    def pick(self, value: Value, lane: int) -> Value:
        """Return the word of one lane."""
        if self.lanes == 1:
            return value
        return self.b.extract_element(value, ir.Constant(ir.IntType(32), lane))

    def swap(self, value: Value) -> Value:
        """Return words with their bytes in the other order."""
        return self.b.call(self._swap, [value])

    def load_block(self, texts: Sequence[Value]) -> list[Value]:
        """Return the 16 words of a block of each lane's text."""
        if self.lanes == 1:
            places = [self.at(texts[0], place) for place in range(16)]
            return [self.swap(self.b.load(place, align=1)) for place in places]
        words: list[Value] = []
        for half in range(2):
            rows = []
            for text in texts:
                row = self.b.bitcast(self.at(text, 8 * half), self.kind.as_pointer())
                rows.append(self.b.load(row, align=1))
            words += map(self.swap, transpose(self.b, rows))
        return words

    def mix(self, value: Value, turns: Sequence[int], *, shift: int = 0) -> Value:
        """Return the exclusive or of a value turned right so often, and of it shifted right."""
        parts = [self.b.call(self._turn, [value, value, self.fill(turn)]) for turn in turns]
        if shift:
            parts.append(self.b.lshr(value, self.fill(shift)))
        mixed = parts[0]
        for part in parts[1:]:
            mixed = self.b.xor(mixed, part)
        return mixed

    def take_round(self, state: list[Value], term: Value) -> list[Value]:
        """Return the state after a round; the term is the word and the constant."""
        b, (a, c, d, e, f, g, h, last) = self.b, state
        choice = b.xor(h, b.and_(f, b.xor(g, h)))
        majority = b.xor(b.and_(a, c), b.and_(d, b.xor(a, c)))
        first = b.add(b.add(last, term), b.add(self.mix(f, (14, 18, 41)), choice))
        second = b.add(self.mix(a, (28, 34, 39)), majority)
        return [b.add(first, second), a, c, d, b.add(e, first), f, g, h]

    def extend(self, words: list[Value]) -> list[Value]:
        """Return the sixteen words after these."""
        b, words = self.b, list(words)
        for _ in range(16):
            recent, early = words[-2], words[-15]
            sums = b.add(words[-16], words[-7])
            mixed = b.add(self.mix(early, (1, 8), shift=7), self.mix(recent, (19, 61), shift=6))
            words.append(b.add(sums, mixed))
        return words[16:]


def write_challenge(module: Value, lanes: int) -> Value:
    """challenge(...), see `CurveCode.challenge`: lay out the texts, then hash them."""
    lay_out, hash_group = _write_lay_out(module), _write_hash_group(module, lanes)
    parameters = [WORD, _BYTES, _BYTES, _WORDS, _BYTES, _WORDS, _COUNTS, _WORDS]
    function = declare(module, "challenge", parameters, result=ir.VoidType(), is_internal=False)
    count, keys, messages, lengths, signatures, numbers, blocks, texts = function.args
    w = Writer(function)
    b = w.b
    b.call(lay_out, [count, keys, messages, lengths, signatures, blocks, texts])

    def take_group(group: Value, carried: list[Value]) -> list[Value]:
        first = b.mul(group, word(lanes))
        own = w.at(numbers, b.mul(first, word(_NUMBER_WORDS)))
        return [b.call(hash_group, [carried[0], w.at(blocks, first), own])]

    w.repeat(b.udiv(count, word(lanes)), [texts], take_group)
    b.ret_void()
    return function


def _write_lay_out(module: Value) -> Value:
    """lay_out(count, keys, messages, lengths, signatures, blocks, texts): R, A, message, padding.

    The number of blocks of each is written too.
    """
    parameters = [WORD, _BYTES, _BYTES, _WORDS, _BYTES, _COUNTS, _WORDS]
    function = declare(module, "lay_out", parameters, result=ir.VoidType(), is_internal=True)
    count, keys, messages, lengths, signatures, blocks, texts = function.args
    w = Writer(function)
    b = w.b
    is_volatile = ir.Constant(ir.IntType(1), 0)
    copy = module.declare_intrinsic("llvm.memcpy", [_BYTES, _BYTES, WORD])
    clear = module.declare_intrinsic("llvm.memset", [_BYTES, WORD])
    swap = module.declare_intrinsic("llvm.bswap", [WORD])

    def write_text(index: Value, carried: list[Value]) -> list[Value]:
        message, text = carried
        length = b.load(w.at(lengths, index))
        size = b.add(length, word(64))
        used = b.udiv(b.add(size, word(17 + BLOCK_BYTES - 1)), word(BLOCK_BYTES))
        after = w.at(text, b.mul(used, word(BLOCK_BYTES)))
        end = w.at(text, size)
        b.call(copy, [text, w.at(signatures, b.mul(index, word(64))), word(32), is_volatile])
        b.call(copy, [w.at(text, 32), w.at(keys, b.mul(index, word(32))), word(32), is_volatile])
        b.call(copy, [w.at(text, 64), message, length, is_volatile])
        room = b.sub(b.ptrtoint(after, WORD), b.ptrtoint(end, WORD))
        b.call(clear, [end, ir.Constant(BYTE, 0), room, is_volatile])
        b.store(ir.Constant(BYTE, 0x80), end)
        bits = b.call(swap, [b.shl(size, word(3))])
        b.store(bits, b.bitcast(w.at(after, -8), _WORDS), align=1)
        b.store(b.trunc(used, ir.IntType(32)), w.at(blocks, index))
        return [w.at(message, length), after]

    w.repeat(count, [messages, b.bitcast(texts, _BYTES)], write_text)
    b.ret_void()
    return function


def _write_hash_group(module: Value, lanes: int) -> Value:
    """hash_group(texts, blocks, numbers): write k of each lane's text; return where they end."""
    reduce = write_reduce(module)
    function = declare(
        module, "hash_group", [_WORDS, _COUNTS, _WORDS], result=_WORDS, is_internal=True
    )
    texts, blocks, numbers = function.args
    w = _ChallengeWriter(function, lanes)
    b = w.b
    constants = _declare_constants(module)
    starts, counts, longest = [], [], word(1)
    for lane in range(lanes):
        counts.append(b.zext(b.load(w.at(blocks, lane)), WORD))
        starts.append(texts)
        texts = w.at(texts, b.mul(counts[-1], word(BLOCK_BYTES // 8)))
        longest = b.select(b.icmp_unsigned(">", counts[-1], longest), counts[-1], longest)
    limits = w.gather(counts)

    def take_block(index: Value, state: list[Value]) -> list[Value]:
        # A lane whose text has ended reads its last block again, and keeps its state.
        here = []
        for start, blocks in zip(starts, counts, strict=True):
            last = b.sub(blocks, word(1))
            place = b.select(b.icmp_unsigned("<", index, last), index, last)
            here.append(w.at(start, b.mul(place, word(BLOCK_BYTES // 8))))

        def take_rounds(turn: Value, carried: list[Value]) -> list[Value]:
            rounds, words = list(carried[:8]), list(carried[8:])
            for place, value in enumerate(words):
                added = b.load(w.at(constants, b.add(b.mul(turn, word(16)), word(place))))
                rounds = w.take_round(rounds, b.add(value, w.spread(added)))
            return [*rounds, *w.extend(words)]

        after = w.repeat(_ROUNDS // 16, [*state, *w.load_block(here)], take_rounds)[:8]
        is_part = b.icmp_unsigned("<", w.spread(index), limits)
        return [
            b.select(is_part, b.add(old, new), old) for old, new in zip(state, after, strict=True)
        ]

    state = w.repeat(longest, [w.fill(number) for number in _START], take_block)
    swapped = [w.swap(value) for value in state]
    digest = b.alloca(WORD, 8)
    for lane in range(lanes):
        for place, value in enumerate(swapped):
            b.store(w.pick(value, lane), w.at(digest, place))
        b.call(reduce, [digest, w.at(numbers, lane * _NUMBER_WORDS)])
    b.ret(texts)
    return function


def _declare_constants(module: Value) -> Value:
    kind = ir.ArrayType(WORD, _ROUNDS)
    constants = ir.GlobalVariable(module, kind, "challenge_constants")
    constants.initializer = ir.Constant(kind, _ADDED)
    constants.global_constant = True
    constants.linkage = "internal"
    return constants.bitcast(_WORDS)


def write_reduce(module: Value) -> Value:
    """reduce(digest, number): 64 bytes, least first, modulo the order, as 32 bytes.

    What stands above 2^252 counts -REST times. REST is below 2^125, so of a number below 2^size
    that part comes to less than 2^(size - 127), and the order times 2^(size - 379) keeps the
    difference above zero. From 2^512 that leads below 2^386, 2^260, and twice the order.
    """
    function = declare(module, "reduce", [_WORDS] * 2, result=ir.VoidType(), is_internal=False)
    digest, out = function.args
    b = Writer(function).b

    def constant(value: int) -> Value:
        return ir.Constant(_WIDE, value)

    number = b.load(b.bitcast(digest, _WIDE.as_pointer()), align=1)
    for size in (512, 386, 260):
        above = b.lshr(number, constant(_TWO_BITS))
        below = b.and_(number, constant(2**_TWO_BITS - 1))
        raised = b.add(below, constant(GROUP_ORDER << max(0, size - 379)))
        number = b.sub(raised, b.mul(above, constant(_REST)))
    less = b.sub(number, constant(GROUP_ORDER))
    number = b.select(b.icmp_signed("<", less, constant(0)), number, less)
    b.store(b.trunc(number, _NUMBER), b.bitcast(out, _NUMBER.as_pointer()), align=1)
    b.ret_void()
    return function
