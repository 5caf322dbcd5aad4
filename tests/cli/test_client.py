"""The Python client: it sends, fails over, and believes nothing but proofs."""

import contextlib
import doctest
from collections.abc import Callable

import httpx
import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

import atpar.cli.client
from atpar.cli.client import (
    AsyncClient,
    Busy,
    Client,
    ClientError,
    Finalized,
    OutcomeUnknown,
    Refused,
    RequestInvalid,
    Unreachable,
)
from atpar.cli.client_core import MAX_ANSWER_BYTES
from atpar.ledger.codes import Code
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.genesis import compute_chain_id
from atpar.ledger.operations import Void
from atpar.ledger.proofs import compute_trust_root, parse_proof, verify_proof
from atpar.ledger.transactions import Transaction
from atpar.node.gateway import NodeState, TxStatus
from atpar.node.problems import ApiCode
from tests.ledger.world import World, key_of, make_document, transfer
from tests.node.api_client import Harness
from tests.node.fake_gateway import FakeGateway

Handler = Callable[[httpx.Request], httpx.Response]
KEYS = [key_of("ALFA-pay")]


class Nodes(httpx.BaseTransport):
    """Several nodes behind one transport: host name -> what it does with a request."""

    def __init__(self, **handlers: Handler) -> None:
        self.handlers = handlers
        self.asked: list[tuple[str, str]] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((request.url.host, f"{request.method} {request.url.path}"))
        request.read()
        return self.handlers[request.url.host](request)


def node(harness: Harness) -> Handler:
    """Return a handler that answers with the API of a harness."""

    def handle(request: httpx.Request) -> httpx.Response:
        async def main() -> httpx.Response:
            return await harness.client.request(
                request.method,
                str(request.url).replace(request.url.host, "node", 1),
                content=request.content,
                headers={k: v for k, v in request.headers.items() if k != "host"},
            )

        answer = trio.run(main)
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    return handle


def refuse_connection(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("connection refused")


def hang_up(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadError("connection reset")


class Clock:
    """Time that passes only while someone sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def read(self) -> float:
        self.now_s += 0.001
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def make_harness() -> Harness:
    harness = Harness()
    harness.gateway.fund("ALFA/main", 1_000)
    harness.gateway.produces_at_once = True
    return harness


def make_client(harness: Harness, **handlers: Handler) -> Client:
    """Return a client of the named nodes; of one good node if none is named."""
    handlers = handlers or {"a": node(harness)}
    clock = Clock()
    return Client(
        [f"http://{name}" for name in handlers],
        genesis=harness.world.genesis.document,
        keys=KEYS,
        transport=Nodes(**handlers),
        get_now_ms=lambda: harness.world.now_ms,
        clock=clock.read,
        sleep=clock.sleep,
    )


def pay(client: Client, amount: int = 10, **kwargs: bytes) -> Transaction:
    return client.make(transfer("ALFA/main", "BRVO/main", amount), sender="ALFA/main", **kwargs)


# ---- the good way


def test_send_returns_a_proven_receipt_whose_stored_bytes_verify() -> None:
    harness = make_harness()
    with make_client(harness) as client:
        tx = pay(client)
        final = client.send(tx)
    assert final.code is Code.OK
    assert final.transaction.raw == tx.raw
    assert final.height == harness.world.header.height
    stored = final.render_proof()
    verify_proof(parse_proof(stored), compute_trust_root(harness.world.genesis.document))
    assert len(final.verified.block.signers) >= final.verified.block.quorum


def test_send_again_returns_the_first_result_and_pays_once() -> None:
    harness = make_harness()
    client = make_client(harness)
    tx = pay(client)
    assert client.send(tx).height == client.send(tx).height
    assert harness.world.balance("BRVO/main").posted == 10


def test_send_many_answers_each_in_order() -> None:
    harness = make_harness()
    client = make_client(harness)
    txs = [pay(client, 10), pay(client, 5_000), pay(client, 0), pay(client, 20)]
    good, poor, wrong, also = client.send_many(txs)
    assert isinstance(good, Finalized)
    assert isinstance(poor, Refused)
    assert (poor.code, poor.is_proven) == ("INSUFFICIENT_FUNDS", True)
    assert isinstance(wrong, Refused)
    assert (wrong.code, wrong.is_proven) == ("AMOUNT_RANGE", False)
    assert isinstance(also, Finalized)
    assert client.send_many([]) == []


def test_more_than_a_batch_is_sent_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atpar.cli.client_core.MAX_BATCH_ENVELOPES", 10)
    harness = make_harness()
    client = make_client(harness)
    harness.gateway.submitted.clear()
    results = client.send_many([client.make(Void(), sender="ALFA/main") for _ in range(21)])
    assert all(isinstance(result, Finalized) for result in results)
    assert [len(batch) for batch in harness.gateway.submitted] == [10, 10, 1]


def test_reads_are_typed() -> None:
    harness = make_harness()
    client = make_client(harness)
    client.send(pay(client))
    account = client.get_account("ALFA/main")
    assert account.balances[0].available == 990
    assert account.policy.threshold == 1
    assert client.get_asset("HKD.JDCL").supply == 1_000
    assert client.get_status().chain_id == harness.world.chain_id
    assert client.get_block().certificate is not None
    assert client.get_block(0).certificate is None
    assert len(client.get_validators().validators) == 4
    entries = client.get_entries("ALFA/main", asset="HKD.JDCL")
    assert [entry.amount for entry in entries.entries] == [1_000, -10]
    assert client.list_redemptions(asset="HKD.JDCL", status="pending").redemptions == ()
    assert client.simulate(pay(client, 10**6)).code == "INSUFFICIENT_FUNDS"
    assert client.submit(pay(client)).status is TxStatus.ACCEPTED


def test_proven_reads_verify_against_the_genesis() -> None:
    harness = make_harness()
    client = make_client(harness)
    assert client.get_proven_balance("ALFA/main", "HKD.JDCL").posted == 1_000
    assert client.get_proven_balance("BRVO/main", "HKD.JDCL").posted == 0
    rows = {row.asset: row for row in client.get_proven_assets("HKD.JDCL")}
    assert rows["HKD.JDCL"].supply == rows["HKD.JDCL"].posted == 1_000


def test_redemption_is_found_by_id() -> None:
    harness = make_harness()
    world = harness.world
    harness.gateway.run(world.make(world_redeem(), sender="ALFA/main"))
    client = make_client(harness)
    (listed,) = client.list_redemptions(asset="HKD.JDCL").redemptions
    assert client.get_redemption(listed.redemption).redemption == listed
    with pytest.raises(RequestInvalid, match="UNKNOWN_REDEMPTION"):
        client.get_redemption(bytes(32))


def world_redeem() -> object:
    from atpar.ledger.operations import Redeem

    return Redeem("HKD.JDCL", "ALFA/main", 100, bytes(32))


def test_fields_of_a_newer_node_are_left_out() -> None:
    harness = make_harness()

    def newer(request: httpx.Request) -> httpx.Response:
        answer = node(harness)(request)
        document = msgspec.json.decode(answer.content)
        document["mood"] = "good"
        for balance in document["balances"]:
            balance["interest"] = "0"
        return httpx.Response(200, json=document)

    assert make_client(harness, a=newer).get_account("ALFA/main").balances[0].posted == 1_000


# ---- failing over


def test_node_that_is_down_is_passed_over_and_the_good_one_preferred_from_then_on() -> None:
    harness = make_harness()
    client = make_client(harness, down=refuse_connection, up=node(harness))
    nodes = client._http._transport
    assert isinstance(nodes, Nodes)
    client.send(pay(client))
    assert [host for host, _ in nodes.asked] == ["down", "up", "up"]
    nodes.asked.clear()
    client.get_status()
    assert [host for host, _ in nodes.asked] == ["up"]


def test_all_nodes_down_is_unreachable_at_once() -> None:
    harness = make_harness()
    client = make_client(harness, a=refuse_connection, b=refuse_connection)
    with pytest.raises(Unreachable, match="refused"):
        client.send(pay(client))
    with pytest.raises(Unreachable):
        client.get_status()
    with pytest.raises(Unreachable):
        client.submit(pay(client))
    with pytest.raises(Unreachable):
        client.find(pay(client))


def test_node_that_hangs_up_after_it_took_the_bytes_pays_once() -> None:
    harness = make_harness()
    good = node(harness)
    failures = iter([True, False])

    def lossy(request: httpx.Request) -> httpx.Response:
        answer = good(request)
        if next(failures, False):
            return hang_up(request)
        return answer

    client = make_client(harness, a=lossy)
    assert client.send(pay(client)).code is Code.OK
    assert harness.world.balance("BRVO/main").posted == 10


def test_silence_after_sending_is_outcome_unknown_with_the_ids() -> None:
    harness = make_harness()
    client = make_client(harness, a=hang_up, b=refuse_connection)
    tx = pay(client)
    with pytest.raises(OutcomeUnknown) as caught:
        client.send(tx, timeout_s=3)
    assert (caught.value.tx_id, caught.value.tx_hash) == (tx.body.tx_id, tx.hash)
    assert caught.value.sender == "ALFA/main"
    assert tx.hash.hex() in str(caught.value)
    with pytest.raises(OutcomeUnknown):
        client.submit(tx)


def test_not_final_in_time_is_outcome_unknown_and_found_later() -> None:
    harness = make_harness()
    harness.gateway.produces_at_once = False
    client = make_client(harness)
    harness.api.context.options = msgspec_replace(harness)
    tx = pay(client)
    with pytest.raises(OutcomeUnknown):
        client.send(tx, timeout_s=0.5)
    assert client.find(tx) is None
    harness.gateway.produce()
    found = client.find(tx)
    assert found is not None
    assert found.code is Code.OK


def msgspec_replace(harness: Harness) -> object:
    import dataclasses

    return dataclasses.replace(harness.api.context.options, max_wait_s=0.01)


def test_busy_nodes_are_asked_again_and_then_reported_as_busy() -> None:
    harness = make_harness()
    harness.gateway.room = 0
    client = make_client(harness)
    with pytest.raises(Busy, match="MEMPOOL_FULL"):
        client.send(pay(client), timeout_s=5)
    assert len(harness.gateway.submitted) > 2
    harness.gateway.state = NodeState.CATCHING_UP
    with pytest.raises(Busy, match="NOT_READY"):
        client.submit(pay(client))


def test_busy_node_that_gets_room_takes_it() -> None:
    harness = make_harness()
    harness.gateway.room = 0
    good, asked = node(harness), []

    def busy_at_first(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        harness.gateway.room = 10 if len(asked) > 2 else 0
        return good(request)

    client = make_client(harness, a=busy_at_first)
    assert client.send(pay(client)).code is Code.OK


def test_access_refused_is_a_fault_of_the_request() -> None:
    def closed(request: httpx.Request) -> httpx.Response:
        document = {"code": ApiCode.UNAUTHENTICATED, "detail": "token", "status": 401}
        return httpx.Response(401, json=document)

    harness = make_harness()
    client = make_client(harness, a=closed)
    with pytest.raises(RequestInvalid, match="UNAUTHENTICATED"):
        client.send(pay(client))
    with pytest.raises(RequestInvalid):
        client.get_status()


# ---- believing nobody


def alter(change: Callable[[dict[str, object]], None], harness: Harness) -> Handler:
    """Return a node that lies: what it answers is changed on the way."""
    good = node(harness)

    def handle(request: httpx.Request) -> httpx.Response:
        answer = good(request)
        document = msgspec.json.decode(answer.content)
        change(document)
        return httpx.Response(answer.status_code, json=document)

    return handle


def drop_proof(document: dict[str, object]) -> None:
    if "proof" in document:
        document["proof"] = None


def claim_success(document: dict[str, object]) -> None:
    """Say that what is not even executed is final."""
    for result in document.get("results", [document]):  # type: ignore[attr-defined]
        result.update(status="final", code="OK", proof=None)


@pytest.mark.parametrize("lie", [drop_proof, claim_success])
def test_finality_without_a_proof_is_not_believed(
    lie: Callable[[dict[str, object]], None],
) -> None:
    harness = make_harness()
    client = make_client(harness, a=alter(lie, harness))
    with pytest.raises(OutcomeUnknown, match="not proven"):
        client.send(pay(client), timeout_s=3)


def test_lying_node_does_not_hide_an_honest_one() -> None:
    harness = make_harness()
    client = make_client(harness, liar=alter(claim_success, harness), b=node(harness))
    assert client.send(pay(client)).code is Code.OK


def test_proof_of_another_transaction_is_not_believed() -> None:
    harness = make_harness()
    client = make_client(harness)
    other = client.send(pay(client, 1))
    stolen = msgspec.json.decode(other.render_proof())

    def swap(document: dict[str, object]) -> None:
        if document.get("proof"):
            document["proof"] = stolen

    client = make_client(harness, a=alter(swap, harness))
    with pytest.raises(OutcomeUnknown, match="another transaction"):
        client.send(pay(client, 2), timeout_s=3)


def test_proof_under_another_genesis_is_not_believed() -> None:
    harness = make_harness()
    client = make_client(harness)
    tx = pay(client)
    client.send(tx)
    other = msgspec.structs.replace(make_document(), name="other-world")
    assert compute_chain_id(other) != harness.world.chain_id
    stranger = Client("http://a", genesis=other, transport=Nodes(a=node(harness)))
    with pytest.raises(ClientError):
        stranger.send(tx, timeout_s=0.1)
    with pytest.raises(ProofInvalid):
        stranger.get_proven_balance("ALFA/main", "HKD.JDCL")


def test_refusal_after_a_node_may_hold_the_bytes_is_not_definitive() -> None:
    harness = make_harness()
    harness.gateway.produces_at_once = False

    def refuse(request: httpx.Request) -> httpx.Response:
        form = {
            "read_height": 0,
            "read_timestamp_ms": 0,
            "status": "rejected",
            "code": "UNAUTHORISED",
            "message": "",
            **dict.fromkeys(
                ("tx_hash", "sender", "tx_id", "valid_until_ms", "height", "receipt"), None
            ),
            "retry_after_ms": None,
            "proof": None,
        }
        return httpx.Response(200, json={"read_height": 0, "results": [form]})

    client = make_client(harness, a=hang_up, b=refuse)
    with pytest.raises(OutcomeUnknown):
        client.send(pay(client), timeout_s=2)
    client = make_client(harness, b=refuse)
    with pytest.raises(Refused) as caught:
        client.send(pay(client), timeout_s=2)
    assert caught.value.code == "UNAUTHORISED"
    assert not caught.value.is_proven


def test_expired_pending_transaction_is_refused_with_a_proof() -> None:
    harness = make_harness()
    harness.gateway.produces_at_once = False
    client = make_client(harness)
    tx = pay(client)
    client.submit(tx)
    with pytest.raises(OutcomeUnknown):
        client.prove_expired(tx)
    harness.world.now_ms = tx.body.valid_until_ms + 1
    harness.gateway.produce()
    harness.gateway.pending.clear()
    assert client.prove_expired(tx).block.timestamp_ms > tx.body.valid_until_ms


def test_transaction_that_expires_while_it_is_sent_is_refused_with_a_proof() -> None:
    harness = make_harness()
    client = make_client(harness)
    tx = pay(client)
    wait_final = harness.gateway.wait_final

    async def wait_too_long(tx_hashes: list[bytes], *, timeout_s: float) -> object:
        harness.world.now_ms = tx.body.valid_until_ms + 1
        return await wait_final(tx_hashes, timeout_s=timeout_s)

    harness.gateway.wait_final = wait_too_long  # type: ignore[method-assign, assignment]
    with pytest.raises(Refused) as caught:
        client.send(tx)
    assert (caught.value.code, caught.value.is_proven) == ("EXPIRED", True)
    assert caught.value.expiry is not None


def test_expiry_without_a_proof_is_not_believed() -> None:
    harness = make_harness()

    def claim_expired(document: dict[str, object]) -> None:
        for result in document.get("results", [document]):  # type: ignore[attr-defined]
            result.update(status="expired", code="EXPIRED", proof=None)

    client = make_client(harness, a=alter(claim_expired, harness))
    with pytest.raises(OutcomeUnknown, match="not proven"):
        client.send(pay(client), timeout_s=2)


def test_expiry_proof_of_another_transaction_is_not_believed() -> None:
    harness = make_harness()
    harness.gateway.produces_at_once = False
    client = make_client(harness)
    tx, other = pay(client), pay(client)
    harness.world.now_ms = tx.body.valid_until_ms + 1
    harness.gateway.produce()
    stolen = msgspec.json.decode(
        node(harness)(
            httpx.Request(
                "GET",
                f"http://a/v1/transactions?sender=ALFA/main&tx_id={other.body.tx_id.hex()}"
                f"&valid_until_ms={other.body.valid_until_ms}&proof=1",
            )
        ).content
    )["proof"]
    assert stolen

    def swap(document: dict[str, object]) -> None:
        document["proof"] = stolen

    assert client.prove_expired(other)
    client = make_client(harness, a=alter(swap, harness))
    with pytest.raises(OutcomeUnknown, match="another transaction"):
        client.prove_expired(tx)


def test_proof_of_another_kind_is_not_believed() -> None:
    harness = make_harness()
    client = make_client(harness)
    solvency = msgspec.json.decode(
        node(harness)(httpx.Request("GET", "http://a/v1/assets/HKD.JDCL?proof=1")).content
    )["proof"]

    def swap(document: dict[str, object]) -> None:
        if "proof" in document:
            document["proof"] = solvency

    liar = make_client(harness, a=alter(swap, harness))
    with pytest.raises(OutcomeUnknown, match="not of a receipt"):
        liar.send(pay(client), timeout_s=2)
    with pytest.raises(ProofInvalid, match="balances"):
        liar.get_proven_balance("ALFA/main", "HKD.JDCL")


def test_reads_fail_over_nodes_that_are_busy_or_gone() -> None:
    def busy(request: httpx.Request) -> httpx.Response:
        return httpx.Response(503, json={"code": "OVERLOADED", "detail": "", "status": 503})

    harness = make_harness()
    client = make_client(harness, a=busy, b=refuse_connection, c=node(harness))
    assert client.get_status().state == "ready"
    client = make_client(harness, a=busy, b=refuse_connection)
    with pytest.raises(Busy):
        client.get_status()


def test_token_is_sent_and_never_shown() -> None:
    harness = make_harness()
    seen: list[str | None] = []

    def note(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization"))
        return node(harness)(request)

    client = Client(
        "http://a",
        genesis=harness.world.genesis.document,
        token="s3cret",
        transport=Nodes(a=note),
    )
    client.get_status()
    assert seen == ["Bearer s3cret"]
    assert "s3cret" not in repr(client)


def test_client_without_nodes_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="nodes"):
        Client([], genesis=make_document())


def test_executed_transaction_cannot_be_proven_expired() -> None:
    harness = make_harness()
    client = make_client(harness)
    tx = pay(client)
    client.send(tx)
    harness.world.now_ms = tx.body.valid_until_ms + 1
    harness.gateway.produce()
    with pytest.raises(OutcomeUnknown):
        client.prove_expired(tx)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, content=b""),
        httpx.Response(200, content=b"<html>proxy</html>"),
        httpx.Response(200, content=b"[" * 100_000),
        httpx.Response(200, content=b"[]"),
        httpx.Response(200, json={}),
        httpx.Response(200, json={"read_height": "x", "results": []}),
        httpx.Response(200, json={"read_height": 1, "results": []}),
        httpx.Response(200, json={"read_height": 1, "results": [{}]}),
        httpx.Response(302, headers={"location": "http://evil/"}),
        httpx.Response(500, content=b"Internal Server Error"),
        httpx.Response(502, json={"status": 502}),
        httpx.Response(503, json={"code": 5, "detail": None}),
    ],
)
def test_answer_that_makes_no_sense_is_no_answer(answer: httpx.Response) -> None:
    harness = make_harness()
    client = make_client(harness, a=lambda _: answer)
    with pytest.raises(OutcomeUnknown):
        client.send(pay(client), timeout_s=1)
    with pytest.raises(Unreachable):
        client.get_status()
    client = make_client(harness, a=lambda _: answer, b=node(harness))
    assert client.send(pay(client)).code is Code.OK


def test_answer_without_end_is_cut() -> None:
    class Endless(httpx.SyncByteStream):
        read = 0

        def __iter__(self):  # type: ignore[no-untyped-def]
            while True:
                self.read += 1
                yield b"x" * 1_048_576

    stream = Endless()
    harness = make_harness()
    client = make_client(harness, a=lambda _: httpx.Response(200, stream=stream))
    with pytest.raises(Unreachable, match="too long"):
        client.get_status()
    assert stream.read <= MAX_ANSWER_BYTES // 1_048_576 + 1


HARNESS = make_harness()
PROVEN = msgspec.json.decode(make_client(HARNESS).send(pay(make_client(HARNESS), 3)).render_proof())


def list_leaves(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    if isinstance(value, dict):
        return [leaf for name, item in value.items() for leaf in list_leaves(item, (*path, name))]
    if isinstance(value, list):
        return [leaf for at, item in enumerate(value) for leaf in list_leaves(item, (*path, at))]
    return [path]


@given(st.sampled_from(list_leaves(PROVEN)), st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_proof_with_any_field_changed_is_not_believed(path: tuple[object, ...], salt: int) -> None:
    document = msgspec.json.decode(msgspec.json.encode(PROVEN))
    parent = document
    for step in path[:-1]:
        parent = parent[step]
    old = parent[path[-1]]
    if isinstance(old, str) and old:
        at = salt % len(old)
        parent[path[-1]] = old[:at] + ("0" if old[at] != "0" else "1") + old[at + 1 :]
    else:
        parent[path[-1]] = salt + 1_000_000
    trust = compute_trust_root(HARNESS.world.genesis.document)
    with contextlib.suppress(ProofInvalid):
        verify_proof(parse_proof(msgspec.json.encode(document)), trust)
        raise AssertionError(path)


# ---- without an event loop's thread


async def test_async_client_does_the_same() -> None:
    harness = Harness(FakeGateway(World()))
    harness.gateway.fund("ALFA/main", 1_000)
    harness.gateway.produces_at_once = True
    async with AsyncClient(
        "http://node",
        genesis=harness.world.genesis.document,
        keys=KEYS,
        transport=httpx.ASGITransport(harness.api.app),
        get_now_ms=lambda: harness.world.now_ms,
    ) as client:
        tx = client.make(transfer("ALFA/main", "BRVO/main", 7), sender="ALFA/main")
        assert (await client.submit(tx)).status is TxStatus.ACCEPTED
        assert (await client.send(tx)).code is Code.OK
        assert await client.find(tx) is not None
        poor = client.make(transfer("ALFA/main", "BRVO/main", 7_000), sender="ALFA/main")
        with pytest.raises(Refused, match="INSUFFICIENT_FUNDS"):
            await client.send(poor)
        assert (await client.get_account("BRVO/main")).balances[0].posted == 7
        assert (await client.get_asset("HKD.JDCL")).supply == 1_000
        assert (await client.get_status()).read_height == harness.world.header.height


def test_examples_in_the_documentation_run() -> None:
    assert doctest.testmod(atpar.cli.client).failed == 0
