"""Transaction ids: retained by hours, dropped whole, removed from the disk a few at a time."""

import pytest

from atpar.ledger import records
from atpar.ledger.codes import Code
from atpar.ledger.context import compute_entry_id
from atpar.ledger.hashing import HashTag
from atpar.ledger.ids import EMPTY_BUCKET, extend_bucket, list_ids
from atpar.ledger.limits import DAY_MS, HOUR_MS
from atpar.ledger.operations import Assign, Freeze, Operation, Propose, Redeem, Void
from atpar.ledger.reads import get_hold, get_tx_record
from atpar.ledger.records import hour_key
from atpar.ledger.types import Direction
from tests.ledger.test_holds import hold_op
from tests.ledger.world import HKD, START_MS, World, make_document, make_params, transfer

RETENTION = 2 * DAY_MS


@pytest.fixture
def world() -> World:
    params = make_params(tx_id_retention_ms=RETENTION, max_window_ms=HOUR_MS)
    return World(make_document(params=params))


def void(world: World, tx_id: bytes, until_ms: int) -> Code:
    first = max(0, until_ms - HOUR_MS)
    tx = world.make(Void(), sender="ALFA/main", tx_id=tx_id, window=(first, until_ms))
    return world.apply(tx)


def test_a_bucket_is_the_running_hash_of_its_list(world: World) -> None:
    until_ms = START_MS + 10
    for number in range(3):
        assert void(world, bytes([number] * 16), until_ms) is Code.OK
    hour = hour_key(until_ms)
    bucket = EMPTY_BUCKET
    for entry in list_ids(world.view, hour):
        bucket = extend_bucket(bucket, [entry])
    assert bucket.count == 3
    assert world.view.get(records.ID_BUCKETS, hour) == bucket


def test_a_block_adds_its_ids_to_the_buckets_of_their_hours_in_order(world: World) -> None:
    untils = [START_MS + 10, START_MS + HOUR_MS - 1, START_MS + HOUR_MS]
    expected: dict[bytes, list[bytes]] = {}
    for block in range(2):
        txs = []
        for number, until_ms in enumerate([*untils, *untils]):
            tx_id = bytes([block, number]) + bytes(14)
            window = (max(0, until_ms - HOUR_MS), until_ms)
            fails = transfer("ALFA/main", "BRVO/main", 1)
            op: Operation = fails if number == 1 else Void()
            txs.append(world.make(op, sender="ALFA/main", tx_id=tx_id, window=window))
            expected.setdefault(hour_key(until_ms), []).append(tx_id)
        codes = world.block(*txs)
        assert codes == [Code.OK, Code.INSUFFICIENT_FUNDS, *[Code.OK] * 4]
    assert len(expected) == 2
    for hour, tx_ids in expected.items():
        entries = list(list_ids(world.view, hour))
        assert [entry.tx_id for entry in entries] == tx_ids
        bucket = EMPTY_BUCKET
        for entry in entries:
            bucket = extend_bucket(bucket, [entry])
        assert world.view.get(records.ID_BUCKETS, hour) == bucket


def test_an_id_counts_once_within_a_block(world: World) -> None:
    """Also the first of its hour, whose bucket the state before the block does not have."""
    window = (START_MS, START_MS + HOUR_MS)
    first, second = (
        world.make(*[Void()] * count, sender="ALFA/main", tx_id=bytes(16), window=window)
        for count in (1, 2)
    )
    assert world.view.get(records.ID_BUCKETS, hour_key(window[1])) is None
    assert world.block(first, second, first) == [Code.OK, Code.ID_REUSED, Code.OK]
    assert world.refusals == [f"id {bytes(16).hex()} was used at height 1"] * 2
    assert len(world.executed[-1].receipts) == 1


def test_an_id_is_retained_for_at_least_the_retention_after_its_window(world: World) -> None:
    tx_id = bytes(16)
    until_ms = START_MS + HOUR_MS - 1
    assert void(world, tx_id, until_ms) is Code.OK
    world.now_ms = START_MS + HOUR_MS + RETENTION - 1
    assert void(world, tx_id, world.now_ms) is Code.ID_REUSED
    assert get_tx_record(world.view, "ALFA/main", tx_id) is not None
    world.now_ms = START_MS + HOUR_MS + RETENTION
    assert void(world, tx_id, world.now_ms) is Code.OK
    assert world.view.get(records.ID_BUCKETS, hour_key(until_ms)) is None


@pytest.mark.parametrize("blocks", [[5], [1, 4], [4, 1], [2, 3], [1] * 5])
def test_ids_of_a_dropped_hour_leave_the_disk_in_the_blocks_that_follow(
    world: World, monkeypatch: pytest.MonkeyPatch, blocks: list[int]
) -> None:
    """As many in each block, however many blocks it took to add them."""
    monkeypatch.setattr("atpar.ledger.ids.MAX_PURGED_IDS_PER_BLOCK", 2)
    window, hour = (START_MS, START_MS + 10), hour_key(START_MS + 10)
    numbers = iter(range(5))
    for count in blocks:
        ids = [bytes([next(numbers)] * 16) for _ in range(count)]
        txs = [world.make(Void(), sender="ALFA/main", tx_id=each, window=window) for each in ids]
        assert world.block(*txs) == [Code.OK] * count
    entries = list(list_ids(world.view, hour))
    assert len(entries) == 5
    world.now_ms = START_MS + HOUR_MS + RETENTION
    for left in (3, 1, 0, 0):
        world.block()
        assert list(list_ids(world.view, hour)) == entries[5 - left :]
        assert len(list(world.view.scan(records.TX_IDS, b""))) == left
    assert not list(world.view.scan(records.TX_LISTS, b""))
    assert not list(world.view.scan(records.PURGES, b""))


def test_an_id_in_use_again_survives_the_removal_of_its_old_entry(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atpar.ledger.ids.MAX_PURGED_IDS_PER_BLOCK", 1)
    until_ms = START_MS + 10
    for number in (0, 1):
        assert void(world, bytes([number] * 16), until_ms) is Code.OK
    world.now_ms = START_MS + HOUR_MS + RETENTION
    reused = bytes([1] * 16)
    assert get_tx_record(world.view, "ALFA/main", reused) is not None
    assert void(world, reused, world.now_ms) is Code.OK
    for _ in range(3):
        world.block()
    record = get_tx_record(world.view, "ALFA/main", reused)
    assert record is not None
    assert record.valid_until_ms == START_MS + HOUR_MS + RETENTION
    assert void(world, reused, world.now_ms + 1) is Code.ID_REUSED


def test_an_id_used_again_does_not_overwrite_what_it_made() -> None:
    """A hold outlives the retention of the id that named it."""
    world = World(make_document(params=make_params(tx_id_retention_ms=RETENTION)))
    world.fund("ALFA/main", 100)
    tx_id = bytes(15) + b"\xff"
    redeem = Redeem(HKD, "ALFA/main", 10, bytes(32))
    freeze = Freeze("DLTA/main", HKD, Direction.BOTH, None, "JDCL/compliance", bytes(32), 0)
    propose = Propose((transfer("CHRL/main", "BRVO/main", 1),), START_MS + 400 * DAY_MS)
    hold = hold_op(world, 5, debtor="ALFA/other", expires_at_ms=START_MS + 400 * DAY_MS)

    def send(op: Operation, sender: str) -> Code:
        window = (world.now_ms - 1, world.now_ms + 1_000)
        return world.apply(world.make(op, sender=sender, tx_id=tx_id, window=window))

    world.fund("ALFA/other", 100)
    steps = [
        (redeem, "ALFA/main"),
        (freeze, "JDCL/compliance"),
        (propose, "CHRL/main"),
        (hold, "ALFA/other"),
    ]
    for op, sender in steps:
        assert send(op, sender) is Code.OK
    world.advance(RETENTION + 2 * HOUR_MS)
    for op, sender in steps:
        assert send(op, sender) is Code.ENTRY_EXISTS
    split = Assign(world_hold(world, "ALFA/other", tx_id), "CHRL/main", 1, None, False)
    tx = world.make(
        split,
        sender="BRVO/main",
        by=["CHRL/main"],
        tx_id=tx_id,
        window=(world.now_ms, world.now_ms + 1_000),
    )
    assert world.apply(tx) is Code.OK
    world.advance(RETENTION + 2 * HOUR_MS)
    tx = world.make(
        split,
        sender="BRVO/main",
        by=["CHRL/main"],
        tx_id=tx_id,
        window=(world.now_ms, world.now_ms + 1_000),
    )
    assert world.apply(tx) is Code.ENTRY_EXISTS


def world_hold(world: World, sender: str, tx_id: bytes) -> bytes:
    hold = compute_entry_id(HashTag.HOLD, sender, tx_id, 0)
    assert get_hold(world.view, hold) is not None
    return hold


def test_several_hours_drop_in_one_block_after_a_long_rest(world: World) -> None:
    for hour in range(3):
        world.now_ms = START_MS + hour * HOUR_MS + 1
        assert void(world, bytes([hour] * 16), world.now_ms) is Code.OK
    world.advance(30 * DAY_MS)
    for _ in range(4):
        world.block()
    assert not list(world.view.scan(records.ID_BUCKETS, b""))
    assert not list(world.view.scan(records.TX_IDS, b""))
    assert world.compute_fresh_root() == world.header.state_root
