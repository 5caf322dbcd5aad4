"""Amounts between people and the ledger: major units as text, minor units as whole numbers.

No floats anywhere: text is split at the decimal point and padded to the asset's scale.
"""

import re
from typing import Final

from atpar.cli.errors import WrongUsage, refused
from atpar.ledger.limits import MAX_AMOUNT

_NUMBER: Final = re.compile(r"-?(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.[0-9]+)?", re.ASCII)
MAX_TEXT: Final = 64


def parse_amount(text: str, *, asset: str, scale: int, allow_zero: bool = False) -> int:
    """Return the minor units of an amount typed in major units: `1,250,000.00` is 125000000.

    Fewer decimals than the asset's scale are padded; more are refused, even zeros.

    Raises:
        WrongUsage: not a number, or more decimals than the asset has.
        RefusedByLedger: AMOUNT_RANGE, the ledger would refuse it too.
    """
    if len(text) > MAX_TEXT or not _NUMBER.fullmatch(text):
        raise WrongUsage(
            f"amount {text[:MAX_TEXT]!r} is not a number",
            advice=f"write it in major units, such as {format_amount(125_000_000, scale=scale)}",
        )
    whole, _, decimals = text.replace(",", "").partition(".")
    if len(decimals) > scale:
        raise WrongUsage(
            f"amount {text} has {len(decimals)} decimals; {asset} has a scale of {scale}",
            advice=f"write it with at most {scale} decimals; nothing is ever rounded",
        )
    amount = int(whole + decimals.ljust(scale, "0"))
    lowest = 0 if allow_zero else 1
    if text.startswith("-") or not lowest <= amount <= MAX_AMOUNT:
        low, high = format_amount(lowest, scale=scale), format_amount(MAX_AMOUNT, scale=scale)
        raise refused("AMOUNT_RANGE", f"amount {text} is not between {low} and {high}")
    return amount


def format_amount(minor: int, *, scale: int, asset: str = "") -> str:
    """Return `1,250,000.00 HKD.JDCL` for 125000000 minor units at scale 2."""
    digits = str(abs(minor)).rjust(scale + 1, "0")
    whole, decimals = (digits[:-scale], "." + digits[-scale:]) if scale else (digits, "")
    sign = "-" if minor < 0 else ""
    return f"{sign}{int(whole):,}{decimals} {asset}".rstrip()
