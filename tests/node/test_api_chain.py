"""Blocks, validators, status and health through the API."""

import base64

import msgspec
import pytest

from atpar.ledger.blocks import compute_digest
from atpar.ledger.execute import Template, build_block
from atpar.ledger.jsonform import from_json
from atpar.ledger.merkle import compute_root
from atpar.ledger.proofs import FinalityProof, compute_trust_root, verify_finality
from atpar.ledger.receipts import Receipt
from atpar.ledger.state import Overlay
from atpar.ledger.transactions import Transaction, decode_transaction
from atpar.node.gateway import NodeState
from tests.ledger.world import BANKS, public, transfer
from tests.node.api_client import Harness


@pytest.fixture
def harness() -> Harness:
    made = Harness()
    made.gateway.fund("ALFA/main", 1_000)
    return made


def pay(harness: Harness, amount: int) -> Transaction:
    return harness.world.make(transfer("ALFA/main", "BRVO/main", amount), sender="ALFA/main")


async def test_block_certificate_verifies_under_the_genesis(harness: Harness) -> None:
    trust = compute_trust_root(harness.world.genesis.document)
    for height in range(1, harness.world.header.height + 1):
        answer = await harness.get(f"/v1/blocks/{height}")
        certificate = answer["certificate"]
        assert certificate["signers"] == ["ALFA", "BRVO", "CHRL"]
        proof = from_json(
            FinalityProof,
            {"finalization": certificate["finalization"], "headers": certificate["headers"]},
        )
        header = verify_finality(proof, chain_id=trust.chain_id, validators=trust.validators)
        assert header.height == answer["height"] == height
        assert compute_digest(header).hex() == answer["digest"]


async def test_block_finalised_by_a_descendant_shows_the_headers_in_between() -> None:
    harness = Harness()
    world, gateway = harness.world, harness.gateway
    blocks = []
    view, header, digest = world.view, world.header, world.digest
    for number in (1, 2, 3):
        template = Template(0, number, header, digest, header.timestamp_ms + 1, "ALFA")
        built, _ = build_block(view, template, [], chain_id=world.chain_id)
        blocks.append(built)
        view, header, digest = Overlay(built.overlay), built.header, built.digest
    gateway.finalize(*blocks)
    answer = await harness.get("/v1/blocks/1")
    assert [h["height"] for h in answer["certificate"]["headers"]] == [3, 2, 1]


async def test_latest_block_is_the_final_one(harness: Harness) -> None:
    answer = await harness.get("/v1/blocks/latest")
    assert answer["height"] == answer["read_height"] == harness.world.header.height


async def test_genesis_block_has_no_certificate(harness: Harness) -> None:
    answer = await harness.get("/v1/blocks/0")
    assert answer["certificate"] is None
    assert answer["transactions"] == []


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/blocks/99", 404, "UNKNOWN_BLOCK"),
        ("/v1/blocks/9223372036854775807", 404, "UNKNOWN_BLOCK"),
        ("/v1/blocks/9223372036854775808", 400, "INVALID_PARAMETER"),
        ("/v1/blocks/-1", 400, "INVALID_PARAMETER"),
        ("/v1/blocks/1.0", 400, "INVALID_PARAMETER"),
        ("/v1/blocks/Latest", 400, "INVALID_PARAMETER"),
        ("/v1/blocks/%D9%A1", 400, "INVALID_PARAMETER"),
        ("/v1/blocks/", 404, "NOT_FOUND"),
        ("/v1/blocks/1?limit=501", 400, "INVALID_PARAMETER"),
    ],
)
async def test_block_that_is_not_there_is_a_problem(
    harness: Harness, path: str, status: int, code: str
) -> None:
    assert (await harness.get(path, status=status))["code"] == code


async def test_transactions_of_a_block_come_in_pages(harness: Harness) -> None:
    txs = [pay(harness, n) for n in range(1, 8)]
    harness.gateway.run(*txs, pay(harness, 10**6))
    found = []
    first: int | None = 0
    while first is not None:
        page = await harness.get(f"/v1/blocks/latest?from={first}&limit=3")
        found += page["transactions"]
        first = page["next"]
    assert [tx["index"] for tx in found] == list(range(8))
    assert {tx["tx_hash"] for tx in found} >= {tx.hash.hex() for tx in txs}
    assert [tx["code"] for tx in found].count("INSUFFICIENT_FUNDS") == 1
    assert found[0]["ops"] is None
    beyond = await harness.get("/v1/blocks/latest?from=100")
    assert (beyond["transactions"], beyond["next"]) == ([], None)


async def test_full_block_shows_operations_and_exact_envelopes(harness: Harness) -> None:
    tx = pay(harness, 5)
    harness.gateway.run(tx)
    (form,) = (await harness.get("/v1/blocks/latest?full=1"))["transactions"]
    assert base64.b64decode(form["envelope"]) == tx.raw
    assert (form["ops"][0]["op"], form["ops"][0]["amount"]) == ("transfer", "5")
    assert decode_transaction(base64.b64decode(form["envelope"])).hash.hex() == form["tx_hash"]


async def test_receipts_of_a_block_come_in_one_piece_that_its_header_proves(
    harness: Harness,
) -> None:
    txs = [pay(harness, n) for n in range(1, 4)]
    harness.gateway.run(*txs, pay(harness, 10**6))
    block = await harness.get("/v1/blocks/latest?receipts=1")
    assert (block["transactions"], block["next"]) == ([], None)
    leaves = msgspec.msgpack.decode(bytes.fromhex(block["receipts"]), type=list[msgspec.Raw])
    assert compute_root([bytes(leaf) for leaf in leaves]).hex() == block["header"]["receipt_root"]
    hashes = {msgspec.msgpack.decode(leaf, type=Receipt).tx_hash for leaf in leaves}
    assert len(leaves) == 4
    assert hashes > {tx.hash for tx in txs}
    assert (await harness.get("/v1/blocks/0?receipts=1"))["receipts"] == "90"


@pytest.mark.parametrize("other", ["from=0", "limit=3", "full=0"])
async def test_receipts_go_without_a_page(harness: Harness, other: str) -> None:
    problem = await harness.get(f"/v1/blocks/latest?receipts=1&{other}", status=400)
    assert problem["code"] == "INVALID_PARAMETER"
    assert problem["field"] == other.partition("=")[0]


async def test_validators_are_listed_with_what_was_seen_of_them(harness: Harness) -> None:
    answer = await harness.get("/v1/validators")
    assert [v["participant"] for v in answer["validators"]] == list(BANKS)
    assert answer["validators"][0]["vote_key"] == public("ALFA-vote").hex()
    assert (answer["quorum"], answer["read_height"]) == (3, harness.world.header.height)
    assert [m["admin_key"] for m in answer["members"]] == [public(f"{b}-gov").hex() for b in BANKS]
    assert answer["members"][0]["address"] == "127.0.0.1:7101"
    assert answer["next_members"] is None


async def test_peers_are_listed(harness: Harness) -> None:
    answer = await harness.get("/v1/peers")
    assert [peer["state"] for peer in answer["peers"]] == ["connected"] * 3


async def test_status_names_chain_height_and_version(harness: Harness) -> None:
    answer = await harness.get("/v1/status")
    assert answer["chain_id"] == harness.world.chain_id.hex()
    assert answer["read_height"] == harness.world.header.height
    assert answer["state_root"] == harness.world.header.state_root.hex()
    assert answer["version"]
    assert answer["state"] == "ready"


async def test_ready_is_503_with_the_reason_while_catching_up(harness: Harness) -> None:
    assert (await harness.get("/health/ready"))["status"] == "ready"
    harness.gateway.state = NodeState.CATCHING_UP
    response = await harness.client.get("/health/ready")
    assert response.status_code == 503
    answer = msgspec.json.decode(response.content)
    assert (answer["status"], answer["detail"]) == ("catching_up", "fetching blocks")
    assert (await harness.get("/health/live"))["status"] == "live"
