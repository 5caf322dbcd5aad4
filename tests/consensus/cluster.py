"""A deterministic little network of replicas: virtual time, seeded faults, checks after each step.

Everything is a function of the seed: one event queue in virtual milliseconds, fake signatures and
fake blocks, a journal and a store per node that survive a crash exactly as far as they were synced.
The checkers run at every send and every commit, and raise at the first violation.
"""

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from atpar.consensus.effects import (
    AlarmKind,
    Broadcast,
    BuildBlock,
    Commit,
    DropPeer,
    Effect,
    EnterView,
    Halt,
    Persist,
    RaiseAlarm,
    ReportEvidence,
    Send,
    ServeBlock,
    ServeSync,
    VerifyBlock,
)
from atpar.consensus.events import (
    BlockBuilt,
    BlockVerdict,
    CommitSynced,
    EpochOpened,
    Event,
    MessageReceived,
    PeerConnected,
    PeerDisconnected,
    PendingChanged,
    Ticked,
)
from atpar.consensus.limits import MAX_SYNC_BLOCKS, MAX_SYNC_BYTES
from atpar.consensus.messages import (
    BlockResponse,
    Message,
    Proposal,
    SyncResponse,
    decode_message,
    encode_message,
)
from atpar.consensus.records import (
    EpochOpenedRecord,
    JournalRecord,
    VoteRecord,
    decode_record,
    encode_record,
)
from atpar.consensus.replica import Replica
from atpar.consensus.types import BlockInfo, EpochStart, Ports, ReplicaConfig, Timing, Tip
from atpar.ledger.certificates import Finalization
from atpar.ledger.votes import Finalize, Notarize, Nullify, get_body
from tests.consensus.fakes import (
    CHAIN_ID,
    GENESIS,
    NAMES,
    WALL_ZERO_MS,
    FakeBlock,
    decode_block,
    decode_fake,
    encode_block,
    fake_sign,
    fake_verify,
    make_key,
    make_validators,
)


class Violation(AssertionError):
    """A rule that must never be broken was."""


@dataclass
class Link:
    """How messages travel between any two nodes."""

    latency_ms: tuple[int, int] = (5, 15)
    loss: float = 0.0
    duplicate: float = 0.0


@dataclass
class Stored:
    """One final block as a store keeps it."""

    info: BlockInfo
    data: bytes
    finalization: Finalization | None


@dataclass
class Disk:
    """What survives a crash."""

    journal: list[bytes] = field(default_factory=list)
    blocks: dict[int, Stored] = field(default_factory=dict)
    start: EpochStart | None = None
    """The epoch that the next block belongs to."""
    tip: Tip | None = None


class Node:
    """One validator's process: the replica and the caller's duties around it."""

    def __init__(self, cluster: "Cluster", name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.disk = Disk()
        self.replica: Replica | None = None
        self.incarnation = 0
        self.states: set[bytes] = set()
        self.bodies: dict[bytes, bytes] = {}
        self.pending: set[int] = set()
        self.final_transactions: dict[int, int] = {}
        self.alarms: list[RaiseAlarm] = []
        self.evidence: list[ReportEvidence] = []
        self.dropped: list[DropPeer] = []
        self.halt: Halt | None = None
        self.views_entered: list[EnterView] = []
        self.tamper: Callable[[Node, list[Effect]], list[Effect]] | None = None
        """A Byzantine node changes its effects; checks do not apply to it."""
        self.clock_offset_ms = 0
        self.exec_ms = 2
        self.sync_ms = 3
        self._tick_at: int | None = None
        self._last_pending = False
        self._committing = (b"", 0)

    @property
    def is_up(self) -> bool:
        return self.replica is not None

    @property
    def height(self) -> int:
        tip = self.disk.tip
        return 0 if tip is None else tip.height

    # ---- life cycle

    def init(self, start: EpochStart) -> None:
        self.disk = Disk(start=start)
        self.disk.tip = Tip(start.digest, start.height, start.timestamp_ms, None)
        opening = EpochOpenedRecord(start.epoch, start.height, start.digest)
        self.disk.journal.append(encode_record(opening))

    def boot(self) -> None:
        assert self.replica is None
        disk = self.disk
        assert disk.start is not None
        assert disk.tip is not None
        self.incarnation += 1
        self.halt = None
        self._committing = (disk.tip.digest, disk.tip.height)
        self.pending = set()
        self.final_transactions = {
            transaction: height
            for height, stored in disk.blocks.items()
            for transaction in decode_fake(stored.data).transactions
        }
        self.views_entered = []
        self.states = {disk.tip.digest}
        self.bodies = {}
        self._tick_at = None
        self._last_pending = False
        key = make_key(self.name)
        self.replica = Replica(
            ReplicaConfig(
                chain_id=CHAIN_ID,
                participant=self.name,
                epoch_blocks=self.cluster.epoch_blocks,
                timing=self.cluster.timing,
            ),
            Ports(sign=lambda m: fake_sign(key, m), verify=fake_verify, decode_block=decode_block),
            start=disk.start,
            tip=disk.tip,
            records=[decode_record(data) for data in disk.journal],
        )
        self._finish(self.replica.start(now_ms=self.cluster.now, wall_ms=self._wall()))
        for other in self.cluster.nodes.values():
            if other is not self and other.is_up and self.cluster.can_reach(self.name, other.name):
                self.feed(PeerConnected(other.name))
                other.feed(PeerConnected(self.name))

    def crash(self) -> None:
        self.replica = None
        self.incarnation += 1
        for other in self.cluster.nodes.values():
            if other.is_up:
                other.feed(PeerDisconnected(self.name))

    def feed(self, event: Event) -> None:
        """One turn with one event."""
        if self.replica is None:
            return
        effects = self.replica.handle(event, now_ms=self.cluster.now, wall_ms=self._wall())
        self._finish(effects)

    def submit(self, transaction: int) -> None:
        self.pending.add(transaction)
        self._update_pending()

    # ---- the caller's duties

    def _wall(self) -> int:
        return WALL_ZERO_MS + self.cluster.now + self.clock_offset_ms

    def _finish(self, effects: list[Effect]) -> None:
        if self.tamper is not None:
            effects = self.tamper(self, effects)
        records = [effect.record for effect in effects if isinstance(effect, Persist)]
        crash_at = self.cluster.choose_crash(self)
        if crash_at == "before_write":
            self.cluster.kill(self)
            return
        encoded = [encode_record(record) for record in records]
        self._adopt_journal(records, encoded)
        if crash_at == "after_write":
            self.cluster.kill(self)
            return
        for effect in effects:
            self._perform(effect)
        if self.replica is None:
            return
        self._update_pending()
        self._schedule_tick()

    def _adopt_journal(self, records: list[JournalRecord], encoded: list[bytes]) -> None:
        for record, data in zip(records, encoded, strict=True):
            self.disk.journal.append(data)
            if isinstance(record, VoteRecord) and self.tamper is None:
                self.cluster.checker.note_vote(self.name, record.vote)

    def _perform(self, effect: Effect) -> None:
        cluster = self.cluster
        if self.replica is None:
            return
        match effect:
            case Persist():
                pass
            case Broadcast(message):
                self._check_persisted(message)
                for name in cluster.nodes:
                    if name != self.name:
                        cluster.transmit(self.name, name, message)
            case Send(peer, message):
                self._check_persisted(message)
                cluster.transmit(self.name, peer, message)
            case BuildBlock():
                cluster.later(self, self.exec_ms, lambda: self._build(effect))
            case VerifyBlock():
                self._check_parent(effect.info.parent)
                cluster.later(self, self.exec_ms, lambda: self._verify(effect))
            case Commit():
                self._commit(effect)
            case ServeBlock() | ServeSync():
                self._serve(effect)
            case _:
                self._note(effect)

    def _serve(self, effect: ServeBlock | ServeSync) -> None:
        if isinstance(effect, ServeSync):
            answer: Message = self._read_range(effect.request.first_height)
        else:
            digest = effect.request.digest
            stored = [s.data for s in self.disk.blocks.values() if s.info.digest == digest]
            answer = BlockResponse(digest, stored[0] if stored else self.bodies.get(digest, b""))
        self.cluster.transmit(self.name, effect.peer, answer)

    def _note(self, effect: Effect) -> None:
        cluster = self.cluster
        match effect:
            case DropPeer():
                self.dropped.append(effect)
                cluster.note_drop(self, effect)
            case ReportEvidence():
                self.evidence.append(effect)
            case RaiseAlarm():
                self.alarms.append(effect)
            case Halt():
                self.halt = effect
                cluster.note_halt(self, effect)
            case EnterView():
                self.views_entered.append(effect)
                self._last_pending = False

    def _check_persisted(self, message: Message) -> None:
        """Every vote that leaves stands in the journal of this node, byte for byte."""
        vote = message.vote if isinstance(message, Proposal) else message
        if self.tamper is not None or not isinstance(vote, Notarize | Nullify | Finalize):
            return
        if encode_record(VoteRecord(vote)) not in self.disk.journal:
            raise Violation(f"{self.name} sent a vote that is not in its journal: {vote}")

    def _check_parent(self, parent: bytes) -> None:
        if parent not in self.states:
            raise Violation(f"{self.name} asked to execute on a state that is not here")

    def _build(self, effect: BuildBlock) -> None:
        if effect.parent not in self.states:
            return
        included = self._get_included(effect.parent)
        chosen = () if effect.is_empty else tuple(sorted(self.pending - included)[:100])
        block = FakeBlock(
            epoch=effect.epoch,
            view=effect.view,
            height=effect.parent_height + 1,
            parent=effect.parent,
            proposer=self.name,
            timestamp_ms=effect.timestamp_ms,
            transactions=chosen,
        )
        data = encode_block(block)
        info = decode_block(data)
        assert info is not None
        self.states.add(info.digest)
        self.bodies[info.digest] = data
        self.feed(BlockBuilt(effect.view, info, data))

    def _verify(self, effect: VerifyBlock) -> None:
        if effect.info.parent not in self.states:
            return
        is_valid = self.cluster.execute(self, effect)
        if is_valid:
            self.states.add(effect.info.digest)
            self.bodies[effect.info.digest] = effect.block
        self.feed(BlockVerdict(effect.proposition, is_valid))

    def _commit(self, effect: Commit) -> None:
        tip = self._committing
        for info in effect.blocks:
            if info.parent != tip[0] or info.height != tip[1] + 1:
                raise Violation(f"{self.name} commits {info} on {tip}")
            if info.digest not in self.states:
                raise Violation(f"{self.name} commits a block it did not execute")
            tip = (info.digest, info.height)
            self.cluster.checker.note_commit(self.name, info)
            for transaction in decode_fake(self.bodies[info.digest]).transactions:
                if transaction in self.final_transactions:
                    raise Violation(f"transaction {transaction} is final twice at {self.name}")
                self.final_transactions[transaction] = info.height
                self.pending.discard(transaction)
        self._committing = tip
        incarnation = self.incarnation
        self.cluster.later(self, self.sync_ms, lambda: self._sync(effect, incarnation))

    def _sync(self, effect: Commit, incarnation: int) -> None:
        assert incarnation == self.incarnation
        last = effect.blocks[-1]
        for info in effect.blocks:
            is_last = info is last
            self.disk.blocks[info.height] = Stored(
                info, self.bodies[info.digest], effect.finalization if is_last else None
            )
        self.disk.tip = Tip(last.digest, last.height, last.timestamp_ms, effect.finalization)
        start = None
        if effect.closes_epoch:
            assert self.disk.start is not None
            names = self.cluster.next_validators(self.disk.start.epoch + 1)
            validators = make_validators(self.disk.start.epoch + 1, names)
            start = EpochStart(validators, last.digest, last.height, last.timestamp_ms)
            self.disk.start = start
            self.disk.tip = Tip(last.digest, last.height, last.timestamp_ms, None)
        self.feed(CommitSynced(last.height))
        if start is not None:
            self.feed(EpochOpened(start))

    def _read_range(self, first_height: int) -> SyncResponse:
        blocks: list[bytes] = []
        total = 0
        end = 0
        epoch = None
        height = first_height
        while height in self.disk.blocks and len(blocks) < self.cluster.sync_blocks:
            stored = self.disk.blocks[height]
            total += len(stored.data)
            if blocks and (total > MAX_SYNC_BYTES or stored.info.epoch != epoch):
                break
            epoch = stored.info.epoch
            blocks.append(stored.data)
            if stored.finalization is not None:
                end = len(blocks)
            height += 1
        if end == 0:
            return SyncResponse(first_height, tuple(blocks), None)
        finalization = self.disk.blocks[first_height + end - 1].finalization
        return SyncResponse(first_height, tuple(blocks[:end]), finalization)

    def _get_included(self, parent: bytes) -> set[int]:
        included: set[int] = set()
        while parent in self.bodies and parent != self._committing[0]:
            block = decode_fake(self.bodies[parent])
            included.update(block.transactions)
            parent = block.parent
        return included

    def _update_pending(self) -> None:
        if self.replica is None:
            return
        pending = False
        if self.pending:
            parent = self.views_entered[-1].parent if self.views_entered else b""
            pending = bool(self.pending - self._get_included(parent))
        if pending != self._last_pending:
            self._last_pending = pending
            self.feed(PendingChanged(pending))

    def _schedule_tick(self) -> None:
        if self.replica is None:
            return
        deadline = self.replica.deadline_ms
        if deadline is None:
            self._tick_at = None
            return
        at = max(deadline, self.cluster.now)
        if self._tick_at is not None and self.cluster.now <= self._tick_at <= at:
            return
        self._tick_at = at
        self.cluster.later(self, at - self.cluster.now, lambda: self._tick(at))

    def _tick(self, at: int) -> None:
        if at == self._tick_at:
            self._tick_at = None
            self.feed(Ticked())

    def compact(self) -> None:
        """Replace the journal by what the replica says is still needed."""
        assert self.replica is not None
        self.disk.journal = [encode_record(record) for record in self.replica.compact_journal()]


class Checker:
    """What must hold at every step, over all honest nodes."""

    def __init__(self) -> None:
        self.chain: dict[int, bytes] = {}
        self.notarized: dict[tuple[str, int, int], bytes] = {}
        self.nullified: set[tuple[str, int, int]] = set()
        self.finalized: dict[tuple[str, int, int], bytes] = {}

    def note_commit(self, name: str, info: BlockInfo) -> None:
        known = self.chain.setdefault(info.height, info.digest)
        if known != info.digest:
            raise Violation(f"{name} finalises another block at height {info.height}")

    def note_vote(self, name: str, vote: Notarize | Nullify | Finalize) -> None:
        body = get_body(vote)
        key = (name, body.epoch, body.view)
        if isinstance(vote, Notarize):
            said = encode_message(vote)
            if self.notarized.setdefault(key, said) != said:
                raise Violation(f"{name} notarizes twice in view {body.view}")
        elif isinstance(vote, Finalize):
            said = encode_message(vote)
            if self.finalized.setdefault(key, said) != said:
                raise Violation(f"{name} finalizes twice in view {body.view}")
        else:
            self.nullified.add(key)
        if key in self.nullified and key in self.finalized:
            raise Violation(f"{name} nullifies and finalizes in view {body.view}")


class Cluster:
    """n nodes, one event queue."""

    def __init__(
        self,
        size: int = 4,
        *,
        seed: int = 0,
        epoch_blocks: int = 1_000_000,
        link: Link | None = None,
        timing: Timing | None = None,
        spares: int = 0,
    ) -> None:
        self.random = random.Random(seed)
        self.now = 0
        self.epoch_blocks = epoch_blocks
        self.timing = timing or Timing()
        self.link = link or Link()
        self.sync_blocks = MAX_SYNC_BLOCKS
        self.names = NAMES[:size]
        self.sets: dict[int, tuple[str, ...]] = {}
        self.nodes: dict[str, Node] = {}
        self.checker = Checker()
        self.cuts: set[tuple[str, str]] = set()
        """Directed links that carry nothing."""
        self.crash_probability = 0.0
        self.steps = 0
        self.message_filter: Callable[[str, str, Message], Message | None] | None = None
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0
        self._next_transaction = 1
        self._crashing = False
        self.allowed_halts: set[AlarmKind] = set()
        self.start_point = EpochStart(
            make_validators(0, self.names), GENESIS, 0, WALL_ZERO_MS - 1_000
        )
        for name in NAMES[: size + spares]:
            node = self.nodes[name] = Node(self, name)
            node.init(self.start_point)

    # ---- running

    def boot(self, names: Iterable[str] | None = None) -> "Cluster":
        for name in self.nodes if names is None else names:
            self.nodes[name].boot()
        return self

    def later(self, node: Node | None, delay_ms: int, action: Callable[[], None]) -> None:
        incarnation = None if node is None else node.incarnation

        def run() -> None:
            if node is None or (node.is_up and node.incarnation == incarnation):
                action()

        self._sequence += 1
        heapq.heappush(self._queue, (self.now + delay_ms, self._sequence, run))

    def step(self) -> bool:
        if not self._queue:
            return False
        at, _, action = heapq.heappop(self._queue)
        self.now = max(self.now, at)
        self.steps += 1
        action()
        return True

    def run(self, duration_ms: int) -> None:
        end = self.now + duration_ms
        while self._queue and self._queue[0][0] <= end:
            self.step()
        self.now = end

    def run_until(self, condition: Callable[[], bool], within_ms: int) -> int:
        """Run until a condition holds; return how long it took in virtual time."""
        start = self.now
        while not condition():
            if not self._queue or self._queue[0][0] > start + within_ms:
                raise AssertionError(f"not reached within {within_ms} ms: {self.describe()}")
            self.step()
        return self.now - start

    def describe(self) -> str:
        lines = [f"t={self.now}"]
        for node in self.nodes.values():
            replica = node.replica
            if replica is None:
                lines.append(f"{node.name} down at height {node.height}")
            else:
                lines.append(
                    f"{node.name} epoch {replica.epoch} view {replica.view} final"
                    f" {replica.final_view} height {node.height} leader {replica.leader}"
                    f" gate {replica.gate_state.value} resting {replica.is_resting}"
                    f" deadline {replica.deadline_ms} pending {len(node.pending)}"
                )
        return "\n".join(lines)

    # ---- faults

    def can_reach(self, source: str, target: str) -> bool:
        return (source, target) not in self.cuts

    def partition(self, *groups: Iterable[str]) -> None:
        of = {name: index for index, group in enumerate(groups) for name in group}
        self.cuts = {(a, b) for a in self.nodes for b in self.nodes if of.get(a) != of.get(b)}

    def heal(self) -> None:
        self.cuts = set()

    def kill(self, node: Node) -> None:
        """Crash at once, in the middle of a turn."""
        if node.is_up:
            self._crashing = True
            node.crash()
            self._crashing = False

    def choose_crash(self, node: Node) -> str | None:
        if self.crash_probability and self.random.random() < self.crash_probability:
            up = sum(1 for other in self.nodes.values() if other.is_up)
            if up > 0 and not self._crashing:
                delay = self.random.randrange(10, 3_000)
                self.later(None, delay, lambda: None if node.is_up else node.boot())
                return self.random.choice(["before_write", "after_write"])
        return None

    def transmit(self, source: str, target: str, message: Message) -> None:
        node = self.nodes.get(target)
        if node is None or not node.is_up or not self.can_reach(source, target):
            return
        if self.message_filter is not None:
            filtered = self.message_filter(source, target, message)
            if filtered is None:
                return
            message = filtered
        copies = 2 if self.random.random() < self.link.duplicate else 1
        for _ in range(copies):
            if self.random.random() < self.link.loss:
                continue
            data = encode_message(message)
            latency = self.random.randint(*self.link.latency_ms)
            self.later(
                node,
                latency,
                lambda data=data: node.feed(MessageReceived(source, decode_message(data))),
            )

    def execute(self, node: Node, effect: VerifyBlock) -> bool:
        return not decode_fake(effect.block).is_bad

    def note_drop(self, node: Node, effect: DropPeer) -> None:
        other = self.nodes.get(effect.peer)
        if other is not None and other.tamper is None and node.tamper is None:
            raise Violation(f"{node.name} drops an honest peer: {effect}")

    def note_halt(self, node: Node, effect: Halt) -> None:
        if node.tamper is None and effect.kind not in self.allowed_halts:
            raise Violation(f"{node.name} halts: {effect}")

    def next_validators(self, epoch: int) -> tuple[str, ...]:
        return self.sets.get(epoch, self.names)

    # ---- load

    @property
    def live(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.is_up and node.tamper is None]

    def submit(self) -> int:
        """A new transaction that gossip brings to every node at once."""
        transaction = self._next_transaction
        self._next_transaction += 1
        for node in self.nodes.values():
            node.submit(transaction)
        return transaction

    def is_final(self, transaction: int) -> bool:
        """Whether every live node has it final."""
        return all(transaction in node.final_transactions for node in self.live)

    def checker_height(self) -> int:
        """Height of the highest block that any honest node finalised."""
        return max(self.checker.chain, default=0)

    def resubmit(self) -> None:
        """Gossip again, to everyone, what is not final everywhere (mempools forget in a crash)."""
        for node in self.nodes.values():
            for transaction in range(1, self._next_transaction):
                if transaction not in node.final_transactions:
                    node.submit(transaction)

    def settle(self) -> None:
        """Bring every node up again."""
        for node in self.nodes.values():
            if not node.is_up:
                node.boot()
        self.resubmit()

    def pay(self, within_ms: int) -> int:
        """Submit one transaction and wait until every live node has it final; return the time."""
        transaction = self.submit()
        return self.run_until(lambda: self.is_final(transaction), within_ms)
