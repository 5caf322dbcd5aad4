"""One frozen Struct per operation: what a signed transaction asks the ledger to do.

Tags are part of the signed bytes and are never reused. 3-8 governance and accounts, 10-19 supply,
20-29 payments and holds, 30-39 compliance, 40 void; the gaps belong to operations to come.
Who must sign each one is in `authority.py`; the effects are in the file of its family.
"""

from typing import Annotated

from msgspec import Meta

from atpar.ledger.codec import Wire
from atpar.ledger.limits import (
    MAX_BASIS_POINTS,
    MAX_HOLIDAYS,
    MAX_MINTERS_PER_ASSET,
    MAX_PAID_NOT_BURNED,
    MAX_POLICY_KEYS,
    MAX_SCALE,
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


class Release(Wire, frozen=True, tag=23):
    """Give held money back to its debtor. Principal: by `by`.

    For a redemption: the treasury, with the custodian if the attestation lists it as paid.
    """

    hold: Hash
    by: AccountId
    reason: Reason


# ---- compliance


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


class Void(Wire, frozen=True, tag=40):
    """Use up a transaction id, so that a lost envelope can never run. Principal: the sender."""


Operation = (
    SetParticipant
    | OpenAccount
    | SetAsset
    | AttestReserve
    | SetMintQuota
    | Mint
    | Redeem
    | Burn
    | Transfer
    | Release
    | Freeze
    | Unfreeze
    | Void
)
