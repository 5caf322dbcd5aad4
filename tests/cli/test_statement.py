"""Statements: balances that add up, or no statement."""

import csv
import io

import pytest

from atpar.cli.errors import NotReady
from atpar.cli.statement import make_parts

HKD = "HKD.JDCL"


@pytest.fixture
def busy(desk):
    desk.node.gateway.fund("ALFA/main", 100_000)
    for amount, reference in (("10.00", "INV-1"), ("0.05", "=HYPERLINK(1)"), ("1,000.00", "")):
        result = desk.run(
            "transfer", "--from", "ALFA/main", "--to", "BRVO/main", "--amount", amount, "--asset",
            HKD, "--reference", reference,
        )  # fmt: skip
        assert result.exit_code == (6 if amount == "1,000.00" else 0)
    return desk


def test_statement_opens_and_closes_with_balances_that_add_up(busy):
    data = busy.run("statement", "ALFA/main", "--json").json
    (part,) = data["assets"]
    assert part["asset"] == HKD
    assert part["opening"] == "0"
    assert part["closing"] == "98995"
    assert [entry["amount"] for entry in part["entries"]] == ["100000", "-1000", "-5"]
    assert int(part["opening"]) + sum(int(e["amount"]) for e in part["entries"]) == 98_995


def test_table_shows_major_units(busy):
    lines = busy.run("statement", "ALFA/main").out.splitlines()
    assert "opening balance  0.00" in lines
    assert "closing balance  989.95" in lines
    assert any(line.split()[-2:] == ["-10.00", "990.00"] for line in lines)


def test_time_range_moves_the_opening_balance(busy):
    data = busy.run("statement", "ALFA/main", "--json").json
    times = [entry["timestamp_ms"] for entry in data["assets"][0]["entries"]]
    part = busy.run(
        "statement", "ALFA/main", "--from", str(times[1]), "--to", str(times[2]), "--json"
    ).json["assets"][0]
    assert (part["opening"], part["closing"]) == ("100000", "99000")
    assert [entry["amount"] for entry in part["entries"]] == ["-1000"]


def test_csv_is_readable_and_runs_no_formula(busy):
    out = busy.run("statement", "ALFA/main", "--format", "csv").out
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["amount"] for row in rows] == ["1000.00", "-10.00", "-0.05"]
    assert [row["reference"] for row in rows] == ["", "INV-1", "'=HYPERLINK(1)"]
    assert rows[0]["time"].endswith("Z")


def test_account_without_movements(busy):
    assert "nothing moved" in busy.run("statement", "CHRL/main").out
    assert busy.run("statement", "CHRL/nobody").exit_code == 6
    assert busy.run("statement", "CHRL").exit_code == 2


def test_statement_that_does_not_add_up_is_refused():
    entries = [
        {"asset": HKD, "amount": "5", "posted": "5", "height": 1, "timestamp_ms": 1},
        {"asset": HKD, "amount": "5", "posted": "11", "height": 2, "timestamp_ms": 2},
    ]
    with pytest.raises(NotReady, match="5 and 5 make 10, not 11"):
        make_parts(entries, {HKD: 2}, since_ms=0, until_ms=2**63)
