"""What the store's indexes say about a block: payment references and statement lines.

Derived from the block alone, so any node can rebuild them; nothing here is covered by a hash.
"""

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Annotated, Any, Final

from msgspec import Meta

from atpar.ledger.blocks import Header
from atpar.ledger.codec import Wire
from atpar.ledger.operations import Burn, Mint, Transfer
from atpar.ledger.records import BALANCES, Posting, balance_key
from atpar.ledger.state import Overlay
from atpar.ledger.transactions import Transaction
from atpar.ledger.types import Amount, Count
from atpar.node.gateway import Entry


class Line(Wire, frozen=True):
    """One movement of one account's posted balance of one asset; the rest is in the block."""

    index: Count
    """The transaction's position in its block."""
    op: Count
    """The operation's position in its transaction."""
    amount: Amount
    """Minor units; negative for a debit."""
    posted: Amount
    """Posted balance after this movement."""
    counterparty: Annotated[str, Meta(max_length=40)] | None


_REFERENCES: Final[dict[type, Callable[[Any], bytes | None]]] = {
    Transfer: attrgetter("uetr"),
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
    references = dict.fromkeys(map(get_reference, ops))
    return tuple(reference for reference in references if reference is not None)


Row = tuple[int, int, int, int, str | None]
"""The fields of a `Line`, which encodes alike: made for every movement, read for few."""


def compute_lines(
    postings: Sequence[Posting], overlay: Overlay
) -> Iterator[tuple[str, str, tuple[Row, ...]]]:
    """Yield (account, asset, lines in order) for every posted balance that moved.

    Reads only the block's own overlay, which holds every balance that moved, so it may run in
    another thread than the one that executes.
    """
    posted: dict[tuple[str, str], int] = {}
    rows: dict[tuple[str, str], list[Row]] = {}
    # Backwards from the balances after the block: each movement names the balance it left behind.
    for posting in reversed(postings):
        asset, debtor, creditor = posting.asset, posting.debtor, posting.creditor
        index, op = posting.tx_index, posting.op_index
        # Within one posting the credit comes last.
        for account, other, amount in (
            (creditor, debtor, posting.amount),
            (debtor, creditor, -posting.amount),
        ):
            if account is None:
                continue
            balance = (account, asset)
            after = posted.get(balance)
            if after is None:
                after = _get_posted(overlay, asset, account)
                rows[balance] = []
            posted[balance] = after - amount
            rows[balance].append((index, op, amount, after, other))
    for (account, asset), found in rows.items():
        found.reverse()
        yield account, asset, tuple(found)


def _get_posted(overlay: Overlay, asset: str, account: str) -> int:
    balance = overlay.tables[BALANCES.id][balance_key(asset, account)]
    posted: int = 0 if balance is None else balance.posted
    return posted


def describe_line(line: Line, *, asset: str, header: Header, tx: Transaction) -> Entry:
    """Return a statement line with what its block says about it."""
    op = tx.body.ops[line.op]
    return Entry(
        asset=asset,
        height=header.height,
        index=line.index,
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
