"""What the ledger answers to a transaction in a block."""

from typing import Annotated

from msgspec import Meta

from atpar.ledger.codec import Codec, Wire
from atpar.ledger.types import AccountId, Count, Hash, Uuid


class Receipt(Wire, frozen=True):
    """The one outcome of one transaction, the same on every validator.

    Proven by its Merkle path to `receipt_root` of the block that carries it.
    """

    tx_hash: Hash
    sender: AccountId
    tx_id: Uuid
    code: Annotated[int, Meta(ge=0, le=999)]
    """A `codes.Code`; 0 is success."""
    failed_op: Count | None
    """Index of the operation that failed, null on success."""


RECEIPT = Codec[Receipt](Receipt, name="receipt", max_bytes=256)
