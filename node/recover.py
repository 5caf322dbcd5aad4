"""Applying a recovery document to a stopped node: the next epoch opens at the final tip.

When fewer than a quorum can vote (lost journals, lost machines), the chain stops for good: nobody
votes on guesses. The administrators of a quorum of the stopped epoch then sign, off the machines,
on which final block the next epoch begins and who votes in it. Every operator stops the node,
applies the document, and starts it again.

The set in the state becomes the one of the document, as the last change of the state before the
next block, on every node alike; so the next block's `validators_hash` and `state_root` name it.
A whole journal notes that the epoch opened, and is not led back into the one before. A journal
that is missing or lost begins anew with that note: none of the epoch's votes was ever cast before.
Should the document be applied twice on a wiped disk, the question for one's own votes with which
every start begins closes the gate again.

The document is kept in the store, with the proof of who the administrators were: the state after
its block cannot be proven any more once the set in it has changed. A node that learns the chain
later is given the same document once it has reached its block.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from atpar.consensus.records import EpochOpenedRecord, JournalRecord, encode_record
from atpar.consensus.recovery import check_journal, open_recovered
from atpar.consensus.types import EpochStart
from atpar.ledger.blocks import ValidatorKey
from atpar.ledger.codec import Wire
from atpar.ledger.commitment import commit_state
from atpar.ledger.epochs import open_epoch
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.jsonform import JsonInvalid, from_json, parse_json, to_json
from atpar.ledger.limits import MAX_VALIDATORS
from atpar.ledger.proofs import RegisteredSets
from atpar.ledger.proving import prove_sets
from atpar.ledger.recovery import (
    AdminSignature,
    RecoveryBody,
    RecoveryDocument,
    check_recovery,
    compute_recovery_bytes,
    find_member,
    seat_members,
)
from atpar.ledger.state import Overlay
from atpar.ledger.types import ChainId
from atpar.node.datadir import Position, begin_journal_anew, open_votes, read_position
from atpar.node.errors import JournalLost, JournalMissing
from atpar.node.journal import Opening
from atpar.node.seats import read_sets
from atpar.node.store import Store

FORMAT: Final = "atpar-recovery/1"
MAX_FILE_BYTES: Final = 256 * 1024


class RecoveryFile(Wire, frozen=True):
    """What administrators pass on: the document, signed by none or some or enough."""

    format: Literal["atpar-recovery/1"]
    chain_id: ChainId
    body: RecoveryBody
    signatures: Annotated[tuple[AdminSignature, ...], Meta(max_length=MAX_VALIDATORS)]

    @property
    def document(self) -> RecoveryDocument:
        """The document as nodes check it."""
        return RecoveryDocument(self.body, self.signatures)


def parse_recovery(data: bytes) -> RecoveryFile:
    """Return a recovery file of its JSON bytes, unverified.

    Raises:
        ProofInvalid: it is none; names the field.
    """
    try:
        return from_json(RecoveryFile, parse_json(data, max_bytes=MAX_FILE_BYTES))
    except JsonInvalid as error:
        raise ProofInvalid(f"recovery: {error}") from error


def render_recovery(file: RecoveryFile) -> bytes:
    """Return a recovery file as readable JSON, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(to_json(file)), indent=2) + b"\n"


# ---- drafting and signing


def draft_recovery(
    store: Store, codes: list[str] | None = None, abandoned: Sequence[bytes] = ()
) -> RecoveryFile:
    """Return an unsigned document that opens the next epoch at a store's final tip.

    `codes` are who votes in it; the stopped set unless given. `abandoned`: digests of blocks above
    that never became final.

    Raises:
        ProofInvalid: one of them is registered neither in the stopped set nor in the next.
    """
    position, sets = read_position(store), read_sets(store)
    members = [member.participant for member in sets.current.members] if codes is None else codes
    found = [find_member(code, sets.current, sets.following) for code in members]
    body = RecoveryBody(
        epoch=position.start.epoch + 1,
        height=position.tip.height,
        digest=position.digest,
        members=tuple(ValidatorKey(each.participant, each.vote_key) for each in found),
        abandoned=tuple(sorted(set(abandoned))),
    )
    return RecoveryFile(FORMAT, store.chain_id, body, ())


def add_signature(file: RecoveryFile, participant: str, signature: bytes) -> RecoveryFile:
    """Return a recovery file with one more signature, or another one of the same participant."""
    signatures = {each.participant: each for each in file.signatures}
    signatures[participant] = AdminSignature(participant, signature)
    ordered = tuple(signatures[code] for code in sorted(signatures))
    return msgspec.structs.replace(file, signatures=ordered)


def join_recoveries(files: list[RecoveryFile]) -> RecoveryFile:
    """Return one file with the signatures of all.

    Raises:
        ProofInvalid: they are not of the same document.
    """
    joined = files[0]
    for file in files[1:]:
        if (file.chain_id, file.body) != (joined.chain_id, joined.body):
            raise ProofInvalid("recovery: the files are of different documents")
        for each in file.signatures:
            joined = add_signature(joined, each.participant, each.signature)
    return joined


def compute_sign_body(file: RecoveryFile) -> bytes:
    """Return the bytes that each administrator signs."""
    return compute_recovery_bytes(file.body, file.chain_id)


# ---- applying


def is_applied(store: Store, file: RecoveryFile) -> bool:
    """Return whether a store has the epoch that this very document opens, and no later one."""
    running = read_position(store).start.epoch
    return running == file.body.epoch and store.get_recovery(running) == file.body


def judge_recovery(
    store: Store, file: RecoveryFile, records: Sequence[JournalRecord] | None
) -> EpochStart:
    """Check what a document says, whoever signed it; return the epoch that it would open here.

    `records` is what the journal holds, None where the node has none that is whole. An
    administrator has this checked at its own stopped node before it signs: see `check_journal` for
    what its signature then rules out.

    Raises:
        ProofInvalid: it is not valid here; the message says why.
    """
    position, sets = read_position(store), read_sets(store)
    if file.chain_id != store.chain_id:
        raise ProofInvalid(f"recovery: for chain {file.chain_id.hex()}, not this one")
    seat_members(file.body, stopped=sets.current, following=sets.following)
    start = open_recovered(file.document, position.tip)
    if records is not None:
        epoch, abandoned = position.start.epoch, frozenset(file.body.abandoned)
        check_journal(records, position.tip, epoch=epoch, abandoned=abandoned)
    return start


def apply_recovery(
    store: Store, file: RecoveryFile, records: Sequence[JournalRecord] | None
) -> EpochStart:
    """Check a document completely and open its epoch in a stopped node's store, in one batch.

    Applied already: nothing changes.

    Raises:
        ProofInvalid: it is not valid here; the message says why. Nothing was changed.
    """
    position, sets = read_position(store), read_sets(store)
    if is_applied(store, file):
        return position.start
    start = judge_recovery(store, file, records)
    opened = check_recovery(
        file.document, chain_id=store.chain_id, stopped=sets.current, following=sets.following
    )
    overlay = Overlay(store.get_final().view)
    open_epoch(overlay, opened)
    commit_state(overlay)
    store.write_recovery(file.document, overlay, sets=_prove_sets(store, position))
    return start


def _prove_sets(store: Store, position: Position) -> RegisteredSets | None:
    """Return the proof of the sets after the tip; None where no header has the state's root.

    That is in an epoch without a final block, opened by genesis (which everybody has) or by another
    document (which says who its administrators are).
    """
    stopped = position.start.epoch
    is_known = stopped == 0 or store.get_recovery(stopped) is not None
    if position.tip.finalization is None and is_known:
        return None
    return prove_sets(store.get_final().view)


def read_journal(
    folder: Path, opening: Opening, *, keys: frozenset[bytes]
) -> list[JournalRecord] | None:
    """Return what a node's journal holds, or None where it is missing or lost.

    Raises:
        JournalMismatch, DiskFault: it is another validator's, or cannot be read.
    """
    try:
        journal, records = open_votes(folder, opening, keys=keys)
    except (JournalMissing, JournalLost):
        return None
    journal.close()
    return records


def begin_journal(folder: Path, opening: Opening, start: EpochStart) -> Path | None:
    """Begin a journal anew with a recovered epoch: see `begin_journal_anew`."""
    return begin_journal_anew(folder, opening, make_recovered_records(start), epoch=start.epoch)


def continue_journal(
    folder: Path, opening: Opening, start: EpochStart, *, keys: frozenset[bytes]
) -> None:
    """Note in a whole journal that a recovered epoch has opened.

    A start could not tell it from the journal any more after a second document.

    Raises:
        JournalError, DiskFault: it cannot be written.
    """
    journal, records = open_votes(folder, opening, keys=keys)
    try:
        due = EpochOpenedRecord(start.epoch, start.height, start.digest)
        if due not in records:
            journal.append([encode_record(due)])
    finally:
        journal.close()


def make_recovered_records(start: EpochStart) -> list[bytes]:
    """Return the records with which a new journal permits votes in a recovered epoch."""
    return [encode_record(EpochOpenedRecord(start.epoch, start.height, start.digest))]
