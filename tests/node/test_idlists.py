"""Runs of used ids read like the single entries that the ledger writes."""

from hypothesis import given, settings
from hypothesis import strategies as st

from atpar.ledger.codec import encode
from atpar.ledger.records import TX_IDS, TX_LISTS, TxListEntry
from atpar.ledger.state import Base, MemoryBacking, Overlay
from atpar.node.idlists import SPACE, IdListWriter, find_id, scan_ids
from atpar.node.kv import MemoryKeyValue
from atpar.node.store import Store, write_genesis
from tests.node.chains import CHAIN, Chain, make_payment


def make_key(hour: int, place: int) -> bytes:
    return hour.to_bytes(8, "big") + place.to_bytes(8, "big")


def make_entry(hour: int, place: int) -> TxListEntry:
    return TxListEntry("ALFA/main", make_key(hour, place), bytes(32), hour, place)


Step = tuple[int, int, int]
"""Hour, entries added at its end, entries removed from the front of the hour before."""


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 7)), max_size=4),
        max_size=6,
    )
)
def test_runs_read_like_single_entries(batches: list[list[Step]]) -> None:
    engine, plain, ends = MemoryKeyValue(), dict[bytes, bytes](), [0] * 5
    for batch in batches:
        writer = IdListWriter(engine)
        for hour, added, removed in batch:
            places = range(ends[hour + 1], ends[hour + 1] + added)
            table = {make_key(hour + 1, n): make_entry(hour + 1, n) for n in places}
            ends[hour + 1] += added
            plain.update({key: encode(entry) for key, entry in table.items()})
            front = [key for key in sorted(plain) if key.startswith(make_key(hour, 0)[:8])]
            gone = dict.fromkeys(front[:removed])
            for key in gone:
                del plain[key]
            writer.apply({**table, **gone})
        engine.write(writer.list_writes())
        assert list(scan_ids(engine, b"")) == sorted(plain.items())
        for hour in range(5):
            prefix = make_key(hour, 0)[:8]
            expected = [(k, v) for k, v in sorted(plain.items()) if k.startswith(prefix)]
            assert list(scan_ids(engine, prefix)) == expected
        for key in [make_key(h, n) for h in range(5) for n in range(12)]:
            assert find_id(engine, key) == plain.get(key)


def test_entries_of_a_block_stand_in_one_record_each_hour() -> None:
    engine, writer = MemoryKeyValue(), IdListWriter(MemoryKeyValue())
    writer.apply({make_key(h, n): make_entry(h, n) for h in (1, 2) for n in range(1_000)})
    engine.write(writer.list_writes())
    assert sorted(engine.values) == [SPACE + make_key(1, 0), SPACE + make_key(2, 0)]
    writer = IdListWriter(engine)
    writer.apply({make_key(1, n): None for n in range(999)})
    engine.write(writer.list_writes())
    assert sorted(engine.values) == [SPACE + make_key(1, 999), SPACE + make_key(2, 0)]
    assert find_id(engine, make_key(1, 999)) == encode(make_entry(1, 999))


def test_id_finds_its_transaction_after_the_ledger_dropped_its_hour() -> None:
    chain, engine = Chain(), MemoryKeyValue()
    write_genesis(
        engine,
        chain_id=CHAIN,
        header=chain.genesis_header,
        digest=chain.genesis_digest,
        overlay=Overlay(Base(MemoryBacking())),
    )
    store, tx = Store(engine), make_payment(1)
    store.commit([chain.next(make_payment(0), tx)])
    block = chain.next()
    block.overlay.delete(TX_IDS, tx.id_key)
    for key, _ in store.scan(TX_LISTS.id, b""):
        block.overlay.delete(TX_LISTS, key)
    store.commit([block])
    assert store.find_by_id(tx.body.sender, tx.body.tx_id) == (1, 1)
    assert not list(store.scan(TX_LISTS.id, b""))
    assert not list(store.get_final().view.scan(TX_LISTS, b""))
