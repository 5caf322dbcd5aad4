"""Submitting, waiting for and finding transactions through the API."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from atpar.ledger.codec import encode as encode_wire
from atpar.ledger.codes import Code
from atpar.ledger.errors import NonCanonical
from atpar.ledger.hashing import SignKind, compute_sign_bytes
from atpar.ledger.limits import MAX_TRANSACTION_BYTES
from atpar.ledger.operations import Void
from atpar.ledger.proofs import ReceiptClaim, compute_trust_root, parse_proof, verify_proof
from atpar.ledger.transactions import Body, Transaction, decode_transaction, encode_envelope
from atpar.node.gateway import NodeState, TransactionState, TxStatus
from atpar.node.limits import MAX_BATCH_ENVELOPES
from tests.altering import flip
from tests.ledger.world import World, key_of, public, transfer
from tests.node.api_client import MSGPACK, Harness, encode, settle


@pytest.fixture
def harness() -> Harness:
    made = Harness()
    made.gateway.fund("ALFA/main", 1_000_000)
    return made


def pay(world: World, amount: int = 100, **kwargs: Any) -> Transaction:
    uetr = world.next_id()
    return world.make(
        transfer("ALFA/main", "BRVO/main", amount, uetr=uetr), sender="ALFA/main", **kwargs
    )


# ---- submitting


async def test_submit_answers_accepted_with_ids(harness: Harness) -> None:
    tx = pay(harness.world)
    answer = await harness.submit(tx)
    assert answer["status"] == "accepted"
    assert answer["tx_hash"] == tx.hash.hex()
    assert (answer["sender"], answer["tx_id"]) == ("ALFA/main", tx.body.tx_id.hex())
    assert answer["read_height"] == harness.world.header.height
    assert answer["receipt"] is None


async def test_submit_with_wait_answers_final_with_receipt(harness: Harness) -> None:
    tx = pay(harness.world)
    async with trio.open_nursery() as nursery:

        async def submit() -> None:
            answer = await harness.submit(tx, status=200, wait=5)
            assert answer["status"] == "final"
            assert answer["code"] == "OK"
            assert answer["height"] == answer["receipt"]["height"] == harness.world.header.height
            assert answer["read_height"] >= answer["height"]

        nursery.start_soon(submit)
        await settle(harness, 1)
        harness.gateway.produce()


async def test_failure_on_state_is_final_with_its_code_and_iso_reason(harness: Harness) -> None:
    tx = pay(harness.world, 9_999_999)
    await harness.submit(tx)
    harness.gateway.produce()
    answer = await harness.get(f"/v1/transactions/{tx.hash.hex()}")
    assert (answer["status"], answer["code"]) == ("final", "INSUFFICIENT_FUNDS")
    assert answer["receipt"]["iso_reason"] == "AM04"
    assert answer["receipt"]["failed_op"] == 0
    assert answer["receipt"]["advice"]


async def test_wait_that_runs_out_is_accepted_not_failed(
    harness: Harness, autojump_clock: trio.testing.MockClock
) -> None:
    tx = pay(harness.world)
    response = await harness.client.post(
        "/v1/transactions", json={"envelope": encode(tx)}, headers={"prefer": "wait=7"}
    )
    answer = harness.check(response, 202)
    assert answer["status"] == "accepted"
    assert answer["tx_id"] == tx.body.tx_id.hex()
    assert response.headers["preference-applied"] == "wait=7"
    assert trio.current_time() < 60


async def test_wait_is_cut_to_the_longest_allowed(autojump_clock: trio.testing.MockClock) -> None:
    harness = Harness(max_wait_s=2.0)
    started = trio.current_time()
    tx = harness.world.make(Void(), sender="ALFA/main")
    await harness.submit(tx, wait=1_000_000)
    assert trio.current_time() - started < 3


@pytest.mark.parametrize("value", ["wait", "wait=x", "wait=-1", "respond-async", "wait=5.5", ""])
async def test_preference_that_is_not_understood_is_ignored(harness: Harness, value: str) -> None:
    response = await harness.client.post(
        "/v1/transactions",
        json={"envelope": encode(pay(harness.world))},
        headers={"prefer": value},
    )
    assert harness.check(response, 202)["status"] == "accepted"


async def test_proposed_is_told_apart_from_accepted(harness: Harness) -> None:
    tx = pay(harness.world)
    await harness.submit(tx)
    built = harness.gateway.produce(final=False)
    assert (await harness.get(f"/v1/transactions/{tx.hash.hex()}"))["status"] == "proposed"
    harness.gateway.finalize(built)
    assert (await harness.get(f"/v1/transactions/{tx.hash.hex()}"))["status"] == "final"


async def test_same_envelope_twice_gets_the_first_result(harness: Harness) -> None:
    tx = pay(harness.world)
    assert (await harness.submit(tx))["status"] == "accepted"
    assert (await harness.submit(tx))["status"] == "accepted"
    harness.gateway.produce()
    answer = await harness.submit(tx, status=200)
    assert (answer["status"], answer["code"]) == ("final", "OK")
    assert len(harness.world.executed[-1].transactions) == 1
    await harness.submit(tx, status=200)
    assert harness.world.balance("BRVO/main").posted == 100


async def test_same_id_with_another_body_is_409(harness: Harness) -> None:
    tx = pay(harness.world)
    await harness.submit(tx)
    other = pay(harness.world, 5, tx_id=tx.body.tx_id)
    assert (await harness.submit(other, status=409))["code"] == "ID_REUSED"
    harness.gateway.produce()
    problem = await harness.submit(other, status=409)
    assert problem["code"] == "ID_REUSED"
    assert problem["iso_reason"] == "AM05"


async def test_same_body_with_other_signatures_gets_the_first_result(harness: Harness) -> None:
    world = harness.world
    keys = ["JDCL-a1", "JDCL-a2"]
    tx = world.make(Void(), sender="JDCL/admin", keys=keys)
    again = world.make(
        Void(),
        sender="JDCL/admin",
        keys=["JDCL-a2", "JDCL-a3"],
        tx_id=tx.body.tx_id,
        window=(tx.body.valid_from_ms, tx.body.valid_until_ms),
    )
    assert again.body_hash == tx.body_hash
    assert again.hash != tx.hash
    await harness.submit(tx)
    harness.gateway.produce()
    answer = await harness.submit(again, status=200)
    assert answer["tx_hash"] == tx.hash.hex()


async def test_full_mempool_is_429_with_retry_after(harness: Harness) -> None:
    harness.gateway.room = 1
    await harness.submit(pay(harness.world))
    response = await harness.client.post(
        "/v1/transactions", json={"envelope": encode(pay(harness.world))}
    )
    assert harness.check(response, 429)["code"] == "MEMPOOL_FULL"
    assert response.headers["retry-after"] == "2"


async def test_node_that_looked_at_nothing_is_429_with_the_ids_all_the_same(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = TransactionState(
        b"", TxStatus.REJECTED, code=Code.MEMPOOL_FULL, message="busy", retry_after_ms=1_000
    )

    async def refuse(envelopes: Sequence[bytes]) -> list[TransactionState]:
        await trio.lowlevel.checkpoint()
        return [state for _ in envelopes]

    monkeypatch.setattr(harness.gateway, "submit", refuse)
    txs = [pay(harness.world, n) for n in (1, 2)]
    problem = await harness.submit(*txs, status=429)
    assert [each["tx_hash"] for each in problem["results"]] == [tx.hash.hex() for tx in txs]


async def test_node_that_is_not_ready_is_503_with_retry_after_and_the_ids(
    harness: Harness,
) -> None:
    harness.gateway.state = NodeState.CATCHING_UP
    tx = pay(harness.world)
    response = await harness.client.post("/v1/transactions", json={"envelope": encode(tx)})
    problem = harness.check(response, 503)
    assert (problem["code"], problem["tx_id"]) == ("NOT_READY", tx.body.tx_id.hex())
    assert problem["tx_hash"] == tx.hash.hex()
    assert response.headers["retry-after"] == "1"
    problem = await harness.submit(b"junk", status=503)
    assert (problem["code"], problem["tx_id"]) == ("NOT_READY", None)


async def test_node_too_busy_to_judge_answers_202_unknown_with_ids(
    autojump_clock: trio.testing.MockClock,
) -> None:
    harness = Harness()
    harness.gateway.stall = trio.Event()
    tx = harness.world.make(Void(), sender="ALFA/main")
    answer = await harness.submit(tx)
    assert answer["status"] == "unknown"
    assert answer["tx_hash"] == tx.hash.hex()
    assert answer["tx_id"] == tx.body.tx_id.hex()
    assert "same bytes" in answer["message"]


# ---- what the ledger refuses


def forge(tx: Transaction) -> bytes:
    first, *rest = tx.signatures
    pairs = [(first.key, flip(first.signature)), *((s.key, s.signature) for s in rest)]
    return encode_envelope(tx.body_bytes, pairs)


def resign(body: Body, names: list[str]) -> bytes:
    data = encode_wire(body)
    message = compute_sign_bytes(SignKind.TRANSACTION, body.chain_id, data)
    return encode_envelope(data, [(public(n), key_of(n).sign(message).signature) for n in names])


def refused_envelopes(world: World) -> dict[str, tuple[bytes, int]]:
    now = world.now_ms
    hour = 3_600_000
    tx = pay(world)
    wide = b"\x92\xc5" + len(tx.body_bytes).to_bytes(2, "big")
    assert tx.raw.startswith(b"\x92\xc5") or tx.raw.startswith(b"\x92\xc4")
    made = {
        "BAD_SIGNATURE": (forge(tx), 403),
        "WRONG_CHAIN": (pay(world, chain_id=bytes(32)).raw, 422),
        "EXPIRED": (pay(world, window=(now - 2 * hour, now - hour)).raw, 422),
        "NOT_YET_VALID": (pay(world, window=(now + hour, now + 2 * hour)).raw, 422),
        "WINDOW_INVALID": (pay(world, window=(now, now + 100 * hour)).raw, 422),
        "UNSUPPORTED_VERSION": (pay(world, version=99).raw, 400),
        "NO_OPERATIONS": (world.make(sender="ALFA/main").raw, 422),
        "AMOUNT_RANGE": (pay(world, 0).raw, 422),
        "SAME_ACCOUNT": (
            world.make(transfer("ALFA/main", "ALFA/main", 5), sender="ALFA/main").raw,
            422,
        ),
        "UNKNOWN_ACCOUNT": (world.make(Void(), sender="ALFA/nobody", keys=["ALFA-pay"]).raw, 422),
        "UNINVOLVED_SIGNATURE": (pay(world, keys=["ALFA-pay", "BRVO-pay"]).raw, 403),
        "UNAUTHORISED": (world.make(Void(), sender="JDCL/admin", keys=["JDCL-a1"]).raw, 403),
        "NON_CANONICAL": (wide + tx.raw[2 + (2 if tx.raw[1] == 0xC4 else 3) :], 400),
        "TOO_LARGE": (b"\x92" + bytes(MAX_TRANSACTION_BYTES), 413),
    }
    return {name: made[name] for name in made}


async def test_each_refusal_is_a_problem_with_its_own_code_and_changes_nothing(
    harness: Harness,
) -> None:
    before = harness.world.snapshot()
    for code, (raw, status) in refused_envelopes(harness.world).items():
        problem = await harness.submit(raw, status=status)
        assert problem["code"] == code, (code, problem)
        assert problem["detail"]
    assert harness.gateway.pending == {}
    harness.gateway.produce()
    assert harness.world.snapshot() == before


@pytest.mark.parametrize("amount", [0, -1, -(2**63), 10**18, 2**63 - 1])
async def test_amount_outside_its_range_is_refused(harness: Harness, amount: int) -> None:
    problem = await harness.submit(pay(harness.world, amount), status=422)
    assert problem["code"] == "AMOUNT_RANGE"
    assert str(amount) in problem["detail"]


async def test_too_many_signatures_are_refused(harness: Harness) -> None:
    tx = pay(harness.world)
    pairs = [(bytes([index]) * 32, bytes(64)) for index in range(65)]
    problem = await harness.submit(encode_envelope(tx.body_bytes, pairs), status=422)
    assert problem["code"] == "TOO_MANY_SIGNATURES"


async def test_any_flipped_byte_of_an_envelope_is_refused(harness: Harness) -> None:
    raw = bytearray(pay(harness.world).raw)
    for position in range(0, len(raw), 7):
        flipped = bytes(raw[:position]) + bytes([raw[position] ^ 0x10]) + bytes(raw[position + 1 :])
        response = await harness.client.post("/v1/transactions", json={"envelope": encode(flipped)})
        assert 400 <= response.status_code < 500, (position, response.text)
        assert response.headers["content-type"] == "application/problem+json"
    assert harness.gateway.pending == {}


# ---- batches


async def test_batch_answers_each_envelope_in_order(harness: Harness) -> None:
    world = harness.world
    good, bad, also = pay(world), forge(pay(world)), pay(world)
    answer = await harness.submit(good, bad, also)
    assert [r["status"] for r in answer["results"]] == ["accepted", "rejected", "accepted"]
    assert answer["results"][1]["code"] == "BAD_SIGNATURE"
    assert answer["results"][1]["tx_id"] is not None
    assert answer["results"][2]["tx_hash"] == also.hash.hex()


async def test_batch_with_wait_answers_200_once_all_are_final(harness: Harness) -> None:
    txs = [pay(harness.world) for _ in range(5)]
    async with trio.open_nursery() as nursery:

        async def submit() -> None:
            answer = await harness.submit(*txs, status=200, wait=5)
            assert [r["status"] for r in answer["results"]] == ["final"] * 5

        nursery.start_soon(submit)
        await settle(harness, 5)
        harness.gateway.produce()


async def test_batch_of_nothing_but_refusals_is_not_an_error(harness: Harness) -> None:
    answer = await harness.submit(b"\x00", b"\x01", status=200)
    assert [r["code"] for r in answer["results"]] == ["NON_CANONICAL"] * 2


async def test_batch_that_finds_some_room_says_which_to_send_again(harness: Harness) -> None:
    harness.gateway.room = 1
    body = {"envelopes": [encode(pay(harness.world)) for _ in range(3)]}
    response = await harness.client.post("/v1/transactions", json=body)
    answer = harness.check(response, 202)
    assert [r["code"] for r in answer["results"]] == ["OK", "MEMPOOL_FULL", "MEMPOOL_FULL"]
    assert response.headers["retry-after"] == "2"


async def test_batch_that_finds_no_room_is_429(harness: Harness) -> None:
    harness.gateway.room = 0
    body = {"envelopes": [encode(pay(harness.world)) for _ in range(2)]}
    response = await harness.client.post("/v1/transactions", json=body)
    problem = harness.check(response, 429)
    assert problem["code"] == "MEMPOOL_FULL"
    assert len(problem["results"]) == 2
    assert response.headers["retry-after"] == "2"


async def test_batch_at_the_limit_is_taken_and_one_past_it_is_not(harness: Harness) -> None:
    envelopes = [b"\x00"] * MAX_BATCH_ENVELOPES
    answer = await harness.submit(*envelopes, status=200)
    assert len(answer["results"]) == MAX_BATCH_ENVELOPES
    problem = await harness.submit(*envelopes, b"\x00", status=413)
    assert problem["code"] == "BATCH_TOO_LARGE"
    body = msgspec.msgpack.encode([*envelopes, b"\x00"])
    response = await harness.client.post("/v1/transactions", content=body, headers=MSGPACK)
    assert harness.check(response, 413)["code"] == "BATCH_TOO_LARGE"


async def test_empty_batch_is_refused(harness: Harness) -> None:
    response = await harness.client.post("/v1/transactions", json={"envelopes": []})
    assert harness.check(response, 400)["code"] == "MALFORMED_BODY"


# ---- MessagePack


async def test_msgpack_batch_in_and_out(harness: Harness) -> None:
    txs = [pay(harness.world) for _ in range(2)]
    response = await harness.client.post(
        "/v1/transactions",
        content=msgspec.msgpack.encode([tx.raw for tx in txs]),
        headers={**MSGPACK, "accept": "application/msgpack"},
    )
    assert response.status_code == 202
    assert response.headers["content-type"] == "application/msgpack"
    answer = msgspec.msgpack.decode(response.content)
    assert [r["tx_hash"] for r in answer["results"]] == [tx.hash for tx in txs]


async def test_msgpack_body_may_be_one_envelope_as_it_is(harness: Harness) -> None:
    tx = pay(harness.world)
    response = await harness.client.post("/v1/transactions", content=tx.raw, headers=MSGPACK)
    assert harness.check(response, 202)["tx_hash"] == tx.hash.hex()


async def test_msgpack_batch_of_one_is_answered_as_a_batch(harness: Harness) -> None:
    body = msgspec.msgpack.encode([pay(harness.world).raw])
    response = await harness.client.post("/v1/transactions", content=body, headers=MSGPACK)
    assert len(harness.check(response, 202)["results"]) == 1


# ---- finding


async def test_lookup_by_sender_and_id_takes_hex_and_uuid(harness: Harness) -> None:
    tx = pay(harness.world)
    harness.gateway.run(tx)
    plain = tx.body.tx_id.hex()
    dashed = f"{plain[:8]}-{plain[8:12]}-{plain[12:16]}-{plain[16:20]}-{plain[20:]}"
    for form in (plain, plain.upper(), dashed):
        answer = await harness.get(f"/v1/transactions?sender=ALFA/main&tx_id={form}")
        assert answer["tx_hash"] == tx.hash.hex()


async def test_lookup_of_an_unknown_hash_says_unknown_and_the_time_it_was_read(
    harness: Harness,
) -> None:
    answer = await harness.get(f"/v1/transactions/{'ab' * 32}")
    assert answer["status"] == "unknown"
    assert answer["read_timestamp_ms"] == harness.world.header.timestamp_ms


async def test_lookup_of_an_unused_id_says_unknown_until_its_window_has_passed(
    harness: Harness,
) -> None:
    tx = pay(harness.world)
    query = f"sender=ALFA/main&tx_id={tx.body.tx_id.hex()}"
    assert (await harness.get(f"/v1/transactions?{query}"))["status"] == "unknown"
    query += f"&valid_until_ms={tx.body.valid_until_ms}"
    assert (await harness.get(f"/v1/transactions?{query}"))["status"] == "unknown"
    harness.world.now_ms = tx.body.valid_until_ms + 1
    harness.gateway.produce()
    answer = await harness.get(f"/v1/transactions?{query}&proof=1")
    assert (answer["status"], answer["code"]) == ("expired", "EXPIRED")
    proof = parse_proof(msgspec.json.encode(answer["proof"]))
    verify_proof(proof, compute_trust_root(harness.world.genesis.document))


async def test_pending_transaction_that_missed_its_window_is_expired(harness: Harness) -> None:
    tx = pay(harness.world, window=(0, harness.world.now_ms + 10))
    await harness.submit(tx, status=422)
    tx = pay(harness.world, window=(harness.world.now_ms, harness.world.now_ms + 10))
    await harness.submit(tx)
    harness.world.now_ms += 11
    harness.gateway.produce()
    answer = await harness.get(f"/v1/transactions/{tx.hash.hex()}")
    assert (answer["status"], answer["code"]) == ("expired", "EXPIRED")


async def test_lookup_by_uetr_finds_final_and_pending_oldest_first(harness: Harness) -> None:
    world = harness.world
    uetr = b"\x07" * 16
    ops = [transfer("ALFA/main", "BRVO/main", n, uetr=uetr) for n in (1, 2)]
    first, second = (world.make(op, sender="ALFA/main") for op in ops)
    harness.gateway.run(first)
    await harness.submit(second)
    answer = await harness.get(f"/v1/transactions?uetr={uetr.hex()}")
    found = [(t["tx_hash"], t["status"]) for t in answer["transactions"]]
    assert found == [(first.hash.hex(), "final"), (second.hash.hex(), "accepted")]
    assert answer["read_height"] == world.header.height


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/transactions/zz", "hash"),
        (f"/v1/transactions/{'ab' * 31}", "hash"),
        (f"/v1/transactions/{'ab' * 32}?proof=yes", "proof"),
        (f"/v1/transactions/{'ab' * 32}?prof=1", "prof"),
        (f"/v1/transactions/{'ab' * 32}?proof=1&proof=1", "proof"),
        ("/v1/transactions", "sender"),
        ("/v1/transactions?sender=ALFA/main", "tx_id"),
        ("/v1/transactions?sender=alfa&tx_id=" + "ab" * 16, "sender"),
        ("/v1/transactions?sender=ALFA/main%0A&tx_id=" + "ab" * 16, "sender"),
        ("/v1/transactions?sender=ALFA/main&tx_id=12", "tx_id"),
        ("/v1/transactions?uetr=12", "uetr"),
        ("/v1/transactions?uetr=" + "ab" * 16 + "&sender=ALFA/main", "uetr"),
        ("/v1/transactions/" + "%D9%A0" * 32, "hash"),
    ],
)
async def test_parameter_at_fault_is_named(harness: Harness, path: str, field: str) -> None:
    problem = await harness.get(path, status=400)
    assert problem["code"] == "INVALID_PARAMETER"
    assert problem["field"] == field
    assert problem["detail"].startswith(f"{field}: ")


# ---- proofs


@pytest.mark.parametrize("above", [0, 2])
async def test_receipt_proof_verifies_offline_and_any_changed_byte_does_not(above: int) -> None:
    harness = Harness()
    harness.gateway.fund("ALFA/main", 1_000)
    txs = [pay(harness.world, n) for n in (1, 2, 3)]
    for tx in txs:
        harness.gateway.pending[tx.hash] = tx
    harness.gateway.produce()
    for _ in range(above):
        harness.gateway.produce()
    answer = await harness.get(f"/v1/transactions/{txs[1].hash.hex()}?proof=1")
    document = msgspec.json.encode(answer["proof"])
    trust = compute_trust_root(harness.world.genesis.document)
    verified = verify_proof(parse_proof(document), trust)
    assert isinstance(verified.claim, ReceiptClaim)
    assert verified.claim.transaction.raw == txs[1].raw
    assert verified.block.height == answer["height"]
    assert len(verified.block.signers) == 3


async def test_proof_is_asked_for_and_absent_until_final(harness: Harness) -> None:
    tx = pay(harness.world)
    await harness.submit(tx)
    assert (await harness.get(f"/v1/transactions/{tx.hash.hex()}?proof=1"))["proof"] is None
    harness.gateway.produce()
    assert (await harness.get(f"/v1/transactions/{tx.hash.hex()}"))["proof"] is None
    assert (await harness.get(f"/v1/transactions/{tx.hash.hex()}?proof=1"))["proof"] is not None


async def test_msgpack_proof_is_the_document_that_verifies(harness: Harness) -> None:
    tx = pay(harness.world)
    harness.gateway.run(tx)
    response = await harness.client.get(
        f"/v1/transactions/{tx.hash.hex()}?proof=1", headers={"accept": "application/msgpack"}
    )
    proof = parse_proof(msgspec.msgpack.decode(response.content)["proof"])
    verify_proof(proof, compute_trust_root(harness.world.genesis.document))


# ---- simulating


async def test_simulate_tells_the_receipt_and_changes_nothing(harness: Harness) -> None:
    before = harness.world.snapshot()
    answer = await harness.simulate(pay(harness.world, 100))
    assert (answer["admitted"], answer["code"]) == (True, "OK")
    answer = await harness.simulate(pay(harness.world, 10**9))
    assert (answer["admitted"], answer["code"]) == (True, "INSUFFICIENT_FUNDS")
    assert answer["failed_op"] == 0
    assert answer["iso_reason"] == "AM04"
    assert harness.world.snapshot() == before
    assert harness.gateway.submitted == []


async def test_simulate_names_the_rule_that_refuses_admission(harness: Harness) -> None:
    for code, (raw, _) in refused_envelopes(harness.world).items():
        answer = await harness.simulate(raw)
        assert (answer["admitted"], answer["code"]) == (False, code), answer
        assert answer["message"]


async def test_simulate_takes_exactly_one_envelope(harness: Harness) -> None:
    body = {"envelopes": [encode(pay(harness.world))] * 2}
    response = await harness.client.post("/v1/simulate", json=body)
    assert harness.check(response, 400)["code"] == "MALFORMED_BODY"


# ---- stopping


async def test_stopping_node_answers_waiters_with_the_status_so_far(harness: Harness) -> None:
    tx = pay(harness.world)
    async with trio.open_nursery() as nursery:

        async def submit() -> None:
            answer = await harness.submit(tx, status=202, wait=30)
            assert answer["status"] == "accepted"

        nursery.start_soon(submit)
        await settle(harness, 1)
        await trio.testing.wait_all_tasks_blocked()
        harness.api.stop()


async def test_waiting_requests_do_not_count_as_work() -> None:
    harness = Harness(max_in_flight=1)
    txs = [harness.world.make(Void(), sender="ALFA/main") for _ in range(3)]
    async with trio.open_nursery() as nursery:
        for count, tx in enumerate(txs):
            nursery.start_soon(partial(post, harness, tx))
            await settle(harness, count + 1)
            await trio.testing.wait_all_tasks_blocked()
        harness.gateway.produce()


async def post(harness: Harness, tx: Transaction) -> None:
    response = await harness.client.post(
        "/v1/transactions", json={"envelope": encode(tx)}, headers={"prefer": "wait=9"}
    )
    assert response.status_code == 200, response.text


def test_refused_envelopes_are_what_they_claim() -> None:
    made = refused_envelopes(World())
    with pytest.raises(NonCanonical):
        decode_transaction(made["NON_CANONICAL"][0])
    assert set(made) <= set(Code.__members__)


@pytest.mark.parametrize(
    "body",
    [
        '{"envelope": "AAAA", "envelope": "AAAB"}',
        '{"envelopes": ["AAAA"], "envelopes": ["AAAB"]}',
        '{"envelopes": [], "\\u0065nvelopes": ["AAAB"]}',
    ],
)
async def test_name_given_twice_in_a_body_is_refused(harness: Harness, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    response = await harness.client.post("/v1/transactions", content=body, headers=headers)
    problem = harness.check(response, 400)
    assert problem["code"] == "MALFORMED_BODY"
    assert "given twice" in problem["detail"]
