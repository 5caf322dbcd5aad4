"""Confirms signatures from tables of their keys' multiples: the calls into the machine code.

What a confirmation means, and why only confirmations are worth anything, stands in `known_keys.py`.
"""

import ctypes
import hashlib
import struct
from collections.abc import Sequence
from typing import Final

from nacl.signing import SigningKey

from atpar.ledger.keys import FIELD_PRIME, GROUP_ORDER, Point, decode_point, verify_columns
from atpar.node.curve_code import (
    ALIGNMENT,
    BUILD_SCRATCH_WORDS,
    SCRATCH_WORDS,
    TABLE_WORDS,
    CurveCode,
    compile_curve_code,
    count_lanes,
    pack_point,
)

_WORD_BYTES: Final = 8
_BASE_POINT_BYTES: Final = (4 * pow(5, -1, FIELD_PRIME) % FIELD_PRIME).to_bytes(32, "little")
_TESTED_KEYS: Final = 8


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

    def __init__(self) -> None:
        self._memory = (ctypes.c_uint64 * (TABLE_WORDS + ALIGNMENT // _WORD_BYTES))()
        self.address = -(-ctypes.addressof(self._memory) // ALIGNMENT) * ALIGNMENT


class TableChecker:
    """The code with the table of the base point."""

    def __init__(self, code: CurveCode) -> None:
        self._code = code
        base = decode_point(_BASE_POINT_BYTES)
        assert base is not None
        self._base = self.build(base)

    def build_negative(self, point: Point) -> Table:
        """Return the table of a key's negative, as `confirm` takes it."""
        return self.build((-point[0] % FIELD_PRIME, point[1]))

    def build(self, point: Point) -> Table:
        """Return the table of a point."""
        table = Table()
        scratch = (ctypes.c_uint64 * BUILD_SCRATCH_WORDS)()
        self._code.build(pack_point(point), table.address, ctypes.addressof(scratch))
        return table

    def confirm(
        self,
        tables: Sequence[Table],
        keys: Sequence[bytes],
        messages: Sequence[bytes],
        signatures: Sequence[bytes],
    ) -> list[bool]:
        """Return which signatures, of 64 bytes each, are certainly valid. At least one."""
        encodings: list[bytes] = []
        numbers: list[bytes] = []
        for key, message, signature in zip(keys, messages, signatures, strict=True):
            encoding = signature[:32]
            digest = hashlib.sha512(encoding + key + message).digest()
            k = int.from_bytes(digest, "little") % GROUP_ORDER
            encodings.append(encoding)
            numbers.append(k.to_bytes(32, "little"))
            numbers.append(signature[32:])
        addresses = [table.address for table in tables]
        return self.compare(addresses, numbers, encodings)

    def compare(
        self, addresses: list[int], numbers: list[bytes], encodings: list[bytes]
    ) -> list[bool]:
        """Return for each table (of -A), k and s, and R whether s B - k A is encoded as R.

        Not if s is the group's order or more. At least one.
        """
        count = len(encodings)
        idle = -count % self._code.lanes  # these lanes do the first one's work again
        room = count + idle
        scratch = (ctypes.c_uint64 * (SCRATCH_WORDS * room))()
        verdicts = (ctypes.c_uint8 * room)()
        self._code.check(
            room,
            self._base.address,
            struct.pack(f"{room}Q", *addresses, *addresses[:1] * idle),
            b"".join((*numbers, *numbers[:2] * idle)),
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
