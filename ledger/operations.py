"""One frozen Struct per operation: what a signed transaction asks the ledger to do.

Tags are part of the signed bytes and are never reused. 1-9 governance and accounts, 10-19 supply,
20-29 payments and holds, 30-39 compliance, 40 void; the gaps belong to operations to come.
Who must sign each one is in `authority.py`; the effects are in the file of its family.
"""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from atpar.ledger.codec import Wire
from atpar.ledger.evidence import ConflictingFinalize, ConflictingNotarize, NullifyFinalize
from atpar.ledger.limits import (
    MAX_ARBITERS,
    MAX_BASIS_POINTS,
    MAX_HOLIDAYS,
    MAX_MINTERS_PER_ASSET,
    MAX_PAID_NOT_BURNED,
    MAX_POLICY_KEYS,
    MAX_PREIMAGE_BYTES,
    MAX_SCALE,
    MAX_VALIDATORS,
)
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
    Reason,
    Reference,
    Role,
    SignatureBytes,
    TimeMs,
    Uuid,
    Weight,
)

# ---- values that several operations share


class WeightedKey(Wire, frozen=True):
    """One key of a policy and what its signature counts for."""

    key: PublicKey
    weight: Weight


class Policy(Wire, frozen=True):
    """m-of-n: signatures of keys whose weights reach the threshold."""

    keys: Annotated[tuple[WeightedKey, ...], Meta(max_length=MAX_POLICY_KEYS)]
    """Sorted by key, no duplicates."""
    threshold: Count


class Possession(Wire, frozen=True):
    """Proof that the owner of a key agreed to its registration.

    A signature of kind `possession` over [participant code, key].
    """

    key: PublicKey
    signature: SignatureBytes


Possessions = Annotated[tuple[Possession, ...], Meta(max_length=MAX_POLICY_KEYS)]
"""Sorted by key; one for each key that the chain sees for the first time."""


class AssetTerms(Wire, frozen=True):
    """What can change about an asset, by `set_asset`."""

    cap: Amount
    """Most minor units that may be in circulation."""
    overcollateral_bps: Annotated[int, Meta(ge=0, le=MAX_BASIS_POINTS)]
    attestation_max_age_ms: TimeMs
    audit_max_age_ms: TimeMs
    redemption_sla_days: Annotated[int, Meta(ge=0, le=30)]
    """Business days from `redeem` to the due time."""
    utc_offset_minutes: Annotated[int, Meta(ge=-720, le=840)]
    holidays: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=200_000)], ...], Meta(max_length=MAX_HOLIDAYS)
    ]
    """Days since 1970-01-01 in the asset's own calendar, sorted; weekends need no entry."""
    min_kyc_tier: Annotated[int, Meta(ge=0, le=9)]
    travel_rule_from: Amount | None
    """Least amount of a payment between two participants that needs travel-rule data; null: none
    does."""
    treasury: AccountId
    custodian: AccountId
    auditor: AccountId
    regulator: AccountId
    compliance: AccountId
    compliance_release: AccountId
    seizure: AccountId
    pauser: AccountId
    unpauser: AccountId
    minters: Annotated[tuple[AccountId, ...], Meta(max_length=MAX_MINTERS_PER_ASSET)]
    """Sorted, no duplicates."""


# ---- participants and accounts


class SetParticipant(Wire, frozen=True, tag=5):
    """Create, update or suspend a participant. Principal: governance."""

    participant: ParticipantCode
    lei: Lei
    bic: Bic
    jurisdiction: Jurisdiction
    roles: Annotated[tuple[Role, ...], Meta(max_length=5)]
    """Sorted, no duplicates."""
    status: ParticipantStatus
    travel_key: PublicKey | None
    """X25519 key that travel-rule messages to this participant are encrypted to."""
    admin_policy: Policy | None
    """Given at creation only; afterwards the admin account changes its own policy."""
    possessions: Possessions


class OpenAccount(Wire, frozen=True, tag=6):
    """Open an account. Principal: the participant's admin account."""

    account: AccountId
    policy: Policy
    reference_required: bool
    """Refuse incoming payments without a reference."""
    possessions: Possessions


class AccountChange(StrEnum):
    """What `update_account` does."""

    UPDATE = "update"
    """The current policy changes the account."""
    RECOVER = "recover"
    """The participant's admin (for the admin itself governance) and a regulator schedule a new
    policy."""
    CANCEL = "cancel"
    """The current policy cancels a scheduled recovery."""


class UpdateAccount(Wire, frozen=True, tag=7):
    """Rotate keys, change the receive policy, close, or recover an account.

    Principals: by `change`. Every key of the new policy that the current one does not name signs
    too, which proves possession.
    """

    account: AccountId
    change: AccountChange
    policy: Policy | None
    reference_required: bool | None
    close: bool
    """Refuse new credits from now on, and end when nothing is left."""
    regulator: AccountId | None
    """For a recovery: the regulator that agrees to it."""


class SetAsset(Wire, frozen=True, tag=8):
    """Create an asset or change its terms.

    Principals: issuer admin and regulator; at creation governance too; when custodian, auditor or
    regulator is replaced also the outgoing one, or governance.
    """

    asset: AssetCode
    issuer: ParticipantCode
    currency: Currency
    scale: Annotated[int, Meta(ge=0, le=MAX_SCALE)]
    terms: AssetTerms


# ---- supply


class AttestReserve(Wire, frozen=True, tag=10):
    """State what the segregated reserve holds. Principal: custodian, or auditor countersigning."""

    asset: AssetCode
    by: Role
    """`custodian` states a new sequence; `auditor` countersigns one with the same values."""
    sequence: Count
    as_of_ms: TimeMs
    amount: Amount
    paid_not_burned: Annotated[tuple[Hash, ...], Meta(max_length=MAX_PAID_NOT_BURNED)]
    """Redemptions already paid out of the reserve whose coins are not burned yet; sorted."""
    report_hash: Hash


class SetMintQuota(Wire, frozen=True, tag=11):
    """Set how much a minter may mint. Principal: the asset's treasury."""

    asset: AssetCode
    minter: AccountId
    capacity: Amount
    refill_per_day: Amount


class Mint(Wire, frozen=True, tag=12):
    """Issue coins against a deposit in the reserve. Principal: the minter.

    With `reversal_of` (a burned redemption whose fiat came back) the custodian signs too.
    """

    asset: AssetCode
    minter: AccountId
    creditor: AccountId
    amount: Amount
    funding_ref: Uuid
    """The UETR of the fiat payment into the reserve."""
    reversal_of: Hash | None


class Redeem(Wire, frozen=True, tag=13):
    """Ask for fiat at par: holds the coins until burned or released. Principal: the holder."""

    asset: AssetCode
    holder: AccountId
    amount: Amount
    payout_hash: Hash
    """SHA-256 of the payout instruction, which itself stays off the ledger."""


class Burn(Wire, frozen=True, tag=14):
    """Destroy redeemed coins after the payout. Principals: treasury and custodian."""

    redemption: Hash
    payout_ref: Uuid
    """The UETR of the fiat payout."""
    paid_at_ms: TimeMs


# ---- payments and holds


class Transfer(Wire, frozen=True, tag=20):
    """Pay. Principal: the debtor."""

    asset: AssetCode
    debtor: AccountId
    creditor: AccountId
    amount: Amount
    uetr: Uuid
    purpose: Reference
    """ISO 20022 purpose code or a short text."""
    reference: Reference
    return_of: Uuid | None
    """UETR of the payment that this one returns."""
    travel_rule_hash: Hash | None
    travel_rule_ack: bool


class Condition(Wire, frozen=True):
    """What must be brought to capture a hold; null and empty ask for nothing."""

    arbiters: Annotated[tuple[AccountId, ...], Meta(max_length=MAX_ARBITERS)]
    """Accounts that sign each capture beside the creditor; sorted, no duplicates."""
    hash_lock: Hash | None
    """SHA-256 of the preimage that the capture shows."""
    not_before_ms: TimeMs | None
    document_hash: Hash | None
    """Hash of the document that the capture names."""


class Hold(Wire, frozen=True, tag=21):
    """Reserve money for a creditor under a condition. Principal: the debtor."""

    asset: AssetCode
    debtor: AccountId
    creditor: AccountId
    amount: Amount
    uetr: Uuid
    purpose: Reference
    reference: Reference
    travel_rule_hash: Hash | None
    travel_rule_ack: bool
    expires_at_ms: TimeMs
    """Last instant of a capture; moves on by time under a capture pause or a freeze."""
    condition: Condition
    assignable: bool
    """Whether the creditor may sell the claim."""


class Capture(Wire, frozen=True, tag=22):
    """Take held money. Principals: the creditor and the arbiters that the condition names."""

    hold: Hash
    amount: Amount
    preimage: Annotated[bytes, Meta(max_length=MAX_PREIMAGE_BYTES)] | None
    document_hash: Hash | None
    final: bool
    """Return what is left to the debtor."""


class Release(Wire, frozen=True, tag=23):
    """Give held money back to its debtor. Principal: by `by`.

    For a redemption: the treasury, with the custodian if the attestation lists it as paid.
    """

    hold: Hash
    by: AccountId
    reason: Reason


class Assign(Wire, frozen=True, tag=24):
    """Sell a claim, or a part of it. Principals: the creditor and the new creditor."""

    hold: Hash
    creditor: AccountId
    """The new creditor."""
    amount: Amount
    """All that is open passes the hold on; less splits off a hold of its own."""
    travel_rule_hash: Hash | None
    travel_rule_ack: bool


# ---- compliance


class Limit(Wire, frozen=True):
    """How much may leave in each period."""

    amount: Amount
    period_ms: TimeMs


class SetControls(Wire, frozen=True, tag=30):
    """State what one setter knows and allows. Principal: `by`, the admin of the account's
    participant or of the issuer, or the asset's regulator.

    Replaces what the same setter stated before for the same target.
    """

    by: AccountId
    asset: AssetCode
    account: AccountId | None
    """The target; null: the class of all accounts of `tier_class`."""
    tier_class: Annotated[int, Meta(ge=0, le=9)] | None
    tier: Annotated[int, Meta(ge=0, le=9)] | None
    """KYC tier of the account; 0 revokes; null states nothing."""
    tier_expires_at_ms: TimeMs | None
    limit: Limit | None


class Freeze(Wire, frozen=True, tag=31):
    """Block an account, or an amount on it. Principal: `by`, the asset's compliance account;
    for all assets (`asset` null) a regulator's admin account.
    """

    account: AccountId
    asset: AssetCode | None
    direction: Direction
    amount: Amount | None
    """Minor units to block on the debit side; null blocks everything in `direction`."""
    by: AccountId
    order_hash: Hash
    review_at_ms: TimeMs


class Unfreeze(Wire, frozen=True, tag=32):
    """Lift one freeze order. Principal: compliance-release (for all assets: the regulator)."""

    freeze: Hash
    reason: Reason


class Seize(Wire, frozen=True, tag=33):
    """Take frozen money by order. Principals: the asset's seizure account and its regulator."""

    freeze: Hash
    asset: AssetCode
    amount: Amount
    destination: AccountId
    order_hash: Hash


class PauseChange(StrEnum):
    """Whether a pause is added or lifted."""

    PAUSE = "pause"
    RESUME = "resume"


class PauseScope(StrEnum):
    """What can be paused. Freezing, attesting, redeeming, burning and governing cannot."""

    CAPTURE = "capture"
    HOLD = "hold"
    MINT = "mint"
    TRANSFER = "transfer"


class SetPause(Wire, frozen=True, tag=34):
    """Pause or resume operations of an asset. Principal: its pauser, or its unpauser."""

    asset: AssetCode
    change: PauseChange
    scopes: Annotated[tuple[PauseScope, ...], Meta(min_length=1, max_length=4)]
    """Sorted, no duplicates."""


class Void(Wire, frozen=True, tag=40):
    """Use up a transaction id, so that a lost envelope can never run. Principal: the sender."""


# ---- governance and bundles


class SetParams(Wire, frozen=True, tag=3):
    """Change a chain parameter at a height. Principal: governance."""

    key: Annotated[str, Meta(pattern=r"\A[a-z_]{1,32}\Z")]
    value: Count
    activation_height: Height


class NewValidator(Wire, frozen=True):
    """One member of the next validator set."""

    participant: ParticipantCode
    vote_key: PublicKey
    admin_key: PublicKey
    root_certificate: Annotated[str, Meta(min_length=1, max_length=8_192)]
    """Self-signed X.509 root (PEM) that issues its TLS leaf certificates."""
    address: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9.:\[\]-]{1,255}:[0-9]{1,5}\Z")]


class SetValidators(Wire, frozen=True, tag=4):
    """Fix the validator set of the next epoch. Principal: governance."""

    members: Annotated[tuple[NewValidator, ...], Meta(max_length=MAX_VALIDATORS)]
    """In the order of their indexes."""
    possessions: Annotated[tuple[Possession, ...], Meta(max_length=2 * MAX_VALIDATORS)]
    """Sorted by key; one for each key that the chain sees for the first time."""


class RecordEvidence(Wire, frozen=True, tag=9):
    """Put on the ledger that a validator signed what excludes itself. Principal: `by`."""

    by: AccountId
    """The administrative account of any participant: a validator, an auditor, a regulator."""
    evidence: ConflictingNotarize | ConflictingFinalize | NullifyFinalize


BundledOperation = (
    SetParams
    | SetValidators
    | SetParticipant
    | OpenAccount
    | UpdateAccount
    | SetAsset
    | AttestReserve
    | SetMintQuota
    | Mint
    | Redeem
    | Burn
    | Transfer
    | Hold
    | Capture
    | Release
    | Assign
    | SetControls
    | Freeze
    | Unfreeze
    | Seize
    | SetPause
    | RecordEvidence
)
"""What a proposal may ask for."""


class Propose(Wire, frozen=True, tag=1):
    """Put a bundle to those who must agree. Principal: any one key of a target principal."""

    ops: tuple[BundledOperation, ...]
    expires_at_ms: TimeMs
    """Last instant of an approval."""


class Decision(StrEnum):
    """What `approve` says."""

    APPROVE = "approve"
    REJECT = "reject"
    WITHDRAW = "withdraw"
    """By the maker."""


class Approve(Wire, frozen=True, tag=2):
    """Decide on a proposal. Principal: any one key of a target principal, not the maker's."""

    proposal: Hash
    bundle_hash: Hash
    """Hash of the bundle that was reviewed."""
    decision: Decision


Operation = Propose | Approve | BundledOperation | Void
