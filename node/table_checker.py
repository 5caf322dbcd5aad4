"""Confirms signatures from tables of their keys' multiples: the calls into the machine code.

What a confirmation means, and why only confirmations are worth anything, stands in `known_keys.py`.
"""

import ctypes
import hashlib
import struct
from collections.abc import Sequence
from operator import attrgetter
from typing import Final, TypeVar

from nacl.signing import SigningKey

from atpar.ledger.keys import FIELD_PRIME, Point, decode_point, verify_columns
from atpar.node.challenge_code import MOST_ADDED_BYTES
from atpar.node.curve_code import (
    ALIGNMENT,
    BASE_SHAPE,
    KEY_SHAPE,
    CurveCode,
    Shape,
    compile_curve_code,
    count_lanes,
    pack_point,
)

_WORD_BYTES: Final = 8
_BASE_POINT_BYTES: Final = (4 * pow(5, -1, FIELD_PRIME) % FIELD_PRIME).to_bytes(32, "little")
_TESTED_KEYS: Final = 8
_MEMORY_BYTES: Final = 128 * 1024
"""Enough for 64 signatures of payments; calls that need more get it for themselves."""

T = TypeVar("T")

_get_address: Final = attrgetter("address")


def make_checker() -> "TableChecker":
    """Return a checker whose code has just given the library's verdicts on a few signatures.

    Raises:
        RuntimeError: LLVM cannot make code here, or code that answers otherwise.
    """
    checker = TableChecker(compile_curve_code(count_lanes()))
    compare_with_library(checker)
    return checker


class Table:
    """The multiples of a point, in memory that does not move."""

    __slots__ = ("_memory", "address")

    def __init__(self, shape: Shape) -> None:
        self._memory = (ctypes.c_uint64 * (shape.words + ALIGNMENT // _WORD_BYTES))()
        self.address = -(-ctypes.addressof(self._memory) // ALIGNMENT) * ALIGNMENT


class TableChecker:
    """The code with the table of the base point. For one thread."""

    def __init__(self, code: CurveCode) -> None:
        self._code = code
        base = decode_point(_BASE_POINT_BYTES)
        assert base is not None
        self._base = self._build(base, BASE_SHAPE)
        self._memory = _allocate(_MEMORY_BYTES)
        """Scratch, kept: to get it anew takes as long as some signatures."""

    def build_negative(self, point: Point) -> Table:
        """Return the table of a key's negative, as `confirm` takes it."""
        return self._build((-point[0] % FIELD_PRIME, point[1]), KEY_SHAPE)

    def _build(self, point: Point, shape: Shape) -> Table:
        table = Table(shape)
        scratch = (ctypes.c_uint64 * shape.scratch_words)()
        self._code.build(
            pack_point(point), shape.rows, shape.half, table.address, ctypes.addressof(scratch)
        )
        return table

    def confirm(
        self,
        tables: Sequence[Table],
        keys: Sequence[bytes],
        messages: Sequence[bytes],
        signatures: Sequence[bytes],
    ) -> list[bool]:
        """Return which signatures, of 64 bytes each, are certainly valid. At least one."""
        count = len(tables)
        assert len(keys) == len(messages) == len(signatures) == count
        addresses = self._fill_lanes(list(map(_get_address, tables)))
        messages = self._fill_lanes(messages)
        room = len(addresses)
        key_bytes = b"".join(self._fill_lanes(keys))
        message_bytes = b"".join(messages)
        signature_bytes = b"".join(self._fill_lanes(signatures))
        # The code reads so much, whatever is there.
        assert (len(key_bytes), len(signature_bytes)) == (32 * room, 64 * room)
        size = self._code.count_scratch_bytes(room, len(message_bytes))
        fits = size + room <= _MEMORY_BYTES
        memory = self._memory if fits else _allocate(size + room)
        self._code.confirm(
            room,
            self._base.address,
            struct.pack(f"{room}Q", *addresses),
            key_bytes,
            message_bytes,
            struct.pack(f"{room}Q", *map(len, messages)),
            signature_bytes,
            ctypes.addressof(memory),
            ctypes.addressof(memory) + size,
        )
        return list(map(bool, memory[size : size + count]))

    def compare(
        self, addresses: Sequence[int], numbers: Sequence[bytes], signatures: Sequence[bytes]
    ) -> list[bool]:
        """Return for each table (of -A), k, and R and s whether s B - k A is encoded as R.

        Not if s is the group's order or more. At least one.
        """
        count = len(addresses)
        addresses, numbers = self._fill_lanes(addresses), self._fill_lanes(numbers)
        room = len(addresses)
        scratch = _allocate(self._code.count_scratch_bytes(room, 0))
        verdicts = _allocate(room)
        self._code.check(
            room,
            self._base.address,
            struct.pack(f"{room}Q", *addresses),
            b"".join(numbers),
            b"".join(self._fill_lanes(signatures)),
            ctypes.addressof(scratch),
            ctypes.addressof(verdicts),
        )
        return list(map(bool, verdicts[:count]))

    def compute_challenges(self, points: Sequence[bytes], messages: Sequence[bytes]) -> list[bytes]:
        """Return k of each R and A, as 64 bytes, and message, as 32 bytes, least first."""
        count = len(points)
        points, messages = self._fill_lanes(points), self._fill_lanes(messages)
        room, joined = len(points), b"".join(messages)
        numbers, blocks = _allocate(32 * room), _allocate(4 * room)
        texts = _allocate(len(joined) + MOST_ADDED_BYTES * room)
        self._code.challenge(
            room,
            b"".join(pair[32:] for pair in points),
            joined,
            struct.pack(f"{room}Q", *map(len, messages)),
            b"".join(points),
            *map(ctypes.addressof, (numbers, blocks, texts)),
        )
        return [bytes(numbers[32 * place : 32 * place + 32]) for place in range(count)]

    def _fill_lanes(self, column: Sequence[T]) -> Sequence[T]:
        """Return a column in which the first one's work is done again in lanes left over."""
        idle = -len(column) % self._code.lanes
        return [*column, *[column[0]] * idle] if idle else column


def _allocate(size: int) -> "ctypes.Array[ctypes.c_uint8]":
    return (ctypes.c_uint8 * size)()


def compare_with_library(checker: TableChecker) -> None:
    """Check a few signatures, good and altered, both ways.

    Raises:
        RuntimeError: the verdicts differ.
    """
    tables, keys, messages, signatures = [], [], [], []
    for number in range(_TESTED_KEYS):
        signer = SigningKey(hashlib.sha256(b"curve code %d" % number).digest())
        key, message = bytes(signer.verify_key), b"message %d" % number
        point = decode_point(key)
        assert point is not None
        good = signer.sign(message).signature
        altered = bytearray(good)
        altered[number * 8] ^= 1 << number
        tables += [checker.build_negative(point)] * 2
        keys += [key] * 2
        messages += [message] * 2
        signatures += [good, bytes(altered)]
    if checker.confirm(tables, keys, messages, signatures) != verify_columns(
        keys, messages, signatures
    ):
        raise RuntimeError("the code for known keys does not give the library's verdicts")
