"""What a replica wants done: the only outputs of `Replica.handle`, named in the imperative.

The caller works in *turns*: it handles a batch of events, collects their effects in order, writes
the records of every Persist and makes them durable with ONE fsync, and only then performs the
Sends and Broadcasts. A failed write or fsync stops the node. Everything else may be done at once,
before or after, in the order given. A vote that awaits its fsync already counts as sent.

    effect         answered by
    Persist        -            append to the journal, before any message of this turn leaves
    Broadcast      -            to every connected peer (validators and observers), not to self
    Send           -            to one peer; dropped silently if it is not connected
    BuildBlock     BlockBuilt | BuildFailed
    VerifyBlock    BlockVerdict
    Commit         CommitSynced (later), and EpochOpened after it when `closes_epoch`
    ServeBlock     -            the caller answers the peer itself, from the store
    ServeSync      -            the caller answers the peer itself, from the store
    DropPeer       -            close the connection; the peer broke the protocol
    ReportEvidence -            store it, show it, raise the alarm
    RaiseAlarm     -            log, metric, event
    Halt           -            safety stop: nothing more is to be sent, ever; exit code 8
    EnterView      PendingChanged; and send pending transactions to the leader first
"""

from dataclasses import dataclass
from enum import StrEnum

from atpar.consensus.messages import BlockRequest, Message, SyncRequest
from atpar.consensus.records import JournalRecord
from atpar.consensus.types import BlockInfo, PeerId
from atpar.ledger.certificates import Finalization, Proposition
from atpar.ledger.evidence import Evidence


class Cause(StrEnum):
    """Why a block must be executed."""

    PROPOSED = "proposed"
    """Nobody vouches for it: check every signature in it."""
    NOTARIZED = "notarized"
    """A quorum voted for it. If it turns out invalid here, this node's state differs: Halt."""
    FINAL = "final"
    """A quorum finalised it: envelope signatures may be taken as checked, roots may not."""


class AlarmKind(StrEnum):
    """What a person has to look at."""

    DIVERGENCE = "divergence"
    """A notarized or final block is invalid when executed here."""
    EQUIVOCATION = "equivocation"
    JOURNAL_LOST = "journal_lost"
    """Votes of this validator are missing from its journal: it does not vote in this epoch."""
    CONFLICTING_CERTIFICATES = "conflicting_certificates"
    """More than f validators misbehave: two certificates that exclude each other both verify."""


@dataclass(frozen=True, slots=True)
class Persist:
    """Append one record to the journal (`encode_record`), durable before this turn's messages."""

    record: JournalRecord


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Send to every connected peer."""

    message: Message


@dataclass(frozen=True, slots=True)
class Send:
    """Send to one peer."""

    peer: PeerId
    message: Message


@dataclass(frozen=True, slots=True)
class BuildBlock:
    """Build and execute a block for this view on that parent, now; BlockBuilt or BuildFailed.

    The parent's state is in the store (final), or was the subject of a valid BlockVerdict or of a
    BlockBuilt.
    """

    epoch: int
    view: int
    parent: bytes
    parent_height: int
    timestamp_ms: int
    """For the header: max(clock, parent + 1)."""
    is_empty: bool
    """Put no transaction in: too much is unfinalised already."""


@dataclass(frozen=True, slots=True)
class VerifyBlock:
    """Execute the block on its parent's state, which is here. Answer BlockVerdict with this P.

    `proposition.digest` is `info.digest`; an ancestor of a final block has parent_view 0 there. At
    most one question per digest is open, and parents come first. When a Commit abandoned the
    parent's state meanwhile, no answer is needed.
    """

    proposition: Proposition
    info: BlockInfo
    block: bytes
    cause: Cause


@dataclass(frozen=True, slots=True)
class Commit:
    """Make blocks final in one write batch: the last one carries the finalization.

    `blocks` are in order, oldest first, the first on top of the previous Commit's last, all
    executed here and held by the caller. States of other blocks at these heights may be dropped.
    """

    finalization: Finalization
    blocks: tuple[BlockInfo, ...]
    closes_epoch: bool
    """The last one is the epoch's boundary: answer EpochOpened once it is synced."""


@dataclass(frozen=True, slots=True)
class ServeBlock:
    """Send the peer a BlockResponse for a digest that is not in memory (empty when unknown)."""

    peer: PeerId
    request: BlockRequest


@dataclass(frozen=True, slots=True)
class ServeSync:
    """Send the peer a SyncResponse from the store, as `SyncResponse` describes.

    Take blocks from `first_height` while they fit MAX_SYNC_BLOCKS and MAX_SYNC_BYTES (always at
    least one), end at the highest among them that has a finalization of its own (if there is one),
    and never cross an epoch's boundary. Nothing to send: an empty answer.
    """

    peer: PeerId
    request: SyncRequest


@dataclass(frozen=True, slots=True)
class DropPeer:
    """Close the connection to a peer that broke the protocol; say why in the log."""

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class ReportEvidence:
    """Two signed messages that no honest validator both sends."""

    evidence: Evidence


@dataclass(frozen=True, slots=True)
class RaiseAlarm:
    """Something a person has to look at."""

    kind: AlarmKind
    message: str


@dataclass(frozen=True, slots=True)
class Halt:
    """Stop this node: going on could harm the ledger."""

    kind: AlarmKind
    message: str


@dataclass(frozen=True, slots=True)
class EnterView:
    """The replica entered a view, or its parent changed. Answer with a PendingChanged."""

    epoch: int
    view: int
    leader: str
    parent: bytes
    """The highest certified or final block: what the next block would build on."""


Effect = (
    Persist
    | Broadcast
    | Send
    | BuildBlock
    | VerifyBlock
    | Commit
    | ServeBlock
    | ServeSync
    | DropPeer
    | ReportEvidence
    | RaiseAlarm
    | Halt
    | EnterView
)
