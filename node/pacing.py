"""How much a block may carry and how soon the next may follow: measured, not configured.

A block that takes longer to execute than the leader timer allows is given up by everyone, and the
next one, larger still, as well: a burst would stop the chain. So a leader fills its block only up
to what this machine executes within a budget, as recent blocks showed. While blocks are small they
are never held back, and under load they grow to that size and no further.

A block also costs every validator some ten milliseconds before its first payment: messages, fsyncs,
a commit. On a machine with little to do that is nobody's loss. Once the payments in blocks take a
notable share of the time, blocks that follow each other as fast as they can take it away from the
payments; so the gap between two grows with that share, to a bound below the leader timer. The
validator applies it, and cuts it to half of that timer where the timer is configured to be short.

Pure: the clock is the caller's.
"""

from collections.abc import Callable, Sequence
from math import inf
from typing import Final

from atpar.ledger.limits import MAX_BLOCK_OPS, MAX_OPS_PER_TRANSACTION
from atpar.ledger.transactions import Transaction
from atpar.node.limits import (
    BLOCK_GAP_S,
    BLOCK_WORK_BUDGET_S,
    MAX_BLOCK_GAP_S,
    MIN_PACED_OPS,
    PACER_WEIGHT,
)

_LEAST_S: Final = 1e-9


class BlockPacer:
    """Learns what an operation costs here and says how many fit into a block."""

    def __init__(
        self, *, budget_s: float = BLOCK_WORK_BUDGET_S, most_ops: int = MAX_BLOCK_OPS
    ) -> None:
        self._budget_s = budget_s
        self._most_ops = most_ops
        self._op_s: float | None = None
        self._share = 0.0

    def note(self, ops: int, seconds: float, *, since_s: float = inf) -> None:
        """Take note of how long a block with so many operations took to build or check.

        `since_s`: how long ago the one before ended.
        """
        is_small = ops < MIN_PACED_OPS
        share = 0.0 if is_small else min(1.0, seconds / max(since_s, seconds, _LEAST_S))
        self._share += PACER_WEIGHT * (share - self._share)
        if is_small:
            return
        sample = seconds / ops
        before = sample if self._op_s is None else self._op_s
        self._op_s = before + PACER_WEIGHT * (sample - before)

    @property
    def max_ops(self) -> int:
        """Operations that a block may carry; always enough for the largest transaction."""
        if not self._op_s:
            return self._most_ops
        return max(MAX_OPS_PER_TRANSACTION, min(self._most_ops, int(self._budget_s / self._op_s)))

    @property
    def gap_s(self) -> float:
        """How long after its work on the last block a leader builds the next; zero at low load."""
        return min(MAX_BLOCK_GAP_S, BLOCK_GAP_S * self._share)


class BlockStopwatch:
    """Times executions for a pacer and hands on what fits: the executor's `Stopwatch`."""

    def __init__(
        self, pacer: BlockPacer, *, now_s: Callable[[], float], apply: Callable[[BlockPacer], None]
    ) -> None:
        """`apply` is called with the pacer after each execution."""
        self._pacer = pacer
        self._now_s = now_s
        self._apply = apply
        self._started_s = 0.0
        self._ended_s = -inf

    def start(self) -> None:
        """An execution begins."""
        self._started_s = self._now_s()

    def stop(self, transactions: Sequence[Transaction]) -> None:
        """It ended; the block carries these."""
        now_s = self._now_s()
        ops = sum(len(tx.body.ops) for tx in transactions)
        self._pacer.note(ops, now_s - self._started_s, since_s=now_s - self._ended_s)
        self._ended_s = now_s
        self._apply(self._pacer)
