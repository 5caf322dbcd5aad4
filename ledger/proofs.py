"""Proofs that stand on their own: check a receipt, a balance or the supply with no node at hand.

What a proof claims follows from one block header, and the header from a *finalization*: votes of a
quorum of the validators, whose set follows from the genesis document, epoch by epoch: the last
block of an epoch names the next set or, where an epoch stopped, a quorum of its administrators
does. A verifier needs the proof and the genesis document (or a later chain id and validator set
that it trusts), and believes nothing else: it derives every path, sum and hash again.

    receipt   envelope and receipt -> RFC 6962 paths -> tx_root and receipt_root of the header
    account   balances of one account -> Merkle-sum trees -> state table -> state_root
    solvency  the state table: per asset what all balances sum to, the supply, the last attestation
    record    one entry of any section, or its absence -> section tree -> state table -> state_root
    expiry    a transaction that was never executed and never can be: its window has passed, and
              the list of ids used in that hour is without it

`proving.py` builds them from a node's state. An absence proof shows, where the slot on the path is
taken, the entry that takes it: whoever serves proofs decides who may see that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from atpar.ledger.blocks import (
    HEADER_VERSION,
    Header,
    ValidatorKey,
    ValidatorSetId,
    compute_digest,
    compute_validators_hash,
)
from atpar.ledger.certificates import (
    Finalization,
    check_certificate,
    compute_quorum,
    decode_bitmap,
)
from atpar.ledger.codec import Codec, Wire, encode
from atpar.ledger.codes import Code
from atpar.ledger.errors import NonCanonical, ProofInvalid
from atpar.ledger.genesis import GenesisDocument, build_genesis, compute_chain_id
from atpar.ledger.hashing import HashTag, compute_hash
from atpar.ledger.ids import EMPTY_BUCKET, extend_bucket
from atpar.ledger.jsonform import JsonInvalid, from_json, parse_json, to_json
from atpar.ledger.limits import (
    HOUR_MS,
    MAX_ASSETS,
    MAX_BLOCK_TRANSACTIONS,
    MAX_EPOCH_STEPS,
    MAX_LISTED_IDS,
    MAX_PROOF_BYTES,
    MAX_PROOF_HEADERS,
    MAX_TREE_KEY_BYTES,
)
from atpar.ledger.merkle import verify_path
from atpar.ledger.receipts import Receipt
from atpar.ledger.records import (
    BALANCES,
    CURRENT,
    ID_BUCKETS,
    NEXT,
    NO_BALANCE,
    PARAMS,
    PROVEN_SECTIONS,
    VALIDATORS,
    Balance,
    TxListEntry,
    ValidatorSet,
    hour_key,
    identify_validators,
)
from atpar.ledger.recovery import RecoveryDocument, check_recovery
from atpar.ledger.state import Section
from atpar.ledger.stateroot import AssetRow, StateTable, compute_state_root
from atpar.ledger.transactions import Transaction, decode_transaction
from atpar.ledger.tree import TreeRoot, compute_asset_tree, compute_section_tree
from atpar.ledger.treeproofs import TreeProof, verify_tree_proof
from atpar.ledger.types import AccountId, AssetCode, Hash, TimeMs, Uuid

T = TypeVar("T")

FORMAT: Final = "atpar-proof/1"
_MAX_PATH: Final = (MAX_BLOCK_TRANSACTIONS - 1).bit_length()
_SECTIONS: Final = {section.id: section for section in PROVEN_SECTIONS}

Path = Annotated[tuple[Hash, ...], Meta(max_length=_MAX_PATH)]
"""An RFC 6962 inclusion path, lowest sibling first."""


# ---- finality


class FinalityProof(Wire, frozen=True):
    """Shows that a block is final: a finalization at or above it, and the headers in between."""

    finalization: Finalization
    headers: Annotated[tuple[Header, ...], Meta(min_length=1, max_length=MAX_PROOF_HEADERS)]
    """From the finalised block (its digest is in the finalization) down to the wanted one, which
    is last."""


class BoundaryStep(Wire, frozen=True, tag=1):
    """Leads a verifier over the last block of an epoch, which names the next set."""

    boundary: FinalityProof
    """Of the last block of the epoch, whose header commits to the next set."""
    validators: ValidatorSetId
    """The next set."""


class RegisteredSets(Wire, frozen=True):
    """Which validators and administrators the state after a block registers."""

    table: StateTable
    current: TreeProof
    """Of the record `current` in the section of validators."""
    following: TreeProof
    """Of the record `next`: the set of the next epoch, or that none is fixed."""


class RecoveryStep(Wire, frozen=True, tag=2):
    """Leads a verifier over the word of a quorum of administrators, where an epoch stopped."""

    document: RecoveryDocument
    base: FinalityProof | None
    """Of the document's block itself, the last of the epoch that stopped. None where that epoch
    has no final block: it stands on the block that it began on, which the steps before show."""
    sets: RegisteredSets | None
    """After that block. None where the steps before have shown them: without `base`, in an epoch
    that genesis or another document opened."""


EpochStep = BoundaryStep | RecoveryStep


def verify_finality(proof: FinalityProof, *, chain_id: bytes, validators: ValidatorSetId) -> Header:
    """Return the header that the proof shows to be final, under the set of its epoch.

    Raises:
        ProofInvalid: it does not.
    """
    proposition, top = proof.finalization.proposition, proof.headers[0]
    expected_set = compute_validators_hash(validators)
    digest = proposition.digest
    for depth, header in enumerate(proof.headers):
        name = f"headers[{depth}]"
        if header.version != HEADER_VERSION:
            raise ProofInvalid(f"{name}: version {header.version}, expected {HEADER_VERSION}")
        if header.chain_id != chain_id:
            raise ProofInvalid(f"{name}: chain {header.chain_id.hex()}, not {chain_id.hex()}")
        if header.epoch != validators.epoch or header.validators_hash != expected_set:
            raise ProofInvalid(
                f"{name}: epoch {header.epoch} with validators {header.validators_hash.hex()}, "
                f"expected epoch {validators.epoch} with {expected_set.hex()}"
            )
        if compute_digest(header) != digest or header.height != top.height - depth:
            raise ProofInvalid(f"{name}: not the block that what stands above it names")
        digest = header.parent
    # A boundary block may be proposed again in later views, with its header as it was.
    is_boundary = top.next_validators_hash != top.validators_hash
    if proposition.epoch != top.epoch or not (
        proposition.view == top.view or (is_boundary and proposition.view > top.view)
    ):
        raise ProofInvalid(
            f"finalization: of epoch {proposition.epoch} view {proposition.view}, "
            f"the block is of epoch {top.epoch} view {top.view}"
        )
    check_certificate(proof.finalization, chain_id, validators.members)
    return proof.headers[-1]


# ---- from one epoch to the next


@dataclass(frozen=True, slots=True)
class TrustRoot:
    """What a verifier starts from: a chain, and the validators of one of its epochs."""

    chain_id: bytes
    validators: ValidatorSetId
    genesis: GenesisDocument | None = None
    """With it a verifier also crosses a recovery of the founding epoch before its first block."""


@dataclass(frozen=True, slots=True)
class Opening:
    """How an epoch began, as far as a verifier knows."""

    validators: ValidatorSetId
    start: Header | None
    """The final block that it began on; None where the verifier was told to start from here."""
    records: ValidatorSet | None = None
    """The members with their administrators, where no state after `start` registers them."""
    document: RecoveryDocument | None = None
    """What opened it, if not the last block of the epoch before."""


def compute_trust_root(document: GenesisDocument) -> TrustRoot:
    """Return what the genesis document gives a verifier: chain id and founding validators."""
    members = tuple(ValidatorKey(v.participant, v.vote_key) for v in document.validators)
    return TrustRoot(compute_chain_id(document), ValidatorSetId(0, members), document)


def follow_epochs(steps: Sequence[EpochStep], trust: TrustRoot) -> list[Opening]:
    """Return how each epoch began that the steps lead through; the first is the trusted one.

    Raises:
        ProofInvalid: a step does not follow from what is known before it.
    """
    openings = [Opening(trust.validators, None)]
    if steps and isinstance(steps[0], RecoveryStep) and steps[0].base is None:
        openings = [_open_genesis(trust)]
    for step in steps:
        before = openings[-1]
        match step:
            case BoundaryStep():
                openings.append(_cross_boundary(step, before, trust.chain_id))
            case RecoveryStep():
                openings.append(_cross_recovery(step, before, trust.chain_id))
    return openings


def _open_genesis(trust: TrustRoot) -> Opening:
    if trust.genesis is None:
        return Opening(trust.validators, None)
    genesis = build_genesis(trust.genesis)
    return Opening(trust.validators, genesis.header, genesis.overlay.get(VALIDATORS, CURRENT))


def _cross_boundary(step: BoundaryStep, before: Opening, chain_id: bytes) -> Opening:
    header = verify_finality(step.boundary, chain_id=chain_id, validators=before.validators)
    following, ended = step.validators, before.validators.epoch
    if header.next_validators_hash == header.validators_hash:
        raise ProofInvalid(f"block {header.height} is not the last of epoch {header.epoch}")
    if following.epoch != ended + 1 or not following.members:
        raise ProofInvalid(
            f"epoch {following.epoch} with {len(following.members)} members cannot follow "
            f"epoch {ended}"
        )
    if compute_validators_hash(following) != header.next_validators_hash:
        raise ProofInvalid(f"block {header.height} names another set for {following.epoch}")
    return Opening(following, header)


def _cross_recovery(step: RecoveryStep, before: Opening, chain_id: bytes) -> Opening:
    """Follow a document that a quorum of the stopped epoch's administrators signed.

    Who they were is proven by the state of the very block on which the document builds, and that
    block by the validators of the epoch that stopped.
    """
    epoch = before.validators.epoch
    header = before.start if step.base is None else _find_base(step.base, before, chain_id)
    if header is None:
        raise ProofInvalid(f"recovery: the block that epoch {epoch} began on is not known here")
    known = before.records if step.base is None else None
    if known is not None and step.sets is not None:
        raise ProofInvalid("recovery: sets: known already, there is nothing to prove")
    records, following = (known, None) if known else _read_sets(step.sets, header)
    if identify_validators(records) != before.validators:
        raise ProofInvalid(
            f"recovery: the state after block {header.height} registers the set of epoch "
            f"{records.epoch}, not the one that epoch {epoch} has"
        )
    opened = check_recovery(step.document, chain_id=chain_id, stopped=records, following=following)
    body, digest = step.document.body, compute_digest(header)
    if (body.height, body.digest) != (header.height, digest):
        raise ProofInvalid(
            f"recovery: starts at block {body.height} {body.digest.hex()}, proven is "
            f"{header.height} {digest.hex()}"
        )
    return Opening(identify_validators(opened), header, opened, step.document)


def _find_base(base: FinalityProof, before: Opening, chain_id: bytes) -> Header:
    """Return the last block of an epoch that stopped without reaching its boundary.

    An epoch that has its boundary is over: that block names the next set, and no document can name
    another. And what stands below a block that is final is not the last one.
    """
    epoch = before.validators.epoch
    header = verify_finality(base, chain_id=chain_id, validators=before.validators)
    if len(base.headers) > 1:
        raise ProofInvalid(
            f"recovery: block {base.headers[0].height} of epoch {epoch} is final, above block "
            f"{header.height}"
        )
    if header.next_validators_hash != header.validators_hash:
        raise ProofInvalid(
            f"recovery: block {header.height} is the last of epoch {epoch} and names the set of "
            f"epoch {epoch + 1}"
        )
    return header


def _read_sets(
    sets: RegisteredSets | None, header: Header
) -> tuple[ValidatorSet, ValidatorSet | None]:
    """Return the records `current` and `next` of the state after a block."""
    if sets is None:
        raise ProofInvalid(f"recovery: sets: nothing proves those after block {header.height}")
    _verify_table(sets.table, header)
    current = _read_record(VALIDATORS, CURRENT, sets.current, sets.table)
    if current is None:
        raise ProofInvalid("recovery: sets: the state has no validators")
    return current, _read_record(VALIDATORS, NEXT, sets.following, sets.table)


# ---- what can be proven


class ReceiptProof(Wire, frozen=True, tag=1):
    """That a transaction was executed, and with which outcome."""

    envelope: bytes
    receipt: Receipt
    index: Annotated[int, Meta(ge=0, lt=MAX_BLOCK_TRANSACTIONS)]
    tx_path: Path
    receipt_path: Path
    finality: FinalityProof


class BalanceProof(Wire, frozen=True):
    """What an account holds of one asset, or that it holds nothing."""

    asset: AssetCode
    proof: TreeProof
    """In the tree of the asset's balances; the value is a `records.Balance`."""


class AccountProof(Wire, frozen=True, tag=2):
    """What an account holds, next to what all accounts hold, the supply and the reserve."""

    account: AccountId
    balances: Annotated[tuple[BalanceProof, ...], Meta(min_length=1, max_length=MAX_ASSETS)]
    """In ascending order of asset."""
    table: StateTable
    finality: FinalityProof


class SolvencyProof(Wire, frozen=True, tag=3):
    """What all balances sum to, the supply, and the last attested reserve, of every asset."""

    table: StateTable
    finality: FinalityProof


class RecordProof(Wire, frozen=True, tag=4):
    """One record of a section, or that there is none under a key."""

    section: Annotated[int, Meta(ge=0, le=255)]
    key: Annotated[bytes, Meta(min_length=1, max_length=MAX_TREE_KEY_BYTES)]
    proof: TreeProof
    table: StateTable
    finality: FinalityProof


class ExpiryProof(Wire, frozen=True, tag=5):
    """That a transaction was never executed and never will be."""

    sender: AccountId
    tx_id: Uuid
    valid_until_ms: TimeMs
    bucket: TreeProof
    """In the section of id buckets, at the hour of `valid_until_ms`."""
    params: TreeProof
    """The chain's parameters: how long buckets are kept."""
    used: Annotated[tuple[TxListEntry, ...], Meta(max_length=MAX_LISTED_IDS)]
    """Every id that was used with a window ending in that hour, in order."""
    table: StateTable
    finality: FinalityProof


Proof = ReceiptProof | AccountProof | SolvencyProof | RecordProof | ExpiryProof


class ProofFile(Wire, frozen=True):
    """What `atpar verify` reads and the API returns."""

    format: Literal["atpar-proof/1"]
    epochs: Annotated[tuple[EpochStep, ...], Meta(max_length=MAX_EPOCH_STEPS)]
    """From the genesis set to the set that finalised the proven block."""
    proof: Proof
    checksum: Hash
    """`compute_checksum` of the proof. It proves nothing: a changed letter in a question (which
    account, which id) would make another proof, of another truth, and must not pass for this."""


def compute_checksum(proof: Proof) -> bytes:
    """Return the checksum that a file carries beside its proof."""
    return compute_hash(HashTag.PROOF, encode(proof))


PROOF_FILE = Codec[ProofFile](ProofFile, name="proof", max_bytes=MAX_PROOF_BYTES)


def parse_proof(data: bytes) -> ProofFile:
    """Return the proof of its JSON bytes, unverified.

    Only white space and the order of members are free: a hash in capitals is an altered file, even
    though it names the same bytes.

    Raises:
        ProofInvalid: not the JSON form of a proof; names the field.
    """
    try:
        value = parse_json(data, max_bytes=2 * MAX_PROOF_BYTES)
        file = from_json(ProofFile, value)
    except JsonInvalid as error:
        raise ProofInvalid(str(error)) from error
    if to_json(file) != value:
        raise ProofInvalid("document: not as proofs are written (hex is in lower case): altered")
    return file


def render_proof(file: ProofFile) -> bytes:
    """Return a proof as readable JSON, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(to_json(file)), indent=2) + b"\n"


# ---- what a verified proof says


@dataclass(frozen=True, slots=True)
class VerifiedBlock:
    """The final block that a proof rests on."""

    height: int
    timestamp_ms: int
    digest: bytes
    epoch: int
    signers: tuple[str, ...]
    """Participants whose finalize votes were checked, in the order of the set."""
    validators: int
    quorum: int


@dataclass(frozen=True, slots=True)
class ReceiptClaim:
    """A transaction was executed in the block."""

    transaction: Transaction
    receipt: Receipt
    index: int

    @property
    def code_name(self) -> str:
        """The outcome's name; `CODE_<n>` for one that this version does not know."""
        known = self.receipt.code in set(Code)
        return Code(self.receipt.code).name if known else f"CODE_{self.receipt.code}"


@dataclass(frozen=True, slots=True)
class AccountClaim:
    """The account holds these balances after the block."""

    account: str
    balances: tuple[tuple[str, Balance], ...]
    """(asset, balance); all zero where the account was proven to have no entry."""
    assets: tuple[AssetRow, ...]
    """The rows of those assets: all balances, supply, attested reserve."""


@dataclass(frozen=True, slots=True)
class SolvencyClaim:
    """The assets stand so after the block; posted equals supply in each."""

    assets: tuple[AssetRow, ...]


@dataclass(frozen=True, slots=True)
class RecordClaim:
    """The section holds this record, or none, after the block."""

    section: str
    key: bytes
    record: Wire | None


@dataclass(frozen=True, slots=True)
class ExpiryClaim:
    """The transaction was never executed and never will be."""

    sender: str
    tx_id: bytes
    valid_until_ms: int


Claim = ReceiptClaim | AccountClaim | SolvencyClaim | RecordClaim | ExpiryClaim


@dataclass(frozen=True, slots=True)
class Verified:
    """What a proof has shown, and nothing that it has not."""

    chain_id: bytes
    block: VerifiedBlock
    claim: Claim
    epochs: tuple[Opening, ...]
    """How every epoch began, from the trusted one to that of the block."""


def verify_proof(file: ProofFile, trust: TrustRoot) -> Verified:
    """Check a proof completely and return what it shows.

    Raises:
        ProofInvalid: it does not show what it claims; the message names the part.
    """
    chain_id, proof = trust.chain_id, file.proof
    if file.checksum != compute_checksum(proof):
        raise ProofInvalid("checksum: the file was altered")
    openings = follow_epochs(file.epochs, trust)
    validators = openings[-1].validators
    header = verify_finality(proof.finality, chain_id=chain_id, validators=validators)
    match proof:
        case ReceiptProof():
            claim: Claim = _verify_receipt(proof, header)
        case AccountProof():
            claim = _verify_account(proof, header)
        case SolvencyProof():
            claim = SolvencyClaim(_verify_table(proof.table, header))
        case RecordProof():
            claim = _verify_record(proof, header)
        case ExpiryProof():
            claim = _verify_expiry(proof, header)
    members = validators.members
    signers = decode_bitmap(proof.finality.finalization.signers, len(members))
    block = VerifiedBlock(
        height=header.height,
        timestamp_ms=header.timestamp_ms,
        digest=compute_digest(header),
        epoch=header.epoch,
        signers=tuple(members[index].participant for index in signers),
        validators=len(members),
        quorum=compute_quorum(len(members)),
    )
    return Verified(chain_id, block, claim, tuple(openings))


def _verify_receipt(proof: ReceiptProof, header: Header) -> ReceiptClaim:
    try:
        transaction = decode_transaction(proof.envelope)
    except NonCanonical as error:
        raise ProofInvalid(f"envelope: {error}") from error
    receipt, count = proof.receipt, header.tx_count
    body = transaction.body
    if (receipt.tx_hash, receipt.sender, receipt.tx_id) != (
        transaction.hash,
        body.sender,
        body.tx_id,
    ):
        raise ProofInvalid("receipt: of another transaction than the envelope")
    for path, entry, root in (
        (proof.tx_path, transaction.hash, header.tx_root),
        (proof.receipt_path, encode(receipt), header.receipt_root),
    ):
        verify_path(entry, index=proof.index, count=count, path=path, root=root)
    return ReceiptClaim(transaction, receipt, proof.index)


def _verify_table(table: StateTable, header: Header) -> tuple[AssetRow, ...]:
    sections = [row.section for row in table.sections]
    codes = [row.asset for row in table.assets]
    if sections != sorted(set(sections)) or codes != sorted(set(codes)):
        raise ProofInvalid("table: not in ascending order")
    root = compute_state_root(table.sections, table.assets)
    if root != header.state_root:
        raise ProofInvalid(
            f"table: hashes to {root.hex()}, the header has {header.state_root.hex()}"
        )
    for row in table.assets:
        if row.posted != row.supply:
            raise ProofInvalid(f"{row.asset}: balances sum to {row.posted}, supply {row.supply}")
    return table.assets


def _verify_account(proof: AccountProof, header: Header) -> AccountClaim:
    rows = {row.asset: row for row in _verify_table(proof.table, header)}
    codes = [balance.asset for balance in proof.balances]
    if codes != sorted(set(codes)):
        raise ProofInvalid("balances: not in ascending order of asset")
    balances = []
    for entry in proof.balances:
        row = rows.get(entry.asset)
        if row is None:
            raise ProofInvalid(f"balances: the state has no asset {entry.asset}")
        leaf = verify_tree_proof(
            entry.proof,
            tree=compute_asset_tree(entry.asset),
            key=proof.account.encode(),
            root=TreeRoot(row.root, row.posted),
        )
        balance = NO_BALANCE if leaf is None else _decode_record(BALANCES, leaf.value)
        if leaf is not None and balance.posted != leaf.amount:
            raise ProofInvalid(f"{entry.asset}: posted {balance.posted}, counted {leaf.amount}")
        balances.append((entry.asset, balance))
    return AccountClaim(proof.account, tuple(balances), tuple(rows[code] for code in codes))


def _verify_record(proof: RecordProof, header: Header) -> RecordClaim:
    _verify_table(proof.table, header)
    section = _SECTIONS.get(proof.section)
    if section is None:
        raise ProofInvalid(f"section: {proof.section} is not covered by the state root")
    record = _read_record(section, proof.key, proof.proof, proof.table)
    return RecordClaim(section.name, proof.key, record)


def _verify_expiry(proof: ExpiryProof, header: Header) -> ExpiryClaim:
    _verify_table(proof.table, header)
    if header.timestamp_ms <= proof.valid_until_ms:
        raise ProofInvalid(
            f"valid_until_ms: {proof.valid_until_ms} has not passed at {header.timestamp_ms}"
        )
    params = _read_record(PARAMS, CURRENT, proof.params, proof.table)
    if params is None:
        raise ProofInvalid("params: the state has none")
    dropped_ms = (proof.valid_until_ms // HOUR_MS + 1) * HOUR_MS + params.tx_id_retention_ms
    if header.timestamp_ms >= dropped_ms:
        raise ProofInvalid(
            f"bucket: forgotten at {dropped_ms}, the block is of {header.timestamp_ms}"
        )
    key = hour_key(proof.valid_until_ms)
    expected = _read_record(ID_BUCKETS, key, proof.bucket, proof.table) or EMPTY_BUCKET
    for entry in proof.used:
        if (entry.sender, entry.tx_id) == (proof.sender, proof.tx_id):
            raise ProofInvalid(f"used: the transaction was executed in block {entry.height}")
    bucket = extend_bucket(EMPTY_BUCKET, proof.used)
    if bucket != expected:
        raise ProofInvalid(f"used: {bucket.count} ids, not the {expected.count} of the bucket")
    return ExpiryClaim(proof.sender, proof.tx_id, proof.valid_until_ms)


def _read_record(section: Section[T], key: bytes, proof: TreeProof, table: StateTable) -> T | None:
    root = next((row.root for row in table.sections if row.section == section.id), None)
    if root is None:
        raise ProofInvalid(f"table: without section {section.id}")
    leaf = verify_tree_proof(
        proof, tree=compute_section_tree(section.id), key=key, root=TreeRoot(root, 0)
    )
    return None if leaf is None else _decode_record(section, leaf.value)


def _decode_record(section: Section[T], value: bytes) -> T:
    try:
        return section.codec.decode(value)
    except NonCanonical as error:
        raise ProofInvalid(str(error)) from error
