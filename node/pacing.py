"""How much a block may carry so that it is built and checked in time: measured, not configured.

A block that takes longer to execute than the leader timer allows is given up by everyone, and the
next one, larger still, as well: a burst would stop the chain. So a leader fills its block only up
to what this machine executes within a budget, as recent blocks showed. While blocks are small they
are never held back, and under load they grow to that size and no further.

Pure: the clock is the caller's.
"""

from collections.abc import Callable, Sequence

from atpar.ledger.limits import MAX_BLOCK_OPS, MAX_OPS_PER_TRANSACTION
from atpar.ledger.transactions import Transaction
from atpar.node.limits import BLOCK_WORK_BUDGET_S, MIN_PACED_OPS, PACER_WEIGHT


class BlockPacer:
    """Learns what an operation costs here and says how many fit into a block."""

    def __init__(
        self, *, budget_s: float = BLOCK_WORK_BUDGET_S, most_ops: int = MAX_BLOCK_OPS
    ) -> None:
        self._budget_s = budget_s
        self._most_ops = most_ops
        self._op_s: float | None = None

    def note(self, ops: int, seconds: float) -> None:
        """Take note of how long a block with so many operations took to build or check."""
        if ops < MIN_PACED_OPS:
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


class BlockStopwatch:
    """Times executions for a pacer and hands on what fits: the executor's `Stopwatch`."""

    def __init__(
        self, pacer: BlockPacer, *, now_s: Callable[[], float], apply: Callable[[int], None]
    ) -> None:
        """`apply` gets the operations that a block may carry, after each execution."""
        self._pacer = pacer
        self._now_s = now_s
        self._apply = apply
        self._started_s = 0.0

    def start(self) -> None:
        """An execution begins."""
        self._started_s = self._now_s()

    def stop(self, transactions: Sequence[Transaction]) -> None:
        """It ended; the block carries these."""
        seconds = self._now_s() - self._started_s
        self._pacer.note(sum(len(tx.body.ops) for tx in transactions), seconds)
        self._apply(self._pacer.max_ops)
