"""An asset's terms on their own: ranges, order, and its calendar of business days."""

from typing import NamedTuple

from atpar.ledger.codes import Code
from atpar.ledger.limits import DAY_MS, MAX_AMOUNT
from atpar.ledger.operations import AssetTerms
from atpar.ledger.records import ASSETS, NO_RESERVE, NO_SUPPLY, RESERVES, SUPPLIES, Asset
from atpar.ledger.state import Overlay

MINUTE_MS = 60_000
SATURDAY = 5


class TermsFault(NamedTuple):
    """A broken rule within the terms: its code, the field, and the values."""

    code: Code
    field: str
    message: str


def find_terms_fault(terms: AssetTerms) -> TermsFault | None:
    """Return what is wrong with the terms in themselves, or None."""
    if not 0 <= terms.cap <= MAX_AMOUNT:
        return TermsFault(Code.AMOUNT_RANGE, "cap", f"{terms.cap}, at most {MAX_AMOUNT}")
    threshold = terms.travel_rule_from
    if threshold is not None and not 0 <= threshold <= MAX_AMOUNT:
        message = f"{threshold}, at most {MAX_AMOUNT}"
        return TermsFault(Code.AMOUNT_RANGE, "travel_rule_from", message)
    if list(terms.holidays) != sorted(set(terms.holidays)):
        return TermsFault(Code.VALUE_INVALID, "holidays", "not sorted, or named twice")
    if list(terms.minters) != sorted(set(terms.minters)):
        return TermsFault(Code.VALUE_INVALID, "minters", "not sorted, or named twice")
    return None


def add_asset(overlay: Overlay, code: str, asset: Asset) -> None:
    """Write a new asset with zero supply and no attestation."""
    key = code.encode()
    overlay.put(ASSETS, key, asset)
    overlay.put(SUPPLIES, key, NO_SUPPLY)
    overlay.put(RESERVES, key, NO_RESERVE)


def compute_due(terms: AssetTerms, now_ms: int) -> int:
    """Return the last millisecond of the n-th business day after now's, in the asset's calendar.

    With n = 0 it is the end of today, or of the next business day if today is none.
    """
    offset_ms = terms.utc_offset_minutes * MINUTE_MS
    holidays = frozenset(terms.holidays)
    day = (now_ms + offset_ms) // DAY_MS
    missing = terms.redemption_sla_days
    if missing == 0:
        while not _is_business_day(day, holidays):
            day += 1
    while missing > 0:
        day += 1
        if _is_business_day(day, holidays):
            missing -= 1
    return (day + 1) * DAY_MS - offset_ms - 1


def _is_business_day(day: int, holidays: frozenset[int]) -> bool:
    """`day` counts from 1970-01-01, a Thursday; weekdays count from Monday as 0."""
    return (day + 3) % 7 < SATURDAY and day not in holidays
