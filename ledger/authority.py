"""Who may act: policies, principals, and everything an envelope must satisfy to enter a block."""

from atpar.ledger.state import View
from atpar.ledger.transactions import Transaction


def check_admission(view: View, tx: Transaction, *, chain_id: bytes, now_ms: int) -> None:
    """Check every rule but the signatures' validity.

    Raises:
        Refused: with a code below `FIRST_RECEIPT_CODE`.
    """
    raise NotImplementedError
