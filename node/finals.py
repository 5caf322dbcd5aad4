"""What the last final blocks did, in memory: answers about recent transactions without the disk.

A block is taken in as a whole, since that happens on the way of every payment: its transactions get
consecutive numbers, and the state of one of them is put together only when somebody asks for it.
"""

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass

from atpar.ledger.blocks import Header
from atpar.ledger.codes import Code
from atpar.ledger.receipts import Receipt
from atpar.node.gateway import Placement, TransactionState, TxStatus
from atpar.node.limits import MAX_RECENT_STATES
from atpar.node.store import FinalBlock


@dataclass(frozen=True, slots=True)
class _Kept:
    """Of one block, what states are made of; not its operations, which can be large."""

    first: int
    """Number of its first transaction."""
    header: Header
    receipts: tuple[Receipt, ...]
    valid_until_ms: tuple[int, ...]


class RecentFinals:
    """The transactions of the last final blocks: the oldest block makes room."""

    def __init__(self, *, max_count: int = MAX_RECENT_STATES) -> None:
        self._max_count = max_count
        self._blocks: deque[_Kept] = deque()
        self._numbers: dict[bytes, int] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, block: FinalBlock) -> None:
        """Take in a final block. The last one is kept whatever its size."""
        transactions = block.transactions
        if not transactions:
            return
        first, self._next = self._next, self._next + len(transactions)
        valid_until_ms = tuple([tx.body.valid_until_ms for tx in transactions])
        self._blocks.append(_Kept(first, block.header, block.receipts, valid_until_ms))
        hashes = [receipt.tx_hash for receipt in block.receipts]
        self._numbers.update(zip(hashes, range(first, self._next), strict=True))
        while len(self._numbers) > self._max_count and len(self._blocks) > 1:
            for receipt in self._blocks.popleft().receipts:
                del self._numbers[receipt.tx_hash]

    def find(self, tx_hash: bytes) -> TransactionState | None:
        """Return the final state of a transaction; None where it is not known here."""
        number = self._numbers.get(tx_hash)
        if number is None:
            return None
        kept = self._blocks[bisect_right(self._blocks, number, key=lambda each: each.first) - 1]
        index = number - kept.first
        return describe_final(
            kept.header, index, kept.receipts[index], valid_until_ms=kept.valid_until_ms[index]
        )


def describe_final(
    header: Header, index: int, receipt: Receipt, *, valid_until_ms: int
) -> TransactionState:
    """Return the state of a transaction that a final block executed."""
    return TransactionState(
        tx_hash=receipt.tx_hash,
        status=TxStatus.FINAL,
        sender=receipt.sender,
        tx_id=receipt.tx_id,
        valid_until_ms=valid_until_ms,
        code=Code(receipt.code),
        placement=Placement(header.height, index, header.timestamp_ms, receipt),
    )
