"""Statements: balances that add up, or no statement."""

import csv
import io
from decimal import Decimal
from xml.etree import ElementTree

import pytest

from atpar.cli.camt import render_camt
from atpar.cli.errors import NotReady, WrongUsage
from atpar.cli.statement import Part, make_parts

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


CAMT = "{urn:iso:std:iso:20022:tech:xsd:camt.053.001.08}"


def test_camt_053_adds_up(busy):
    result = busy.run("statement", "ALFA/main", "--format", "camt.053")
    assert result.exit_code == 0, result.err
    root = ElementTree.fromstring(result.out)
    (statement,) = root.iter(f"{CAMT}Stmt")
    balances = {
        each.find(f"{CAMT}Tp/{CAMT}CdOrPrtry/{CAMT}Cd").text: each.find(f"{CAMT}Amt")
        for each in statement.iter(f"{CAMT}Bal")
    }
    assert balances["OPBD"].attrib == {"Ccy": "HKD"}
    total = Decimal(balances["OPBD"].text)
    for entry in statement.iter(f"{CAMT}Ntry"):
        sign = {"CRDT": 1, "DBIT": -1}[entry.find(f"{CAMT}CdtDbtInd").text]
        total += sign * Decimal(entry.find(f"{CAMT}Amt").text)
    assert total == Decimal(balances["CLBD"].text) == Decimal("989.95")
    assert {e.text for e in root.iter(f"{CAMT}EndToEndId")} == {
        "NOTPROVIDED", "INV-1", "=HYPERLINK(1)",
    }  # fmt: skip
    assert [e.text for e in root.iter(f"{CAMT}Id")].count("ALFA/main") == 1


def test_camt_053_escapes_what_a_payer_wrote(busy):
    paid = busy.run(
        "transfer", "--from", "ALFA/main", "--to", "BRVO/main", "--amount", "1", "--asset", HKD,
        "--reference", "</Ntry><Ntry>&",
    )  # fmt: skip
    assert paid.exit_code == 0, paid.err
    root = ElementTree.fromstring(busy.run("statement", "BRVO/main", "--format", "camt.053").out)
    assert [e.text for e in root.iter(f"{CAMT}EndToEndId")][-1] == "</Ntry><Ntry>&"


def test_camt_053_of_nothing_needs_an_asset(busy):
    bare = ("statement", "CHRL/main", "--format", "camt.053")
    assert busy.run(*bare).exit_code == 2
    out = busy.run(*bare, "--asset", "CNH.JDCL").out
    (amount, _) = ElementTree.fromstring(out).iter(f"{CAMT}Amt")
    assert (amount.text, amount.attrib) == ("0.00", {"Ccy": "CNY"})


def test_camt_053_has_five_decimals():
    def render(amount, scale):
        part = Part("USD.JDCL", scale, 0, amount)
        return "".join(render_camt("ALFA/main", [part], from_ms=0, to_ms=1, made_ms=1, height=1))

    assert ">0.12345<" in render(123_450, 6)
    assert ">7<" in render(7, 0)
    with pytest.raises(WrongUsage, match="5 decimals"):
        render(123_451, 6)


def test_json_is_a_format_too(busy):
    assert busy.run("statement", "ALFA/main", "--format", "json").json["account"] == "ALFA/main"
