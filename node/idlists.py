"""The lists of used transaction ids on the disk: one record for what a block adds to an hour.

The ledger keeps one entry per transaction (section TX_LISTS: hour, position in the hour). Entries
are only ever added at the end of an hour's list, read in order, and removed from its front once the
hour is dropped. So a record holds a run of entries under the place of its first, and a block of a
thousand payments writes one instead of a thousand.
"""

from collections.abc import Iterator, Mapping
from heapq import merge
from typing import Any, Final

from atpar.ledger.codec import Codec, encode
from atpar.ledger.limits import MAX_BLOCK_TRANSACTIONS
from atpar.ledger.records import TX_LISTS, TxListEntry
from atpar.node.kv import KeyValueReader, Write, decode_value

SPACE: Final = b"s" + bytes((TX_LISTS.id,))
_HOUR_BYTES: Final = 8
_PLACE_BYTES: Final = 8
_RUN: Final = Codec[tuple[TxListEntry, ...]](
    tuple[TxListEntry, ...], name="id list", max_bytes=MAX_BLOCK_TRANSACTIONS * 256 + 5
)


def scan_ids(reader: KeyValueReader, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, bytes) of every entry with a prefix of its key, in order."""
    for key, value in reader.scan(SPACE + prefix[:_HOUR_BYTES]):
        first = prefix[:_HOUR_BYTES] + key
        for place, entry in _unpack(first, value):
            if place.startswith(prefix):
                yield place, encode(entry)


def scan_entries(reader: KeyValueReader) -> Iterator[TxListEntry]:
    """Yield every entry, in order."""
    for key, value in reader.scan(SPACE):
        yield from (entry for _, entry in _unpack(key, value))


def find_id(reader: KeyValueReader, key: bytes) -> bytes | None:
    """Return the bytes of one entry, or None."""
    return next((value for place, value in scan_ids(reader, key) if place == key), None)


def _unpack(first: bytes, value: bytes) -> Iterator[tuple[bytes, TxListEntry]]:
    hour, place = first[:_HOUR_BYTES], int.from_bytes(first[_HOUR_BYTES:], "big")
    run = decode_value(_RUN, value)
    for number, entry in enumerate(run, place):
        yield hour + number.to_bytes(_PLACE_BYTES, "big"), entry


class IdListWriter:
    """What one batch of blocks does to the lists: reads its own writes, and the engine below."""

    def __init__(self, reader: KeyValueReader) -> None:
        self._reader = reader
        self._runs: dict[bytes, bytes | None] = {}
        """Place of a run's first entry -> the run, or None where it was removed."""

    def apply(self, table: Mapping[bytes, Any]) -> None:
        """Take over one block's writes to the section."""
        added = {key: entry for key, entry in table.items() if entry is not None}
        self._add(added)
        if len(added) < len(table):
            self._remove({key for key, entry in table.items() if entry is None})

    def _add(self, entries: Mapping[bytes, Any]) -> None:
        run: list[Any] = []
        first = after = b""
        for key in sorted(entries):
            if key != after and run:
                self._runs[first] = encode(tuple(run))
                run = []
            if not run:
                first = key
            run.append(entries[key])
            after = _get_next(key)
        if run:
            self._runs[first] = encode(tuple(run))

    def _remove(self, keys: set[bytes]) -> None:
        for hour in sorted({key[:_HOUR_BYTES] for key in keys}):
            left = sum(key.startswith(hour) for key in keys)
            for first, value in self._list_runs(hour):
                if not left:
                    break
                entries = dict(_unpack(first, value))
                kept = {key: entry for key, entry in entries.items() if key not in keys}
                if len(kept) < len(entries):
                    left -= len(entries) - len(kept)
                    self._runs[first] = None
                    self._add(kept)

    def _list_runs(self, hour: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the runs of an hour in order, as this batch leaves them."""
        own = {first: run for first, run in self._runs.items() if first.startswith(hour)}
        below = ((hour + key, value) for key, value in self._reader.scan(SPACE + hour))
        untouched = (entry for entry in below if entry[0] not in own)
        yield from merge(sorted((f, run) for f, run in own.items() if run is not None), untouched)

    def list_writes(self) -> list[Write]:
        """Return what goes into the batch."""
        return [(SPACE + first, run) for first, run in self._runs.items()]


def _get_next(key: bytes) -> bytes:
    place = int.from_bytes(key[_HOUR_BYTES:], "big") + 1
    return key[:_HOUR_BYTES] + place.to_bytes(_PLACE_BYTES, "big")
