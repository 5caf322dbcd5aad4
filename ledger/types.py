"""The shared vocabulary: ids, hashes, keys and amounts, with the ranges that decoding enforces.

The aliases are `Annotated`, so msgspec checks length, alphabet and range at the decoding edge and
no second check is needed inside. Patterns are ASCII and anchored with `\\A…\\Z` (`$` would let a
trailing newline through).
"""

from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta

from atpar.ledger import limits

Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
ChainId = Annotated[bytes, Meta(min_length=32, max_length=32)]
PublicKey = Annotated[bytes, Meta(min_length=32, max_length=32)]
SignatureBytes = Annotated[bytes, Meta(min_length=64, max_length=64)]
Uuid = Annotated[bytes, Meta(min_length=16, max_length=16)]
"""16 bytes of a UUID: transaction ids, UETRs, funding and payout references."""

ParticipantCode = Annotated[str, Meta(pattern=r"\A[A-Z0-9]{4,8}\Z")]
AccountId = Annotated[str, Meta(pattern=r"\A[A-Z0-9]{4,8}/[a-z0-9-]{1,25}\Z")]
AssetCode = Annotated[str, Meta(pattern=r"\A[A-Z]{3}\.[A-Z0-9]{4,8}\Z")]
"""Currency, a dot, and the issuer's code: `HKD.JDCL`."""
Currency = Annotated[str, Meta(pattern=r"\A[A-Z]{3}\Z")]
Lei = Annotated[str, Meta(pattern=r"\A[A-Z0-9]{18}[0-9]{2}\Z")]
Bic = Annotated[str, Meta(pattern=r"\A[A-Z0-9]{4}[A-Z]{2}[A-Z0-9]{2}([A-Z0-9]{3})?\Z")]
Jurisdiction = Annotated[str, Meta(pattern=r"\A[A-Z]{2}\Z")]
Reference = Annotated[str, Meta(pattern=r"\A[ -~]{0,35}\Z")]
"""Printable ASCII, at most 35 characters, as ISO 20022 EndToEndId."""
Reason = Annotated[str, Meta(pattern=r"\A[ -~]{0,140}\Z")]

Amount = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1, extra={"json": "decimal"})]
"""Minor units. Decoding admits any int64, so that a zero, negative or oversized amount gets the
code AMOUNT_RANGE from the rules instead of a bare decoding error."""
TimeMs = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""Milliseconds since the Unix epoch, UTC."""
Height = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Weight = Annotated[int, Meta(ge=1, le=limits.MAX_WEIGHT)]

CHAIN_CODE: Final = "CHAIN"
GOVERNANCE: Final = "CHAIN/governance"
ZERO_HASH: Final = bytes(32)


class Role(StrEnum):
    """What a participant is licensed to do."""

    ISSUER = "issuer"
    BANK = "bank"
    CUSTODIAN = "custodian"
    AUDITOR = "auditor"
    REGULATOR = "regulator"


class ParticipantStatus(StrEnum):
    """Whether a participant's accounts may take part in new business."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


class Direction(StrEnum):
    """Which movements a freeze blocks."""

    DEBIT = "debit"
    CREDIT = "credit"
    BOTH = "both"


def participant_of(account: str) -> str:
    """Return the participant code of an account id (`ALFA` for `ALFA/main`)."""
    return account.partition("/")[0]


def admin_of(participant: str) -> str:
    """Return the id of a participant's administrative account."""
    return f"{participant}/admin"
