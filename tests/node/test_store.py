"""The store: what a commit makes readable, what a crash may leave, and what damage looks like."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest

from atpar.ledger.codec import encode
from atpar.ledger.records import BALANCES, TX_IDS, TX_LISTS, Posting, balance_key
from atpar.ledger.state import TREE_NODES
from atpar.ledger.transactions import decode_transaction
from atpar.node import kv
from atpar.node.errors import (
    DiskFault,
    StoreCorrupt,
    StoreLocked,
    StoreMismatch,
    StoreMissing,
    StoreSchema,
)
from atpar.node.kv import LevelKeyValue, MemoryKeyValue, Write, compute_end
from atpar.node.limits import MAX_PAGE
from atpar.node.store import Store, create_store, open_store, write_genesis
from tests.node.chains import (
    ASSET,
    CHAIN,
    Chain,
    hash_of,
    make_capture,
    make_payment,
    make_transaction,
)


def fill(engine: MemoryKeyValue | LevelKeyValue, chain: Chain) -> None:
    write_genesis(
        engine,
        chain_id=CHAIN,
        header=chain.genesis_header,
        digest=chain.genesis_digest,
        overlay=chain.genesis,
    )


def make_store() -> tuple[Store, Chain, MemoryKeyValue]:
    chain = Chain()
    engine = MemoryKeyValue()
    fill(engine, chain)
    return Store(engine), chain, engine


def test_genesis_is_readable_at_height_zero() -> None:
    store, chain, _ = make_store()
    assert store.position.height == 0
    assert store.get_header(0) == chain.genesis_header
    assert store.get_block(0) is None
    assert store.get_receipts(0) is None
    assert store.get_receipts_bytes(0) is None
    assert store.get_finality_path(0) is None
    final = store.get_final()
    assert final.digest == chain.genesis_digest
    balance = final.view.get(BALANCES, balance_key(ASSET, "ALFA/main"))
    assert balance is not None
    assert balance.posted == 1_000_000


def test_commit_makes_everything_of_a_block_readable() -> None:
    store, chain, _ = make_store()
    txs = [make_payment(1), make_payment(2, amounts=(7, 8))]
    block = chain.next(*txs)
    store.commit([block])
    assert store.position.height == 1
    assert store.get_header(1) == block.header
    assert store.get_block_bytes(1) == block.block_bytes
    assert store.get_receipts(1) == block.receipts
    assert store.get_receipts_bytes(1) == encode(block.receipts)
    assert store.find_height(block.digest) == 1
    assert store.find_transaction(txs[1].hash) == (1, 1)
    assert store.find_by_id("ALFA/main", txs[0].body.tx_id) == (1, 0)
    assert store.get_transaction(1, 1) == txs[1]
    assert store.find_by_uetr(hash_of("uetr", 2, 1)[:16], limit=5) == [(1, 1)]
    path = store.get_finality_path(1)
    assert path is not None
    assert path.headers == (block.header,)
    assert path.finalization == block.finalization
    pages = chain.backing.spaces[TREE_NODES]
    assert {key: store.get(TREE_NODES, key) for key in pages} == pages


def test_unknown_things_are_none() -> None:
    store, _, _ = make_store()
    assert store.get_header(1) is None
    assert store.get_block(1) is None
    assert store.get_finality_path(1) is None
    assert store.find_transaction(bytes(32)) is None
    assert store.find_by_id("ALFA/main", bytes(16)) is None
    assert store.find_by_uetr(bytes(16), limit=5) == []
    assert store.get_transaction(1, 0) is None
    assert store.get_entries("ALFA/main", asset=None, after=None, limit=10) == []


def test_block_without_its_own_finalization_is_proven_by_its_descendant() -> None:
    store, chain, _ = make_store()
    blocks = [chain.next(final_above=2), chain.next(final_above=1), chain.next()]
    blocks = [
        type(b)(
            **{f: getattr(b, f) for f in b.__dataclass_fields__}
            | {
                "finalization": blocks[2].finalization,
                "finalized_height": 3,
            }
        )
        for b in blocks
    ]
    store.commit(blocks)
    path = store.get_finality_path(1)
    assert path is not None
    assert [header.height for header in path.headers] == [3, 2, 1]
    assert path.finalization.proposition.digest == blocks[2].digest
    assert store.get_finalization_at_or_above(2) == (3, blocks[2].finalization)
    assert store.get_finalization_at_or_above(4) is None


def test_commit_out_of_order_is_our_bug() -> None:
    store, chain, _ = make_store()
    chain.next()
    with pytest.raises(AssertionError):
        store.commit([chain.next()])


def test_snapshot_does_not_move_with_later_commits() -> None:
    store, chain, _ = make_store()
    before = store.get_final()
    store.commit([chain.next(make_payment(1, amounts=(100,)))])
    key = balance_key(ASSET, "ALFA/main")
    old, new = before.view.get(BALANCES, key), store.get_final().view.get(BALANCES, key)
    assert old is not None
    assert new is not None
    assert (old.posted, new.posted) == (1_000_000, 999_900)
    assert before.header.height == 0


# ---- statements


def test_statement_lines_carry_the_balance_after_each_movement() -> None:
    store, chain, _ = make_store()
    store.commit([chain.next(make_payment(1, amounts=(1, 2)), make_payment(2, amounts=(3,)))])
    store.commit([chain.next(make_payment(3, amounts=(4,)))])
    lines = store.get_entries("ALFA/main", asset=ASSET, after=None, limit=10)
    assert [(e.height, e.index, e.op) for e in lines] == [
        (1, 0, 0),
        (1, 0, 1),
        (1, 1, 0),
        (2, 0, 0),
    ]
    assert [e.amount for e in lines] == [-1, -2, -3, -4]
    assert [e.posted for e in lines] == [999_999, 999_997, 999_994, 999_990]
    assert {e.counterparty for e in lines} == {"BRVO/main"}
    assert {e.kind for e in lines} == {"transfer"}
    assert lines[0].reference == "invoice 1"
    assert lines[1].uetr == hash_of("uetr", 1, 1)[:16]
    received = store.get_entries("BRVO/main", asset=None, after=None, limit=10)
    assert [e.posted for e in received] == [1, 3, 6, 10]


def test_statement_pages_join_without_gap_or_repeat() -> None:
    store, chain, _ = make_store()
    for number in range(6):
        store.commit([chain.next(make_payment(number, amounts=(1, 1, 1)))])
    whole = store.get_entries("ALFA/main", asset=None, after=None, limit=100)
    assert len(whole) == 18
    for limit in (1, 2, 3, 4, 17, 18, 19):
        pages = []
        cursor = None
        while page := store.get_entries("ALFA/main", asset=None, after=cursor, limit=limit):
            assert len(page) <= limit
            pages += page
            cursor = (page[-1].height, page[-1].index, page[-1].op)
        assert pages == whole


def test_statement_line_of_held_money_names_what_the_operation_does_not() -> None:
    store, chain, _ = make_store()
    store.commit([chain.next(make_payment(1, amounts=(1, 2)), make_capture(2, amounts=(3, 4)))])
    lines = store.get_entries("BRVO/main", asset=None, after=(1, 0, 0), limit=10)
    assert [(e.index, e.op, e.kind, e.amount, e.posted) for e in lines] == [
        (0, 1, "transfer", 2, 3),
        (1, 0, "capture", 3, 6),
        (1, 1, "capture", 4, 10),
    ]
    assert {e.counterparty for e in lines} == {"ALFA/main"}
    assert store.get_entries("BRVO/main", asset=None, after=(1, 1, 0), limit=1) == lines[2:]
    assert store.get_entries("BRVO/main", asset=None, after=(1, 1, 1), limit=1) == []


def test_one_operation_that_moves_many_times_is_paged_without_a_loss() -> None:
    """An approval runs a whole bundle: all its movements carry the approval's position."""
    store, chain, _ = make_store()
    block = chain.next(make_payment(1), make_capture(2, amounts=(1, 2, 3)), make_payment(3))
    postings = tuple(
        Posting(p.tx_index, 0, p.asset, p.debtor, p.creditor, p.amount) for p in block.postings
    )
    store.commit([dataclasses.replace(block, postings=postings)])
    whole = store.get_entries("ALFA/main", asset=None, after=None, limit=10)
    assert [e.amount for e in whole] == [-5, -1, -2, -3, -5]
    assert [(e.index, e.op) for e in whole] == [(0, 0), (1, 0), (1, 0), (1, 0), (2, 0)]
    for limit in (1, 2, 3, 4, 5):
        pages, cursor = [], None
        while page := store.get_entries("ALFA/main", asset=None, after=cursor, limit=limit):
            assert len(page) == min(limit, len(whole) - len(pages))
            pages += page
            cursor = (page[-1].height, page[-1].index, page[-1].number)
        assert pages == whole


@pytest.mark.parametrize("limit", [1, 99, 100, 101, 249, 250, 251])
def test_pages_inside_one_block_join_without_gap_or_repeat(limit: int) -> None:
    store, chain, _ = make_store()
    store.commit([chain.next(*(make_payment(n, amounts=(1,) * 50) for n in range(5)))])
    store.commit([chain.next(make_payment(5))])
    whole = store.get_entries("ALFA/main", asset=None, after=None, limit=300)
    assert [(e.height, e.index, e.op) for e in whole[:-1]] == [
        (1, index, op) for index in range(5) for op in range(50)
    ]
    assert [e.posted for e in whole] == [*range(999_999, 999_749, -1), 999_745]
    pages, cursor = [], None
    while page := store.get_entries("ALFA/main", asset=ASSET, after=cursor, limit=limit):
        assert len(page) == min(limit, len(whole) - len(pages))
        pages += page
        cursor = (page[-1].height, page[-1].index, page[-1].op)
    assert pages == whole


def test_page_inside_a_block_decodes_no_more_transactions_than_it_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, chain, _ = make_store()
    store.commit([chain.next(*(make_payment(n, amounts=(1,) * 10) for n in range(50)))])
    decoded: list[bytes] = []
    monkeypatch.setattr(
        "atpar.node.store.decode_transaction",
        lambda raw: decoded.append(raw) or decode_transaction(raw),
    )
    assert len(store.get_entries("ALFA/main", asset=None, after=(1, 20, 9), limit=11)) == 11
    assert len(decoded) == 2 + 1  # the last line of transaction 20 is the cursor itself


def test_statement_page_is_bounded() -> None:
    store, chain, _ = make_store()
    ones = (1,) * 500
    store.commit([chain.next(*(make_payment(n, amounts=ones) for n in range(3)))])
    assert len(store.get_entries("ALFA/main", asset=None, after=None, limit=10**9)) == MAX_PAGE


def test_statement_of_one_asset_or_a_similar_name_shows_nothing_else() -> None:
    store, chain, _ = make_store()
    store.commit([chain.next(make_payment(1))])
    assert store.get_entries("ALFA/main", asset="CNH.JDCL", after=None, limit=10) == []
    assert store.get_entries("ALFA/mai", asset=None, after=None, limit=10) == []
    assert store.get_entries("ALFA/main2", asset=None, after=None, limit=10) == []


def test_statement_of_several_assets_is_one_list_in_order() -> None:
    store, chain, _ = make_store()
    for number in range(6):
        asset = ("HKD.JDCL", "CNH.JDCL", "AAA.JDCL")[number % 3]
        tx = make_payment(number, amounts=(1, 2), asset=asset)
        store.commit([chain.next(tx, make_payment(100 + number))])
    whole = store.get_entries("ALFA/main", asset=None, after=None, limit=100)
    cursors = [(e.height, e.index, e.op) for e in whole]
    assert len(whole) == 18
    assert cursors == sorted(cursors)
    assert {e.asset for e in whole} == {"HKD.JDCL", "CNH.JDCL", "AAA.JDCL"}
    only = store.get_entries("ALFA/main", asset="CNH.JDCL", after=None, limit=100)
    assert only == [e for e in whole if e.asset == "CNH.JDCL"]
    pages, cursor = [], None
    while page := store.get_entries("ALFA/main", asset=None, after=cursor, limit=4):
        pages += page
        cursor = (page[-1].height, page[-1].index, page[-1].op)
    assert pages == whole


def test_statement_of_a_quiet_asset_does_not_read_the_busy_one() -> None:
    store, chain, engine = make_store()
    for number in range(30):
        store.commit([chain.next(make_payment(number))])
    reads: list[bytes] = []

    def snapshot() -> MemoryKeyValue:
        copy = MemoryKeyValue(engine.values)
        scan = copy.scan
        copy.scan = lambda prefix, *, start=b"": (
            reads.append(key) or (key, value) for key, value in scan(prefix, start=start)
        )
        return copy

    engine.snapshot = snapshot
    assert store.get_entries("ALFA/main", asset="CNH.JDCL", after=None, limit=10) == []
    assert reads == []
    assert len(store.get_entries("ALFA/main", asset=None, after=None, limit=2)) == 2
    assert len(reads) < 6


class BusyEngine(MemoryKeyValue):
    """Something happens just before a chosen read, of itself or of a snapshot."""

    def __init__(
        self, values: dict[bytes, bytes] | None = None, *, root: "BusyEngine | None" = None
    ) -> None:
        super().__init__(values)
        self.root = self if root is None else root
        self.reads_left = 0
        self.happen: Callable[[], None] = lambda: None

    def count(self) -> None:
        self.root.reads_left -= 1
        if self.root.reads_left == 0:
            self.root.happen()

    def get(self, key: bytes) -> bytes | None:
        self.count()
        return super().get(key)

    def scan(self, prefix: bytes, *, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        self.count()
        yield from super().scan(prefix, start=start)

    def snapshot(self) -> "BusyEngine":
        self.count()
        return BusyEngine(self.values, root=self.root)


def test_statement_read_during_a_commit_shows_all_lines_of_a_transaction_or_none() -> None:
    seen: set[int] = set()
    for number in range(1, 30):
        chain, engine = Chain(), BusyEngine()
        fill(engine, chain)
        store = Store(engine)
        both = [make_payment(n, asset=a).body.ops[0] for n, a in enumerate(("AAA.JDCL", ASSET))]
        store.commit([chain.next(make_transaction(1, tuple(both)))])
        late = chain.next(make_transaction(2, tuple(both)))
        engine.happen, engine.reads_left = partial(store.commit, [late]), number
        page = store.get_entries("ALFA/main", asset=None, after=None, limit=10)
        happened, engine.reads_left = store.position.height == 2, 0
        if not happened:
            store.commit([late])
        cursor = (page[-1].height, page[-1].index, page[-1].number)
        rest = store.get_entries("ALFA/main", asset=None, after=cursor, limit=10)
        lines = [(line.height, line.asset) for line in page + rest]
        assert lines == [(h, asset) for h in (1, 2) for asset in ("AAA.JDCL", ASSET)], number
        assert len(page) in (2, 4)
        seen.add(len(page))
    assert seen == {2, 4}
    assert not happened, "there are more reads than were tried"


# ---- the disk


class FailingEngine(MemoryKeyValue):
    """Fails a chosen batch: before it has any effect, as LevelDB's log does."""

    def __init__(self, *, fail_at: int) -> None:
        super().__init__()
        self.fail_at = fail_at
        self.batches = 0

    def write(self, batch: Iterable[Write]) -> None:
        number, self.batches = self.batches, self.batches + 1
        if number == self.fail_at:
            list(batch)
            raise DiskFault("No space left on device")
        super().write(batch)


def test_failed_batch_leaves_the_old_height() -> None:
    chain = Chain()
    engine = FailingEngine(fail_at=2)
    fill(engine, chain)
    store = Store(engine)
    store.commit([chain.next(make_payment(1))])
    with pytest.raises(DiskFault):
        store.commit([chain.next(make_payment(2)), chain.next(make_payment(3))])
    for reopened in (store, Store(engine)):
        assert reopened.position.height == 1
        assert reopened.get_block(2) is None
        assert reopened.find_transaction(make_payment(2).hash) is None


def test_genesis_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    chain = Chain()
    path = tmp_path / "chain.db"
    # An earlier try stopped half-way.
    LevelKeyValue(tmp_path / "chain.db.new", create=True).close()
    make(path, chain)
    assert [each.name for each in tmp_path.iterdir()] == ["chain.db"]
    open_store(path).close()


def test_empty_database_is_no_store(tmp_path: Path) -> None:
    LevelKeyValue(tmp_path / "chain.db", create=True).close()
    with pytest.raises(StoreMissing, match="node init"):
        open_store(tmp_path / "chain.db")


def make(path: Path, chain: Chain) -> None:
    create_store(
        path,
        chain_id=CHAIN,
        header=chain.genesis_header,
        digest=chain.genesis_digest,
        overlay=chain.genesis,
    )


def test_level_db_keeps_commits_over_a_restart(tmp_path: Path) -> None:
    chain = Chain()
    path = tmp_path / "chain.db"
    make(path, chain)
    store = open_store(path, chain_id=CHAIN)
    blocks = [chain.next(make_payment(n)) for n in range(5)]
    for block in blocks:
        store.commit([block])
    snapshot = store.get_final()
    assert snapshot.header == blocks[-1].header
    del snapshot
    store.close()
    again = open_store(path)
    assert again.position.height == 5
    assert [again.get_block_bytes(b.header.height) for b in blocks] == [
        b.block_bytes for b in blocks
    ]
    assert len(again.get_entries("ALFA/main", asset=None, after=(2, 0, 0), limit=10)) == 3
    assert dict(again.scan(BALANCES.id, b"HKD")) == {
        balance_key(ASSET, name): encode(again.get_final().view.get(BALANCES, key))
        for name in ("ALFA/main", "BRVO/main")
        for key in [balance_key(ASSET, name)]
    }
    again.close()


def test_second_process_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    chain = Chain()
    make(tmp_path / "chain.db", chain)
    store = open_store(tmp_path / "chain.db")
    with pytest.raises(StoreLocked, match="another process"):
        open_store(tmp_path / "chain.db")
    store.close()


def test_store_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match="node init"):
        open_store(tmp_path / "chain.db")
    assert list(tmp_path.iterdir()) == []


def test_init_never_overwrites(tmp_path: Path) -> None:
    chain = Chain()
    make(tmp_path / "chain.db", chain)
    with pytest.raises(StoreMismatch, match="never overwritten"):
        make(tmp_path / "chain.db", chain)


def test_other_schema_is_refused_with_both_versions() -> None:
    _, _, engine = make_store()
    engine.write([(b"mschema", encode(7))])
    with pytest.raises(StoreSchema, match="version 7, this program reads version 5"):
        Store(engine)


def test_other_chain_is_refused_with_both_ids() -> None:
    _, _, engine = make_store()
    with pytest.raises(StoreMismatch, match=CHAIN.hex()):
        Store(engine, chain_id=b"\1" * 32)


def test_older_schema_is_refused_with_what_to_do() -> None:
    _, _, engine = make_store()
    engine.write([(b"mschema", encode(4))])
    with pytest.raises(StoreSchema, match=r"version 4, .*keep votes\.journal.* `atpar node init`"):
        Store(engine)


@pytest.mark.parametrize(
    "space", [b"mfinal", b"mchain", b"mschema", b"h", b"b", b"r", b"f", b"t", b"e", b"g"]
)
def test_damaged_value_is_named_not_returned(space: bytes) -> None:
    store, chain, engine = make_store()
    tx = make_payment(1)
    store.commit([chain.next(tx, make_capture(2))])
    for key in list(engine.values):
        if key.startswith(space):
            engine.values[key] = engine.values[key][:-1]
    with pytest.raises(StoreCorrupt, match="does not read back"):
        read_everything(Store(engine), tx.hash)


def test_missing_movements_are_named() -> None:
    store, chain, engine = make_store()
    store.commit([chain.next(make_capture(1))])
    engine.write([(key, None) for key in list(engine.values) if key.startswith(b"g")])
    with pytest.raises(StoreCorrupt, match="the list of movements is missing"):
        store.get_entries("ALFA/main", asset=None, after=None, limit=10)


def read_everything(store: Store, tx_hash: bytes) -> None:
    store.get_header(1)
    store.get_block(1)
    store.get_receipts(1)
    store.get_finality_path(1)
    store.find_transaction(tx_hash)
    store.get_entries("ALFA/main", asset=None, after=None, limit=10)


def test_rotted_level_db_file_is_reported(tmp_path: Path) -> None:
    chain = Chain()
    path = tmp_path / "chain.db"
    make(path, chain)
    store = open_store(path)
    for number in range(50):
        store.commit([chain.next(make_payment(number, amounts=(1,) * 40))])
    store.close()
    open_store(path).close()  # moves the log into a table
    tables = sorted(path.glob("*.ldb"))
    assert tables
    for table in tables:
        data = bytearray(table.read_bytes())
        for position in range(100, len(data) - 100, 997):
            data[position] ^= 0x40
        table.write_bytes(bytes(data))
    with pytest.raises(StoreCorrupt, match="check it"):
        read_whole(path)


def read_whole(path: Path) -> None:
    store = open_store(path)
    try:
        for height in range(51):
            store.get_block(height)
            store.get_receipts(height)
    finally:
        store.close()


@pytest.mark.parametrize(
    ("prefix", "end"), [(b"a", b"b"), (b"a\xff", b"b"), (b"\xff\xff", None), (b"", None)]
)
def test_end_of_a_prefix(prefix: bytes, end: bytes | None) -> None:
    assert compute_end(prefix) == end


def test_memory_engine_behaves_as_level_db(tmp_path: Path) -> None:
    level, memory = LevelKeyValue(tmp_path / "x", create=True), MemoryKeyValue()
    batch: list[Write] = [(bytes([a, b]), bytes([a * b % 256])) for a in range(9) for b in (0, 255)]
    for engine in (level, memory):
        engine.write(batch)
        engine.write([(b"\3\0", None), (b"\4\0", b"new"), (b"absent", None)])
    for prefix in (b"", b"\3", b"\4", b"\xff", b"\3\xff"):
        for start in (b"", b"\1", b"\xff"):
            assert list(level.scan(prefix, start=start)) == list(memory.scan(prefix, start=start))
    assert level.get(b"\4\0") == memory.get(b"\4\0") == b"new"
    level.close()


def test_stores_draw_write_buffers_of_different_sizes_within_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = {kv.draw_write_buffer_bytes() for _ in range(20)}
    assert len(drawn) > 1
    for draw, expected in ((lambda _: 0, 12 * 1024**2), (lambda limit: limit - 1, 20 * 1024**2)):
        monkeypatch.setattr(kv.secrets, "randbelow", draw)
        assert kv.draw_write_buffer_bytes() == expected


def test_id_finds_its_transaction_after_the_ledger_dropped_its_hour() -> None:
    store, chain, _ = make_store()
    tx = make_payment(1)
    store.commit([chain.next(make_payment(0), tx)])
    block = chain.next()
    block.overlay.delete(TX_IDS, tx.id_key)
    for key, _ in store.scan(TX_LISTS.id, b""):
        block.overlay.delete(TX_LISTS, key)
    store.commit([block])
    assert store.find_by_id(tx.body.sender, tx.body.tx_id) == (1, 1)
    assert not list(store.scan(TX_LISTS.id, b""))
    assert not list(store.get_final().view.scan(TX_LISTS, b""))


def test_used_ids_of_a_block_stand_in_one_record() -> None:
    store, chain, _ = make_store()
    txs = [make_payment(number) for number in range(9)]
    store.commit([chain.next(*txs[:5]), chain.next(*txs[5:])])
    runs = [TX_LISTS.codec.decode_stored(value) for _, value in store.scan(TX_LISTS.id, b"")]
    assert [[entry.tx_id for entry in run] for run in runs] == [
        [tx.body.tx_id for tx in some] for some in (txs[:5], txs[5:])
    ]
