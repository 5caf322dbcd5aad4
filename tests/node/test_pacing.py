"""Blocks grow under load to what executes in time, and no further."""

from atpar.ledger.limits import MAX_BLOCK_OPS, MAX_OPS_PER_TRANSACTION
from atpar.ledger.transactions import Transaction
from atpar.node.limits import BLOCK_GAP_S, BLOCK_WORK_BUDGET_S, MAX_BLOCK_GAP_S, MIN_PACED_OPS
from atpar.node.pacing import BlockPacer, BlockStopwatch
from tests.node.transactions import make_transaction


def test_nothing_is_held_back_before_anything_was_measured() -> None:
    assert BlockPacer().max_ops == MAX_BLOCK_OPS


def test_a_block_carries_what_fits_into_the_budget() -> None:
    pacer = BlockPacer()
    pacer.note(2_000, 2_000 * 50e-6)
    assert pacer.max_ops == int(BLOCK_WORK_BUDGET_S / 50e-6)


def test_the_newest_block_counts_in_part() -> None:
    pacer = BlockPacer()
    pacer.note(1_000, 0.02)
    before = pacer.max_ops
    pacer.note(1_000, 0.04)
    assert before > pacer.max_ops > before // 2


def test_a_small_block_says_nothing() -> None:
    pacer = BlockPacer()
    pacer.note(MIN_PACED_OPS - 1, 10.0)
    assert pacer.max_ops == MAX_BLOCK_OPS
    pacer.note(MIN_PACED_OPS, 10.0)
    assert pacer.max_ops == MAX_OPS_PER_TRANSACTION


def test_the_largest_transaction_fits_however_slow_the_machine() -> None:
    pacer = BlockPacer()
    pacer.note(1_000, 60.0)
    assert pacer.max_ops == MAX_OPS_PER_TRANSACTION


def test_a_fast_machine_fills_the_largest_block() -> None:
    pacer = BlockPacer()
    pacer.note(50_000, 1e-6)
    assert pacer.max_ops == MAX_BLOCK_OPS


def test_an_instant_block_is_no_division_by_zero() -> None:
    pacer = BlockPacer()
    pacer.note(1_000, 0.0)
    assert pacer.max_ops == MAX_BLOCK_OPS


def test_blocks_follow_at_once_while_they_are_small() -> None:
    pacer = BlockPacer()
    assert pacer.gap_s == 0
    for _ in range(20):
        pacer.note(MIN_PACED_OPS - 1, 0.05, since_s=0.05)
    assert pacer.gap_s == 0


def test_the_gap_grows_with_the_share_of_the_time_that_payments_take_and_goes_again() -> None:
    pacer = BlockPacer()
    for _ in range(40):
        pacer.note(400, 0.02, since_s=0.2)
    assert abs(pacer.gap_s - BLOCK_GAP_S * 0.1) < 0.001
    for _ in range(40):
        pacer.note(4_000, 0.2, since_s=0.1)
    assert pacer.gap_s == MAX_BLOCK_GAP_S
    for _ in range(40):
        pacer.note(3, 0.001, since_s=0.05)
    assert pacer.gap_s < 0.001


def test_the_stopwatch_measures_work_and_what_lies_between() -> None:
    now = [0.0]
    pacer = BlockPacer()
    applied: list[BlockPacer] = []
    watch = BlockStopwatch(pacer, now_s=lambda: now[0], apply=applied.append)
    block: list[Transaction] = [make_transaction(n) for n in range(200)]
    for _ in range(40):
        now[0] += 0.09
        watch.start()
        now[0] += 0.01
        watch.stop(block)
    assert len(applied) == 40
    assert applied[0] is pacer
    assert abs(pacer.gap_s - BLOCK_GAP_S * 0.1) < 0.001
    assert abs(pacer.max_ops - BLOCK_WORK_BUDGET_S / (0.01 / 200)) <= 1
