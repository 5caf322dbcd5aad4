"""Transaction ids: recorded once, kept for a retention time, forgotten by whole hours.

An id is in the bucket of the hour in which its window ends. The state root covers a bucket by its
count and running hash, so an id costs no update of a tree. A bucket drops in the first block at or
past the end of its hour plus the retention; from then on its ids count as never used. Removing
them from the disk is spread over the blocks that follow.
"""

from collections.abc import Callable, Iterator, Sequence
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
from atpar.ledger.state import Overlay, Reader, View
from atpar.ledger.transactions import Transaction, id_key
from atpar.ledger.types import ZERO_HASH

EMPTY_BUCKET: Final = IdBucket(0, ZERO_HASH)


def find_tx_record(view: View, key: bytes) -> TxRecord | None:
    """Return which transaction used an id (`id_key`), as long as ids of its hour are retained."""
    record = view.get(TX_IDS, key)
    return record if record is not None and _is_retained(view, record) else None


def make_finder(view: View) -> Callable[[bytes], int | None]:
    """Return what tells at which height an id was used, by its key, for one block or moment."""
    read = Reader(view, TX_IDS).read

    def find(key: bytes) -> int | None:
        record = read(key)
        return record.height if record is not None and _is_retained(view, record) else None

    return find


def _is_retained(view: View, record: TxRecord) -> bool:
    return view.get(ID_BUCKETS, hour_key(record.valid_until_ms)) is not None


class IdLog:
    """Marks the ids of one block's transactions as used, whatever their outcome.

    They are kept here, and written once, by `close`.
    """

    __slots__ = ("_find_before", "_height", "_overlay", "_used")

    def __init__(self, overlay: Overlay, *, height: int) -> None:
        self._overlay = overlay
        self._height = height
        self._used: dict[bytes, Transaction] = {}
        """Id key -> transaction, in the order of the block."""
        # What this overlay itself deletes is of hours that are not retained.
        self._find_before = make_finder(overlay)

    def find(self, key: bytes) -> int | None:
        """Return at which height an id was used, by this block or before, or None."""
        if key in self._used:
            return self._height
        return self._find_before(key)

    def record(self, tx: Transaction) -> None:
        """Mark the id of the block's next transaction as used."""
        self._used[tx.id_key] = tx

    def close(self) -> None:
        """Write the block's ids, and what they add to the buckets of their hours."""
        height, hours = self._height, dict[int, list[TxListEntry]]()
        records: dict[bytes, TxRecord] = {}
        for index, (key, tx) in enumerate(self._used.items()):
            body, body_hash = tx.body, tx.body_hash
            until_ms = body.valid_until_ms
            records[key] = TxRecord(body_hash, tx.hash, height, index, until_ms)
            hour = until_ms // HOUR_MS
            if hour not in hours:
                hours[hour] = []
            hours[hour].append(TxListEntry(body.sender, body.tx_id, body_hash, height, index))
        self._overlay.put_all(TX_IDS, records)
        for hour, entries in hours.items():
            self._extend(hour_key(hour * HOUR_MS), entries)

    def _extend(self, hour: bytes, entries: list[TxListEntry]) -> None:
        bucket = self._overlay.get(ID_BUCKETS, hour) or EMPTY_BUCKET
        self._overlay.put(TX_LISTS, _run_key(hour, bucket.count), tuple(entries))
        self._overlay.put(ID_BUCKETS, hour, extend_bucket(bucket, entries))


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
