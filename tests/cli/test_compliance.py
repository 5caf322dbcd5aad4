"""Freezes, seizures, pauses, tiers and limits from the command line."""

import time

import pytest

from atpar.ledger.limits import HOUR_MS
from atpar.ledger.records import BALANCES, NO_BALANCE, balance_key

HKD = "HKD.JDCL"
ORDER = ("--order", "cd" * 32)


@pytest.fixture
def funded(desk):
    """ALFA/main has 1,000.00 HKD."""
    desk.node.gateway.fund("ALFA/main", 100_000)
    return desk


def balance(desk, account):
    return desk.node.world.view.get(BALANCES, balance_key(HKD, account)) or NO_BALANCE


def pay(desk, amount, *extra):
    return desk.run(
        "transfer", "--from", "ALFA/main", "--to", "BRVO/main", "--amount", amount, "--asset", HKD,
        "--json", *extra,
    )  # fmt: skip


def freeze(desk, *args):
    result = desk.run("freeze", "ALFA/main", *args, "--json")
    assert result.exit_code == 0, result.err
    return result.json["freeze"]


def test_order_of_the_regulator_is_lifted_by_its_id(funded):
    order = freeze(funded, "--by", "REGU/admin")
    assert pay(funded, "1").error["code"] == "ACCOUNT_FROZEN"
    lifted = funded.run("unfreeze", order)
    assert lifted.exit_code == 0, lifted.err
    assert "signing with REGU/a1, REGU/a2" in lifted.err
    assert pay(funded, "1").exit_code == 0


def test_seizure_reaches_into_an_escrow(funded):
    held = funded.run(
        "hold", "--from", "ALFA/main", "--to", "BRVO/main", "--amount", "900", "--asset", HKD,
        "--expires", "+1d", "--json",
    ).json["hold"]  # fmt: skip
    order = freeze(funded, "--asset", HKD, *ORDER)
    over = funded.run("seize", order, "--amount", "1,000.01", "--to", "DLTA/main", *ORDER, "--json")
    assert over.error["code"] == "INSUFFICIENT_FUNDS"
    seized = funded.run("seize", order, "--amount", "250", "--to", "DLTA/main", *ORDER)
    assert seized.exit_code == 0, seized.err
    assert "the order:" in seized.err
    assert "250.00 HKD.JDCL" in seized.err
    assert "signing with JDCL/s1, JDCL/s2, REGU/k1" in seized.err
    assert balance(funded, "DLTA/main").posted == 25_000
    assert (balance(funded, "ALFA/main").posted, balance(funded, "ALFA/main").held) == (
        75_000,
        75_000,
    )
    form = funded.run("holds", "show", held, "--json").json["hold"]
    assert (form["open"], form["released"]) == ("75000", "15000")


def test_seizure_names_the_asset_of_an_order_for_all(funded):
    order = freeze(funded, "--by", "REGU/admin")
    seize = ("seize", order, "--amount", "1", "--to", "DLTA/main", *ORDER)
    assert funded.run(*seize).exit_code == 2
    assert funded.run(*seize, "--asset", HKD).exit_code == 0
    unknown = funded.run("seize", "00" * 32, *seize[2:], "--json")
    assert unknown.error["code"] == "UNKNOWN_FREEZE"


def test_pause_and_resume_have_keys_of_their_own(funded):
    paused = funded.run("pause", HKD, "--scope", "transfer", "--scope", "mint")
    assert paused.exit_code == 0, paused.err
    assert "signing with JDCL/p1" in paused.err
    assert pay(funded, "1").error["code"] == "PAUSED"
    assert "mint, transfer" in funded.run("asset", "show", HKD).out
    resumed = funded.run("unpause", HKD, "--scope", "transfer")
    assert resumed.exit_code == 0, resumed.err
    assert "signing with JDCL/u1, JDCL/u2" in resumed.err
    assert pay(funded, "1").exit_code == 0
    assert funded.run("asset", "show", HKD, "--json").json["paused"] == ["mint"]
    assert funded.run("pause", HKD).exit_code == 2
    assert funded.run("pause", HKD, "--scope", "freeze").exit_code == 2


def test_limit_holds_to_the_exact_amount_and_the_tightest_applies(funded, monkeypatch):
    # In the middle of an hour, and of a day anywhere: where one ends, a limit begins anew.
    middle_ms = (time.time_ns() // 1_000_000 // HOUR_MS + 1.5) * HOUR_MS
    monkeypatch.setattr(time, "time_ns", lambda: int(middle_ms) * 1_000_000)
    set_limit = ("controls", "set", "ALFA/main", "--asset", HKD, "--limit")
    assert funded.run(*set_limit, "50.00").exit_code == 0
    regulated = funded.run(*set_limit, "20.00", "--by", "regulator", "--period", "1h")
    assert regulated.exit_code == 0, regulated.err
    assert "signing with REGU/k1" in regulated.err
    assert pay(funded, "20.01").error["code"] == "LIMIT_EXCEEDED"
    assert pay(funded, "20.00").exit_code == 0
    assert pay(funded, "0.01").error["code"] == "LIMIT_EXCEEDED"
    lifted = ("controls", "set", "ALFA/main", "--asset", HKD, "--by", "regulator", "--no-limit")
    assert funded.run(*lifted).exit_code == 0
    assert pay(funded, "30.01").error["code"] == "LIMIT_EXCEEDED"
    shown = funded.run("controls", "show", "ALFA/main", "--json").json["controls"]
    assert [(each["setter"], each["limit"]["amount"]) for each in shown] == [
        ("participant", "5000")
    ]
    assert "50.00" in funded.run("controls", "show", "ALFA/main").out


def test_what_a_setter_stated_stays_unless_named(funded):
    base = ("controls", "set", "ALFA/main", "--asset", HKD, "--by", "issuer")
    assert funded.run(*base, "--tier", "3", "--tier-expires", "+365d").exit_code == 0
    assert funded.run(*base, "--limit", "7.00").exit_code == 0
    (control,) = funded.run("controls", "show", "ALFA/main", "--json").json["controls"]
    assert (control["tier"], control["limit"]["amount"]) == (3, "700")
    assert control["tier_expires_at_ms"] > funded.node.world.now_ms
    assert funded.run(*base, "--no-tier", "--no-limit").exit_code == 0
    assert funded.run("controls", "show", "ALFA/main", "--json").json["controls"] == []


def test_class_of_a_tier_has_a_limit(funded):
    result = funded.run(
        "controls", "set", "--class", "0", "--asset", HKD, "--by", "issuer", "--limit", "5.00"
    )
    assert result.exit_code == 0, result.err
    assert pay(funded, "5.01").error["code"] == "LIMIT_EXCEEDED"
    assert pay(funded, "5.00").exit_code == 0


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("ALFA/main",),
        ("ALFA/main", "--class", "1", "--limit", "1"),
        ("--class", "1", "--limit", "1"),
        ("ALFA/main", "--tier", "1", "--no-tier"),
        ("ALFA/main", "--limit", "1", "--no-limit"),
        ("ALFA/main", "--limit", "1", "--period", "soon"),
        ("ALFA/main", "--tier", "10"),
        ("nobody", "--tier", "1"),
    ],
)
def test_controls_that_say_nothing_or_two_things(funded, args):
    assert funded.run("controls", "set", *args, "--asset", HKD).exit_code == 2
