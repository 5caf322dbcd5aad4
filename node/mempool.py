"""Admitted transactions that wait for a block: bounded, deduplicated, taken fairly.

A pure class with no clock and no I/O, so that the simulator drives the very code that runs in the
node. It holds only transactions whose signatures and authorisation were checked; it knows nothing
of blocks. Whoever builds one passes the hashes that the parent's speculative ancestors already
carry, so a dropped block needs no undo here: nothing leaves the pool but by `commit`, `expire` or
`discard`, and each returns what left, so that no transaction is lost without somebody knowing.

**Fairness.** Space: a participant may fill no more than what would still be free afterwards (the
dynamic threshold of shared-memory switches), so k greedy participants hold at most 1/(k+1) of the
pool each and a newcomer always finds room. Blocks: the next transaction is always taken from the
participant that has used the least of the block so far, where use is the largest of its shares of
bytes, operations and signatures. With transactions of one size that is round-robin.

Source: Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches";
Ghodsi et al., "Dominant Resource Fairness".
"""

import heapq
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Final

from atpar.ledger.limits import (
    MAX_BLOCK_BYTES,
    MAX_BLOCK_OPS,
    MAX_BLOCK_SIGNATURES,
    MAX_BLOCK_TRANSACTIONS,
)
from atpar.ledger.transactions import Transaction
from atpar.ledger.types import participant_of
from atpar.node.limits import (
    CLIENT_BACKLOG_BLOCKS,
    MAX_REMEMBERED_SENDERS,
    MEMPOOL_MAX_BYTES,
    MEMPOOL_MAX_TRANSACTIONS,
    MEMPOOL_SHARE_PERCENT,
)

ENVELOPE_OVERHEAD_BYTES: Final = 5
"""Most bytes that the codec puts before an envelope inside a block."""
HEADER_BYTES: Final = 1_024
"""Bytes of a block kept free for its header and the codec's framing."""
_participant_of: Final = lru_cache(maxsize=MAX_REMEMBERED_SENDERS)(participant_of)
"""`participant_of` for the way of every payment, which asks for its sender's three times."""
_SCALE: Final = 1 << 48
_COMPACT_SLACK: Final = 1_024
"""Stale expiry entries tolerated before the heap is rebuilt."""


class Added(Enum):
    """What `Mempool.add` did."""

    ADDED = "added"
    DUPLICATE = "duplicate"
    """This envelope, or another envelope of the same body, is already here."""
    ID_REUSED = "id_reused"
    """The sender's id is already here with another body."""
    FULL = "full"
    """No room, for anybody or for this participant. Try again later."""
    EXPIRED = "expired"
    """A final block's time has passed `valid_until_ms`: it can never run."""


@dataclass(frozen=True, slots=True)
class BlockSpace:
    """How much `Mempool.take` may take."""

    max_bytes: int = MAX_BLOCK_BYTES - HEADER_BYTES
    max_count: int = MAX_BLOCK_TRANSACTIONS
    max_ops: int = MAX_BLOCK_OPS
    max_signatures: int = MAX_BLOCK_SIGNATURES


WHOLE_BLOCK: Final = BlockSpace()


@dataclass(slots=True)
class _Lane:
    """One participant's transactions, oldest first (dictionaries keep insertion order)."""

    transactions: dict[bytes, Transaction] = field(default_factory=dict)
    bytes: int = 0


class Mempool:
    """Transactions that wait for a block. Owned by one task; never blocks, never raises."""

    def __init__(
        self,
        *,
        max_bytes: int = MEMPOOL_MAX_BYTES,
        max_count: int = MEMPOOL_MAX_TRANSACTIONS,
        share_percent: int = MEMPOOL_SHARE_PERCENT,
    ) -> None:
        self.max_bytes = max_bytes
        self.max_count = max_count
        self.share_percent = share_percent
        """Most of the pool that one participant may fill, however empty the rest is."""
        self.bytes = 0
        """Envelope bytes held."""
        self.ops = 0
        """Operations held."""
        self.block_ops = MAX_BLOCK_OPS
        """Operations that `take` puts into one block: what executes in time, see `pacing`."""
        self.final_time_ms = 0
        """Time of the last final block seen by `expire`: what it passed cannot run any more."""
        self._by_hash: dict[bytes, Transaction] = {}
        self._by_id: dict[bytes, Transaction] = {}
        self._lanes: dict[str, _Lane] = {}
        self._expiry: list[tuple[int, bytes]] = []
        self._turn = 0
        self._lane_bytes = max_bytes * share_percent // 100
        self._lane_count = max_count * share_percent // 100

    def __len__(self) -> int:
        return len(self._by_hash)

    def __contains__(self, tx_hash: object) -> bool:
        return tx_hash in self._by_hash

    def get(self, tx_hash: bytes) -> Transaction | None:
        """Return the transaction with this envelope hash, or None."""
        return self._by_hash.get(tx_hash)

    def find(self, key: bytes) -> Transaction | None:
        """Return the transaction that holds a sender's id (`transactions.id_key`), or None."""
        return self._by_id.get(key)

    def get_participants(self) -> dict[str, tuple[int, int]]:
        """Return participant -> (transactions, bytes) held for it."""
        return {code: (len(lane.transactions), lane.bytes) for code, lane in self._lanes.items()}

    def add(self, tx: Transaction) -> Added:
        """Hold a transaction whose signatures and authorisation the caller has checked.

        Anything but ADDED leaves the pool as it was.
        """
        body, size = tx.body, len(tx.raw)
        holder = self._by_id.get(tx.id_key)
        if holder is not None:
            same = holder.body_hash == tx.body_hash
            return Added.DUPLICATE if same else Added.ID_REUSED
        if body.valid_until_ms < self.final_time_ms:
            return Added.EXPIRED
        if not self.has_room(body.sender, size):
            return Added.FULL
        code = _participant_of(body.sender)
        lane = self._lanes.get(code)
        if lane is None:
            lane = self._lanes[code] = _Lane()
        lane.transactions[tx.hash] = tx
        lane.bytes += size
        self.bytes += size
        self.ops += len(body.ops)
        self._by_hash[tx.hash] = tx
        self._by_id[tx.id_key] = tx
        heapq.heappush(self._expiry, (body.valid_until_ms, tx.hash))
        return Added.ADDED

    def has_room(self, sender: str, size: int) -> bool:
        """Return whether `add` would take an envelope of this many bytes from an account.

        Asked before signatures are checked, so that a full pool costs no verification.
        """
        lane = self._lanes.get(_participant_of(sender))
        if lane is None:
            count, after = 1, size
        else:
            count, after = len(lane.transactions) + 1, lane.bytes + size
        return (
            after <= self.max_bytes - self.bytes - size
            and after <= self._lane_bytes
            and count <= self.max_count - len(self._by_hash) - 1
            and count <= self._lane_count
        )

    @property
    def is_backlogged(self) -> bool:
        """Whether more is pending than the next few blocks carry: clients had better wait."""
        return self.ops >= CLIENT_BACKLOG_BLOCKS * self.block_ops

    def take(
        self,
        *,
        time_ms: int,
        space: BlockSpace = WHOLE_BLOCK,
        exclude: Container[bytes] = (),
    ) -> list[Transaction]:
        """Return what the next block should carry, in order, without removing anything.

        Args:
            time_ms: the block's timestamp; transactions outside their window are passed over.
            space: what the block has room for.
            exclude: envelope hashes that unfinalised ancestors of the block already carry.
        """
        taken: list[Transaction] = []
        bytes_left, count_left = space.max_bytes, space.max_count
        ops_left, signatures_left = min(space.max_ops, self.block_ops), space.max_signatures
        # What one of each uses of the block, and how much is used by whom: the least user is next.
        byte_use, op_use = _SCALE // max(space.max_bytes, 1), _SCALE // max(space.max_ops, 1)
        signature_use = _SCALE // max(space.max_signatures, 1)
        count_use = _SCALE // max(space.max_count, 1)
        lanes = self._rotate()
        ready = [(0, rank) for rank in range(len(lanes))]
        while ready and count_left > 0:
            used, rank = ready[0]
            tx = _find_runnable(lanes[rank], time_ms, exclude)
            if tx is None:
                heapq.heappop(ready)
                continue
            size = len(tx.raw) + ENVELOPE_OVERHEAD_BYTES
            ops, signatures = len(tx.body.ops), len(tx.signatures)
            if size > bytes_left or ops > ops_left or signatures > signatures_left:
                # Its turn comes first in a later block; the others may still have smaller ones.
                heapq.heappop(ready)
                continue
            taken.append(tx)
            bytes_left -= size
            ops_left -= ops
            signatures_left -= signatures
            count_left -= 1
            use = max(size * byte_use, ops * op_use, signatures * signature_use, count_use)
            heapq.heapreplace(ready, (used + use, rank))
        return taken

    def has_pending(self, *, time_ms: int, exclude: Container[bytes] = ()) -> bool:
        """Return whether `take` would return anything for a block of this time.

        Looks at the newest first: what blocks under way carry has been here for longer.
        """
        return _find_runnable(reversed(self._by_hash.values()), time_ms, exclude) is not None

    def commit(self, transactions: Iterable[Transaction]) -> list[Transaction]:
        """Remove what a final block carries.

        Returns:
            Transactions that were removed too although no block carries them: another envelope
            with the same sender and id is final, so they can never run.
        """
        displaced = []
        for tx in transactions:
            holder = self._by_id.get(tx.id_key)
            if holder is not None:
                self._remove(holder)
                if holder is not tx and holder.hash != tx.hash:
                    displaced.append(holder)
        self._compact()
        return displaced

    def discard(self, tx_hash: bytes) -> Transaction | None:
        """Remove and return one transaction that can never enter a block, or None."""
        tx = self._by_hash.get(tx_hash)
        if tx is not None:
            self._remove(tx)
            self._compact()
        return tx

    def expire(self, final_time_ms: int) -> list[Transaction]:
        """Remove and return everything whose window ended before the time of a final block."""
        self.final_time_ms = max(self.final_time_ms, final_time_ms)
        expired = []
        while self._expiry and self._expiry[0][0] < self.final_time_ms:
            _, tx_hash = heapq.heappop(self._expiry)
            tx = self._by_hash.get(tx_hash)
            if tx is not None:
                self._remove(tx)
                expired.append(tx)
        return expired

    def list_pending(self, *, limit: int) -> list[Transaction]:
        """Return the oldest transactions, at most `limit`: what to offer a peer that returns."""
        return [tx for _, tx in zip(range(limit), self._by_hash.values(), strict=False)]

    def _rotate(self) -> list[Iterator[Transaction]]:
        """Return the lanes, starting one further at each call: no code is first for ever."""
        lanes = [iter(lane.transactions.values()) for lane in self._lanes.values()]
        if lanes:
            start = self._turn % len(lanes)
            self._turn += 1
            lanes = lanes[start:] + lanes[:start]
        return lanes

    def _remove(self, tx: Transaction) -> None:
        body, size = tx.body, len(tx.raw)
        del self._by_hash[tx.hash]
        del self._by_id[tx.id_key]
        code = _participant_of(body.sender)
        lane = self._lanes[code]
        del lane.transactions[tx.hash]
        lane.bytes -= size
        self.bytes -= size
        self.ops -= len(body.ops)
        if not lane.transactions:
            del self._lanes[code]

    def _compact(self) -> None:
        """Rebuild the expiry heap once most of it names transactions that have left."""
        if len(self._expiry) > 2 * len(self._by_hash) + _COMPACT_SLACK:
            self._expiry = [(tx.body.valid_until_ms, tx.hash) for tx in self._by_hash.values()]
            heapq.heapify(self._expiry)


def _find_runnable(
    transactions: Iterator[Transaction], time_ms: int, exclude: Container[bytes]
) -> Transaction | None:
    """Return the next transaction that a block of this time may carry, or None."""
    for tx in transactions:
        body = tx.body
        if body.valid_from_ms <= time_ms <= body.valid_until_ms and tx.hash not in exclude:
            return tx
    return None
