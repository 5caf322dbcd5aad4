"""Changing participants, policies, terms and quotas from the command line."""

import uuid

import pytest

from tests.cli.helpers import run

HKD = "HKD.JDCL"


@pytest.fixture
def funded(desk):
    desk.node.gateway.fund("ALFA/main", 100_000)
    return desk


def test_participant_is_suspended_by_governance_and_nothing_else_changes(funded):
    before = funded.run("participant", "show", "BRVO", "--json").json
    result = funded.run("participant", "set", "BRVO", "--status", "suspended")
    assert result.exit_code == 0, result.err
    assert "signing with ALFA/gov" in result.err
    after = funded.run("participant", "show", "BRVO", "--json").json
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"status", "read_height"}
    refused = funded.run(
        "transfer", "--from", "ALFA/main", "--to", "BRVO/main", "--amount", "1", "--asset", HKD,
        "--json",
    )  # fmt: skip
    assert refused.exit_code == 6


def test_new_participant_needs_everything_and_its_own_admin_keys(funded):
    for name in ("a1", "a2"):
        made = run(
            "keys", "new", f"NEWB/{name}", "--scrypt-log2-n", "4", "--home", funded.folder,
            transport=funded.node,
        )  # fmt: skip
        assert made.exit_code == 0, made.err
    base = ("participant", "set", "NEWB", "--lei", "NEWB".rjust(18, "0") + "00")
    assert funded.run(*base).exit_code == 2
    full = (*base, "--bic", "NEWBHKH0", "--jurisdiction", "HK", "--role", "bank")
    assert funded.run(*full).exit_code == 2
    result = funded.run(*full, "--admin", "2:NEWB/a1,NEWB/a2")
    assert result.exit_code == 0, result.err
    assert funded.run("participant", "show", "NEWB", "--json").json["roles"] == ["bank"]
    assert funded.run("account", "show", "NEWB/admin").exit_code == 0
    again = funded.run(*full, "--admin", "2:NEWB/a1,NEWB/a2")
    assert again.exit_code == 2


def test_terms_change_one_by_one(funded):
    before = funded.run("asset", "show", HKD, "--json").json["terms"]
    result = funded.run(
        "asset", "set", HKD, "--term", "cap=2,000.00", "--term", "redemption_sla_days=3"
    )
    assert result.exit_code == 0, result.err
    after = funded.run("asset", "show", HKD, "--json").json["terms"]
    assert {**before, "cap": "200000", "redemption_sla_days": 3} == after


@pytest.mark.parametrize(
    ("args", "exit_code", "text"),
    [
        (("--term", "cap"), 2, "KEY=VALUE"),
        (("--term", "colour=red"), 2, "keys: cap"),
        (("--term", "cap=1.005"), 2, "scale of 2"),
        (("--term", "custodian=nobody"), 2, "custodian"),
        (("--scale", "3"), 2, "for ever"),
        (("--like", "CNH.JDCL"), 2, "leave --like"),
        (("--term", "custodian=ALFA/main"), 6, "POLICY_WEAK"),
    ],
)
def test_terms_that_cannot_be_are_refused(funded, args, exit_code, text):
    result = funded.run("asset", "set", HKD, *args)
    assert result.exit_code == exit_code, result.err
    assert text in result.err


def test_new_asset_starts_from_anothers_terms(funded):
    assert funded.run("asset", "set", "USD.JDCL").exit_code == 2
    result = funded.run("asset", "set", "USD.JDCL", "--like", HKD, "--term", "cap=5.00")
    assert result.exit_code == 0, result.err
    shown = funded.run("asset", "show", "USD.JDCL", "--json").json
    assert (shown["scale"], shown["terms"]["cap"]) == (2, "500")


def test_quota_bounds_what_a_minter_mints(funded):
    result = funded.run(
        "asset", "quota", HKD, "JDCL/mint", "--capacity", "1.00", "--per-day", "1.00"
    )
    assert result.exit_code == 0, result.err
    minted = funded.run(
        "mint", "--to", "ALFA/main", "--amount", "1.01", "--asset", HKD, "--funding-ref",
        str(uuid.uuid4()), "--json",
    )  # fmt: skip
    assert minted.exit_code == 6
    assert minted.error["code"] in ("QUOTA_EXCEEDED", "RESERVE_SHORT")


def test_keys_rotate_and_the_new_one_signs_too(funded):
    made = run(
        "keys", "new", "ALFA/new", "--scrypt-log2-n", "4", "--home", funded.folder,
        transport=funded.node,
    )  # fmt: skip
    assert made.exit_code == 0, made.err
    half = funded.run("account", "set", "ALFA/main", "--policy", "1:ALFA/new", "--key", "ALFA/pay",
                      "--json")  # fmt: skip
    assert half.exit_code == 6
    assert half.error["code"] == "UNAUTHORISED"
    assert "the new key" in half.error["message"]
    result = funded.run("account", "set", "ALFA/main", "--policy", "1:ALFA/new")
    assert result.exit_code == 0, result.err
    assert "signing with ALFA/pay, ALFA/new" in result.err
    pay = ("transfer", "--from", "ALFA/main", "--to", "BRVO/main", "--amount", "1", "--asset", HKD)
    assert funded.run(*pay, "--key", "ALFA/pay").exit_code == 6
    assert funded.run(*pay).exit_code == 0


def test_account_closes_for_credits(funded):
    assert funded.run("account", "set", "CHRL/other", "--close").exit_code == 0
    refused = funded.run(
        "transfer", "--from", "ALFA/main", "--to", "CHRL/other", "--amount", "1", "--asset", HKD
    )
    assert refused.exit_code == 6


def test_recovery_is_scheduled_by_admin_and_regulator_and_cancelled_by_the_owner(funded):
    assert funded.run("account", "set", "ALFA/main", "--recover-with", "REGU/admin").exit_code == 2
    result = funded.run(
        "account", "set", "ALFA/main", "--policy", "2:ALFA/a1,ALFA/a2", "--recover-with",
        "REGU/admin",
    )  # fmt: skip
    assert result.exit_code == 0, result.err
    cancelled = funded.run("account", "set", "ALFA/main", "--cancel-recovery")
    assert cancelled.exit_code == 0, cancelled.err
