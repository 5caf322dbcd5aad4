"""What can go wrong when a program uses a node through the client.

ClientError              root
├── Unreachable          no node answered; nothing of the transaction was taken
│   └── Busy             nodes answered that they have no room or are not ready: try again later
├── Refused(code)        the ledger says no
├── OutcomeUnknown       it may have happened, or happen yet: find it, or send the same bytes
└── RequestInvalid       the request itself was at fault: a mistake in the program, or access
"""

from typing import TYPE_CHECKING

from atpar.ledger.proofs import Verified
from atpar.ledger.transactions import Transaction

if TYPE_CHECKING:
    from atpar.cli.client_core import Finalized


class ClientError(Exception):
    """Root of what the client raises on purpose."""


class Unreachable(ClientError):
    """No node answered. A transaction was not taken by any."""


class Busy(Unreachable):
    """Nodes answered, and none has room or is ready. Send the same bytes again later."""


class Refused(ClientError):
    """The ledger refused. `code` is the stable name of the rule.

    With `final` it was executed and failed; with `expiry` its window passed without it: both are
    proven. Without either, a node refused to admit it, and that is the node's word. Where that is
    not enough, wait for the end of the transaction's window and ask `prove_expired`.
    """

    def __init__(
        self,
        code: str,
        message: str,
        transaction: Transaction | None = None,
        *,
        final: "Finalized | None" = None,
        expiry: Verified | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.transaction = transaction
        self.final = final
        self.expiry = expiry

    @property
    def is_proven(self) -> bool:
        """Whether a verified proof shows that it failed, or can never happen."""
        return self.final is not None or self.expiry is not None


class OutcomeUnknown(ClientError):
    """The transaction may have happened, or happen until its window ends.

    Never make a new transaction instead: look this one up, or send the same bytes again.
    """

    def __init__(self, reason: str, transaction: Transaction) -> None:
        tx_id, tx_hash = transaction.body.tx_id.hex(), transaction.hash.hex()
        super().__init__(f"outcome unknown ({reason}): id {tx_id}, hash {tx_hash}")
        self.reason = reason
        self.transaction = transaction
        self.sender = transaction.body.sender
        self.tx_id = transaction.body.tx_id
        self.tx_hash = transaction.hash


class RequestInvalid(ClientError):
    """The node could not take the request as it was. `code` is the API's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
