"""Co-signing by files: several parties, one body, no shared machine."""

import base64
import json
import shutil
import time
import uuid

import pytest
from msgspec.structs import replace

from atpar.cli.describe import describe_body
from atpar.cli.txfile import TxFile
from atpar.ledger.codec import encode
from atpar.ledger.limits import MAX_SIGNATURES, MAX_TRANSACTION_BYTES
from atpar.ledger.operations import Condition, Hold, Limit, Propose, SetControls
from atpar.ledger.records import BALANCES, balance_key
from atpar.ledger.transactions import BODY, VERSION, Body, Envelope, Signature
from tests.altering import flip
from tests.cli.fake_node import Desk
from tests.ledger.samples import OPERATIONS
from tests.ledger.world import transfer

HKD, CNH = "HKD.JDCL", "CNH.JDCL"


@pytest.fixture
def funded(desk):
    """ALFA/main has 1,000.00 HKD, CHRL/main 1,000.00 CNH."""
    desk.node.gateway.fund("ALFA/main", 100_000)
    desk.node.gateway.fund("CHRL/main", 100_000, CNH)
    return desk


def posted(desk, asset, account):
    balance = desk.node.world.view.get(BALANCES, balance_key(asset, account))
    return balance.posted if balance is not None else 0


def make_exchange(desk, *extra):
    path = desk.folder / "pvp.json"
    result = desk.run(
        "tx", "new", path, "--sender", "ALFA/main",
        "--transfer", "ALFA/main", "CHRL/main", "100.00", HKD,
        "--transfer", "CHRL/main", "ALFA/main", "92.10", CNH, *extra,
    )  # fmt: skip
    assert result.exit_code == 0, result.err
    return path, result


def edit(path, **changes):
    value = json.loads(path.read_text())
    value.update(changes)
    path.write_text(json.dumps(value))


def change_body(path):
    """Add one minor unit to the first transfer in the body."""
    value = json.loads(path.read_text())
    body = BODY.decode(base64.b64decode(value["body"]))
    first, *rest = body.ops
    body = replace(body, ops=(replace(first, amount=first.amount + 1), *rest))
    value["body"] = base64.b64encode(encode(body)).decode()
    path.write_text(json.dumps(value))


def test_exchange_by_files_takes_effect_at_once_on_both_sides(funded, tmp_path):
    before_ms = time.time_ns() // 1_000_000
    path, made = make_exchange(funded, "--json")
    after_ms = time.time_ns() // 1_000_000
    assert made.json["complete"] is False
    assert made.json["missing"] == ["ALFA/main", "CHRL/main"]
    # Whoever signs second has a free option for a minute only.
    assert before_ms + 60_000 <= made.json["valid_until_ms"] <= after_ms + 60_000
    # Each party signs its own copy on its own machine.
    copies = []
    for code in ("ALFA", "CHRL"):
        copy = tmp_path / f"{code}.json"
        shutil.copy(path, copy)
        result = funded.run("tx", "sign", copy, "--keys", funded.folder / "keys" / code)
        assert result.exit_code == 0, result.err
        assert "signing with pay" in result.err
        assert "100.00 HKD.JDCL" in result.err
        assert "92.10 CNH.JDCL" in result.err
        copies.append(copy)
    both = tmp_path / "both.json"
    joined = funded.run("tx", "join", *copies, "-o", both, "--json")
    assert joined.json["complete"] is True
    assert joined.json["signatures"] == 2
    simulated = funded.run("tx", "simulate", both, "--json").json
    assert simulated["code"] == "OK"
    sent = funded.run("tx", "send", both)
    assert sent.exit_code == 0, sent.err
    assert posted(funded, HKD, "CHRL/main") == 10_000
    assert posted(funded, CNH, "ALFA/main") == 9_210
    again = funded.run("tx", "send", both, "--json")
    assert again.exit_code == 0
    assert posted(funded, HKD, "CHRL/main") == 10_000


def test_sending_half_signed_names_who_is_missing(funded):
    path, _ = make_exchange(funded)
    funded.run("tx", "sign", path, "--key", "ALFA/pay")
    before = funded.node.requests.count("POST /v1/transactions")
    result = funded.run("tx", "send", path, "--json")
    assert result.exit_code == 6
    assert result.error["code"] == "UNAUTHORISED"
    assert [each["account"] for each in result.error["missing"]] == ["CHRL/main"]
    assert funded.node.requests.count("POST /v1/transactions") == before


def test_file_changed_after_signing_is_refused_everywhere(funded):
    path, _ = make_exchange(funded)
    assert funded.run("tx", "sign", path, "--key", "ALFA/pay").exit_code == 0
    change_body(path)
    for command in (("sign",), ("send",), ("join", path, "-o", funded.folder / "j.json")):
        result = funded.run("tx", command[0], path, *command[1:], "--json")
        assert result.exit_code == 6, command
        assert result.error["code"] == "BAD_SIGNATURE"
        assert "changed after it was signed" in result.error["message"]
    decoded = funded.run("tx", "decode", path)
    assert "NOT VALID" in decoded.out


def test_changed_unsigned_file_shows_what_it_says_now(funded):
    path, _ = make_exchange(funded)
    change_body(path)
    result = funded.run("tx", "sign", path, "--key", "CHRL/pay", answers="n\n")
    assert result.exit_code == 130
    assert "100.01 HKD.JDCL" in result.err
    assert json.loads(path.read_text())["signatures"] == []


def test_join_refuses_other_bodies(funded, tmp_path):
    path, _ = make_exchange(funded)
    other = tmp_path / "other.json"
    shutil.copy(path, other)
    change_body(other)
    result = funded.run("tx", "join", path, other, "-o", tmp_path / "j.json")
    assert result.exit_code == 2
    assert f"{path} and {other} have different bodies" in result.err
    assert not (tmp_path / "j.json").exists()


def test_out_of_one_command_is_in_of_the_next(desk, tmp_path):
    """Maker and checker of one minter, on two machines."""
    desk.node.gateway.fund("ALFA/main", 1)
    path = tmp_path / "mint.json"
    made = desk.run(
        "mint", "--to", "ALFA/main", "--amount", "0.01", "--asset", HKD, "--funding-ref",
        str(uuid.uuid4()), "--key", "JDCL/m1", "-o", path,
    )  # fmt: skip
    assert made.exit_code == 0, made.err
    assert "missing: JDCL/mint has 1 of 2" in made.out
    assert f"next: atpar tx sign {path}" in made.out
    checked = desk.run("tx", "sign", path, "--key", "JDCL/m2")
    assert f"next: atpar tx send {path}" in checked.out
    desk.node.gateway.run(
        desk.node.world.make(
            desk.node.world.attestation(desk.node.world.backing_of(HKD) + 1), sender="CUST/reserve"
        )
    )
    result = desk.run("tx", "send", path, "--json")
    assert result.exit_code in (0, 6)
    assert "UNAUTHORISED" not in result.out


def test_file_can_be_made_and_signed_with_no_node(funded):
    path = funded.folder / "offline.json"
    made = funded.run_offline(
        "transfer", "--from", "ALFA/main", "--to", "BRVO/main", "--amount", "1", "--asset", HKD,
        "-o", path,
    )  # fmt: skip
    assert made.exit_code == 0, made.err
    assert "no node answered: policies are those of the genesis document" in made.out
    assert funded.run("tx", "send", path).exit_code == 0


def test_signing_again_adds_nothing(funded):
    path, _ = make_exchange(funded)
    for _ in range(2):
        assert funded.run("tx", "sign", path, "--key", "ALFA/pay").exit_code == 0
    assert len(json.loads(path.read_text())["signatures"]) == 1
    funded.run("tx", "sign", path)
    complete = funded.run("tx", "sign", path)
    assert complete.exit_code == 4
    assert "the signatures are complete" in complete.err


@pytest.mark.parametrize(
    ("changes", "exit_code", "text"),
    [
        ({"format": "atpar-tx/2"}, 2, "atpar-tx/2"),
        ({"body": "not base64!"}, 2, "not a transaction file"),
        ({"body": 5}, 2, "not a transaction file"),
        ({"extra": 1}, 2, "extra"),
        ({"signatures": [{"key": "zz", "signature": ""}]}, 2, "not a transaction file"),
        ({"signatures": [{"key": "11" * 32, "signature": "22" * 64}]}, 6, "BAD_SIGNATURE"),
        ({"body": base64.b64encode(b"junk").decode()}, 6, "NON_CANONICAL"),
        ({"body": base64.b64encode(b"\xdc\x00\x07").decode()}, 6, "NON_CANONICAL"),
        ({"body": ""}, 6, "NON_CANONICAL"),
        ({"body": base64.b64encode(bytes(MAX_TRANSACTION_BYTES + 1)).decode()}, 6, "TOO_LARGE"),
        (
            {
                "signatures": [
                    {"key": f"{n:064x}", "signature": "22" * 64} for n in range(MAX_SIGNATURES + 1)
                ]
            },
            6,
            "TOO_MANY_SIGNATURES",
        ),
    ],
)
def test_hostile_files_are_refused_with_their_code(funded, changes, exit_code, text):
    path, _ = make_exchange(funded)
    edit(path, **changes)
    for command in ("sign", "send"):
        result = funded.run("tx", command, path)
        assert result.exit_code == exit_code, result.err
        assert text in result.err


def test_envelopes_are_sent_as_they_are_or_refused_with_their_code(funded):
    world = funded.node.world
    pay = world.make(transfer("ALFA/main", "BRVO/main", 5), sender="ALFA/main", keys=["ALFA-pay"])
    path = funded.folder / "envelope"

    def send(data):
        path.write_bytes(data)
        result = funded.run("tx", "send", path, "--json")
        return result.error["code"] if result.exit_code == 6 else result.exit_code

    assert send(pay.raw + b"\x00") == "NON_CANONICAL"
    assert send(bytes(MAX_TRANSACTION_BYTES + 1)) == "TOO_LARGE"
    (signature,) = pay.signatures
    bad = Signature(signature.key, flip(signature.signature, at=-1))
    assert send(encode(Envelope(pay.body_bytes, (bad,)))) == "BAD_SIGNATURE"
    assert send(encode(Envelope(pay.body_bytes, (signature,) * 2))) == "SIGNATURES_UNSORTED"
    many = tuple(Signature(n.to_bytes(32, "big"), bytes(64)) for n in range(1, MAX_SIGNATURES + 2))
    assert send(encode(Envelope(pay.body_bytes, many))) == "TOO_MANY_SIGNATURES"
    assert send(encode(Envelope(pay.body_bytes, ()))) == "UNAUTHORISED"
    assert posted(funded, HKD, "BRVO/main") == 0
    assert send(base64.b64encode(pay.raw)) == 0
    assert posted(funded, HKD, "BRVO/main") == 5


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff" * 50])
def test_what_is_no_file_of_ours_is_refused(funded, content):
    path = funded.folder / "x.json"
    path.write_bytes(content)
    assert funded.run("tx", "send", path).exit_code in (2, 6)
    assert funded.run("tx", "decode", path).exit_code in (2, 6)


def test_one_key_twice_in_a_file_is_refused(funded):
    path, _ = make_exchange(funded)
    funded.run("tx", "sign", path, "--key", "ALFA/pay")
    value = json.loads(path.read_text())
    edit(path, signatures=value["signatures"] * 2)
    result = funded.run("tx", "send", path, "--json")
    assert result.error["code"] == "SIGNATURES_UNSORTED"


def test_number_of_signatures_at_the_limit_and_past_it():
    at = {bytes([n]) * 32: bytes(64) for n in range(MAX_SIGNATURES)}
    assert len(TxFile(b"", {}).add(at.items()).signatures) == MAX_SIGNATURES
    from atpar.cli.errors import RefusedByLedger

    with pytest.raises(RefusedByLedger, match="TOO_MANY_SIGNATURES"):
        TxFile(b"", at).add([(b"\xff" * 32, bytes(64))])


def test_file_for_another_chain_is_not_signed_or_sent(funded, tmp_path):
    path, _ = make_exchange(funded)
    other = tmp_path / "other"
    shutil.copytree(funded.folder, other)
    genesis = json.loads((other / "genesis.json").read_text())
    genesis["name"] = "another"
    genesis["signatures"] = []
    (other / "genesis.json").write_text(json.dumps(genesis))
    stranger = Desk.__new__(Desk)
    stranger.folder, stranger.node = other, funded.node
    for command in ("sign", "send"):
        result = stranger.run("tx", command, path, "--json")
        assert result.exit_code == 6
        assert result.error["code"] == "WRONG_CHAIN"
    assert "ANOTHER CHAIN" in stranger.run("tx", "decode", path).out


def test_new_takes_operations_as_json_and_names_bad_fields(funded):
    ops = funded.folder / "ops.json"
    good = {
        "op": "transfer", "asset": HKD, "debtor": "ALFA/main", "creditor": "BRVO/main",
        "amount": "150", "uetr": "11" * 16, "purpose": "", "reference": "", "return_of": None,
        "travel_rule_hash": None, "travel_rule_ack": False,
    }  # fmt: skip
    ops.write_text(json.dumps([good, {"op": "void"}]))
    path = funded.folder / "made.json"
    made = funded.run("tx", "new", path, "--sender", "ALFA/main", "--ops", ops)
    assert made.exit_code == 0, made.err
    assert "1.50 HKD.JDCL" in made.err
    assert "2. void" in made.err
    for bad, field in (
        ([{**good, "amount": "1.5"}], "ops[0].amount"),
        ([good, {**good, "creditor": "x"}], "ops[1].creditor"),
        ([{"op": "steal"}], "ops[0].op"),
        ({"op": "void"}, "not a list"),
    ):
        ops.write_text(json.dumps(bad))
        result = funded.run("tx", "new", funded.folder / "n.json", "--sender", "A", "--ops", ops)
        assert result.exit_code == 2
        assert field in result.err
    ops.write_text("{")
    assert funded.run("tx", "new", path, "--sender", "ALFA/main", "--ops", ops).exit_code == 2


def test_new_without_operations_or_over_an_existing_file_is_refused(funded):
    result = funded.run("tx", "new", funded.folder / "n", "--sender", "ALFA/main", "--json")
    assert result.error["code"] == "NO_OPERATIONS"
    path, _ = make_exchange(funded)
    again = funded.run(
        "tx", "new", path, "--sender", "ALFA/main", "--transfer", "ALFA/main", "BRVO/main", "1", HKD
    )
    assert again.exit_code == 2
    assert "already there" in again.err


def test_sender_out_of_form_is_refused(funded):
    result = funded.run(
        "tx", "new", funded.folder / "n", "--sender", "alfa", "--transfer", "ALFA/main",
        "BRVO/main", "1", HKD,
    )  # fmt: skip
    assert result.exit_code == 6
    assert "NON_CANONICAL" in result.err


def test_decode_reads_envelopes_as_binary_base64_and_hex(funded):
    world = funded.node.world
    tx = world.make(world.mint("ALFA/main", 5), sender="JDCL/mint")
    for data in (tx.raw, base64.b64encode(tx.raw), tx.raw.hex().encode()):
        path = funded.folder / "envelope"
        path.write_bytes(data)
        decoded = funded.run_offline("tx", "decode", path, "--json").json
        assert decoded["tx_hash"] == tx.hash.hex()
        assert decoded["this_chain"] is True
        assert [each["valid"] for each in decoded["signatures"]] == [True, True]
        assert decoded["body"]["ops"][0]["op"] == "mint"


def test_show_finds_by_hash_by_id_and_by_uetr(funded):
    uetr = str(uuid.uuid4())
    sent = funded.run(
        "transfer", "--from", "ALFA/main", "--to", "BRVO/main", "--amount", "1", "--asset", HKD,
        "--uetr", uetr, "--json",
    ).json  # fmt: skip
    by_hash = funded.run("tx", "show", sent["tx_hash"], "--json").json
    assert (by_hash["status"], by_hash["code"]) == ("final", "OK")
    by_id = funded.run("tx", "show", sent["tx_id"], "--sender", "ALFA/main", "--json").json
    assert by_id["tx_hash"] == sent["tx_hash"]
    by_uetr = funded.run("tx", "show", uetr, "--uetr", "--json").json
    assert [each["tx_hash"] for each in by_uetr["transactions"]] == [sent["tx_hash"]]
    assert "status          final" in funded.run("tx", "show", sent["tx_hash"]).out
    assert "1 transactions" in funded.run("tx", "show", uetr, "--uetr").out
    assert funded.run("tx", "show", sent["tx_id"]).exit_code == 2
    assert funded.run("tx", "show", "nonsense").exit_code == 2
    assert "unknown" in funded.run("tx", "show", "00" * 32).out


def test_simulate_names_the_rule_that_refuses(funded):
    path = funded.folder / "big.json"
    funded.run(
        "transfer", "--from", "ALFA/main", "--to", "BRVO/main", "--amount", "5,000", "--asset",
        HKD, "-o", path,
    )  # fmt: skip
    result = funded.run("tx", "simulate", path)
    assert result.exit_code == 0
    assert "refused: INSUFFICIENT_FUNDS" in result.out


def test_review_shows_every_field_of_every_operation():
    """Nobody signs what was not shown: each field's name and value stands in the lines."""
    for op in OPERATIONS:
        body = Body(VERSION, b"c" * 32, "ALFA/main", b"i" * 16, 1, 2_000, (op,))
        lines = "\n".join(
            describe_body(encode(body), chain_id=b"c" * 32, chain_name="x", scales={HKD: 2})
        )
        for name in list_names(op):
            assert name.removesuffix("_ms").replace("_", " ") in lines, (op, name)


def list_names(value):
    """Return the field names of a Struct and of the Structs in it, as the review words them."""
    for name in value.__struct_fields__:
        item = getattr(value, name)
        if name in ("ops", "members", "terms", "condition", "limit") and item is not None:
            for inner in item if isinstance(item, tuple) else (item,):
                yield from list_names(inner)
        else:
            yield name


def test_review_shows_what_a_proposal_and_its_parts_say():
    """Nothing hides behind a nesting: bundles, conditions and limits are shown field by field."""
    condition = Condition(("CUST/reserve",), b"h" * 32, 1_790_000_000_000, None)
    hold = Hold(
        HKD, "ALFA/main", "BRVO/main", 12_345, b"u" * 16, "", "", None, False, 2, condition, True
    )
    controls = SetControls("ALFA/admin", HKD, "ALFA/main", None, 3, None, Limit(5_000, 86_400_000))
    body = Body(
        VERSION, b"c" * 32, "ALFA/main", b"i" * 16, 1, 2_000, (Propose((hold, controls), 7),)
    )
    lines = "\n".join(
        describe_body(encode(body), chain_id=b"c" * 32, chain_name="x", scales={HKD: 2})
    )
    for text in ("1. hold", "123.45 HKD.JDCL", "CUST/reserve", "68" * 32, "2. set_controls",
                 "limit amount", "50.00 HKD.JDCL"):  # fmt: skip
        assert text in lines, lines
    assert "Condition(" not in lines
    assert "Limit(" not in lines


def test_show_of_a_file_points_to_decode(funded):
    path, _ = make_exchange(funded)
    result = funded.run_offline("tx", "show", path, "--json")
    assert result.exit_code == 2
    assert f"tx decode {path}" in result.error["advice"]


@pytest.mark.parametrize("command", ["decode", "send", "sign"])
def test_file_longer_than_any_transaction_is_too_large(funded, command):
    path = funded.folder / "long.json"
    path.write_bytes(b" " * (4 * MAX_TRANSACTION_BYTES + 1))
    result = funded.run("tx", command, path, "--json")
    assert result.exit_code == 6
    assert result.error["code"] == "TOO_LARGE"
