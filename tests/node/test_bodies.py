"""Block bodies: bound to their digest, decoded once, and forgotten within bounds."""

import pytest
from msgspec.structs import replace

from atpar.ledger.blocks import Block
from atpar.ledger.codec import encode
from atpar.ledger.execute import Executed
from atpar.ledger.hashing import HashTag, compute_hash
from atpar.ledger.limits import MAX_BLOCK_SIGNATURES
from atpar.ledger.merkle import compute_root
from atpar.ledger.transactions import Transaction, decode_transaction
from atpar.node import bodies
from atpar.node.bodies import Body, BodyCache, VerifiedCache, decode_body
from atpar.node.executor import Executor
from atpar.node.mempool import Mempool
from tests.ledger.world import World, transfer
from tests.node.transactions import make_transaction


def make_block(count: int = 3) -> tuple[World, Executed]:
    world = World()
    world.fund("ALFA/main", 1_000)
    executor = Executor(
        world.backing, chain_id=world.chain_id, header=world.header, digest=world.digest
    )
    payments = [
        world.make(transfer("ALFA/main", "BRVO/main", n + 1), sender="ALFA/main")
        for n in range(count)
    ]
    executed, _ = executor.build(
        parent_digest=world.digest,
        epoch=0,
        view=9,
        timestamp_ms=world.now_ms + 50,
        proposer="ALFA",
        candidates=payments,
    )
    return world, executed


def decode(world: World, block: Block, mempool: Mempool | None = None) -> Body | None:
    return decode_body(encode(block), chain_id=world.chain_id, mempool=mempool or Mempool())


def test_good_block_gives_its_info_and_transactions() -> None:
    world, executed = make_block()
    body = decode(world, executed.block)
    assert body is not None
    assert body.transactions == executed.transactions
    assert body.info.digest == executed.digest
    assert body.info.parent == world.digest
    assert body.info.has_transactions
    assert (body.info.height, body.info.view, body.info.proposer) == (
        executed.header.height,
        9,
        "ALFA",
    )


def test_transactions_that_the_mempool_holds_are_not_decoded_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, executed = make_block()
    mempool = Mempool()
    for tx in executed.transactions:
        mempool.add(tx)

    def refuse(raw: bytes, tx_hash: bytes) -> Transaction:
        raise AssertionError("decoded again")

    monkeypatch.setattr(bodies, "decode_hashed", refuse)
    body = decode(world, executed.block, mempool)
    assert body is not None
    assert body.transactions is not None
    assert all(a is b for a, b in zip(body.transactions, executed.transactions, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        {"chain_id": bytes(32)},
        {"version": 2},
        {"tx_count": 2},
        {"tx_root": bytes(32)},
    ],
)
def test_header_that_does_not_fit_is_no_block(change: dict[str, object]) -> None:
    world, executed = make_block()
    header = replace(executed.header, **change)
    assert decode(world, replace(executed.block, header=header)) is None


def test_other_missing_added_or_reordered_transactions_are_no_block() -> None:
    world, executed = make_block()
    txs = executed.block.transactions
    for wrong in (txs[:2], txs + txs[:1], txs[::-1], (txs[0], txs[0], txs[2]), ()):
        assert decode(world, replace(executed.block, transactions=wrong)) is None


def test_garbage_is_no_block() -> None:
    world, executed = make_block()
    data = encode(executed.block)
    for hostile in (b"", b"\x90", data[:-1], data + b"\0", b"\xdd\xff\xff\xff\xff"):
        assert decode_body(hostile, chain_id=world.chain_id, mempool=Mempool()) is None


def bind(executed: Executed, *raws: bytes) -> Block:
    """Return a block whose header does commit to these envelopes."""
    root = compute_root([compute_hash(HashTag.TX, raw) for raw in raws])
    header = replace(executed.header, tx_count=len(raws), tx_root=root)
    return Block(header, raws)


def test_block_with_an_envelope_that_is_not_canonical_is_a_block_and_invalid() -> None:
    world, executed = make_block()
    body = decode(world, bind(executed, executed.transactions[0].raw, b"garbage"))
    assert body is not None
    assert body.transactions is None


def test_more_signatures_than_a_block_may_have_are_not_even_decoded() -> None:
    world, executed = make_block()
    per_tx = 64
    count = MAX_BLOCK_SIGNATURES // per_tx
    txs = [make_transaction(n, signers=per_tx) for n in range(count)]
    rest = make_transaction(count, signers=MAX_BLOCK_SIGNATURES - count * per_tx or per_tx)
    at_limit = [*txs, rest] if MAX_BLOCK_SIGNATURES % per_tx else txs
    body = decode(world, bind(executed, *(tx.raw for tx in at_limit)))
    assert body is not None
    assert body.transactions is not None
    one_more = [*at_limit, make_transaction(count + 1)]
    body = decode(world, bind(executed, *(tx.raw for tx in one_more)))
    assert body is not None
    assert body.transactions is None


# ---- caches


def make_bodies(count: int) -> list[Body]:
    _, executed = make_block(1)
    template = Body(bodies.describe(executed.header, executed.digest), executed.block, (), 100)
    return [
        Body(
            bodies.describe(executed.header, number.to_bytes(32, "big")),
            template.block,
            (),
            100,
        )
        for number in range(count)
    ]


def test_body_cache_holds_its_bounds_and_drops_the_oldest() -> None:
    many = make_bodies(5)
    for cache in (BodyCache(max_bytes=400, max_count=9), BodyCache(max_bytes=9_999, max_count=4)):
        for body in many[:4]:
            cache.add(body)
        assert (len(cache), cache.bytes) == (4, 400)
        cache.add(many[4])
        assert (len(cache), cache.bytes) == (4, 400)
        assert cache.take(many[0].info.digest) is None
        assert cache.take(many[4].info.digest) is many[4]
        assert (len(cache), cache.bytes) == (3, 300)


def test_body_added_twice_counts_once() -> None:
    (body,) = make_bodies(1)
    cache = BodyCache()
    cache.add(body)
    cache.add(body)
    assert (len(cache), cache.bytes) == (1, body.size)


def test_verified_cache_is_bounded_and_keeps_the_recent() -> None:
    cache = VerifiedCache(max_hashes=10)
    hashes = [number.to_bytes(32, "big") for number in range(40)]
    for tx_hash in hashes:
        cache.add(tx_hash)
        assert tx_hash in cache
        assert len(cache) <= 10
    assert hashes[-1] in cache
    assert hashes[-5] in cache
    assert hashes[0] not in cache


def test_verified_cache_knows_exact_envelopes_not_ids() -> None:
    cache = VerifiedCache()
    good = make_transaction(1, salt=0)
    forged = make_transaction(1, salt=1)
    assert good.body_hash == forged.body_hash
    cache.add(good.hash)
    assert good.hash in cache
    assert forged.hash not in cache
    assert decode_transaction(good.raw).hash in cache


@pytest.mark.parametrize("size", [1, 3, 7])
def test_verified_cache_takes_in_many_as_it_does_one_by_one(size: int) -> None:
    together, singly = VerifiedCache(max_hashes=10), VerifiedCache(max_hashes=10)
    for start in range(0, 60, size):
        hashes = [bytes([n]) * 32 for n in range(start, start + size)]
        together.add_all(hashes)
        for tx_hash in hashes:
            singly.add(tx_hash)
        assert len(together) <= 10
        known = [bytes([n]) * 32 for n in range(start + size)]
        assert [h in together for h in known] == [h in singly for h in known]
        assert all(h in together for h in hashes[-5:])
