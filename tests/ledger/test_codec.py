"""One value, one encoding: every other one is refused, and nothing hostile gets past `decode`."""

import contextlib
import math
import struct
from collections.abc import Callable, Iterator
from typing import Annotated, Any, get_args, get_type_hints

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atpar.ledger import (
    blocks,
    certificates,
    genesis,
    operations,
    proofs,
    receipts,
    records,
    transactions,
    tree,
)
from atpar.ledger.codec import Codec, Wire, encode
from atpar.ledger.errors import NonCanonical
from atpar.ledger.limits import MAX_TRANSACTION_BYTES
from atpar.ledger.transactions import decode_transaction
from tests.ledger import samples

CERTIFICATE: Codec[Any] = Codec(certificates.Certificate, name="certificate", max_bytes=9_000)
CASES: dict[str, tuple[Codec[Any], bytes]] = {
    "body": (transactions.BODY, encode(samples.BODY)),
    "envelope": (transactions.ENVELOPE, samples.ENVELOPE),
    "header": (blocks.HEADER, encode(samples.HEADER)),
    "block": (blocks.BLOCK, encode(samples.BLOCK)),
    "receipt": (receipts.RECEIPT, encode(samples.RECEIPT)),
    "failed receipt": (receipts.RECEIPT, encode(samples.FAILED_RECEIPT)),
    "notarization": (CERTIFICATE, encode(samples.CERTIFICATES[0])),
    "nullification": (CERTIFICATE, encode(samples.CERTIFICATES[1])),
    "finalization": (CERTIFICATE, encode(samples.CERTIFICATES[2])),
}
for _op in samples.OPERATIONS:
    CASES[f"{type(_op).__name__} {len(CASES)}"] = (
        transactions.BODY,
        encode(samples.make_body(_op)),
    )

each_case = pytest.mark.parametrize("name", CASES)


# ---- the one encoding


def test_samples_hold_every_operation() -> None:
    assert {type(op) for op in samples.OPERATIONS} == set(get_args(operations.Operation))


@each_case
def test_value_round_trips(name: str) -> None:
    codec, data = CASES[name]
    assert encode(codec.decode(data)) == data
    assert codec.decode_stored(data) == codec.decode(data)


@each_case
def test_an_independent_reader_and_writer_agree_on_the_bytes(name: str) -> None:
    """`msgpack` shares no code with msgspec; it writes the shortest forms, as ours must be."""
    _, data = CASES[name]
    value = msgpack.unpackb(data, raw=False, use_list=True)
    assert msgpack.packb(value, use_bin_type=True) == data


# ---- a writer that can choose a longer form for any one value

Widen = Callable[[bytes, Any], bytes | None]


def write(value: Any, choose: Iterator[int]) -> bytes:
    """Encode like msgpack, taking at each value the form of the number drawn (0: the shortest)."""
    form = next(choose)
    if value is None or isinstance(value, bool):
        return msgpack.packb(value)
    if isinstance(value, int):
        return write_integer(value, form)
    if isinstance(value, bytes):
        return write_sized(value, form, b"\xc4\xc5\xc6", shortest=msgpack.packb(value))
    if isinstance(value, str):
        shortest = msgpack.packb(value)
        return write_sized(value.encode(), form, b"\xd9\xda\xdb", shortest=shortest)
    heads = [struct.pack(">BH", 0xDC, len(value)), struct.pack(">BI", 0xDD, len(value))]
    shortest = msgpack.Packer().pack_array_header(len(value))
    head = pick([shortest, *heads], form)
    return head + b"".join(write(item, choose) for item in value)


def write_integer(value: int, form: int) -> bytes:
    forms = [msgpack.packb(value)]
    for code, kind in ((0xCC, "B"), (0xCD, "H"), (0xCE, "I"), (0xCF, "Q"),
                       (0xD0, "b"), (0xD1, "h"), (0xD2, "i"), (0xD3, "q")):  # fmt: skip
        try:
            forms.append(bytes([code]) + struct.pack(">" + kind, value))
        except struct.error:
            continue
    return pick(forms, form)


def write_sized(data: bytes, form: int, codes: bytes, *, shortest: bytes) -> bytes:
    forms = [shortest]
    for code, kind in zip(codes, "BHI", strict=True):
        if len(data) < 1 << 8 * struct.calcsize(">" + kind):
            forms.append(bytes([code]) + struct.pack(">" + kind, len(data)) + data)
    return pick(forms, form)


def pick(forms: list[bytes], form: int) -> bytes:
    return forms[form % len(forms)]


@pytest.mark.no_cover
@each_case
def test_every_longer_form_of_every_value_is_refused(name: str) -> None:
    """Exhaustive: each value inside, one at a time, in each of its longer forms."""
    codec, data = CASES[name]
    value = msgpack.unpackb(data)
    assert write(value, iter(lambda: 0, 1)) == data
    size, refused = count_values(value), 0
    for position in range(size):
        for form in range(1, 9):
            forms = [0] * size
            forms[position] = form
            wide = write(value, iter(forms))
            if wide != data:
                assert_refused(codec, wide)
                refused += 1
    assert refused > size


def count_values(value: Any) -> int:
    return 1 + sum(map(count_values, value)) if isinstance(value, list) else 1


def assert_refused(codec: Codec[Any], data: bytes) -> None:
    with pytest.raises(NonCanonical):
        codec.decode(data)


@each_case
def test_missing_extra_and_trailing_are_refused(name: str) -> None:
    codec, data = CASES[name]
    value = msgpack.unpackb(data)
    assert_refused(codec, msgpack.packb([*value, None]))
    assert_refused(codec, msgpack.packb([*value, value[-1]]))
    for extra in (b"\x00", b"\xc0", data):
        assert_refused(codec, data + extra)
    for missing in range(len(value)):
        assert_refused(codec, msgpack.packb(value[:missing] + value[missing + 1 :]))
    for length in range(len(data)):
        assert_refused(codec, data[:length])


@each_case
def test_array_is_not_a_map(name: str) -> None:
    codec, data = CASES[name]
    fields = {str(number): item for number, item in enumerate(msgpack.unpackb(data))}
    assert_refused(codec, msgpack.packb(fields))


def replace_at(value: Any, position: int, new: Any) -> tuple[Any, int]:
    """Return a copy of nested lists with the value of that number (depth first) replaced."""
    if position == 0:
        return new, -1
    position -= 1
    if isinstance(value, list):
        copied = []
        for item in value:
            if position >= 0:
                item, position = replace_at(item, position, new)  # noqa: PLW2901
            copied.append(item)
        return copied, position
    return value, position


STRANGE = (
    math.nan,
    math.inf,
    1.0,
    2**64 - 1,
    -(2**63),
    {},
    {"a": 1},
    b"",
    b"\xff" * 300,
    "\n",
    "é",
    True,
    msgpack.ExtType(1, b"x"),
    msgpack.Timestamp(0, 0),
    [[[[]]]],
)


@pytest.mark.no_cover
@each_case
def test_any_value_replaced_by_any_other_kind_never_breaks_the_decoder(name: str) -> None:
    """Whatever stands in whatever place: a value of the type, or `NonCanonical`."""
    codec, data = CASES[name]
    value = msgpack.unpackb(data)
    for position in range(count_values(value)):
        for strange in STRANGE:
            packed = msgpack.packb(replace_at(value, position, strange)[0])
            with contextlib.suppress(NonCanonical):
                assert encode(codec.decode(packed)) == packed


@pytest.mark.parametrize("number", [math.nan, 1.0, -0.0, 7.5])
def test_floats_are_refused_wherever_an_integer_stands(number: float) -> None:
    body = msgpack.unpackb(encode(samples.BODY))
    for position in (0, 4, 5):
        changed = [*body[:position], number, *body[position + 1 :]]
        assert_refused(transactions.BODY, msgpack.packb(changed))


def test_booleans_are_no_integers_and_integers_no_booleans() -> None:
    body = msgpack.unpackb(encode(samples.make_body(samples.OPERATIONS[9])))
    assert_refused(transactions.BODY, msgpack.packb([True, *body[1:]]))
    body[6][0][-1] = 1
    assert_refused(transactions.BODY, msgpack.packb(body))


# ---- texts


@pytest.mark.parametrize(
    "sender",
    [
        "ALFA/main\n",
        "\nALFA/main",
        "ALFA/main\x00",
        "ALFA/",
        "/main",
        "ALFA",
        "alfa/main",
        "ALFA/Main",
        "ALFA/ma in",
        "ALFA/main/x",
        "ALF/main",
        "ALFAALFAA/main",
        "ALFA/" + "a" * 26,
        "АLFA/main",
        "ALFA/мain",
        "ALFA/١",
        "ALFA/main\u200b",
    ],
)
def test_account_ids_are_plain_ascii_and_anchored(sender: str) -> None:
    body = msgpack.unpackb(encode(samples.BODY))
    body[2] = sender
    assert_refused(transactions.BODY, msgpack.packb(body))


@pytest.mark.parametrize("sender", ["ALFA/a", "A0Z9ALFA/" + "a" * 25, "0000/-"])
def test_account_ids_at_their_limits_are_accepted(sender: str) -> None:
    body = msgpack.unpackb(encode(samples.BODY))
    body[2] = sender
    assert transactions.BODY.decode(msgpack.packb(body)).sender == sender


@pytest.mark.parametrize(
    ("reference", "fits"),
    [
        ("", True),
        ("~" * 35, True),
        ("~" * 36, False),
        ("a\n", False),
        ("\x7f", False),
        ("é", False),
    ],
)
def test_references_are_at_most_35_printable_characters(reference: str, *, fits: bool) -> None:
    transfer = next(op for op in samples.OPERATIONS if isinstance(op, operations.Transfer))
    data = encode(samples.make_body(msgspec.structs.replace(transfer, reference=reference)))
    if fits:
        transactions.BODY.decode(data)
    else:
        assert_refused(transactions.BODY, data)


def test_bytes_that_are_no_utf8_are_refused_as_text() -> None:
    data = encode(samples.BODY)
    at = data.index(b"ALFA/main")
    for bad in (b"\xff", b"\xc0", b"\xed"):
        assert_refused(transactions.BODY, data[:at] + bad + data[at + 1 :])


# ---- depth, size, claims


@pytest.mark.parametrize(
    "opening", [b"\x91", b"\xdd\x00\x00\x00\x01", b"\x81\x01", b"\xdc\x00\x01"]
)
@each_case
def test_nesting_bombs_are_refused(name: str, opening: bytes) -> None:
    codec, _ = CASES[name]
    bomb = opening * (codec.max_bytes // len(opening))
    assert_refused(codec, bomb)
    assert_refused(codec, b"\x92" + bomb[: codec.max_bytes - 1])


@pytest.mark.parametrize("head", [b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9"])
@each_case
def test_claims_of_four_billion_entries_are_refused(name: str, head: bytes) -> None:
    codec, data = CASES[name]
    claim = head + b"\xff\xff\xff\xff"
    assert_refused(codec, claim)
    for length in (1, 2, 5):
        assert_refused(codec, data[:length] + claim)


def test_length_is_checked_at_the_limit_and_one_past_it() -> None:
    codec: Codec[bytes] = Codec(bytes, name="blob", max_bytes=10)
    assert codec.decode(encode(bytes(8))) == bytes(8)
    with pytest.raises(NonCanonical, match="blob: 11 bytes, at most 10"):
        codec.decode(encode(bytes(9)))


def test_largest_envelope_is_decoded_and_the_next_byte_is_too_much() -> None:
    room = MAX_TRANSACTION_BYTES - len(encode(transactions.Envelope(b"", ()))) - 3
    largest = encode(transactions.Envelope(bytes(room - 1), ()))
    while len(largest) < MAX_TRANSACTION_BYTES:
        room += 1
        largest = encode(transactions.Envelope(bytes(room - 1), ()))
    assert len(transactions.ENVELOPE.decode(largest).body) == room - 1
    assert_refused(transactions.ENVELOPE, encode(transactions.Envelope(bytes(room), ())))


# ---- bytes inside bytes


def test_body_inside_an_envelope_must_be_canonical_too() -> None:
    canonical = encode(samples.BODY)
    assert decode_transaction(samples.ENVELOPE).body == samples.BODY
    wide = b"\xdc\x00\x07" + canonical[1:]
    for body in (wide, canonical + b"\x00", b"", b"\xc0"):
        with pytest.raises(NonCanonical, match="transaction body"):
            decode_transaction(encode(transactions.Envelope(body, ())))


# ---- hostile bytes


@settings(max_examples=300)
@given(st.binary(max_size=400), st.sampled_from(sorted(CASES)))
def test_random_bytes_decode_or_are_refused(data: bytes, name: str) -> None:
    codec, _ = CASES[name]
    with contextlib.suppress(NonCanonical):
        assert encode(codec.decode(data)) == data


@pytest.mark.no_cover
@settings(max_examples=600)
@given(st.sampled_from(sorted(CASES)), st.data())
def test_mutated_encodings_decode_or_are_refused(name: str, drawn: st.DataObject) -> None:
    codec, valid = CASES[name]
    data = bytearray(valid)
    for _ in range(drawn.draw(st.integers(1, 4))):
        at = drawn.draw(st.integers(0, len(data) - 1))
        cut = drawn.draw(st.integers(0, 3))
        data[at : at + cut] = drawn.draw(st.binary(max_size=3))
        if not data:
            break
    with contextlib.suppress(NonCanonical):
        assert encode(codec.decode(bytes(data))) == data


@pytest.mark.no_cover
@each_case
def test_every_single_byte_change_is_another_value_or_refused(name: str) -> None:
    codec, data = CASES[name]
    original = codec.decode(data)
    for at in range(len(data)):
        for mask in (0x01, 0x20, 0x80, 0xFF):
            changed = data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]
            try:
                assert codec.decode(changed) != original
            except NonCanonical:
                continue


# ---- the types themselves


def list_wire_types() -> list[type[Wire]]:
    modules = (blocks, certificates, genesis, operations, proofs, receipts, records, transactions)
    found = {
        kind
        for module in (*modules, tree)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Wire) and kind is not Wire
    }
    return sorted(found, key=lambda kind: kind.__qualname__)


@pytest.mark.parametrize("kind", list_wire_types(), ids=lambda kind: kind.__name__)
def test_wire_types_leave_no_second_encoding(kind: type[Wire]) -> None:
    """Arrays without defaults; no map, set, float or raw value anywhere inside."""
    assert kind.__struct_config__.array_like
    assert kind.__struct_config__.forbid_unknown_fields
    assert kind.__struct_config__.frozen
    assert kind.__struct_defaults__ == ()
    for hint in get_type_hints(kind, include_extras=True).values():
        assert not find_forbidden(hint), hint


def find_forbidden(hint: Any) -> bool:
    if hint in (float, Any, msgspec.Raw, object) or getattr(hint, "__origin__", hint) in (
        dict,
        set,
        frozenset,
        list,
    ):
        return True
    arms = get_args(hint)
    if hasattr(hint, "__metadata__"):
        arms = arms[:1]
    return any(find_forbidden(arm) for arm in arms if isinstance(arm, type) or get_args(arm))


def test_every_pattern_is_anchored_and_ascii() -> None:
    seen = 0
    for kind in list_wire_types():
        for hint in get_type_hints(kind, include_extras=True).values():
            for pattern in find_patterns(hint):
                assert pattern.startswith(r"\A"), pattern
                assert pattern.endswith(r"\Z"), pattern
                assert not any(shorthand in pattern for shorthand in (r"\d", r"\w", r"\s"))
                seen += 1
    assert seen > 20


def find_patterns(hint: Any) -> Iterator[str]:
    for meta in getattr(hint, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.pattern:
            yield meta.pattern
    for arm in get_args(hint):
        yield from find_patterns(arm)


def test_tags_of_operations_are_never_shared() -> None:
    tags = [kind.__struct_config__.tag for kind in get_args(operations.Operation)]
    assert len(tags) == len(set(tags))


def test_decoding_an_unlisted_kind_is_a_programming_error() -> None:
    """A codec of plain bytes in a range still refuses what is out of it."""
    codec: Codec[int] = Codec(Annotated[int, msgspec.Meta(ge=0, le=9)], name="digit", max_bytes=9)
    assert codec.decode(b"\x09") == 9
    for data in (b"\x0a", b"\xcc\x09", b"\xff", b"\xc0", b""):
        assert_refused(codec, data)
