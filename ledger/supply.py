"""Supply and reserve: attesting, minting against the reserve, redeeming at par, burning.

The reserve gate and the quota are exact: no division, no rounding, only block time. `Reserve.
backing` is R of the gate, kept up to date by every operation that changes it:

    R = attested + listed redemptions still pending - unlisted redemptions burned after as_of
"""

from itertools import takewhile

from msgspec.structs import replace

from atpar.ledger.codec import encode
from atpar.ledger.codes import Code
from atpar.ledger.context import (
    Context,
    check_new_entry,
    check_sum,
    get_balance,
    is_suspended,
    load_asset,
    load_creditor,
    load_party,
)
from atpar.ledger.errors import Refused
from atpar.ledger.hashing import HashTag, compute_hash
from atpar.ledger.holds import (
    end_redemption,
    is_burn_blocked,
    load_hold,
    open_redemption,
    release_payment_hold,
)
from atpar.ledger.limits import (
    DAY_MS,
    MAX_BASIS_POINTS,
    MAX_OPEN_REDEMPTIONS_PER_ACCOUNT,
    MAX_UNAUDITED_ATTESTATIONS,
)
from atpar.ledger.operations import AttestReserve, Burn, Mint, Redeem, Release, SetMintQuota
from atpar.ledger.payments import check_creditor, check_funds, check_unfrozen, post
from atpar.ledger.records import (
    ATTESTATIONS,
    DUE,
    FUNDING_REFS,
    HOLDS,
    NO_RESERVE,
    NO_SUPPLY,
    PAYOUT_REFS,
    QUOTAS,
    RECENT_BURNS,
    RESERVES,
    SUPPLIES,
    AccountStatus,
    Asset,
    Attestation,
    Hold,
    HoldKind,
    HoldStatus,
    IndexAmount,
    Pause,
    Quota,
    RedemptionTerms,
    Reserve,
    Supply,
    UsedReference,
    balance_key,
    number_key,
    pair_key,
    reference_key,
    time_key,
)
from atpar.ledger.terms import compute_due
from atpar.ledger.types import Role

# ---- attestation


def apply_attest_reserve(ctx: Context, op: AttestReserve) -> None:
    """State what the reserve holds, or countersign what was stated."""
    load_asset(ctx, op.asset)
    if op.by is Role.AUDITOR:
        _countersign(ctx, op)
    else:
        _attest(ctx, op)


def _attest(ctx: Context, op: AttestReserve) -> None:
    reserve = _load_reserve(ctx, op.asset)
    listed = [(redemption, load_hold(ctx, redemption)) for redemption in op.paid_not_burned]
    if not reserve.as_of_ms <= op.as_of_ms <= ctx.now_ms:
        raise Refused(
            Code.ATTESTATION_OLD,
            f"as of {op.as_of_ms}, must be within {reserve.as_of_ms} to {ctx.now_ms}",
        )
    if op.sequence != reserve.sequence + 1:
        raise Refused(
            Code.ATTESTATION_SEQUENCE, f"sequence {op.sequence}, expected {reserve.sequence + 1}"
        )
    for redemption, hold in listed:
        _check_listed(op, redemption, hold)
    pending = sum(hold.open for _, hold in listed)
    unlisted_burns = _settle_recent_burns(ctx, op)
    after = replace(
        reserve,
        sequence=op.sequence,
        as_of_ms=op.as_of_ms,
        attested=op.amount,
        backing=op.amount + pending - unlisted_burns,
        paid_not_burned=op.paid_not_burned,
        report_hash=op.report_hash,
    )
    ctx.overlay.put(RESERVES, op.asset.encode(), after)
    stated = Attestation(_hash_values(op))
    ctx.overlay.put(ATTESTATIONS, _attestation_key(op.asset, op.sequence), stated)
    dropped = op.sequence - MAX_UNAUDITED_ATTESTATIONS
    if dropped > reserve.audited_sequence:
        ctx.overlay.delete(ATTESTATIONS, _attestation_key(op.asset, dropped))


def _check_listed(op: AttestReserve, redemption: bytes, hold: Hold) -> None:
    """A listed redemption is of this asset, asked by as_of, and pending or burned after it."""
    terms = hold.redemption
    if (
        terms is None
        or hold.asset != op.asset
        or hold.placed_at_ms > op.as_of_ms
        or hold.status is HoldStatus.RETURNED
        or (terms.burned_at_ms is not None and terms.burned_at_ms <= op.as_of_ms)
    ):
        raise Refused(
            Code.REDEMPTION_LISTED,
            f"{redemption.hex()} is no redemption of {op.asset} that was asked by {op.as_of_ms} "
            "and is pending or was burned after it",
        )


def _settle_recent_burns(ctx: Context, op: AttestReserve) -> int:
    """Forget the burns that the new attestation covers; return the sum of the unlisted others."""
    listed = frozenset(op.paid_not_burned)
    prefix = op.asset.encode() + b"|"
    unlisted = 0
    for key, entry in list(ctx.overlay.scan(RECENT_BURNS, prefix)):
        burned_at_ms = int.from_bytes(key[len(prefix) : len(prefix) + 8], "big")
        if burned_at_ms <= op.as_of_ms:
            ctx.overlay.delete(RECENT_BURNS, key)
        elif key[len(prefix) + 8 :] not in listed:
            unlisted += entry.amount
    return unlisted


def _countersign(ctx: Context, op: AttestReserve) -> None:
    reserve = _load_reserve(ctx, op.asset)
    stated = ctx.overlay.get(ATTESTATIONS, _attestation_key(op.asset, op.sequence))
    if stated is None or op.sequence <= reserve.audited_sequence:
        raise Refused(
            Code.ATTESTATION_SEQUENCE,
            f"sequence {op.sequence} is not one that waits for the auditor: "
            f"audited {reserve.audited_sequence}, attested {reserve.sequence}",
        )
    if stated.values_hash != _hash_values(op):
        raise Refused(
            Code.ATTESTATION_MISMATCH, f"the custodian stated other values in {op.sequence}"
        )
    after = replace(reserve, audited_sequence=op.sequence, audited_as_of_ms=op.as_of_ms)
    ctx.overlay.put(RESERVES, op.asset.encode(), after)
    last = _attestation_key(op.asset, op.sequence)
    passed = ctx.overlay.scan(ATTESTATIONS, op.asset.encode() + b"|")
    for key in [key for key, _ in takewhile(lambda entry: entry[0] <= last, passed)]:
        ctx.overlay.delete(ATTESTATIONS, key)


def _hash_values(op: AttestReserve) -> bytes:
    """Return the hash of what an attestation states, whoever signs it."""
    values = (op.asset, op.sequence, op.as_of_ms, op.amount, op.paid_not_burned, op.report_hash)
    return compute_hash(HashTag.ATTESTATION, encode(values))


def _attestation_key(asset: str, sequence: int) -> bytes:
    return asset.encode() + b"|" + number_key(max(0, sequence))


def _load_reserve(ctx: Context, asset: str) -> Reserve:
    return ctx.overlay.get(RESERVES, asset.encode()) or NO_RESERVE


# ---- quotas


def apply_set_mint_quota(ctx: Context, op: SetMintQuota) -> None:
    """Set how much a minter may mint; never raises what it may mint right now."""
    asset = load_asset(ctx, op.asset)
    _check_issuer_active(ctx, asset)
    if op.minter not in asset.terms.minters:
        raise Refused(Code.ROLE_MISSING, f"{op.minter} is no minter of {op.asset}")
    key = pair_key(op.asset, op.minter)
    before = ctx.overlay.get(QUOTAS, key)
    units, remainder = (0, 0) if before is None else compute_level(before, ctx.now_ms)
    if units >= op.capacity:
        units, remainder = op.capacity, 0
    ctx.overlay.put(
        QUOTAS, key, Quota(op.capacity, op.refill_per_day, units, remainder, ctx.now_ms)
    )


def compute_level(quota: Quota, now_ms: int) -> tuple[int, int]:
    """Return (units, remainder) that a quota has at a time, refilled without rounding.

    Source: ledger.md, "Arithmetic that must be exact".
    """
    elapsed_ms = max(0, now_ms - quota.updated_ms)
    gained, remainder = divmod(quota.remainder + quota.refill_per_day * elapsed_ms, DAY_MS)
    units = quota.units + gained
    return (quota.capacity, 0) if units >= quota.capacity else (units, remainder)


# ---- mint


def apply_mint(ctx: Context, op: Mint) -> None:
    """Issue coins against a deposit in the reserve."""
    asset = load_asset(ctx, op.asset)
    creditor = load_creditor(ctx, op.creditor)
    burned = None if op.reversal_of is None else load_hold(ctx, op.reversal_of)
    _check_issuer_active(ctx, asset)
    if op.minter not in asset.terms.minters:
        raise Refused(Code.ROLE_MISSING, f"{op.minter} is no minter of {op.asset}")
    if asset.paused & Pause.MINT:
        raise Refused(Code.PAUSED, f"minting {op.asset} is paused")
    check_creditor(ctx, op.asset, asset, op.creditor, creditor)
    key = op.asset.encode()
    reference = reference_key(op.asset, op.funding_ref)
    if ctx.overlay.get(FUNDING_REFS, reference) is not None:
        raise Refused(Code.FUNDING_REUSED, f"{op.funding_ref.hex()} was minted against before")
    reserve = _load_reserve(ctx, op.asset)
    _check_fresh(ctx, op.asset, asset, reserve)
    quota = None if burned is not None else _take_quota(ctx, op)
    supply = ctx.overlay.get(SUPPLIES, key) or NO_SUPPLY
    _check_backed(op, asset, reserve, supply)
    if burned is not None:
        _reverse_burn(ctx, op, burned)
    if quota is not None:
        ctx.overlay.put(QUOTAS, pair_key(op.asset, op.minter), quota)
    minted = check_sum(supply.minted + op.amount, "all that was ever minted")
    ctx.overlay.put(SUPPLIES, key, Supply(minted, supply.burned))
    ctx.overlay.put(FUNDING_REFS, reference, UsedReference(ctx.height, op.amount))
    post(ctx, op.asset, debtor=None, creditor=op.creditor, amount=op.amount)


def _check_issuer_active(ctx: Context, asset: Asset) -> None:
    if is_suspended(ctx, asset.issuer):
        raise Refused(Code.PARTICIPANT_SUSPENDED, f"the issuer {asset.issuer} is suspended")


def _check_fresh(ctx: Context, code: str, asset: Asset, reserve: Reserve) -> None:
    terms = asset.terms
    age_ms = ctx.now_ms - reserve.as_of_ms
    if reserve.sequence == 0 or age_ms > terms.attestation_max_age_ms:
        raise Refused(
            Code.RESERVE_STALE,
            f"the attestation is {age_ms} ms old, at most {terms.attestation_max_age_ms}",
        )
    audit_age_ms = ctx.now_ms - reserve.audited_as_of_ms
    if reserve.audited_sequence == 0 or audit_age_ms > terms.audit_max_age_ms:
        raise Refused(
            Code.RESERVE_STALE,
            f"the audit is {audit_age_ms} ms old, at most {terms.audit_max_age_ms}",
        )
    first = next(ctx.overlay.scan(DUE, code.encode() + b"|"), None)
    if first is not None:
        due_ms = int.from_bytes(first[0][len(code) + 1 : len(code) + 9], "big")
        if due_ms < ctx.now_ms:
            raise Refused(
                Code.REDEMPTION_OVERDUE,
                f"redemption {first[0][len(code) + 9 :].hex()} was due at {due_ms}",
            )


def _take_quota(ctx: Context, op: Mint) -> Quota:
    quota = ctx.overlay.get(QUOTAS, pair_key(op.asset, op.minter))
    units, remainder = (0, 0) if quota is None else compute_level(quota, ctx.now_ms)
    if quota is None or units < op.amount:
        raise Refused(Code.QUOTA_EXCEEDED, f"{op.amount}, the quota has {units} left")
    return replace(quota, units=units - op.amount, remainder=remainder, updated_ms=ctx.now_ms)


def _check_backed(op: Mint, asset: Asset, reserve: Reserve, supply: Supply) -> None:
    after = supply.minted - supply.burned + op.amount
    if after > asset.terms.cap:
        raise Refused(Code.CAP_EXCEEDED, f"supply would be {after}, at most {asset.terms.cap}")
    needed = after * (MAX_BASIS_POINTS + asset.terms.overcollateral_bps)
    if needed > reserve.backing * MAX_BASIS_POINTS:
        raise Refused(
            Code.RESERVE_SHORT,
            f"supply would be {after}, the reserve backs with {reserve.backing}, "
            f"{asset.terms.overcollateral_bps} basis points on top are asked",
        )


def _reverse_burn(ctx: Context, op: Mint, hold: Hold) -> None:
    """Count a mint against the burn whose fiat came back."""
    assert op.reversal_of is not None
    terms = hold.redemption
    if terms is None or hold.asset != op.asset:
        raise Refused(Code.WRONG_HOLD_KIND, f"no redemption of {op.asset}")
    if (
        hold.status is not HoldStatus.BURNED
        or op.creditor != hold.debtor
        or terms.reversed + op.amount > hold.burned
    ):
        raise Refused(
            Code.REVERSAL_MISMATCH,
            f"{op.amount} to {op.creditor}; {hold.burned} were burned for {hold.debtor}, "
            f"{terms.reversed} of it came back",
        )
    after = replace(hold, redemption=replace(terms, reversed=terms.reversed + op.amount))
    ctx.overlay.put(HOLDS, op.reversal_of, after)


# ---- redeem and burn


def apply_redeem(ctx: Context, op: Redeem) -> None:
    """Hold coins for redemption; only a burn or the treasury's release ends it."""
    asset = load_asset(ctx, op.asset)
    holder = load_party(ctx, op.holder)
    if holder.status is AccountStatus.CLOSED:
        raise Refused(Code.ACCOUNT_CLOSED, f"{op.holder} is closed")
    hold_id = ctx.compute_id(HashTag.HOLD)
    check_new_entry(ctx.overlay.get(HOLDS, hold_id), hold_id)
    balance = get_balance(ctx, balance_key(op.asset, op.holder))
    if balance.redemptions >= MAX_OPEN_REDEMPTIONS_PER_ACCOUNT:
        raise Refused(
            Code.LIMIT_OF_ENTRIES,
            f"{op.holder} has {balance.redemptions} pending redemptions of {op.asset}",
        )
    check_unfrozen(holder, balance, op.amount)
    check_funds(balance, op.amount)
    hold = Hold(
        kind=HoldKind.REDEMPTION,
        status=HoldStatus.PENDING,
        asset=op.asset,
        debtor=op.holder,
        creditor=asset.terms.treasury,
        amount=op.amount,
        captured=0,
        released=0,
        burned=0,
        assigned=0,
        placed_at_ms=ctx.now_ms,
        position=ctx.position,
        payment=None,
        redemption=RedemptionTerms(
            payout_hash=op.payout_hash,
            due_ms=compute_due(asset.terms, ctx.now_ms),
            blocked_since_ms=None,
            payout_ref=None,
            paid_at_ms=None,
            burned_at_ms=None,
            reversed=0,
        ),
    )
    open_redemption(ctx, hold_id, hold)


def apply_burn(ctx: Context, op: Burn) -> None:
    """Destroy redeemed coins after the payout: supply falls, and R with it if R counted them."""
    hold = load_hold(ctx, op.redemption)
    reference = reference_key(hold.asset, op.payout_ref)
    if ctx.overlay.get(PAYOUT_REFS, reference) is not None:
        raise Refused(Code.PAYOUT_REUSED, f"{op.payout_ref.hex()} was burned against before")
    terms = hold.redemption
    if terms is None:
        raise Refused(Code.WRONG_HOLD_KIND, f"a {hold.kind.value} hold ends by capture or release")
    if hold.status is not HoldStatus.PENDING:
        raise Refused(Code.HOLD_NOT_PENDING, f"the redemption is {hold.status.value}")
    if is_burn_blocked(ctx, hold, op.paid_at_ms):
        raise Refused(
            Code.REDEMPTION_BLOCKED, f"frozen at or before {op.paid_at_ms}, when it was paid"
        )
    if not hold.placed_at_ms <= op.paid_at_ms <= ctx.now_ms:
        raise Refused(
            Code.PAYOUT_MISDATED,
            f"paid at {op.paid_at_ms}, must be within {hold.placed_at_ms} to {ctx.now_ms}",
        )
    burned = replace(
        hold,
        status=HoldStatus.BURNED,
        burned=hold.open,
        redemption=replace(
            terms,
            blocked_since_ms=None,
            payout_ref=op.payout_ref,
            paid_at_ms=op.paid_at_ms,
            burned_at_ms=ctx.now_ms,
        ),
    )
    end_redemption(ctx, op.redemption, hold, burned)
    _count_burn(ctx, op.redemption, hold)
    ctx.overlay.put(PAYOUT_REFS, reference, UsedReference(ctx.height, hold.amount))
    post(ctx, hold.asset, debtor=hold.debtor, creditor=None, amount=hold.amount)


def _count_burn(ctx: Context, redemption: bytes, hold: Hold) -> None:
    key = hold.asset.encode()
    supply = ctx.overlay.get(SUPPLIES, key) or NO_SUPPLY
    ctx.overlay.put(SUPPLIES, key, Supply(supply.minted, supply.burned + hold.amount))
    reserve = _load_reserve(ctx, hold.asset)
    after_as_of = ctx.now_ms > reserve.as_of_ms
    if after_as_of:
        recent = time_key(hold.asset, ctx.now_ms, redemption)
        ctx.overlay.put(RECENT_BURNS, recent, IndexAmount(hold.amount))
    if after_as_of or redemption in reserve.paid_not_burned:
        lower_backing(ctx, hold.asset, reserve, hold.amount)


def lower_backing(ctx: Context, asset: str, reserve: Reserve, amount: int) -> None:
    """Take from R what a burn, or the release of a listed redemption, takes."""
    after = replace(reserve, backing=reserve.backing - amount)
    ctx.overlay.put(RESERVES, asset.encode(), after)


def apply_release(ctx: Context, op: Release) -> None:
    """Give held money back to its debtor."""
    hold = load_hold(ctx, op.hold)
    if hold.kind is HoldKind.REDEMPTION:
        _release_redemption(ctx, op, hold)
    else:
        release_payment_hold(ctx, op, hold)


def _release_redemption(ctx: Context, op: Release, hold: Hold) -> None:
    """Give redeemed coins back: the payout failed. Authority is the treasury's, see `authority`."""
    asset = load_asset(ctx, hold.asset)
    terms = hold.redemption
    assert terms is not None
    if hold.status is not HoldStatus.PENDING:
        raise Refused(Code.HOLD_NOT_PENDING, f"the redemption is {hold.status.value}")
    if op.by != asset.terms.treasury:
        raise Refused(Code.NOT_RELEASABLE, f"only {asset.terms.treasury} releases a redemption")
    returned = replace(
        hold,
        status=HoldStatus.RETURNED,
        released=hold.open,
        redemption=replace(terms, blocked_since_ms=None),
    )
    end_redemption(ctx, op.hold, hold, returned)
    reserve = _load_reserve(ctx, hold.asset)
    if op.hold in reserve.paid_not_burned:
        lower_backing(ctx, hold.asset, reserve, hold.amount)
