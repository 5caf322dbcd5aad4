"""Whom a transaction concerns: what scoped reads and event filters go by."""

from collections.abc import Iterator

from atpar.ledger.operations import Operation
from atpar.ledger.records import HOLDS
from atpar.ledger.state import View
from atpar.ledger.transactions import Transaction
from atpar.ledger.types import participant_of

ACCOUNT_FIELDS = ("account", "debtor", "creditor", "holder", "minter", "by", "destination")
"""Fields of operations that name an account."""
HOLD_FIELDS = ("hold", "redemption")
"""Fields of operations that name a hold, and with it its debtor and creditor."""


def list_accounts(tx: Transaction, view: View) -> list[str]:
    """Return the accounts that a transaction concerns, its sender first, each once, in order.

    Those that it names, and the parties of the holds that it names, as a later state knows them.
    """
    found = dict.fromkeys([tx.body.sender])
    for op in tx.body.ops:
        found.update(dict.fromkeys(_list_accounts(op, view)))
    return list(found)


def _list_accounts(op: Operation, view: View) -> Iterator[str]:
    for name in ACCOUNT_FIELDS:
        value = getattr(op, name, None)
        if isinstance(value, str) and "/" in value:
            yield value
    for name in HOLD_FIELDS:
        value = getattr(op, name, None)
        hold = view.get(HOLDS, value) if isinstance(value, bytes) else None
        if hold is not None:
            yield hold.debtor
            yield hold.creditor


def list_participants(tx: Transaction, view: View) -> list[str]:
    """Return the participants whose accounts a transaction concerns, each once, in order."""
    return list(dict.fromkeys(participant_of(account) for account in list_accounts(tx, view)))
