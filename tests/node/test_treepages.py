"""Tree pages are written behind: never lost, never mixed up, within bounds."""

import pytest

from atpar.ledger.codec import encode
from atpar.ledger.commitment import read_state_table
from atpar.ledger.records import ID_BUCKETS, IdBucket
from atpar.ledger.state import TREE_NODES, Base, MemoryBacking, Overlay
from atpar.ledger.stateroot import compute_state_root
from atpar.node.errors import StoreCorrupt
from atpar.node.kv import MemoryKeyValue, Write
from atpar.node.limits import MAX_HELD_PAGE_BLOCKS, MAX_HELD_PAGE_BYTES
from atpar.node.store import Store, write_genesis
from atpar.node.treepages import SPACE, Held
from tests.node.chains import CHAIN, Chain, make_payment

PAGES = b"s" + bytes((TREE_NODES,))


def make_engine(chain: Chain, engine: MemoryKeyValue) -> Store:
    write_genesis(
        engine,
        chain_id=CHAIN,
        header=chain.genesis_header,
        digest=chain.genesis_digest,
        overlay=chain.genesis,
    )
    return Store(engine)


def read_root(store: Store) -> bytes:
    final = store.get_final()
    table = read_state_table(final.view)
    root = compute_state_root(table.sections, table.assets)
    assert root == final.header.state_root
    return root


def list_pages(engine: MemoryKeyValue) -> dict[bytes, bytes]:
    return dict(engine.scan(PAGES))


def list_held(engine: MemoryKeyValue) -> list[bytes]:
    return [key for key, _ in engine.scan(SPACE)]


def test_whenever_the_node_ends_the_next_start_has_every_page() -> None:
    chain, engine = Chain(), MemoryKeyValue()
    store = make_engine(chain, engine)
    for number in range(2 * MAX_HELD_PAGE_BLOCKS + 3):
        store.commit([chain.next(make_payment(number))])
        truth = chain.backing.spaces[TREE_NODES]
        for reader in (store, Store(engine.snapshot())):
            assert {key: reader.get(TREE_NODES, key) for key in truth} == truth
            assert dict(reader.scan(TREE_NODES, b"")) == truth
            assert read_root(reader) == chain.header.state_root
        again = Store(engine.snapshot())
        if number % 5 == 0:
            store = Store(engine)
        if not list_held(engine):
            assert list_pages(engine) == truth
        assert again.position == store.position
    assert read_root(store) == chain.header.state_root


def test_pages_go_to_the_disk_with_every_sixteenth_block() -> None:
    chain, engine = Chain(), MemoryKeyValue()
    store = make_engine(chain, engine)
    first = list_pages(engine)
    for number in range(MAX_HELD_PAGE_BLOCKS - 1):
        store.commit([chain.next(make_payment(number))])
        assert len(list_held(engine)) == number + 1
        assert list_pages(engine) == first
    store.commit([chain.next(make_payment(99))])
    assert list_held(engine) == []
    assert list_pages(engine) == chain.backing.spaces[TREE_NODES] != first


def test_pages_are_held_up_to_their_bytes_and_not_one_more() -> None:
    for size, kept in ((MAX_HELD_PAGE_BYTES, 1), (MAX_HELD_PAGE_BYTES + 1, 0)):
        overlay = Overlay(Base(MemoryBacking()))
        overlay.nodes[b"a"] = bytes(size - 1)
        overlay.nodes[b"b"] = bytes(1)
        overlay.nodes[b"c"] = None
        held, writes = Held(4).add([(5, overlay)])
        assert (held.height, len(held.blocks), len(held.pages)) == (5, kept, 3 * kept)
        assert ((PAGES + b"c", None) in writes) == (not kept)


class WatchedEngine(MemoryKeyValue):
    """Reads the final state before and after a batch lands, as other threads may."""

    store: Store | None = None

    def write(self, batch: list[Write]) -> None:  # type: ignore[override]
        seen = []
        for step in (lambda: None, lambda: super(WatchedEngine, self).write(batch)):
            step()
            if self.store is not None:
                seen.append(read_root(self.store))
        assert not seen or seen[0] != seen[1]


def test_final_state_is_whole_while_a_commit_is_under_way() -> None:
    chain, engine = Chain(), WatchedEngine()
    store = make_engine(chain, engine)
    engine.store = store
    for number in range(2 * MAX_HELD_PAGE_BLOCKS):
        before = store.get_final()
        store.commit([chain.next(make_payment(number)), chain.next(make_payment(1_000 + number))])
        table = read_state_table(before.view)
        root = compute_state_root(table.sections, table.assets)
        assert root == before.header.state_root, "a reader keeps the state that it began with"


@pytest.mark.parametrize("damage", [b"\x91", encode(())])
def test_damaged_note_of_changes_is_noticed(damage: bytes) -> None:
    chain, engine = Chain(), MemoryKeyValue()
    make_engine(chain, engine).commit([chain.next(make_payment(1))])
    (height,) = list_held(engine)
    engine.write([(SPACE + height, damage)])
    with pytest.raises(StoreCorrupt, match=r"changed entries does not read back|come to"):
        Store(engine).get_final()


def test_record_that_was_damaged_since_the_pages_were_written_is_noticed() -> None:
    chain, engine = Chain(), MemoryKeyValue()
    make_engine(chain, engine).commit([chain.next(make_payment(1))])
    space = b"s" + bytes((ID_BUCKETS.id,))
    ((hour, _),) = engine.scan(space)
    engine.write([(space + hour, encode(IdBucket(7, bytes(32))))])
    with pytest.raises(StoreCorrupt, match="come to"):
        Store(engine).get_final()
