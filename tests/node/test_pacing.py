"""Blocks grow under load to what executes in time, and no further."""

from atpar.ledger.limits import MAX_BLOCK_OPS, MAX_OPS_PER_TRANSACTION
from atpar.node.limits import BLOCK_WORK_BUDGET_S, MIN_PACED_OPS
from atpar.node.pacing import BlockPacer


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
