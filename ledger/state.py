"""The ledger's state: typed records in sections, read through views and changed in overlays.

A *backing* holds encoded bytes (LevelDB in the node, a dictionary in tests). `Base` decodes and
caches on top of it and stands for the last final block. An `Overlay` records writes above a parent
view: one per speculative block, one per transaction inside it. Nothing is ever written through:
finalising a block hands its overlay's encoded writes to whoever owns the disk.

Tree nodes of the state root live beside the records, in the same overlays, so that a dropped
speculative block drops its tree nodes with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from atpar.ledger.codec import Codec, encode

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Section(Generic[T]):
    """One kind of record: its number on disk and in hashes, its name, its codec."""

    id: int
    name: str
    codec: Codec[T]
    proven: bool
    """Whether the state root covers it. An index that others can rebuild need not be."""


TREE_NODES = 255
"""The space of tree nodes in a backing; record sections have the ids below it."""


class Backing(Protocol):
    """Encoded state of the last final block."""

    def get(self, space: int, key: bytes) -> bytes | None:
        """Return the bytes stored under a key of a section (or of TREE_NODES)."""

    def scan(self, space: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, bytes) for all keys with the prefix, in key order."""


class View(Protocol):
    """Read access to one version of the state."""

    def get(self, section: Section[T], key: bytes) -> T | None:
        """Return the record under a key, or None."""

    def scan(self, section: Section[T], prefix: bytes) -> Iterator[tuple[bytes, T]]:
        """Yield (key, record) for all keys with the prefix, in key order."""

    def get_node(self, key: bytes) -> bytes | None:
        """Return the encoded tree node under a key, or None."""


class Base:
    """The state of the last final block: a backing, decoded on demand and cached."""

    def __init__(self, backing: Backing, *, cache_records: int = 100_000) -> None:
        self._backing = backing
        self._cache_records = cache_records
        self._cache: dict[tuple[int, bytes], Any] = {}

    def get(self, section: Section[T], key: bytes) -> T | None:
        """Return the record under a key, or None."""
        slot = (section.id, key)
        try:
            cached: T | None = self._cache[slot]
        except KeyError:
            data = self._backing.get(section.id, key)
            cached = None if data is None else section.codec.decode_stored(data)
            self._remember(slot, cached)
        return cached

    def scan(self, section: Section[T], prefix: bytes) -> Iterator[tuple[bytes, T]]:
        """Yield (key, record) for all keys with the prefix, in key order."""
        for key, data in self._backing.scan(section.id, prefix):
            yield key, section.codec.decode_stored(data)

    def get_node(self, key: bytes) -> bytes | None:
        """Return the encoded tree node under a key, or None."""
        return self._backing.get(TREE_NODES, key)

    def absorb(self, overlay: "Overlay") -> None:
        """Bring the cache in line with an overlay whose writes the backing now holds."""
        for slot, record in overlay.records.items():
            self._remember(slot, record)

    def _remember(self, slot: tuple[int, bytes], record: Any) -> None:
        if slot not in self._cache and len(self._cache) >= self._cache_records:
            del self._cache[next(iter(self._cache))]
        self._cache[slot] = record


class Overlay:
    """Writes above a parent view. Dropping the object undoes them."""

    __slots__ = ("nodes", "parent", "records", "sections")

    def __init__(self, parent: "View") -> None:
        self.parent = parent
        self.records: dict[tuple[int, bytes], Any] = {}
        """(section id, key) -> record, or None where it was deleted."""
        self.sections: dict[int, Section[Any]] = {}
        self.nodes: dict[bytes, bytes | None] = {}

    def get(self, section: Section[T], key: bytes) -> T | None:
        """Return the record under a key, or None."""
        slot = (section.id, key)
        if slot in self.records:
            found: T | None = self.records[slot]
            return found
        return self.parent.get(section, key)

    def put(self, section: Section[T], key: bytes, record: T) -> None:
        """Write a record."""
        self.records[(section.id, key)] = record
        self.sections[section.id] = section

    def delete(self, section: Section[Any], key: bytes) -> None:
        """Remove a record."""
        self.records[(section.id, key)] = None
        self.sections[section.id] = section

    def scan(self, section: Section[T], prefix: bytes) -> Iterator[tuple[bytes, T]]:
        """Yield (key, record) for all keys with the prefix, in key order."""
        merged = dict(self.parent.scan(section, prefix))
        for (section_id, key), record in self.records.items():
            if section_id == section.id and key.startswith(prefix):
                if record is None:
                    merged.pop(key, None)
                else:
                    merged[key] = record
        yield from sorted(merged.items())

    def get_node(self, key: bytes) -> bytes | None:
        """Return the encoded tree node under a key, or None."""
        if key in self.nodes:
            return self.nodes[key]
        return self.parent.get_node(key)

    def merge_into(self, parent: "Overlay") -> None:
        """Add these writes to the parent overlay, over its own."""
        parent.records.update(self.records)
        parent.sections.update(self.sections)
        parent.nodes.update(self.nodes)

    def encode_writes(self) -> Iterator[tuple[int, bytes, bytes | None]]:
        """Yield (space, key, bytes or None for a deletion) for the disk."""
        for (section_id, key), record in self.records.items():
            yield section_id, key, None if record is None else encode(record)
        for key, node in self.nodes.items():
            yield TREE_NODES, key, node


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

    def apply(self, writes: Iterator[tuple[int, bytes, bytes | None]]) -> None:
        """Apply encoded writes, as the disk would."""
        for space, key, data in writes:
            if data is None:
                self.spaces.get(space, {}).pop(key, None)
            else:
                self.spaces.setdefault(space, {})[key] = data
