"""Tree pages that wait to be written: a page that changes in every block is written once in many.

The trees follow from the records, and a block rewrites the same upper pages as the one before. So a
commit writes the records, and beside them only which entries of the trees they change; the pages
are held in memory and go to the disk with every sixteenth block, or when many are held. A node that
starts reads what was changed since, and brings the trees in line again: the root has to be the one
that the last final block states.

A `Held` never changes: a commit makes the next one, so a reader keeps the one it began with.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final

from msgspec import Meta

from atpar.ledger.codec import Codec, encode
from atpar.ledger.commitment import commit_state
from atpar.ledger.limits import MAX_BLOCK_OPS
from atpar.ledger.records import BALANCES, SECTIONS
from atpar.ledger.state import Backing, Base, Overlay
from atpar.node.errors import StoreCorrupt
from atpar.node.kv import KeyValueReader, Write, decode_value
from atpar.node.limits import MAX_HELD_PAGE_BLOCKS, MAX_HELD_PAGE_BYTES

SPACE: Final = b"p"
_TREES: Final = {s.id: s for s in SECTIONS if s.proven or s is BALANCES}
Touched = tuple[tuple[Annotated[int, Meta(ge=0, le=255)], tuple[bytes, ...]], ...]
_TOUCHED: Final = Codec[Touched](
    Touched, name="list of changed entries", max_bytes=MAX_BLOCK_OPS * 64 * 64
)


@dataclass(frozen=True, slots=True)
class Held:
    """The pages of the state at a height that are newer than those on the disk."""

    height: int
    pages: Mapping[bytes, bytes | None] = field(default_factory=dict)
    """None where a page is gone."""
    blocks: tuple[bytes, ...] = ()
    """Keys of what says which entries were changed since the pages were written."""
    bytes_: int = 0
    """What the pages took when they came; one that came twice counts twice."""

    def add(self, blocks: Iterable[tuple[int, Overlay]]) -> tuple["Held", list[Write]]:
        """Return what is held after blocks, and what to write with them."""
        pages, names, size = dict(self.pages), list(self.blocks), self.bytes_
        height, writes = self.height, list[Write]()
        for height, overlay in blocks:
            pages.update(overlay.nodes)
            size += sum(map(len, filter(None, overlay.nodes.values())))
            name = SPACE + height.to_bytes(8, "big")
            names.append(name)
            writes.append((name, _encode_touched(overlay)))
        after = Held(height, pages, tuple(names), size)
        if len(names) < MAX_HELD_PAGE_BLOCKS and size <= MAX_HELD_PAGE_BYTES:
            return after, writes
        return Held(height), after.list_pages()

    def list_pages(self) -> list[Write]:
        """Return what brings the disk up to date, and says so."""
        writes: list[Write] = [(_PAGE + key, page) for key, page in self.pages.items()]
        return [*writes, *((name, None) for name in self.blocks)]


_PAGE: Final = b"s\xff"


def _encode_touched(overlay: Overlay) -> bytes:
    touched = [(section, tuple(table)) for section, table in overlay.tables.items()]
    return encode(tuple(entry for entry in touched if entry[0] in _TREES))


def load_held(reader: KeyValueReader, backing: Backing, *, height: int, state_root: bytes) -> Held:
    """Return what has to be held at the height of a reader, from what its blocks changed.

    `backing` is the reader's state with the pages that are on the disk.

    Raises:
        StoreCorrupt: the trees do not come to the state root of the last final block.
    """
    base = Base(backing)
    overlay, names = Overlay(base), list[bytes]()
    for key, value in reader.scan(SPACE):
        names.append(SPACE + key)
        touched = decode_value(_TOUCHED, value)
        for section_id, entries in touched:
            section = _TREES[section_id]
            for entry in entries:
                record = base.get(section, entry)
                if record is None:
                    overlay.delete(section, entry)
                else:
                    overlay.put(section, entry, record)
    if not names:
        return Held(height)
    try:
        root = commit_state(overlay)
    except AssertionError as error:
        raise StoreCorrupt(f"chain.db: the state at height {height} is unsound: {error}") from error
    if root != state_root:
        raise StoreCorrupt(
            f"chain.db: the trees at height {height} come to {root.hex()}, "
            f"the block states {state_root.hex()}"
        )
    size = sum(map(len, filter(None, overlay.nodes.values())))
    return Held(height, dict(overlay.nodes), tuple(names), size)
