"""What a replica writes down before it speaks, and what it is restored from.

The journal is a sequence of these records in the order of the `Persist` effects; only the list
that `Replica.compact_journal` returns may replace it. Votes are kept as whole messages, so that a
restart repeats identical bytes and never signs anew.
"""

from atpar.consensus.limits import MAX_RECORD_BYTES
from atpar.consensus.messages import BlockBytes
from atpar.ledger.certificates import Certificate, Proposition
from atpar.ledger.codec import Codec, Wire, encode
from atpar.ledger.types import Count, Hash, Height
from atpar.ledger.votes import Vote


class EpochOpenedRecord(Wire, frozen=True, tag=1):
    """First record of an epoch's journal. Without it the replica does not vote in that epoch.

    Written by `node init` for epoch 0 (once, never by a start) and by the replica when it crosses
    a boundary.
    """

    epoch: Count
    start_height: Height
    start_digest: Hash


class VoteRecord(Wire, frozen=True, tag=2):
    """A vote of ours, whole."""

    vote: Vote


class CertificateRecord(Wire, frozen=True, tag=3):
    """A certificate that was formed or received and checked."""

    certificate: Certificate


class CertifiedRecord(Wire, frozen=True, tag=4):
    """The verdict that a notarized block is here, executed and valid, with all its ancestors."""

    proposition: Proposition


class BodyRecord(Wire, frozen=True, tag=5):
    """The bytes of a block that a vote of ours or a certification verdict relies on."""

    block: BlockBytes


class JournalLostRecord(Wire, frozen=True, tag=6):
    """The journal of this epoch is known to miss votes: no vote until the next epoch."""

    epoch: Count


JournalRecord = (
    EpochOpenedRecord
    | VoteRecord
    | CertificateRecord
    | CertifiedRecord
    | BodyRecord
    | JournalLostRecord
)

RECORD = Codec[JournalRecord](JournalRecord, name="journal record", max_bytes=MAX_RECORD_BYTES)


def encode_record(record: JournalRecord) -> bytes:
    """Return the canonical bytes of a record."""
    return encode(record)


def decode_record(data: bytes) -> JournalRecord:
    """Return the record of `data`.

    Raises:
        NonCanonical: not one canonical record.
    """
    return RECORD.decode(data)
