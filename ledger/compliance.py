"""Compliance: freezes that stack, and lifting them one order at a time.

A freeze limits balances, never authority. What the orders of an account add up to is kept in its
balance (one asset's orders) and its account record (orders for all assets), so that a payment
needs no look at the orders themselves.
"""

from msgspec.structs import replace

from atpar.ledger.codes import Code
from atpar.ledger.context import Context, check_sum, get_balance, load_asset, put_balance
from atpar.ledger.errors import Refused
from atpar.ledger.hashing import HashTag
from atpar.ledger.holds import list_freezes, update_redemption_clocks
from atpar.ledger.limits import MAX_FREEZES_PER_ACCOUNT
from atpar.ledger.operations import Freeze, Unfreeze
from atpar.ledger.records import (
    ACCOUNT_FREEZES,
    ACCOUNTS,
    BALANCES,
    FREEZES,
    MARK,
    PARTICIPANTS,
    Account,
    Blocked,
    FreezeOrder,
    balance_key,
)
from atpar.ledger.roles import SINGLE_ROLES, list_assets
from atpar.ledger.types import GOVERNANCE, Direction, Role, admin_of, participant_of

_BITS = {
    Direction.DEBIT: int(Blocked.DEBIT),
    Direction.CREDIT: int(Blocked.CREDIT),
    Direction.BOTH: int(Blocked.DEBIT | Blocked.CREDIT),
}


def apply_freeze(ctx: Context, op: Freeze) -> None:
    """Block an account, or an amount on it."""
    compliance = None if op.asset is None else load_asset(ctx, op.asset).terms.compliance
    account = ctx.overlay.get(ACCOUNTS, op.account.encode())
    if account is None and op.account != GOVERNANCE:
        raise Refused(Code.UNKNOWN_TARGET, f"no account {op.account}")
    if op.by != compliance and (op.asset is not None or not is_regulator(ctx, op.by)):
        whose = "a regulator" if op.asset is None else compliance
        raise Refused(Code.ROLE_MISSING, f"{op.by} may not order this, {whose} may")
    orders = [order for _, order in list_freezes(ctx.overlay, op.account, op.asset)]
    if len(orders) >= MAX_FREEZES_PER_ACCOUNT:
        raise Refused(Code.LIMIT_OF_ENTRIES, f"{op.account} has {len(orders)} orders already")
    if account is None or _is_protected(ctx, op.account, op.asset):
        raise Refused(Code.PROTECTED_ACCOUNT, f"{op.account} serves the asset or the chain")
    check_sum(sum(o.amount or 0 for o in orders) + (op.amount or 0), "the frozen amount")
    freeze_id = ctx.compute_id(HashTag.FREEZE)
    order = FreezeOrder(
        account=op.account,
        asset=op.asset,
        direction=op.direction,
        amount=op.amount,
        by=op.by,
        order_hash=op.order_hash,
        review_at_ms=op.review_at_ms,
        placed_at_ms=ctx.now_ms,
    )
    ctx.overlay.put(FREEZES, freeze_id, order)
    ctx.overlay.put(ACCOUNT_FREEZES, _index_key(freeze_id, order), MARK)
    _settle(ctx, op.account, account, op.asset)


def apply_unfreeze(ctx: Context, op: Unfreeze) -> None:
    """Lift one order; the others on the account stay."""
    order = ctx.overlay.get(FREEZES, op.freeze)
    if order is None:
        raise Refused(Code.UNKNOWN_FREEZE, f"no freeze {op.freeze.hex()}")
    ctx.overlay.delete(FREEZES, op.freeze)
    ctx.overlay.delete(ACCOUNT_FREEZES, _index_key(op.freeze, order))
    account = ctx.overlay.get(ACCOUNTS, order.account.encode())
    assert account is not None, order.account
    _settle(ctx, order.account, account, order.asset)


def is_regulator(ctx: Context, account_id: str) -> bool:
    """Return whether an account may order freezes of all assets.

    It belongs to a participant licensed as regulator, as its admin account or as the regulator of
    an asset.
    """
    code = participant_of(account_id)
    participant = ctx.overlay.get(PARTICIPANTS, code.encode())
    if participant is None or Role.REGULATOR not in participant.roles:
        return False
    if account_id == admin_of(code):
        return True
    return any(asset.terms.regulator == account_id for _, asset in list_assets(ctx.overlay))


def _is_protected(ctx: Context, account_id: str, asset: str | None) -> bool:
    """The accounts that run an asset, and the chain, cannot be turned against each other."""
    return any(
        account_id == getattr(each.terms, role)
        for code, each in list_assets(ctx.overlay)
        if asset is None or code == asset
        for role in SINGLE_ROLES
    )


def _index_key(freeze_id: bytes, order: FreezeOrder) -> bytes:
    return f"{order.account}|{order.asset or ''}|".encode() + freeze_id


def _settle(ctx: Context, account_id: str, account: Account, asset: str | None) -> None:
    """Bring what the orders add up to, and the redemption clocks, in line with the orders."""
    orders = [order for _, order in list_freezes(ctx.overlay, account_id, asset)]
    blocked = 0
    for order in orders:
        if order.amount is None:
            blocked |= _BITS[order.direction]
        elif order.direction is Direction.BOTH:
            blocked |= int(Blocked.CREDIT)
    if asset is None:
        account = replace(account, blocked=blocked)
        ctx.overlay.put(ACCOUNTS, account_id.encode(), account)
    else:
        key = balance_key(asset, account_id)
        frozen = sum(order.amount or 0 for order in orders)
        put_balance(ctx, key, replace(get_balance(ctx, key), frozen=frozen, blocked=blocked))
    codes = [asset] if asset is not None else [code for code, _ in list_assets(ctx.overlay)]
    for code in codes:
        balance = ctx.overlay.get(BALANCES, balance_key(code, account_id))
        if balance is not None and balance.redemptions:
            frozen_debit = bool((account.blocked | balance.blocked) & Blocked.DEBIT)
            update_redemption_clocks(ctx, code, account_id, frozen=frozen_debit)
