"""Applying a recovery document to a stopped node: the next epoch opens at the final tip.

When fewer than a quorum can vote (lost journals, lost machines), the chain stops for good: nobody
votes on guesses. The administrators of a quorum of the stopped epoch then sign, off the machines,
on which final block the next epoch begins and who votes in it. Every operator stops the node,
applies the document, and starts it again.

The set in the state becomes the one of the document, as the last change of the state before the
next block, on every node alike; so the next block's `validators_hash` and `state_root` name it.
A journal that is missing or lost begins anew with the opening of that epoch: none of its votes was
ever cast before. Should the document be applied twice on a wiped disk, the question for one's own
votes with which every start begins closes the gate again.

The document is kept in the store. A node that learns the chain later is given the same document
once it has reached its block.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from atpar.consensus.records import (
    CertificateRecord,
    EpochOpenedRecord,
    JournalRecord,
    encode_record,
)
from atpar.consensus.recovery import (
    AdminSignature,
    RecoveryBody,
    RecoveryDocument,
    check_recovery,
    compute_recovery_bytes,
    open_recovered,
)
from atpar.consensus.types import EpochStart, Tip
from atpar.consensus.validators import ValidatorSet
from atpar.ledger.blocks import ValidatorKey
from atpar.ledger.certificates import Finalization
from atpar.ledger.codec import Wire
from atpar.ledger.commitment import commit_state
from atpar.ledger.epochs import open_epoch
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.jsonform import JsonInvalid, from_json, parse_json, to_json
from atpar.ledger.keys import verify
from atpar.ledger.limits import MAX_VALIDATORS
from atpar.ledger.records import Validator
from atpar.ledger.records import ValidatorSet as ValidatorRecords
from atpar.ledger.state import Overlay
from atpar.ledger.types import ChainId
from atpar.node.datadir import JOURNAL_NAME, open_votes, read_position
from atpar.node.errors import JournalLost, JournalMissing
from atpar.node.journal import Opening, create_journal
from atpar.node.seats import Sets, read_sets
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


def draft_recovery(store: Store, codes: list[str] | None = None) -> RecoveryFile:
    """Return an unsigned document that opens the next epoch at a store's final tip.

    `codes` are who votes in it; the stopped set unless given.

    Raises:
        ProofInvalid: one of them is registered neither in the stopped set nor in the next.
    """
    position, sets = read_position(store), read_sets(store)
    members = [member.participant for member in sets.current.members] if codes is None else codes
    keys = tuple(ValidatorKey(code, _find_member(sets, code).vote_key) for code in members)
    body = RecoveryBody(position.start.epoch + 1, position.tip.height, position.digest, keys)
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


def apply_recovery(store: Store, file: RecoveryFile) -> EpochStart:
    """Check a document against a stopped node's store and open its epoch there, in one batch.

    Applied already: nothing changes.

    Raises:
        ProofInvalid: it is not valid here; the message says why. Nothing was changed.
    """
    position, sets, body = read_position(store), read_sets(store), file.body
    if store.get_recovery(body.epoch) == file.body:
        return position.start
    if file.chain_id != store.chain_id:
        raise ProofInvalid(f"recovery: for chain {file.chain_id.hex()}, not this one")
    stopped = position.start.validators
    admin_keys = {member.participant: member.admin_key for member in sets.current.members}
    check_recovery(
        file.document,
        chain_id=store.chain_id,
        stopped=stopped,
        admin_keys=admin_keys,
        verify=verify,
    )
    start = open_recovered(file.document, position.tip)
    overlay = Overlay(store.get_final().view)
    open_epoch(overlay, _make_records(sets, start.validators))
    commit_state(overlay)
    store.write_recovery(file.document, overlay)
    return start


def _make_records(sets: Sets, validators: ValidatorSet) -> ValidatorRecords:
    members = []
    for key in validators.members:
        member = _find_member(sets, key.participant, vote_key=key.vote_key)
        members.append(member)
    return ValidatorRecords(validators.epoch, tuple(members))


def _find_member(sets: Sets, code: str, *, vote_key: bytes | None = None) -> Validator:
    running = [sets.current, sets.following]
    for each in running:
        for member in () if each is None else each.members:
            if member.participant == code and vote_key in (None, member.vote_key):
                return member
    raise ProofInvalid(
        f"recovery: {code} is registered neither in the stopped set nor in the next, or under "
        "another vote key"
    )


def check_nothing_above(records: Sequence[JournalRecord], tip: Tip, *, epoch: int) -> None:
    """Check that a journal does not prove a block above the tip to be final.

    Raises:
        ProofInvalid: it does: the crash came before the store was written.
    """
    for record in records:
        if isinstance(record, CertificateRecord) and isinstance(record.certificate, Finalization):
            above = record.certificate.proposition
            if above.epoch == epoch and above.view > tip.view and above.digest != tip.digest:
                raise ProofInvalid(
                    f"recovery: the journal proves view {above.view} final, above the tip at "
                    f"height {tip.height}: start the node once, so that it commits it"
                )


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
    """Begin a journal anew with a recovered epoch, in place of one that is missing or lost.

    The damaged file is kept beside it, under the name that is returned.

    Raises:
        DiskFault: it cannot be written.
    """
    path = folder / JOURNAL_NAME
    aside = path.with_name(f"{JOURNAL_NAME}.lost-before-epoch-{start.epoch}")
    was_there = path.exists()
    if was_there:
        path.rename(aside)
    create_journal(path, opening, make_recovered_records(start))
    return aside if was_there else None


def make_recovered_records(start: EpochStart) -> list[bytes]:
    """Return the records with which a new journal permits votes in a recovered epoch."""
    return [encode_record(EpochOpenedRecord(start.epoch, start.height, start.digest))]
