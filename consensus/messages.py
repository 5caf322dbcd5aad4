"""What validators say to each other, as canonical bytes.

Votes carry no signer: a vote counts as the vote of the peer at the other end of the authenticated
connection, and its signature must verify under that peer's key, so nobody can speak for another.
Certificates prove themselves and are welcome from anyone.

    votes            Notarize, Nullify, Finalize                     (atpar.ledger.votes)
    proposal         Proposal: the leader's notarize and the whole block
    certificates     Notarization, Nullification, Finalization (atpar.ledger.certificates)
    fetch            BlockRequest -> BlockResponse
                     CertificatesRequest -> CertificatesResponse
                     SyncRequest -> SyncResponse            (a run of final blocks)
                     VotesRequest -> VotesResponse          (own latest votes, after a start)

`decode_message` is the one way in. What it raises is the peer's fault: drop the peer.
"""

from enum import IntEnum
from typing import Annotated, assert_never

from msgspec import Meta

from atpar.consensus.limits import (
    MAX_CERTIFICATES_PER_ANSWER,
    MAX_MESSAGE_BYTES,
    MAX_SYNC_BLOCKS,
    MAX_VOTES_PER_ANSWER,
)
from atpar.ledger.certificates import (
    Certificate,
    Finalization,
    Notarization,
    Nullification,
)
from atpar.ledger.codec import Codec, Wire, encode
from atpar.ledger.limits import MAX_BLOCK_BYTES
from atpar.ledger.types import Count, Hash, Height
from atpar.ledger.votes import Finalize, Notarize, Nullify, Vote

BlockBytes = Annotated[bytes, Meta(max_length=MAX_BLOCK_BYTES)]


class Proposal(Wire, frozen=True, tag=20):
    """The leader's notarize vote and the canonical bytes of the block it names."""

    vote: Notarize
    block: BlockBytes


class BlockRequest(Wire, frozen=True, tag=24):
    """Asks for one block by its digest, final or not."""

    digest: Hash


class BlockResponse(Wire, frozen=True, tag=25):
    """The block that was asked for; `block` is empty when the peer does not hold it."""

    digest: Hash
    block: BlockBytes


class CertificatesRequest(Wire, frozen=True, tag=26):
    """Asks for everything certified from a view of an epoch on, of either kind."""

    epoch: Count
    first_view: Count


class CertificatesResponse(Wire, frozen=True, tag=27):
    """The certificates held: the latest finalization if it is at or above, then by view."""

    certificates: Annotated[tuple[Certificate, ...], Meta(max_length=MAX_CERTIFICATES_PER_ANSWER)]


class SyncRequest(Wire, frozen=True, tag=28):
    """Asks for final blocks from `first_height` on. The asker's tip is the block below it."""

    epoch: Count
    """The epoch that the asker is in."""
    first_height: Height


class SyncResponse(Wire, frozen=True, tag=29):
    """Consecutive final blocks from the height asked for, all of one epoch.

    The finalization, if present, is of the last block, and then the run proves itself. A run up to
    the next block with a certificate of its own that does not fit is sent in parts: every part but
    the last has no finalization. Empty `blocks`: nothing at that height here.
    """

    first_height: Height
    blocks: Annotated[tuple[BlockBytes, ...], Meta(max_length=MAX_SYNC_BLOCKS)]
    finalization: Finalization | None


class VotesRequest(Wire, frozen=True, tag=30):
    """Asks, after a start, which of the asker's own votes the peer has seen."""

    epoch: Count


class VotesResponse(Wire, frozen=True, tag=31):
    """The asker's votes that the peer holds in the peer's epoch, and the peer's finalization."""

    epoch: Count
    votes: Annotated[tuple[Vote, ...], Meta(max_length=MAX_VOTES_PER_ANSWER)]
    finalization: Finalization | None


Request = BlockRequest | CertificatesRequest | SyncRequest | VotesRequest
Response = BlockResponse | CertificatesResponse | SyncResponse | VotesResponse
Message = (
    Notarize
    | Nullify
    | Finalize
    | Proposal
    | Notarization
    | Nullification
    | Finalization
    | BlockRequest
    | BlockResponse
    | CertificatesRequest
    | CertificatesResponse
    | SyncRequest
    | SyncResponse
    | VotesRequest
    | VotesResponse
)

MESSAGE = Codec[Message](Message, name="message", max_bytes=MAX_MESSAGE_BYTES)


class Lane(IntEnum):
    """Which queue a message travels in; the lowest number goes first."""

    VOTES = 0
    PROPOSALS = 1
    FETCH = 2


def encode_message(message: Message) -> bytes:
    """Return the canonical bytes of a message."""
    return encode(message)


def decode_message(data: bytes) -> Message:
    """Return the message of `data`.

    Raises:
        NonCanonical: not one canonical message. The peer's fault.
    """
    return MESSAGE.decode(data)


def get_lane(message: Message) -> Lane:
    """Return the lane of a message: votes and certificates, proposals, or fetch."""
    match message:
        case (
            Notarize() | Nullify() | Finalize() | Notarization() | Nullification() | Finalization()
        ):
            return Lane.VOTES
        case Proposal():
            return Lane.PROPOSALS
        case (
            BlockRequest()
            | BlockResponse()
            | CertificatesRequest()
            | CertificatesResponse()
            | SyncRequest()
            | SyncResponse()
            | VotesRequest()
            | VotesResponse()
        ):
            return Lane.FETCH
        case _:
            assert_never(message)


def get_epoch(message: Message) -> int:
    """Return the epoch that a message shows its sender to have reached; -1 where it shows none."""
    match message:
        case Notarize() | Finalize() | Notarization() | Finalization():
            return message.proposition.epoch
        case Nullify() | Nullification():
            return message.body.epoch
        case Proposal():
            return message.vote.proposition.epoch
        case CertificatesRequest() | SyncRequest() | VotesRequest() | VotesResponse():
            return message.epoch
        case BlockRequest() | BlockResponse() | CertificatesResponse() | SyncResponse():
            return -1
        case _:
            assert_never(message)
