"""Confirms signatures from tables of their keys' multiples: the calls into the machine code.

What a confirmation means, and why only confirmations are worth anything, stands in `known_keys.py`.
"""

import ctypes
import hashlib
import struct
from array import array
from collections.abc import Sequence
from typing import Final

from nacl.signing import SigningKey

from atpar.ledger.keys import FIELD_PRIME, Point, decode_point, verify_columns
from atpar.node.challenge_code import BLOCK_BYTES, make_padding
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
_POINTS_BYTES: Final = 64
"""R and A, hashed before the message."""
_NO_NUMBER: Final = bytes(32)
"""Where k will stand."""


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
    """The code with the table of the base point."""

    def __init__(self, code: CurveCode) -> None:
        self._code = code
        base = decode_point(_BASE_POINT_BYTES)
        assert base is not None
        self._base = self._build(base, BASE_SHAPE)

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
        texts = [
            b"".join((signature[:32], key, message, make_padding(_POINTS_BYTES + len(message))))
            for key, message, signature in zip(keys, messages, signatures, strict=True)
        ]
        numbers = self._make_numbers(texts, [signature[32:] for signature in signatures])
        addresses = [table.address for table in tables]
        return self._compare(addresses, numbers, [signature[:32] for signature in signatures])

    def compare(
        self, addresses: list[int], numbers: list[bytes], encodings: list[bytes]
    ) -> list[bool]:
        """Return for each table (of -A), k and s, and R whether s B - k A is encoded as R.

        Not if s is the group's order or more. At least one.
        """
        idle = self._count_idle(len(encodings))
        packed = ctypes.create_string_buffer(b"".join((*numbers, *numbers[:2] * idle)))
        return self._compare(addresses, packed, encodings)

    def compute_challenges(self, texts: list[bytes]) -> list[bytes]:
        """Return k of each text, padded to blocks, as 32 bytes, least first."""
        numbers = self._make_numbers(texts, [bytes(32)] * len(texts)).raw
        return [numbers[64 * place : 64 * place + 32] for place in range(len(texts))]

    def _count_idle(self, count: int) -> int:
        """Return how many lanes are left over: they do the first one's work again."""
        return -count % self._code.lanes

    def _make_numbers(
        self, texts: list[bytes], factors: list[bytes]
    ) -> "ctypes.Array[ctypes.c_char]":
        """Return k of each text and the factor s beside it, idle lanes included."""
        idle = self._count_idle(len(texts))
        texts, factors = texts + texts[:1] * idle, factors + factors[:1] * idle
        blocks = array("I", [len(text) // BLOCK_BYTES for text in texts])
        numbers = ctypes.create_string_buffer(_NO_NUMBER + _NO_NUMBER.join(factors))
        self._code.challenge(
            len(texts), b"".join(texts), blocks.buffer_info()[0], ctypes.addressof(numbers)
        )
        return numbers

    def _compare(
        self,
        addresses: list[int],
        numbers: "ctypes.Array[ctypes.c_char]",
        encodings: list[bytes],
    ) -> list[bool]:
        count = len(encodings)
        idle = self._count_idle(count)
        room = count + idle
        scratch = (ctypes.c_uint64 * self._code.count_scratch_words(room))()
        verdicts = (ctypes.c_uint8 * room)()
        self._code.check(
            room,
            self._base.address,
            struct.pack(f"{room}Q", *addresses, *addresses[:1] * idle),
            ctypes.addressof(numbers),
            b"".join((*encodings, *encodings[:1] * idle)),
            ctypes.addressof(scratch),
            ctypes.addressof(verdicts),
        )
        return list(map(bool, verdicts[:count]))


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
