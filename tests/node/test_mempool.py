"""The mempool: bounds, deduplication, fairness, and that nothing leaves it unnoticed."""

from hypothesis import given, settings
from hypothesis import strategies as st

from atpar.node.mempool import (
    ENVELOPE_OVERHEAD_BYTES,
    WHOLE_BLOCK,
    Added,
    BlockSpace,
    Mempool,
)
from tests.node.transactions import make_transaction

SIZE = len(make_transaction(0).raw)


def fill(pool: Mempool, sender: str, count: int, *, start: int = 0) -> int:
    """Add up to `count` transactions of a sender; return how many were taken."""
    results = [pool.add(make_transaction(start + i, sender=sender)) for i in range(count)]
    return results.count(Added.ADDED)


def test_add_holds_a_transaction_once() -> None:
    pool = Mempool()
    tx = make_transaction(1)
    assert pool.add(tx) is Added.ADDED
    assert pool.add(tx) is Added.DUPLICATE
    assert (len(pool), pool.bytes, pool.get(tx.hash)) == (1, SIZE, tx)


def test_same_body_with_other_signatures_is_a_duplicate() -> None:
    pool = Mempool()
    pool.add(make_transaction(1))
    assert pool.add(make_transaction(1, salt=1)) is Added.DUPLICATE
    assert len(pool) == 1


def test_same_id_with_another_body_is_refused() -> None:
    pool = Mempool()
    first = make_transaction(1)
    pool.add(first)
    assert pool.add(make_transaction(1, ops=2)) is Added.ID_REUSED
    assert pool.find(first.id_key) is first


def test_same_id_of_another_sender_is_another_transaction() -> None:
    pool = Mempool()
    pool.add(make_transaction(1))
    assert pool.add(make_transaction(1, sender="ALFA/other")) is Added.ADDED


def test_one_participant_fills_half_of_the_count_and_no_more() -> None:
    pool = Mempool(max_count=10)
    assert fill(pool, "ALFA/main", 20) == 5
    assert pool.add(make_transaction(99)) is Added.FULL


def test_one_participant_fills_half_of_the_bytes_and_no_more() -> None:
    at_limit = Mempool(max_bytes=8 * SIZE)
    assert fill(at_limit, "ALFA/main", 20) == 4
    below = Mempool(max_bytes=8 * SIZE - 1)
    assert fill(below, "ALFA/main", 20) == 3


def test_configured_share_is_a_bound_of_its_own() -> None:
    pool = Mempool(max_count=100, share_percent=10)
    assert fill(pool, "ALFA/main", 20) == 10
    by_bytes = Mempool(max_bytes=100 * SIZE, share_percent=10)
    assert fill(by_bytes, "ALFA/main", 20) == 10


def test_a_newcomer_always_finds_room() -> None:
    pool = Mempool(max_count=100)
    taken = [fill(pool, f"{code}/main", 100, start=0) for code in ("AAAA", "BBBB", "CCCC", "DDDD")]
    assert all(count > 0 for count in taken)
    assert len(pool) <= 100


def test_accounts_of_one_participant_share_its_room() -> None:
    pool = Mempool(max_count=10)
    assert fill(pool, "ALFA/a", 3) + fill(pool, "ALFA/b", 20) == 5


def test_has_room_agrees_with_add() -> None:
    pool = Mempool(max_count=10)
    fill(pool, "ALFA/main", 4)
    assert pool.has_room("ALFA/main", SIZE)
    fill(pool, "ALFA/main", 5)
    assert not pool.has_room("ALFA/main", SIZE)
    assert pool.has_room("BRVO/main", SIZE)


def test_take_alternates_between_participants() -> None:
    pool = Mempool()
    fill(pool, "ALFA/main", 6)
    fill(pool, "BRVO/main", 2)
    taken = pool.take(time_ms=0)
    assert [tx.body.sender[:4] for tx in taken] == ["ALFA", "BRVO"] * 2 + ["ALFA"] * 4
    assert [tx.body.tx_id[-1] for tx in taken if tx.body.sender == "ALFA/main"] == list(range(6))
    assert len(pool) == 8


def test_take_starts_with_another_participant_each_time() -> None:
    pool = Mempool()
    fill(pool, "ALFA/main", 2)
    fill(pool, "BRVO/main", 2)
    one = BlockSpace(max_count=1)
    firsts = [pool.take(time_ms=0, space=one)[0].body.sender for _ in range(4)]
    assert firsts == ["ALFA/main", "BRVO/main"] * 2


def test_large_transactions_count_for_more_in_a_block() -> None:
    pool = Mempool()
    for i in range(10):
        pool.add(make_transaction(i, sender="ALFA/main", ops=100))
        for j in range(100):
            pool.add(make_transaction(i * 100 + j, sender="BRVO/main"))
    taken = pool.take(time_ms=0, space=BlockSpace(max_ops=400))
    ops = {"ALFA": 0, "BRVO": 0}
    for tx in taken:
        ops[tx.body.sender[:4]] += len(tx.body.ops)
    assert ops["ALFA"] == 200
    assert ops["BRVO"] >= 150


def test_take_stops_at_each_bound_of_the_block() -> None:
    pool = Mempool()
    fill(pool, "ALFA/main", 10)
    each = SIZE + ENVELOPE_OVERHEAD_BYTES
    for space, count in (
        (BlockSpace(max_count=3), 3),
        (BlockSpace(max_bytes=3 * each), 3),
        (BlockSpace(max_bytes=3 * each - 1), 2),
        (BlockSpace(max_ops=3), 3),
        (BlockSpace(max_signatures=3), 3),
        (BlockSpace(max_count=0), 0),
    ):
        assert len(pool.take(time_ms=0, space=space)) == count


def test_take_passes_over_what_ancestors_carry() -> None:
    pool = Mempool()
    fill(pool, "ALFA/main", 4)
    carried = {tx.hash for tx in pool.take(time_ms=0, space=BlockSpace(max_count=2))}
    rest = pool.take(time_ms=0, exclude=carried)
    assert [tx.body.tx_id[-1] for tx in rest] == [2, 3]
    assert pool.has_pending(time_ms=0, exclude=carried)
    assert not pool.has_pending(time_ms=0, exclude=carried | {tx.hash for tx in rest})


def test_take_passes_over_what_is_outside_its_window() -> None:
    pool = Mempool()
    pool.add(make_transaction(1, valid_from_ms=100, valid_until_ms=200))
    for time_ms, count in ((99, 0), (100, 1), (200, 1), (201, 0)):
        assert len(pool.take(time_ms=time_ms)) == count
        assert pool.has_pending(time_ms=time_ms) is bool(count)


def test_commit_removes_what_the_block_carries() -> None:
    pool = Mempool()
    fill(pool, "ALFA/main", 3)
    first, *rest = pool.take(time_ms=0)
    assert pool.commit([first, make_transaction(77)]) == []
    assert pool.take(time_ms=0) == rest
    assert pool.bytes == 2 * SIZE


def test_commit_returns_envelopes_that_lost_their_id() -> None:
    pool = Mempool()
    held = make_transaction(1)
    pool.add(held)
    assert pool.commit([make_transaction(1, ops=2)]) == [held]
    assert len(pool) == 0


def test_expire_returns_what_can_never_run() -> None:
    pool = Mempool()
    short, long = make_transaction(1, valid_until_ms=100), make_transaction(2, valid_until_ms=200)
    pool.add(short)
    pool.add(long)
    assert pool.expire(100) == []
    assert pool.expire(101) == [short]
    assert pool.add(short) is Added.EXPIRED
    assert pool.take(time_ms=101) == [long]


def test_discard_returns_the_transaction_once() -> None:
    pool = Mempool()
    tx = make_transaction(1)
    pool.add(tx)
    assert pool.discard(tx.hash) is tx
    assert pool.discard(tx.hash) is None
    assert pool.get_participants() == {}


def test_expiry_index_stays_bounded_under_churn() -> None:
    pool = Mempool()
    for number in range(5_000):
        tx = make_transaction(number)
        pool.add(tx)
        pool.commit([tx])
    assert len(pool._expiry) <= 1_100


def test_list_pending_is_bounded() -> None:
    pool = Mempool()
    fill(pool, "ALFA/main", 5)
    assert len(pool.list_pending(limit=3)) == 3
    assert len(pool.list_pending(limit=9)) == 5


SENDERS = ("ALFA/main", "BRVO/main", "CHRL/main")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "commit", "discard", "expire"]),
        st.integers(0, 30),
        st.sampled_from(SENDERS),
        st.integers(1, 4),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_nothing_enters_or_leaves_unnoticed(steps: list[tuple[str, int, str, int]]) -> None:
    pool = Mempool(max_count=12, max_bytes=14 * SIZE)
    model: dict[bytes, int] = {}
    for step, number, sender, ops in steps:
        tx = make_transaction(number, sender=sender, ops=ops, valid_until_ms=number * 10)
        if step == "add":
            if pool.add(tx) is Added.ADDED:
                model[tx.hash] = len(tx.raw)
        elif step == "commit":
            for gone in pool.commit([tx]):
                del model[gone.hash]
            model.pop(tx.hash, None)
        elif step == "discard":
            assert (pool.discard(tx.hash) is None) == (tx.hash not in model)
            model.pop(tx.hash, None)
        else:
            for gone in pool.expire(number):
                del model[gone.hash]
        assert len(pool) == len(model) <= pool.max_count
        assert pool.bytes == sum(model.values()) <= pool.max_bytes
        assert sum(count for count, _ in pool.get_participants().values()) == len(model)
        taken = pool.take(time_ms=0)
        assert {tx.hash for tx in taken} == set(model)


def test_whole_block_space_fits_the_ledgers_limits() -> None:
    pool = Mempool()
    big = [make_transaction(i, ops=1_000) for i in range(60)]
    for tx in big:
        pool.add(tx)
    taken = pool.take(time_ms=0, space=WHOLE_BLOCK)
    assert sum(len(tx.body.ops) for tx in taken) == 50_000


def test_take_fills_a_block_with_no_more_operations_than_execute_in_time() -> None:
    pool = Mempool()
    fill(pool, "ALFA/main", 5)
    assert pool.ops == 5
    pool.block_ops = 3
    taken = pool.take(time_ms=0)
    assert len(taken) == 3
    pool.commit(taken)
    assert pool.ops == 2
