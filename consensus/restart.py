"""The journal as a start reads it: what was written down about each epoch.

A store may be behind its journal by whole epochs (a store that was lost and is fetched anew), so
what the journal says about a later epoch is kept until that epoch is reached.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import assert_never

from atpar.consensus.certificates import get_statement
from atpar.consensus.engine import Engine
from atpar.consensus.errors import JournalInvalid
from atpar.consensus.records import (
    BodyRecord,
    CertificateRecord,
    CertifiedRecord,
    EpochOpenedRecord,
    JournalLostRecord,
    JournalRecord,
    VoteRecord,
)
from atpar.consensus.types import BlockInfo, Ports
from atpar.ledger.votes import get_body


@dataclass(slots=True)
class EpochRecords:
    """What the journal holds about one epoch."""

    opening: EpochOpenedRecord | None = None
    """Without one there are no votes."""
    is_lost: bool = False
    """The journal is known to miss votes."""
    records: list[JournalRecord] = field(default_factory=list)
    """Votes, bodies, certificates and verdicts, in their order."""
    bodies: dict[bytes, BlockInfo] = field(default_factory=dict)
    """Block bytes -> info, of the bodies among the records."""


def read_journal(records: Sequence[JournalRecord], ports: Ports) -> dict[int, EpochRecords]:
    """Return the records by epoch.

    Raises:
        JournalInvalid: a block is not one of this chain.
    """
    epochs: dict[int, EpochRecords] = {}
    for record in records:
        info: BlockInfo | None = None
        match record:
            case EpochOpenedRecord(epoch):
                epochs.setdefault(epoch, EpochRecords()).opening = record
                continue
            case JournalLostRecord(epoch):
                epochs.setdefault(epoch, EpochRecords()).is_lost = True
                continue
            case BodyRecord(block):
                info = ports.decode_block(block)
                if info is None:
                    raise JournalInvalid("a block in the journal does not decode")
                epoch = info.epoch
            case VoteRecord(vote):
                epoch = get_body(vote).epoch
            case CertificateRecord(certificate):
                epoch = get_statement(certificate).epoch
            case CertifiedRecord(proposition):
                epoch = proposition.epoch
            case _:
                assert_never(record)
        of_epoch = epochs.setdefault(epoch, EpochRecords())
        of_epoch.records.append(record)
        if info is not None and isinstance(record, BodyRecord):
            of_epoch.bodies[record.block] = info
    return epochs


def list_records(epochs: dict[int, EpochRecords]) -> list[JournalRecord]:
    """Return the records by epoch, as a journal holds them."""
    listed: list[JournalRecord] = []
    for epoch, kept in sorted(epochs.items()):
        listed += [] if kept.opening is None else [kept.opening]
        listed += [JournalLostRecord(epoch)] if kept.is_lost else []
        listed += kept.records
    return listed


def restore(engine: Engine, epoch: EpochRecords) -> None:
    """Give a new engine back what its epoch's journal holds."""
    for record in epoch.records:
        match record:
            case BodyRecord(block):
                engine.restore_body(epoch.bodies[block], block)
            case VoteRecord(vote):
                engine.restore_vote(vote)
            case CertificateRecord(certificate):
                engine.restore_certificate(certificate)
            case CertifiedRecord(proposition):
                engine.restore_verdict(proposition)
            case _:
                raise AssertionError(f"{record} is kept by itself")
