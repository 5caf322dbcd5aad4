"""What tells that an id is unused: it may be unsure, but never wrong."""

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atpar.ledger.ids import find_tx_record
from atpar.ledger.records import ID_BUCKETS, TX_IDS, TX_LISTS
from atpar.ledger.state import Base, Overlay
from atpar.ledger.transactions import id_key
from atpar.node.errors import StoreCorrupt
from atpar.node.kv import MemoryKeyValue
from atpar.node.limits import USED_IDS_PORTION
from atpar.node.store import Store, write_genesis
from atpar.node.used_ids import UsedIds
from tests.node.chains import CHAIN, Chain, make_payment


def make_keys(first: int, count: int) -> list[bytes]:
    return [
        id_key("ALFA/main", number.to_bytes(16, "big")) for number in range(first, first + count)
    ]


@given(st.sets(st.binary(max_size=60)), st.sets(st.binary(max_size=60)))
def test_no_id_that_was_added_is_ever_denied(there: set[bytes], later: set[bytes]) -> None:
    used = UsedIds(words=4)
    used.add_all(later)
    used.load(there)
    assert all(used.may_hold(key) for key in there | later)


def test_at_eight_bits_an_id_few_are_looked_up_in_vain() -> None:
    used = UsedIds(words=1 << 10)
    used.load(make_keys(0, (1 << 16) // 8))
    unsure = sum(map(used.may_hold, make_keys(1 << 20, 20_000)))
    assert 0 < unsure < 20_000 * 0.05


def test_a_full_filter_is_unsure_of_everything_and_denies_nothing() -> None:
    used = UsedIds(words=1)
    used.load(make_keys(0, 1_000))
    assert all(map(used.may_hold, make_keys(5_000, 100)))


@pytest.mark.parametrize("count", [0, USED_IDS_PORTION - 1, USED_IDS_PORTION, USED_IDS_PORTION + 1])
def test_nothing_is_denied_until_all_is_read(count: int) -> None:
    used = UsedIds(words=1 << 10)
    unsure: list[bool] = []

    def read() -> Iterator[bytes]:
        for key in make_keys(0, count):
            unsure.append(used.may_hold(b"never"))
            yield key

    used.load(read())
    assert all(unsure)
    assert len(unsure) == count
    assert used.is_complete
    assert all(map(used.may_hold, make_keys(0, count)))


def test_reading_that_is_interrupted_leaves_everything_to_be_looked_up() -> None:
    used = UsedIds(words=1 << 10)

    def stop() -> None:
        raise RuntimeError("the node stops")

    with pytest.raises(RuntimeError, match="the node stops"):
        used.load(make_keys(0, 10), check=stop)
    assert used.may_hold(b"never")


def test_two_threads_that_add_lose_nothing() -> None:
    """Both write to the same few words all the time."""
    used = UsedIds(words=2)
    halves = [make_keys(0, 3), make_keys(3, 3)]
    threads = [
        threading.Thread(target=lambda keys=keys: [used.add_all(keys) for _ in range(5_000)])
        for keys in halves
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used.load([])
    assert all(used.may_hold(key) for keys in halves for key in keys)


# ---- in the store


class CountingEngine(MemoryKeyValue):
    """Counts the look-ups of transaction ids."""

    looked_up = 0

    def get(self, key: bytes) -> bytes | None:
        self.looked_up += key.startswith(b"s" + bytes((TX_IDS.id,)))
        return super().get(key)


def make_store() -> tuple[Store, Chain, CountingEngine]:
    chain, engine = Chain(), CountingEngine()
    write_genesis(
        engine,
        chain_id=CHAIN,
        header=chain.genesis_header,
        digest=chain.genesis_digest,
        overlay=chain.genesis,
    )
    return Store(engine), chain, engine


def do_nothing() -> None:
    """Let the reading go on."""


def test_an_unused_id_costs_no_look_at_the_disk_and_a_used_one_is_found() -> None:
    store, chain, engine = make_store()
    early, late, never = make_payment(1), make_payment(2), make_payment(3)
    store.commit([chain.next(early)])
    load = store.follow_used_ids()
    base = Base(store)
    assert find_tx_record(base, never.id_key) is None
    assert engine.looked_up == 1, "nothing is known yet"
    load(do_nothing)
    base = Base(store)
    store.commit([chain.next(late)])
    for tx in (early, late):
        found = base.get(TX_IDS, tx.id_key)
        assert found is not None
        assert found.tx_hash == tx.hash
    engine.looked_up = 0
    assert find_tx_record(base, never.id_key) is None
    assert engine.looked_up == 0


def test_what_is_committed_while_the_rest_is_read_is_known() -> None:
    store, chain, _ = make_store()
    load = store.follow_used_ids()
    txs = [make_payment(number) for number in range(3)]

    def commit_one() -> None:
        store.commit([chain.next(txs[2])])

    store.commit([chain.next(*txs[:2])])
    load(commit_one)
    assert not any(store.rules_out(TX_IDS.id, t.id_key) for t in txs)
    assert store.rules_out(TX_IDS.id, id_key("ALFA/main", b"\xff" * 16))


def test_an_id_is_known_before_it_is_on_the_disk() -> None:
    store, chain, engine = make_store()
    store.follow_used_ids()(do_nothing)
    tx = make_payment(1)
    key = tx.id_key
    denied: list[bool] = []
    write = engine.write

    def watch(batch: object) -> None:
        denied.append(store.rules_out(TX_IDS.id, key))
        write(batch)  # type: ignore[arg-type]

    engine.write = watch  # type: ignore[method-assign, assignment]
    assert store.rules_out(TX_IDS.id, key)
    store.commit([chain.next(tx)])
    assert denied == [False]


def test_only_ids_are_ever_denied() -> None:
    store, _, _ = make_store()
    store.follow_used_ids()(do_nothing)
    assert store.rules_out(TX_IDS.id, b"never")
    assert not any(store.rules_out(space, b"never") for space in range(256) if space != TX_IDS.id)


def test_an_id_of_a_dropped_hour_counts_as_unused_either_way() -> None:
    """After a start its record is not read, and before it counted for nothing: its hour is gone."""
    store, chain, engine = make_store()
    tx = make_payment(1)
    store.commit([chain.next(tx)])
    block = chain.next()
    for key, _ in list(Base(store).scan(ID_BUCKETS, b"")):
        block.overlay.delete(ID_BUCKETS, key)
    store.commit([block])
    assert find_tx_record(Base(store), tx.id_key) is None
    again = Store(engine)
    again.follow_used_ids()(do_nothing)
    assert find_tx_record(Overlay(Base(again)), tx.id_key) is None


def test_a_damaged_list_of_ids_is_named_as_damage() -> None:
    store, chain, engine = make_store()
    store.commit([chain.next(make_payment(1))])
    damaged = next(key for key in engine.values if key.startswith(b"s" + bytes((TX_LISTS.id,))))
    engine.write([(damaged, b"\xff\xff")])
    with pytest.raises(StoreCorrupt, match="tx_lists does not read back"):
        store.follow_used_ids()(do_nothing)
