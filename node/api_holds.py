"""Routes about money that is not free: freezes, holds, redemptions."""

from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Final

import trio

from atpar.ledger import reads
from atpar.ledger.codes import Code
from atpar.ledger.reads import is_blocked, is_overdue
from atpar.ledger.records import (
    CLAIMS,
    DUE,
    HOLDS,
    OPEN_HOLDS,
    FreezeOrder,
    Hold,
    HoldKind,
    HoldStatus,
    open_hold_prefix,
)
from atpar.ledger.state import View
from atpar.ledger.types import AccountId, AssetCode, participant_of
from atpar.node.api_forms import (
    FreezeForm,
    HoldForm,
    HoldsForm,
    OneFreezeForm,
    OneHoldForm,
    OneRedemptionForm,
    RedemptionForm,
    RedemptionsForm,
)
from atpar.node.api_http import Answer, Call, invalid, parse_hex, parse_typed
from atpar.node.limits import MAX_RECORDS_EXAMINED
from atpar.node.paging import scan_after
from atpar.node.problems import ApiCode, Problem, get_not_found

MAX_LISTED_HOLDS: Final = 100
EVENTLY: Final = 100
"""After so many records of a long listing, other tasks of the node get their turn."""


# ---- freezes


def make_freeze(freeze_id: bytes, order: FreezeOrder) -> FreezeForm:
    """Return the form of a freeze order."""
    return FreezeForm(
        freeze=freeze_id,
        account=order.account,
        asset=order.asset,
        direction=order.direction,
        amount=order.amount,
        by=order.by,
        order_hash=order.order_hash,
        review_at_ms=order.review_at_ms,
        placed_at_ms=order.placed_at_ms,
    )


async def get_freeze(call: Call) -> Answer:
    """Return one freeze order in force."""
    call.check_query(frozenset())
    freeze_id = parse_hex("freeze", call.get_path("freeze"), size=32)
    order = reads.get_freeze(call.final.view, freeze_id)
    if order is None:
        raise get_not_found(Code.UNKNOWN_FREEZE, f"no freeze {freeze_id.hex()} is in force")
    if not call.grant.may_see((participant_of(order.by), participant_of(order.account))):
        call.grant.require(participant_of(order.account))
    header = call.final.header
    return Answer(
        OneFreezeForm(
            read_height=header.height,
            read_timestamp_ms=header.timestamp_ms,
            freeze=make_freeze(freeze_id, order),
        )
    )


# ---- holds


async def get_hold(call: Call) -> Answer:
    """Return one hold of any kind, ended ones included."""
    call.check_query(frozenset())
    hold_id = parse_hex("hold", call.get_path("hold"), size=32)
    hold = reads.get_hold(call.final.view, hold_id)
    if hold is None:
        raise get_not_found(Code.UNKNOWN_HOLD, f"no hold {hold_id.hex()}")
    _require_seen(call, hold)
    header = call.final.header
    return Answer(
        OneHoldForm(
            read_height=header.height,
            read_timestamp_ms=header.timestamp_ms,
            hold=make_hold(hold_id, hold),
        )
    )


async def list_holds(call: Call) -> Answer:
    """Return a page of open holds: those on a debtor's account, or those a creditor may capture."""
    call.check_query(frozenset({"creditor", "debtor", "asset", "kind", "after", "limit"}))
    creditor, debtor = call.get_query("creditor"), call.get_query("debtor")
    if (creditor is None) == (debtor is None):
        raise invalid("creditor", "give either creditor, or debtor and asset")
    limit = call.get_limit()
    if creditor is not None:
        found = _walk_claims(call, parse_typed("creditor", creditor, AccountId))
    else:
        found = _walk_open_holds(call, parse_typed("debtor", debtor or "", AccountId))
    page = list(islice(found, limit + 1))
    header = call.final.header
    return Answer(
        HoldsForm(
            read_height=header.height,
            read_timestamp_ms=header.timestamp_ms,
            holds=tuple(make_hold(hold_id, hold) for _, hold_id, hold in page[:limit]),
            next=page[limit - 1][0] if len(page) > limit else None,
        )
    )


def _walk_claims(call: Call, creditor: str) -> Iterator[tuple[str, bytes, Hold]]:
    """Yield (cursor, id, hold) of the payment holds that a creditor may capture, by id."""
    call.grant.require(participant_of(creditor))
    for name in ("asset", "kind"):
        if call.get_query(name) is not None:
            raise invalid(name, "goes with debtor")
    after = call.get_query("after")
    prefix = f"{creditor}|".encode()
    start = None if after is None else prefix + parse_hex("after", after, size=32)
    for key, _ in scan_after(call.final.view, CLAIMS, prefix, start):
        yield key[-32:].hex(), key[-32:], _load_hold(call.final.view, key[-32:])


def _walk_open_holds(call: Call, debtor: str) -> Iterator[tuple[str, bytes, Hold]]:
    """Yield (cursor, id, hold) of the open holds of one kind on an account, oldest first."""
    call.grant.require(participant_of(debtor))
    asset = call.get_query("asset")
    if asset is None:
        raise invalid("asset", "missing; holds of a debtor are listed by asset")
    parse_typed("asset", asset, AssetCode)
    kind = call.get_query("kind") or HoldKind.PAYMENT.value
    if kind not in list(HoldKind):
        raise invalid("kind", f"expected one of {', '.join(HoldKind)}, got {kind!r:.40}")
    after = call.get_query("after")
    prefix = open_hold_prefix(asset, debtor, HoldKind(kind))
    start = None if after is None else prefix + parse_hex("after", after, size=48)
    for key, _ in scan_after(call.final.view, OPEN_HOLDS, prefix, start, depth=16):
        yield key[-48:].hex(), key[-32:], _load_hold(call.final.view, key[-32:])


def _load_hold(view: View, hold_id: bytes) -> Hold:
    hold = view.get(HOLDS, hold_id)
    assert hold is not None, hold_id
    return hold


def list_first_holds(view: View, account_id: str) -> tuple[list[HoldForm], bool]:
    """Return the first open holds of an account, and whether there are more."""
    walks = (
        reads.list_open_holds(view, asset, account_id, kind)
        for asset, _ in reads.list_assets(view)
        for kind in HoldKind
    )
    found = list(islice(chain.from_iterable(walks), MAX_LISTED_HOLDS + 1))
    forms = [make_hold(hold_id, hold) for hold_id, hold in found[:MAX_LISTED_HOLDS]]
    return forms, len(found) > MAX_LISTED_HOLDS


def make_hold(hold_id: bytes, hold: Hold) -> HoldForm:
    """Return the form of a hold."""
    return HoldForm(
        hold=hold_id,
        kind=hold.kind.value,
        status=hold.status.value,
        asset=hold.asset,
        debtor=hold.debtor,
        creditor=hold.creditor,
        amount=hold.amount,
        open=hold.open,
        captured=hold.captured,
        released=hold.released,
        burned=hold.burned,
        assigned=hold.assigned,
        placed_at_ms=hold.placed_at_ms,
        payment=hold.payment,
    )


# ---- redemptions


async def get_redemption(call: Call) -> Answer:
    """Return one redemption."""
    call.check_query(frozenset())
    hold_id = parse_hex("redemption", call.get_path("redemption"), size=32)
    view, header = call.final.view, call.final.header
    hold = view.get(HOLDS, hold_id)
    if hold is None or hold.redemption is None:
        raise Problem(ApiCode.UNKNOWN_REDEMPTION, f"no redemption {hold_id.hex()}")
    _require_seen(call, hold)
    return Answer(
        OneRedemptionForm(
            read_height=header.height,
            read_timestamp_ms=header.timestamp_ms,
            redemption=_make_redemption(call, hold_id, hold),
        )
    )


async def list_redemptions(call: Call) -> Answer:
    """Return a page of redemptions: by due time with `due_before_ms`, else by id."""
    call.check_query(frozenset({"asset", "status", "due_before_ms", "after", "limit"}))
    asset = call.get_query("asset")
    if asset is not None:
        parse_typed("asset", asset, AssetCode)
        if reads.get_asset(call.final.view, asset) is None:
            raise get_not_found(Code.UNKNOWN_ASSET, f"no asset {asset}")
    keep = _parse_status(call)
    due_before_ms = call.get_int("due_before_ms", low=0, high=2**63 - 1)
    limit = call.get_limit()
    after = call.get_query("after")
    found: list[RedemptionForm] = []
    examined, last = 0, None
    for cursor, hold_id, hold in _walk_redemptions(call, asset, due_before_ms, after):
        if len(found) == limit or examined == MAX_RECORDS_EXAMINED:
            break
        examined, last = examined + 1, cursor
        wanted = hold.redemption is not None and asset in (None, hold.asset)
        if wanted and _is_seen(call, hold) and keep(call, hold):
            found.append(_make_redemption(call, hold_id, hold))
        if examined % EVENTLY == 0:
            await trio.lowlevel.checkpoint()
    else:
        last = None
    return Answer(
        RedemptionsForm(
            read_height=call.final.header.height,
            read_timestamp_ms=call.final.header.timestamp_ms,
            redemptions=tuple(found),
            next=last,
        )
    )


def _walk_redemptions(
    call: Call, asset: str | None, due_before_ms: int | None, after: str | None
) -> Iterator[tuple[str, bytes, Hold]]:
    """Yield (cursor, id, hold) of what a listing has to look at, in its order."""
    view = call.final.view
    if due_before_ms is None:
        start = None if after is None else parse_hex("after", after, size=32)
        for hold_id, hold in scan_after(view, HOLDS, b"", start):
            yield hold_id.hex(), hold_id, hold
        return
    if asset is None:
        raise invalid("due_before_ms", "goes with asset: due times are listed by asset")
    prefix = f"{asset}|".encode()
    start = None if after is None else prefix + parse_hex("after", after, size=40)
    for key, _ in scan_after(view, DUE, prefix, start, depth=8):
        if int.from_bytes(key[-40:-32], "big") >= due_before_ms:
            return
        yield key[-40:].hex(), key[-32:], _load_hold(view, key[-32:])


def _parse_status(call: Call) -> Callable[[Call, Hold], bool]:
    status = call.get_query("status")
    if status is None:
        return lambda _call, _hold: True
    if status == "overdue":
        return lambda call, hold: is_overdue(hold, now_ms=call.final.header.timestamp_ms)
    if status == "blocked":
        return lambda _call, hold: is_blocked(hold)
    known = ("pending", "burned", "returned")
    if status not in known:
        choices = ", ".join((*known, "overdue", "blocked"))
        raise invalid("status", f"expected one of {choices}, got {status!r:.40}")
    wanted = HoldStatus(status)
    return lambda _call, hold: hold.status is wanted


def _parties(hold: Hold) -> tuple[str, str]:
    return participant_of(hold.debtor), participant_of(hold.creditor)


def _is_seen(call: Call, hold: Hold) -> bool:
    return call.grant.may_see(_parties(hold))


def _require_seen(call: Call, hold: Hold) -> None:
    if not _is_seen(call, hold):
        call.grant.require(participant_of(hold.debtor))


def _make_redemption(call: Call, hold_id: bytes, hold: Hold) -> RedemptionForm:
    terms = hold.redemption
    assert terms is not None
    reserve = reads.get_reserve(call.final.view, hold.asset)
    return RedemptionForm(
        redemption=hold_id,
        asset=hold.asset,
        holder=hold.debtor,
        amount=hold.amount,
        status=hold.status.value,
        is_overdue=is_overdue(hold, now_ms=call.final.header.timestamp_ms),
        is_blocked=is_blocked(hold),
        due_ms=terms.due_ms,
        placed_at_ms=hold.placed_at_ms,
        payout_hash=terms.payout_hash,
        payout_ref=terms.payout_ref,
        paid_at_ms=terms.paid_at_ms,
        burned_at_ms=terms.burned_at_ms,
        is_listed_as_paid=reserve is not None and hold_id in reserve.paid_not_burned,
    )
