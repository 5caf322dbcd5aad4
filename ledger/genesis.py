"""The genesis document: who starts the chain, with which keys, accounts, assets and rules.

Its JSON form (`jsonform.py`) is what banks exchange and sign; the hash of its canonical bytes
without the signatures is the chain id.
"""

from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from atpar.ledger.blocks import Header, ValidatorSetId
from atpar.ledger.codec import Codec, Wire, encode
from atpar.ledger.hashing import HashTag, SignKind, compute_hash, compute_sign_bytes
from atpar.ledger.limits import MAX_SCALE, MAX_VALIDATORS
from atpar.ledger.operations import AssetTerms, Policy, Possessions
from atpar.ledger.state import Overlay
from atpar.ledger.types import (
    AccountId,
    Amount,
    AssetCode,
    Bic,
    Count,
    Currency,
    Jurisdiction,
    Lei,
    ParticipantCode,
    PublicKey,
    Role,
    SignatureBytes,
    TimeMs,
)

FORMAT = "atpar-genesis/1"

Address = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9.:\[\]-]{1,255}:[0-9]{1,5}\Z")]
"""host:port of a validator's listener for the validator network."""
Pem = Annotated[str, Meta(min_length=1, max_length=8_192)]


class GenesisValidator(Wire, frozen=True):
    """A founding validator. The order of validators in the document is their index."""

    participant: ParticipantCode
    vote_key: PublicKey
    vote_possession: SignatureBytes
    """Possession signature by the vote key."""
    admin_key: PublicKey
    """Its administrator's key: its voice in `CHAIN/governance`, and its genesis signature."""
    admin_possession: SignatureBytes
    root_certificate: Pem
    """Self-signed X.509 root (PEM) that issues its TLS leaf certificates."""
    address: Address


class GenesisObserver(Wire, frozen=True):
    """Someone who follows the chain without a vote: auditor, regulator."""

    participant: ParticipantCode
    root_certificate: Pem


class GenesisParticipant(Wire, frozen=True):
    """A founding participant; its account CODE/admin is created with it."""

    participant: ParticipantCode
    lei: Lei
    bic: Bic
    jurisdiction: Jurisdiction
    roles: tuple[Role, ...]
    travel_key: PublicKey | None
    admin_policy: Policy
    possessions: Possessions


class GenesisAccount(Wire, frozen=True):
    """A founding account."""

    account: AccountId
    policy: Policy
    reference_required: bool
    possessions: Possessions


class GenesisAsset(Wire, frozen=True):
    """A founding asset, at zero supply."""

    asset: AssetCode
    issuer: ParticipantCode
    currency: Currency
    scale: Annotated[int, Meta(ge=0, le=MAX_SCALE)]
    terms: AssetTerms


class GenesisQuota(Wire, frozen=True):
    """A founding mint quota; starts at full capacity."""

    asset: AssetCode
    minter: AccountId
    capacity: Amount
    refill_per_day: Amount


class GenesisParams(Wire, frozen=True):
    """Chain-wide parameters."""

    max_window_ms: TimeMs
    tx_id_retention_ms: TimeMs
    max_block_bytes: Count
    max_block_transactions: Count
    epoch_blocks: Count
    """Length of an epoch in blocks."""
    block_interval_ms: TimeMs
    """Least time between two blocks, so that batches can form."""
    heartbeat_ms: TimeMs
    """Longest rest of an idle chain."""
    delta_ms: TimeMs
    """Starting value of the network delay bound."""


class GenesisSignature(Wire, frozen=True):
    """A founding validator's administrator signs the document (kind `genesis`)."""

    participant: ParticipantCode
    signature: SignatureBytes


class GenesisDocument(Wire, frozen=True):
    """Everything that the chain starts from."""

    format: Annotated[str, Meta(max_length=32)]
    name: Annotated[str, Meta(pattern=r"\A[a-z0-9-]{1,32}\Z")]
    timestamp_ms: TimeMs
    validators: Annotated[tuple[GenesisValidator, ...], Meta(max_length=MAX_VALIDATORS)]
    observers: tuple[GenesisObserver, ...]
    participants: tuple[GenesisParticipant, ...]
    accounts: tuple[GenesisAccount, ...]
    assets: tuple[GenesisAsset, ...]
    quotas: tuple[GenesisQuota, ...]
    params: GenesisParams
    signatures: tuple[GenesisSignature, ...]


DOCUMENT = Codec[GenesisDocument](GenesisDocument, name="genesis", max_bytes=64 * 1024 * 1024)


def compute_chain_id(document: GenesisDocument) -> bytes:
    """Return the chain id: the hash of the document without its signatures."""
    unsigned = msgspec.structs.replace(document, signatures=())
    return compute_hash(HashTag.GENESIS, encode(unsigned))


@dataclass(frozen=True, slots=True)
class Genesis:
    """The state that a document starts, and its header at height 0."""

    document: GenesisDocument
    chain_id: bytes
    header: Header
    digest: bytes
    validators: ValidatorSetId
    overlay: Overlay
    """The whole state, tree nodes included, above an empty one."""


def compute_genesis_sign_bytes(document: GenesisDocument) -> bytes:
    """Return what each founding validator's administrator signs."""
    return compute_sign_bytes(SignKind.GENESIS, compute_chain_id(document), b"")


def parse_genesis(data: bytes) -> GenesisDocument:
    """Return the checked document of its JSON bytes.

    Raises:
        GenesisInvalid: names the field.
    """
    raise NotImplementedError


def render_genesis(document: GenesisDocument) -> bytes:
    """Return the document as readable JSON."""
    raise NotImplementedError


def check_genesis(document: GenesisDocument, *, sealed: bool) -> None:
    """Check everything the document says against everything else; with `sealed` also signatures.

    Raises:
        GenesisInvalid: names the field.
    """
    raise NotImplementedError


def build_genesis(document: GenesisDocument) -> Genesis:
    """Return the state that a checked document starts."""
    raise NotImplementedError
