"""Holds from the command line: placed, captured, sold, given back."""

import hashlib
import re

import pytest

from atpar.ledger.records import BALANCES, NO_BALANCE, balance_key

HKD = "HKD.JDCL"


@pytest.fixture
def funded(desk):
    """ALFA/main has 1,000.00 HKD."""
    desk.node.gateway.fund("ALFA/main", 100_000)
    return desk


def balance(desk, account):
    return desk.node.world.view.get(BALANCES, balance_key(HKD, account)) or NO_BALANCE


def place(desk, *extra, amount="100.00"):
    result = desk.run(
        "hold", "--from", "ALFA/main", "--to", "BRVO/main", "--amount", amount, "--asset", HKD,
        "--expires", "+1h", "--json", *extra,
    )  # fmt: skip
    assert result.exit_code == 0, result.err
    return result.json["hold"]


def test_hold_is_captured_in_part_and_the_rest_returns(funded):
    hold = place(funded, "--reference", "ORDER-9")
    assert balance(funded, "ALFA/main").held == 10_000
    part = funded.run("capture", hold, "--amount", "20.50")
    assert part.exit_code == 0, part.err
    assert "amount         20.50 HKD.JDCL" in part.err
    assert "that is 2,050 minor units of what is held" in part.err
    assert "signing with BRVO/pay" in part.err
    rest = funded.run("capture", hold, "--amount", "9.50", "--final")
    assert rest.exit_code == 0, rest.err
    assert balance(funded, "BRVO/main").posted == 3_000
    assert (balance(funded, "ALFA/main").posted, balance(funded, "ALFA/main").held) == (97_000, 0)
    shown = funded.run("holds", "show", hold, "--json").json["hold"]
    assert (shown["captured"], shown["released"], shown["status"]) == ("3000", "7000", "ended")
    again = funded.run("capture", hold, "--amount", "0.01", "--json")
    assert again.error["code"] in ("HOLD_NOT_PENDING", "INSUFFICIENT_FUNDS")


def test_capture_takes_all_that_is_open_by_default_to_the_last_unit(funded):
    hold = place(funded, amount="1,000.00")
    over = funded.run("capture", hold, "--amount", "1,000.01", "--json")
    assert over.error["code"] == "INSUFFICIENT_FUNDS"
    assert funded.run("capture", hold).exit_code == 0
    assert balance(funded, "ALFA/main") == NO_BALANCE
    assert balance(funded, "BRVO/main").posted == 100_000


def test_every_condition_is_asked_for(funded, tmp_path):
    bill = tmp_path / "bill-of-lading.pdf"
    bill.write_bytes(b"goods on board")
    secret = b"s" * 32
    hold = place(
        funded, "--arbiter", "CUST/reserve", "--document", bill, "--not-before", "now",
        "--hash-lock", hashlib.sha256(secret).hexdigest(),
    )  # fmt: skip
    shown = funded.run("holds", "show", hold).out
    assert re.search("arbiters +CUST/reserve", shown)
    unmet = funded.run("capture", hold, "--document", bill, "--json")
    assert unmet.error["code"] == "CONDITION_UNMET"
    assert "CUST/k1" in unmet.out + unmet.err
    wrong = funded.run("capture", hold, "--document", bill, "--preimage", "00", "--json")
    assert wrong.error["code"] == "CONDITION_UNMET"
    alone = funded.run(
        "capture", hold, "--document", bill, "--preimage", secret.hex(), "--key", "BRVO/pay",
        "--json",
    )  # fmt: skip
    assert alone.error["code"] == "UNAUTHORISED"
    assert [each["account"] for each in alone.error["missing"]] == ["CUST/reserve"]
    met = funded.run("capture", hold, "--document", bill, "--preimage", secret.hex())
    assert met.exit_code == 0, met.err


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("--preimage", "xyz"), "not hex"),
        (("--preimage", "00" * 65), "65 bytes, at most 64"),
        (("--amount", "1.005"), "3 decimals"),
        (("--document", "nowhere"), "neither a file nor 64 hex digits"),
    ],
)
def test_captures_that_cannot_be_are_wrong_usage(funded, args, text):
    result = funded.run("capture", place(funded), *args)
    assert result.exit_code == 2
    assert text in result.err


def test_creditor_gives_back_and_debtor_only_after_expiry(funded):
    hold = place(funded)
    early = funded.run("release", hold, "--by", "ALFA/main", "--json")
    assert early.error["code"] == "NOT_RELEASABLE"
    result = funded.run("release", hold, "--reason", "order cancelled")
    assert result.exit_code == 0, result.err
    assert "signing with BRVO/pay" in result.err
    late = place(funded)
    funded.node.world.now_ms += 3_700_000
    # This desk's clock is behind the world's now: its windows have to be longer.
    wide = ("--valid-for", "80000", "--json")
    assert funded.run("capture", late, "--amount", "1", *wide).error["code"] == "HOLD_EXPIRED"
    back = funded.run("release", late, "--key", "ALFA/pay", *wide)
    assert back.exit_code == 0, back.err
    assert balance(funded, "ALFA/main").held == 0


def test_claim_is_sold_in_part_and_whole(funded):
    hold = place(funded, "--assignable")
    part = funded.run("assign", hold, "--to", "CHRL/main", "--amount", "40.00", "--json")
    assert part.exit_code == 0, part.err
    split = part.json["hold"]
    assert split != hold
    listed = funded.run("holds", "list", "--creditor", "CHRL/main", "--json").json["holds"]
    assert [(each["hold"], each["open"]) for each in listed] == [(split, "4000")]
    whole = funded.run("assign", hold, "--to", "DLTA/main", "--json")
    assert whole.exit_code == 0, whole.err
    assert whole.json["hold"] == hold
    table = funded.run("holds", "list", "--debtor", "ALFA/main", "--asset", HKD).out
    assert "60.00" in table
    assert "DLTA/main" in table
    fixed = place(funded)
    refused = funded.run("assign", fixed, "--to", "CHRL/main", "--json")
    assert refused.error["code"] == "NOT_ASSIGNABLE"


def test_unknown_holds_and_lists_without_a_side(funded):
    assert funded.run("capture", "00" * 32, "--json").error["code"] == "UNKNOWN_HOLD"
    assert funded.run("release", "00" * 32, "--json").error["code"] == "UNKNOWN_HOLD"
    assert funded.run("holds", "show", "00" * 32, "--json").error["code"] == "UNKNOWN_HOLD"
    assert funded.run("capture", "x").exit_code == 2
    assert funded.run("holds", "list").exit_code == 2
    assert funded.run("holds", "list", "--debtor", "ALFA/main").exit_code == 2
    assert funded.run("holds", "list", "--creditor", "ALFA/main", "--asset", HKD).exit_code == 2
    assert funded.run_offline("capture", "00" * 32).exit_code == 5
    redeemed = funded.run(
        "redeem", "--from", "ALFA/main", "--amount", "1", "--asset", HKD, "--payout", "ab" * 32,
        "--json",
    ).json["redemption"]  # fmt: skip
    kind = funded.run("capture", redeemed, "--json")
    assert kind.error["code"] == "WRONG_HOLD_KIND"
    assert "kind" in funded.run("holds", "show", redeemed).out
