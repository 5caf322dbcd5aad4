"""Ordered key-value engines under `chain.db`: LevelDB for real, a dictionary for tests and tools.

Both take whole batches, atomically and synced, and read point by point or in key order; nothing
else of LevelDB is used, so the simulator's fake disk and the real one behave alike.
"""

import secrets
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import plyvel

from atpar.ledger.codec import Codec
from atpar.node.errors import DiskFault, StoreCorrupt, StoreError, StoreLocked, StoreMissing
from atpar.node.limits import (
    STORE_BLOCK_CACHE_BYTES,
    STORE_BLOOM_BITS,
    STORE_MAX_OPEN_FILES,
    STORE_MAX_WRITE_BUFFER_BYTES,
    STORE_MIN_WRITE_BUFFER_BYTES,
)

T = TypeVar("T")

Write = tuple[bytes, bytes | None]
"""(key, value), or (key, None) for a deletion."""


class KeyValueReader(Protocol):
    """One consistent version of the contents."""

    def get(self, key: bytes) -> bytes | None:
        """Return the value under a key, or None."""

    def scan(self, prefix: bytes, *, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield (key without the prefix, value) in key order, from `prefix + start` on."""


class KeyValue(KeyValueReader, Protocol):
    """An engine. Reads may come from any thread; one thread at a time writes."""

    def write(self, batch: Iterable[Write]) -> None:
        """Apply a batch, all or nothing, and return once it is on the disk."""

    def snapshot(self) -> KeyValueReader:
        """Return the present version, unaffected by later writes."""

    def close(self) -> None:
        """Release it; further use is an error."""


class LevelKeyValue:
    """LevelDB. Every read checks the stored checksums."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Open the database of a folder; with `create` make one where there is none.

        Raises:
            StoreMissing, StoreLocked, StoreCorrupt, DiskFault
        """
        self.path = path
        if not create and not (path / "CURRENT").exists():
            if path.exists():
                raise self._translate(plyvel.CorruptionError("its file CURRENT is missing"))
            raise StoreMissing(f"{path} does not exist; `atpar node init` makes it")
        try:
            if create:
                path.mkdir(parents=True, exist_ok=True)
            self._db: Any = plyvel.DB(
                str(path),
                create_if_missing=create,
                paranoid_checks=True,
                bloom_filter_bits=STORE_BLOOM_BITS,
                lru_cache_size=STORE_BLOCK_CACHE_BYTES,
                write_buffer_size=draw_write_buffer_bytes(),
                # Hashes, ids and signatures shrink little, and every compaction would pay again.
                compression=None,
                max_open_files=STORE_MAX_OPEN_FILES,
            )
        except (plyvel.Error, OSError) as error:
            raise self._translate(error) from error

    def get(self, key: bytes) -> bytes | None:
        """Return the value under a key, or None."""
        try:
            value: bytes | None = self._db.get(key, verify_checksums=True)
        except (plyvel.Error, OSError) as error:
            raise self._translate(error) from error
        return value

    def scan(self, prefix: bytes, *, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield (key without the prefix, value) in key order, from `prefix + start` on."""
        return _scan_level(self._db, self._translate, prefix, start)

    def write(self, batch: Iterable[Write]) -> None:
        """Apply a batch, all or nothing, and return once it is on the disk.

        Raises:
            DiskFault, StoreCorrupt: nothing of the batch may be relied on.
        """
        pending = self._db.write_batch(sync=True)
        put, delete = pending.put, pending.delete
        for key, value in batch:
            if value is None:
                delete(key)
            else:
                put(key, value)
        try:
            pending.write()
        except (plyvel.Error, OSError) as error:
            raise self._translate(error) from error

    def snapshot(self) -> "LevelSnapshot":
        """Return the present version, unaffected by later writes."""
        return LevelSnapshot(self._db.snapshot(), self._translate)

    def close(self) -> None:
        """Release the database and its lock."""
        self._db.close()

    def _translate(self, error: Exception) -> StoreError | DiskFault:
        cause = error.args[0] if error.args else ""
        text = cause.decode(errors="replace") if isinstance(cause, bytes) else str(error)
        if isinstance(error, plyvel.CorruptionError):
            return StoreCorrupt(
                f"{self.path}: {text}. The disk returned other bytes than were written: check it, "
                "then set this folder aside (but keep votes.journal where it is) and run "
                "`atpar node init` again, so that the node fetches the chain from its peers"
            )
        if "lock" in text.lower():
            return StoreLocked(
                f"{self.path} is open in another process; stop that node first ({text})"
            )
        return DiskFault(f"{self.path}: {text}")


def draw_write_buffer_bytes() -> int:
    """Return how much LevelDB gathers before it writes a table, within bounds.

    All validators write the same. With equal buffers all of them would be busy with the same table
    at the same moment, and no quorum could go on without them.
    """
    spread = STORE_MAX_WRITE_BUFFER_BYTES - STORE_MIN_WRITE_BUFFER_BYTES
    return STORE_MIN_WRITE_BUFFER_BYTES + secrets.randbelow(spread + 1)


class LevelSnapshot:
    """One version of a LevelDB database; freed with the object."""

    def __init__(self, snapshot: Any, translate: Any) -> None:
        self._snapshot = snapshot
        self._translate = translate

    def get(self, key: bytes) -> bytes | None:
        """Return the value under a key, or None."""
        try:
            value: bytes | None = self._snapshot.get(key, verify_checksums=True)
        except (plyvel.Error, OSError) as error:
            raise self._translate(error) from error
        return value

    def scan(self, prefix: bytes, *, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield (key without the prefix, value) in key order, from `prefix + start` on."""
        return _scan_level(self._snapshot, self._translate, prefix, start)


def _scan_level(
    source: Any, translate: Any, prefix: bytes, start: bytes
) -> Iterator[tuple[bytes, bytes]]:
    """Iterate a database or a snapshot; closing the generator frees the iterator."""
    cut = len(prefix)
    try:
        with source.iterator(
            start=prefix + start, stop=compute_end(prefix), verify_checksums=True
        ) as found:
            for key, value in found:
                yield key[cut:], value
    except (plyvel.Error, OSError) as error:
        raise translate(error) from error


def compute_end(prefix: bytes) -> bytes | None:
    """Return the first key after all keys with a prefix, or None if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else None


class MemoryKeyValue:
    """A dictionary with its keys in order."""

    def __init__(self, values: dict[bytes, bytes] | None = None) -> None:
        self.values: dict[bytes, bytes] = {} if values is None else dict(values)
        self._keys = sorted(self.values)

    def get(self, key: bytes) -> bytes | None:
        """Return the value under a key, or None."""
        return self.values.get(key)

    def scan(self, prefix: bytes, *, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield (key without the prefix, value) in key order, from `prefix + start` on."""
        cut = len(prefix)
        end = compute_end(prefix)
        first = bisect_left(self._keys, prefix + start)
        last = len(self._keys) if end is None else bisect_left(self._keys, end)
        for key in self._keys[first:last]:
            yield key[cut:], self.values[key]

    def write(self, batch: Iterable[Write]) -> None:
        """Apply a batch."""
        for key, value in batch:
            if value is None:
                if self.values.pop(key, None) is not None:
                    del self._keys[bisect_left(self._keys, key)]
            else:
                if key not in self.values:
                    insort(self._keys, key)
                self.values[key] = value

    def snapshot(self) -> "MemoryKeyValue":
        """Return a copy."""
        return MemoryKeyValue(self.values)

    def close(self) -> None:
        """Do nothing: the contents are what a disk would hold after the process ended."""


def decode_value(codec: Codec[T], value: bytes) -> T:
    """Return what this node wrote.

    Raises:
        StoreCorrupt: it is no value of that type, so it was damaged.
    """
    try:
        return codec.decode_stored(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreCorrupt(f"chain.db: {codec.name} does not read back: {error}") from error
