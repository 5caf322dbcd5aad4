"""The ledger's state: typed records in sections, read through views and changed in overlays.

A *backing* holds encoded bytes (LevelDB in the node, a dictionary in tests). `Base` decodes and
caches on top of it and stands for the last final block. An `Overlay` records writes above a parent
view: one per speculative block, one per transaction inside it. Nothing is ever written through:
finalising a block hands its overlay's encoded writes to whoever owns the disk.

Tree nodes of the state root live beside the records, in the same overlays, so that a dropped
speculative block drops its tree nodes with it.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from atpar.ledger.cache import ENTRY_BYTES, MISSING, ByteCache
from atpar.ledger.codec import Codec, encode

T = TypeVar("T")

_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class Section(Generic[T]):
    """One kind of record: its number on disk and in hashes, its name, its codec."""

    id: int
    name: str
    codec: Codec[T]
    proven: bool
    """Whether the section has a tree of its own in the state root."""
    cached: bool = True
    """Whether decoded records are worth keeping: not those that are read once."""


TREE_NODES = 255
"""The space of tree nodes in a backing; record sections have the ids below it."""
RECORD_CACHE_BYTES: Final = 256 * 1024 * 1024
NODE_CACHE_BYTES: Final = 512 * 1024 * 1024
_DECODED_FACTOR: Final = 4
"""A decoded record takes so many times its encoding, and `ENTRY_BYTES`."""


def measure_record(key: bytes, record: Any) -> int:
    """Return about how many bytes of memory a decoded record takes, its key included."""
    if record is None:
        return ENTRY_BYTES + len(key)
    return ENTRY_BYTES + len(key) + _DECODED_FACTOR * len(encode(record))


def measure_node(key: bytes, node: bytes) -> int:
    """Return about how many bytes of memory a tree page takes, its key included."""
    return ENTRY_BYTES + len(key) + len(node)


class Backing(Protocol):
    """Encoded state of the last final block."""

    def get(self, space: int, key: bytes) -> bytes | None:
        """Return the bytes stored under a key of a section (or of TREE_NODES)."""

    def scan(self, space: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, bytes) for all keys with the prefix, in key order."""

    def rules_out(self, space: int, key: bytes, /) -> bool:
        """Return True only if there is certainly nothing for the ledger, known without a look."""


class View(Protocol):
    """Read access to one version of the state."""

    def get(self, section: Section[T], key: bytes) -> T | None:
        """Return the record under a key, or None."""

    def scan(self, section: Section[T], prefix: bytes) -> Iterator[tuple[bytes, T]]:
        """Yield (key, record) for all keys with the prefix, in key order."""

    def get_node(self, key: bytes) -> bytes | None:
        """Return the encoded tree node under a key, or None."""


class Base:
    """The state of the last final block: a backing, decoded on demand and cached.

    Decoded records and tree pages are cached, each within a bound in bytes (`ByteCache`).
    """

    def __init__(
        self,
        backing: Backing,
        *,
        cache_record_bytes: int = RECORD_CACHE_BYTES,
        cache_node_bytes: int = NODE_CACHE_BYTES,
    ) -> None:
        self._backing = backing
        self._rules_out = backing.rules_out
        self.records = ByteCache(cache_record_bytes, measure_record)
        self.nodes = ByteCache(cache_node_bytes, measure_node)

    def get(self, section: Section[T], key: bytes) -> T | None:
        """Return the record under a key, or None."""
        # Most that is asked of what is not kept is whether an id is unused.
        if not section.cached and self._rules_out(section.id, key):
            return None
        table = self.records.young.get(section.id)
        if table is not None:
            found: Any = table.get(key, MISSING)
            if found is not MISSING:
                cached: T | None = found
                return cached
        return self._load(section, key)

    def get_cached(self, section: Section[Any]) -> Mapping[bytes, Any]:
        """Return records of a section that are at hand, until the next `absorb`."""
        return self.records.young.get(section.id, {})

    def _load(self, section: Section[T], key: bytes) -> T | None:
        record: Any = self.records.recall(section.id, key)
        if record is MISSING:
            data = self._backing.get(section.id, key)
            record = None if data is None else section.codec.decode_stored(data)
            # That there is nothing is asked again, of ids until they are used: worth keeping.
            if section.cached or record is None:
                self.records.put(section.id, key, record)
        found: T | None = record
        return found

    def scan(self, section: Section[T], prefix: bytes) -> Iterator[tuple[bytes, T]]:
        """Yield (key, record) for all keys with the prefix, in key order."""
        for key, data in self._backing.scan(section.id, prefix):
            yield key, section.codec.decode_stored(data)

    def get_node(self, key: bytes) -> bytes | None:
        """Return the encoded tree node under a key, or None."""
        table = self.nodes.young.get(TREE_NODES)
        node: Any = MISSING if table is None else table.get(key, MISSING)
        if node is MISSING:
            node = self.nodes.recall(TREE_NODES, key)
        if node is MISSING:
            node = self._backing.get(TREE_NODES, key)
            if node is not None:
                self.nodes.put(TREE_NODES, key, node)
        found: bytes | None = node
        return found

    def absorb(self, overlay: "Overlay") -> None:
        """Bring the cache in line with an overlay whose writes the backing now holds."""
        for section_id, table in overlay.tables.items():
            if overlay.sections[section_id].cached:
                for key, record in table.items():
                    self.records.put(section_id, key, record)
            else:
                # That there was nothing may have been kept: now there may be.
                self.records.drop_all(section_id, table)
        for key, node in overlay.nodes.items():
            if node is None:
                self.nodes.drop(TREE_NODES, key)
            else:
                self.nodes.put(TREE_NODES, key, node)


class Overlay:
    """Writes above a parent view. Dropping the object undoes them.

    `checkpoint` and `rollback` bracket one transaction: the writes since the checkpoint are taken
    back one by one, which costs a success nothing but the list of what it overwrote.
    """

    __slots__ = ("_order", "_undo", "_unordered", "nodes", "parent", "sections", "tables")

    def __init__(self, parent: "View") -> None:
        self.parent = parent
        self.tables: dict[int, dict[bytes, Any]] = {}
        """Section id -> key -> record, or None where it was deleted."""
        self.sections: dict[int, Section[Any]] = {}
        self.nodes: dict[bytes, bytes | None] = {}
        self._undo: list[tuple[dict[bytes, Any], bytes, Any]] = []
        self._unordered: dict[int, dict[bytes, Any]] = {}
        """The tables written to and never scanned: nothing has to be kept in order."""
        self._order: dict[int, list[bytes]] = {}
        """Section id -> keys of its table in order, kept once the section was scanned. May hold
        keys that a rollback took out of the table."""

    def get(self, section: Section[T], key: bytes) -> T | None:
        """Return the record under a key, or None."""
        table = self.tables.get(section.id)
        if table is not None:
            found: Any = table.get(key, _MISSING)
            if found is not _MISSING:
                record: T | None = found
                return record
        return self.parent.get(section, key)

    def make_reader(self, section: Section[T]) -> "Reader[T]":
        """Return what reads one section of this overlay faster than `get`, for one block."""
        own = self.tables.get(section.id)
        return Reader(self.parent, section, self._add_table(section) if own is None else own)

    def put(self, section: Section[T], key: bytes, record: T) -> None:
        """Write a record."""
        # The heart of `_write` once more: this runs several times for every payment.
        table = self._unordered.get(section.id)
        if table is None:
            self._write(section, key, record)
        else:
            self._undo.append((table, key, table.get(key, _MISSING)))
            table[key] = record

    def put_all(self, section: Section[T], records: Mapping[bytes, T | None]) -> None:
        """Write many records, None for none; like `checkpoint`, keep all written so far."""
        if section.id not in self.tables:
            self._add_table(section)
        table = self._unordered.get(section.id)
        if table is None:
            for key, record in records.items():
                self._write(section, key, record)
        else:
            table.update(records)
        self._undo.clear()

    def delete(self, section: Section[Any], key: bytes) -> None:
        """Remove a record."""
        self._write(section, key, None)

    def _write(self, section: Section[Any], key: bytes, record: Any) -> None:
        table = self.tables.get(section.id)
        if table is None:
            table = self._add_table(section)
        before = table.get(key, _MISSING)
        self._undo.append((table, key, before))
        table[key] = record
        order = self._order.get(section.id)
        if order is not None and before is _MISSING:
            insort(order, key)

    def _add_table(self, section: Section[Any]) -> dict[bytes, Any]:
        table: dict[bytes, Any] = {}
        self.tables[section.id] = self._unordered[section.id] = table
        self.sections[section.id] = section
        return table

    def checkpoint(self) -> None:
        """Keep everything written so far: a later rollback goes back to here."""
        self._undo.clear()

    def rollback(self) -> None:
        """Take back every record write since the last checkpoint."""
        undo = self._undo
        while undo:
            table, key, before = undo.pop()
            if before is _MISSING:
                del table[key]
            else:
                table[key] = before

    def scan(self, section: Section[T], prefix: bytes) -> Iterator[tuple[bytes, T]]:
        """Yield (key, record) for all keys with the prefix, in key order.

        Reads as far as it is consumed. Whoever writes to the section meanwhile lists it first.
        """
        below = self.parent.scan(section, prefix)
        table = self.tables.get(section.id)
        if not table:
            return below
        order = self._order.get(section.id)
        if order is None:
            order = self._order[section.id] = sorted(table)
            self._unordered.pop(section.id, None)
        return _merge(_list_own(table, order, prefix), below)

    def get_node(self, key: bytes) -> bytes | None:
        """Return the encoded tree node under a key, or None."""
        if key in self.nodes:
            return self.nodes[key]
        return self.parent.get_node(key)

    def merge_into(self, parent: "Overlay") -> None:
        """Add these writes to the parent overlay, over its own."""
        for section_id, table in self.tables.items():
            section = self.sections[section_id]
            for key, record in table.items():
                parent._write(section, key, record)
        parent.nodes.update(self.nodes)

    def encode_writes(self) -> Iterator[tuple[int, bytes, bytes | None]]:
        """Yield (space, key, bytes or None for a deletion) for the disk."""
        for section_id, table in self.tables.items():
            for key, record in table.items():
                yield section_id, key, None if record is None else encode(record)
        for key, node in self.nodes.items():
            yield TREE_NODES, key, node


class Reader(Generic[T]):
    """Reads one section for the hot path of a block, where `get` would ask view after view.

    It takes at once what holds the section, so it counts on the view to stay as it is: it serves
    one block, or one moment on a final state, and no longer.
    """

    __slots__ = ("_cached", "_tables", "read")

    def __init__(
        self, view: View, section: Section[T], own: Mapping[bytes, T | None] | None = None
    ) -> None:
        """Read a view through `own`, the writes above it, which may still change."""
        tables: list[Mapping[bytes, T | None]] = [] if own is None else [own]
        while isinstance(view, Overlay):
            table = view.tables.get(section.id)
            if table:
                tables.append(table)
            view = view.parent
        cached: Mapping[bytes, Any] = view.get_cached(section) if isinstance(view, Base) else {}
        self._tables, self._cached = tables, cached
        get_below = view.get

        def read(key: bytes) -> T | None:
            for table in tables:
                if key in table:
                    return table[key]
            record: Any = cached.get(key, MISSING)
            if record is MISSING:
                return get_below(section, key)
            found: T | None = record
            return found

        self.read: Callable[[bytes], T | None] = read
        """Returns the record under a key, or None."""

    def read_all(self, keys: Sequence[bytes]) -> list[T | None]:
        """Return the records under many keys.

        Looked up in one go, so that the processor waits for memory once and not for each.
        """
        records: list[T | None] = list(map(self._cached.get, keys))
        if not all(records):  # quick to ask, and seldom so
            for place in [place for place, record in enumerate(records) if record is None]:
                records[place] = self.read(keys[place])
        for table in reversed(self._tables):
            if table:
                for place in [place for place, key in enumerate(keys) if key in table]:
                    records[place] = table[keys[place]]
        return records


def _list_own(
    table: dict[bytes, Any], order: list[bytes], prefix: bytes
) -> Iterator[tuple[bytes, Any]]:
    """Yield an overlay's writes under a prefix, in key order, deletions as None."""
    previous = None
    for position in range(bisect_left(order, prefix), len(order)):
        key = order[position]
        if not key.startswith(prefix):
            return
        record = table.get(key, _MISSING)
        if record is not _MISSING and key != previous:
            yield key, record
            previous = key


def _merge(
    own: Iterator[tuple[bytes, Any]], below: Iterator[tuple[bytes, Any]]
) -> Iterator[tuple[bytes, Any]]:
    """Yield both in key order, where an overlay's own write hides what is below."""
    mine, other = next(own, None), next(below, None)
    while mine is not None or other is not None:
        if mine is None or (other is not None and other[0] < mine[0]):
            assert other is not None
            yield other
            other = next(below, None)
            continue
        if other is not None and other[0] == mine[0]:
            other = next(below, None)
        if mine[1] is not None:
            yield mine
        mine = next(own, None)


class MemoryBacking:
    """A backing in a dictionary, for tests, tools and the genesis state."""

    def __init__(self) -> None:
        self.spaces: dict[int, dict[bytes, bytes]] = {}

    def get(self, space: int, key: bytes) -> bytes | None:
        """Return the bytes stored under a key."""
        return self.spaces.get(space, {}).get(key)

    def scan(self, space: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, bytes) for all keys with the prefix, in key order."""
        for key, data in sorted(self.spaces.get(space, {}).items()):
            if key.startswith(prefix):
                yield key, data

    def rules_out(self, _space: int, _key: bytes, /) -> bool:
        """Return False: to look is as fast."""
        return False

    def apply(self, writes: Iterator[tuple[int, bytes, bytes | None]]) -> None:
        """Apply encoded writes, as the disk would."""
        for space, key, data in writes:
            if data is None:
                self.spaces.get(space, {}).pop(key, None)
            else:
                self.spaces.setdefault(space, {})[key] = data
