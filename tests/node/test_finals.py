"""Answers about recent final transactions: whole blocks come in, the oldest make room."""

from types import SimpleNamespace
from typing import Any, cast

from atpar.ledger.codes import Code
from atpar.ledger.receipts import Receipt
from atpar.ledger.transactions import Transaction
from atpar.node.finals import RecentFinals
from atpar.node.gateway import TxStatus
from atpar.node.store import FinalBlock
from tests.ledger.world import World, transfer


def make_block(height: int, txs: list[Transaction], code: Code = Code.OK) -> FinalBlock:
    receipts = [Receipt(tx.hash, tx.body.sender, tx.body.tx_id, code, None) for tx in txs]
    header = SimpleNamespace(height=height, timestamp_ms=1_000 * height)
    block: Any = SimpleNamespace(header=header, transactions=tuple(txs), receipts=tuple(receipts))
    return cast("FinalBlock", block)


def make_payments(count: int) -> list[Transaction]:
    world = World()
    op = transfer("ALFA/main", "BRVO/main", 1)
    return [world.make(op, sender="ALFA/main") for _ in range(count)]


def test_each_transaction_is_found_in_its_block() -> None:
    txs = make_payments(5)
    finals = RecentFinals()
    finals.add(make_block(1, txs[:2]))
    finals.add(make_block(2, []))
    finals.add(make_block(3, txs[2:], Code.INSUFFICIENT_FUNDS))
    for tx, place in zip(txs, [(1, 0), (1, 1), (3, 0), (3, 1), (3, 2)], strict=True):
        state = finals.find(tx.hash)
        assert state is not None
        assert state.placement is not None
        assert (state.placement.height, state.placement.index) == place
        assert (state.status, state.tx_hash, state.tx_id) == (
            TxStatus.FINAL,
            tx.hash,
            tx.body.tx_id,
        )
        assert state.valid_until_ms == tx.body.valid_until_ms
        assert state.code == (Code.OK if place[0] == 1 else Code.INSUFFICIENT_FUNDS)
    assert finals.find(bytes(32)) is None


def test_the_oldest_block_makes_room_at_the_bound() -> None:
    txs = make_payments(5)
    finals = RecentFinals(max_count=4)
    finals.add(make_block(1, txs[:2]))
    finals.add(make_block(2, txs[2:4]))
    assert len(finals) == 4
    assert finals.find(txs[0].hash) is not None
    finals.add(make_block(3, txs[4:]))
    assert len(finals) == 3
    assert finals.find(txs[1].hash) is None
    assert [finals.find(tx.hash) is not None for tx in txs] == [False, False, True, True, True]


def test_a_block_larger_than_the_bound_is_kept_alone() -> None:
    txs = make_payments(4)
    finals = RecentFinals(max_count=2)
    finals.add(make_block(1, txs[:1]))
    finals.add(make_block(2, txs[1:]))
    assert len(finals) == 3
    assert finals.find(txs[0].hash) is None
    assert finals.find(txs[3].hash) is not None
