"""Headers and blocks: what validators agree on, and the digest that names it."""

from typing import Annotated

from msgspec import Meta

from atpar.ledger.codec import Codec, Wire, encode
from atpar.ledger.hashing import HashTag, compute_hash
from atpar.ledger.limits import MAX_BLOCK_BYTES, MAX_BLOCK_TRANSACTIONS, MAX_VALIDATORS
from atpar.ledger.types import ChainId, Count, Hash, Height, ParticipantCode, PublicKey, TimeMs

HEADER_VERSION = 1


class ValidatorKey(Wire, frozen=True):
    """One member of a validator set: who, and the key its votes verify under."""

    participant: ParticipantCode
    vote_key: PublicKey


class ValidatorSetId(Wire, frozen=True):
    """What `validators_hash` commits to: the epoch and the ordered members."""

    epoch: Count
    members: Annotated[tuple[ValidatorKey, ...], Meta(max_length=MAX_VALIDATORS)]


class Header(Wire, frozen=True):
    """A block's header. Its hash is the block digest that votes name."""

    version: Annotated[int, Meta(ge=0, le=65_535)]
    chain_id: ChainId
    epoch: Count
    view: Count
    height: Height
    parent: Hash
    """Digest of the parent block; for height 1 the digest of the genesis header."""
    timestamp_ms: TimeMs
    """Greater than the parent's: the only time the ledger knows."""
    proposer: ParticipantCode
    tx_count: Annotated[int, Meta(ge=0, le=MAX_BLOCK_TRANSACTIONS)]
    tx_root: Hash
    receipt_root: Hash
    state_root: Hash
    """The root after this block."""
    validators_hash: Hash
    """The set that votes on this block."""
    next_validators_hash: Hash
    """The set that votes on its child."""


class Block(Wire, frozen=True):
    """A header and the exact bytes of its transactions' envelopes, in order."""

    header: Header
    transactions: Annotated[tuple[bytes, ...], Meta(max_length=MAX_BLOCK_TRANSACTIONS)]


HEADER = Codec[Header](Header, name="header", max_bytes=1_024)
BLOCK = Codec[Block](Block, name="block", max_bytes=MAX_BLOCK_BYTES)


def compute_digest(header: Header) -> bytes:
    """Return the 32-byte digest that names a block."""
    return compute_hash(HashTag.HEADER, encode(header))


def compute_validators_hash(validators: ValidatorSetId) -> bytes:
    """Return the 32-byte hash of a validator set, as headers carry it."""
    return compute_hash(HashTag.VALIDATORS, encode(validators))
