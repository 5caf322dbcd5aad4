"""Payments in whose way no rule can stand, made on bare numbers: most of what blocks consist of.

A shortcut past `payments.py`, which has the rules, for transactions of one account's own payments.
An account enters a `_Lane` once a block, if its state, its participant's and the asset's are such
that only the amount could still be refused; from then on a payment is a few look-ups and additions.
Whatever is not so plain is left to the rules, which alone refuse, and a transaction is made here as
a whole or not at all.

Meanwhile the overlay has older balances. So before anything else reads or writes the state, and at
the end of a block, `settle` writes what was moved, and every account has to enter anew.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from atpar.ledger.context import Context, change_posted, is_suspended
from atpar.ledger.limits import MAX_SUM
from atpar.ledger.operations import Transfer
from atpar.ledger.records import (
    ASSETS,
    BALANCES,
    NO_BALANCE,
    AccountStatus,
    Balance,
    Pause,
    Posting,
)
from atpar.ledger.transactions import Transaction

_OPEN: Final = AccountStatus.OPEN
_CLOSED: Final = AccountStatus.CLOSED
_PAUSE_TRANSFER: Final = int(Pause.TRANSFER)


class _Lane:
    """What plain payments of one asset know of accounts, by their ids."""

    __slots__ = ("before", "ceiling", "code", "payers", "posted", "receivers")

    def __init__(self, code: str, ceiling: int) -> None:
        self.code = code
        self.ceiling = ceiling
        """Below which amount nothing but account and balance can keep anybody from paying."""
        self.before: dict[str, tuple[bytes, Balance]] = {}
        """Key and record of the balance, as the overlay has it."""
        self.payers: dict[str, Balance] = {}
        """The same records, of accounts that may pay."""
        self.receivers: dict[str, int] = {}
        """What accounts that may receive had posted before."""
        self.posted: dict[str, int] = {}
        """What those have posted now that paid or received."""


class PlainPayments:
    """The plain payments of one block."""

    __slots__ = ("_ctx", "_lanes")

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._lanes: dict[str, _Lane] = {}

    def foresee(self, transactions: Iterable[Transaction]) -> None:
        """Look up at once the accounts of the payments that are to come."""
        named: dict[str, dict[str, None]] = {}
        code, accounts = "", dict[str, None]()
        for tx in transactions:
            if tx.are_own_payments:
                payments: Sequence[Any] = tx.body.ops
                for op in payments:
                    if op.asset != code:
                        code = op.asset
                        accounts = named.setdefault(code, {})
                    accounts[op.debtor] = accounts[op.creditor] = None
        for code, accounts in named.items():
            self._admit(self._open(code), list(accounts))

    def pay(self, debtor: str, ops: Sequence[Transfer]) -> bool:
        """Make an account's own payments, all or none; return whether they were made.

        False where a rule might refuse one of them, or one would leave the debtor with nothing.
        """
        ctx, code = self._ctx, ops[0].asset
        lane = self._lanes.get(code) or self._open(code)
        ceiling, receivers, posted = lane.ceiling, lane.receivers, lane.posted
        payer = lane.payers.get(debtor)
        if payer is None:
            self._admit(lane, (debtor,))
            payer = lane.payers.get(debtor)
            if payer is None:
                return False
        free = posted.get(debtor, payer.posted) - payer.held
        for op in ops:
            creditor, amount = op.creditor, op.amount
            if creditor not in receivers:
                self._admit(lane, (creditor,))
            # No credit is the debtor's own, so what it has left is known without making them.
            if (
                not 0 < amount < free
                or amount >= ceiling
                or op.asset != code
                or creditor == debtor
                or creditor not in receivers
            ):
                return False
            free -= amount
        index, note = ctx.tx_index, ctx.postings.append
        for op_index, op in enumerate(ops):
            creditor, amount = op.creditor, op.amount
            posted[creditor] = posted.get(creditor, receivers[creditor]) + amount
            note(Posting(index, op_index, code, debtor, creditor, amount))
        posted[debtor] = free + payer.held
        return True

    def settle(self) -> None:
        """Write the balances that moved. What is written no rollback takes back."""
        for lane in self._lanes.values():
            moved: dict[bytes, Balance] = {}
            for account, posted in lane.posted.items():
                key, balance = lane.before[account]
                moved[key] = change_posted(balance, posted)
            self._ctx.overlay.put_all(BALANCES, moved)
        self._lanes.clear()

    def _open(self, code: str) -> _Lane:
        lane = self._lanes[code] = _Lane(code, self._find_ceiling(code))
        return lane

    def _find_ceiling(self, code: str) -> int:
        """Return below which amount an asset's rules cannot refuse a payment; 0: they might any.

        That is where there is a pause, a limit, a tier; or no such asset.
        """
        asset = self._ctx.overlay.get(ASSETS, code.encode())
        if asset is None:
            return 0
        terms = asset.terms
        if asset.paused & _PAUSE_TRANSFER or asset.limits or terms.min_kyc_tier:
            return 0
        return MAX_SUM if terms.travel_rule_from is None else terms.travel_rule_from

    def _admit(self, lane: _Lane, account_ids: Sequence[str]) -> None:
        """Let accounts pay, or receive, in a lane if no rule could keep them from that."""
        ctx = self._ctx
        accounts = ctx.accounts.read_all([account_id.encode() for account_id in account_ids])
        keys = [f"{lane.code}|{account_id}".encode() for account_id in account_ids]
        balances = ctx.balances.read_all(keys)
        before, payers, receivers = lane.before, lane.payers, lane.receivers
        for account_id, account, key, found in zip(
            account_ids, accounts, keys, balances, strict=True
        ):
            if account is None or account.blocked or is_suspended(ctx, account_id):
                continue
            balance = found or NO_BALANCE
            if balance.blocked:
                continue
            if account_id not in before:
                before[account_id] = key, balance
            if account.status is not _CLOSED and not balance.frozen:
                payers[account_id] = balance
            if account.status is _OPEN and not account.reference_required:
                receivers[account_id] = balance.posted
