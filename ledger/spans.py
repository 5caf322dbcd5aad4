"""How long a capture was impossible, and by how much that extends a hold.

A *source* is one reason why a capture cannot be: the asset's capture pause, a freeze of the
debtor's debits, a freeze of the creditor's credits, each freeze for one asset or for all. Every
time a source begins or ends to block, its span is written down; a hold's expiry moves on by the
union of the spans that touch it, because time must not run against who cannot act.

Only freezes of a whole side stop the clock. A frozen amount may or may not stand in the way of a
capture; it leaves the time as it is.
"""

from typing import Final

from atpar.ledger.context import Context
from atpar.ledger.limits import MAX_TIME_MS
from atpar.ledger.records import SPANS, Blocked, Hold, Span, number_key
from atpar.ledger.state import View

_PAUSE: Final = "pause"
_SIDES: Final = ((int(Blocked.DEBIT), "debit"), (int(Blocked.CREDIT), "credit"))


def pause_source(asset: str) -> bytes:
    """Return the source of an asset's capture pause."""
    return f"{_PAUSE}|{asset}|".encode()


def _freeze_source(side: str, account_id: str, asset: str | None) -> bytes:
    return f"{side}|{account_id}|{asset or ''}|".encode()


def list_freeze_sources(account_id: str, asset: str | None, blocked: int) -> list[bytes]:
    """Return the sources that `Blocked` bits of an account stand for."""
    return [_freeze_source(side, account_id, asset) for bit, side in _SIDES if blocked & bit]


def record_block(ctx: Context, source: bytes, *, before: bool, after: bool) -> None:
    """Begin or end a source's span if what it blocks changed."""
    if before == after:
        return
    if after:
        ctx.overlay.put(SPANS, source + number_key(ctx.now_ms), Span(None))
        return
    key, span = list(ctx.overlay.scan(SPANS, source))[-1]
    assert span.end_ms is None, key
    if key == source + number_key(ctx.now_ms):
        ctx.overlay.delete(SPANS, key)
    else:
        ctx.overlay.put(SPANS, key, Span(ctx.now_ms))


def record_freeze(
    ctx: Context, account_id: str, asset: str | None, *, before: int, after: int
) -> None:
    """Begin or end the spans of both sides of an account, given its `Blocked` bits."""
    for bit, side in _SIDES:
        source = _freeze_source(side, account_id, asset)
        record_block(ctx, source, before=bool(before & bit), after=bool(after & bit))


def compute_expiry(view: View, hold: Hold, now_ms: int) -> int:
    """Return the last instant at which a payment hold can be captured, as known at a time.

    A span counts only from a moment at which the hold had not expired yet.
    """
    payment = hold.payment
    assert payment is not None
    spans = sorted(
        (max(int.from_bytes(key[-8:], "big"), payment.clock_from_ms), _end(span, now_ms))
        for source in (
            pause_source(hold.asset),
            _freeze_source("debit", hold.debtor, hold.asset),
            _freeze_source("debit", hold.debtor, None),
            _freeze_source("credit", hold.creditor, hold.asset),
            _freeze_source("credit", hold.creditor, None),
        )
        for key, span in view.scan(SPANS, source)
    )
    expiry_ms, covered_ms = payment.expires_at_ms, payment.clock_from_ms
    for start_ms, end_ms in spans:
        start_ms = max(start_ms, covered_ms)  # noqa: PLW2901 - what another span has not counted
        if end_ms <= start_ms:
            continue
        if start_ms > expiry_ms:
            break
        expiry_ms += end_ms - start_ms
        covered_ms = end_ms
    return min(expiry_ms, MAX_TIME_MS)


def _end(span: Span, now_ms: int) -> int:
    return now_ms if span.end_ms is None else span.end_ms
