"""Payments that machine code recognises: the transactions that Python makes of them, and no other.

Where an envelope has one signature, the code and Python agree in both directions: what is
recognised is a good payment, and each good payment is recognised.
"""

import ctypes
import mmap
import random
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from atpar.ledger.codec import encode
from atpar.ledger.errors import NonCanonical
from atpar.ledger.forms import is_reference
from atpar.ledger.hashing import FEW, HashTag
from atpar.ledger.limits import (
    MAX_AMOUNT,
    MAX_OPS_PER_TRANSACTION,
    MAX_REFERENCE_CHARS,
    MAX_TRANSACTION_BYTES,
)
from atpar.ledger.operations import Transfer
from atpar.ledger.transactions import (
    VERSION,
    Body,
    Transaction,
    decode_many,
    decode_transaction,
    encode_envelope,
    use_payment_code,
)
from atpar.ledger.types import AccountId, AssetCode
from atpar.node.ledger_code import make_ledger_code
from atpar.node.payment_code import PaymentCode
from tests.altering import flip
from tests.ledger import samples
from tests.node.machine_code import needs_code, without_code

__all__ = ["without_code"]
pytestmark = needs_code

TRANSFER: Final = Transfer(
    "HKD.JDCL", "ALFA/main", "BRVO/main", 1_000, bytes(16), "GDDS", "", None, None, False
)
BODY: Final = Body(
    VERSION, bytes(range(32)), "ALFA/main", bytes(16), samples.TIME_MS, 2**41, (TRANSFER,)
)
SIGNATURE: Final = bytes(range(100, 132)), bytes(range(64))
NUMBERS: Final = [edge + change for edge in (1, 2**7, 2**8, 2**16, 2**32) for change in (-1, 0, 1)]


@pytest.fixture(scope="module")
def code() -> PaymentCode:
    payments = make_ledger_code().payments
    assert isinstance(payments, PaymentCode)
    return payments


@pytest.fixture(autouse=True)
def _begin_without_code(without_code: None) -> None:
    pass


def pack(body: Body) -> bytes:
    return encode_envelope(encode(body), [SIGNATURE])


def pack_transfer(**changes: Any) -> bytes:
    """One transfer; a new debtor is the sender too."""
    op = replace(TRANSFER, **changes)
    return pack(replace(BODY, sender=op.debtor, ops=(op,)))


def decode(code: PaymentCode | None, raws: Sequence[bytes]) -> list[Transaction | str]:
    hashes = [bytes((number % 251,)) * 32 for number in range(len(raws))]
    use_payment_code(code)
    decoded = decode_many(raws, hashes)
    use_payment_code(None)
    return [tx if isinstance(tx, Transaction) else str(tx) for tx in decoded]


def check(code: PaymentCode, raws: Sequence[bytes]) -> list[bool]:
    """Decode both ways, and return which envelopes were recognised."""
    raws = [*raws, *[pack(BODY)] * (FEW - len(raws))]
    plain = decode(None, raws)
    assert decode(code, raws) == plain
    found = list(code.scan(raws))
    for tx, (is_payment, body_hash) in zip(plain, found, strict=True):
        is_good = isinstance(tx, Transaction) and tx.are_own_payments
        assert is_payment == (is_good and len(tx.signatures) == 1)  # type: ignore[union-attr]
        assert not is_payment or body_hash == tx.body_hash  # type: ignore[union-attr]
    return [is_payment for is_payment, _ in found]


def check_one(code: PaymentCode, raw: bytes) -> bool:
    return check(code, [raw])[0]


# ---- at each bound and one past it


def test_a_payment_is_recognised_and_taken_as_it_is(code: PaymentCode) -> None:
    assert check_one(code, pack(BODY))
    tx = decode(code, [pack(BODY)] * FEW)[0]
    assert isinstance(tx, Transaction)
    assert (tx.body, tx.body_bytes) == (BODY, encode(BODY))


@pytest.mark.parametrize("field", ["debtor", "creditor"])
@pytest.mark.parametrize("code_chars", [3, 4, 8, 9])
@pytest.mark.parametrize("name_chars", [0, 1, 22, 23, 25, 26, 250])
def test_accounts_of_any_length(
    code: PaymentCode, field: str, code_chars: int, name_chars: int
) -> None:
    """Also where the head of a text becomes two bytes: 31 and 32 characters."""
    account = "A" * code_chars + "/" + "-" * name_chars
    is_account = code_chars in (4, 8) and name_chars in (1, 22, 23, 25)
    assert check_one(code, pack_transfer(**{field: account})) == is_account


def replace_char(text: str, place: int, char: str) -> str:
    return text[:place] + char + text[place + 1 :]


CHARS: Final = [chr(n) for n in range(256)] + ["\N{FULLWIDTH DIGIT ONE}", "\N{KELVIN SIGN}"]


@pytest.mark.parametrize(
    ("fields", "text", "admits"),
    [
        (("asset",), "HKD.JDCL", re.compile(AssetCode.__metadata__[0].pattern).search),
        (("debtor", "creditor"), "AZ09/az-9", re.compile(AccountId.__metadata__[0].pattern).search),
        (("purpose", "reference"), "some text", is_reference),
    ],
)
def test_every_character_in_every_place(
    code: PaymentCode, fields: Sequence[str], text: str, admits: Callable[[str], object]
) -> None:
    texts = [replace_char(text, place, char) for place in range(len(text)) for char in CHARS]
    for field in fields:
        found = check(code, [pack_transfer(**{field: text}) for text in texts])
        assert found == [bool(admits(text)) for text in texts]


def test_assets_of_any_length(code: PaymentCode) -> None:
    for chars in range(12):
        assert check_one(code, pack_transfer(asset="HKD." + "A" * chars)) == (4 <= chars <= 8)
    for asset in ("", "H", "HKD", "HK.ABCDE", "HKDX.ABCD", "HKD.AB.CD"):
        assert not check_one(code, pack_transfer(asset=asset))


@pytest.mark.parametrize("field", ["purpose", "reference"])
@pytest.mark.parametrize("chars", [0, 1, 31, 32, 34, 35, 36, 255, 256, 65_536])
def test_references_of_any_length(code: PaymentCode, field: str, chars: int) -> None:
    found = check_one(code, pack_transfer(**{field: "x" * chars}))
    assert found == (chars <= MAX_REFERENCE_CHARS)


def test_amounts(code: PaymentCode) -> None:
    amounts = [*NUMBERS, MAX_AMOUNT - 1, MAX_AMOUNT, MAX_AMOUNT + 1, 2**63 - 1, 2**63, 2**64 - 1]
    amounts += [-1, -32, -33, -(2**63)]
    found = check(code, [pack_transfer(amount=amount) for amount in amounts])
    assert found == [0 < amount <= MAX_AMOUNT for amount in amounts]


@pytest.mark.parametrize("field", ["valid_from_ms", "valid_until_ms"])
def test_times(code: PaymentCode, field: str) -> None:
    times = [*NUMBERS, 2**63 - 1, 2**63, 2**64 - 1, -1, -33]
    found = check(code, [pack(replace(BODY, **{field: time})) for time in times])
    assert found == [0 <= time < 2**63 for time in times]


@pytest.mark.parametrize("version", [-1, 0, VERSION, VERSION + 1, 127, 128, 65_535, 65_536])
def test_versions(code: PaymentCode, version: int) -> None:
    assert check_one(code, pack(replace(BODY, version=version))) == (version == VERSION)


@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 17, 255, 256, 999, 1_000, 1_001])
def test_any_number_of_transfers(code: PaymentCode, count: int) -> None:
    found = check_one(code, pack(replace(BODY, ops=(TRANSFER,) * count)))
    assert found == (1 <= count <= MAX_OPS_PER_TRANSACTION)


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("field", ["uetr", "return_of", "travel_rule_hash", "chain_id", "tx_id"])
def test_byte_strings(code: PaymentCode, field: str, size: int) -> None:
    expected = size == (32 if field in ("travel_rule_hash", "chain_id") else 16)
    for length in (size - 1, size, size + 1):
        value = b"\xc0" * length
        is_in_body = field in ("chain_id", "tx_id")
        raw = pack(replace(BODY, **{field: value})) if is_in_body else None
        raw = raw or pack_transfer(**{field: value})
        assert check_one(code, raw) == (expected and length == size)


def test_who_pays_whom(code: PaymentCode) -> None:
    other = replace(TRANSFER, debtor="BRVO/main", creditor="ALFA/main")
    near = ["ALFA/maim", "ALFA/mai", "ALFA/mainx", "ALFB/main", "BLFA/main"]
    for creditor in near:
        assert check_one(code, pack_transfer(creditor=creditor))
        assert not check_one(code, pack(replace(BODY, sender=creditor)))
    for ops in ([other], [TRANSFER, other], [replace(TRANSFER, creditor="ALFA/main")]):
        assert not check_one(code, pack(replace(BODY, ops=tuple(ops))))


def test_transfers_of_every_kind(code: PaymentCode) -> None:
    for returned in (None, bytes(16)):
        for rule in (None, bytes(32)):
            for ack in (False, True):
                assert check_one(
                    code,
                    pack_transfer(return_of=returned, travel_rule_hash=rule, travel_rule_ack=ack),
                )


def test_other_operations_are_left_to_python(code: PaymentCode) -> None:
    found = check(code, [pack(samples.make_body(op)) for op in samples.OPERATIONS])
    assert sum(found) <= 1
    for op in samples.OPERATIONS:
        assert not check_one(code, pack(replace(BODY, ops=(TRANSFER, op, TRANSFER)))) or (
            isinstance(op, Transfer)
        )


@pytest.mark.parametrize("count", [0, 1, 2, 64, 65])
def test_only_one_signature_is_looked_at(code: PaymentCode, count: int) -> None:
    signatures = [(bytes((number,)) * 32, bytes(64)) for number in range(count)]
    assert check_one(code, encode_envelope(encode(BODY), signatures)) == (count == 1)


def fill_body(size: int) -> Body:
    """Return a body of so many bytes."""
    op = replace(TRANSFER, reference="x" * MAX_REFERENCE_CHARS, purpose="")
    ops: list[Transfer] = [replace(TRANSFER, purpose="")]
    while len(encode(replace(BODY, ops=(*ops, op)))) <= size:
        ops.append(op)
    for place, shorter in enumerate(ops):
        for purpose in range(MAX_REFERENCE_CHARS + 1):
            ops[place] = replace(shorter, purpose="y" * purpose)
            body = replace(BODY, ops=tuple(ops))
            if len(encode(body)) == size:
                return body
    raise AssertionError(size)


@pytest.mark.parametrize("size", [255, 256, 65_535, 65_536])
def test_bodies_of_any_length(code: PaymentCode, size: int) -> None:
    """Where the head in front of the body becomes longer."""
    body = fill_body(size)
    assert len(encode(body)) == size
    assert check_one(code, pack(body))


@pytest.mark.parametrize("size", [MAX_TRANSACTION_BYTES, MAX_TRANSACTION_BYTES + 1])
def test_the_largest_envelopes(code: PaymentCode, size: int) -> None:
    """They hold more operations than are allowed, and are for Python to judge."""
    body = fill_body(size - 1 - 5 - 102)
    assert len(pack(body)) == size
    assert not check_one(code, pack(body))


def test_more_envelopes_than_one_call_takes(code: PaymentCode) -> None:
    raws = [
        pack_transfer(amount=number) if number % 7 else b"x" * (number % 100)
        for number in range(1, 700)
    ]
    assert check(code, raws) == [bool(number % 7) for number in range(1, 700)]


def test_a_few_envelopes_are_looked_at_one_by_one(code: PaymentCode) -> None:
    class Never:
        def scan(self, raws: Sequence[bytes]) -> list[tuple[bool, bytes]]:
            raise AssertionError(raws)

    use_payment_code(Never())
    raws = [pack(BODY)] * (FEW - 1)
    assert decode_many(raws, raws) == decode_many(raws[:1], raws[:1]) * (FEW - 1)
    assert decode_many([], []) == []


# ---- bytes that are almost a payment


@dataclass(frozen=True)
class Head:
    """Where a value begins in canonical bytes, and what it says."""

    start: int
    end: int
    kind: str
    number: int


WIDER: Final = {
    "number": [
        (0xCC, 1),
        (0xCD, 2),
        (0xCE, 4),
        (0xCF, 8),
        (0xD0, 1),
        (0xD1, 2),
        (0xD2, 4),
        (0xD3, 8),
    ],
    "text": [(0xD9, 1), (0xDA, 2), (0xDB, 4), (0xC4, 1)],
    "binary": [(0xC4, 1), (0xC5, 2), (0xC6, 4), (0xD9, 1)],
    "array": [(0xDC, 2), (0xDD, 4)],
}
"""First bytes of all other heads, and how many more bytes they have."""


def read_head(data: bytes, at: int) -> Head:
    """Return the head of the value that begins there in canonical bytes."""
    first = data[at]
    if first < 0x80:
        return Head(at, at + 1, "number", first)
    if first < 0xC0:
        return Head(at, at + 1, *(("array", first & 15) if first < 0xA0 else ("text", first & 31)))
    for kind, heads in WIDER.items():
        for marker, width in heads[:4]:
            if marker == first:
                end = at + 1 + width
                return Head(at, end, kind, int.from_bytes(data[at + 1 : end], "big"))
    return Head(at, at + 1, "constant", first)


def list_heads(data: bytes) -> Iterator[Head]:
    """Yield where each value of canonical bytes begins."""
    at = 0
    while at < len(data):
        head = read_head(data, at)
        yield head
        at = head.end + (head.number if head.kind in ("text", "binary") else 0)


def list_widened(data: bytes) -> Iterator[bytes]:
    """Yield the bytes with each head in turn replaced by each other one that says the same."""
    for head in list_heads(data):
        for marker, width in WIDER.get(head.kind, ()):
            own = data[head.start : head.end]
            if head.number < 256**width and own[:1] != bytes((marker,)):
                wider = bytes((marker,)) + head.number.to_bytes(width, "big")
                yield data[: head.start] + wider + data[head.end :]


def wrap(body: bytes) -> bytes:
    return encode_envelope(body, [SIGNATURE])


def test_no_head_may_be_longer_than_it_need_be(code: PaymentCode) -> None:
    full = replace(TRANSFER, reference="x" * 32, return_of=bytes(16), travel_rule_hash=bytes(32))
    for ops in ((TRANSFER,), (full, TRANSFER) * 10):
        body = encode(replace(BODY, ops=ops))
        widened = [wrap(other) for other in list_widened(body)] + list(list_widened(wrap(body)))
        assert len(widened) > 40 * len(ops)
        assert not any(check(code, widened))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        # The time at which it ends, and one transfer.
        (b"\x05\x91", b"\xcd\x00\x91"),
        # The amount, and 16 bytes.
        (b"\x06\xc4\x10", b"\xcd\x00\xc4\x10"),
        # A body of 0x97 bytes, and seven fields.
        (b"\xc4\x97\x97", b"\xc5\x00\x97"),
    ],
)
def test_a_head_does_not_end_in_the_one_that_follows(
    code: PaymentCode, right: bytes, wrong: bytes
) -> None:
    """Wide heads that would be right if they were taken for as long as they should be."""
    op = replace(TRANSFER, amount=6, purpose="x" * 29)
    body = replace(BODY, chain_id=bytes(32), valid_from_ms=1, valid_until_ms=5, ops=(op,))
    raw = pack(body)
    assert len(encode(body)) == 0x97
    assert check_one(code, raw)
    if right in encode(body):
        altered = wrap(encode(body).replace(right, wrong))
    else:
        altered = raw.replace(right, wrong)
    assert altered != raw
    assert not check_one(code, altered)


def test_every_beginning_of_an_envelope_and_more_after_its_end(code: PaymentCode) -> None:
    raw, body = pack(BODY), encode(BODY)
    cut = [raw[:length] for length in range(len(raw))]
    cut += [wrap(body[:length]) for length in range(len(body))]
    cut += [raw + b"\0", raw + raw, wrap(body + b"\0"), wrap(body + body), raw[1:], b"\0" + raw]
    assert not any(check(code, cut))


def test_every_byte_in_every_place(code: PaymentCode) -> None:
    """All that stands before the key, with each of the 256 bytes in each place."""
    raw = pack_transfer(return_of=bytes(16))
    raws = [
        raw[:place] + bytes((byte,)) + raw[place + 1 :]
        for place in range(len(raw) - 96)
        for byte in range(256)
    ]
    check(code, raws)


def mutate(raw: bytes, rng: random.Random) -> bytes:
    """Return an envelope that is a little other."""
    at, other = rng.randrange(len(raw)), rng.randrange(len(raw))
    byte = bytes((rng.choice([0, 1, 0x7F, 0x80, 0xC0, 0xC4, 0xCC, 0xFF, rng.randrange(256)]),))
    match rng.randrange(7):
        case 0:
            return raw[:at] + byte + raw[at + 1 :]
        case 1:
            return flip(raw, at, rng.randrange(8))
        case 2:
            return raw[:at] + byte + raw[at:]
        case 3:
            return raw[:at] + raw[at + 1 :]
        case 4:
            return raw[:at] + raw[min(at, other) : max(at, other)] + raw[at:]
        case 5:
            return rng.choice([raw[:at], raw + raw[at:], raw[at:]])
        case _:
            return rng.choice(list(list_widened(raw)) or [raw])


def mutate_fields(body: Body, rng: random.Random) -> bytes:
    """Return an envelope in which two values of the body, or of a transfer, changed places."""
    fields: list[Any] = [getattr(body, field) for field in Body.__struct_fields__]
    ops = [[20, *(getattr(op, field) for field in Transfer.__struct_fields__)] for op in body.ops]
    fields[-1] = ops
    changed = rng.choice([fields, rng.choice(ops)])
    one, other = rng.randrange(len(changed)), rng.randrange(len(changed))
    changed[one], changed[other] = changed[other], changed[one]
    return wrap(encode(tuple(fields)))


def mutate_many(body: Body, rng: random.Random, count: int) -> list[bytes]:
    """Return the body's envelope and others: changed outside, in the body, or in a field."""
    raws = [pack(body)]
    for _ in range(count):
        match rng.randrange(4):
            case 0:
                raws.append(mutate(pack(body), rng))
            case 1:
                raws.append(mutate_fields(body, rng))
            case 2:
                raws.append(mutate(mutate(pack(body), rng) or b"\0", rng))
            case _:
                raws.append(wrap(mutate(encode(body), rng)))
    return raws


codes = st.text("AZ09", min_size=4, max_size=8)
accounts = st.builds(lambda a, b: f"{a}/{b}", codes, st.text("az09-", min_size=1, max_size=25))
references = st.text([" ", "~", "x"], max_size=MAX_REFERENCE_CHARS)
uuids = st.binary(min_size=16, max_size=16)
digests = st.binary(min_size=32, max_size=32)
times = st.sampled_from([*NUMBERS, 2**63 - 1])
transfers = st.builds(
    Transfer,
    st.builds(lambda code: f"HKD.{code}", codes),
    st.just(""),
    accounts,
    st.sampled_from([*NUMBERS[1:], MAX_AMOUNT]) | st.integers(1, MAX_AMOUNT),
    uuids,
    references,
    references,
    st.none() | uuids,
    st.none() | digests,
    st.booleans(),
)


@st.composite
def bodies(draw: Any) -> Body:
    sender = draw(accounts)
    size = draw(st.sampled_from([1, 1, 1, 2, 15, 16]))
    few = draw(st.lists(transfers.filter(lambda op: op.creditor != sender), min_size=1, max_size=3))
    ops = [replace(op, debtor=sender) for op in few * size][:size]
    return Body(VERSION, draw(digests), sender, draw(uuids), draw(times), draw(times), tuple(ops))


@settings(max_examples=60, deadline=None)
@given(bodies(), st.integers(0, 2**32))
def test_payments_and_what_is_almost_one(code: PaymentCode, body: Body, seed: int) -> None:
    assert check(code, mutate_many(body, random.Random(seed), 20))[0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=300), min_size=FEW, max_size=2 * FEW))
def test_bytes_of_any_kind(code: PaymentCode, raws: list[bytes]) -> None:
    check(code, raws)


# ---- memory


class Edge:
    """Memory that ends where reading on would end the process."""

    def __init__(self) -> None:
        self._size = 2 * mmap.PAGESIZE
        self._memory = mmap.mmap(-1, self._size + mmap.PAGESIZE)
        self._start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        libc = ctypes.CDLL(None, use_errno=True)
        guard = ctypes.c_void_p(self._start + self._size)
        assert libc.mprotect(guard, mmap.PAGESIZE, 0) == 0

    def place(self, data: bytes) -> int:
        """Write data up to the edge; return where it begins."""
        start = self._size - len(data)
        self._memory[start : self._size] = data
        return self._start + start


def test_nothing_is_read_beyond_the_end(code: PaymentCode) -> None:
    """Every beginning of envelopes, alone or after another, before memory that cannot be read."""
    edge, tag, rows = Edge(), HashTag.BODY.value, bytearray(2 * 33)
    out = ctypes.addressof(ctypes.c_char.from_buffer(rows))
    full = pack_transfer(
        creditor="BRVO/" + "x" * 25, reference="x" * 32, return_of=bytes(16),
        travel_rule_hash=bytes(32),
    )  # fmt: skip
    whole = [pack(BODY), full, pack(replace(BODY, ops=(TRANSFER,) * 16))]
    widened = [other for raw in whole[:2] for other in list_widened(raw)]
    inside = [wrap(other) for other in list_widened(encode(BODY))]
    for raw in [*whole, *widened, *inside]:
        for length in range(len(raw) + 1):
            some = [whole[0], raw[:length]]
            lengths = array("I", map(len, some))
            data = b"".join(tag + each for each in some)
            code._scan(len(some), edge.place(data), lengths.buffer_info()[0], out)
            assert rows[0] == 1
            assert not rows[33] or length == len(raw)


def test_an_error_is_the_one_that_python_gives(code: PaymentCode) -> None:
    use_payment_code(code)
    raw = pack(BODY)[:-1]
    (error, *_) = decode_many([raw] * FEW, [raw] * FEW)
    assert isinstance(error, NonCanonical)
    with pytest.raises(NonCanonical, match=re.escape(str(error))):
        decode_transaction(raw)
