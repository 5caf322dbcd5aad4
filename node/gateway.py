"""The narrow boundary between the API and the node: what crosses it, and nothing else.

The API hands over envelope bytes and gets plain values back; it reads final state through a
`Reader`. Neither side sees the other's objects, so the API can become a process of its own: then
`Gateway` is one bounded local socket and `Reader` a read database fed by the commit stream.

Everything asynchronous is on `Gateway`; a `Reader` never waits. `node/service.py` implements
`Gateway` over mempool, verifier and driver; `node/store.py` implements `Reader` over the disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import msgspec

from atpar.ledger.blocks import Block, Header
from atpar.ledger.certificates import Finalization
from atpar.ledger.codec import Wire
from atpar.ledger.codes import Code
from atpar.ledger.evidence import Evidence
from atpar.ledger.proofs import EpochStep
from atpar.ledger.receipts import Receipt
from atpar.ledger.records import ValidatorSet
from atpar.ledger.state import View
from atpar.ledger.types import Height

# ---- transactions


class TxStatus(StrEnum):
    """How far a transaction has come, as this node knows it. `FINAL` never changes again."""

    UNKNOWN = "unknown"
    """Neither executed nor held here. It may still be held elsewhere."""
    ACCEPTED = "accepted"
    """Admitted to the mempool: checked, signed, and gossiped to the other validators."""
    PROPOSED = "proposed"
    """In a block that is not final yet."""
    FINAL = "final"
    """In a final block; the receipt says with which code."""
    REJECTED = "rejected"
    """Refused at admission by this node: nothing was recorded, nothing will happen."""
    EXPIRED = "expired"
    """Final block time has passed its window without it: it was never executed and never will."""


class Placement(msgspec.Struct, frozen=True):
    """Where a transaction was executed, and what came of it."""

    height: int
    index: int
    """Position in the block: the leaf of `tx_root` and `receipt_root`."""
    timestamp_ms: int
    """The block's time."""
    receipt: Receipt


class TransactionState(msgspec.Struct, frozen=True):
    """What this node knows of one transaction."""

    tx_hash: bytes
    """Hash of the envelope that was (or would be) executed. When another envelope with the same
    sender, id and body came first, this is the hash of that first one."""
    status: TxStatus
    sender: str | None = None
    """Null where the bytes did not decode, or the hash is unknown."""
    tx_id: bytes | None = None
    valid_until_ms: int | None = None
    code: Code = Code.OK
    """The receipt's code when final; why it was refused when rejected; otherwise OK."""
    message: str = ""
    """For people: the rule and both values. Empty unless rejected."""
    placement: Placement | None = None
    """Given exactly when final."""
    retry_after_ms: int | None = None
    """With MEMPOOL_FULL and NOT_READY: when it is worth trying the same bytes again."""


Submission = TransactionState
"""The answer to one submitted envelope: ACCEPTED; REJECTED with a code; or, where the same
transaction came before, what became of the first: ACCEPTED, PROPOSED or FINAL."""


# ---- the node


class NodeState(StrEnum):
    """Whether the node can serve, and if not, why."""

    STARTING = "starting"
    CATCHING_UP = "catching_up"
    READY = "ready"
    HALTED = "halted"
    """Stopped for safety: diverging state or an unusable journal. Needs a person."""
    STOPPING = "stopping"


class NodeStatus(msgspec.Struct, frozen=True):
    """A node about itself."""

    chain_id: bytes
    chain_name: str
    participant: str | None
    """Who runs it; null for an observer that is no participant."""
    is_validator: bool
    state: NodeState
    detail: str
    """One sentence for people on `state`: what it waits for, or what to do."""
    epoch: int
    view: int
    """The view consensus is in."""
    height: int
    """The last final block that this node has committed to disk."""
    target_height: int
    """The highest final height that it has heard of; above `height` while it catches up."""
    digest: bytes
    timestamp_ms: int
    """Block time at `height`."""
    state_root: bytes
    validators: int
    quorum: int
    connected_validators: int
    """Including itself."""
    mempool_transactions: int
    mempool_bytes: int
    alarms: tuple[str, ...]
    """What needs a person, in words; empty when all is well."""
    started_at_ms: int
    version: str


class ValidatorInfo(msgspec.Struct, frozen=True):
    """One member of the voting set, as this node sees it."""

    index: int
    participant: str
    vote_key: bytes
    is_self: bool
    is_connected: bool
    last_vote_view: int | None
    """The highest view for which a vote of it has been seen since this node started."""
    last_vote_ms: int | None
    """This node's clock when it came."""
    missed_votes: int
    """Final views in which no vote of it was seen, since this node started."""


class PeerState(StrEnum):
    """Where a connection stands."""

    CONNECTED = "connected"
    CONNECTING = "connecting"
    DISCONNECTED = "disconnected"
    BANNED = "banned"


class PeerInfo(msgspec.Struct, frozen=True):
    """One registered peer of the validator network."""

    participant: str
    address: str
    """host:port that it is dialled at; empty for an observer, which dials us."""
    state: PeerState
    since_ms: int | None
    """When it entered the state, by this node's clock."""
    queued_bytes: int
    dropped_messages: int
    """Outgoing messages dropped because the peer was too slow, since start."""


class Gateway(Protocol):
    """What the API may ask the node. Safe to call from any task of the node's trio loop.

    Every method answers for itself and raises nothing but `trio.Cancelled`: a refusal is a value.
    """

    async def submit(self, envelopes: Sequence[bytes]) -> list[Submission]:
        """Admit envelopes to the mempool; return one answer per envelope, in order.

        Each is decoded, checked against the final state, and its signatures verified. Sending the
        same bytes again is safe and answers with what became of the first. Another envelope with
        the same sender and id answers with the first result if the body is the same, and is
        rejected with ID_REUSED if it is not. When the mempool or the verifier's queue is full the
        answer is MEMPOOL_FULL for each envelope that found no room; while the node cannot judge
        (starting, halted) it is NOT_READY. The caller bounds the number of envelopes.
        """

    async def wait_final(
        self, tx_hashes: Sequence[bytes], *, timeout_s: float
    ) -> list[TransactionState]:
        """Wait until every one is final, rejected or expired, at most `timeout_s`.

        Returns one state per hash, in order, as known at that moment: after a timeout some are
        still accepted, proposed or unknown, which says nothing about what will become of them.
        """

    async def lookup(self, tx_hashes: Sequence[bytes]) -> list[TransactionState]:
        """Return what is known of each, in order; UNKNOWN where nothing is."""

    async def find(self, *, sender: str, tx_id: bytes) -> TransactionState | None:
        """Return the transaction of a sender with this id, executed or pending; None if none."""

    async def find_by_uetr(self, uetr: bytes) -> list[TransactionState]:
        """Return the transactions, executed or pending, with a transfer of this UETR.

        Oldest first; senders choose UETRs, so there may be several. At most 100.
        """

    async def status(self) -> NodeStatus:
        """Return the node's own state. Must stay fast and never wait for a peer."""

    async def validators(self) -> list[ValidatorInfo]:
        """Return the current voting set, by index."""

    async def peers(self) -> list[PeerInfo]:
        """Return the registered peers, by participant."""

    async def wait_height_above(self, height: int) -> int:
        """Wait until a block above `height` is final and readable; return the final height.

        Streams are built on this and on the `Reader`: a slow client holds no buffer here.
        """

    @property
    def reader(self) -> "Reader":
        """Read access to what is final."""


# ---- what is final


@dataclass(frozen=True, slots=True)
class FinalState:
    """The state after one final block. All reads through `view` see exactly that block."""

    header: Header
    digest: bytes
    view: View


class FinalityPath(msgspec.Struct, frozen=True):
    """What makes a block final: a finalization at or above it, and the headers down to it."""

    finalization: Finalization
    headers: tuple[Header, ...]
    """From the finalised block (its digest is in the finalization) down to the wanted block,
    which is last. Just the wanted block itself when it was finalised directly."""


class EpochEntry(Wire, frozen=True):
    """One epoch: who votes in it, and the final block that it begins on."""

    start_height: Height
    validators: ValidatorSet


class Entry(msgspec.Struct, frozen=True):
    """One line of an account's statement: one movement of its posted balance."""

    asset: str
    height: int
    index: int
    """The transaction's position in its block."""
    number: int
    """Tells the movement from all others of its transaction, in their order."""
    op: int
    """The operation's position in its transaction."""
    timestamp_ms: int
    tx_hash: bytes
    kind: str
    """The operation's name: `transfer`, `mint`, `burn`."""
    amount: int
    """Minor units; negative for a debit."""
    posted: int
    """Posted balance after this movement."""
    counterparty: str | None
    uetr: bytes | None
    """UETR of the transfer, funding reference of a mint, payout reference of a burn."""
    reference: str


EntryCursor = tuple[int, int, int]
"""(height, index, number): names a statement line; lines are in this order."""


class Reader(Protocol):
    """Read access to what is final, from disk. Plain synchronous calls; never waits.

    Heights run from 0 (genesis: a header, no transactions, no certificate) to the final height.
    """

    def get_final(self) -> FinalState:
        """Return the last final state, as one consistent snapshot."""

    def get_header(self, height: int) -> Header | None:
        """Return the header at a height, or None above the final height."""

    def get_block(self, height: int) -> Block | None:
        """Return the block at a height, or None above the final height and for height 0."""

    def get_receipts(self, height: int) -> tuple[Receipt, ...] | None:
        """Return the receipts of a block, in order; None where there is no block."""

    def get_receipts_bytes(self, height: int) -> bytes | None:
        """Return the receipts of a block as one encoded list; None where there is no block."""

    def get_finality_path(self, height: int) -> FinalityPath | None:
        """Return what makes the block at a height final; None where there is no block."""

    def get_epoch(self, epoch: int) -> EpochEntry | None:
        """Return an epoch's validators and start, or None when it is not reached here."""

    def get_epoch_steps(self, epoch: int) -> tuple[EpochStep, ...]:
        """Return what leads a verifier from the genesis set to that of an epoch."""

    def list_evidence(self) -> list[Evidence]:
        """Return what was found against validators, by participant, epoch and view."""

    def find_transaction(self, tx_hash: bytes) -> tuple[int, int] | None:
        """Return (height, index) of an executed transaction, or None."""

    def get_entries(
        self, account: str, *, asset: str | None, after: EntryCursor | None, limit: int
    ) -> list[Entry]:
        """Return statement lines of an account in order, those after a cursor, at most `limit`."""
