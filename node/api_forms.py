"""The answers of the API, as Structs: the one place that says what each route returns.

The server encodes them, the OpenAPI document is generated from them, and the client decodes the
same fields. `read_height` is in every answer that states ledger state: the final block at which it
was read. Amounts are minor units; JSON carries them as decimal strings, hashes and ids as hex.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from atpar.ledger.blocks import Header
from atpar.ledger.certificates import Finalization
from atpar.ledger.codes import MEANINGS, Code, Meaning
from atpar.ledger.operations import AssetTerms, BundledOperation, Limit, Operation, Policy
from atpar.ledger.proofs import ProofFile
from atpar.ledger.records import Params, PaymentTerms, PendingPolicy, Validator, Verdict
from atpar.ledger.types import (
    AccountId,
    Amount,
    AssetCode,
    Bic,
    Count,
    Currency,
    Direction,
    Hash,
    Height,
    Jurisdiction,
    Lei,
    ParticipantCode,
    ParticipantStatus,
    PublicKey,
    Reference,
    Role,
    TimeMs,
    Uuid,
)
from atpar.node.evidence import EvidenceFile
from atpar.node.gateway import NodeState, PeerState, TxStatus
from atpar.node.limits import MAX_BATCH_ENVELOPES

CodeName = Annotated[str, Meta(pattern=r"\A[A-Z_]{2,40}\Z")]
"""Name of a ledger code; `OK` is success."""


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every answer."""


# ---- requests


class SubmitOne(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One envelope."""

    envelope: bytes
    """Canonical envelope bytes; base64 in JSON."""


class SubmitMany(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Several envelopes, judged one by one."""

    envelopes: Annotated[tuple[bytes, ...], Meta(min_length=1, max_length=MAX_BATCH_ENVELOPES)]
    """Canonical envelope bytes; base64 in JSON."""


# ---- transactions


class ReceiptForm(Form, frozen=True):
    """The one outcome of an executed transaction."""

    height: Height
    """The block that carries it."""
    index: Count
    timestamp_ms: TimeMs
    """Block time: when it took effect."""
    code: CodeName
    iso_reason: str | None
    """ISO 20022 reason of a failure."""
    failed_op: Count | None
    meaning: str
    advice: str


class TransactionForm(Form, frozen=True):
    """What this node knows of one transaction."""

    read_height: Height
    read_timestamp_ms: TimeMs
    """Block time at `read_height`. Past `valid_until_ms` it shows that an unknown transaction can
    never be executed."""
    status: TxStatus
    tx_hash: Hash | None
    sender: AccountId | None
    tx_id: Uuid | None
    valid_until_ms: TimeMs | None
    code: CodeName
    """`OK` while nothing is wrong; the receipt's code when final; why it was refused when
    rejected."""
    message: str
    height: Height | None
    """The block that executed it, when final."""
    receipt: ReceiptForm | None
    """Given exactly when final."""
    retry_after_ms: Count | None
    proof: ProofFile | None
    """With `?proof=1` and status final: what `atpar verify` checks offline."""


class BatchForm(Form, frozen=True):
    """The results of a batch, in the order of its envelopes."""

    read_height: Height
    results: tuple[TransactionForm, ...]


class FoundForm(Form, frozen=True):
    """Transactions that name a payment reference, oldest first."""

    read_height: Height
    transactions: tuple[TransactionForm, ...]


class SimulationForm(Form, frozen=True):
    """What an envelope would do now."""

    read_height: Height
    read_timestamp_ms: TimeMs
    admitted: bool
    """Whether it would enter a block at all."""
    code: CodeName
    iso_reason: str | None
    failed_op: Count | None
    message: str
    """The rule that decides, with both values where it refuses admission."""
    meaning: str
    advice: str
    tx_hash: Hash | None
    sender: AccountId | None
    tx_id: Uuid | None


# ---- accounts


class BalanceForm(Form, frozen=True):
    """One asset on one account."""

    asset: AssetCode
    posted: Amount
    held: Amount
    frozen: Amount
    available: Amount
    """posted - held - frozen, at least zero; whole-account freezes may block even that."""
    blocked: tuple[Direction, ...]
    """What whole-account freezes of this asset block now."""


class FreezeForm(Form, frozen=True):
    """One freeze order in force."""

    freeze: Hash
    account: AccountId
    asset: AssetCode | None
    """Null: all assets."""
    direction: Direction
    amount: Amount | None
    """Null: everything in that direction."""
    by: AccountId
    order_hash: Hash
    review_at_ms: TimeMs
    placed_at_ms: TimeMs


class OneFreezeForm(Form, frozen=True):
    """One freeze order, with where it was read."""

    read_height: Height
    read_timestamp_ms: TimeMs
    freeze: FreezeForm


class HoldForm(Form, frozen=True):
    """Money reserved for a creditor."""

    hold: Hash
    kind: str
    status: str
    asset: AssetCode
    debtor: AccountId
    creditor: AccountId
    amount: Amount
    """The original amount."""
    open: Amount
    """What is still reserved."""
    captured: Amount
    released: Amount
    burned: Amount
    assigned: Amount
    placed_at_ms: TimeMs
    payment: PaymentTerms | None
    """What a payment hold is for and how it can be captured; null for a redemption."""


class OneHoldForm(Form, frozen=True):
    """One hold, with where it was read."""

    read_height: Height
    read_timestamp_ms: TimeMs
    hold: HoldForm


class HoldsForm(Form, frozen=True):
    """A page of open holds."""

    read_height: Height
    read_timestamp_ms: TimeMs
    holds: tuple[HoldForm, ...]
    next: str | None


class ControlForm(Form, frozen=True):
    """What one setter states about an account: KYC tier and limit."""

    asset: AssetCode
    setter: str
    """participant, issuer or regulator."""
    tier: Count | None
    tier_expires_at_ms: TimeMs | None
    limit: Limit | None


class AccountForm(Form, frozen=True):
    """An account with its balances."""

    read_height: Height
    read_timestamp_ms: TimeMs
    account: AccountId
    participant: ParticipantCode
    status: str
    policy: Policy
    reference_required: bool
    recovery: PendingPolicy | None
    """A policy that takes over at its time unless the current one cancels it."""
    controls: tuple[ControlForm, ...]
    blocked: tuple[Direction, ...]
    """What freezes over all assets block now."""
    balances: tuple[BalanceForm, ...]
    freezes: tuple[FreezeForm, ...]
    holds: tuple[HoldForm, ...]
    """Open holds on this account, oldest first."""
    holds_left_out: bool
    """Whether there are more open holds than listed."""
    proof: ProofFile | None
    """With `?proof=1`: the balances at `read_height`, as `atpar verify` checks them offline."""


class AccountRow(Form, frozen=True):
    """An account in a listing."""

    account: AccountId
    status: str
    reference_required: bool


class AccountsForm(Form, frozen=True):
    """Accounts of one participant, by name."""

    read_height: Height
    accounts: tuple[AccountRow, ...]
    next: str | None
    """Cursor of the next page; null on the last."""


class EntryForm(Form, frozen=True):
    """One line of a statement."""

    cursor: str
    asset: AssetCode
    amount: Amount
    """Negative for a debit."""
    posted: Amount
    """Posted balance after it."""
    kind: str
    counterparty: str | None
    reference: Reference
    uetr: Uuid | None
    tx_hash: Hash
    height: Height
    index: Count
    op: Count
    timestamp_ms: TimeMs


class EntriesForm(Form, frozen=True):
    """Statement lines in the order they were booked."""

    read_height: Height
    account: AccountId
    entries: tuple[EntryForm, ...]
    next: str | None
    """Cursor of the next page. Null when there are no more lines now; later lines come after the
    last line's own cursor."""


class ParticipantForm(Form, frozen=True):
    """A licensed institution."""

    read_height: Height
    participant: ParticipantCode
    lei: Lei
    bic: Bic
    jurisdiction: Jurisdiction
    roles: tuple[Role, ...]
    status: ParticipantStatus
    travel_key: PublicKey | None
    is_validator: bool


class ParticipantsForm(Form, frozen=True):
    """All participants, by code."""

    read_height: Height
    participants: tuple[ParticipantForm, ...]


# ---- assets


class ReserveForm(Form, frozen=True):
    """The last attestation and what follows from it."""

    sequence: Count
    as_of_ms: TimeMs
    attested: Amount
    backing: Amount
    """What the reserve gate counts with: attested, corrected for payouts and burns since."""
    paid_not_burned: tuple[Hash, ...]
    report_hash: Hash
    audited_sequence: Count
    audited_as_of_ms: TimeMs
    is_stale: bool
    """Attestation older than `attestation_max_age_ms` at the block time read."""
    is_audit_stale: bool


class QuotaForm(Form, frozen=True):
    """What one minter may mint."""

    minter: AccountId
    capacity: Amount
    refill_per_day: Amount
    level: Amount
    """Available at the block time read."""


class AssetForm(Form, frozen=True):
    """An asset: supply against reserve."""

    read_height: Height
    read_timestamp_ms: TimeMs
    asset: AssetCode
    issuer: ParticipantCode
    currency: Currency
    scale: Count
    terms: AssetTerms
    paused: tuple[str, ...]
    supply: Amount
    """In circulation: minted - burned."""
    minted: Amount
    burned: Amount
    reserve: ReserveForm | None
    """Null before the first attestation."""
    coverage_bps: Count | None
    """backing / supply in basis points, rounded down; null at zero supply."""
    is_underbacked: bool
    """Backing is below what the supply with its over-collateralisation needs: no mints."""
    quotas: tuple[QuotaForm, ...]
    open_redemptions: Count
    """Pending ones whose clock runs, counted to a thousand."""
    open_redemptions_amount: Amount
    oldest_due_ms: TimeMs | None
    is_overdue: bool
    """A redemption is past its due time: no mints."""
    proof: ProofFile | None
    """With `?proof=1`: the solvency proof at `read_height`, which `atpar verify` checks offline."""


class AssetsForm(Form, frozen=True):
    """All assets, by code."""

    read_height: Height
    assets: tuple[AssetForm, ...]


class RedemptionForm(Form, frozen=True):
    """One redemption."""

    redemption: Hash
    asset: AssetCode
    holder: AccountId
    amount: Amount
    status: str
    """pending, burned or returned."""
    is_overdue: bool
    is_blocked: bool
    due_ms: TimeMs
    placed_at_ms: TimeMs
    payout_hash: Hash
    payout_ref: Uuid | None
    paid_at_ms: TimeMs | None
    burned_at_ms: TimeMs | None
    is_listed_as_paid: bool
    """The custodian's last attestation lists it as paid and not yet burned."""


class RedemptionsForm(Form, frozen=True):
    """A page of redemptions."""

    read_height: Height
    read_timestamp_ms: TimeMs
    redemptions: tuple[RedemptionForm, ...]
    next: str | None
    """Cursor of the next page, which may be there although this page is short."""


class OneRedemptionForm(Form, frozen=True):
    """One redemption, with where it was read."""

    read_height: Height
    read_timestamp_ms: TimeMs
    redemption: RedemptionForm


# ---- governance


class PrincipalForm(Form, frozen=True):
    """An account that has to agree to a proposal, and how far it is."""

    account: AccountId
    is_met: bool
    """Whether the approvals so far satisfy its policy."""


class ProposalForm(Form, frozen=True):
    """A bundle that waits for those who must agree."""

    proposal: Hash
    sender: AccountId
    ops: tuple[BundledOperation, ...]
    bundle_hash: Hash
    """What an approval names: that it is about these operations."""
    placed_at_ms: TimeMs
    expires_at_ms: TimeMs
    makers: tuple[PublicKey, ...]
    verdicts: tuple[Verdict, ...]
    principals: tuple[PrincipalForm, ...]
    """Under the policies in force at the height read."""


class OneProposalForm(Form, frozen=True):
    """One open proposal, with where it was read."""

    read_height: Height
    read_timestamp_ms: TimeMs
    proposal: ProposalForm


class ProposalsForm(Form, frozen=True):
    """A page of open proposals."""

    read_height: Height
    read_timestamp_ms: TimeMs
    proposals: tuple[ProposalForm, ...]
    next: str | None


class PendingParamForm(Form, frozen=True):
    """A parameter that changes at a height."""

    name: str
    value: Count
    height: Height


class ParamsForm(Form, frozen=True):
    """The chain's parameters in force, and those to come."""

    read_height: Height
    params: Params
    pending: tuple[PendingParamForm, ...]


# ---- the chain


class BlockTransactionForm(Form, frozen=True):
    """One transaction of a block. Left out where the caller may not see it: all but the hash."""

    index: Count
    tx_hash: Hash
    sender: AccountId | None
    tx_id: Uuid | None
    code: CodeName | None
    failed_op: Count | None
    ops: tuple[Operation, ...] | None
    envelope: str | None
    """The exact envelope, in base64."""


class CertificateForm(Form, frozen=True):
    """What makes a block final."""

    finalization: Finalization
    signers: tuple[ParticipantCode, ...]
    headers: tuple[Header, ...]
    """From the block that the finalization names down to this one."""


class BlockForm(Form, frozen=True):
    """A final block."""

    read_height: Height
    height: Height
    digest: Hash
    header: Header
    certificate: CertificateForm | None
    """Null for the genesis block."""
    transactions: tuple[BlockTransactionForm, ...]
    """One page of them, by index."""
    next: Count | None
    """Index at which the next page starts."""
    receipts: bytes | None
    """With `?receipts=1`: all receipts in order, the bytes of a MessagePack array of them. Each
    entry is a leaf of the header's `receipt_root`."""


class ValidatorForm(Form, frozen=True):
    """One member of the voting set, as this node sees it."""

    index: Count
    participant: ParticipantCode
    vote_key: PublicKey
    is_self: bool
    is_connected: bool
    last_vote_view: Count | None
    last_vote_ms: TimeMs | None
    missed_votes: Count


class ValidatorsForm(Form, frozen=True):
    """The voting set."""

    read_height: Height
    epoch: Count
    quorum: Count
    validators: tuple[ValidatorForm, ...]
    members: tuple[Validator, ...]
    """As registered in the state at `read_height`; their administrators' keys are governance."""
    next_members: tuple[Validator, ...] | None
    """The set of the next epoch, where `set_validators` has fixed another."""
    proof: ProofFile | None
    """With `?proof=1`: the set in force, with its members' certificates and addresses; a new node
    finds its peers by it (`atpar node init --validators`)."""


class EvidenceRecordForm(Form, frozen=True):
    """That evidence of this kind, against this validator in this view, stands on the ledger."""

    id: Hash
    """Of the recorded piece: the same, or one with other blocks."""
    by: AccountId
    height: Height
    recorded_at_ms: TimeMs


class EvidenceItem(Form, frozen=True):
    """Two signed messages of one validator that no honest one both sends."""

    id: Hash
    kind: str
    participant: ParticipantCode
    epoch: Count
    view: Count
    place: str
    """`participant/epoch/view/kind`: where the ledger has one record at most."""
    recorded: EvidenceRecordForm | None


class EvidenceListForm(Form, frozen=True):
    """What this node has found against validators, by participant, epoch and view."""

    read_height: Height
    evidence: tuple[EvidenceItem, ...]


class RecordedEvidenceForm(Form, frozen=True):
    """A page of what stands on the ledger against validators, by participant, epoch and view."""

    read_height: Height
    evidence: tuple[EvidenceItem, ...]
    next: str | None
    """Cursor for `after`; null on the last page."""


class EvidenceForm(Form, frozen=True):
    """One piece of evidence with its file."""

    read_height: Height
    item: EvidenceItem
    document: EvidenceFile
    """What `atpar verify` checks offline."""
    proof: ProofFile | None
    """With `?proof=1`: the record on the ledger at `read_height`, or that there is none."""


class PeerForm(Form, frozen=True):
    """One registered peer of the validator network."""

    participant: ParticipantCode
    address: str
    state: PeerState
    since_ms: TimeMs | None
    queued_bytes: Count
    dropped_messages: Count


class PeersForm(Form, frozen=True):
    """All registered peers."""

    peers: tuple[PeerForm, ...]


class StatusForm(Form, frozen=True):
    """A node about itself."""

    chain_id: Hash
    chain_name: str
    participant: ParticipantCode | None
    is_validator: bool
    state: NodeState
    detail: str
    read_height: Height
    """The last final block on this node's disk."""
    target_height: Height
    """The highest final block heard of."""
    digest: Hash
    state_root: Hash
    timestamp_ms: TimeMs
    epoch: Count
    view: Count
    validators: Count
    quorum: Count
    connected_validators: Count
    mempool_transactions: Count
    mempool_bytes: Count
    alarms: tuple[str, ...]
    started_at_ms: TimeMs
    version: str


class HealthForm(Form, frozen=True):
    """Whether the node lives, or serves."""

    status: str
    """`live`; or the node's state."""
    detail: str
    read_height: Height
    target_height: Height


def get_code_name(code: int) -> str:
    """Return the name of a ledger code; a number that this version does not know as `CODE_n`."""
    try:
        return Code(code).name
    except ValueError:
        return f"CODE_{code}"


def describe_code(code: int) -> Meaning:
    """Return what a ledger code says to a person; also for a number of a later version."""
    try:
        return MEANINGS[Code(code)]
    except (KeyError, ValueError):
        return Meaning("", f"code {code} of another version", "Ask the node's operator.")
