"""Holds: money reserved on the debtor's own account, from placing to the one way it ends.

A redemption is a hold too; what only it has (payout, due time, the reserve) is in `supply.py`.
"""

from collections.abc import Iterator

from msgspec.structs import replace

from atpar.ledger.codes import Code
from atpar.ledger.context import Context, get_balance
from atpar.ledger.errors import Refused
from atpar.ledger.payments import change_held
from atpar.ledger.records import (
    ACCOUNT_FREEZES,
    DUE,
    FREEZES,
    HOLDS,
    MARK,
    OPEN_HOLDS,
    FreezeOrder,
    Hold,
    HoldKind,
    balance_key,
    open_hold_key,
    open_hold_prefix,
    time_key,
)
from atpar.ledger.state import View
from atpar.ledger.types import Direction


def load_hold(ctx: Context, hold_id: bytes) -> Hold:
    """Return a hold.

    Raises:
        Refused: UNKNOWN_HOLD.
    """
    hold = ctx.overlay.get(HOLDS, hold_id)
    if hold is None:
        raise Refused(Code.UNKNOWN_HOLD, f"no hold {hold_id.hex()}")
    return hold


def open_redemption(ctx: Context, hold_id: bytes, hold: Hold) -> None:
    """Write a new redemption, reserve its coins and start its clock."""
    terms = hold.redemption
    assert terms is not None
    ctx.overlay.put(HOLDS, hold_id, hold)
    ctx.overlay.put(OPEN_HOLDS, open_hold_key(hold_id, hold), MARK)
    ctx.overlay.put(DUE, time_key(hold.asset, terms.due_ms, hold_id), MARK)
    change_held(ctx, hold.asset, hold.debtor, hold.amount, redemptions=1)


def end_redemption(ctx: Context, hold_id: bytes, before: Hold, after: Hold) -> None:
    """Write how a redemption ended, free its coins and stop its clock."""
    terms = before.redemption
    assert terms is not None
    ctx.overlay.put(HOLDS, hold_id, after)
    ctx.overlay.delete(OPEN_HOLDS, open_hold_key(hold_id, before))
    ctx.overlay.delete(DUE, time_key(before.asset, terms.due_ms, hold_id))
    change_held(ctx, before.asset, before.debtor, -before.open, redemptions=-1)


def list_open_holds(
    view: View, asset: str, debtor: str, kind: HoldKind
) -> Iterator[tuple[bytes, Hold]]:
    """Yield an account's open holds of one kind, oldest first, as (id, hold)."""
    for key, _ in view.scan(OPEN_HOLDS, open_hold_prefix(asset, debtor, kind)):
        hold = view.get(HOLDS, key[-32:])
        assert hold is not None, key
        yield key[-32:], hold


# ---- freezes against holds


def list_freezes(
    view: View, account_id: str, asset: str | None
) -> Iterator[tuple[bytes, FreezeOrder]]:
    """Yield the freeze orders of one scope: one asset's, or (null) those for all assets."""
    for key, _ in view.scan(ACCOUNT_FREEZES, f"{account_id}|{asset or ''}|".encode()):
        order = view.get(FREEZES, key[-32:])
        assert order is not None, key
        yield key[-32:], order


def is_burn_blocked(ctx: Context, hold: Hold, paid_at_ms: int) -> bool:
    """Return whether a freeze placed at or before the payout stands against a burn."""
    orders = [order for _, order in list_freezes(ctx.overlay, hold.debtor, hold.asset)]
    orders += [order for _, order in list_freezes(ctx.overlay, hold.debtor, None)]
    standing = [order for order in orders if order.placed_at_ms <= paid_at_ms]
    if any(o.amount is None and o.direction is not Direction.CREDIT for o in standing):
        return True
    frozen = sum(order.amount or 0 for order in standing)
    posted = get_balance(ctx, balance_key(hold.asset, hold.debtor)).posted
    return posted - hold.open < frozen


def update_redemption_clocks(ctx: Context, asset: str, account_id: str, *, frozen: bool) -> None:
    """Stop or restart the clocks of an account's pending redemptions after a freeze changed.

    A clock stands while the whole debit side is frozen (`frozen`), or while frozen amounts leave
    too little for the burn. The due time moves on by the time that it stood.
    """
    balance = get_balance(ctx, balance_key(asset, account_id))
    pending = list(list_open_holds(ctx.overlay, asset, account_id, HoldKind.REDEMPTION))
    for hold_id, hold in pending:
        terms = hold.redemption
        assert terms is not None
        blocked = frozen or balance.posted - hold.open < balance.frozen
        if blocked == (terms.blocked_since_ms is not None):
            continue
        if terms.blocked_since_ms is None:
            ctx.overlay.delete(DUE, time_key(asset, terms.due_ms, hold_id))
            changed = replace(terms, blocked_since_ms=ctx.now_ms)
        else:
            due_ms = terms.due_ms + ctx.now_ms - terms.blocked_since_ms
            ctx.overlay.put(DUE, time_key(asset, due_ms, hold_id), MARK)
            changed = replace(terms, blocked_since_ms=None, due_ms=due_ms)
        ctx.overlay.put(HOLDS, hold_id, replace(hold, redemption=changed))
