"""The data folder of a node: `chain.db` and `votes.journal`, made once and opened together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from atpar.consensus.records import (
    EpochOpenedRecord,
    JournalLostRecord,
    JournalRecord,
    decode_record,
    encode_record,
)
from atpar.consensus.types import EpochStart, Tip
from atpar.consensus.validators import ValidatorSet
from atpar.ledger.blocks import (
    Header,
    ValidatorSetId,
    compute_digest,
    compute_validators_hash,
)
from atpar.ledger.errors import NonCanonical
from atpar.ledger.genesis import Genesis
from atpar.ledger.records import CURRENT, PARAMS, VALIDATORS, identify_validators
from atpar.ledger.state import View
from atpar.node.errors import JournalLost, StoreCorrupt
from atpar.node.journal import VERSION, Journal, Opening, create_journal, open_journal
from atpar.node.store import Store, create_store, open_store

STORE_NAME: Final = "chain.db"
JOURNAL_NAME: Final = "votes.journal"


@dataclass(frozen=True, slots=True)
class Position:
    """Where consensus takes up again: what the store says about it."""

    header: Header
    digest: bytes
    start: EpochStart
    tip: Tip
    epoch_blocks: int


def make_opening(*, chain_id: bytes, participant: str, vote_key: bytes) -> Opening:
    """Return the first record of a validator's journal."""
    return Opening(VERSION, chain_id, participant, vote_key)


def make_first_records(genesis: Genesis) -> list[bytes]:
    """Return the records with which a new journal permits votes in epoch 0."""
    return [encode_record(EpochOpenedRecord(0, 0, genesis.digest))]


def create_data(
    folder: Path, genesis: Genesis, *, participant: str | None, vote_key: bytes | None
) -> None:
    """Make the data of a new node: the genesis state and, for a validator, an empty journal.

    Without a vote key (an observer) there is no journal. A journal of this validator that is there
    already is kept: so a node whose `chain.db` was set aside fetches the chain again, and its
    earlier votes still bind it.

    Raises:
        StoreMismatch: there is a `chain.db` already; nothing was changed.
        JournalError: the journal that is there is damaged, or not this validator's.
        DiskFault: a write failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if participant is not None and vote_key is not None:
        opening = make_opening(
            chain_id=genesis.chain_id, participant=participant, vote_key=vote_key
        )
        if (folder / JOURNAL_NAME).exists():
            open_votes(folder, opening)[0].close()
        elif not (folder / STORE_NAME).exists():
            create_journal(folder / JOURNAL_NAME, opening, make_first_records(genesis))
    create_store(
        folder / STORE_NAME,
        chain_id=genesis.chain_id,
        header=genesis.header,
        digest=genesis.digest,
        overlay=genesis.overlay,
    )


def begin_journal_anew(
    folder: Path, opening: Opening, records: list[bytes], *, epoch: int
) -> Path | None:
    """Begin a journal in place of one that is missing or lost, for votes from an epoch on.

    The damaged file is kept beside it, under the name that is returned.

    Raises:
        DiskFault: it cannot be written.
    """
    path = folder / JOURNAL_NAME
    aside = path.with_name(f"{JOURNAL_NAME}.lost-before-epoch-{epoch}")
    was_there = path.exists()
    if was_there:
        path.rename(aside)
    create_journal(path, opening, records)
    return aside if was_there else None


def make_lost_records(first: int, last: int) -> list[bytes]:
    """Return the records with which a journal permits no vote in these epochs."""
    return [encode_record(JournalLostRecord(epoch)) for epoch in range(first, last + 1)]


def open_chain(folder: Path, *, chain_id: bytes) -> Store:
    """Open the store of a data folder.

    Raises:
        StoreError, DiskFault: it cannot be used; the message says what to do.
    """
    return open_store(folder / STORE_NAME, chain_id=chain_id)


def open_votes(
    folder: Path, opening: Opening, *, keys: frozenset[bytes] = frozenset()
) -> tuple[Journal, list[JournalRecord]]:
    """Open the journal of a data folder; return it with its records, oldest first.

    `keys` are other vote keys of this validator, under one of which it may have begun.

    Raises:
        JournalError, DiskFault: this validator may not vote; the message says what to do.
    """
    journal, found = open_journal(folder / JOURNAL_NAME, opening, keys=keys)
    return journal, decode_records(found)


def decode_records(found: list[bytes]) -> list[JournalRecord]:
    """Return the consensus records of a journal.

    Raises:
        JournalLost: one is not what this software writes.
    """
    try:
        return [decode_record(data) for data in found]
    except NonCanonical as error:
        raise JournalLost(f"votes.journal: a record does not read back: {error}") from error


def read_position(store: Store) -> Position:
    """Return the final position of a store as consensus wants it.

    Raises:
        StoreCorrupt: the store contradicts itself.
    """
    final = store.get_final()
    params = final.view.get(PARAMS, CURRENT)
    if params is None:
        raise StoreCorrupt("chain.db: the chain's parameters are missing")
    start = _read_start(store, final.view)
    return Position(
        header=final.header,
        digest=final.digest,
        start=start,
        tip=_read_tip(store, final.header, final.digest, start),
        epoch_blocks=params.epoch_blocks,
    )


def _read_start(store: Store, view: View) -> EpochStart:
    validators = view.get(VALIDATORS, CURRENT)
    entry = None if validators is None else store.get_epoch(validators.epoch)
    first = None if entry is None else store.get_header(entry.start_height)
    if validators is None or entry is None or first is None:
        raise StoreCorrupt("chain.db: the start of the running epoch is missing")
    epoch = validators.epoch
    recovered = store.get_recovery(epoch) is not None
    return _make_start(view, epoch, first, compute_digest(first), recovered=recovered)


def read_next_epoch(view: View, boundary: Header, digest: bytes) -> EpochStart:
    """Return the epoch that begins on top of a final boundary block, from the state after it."""
    return _make_start(view, boundary.epoch + 1, boundary, digest)


def _make_start(
    view: View, epoch: int, first: Header, digest: bytes, *, recovered: bool = False
) -> EpochStart:
    """Return an epoch's start; a recovery document names its set instead of the block before."""
    validators = view.get(VALIDATORS, CURRENT)
    if validators is None:
        raise StoreCorrupt("chain.db: the chain's validators are missing")
    members = identify_validators(validators).members
    named = compute_validators_hash(ValidatorSetId(epoch, members)) == first.next_validators_hash
    if validators.epoch != epoch or not (named or recovered):
        raise StoreCorrupt(f"chain.db: the validators of epoch {epoch} are not those of its start")
    return EpochStart(ValidatorSet(epoch, members), digest, first.height, first.timestamp_ms)


def _read_tip(store: Store, header: Header, digest: bytes, start: EpochStart) -> Tip:
    if header.height == start.height:
        return Tip(digest, header.height, header.timestamp_ms, None)
    found = store.get_finalization_at_or_above(header.height)
    if found is None or found[1].proposition.digest != digest:
        raise StoreCorrupt(f"chain.db: the finalization of height {header.height} is missing")
    return Tip(digest, header.height, header.timestamp_ms, found[1])
