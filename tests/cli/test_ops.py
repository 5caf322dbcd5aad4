"""Operations from the command line to a final receipt, over the real API and ledger."""

import json
import re
import uuid

import pytest

from atpar.ledger.records import BALANCES, balance_key
from tests.cli.helpers import run

HKD = "HKD.JDCL"
RECEIPT_KEYS = {
    "status", "code", "sender", "tx_id", "tx_hash", "height", "index", "timestamp_ms",
    "accepted_ms", "final_ms", "signatures", "validators", "receipt",
}  # fmt: skip


@pytest.fixture
def funded(desk):
    """ALFA/main has 1,000.00 HKD and BRVO/main 500.00."""
    desk.node.gateway.fund("ALFA/main", 100_000)
    desk.node.gateway.fund("BRVO/main", 50_000)
    return desk


def pay(desk, *extra, amount="25.00", creditor="BRVO/main", **kwargs):
    return desk.run(
        "transfer", "--from", "ALFA/main", "--to", creditor, "--amount", amount, "--asset", HKD,
        *extra, **kwargs,
    )  # fmt: skip


def posted(desk, account):
    balance = desk.node.world.view.get(BALANCES, balance_key(HKD, account))
    return balance.posted if balance is not None else 0


def test_transfer_is_final_with_a_receipt_that_verifies_offline(funded):
    result = pay(funded, "--reference", "INV-7")
    assert result.exit_code == 0, result.err
    lines = result.out.splitlines()
    assert re.fullmatch(r"accepted \d+ ms → FINAL #\d+ in \d+ ms \(3 of 4 signatures\)", lines[0])
    (receipt,) = funded.get_receipts()
    assert lines[-1] == f"receipt {receipt}"
    assert posted(funded, "BRVO/main") == 52_500
    checked = funded.run_offline("verify", receipt, "--json").json
    assert checked["valid"] is True
    assert checked["kind"] == "receipt"
    assert checked["code"] == "OK"
    assert checked["operations"][0]["reference"] == "INV-7"
    assert checked["signers"] == ["ALFA", "BRVO", "CHRL"]


def test_json_result_has_stable_keys(funded):
    data = pay(funded, "--json").json
    assert set(data) == RECEIPT_KEYS
    assert data["status"] == "final"
    assert data["code"] == "OK"
    assert (data["signatures"], data["validators"]) == (3, 4)
    assert uuid.UUID(data["tx_id"]).version == 4


def test_what_is_signed_is_shown_before_and_asked(funded):
    declined = pay(funded, answers="n\n", amount="1,000.00")
    assert declined.exit_code == 130
    assert "nothing was signed" in declined.err
    shown = declined.err
    for text in (
        "chain        test-world (",
        "sender       ALFA/main",
        "1. transfer",
        "   asset             HKD.JDCL",
        "   debtor            ALFA/main",
        "   creditor          BRVO/main",
        "   amount            1,000.00 HKD.JDCL",
        "signing with ALFA/pay",
        "Sign this? [y/N]",
    ):
        assert text in shown, shown
    assert not any(line.startswith("POST") for line in funded.node.requests)
    assert pay(funded, answers="y\n").exit_code == 0
    assert pay(funded, "--yes", answers="").exit_code == 0


@pytest.mark.parametrize(
    ("args", "exit_code", "text"),
    [
        (("--amount", "1.005"), 2, "1.005 has 3 decimals; HKD.JDCL has a scale of 2"),
        (("--amount", "x"), 2, "is not a number"),
        (("--amount", "0"), 6, "AMOUNT_RANGE (AM12"),
        (("--amount", "-5"), 6, "AMOUNT_RANGE"),
        (("--amount", "99999999999999999.99"), 6, "AMOUNT_RANGE"),
        (("--to", "nobody"), 2, "creditor"),
        (("--reference", "x" * 36), 2, "reference"),
        (("--reference", "tab\t"), 2, "reference"),
        (("--uetr", "x"), 2, "--uetr 'x' is not a UUID"),
        (("--asset", "USD.NONE"), 6, "UNKNOWN_ASSET"),
        (("--to", "ALFA/main"), 6, "SAME_ACCOUNT"),
        (("--tx-id", "x"), 2, "--tx-id"),
        (("--key", "nobody"), 4, "no key 'nobody'"),
        (("--valid-for", "90000"), 2, "86395"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(funded, args, exit_code, text):
    before = funded.node.world.header.state_root
    result = pay(funded, *args)
    assert result.exit_code == exit_code, result.err
    assert text in result.err
    assert "what to do:" in result.err
    assert funded.node.world.header.state_root == before
    assert funded.get_receipts() == []


def test_refusal_on_the_ledger_shows_code_reason_meaning_and_advice(funded):
    result = pay(funded, "--json", amount="1,000.01")
    assert result.exit_code == 6
    error = result.error
    assert error["kind"] == "refused"
    assert error["code"] == "INSUFFICIENT_FUNDS"
    assert error["iso_reason"] == "AM04"
    assert error["status"] == "final"
    assert error["advice"]
    assert error["tx_id"]
    assert "INSUFFICIENT_FUNDS (AM04)" in result.err
    # The refusal itself is final, and provable.
    checked = funded.run_offline("verify", error["receipt"])
    assert checked.exit_code == 0
    assert "REFUSED with INSUFFICIENT_FUNDS, nothing changed" in checked.out


def test_reserve_mint_redeem_and_burn_go_through_by_commands(desk, tmp_path):
    report = tmp_path / "report.pdf"
    report.write_bytes(b"reserve")
    attest = desk.run("attest", HKD, "--amount", "1,000.00", "--report", report)
    assert attest.exit_code == 0, attest.err
    audit = desk.run("attest", HKD, "--by", "auditor", "--report", report, "--amount", "1,000")
    assert audit.exit_code == 0, audit.err
    ref = str(uuid.uuid4())
    mint = ("mint", "--to", "ALFA/main", "--asset", HKD, "--funding-ref", ref)
    assert desk.run(*mint, "--amount", "600.00").exit_code == 0
    again = desk.run(*mint, "--amount", "1.00", "--json")
    assert again.error["code"] == "FUNDING_REUSED"
    other = ("mint", "--to", "ALFA/main", "--asset", HKD, "--funding-ref", str(uuid.uuid4()))
    beyond = desk.run(*other, "--amount", "400.01", "--json")
    assert beyond.error["code"] == "RESERVE_SHORT"
    redeemed = desk.run(
        "redeem", "--from", "ALFA/main", "--amount", "100.00", "--asset", HKD, "--payout", report,
        "--json",
    ).json  # fmt: skip
    listed = desk.run("redemptions", "--asset", HKD, "--json").json["redemptions"]
    assert [each["redemption"] for each in listed] == [redeemed["redemption"]]
    burn = desk.run(
        "burn", redeemed["redemption"], "--payout-ref", str(uuid.uuid4()), "--paid-at", "now"
    )
    assert burn.exit_code == 0, burn.err
    asset = desk.run("asset", "show", HKD, "--json").json
    assert (asset["supply"], asset["burned"]) == ("50000", "10000")


def test_release_gives_a_redemption_back(funded):
    redeemed = funded.run(
        "redeem", "--from", "ALFA/main", "--amount", "100", "--asset", HKD, "--payout", "ab" * 32,
        "--json",
    ).json  # fmt: skip
    result = funded.run("release", redeemed["redemption"], "--reason", "AC04")
    assert result.exit_code == 0, result.err
    found = funded.run("redemptions", "--status", "returned", "--json").json["redemptions"]
    assert len(found) == 1


def test_freeze_refuses_payments_until_it_is_lifted(funded):
    frozen = funded.run("freeze", "ALFA/main", "--asset", HKD, "--order", "cd" * 32, "--json")
    assert frozen.exit_code == 0, frozen.err
    freeze = frozen.json["freeze"]
    refused = pay(funded, "--json")
    assert refused.error["code"] == "ACCOUNT_FROZEN"
    shown = funded.run("account", "show", "ALFA/main")
    assert freeze in shown.out
    other = funded.run("unfreeze", freeze, "--account", "BRVO/main", "--json")
    assert other.error["code"] == "UNKNOWN_FREEZE"
    lifted = funded.run("unfreeze", freeze, "--reason", "done")
    assert lifted.exit_code == 0, lifted.err
    assert lifted.err.split("the order:")[1].split()[:2] == ["account", "ALFA/main"]
    assert pay(funded).exit_code == 0
    unknown = funded.run("unfreeze", freeze, "--json")
    assert unknown.error["code"] == "UNKNOWN_FREEZE"


def test_partial_freeze_and_freeze_by_the_regulator(funded):
    part = funded.run("freeze", "ALFA/main", "--asset", HKD, "--amount", "990.00")
    assert part.exit_code == 0, part.err
    assert pay(funded, "--json", amount="10.01").error["code"] == "AMOUNT_BLOCKED"
    assert pay(funded, amount="10.00").exit_code == 0
    assert funded.run("freeze", "BRVO/main").exit_code == 2
    whole = funded.run("freeze", "BRVO/main", "--by", "REGU/admin", "--direction", "both")
    assert whole.exit_code == 0, whole.err
    assert funded.run("freeze", "BRVO/main", "--by", "REGU/admin", "--amount", "1").exit_code == 2


def test_auditor_does_not_countersign_what_it_did_not_see(desk, tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    nothing = desk.run("attest", HKD, "--by", "auditor", "--json")
    assert nothing.error["code"] == "ATTESTATION_SEQUENCE"
    assert desk.run("attest", HKD, "--amount", "10", "--report", tmp_path / "a").exit_code == 0
    other = desk.run("attest", HKD, "--by", "auditor", "--report", tmp_path / "b", "--json")
    assert other.error["code"] == "ATTESTATION_MISMATCH"
    wrong = desk.run("attest", HKD, "--by", "auditor", "--amount", "11", "--json")
    assert wrong.error["code"] == "ATTESTATION_MISMATCH"
    assert desk.run("attest", HKD, "--amount", "10").exit_code == 2


def test_missing_signatures_name_the_keys_and_offer_a_file(desk):
    result = desk.run(
        "mint", "--to", "ALFA/main", "--amount", "1", "--asset", HKD, "--funding-ref",
        str(uuid.uuid4()), "--key", "JDCL/m1", "--json",
    )  # fmt: skip
    assert result.exit_code == 6
    assert result.error["code"] == "UNAUTHORISED"
    assert "JDCL/mint has 1 of 2; its keys:" in result.error["message"]
    assert "JDCL/m2" in result.error["message"]
    assert "-o tx.json" in result.error["advice"]
    assert [each["account"] for each in result.error["missing"]] == ["JDCL/mint"]
    assert len(result.error["missing"][0]["keys"]) == 1


def test_no_key_at_hand_is_a_keystore_error(funded, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    result = pay(funded, "--keys", empty)
    assert result.exit_code == 4
    assert "ALFA/main has 0 of 1" in result.err


def test_uninvolved_signature_is_refused_by_its_code(funded):
    result = pay(funded, "--key", "ALFA/pay", "--key", "BRVO/pay", "--json")
    assert result.exit_code == 6
    assert result.error["code"] == "UNINVOLVED_SIGNATURE"


def test_as_few_keys_sign_as_the_policy_needs(funded):
    result = funded.run(
        "account", "open", "ALFA/fresh", "--policy", "1:ALFA/pay", "--known", "ALFA/pay"
    )
    assert result.exit_code == 0, result.err
    assert "signing with ALFA/a1, ALFA/a2" in result.err
    shown = funded.run("account", "list", "ALFA", "--json").json["accounts"]
    assert "ALFA/fresh" in [each["account"] for each in shown]


def test_account_with_a_new_key_proves_possession(funded):
    made = run(
        "keys", "new", "ALFA/extra", "--scrypt-log2-n", "4", "--home", funded.folder,
        transport=funded.node,
    )  # fmt: skip
    assert made.exit_code == 0, made.err
    result = funded.run("account", "open", "ALFA/two", "--policy", "2:ALFA/extra,ALFA/pay")
    assert result.exit_code == 0, result.err
    taken = funded.run("account", "open", "BRVO/x", "--policy", "1:ALFA/extra", "--json")
    assert taken.error["code"] == "KEY_TAKEN"


def test_same_tx_id_and_body_gets_the_first_receipt_and_another_body_is_refused(funded):
    tx_id = str(uuid.uuid4())
    assert pay(funded, "--tx-id", tx_id).exit_code == 0
    other = pay(funded, "--tx-id", tx_id, "--json", amount="26.00")
    assert other.exit_code == 6
    assert other.error["code"] == "ID_REUSED"
    assert posted(funded, "BRVO/main") == 52_500


def test_void_uses_an_id_up(funded):
    tx_id = str(uuid.uuid4())
    assert funded.run("void", tx_id).exit_code == 2
    voided = funded.run("void", tx_id, "--as", "ALFA/main")
    assert voided.exit_code == 0, voided.err
    assert pay(funded, "--tx-id", tx_id, "--json").error["code"] == "ID_REUSED"
    late = funded.run("tx", "void", tx_id, "--as", "ALFA/main", "--json")
    assert late.error["code"] == "ID_REUSED"
    assert f"atpar tx show {tx_id}" in late.error["advice"]


@pytest.mark.parametrize(
    ("text", "exit_code"),
    [
        ("2026-11-22T12:00:00Z", 0),
        ("2026-11-22T20:00:00+08:00", 0),
        ("2026-11-22", 0),
        ("1790000000000", 0),
        ("now", 0),
        ("yesterday", 2),
        ("2026-11-22T12:00:00", 2),
    ],
)
def test_times_name_their_zone(funded, text, exit_code):
    result = funded.run(
        "freeze", "ALFA/main", "--asset", HKD, "--review-at", text, "--out",
        funded.folder / "f.json",
    )  # fmt: skip
    assert result.exit_code == exit_code, result.err


def test_times_are_exact_to_the_millisecond(funded):
    result = funded.run(
        "freeze", "ALFA/main", "--asset", HKD, "--review-at", "2026-11-22T12:00:00.001Z", "-o",
        funded.folder / "f.json",
    )  # fmt: skip
    assert "2026-11-22 12:00:00.001 UTC" in result.err
    assert json.loads((funded.folder / "f.json").read_text())["format"] == "atpar-tx/1"


def test_hash_of_a_document_is_the_files_or_typed(funded, tmp_path):
    missing = funded.run("redeem", "--from", "ALFA/main", "--amount", "1", "--asset", HKD,
                         "--payout", tmp_path / "none")  # fmt: skip
    assert missing.exit_code == 2
    assert "neither a file nor 64 hex digits" in missing.err


def test_account_that_does_not_exist_cannot_pay(funded):
    result = funded.run(
        "transfer", "--from", "ALFA/nowhere", "--to", "BRVO/main", "--amount", "1", "--asset", HKD,
        "--json",
    )  # fmt: skip
    assert result.exit_code == 6
    assert result.error["code"] == "UNKNOWN_ACCOUNT"
    assert "no account ALFA/nowhere" in result.error["message"]
