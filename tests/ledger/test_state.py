"""Views, overlays and the cache: what is read is what was written last, whatever the layers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atpar.ledger.records import ID_BUCKETS, TX_IDS, IdBucket, TxRecord
from atpar.ledger.state import TREE_NODES, Base, MemoryBacking, Overlay, Reader

KEYS = [b"a", b"aa", b"ab", b"b", b"ba"]


def record(number: int) -> IdBucket:
    return IdBucket(number, bytes(32))


Write = tuple[int, bytes, int | None]
WRITES = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(KEYS), st.none() | st.integers(0, 99)), max_size=20
)


@given(WRITES, st.sampled_from([b"", b"a", b"b", b"c"]))
def test_layers_read_like_one_dictionary(writes: list[Write], prefix: bytes) -> None:
    """Layer 0 is on the disk, 1 and 2 are overlays above it."""
    backing = MemoryBacking()
    base = Base(backing, cache_record_bytes=1_500)
    lower, model = Overlay(base), dict[bytes, int]()
    upper = Overlay(lower)
    for layer in range(3):
        disk = Overlay(base)
        target = (disk, lower, upper)[layer]
        for wanted, key, number in writes:
            if wanted != layer:
                continue
            if number is None:
                target.delete(ID_BUCKETS, key)
                model.pop(key, None)
            else:
                target.put(ID_BUCKETS, key, record(number))
                model[key] = number
        if layer == 0:
            backing.apply(disk.encode_writes())
            base.absorb(disk)
    expected = {k: record(n) for k, n in sorted(model.items()) if k.startswith(prefix)}
    assert list(upper.scan(ID_BUCKETS, prefix)) == list(expected.items())
    for key in KEYS:
        found = upper.get(ID_BUCKETS, key)
        assert found == (record(model[key]) if key in model else None)
    assert list(upper.scan(ID_BUCKETS, prefix)) == list(expected.items())
    upper.checkpoint()
    for key in (b"ab", b"aaa"):
        upper.put(ID_BUCKETS, key, record(77))
    upper.delete(ID_BUCKETS, b"b")
    upper.rollback()
    assert list(upper.scan(ID_BUCKETS, prefix)) == list(expected.items())
    for key in (b"ab", b"ab"):
        upper.put(ID_BUCKETS, key, record(78))
    if b"ab".startswith(prefix):
        expected[b"ab"] = record(78)
    model[b"ab"] = 78
    assert list(upper.scan(ID_BUCKETS, prefix)) == sorted(expected.items())
    expected = dict(sorted(expected.items()))
    merged = Overlay(base)
    lower.merge_into(merged)
    upper.merge_into(merged)
    assert list(merged.scan(ID_BUCKETS, prefix)) == list(expected.items())
    backing.apply(merged.encode_writes())
    assert list(Base(backing).scan(ID_BUCKETS, prefix)) == list(expected.items())


@given(WRITES, WRITES)
def test_rollback_takes_back_everything_since_the_checkpoint(
    kept: list[Write], undone: list[Write]
) -> None:
    overlay = Overlay(Base(MemoryBacking()))

    def write(writes: list[Write]) -> None:
        for _, key, number in writes:
            if number is None:
                overlay.delete(ID_BUCKETS, key)
            else:
                overlay.put(ID_BUCKETS, key, record(number))

    write(kept)
    overlay.checkpoint()
    before = {section: dict(table) for section, table in overlay.tables.items()}
    write(undone)
    overlay.rollback()
    after = {
        section: table for section, table in overlay.tables.items() if table or section in before
    }
    assert after == before
    overlay.rollback()
    assert {s: t for s, t in overlay.tables.items() if t or s in before} == before


LAYERS = st.lists(
    st.lists(st.tuples(st.sampled_from(KEYS), st.none() | st.integers(0, 99)), max_size=6),
    max_size=4,
)


def write_all(overlay: Overlay, writes: list[tuple[bytes, int | None]]) -> None:
    for key, number in writes:
        if number is None:
            overlay.delete(ID_BUCKETS, key)
        else:
            overlay.put(ID_BUCKETS, key, record(number))


@given(LAYERS, WRITES, st.booleans(), st.sets(st.sampled_from(KEYS)))
def test_a_reader_reads_what_the_overlay_has(
    layers: list[list[tuple[bytes, int | None]]],
    writes: list[Write],
    is_scanned: bool,
    cached: set[bytes],
) -> None:
    backing = MemoryBacking()
    disk = Overlay(Base(backing))
    write_all(disk, [(key, 1) for key in KEYS[:3]])
    backing.apply(disk.encode_writes())
    base = Base(backing)
    for key in cached:
        base.get(ID_BUCKETS, key)
    top = Overlay(base)
    for layer in layers:
        write_all(top, layer)
        top = Overlay(top)
    reader = top.make_reader(ID_BUCKETS)
    found = reader.read_all(KEYS)  # some from the cache, some from below it
    assert found == [top.get(ID_BUCKETS, each) for each in KEYS]
    for step, key, number in writes:
        write_all(top, [(key, number)])
        if step == 1:
            top.checkpoint()
        elif step == 2:
            top.rollback()
        if is_scanned:
            list(top.scan(ID_BUCKETS, b""))
        expected = [top.get(ID_BUCKETS, each) for each in KEYS]
        assert [reader.read(each) for each in KEYS] == expected
        assert reader.read_all(KEYS) == expected
        assert Reader(Overlay(top), ID_BUCKETS).read_all(KEYS[::-1]) == expected[::-1]


@pytest.mark.parametrize("is_scanned", [False, True])
def test_what_is_put_together_is_read_scanned_and_kept(is_scanned: bool) -> None:
    overlay = Overlay(Base(MemoryBacking()))
    write_all(overlay, [(KEYS[0], 1), (KEYS[2], 3)])
    if is_scanned:
        list(overlay.scan(ID_BUCKETS, b""))
    overlay.put_all(ID_BUCKETS, {KEYS[1]: record(7), KEYS[2]: None})
    overlay.rollback()  # takes nothing back: all is kept
    assert [overlay.get(ID_BUCKETS, key) for key in KEYS[:3]] == [record(1), record(7), None]
    assert list(overlay.scan(ID_BUCKETS, b"")) == [(KEYS[0], record(1)), (KEYS[1], record(7))]
    write_all(overlay, [(KEYS[1], 9)])
    overlay.rollback()
    assert overlay.get(ID_BUCKETS, KEYS[1]) == record(7)


def test_what_is_put_together_may_be_the_first_of_its_section() -> None:
    overlay = Overlay(Base(MemoryBacking()))
    overlay.put_all(ID_BUCKETS, {KEYS[0]: record(1)})
    assert list(overlay.scan(ID_BUCKETS, b"")) == [(KEYS[0], record(1))]


def test_the_cache_forgets_but_never_lies() -> None:
    backing = MemoryBacking()
    base = Base(backing, cache_record_bytes=2_000)
    for number in range(20):
        overlay = Overlay(base)
        overlay.put(ID_BUCKETS, bytes([number % 7]), record(number))
        backing.apply(overlay.encode_writes())
        base.absorb(overlay)
        for key in range(7):
            data = backing.get(ID_BUCKETS.id, bytes([key]))
            found = base.get(ID_BUCKETS, bytes([key]))
            assert (found is None) == (data is None)
            assert found is None or found.count % 7 == key
            assert found is None or found.count > number - 7


def test_records_read_once_are_not_kept() -> None:
    backing = MemoryBacking()
    base = Base(backing)
    assert base.get(TX_IDS, b"x") is None
    used = TxRecord(bytes(32), bytes(32), 1, 0, 5)
    overlay = Overlay(base)
    overlay.put(TX_IDS, b"x", used)
    backing.apply(overlay.encode_writes())
    base.absorb(overlay)
    assert base.get(TX_IDS, b"x") == used
    backing.spaces[TX_IDS.id].clear()
    assert base.get(TX_IDS, b"x") is None


def test_tree_nodes_go_through_the_same_layers() -> None:
    backing = MemoryBacking()
    base = Base(backing)
    lower = Overlay(base)
    lower.nodes[b"n"] = b"one"
    upper = Overlay(lower)
    assert upper.get_node(b"n") == b"one"
    upper.nodes[b"n"] = None
    assert upper.get_node(b"n") is None
    backing.apply(lower.encode_writes())
    assert backing.get(TREE_NODES, b"n") == base.get_node(b"n") == b"one"
    upper.merge_into(lower)
    backing.apply(lower.encode_writes())
    base.absorb(lower)
    assert base.get_node(b"n") is None


class CountingBacking(MemoryBacking):
    """Counts what is read from the disk."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def get(self, space: int, key: bytes) -> bytes | None:
        self.reads += 1
        return super().get(space, key)


def test_an_unused_id_is_looked_up_once_and_seen_once_it_is_used() -> None:
    backing = CountingBacking()
    base = Base(backing)
    used = TxRecord(bytes(32), bytes(32), 1, 0, 5)
    assert not TX_IDS.cached
    for _ in range(3):
        assert base.get(TX_IDS, b"id") is None
    assert backing.reads == 1
    block = Overlay(base)
    block.put(TX_IDS, b"id", used)
    backing.apply(block.encode_writes())
    base.absorb(block)
    assert base.get(TX_IDS, b"id") == used


def test_an_absence_of_an_older_generation_is_forgotten_too() -> None:
    backing = CountingBacking()
    base = Base(backing, cache_record_bytes=700)
    assert base.get(TX_IDS, b"id") is None
    assert base.get(TX_IDS, b"other") is None
    assert backing.reads == 2
    assert base.get(TX_IDS, b"id") is None
    assert backing.reads == 2, "it is in the old generation"
    assert base.get(TX_IDS, b"other") is None
    block = Overlay(base)
    block.put(TX_IDS, b"id", TxRecord(bytes(32), bytes(32), 1, 0, 5))
    backing.apply(block.encode_writes())
    base.absorb(block)
    assert base.get(TX_IDS, b"id") is not None
