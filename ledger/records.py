"""What the state holds: one Struct per kind of record, and the table of sections they live in.

Section ids are part of every hash and of every disk: never reuse one. A section is *proven* when
its own tree goes into the state root; the balances have one tree per asset instead; the rest are
indexes that anyone can rebuild from proven records (`rebuilt from` in the table).

Composite keys join names with `|`, which no name contains, and end in fixed-width parts.
"""

from enum import IntFlag, StrEnum
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from atpar.ledger.blocks import ValidatorKey, ValidatorSetId
from atpar.ledger.codec import Codec, Wire
from atpar.ledger.evidence import (
    ConflictingFinalize,
    ConflictingNotarize,
    Evidence,
    NullifyFinalize,
    get_number,
    get_place,
)
from atpar.ledger.limits import HOUR_MS, MAX_VALIDATORS
from atpar.ledger.operations import (
    AssetTerms,
    BundledOperation,
    Condition,
    Decision,
    Limit,
    Policy,
)
from atpar.ledger.state import Section
from atpar.ledger.types import (
    ZERO_HASH,
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

# ---- participants, keys, accounts


class Participant(Wire, frozen=True):
    """A licensed institution."""

    lei: Lei
    bic: Bic
    jurisdiction: Jurisdiction
    roles: tuple[Role, ...]
    status: ParticipantStatus
    travel_key: PublicKey | None


class KeyOwner(Wire, frozen=True):
    """To whom a public key belongs, for ever."""

    participant: ParticipantCode


class AccountStatus(StrEnum):
    """Where an account is in its life. Closing refuses credits; closed has nothing left."""

    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Blocked(IntFlag):
    """Which movements whole-account freezes block right now, as bits in a record."""

    DEBIT = 1
    CREDIT = 2


class PendingPolicy(Wire, frozen=True):
    """A recovery that takes effect unless the current policy cancels it."""

    policy: Policy
    effective_at_ms: TimeMs


class Account(Wire, frozen=True):
    """A principal, which may hold balances."""

    policy: Policy
    reference_required: bool
    status: AccountStatus
    blocked: Count
    """`Blocked` bits of the freezes that cover all assets."""
    pending: PendingPolicy | None


# ---- assets and their supply


class Pause(IntFlag):
    """Which operations of an asset are paused, as bits in a record."""

    MINT = 1
    TRANSFER = 2
    HOLD = 4
    CAPTURE = 8


class Asset(Wire, frozen=True):
    """One currency of one issuer, backed by one segregated reserve."""

    issuer: ParticipantCode
    currency: Currency
    scale: Count
    terms: AssetTerms
    paused: Count
    """`Pause` bits."""
    limits: Count
    """Number of limits that `set_controls` keeps for it."""


class Supply(Wire, frozen=True):
    """What was ever minted and burned; the difference is in circulation."""

    minted: Amount
    burned: Amount


class Reserve(Wire, frozen=True):
    """The custodian's last attestation and what followed from it."""

    sequence: Count
    as_of_ms: TimeMs
    attested: Amount
    """What the custodian stated, in minor units."""
    backing: Amount
    """R of the reserve gate: attested, plus listed redemptions still pending, less redemptions
    burned after `as_of_ms` that are not listed. Kept exact at each burn, release, attestation."""
    paid_not_burned: tuple[Hash, ...]
    report_hash: Hash
    audited_sequence: Count
    """The highest sequence the auditor countersigned, 0 for none."""
    audited_as_of_ms: TimeMs
    """`as_of_ms` of that sequence."""


NO_SUPPLY: Final = Supply(0, 0)
NO_RESERVE: Final = Reserve(0, 0, 0, 0, (), ZERO_HASH, 0, 0)


class Attestation(Wire, frozen=True):
    """One sequence as the custodian stated it, kept until the auditor went past it."""

    values_hash: Hash


class Quota(Wire, frozen=True):
    """How much one minter may mint: a bucket that refills exactly."""

    capacity: Amount
    refill_per_day: Amount
    units: Amount
    """Minor units available at `updated_ms`."""
    remainder: Count
    """Fraction of a unit on top, in 1 / 86,400,000."""
    updated_ms: TimeMs


class UsedReference(Wire, frozen=True):
    """Marks a funding or payout reference as used, by what."""

    height: Height
    amount: Amount


# ---- balances, holds, freezes


class Balance(Wire, frozen=True):
    """What one account holds of one asset; absent when everything is zero."""

    posted: Amount
    held: Amount
    """Sum of its open holds."""
    frozen: Amount
    """Sum of the amounts that freeze orders block."""
    blocked: Count
    """`Blocked` bits of the whole-account freezes of this asset."""
    holds: Count
    """Number of its open payment holds."""
    redemptions: Count
    """Number of its pending redemptions."""

    @property
    def available(self) -> int:
        """What can move now, whole-account freezes aside."""
        return max(0, self.posted - self.held - self.frozen)


NO_BALANCE: Final = Balance(0, 0, 0, 0, 0, 0)


class HoldKind(StrEnum):
    """What a hold serves; decides how it can end."""

    PAYMENT = "payment"
    REDEMPTION = "redemption"


class HoldStatus(StrEnum):
    """Where a hold is in its life; every state but PENDING is an end."""

    PENDING = "pending"
    ENDED = "ended"
    """A payment hold with nothing left to capture."""
    BURNED = "burned"
    RETURNED = "returned"


class RedemptionTerms(Wire, frozen=True):
    """What a redemption carries on top of a hold."""

    payout_hash: Hash
    due_ms: TimeMs
    """Last millisecond in time. Moves on by the time spent blocked."""
    blocked_since_ms: TimeMs | None
    """Set while a freeze stops the clock."""
    payout_ref: Uuid | None
    paid_at_ms: TimeMs | None
    burned_at_ms: TimeMs | None
    reversed: Amount
    """Sum of the mints that reversed this burn."""


class PaymentTerms(Wire, frozen=True):
    """What a payment hold carries on top of a hold."""

    uetr: Uuid
    purpose: Reference
    reference: Reference
    condition: Condition
    expires_at_ms: TimeMs
    """Last instant of a capture, before the extension that spans since `clock_from_ms` give."""
    clock_from_ms: TimeMs
    assignable: bool


class Hold(Wire, frozen=True):
    """Money reserved on the debtor's account for a creditor."""

    kind: HoldKind
    status: HoldStatus
    asset: AssetCode
    debtor: AccountId
    creditor: AccountId
    """For a redemption the treasury at the time of `redeem`."""
    amount: Amount
    """The original amount."""
    captured: Amount
    released: Amount
    burned: Amount
    assigned: Amount
    """What went over to holds of their own."""
    placed_at_ms: TimeMs
    position: Count
    """Order among the holds placed at the same time: transaction index * 1000 + op index."""
    payment: PaymentTerms | None
    redemption: RedemptionTerms | None

    @property
    def open(self) -> int:
        """What is still reserved, in minor units."""
        return self.amount - self.captured - self.released - self.burned - self.assigned


class FreezeOrder(Wire, frozen=True):
    """One order that blocks an account or an amount on it, until it is lifted."""

    account: AccountId
    asset: AssetCode | None
    direction: Direction
    amount: Amount | None
    by: AccountId
    order_hash: Hash
    review_at_ms: TimeMs
    placed_at_ms: TimeMs


class Span(Wire, frozen=True):
    """A time in which a pause or a freeze stood; it extends the holds it touches."""

    end_ms: TimeMs | None
    """Null while it stands."""


class Setter(StrEnum):
    """Who may state controls for a target; each one's statement is kept by itself."""

    ISSUER = "issuer"
    PARTICIPANT = "participant"
    REGULATOR = "regulator"


class Control(Wire, frozen=True):
    """What one setter states for one target."""

    tier: Count | None
    tier_expires_at_ms: TimeMs | None
    limit: Limit | None


class Usage(Wire, frozen=True):
    """What one account used of one limit in one period."""

    period_ms: TimeMs
    window: int
    used: Amount


class Verdict(Wire, frozen=True):
    """What one key said to a proposal."""

    key: PublicKey
    decision: Decision


class Proposal(Wire, frozen=True):
    """A bundle that waits for those who must agree."""

    sender: AccountId
    makers: tuple[PublicKey, ...]
    """The keys that signed the proposal itself."""
    ops: tuple[BundledOperation, ...]
    bundle_hash: Hash
    expires_at_ms: TimeMs
    placed_at_ms: TimeMs
    verdicts: tuple[Verdict, ...]
    """In order of arrival, the maker's own approvals first; one for each key."""


# ---- the chain itself


class Validator(Wire, frozen=True):
    """One member of the validator set."""

    participant: ParticipantCode
    vote_key: PublicKey
    admin_key: PublicKey
    root_certificate: Annotated[str, Meta(max_length=8_192)]
    address: Annotated[str, Meta(max_length=270)]


class ValidatorSet(Wire, frozen=True):
    """The ordered members of one epoch. Governance is derived from their administrators' keys."""

    epoch: Count
    members: Annotated[tuple[Validator, ...], Meta(max_length=MAX_VALIDATORS)]


class RecordedEvidence(Wire, frozen=True):
    """That a validator signed two messages that exclude each other, for governance to act on."""

    evidence: ConflictingNotarize | ConflictingFinalize | NullifyFinalize
    """Both messages with their signatures: whoever reads it checks it again."""
    by: AccountId
    """Who put it on the ledger."""
    height: Height
    recorded_at_ms: TimeMs


class Params(Wire, frozen=True):
    """Chain-wide parameters in force; the fields are those of the genesis document."""

    max_window_ms: TimeMs
    tx_id_retention_ms: TimeMs
    max_block_bytes: Count
    max_block_transactions: Count
    epoch_blocks: Count
    block_interval_ms: TimeMs
    heartbeat_ms: TimeMs
    delta_ms: TimeMs


class PendingParam(Wire, frozen=True):
    """The value that a parameter takes at a height."""

    value: Count


class IdBucket(Wire, frozen=True):
    """The transaction ids whose window ends in one hour: how many, and their running hash."""

    count: Count
    running_hash: Hash


class TxRecord(Wire, frozen=True):
    """That a transaction id was used: by which body, and where."""

    body_hash: Hash
    tx_hash: Hash
    height: Height
    index: Count
    valid_until_ms: TimeMs


class TxListEntry(Wire, frozen=True):
    """One entry of an id bucket, as the running hash covers it."""

    sender: AccountId
    tx_id: Uuid
    body_hash: Hash
    height: Height
    index: Count


class IndexMark(Wire, frozen=True):
    """The value of an index entry whose key says everything."""


MARK: Final = IndexMark()


class IndexAmount(Wire, frozen=True):
    """The value of an index entry that carries an amount."""

    amount: Amount


# ---- the table


def _section(
    number: int, name: str, kind: Any, *, proven: bool, cached: bool = True
) -> Section[Any]:
    codec: Codec[Any] = Codec(kind, name=name, max_bytes=4 * 1024 * 1024)
    return Section(number, name, codec, proven, cached)


PARTICIPANTS: Final[Section[Participant]] = _section(1, "participants", Participant, proven=True)
"""code"""
KEYS: Final[Section[KeyOwner]] = _section(2, "keys", KeyOwner, proven=True)
"""public key"""
ACCOUNTS: Final[Section[Account]] = _section(3, "accounts", Account, proven=True)
"""account id"""
ASSETS: Final[Section[Asset]] = _section(4, "assets", Asset, proven=True)
"""asset code"""
SUPPLIES: Final[Section[Supply]] = _section(5, "supplies", Supply, proven=True)
"""asset code"""
RESERVES: Final[Section[Reserve]] = _section(6, "reserves", Reserve, proven=True)
"""asset code"""
ATTESTATIONS: Final[Section[Attestation]] = _section(7, "attestations", Attestation, proven=True)
"""asset | sequence u64"""
QUOTAS: Final[Section[Quota]] = _section(8, "quotas", Quota, proven=True)
"""asset | minter"""
HOLDS: Final[Section[Hold]] = _section(9, "holds", Hold, proven=True)
"""hold id"""
FREEZES: Final[Section[FreezeOrder]] = _section(10, "freezes", FreezeOrder, proven=True)
"""freeze id"""
FUNDING_REFS: Final[Section[UsedReference]] = _section(
    11, "funding_refs", UsedReference, proven=True
)
"""asset | reference"""
PAYOUT_REFS: Final[Section[UsedReference]] = _section(12, "payout_refs", UsedReference, proven=True)
"""asset | reference"""
CONTROLS: Final[Section[Control]] = _section(13, "controls", Control, proven=True)
"""asset | account id, or `#` and the tier class | setter"""
USAGES: Final[Section[Usage]] = _section(14, "usages", Usage, proven=True)
"""asset | account id | `a` or `c` | setter: limits of the account itself, or of its class"""
SPANS: Final[Section[Span]] = _section(15, "spans", Span, proven=True)
"""source | start u64, see `spans.py`"""
PROPOSALS: Final[Section[Proposal]] = _section(16, "proposals", Proposal, proven=True)
"""proposal id"""
VALIDATORS: Final[Section[ValidatorSet]] = _section(17, "validators", ValidatorSet, proven=True)
"""`current`, and `next` once it is set"""
PARAMS: Final[Section[Params]] = _section(18, "params", Params, proven=True)
"""`current`"""
ID_BUCKETS: Final[Section[IdBucket]] = _section(19, "id_buckets", IdBucket, proven=True)
"""hour u64"""

PENDING_PARAMS: Final[Section[PendingParam]] = _section(
    20, "pending_params", PendingParam, proven=True
)
"""activation height u64, name"""
EVIDENCE: Final[Section[RecordedEvidence]] = _section(21, "evidence", RecordedEvidence, proven=True)
"""participant | epoch u64, view u64, kind u8: see `evidence_key`"""
VOTERS: Final[Section[ValidatorSetId]] = _section(22, "voters", ValidatorSetId, proven=True)
"""epoch u64, of the present epoch and of those before it whose evidence can be recorded"""

BALANCES: Final[Section[Balance]] = _section(32, "balances", Balance, proven=False)
"""asset | account; proven by one Merkle-sum tree per asset, keyed by the account"""

TX_IDS: Final[Section[TxRecord]] = _section(40, "tx_ids", TxRecord, proven=False, cached=False)
"""sender | tx id; rebuilt from TX_LISTS"""
TX_LISTS: Final[Section[tuple[TxListEntry, ...]]] = _section(
    41, "tx_lists", tuple[TxListEntry, ...], proven=False, cached=False
)
"""hour u64, position u64 of the first in the hour: what one block added, or is left of it; covered
by the running hash of ID_BUCKETS"""
OPEN_HOLDS: Final[Section[IndexMark]] = _section(42, "open_holds", IndexMark, proven=False)
"""asset | debtor | kind | placed_at u64, position u64, hold id; rebuilt from HOLDS"""
DUE: Final[Section[IndexMark]] = _section(43, "due", IndexMark, proven=False)
"""asset | due u64, hold id of a pending redemption whose clock runs; rebuilt from HOLDS"""
RECENT_BURNS: Final[Section[IndexAmount]] = _section(44, "recent_burns", IndexAmount, proven=False)
"""asset | burn time u64, hold id, for burns after the current as_of; rebuilt from HOLDS"""
ACCOUNT_FREEZES: Final[Section[IndexMark]] = _section(
    45, "account_freezes", IndexMark, proven=False
)
"""account | asset or empty | freeze id; rebuilt from FREEZES"""
PURGES: Final[Section[IndexMark]] = _section(46, "purges", IndexMark, proven=False)
"""hour u64 of a dropped id bucket whose entries are still being removed"""
CLAIMS: Final[Section[IndexMark]] = _section(47, "claims", IndexMark, proven=False)
"""creditor | hold id of a pending payment hold; rebuilt from HOLDS"""
RECOVERIES: Final[Section[IndexMark]] = _section(48, "recoveries", IndexMark, proven=False)
"""effective time u64, account id of a scheduled policy; rebuilt from ACCOUNTS"""
OPEN_PROPOSALS: Final[Section[IndexMark]] = _section(49, "open_proposals", IndexMark, proven=False)
"""sender | proposal id; rebuilt from PROPOSALS"""

SECTIONS: Final[tuple[Section[Any], ...]] = (
    PARTICIPANTS,
    KEYS,
    ACCOUNTS,
    ASSETS,
    SUPPLIES,
    RESERVES,
    ATTESTATIONS,
    QUOTAS,
    HOLDS,
    FREEZES,
    FUNDING_REFS,
    PAYOUT_REFS,
    CONTROLS,
    USAGES,
    SPANS,
    PROPOSALS,
    VALIDATORS,
    PARAMS,
    ID_BUCKETS,
    PENDING_PARAMS,
    EVIDENCE,
    VOTERS,
    BALANCES,
    TX_IDS,
    TX_LISTS,
    OPEN_HOLDS,
    DUE,
    RECENT_BURNS,
    ACCOUNT_FREEZES,
    PURGES,
    CLAIMS,
    RECOVERIES,
    OPEN_PROPOSALS,
)
"""Every section, in table order (ascending id): the order of the section roots."""

PROVEN_SECTIONS: Final = tuple(section for section in SECTIONS if section.proven)

assert [s.id for s in SECTIONS] == sorted({s.id for s in SECTIONS})

CURRENT: Final = b"current"
NEXT: Final = b"next"


class Posting(Struct, frozen=True, gc=False):
    """One movement of posted money, for statements. Minting has no debtor, burning no creditor.

    Never encoded; a Struct because it is made for every payment, and a tuple with names takes four
    times as long to make.
    """

    tx_index: int
    op_index: int
    asset: str
    debtor: str | None
    creditor: str | None
    amount: int


def balance_key(asset: str, account: str) -> bytes:
    """Return the key of a balance; the part after `|` is its key in the asset's tree."""
    return f"{asset}|{account}".encode()


def pair_key(first: str, second: str) -> bytes:
    """Return the key made of two names."""
    return f"{first}|{second}".encode()


def reference_key(asset: str, reference: bytes) -> bytes:
    """Return the key of a funding or payout reference."""
    return asset.encode() + b"|" + reference


def number_key(number: int) -> bytes:
    """Return 8 big-endian bytes, so that keys sort by the number."""
    return number.to_bytes(8, "big")


def evidence_key(evidence: Evidence) -> bytes:
    """Return the key of a piece of evidence: one for each validator, epoch, view and kind."""
    epoch, view = get_place(evidence)
    return evidence_place_key(evidence.participant, epoch, view, type(evidence))


def evidence_place_key(participant: str, epoch: int, view: int, kind: type[Evidence]) -> bytes:
    """Return the key of evidence of a kind against a validator in a view."""
    number = get_number(kind).to_bytes(1, "big")
    return evidence_prefix(participant, epoch) + number_key(view) + number


def evidence_prefix(participant: str, epoch: int) -> bytes:
    """Return what the keys of the evidence against a validator in one epoch start with."""
    return f"{participant}|".encode() + number_key(epoch)


def new_account(policy: Policy, *, reference_required: bool = False) -> Account:
    """Return the record of an account that has just been opened."""
    return Account(policy, reference_required, AccountStatus.OPEN, 0, None)


def identify_validators(validators: ValidatorSet) -> ValidatorSetId:
    """Return what headers commit to of a validator set."""
    members = tuple(ValidatorKey(v.participant, v.vote_key) for v in validators.members)
    return ValidatorSetId(validators.epoch, members)


def open_hold_key(hold_id: bytes, hold: Hold) -> bytes:
    """Return the key of an open hold in OPEN_HOLDS: by account and kind, oldest first."""
    prefix = open_hold_prefix(hold.asset, hold.debtor, hold.kind)
    return prefix + number_key(hold.placed_at_ms) + number_key(hold.position) + hold_id


def open_hold_prefix(asset: str, debtor: str, kind: HoldKind) -> bytes:
    """Return what the keys of an account's open holds of one kind start with."""
    return f"{asset}|{debtor}|{kind.value}|".encode()


def time_key(asset: str, time_ms: int, hold_id: bytes) -> bytes:
    """Return the key of an entry of DUE or RECENT_BURNS."""
    return asset.encode() + b"|" + number_key(time_ms) + hold_id


def hour_key(valid_until_ms: int) -> bytes:
    """Return the key of the id bucket that a transaction's window ends in."""
    return number_key(valid_until_ms // HOUR_MS)


def claim_key(creditor: str, hold_id: bytes) -> bytes:
    """Return the key of a pending payment hold in CLAIMS."""
    return creditor.encode() + b"|" + hold_id
