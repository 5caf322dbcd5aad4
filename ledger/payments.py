"""Payments: who may send and receive, and the one function that moves posted money."""

from msgspec.structs import replace

from atpar.ledger.codes import Code
from atpar.ledger.context import (
    Context,
    change_posted,
    get_balance,
    is_suspended,
    load_asset,
    load_creditor,
    load_party,
    put_balance,
)
from atpar.ledger.controls import compute_tier, use_limits
from atpar.ledger.errors import Refused
from atpar.ledger.operations import Assign, Hold, Transfer
from atpar.ledger.records import (
    BALANCES,
    NO_BALANCE,
    Account,
    AccountStatus,
    Asset,
    Balance,
    Blocked,
    Pause,
    Posting,
    balance_key,
)
from atpar.ledger.types import participant_of

_DEBIT = int(Blocked.DEBIT)
_CREDIT = int(Blocked.CREDIT)
_OPEN = AccountStatus.OPEN
_CLOSED = AccountStatus.CLOSED
_PAUSE_TRANSFER = int(Pause.TRANSFER)


def post(
    ctx: Context, asset: str, *, debtor: str | None, creditor: str | None, amount: int
) -> None:
    """Move posted money. No debtor: it is minted; no creditor: it is burned.

    The debit is written before the credit is read, so that nothing is gained when both are one
    account. The caller has checked that the debtor's posted balance covers the amount.
    """
    if debtor is not None:
        _add(ctx, f"{asset}|{debtor}".encode(), -amount)
    if creditor is not None:
        _add(ctx, f"{asset}|{creditor}".encode(), amount)
    ctx.postings.append(Posting(ctx.tx_index, ctx.op_index, asset, debtor, creditor, amount))


def _add(ctx: Context, key: bytes, change: int) -> None:
    balance = ctx.read_balance(key) or NO_BALANCE
    posted = balance.posted + change
    assert posted >= 0, (key, balance.posted, change)
    after = change_posted(balance, posted)
    if posted:
        ctx.overlay.put(BALANCES, key, after)
    else:
        put_balance(ctx, key, after)


def apply_transfer(ctx: Context, op: Transfer) -> None:
    """Pay."""
    check_payment(ctx, op, load_parties(ctx, op), _PAUSE_TRANSFER)
    post(ctx, op.asset, debtor=op.debtor, creditor=op.creditor, amount=op.amount)


Parties = tuple[Asset, Account, Account]
"""Asset, creditor and debtor of a payment, looked up once. A plain tuple: made for each payment."""


def load_parties(ctx: Context, op: Transfer | Hold) -> Parties:
    """Return the asset and the accounts of a payment, now or reserved.

    Raises:
        Refused: one does not exist, or the debtor may not start new business.
    """
    payer = ctx.payer
    if payer is not None and payer[0] == op.debtor and payer[1] == op.asset:
        return payer[2], load_creditor(ctx, op.creditor), payer[3]
    asset = ctx.assets.get(op.asset)
    if asset is None:
        asset = ctx.assets[op.asset] = load_asset(ctx, op.asset)
    creditor = load_creditor(ctx, op.creditor)
    debtor = load_party(ctx, op.debtor)
    check_debtor(ctx, op.debtor, debtor)
    ctx.payer = (op.debtor, op.asset, asset, debtor)
    return asset, creditor, debtor


def check_payment(ctx: Context, op: Transfer | Hold, parties: Parties, pause: int) -> None:
    """Check everything else that a payment asks of its parties and of the asset.

    Counts the amount against the debtor's limits. A rule is asked only where something in the
    state could break it: most payments meet no freeze, no tier, no limit.

    Raises:
        Refused: the first broken rule in precedence.
    """
    asset, creditor, debtor = parties
    code, amount, terms = op.asset, op.amount, asset.terms
    if asset.paused & pause:
        raise Refused(Code.PAUSED, f"{code}: this operation is paused")
    balance = ctx.read_balance(f"{code}|{op.debtor}".encode()) or NO_BALANCE
    if debtor.blocked or balance.blocked or balance.frozen:
        check_unfrozen(debtor, balance, amount)
    check_creditor(ctx, code, asset, op.creditor, creditor)
    if terms.min_kyc_tier:
        check_eligible(ctx, code, asset, op.debtor)
    if terms.travel_rule_from is not None:
        check_travel_rule(asset, op, debtor=op.debtor, creditor=op.creditor)
    if creditor.reference_required:
        check_reference(creditor, op)
    if asset.limits:
        use_limits(ctx, code, asset, op.debtor, amount)
    check_funds(balance, amount)


def check_debtor(ctx: Context, account_id: str, account: Account) -> None:
    """Check that an account may start new business.

    Raises:
        Refused: ACCOUNT_CLOSED, PARTICIPANT_SUSPENDED.
    """
    if account.status is _CLOSED:
        raise Refused(Code.ACCOUNT_CLOSED, f"{account_id} is closed")
    if is_suspended(ctx, account_id):
        raise Refused(Code.PARTICIPANT_SUSPENDED, f"{participant_of(account_id)} is suspended")


def check_unfrozen(account: Account, balance: Balance, amount: int) -> None:
    """Check that no freeze stands in the way of taking an amount out of what is not held.

    Raises:
        Refused: ACCOUNT_FROZEN, or AMOUNT_BLOCKED when the funds would do but for a freeze.
    """
    if (account.blocked | balance.blocked) & _DEBIT:
        raise Refused(Code.ACCOUNT_FROZEN, "debits of this account are frozen")
    free = balance.posted - balance.held
    if free - balance.frozen < amount <= free:
        raise Refused(
            Code.AMOUNT_BLOCKED, f"{amount} of {free}, of which {balance.frozen} are frozen"
        )


def check_side_open(account: Account, balance: Balance, side: int) -> None:
    """Check that no freeze blocks a side (`Blocked` bits) of an account as a whole.

    Raises:
        Refused: ACCOUNT_FROZEN.
    """
    if (account.blocked | balance.blocked) & side:
        raise Refused(Code.ACCOUNT_FROZEN, "an account of this operation is frozen")


def check_creditor(
    ctx: Context, code: str, asset: Asset, account_id: str, account: Account
) -> None:
    """Check that an account may be credited. One code for every reason, to tip nobody off.

    Raises:
        Refused: CREDITOR_REFUSED.
    """
    if is_suspended(ctx, account_id):
        raise _refuse_creditor(account_id)
    check_claimant(ctx, code, asset, account_id, account)


def check_claimant(
    ctx: Context, code: str, asset: Asset, account_id: str, account: Account
) -> None:
    """As `check_creditor`, for what a suspended participant may still receive.

    Raises:
        Refused: CREDITOR_REFUSED.
    """
    balance = ctx.read_balance(f"{code}|{account_id}".encode())
    blocked = account.blocked if balance is None else account.blocked | balance.blocked
    if (
        blocked & _CREDIT
        or account.status is not _OPEN
        or (asset.terms.min_kyc_tier and not is_eligible(ctx, code, asset, account_id))
    ):
        raise _refuse_creditor(account_id)


def _refuse_creditor(account_id: str) -> Refused:
    return Refused(Code.CREDITOR_REFUSED, f"{account_id} cannot be credited")


def is_eligible(ctx: Context, code: str, asset: Asset, account_id: str) -> bool:
    """Return whether an account has the KYC tier that the asset asks for."""
    needed = asset.terms.min_kyc_tier
    return needed == 0 or compute_tier(ctx.overlay, code, account_id, ctx.now_ms) >= needed


def check_eligible(ctx: Context, code: str, asset: Asset, account_id: str) -> None:
    """Check the payer's KYC tier.

    Raises:
        Refused: NOT_ELIGIBLE.
    """
    if asset.terms.min_kyc_tier and not is_eligible(ctx, code, asset, account_id):
        raise Refused(Code.NOT_ELIGIBLE, f"{account_id} lacks tier {asset.terms.min_kyc_tier}")


def check_travel_rule(
    asset: Asset, op: Transfer | Hold | Assign, *, debtor: str, creditor: str
) -> None:
    """Check that a payment between two participants carries the data that it has to.

    Raises:
        Refused: TRAVEL_RULE_MISSING.
    """
    threshold = asset.terms.travel_rule_from
    if threshold is not None and op.amount >= threshold and lacks_travel_data(op, debtor, creditor):
        raise Refused(
            Code.TRAVEL_RULE_MISSING,
            f"payments of {threshold} and more need travel-rule data and its acknowledgement",
        )


def lacks_travel_data(op: Transfer | Hold | Assign, debtor: str, creditor: str) -> bool:
    """Return whether a payment goes to another participant without travel-rule data."""
    return not (op.travel_rule_ack and op.travel_rule_hash is not None) and (
        participant_of(debtor) != participant_of(creditor)
    )


def check_reference(creditor: Account, op: Transfer | Hold) -> None:
    """Check that a payment has the reference that its receiver asks for.

    Raises:
        Refused: REFERENCE_REQUIRED.
    """
    if creditor.reference_required and not op.reference.strip():
        raise Refused(Code.REFERENCE_REQUIRED, f"{op.creditor} asks for a reference")


def check_funds(balance: Balance, amount: int) -> None:
    """Check that the amount is covered by what is neither held nor frozen.

    Raises:
        Refused: INSUFFICIENT_FUNDS.
    """
    if amount > balance.posted - balance.held - balance.frozen:
        raise Refused(Code.INSUFFICIENT_FUNDS, f"{amount}, available {balance.available}")


def change_held(
    ctx: Context, code: str, account_id: str, amount: int, *, holds: int = 0, redemptions: int = 0
) -> None:
    """Add to (or take from) what an account has held, and to its counts of open holds."""
    key = balance_key(code, account_id)
    before = get_balance(ctx, key)
    after = replace(
        before,
        held=before.held + amount,
        holds=before.holds + holds,
        redemptions=before.redemptions + redemptions,
    )
    assert 0 <= after.held <= after.posted, (account_id, after)
    put_balance(ctx, key, after)
