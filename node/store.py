"""chain.db: everything that is final, written once per finalization in one atomic synced batch.

The state of the last final block, the blocks with their receipts and finalizations, and the
indexes that answer questions about them, in one ordered key-value engine under one-byte spaces:

    m name                          schema version, chain id, position of the last final block
    s section key                   state records and tree pages (`ledger.state.Backing`)
    h height                        header            d digest  -> height
    b height                        block             r height  -> receipts of the block, in order
    f height                        finalization of the block at this height
    t transaction hash              -> height, index
    u uetr height index             (nothing)
    e asset | account 0 height      -> transactions that moved that balance in that block
    g height index                  -> what a transaction moved that does not say so (`indexes.py`)
    v epoch                         validator set of the epoch, and the block that it begins on
    w epoch                         recovery document that opened the epoch
    y epoch                         proof of the sets before that document, where it needs one
    p height                        entries of the trees that the block changed, while the disk has
                                    older pages (`treepages.py`)
    x participant 0 epoch view kind evidence against a validator (not part of what is final)

A crash leaves the old position or the new one. A block finalised by a descendant has no
finalization of its own; it is in one batch with that descendant, so its proof is always complete.
Used ids (section TX_IDS) stay when the ledger drops their hour: they are how a transaction is found
by its sender's id, and to the ledger an id whose hour has no bucket counts as unused.
Numbers in keys are big-endian, so key order is chain order.
"""

import heapq
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Final, TypeVar

from msgspec import Meta

from atpar.ledger.blocks import BLOCK, HEADER, Block, Header
from atpar.ledger.certificates import FINALIZATION, Finalization
from atpar.ledger.codec import Codec, Wire, encode
from atpar.ledger.evidence import EVIDENCE, Evidence, encode_evidence, get_place
from atpar.ledger.limits import MAX_BLOCK_OPS, MAX_BLOCK_TRANSACTIONS
from atpar.ledger.proofs import (
    BoundaryStep,
    EpochStep,
    FinalityProof,
    RecoveryStep,
    RegisteredSets,
)
from atpar.ledger.receipts import Receipt
from atpar.ledger.records import (
    CURRENT,
    TX_IDS,
    TX_LISTS,
    VALIDATORS,
    Posting,
    balance_key,
    identify_validators,
)
from atpar.ledger.recovery import RECOVERY, RecoveryBody, RecoveryDocument
from atpar.ledger.state import TREE_NODES, Base, Overlay
from atpar.ledger.transactions import Transaction, decode_transaction, id_key
from atpar.ledger.types import ChainId, Count, Hash, Height
from atpar.node.errors import DiskFault, StoreCorrupt, StoreMismatch, StoreMissing, StoreSchema
from atpar.node.evidence import get_kind
from atpar.node.gateway import Entry, EntryCursor, EpochEntry, FinalityPath, FinalState
from atpar.node.indexes import (
    Marks,
    Movement,
    Numbered,
    compute_lines,
    compute_marks,
    compute_movements,
    compute_uetrs,
    describe_line,
    is_told,
    list_marks,
    list_told,
)
from atpar.node.journal import sync_folder
from atpar.node.kv import KeyValue, KeyValueReader, LevelKeyValue, Write, decode_value
from atpar.node.limits import MAX_EVIDENCE_PER_VALIDATOR, MAX_PAGE, SNAPSHOT_CACHE_BYTES
from atpar.node.treepages import Held, load_held
from atpar.node.used_ids import UsedIds

SCHEMA_VERSION: Final = 5

_SCHEMA_KEY: Final = b"mschema"
_CHAIN_KEY: Final = b"mchain"
_FINAL_KEY: Final = b"mfinal"
_STATE: Final = [b"s" + bytes((space,)) for space in range(256)]
_HEIGHT = struct.Struct(">Q")
_PLACE = struct.Struct(">QI")

T = TypeVar("T")


class Position(Wire, frozen=True):
    """The last final block."""

    height: Height
    digest: Hash
    view: Count
    epoch: Count


_EPOCH = Codec[EpochEntry](EpochEntry, name="epoch", max_bytes=2 * 1024 * 1024)
_SETS = Codec[RegisteredSets](RegisteredSets, name="proof of the sets", max_bytes=4 * 1024 * 1024)
_SCHEMA = Codec[int](Annotated[int, Meta(ge=0)], name="schema version", max_bytes=9)
_CHAIN = Codec[bytes](ChainId, name="chain id", max_bytes=34)
_POSITION = Codec[Position](Position, name="final position", max_bytes=128)
_RECEIPTS = Codec[tuple[Receipt, ...]](
    tuple[Receipt, ...], name="receipts", max_bytes=MAX_BLOCK_TRANSACTIONS * 256 + 5
)
_MARKS = Codec[Marks](Marks, name="statement index", max_bytes=MAX_BLOCK_TRANSACTIONS * 16 + 5)
_MOVEMENTS = Codec[tuple[Movement, ...]](
    tuple[Movement, ...], name="list of movements", max_bytes=MAX_BLOCK_OPS * 128 + 5
)


@dataclass(frozen=True, slots=True)
class FinalBlock:
    """One final block and everything that is written with it."""

    header: Header
    digest: bytes
    block_bytes: bytes
    """Its canonical encoding, as it came from the network or was proposed."""
    transactions: tuple[Transaction, ...]
    receipts: tuple[Receipt, ...]
    postings: tuple[Posting, ...]
    overlay: Overlay
    """The block's writes; must not change any more."""
    finalization: Finalization
    """Of this block or of the descendant that finalised it."""
    finalized_height: int
    """Height of the block that the finalization names."""


class Store:
    """The open database. One thread at a time commits; reads may come from any thread."""

    def __init__(self, engine: KeyValue, *, chain_id: bytes | None = None) -> None:
        """Open what an engine holds; with `chain_id` only if it is that chain's.

        Raises:
            StoreMissing, StoreSchema, StoreMismatch, StoreCorrupt: it cannot be used as it is.
        """
        self._engine = engine
        _check_schema(engine)
        self.chain_id = _read(engine, _CHAIN_KEY, _CHAIN)
        if chain_id is not None and self.chain_id != chain_id:
            raise StoreMismatch(
                f"chain.db holds chain {self.chain_id.hex()}, genesis.json is {chain_id.hex()}"
            )
        self.position = _read(engine, _FINAL_KEY, _POSITION)
        """The last final block on the disk; moves when a commit returns."""
        self._held: tuple[Held, ...] = ()
        """Tree pages that the disk does not have: of the final state, and while a commit is under
        way also of the state after it. Found out when first asked for."""
        self._used_ids: UsedIds | None = None
        self._steps: tuple[EpochStep, ...] = ()
        """Those that were asked for, from genesis on."""

    def close(self) -> None:
        """Close the engine and release its lock."""
        self._engine.close()

    # ---- the state, as `ledger.state.Backing`

    def get(self, space: int, key: bytes) -> bytes | None:
        """Return the bytes stored under a key of a section (or of TREE_NODES)."""
        held = self._get_held() if space == TREE_NODES else None
        return _get_state(self._engine, held, space, key)

    def rules_out(self, space: int, key: bytes, /) -> bool:
        """Return True only of ids that the ledger counts as unused, known without a look.

        Records of ids whose hour it has dropped are still found by `get`.
        """
        used = self._used_ids
        return used is not None and space == TX_IDS.id and not used.may_hold(key)

    def follow_used_ids(self) -> Callable[[Callable[[], None]], None]:
        """Learn which ids are used, from now on and, by the function returned, until now.

        To be called while nothing is being committed; the function then in any thread, where it
        takes a second for a few hundred thousand ids. What it is given is called now and then:
        what that raises ends it, and then ids are looked up as before.
        """
        used = self._used_ids = UsedIds()

        def load(check: Callable[[], None]) -> None:
            runs = self._engine.snapshot().scan(_STATE[TX_LISTS.id])
            entries = (entry for _, run in runs for entry in decode_value(TX_LISTS.codec, run))
            used.load((id_key(entry.sender, entry.tx_id) for entry in entries), check=check)

        return load

    def _note_used_ids(self, overlays: Iterable[Overlay]) -> None:
        """Before they are written, or somebody might be told that an id is unused which is not."""
        if self._used_ids is not None:
            for overlay in overlays:
                self._used_ids.add_all(overlay.tables.get(TX_IDS.id, ()))

    def scan(self, space: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, bytes) for all keys of a section with the prefix, in key order."""
        held = self._get_held() if space == TREE_NODES else None
        return _scan_state(self._engine, held, space, prefix)

    def _get_held(self) -> Held:
        if not self._held:
            self._held = (_load_held(self._engine, self.position.height),)
        return self._held[0]

    # ---- writing

    def commit(self, blocks: Sequence[FinalBlock]) -> None:
        """Write blocks that one finalization made final, in order, in one atomic synced batch.

        Raises:
            DiskFault: nothing of it may be relied on; the node stops.
            StoreCorrupt: the engine found damage; the node stops.
        """
        position = self.position
        for block in blocks:
            header = block.header
            assert header.height == position.height + 1, (header.height, position.height)
            assert header.parent == position.digest
            position = Position(header.height, block.digest, header.view, header.epoch)
        held = self._get_held()
        after, pages = held.add((block.header.height, block.overlay) for block in blocks)
        self._held = (held, after)
        self._note_used_ids(block.overlay for block in blocks)
        self._engine.write(_encode_commit(blocks, position) + pages)
        self._held = (after,)
        self.position = position

    # ---- blocks

    def get_header(self, height: int) -> Header | None:
        """Return the header at a height, or None above the final height."""
        return _find(self._engine, _key(b"h", height), HEADER)

    def get_block_bytes(self, height: int) -> bytes | None:
        """Return the canonical bytes of a block, or None where there is none."""
        return self._engine.get(_key(b"b", height))

    def get_block(self, height: int) -> Block | None:
        """Return the block at a height, or None above the final height and for height 0."""
        return _find(self._engine, _key(b"b", height), BLOCK)

    def find_height(self, digest: bytes) -> int | None:
        """Return the height of the final block with a digest, or None."""
        value = self._engine.get(b"d" + digest)
        return None if value is None else _unpack(_HEIGHT, value, "digest index")[0]

    def get_receipts(self, height: int) -> tuple[Receipt, ...] | None:
        """Return the receipts of a block, in order; None where there is no block."""
        return _find(self._engine, _key(b"r", height), _RECEIPTS)

    def get_receipts_bytes(self, height: int) -> bytes | None:
        """Return the receipts of a block as one encoded list; None where there is no block."""
        return self._engine.get(_key(b"r", height))

    def get_finalization(self, height: int) -> Finalization | None:
        """Return the finalization of the block at a height itself, or None if it has none."""
        return _find(self._engine, _key(b"f", height), FINALIZATION)

    def get_finalization_at_or_above(self, height: int) -> tuple[int, Finalization] | None:
        """Return the lowest finalization that makes a height final, with its own block's height."""
        for key, value in self._engine.scan(b"f", start=_HEIGHT.pack(height)):
            return _unpack(_HEIGHT, key, "key")[0], decode_value(FINALIZATION, value)
        return None

    def get_finality_path(self, height: int) -> FinalityPath | None:
        """Return what makes the block at a height final; None where there is no block."""
        if not 0 < height <= self.position.height:
            return None
        found = self.get_finalization_at_or_above(height)
        if found is None:
            raise StoreCorrupt(f"chain.db: no finalization at or above height {height}")
        top, finalization = found
        headers = tuple(self._get_known_header(h) for h in range(top, height - 1, -1))
        return FinalityPath(finalization=finalization, headers=headers)

    def _get_known_header(self, height: int) -> Header:
        header = self.get_header(height)
        if header is None:
            raise StoreCorrupt(f"chain.db: the header at height {height} is missing")
        return header

    # ---- epochs

    def get_epoch(self, epoch: int) -> EpochEntry | None:
        """Return an epoch's validators and start, or None when it is not reached here."""
        return _find(self._engine, _key(b"v", epoch), _EPOCH)

    def list_epochs(self) -> list[EpochEntry]:
        """Return every epoch that is reached, from genesis on."""
        return [decode_value(_EPOCH, value) for _, value in self._engine.scan(b"v")]

    def get_epoch_steps(self, epoch: int) -> tuple[EpochStep, ...]:
        """Return what leads a verifier from the genesis set to that of an epoch."""
        steps = self._steps
        while len(steps) < epoch:
            steps = (*steps, self._make_step(len(steps) + 1))
        if len(steps) > len(self._steps):
            self._steps = steps
        return steps[:epoch]

    def _make_step(self, epoch: int) -> EpochStep:
        entry = self.get_epoch(epoch)
        header = None if entry is None else self.get_header(entry.start_height)
        if entry is None or header is None:
            raise StoreCorrupt(f"chain.db: the start of epoch {epoch} is missing")
        path = self.get_finality_path(header.height)
        finality = None if path is None else FinalityProof(path.finalization, path.headers)
        document = _find(self._engine, _key(b"w", epoch), RECOVERY)
        if document is None:
            assert finality is not None, "genesis is no boundary"
            return BoundaryStep(finality, identify_validators(entry.validators))
        # The epoch that stopped may have no final block of its own.
        base = finality if header.epoch == epoch - 1 else None
        return RecoveryStep(document, base, _find(self._engine, _key(b"y", epoch), _SETS))

    # ---- recovery

    def get_recovery(self, epoch: int) -> RecoveryBody | None:
        """Return what opened an epoch, if it was a recovery document."""
        document = _find(self._engine, _key(b"w", epoch), RECOVERY)
        return None if document is None else document.body

    def write_recovery(
        self, document: RecoveryDocument, overlay: Overlay, *, sets: RegisteredSets | None
    ) -> None:
        """Write a checked document with the state that it makes of the final one.

        `sets` proves the sets of the state before, where a verifier needs that.
        """

        held = self._get_held()
        self._note_used_ids([overlay])

        def batch() -> Iterator[Write]:
            yield from held.list_pages()
            yield from _encode_state([overlay])
            yield from _encode_pages(overlay)
            yield from _encode_epoch(overlay, document.body.height)
            yield _key(b"w", document.body.epoch), encode(document)
            if sets is not None:
                yield _key(b"y", document.body.epoch), encode(sets)

        self._engine.write(batch())
        self._held = (Held(self.position.height),)

    # ---- evidence

    def add_evidence(self, evidence: Evidence) -> bool:
        """Keep evidence, synced; return whether it is new and within its signer's bound."""
        epoch, view = get_place(evidence)
        prefix = b"x" + evidence.participant.encode() + b"\0"
        place = _HEIGHT.pack(epoch) + _HEIGHT.pack(view) + get_kind(type(evidence)).encode()
        known = [key for key, _ in self._engine.scan(prefix)]
        if place in known or len(known) >= MAX_EVIDENCE_PER_VALIDATOR:
            return False
        self._engine.write([(prefix + place, encode_evidence(evidence))])
        return True

    def list_evidence(self) -> list[Evidence]:
        """Return all evidence that is kept, by participant, epoch and view."""
        return [decode_value(EVIDENCE, value) for _, value in self._engine.scan(b"x")]

    # ---- transactions and statements

    def find_transaction(self, tx_hash: bytes) -> tuple[int, int] | None:
        """Return (height, index) of an executed transaction, or None."""
        return self._find_place(b"t" + tx_hash)

    def find_by_id(self, sender: str, tx_id: bytes) -> tuple[int, int] | None:
        """Return (height, index) of the executed transaction with a sender's id, or None."""
        record = _find(self._engine, _STATE[TX_IDS.id] + id_key(sender, tx_id), TX_IDS.codec)
        return None if record is None else (record.height, record.index)

    def find_by_uetr(self, uetr: bytes, *, limit: int) -> list[tuple[int, int]]:
        """Return (height, index) of transactions that name a payment reference, oldest first."""
        found: list[tuple[int, int]] = []
        for key, _ in self._engine.scan(b"u" + uetr):
            if len(found) == min(limit, MAX_PAGE):
                break
            height, index = _unpack(_PLACE, key, "uetr index")
            found.append((height, index))
        return found

    def _find_place(self, key: bytes) -> tuple[int, int] | None:
        value = self._engine.get(key)
        if value is None:
            return None
        height, index = _unpack(_PLACE, value, "transaction index")
        return height, index

    def get_transaction(self, height: int, index: int) -> Transaction | None:
        """Return one transaction of a final block, or None where there is none."""
        block = self.get_block(height)
        if block is None or index >= len(block.transactions):
            return None
        return decode_transaction(block.transactions[index])

    def get_entries(
        self, account: str, *, asset: str | None, after: EntryCursor | None, limit: int
    ) -> list[Entry]:
        """Return statement lines of an account in order, those after a cursor, at most `limit`.

        All of them are of one version: of a transaction that a commit adds meanwhile there are all
        lines or none, and no cursor steps over one that was not there yet.
        """
        reader = self._engine.snapshot()
        assets = _list_moved_assets(reader, account) if asset is None else [asset]
        after = (0, 0, -1) if after is None else after
        limit = min(limit, MAX_PAGE)
        start = _HEIGHT.pack(after[0])
        marks = heapq.merge(*(_scan_marks(reader, account, code, start) for code in assets))
        entries: list[Entry] = []
        block: Block | None = None
        for (height, index), moved in groupby(marks, key=itemgetter(0, 1)):
            if (height, index) < after[:2]:
                continue
            if len(entries) >= limit:
                break
            if block is None or block.header.height != height:
                block = _get_known_block(reader, height)
            tx = decode_transaction(block.transactions[index])
            posted = {code: balance for _, _, code, balance in moved}
            movements = _get_movements(reader, account, height, index, tx)
            lines = compute_lines(account, movements, posted)
            following = [line for line in lines if (height, index, line.number) > after]
            entries += [
                describe_line(line, index=index, header=block.header, tx=tx)
                for line in following[: limit - len(entries)]
            ]
        return entries

    # ---- the final state

    def get_final(self) -> FinalState:
        """Return the last final state, as one consistent snapshot."""
        self._get_held()
        known, snapshot = self._held, self._engine.snapshot()
        position = _read(snapshot, _FINAL_KEY, _POSITION)
        header = _read(snapshot, _key(b"h", position.height), HEADER)
        # A commit may end meanwhile: before the snapshot, or after it.
        fitting = [held for held in (*known, *self._held) if held.height == position.height]
        held = fitting[0] if fitting else _load_held(snapshot, position.height)
        view = Base(
            _SnapshotBacking(snapshot, held),
            cache_record_bytes=SNAPSHOT_CACHE_BYTES,
            cache_node_bytes=SNAPSHOT_CACHE_BYTES,
        )
        return FinalState(header=header, digest=position.digest, view=view)


class _SnapshotBacking:
    """The state inside one snapshot, with the tree pages that are held at its height."""

    def __init__(self, snapshot: KeyValueReader, held: Held) -> None:
        self._snapshot = snapshot
        self._held = held

    def get(self, space: int, key: bytes) -> bytes | None:
        """Return the bytes stored under a key."""
        return _get_state(self._snapshot, self._held, space, key)

    def scan(self, space: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, bytes) for all keys with the prefix, in key order."""
        return _scan_state(self._snapshot, self._held, space, prefix)

    def rules_out(self, _space: int, _key: bytes, /) -> bool:
        """Return False: a snapshot is asked too seldom for it to matter."""
        return False


def _load_held(reader: KeyValueReader, height: int) -> Held:
    header = _read(reader, _key(b"h", height), HEADER)
    on_disk = _SnapshotBacking(reader, Held(height))
    return load_held(reader, on_disk, height=height, state_root=header.state_root)


def _get_state(reader: KeyValueReader, held: Held | None, space: int, key: bytes) -> bytes | None:
    if space == TREE_NODES and held is not None and key in held.pages:
        return held.pages[key]
    return reader.get(_STATE[space] + key)


def _scan_state(
    reader: KeyValueReader, held: Held | None, space: int, prefix: bytes
) -> Iterator[tuple[bytes, bytes]]:
    below = ((prefix + key, value) for key, value in reader.scan(_STATE[space] + prefix))
    if space != TREE_NODES or held is None or not held.pages:
        return below
    pages = held.pages
    newer = [(key, page) for key, page in pages.items() if page and key.startswith(prefix)]
    return heapq.merge(sorted(newer), (entry for entry in below if entry[0] not in pages))


# ---- statements


def _list_moved_assets(reader: KeyValueReader, account: str) -> list[str]:
    """Return the assets of which an account ever held something, in order."""
    return [asset for asset in _list_assets(reader) if _has_moved(reader, account, asset)]


def _list_assets(reader: KeyValueReader) -> list[str]:
    """Return the assets of which anybody ever held something, in order."""
    assets: list[str] = []
    start = b""
    while True:
        key = next((key for key, _ in reader.scan(b"e", start=start)), None)
        if key is None:
            return assets
        asset, _, _ = key.partition(b"|")
        assets.append(asset.decode())
        start = asset + b"}"  # past every key of this asset


def _has_moved(reader: KeyValueReader, account: str, asset: str) -> bool:
    return next(reader.scan(_statement_prefix(asset, account)), None) is not None


def _scan_marks(
    reader: KeyValueReader, account: str, asset: str, start: bytes
) -> Iterator[tuple[int, int, str, int]]:
    """Yield (height, index, asset, posted balance after) of one balance in order."""
    for key, value in reader.scan(_statement_prefix(asset, account), start=start):
        height = _unpack(_HEIGHT, key, "statement index")[0]
        marks = decode_value(_MARKS, value)
        for index, posted in list_marks(marks):
            yield height, index, asset, posted


def _get_known_block(reader: KeyValueReader, height: int) -> Block:
    block = _find(reader, _key(b"b", height), BLOCK)
    if block is None:
        raise StoreCorrupt(f"chain.db: the block at height {height} is missing")
    return block


def _get_movements(
    reader: KeyValueReader, account: str, height: int, index: int, tx: Transaction
) -> Sequence[Numbered]:
    """Return what a transaction moved: all that concerns an account, at least."""
    if is_told(tx):
        return list_told(tx, account)
    movements = _read(reader, b"g" + _PLACE.pack(height, index), _MOVEMENTS)
    return list(enumerate(movements))


# ---- making and opening


def open_store(path: Path, *, chain_id: bytes | None = None) -> Store:
    """Open the `chain.db` folder of a node; this process then holds its lock until `close`.

    Raises:
        StoreError: it cannot be used as it is; the class and the message say why.
        DiskFault: it cannot be read.
    """
    engine = LevelKeyValue(path)
    try:
        return Store(engine, chain_id=chain_id)
    except BaseException:
        engine.close()
        raise


def create_store(
    path: Path, *, chain_id: bytes, header: Header, digest: bytes, overlay: Overlay
) -> None:
    """Make `chain.db` with the genesis state at height 0. It appears complete, or not at all.

    Raises:
        StoreMismatch: there is one already; it is left alone.
        DiskFault: a write failed.
    """
    if path.exists():
        raise StoreMismatch(f"{path} exists already; it is never overwritten")
    draft = path.with_name(path.name + ".new")
    try:
        if draft.exists():
            shutil.rmtree(draft)
        engine = LevelKeyValue(draft, create=True)
        try:
            write_genesis(engine, chain_id=chain_id, header=header, digest=digest, overlay=overlay)
        finally:
            engine.close()
        draft.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise DiskFault(f"{path}: {error.strerror or error}") from error


def write_genesis(
    engine: KeyValue, *, chain_id: bytes, header: Header, digest: bytes, overlay: Overlay
) -> None:
    """Write the genesis state into an empty engine, in one batch."""
    position = Position(header.height, digest, header.view, header.epoch)

    def batch() -> Iterator[Write]:
        yield from _encode_state([overlay])
        yield from _encode_pages(overlay)
        yield from _encode_epoch(overlay, header.height)
        yield _key(b"h", header.height), encode(header)
        yield b"d" + digest, _HEIGHT.pack(header.height)
        yield _CHAIN_KEY, encode(chain_id)
        yield _SCHEMA_KEY, encode(SCHEMA_VERSION)
        yield _FINAL_KEY, encode(position)

    engine.write(batch())


def _check_schema(engine: KeyValueReader) -> None:
    value = engine.get(_SCHEMA_KEY)
    if value is None:
        raise StoreMissing("chain.db is empty or half-made; run `atpar node init` again")
    version = decode_value(_SCHEMA, value)
    if version != SCHEMA_VERSION:
        raise StoreSchema(
            f"chain.db has schema version {version}, this program reads version {SCHEMA_VERSION}; "
            "run the version that wrote it, or set chain.db aside (but keep votes.journal) and run "
            "`atpar node init` again, so that the node fetches the chain from its peers"
        )


# ---- encoding


def _encode_commit(blocks: Sequence[FinalBlock], position: Position) -> list[Write]:
    writes = _encode_state(block.overlay for block in blocks)
    for block in blocks:
        header = block.header
        key = _HEIGHT.pack(header.height)
        if header.next_validators_hash != header.validators_hash:
            writes += _encode_epoch(block.overlay, header.height)
        writes += (
            (b"h" + key, encode(header)),
            (b"d" + block.digest, key),
            (b"b" + key, block.block_bytes),
            (b"r" + key, encode(block.receipts)),
            (b"f" + _HEIGHT.pack(block.finalized_height), encode(block.finalization)),
        )
        places = [_PLACE.pack(header.height, index) for index in range(len(block.transactions))]
        for tx, place in zip(block.transactions, places, strict=True):
            writes.append((b"t" + tx.hash, place))
            writes += [(b"u" + uetr + place, b"") for uetr in compute_uetrs(tx)]
        writes += [
            (b"".join((b"e", balance, b"\0", key)), encode(marks))
            for balance, marks in compute_marks(block.postings, block.overlay)
        ]
        writes += [
            (b"g" + places[index], encode(movements))
            for index, movements in compute_movements(block.transactions, block.postings)
        ]
    writes.append((_FINAL_KEY, encode(position)))
    return writes


def _encode_epoch(overlay: Overlay, height: int) -> Iterator[Write]:
    """Yield the epoch that begins on a block, from the set that the block itself wrote."""
    validators = overlay.get(VALIDATORS, CURRENT)
    if validators is not None:
        yield _key(b"v", validators.epoch), encode(EpochEntry(height, validators))


def _encode_state(overlays: Iterable[Overlay]) -> list[Write]:
    """Return what overlays of blocks in a row change of the state, tree pages aside."""
    return [
        (_STATE[section] + key, None if record is None else encode(record))
        for overlay in overlays
        for section, table in overlay.tables.items()
        for key, record in table.items()
        if record is not None or section != TX_IDS.id
    ]


def _encode_pages(overlay: Overlay) -> list[Write]:
    return [(_STATE[TREE_NODES] + key, page) for key, page in overlay.nodes.items()]


def _key(space: bytes, height: int) -> bytes:
    return space + _HEIGHT.pack(height)


def _statement_prefix(asset: str, account: str) -> bytes:
    return b"e" + balance_key(asset, account) + b"\0"


def _find(engine: KeyValueReader, key: bytes, codec: Codec[T]) -> T | None:
    value = engine.get(key)
    return None if value is None else decode_value(codec, value)


def _read(engine: KeyValueReader, key: bytes, codec: Codec[T]) -> T:
    value = engine.get(key)
    if value is None:
        raise StoreCorrupt(f"chain.db: the {codec.name} is missing")
    return decode_value(codec, value)


def _unpack(layout: struct.Struct, value: bytes, name: str) -> tuple[int, ...]:
    try:
        return layout.unpack(value)
    except struct.error as error:
        raise StoreCorrupt(f"chain.db: {name} does not read back: {error}") from error
