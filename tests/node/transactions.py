"""Transactions for tests of the node that never reach the ledger: cheap, distinct, unsigned."""

from atpar.ledger.codec import encode
from atpar.ledger.operations import Void
from atpar.ledger.transactions import (
    VERSION,
    Body,
    Transaction,
    decode_transaction,
    encode_envelope,
)

CHAIN = bytes(range(32))


def make_transaction(
    number: int,
    *,
    sender: str = "ALFA/main",
    valid_from_ms: int = 0,
    valid_until_ms: int = 1_000_000,
    ops: int = 1,
    signers: int = 1,
    salt: int = 0,
) -> Transaction:
    """Return a transaction with id `number`; `salt` changes the signatures, not the body."""
    body = Body(
        version=VERSION,
        chain_id=CHAIN,
        sender=sender,
        tx_id=number.to_bytes(16, "big"),
        valid_from_ms=valid_from_ms,
        valid_until_ms=valid_until_ms,
        ops=(Void(),) * ops,
    )
    pairs = [(bytes([i]) * 32, bytes([salt]) * 64) for i in range(signers)]
    return decode_transaction(encode_envelope(encode(body), pairs))
