"""What the store's indexes say about a block: payment references, and what moved each balance.

Derived from the block alone, so any node can rebuild them; nothing here is covered by a hash.

What stands in the block is not stored again. For a balance that moved, the index names the
transactions that moved it, with the posted balance after each; a statement line comes from the
operation itself. Only where an operation does not say what it moved (a capture names a hold, an
approval a proposal) are the movements of its transaction kept beside the block.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, NamedTuple

from atpar.ledger.blocks import Header
from atpar.ledger.codec import Wire
from atpar.ledger.operations import Burn, Mint, Transfer
from atpar.ledger.records import BALANCES, Posting, balance_key
from atpar.ledger.state import Overlay
from atpar.ledger.transactions import Transaction
from atpar.ledger.types import AccountId, Amount, AssetCode, Count
from atpar.node.gateway import Entry

Marks = tuple[int, ...]
"""Of a balance in a block: a transaction's position, the posted balance after it, and so on for
every transaction that moved it; the last one first, as they are found."""


class Movement(Wire, frozen=True):
    """A `Posting` as it stands on the disk."""

    op: Count
    """The operation's position in its transaction."""
    asset: AssetCode
    debtor: AccountId | None
    creditor: AccountId | None
    amount: Amount


Numbered = tuple[int, Movement]
"""A movement with what tells it from all others of its transaction: the operation's position where
each operation moves once, and else its own, since one approval may move many times."""


class Line(NamedTuple):
    """One movement of one account's posted balance of one asset."""

    number: int
    """Its movement's, see `Numbered`."""
    op: int
    asset: str
    amount: int
    """Minor units; negative for a debit."""
    posted: int
    """Posted balance after this movement."""
    counterparty: str | None


_get_uetr: Final[Callable[[Any], bytes | None]] = attrgetter("uetr")
_REFERENCES: Final[dict[type, Callable[[Any], bytes | None]]] = {
    Transfer: _get_uetr,
    Mint: attrgetter("funding_ref"),
    Burn: attrgetter("payout_ref"),
}


def get_reference(op: object) -> bytes | None:
    """Return the UETR of a transfer, or the reference of the fiat payment behind mint or burn."""
    find = _REFERENCES.get(type(op))
    return None if find is None else find(op)


def compute_uetrs(tx: Transaction) -> Sequence[bytes]:
    """Return the payment references that a transaction names, each once, in order."""
    ops = tx.body.ops
    if len(ops) == 1:
        reference = get_reference(ops[0])
        return () if reference is None else (reference,)
    references = dict.fromkeys(map(_get_uetr if tx.are_own_payments else get_reference, ops))
    return tuple(reference for reference in references if reference is not None)


def compute_marks(
    postings: Sequence[Posting], overlay: Overlay
) -> Iterator[tuple[bytes, list[int]]]:
    """Yield (key of the balance, its marks) for every posted balance that moved.

    Reads only the block's own overlay, which holds every balance that moved, so it may run in
    another thread than the one that executes.
    """
    balances = overlay.tables.get(BALANCES.id, {})
    for asset, changes in _sum_changes(postings).items():
        for account, marks in changes.items():
            if account is None:  # the other side of what is minted or burned
                continue
            key = balance_key(asset, account)
            balance = balances[key]
            _settle(marks, 0 if balance is None else balance.posted)
            yield key, marks


def _sum_changes(postings: Sequence[Posting]) -> dict[str, dict[str | None, list[int]]]:
    """Return asset -> account -> (transaction, sum of its changes) ..., the last first.

    This runs for every payment, so both sides are written out and share no call.
    """
    tables: dict[str, dict[str | None, list[int]]] = {}
    changes: dict[str | None, list[int]] = {}
    current = ""
    for posting in reversed(postings):
        index, asset, amount = posting.tx_index, posting.asset, posting.amount
        if asset != current:
            current, changes = asset, tables.setdefault(asset, {})
        found = changes.get(posting.creditor)
        if found is None:
            changes[posting.creditor] = [index, amount]
        elif found[-2] == index:
            found[-1] += amount
        else:
            found += (index, amount)
        found = changes.get(posting.debtor)
        if found is None:
            changes[posting.debtor] = [index, -amount]
        elif found[-2] == index:
            found[-1] -= amount
        else:
            found += (index, -amount)
    return tables


def _settle(marks: list[int], after: int) -> None:
    """Put balances in the place of changes, beginning with the one after the block."""
    if len(marks) == 2:  # as most are
        marks[1] = after
        return
    for place in range(1, len(marks), 2):
        change, marks[place] = marks[place], after
        after -= change


def list_marks(marks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (index, posted balance after that transaction), the first transaction first."""
    return zip(marks[-2::-2], marks[::-2], strict=True)


def compute_movements(
    transactions: Sequence[Transaction], postings: Sequence[Posting]
) -> Iterator[tuple[int, list[Movement]]]:
    """Yield (index, movements in order) of transactions whose operations do not say them."""
    untold = {index for index, tx in enumerate(transactions) if not is_told(tx)}
    if not untold:
        return
    for index, moved in groupby(postings, key=attrgetter("tx_index")):
        if index in untold:
            yield (
                index,
                [Movement(p.op_index, p.asset, p.debtor, p.creditor, p.amount) for p in moved],
            )


def is_told(tx: Transaction) -> bool:
    """Return whether the operations say what they moved: payments do, one movement for each."""
    return tx.are_own_payments or all(isinstance(op, Transfer) for op in tx.body.ops)


def list_told(tx: Transaction, account: str) -> list[Numbered]:
    """Return an account's movements in a successful transaction whose operations say them."""
    return [
        (number, Movement(number, op.asset, op.debtor, op.creditor, op.amount))
        for number, op in enumerate(tx.body.ops)
        if isinstance(op, Transfer) and (op.creditor == account or op.debtor == account)
    ]


def compute_lines(
    account: str, movements: Sequence[Numbered], posted: Mapping[str, int]
) -> list[Line]:
    """Return what a transaction's movements did to an account, in order.

    `posted` is the account's balance of each wanted asset after the transaction.
    """
    lines: list[Line] = []
    left = dict(posted)
    for number, movement in reversed(movements):
        op, asset, debtor, creditor, amount = _get_fields(movement)
        if asset not in left:
            continue
        # Within one movement the credit comes last.
        for side, other, change in ((creditor, debtor, amount), (debtor, creditor, -amount)):
            if side == account:
                lines.append(Line(number, op, asset, change, left[asset], other))
                left[asset] -= change
    lines.reverse()
    return lines


_get_fields: Final = attrgetter("op", "asset", "debtor", "creditor", "amount")


def describe_line(line: Line, *, index: int, header: Header, tx: Transaction) -> Entry:
    """Return a statement line with what its block says about it."""
    op = tx.body.ops[line.op]
    return Entry(
        asset=line.asset,
        height=header.height,
        index=index,
        number=line.number,
        op=line.op,
        timestamp_ms=header.timestamp_ms,
        tx_hash=tx.hash,
        kind=_snake(type(op).__name__),
        amount=line.amount,
        posted=line.posted,
        counterparty=line.counterparty,
        uetr=get_reference(op),
        reference=op.reference if isinstance(op, Transfer) else "",
    )


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
