"""`atpar verify`: offline, complete, and not to be fooled by any changed byte."""

import json

import pytest

from atpar.ledger.genesis import render_genesis
from atpar.ledger.proofs import render_proof
from tests.altering import flip
from tests.cli.ceremony import get_sealed
from tests.cli.helpers import run
from tests.ledger.epochs import Chain
from tests.ledger.world import sign_document

HKD = "HKD.JDCL"


@pytest.fixture
def receipt(desk):
    """The proof file of a final payment, and the desk it came from."""
    desk.node.gateway.fund("ALFA/main", 100_000)
    result = desk.run(
        "transfer", "--from", "ALFA/main", "--to", "BRVO/main", "--amount", "25.00", "--asset",
        HKD, "--reference", "INV-7", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.err
    (path,) = desk.get_receipts()
    return desk, path


def test_receipt_says_what_happened_and_who_signed(receipt):
    desk, path = receipt
    result = desk.run_offline("verify", path)
    assert result.exit_code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0] == "✓ FINAL #4 on test-world: 3 of 4 signed, 3 are needed"
    assert "signed by   ALFA, BRVO, CHRL" in lines
    assert "outcome      done" in lines
    assert "   amount            25.00 HKD.JDCL" in lines
    assert "   reference         INV-7" in lines


def test_json_shape_is_stable(receipt):
    desk, path = receipt
    data = desk.run_offline("verify", path, "--json").json
    assert set(data) == {
        "file", "valid", "kind", "chain", "chain_id", "height", "timestamp_ms", "digest", "epoch",
        "signers", "validators", "quorum", "code", "iso_reason", "failed_op", "tx_hash", "sender",
        "tx_id", "index", "operations", "signed_by",
    }  # fmt: skip
    assert data["operations"][0]["amount"] == "2500"


@pytest.mark.no_cover
def test_any_changed_digit_is_refused(receipt, tmp_path):
    desk, path = receipt
    text = path.read_text()
    value = json.loads(text)
    spots = list(find_leaves(value))
    assert len(spots) > 30
    for where in spots:
        changed = json.loads(text)
        change(changed, where)
        other = tmp_path / "changed.json"
        other.write_text(json.dumps(changed))
        result = desk.run_offline("verify", other, "--json")
        assert result.exit_code == 6, where
        assert result.error["code"] == "PROOF_INVALID"


def find_leaves(value, path=()):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from find_leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from find_leaves(item, (*path, index))
    elif value is not None:
        yield path


def change(value, path):
    """Change one digit, letter or bit of the leaf at a path."""
    for step in path[:-1]:
        value = value[step]
    leaf = value[path[-1]]
    if isinstance(leaf, bool):
        value[path[-1]] = not leaf
    elif isinstance(leaf, int):
        value[path[-1]] = leaf + 1
    else:
        middle = len(leaf) // 2
        swapped = "1" if leaf[middle : middle + 1] != "1" else "2"
        value[path[-1]] = leaf[:middle] + swapped + leaf[middle + 1 :]


def test_every_cut_and_garbage_is_refused(receipt, tmp_path):
    desk, path = receipt
    data = path.read_bytes()
    other = tmp_path / "x.json"
    for length in range(0, len(data) - 2, len(data) // 20):
        other.write_bytes(data[:length])
        assert desk.run_offline("verify", other).exit_code == 6
    for garbage in (b"[]", b"{}", b"[" * 100_000, b"\x00" * 100, b"\xff"):
        other.write_bytes(garbage)
        result = desk.run_offline("verify", other)
        assert result.exit_code == 6, garbage[:10]
        assert "Traceback" not in result.err


def test_proof_of_another_chain_is_refused(receipt):
    _, path = receipt
    result = run("verify", path, "--genesis", get_sealed() / "genesis.json", "--json")
    assert result.exit_code == 6
    assert result.error["code"] == "PROOF_INVALID"


def test_missing_files_say_which(receipt, tmp_path):
    desk, path = receipt
    assert desk.run_offline("verify", tmp_path / "none").exit_code == 2
    result = run("verify", path, "--genesis", tmp_path / "none")
    assert result.exit_code == 3
    assert "--genesis FILE" in result.err


def test_verify_asks_no_node(receipt):
    desk, path = receipt
    before = len(desk.node.requests)
    desk.run("verify", path)
    assert len(desk.node.requests) == before


def test_balance_and_solvency_proofs_verify_offline(receipt, tmp_path):
    desk, _ = receipt
    balance, solvency = tmp_path / "balance.json", tmp_path / "solvency.json"
    shown = desk.run("account", "show", "ALFA/main", "--proof", balance)
    assert shown.exit_code == 0, shown.err
    assert f"proof {balance}: block #4, 3 of 4 signed" in shown.out
    assert desk.run("asset", "show", HKD, "--proof", solvency, "--json").json["proof_file"]
    account = desk.run_offline("verify", balance, "--json").json
    assert account["kind"] == "account"
    assert account["balances"] == [
        {"asset": HKD, "posted": "97500", "held": "0", "frozen": "0", "available": "97500"}
    ]
    assert "975.00" in desk.run_offline("verify", balance).out
    proven = desk.run_offline("verify", solvency, "--json").json
    assert proven["kind"] == "solvency"
    rows = {row["asset"]: row for row in proven["assets"]}
    assert rows[HKD]["posted"] == rows[HKD]["supply"] == "100000"
    assert "1,000.00" in desk.run_offline("verify", solvency).out


def test_proof_inside_an_api_answer_verifies_and_only_that_is_believed(receipt, tmp_path):
    desk, _ = receipt
    solvency, answer = tmp_path / "solvency.json", tmp_path / "answer.json"
    assert desk.run("asset", "show", HKD, "--proof", solvency).exit_code == 0
    proof = json.loads(solvency.read_text())
    answer.write_text(json.dumps({"asset": HKD, "supply": "999", "proof": proof}))
    shown = desk.run_offline("verify", answer, "--json")
    assert shown.exit_code == 0, shown.err
    assert "only the proof in it was looked at" in shown.err
    rows = {row["asset"]: row for row in shown.json["assets"]}
    assert rows[HKD]["supply"] == "100000"
    proof["checksum"] = flip(bytes.fromhex(proof["checksum"])).hex()
    answer.write_text(json.dumps({"proof": proof}))
    assert desk.run_offline("verify", answer).exit_code == 6
    for text in ('{"proof": null}', '{"proof": {"proof": {}}}', '{"a": [1, 2]}', "{"):
        answer.write_text(text)
        assert desk.run_offline("verify", answer).exit_code == 6


# ---- epochs that administrators opened


def write_proof(folder, name, chain):
    """Write what a chain proves, and its genesis document beside it."""
    (folder / "genesis.json").write_bytes(render_genesis(sign_document(chain.genesis.document)))
    path = folder / name
    path.write_bytes(render_proof(chain.prove()))
    return path


def verify(folder, *paths):
    return run("verify", *paths, "--genesis", folder / "genesis.json", "--json")


def test_recovery_on_the_way_is_shown_with_who_signed_it(tmp_path):
    chain = Chain().end_epoch().extend(1)
    body = chain.draft(abandoned=(b"\x11" * 32,))
    chain.recover(chain.sign(body, "ALFA", "BRVO", "CHRL")).extend(1)
    path = write_proof(tmp_path, "recovered.json", chain)
    shown = verify(tmp_path, path)
    assert shown.exit_code == 0, shown.err
    (recovery,) = shown.json["recoveries"]
    assert recovery["epoch"] == shown.json["epoch"] == 2
    assert (recovery["height"], recovery["signed_by"]) == (7, ["ALFA", "BRVO", "CHRL"])
    text = run("verify", path, "--genesis", tmp_path / "genesis.json").out
    assert "epoch 2 was opened by administrators at #7" in text
    assert f"   they abandoned block {'11' * 32}" in text


def test_recovery_without_a_quorum_is_refused(tmp_path):
    chain = Chain().extend(1)
    step = chain.make_step(chain.sign(chain.draft(), "ALFA", "BRVO"))
    chain.recover_by("ALFA", "BRVO", "CHRL").extend(1)
    chain.steps = [step]
    result = verify(tmp_path, write_proof(tmp_path, "few.json", chain))
    assert result.exit_code == 6
    assert result.error["code"] == "PROOF_INVALID"
    assert "2 signatures, the quorum is 3" in result.error["message"]


def test_files_of_one_history_pass_together_and_a_fork_is_found(tmp_path):
    first = write_proof(tmp_path, "first.json", Chain().extend(1))
    one = Chain().extend(1).recover_by("ALFA", "BRVO", "CHRL").extend(1)
    other = Chain().extend(2).recover_by("BRVO", "CHRL", "DLTA").extend(1)
    paths = [write_proof(tmp_path, f"{i}.json", each) for i, each in enumerate((one, other))]
    told = verify(tmp_path, first, paths[0])
    assert told.exit_code == 0, told.err
    assert told.json["one_history"] is True
    assert [each["file"] for each in told.json["files"]] == [str(first), str(paths[0])]
    lines = run("verify", first, paths[1], "--genesis", tmp_path / "genesis.json").out
    assert "✓ all 2 tell one history" in lines
    forked = verify(tmp_path, first, *paths)
    assert forked.exit_code == 8
    message = forked.error["message"]
    assert f"{paths[0]} and {paths[1]}: epoch 1 was opened twice" in message
    assert message.endswith("signed both documents: BRVO, CHRL")
