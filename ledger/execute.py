"""The one door through which state changes: a block's transactions on its parent's state."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from atpar.ledger.blocks import Block, Header
from atpar.ledger.errors import Refused
from atpar.ledger.receipts import Receipt
from atpar.ledger.records import Posting
from atpar.ledger.state import Overlay, View
from atpar.ledger.transactions import Transaction


@dataclass(frozen=True, slots=True)
class Template:
    """What a proposer decides before execution."""

    epoch: int
    view: int
    parent: Header
    parent_digest: bytes
    timestamp_ms: int
    proposer: str


@dataclass(frozen=True, slots=True)
class Executed:
    """A block with everything that follows from it."""

    header: Header
    digest: bytes
    transactions: tuple[Transaction, ...]
    receipts: tuple[Receipt, ...]
    postings: tuple[Posting, ...]
    """Every movement of posted money, in order: what statements are made of."""
    overlay: Overlay
    """The block's writes above the parent's view, tree nodes included."""

    @property
    def block(self) -> Block:
        """The header with the exact bytes of the transactions."""
        return Block(self.header, tuple(tx.raw for tx in self.transactions))


def build_block(
    parent: View, template: Template, candidates: Iterable[Transaction], *, chain_id: bytes
) -> tuple[Executed, list[tuple[Transaction, Refused]]]:
    """Return the block made of the candidates that may enter, and the others with the reason.

    Candidates for which there is no room are in neither.
    """
    raise NotImplementedError


def execute_block(
    parent: View,
    parent_header: Header,
    parent_digest: bytes,
    block: Block,
    transactions: Sequence[Transaction],
    *,
    chain_id: bytes,
) -> Executed:
    """Execute a proposed block. The caller has checked the signatures of the transactions.

    Raises:
        BlockInvalid: any deviation; the message has both values.
    """
    raise NotImplementedError


def simulate(
    view: View, final: Header, tx: Transaction, *, chain_id: bytes, now_ms: int
) -> Receipt:
    """Return the receipt that a transaction would get in the next block.

    Raises:
        Refused: it would not enter a block.
    """
    raise NotImplementedError
