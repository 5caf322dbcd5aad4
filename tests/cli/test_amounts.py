"""Amounts as people write them: exact, never rounded, never a float."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atpar.cli.amounts import format_amount, parse_amount
from atpar.cli.errors import RefusedByLedger, WrongUsage
from atpar.ledger.limits import MAX_AMOUNT

ASSET = "HKD.JDCL"


@pytest.mark.parametrize(
    ("text", "scale", "minor"),
    [
        ("1,250,000.00", 2, 125_000_000),
        ("1250000.00", 2, 125_000_000),
        ("100", 2, 10_000),
        ("100.5", 2, 10_050),
        ("0.01", 2, 1),
        ("0.1", 6, 100_000),
        ("12,345", 0, 12_345),
        ("007", 2, 700),
        ("9999999999999999.99", 2, MAX_AMOUNT),
        ("0.30", 2, 30),
        ("90071992547409.93", 2, 9007199254740993),
    ],
)
def test_major_units_become_exact_minor_units(text, scale, minor):
    assert parse_amount(text, asset=ASSET, scale=scale) == minor


@pytest.mark.parametrize("text", ["1.005", "1.000", "0.001"])
def test_more_decimals_than_the_scale_are_refused_naming_both(text):
    with pytest.raises(WrongUsage) as caught:
        parse_amount(text, asset=ASSET, scale=2)
    assert f"{text} has 3 decimals; HKD.JDCL has a scale of 2" in str(caught.value)
    assert "rounded" in caught.value.advice


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "1 000", "1,00", "1,0000", ",100", "1,,000", "100,", "1.", ".5", "1.2.3", "1e3",
        "+1", "--1", "0x10", "½", "１００", "1_000", "nan", "inf", "1\n", "HKD 1", "1,000,00",
        "9" * 65,
    ],
)  # fmt: skip
def test_what_is_no_number_is_refused(text):
    with pytest.raises(WrongUsage, match="is not a number"):
        parse_amount(text, asset=ASSET, scale=2)


@pytest.mark.parametrize("text", ["0", "0.00", "-1", "-0.01", "10,000,000,000,000,000.00"])
def test_amounts_that_no_ledger_takes_have_its_code(text):
    with pytest.raises(RefusedByLedger) as caught:
        parse_amount(text, asset=ASSET, scale=2)
    assert caught.value.code == "AMOUNT_RANGE"
    assert caught.value.exit_code == 6


def test_zero_is_an_amount_where_the_rule_allows_it():
    assert parse_amount("0", asset=ASSET, scale=2, allow_zero=True) == 0
    with pytest.raises(RefusedByLedger):
        parse_amount("-1", asset=ASSET, scale=2, allow_zero=True)


@pytest.mark.parametrize(
    ("minor", "scale", "text"),
    [
        (125_000_000, 2, "1,250,000.00"),
        (0, 2, "0.00"),
        (-1, 2, "-0.01"),
        (5, 0, "5"),
        (-1_234_567, 3, "-1,234.567"),
    ],
)
def test_minor_units_are_shown_in_major_units(minor, scale, text):
    assert format_amount(minor, scale=scale) == text
    assert format_amount(minor, scale=scale, asset=ASSET) == f"{text} {ASSET}"


@settings(max_examples=200)
@given(st.integers(1, MAX_AMOUNT), st.integers(0, 6))
def test_shown_amounts_read_back_the_same(minor, scale):
    assert parse_amount(format_amount(minor, scale=scale), asset=ASSET, scale=scale) == minor
