"""Machine code for SHA-256 over many short texts in one call.

Most of what is hashed here is shorter than two blocks, and Python pays ten times as much for the
call as the processor for the hash. So whoever has a block's worth of texts hands them over joined
(`ledger/hashing.py` says where). The code uses the processor's own instructions for SHA-256, which
every server of the last years has; where they are missing there is none, and `hashlib` does it.

**Layout.** A state is two vectors of four words of 32 bits, as the instructions want them: f e b a
and h g d c, the lowest first. Digests and texts are bytes as everywhere.

Source: FIPS 180-4; Intel, *Intel SHA Extensions* (2013), for what the instructions do.
"""

import ctypes
from array import array
from collections.abc import Sequence
from functools import partial
from itertools import count, islice
from math import isqrt
from struct import iter_unpack
from typing import Final

import llvmlite.binding as llvm
from llvmlite import ir

from atpar.node.machine_code import (
    BYTE,
    DIGEST_BYTES,
    WORD,
    Value,
    Writer,
    compile_module,
    cut_runs,
    declare,
    find_function,
    word,
)
from atpar.node.payment_code import write_payment_functions
from atpar.node.tree_writer import write_tree_functions

_BLOCK_BYTES: Final = 64
_LENGTH_BYTES: Final = 8
_ROUNDS: Final = 64

_HALF_WORD: Final = ir.IntType(32)
_BYTES: Final = BYTE.as_pointer()
_LENGTHS: Final = _HALF_WORD.as_pointer()
_FOUR: Final = ir.VectorType(_HALF_WORD, 4)
_VOID: Final = ir.VoidType()


def has_hash_instructions() -> bool:
    """Return whether this processor has what the code needs."""
    return bool(llvm.get_host_cpu_features().get("sha"))


class HashCode:
    """SHA-256 over many texts: a `ManyHashes`."""

    def __init__(self) -> None:
        """Make the code. Takes a tenth of a second.

        Raises:
            OSError: this system allows no new code in memory.
            RuntimeError: LLVM cannot make code here, or the processor lacks the instructions.
        """
        if not has_hash_instructions():
            raise RuntimeError("this processor has no instructions for SHA-256")
        self.engine = compile_module(write_module())
        address, size, text = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_char_p
        find = partial(find_function, self.engine)
        self._hash_all = find("hash_all", None, size, text, address, size, address)
        self._climb = find("climb", None, size, address)
        self._chain = find("chain", None, size, address, address, size, size, address)

    def hash_all(self, prefix: bytes, texts: Sequence[bytes]) -> list[bytes]:
        """Return the SHA-256 of the prefix and each text."""
        return [digest for (digest,) in iter_unpack("32s", self._hash(prefix, texts))]

    def compute_root(self, texts: Sequence[bytes]) -> bytes:
        """Return the root of the tree over the texts as RFC 6962 has it."""
        digests = self._hash(b"\0", texts)
        self._climb(len(texts), ctypes.addressof(digests))
        return bytes(memoryview(digests)[:DIGEST_BYTES])

    def chain(self, prefix: bytes, start: bytes, texts: Sequence[bytes]) -> bytes:
        """Return what `start` becomes: text by text, the SHA-256 of prefix, it, and the text."""
        running = ctypes.create_string_buffer(start, DIGEST_BYTES)
        gap = prefix + bytes(DIGEST_BYTES)
        for some in cut_runs(texts):
            data = ctypes.create_string_buffer(gap + gap.join(some))
            lengths = array("I", map(len, some))
            self._chain(
                len(some),
                ctypes.addressof(data),
                lengths.buffer_info()[0],
                len(gap),
                len(prefix),
                ctypes.addressof(running),
            )
        return running.raw

    def _hash(self, prefix: bytes, texts: Sequence[bytes]) -> "ctypes.Array[ctypes.c_char]":
        digests = ctypes.create_string_buffer(DIGEST_BYTES * len(texts))
        out = ctypes.addressof(digests)
        for some in cut_runs(texts):
            lengths = array("I", map(len, some))
            data = prefix + prefix.join(some)
            self._hash_all(len(some), data, lengths.buffer_info()[0], len(prefix), out)
            out += DIGEST_BYTES * len(some)
        return digests


def write_module() -> str:
    """Return the functions in LLVM's language."""
    module = ir.Module("hashes")
    digest = _write_digest(module, _write_compress(module))
    _write_hash_all(module, digest)
    _write_climb(module, digest)
    _write_chain(module, digest)
    write_tree_functions(module, digest)
    write_payment_functions(module, digest)
    return str(module)


# ---- constants: the first bits of what follows the point in roots of primes


def list_primes(number: int) -> list[int]:
    """Return the first primes."""
    primes = (n for n in count(2) if all(n % d for d in range(2, isqrt(n) + 1)))
    return list(islice(primes, number))


def cube_root(number: int) -> int:
    """Return the whole part of a cube root."""
    low, high = 0, 1 << number.bit_length() // 3 + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**3 <= number else (low, middle)
    return low


_START: Final = [isqrt(prime << 64) % 2**32 for prime in list_primes(8)]
_ADDED: Final = [cube_root(prime << 96) % 2**32 for prime in list_primes(_ROUNDS)]


def _four(*numbers: int) -> Value:
    return ir.Constant(_FOUR, list(numbers))


class _HashWriter(Writer):
    """Writes one function, in the words of SHA-256."""

    def __init__(self, function: Value) -> None:
        super().__init__(function)
        module, two, three = function.module, [_FOUR] * 2, [_FOUR] * 3
        self._rounds = self._intrinsic(module, "sha256rnds2", three)
        self._mix_first = self._intrinsic(module, "sha256msg1", two)
        self._mix_last = self._intrinsic(module, "sha256msg2", two)
        self._swap = module.declare_intrinsic(
            "llvm.bswap.v4i32", fnty=ir.FunctionType(_FOUR, [_FOUR])
        )

    @staticmethod
    def _intrinsic(module: Value, name: str, parameters: list[Value]) -> Value:
        kind = ir.FunctionType(_FOUR, parameters)
        return module.declare_intrinsic(f"llvm.x86.{name}", fnty=kind)

    def load_four(self, pointer: Value, place: int) -> Value:
        """Return four big-endian words that stand 16 x place bytes further on, at any address."""
        there = self.b.bitcast(self.at(pointer, 16 * place), _FOUR.as_pointer())
        return self.b.call(self._swap, [self.b.load(there, align=1)])

    def store_four(self, four: Value, pointer: Value, place: int) -> None:
        """Write four words as `load_four` reads them."""
        there = self.b.bitcast(self.at(pointer, 16 * place), _FOUR.as_pointer())
        self.b.store(self.b.call(self._swap, [four]), there, align=1)

    def pick(self, one: Value, other: Value, places: list[int]) -> Value:
        """Return four words out of eight."""
        return self.b.shuffle_vector(one, other, ir.Constant(_FOUR, places))

    def compress(self, state: tuple[Value, Value], data: Value) -> tuple[Value, Value]:
        """Return the state after one more block."""
        b, (feba, hgdc) = self.b, state
        words = [self.load_four(data, place) for place in range(4)]
        for group in range(_ROUNDS // 4):
            if group >= 4:
                a, c, d, e = words[-4:]
                sums = b.add(b.call(self._mix_first, [a, c]), self.pick(d, e, [1, 2, 3, 4]))
                words.append(b.call(self._mix_last, [sums, e]))
            added = b.add(words[group], _four(*_ADDED[4 * group : 4 * group + 4]))
            hgdc = b.call(self._rounds, [hgdc, feba, added])
            feba = b.call(self._rounds, [feba, hgdc, self.pick(added, added, [2, 3, 2, 3])])
        return b.add(state[0], feba), b.add(state[1], hgdc)

    def copy(self, target: Value, source: Value, length: Value) -> None:
        """Copy bytes."""
        move = self.b.module.declare_intrinsic("llvm.memcpy", [_BYTES, _BYTES, WORD])
        self.b.call(move, [target, source, length, ir.Constant(ir.IntType(1), 0)])

    def clear(self, target: Value, length: int) -> None:
        """Write zeros."""
        fill = self.b.module.declare_intrinsic("llvm.memset", [_BYTES, WORD])
        no = ir.Constant(ir.IntType(1), 0)
        self.b.call(fill, [target, ir.Constant(BYTE, 0), word(length), no])


def _write_compress(module: Value) -> Value:
    """compress(state, data): one block."""
    parameters = [_FOUR.as_pointer(), _BYTES]
    function = declare(module, "compress", parameters, result=_VOID, is_internal=True)
    state, data = function.args
    w = _HashWriter(function)
    places = [w.at(state, place) for place in range(2)]
    after = w.compress((w.b.load(places[0]), w.b.load(places[1])), data)
    for value, place in zip(after, places, strict=True):
        w.b.store(value, place)
    w.b.ret_void()
    return function


def _write_digest(module: Value, compress: Value) -> Value:
    """digest(data, length, out): one text."""
    parameters = [_BYTES, WORD, _BYTES]
    function = declare(module, "digest", parameters, result=_VOID, is_internal=True)
    data, length, out = function.args
    w = _HashWriter(function)
    b = w.b
    state = b.alloca(_FOUR, 2)
    last = b.alloca(BYTE, 2 * _BLOCK_BYTES)
    a, bb, c, d, e, f, g, h = _START
    b.store(_four(f, e, bb, a), state)
    b.store(_four(h, g, d, c), w.at(state, 1))
    whole = b.lshr(length, word(6))

    def take_block(index: Value, carried: list[Value]) -> list[Value]:
        b.call(compress, [state, w.at(data, b.mul(index, word(_BLOCK_BYTES)))])
        return carried

    with b.if_then(b.icmp_unsigned("!=", whole, word(0))):
        w.repeat(whole, [], take_block)
    # What is left, a bit, zeros, and the length in bits at the end of the last block.
    rest = b.and_(length, word(_BLOCK_BYTES - 1))
    w.clear(last, 2 * _BLOCK_BYTES)
    w.copy(last, w.at(data, b.sub(length, rest)), rest)
    b.store(ir.Constant(BYTE, 0x80), w.at(last, rest))
    is_long = b.icmp_unsigned(">=", rest, word(_BLOCK_BYTES - _LENGTH_BYTES))
    end = b.select(is_long, word(2 * _BLOCK_BYTES), word(_BLOCK_BYTES))
    bits = b.bitcast(w.at(last, b.sub(end, word(_LENGTH_BYTES))), WORD.as_pointer())
    swap = module.declare_intrinsic("llvm.bswap", [WORD])
    b.store(b.call(swap, [b.shl(length, word(3))]), bits, align=1)
    b.call(compress, [state, last])
    with b.if_then(is_long):
        b.call(compress, [state, w.at(last, _BLOCK_BYTES)])
    feba, hgdc = b.load(state), b.load(w.at(state, 1))
    w.store_four(w.pick(feba, hgdc, [3, 2, 7, 6]), out, 0)
    w.store_four(w.pick(feba, hgdc, [1, 0, 5, 4]), out, 1)
    b.ret_void()
    return function


def _write_hash_all(module: Value, digest: Value) -> None:
    """hash_all(count, data, lengths, extra, out): texts that follow each other.

    Each is `extra` longer than its length says.
    """
    parameters = [WORD, _BYTES, _LENGTHS, WORD, _BYTES]
    function = declare(module, "hash_all", parameters, result=_VOID, is_internal=False)
    number, data, lengths, extra, out = function.args
    w = _HashWriter(function)
    b = w.b

    def take_text(index: Value, carried: list[Value]) -> list[Value]:
        length = b.add(b.zext(b.load(w.at(lengths, index)), WORD), extra)
        b.call(digest, [carried[0], length, w.at(out, b.mul(index, word(DIGEST_BYTES)))])
        return [w.at(carried[0], length)]

    w.repeat(number, [data], take_text)
    b.ret_void()


def _write_climb(module: Value, digest: Value) -> None:
    """climb(count, digests): level after level, in place, until the root stands first."""
    function = declare(module, "climb", [WORD, _BYTES], result=_VOID, is_internal=False)
    number, digests = function.args
    w = _HashWriter(function)
    b = w.b
    node = b.alloca(BYTE, 1 + 2 * DIGEST_BYTES)
    b.store(ir.Constant(BYTE, 1), node)

    def take_level(_turn: Value, carried: list[Value]) -> list[Value]:
        width = carried[0]
        pairs = b.lshr(width, word(1))

        def take_pair(index: Value, carried: list[Value]) -> list[Value]:
            w.copy(w.at(node, 1), w.at(digests, b.mul(index, word(64))), word(2 * DIGEST_BYTES))
            target = w.at(digests, b.mul(index, word(DIGEST_BYTES)))
            b.call(digest, [node, word(1 + 2 * DIGEST_BYTES), target])
            return carried

        with b.if_then(b.icmp_unsigned("!=", pairs, word(0))):
            w.repeat(pairs, [], take_pair)
        above = b.sub(width, pairs)
        with b.if_then(b.icmp_unsigned("!=", above, pairs)):
            target = w.at(digests, b.mul(pairs, word(DIGEST_BYTES)))
            source = w.at(digests, b.mul(b.sub(width, word(1)), word(DIGEST_BYTES)))
            move = module.declare_intrinsic("llvm.memmove", [_BYTES, _BYTES, WORD])
            b.call(move, [target, source, word(DIGEST_BYTES), ir.Constant(ir.IntType(1), 0)])
        return [above]

    # As many turns as a list of any length may need: a level of one stays as it is.
    w.repeat(64, [number], take_level)
    b.ret_void()


def _write_chain(module: Value, digest: Value) -> None:
    """chain(count, data, lengths, extra, at, running): each text holds the digest so far.

    It is written `at` so many bytes from the text's start, into the data.
    """
    parameters = [WORD, _BYTES, _LENGTHS, WORD, WORD, _BYTES]
    function = declare(module, "chain", parameters, result=_VOID, is_internal=False)
    number, data, lengths, extra, place, running = function.args
    w = _HashWriter(function)
    b = w.b

    def take_text(index: Value, carried: list[Value]) -> list[Value]:
        length = b.add(b.zext(b.load(w.at(lengths, index)), WORD), extra)
        w.copy(w.at(carried[0], place), running, word(DIGEST_BYTES))
        b.call(digest, [carried[0], length, running])
        return [w.at(carried[0], length)]

    w.repeat(number, [data], take_text)
    b.ret_void()
