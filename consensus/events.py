"""What happens to a replica: the only inputs of `Replica.handle`, named in the past tense.

event                   when the caller raises it
MessageReceived         a decoded message arrived on an authenticated connection
PeerConnected           a connection to a peer is up (again); repeats are harmless
PeerDisconnected        it is down
Ticked                  `Replica.deadline_ms` was reached. Deliver what is queued first: messages
                        and verdicts go before timers. Early or needless ticks are harmless
PendingChanged          whether the next block could contain a transaction (see there)
BlockBuilt/BuildFailed  answer to BuildBlock
BlockVerdict            answer to VerifyBlock
CommitSynced            a Commit's write batch is on disk
EpochOpened             the next epoch's set is known; after CommitSynced of the boundary
"""

from dataclasses import dataclass

from atpar.consensus.messages import Message
from atpar.consensus.types import BlockInfo, EpochStart, PeerId
from atpar.ledger.certificates import Proposition


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A message from a peer, decoded by `decode_message`."""

    peer: PeerId
    message: Message


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """A peer can be reached. The replica answers with what helps it to catch up."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class PeerDisconnected:
    """A peer cannot be reached; nothing is asked of it until it is back."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time has passed: due timers act now, with the `now_ms` of the call."""


@dataclass(frozen=True, slots=True)
class PendingChanged:
    """Whether a block on top of the current parent would carry a transaction.

    Count what is in the mempool and not in a block between the final tip and `EnterView.parent`
    (the highest certified block): counting what is already in a notarized block would keep an idle
    chain busy, not counting what was in an abandoned one would lose it. Every EnterView makes it
    unknown, and so false: tell it again then, and whenever it changes (arrival, Commit). Repeating
    the same value is harmless.
    """

    pending: bool


@dataclass(frozen=True, slots=True)
class BlockBuilt:
    """Answer to BuildBlock: the block, built *and executed* on that parent here."""

    view: int
    info: BlockInfo
    block: bytes
    """Canonical bytes; consensus journals and sends them, unread."""


@dataclass(frozen=True, slots=True)
class BuildFailed:
    """Answer to BuildBlock when no block could be built: the view is nullified at once."""

    view: int


@dataclass(frozen=True, slots=True)
class BlockVerdict:
    """Answer to VerifyBlock, with the P that was asked about.

    `is_valid` means executed on its parent's state with every root equal; the caller keeps the
    resulting state by digest until a Commit covers it or abandons it.
    """

    proposition: Proposition
    is_valid: bool


@dataclass(frozen=True, slots=True)
class CommitSynced:
    """Everything up to this height is synced in the store: journal records below may be dropped."""

    height: int


@dataclass(frozen=True, slots=True)
class EpochOpened:
    """The next epoch begins: raised once the boundary block's commit is synced.

    Also how a recovery document takes effect: `start` is then the final tip, with the same or
    another set under a higher epoch, checked by the caller.
    """

    start: EpochStart


Event = (
    MessageReceived
    | PeerConnected
    | PeerDisconnected
    | Ticked
    | PendingChanged
    | BlockBuilt
    | BuildFailed
    | BlockVerdict
    | CommitSynced
    | EpochOpened
)
