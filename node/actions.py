"""What goes into a `Validator` and what comes out: plain values, no I/O.

Inputs are past tense, actions imperative. The caller works in *turns*: it handles everything that
is queued, makes the data of every `Persist` durable with one fsync, and only then does the rest, in
order. `CommitBlocks` is answered by `CommitSynced` later, `VerifySignatures` by
`SignaturesVerified`; nothing else has an answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from atpar.consensus.effects import AlarmKind
from atpar.consensus.events import CommitSynced, PeerConnected, PeerDisconnected, Ticked
from atpar.consensus.messages import BlockRequest, Lane, SyncRequest
from atpar.consensus.types import EpochStart
from atpar.ledger.codes import Code
from atpar.ledger.evidence import Evidence
from atpar.ledger.keys import SignedTriple
from atpar.ledger.transactions import Transaction
from atpar.node.store import FinalBlock

# ---- inputs


@dataclass(frozen=True, slots=True)
class PeerFrame:
    """Bytes from an authenticated peer. They may be anything."""

    peer: str
    """Participant code."""
    lane: Lane
    data: bytes


@dataclass(frozen=True, slots=True)
class TransactionsAdmitted:
    """Transactions that passed admission: rules on the final state, and all signatures."""

    transactions: Sequence[Transaction]


@dataclass(frozen=True, slots=True)
class SignaturesVerified:
    """Answer to VerifySignatures: one verdict per triple, in order."""

    digest: bytes
    verdicts: Sequence[bool]


Input = (
    PeerFrame
    | TransactionsAdmitted
    | SignaturesVerified
    | PeerConnected
    | PeerDisconnected
    | CommitSynced
    | Ticked
)

# ---- actions


@dataclass(frozen=True, slots=True)
class Persist:
    """Append a record to the journal, durable before anything of this turn is sent."""

    record: bytes


@dataclass(frozen=True, slots=True)
class Send:
    """Send to one peer; dropped silently if it is not connected."""

    peer: str
    lane: Lane
    data: bytes


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Send to every connected peer."""

    lane: Lane
    data: bytes


@dataclass(frozen=True, slots=True)
class DropPeer:
    """Close the connection: the peer broke the protocol."""

    peer: str
    reason: str


@dataclass(frozen=True, slots=True)
class VerifySignatures:
    """Check the signatures of a proposed block that were not checked here before."""

    digest: bytes
    triples: Sequence[SignedTriple]


@dataclass(frozen=True, slots=True)
class CommitBlocks:
    """Write blocks that became final to the store, in one batch; batches in order."""

    blocks: tuple[FinalBlock, ...]


@dataclass(frozen=True, slots=True)
class Serve:
    """Answer a peer's request from the store (`serving.answer`)."""

    peer: str
    request: BlockRequest | SyncRequest


@dataclass(frozen=True, slots=True)
class Notify:
    """Blocks are final and on the disk: whoever waits for a receipt may have it."""

    blocks: tuple[FinalBlock, ...]


@dataclass(frozen=True, slots=True)
class DropTransaction:
    """An admitted transaction left the mempool and will not run from here."""

    transaction: Transaction
    code: Code
    message: str


@dataclass(frozen=True, slots=True)
class EnterView:
    """A new view began. Pending transactions go to its leader first."""

    epoch: int
    view: int
    leader: str


@dataclass(frozen=True, slots=True)
class OpenEpoch:
    """An epoch began: its set votes now, and those who left it have nothing to say any more."""

    start: EpochStart


@dataclass(frozen=True, slots=True)
class DismissPeer:
    """A member of the set before has the boundary's finalization: it may be disconnected."""

    peer: str


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something a person has to look at."""

    kind: AlarmKind
    message: str
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True)
class Halt:
    """Stop: going on could make two histories. Nothing more may be sent, ever."""

    kind: AlarmKind
    message: str


Action = (
    Persist
    | Send
    | Broadcast
    | DropPeer
    | VerifySignatures
    | CommitBlocks
    | Serve
    | Notify
    | DropTransaction
    | EnterView
    | OpenEpoch
    | DismissPeer
    | Alarm
    | Halt
)
