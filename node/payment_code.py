"""Machine code that recognises plain payments among envelopes, and hashes their bodies.

Most of decoding a payment is asking whether it is what it should be: each header the shortest that
will do, each text of its type's form, and encoded again for a comparison. That is asked here, byte
by byte and for many envelopes in one call. What passes is the canonical envelope of one signature
and of transfers by the sender alone, with nothing wrong in it but what only the chain and its state
can tell (`Transaction.are_own_payments`); Python then decodes it without another look. About
whatever does not pass nothing is said: Python decides.

**Layout.** All envelopes of a call stand one after another, each behind a tag that begins what is
hashed of it. Once an envelope has passed, the tag is moved to where the body begins, over what
stands before it: then tag and body are one text.
"""

import ctypes
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from struct import iter_unpack
from typing import Any, Final, cast

from llvmlite import ir

from atpar.ledger.codec import Wire
from atpar.ledger.hashing import HashTag
from atpar.ledger.limits import (
    MAX_AMOUNT,
    MAX_OPS_PER_TRANSACTION,
    MAX_REFERENCE_CHARS,
    MAX_TIME_MS,
    MAX_TRANSACTION_BYTES,
)
from atpar.ledger.operations import Transfer
from atpar.ledger.transactions import VERSION, Body, Envelope, Signature
from atpar.node.machine_code import (
    BYTE,
    WORD,
    Value,
    Writer,
    cut_runs,
    declare,
    find_function,
    find_memcmp,
    word,
)

_TAG: Final = HashTag.BODY.value
_ROW: Final = "?32s"
_ROW_BYTES: Final = 33

_BYTES: Final = BYTE.as_pointer()
_LENGTHS: Final = ir.IntType(32).as_pointer()
_NOT_A_NUMBER: Final = 2**64 - 1
"""More than any number that is asked for."""


class PaymentCode:
    """Recognises payments, see `atpar.ledger.transactions.PaymentCode`."""

    def __init__(self, engine: Any) -> None:
        """Use the function of a module that `write_payment_functions` wrote to."""
        self._engine = engine
        size, address = ctypes.c_uint64, ctypes.c_void_p
        self._scan = find_function(engine, "scan", None, size, address, address, address)

    def scan(self, raws: Sequence[bytes]) -> Iterator[tuple[bool, bytes]]:
        """Return for each envelope whether it is a plain payment, and then its body's hash."""
        rows = bytearray(_ROW_BYTES * len(raws))
        first = 0
        for some in cut_runs(raws):
            data = bytearray(_TAG).join((b"", *some))
            lengths = array("I", map(len, some))
            out = ctypes.addressof(ctypes.c_char.from_buffer(rows, first))
            start = ctypes.addressof(ctypes.c_char.from_buffer(data))
            self._scan(len(some), start, lengths.buffer_info()[0], out)
            first += _ROW_BYTES * len(some)
        return cast("Iterator[tuple[bool, bytes]]", iter_unpack(_ROW, rows))


# ---- what is read: MessagePack, and the alphabets of `ledger/types.py`


@dataclass(frozen=True, slots=True)
class _Head:
    """How a number stands in front of what it counts, or for itself."""

    name: str
    first_short: int
    """The byte that says 0; those after it say 1, 2, and so on."""
    shorts: int
    """How many numbers one byte says."""
    first_long: int
    """The byte before a number of `widths[0]` bytes; those after it stand before wider ones."""
    widths: tuple[int, ...]
    """Each twice the one before."""

    def measure(self, w: Writer, number: Value) -> Value:
        """Return how many bytes the shortest head takes that says a number, at most nine."""
        size = word(1 + self.widths[-1])
        for width in reversed(self.widths[:-1]):
            fits = w.b.icmp_unsigned("<", number, word(256**width))
            size = w.b.select(fits, word(1 + width), size)
        return w.b.select(w.b.icmp_unsigned("<", number, word(self.shorts)), word(1), size)


_NUMBER: Final = _Head("number", 0x00, 128, 0xCC, (1, 2, 4, 8))
_TEXT: Final = _Head("text", 0xA0, 32, 0xD9, (1,))
"""No text of a payment takes more."""
_BINARY: Final = _Head("binary", 0x00, 0, 0xC4, (1, 2, 4))
_ARRAY: Final = _Head("array", 0x90, 16, 0xDC, (2,))
_HEADS: Final = (_NUMBER, _TEXT, _BINARY, _ARRAY)
_NIL: Final = 0xC0
_FALSE: Final = 0xC2
"""True is the byte after it."""

# Classes of characters, one bit each.
_CAPITAL: Final = 1
_CODE: Final = 2
_NAME: Final = 4
_PRINTABLE: Final = 8
_ALPHABETS: Final = {
    _CAPITAL: b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    _CODE: b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
    _NAME: b"abcdefghijklmnopqrstuvwxyz0123456789-",
    _PRINTABLE: bytes(range(0x20, 0x7F)),
}
_CODE_CHARS: Final = (4, 8)
_NAME_CHARS: Final = (1, 25)
_CURRENCY_CHARS: Final = 3


def _begin(kind: type[Wire], *first: int) -> bytes:
    """Return the bytes that a Struct begins with, when these are its first values."""
    tag = kind.__struct_config__.tag
    values = first if tag is None else (cast("int", tag), *first)
    size = len(kind.__struct_fields__) + (tag is not None)
    return bytes((_ARRAY.first_short + size, *values))


_ENVELOPE: Final = _begin(Envelope)
_BODY: Final = _begin(Body, VERSION)
_TRANSFER: Final = _begin(Transfer)
_SIGNATURES: Final = bytes((_ARRAY.first_short + 1,)) + _begin(Signature)
"""A list of one."""
_KEY_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64
_HASH_BYTES: Final = 32
_UUID_BYTES: Final = 16
_TAIL_BYTES: Final = len(_SIGNATURES) + 2 + _KEY_BYTES + 2 + _SIGNATURE_BYTES


# ---- the code


def write_payment_functions(module: Value, digest: Value) -> None:
    """Write `scan`; digest(data, length, out) is a function of the module."""
    read_big = _write_read_big(module)
    heads = {head.name: _write_read_head(module, head, read_big) for head in _HEADS}
    parts = _Parts(heads, _write_span(module), find_memcmp(module))
    _write_scan(module, _write_find_body(module, parts), digest)


@dataclass(frozen=True, slots=True)
class _Parts:
    """Functions of the module that the reader calls."""

    heads: dict[str, Value]
    """read(text, room) of each head: the number it says, or `_NOT_A_NUMBER`."""
    span: Value
    compare: Value


def _write_read_big(module: Value) -> Value:
    """read_big(text, length): a big-endian number of one to eight bytes."""
    function = declare(module, "read_big", [_BYTES, WORD], result=WORD, is_internal=True)
    text, length = function.args
    w = Writer(function)

    def take_byte(index: Value, carried: list[Value]) -> list[Value]:
        byte = w.b.zext(w.b.load(w.at(text, index)), WORD)
        return [w.b.or_(w.b.shl(carried[0], word(8)), byte)]

    w.b.ret(w.repeat(length, [word(0)], take_byte)[0])
    return function


def _write_read_head(module: Value, head: _Head, read_big: Value) -> Value:
    """read_...(text, room): the number that the head says, if it is the shortest that does."""
    name = f"read_{head.name}"
    function = declare(module, name, [_BYTES, WORD], result=WORD, is_internal=True)
    text, room = function.args
    w = _Demanding(function, otherwise=_NOT_A_NUMBER)
    b = w.b
    w.demand(b.icmp_unsigned("!=", room, word(0)))
    first = b.zext(b.load(text), WORD)
    short = b.sub(first, word(head.first_short))
    with b.if_then(b.icmp_unsigned("<", short, word(head.shorts))):
        b.ret(short)
    kind = b.sub(first, word(head.first_long))
    w.demand(b.icmp_unsigned("<", kind, word(len(head.widths))))
    width = b.shl(word(head.widths[0]), kind)
    w.demand(b.icmp_unsigned("<", width, room))
    number = b.call(read_big, [w.at(text, 1), width])
    w.demand_same(head.measure(w, number), b.add(width, word(1)))
    b.ret(number)
    return function


def _write_span(module: Value) -> Value:
    """span(text, length, class): how many characters of the class the text begins with."""
    function = declare(module, "span", [_BYTES, WORD, BYTE], result=WORD, is_internal=True)
    text, length, wanted = function.args
    classes = bytearray(256)
    for kind, alphabet in _ALPHABETS.items():
        for char in alphabet:
            classes[char] |= kind
    table = ir.GlobalVariable(module, ir.ArrayType(BYTE, len(classes)), "classes")
    table.linkage, table.global_constant = "internal", True
    table.initializer = ir.Constant(table.value_type, classes)
    b = ir.IRBuilder(function.append_basic_block())
    before = b.block
    head, inside, further, after = (b.append_basic_block() for _ in range(4))
    b.branch(head)
    b.position_at_end(head)
    index = b.phi(WORD)
    index.add_incoming(word(0), before)
    b.cbranch(b.icmp_unsigned("<", index, length), inside, after)
    b.position_at_end(inside)
    char = b.zext(b.load(b.gep(text, [index])), WORD)
    common = b.and_(b.load(b.gep(table, [word(0), char])), wanted)
    b.cbranch(b.icmp_unsigned("!=", common, ir.Constant(BYTE, 0)), further, after)
    b.position_at_end(further)
    index.add_incoming(b.add(index, word(1)), further)
    b.branch(head)
    b.position_at_end(after)
    b.ret(index)
    return function


class _Demanding(Writer):
    """Writes one function that gives up, with one answer, where something is not as demanded."""

    def __init__(self, function: Value, *, otherwise: int) -> None:
        super().__init__(function)
        self._refuse = self.b.append_basic_block()
        with self.b.goto_block(self._refuse):
            self.b.ret(word(otherwise))

    def demand(self, condition: Value) -> None:
        """Go on only if the condition holds."""
        following = self.b.append_basic_block()
        self.b.cbranch(condition, following, self._refuse)
        self.b.position_at_end(following)

    def demand_same(self, value: Value, other: Value) -> None:
        """Go on only if both are the same."""
        self.demand(self.b.icmp_unsigned("==", value, other))

    def demand_within(self, value: Value, low: int, high: int) -> None:
        """Go on only if a value, as an unsigned one, is in a range."""
        offset = self.b.sub(value, word(low))
        self.demand(self.b.icmp_unsigned("<=", offset, word(high - low)))


class _Reader(_Demanding):
    """Writes a function that reads a text from front to back, and answers 0 where it cannot.

    No byte is looked at before it is known to be there.
    """

    def __init__(self, function: Value, text: Value, end: Value, parts: _Parts) -> None:
        super().__init__(function, otherwise=0)
        self._text = text
        self._parts = parts
        self.place: Value = word(0)
        self.end = end
        """Where nothing is left to take."""

    def here(self) -> Value:
        """Return the pointer to what comes next."""
        return self.at(self._text, self.place)

    def take(self, count: Value | int) -> Value:
        """Return the pointer to so many bytes, and pass over them."""
        count = word(count) if isinstance(count, int) else count
        self.demand(self.b.icmp_unsigned("<=", count, self.b.sub(self.end, self.place)))
        there = self.here()
        self.place = self.b.add(self.place, count)
        return there

    def take_byte(self) -> Value:
        """Return the next byte as a word."""
        return self.b.zext(self.b.load(self.take(1)), WORD)

    def expect(self, wanted: bytes) -> None:
        """Pass over these bytes."""
        kind = ir.IntType(8 * len(wanted))
        there = self.b.bitcast(self.take(len(wanted)), kind.as_pointer())
        number = ir.Constant(kind, int.from_bytes(wanted, "little"))
        self.demand_same(self.b.load(there, align=1), number)

    def read(self, head: _Head, low: int, high: int) -> Value:
        """Return the number that a head says, if it is in a range."""
        room = self.b.sub(self.end, self.place)
        number = self.b.call(self._parts.heads[head.name], [self.here(), room])
        self.demand_within(number, low, high)
        self.take(head.measure(self, number))
        return number

    def read_text(self, low: int, high: int) -> tuple[Value, Value]:
        """Return a text of so many bytes, and how many."""
        length = self.read(_TEXT, low, high)
        return self.take(length), length

    def skip_binary(self, length: int) -> None:
        """Pass over a byte string of this length, below 256."""
        self.expect(bytes((_BINARY.first_long, length)))
        self.take(length)

    def skip_binary_or_nil(self, length: int) -> None:
        """Pass over nil, or a byte string of this length, below 256."""
        b, first = self.b, self.take_byte()
        is_nil = b.icmp_unsigned("==", first, word(_NIL))
        self.demand(b.or_(is_nil, b.icmp_unsigned("==", first, word(_BINARY.first_long))))
        there = self.take(b.select(is_nil, word(0), word(1 + length)))
        # Of nil, which has no second byte, the first one again.
        second = b.load(self.at(there, b.select(is_nil, word(-1), word(0))))
        self.demand(b.or_(is_nil, b.icmp_unsigned("==", second, ir.Constant(BYTE, length))))

    def demand_class(self, text: Value, length: Value, kind: int) -> None:
        """Go on only if all characters of a text are of a class."""
        self.demand_same(self.span(text, length, kind), length)

    def span(self, text: Value, length: Value, kind: int) -> Value:
        """Return how many characters of a class a text begins with."""
        return self.b.call(self._parts.span, [text, length, ir.Constant(BYTE, kind)])

    def is_same(self, one: Value, other: Value, length: Value) -> Value:
        """Return whether two texts of one length are the same."""
        result = self.b.call(self._parts.compare, [one, other, length])
        return self.b.icmp_unsigned("==", result, ir.Constant(result.type, 0))


def _read_account(r: _Reader) -> tuple[Value, Value]:
    """Pass over an `AccountId`; return where it stands, head included, and how many bytes."""
    start, before = r.here(), r.place
    least, most = _CODE_CHARS[0] + 1 + _NAME_CHARS[0], _CODE_CHARS[1] + 1 + _NAME_CHARS[1]
    text, length = r.read_text(least, most)
    code = r.span(text, length, _CODE)
    r.demand_within(code, *_CODE_CHARS)
    rest = r.b.sub(length, code)
    r.demand(r.b.icmp_unsigned("!=", rest, word(0)))
    r.demand_same(r.b.load(r.at(text, code)), ir.Constant(BYTE, ord("/")))
    name = r.b.sub(rest, word(1))
    r.demand_within(name, *_NAME_CHARS)
    r.demand_class(r.at(text, r.b.add(code, word(1))), name, _NAME)
    return start, r.b.sub(r.place, before)


def _read_asset(r: _Reader) -> None:
    """Pass over an `AssetCode`."""
    before = _CURRENCY_CHARS + 1
    text, length = r.read_text(before + _CODE_CHARS[0], before + _CODE_CHARS[1])
    r.demand_class(text, word(_CURRENCY_CHARS), _CAPITAL)
    r.demand_same(r.b.load(r.at(text, _CURRENCY_CHARS)), ir.Constant(BYTE, ord(".")))
    r.demand_class(r.at(text, before), r.b.sub(length, word(before)), _CODE)


def _read_reference(r: _Reader) -> None:
    """Pass over a `Reference`."""
    r.demand_class(*r.read_text(0, MAX_REFERENCE_CHARS), _PRINTABLE)


def _read_transfer(r: _Reader, sender: tuple[Value, Value]) -> None:
    """Pass over a `Transfer` of the sender's."""
    b, (sender_at, sender_size) = r.b, sender
    r.expect(_TRANSFER)
    _read_asset(r)
    r.demand(r.is_same(r.take(sender_size), sender_at, sender_size))  # the debtor
    creditor_at, size = _read_account(r)
    with b.if_then(b.icmp_unsigned("==", size, sender_size)):
        r.demand(b.not_(r.is_same(creditor_at, sender_at, size)))
    r.read(_NUMBER, 1, MAX_AMOUNT)
    r.skip_binary(_UUID_BYTES)
    _read_reference(r)
    _read_reference(r)
    r.skip_binary_or_nil(_UUID_BYTES)
    r.skip_binary_or_nil(_HASH_BYTES)
    r.demand_within(r.take_byte(), _FALSE, _FALSE + 1)


def _read_body(r: _Reader) -> None:
    """Pass over a `Body` of transfers."""
    r.expect(_BODY)
    r.skip_binary(_HASH_BYTES)
    sender = _read_account(r)
    r.skip_binary(_UUID_BYTES)
    for _ in range(2):
        r.read(_NUMBER, 0, MAX_TIME_MS)
    count = r.read(_ARRAY, 1, MAX_OPS_PER_TRANSACTION)

    def take_operation(_index: Value, carried: list[Value]) -> list[Value]:
        (r.place,) = carried
        _read_transfer(r, sender)
        return [r.place]

    (r.place,) = r.repeat(count, [r.place], take_operation)


def _write_find_body(module: Value, parts: _Parts) -> Value:
    """find_body(text, length): where the body of a payment's envelope begins, or 0."""
    function = declare(module, "find_body", [_BYTES, WORD], result=WORD, is_internal=True)
    text, length = function.args
    r = _Reader(function, text, length, parts)
    b = r.b
    r.demand_within(length, 0, MAX_TRANSACTION_BYTES)
    r.expect(_ENVELOPE)
    size = r.read(_BINARY, 0, MAX_TRANSACTION_BYTES)
    start = r.place
    r.demand_same(b.add(size, word(_TAIL_BYTES)), b.sub(length, start))
    r.end = b.add(start, size)
    _read_body(r)
    r.demand_same(r.place, r.end)
    r.end = length
    r.expect(_SIGNATURES)
    r.skip_binary(_KEY_BYTES)
    r.skip_binary(_SIGNATURE_BYTES)
    b.ret(start)
    return function


def _write_scan(module: Value, find_body: Value, digest: Value) -> None:
    """scan(count, data, lengths, rows), see the module; a row is as `_ROW` says."""
    parameters = [WORD, _BYTES, _LENGTHS, _BYTES]
    function = declare(module, "scan", parameters, result=ir.VoidType(), is_internal=False)
    count, data, lengths, rows = function.args
    w = Writer(function)
    b = w.b
    kind = ir.IntType(8 * len(_TAG))
    tag = ir.Constant(kind, int.from_bytes(_TAG, "little"))

    def take_envelope(index: Value, carried: list[Value]) -> list[Value]:
        text = w.at(carried[0], len(_TAG))
        length = b.zext(b.load(w.at(lengths, index)), WORD)
        row = w.at(rows, b.mul(index, word(_ROW_BYTES)))
        start = b.call(find_body, [text, length])
        is_payment = b.icmp_unsigned("!=", start, word(0))
        b.store(b.zext(is_payment, BYTE), row)
        with b.if_then(is_payment):
            hashed = w.at(text, b.sub(start, word(len(_TAG))))
            b.store(tag, b.bitcast(hashed, kind.as_pointer()), align=1)
            body_size = b.sub(b.sub(length, start), word(_TAIL_BYTES))
            b.call(digest, [hashed, b.add(body_size, word(len(_TAG))), w.at(row, 1)])
        return [w.at(text, length)]

    w.repeat(count, [data], take_envelope)
    b.ret_void()
