"""Transaction ids: recorded once, kept for a retention time, forgotten by whole hours.

An id is in the bucket of the hour in which its window ends. The state root covers a bucket by its
count and running hash, so an id costs no update of a tree. A bucket drops in the first block at or
past the end of its hour plus the retention; from then on its ids count as never used. Removing
them from the disk is spread over the blocks that follow.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from atpar.ledger.codec import encode
from atpar.ledger.hashing import HashTag, hash_chain
from atpar.ledger.limits import HOUR_MS, MAX_PURGED_IDS_PER_BLOCK
from atpar.ledger.records import (
    ID_BUCKETS,
    MARK,
    PURGES,
    TX_IDS,
    TX_LISTS,
    IdBucket,
    TxListEntry,
    TxRecord,
    hour_key,
)
from atpar.ledger.state import Overlay, View
from atpar.ledger.transactions import Transaction, id_key
from atpar.ledger.types import ZERO_HASH

EMPTY_BUCKET: Final = IdBucket(0, ZERO_HASH)


class IdLog:
    """Marks the ids of one block's transactions as used, whatever their outcome.

    What each bucket comes to is kept here and written once, by `close`: nothing reads it before.
    """

    __slots__ = ("_buckets", "_height", "_overlay")

    def __init__(self, overlay: Overlay, *, height: int) -> None:
        self._overlay = overlay
        self._height = height
        self._buckets: dict[int, _OpenBucket] = {}

    def record(self, tx: Transaction, index: int) -> None:
        """Mark the id of the transaction at this place in the block as used."""
        body = tx.body
        sender, tx_id, until_ms = body.sender, body.tx_id, body.valid_until_ms
        bucket = self._buckets.get(until_ms // HOUR_MS)
        if bucket is None:
            bucket = self._open(until_ms)
        bucket.entries.append(TxListEntry(sender, tx_id, tx.body_hash, self._height, index))
        record = TxRecord(tx.body_hash, tx.hash, self._height, index, until_ms)
        self._overlay.put(TX_IDS, tx.id_key, record)

    def _open(self, until_ms: int) -> "_OpenBucket":
        key = hour_key(until_ms)
        found = self._overlay.get(ID_BUCKETS, key)
        if found is None:
            # An id counts as used only as long as its hour has a bucket.
            self._overlay.put(ID_BUCKETS, key, EMPTY_BUCKET)
        bucket = self._buckets[until_ms // HOUR_MS] = _OpenBucket(key, found or EMPTY_BUCKET)
        return bucket

    def close(self) -> None:
        """Write what the block's ids add to their buckets."""
        for bucket in self._buckets.values():
            run = tuple(bucket.entries)
            self._overlay.put(TX_LISTS, _run_key(bucket.key, bucket.before.count), run)
            after = extend_bucket(bucket.before, bucket.entries)
            self._overlay.put(ID_BUCKETS, bucket.key, after)


class _OpenBucket:
    """A bucket, and what a block adds to it."""

    __slots__ = ("before", "entries", "key")

    def __init__(self, key: bytes, before: IdBucket) -> None:
        self.key = key
        self.before = before
        self.entries: list[TxListEntry] = []


def extend_bucket(bucket: IdBucket, entries: Sequence[TxListEntry]) -> IdBucket:
    """Return the bucket with more entries in its count and running hash."""
    running = hash_chain(HashTag.BUCKET.value, bucket.running_hash, list(map(encode, entries)))
    return IdBucket(bucket.count + len(entries), running)


def drop_expired_ids(overlay: Overlay, *, now_ms: int, retention_ms: int) -> None:
    """Drop the buckets whose time has come, and remove some entries of dropped ones."""
    for key, _ in overlay.scan(ID_BUCKETS, b""):
        if (int.from_bytes(key, "big") + 1) * HOUR_MS + retention_ms > now_ms:
            break
        overlay.delete(ID_BUCKETS, key)
        overlay.put(PURGES, key, MARK)
    purge = next(overlay.scan(PURGES, b""), None)
    if purge is not None:
        _purge(overlay, purge[0])


def _purge(overlay: Overlay, hour: bytes) -> None:
    left = MAX_PURGED_IDS_PER_BLOCK
    for key, run in _list_first(overlay, hour):
        gone, kept = run[:left], run[left:]
        for entry in gone:
            used = id_key(entry.sender, entry.tx_id)
            record = overlay.get(TX_IDS, used)
            # The id may be in use again, in a bucket that is still retained.
            if record is not None and hour_key(record.valid_until_ms) == hour:
                overlay.delete(TX_IDS, used)
        overlay.delete(TX_LISTS, key)
        left -= len(gone)
        if kept:
            first = int.from_bytes(key[len(hour) :], "big") + len(gone)
            overlay.put(TX_LISTS, _run_key(hour, first), kept)
    if left:
        overlay.delete(PURGES, hour)


def _list_first(overlay: Overlay, hour: bytes) -> list[tuple[bytes, tuple[TxListEntry, ...]]]:
    """Return runs from the front of an hour with as many entries as one block removes, or more."""
    found, entries = [], 0
    for key, run in overlay.scan(TX_LISTS, hour):
        found.append((key, run))
        entries += len(run)
        if entries >= MAX_PURGED_IDS_PER_BLOCK:
            break
    return found


def _run_key(hour: bytes, first: int) -> bytes:
    return hour + first.to_bytes(8, "big")


def list_ids(view: View, hour: bytes) -> Iterator[TxListEntry]:
    """Yield the ids of an hour's bucket, in order."""
    for _, run in view.scan(TX_LISTS, hour):
        yield from run
