"""What the ledger says, as tables and as stable JSON."""

import subprocess
import sys

import pytest

from tests.cli.helpers import run

HKD = "HKD.JDCL"


@pytest.fixture
def funded(desk):
    desk.node.gateway.fund("ALFA/main", 123_456_789)
    return desk


def test_account_is_shown_in_major_units(funded):
    lines = funded.run("account", "show", "ALFA/main").out.splitlines()
    assert lines[0] == "account         ALFA/main"
    (row,) = [line.split() for line in lines if line.startswith(HKD)]
    assert row == [HKD, "1,234,567.89", "0.00", "0.00", "1,234,567.89", "-"]


def test_account_json_is_the_nodes_answer_with_minor_units(funded):
    data = funded.run("account", "show", "ALFA/main", "--json").json
    assert data["balances"][0]["posted"] == "123456789"
    assert {"account", "status", "policy", "freezes", "holds", "read_height"} <= set(data)


@pytest.mark.parametrize("account", ["ALFA", "ALFA/", "/x", "ALFA/../x", "ALFA/x?y", "ALFA/ü"])
def test_what_is_no_account_is_not_asked_for(funded, account):
    result = funded.run("account", "show", account)
    assert result.exit_code == 2
    assert funded.node.requests == []


def test_unknown_names_are_refused_with_their_code(funded):
    for args, code in (
        (("account", "show", "ALFA/nobody"), "UNKNOWN_ACCOUNT"),
        (("asset", "show", "USD.NONE"), "UNKNOWN_ASSET"),
        (("participant", "show", "NONE"), "UNKNOWN_PARTICIPANT"),
        (("account", "list", "NONE"), "UNKNOWN_PARTICIPANT"),
    ):
        result = funded.run(*args, "--json")
        assert result.exit_code == 6, args
        assert result.error["code"] == code


def test_accounts_are_listed_over_all_pages(funded):
    mine = funded.run("account", "list", "ALFA", "--json").json["accounts"]
    assert [each["account"] for each in mine] == ["ALFA/admin", "ALFA/main", "ALFA/other"]
    everybody = funded.run("account", "list", "--json").json["accounts"]
    assert len(everybody) > 20
    assert len(funded.run("account", "list", "--limit", "5", "--json").json["accounts"]) == 5
    assert funded.run("account", "list", "ALFA").out.splitlines()[2].startswith("ALFA/admin")


def test_asset_shows_supply_against_reserve(funded):
    lines = [line.split() for line in funded.run("asset", "show", HKD).out.splitlines()]
    assert ["supply", "1,234,567.89"] in lines
    assert ["coverage", "100.00", "%"] in lines
    assert ["custodian", "CUST/reserve"] in lines
    assert ["warnings", "-"] in lines
    listed = funded.run("asset", "list").out
    assert "never attested" in listed
    assert "1,234,567.89" in listed


def test_participants_are_listed(funded):
    out = funded.run("participant", "list").out
    assert any(line.split()[:4] == ["ALFA", "ALFAHKH0", "HK", "bank"] for line in out.splitlines())
    assert "roles         custodian" in funded.run("participant", "show", "CUST").out


def test_redemptions_are_listed_with_due_times(funded):
    for _ in range(2):
        made = funded.run(
            "redeem", "--from", "ALFA/main", "--amount", "1", "--asset", HKD, "--payout", "ab" * 32
        )
        assert made.exit_code == 0, made.err
    lines = funded.run("redemptions", "--asset", HKD).out.splitlines()
    assert len(lines) == 4
    assert lines[2].split()[1:5] == ["ALFA/main", "1.00", HKD, "pending"]
    assert len(funded.run("redemptions", "--limit", "1", "--json").json["redemptions"]) == 1
    assert "hold" in funded.run("account", "show", "ALFA/main").out


def test_completion_scripts_name_the_command():
    for shell in ("bash", "zsh", "fish"):
        result = run("completion", shell)
        assert result.exit_code == 0
        assert "_ATPAR_COMPLETE" in result.out
    assert run("completion", "tcsh").exit_code == 2


def test_completion_completes_commands():
    done = subprocess.run(
        [sys.executable, "-c", "from atpar.cli.main import main; main()"],
        env={"_ATPAR_COMPLETE": "bash_complete", "COMP_WORDS": "atpar tra", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["plain,transfer"], done.stderr
