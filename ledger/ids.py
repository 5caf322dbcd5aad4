"""Transaction ids: recorded once, kept for a retention time, forgotten by whole hours.

An id is in the bucket of the hour in which its window ends. The state root covers a bucket by its
count and running hash, so an id costs no update of a tree. A bucket drops in the first block at or
past the end of its hour plus the retention; from then on its ids count as never used. Removing
them from the disk is spread over the blocks that follow.
"""

from hashlib import sha256
from typing import Final

from atpar.ledger.codec import encode
from atpar.ledger.hashing import HashTag
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
    tx_key,
)
from atpar.ledger.state import Overlay
from atpar.ledger.transactions import Transaction
from atpar.ledger.types import ZERO_HASH

EMPTY_BUCKET: Final = IdBucket(0, ZERO_HASH)
_BUCKET_PREFIX: Final = HashTag.BUCKET.value


def record_id(overlay: Overlay, tx: Transaction, *, height: int, index: int) -> None:
    """Mark a transaction's id as used, whatever its outcome."""
    body = tx.body
    hour = hour_key(body.valid_until_ms)
    bucket = overlay.get(ID_BUCKETS, hour) or EMPTY_BUCKET
    entry = TxListEntry(body.sender, body.tx_id, tx.body_hash, height, index)
    overlay.put(ID_BUCKETS, hour, extend_bucket(bucket, entry))
    overlay.put(TX_LISTS, hour + bucket.count.to_bytes(8, "big"), entry)
    record = TxRecord(tx.body_hash, tx.hash, height, index, body.valid_until_ms)
    overlay.put(TX_IDS, f"{body.sender}|".encode() + body.tx_id, record)


def extend_bucket(bucket: IdBucket, entry: TxListEntry) -> IdBucket:
    """Return the bucket with one more entry in its count and running hash."""
    running = sha256(_BUCKET_PREFIX + bucket.running_hash + encode(entry)).digest()
    return IdBucket(bucket.count + 1, running)


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
    removed = 0
    for key, entry in list(_first(overlay, hour)):
        used = tx_key(entry.sender, entry.tx_id)
        record = overlay.get(TX_IDS, used)
        # The id may be in use again, in a bucket that is still retained.
        if record is not None and hour_key(record.valid_until_ms) == hour:
            overlay.delete(TX_IDS, used)
        overlay.delete(TX_LISTS, key)
        removed += 1
    if removed < MAX_PURGED_IDS_PER_BLOCK:
        overlay.delete(PURGES, hour)


def _first(overlay: Overlay, hour: bytes) -> list[tuple[bytes, TxListEntry]]:
    found = []
    for entry in overlay.scan(TX_LISTS, hour):
        found.append(entry)
        if len(found) == MAX_PURGED_IDS_PER_BLOCK:
            break
    return found
