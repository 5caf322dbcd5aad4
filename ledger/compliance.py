"""Compliance: freezes that stack, seizure by order, and pauses by scope.

A freeze limits balances, never authority. What the orders of an account add up to is kept in its
balance (one asset's orders) and its account record (orders for all assets), so that a payment
needs no look at the orders themselves.
"""

from msgspec.structs import replace

from atpar.ledger.codes import Code
from atpar.ledger.context import (
    Context,
    check_new_entry,
    check_sum,
    get_balance,
    load_asset,
    load_creditor,
    put_balance,
)
from atpar.ledger.errors import Refused
from atpar.ledger.hashing import HashTag
from atpar.ledger.holds import (
    list_freezes,
    list_open_holds,
    settle_payment_hold,
    update_redemption_clocks,
)
from atpar.ledger.limits import MAX_FREEZES_PER_ACCOUNT
from atpar.ledger.operations import Freeze, PauseChange, PauseScope, Seize, SetPause, Unfreeze
from atpar.ledger.payments import check_creditor, post
from atpar.ledger.records import (
    ACCOUNT_FREEZES,
    ACCOUNTS,
    ASSETS,
    BALANCES,
    FREEZES,
    MARK,
    Account,
    Blocked,
    FreezeOrder,
    HoldKind,
    Pause,
    balance_key,
)
from atpar.ledger.roles import SINGLE_ROLES, is_regulator, list_assets
from atpar.ledger.spans import pause_source, record_block, record_freeze
from atpar.ledger.types import GOVERNANCE, Direction

_PAUSES = {
    PauseScope.CAPTURE: int(Pause.CAPTURE),
    PauseScope.HOLD: int(Pause.HOLD),
    PauseScope.MINT: int(Pause.MINT),
    PauseScope.TRANSFER: int(Pause.TRANSFER),
}
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
    freeze_id = ctx.compute_id(HashTag.FREEZE)
    check_new_entry(ctx.overlay.get(FREEZES, freeze_id), freeze_id)
    if op.by != compliance and (op.asset is not None or not is_regulator(ctx.overlay, op.by)):
        whose = "a regulator" if op.asset is None else compliance
        raise Refused(Code.ROLE_MISSING, f"{op.by} may not order this, {whose} may")
    orders = [order for _, order in list_freezes(ctx.overlay, op.account, op.asset)]
    if len(orders) >= MAX_FREEZES_PER_ACCOUNT:
        raise Refused(Code.LIMIT_OF_ENTRIES, f"{op.account} has {len(orders)} orders already")
    if account is None or _is_protected(ctx, op.account, op.asset):
        raise Refused(Code.PROTECTED_ACCOUNT, f"{op.account} serves the asset or the chain")
    check_sum(sum(o.amount or 0 for o in orders) + (op.amount or 0), "the frozen amount")
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
    ctx.note_departure(order.account)
    _settle(ctx, order.account, account, order.asset)


def apply_seize(ctx: Context, op: Seize) -> None:
    """Take frozen money by order: what is not held first, then the oldest holds."""
    asset = load_asset(ctx, op.asset)
    creditor = load_creditor(ctx, op.destination)
    order = ctx.overlay.get(FREEZES, op.freeze)
    if order is None or order.asset not in (None, op.asset):
        raise Refused(Code.UNKNOWN_FREEZE, f"no freeze {op.freeze.hex()} of {op.asset}")
    if op.destination == order.account:
        raise Refused(Code.CREDITOR_REFUSED, f"{op.destination} is the frozen account")
    check_creditor(ctx, op.asset, asset, op.destination, creditor)
    balance = get_balance(ctx, balance_key(op.asset, order.account))
    held = list(list_open_holds(ctx.overlay, op.asset, order.account, HoldKind.PAYMENT))
    within_reach = balance.posted - balance.held + sum(hold.open for _, hold in held)
    if op.amount > within_reach:
        raise Refused(Code.INSUFFICIENT_FUNDS, f"{op.amount}, within reach {within_reach}")
    if order.direction is Direction.CREDIT or (order.amount or op.amount) < op.amount:
        raise Refused(Code.CONDITION_UNMET, f"{op.amount}, the order freezes {_describe(order)}")
    missing = op.amount - (balance.posted - balance.held)
    for hold_id, hold in held:
        if missing <= 0:
            break
        taken = min(missing, hold.open)
        missing -= taken
        settle_payment_hold(ctx, hold_id, hold, replace(hold, released=hold.released + taken))
    post(ctx, op.asset, debtor=order.account, creditor=op.destination, amount=op.amount)
    _shrink(ctx, op.freeze, order, op.amount)


def _describe(order: FreezeOrder) -> str:
    what = "everything" if order.amount is None else str(order.amount)
    return f"{what} for {order.direction.value}"


def _shrink(ctx: Context, freeze_id: bytes, order: FreezeOrder, amount: int) -> None:
    """Take a seized amount out of the order for an amount, which it has fulfilled."""
    if order.amount is None:
        return
    if order.amount == amount:
        ctx.overlay.delete(FREEZES, freeze_id)
        ctx.overlay.delete(ACCOUNT_FREEZES, _index_key(freeze_id, order))
    else:
        ctx.overlay.put(FREEZES, freeze_id, replace(order, amount=order.amount - amount))
    account = ctx.overlay.get(ACCOUNTS, order.account.encode())
    assert account is not None, order.account
    _settle(ctx, order.account, account, order.asset)


def apply_set_pause(ctx: Context, op: SetPause) -> None:
    """Pause or resume operations of an asset."""
    asset = load_asset(ctx, op.asset)
    bits = 0
    for scope in op.scopes:
        bits |= _PAUSES[scope]
    paused = asset.paused | bits if op.change is PauseChange.PAUSE else asset.paused & ~bits
    record_block(
        ctx,
        pause_source(op.asset),
        before=bool(asset.paused & Pause.CAPTURE),
        after=bool(paused & Pause.CAPTURE),
    )
    ctx.overlay.put(ASSETS, op.asset.encode(), replace(asset, paused=paused))


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
        record_freeze(ctx, account_id, None, before=account.blocked, after=blocked)
        account = replace(account, blocked=blocked)
        ctx.overlay.put(ACCOUNTS, account_id.encode(), account)
    else:
        key = balance_key(asset, account_id)
        frozen = sum(order.amount or 0 for order in orders)
        balance = get_balance(ctx, key)
        record_freeze(ctx, account_id, asset, before=balance.blocked, after=blocked)
        put_balance(ctx, key, replace(balance, frozen=frozen, blocked=blocked))
    codes = [asset] if asset is not None else [code for code, _ in list_assets(ctx.overlay)]
    for code in codes:
        held = ctx.overlay.get(BALANCES, balance_key(code, account_id))
        if held is not None and held.redemptions:
            frozen_debit = bool((account.blocked | held.blocked) & Blocked.DEBIT)
            update_redemption_clocks(ctx, code, account_id, frozen=frozen_debit)
