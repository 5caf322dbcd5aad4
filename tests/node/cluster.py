"""Validators in one process under virtual time: real ledger, journal bytes and store encoding.

One event queue, no threads, no randomness but a seed. Disks lose what was not synced when a node
crashes. `Cluster.check` runs after every event: no two nodes ever finalise different blocks.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from atpar.consensus.events import CommitSynced, PeerConnected, PeerDisconnected, Ticked
from atpar.consensus.messages import Lane, encode_message
from atpar.consensus.types import EpochStart, Timing
from atpar.ledger.genesis import GenesisDocument
from atpar.ledger.keys import verify, verify_batch
from atpar.ledger.transactions import Transaction
from atpar.node import actions
from atpar.node.actions import Action, Input
from atpar.node.datadir import decode_records, make_first_records, make_opening, read_position
from atpar.node.journal import Journal, create_journal, open_journal
from atpar.node.kv import MemoryKeyValue, Write
from atpar.node.mempool import Added, Mempool
from atpar.node.serving import answer
from atpar.node.store import FinalBlock, Store, write_genesis
from atpar.node.validator import Validator, ValidatorConfig
from tests.ledger.world import START_MS, World, key_of, public
from tests.sim.disk import FakeDisk, PowerLost

PATH = Path("/data/votes.journal")


@dataclass
class Node:
    """One machine: what survives a crash, and the validator while it runs."""

    code: str
    cluster: "Cluster"
    disk: FakeDisk = field(default_factory=FakeDisk)
    engine: MemoryKeyValue = field(default_factory=MemoryKeyValue)
    boots: int = 0
    validator: Validator | None = None
    store: Store | None = None
    journal: Journal | None = None
    queue: deque[Input] = field(default_factory=deque)
    planned_ms: int | None = None
    """When its next turn is planned anyway."""
    is_busy: bool = False
    finals: list[FinalBlock] = field(default_factory=list)
    """Everything this node reported as final, over all boots."""
    dropped: list[actions.DropTransaction] = field(default_factory=list)
    alarms: list[actions.Alarm] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)
    """(peer, reason) of every DropPeer."""
    opened: list[EpochStart] = field(default_factory=list)
    """Every epoch that opened here, over all boots."""
    dismissed: list[str] = field(default_factory=list)
    next_keys: list[str] = field(default_factory=list)
    """Names of vote keys that take over in a later epoch."""
    halt: actions.Halt | None = None
    sent: list[tuple[int, str, bytes]] = field(default_factory=list)
    """(time, peer or "*", bytes) of everything that left."""

    @property
    def is_up(self) -> bool:
        return self.validator is not None

    @property
    def running(self) -> Validator:
        assert self.validator is not None
        return self.validator

    @property
    def height(self) -> int:
        return Store(self.engine).position.height


def make_signer(name: str) -> Callable[[bytes], bytes]:
    return lambda data: key_of(name).sign(data).signature


class CrashingKeyValue(MemoryKeyValue):
    """A store whose machine loses power at a chosen batch, before or after it took effect."""

    def __init__(self, values: dict[bytes, bytes], *, crash_at: int, keeps: bool) -> None:
        super().__init__(values)
        self.crash_at = crash_at
        self.keeps = keeps
        self.batches = 0

    def write(self, batch: Iterable[Write]) -> None:
        number, self.batches = self.batches, self.batches + 1
        crashes = number == self.crash_at
        if not crashes or self.keeps:
            super().write(batch)
        if crashes:
            raise PowerLost


class Cluster:
    """Nodes and the network between them."""

    def __init__(
        self,
        *,
        seed: int = 0,
        latency_ms: tuple[int, int] = (1, 3),
        fsync_ms: int = 1,
        commit_ms: int = 2,
        timing: Timing | None = None,
        codes: Sequence[str] = ("ALFA", "BRVO", "CHRL", "DLTA"),
        document: GenesisDocument | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.world = World(document)
        self.now_ms = 0
        self.latency_ms = latency_ms
        self.fsync_ms = fsync_ms
        self.commit_ms = commit_ms
        self.timing = timing or Timing()
        self.events: list[tuple[int, int, Callable[[], None]]] = []
        self.counter = 0
        self.cuts: set[tuple[str, str]] = set()
        self.crash_tail: int | None = 0
        """Bytes of an unsynced append that survive when a disk loses power by itself."""
        self.chain: dict[int, bytes] = {}
        """height -> digest, as first finalised by anybody."""
        self.nodes = {code: self._make_node(code) for code in codes}

    def add(self, code: str) -> Node:
        """Set up another machine, with the data that `node init` makes; `start` it."""
        self.nodes[code] = self._make_node(code)
        return self.nodes[code]

    def _make_node(self, code: str) -> Node:
        node = Node(code, self)
        genesis = self.world.genesis
        write_genesis(
            node.engine,
            chain_id=genesis.chain_id,
            header=genesis.header,
            digest=genesis.digest,
            overlay=genesis.overlay,
        )
        create_journal(PATH, self._opening(code), make_first_records(genesis), disk=node.disk)
        return node

    def _opening(self, code: str) -> object:
        return make_opening(
            chain_id=self.world.chain_id, participant=code, vote_key=public(f"{code}-vote")
        )

    # ---- time

    @property
    def wall_ms(self) -> int:
        return START_MS + 60_000 + self.now_ms

    def at(self, time_ms: int, action: Callable[[], None]) -> None:
        self.counter += 1
        heapq.heappush(self.events, (time_ms, self.counter, action))

    def after(self, delay_ms: int, action: Callable[[], None]) -> None:
        self.at(self.now_ms + delay_ms, action)

    def run(self, duration_ms: int, *, until: Callable[[], bool] | None = None) -> bool:
        """Run for so long, or until a condition holds; return whether it did."""
        end = self.now_ms + duration_ms
        while True:
            if until is not None and until():
                return True
            if not self.events or self.events[0][0] > end:
                self.now_ms = end
                return until is None
            self.now_ms, _, action = heapq.heappop(self.events)
            action()

    # ---- machines

    def start(self, *codes: str) -> None:
        for code in codes or tuple(self.nodes):
            self._boot(self.nodes[code])

    def _boot(self, node: Node) -> None:
        node.boots += 1
        node.store = Store(node.engine)
        node.journal, found = open_journal(PATH, self._opening(node.code), disk=node.disk)
        key = key_of(f"{node.code}-vote")
        next_keys = {public(name): make_signer(name) for name in node.next_keys}
        node.validator = Validator(
            ValidatorConfig(
                chain_id=self.world.chain_id,
                participant=node.code,
                timing=self.timing,
                sign=lambda data: key.sign(data).signature,
                vote_key=bytes(key.verify_key),
                next_keys=next_keys,
                verify=verify,
            ),
            backing=node.store,
            position=read_position(node.store),
            records=decode_records(found),
            mempool=Mempool(),
        )
        node.queue.clear()
        node.is_busy = False
        node.planned_ms = None
        started = node.validator.start(now_ms=self.now_ms, wall_ms=self.wall_ms)
        self._finish(node, started)
        for other in self.nodes.values():
            if other is not node and other.is_up and (node.code, other.code) not in self.cuts:
                self._connect(node, other)

    def _connect(self, one: Node, other: Node) -> None:
        self._put(one, PeerConnected(other.code))
        self._put(other, PeerConnected(one.code))

    def crash(self, *codes: str, tail: int | None = 0) -> None:
        """Stop nodes at once; of each unsynced append, `tail` bytes survive (None: all)."""
        for code in codes or tuple(self.nodes):
            node = self.nodes[code]
            node.validator = node.store = node.journal = None
            node.disk = node.disk.survive(tail=tail)
            node.engine = MemoryKeyValue(node.engine.values)
            for other in self.nodes.values():
                if other.is_up:
                    self._put(other, PeerDisconnected(code))

    def cut(self, *codes: str) -> None:
        """Separate these nodes from all others."""
        for one in codes:
            for other in self.nodes:
                if other not in codes:
                    self.cuts |= {(one, other), (other, one)}
                    for a, b in ((one, other), (other, one)):
                        if self.nodes[a].is_up:
                            self._put(self.nodes[a], PeerDisconnected(b))

    def heal(self) -> None:
        cuts, self.cuts = sorted(self.cuts), set()
        for one, other in cuts:
            if one < other and self.nodes[one].is_up and self.nodes[other].is_up:
                self._connect(self.nodes[one], self.nodes[other])

    # ---- turns

    def _put(self, node: Node, given: Input) -> None:
        node.queue.append(given)
        self._schedule(node)

    def _schedule(self, node: Node) -> None:
        self._plan_at(node, self.now_ms)

    def _plan_at(self, node: Node, time_ms: int) -> None:
        if node.planned_ms is None or time_ms < node.planned_ms:
            node.planned_ms = time_ms
            boot = node.boots
            self.at(time_ms, lambda: self._turn(node, boot))

    def _turn(self, node: Node, boot: int) -> None:
        if not node.is_up or node.boots != boot or node.planned_ms != self.now_ms:
            return
        node.planned_ms = None
        if node.is_busy:
            return
        validator = node.running
        decided: list[Action] = []
        had_input = bool(node.queue)
        while node.queue:
            given = node.queue.popleft()
            decided += validator.handle(given, now_ms=self.now_ms, wall_ms=self.wall_ms)
        if not had_input and validator.has_work:
            decided += validator.work(now_ms=self.now_ms, wall_ms=self.wall_ms)
        deadline = validator.deadline_ms
        if deadline is not None and self.now_ms >= deadline and not validator.has_work:
            decided += validator.handle(Ticked(), now_ms=self.now_ms, wall_ms=self.wall_ms)
        self._finish(node, decided)

    def _finish(self, node: Node, decided: list[Action]) -> None:
        """Persist, then (when the fsync returned) everything else."""
        records = [action.record for action in decided if isinstance(action, actions.Persist)]
        assert node.journal is not None
        delay = 0
        if records:
            try:
                node.journal.append(records)
            except PowerLost:
                self.crash(node.code, tail=self.crash_tail)
                return
            delay = self.fsync_ms
        node.is_busy = delay > 0
        boot = node.boots

        def perform() -> None:
            if not node.is_up or node.boots != boot:
                return
            node.is_busy = False
            for action in decided:
                self._perform(node, action)
            self._plan(node)

        if delay:
            self.after(delay, perform)
        else:
            perform()

    def _plan(self, node: Node) -> None:
        """See to it that the next turn comes."""
        if node.halt is not None:
            return
        if node.queue or node.running.has_work:
            self._schedule(node)
            return
        deadline = node.running.deadline_ms
        if deadline is not None:
            self._plan_at(node, max(deadline, self.now_ms))

    def _perform(self, node: Node, action: Action) -> None:  # noqa: C901
        match action:
            case actions.Send():
                node.sent.append((self.now_ms, action.peer, action.data))
                self._transmit(node.code, action.peer, action.lane, action.data)
            case actions.Broadcast():
                node.sent.append((self.now_ms, "*", action.data))
                for peer in self.nodes:
                    if peer != node.code:
                        self._transmit(node.code, peer, action.lane, action.data)
            case actions.VerifySignatures():
                verdicts = verify_batch(action.triples)
                self._later(node, 1, actions.SignaturesVerified(action.digest, verdicts))
            case actions.CommitBlocks():
                self._commit_later(node, action)
            case actions.Serve():
                assert node.store is not None
                data = encode_message(answer(node.store, action.request))
                self._transmit(node.code, action.peer, Lane.FETCH, data)
            case actions.Notify():
                for block in action.blocks:
                    node.finals.append(block)
                    self._check_agreement(block)
            case actions.DropTransaction():
                node.dropped.append(action)
            case actions.DropPeer():
                node.faults.append((action.peer, action.reason))
            case actions.Alarm():
                node.alarms.append(action)
                if action.evidence is not None:
                    Store(node.engine).add_evidence(action.evidence)
            case actions.Halt():
                node.halt = action
            case actions.OpenEpoch():
                node.opened.append(action.start)
            case actions.DismissPeer():
                node.dismissed.append(action.peer)
            case actions.EnterView() | actions.Persist():
                pass

    def _later(self, node: Node, delay_ms: int, given: Input) -> None:
        boot = node.boots

        def deliver() -> None:
            if node.is_up and node.boots == boot:
                self._put(node, given)

        self.after(delay_ms, deliver)

    def _commit_later(self, node: Node, action: actions.CommitBlocks) -> None:
        boot = node.boots

        def write() -> None:
            if node.is_up and node.boots == boot:
                assert node.store is not None
                try:
                    node.store.commit(action.blocks)
                except PowerLost:
                    self.crash(node.code, tail=self.crash_tail)
                    return
                self._put(node, CommitSynced(action.blocks[-1].header.height))

        self.after(self.commit_ms, write)

    def _transmit(self, sender: str, receiver: str, lane: Lane, data: bytes) -> None:
        def deliver() -> None:
            if receiver in self.nodes and (sender, receiver) not in self.cuts:
                node = self.nodes[receiver]
                if node.is_up:
                    self._put(node, actions.PeerFrame(sender, lane, data))

        self.after(self.rng.randint(*self.latency_ms), deliver)

    # ---- transactions and checks

    def submit(self, *txs: Transaction, to: Sequence[str] | None = None) -> list[Added]:
        """Hand admitted transactions to nodes, as gossip would; return the first one's answers."""
        answers: list[Added] = []
        for code in to or tuple(self.nodes):
            node = self.nodes[code]
            if node.is_up:
                added = node.running.admit(txs)
                answers = answers or added
                self._put(node, actions.TransactionsAdmitted(()))
        return answers

    def _check_agreement(self, block: FinalBlock) -> None:
        known = self.chain.setdefault(block.header.height, block.digest)
        assert known == block.digest, f"two final blocks at height {block.header.height}"

    def find_final(self, code: str, tx: Transaction) -> tuple[int, int] | None:
        return Store(self.nodes[code].engine).find_transaction(tx.hash)

    def is_final_everywhere(self, *txs: Transaction) -> bool:
        return all(
            self.find_final(code, tx) is not None
            for code, node in self.nodes.items()
            if node.is_up
            for tx in txs
        )

    def state_roots(self) -> set[tuple[int, bytes]]:
        """Return the distinct (height, state root) of all nodes' disks."""
        found = set()
        for node in self.nodes.values():
            store = Store(node.engine)
            header = store.get_header(store.position.height)
            assert header is not None
            found.add((header.height, header.state_root))
        return found
