"""Opening the epoch of a recovery document, and what a validator's journal says against it.

The document itself and who may sign it are `ledger/recovery.py`. It ends an epoch in which no
quorum can vote any more at its highest final block. Two final blocks at one height cannot follow
while each validator keeps two rules:

- It opens the next epoch on its own final tip and on nothing else, and never votes in the epoch
  before again.
- It refuses a document while its own finalize vote stands for a block above, unless a quorum held
  a nullification of that view, or the administrators name the block as abandoned. A block that
  became final above has such votes of a quorum, and any other quorum shares more than f members
  with it: some honest validator refuses as long as its journal is whole.
"""

from collections.abc import Collection, Sequence

from atpar.consensus.records import CertificateRecord, JournalRecord, VoteRecord
from atpar.consensus.types import EpochStart, Tip
from atpar.consensus.validators import ValidatorSet
from atpar.ledger.certificates import Finalization, Nullification, Proposition
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.recovery import RecoveryDocument
from atpar.ledger.votes import Finalize


def open_recovered(document: RecoveryDocument, tip: Tip) -> EpochStart:
    """Return the epoch that a checked document opens on this node's final tip.

    Raises:
        ProofInvalid: the tip is another block: fetch what is missing, or ask the administrators.
    """
    body = document.body
    if (body.height, body.digest) != (tip.height, tip.digest):
        raise ProofInvalid(
            f"recovery: starts at block {body.height} {body.digest.hex()}, the final tip here is"
            f" {tip.height} {tip.digest.hex()}"
        )
    validators = ValidatorSet(body.epoch, body.members)
    return EpochStart(validators, tip.digest, tip.height, tip.timestamp_ms)


def check_journal(
    records: Sequence[JournalRecord], tip: Tip, *, epoch: int, abandoned: Collection[bytes]
) -> None:
    """Check that nothing in a stopped epoch's journal stands against ending it at the tip.

    Raises:
        ProofInvalid: a block above is final, or may be final as far as this validator knows.
    """
    for record in records:
        if isinstance(record, CertificateRecord) and isinstance(record.certificate, Finalization):
            above = record.certificate.proposition
            if _is_above(above, tip, epoch):
                raise ProofInvalid(
                    f"recovery: the journal proves view {above.view} final, above the tip at "
                    f"height {tip.height}: start the node once, so that it commits it"
                )
    for above in list_open_votes(records, tip, epoch=epoch):
        if above.digest not in abandoned:
            raise ProofInvalid(
                f"recovery: this validator voted to finalise block {above.digest.hex()} of view "
                f"{above.view}, above the tip at height {tip.height}: it may be final on a machine "
                "that was not asked. Find out, or have the administrators sign a document that "
                "abandons it"
            )


def list_open_votes(records: Sequence[JournalRecord], tip: Tip, *, epoch: int) -> list[Proposition]:
    """Return what a journal's finalize votes above a tip are for, where it could have become final.

    In a view with a nullification nothing can.
    """
    nullified = {
        record.certificate.body.view
        for record in records
        if isinstance(record, CertificateRecord)
        and isinstance(record.certificate, Nullification)
        and record.certificate.body.epoch == epoch
    }
    votes = [record.vote for record in records if isinstance(record, VoteRecord)]
    propositions = [vote.proposition for vote in votes if isinstance(vote, Finalize)]
    return [
        above
        for above in propositions
        if _is_above(above, tip, epoch) and above.view not in nullified
    ]


def _is_above(proposition: Proposition, tip: Tip, epoch: int) -> bool:
    return (
        proposition.epoch == epoch
        and proposition.view > tip.view
        and proposition.digest != tip.digest
    )
