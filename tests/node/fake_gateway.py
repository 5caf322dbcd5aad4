"""A gateway over a real ledger and a real store in memory: consensus is the only thing faked.

Envelopes are judged by the ledger's own rules; `produce` puts the pending ones into the next block,
signs its finalization with the validators' keys and commits it to the store.
"""

from collections.abc import Sequence

import trio

from atpar.ledger.certificates import (
    Finalization,
    Proposition,
    compute_quorum,
    compute_vote_bytes,
    encode_bitmap,
)
from atpar.ledger.codec import encode
from atpar.ledger.codes import Code
from atpar.ledger.entry import check_admission
from atpar.ledger.errors import NonCanonical, Refused
from atpar.ledger.execute import Executed, Template, build_block
from atpar.ledger.hashing import SignKind
from atpar.ledger.keys import verify_batch
from atpar.ledger.limits import MAX_TRANSACTION_BYTES
from atpar.ledger.reads import get_tx_record
from atpar.ledger.transactions import Transaction, decode_transaction
from atpar.node.gateway import (
    NodeState,
    NodeStatus,
    PeerInfo,
    PeerState,
    Placement,
    Reader,
    Submission,
    TransactionState,
    TxStatus,
    ValidatorInfo,
)
from atpar.node.indexes import compute_uetrs
from atpar.node.kv import MemoryKeyValue
from atpar.node.store import FinalBlock, Store, write_genesis
from tests.ledger.world import BANKS, World, key_of, public


class FakeGateway:
    """Implements `node.gateway.Gateway` for tests."""

    def __init__(self, world: World | None = None) -> None:
        self.world = World() if world is None else world
        assert not self.world.executed, "pass a world without blocks; use `run` for history"
        engine = MemoryKeyValue()
        genesis = self.world.genesis
        write_genesis(
            engine,
            chain_id=genesis.chain_id,
            header=genesis.header,
            digest=genesis.digest,
            overlay=genesis.overlay,
        )
        self.store = Store(engine)
        self.pending: dict[bytes, Transaction] = {}
        self.proposed: set[bytes] = set()
        self.refused: dict[bytes, TransactionState] = {}
        self.room = 10_000
        """Most pending transactions."""
        self.state = NodeState.READY
        self.alarms: tuple[str, ...] = ()
        self.submitted: list[list[bytes]] = []
        self.stall: trio.Event | None = None
        """While set and not fired, `submit` does not answer."""
        self.produces_at_once = False
        """Whether whoever waits for finality makes the next block."""
        self._news = trio.Event()

    @property
    def reader(self) -> Reader:
        return self.store

    # ---- blocks

    def produce(self, *, final: bool = True) -> Executed:
        """Make the next block of all pending transactions; commit it if it is to be final."""
        world = self.world
        world.now_ms = max(world.now_ms, world.header.timestamp_ms + 1)
        template = Template(
            epoch=world.header.epoch,
            view=world.header.view + 1,
            parent=world.header,
            parent_digest=world.digest,
            timestamp_ms=world.now_ms,
            proposer=BANKS[(world.header.view + 1) % 4],
        )
        built, _ = build_block(world.view, template, self.pending.values(), chain_id=world.chain_id)
        self.proposed = {tx.hash for tx in built.transactions}
        if final:
            self.finalize(built)
        return built

    def finalize(self, *built: Executed) -> None:
        """Adopt blocks, commit them under one finalization of the last, and tell waiters."""
        world = self.world
        for block in built:
            world.adopt(block)
        finalization = self.sign_finalization(built[-1])
        self.store.commit(
            [
                FinalBlock(
                    header=block.header,
                    digest=block.digest,
                    block_bytes=encode(block.block),
                    transactions=block.transactions,
                    receipts=block.receipts,
                    postings=block.postings,
                    overlay=block.overlay,
                    finalization=finalization,
                    finalized_height=built[-1].header.height,
                )
                for block in built
            ]
        )
        for block in built:
            for tx in block.transactions:
                self.pending.pop(tx.hash, None)
                self.proposed.discard(tx.hash)
        for tx in list(self.pending.values()):
            if tx.body.valid_until_ms < world.header.timestamp_ms:
                del self.pending[tx.hash]
                self.refused[tx.hash] = self._make_state(tx, TxStatus.EXPIRED, Code.EXPIRED)
        self._news.set()
        self._news = trio.Event()

    def sign_finalization(self, block: Executed) -> Finalization:
        header = block.header
        proposition = Proposition(header.epoch, header.view, header.view - 1, block.digest)
        message = compute_vote_bytes(SignKind.FINALIZE, self.world.chain_id, proposition)
        signers = range(compute_quorum(len(BANKS)))
        signatures = tuple(
            key_of(f"{BANKS[index]}-vote").sign(message).signature for index in signers
        )
        return Finalization(proposition, encode_bitmap(list(signers), len(BANKS)), signatures)

    def run(self, *transactions: Transaction) -> list[Code]:
        """Put transactions into one final block and return their codes."""
        for tx in transactions:
            self.pending[tx.hash] = tx
        built = self.produce()
        codes = {receipt.tx_hash: Code(receipt.code) for receipt in built.receipts}
        return [codes[tx.hash] for tx in transactions]

    def fund(self, account: str, amount: int, asset: str = "HKD.JDCL") -> None:
        """Attest enough, and mint: three final blocks."""
        world = self.world
        attest = world.attestation(world.backing_of(asset) + amount, asset)
        assert self.run(world.make(attest, sender="CUST/reserve")) == [Code.OK]
        countersign = world.countersignature(asset)
        assert self.run(world.make(countersign, sender="AUDT/sign")) == [Code.OK]
        mint = world.mint(account, amount, asset)
        assert self.run(world.make(mint, sender="JDCL/mint")) == [Code.OK]

    # ---- the gateway

    async def submit(self, envelopes: Sequence[bytes]) -> list[Submission]:
        self.submitted.append(list(envelopes))
        if self.stall is not None:
            await self.stall.wait()
        await trio.lowlevel.checkpoint()
        return [self._submit_one(raw) for raw in envelopes]

    def _submit_one(self, raw: bytes) -> Submission:
        if self.state is not NodeState.READY:
            return TransactionState(
                tx_hash=b"",
                status=TxStatus.REJECTED,
                code=Code.NOT_READY,
                message="catching up",
                retry_after_ms=1_000,
            )
        try:
            tx = decode_transaction(raw)
        except NonCanonical as error:
            code = Code.TOO_LARGE if len(raw) > MAX_TRANSACTION_BYTES else Code.NON_CANONICAL
            return TransactionState(b"", TxStatus.REJECTED, code=code, message=str(error))
        try:
            return self._admit(tx)
        except Refused as refusal:
            return self._make_state(tx, TxStatus.REJECTED, refusal.code, refusal.message)

    def _admit(self, tx: Transaction) -> Submission:
        body = tx.body
        used = get_tx_record(self.world.view, body.sender, body.tx_id)
        if used is not None:
            if used.body_hash == tx.body_hash:
                return self._look_up(used.tx_hash)
            raise Refused(Code.ID_REUSED, f"id {body.tx_id.hex()} was used")
        for other in self.pending.values():
            if (other.body.sender, other.body.tx_id) == (body.sender, body.tx_id):
                if other.body_hash == tx.body_hash:
                    return self._look_up(other.hash)
                raise Refused(Code.ID_REUSED, f"id {body.tx_id.hex()} is pending")
        check_admission(self.world.view, tx, chain_id=self.world.chain_id, now_ms=self.world.now_ms)
        if not all(verify_batch(tx.compute_triples())):
            raise Refused(Code.BAD_SIGNATURE, "a signature does not verify")
        if len(self.pending) >= self.room:
            return self._reject(tx, Code.MEMPOOL_FULL, "no room", 1_500)
        self.pending[tx.hash] = tx
        return self._make_state(tx, TxStatus.ACCEPTED)

    def _reject(self, tx: Transaction, code: Code, message: str, retry_ms: int) -> Submission:
        return TransactionState(
            tx_hash=tx.hash,
            status=TxStatus.REJECTED,
            sender=tx.body.sender,
            tx_id=tx.body.tx_id,
            code=code,
            message=message,
            retry_after_ms=retry_ms,
        )

    def _make_state(
        self, tx: Transaction, status: TxStatus, code: Code = Code.OK, message: str = ""
    ) -> TransactionState:
        return TransactionState(
            tx_hash=tx.hash,
            status=status,
            sender=tx.body.sender,
            tx_id=tx.body.tx_id,
            valid_until_ms=tx.body.valid_until_ms,
            code=code,
            message=message,
        )

    def _look_up(self, tx_hash: bytes) -> TransactionState:
        place = self.store.find_transaction(tx_hash)
        if place is not None:
            return self._make_final(*place)
        if tx_hash in self.pending:
            proposed = tx_hash in self.proposed
            status = TxStatus.PROPOSED if proposed else TxStatus.ACCEPTED
            return self._make_state(self.pending[tx_hash], status)
        return self.refused.get(tx_hash, TransactionState(tx_hash, TxStatus.UNKNOWN))

    def _make_final(self, height: int, index: int) -> TransactionState:
        tx = self.store.get_transaction(height, index)
        header, receipts = self.store.get_header(height), self.store.get_receipts(height)
        assert tx is not None
        assert header is not None
        assert receipts is not None
        place = Placement(height, index, header.timestamp_ms, receipts[index])
        return TransactionState(
            tx_hash=tx.hash,
            status=TxStatus.FINAL,
            sender=tx.body.sender,
            tx_id=tx.body.tx_id,
            valid_until_ms=tx.body.valid_until_ms,
            code=Code(receipts[index].code),
            placement=place,
        )

    async def wait_final(
        self, tx_hashes: Sequence[bytes], *, timeout_s: float
    ) -> list[TransactionState]:
        if self.produces_at_once and self.pending:
            self.produce()
        ends = {TxStatus.FINAL, TxStatus.REJECTED, TxStatus.EXPIRED}
        with trio.move_on_after(timeout_s):
            while any(self._look_up(tx_hash).status not in ends for tx_hash in tx_hashes):
                await self._news.wait()
        return [self._look_up(tx_hash) for tx_hash in tx_hashes]

    async def lookup(self, tx_hashes: Sequence[bytes]) -> list[TransactionState]:
        return [self._look_up(tx_hash) for tx_hash in tx_hashes]

    async def find(self, *, sender: str, tx_id: bytes) -> TransactionState | None:
        place = self.store.find_by_id(sender, tx_id)
        if place is not None:
            return self._make_final(*place)
        for tx in self.pending.values():
            if (tx.body.sender, tx.body.tx_id) == (sender, tx_id):
                return self._look_up(tx.hash)
        return None

    async def find_by_uetr(self, uetr: bytes) -> list[TransactionState]:
        found = [self._make_final(*place) for place in self.store.find_by_uetr(uetr, limit=100)]
        held = [tx.hash for tx in self.pending.values() if uetr in compute_uetrs(tx)]
        return found + [self._look_up(tx_hash) for tx_hash in held]

    async def status(self) -> NodeStatus:
        header = self.world.header
        return NodeStatus(
            chain_id=self.world.chain_id,
            chain_name="test-world",
            participant="ALFA",
            is_validator=True,
            state=self.state,
            detail="" if self.state is NodeState.READY else "fetching blocks",
            epoch=header.epoch,
            view=header.view + 1,
            height=header.height,
            target_height=header.height,
            digest=self.world.digest,
            timestamp_ms=header.timestamp_ms,
            state_root=header.state_root,
            validators=4,
            quorum=3,
            connected_validators=4,
            mempool_transactions=len(self.pending),
            mempool_bytes=sum(len(tx.raw) for tx in self.pending.values()),
            alarms=self.alarms,
            started_at_ms=self.world.genesis.header.timestamp_ms,
            version="0.1.0",
        )

    async def validators(self) -> list[ValidatorInfo]:
        return [
            ValidatorInfo(index, bank, public(f"{bank}-vote"), bank == "ALFA", True, 7, 1_000, 0)
            for index, bank in enumerate(BANKS)
        ]

    async def peers(self) -> list[PeerInfo]:
        return [
            PeerInfo(bank, "127.0.0.1:1", PeerState.CONNECTED, 1_000, 0, 0) for bank in BANKS[1:]
        ]

    async def wait_height_above(self, height: int) -> int:
        while self.store.position.height <= height:
            await self._news.wait()
        return self.store.position.height
