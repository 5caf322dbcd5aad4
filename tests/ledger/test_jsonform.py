"""The JSON form says the same as the bytes, and whatever is wrong with it is named by field."""

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from atpar.ledger import types
from atpar.ledger.blocks import Block, Header
from atpar.ledger.certificates import Finalization
from atpar.ledger.codec import Wire, encode
from atpar.ledger.jsonform import (
    JsonInvalid,
    describe_mismatch,
    from_json,
    get_name_field,
    operation_name,
    parse_json,
    to_json,
)
from atpar.ledger.operations import Freeze, Policy, SetAsset, Transfer, Void
from atpar.ledger.receipts import Receipt
from atpar.ledger.stateroot import AssetRow
from atpar.ledger.transactions import Body
from tests.ledger import samples

VALUES: dict[str, Wire] = {
    "body": samples.BODY,
    "header": samples.HEADER,
    "block": samples.BLOCK,
    "receipt": samples.RECEIPT,
    "failed receipt": samples.FAILED_RECEIPT,
    "finalization": samples.CERTIFICATES[2],
    **{f"{type(op).__name__} {i}": op for i, op in enumerate(samples.OPERATIONS)},
}
TRANSFER = next(op for op in samples.OPERATIONS if isinstance(op, Transfer))


def parse(text: str) -> Any:
    return parse_json(text.encode(), max_bytes=1_000_000)


def form(value: Wire, **changes: Any) -> dict[str, Any]:
    return {**to_json(value), **changes}


def refused(kind: type[Wire], value: Any) -> str:
    with pytest.raises(JsonInvalid) as caught:
        from_json(kind, value)
    assert len(str(caught.value)) < 400
    str(caught.value).encode()
    return str(caught.value)


# ---- round trips


@pytest.mark.parametrize("name", VALUES)
def test_value_survives_json_text(name: str) -> None:
    value = VALUES[name]
    text = json.dumps(to_json(value))
    back = from_json(type(value), parse(text))
    assert back == value
    assert encode(back) == encode(value)


def test_operations_carry_their_name_under_op_and_others_under_type() -> None:
    assert to_json(TRANSFER)["op"] == "transfer"
    assert to_json(samples.OPERATIONS[3])["op"] == "attest_reserve"
    assert to_json(samples.CERTIFICATES[2])["type"] == "finalization"
    assert "op" not in to_json(samples.HEADER)
    assert get_name_field(Receipt) is None
    assert operation_name(SetAsset) == "set_asset"


def test_amounts_are_decimal_strings_and_counts_are_numbers() -> None:
    shown = to_json(replace(TRANSFER, amount=2**63 - 1))
    assert shown["amount"] == "9223372036854775807"
    assert to_json(samples.TERMS)["travel_rule_from"] == "800000"
    assert to_json(samples.HEADER)["height"] == 70_000
    row = AssetRow("HKD.JDCL", bytes(32), 1, 1, 2, 3)
    assert [to_json(row)[n] for n in ("posted", "attested", "as_of_ms")] == ["1", "2", 3]


def test_bytes_are_lower_case_hex_and_either_case_is_read() -> None:
    shown = to_json(samples.HEADER)
    assert shown["parent"] == samples.HEADER.parent.hex()
    upper = {**shown, "parent": shown["parent"].upper()}
    assert from_json(Header, upper) == samples.HEADER


def test_json_holds_only_plain_values() -> None:
    def check(value: Any) -> None:
        if isinstance(value, dict):
            assert all(type(name) is str for name in value)
            for item in value.values():
                check(item)
        elif isinstance(value, list):
            for item in value:
                check(item)
        else:
            assert value is None or type(value) in (str, int, bool)

    for value in VALUES.values():
        check(to_json(value))


# ---- shape


def test_missing_field_is_named() -> None:
    for name in Transfer.__struct_fields__:
        given_ = form(TRANSFER)
        del given_[name]
        assert refused(Transfer, given_) == f"{name}: missing"


def test_unknown_field_is_named() -> None:
    assert refused(Transfer, form(TRANSFER, fee="1")) == "fee: unknown field"
    assert refused(Transfer, form(TRANSFER, **{"a\u0660\n" * 99: 1})).endswith("unknown field")


def test_path_leads_to_the_offender() -> None:
    body = to_json(samples.BODY)
    body["ops"][2]["terms"]["minters"][1] = "nobody"
    assert refused(Body, body).startswith("ops[2].terms.minters[1]: ")


@pytest.mark.parametrize("value", [None, [], "x", 1, True, 1.5])
def test_anything_but_an_object_is_no_struct(value: Any) -> None:
    assert refused(Transfer, value).startswith("document: expected an object")
    assert refused(SetAsset, form(samples.OPERATIONS[2], terms=value)).startswith("terms: ")


@pytest.mark.parametrize("value", [None, {}, "x", 1, "[]"])
def test_anything_but_a_list_is_no_list(value: Any) -> None:
    assert refused(Policy, {"keys": value, "threshold": 1}).startswith("keys: expected a list")


@pytest.mark.parametrize("name", [None, "", "Transfer", "transfer ", "mint2", 20, [], {}, True])
def test_unknown_operation_is_refused(name: Any) -> None:
    body = form(samples.make_body(Void()), ops=[{"op": name}])
    assert refused(Body, body).startswith("ops[0].op: unknown operation")


@pytest.mark.parametrize("op", [None, "void", [], 1])
def test_operation_that_is_no_object_is_refused(op: Any) -> None:
    body = form(samples.make_body(Void()), ops=[op])
    assert refused(Body, body).startswith("ops[0]: expected an object")


def test_name_of_another_operation_is_refused() -> None:
    assert refused(Void, {"op": "transfer"}) == "op: expected void, got 'transfer'"
    assert refused(Void, {}) == "op: expected void, got None"
    wrong = {**to_json(samples.CERTIFICATES[2]), "type": "notarization"}
    assert refused(Finalization, wrong).startswith("type: expected finalization")


def test_null_is_taken_only_where_null_may_stand() -> None:
    assert from_json(Transfer, form(TRANSFER, return_of=None)).return_of is None
    for name in ("amount", "uetr", "debtor", "travel_rule_ack"):
        assert refused(Transfer, form(TRANSFER, **{name: None})).startswith(f"{name}: expected")


# ---- numbers


@pytest.mark.parametrize(
    "amount",
    [
        True,
        False,
        1.0,
        1.5,
        "",
        "-",
        "1.0",
        "1e3",
        "0x10",
        " 1",
        "1 ",
        "1\n",
        "+1",
        "1_000",
        "--1",
        "\u0661\u0662",
        "\uff11",
        "\u00b2",
        "1" * 20,
        "9" * 19,
        "9" * 5_000,
        2**63,
        -(2**63) - 1,
        10**400,
        [],
        {},
    ],
)
def test_amount_that_is_no_64_bit_decimal_is_refused(amount: Any) -> None:
    assert refused(Transfer, form(TRANSFER, amount=amount)).startswith("amount: ")


@pytest.mark.parametrize(
    ("given_amount", "amount"),
    [("0", 0), ("-1", -1), (5, 5), (str(2**63 - 1), 2**63 - 1), (str(-(2**63)), -(2**63))],
)
def test_amount_at_its_limits_is_read(given_amount: Any, amount: int) -> None:
    assert from_json(Transfer, form(TRANSFER, amount=given_amount)).amount == amount


@pytest.mark.parametrize("height", [-1, 2**63, True, 1.0, "x"])
def test_count_out_of_range_is_refused(height: Any) -> None:
    assert refused(Header, form(samples.HEADER, height=height)).startswith("height: ")


@pytest.mark.parametrize("flag", [0, 1, "true", None, [], 1.0])
def test_flags_are_true_or_false(flag: Any) -> None:
    wrong = form(TRANSFER, travel_rule_ack=flag)
    assert refused(Transfer, wrong).startswith("travel_rule_ack: expected bool")


# ---- bytes and texts


@pytest.mark.parametrize(
    "uetr",
    [
        "",
        "00" * 15,
        "00" * 17,
        "0" * 31,
        "0x" + "00" * 15,
        "zz" * 16,
        "00 " * 10 + "00",
        "\u0660" * 32,
        "\uff10" * 32,
        "00" * 16 + "\n",
        5,
        None,
        [],
    ],
)
def test_bytes_that_are_no_hex_of_their_length_are_refused(uetr: Any) -> None:
    assert refused(Transfer, form(TRANSFER, uetr=uetr)).startswith("uetr: ")


@pytest.mark.parametrize(
    "debtor", ["ALFA/main\n", "alfa/main", "ALFA", "ALFA/m\u0430in", "\ud800", 7, None, ["x"]]
)
def test_text_off_its_pattern_is_refused(debtor: Any) -> None:
    assert refused(Transfer, form(TRANSFER, debtor=debtor)).startswith("debtor: ")


@pytest.mark.parametrize("direction", ["DEBIT", "debit ", "", 0, None, [], {}, True])
def test_choice_that_is_not_offered_is_refused(direction: Any) -> None:
    freeze = next(op for op in samples.OPERATIONS if isinstance(op, Freeze))
    message = refused(Freeze, form(freeze, direction=direction))
    assert message.startswith("direction: expected one of debit, credit, both")


def test_too_many_entries_are_refused() -> None:
    terms = form(samples.TERMS, minters=["JDCL/mint"] * 17)
    given_ = form(samples.OPERATIONS[2], terms=terms)
    assert refused(SetAsset, given_).startswith("terms.minters: ")


# ---- text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1,]",
        "{'a':1}",
        "NaN",
        "[Infinity]",
        "[-Infinity]",
        "1 2",
        "nul",
        "\x00",
        "[" * 200_000,
        '{"a":' * 100_000,
        "9" * 10_000,
        '"\n"',
        "\ufeff{}",
    ],
)
def test_text_that_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(JsonInvalid):
        parse(text)


@pytest.mark.parametrize(
    "data", [b"\xff", b'"\xed\xa0\x80"', b'{"a":"\xc0"}', "{}".encode("utf-16")]
)
def test_text_that_is_no_utf8_is_refused(data: bytes) -> None:
    with pytest.raises(JsonInvalid, match="not JSON"):
        parse_json(data, max_bytes=100)


def test_text_is_read_at_its_length_limit_and_refused_one_past_it() -> None:
    assert parse_json(b"[1, 2]", max_bytes=6) == [1, 2]
    with pytest.raises(JsonInvalid, match="6 bytes, at most 5"):
        parse_json(b"[1, 2]", max_bytes=5)


def test_name_given_twice_is_refused_at_any_depth() -> None:
    """Two readers may each take another one of two values: refuse what they could disagree on."""
    for text in ('{"a":1,"a":1}', '[{"b":{"a":1,"c":2,"a":3}}]', '{"a":1,"\\u0061":2}'):
        with pytest.raises(JsonInvalid, match="a: given twice in one object"):
            parse(text)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["transfer", "00" * 32, "ALFA/main", "HKD.JDCL", "1"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.sampled_from(sorted(VALUES)), st.data())
def test_any_value_in_any_field_is_read_or_refused(name: str, data: st.DataObject) -> None:
    value = VALUES[name]
    changed = to_json(value)
    for field in data.draw(st.lists(st.sampled_from(sorted(changed)), max_size=3)):
        changed[field] = data.draw(json_values)
    try:
        read = from_json(type(value), changed)
    except JsonInvalid:
        return
    assert from_json(type(value), to_json(read)) == read


@given(st.binary(max_size=60))
def test_any_bytes_are_json_or_refused(data: bytes) -> None:
    with contextlib.suppress(JsonInvalid):
        parse_json(data, max_bytes=60)


def test_block_of_json_is_the_block() -> None:
    assert from_json(Block, to_json(samples.BLOCK)) == samples.BLOCK


PATTERNED = [
    alias
    for alias in vars(types).values()
    if any(getattr(meta, "pattern", None) for meta in getattr(alias, "__metadata__", ()))
]


@pytest.mark.parametrize("alias", PATTERNED, ids=str)
def test_value_of_the_wrong_form_is_told_what_is_expected_and_no_pattern(alias: Any) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert("\u00fc" * 200, alias)
    message = describe_mismatch(caught.value, alias)
    assert message.startswith("expected ")
    assert "regex" not in message
    _, is_example, example = message.partition(" like ")
    if is_example:
        for each in example.split(" or "):
            msgspec.convert(each, alias)


def test_wrong_account_in_an_operation_names_field_and_an_example() -> None:
    form = to_json(samples.BODY)
    form["sender"] = "alfa"
    with pytest.raises(JsonInvalid) as caught:
        from_json(Body, form)
    assert str(caught.value) == "sender: expected an account like ALFA/main, got 'alfa'"
