"""The API's gateway inside the node's own process: submissions in, states and waits out.

It knows of a transaction what the node knows: final ones from the store (the last few thousand
from memory), pending ones from the mempool, and for a while those that were refused or expired
here. Nothing is reported final before its block is on the disk and readable with its proof.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

import trio

from atpar.ledger.blocks import Block
from atpar.ledger.codes import Code
from atpar.ledger.operations import Transfer
from atpar.ledger.receipts import Receipt
from atpar.ledger.records import VALIDATORS
from atpar.ledger.transactions import Transaction, decode_transaction, id_key
from atpar.node import actions
from atpar.node.admission import Admission, Outcome, Result
from atpar.node.clock import Clock
from atpar.node.finals import RecentFinals, describe_final
from atpar.node.gateway import (
    NodeState,
    NodeStatus,
    PeerInfo,
    PeerState,
    Reader,
    TransactionState,
    TxStatus,
    ValidatorInfo,
)
from atpar.node.gossip import Gossip
from atpar.node.limits import (
    ADMISSION_SLICE,
    CLIENTS_YIELD_S,
    MAX_ALARMS_SHOWN,
    MAX_DECODED_BLOCKS,
    MAX_PENDING_SCAN_SLICE,
    MAX_RECENT_STATES,
    MAX_SUBMISSIONS_ADMITTED,
    MAX_SUBMISSIONS_WAITING,
    MAX_UETR_ANSWERS,
    RETRY_AFTER_MS,
)
from atpar.node.metrics import Metrics
from atpar.node.store import FinalBlock, Store
from atpar.node.transport import Network, Peer
from atpar.node.validator import Validator
from atpar.node.verifier import Priority
from atpar.node.votewatch import VoteWatch

T = TypeVar("T")

_SETTLED: Final = frozenset({TxStatus.FINAL, TxStatus.REJECTED, TxStatus.EXPIRED})


class _Waiter:
    """One call of `wait_final`: the hashes that are still open."""

    __slots__ = ("done", "open")

    def __init__(self, hashes: Iterable[bytes]) -> None:
        self.open = set(hashes)
        self.done = trio.Event()


class LocalGateway:
    """Implements `gateway.Gateway` for the API, and the driver's `Observer`."""

    def __init__(
        self,
        *,
        validator: Validator,
        store: Store,
        admission: Admission,
        gossip: Gossip,
        network: Network,
        votes: VoteWatch,
        clock: Clock,
        metrics: Metrics,
        chain_name: str,
        version: str,
    ) -> None:
        self.state = NodeState.STARTING
        """Set by the service; `CATCHING_UP` stands for running, `status` says if it is ready."""
        self.detail = "opening its data"
        self.update_peers: Callable[[], None] = lambda: None
        """Set by the service: brings the network in line with the final state."""
        self._validator = validator
        self._store = store
        self._admission = admission
        self._gossip = gossip
        self._network = network
        self._votes = votes
        self._clock = clock
        self._metrics = metrics
        self._chain_name = chain_name
        self._version = version
        self._started_at_ms = clock.wall_ms()
        self._recent: OrderedDict[bytes, TransactionState] = OrderedDict()
        """The last ones that were refused or expired here."""
        self._finals = RecentFinals()
        self._blocks: OrderedDict[int, tuple[Block, tuple[Receipt, ...]]] = OrderedDict()
        self._waiters: dict[bytes, list[_Waiter]] = {}
        self._admitted_at: OrderedDict[bytes, float] = OrderedDict()
        self._submissions = trio.CapacityLimiter(MAX_SUBMISSIONS_ADMITTED)
        self._alarms: OrderedDict[str, None] = OrderedDict()
        self._new_height = trio.Event()

    @property
    def reader(self) -> Reader:
        """Read access to what is final."""
        return self._store

    # ---- submitting

    async def submit(self, envelopes: Sequence[bytes]) -> list[TransactionState]:
        """Admit envelopes to the mempool; return one answer per envelope, in order."""
        if self.state is not NodeState.CATCHING_UP:
            return [self._state_not_ready(raw) for raw in envelopes]
        if self._submissions.statistics().tasks_waiting >= MAX_SUBMISSIONS_WAITING:
            return [_state_busy(raw) for raw in envelopes]
        async with self._submissions:
            # What peers pass on may stand in the next block: so it goes first, for a while.
            with trio.move_on_after(CLIENTS_YIELD_S):
                await self._network.gossip_inbox.wait_empty()
            outcomes = await self._admission.admit(
                envelopes, Priority.CLIENTS, on_held=self._note_held
            )
        for outcome in outcomes:
            if outcome.result not in (Result.ADMITTED, Result.KNOWN):
                self._metrics.refused.labels(outcome.code.name).inc()
        states = []
        for position, outcome in enumerate(outcomes):
            await _yield_now_and_then(position)
            states.append(self._describe(outcome))
        return states

    def _note_held(self, transactions: list[Transaction]) -> None:
        """Pass on what clients brought: a block of it finds its signatures checked elsewhere."""
        now = trio.current_time()
        for tx in transactions:
            self._recent.pop(tx.hash, None)
            _remember(self._admitted_at, tx.hash, now)
        self._gossip.announce(transactions)

    def _describe(self, outcome: Outcome) -> TransactionState:
        """Return the state that answers one submitted envelope."""
        tx = outcome.transaction
        match outcome.result:
            case Result.ADMITTED:
                assert tx is not None
                return _pend(tx, TxStatus.ACCEPTED)
            case Result.KNOWN:
                assert tx is not None
                return self._look_up(outcome.first, fallback=tx)
            case Result.NO_ROOM:
                return _reject(tx, outcome.code, outcome.message, retry_after_ms=RETRY_AFTER_MS)
            case Result.REFUSED:
                state = _reject(tx, outcome.code, outcome.message)
                if tx is not None and outcome.code is not Code.ID_REUSED:
                    self._settle(tx.hash, state)
                return state

    def _state_not_ready(self, raw: bytes) -> TransactionState:
        del raw  # nothing in it can be judged now
        message = f"the node is {self.state.value}: {self.detail}"
        return _reject(None, Code.NOT_READY, message, retry_after_ms=RETRY_AFTER_MS)

    # ---- what is known

    async def lookup(self, tx_hashes: Sequence[bytes]) -> list[TransactionState]:
        """Return what is known of each, in order; UNKNOWN where nothing is."""
        states = []
        for position, tx_hash in enumerate(tx_hashes):
            await _yield_now_and_then(position)
            states.append(self._look_up(tx_hash))
        return states

    def _look_up(self, tx_hash: bytes, *, fallback: Transaction | None = None) -> TransactionState:
        final = self._finals.find(tx_hash)
        if final is not None:
            return final
        recent = self._recent.get(tx_hash)
        if recent is not None and recent.status is TxStatus.FINAL:
            return recent  # of another envelope with this body
        place = self._store.find_transaction(tx_hash)
        if place is not None:
            return self._state_final(*place)
        block = self._validator.find_final(tx_hash)
        if block is not None:
            # Final, but its proof cannot be read yet: a moment more.
            tx = next(tx for tx in block.transactions if tx.hash == tx_hash)
            return _pend(tx, TxStatus.PROPOSED)
        held = self._validator.mempool.get(tx_hash)
        if held is not None:
            is_proposed = self._validator.is_proposed(tx_hash)
            return _pend(held, TxStatus.PROPOSED if is_proposed else TxStatus.ACCEPTED)
        if recent is not None:
            return recent
        if fallback is not None:
            return _pend(fallback, TxStatus.UNKNOWN)
        return TransactionState(tx_hash, TxStatus.UNKNOWN)

    def _state_final(self, height: int, index: int) -> TransactionState:
        """Return the state of an executed transaction, from the disk."""
        block, receipts = self._read_block(height)
        tx = decode_transaction(block.transactions[index])
        return describe_final(
            block.header, index, receipts[index], valid_until_ms=tx.body.valid_until_ms
        )

    def _read_block(self, height: int) -> tuple[Block, tuple[Receipt, ...]]:
        """Return a final block with its receipts; the last few are kept decoded."""
        found = self._blocks.get(height)
        if found is None:
            block, receipts = self._store.get_block(height), self._store.get_receipts(height)
            assert block is not None, f"the index names height {height}, which has no block"
            assert receipts is not None, f"the index names height {height}, which has no receipts"
            found = self._blocks[height] = block, receipts
            while len(self._blocks) > MAX_DECODED_BLOCKS:
                self._blocks.popitem(last=False)
        return found

    async def find(self, *, sender: str, tx_id: bytes) -> TransactionState | None:
        """Return the transaction of a sender with this id, executed or pending; None if none."""
        place = self._store.find_by_id(sender, tx_id)
        if place is not None:
            return self._state_final(*place)
        held = self._validator.mempool.find(id_key(sender, tx_id))
        return None if held is None else self._look_up(held.hash)

    async def find_by_uetr(self, uetr: bytes) -> list[TransactionState]:
        """Return the transactions, executed or pending, with a transfer of this UETR."""
        places = self._store.find_by_uetr(uetr, limit=MAX_UETR_ANSWERS)
        states = [self._state_final(*place) for place in places]
        pending = self._validator.mempool.list_pending(limit=len(self._validator.mempool))
        for position, tx in enumerate(pending):
            if position % MAX_PENDING_SCAN_SLICE == MAX_PENDING_SCAN_SLICE - 1:
                await trio.lowlevel.checkpoint()
            if len(states) >= MAX_UETR_ANSWERS:
                break
            if any(isinstance(op, Transfer) and op.uetr == uetr for op in tx.body.ops):
                states.append(self._look_up(tx.hash, fallback=tx))
        return states

    # ---- waiting

    async def wait_final(
        self, tx_hashes: Sequence[bytes], *, timeout_s: float
    ) -> list[TransactionState]:
        """Wait until every one is final, rejected or expired, at most `timeout_s`."""
        waiter = _Waiter(tx_hashes)
        # Registered before anything is looked up: what settles meanwhile is not missed.
        for tx_hash in waiter.open:
            self._waiters.setdefault(tx_hash, []).append(waiter)
        try:
            states = await self.lookup(tx_hashes)
            if any(state.status not in _SETTLED for state in states):
                self._release_settled(waiter, tx_hashes, states)
                if self.state is not NodeState.STOPPING:
                    with trio.move_on_after(timeout_s):
                        await waiter.done.wait()
                states = await self.lookup(tx_hashes)
        finally:
            self._forget_waiter(waiter)
        return states

    def _release_settled(
        self, waiter: _Waiter, tx_hashes: Sequence[bytes], states: Sequence[TransactionState]
    ) -> None:
        """Take what is settled already out of a wait."""
        for tx_hash, state in zip(tx_hashes, states, strict=True):
            if state.status in _SETTLED and tx_hash in waiter.open:
                waiter.open.discard(tx_hash)
                self._remove_waiter(tx_hash, waiter)
        if not waiter.open:
            waiter.done.set()

    async def wait_height_above(self, height: int) -> int:
        """Wait until a block above `height` is final and readable; return the final height."""
        while self._store.position.height <= height:
            await self._new_height.wait()
        return self._store.position.height

    def _forget_waiter(self, waiter: _Waiter) -> None:
        for tx_hash in waiter.open:
            self._remove_waiter(tx_hash, waiter)

    def _remove_waiter(self, tx_hash: bytes, waiter: _Waiter) -> None:
        waiters = self._waiters[tx_hash]
        waiters.remove(waiter)
        if not waiters:
            del self._waiters[tx_hash]

    def _settle(self, tx_hash: bytes, state: TransactionState) -> None:
        """Remember a state that will not change, and end the waits for it."""
        _remember(self._recent, tx_hash, state)
        self._end_waits(tx_hash)

    def _end_waits(self, tx_hash: bytes) -> None:
        for waiter in self._waiters.pop(tx_hash, ()):
            waiter.open.discard(tx_hash)
            if not waiter.open:
                waiter.done.set()

    # ---- the node

    async def status(self) -> NodeStatus:
        """Return the node's own state."""
        progress = self._validator.progress
        voters = self._validator.epoch_start.validators
        own = self._validator.config.participant
        position = self._store.position
        header = self._store.get_header(position.height)
        assert header is not None, f"no header at the final height {position.height}"
        connected = sum(code in voters.indexes for code in self._network.connected)
        state, detail = self._describe_state()
        mempool = self._validator.mempool
        return NodeStatus(
            chain_id=self._validator.config.chain_id,
            chain_name=self._chain_name,
            participant=own,
            is_validator=own in voters.indexes,
            state=state,
            detail=detail,
            epoch=progress.epoch,
            view=progress.view,
            height=position.height,
            target_height=max(progress.target_height, position.height),
            digest=position.digest,
            timestamp_ms=header.timestamp_ms,
            state_root=header.state_root,
            validators=voters.size,
            quorum=voters.quorum,
            connected_validators=connected + (own in voters.indexes),
            mempool_transactions=len(mempool),
            mempool_bytes=mempool.bytes,
            alarms=tuple(self._alarms),
            started_at_ms=self._started_at_ms,
            version=self._version,
        )

    def _describe_state(self) -> tuple[NodeState, str]:
        """Return whether the node can serve, and a sentence on it."""
        if self._validator.halted is not None:
            return NodeState.HALTED, self._validator.halted
        if self.state is not NodeState.CATCHING_UP:
            return self.state, self.detail
        progress = self._validator.progress
        if progress.is_ready:
            return NodeState.READY, "following the chain"
        if progress.target_height > progress.final_height:
            detail = f"at height {progress.final_height} of {progress.target_height}"
        else:
            voters = self._validator.epoch_start.validators
            heard = sum(code in voters.indexes for code in self._network.connected)
            heard += self._validator.config.participant in voters.indexes
            detail = f"connected to {heard} of {voters.size} validators, needs {voters.quorum}"
        return NodeState.CATCHING_UP, detail

    async def validators(self) -> list[ValidatorInfo]:
        """Return the current voting set, by index."""
        own = self._validator.config.participant
        connected = set(self._network.connected)
        return [
            ValidatorInfo(
                index=index,
                participant=member.participant,
                vote_key=member.vote_key,
                is_self=member.participant == own,
                is_connected=member.participant in connected or member.participant == own,
                last_vote_view=self._votes.get(member.participant).last_view,
                last_vote_ms=self._votes.get(member.participant).last_ms,
                missed_votes=self._votes.get(member.participant).missed,
            )
            for index, member in enumerate(self._validator.epoch_start.validators.members)
        ]

    async def peers(self) -> list[PeerInfo]:
        """Return the registered peers, by participant."""
        peers = sorted(self._network.peers.values(), key=lambda peer: peer.participant)
        return [self._describe_peer(peer) for peer in peers]

    def _describe_peer(self, peer: Peer) -> PeerInfo:
        if peer.is_connected:
            state = PeerState.CONNECTED
        elif peer.is_banned:
            state = PeerState.BANNED
        elif peer.is_dialing:
            state = PeerState.CONNECTING
        else:
            state = PeerState.DISCONNECTED
        age_s = trio.current_time() - peer.since_s
        return PeerInfo(
            participant=peer.participant,
            address=peer.spec.address,
            state=state,
            since_ms=self._clock.wall_ms() - int(age_s * 1_000),
            queued_bytes=peer.queue.bytes,
            dropped_messages=sum(peer.counters.dropped.values()),
        )

    def stop(self) -> None:
        """Refuse submissions from now on and end all waits with what is known."""
        self.state, self.detail = NodeState.STOPPING, "shutting down"
        for waiters in list(self._waiters.values()):
            for waiter in waiters:
                waiter.done.set()

    # ---- what the driver reports

    def on_final(self, blocks: Sequence[FinalBlock]) -> None:
        """Blocks are final and on the disk."""
        for block in blocks:
            self._finals.add(block)
            self._count_final(block)
            if self._waiters:
                for receipt in block.receipts:
                    self._end_waits(receipt.tx_hash)
            self._votes.note_final(block)
            if VALIDATORS.id in block.overlay.tables:
                self.update_peers()
        new_height, self._new_height = self._new_height, trio.Event()
        new_height.set()

    def _count_final(self, block: FinalBlock) -> None:
        for code, count in Counter(receipt.code for receipt in block.receipts).items():
            self._metrics.transactions.labels(Code(code).name).inc(count)
        if not self._admitted_at:
            return
        now = trio.current_time()
        for receipt in block.receipts:
            admitted_at = self._admitted_at.pop(receipt.tx_hash, None)
            if admitted_at is not None:
                self._metrics.finality.observe(now - admitted_at)

    def on_dropped(self, dropped: actions.DropTransaction) -> None:
        """An admitted transaction left the mempool and will not run from here."""
        tx = dropped.transaction
        self._admitted_at.pop(tx.hash, None)
        if dropped.code is Code.EXPIRED:
            self._metrics.mempool_expired.inc()
            state = _reject(tx, dropped.code, dropped.message, status=TxStatus.EXPIRED)
        elif dropped.code is Code.OK:
            # Another envelope of the same body took its place: that one's fate is the answer.
            place = self._store.find_by_id(tx.body.sender, tx.body.tx_id)
            if place is None:
                return
            state = self._state_final(*place)
        else:
            state = _reject(tx, dropped.code, dropped.message)
        self._settle(tx.hash, state)

    def on_view(self, entered: actions.EnterView) -> None:
        """A view began: its leader hears again of what has waited here for long."""
        if entered.leader != self._validator.config.participant:
            self._validator.doubt(self._gossip.remind(entered.leader))

    def on_epoch(self, _opened: actions.OpenEpoch) -> None:
        """An epoch began: its members and those who have left are other peers."""
        self.update_peers()

    def on_alarm(self, alarm: actions.Alarm) -> None:
        """Something needs a person: keep it in sight until the node is started again."""
        self._alarms[f"{alarm.kind.value}: {alarm.message}"] = None
        while len(self._alarms) > MAX_ALARMS_SHOWN:
            self._alarms.popitem(last=False)

    def on_halt(self, halt: actions.Halt) -> None:
        """The node stops for safety."""
        self.state, self.detail = NodeState.HALTED, halt.message


async def _yield_now_and_then(position: int) -> None:
    """Let other tasks run every few items of a long list."""
    if position % ADMISSION_SLICE == ADMISSION_SLICE - 1:
        await trio.lowlevel.checkpoint()


def _remember(book: OrderedDict[bytes, T], key: bytes, value: T) -> None:
    """Keep a value under a key, and not more than the bound of the book."""
    book[key] = value
    while len(book) > MAX_RECENT_STATES:
        book.popitem(last=False)


def _state_busy(raw: bytes) -> TransactionState:
    del raw  # looking at it would be the work that there is no room for
    message = "too many submissions are waiting; send the same bytes again later"
    return _reject(None, Code.MEMPOOL_FULL, message, retry_after_ms=RETRY_AFTER_MS)


def _pend(tx: Transaction, status: TxStatus) -> TransactionState:
    return TransactionState(
        tx_hash=tx.hash,
        status=status,
        sender=tx.body.sender,
        tx_id=tx.body.tx_id,
        valid_until_ms=tx.body.valid_until_ms,
    )


def _reject(
    tx: Transaction | None,
    code: Code,
    message: str,
    *,
    status: TxStatus = TxStatus.REJECTED,
    retry_after_ms: int | None = None,
) -> TransactionState:
    return TransactionState(
        tx_hash=b"" if tx is None else tx.hash,
        status=status,
        sender=None if tx is None else tx.body.sender,
        tx_id=None if tx is None else tx.body.tx_id,
        valid_until_ms=None if tx is None else tx.body.valid_until_ms,
        code=code,
        message=message,
        retry_after_ms=retry_after_ms,
    )
