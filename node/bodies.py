"""Block bodies as they come in: decoded once, bound to their digest, and what was verified of them.

A block's digest is the hash of its header alone. So a body counts as *the* body of a digest only
after its transactions hash to the header's `tx_root`; without that check a peer could pair a good
header with other transactions, and a certified block would look invalid here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from atpar.consensus.types import BlockInfo
from atpar.ledger.blocks import BLOCK, HEADER_VERSION, Block, Header, compute_digest
from atpar.ledger.errors import NonCanonical
from atpar.ledger.hashing import HashTag, hash_all
from atpar.ledger.limits import MAX_BLOCK_SIGNATURES
from atpar.ledger.merkle import compute_root
from atpar.ledger.transactions import Transaction, decode_hashed
from atpar.node.limits import MAX_CACHED_BODIES, MAX_CACHED_BODY_BYTES, MAX_VERIFIED_ENVELOPES
from atpar.node.mempool import Mempool


@dataclass(frozen=True, slots=True)
class Body:
    """A decoded block."""

    info: BlockInfo
    block: Block
    transactions: tuple[Transaction, ...] | None
    """None when an envelope is not canonical or there are too many signatures: the block is
    invalid whatever the state."""
    size: int


def decode_body(data: bytes, *, chain_id: bytes, mempool: Mempool) -> Body | None:
    """Return the block of `data`, or None when it is not one canonical block of this chain.

    Transactions that the mempool holds are taken from there, decoded already.
    """
    try:
        block = BLOCK.decode(data)
    except NonCanonical:
        return None
    header = block.header
    if header.version != HEADER_VERSION or header.chain_id != chain_id:
        return None
    if header.tx_count != len(block.transactions):
        return None
    hashes = hash_all(HashTag.TX.value, block.transactions)
    if compute_root(hashes) != header.tx_root:
        return None
    info = describe(header, compute_digest(header))
    return Body(info, block, _decode_transactions(block, hashes, mempool), len(data))


def describe(header: Header, digest: bytes) -> BlockInfo:
    """Return what consensus wants to know of a block."""
    return BlockInfo(
        digest=digest,
        epoch=header.epoch,
        view=header.view,
        height=header.height,
        parent=header.parent,
        proposer=header.proposer,
        timestamp_ms=header.timestamp_ms,
        has_transactions=header.tx_count > 0,
    )


def _decode_transactions(
    block: Block, hashes: list[bytes], mempool: Mempool
) -> tuple[Transaction, ...] | None:
    transactions = []
    signatures = 0
    for raw, tx_hash in zip(block.transactions, hashes, strict=True):
        tx = mempool.get(tx_hash)
        if tx is None:
            try:
                tx = decode_hashed(raw, tx_hash)
            except NonCanonical:
                return None
        signatures += len(tx.signatures)
        if signatures > MAX_BLOCK_SIGNATURES:
            return None
        transactions.append(tx)
    return tuple(transactions)


class BodyCache:
    """Decoded blocks between their arrival and their execution; the oldest make room.

    Losing one costs decoding it again, nothing else.
    """

    def __init__(
        self, *, max_bytes: int = MAX_CACHED_BODY_BYTES, max_count: int = MAX_CACHED_BODIES
    ) -> None:
        self.max_bytes = max_bytes
        self.max_count = max_count
        self.bytes = 0
        self._bodies: dict[bytes, Body] = {}

    def __len__(self) -> int:
        return len(self._bodies)

    def add(self, body: Body) -> None:
        """Keep a body."""
        self.take(body.info.digest)
        self._bodies[body.info.digest] = body
        self.bytes += body.size
        while len(self._bodies) > self.max_count or self.bytes > self.max_bytes:
            self.take(next(iter(self._bodies)))

    def take(self, digest: bytes) -> Body | None:
        """Remove and return a body, or None."""
        body = self._bodies.pop(digest, None)
        if body is not None:
            self.bytes -= body.size
        return body


class VerifiedCache:
    """Hashes of envelopes whose signatures were all checked here, bounded.

    The key is the hash of the exact envelope bytes, signatures included: nothing that a client
    chooses. Two generations, so that forgetting is cheap and what is recent stays.
    """

    def __init__(self, *, max_hashes: int = MAX_VERIFIED_ENVELOPES) -> None:
        self._generation: Final = max(1, max_hashes // 2)
        self._young: set[bytes] = set()
        self._old: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def __contains__(self, tx_hash: object) -> bool:
        return tx_hash in self._young or tx_hash in self._old

    def add(self, tx_hash: bytes) -> None:
        """Remember an envelope."""
        if len(self._young) >= self._generation:
            self._old, self._young = self._young, set()
        self._young.add(tx_hash)

    def add_all(self, tx_hashes: Sequence[bytes]) -> None:
        """Remember many envelopes."""
        if len(self._young) + len(tx_hashes) <= self._generation:
            self._young.update(tx_hashes)
            return
        for tx_hash in tx_hashes:
            self.add(tx_hash)
