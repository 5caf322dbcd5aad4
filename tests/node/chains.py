"""Final blocks for tests of the store: right in shape, without a ledger behind them."""

import hashlib

from msgspec.structs import replace

from atpar.ledger.blocks import Block, Header, compute_digest
from atpar.ledger.certificates import Finalization, Proposition
from atpar.ledger.codec import encode
from atpar.ledger.commitment import commit_state
from atpar.ledger.ids import IdLog
from atpar.ledger.operations import Capture, Operation, Transfer
from atpar.ledger.receipts import Receipt
from atpar.ledger.records import BALANCES, NO_BALANCE, Posting, balance_key
from atpar.ledger.state import Base, MemoryBacking, Overlay
from atpar.ledger.transactions import (
    VERSION,
    Body,
    Transaction,
    decode_transaction,
    encode_envelope,
)
from atpar.node.store import FinalBlock

CHAIN = bytes(range(32))
ASSET = "HKD.JDCL"


def hash_of(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()


def make_header(height: int, parent: bytes, *, txs: int = 0, state: bytes = b"") -> Header:
    return Header(
        version=1,
        chain_id=CHAIN,
        epoch=0,
        view=height,
        height=height,
        parent=parent,
        timestamp_ms=1_000 * height + 1,
        proposer="ALFA",
        tx_count=txs,
        tx_root=hash_of("tx", height),
        receipt_root=hash_of("receipt", height),
        state_root=hash_of("state", state),
        validators_hash=hash_of("validators"),
        next_validators_hash=hash_of("validators"),
    )


def make_payment(
    number: int, *, amounts: tuple[int, ...] = (5,), asset: str = ASSET
) -> Transaction:
    ops = tuple(
        Transfer(
            asset=asset,
            debtor="ALFA/main",
            creditor="BRVO/main",
            amount=amount,
            uetr=hash_of("uetr", number, position)[:16],
            purpose="SUPP",
            reference=f"invoice {number}",
            return_of=None,
            travel_rule_hash=None,
            travel_rule_ack=True,
        )
        for position, amount in enumerate(amounts)
    )
    return make_transaction(number, ops)


def make_capture(number: int, *, amounts: tuple[int, ...] = (5,)) -> Transaction:
    """Return a transaction that takes held money: its operations do not say whose."""
    return make_transaction(
        number, tuple(Capture(hash_of("hold"), amount, None, None, False) for amount in amounts)
    )


def make_transaction(number: int, ops: tuple[Operation, ...]) -> Transaction:
    body = Body(
        version=VERSION,
        chain_id=CHAIN,
        sender="ALFA/main",
        tx_id=number.to_bytes(16, "big"),
        valid_from_ms=0,
        valid_until_ms=10**12,
        ops=ops,
    )
    return decode_transaction(encode_envelope(encode(body), [(b"\1" * 32, bytes(64))]))


class Chain:
    """A growing chain over two accounts; each block pays from one to the other."""

    def __init__(self, *, opening: int = 1_000_000) -> None:
        self.backing = MemoryBacking()
        self.base = Base(self.backing)
        self.genesis = Overlay(self.base)
        self.opening = opening
        self.balances: dict[tuple[str, str], int] = {}
        self._move(ASSET, 0)
        self._write_balances(self.genesis)
        root = self._keep(self.genesis)
        self.genesis_header = replace(make_header(0, bytes(32)), state_root=root)
        self.genesis_digest = compute_digest(self.genesis_header)
        self.header, self.digest = self.genesis_header, self.genesis_digest

    def _keep(self, overlay: Overlay) -> bytes:
        root = commit_state(overlay)
        self.backing.apply(overlay.encode_writes())
        self.base.absorb(overlay)
        return root

    def _write_balances(self, overlay: Overlay) -> None:
        for (asset, account), posted in self.balances.items():
            overlay.put(BALANCES, balance_key(asset, account), replace(NO_BALANCE, posted=posted))

    def _move(self, asset: str, amount: int) -> None:
        debtor, creditor = (asset, "ALFA/main"), (asset, "BRVO/main")
        self.balances[debtor] = self.balances.get(debtor, self.opening) - amount
        self.balances[creditor] = self.balances.get(creditor, 0) + amount

    def next(self, *transactions: Transaction, final_above: int = 0) -> FinalBlock:
        """Return the next block, finalised by the block `final_above` heights above it."""
        height = self.header.height + 1
        overlay = Overlay(self.base)
        postings = []
        for index, tx in enumerate(transactions):
            for position, op in enumerate(tx.body.ops):
                assert isinstance(op, Transfer | Capture)
                asset = op.asset if isinstance(op, Transfer) else ASSET
                self._move(asset, op.amount)
                postings.append(
                    Posting(index, position, asset, "ALFA/main", "BRVO/main", op.amount)
                )
        self._write_balances(overlay)
        ids = IdLog(overlay, height=height)
        for tx in transactions:
            ids.record(tx)
        ids.close()
        root = self._keep(overlay)
        self.header = replace(
            make_header(height, self.digest, txs=len(transactions)), state_root=root
        )
        self.digest = compute_digest(self.header)
        block = Block(self.header, tuple(tx.raw for tx in transactions))
        return FinalBlock(
            header=self.header,
            digest=self.digest,
            block_bytes=encode(block),
            transactions=transactions,
            receipts=tuple(
                Receipt(tx.hash, tx.body.sender, tx.body.tx_id, 0, None) for tx in transactions
            ),
            postings=tuple(postings),
            overlay=overlay,
            finalization=Finalization(
                Proposition(0, height + final_above, height - 1, self.digest), b"\7", (bytes(64),)
            ),
            finalized_height=height + final_above,
        )
