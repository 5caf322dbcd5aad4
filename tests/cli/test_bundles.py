"""Maker and checker on the ledger: propose and approve, with no file between them."""

import json
import re
import shutil
import uuid

import pytest

from atpar.ledger.records import BALANCES, NO_BALANCE, balance_key
from tests.cli.fake_node import Desk
from tests.cli.helpers import run

HKD, CNH = "HKD.JDCL", "CNH.JDCL"


@pytest.fixture
def funded(desk):
    desk.node.gateway.fund("ALFA/main", 100_000)
    desk.node.gateway.fund("CHRL/main", 100_000, CNH)
    return desk


@pytest.fixture
def sit(tmp_path, node):
    """Return a function that gives a person a desk of their own, with these keys only."""

    def make(*keys):
        folder = tmp_path / "-".join(keys).replace("/", "_")
        folder.mkdir()
        person = Desk(folder, node)
        wanted = {folder / "keys" / f"{key}.key" for key in keys}
        for path in (folder / "keys").rglob("*.key"):
            if path not in wanted:
                path.unlink()
        return person

    return make


def balance(desk, account, asset=HKD):
    return desk.node.world.view.get(BALANCES, balance_key(asset, account)) or NO_BALANCE


def mint(amount="10.00"):
    return (
        "mint", "--to", "ALFA/main", "--amount", amount, "--asset", HKD, "--funding-ref",
        str(uuid.uuid4()),
    )  # fmt: skip


def propose(desk, *args):
    result = desk.run("propose", *args, "--json")
    assert result.exit_code == 0, result.err
    return result.json["proposal"]


def test_two_officers_of_one_bank_complete_a_bundle_without_a_file(funded, sit):
    maker, checker = sit("JDCL/m1"), sit("JDCL/m2")
    funded.node.gateway.fund("ALFA/main", 100_000)
    asked = maker.run("propose", "--expires", "+2h", *mint("50.00"), "--json")
    # The reserve that was attested is used up by now: the bundle fails, and stays open.
    assert asked.exit_code == 0, asked.err
    assert "signing with JDCL/m1" in asked.err
    assert "   1. mint" in asked.err or "1. mint" in asked.err
    proposal = asked.json["proposal"]
    failed = checker.run("approve", proposal, "--json")
    assert failed.error["code"] == "RESERVE_SHORT"
    assert checker.run("proposals", "show", proposal).exit_code == 0
    attested = funded.run("attest", HKD, "--amount", "9,000.00", "--report", "ab" * 32)
    assert attested.exit_code == 0, attested.err
    assert funded.run("attest", HKD, "--by", "auditor").exit_code == 0
    done = checker.run("approve", proposal, "--json")
    assert done.exit_code == 0, done.err
    assert "the proposal of JDCL/mint, until" in done.err
    assert "50.00 HKD.JDCL" in done.err
    assert (done.json["executed"], done.json["is_open"]) == (True, False)
    assert balance(funded, "ALFA/main").posted == 205_000
    gone = checker.run("approve", proposal, "--json")
    assert gone.error["code"] == "UNKNOWN_PROPOSAL"


def test_two_institutions_complete_an_exchange(funded, sit):
    alfa, chrl = sit("ALFA/pay"), sit("CHRL/pay")
    path = alfa.folder / "pvp.json"
    made = alfa.run(
        "tx", "new", path, "--sender", "ALFA/main",
        "--transfer", "ALFA/main", "CHRL/main", "100.00", HKD,
        "--transfer", "CHRL/main", "ALFA/main", "92.10", CNH,
    )  # fmt: skip
    assert made.exit_code == 0, made.err
    proposal = propose(alfa, "file", path)
    listed = chrl.run("proposals", "list", "--principal", "CHRL/main", "--json").json["proposals"]
    assert [each["proposal"] for each in listed] == [proposal]
    shown = chrl.run("proposals", "show", proposal)
    assert "100.00 HKD.JDCL" in shown.out
    assert "92.10 CNH.JDCL" in shown.out
    assert re.search(r"ALFA/main +yes", shown.out)
    assert re.search(r"CHRL/main +no", shown.out)
    done = chrl.run("approve", proposal)
    assert done.exit_code == 0, done.err
    assert "executed yes" in done.out
    assert (balance(funded, "CHRL/main").posted, balance(funded, "ALFA/main", CNH).posted) == (
        10_000,
        9_210,
    )


def test_treasury_and_custodian_burn_with_four_people_and_one_key_each(funded, sit):
    redeemed = funded.run(
        "redeem", "--from", "ALFA/main", "--amount", "10", "--asset", HKD, "--payout", "ab" * 32,
        "--json",
    ).json["redemption"]  # fmt: skip
    proposal = propose(sit("CUST/k1"), "burn", redeemed, "--payout-ref", str(uuid.uuid4()))
    for key, executed in (("JDCL/t2", False), ("CUST/k2", False), ("JDCL/t1", True)):
        result = sit(key).run("approve", proposal, "--json")
        assert result.exit_code == 0, result.err
        assert result.json["executed"] is executed, key
    assert balance(funded, "ALFA/main").posted == 99_000


def test_maker_does_not_check_itself(funded, sit):
    maker = sit("JDCL/m1")
    proposal = propose(maker, *mint())
    nobody = maker.run("approve", proposal)
    assert nobody.exit_code == 4
    assert "(has spoken)" in nobody.err
    forced = maker.run("approve", proposal, "--key", "JDCL/m1", "--json")
    assert forced.error["code"] == "SAME_SIGNER"
    stranger = sit("BRVO/pay").run("approve", proposal)
    assert stranger.exit_code == 4


def test_rejection_closes_when_the_rest_cannot_complete_it(funded, sit):
    proposal = propose(sit("JDCL/m1"), *mint())
    result = sit("JDCL/m2").run("reject", proposal, "--json")
    assert result.exit_code == 0, result.err
    assert (result.json["executed"], result.json["is_open"]) == (False, False)
    assert funded.run("proposals", "--json").json["proposals"] == []


def test_maker_withdraws_and_nobody_else(funded, sit):
    maker, checker = sit("JDCL/m1"), sit("JDCL/m2")
    proposal = propose(maker, *mint())
    assert checker.run("withdraw", proposal).exit_code == 4
    forced = checker.run("withdraw", proposal, "--key", "JDCL/m2", "--json")
    assert forced.error["code"] == "ROLE_MISSING"
    result = maker.run("withdraw", proposal)
    assert result.exit_code == 0, result.err
    assert "is open no" in result.out


def test_ids_made_by_a_bundle_are_told_when_it_runs(funded, sit, tmp_path):
    ops = tmp_path / "ops.json"
    swap = ("--amount", "5", "--asset", HKD, "--expires", "+1d", "-o", tmp_path / "hold.json")
    held = funded.run("hold", "--from", "ALFA/main", "--to", "BRVO/main", *swap)
    assert held.exit_code == 0, held.err
    body = funded.run("tx", "decode", tmp_path / "hold.json", "--json").json["body"]
    back = dict(body["ops"][0], debtor="CHRL/main", creditor="ALFA/main", asset=CNH, uetr="ab" * 16)
    ops.write_text(json.dumps([body["ops"][0], back]))
    proposal = propose(sit("ALFA/pay"), "file", ops)
    done = sit("CHRL/pay").run("approve", proposal, "--json").json
    assert done["executed"] is True
    shown = funded.run("holds", "show", done["hold"], "--json").json["hold"]
    assert (shown["debtor"], shown["open"]) == ("ALFA/main", "500")


def test_approval_is_pinned_to_what_was_reviewed(funded, sit):
    proposal = propose(sit("JDCL/m1"), *mint())
    shown = funded.run("proposals", "show", proposal, "--json").json
    checker = sit("JDCL/m2")
    other = checker.run("approve", proposal, "--hash", "00" * 32, "--json")
    assert other.error["code"] == "UNKNOWN_PROPOSAL"
    right = checker.run(
        "approve", proposal, "--hash", shown["proposal"]["bundle_hash"], "-o",
        checker.folder / "approval.json",
    )  # fmt: skip
    assert right.exit_code == 0, right.err
    assert "next: atpar tx send" in right.out
    assert shown["waits_for"] == ["JDCL/mint"]
    assert shown["operations"] == ["mint"]


def test_node_that_shows_another_bundle_is_caught(funded, sit):
    proposal = propose(sit("JDCL/m1"), *mint())

    def swap(request, response):
        if request.url.path.startswith("/v1/proposals/"):
            body = json.loads(response.content)
            body["proposal"]["ops"][0]["amount"] = "1"
            import httpx

            return httpx.Response(200, json=body)
        return response

    funded.node.tamper = swap
    shown = funded.run("proposals", "show", proposal, "--json")
    assert shown.error["code"] == "UNKNOWN_PROPOSAL"
    # An approval names the hash of what was shown, which is not what waits on the ledger.
    approved = sit("JDCL/m2").run("approve", proposal, "--json")
    assert approved.exit_code == 6
    assert approved.error["code"] == "UNKNOWN_PROPOSAL"


@pytest.mark.parametrize(
    ("args", "exit_code", "text"),
    [
        (("propose", "void", "x"), 2, "No such command"),
        (("propose", "account", "show", "ALFA/main"), 2, "No such command"),
        (("propose", "--expires", "soon", "mint"), 2, "--expires"),
        (("propose", "--expires", "+9x", "mint"), 2, "duration"),
        (("propose", "file", "nowhere.json"), 2, "nowhere.json"),
        (("approve", "00" * 32), 6, "UNKNOWN_PROPOSAL"),
        (("approve", "x"), 2, "64 hex digits"),
        (("proposals", "list", "--sender", "x"), 2, "not an account"),
        (("proposals", "show", "00" * 32), 6, "UNKNOWN_PROPOSAL"),
    ],
)
def test_what_cannot_be_proposed(funded, args, exit_code, text):
    result = funded.run(*args)
    assert result.exit_code == exit_code, result.err
    assert text in result.err


def test_files_of_operations(funded, tmp_path):
    path = tmp_path / "ops.json"
    for content, text in (("{", "not JSON"), ('[{"op": "void"}]', "ops"), ("[]", "NO_OPERATIONS")):
        path.write_text(content)
        result = funded.run("propose", "file", path)
        assert result.exit_code in (2, 6), result.err
        assert text in result.err


def test_expired_proposal_is_refused(funded, sit):
    proposal = propose(sit("JDCL/m1"), "--expires", "+1h", *mint())
    funded.node.world.now_ms += 3_700_000
    # This desk's clock is behind the world's now: its window has to be longer.
    late = sit("JDCL/m2").run("approve", proposal, "--valid-for", "80000", "--json")
    assert late.error["code"] == "PROPOSAL_EXPIRED"


def test_governance_agrees_bank_by_bank_and_a_key_rotated_away_does_not_count(funded, sit):
    proposal = propose(sit("ALFA/gov"), "participant", "set", "DLTA", "--status", "suspended")
    assert not sit("BRVO/gov").run("approve", proposal, "--json").json["executed"]
    assert sit("CHRL/gov").run("approve", proposal, "--json").json["executed"]
    shown = funded.run("participant", "show", "DLTA", "--json").json
    assert shown["status"] == "suspended"


def test_keys_rotate_in_the_middle_of_a_proposal(funded, sit):
    made = run(
        "keys", "new", "JDCL/fresh", "--scrypt-log2-n", "4", "--home", funded.folder,
        transport=funded.node,
    )  # fmt: skip
    assert made.exit_code == 0, made.err
    maker, checker = sit("JDCL/m1"), sit("JDCL/m2")
    proposal = propose(maker, *mint("0.01"))
    rotated = funded.run("account", "rotate", "JDCL/mint", "--policy", "2:JDCL/m2,JDCL/fresh")
    assert rotated.exit_code == 0, rotated.err
    # The maker's approval is weighed under the policy in force: it counts for nothing now.
    half = checker.run("approve", proposal, "--json")
    assert half.exit_code == 0, half.err
    assert half.json["executed"] is False
    shutil.copy(funded.folder / "keys/JDCL/fresh.key", checker.folder / "keys/JDCL/fresh.key")
    attested = funded.run("attest", HKD, "--amount", "9,000.00", "--report", "ab" * 32)
    assert attested.exit_code == 0
    assert funded.run("attest", HKD, "--by", "auditor").exit_code == 0
    done = checker.run("approve", proposal, "--json")
    assert done.json["executed"] is True, done.err


def test_new_key_agrees_to_its_own_rotation_from_another_machine(funded, sit, tmp_path):
    newcomer = sit("JDCL/none")
    made = run(
        "keys", "new", "fresh", "--scrypt-log2-n", "4", "--home", newcomer.folder,
        transport=funded.node,
    )  # fmt: skip
    assert made.exit_code == 0, made.err
    proof = tmp_path / "proof.json"
    proved = newcomer.run("keys", "prove", "fresh", "--participant", "JDCL", "--json")
    proof.write_text(proved.out)
    key = proved.json["key"]
    checker = sit("JDCL/m2")
    proposal = propose(
        sit("JDCL/m1", "JDCL/m3"), "account", "rotate", "JDCL/mint", "--policy",
        f"1:{key}", "--proof", proof,
    )  # fmt: skip
    assert checker.run("approve", proposal, "--json").json["executed"] is False
    waiting = newcomer.run("approve", proposal, "--json")
    # Two keys are the least for a minter: the bundle fails, and the proposal stays open.
    assert waiting.error["code"] == "POLICY_WEAK"
    assert checker.run("withdraw", proposal).exit_code == 4


def test_custodian_of_another_institution_reads_and_agrees_with_one_key(funded, sit):
    held = funded.run(
        "hold", "--from", "ALFA/main", "--to", "BRVO/main", "--amount", "70", "--asset", HKD,
        "--expires", "+1d", "--arbiter", "CUST/reserve", "--json",
    ).json["hold"]  # fmt: skip
    proposal = propose(sit("BRVO/pay"), "capture", held, "--amount", "69.99", "--final")
    first, second = sit("CUST/k1"), sit("CUST/k2")
    shown = first.run("proposals", "show", proposal)
    assert "69.99 HKD.JDCL" in shown.out
    assert first.run("approve", proposal, "--json").json["executed"] is False
    done = second.run("approve", proposal, "--json")
    assert "69.99 HKD.JDCL" in done.err
    assert done.json["executed"] is True
    assert balance(funded, "BRVO/main").posted == 6_999
    assert balance(funded, "ALFA/main").posted == 100_000 - 6_999
