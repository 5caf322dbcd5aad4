"""Payments in whose way no rule can stand, made on bare numbers: most of what blocks consist of.

A shortcut past `payments.py`, which has the rules, for transactions of one account's own payments.
An account is looked at once a block: its state, its participant's and the asset's tell whether only
the amount of a payment could still be refused. From then on a payment is a few look-ups and
additions. Whatever is not so plain is left to the rules, which alone refuse, and a transaction is
made here as a whole or not at all.

Meanwhile the overlay has older balances. So before anything else reads or writes the state, and at
the end of a block, `settle` writes what was moved, and every account is looked at anew.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from msgspec import Struct

from atpar.ledger.context import Context, change_posted, is_suspended
from atpar.ledger.limits import MAX_SUM
from atpar.ledger.operations import Transfer
from atpar.ledger.payments import lacks_travel_data
from atpar.ledger.records import (
    ASSETS,
    BALANCES,
    NO_BALANCE,
    Account,
    AccountStatus,
    Asset,
    Balance,
    Pause,
    Posting,
    balance_key,
)
from atpar.ledger.transactions import Transaction

_OPEN: Final = AccountStatus.OPEN
_CLOSING: Final = AccountStatus.CLOSING
_PAUSE_TRANSFER: Final = int(Pause.TRANSFER)


class _Party(Struct, frozen=True, gc=False):
    """An account in a lane."""

    key: bytes
    """Its balance's."""
    balance: Balance
    """As the overlay has it."""
    floor: int | None
    """What it has to keep when it pays; None: a rule might keep it from paying."""
    may_receive: bool
    asks_reference: bool


class _Lane:
    """What plain payments of one asset know of accounts, by their ids."""

    __slots__ = ("code", "is_plain", "parties", "posted", "travel_rule_from")

    def __init__(self, code: str, asset: Asset | None) -> None:
        self.code = code
        self.is_plain = asset is not None and not (
            asset.paused & _PAUSE_TRANSFER or asset.limits or asset.terms.min_kyc_tier
        )
        """False: a rule of the asset might refuse any payment."""
        threshold = None if asset is None else asset.terms.travel_rule_from
        # Without a threshold one that no amount reaches.
        self.travel_rule_from = MAX_SUM if threshold is None else threshold
        self.parties: dict[str, _Party] = {}
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
        lane, unknown = None, dict[str, dict[str, None]]()
        for tx in transactions:
            if not tx.are_own_payments:
                continue
            payments: Sequence[Any] = tx.body.ops
            for op in payments:
                if lane is None or op.asset != lane.code:
                    lane = self._lanes.get(op.asset) or self._open(op.asset)
                    parties, wanted = lane.parties, unknown.setdefault(op.asset, {})
                if op.creditor not in parties:
                    wanted[op.creditor] = None
            # There is one payment at least, and whoever sends it is the debtor of all.
            if tx.body.sender not in parties:
                wanted[tx.body.sender] = None
        for code, wanted in unknown.items():
            if self._lanes[code].is_plain:
                self._admit_all(self._lanes[code], list(wanted))

    def pay(self, debtor: str, ops: Sequence[Transfer]) -> bool:
        """Make an account's own payments, all or none; return whether they were made."""
        code = ops[0].asset
        lane = self._lanes.get(code) or self._open(code)
        if not lane.is_plain:
            return False
        parties, posted = lane.parties, lane.posted
        payer = parties.get(debtor) or self._admit(lane, debtor)
        if payer.floor is None:
            return False
        free = posted.get(debtor, payer.balance.posted) - payer.floor
        for op in ops:
            creditor, amount = op.creditor, op.amount
            receiver = parties.get(creditor) or self._admit(lane, creditor)
            # No credit is the debtor's own, so what it has left is known without making them.
            if (
                not 0 < amount <= free
                or op.asset != code
                or creditor == debtor
                or not receiver.may_receive
                or (amount >= lane.travel_rule_from and lacks_travel_data(op, debtor, creditor))
                or (receiver.asks_reference and not op.reference.strip())
            ):
                return False
            free -= amount
        index, note = self._ctx.tx_index, self._ctx.postings.append
        for op_index, op in enumerate(ops):
            creditor, amount = op.creditor, op.amount
            before = posted.get(creditor)
            if before is None:
                before = parties[creditor].balance.posted
            posted[creditor] = before + amount
            note(Posting(index, op_index, code, debtor, creditor, amount))
        posted[debtor] = free + payer.floor
        return True

    def settle(self) -> None:
        """Write the balances that moved. What is written no rollback takes back."""
        for lane in self._lanes.values():
            moved: dict[bytes, Balance | None] = {}
            for account, posted in lane.posted.items():
                party = lane.parties[account]
                after = change_posted(party.balance, posted)
                # As by `put_balance`: one that is all zeros leaves no record.
                moved[party.key] = after if posted or after != NO_BALANCE else None
            self._ctx.overlay.put_all(BALANCES, moved)
        self._lanes.clear()

    def _open(self, code: str) -> _Lane:
        lane = self._lanes[code] = _Lane(code, self._ctx.overlay.get(ASSETS, code.encode()))
        return lane

    def _admit(self, lane: _Lane, account_id: str) -> _Party:
        """Let one account into a lane."""
        key = balance_key(lane.code, account_id)
        account = self._ctx.read_account(account_id.encode())
        self._judge(lane, ((account_id, account, key, self._ctx.read_balance(key)),))
        return lane.parties[account_id]

    def _admit_all(self, lane: _Lane, account_ids: Sequence[str]) -> None:
        """Let many accounts into a lane."""
        ctx = self._ctx
        names = list(map(str.encode, account_ids))
        accounts = ctx.accounts.read_all(names)
        prefix = balance_key(lane.code, "")
        keys = [prefix + name for name in names]
        balances = ctx.balances.read_all(keys)
        self._judge(lane, zip(account_ids, accounts, keys, balances, strict=True))

    def _judge(
        self, lane: _Lane, found: Iterable[tuple[str, Account | None, bytes, Balance | None]]
    ) -> None:
        """Put down what no rule could keep accounts from: id, account, key and balance of each."""
        ctx, parties = self._ctx, lane.parties
        for account_id, account, key, known in found:
            balance, floor = known or NO_BALANCE, None
            may_receive = asks_reference = False
            if not (
                account is None
                or account.blocked
                or balance.blocked
                or is_suspended(ctx, account_id)
            ):
                may_receive, asks_reference = account.status is _OPEN, account.reference_required
                if may_receive and not balance.frozen:
                    floor = balance.held
                elif account.status is _CLOSING and not balance.frozen:
                    # With its last cent it may end.
                    floor = balance.held + 1
            parties[account_id] = _Party(key, balance, floor, may_receive, asks_reference)
