"""Holds: money reserved on the debtor's own account, from placing to the one way it ends.

A redemption is a hold too; what only it has (payout, due time, the reserve) is in `supply.py`.
"""

from collections.abc import Iterator
from hashlib import sha256

from msgspec.structs import replace

from atpar.ledger.codes import Code
from atpar.ledger.context import (
    Context,
    check_new_entry,
    get_balance,
    is_suspended,
    load_asset,
    load_creditor,
    load_party,
)
from atpar.ledger.errors import Refused
from atpar.ledger.hashing import HashTag
from atpar.ledger.limits import MAX_OPEN_HOLDS_PER_ACCOUNT
from atpar.ledger.operations import Assign, Capture, Condition, Release
from atpar.ledger.operations import Hold as PlaceHold
from atpar.ledger.payments import (
    change_held,
    check_claimant,
    check_creditor,
    check_eligible,
    check_payment,
    check_side_open,
    check_travel_rule,
    load_parties,
    post,
)
from atpar.ledger.records import (
    ACCOUNT_FREEZES,
    ACCOUNTS,
    CLAIMS,
    DUE,
    FREEZES,
    HOLDS,
    MARK,
    OPEN_HOLDS,
    Balance,
    Blocked,
    FreezeOrder,
    Hold,
    HoldKind,
    HoldStatus,
    Pause,
    PaymentTerms,
    balance_key,
    claim_key,
    open_hold_key,
    open_hold_prefix,
    time_key,
)
from atpar.ledger.spans import compute_expiry
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


# ---- payment holds


def apply_hold(ctx: Context, op: PlaceHold) -> None:
    """Reserve money for a creditor under a condition."""
    hold_id = ctx.compute_id(HashTag.HOLD)
    parties = load_parties(ctx, op)
    for arbiter in op.condition.arbiters:
        if ctx.overlay.get(ACCOUNTS, arbiter.encode()) is None:
            raise Refused(Code.UNKNOWN_TARGET, f"no account {arbiter} to arbitrate")
    check_new_entry(ctx.overlay.get(HOLDS, hold_id), hold_id)
    _check_room(get_balance(ctx, balance_key(op.asset, op.debtor)), op.debtor)
    check_payment(ctx, op, parties, Pause.HOLD)
    if op.expires_at_ms <= ctx.now_ms:
        raise Refused(Code.HOLD_EXPIRED, f"expires at {op.expires_at_ms}, it is {ctx.now_ms}")
    hold = Hold(
        kind=HoldKind.PAYMENT,
        status=HoldStatus.PENDING,
        asset=op.asset,
        debtor=op.debtor,
        creditor=op.creditor,
        amount=op.amount,
        captured=0,
        released=0,
        burned=0,
        assigned=0,
        placed_at_ms=ctx.now_ms,
        position=ctx.position,
        payment=PaymentTerms(
            uetr=op.uetr,
            purpose=op.purpose,
            reference=op.reference,
            condition=op.condition,
            expires_at_ms=op.expires_at_ms,
            clock_from_ms=ctx.now_ms,
            assignable=op.assignable,
        ),
        redemption=None,
    )
    _open_payment_hold(ctx, hold_id, hold)
    change_held(ctx, op.asset, op.debtor, op.amount, holds=1)


def _check_room(balance: Balance, debtor: str) -> None:
    if balance.holds >= MAX_OPEN_HOLDS_PER_ACCOUNT:
        raise Refused(Code.LIMIT_OF_ENTRIES, f"{debtor} has {balance.holds} open holds")


def _open_payment_hold(ctx: Context, hold_id: bytes, hold: Hold) -> None:
    ctx.overlay.put(HOLDS, hold_id, hold)
    ctx.overlay.put(OPEN_HOLDS, open_hold_key(hold_id, hold), MARK)
    ctx.overlay.put(CLAIMS, claim_key(hold.creditor, hold_id), MARK)


def settle_payment_hold(ctx: Context, hold_id: bytes, before: Hold, after: Hold) -> None:
    """Write a payment hold of which less is open than before; end it when nothing is."""
    if after.open == 0:
        after = replace(after, status=HoldStatus.ENDED)
        ctx.overlay.delete(OPEN_HOLDS, open_hold_key(hold_id, before))
        ctx.overlay.delete(CLAIMS, claim_key(before.creditor, hold_id))
        ctx.note_departure(before.creditor)
    ctx.overlay.put(HOLDS, hold_id, after)
    ended = -1 if after.open == 0 else 0
    change_held(ctx, before.asset, before.debtor, after.open - before.open, holds=ended)


def apply_capture(ctx: Context, op: Capture) -> None:
    """Take held money; with `final` return the rest."""
    hold = load_hold(ctx, op.hold)
    asset = load_asset(ctx, hold.asset)
    payment = hold.payment
    debtor, creditor = load_party(ctx, hold.debtor), load_party(ctx, hold.creditor)
    if asset.paused & Pause.CAPTURE:
        raise Refused(Code.PAUSED, f"captures of {hold.asset} are paused")
    balance = get_balance(ctx, balance_key(hold.asset, hold.debtor))
    check_side_open(debtor, balance, Blocked.DEBIT)
    pending = payment is not None and hold.status is HoldStatus.PENDING
    if pending and op.amount <= hold.open and balance.posted - op.amount < balance.frozen:
        raise Refused(
            Code.AMOUNT_BLOCKED, f"{op.amount} of {balance.posted}, {balance.frozen} are frozen"
        )
    if payment is not None:
        check_claimant(ctx, hold.asset, asset, hold.creditor, creditor)
        check_eligible(ctx, hold.asset, asset, hold.debtor)
    if pending and op.amount > hold.open:
        raise Refused(Code.INSUFFICIENT_FUNDS, f"{op.amount}, open are {hold.open}")
    payment = _check_pending(hold)
    _check_in_time(ctx, hold)
    _check_condition(ctx, payment.condition, op)
    rest = hold.open - op.amount if op.final else 0
    after = replace(hold, captured=hold.captured + op.amount, released=hold.released + rest)
    settle_payment_hold(ctx, op.hold, hold, after)
    post(ctx, hold.asset, debtor=hold.debtor, creditor=hold.creditor, amount=op.amount)


def _check_pending(hold: Hold) -> PaymentTerms:
    if hold.payment is None:
        raise Refused(Code.WRONG_HOLD_KIND, "a redemption ends by burn or release")
    if hold.status is not HoldStatus.PENDING:
        raise Refused(Code.HOLD_NOT_PENDING, f"the hold is {hold.status.value}")
    return hold.payment


def _check_in_time(ctx: Context, hold: Hold) -> None:
    expiry_ms = compute_expiry(ctx.overlay, hold, ctx.now_ms)
    if ctx.now_ms > expiry_ms:
        raise Refused(Code.HOLD_EXPIRED, f"expired at {expiry_ms}, it is {ctx.now_ms}")


def _check_condition(ctx: Context, condition: Condition, op: Capture) -> None:
    """Check what the capture itself has to bring; the arbiters' signatures are in `authority`."""
    if condition.not_before_ms is not None and ctx.now_ms < condition.not_before_ms:
        raise Refused(
            Code.CONDITION_UNMET, f"not before {condition.not_before_ms}, it is {ctx.now_ms}"
        )
    if condition.hash_lock is not None and (
        op.preimage is None or sha256(op.preimage).digest() != condition.hash_lock
    ):
        raise Refused(Code.CONDITION_UNMET, "the preimage of the hash lock is not shown")
    if condition.document_hash is not None and op.document_hash != condition.document_hash:
        raise Refused(Code.CONDITION_UNMET, "the document is not the one that was agreed")


def release_payment_hold(ctx: Context, op: Release, hold: Hold) -> None:
    """Give held money back: by the creditor at any time, by the debtor once it expired."""
    if hold.status is not HoldStatus.PENDING:
        raise Refused(Code.HOLD_NOT_PENDING, f"the hold is {hold.status.value}")
    if op.by != hold.creditor:
        if op.by != hold.debtor:
            raise Refused(Code.NOT_RELEASABLE, f"{op.by} is no party of this hold")
        expiry_ms = compute_expiry(ctx.overlay, hold, ctx.now_ms)
        if ctx.now_ms <= expiry_ms:
            raise Refused(Code.NOT_RELEASABLE, f"the creditor has until {expiry_ms}")
    after = replace(hold, released=hold.released + hold.open)
    settle_payment_hold(ctx, op.hold, hold, after)


def apply_assign(ctx: Context, op: Assign) -> None:
    """Pass a claim on, whole or in part; every party is checked anew."""
    hold = load_hold(ctx, op.hold)
    asset = load_asset(ctx, hold.asset)
    creditor = load_creditor(ctx, op.creditor)
    debtor, seller = load_party(ctx, hold.debtor), load_party(ctx, hold.creditor)
    for account_id in (hold.debtor, hold.creditor):
        if is_suspended(ctx, account_id):
            raise Refused(Code.PARTICIPANT_SUSPENDED, f"{account_id} is suspended")
    balance = get_balance(ctx, balance_key(hold.asset, hold.debtor))
    if op.amount < hold.open:
        part_id = ctx.compute_id(HashTag.HOLD)
        check_new_entry(ctx.overlay.get(HOLDS, part_id), part_id)
        _check_room(balance, hold.debtor)
    if asset.paused & Pause.HOLD:
        raise Refused(Code.PAUSED, f"holds of {hold.asset} are paused")
    check_side_open(debtor, balance, Blocked.DEBIT)
    sold_from = get_balance(ctx, balance_key(hold.asset, hold.creditor))
    check_side_open(seller, sold_from, Blocked.DEBIT | Blocked.CREDIT)
    check_creditor(ctx, hold.asset, asset, op.creditor, creditor)
    check_eligible(ctx, hold.asset, asset, hold.debtor)
    check_travel_rule(asset, op, debtor=hold.debtor, creditor=op.creditor)
    payment = _check_pending(hold)
    _check_in_time(ctx, hold)
    if (
        not payment.assignable
        or op.creditor in (hold.debtor, hold.creditor)
        or op.amount > hold.open
    ):
        raise Refused(
            Code.NOT_ASSIGNABLE,
            f"{op.amount} of {hold.open} to {op.creditor}, assignable: {payment.assignable}",
        )
    _pass_on(ctx, op, hold, payment)


def _pass_on(ctx: Context, op: Assign, hold: Hold, payment: PaymentTerms) -> None:
    # The seller's freezes have extended the time so far; from now on the buyer's count.
    expiry_ms = compute_expiry(ctx.overlay, hold, ctx.now_ms)
    terms = replace(payment, expires_at_ms=expiry_ms, clock_from_ms=ctx.now_ms)
    if op.amount == hold.open:
        ctx.overlay.delete(CLAIMS, claim_key(hold.creditor, op.hold))
        ctx.overlay.put(CLAIMS, claim_key(op.creditor, op.hold), MARK)
        ctx.overlay.put(HOLDS, op.hold, replace(hold, creditor=op.creditor, payment=terms))
        ctx.note_departure(hold.creditor)
        return
    part = replace(
        hold,
        creditor=op.creditor,
        amount=op.amount,
        captured=0,
        released=0,
        assigned=0,
        payment=terms,
    )
    settle_payment_hold(ctx, op.hold, hold, replace(hold, assigned=hold.assigned + op.amount))
    _open_payment_hold(ctx, ctx.compute_id(HashTag.HOLD), part)
    change_held(ctx, hold.asset, hold.debtor, op.amount, holds=1)


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
