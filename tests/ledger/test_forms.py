"""Texts are judged by the patterns of `types.py`, whether they were seen before or not."""

import sys
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import ValidationError as Mismatch
from msgspec import convert, structs

from atpar.ledger import forms
from atpar.ledger.codec import Codec, encode
from atpar.ledger.errors import NonCanonical
from atpar.ledger.forms import Form, is_reference
from atpar.ledger.limits import MAX_KNOWN_TEXTS, MAX_TRANSACTION_BYTES
from atpar.ledger.operations import Transfer
from atpar.ledger.transactions import BODY, Body
from atpar.ledger.types import AccountId, AssetCode, Reference
from tests.ledger import samples

STRICT: Codec[Any] = Codec(Body, name=BODY.name, max_bytes=MAX_TRANSACTION_BYTES)
"""Decodes every text with its pattern, and knows no shortcut."""
TRANSFER = next(op for op in samples.OPERATIONS if isinstance(op, Transfer))
PAYMENTS = samples.make_body(TRANSFER, structs.replace(TRANSFER, amount=7))


def fits(text: str, kind: Any) -> bool:
    """Return what msgspec says, which matches the pattern itself."""
    try:
        convert(text, kind)
    except Mismatch:
        return False
    return True


TEXTS = st.one_of(
    st.text(max_size=40),
    st.from_regex(r"[A-Z0-9]{3,9}/[a-z0-9-]{0,26}\n?"),
    st.from_regex(r"[A-Z]{2,4}\.[A-Z0-9]{3,9}"),
    st.from_regex(r"\A[ -~]{0,36}"),
    st.sampled_from(["ALFA/main", "HKD.JDCL", "", "ALFA/main\n", "ALFA/main\0", "АLFA/main"]),
)


@settings(max_examples=500)
@given(TEXTS)
def test_a_text_is_judged_by_its_pattern_however_often_it_comes(text: str) -> None:
    for _ in range(2):
        assert forms.ACCOUNT_ID.admits(text) == fits(text, AccountId)
        assert forms.ASSET_CODE.admits(text) == fits(text, AssetCode)
        assert is_reference(text) == fits(text, Reference)
    assert (text in forms.ACCOUNT_ID.known) == fits(text, AccountId)


@pytest.mark.no_cover
def test_every_character_is_in_a_reference_or_not_as_the_pattern_says() -> None:
    refused = [chr(at) for at in range(sys.maxunicode + 1) if not is_reference(chr(at))]
    accepted = {chr(at) for at in range(sys.maxunicode + 1)} - set(refused)
    assert accepted == {chr(at) for at in range(0x20, 0x7F)}
    assert all(fits(character, Reference) for character in accepted)


@pytest.mark.parametrize("length", [0, 1, 34, 35, 36])
def test_a_reference_is_as_long_as_the_pattern_allows(length: int) -> None:
    assert is_reference("x" * length) == fits("x" * length, Reference) == (length <= 35)


def test_known_texts_are_bounded() -> None:
    form = Form(AccountId, max_known=3)
    names = [f"ALFA/a{number}" for number in range(4)]
    for name in names[:3]:
        assert form.admits(name)
    assert form.known == set(names[:3])
    assert form.admits(names[3])
    assert form.known == {names[3]}
    assert all(form.admits(name) for name in names)
    assert not form.admits("ALFA")
    assert forms.ACCOUNT_ID.max_known == forms.ASSET_CODE.max_known == MAX_KNOWN_TEXTS


# ---- bodies of payments: the shortcut against the strict decoder


def decode(codec: Codec[Any], data: bytes) -> Any:
    """Return the body, or what is said against it."""
    try:
        return codec.decode(data)
    except NonCanonical as error:
        return str(error)


def assert_decoded_alike(data: bytes) -> Any:
    found = decode(BODY, data)
    assert found == decode(STRICT, data)
    return found


def test_payments_are_decoded_to_the_same_types() -> None:
    found = assert_decoded_alike(encode(PAYMENTS))
    assert found == PAYMENTS
    assert type(found) is Body
    assert [type(op) for op in found.ops] == [Transfer, Transfer]
    assert type(found.ops) is tuple


@pytest.mark.parametrize("count", [0, 1, 3])
def test_every_sample_is_decoded_as_the_strict_decoder_does(count: int) -> None:
    for op in samples.OPERATIONS:
        body = samples.make_body(*[TRANSFER] * count, op)
        assert assert_decoded_alike(encode(body)) == body
    assert_decoded_alike(encode(samples.make_body()))


VALUES = st.one_of(
    TEXTS,
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.binary(max_size=34),
    st.floats(allow_nan=False),
    st.just(bytes(16)),
    st.just(bytes(32)),
    st.lists(st.integers(0, 3), max_size=3),
)


@pytest.mark.no_cover
@settings(max_examples=1_000)
@given(st.data())
def test_payments_with_any_field_replaced_are_decoded_alike(drawn: st.DataObject) -> None:
    body = msgpack.unpackb(encode(PAYMENTS))
    places = [body, *body[6]]
    for _ in range(drawn.draw(st.integers(1, 2))):
        target = drawn.draw(st.sampled_from(places))
        target[drawn.draw(st.integers(0, len(target) - 1))] = drawn.draw(VALUES)
    assert_decoded_alike(msgpack.packb(body))


@pytest.mark.no_cover
@settings(max_examples=1_000)
@given(st.data())
def test_mutated_payments_are_decoded_alike(drawn: st.DataObject) -> None:
    data = bytearray(encode(PAYMENTS))
    for _ in range(drawn.draw(st.integers(1, 3))):
        at = drawn.draw(st.integers(0, len(data) - 1))
        data[at : at + drawn.draw(st.integers(0, 3))] = drawn.draw(st.binary(max_size=3))
        if not data:
            break
    assert_decoded_alike(bytes(data))


def test_a_body_of_payments_is_bounded_in_bytes() -> None:
    """At its limit and one past it, with the words of every other codec."""
    data = encode(PAYMENTS)
    codec = type(BODY)(name="transaction body", max_bytes=len(data))
    assert codec.decode(data) == PAYMENTS
    codec.max_bytes -= 1
    with pytest.raises(NonCanonical, match=f"{len(data)} bytes, at most {len(data) - 1}"):
        codec.decode(data)
