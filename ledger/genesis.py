"""The genesis document: who starts the chain, with which keys, accounts, assets and rules.

Its JSON form (`jsonform.py`) is what banks exchange and sign; the hash of its canonical bytes
without the signatures is the chain id.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from msgspec import Meta

from atpar.ledger.blocks import (
    HEADER_VERSION,
    Header,
    ValidatorSetId,
    compute_digest,
    compute_validators_hash,
)
from atpar.ledger.codec import Codec, Wire, encode
from atpar.ledger.commitment import commit_state
from atpar.ledger.epochs import open_epoch
from atpar.ledger.errors import GenesisInvalid, Refused
from atpar.ledger.hashing import HashTag, SignKind, compute_hash, compute_sign_bytes
from atpar.ledger.jsonform import JsonInvalid, from_json, parse_json, to_json
from atpar.ledger.keys import verify, verify_possession
from atpar.ledger.limits import (
    MAX_AMOUNT,
    MAX_SCALE,
    MAX_VALIDATORS,
    MIN_VALIDATORS,
    PARAM_RANGES,
)
from atpar.ledger.merkle import compute_root
from atpar.ledger.operations import AssetTerms, Policy, Possession, Possessions
from atpar.ledger.policies import check_keys, needs_two_keys, register_policy
from atpar.ledger.records import (
    ACCOUNTS,
    ASSETS,
    CURRENT,
    KEYS,
    PARAMS,
    PARTICIPANTS,
    QUOTAS,
    Asset,
    KeyOwner,
    Params,
    Participant,
    Quota,
    Validator,
    ValidatorSet,
    identify_validators,
    new_account,
    pair_key,
)
from atpar.ledger.roles import find_role_faults
from atpar.ledger.state import Base, MemoryBacking, Overlay
from atpar.ledger.terms import add_asset, find_terms_fault
from atpar.ledger.types import (
    CHAIN_CODE,
    ZERO_HASH,
    AccountId,
    Amount,
    AssetCode,
    Bic,
    Count,
    Currency,
    Jurisdiction,
    Lei,
    ParticipantCode,
    ParticipantStatus,
    PublicKey,
    Role,
    SignatureBytes,
    TimeMs,
    admin_of,
    participant_of,
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


# ---- the JSON form


def parse_genesis(data: bytes) -> GenesisDocument:
    """Return the document of its JSON bytes, checked in itself; signatures may still be missing.

    Raises:
        GenesisInvalid: names the field.
    """
    try:
        document = from_json(GenesisDocument, parse_json(data, max_bytes=DOCUMENT.max_bytes))
    except JsonInvalid as error:
        raise GenesisInvalid(error.field or "document", str(error).partition(": ")[2]) from error
    check_genesis(document, sealed=False)
    return document


def render_genesis(document: GenesisDocument) -> bytes:
    """Return the document as readable JSON, ending in a newline."""
    return json.dumps(to_json(document), indent=2).encode() + b"\n"


# ---- checks


def check_genesis(document: GenesisDocument, *, sealed: bool) -> None:
    """Check everything the document says against everything else; with `sealed` also signatures.

    Raises:
        GenesisInvalid: names the field.
    """
    if document.format != FORMAT:
        raise GenesisInvalid("format", f"{document.format!r}, expected {FORMAT!r}")
    _check_params(document.params)
    overlay = Overlay(Base(MemoryBacking()))
    _add_participants(overlay, document)
    _check_validators(overlay, document)
    _add_accounts(overlay, document)
    _add_assets(overlay, document)
    _add_quotas(overlay, document)
    _check_signatures(document, sealed=sealed)


def _check_params(params: GenesisParams) -> None:
    for name, (low, high) in PARAM_RANGES.items():
        value = getattr(params, name)
        if not low <= value <= high:
            raise GenesisInvalid(f"params.{name}", f"{value}, must be within {low} to {high}")
    if params.tx_id_retention_ms < params.max_window_ms:
        raise GenesisInvalid(
            "params.tx_id_retention_ms",
            f"{params.tx_id_retention_ms}, less than max_window_ms {params.max_window_ms}",
        )


@contextmanager
def _at(field: str) -> Iterator[None]:
    """Turn a refusal of the rules into one that names the field."""
    try:
        yield
    except Refused as error:
        raise GenesisInvalid(field, error.message) from error


def _check_new(field: str, seen: set[str], value: str) -> None:
    if value in seen:
        raise GenesisInvalid(field, f"{value} is named twice")
    seen.add(value)


def _add_participants(overlay: Overlay, document: GenesisDocument) -> None:
    seen: set[str] = set()
    for index, entry in enumerate(document.participants):
        path = f"participants[{index}]"
        code = entry.participant
        _check_new(f"{path}.participant", seen, code)
        if code == CHAIN_CODE:
            raise GenesisInvalid(f"{path}.participant", f"{CHAIN_CODE} is reserved")
        if list(entry.roles) != sorted(set(entry.roles)):
            raise GenesisInvalid(f"{path}.roles", "not sorted, or named twice")
        _check_possessions(f"{path}.possessions", entry.possessions)
        _register(overlay, f"{path}.admin_policy", code, entry.admin_policy, entry.possessions)
        if not needs_two_keys(entry.admin_policy):
            raise GenesisInvalid(f"{path}.admin_policy", "one key alone reaches the threshold")
        status = ParticipantStatus.ACTIVE
        record = Participant(
            entry.lei, entry.bic, entry.jurisdiction, entry.roles, status, entry.travel_key
        )
        overlay.put(PARTICIPANTS, code.encode(), record)
        overlay.put(ACCOUNTS, admin_of(code).encode(), new_account(entry.admin_policy))


def _check_possessions(field: str, possessions: Possessions) -> None:
    keys = [proof.key for proof in possessions]
    if keys != sorted(set(keys)):
        raise GenesisInvalid(field, "not sorted by key, or a key named twice")


def _register(
    overlay: Overlay, field: str, code: str, policy: Policy, possessions: Possessions
) -> None:
    with _at(field):
        register_policy(overlay, code, policy, possessions, chain_id=ZERO_HASH)


def _check_validators(overlay: Overlay, document: GenesisDocument) -> None:
    count = len(document.validators)
    if count < MIN_VALIDATORS:
        raise GenesisInvalid("validators", f"{count}, at least {MIN_VALIDATORS}")
    codes: set[str] = set()
    addresses: set[str] = set()
    roots: set[str] = set()
    keys: set[bytes] = set()
    for index, entry in enumerate(document.validators):
        path = f"validators[{index}]"
        _check_new(f"{path}.participant", codes, entry.participant)
        _check_known(overlay, f"{path}.participant", entry.participant)
        _check_new(f"{path}.address", addresses, entry.address)
        _check_port(f"{path}.address", entry.address)
        _check_new(f"{path}.root_certificate", roots, entry.root_certificate)
        _check_certificate(f"{path}.root_certificate", entry.root_certificate)
        for name, key, signature in (
            ("vote_key", entry.vote_key, entry.vote_possession),
            ("admin_key", entry.admin_key, entry.admin_possession),
        ):
            if key in keys:
                raise GenesisInvalid(f"{path}.{name}", f"{key.hex()} is named twice")
            keys.add(key)
            _add_validator_key(overlay, f"{path}.{name}", entry.participant, key, signature)
    for index, observer in enumerate(document.observers):
        path = f"observers[{index}]"
        _check_known(overlay, f"{path}.participant", observer.participant)
        _check_new(f"{path}.participant", codes, observer.participant)
        _check_new(f"{path}.root_certificate", roots, observer.root_certificate)
        _check_certificate(f"{path}.root_certificate", observer.root_certificate)


def _check_known(overlay: Overlay, field: str, code: str) -> None:
    if overlay.get(PARTICIPANTS, code.encode()) is None:
        raise GenesisInvalid(field, f"{code} is not among the participants")


def _add_validator_key(
    overlay: Overlay, field: str, code: str, key: bytes, signature: bytes
) -> None:
    """Register a vote or administrator key; the possession next to it must be right in any case."""
    with _at(field):
        for fresh in check_keys(
            overlay, code, [key], (Possession(key, signature),), chain_id=ZERO_HASH
        ):
            overlay.put(KEYS, fresh, KeyOwner(code))
    if not verify_possession(ZERO_HASH, participant=code, public_key=key, signature=signature):
        name = field.replace("_key", "_possession")
        raise GenesisInvalid(name, f"no valid proof of possession for {key.hex()}")


def _check_port(field: str, address: str) -> None:
    port = int(address.rpartition(":")[2])
    if not 1 <= port <= 65_535:
        raise GenesisInvalid(field, f"port {port}, must be within 1 to 65535")


def _check_certificate(field: str, pem: str) -> None:
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode("ascii"))
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise GenesisInvalid(field, f"not a self-signed certificate: {error}") from error


def _add_accounts(overlay: Overlay, document: GenesisDocument) -> None:
    seen: set[str] = set()
    for index, entry in enumerate(document.accounts):
        path = f"accounts[{index}]"
        code = participant_of(entry.account)
        _check_known(overlay, f"{path}.account", code)
        _check_new(f"{path}.account", seen, entry.account)
        if entry.account == admin_of(code):
            raise GenesisInvalid(f"{path}.account", "the admin account comes with its participant")
        _check_possessions(f"{path}.possessions", entry.possessions)
        _register(overlay, f"{path}.policy", code, entry.policy, entry.possessions)
        record = new_account(entry.policy, reference_required=entry.reference_required)
        overlay.put(ACCOUNTS, entry.account.encode(), record)


def _add_assets(overlay: Overlay, document: GenesisDocument) -> None:
    seen: set[str] = set()
    for index, entry in enumerate(document.assets):
        path = f"assets[{index}]"
        _check_new(f"{path}.asset", seen, entry.asset)
        if entry.asset != f"{entry.currency}.{entry.issuer}":
            message = f"{entry.asset} is not {entry.currency}.{entry.issuer}"
            raise GenesisInvalid(f"{path}.asset", message)
        fault = find_terms_fault(entry.terms)
        if fault is not None:
            raise GenesisInvalid(f"{path}.terms.{fault.field}", fault.message)
        for role in find_role_faults(overlay, entry.issuer, entry.terms):
            field = "issuer" if role.field == "issuer" else f"terms.{role.field}"
            raise GenesisInvalid(f"{path}.{field}", role.message)
        add_asset(
            overlay,
            entry.asset,
            Asset(entry.issuer, entry.currency, entry.scale, entry.terms, 0, 0),
        )


def _add_quotas(overlay: Overlay, document: GenesisDocument) -> None:
    seen: set[str] = set()
    for index, entry in enumerate(document.quotas):
        path = f"quotas[{index}]"
        asset = overlay.get(ASSETS, entry.asset.encode())
        if asset is None:
            raise GenesisInvalid(f"{path}.asset", f"{entry.asset} is not among the assets")
        if entry.minter not in asset.terms.minters:
            raise GenesisInvalid(f"{path}.minter", f"{entry.minter} is no minter of {entry.asset}")
        _check_new(path, seen, f"{entry.asset}|{entry.minter}")
        for name in ("capacity", "refill_per_day"):
            value = getattr(entry, name)
            if not 0 <= value <= MAX_AMOUNT:
                raise GenesisInvalid(f"{path}.{name}", f"{value}, must be within 0 to {MAX_AMOUNT}")
        record = Quota(
            entry.capacity, entry.refill_per_day, entry.capacity, 0, document.timestamp_ms
        )
        overlay.put(QUOTAS, pair_key(entry.asset, entry.minter), record)


def _check_signatures(document: GenesisDocument, *, sealed: bool) -> None:
    admins = {entry.participant: entry.admin_key for entry in document.validators}
    message = compute_genesis_sign_bytes(document)
    seen: set[str] = set()
    for index, entry in enumerate(document.signatures):
        path = f"signatures[{index}]"
        _check_new(f"{path}.participant", seen, entry.participant)
        if entry.participant not in admins:
            raise GenesisInvalid(f"{path}.participant", f"{entry.participant} is no validator")
        if not verify(admins[entry.participant], message, entry.signature):
            raise GenesisInvalid(f"{path}.signature", f"{entry.participant}'s does not verify")
    missing = [code for code in admins if code not in seen]
    if sealed and missing:
        raise GenesisInvalid("signatures", f"missing: {', '.join(missing)}")


# ---- the state it starts


def build_genesis(document: GenesisDocument) -> Genesis:
    """Return the state that a document starts. Signatures are the caller's to demand.

    Raises:
        GenesisInvalid: the document is inconsistent; names the field.
    """
    check_genesis(document, sealed=False)
    overlay = Overlay(Base(MemoryBacking()))
    _add_participants(overlay, document)
    _check_validators(overlay, document)
    _add_accounts(overlay, document)
    _add_assets(overlay, document)
    _add_quotas(overlay, document)
    members = tuple(
        Validator(v.participant, v.vote_key, v.admin_key, v.root_certificate, v.address)
        for v in document.validators
    )
    open_epoch(overlay, ValidatorSet(0, members))
    overlay.put(PARAMS, CURRENT, Params(*msgspec.structs.astuple(document.params)))
    chain_id = compute_chain_id(document)
    validators = identify_validators(ValidatorSet(0, members))
    validators_hash = compute_validators_hash(validators)
    header = Header(
        version=HEADER_VERSION,
        chain_id=chain_id,
        epoch=0,
        view=0,
        height=0,
        parent=ZERO_HASH,
        timestamp_ms=document.timestamp_ms,
        proposer=members[0].participant,
        tx_count=0,
        tx_root=compute_root([]),
        receipt_root=compute_root([]),
        state_root=commit_state(overlay),
        validators_hash=validators_hash,
        next_validators_hash=validators_hash,
    )
    return Genesis(document, chain_id, header, compute_digest(header), validators, overlay)
