"""Which participants a transaction concerns: what scoped reads and event filters go by."""

from atpar.ledger.transactions import Transaction
from atpar.ledger.types import participant_of

ACCOUNT_FIELDS = ("account", "debtor", "creditor", "holder", "minter", "by")
"""Fields of operations that name an account."""


def list_accounts(tx: Transaction) -> list[str]:
    """Return the accounts that a transaction names, its sender first, each once, in order."""
    found = dict.fromkeys([tx.body.sender])
    for op in tx.body.ops:
        for name in ACCOUNT_FIELDS:
            value = getattr(op, name, None)
            if isinstance(value, str) and "/" in value:
                found[value] = None
    return list(found)


def list_participants(tx: Transaction) -> list[str]:
    """Return the participants whose accounts a transaction names, each once, in order."""
    return list(dict.fromkeys(participant_of(account) for account in list_accounts(tx)))
