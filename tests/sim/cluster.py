"""Machines that run the real validator, and the network, disks and clocks between them.

Everything happens in events on one timeline; all randomness comes from generators seeded by the
caller. A machine works in turns as `node/driver.py` does: it handles what is queued, makes the
records durable, and only then performs the rest. A crash keeps what its disk has synced.
"""

import hashlib
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from atpar.consensus.events import CommitSynced, PeerConnected, PeerDisconnected, Ticked
from atpar.consensus.messages import Lane, encode_message
from atpar.consensus.types import Timing
from atpar.ledger.certificates import Proposition
from atpar.ledger.entry import check_admission
from atpar.ledger.errors import Refused
from atpar.ledger.genesis import Genesis
from atpar.ledger.limits import MAX_BLOCK_OPS
from atpar.ledger.transactions import Transaction
from atpar.node import actions
from atpar.node.actions import Action, Input
from atpar.node.datadir import decode_records, make_first_records, make_opening, read_position
from atpar.node.errors import DiskFault, JournalError
from atpar.node.journal import Journal, Opening, create_journal, open_journal
from atpar.node.kv import MemoryKeyValue, Write
from atpar.node.limits import (
    GOSSIP_REMIND_S,
    MAX_GREETING_TRANSACTIONS,
    MAX_REMINDERS,
    MAX_SERVES_PER_PEER,
)
from atpar.node.mempool import Added, Mempool
from atpar.node.serving import answer
from atpar.node.store import FinalBlock, Store
from atpar.node.validator import Validator, ValidatorConfig
from tests.ledger.world import START_MS, public
from tests.sim.clock import Timeline, WallClock
from tests.sim.crypto import Keyring
from tests.sim.disk import FakeDisk, PowerLost
from tests.sim.network import Link, Network
from tests.sim.tracing import describe
from tests.sim.watcher import NoWatcher, Watcher

if TYPE_CHECKING:
    from tests.sim.byzantine.actor import Actor

PATH = Path("/data/votes.journal")
BAN_MS = 500
"""How long a peer that was dropped stays away."""
SERVE_MS = 1
REMIND_MS = round(GOSSIP_REMIND_S * 1_000)


class MachineStore(MemoryKeyValue):
    """A store whose machine loses power at a chosen batch, before or after it took effect."""

    def __init__(
        self, values: dict[bytes, bytes], *, crash_at: int | None = None, keeps: bool = False
    ) -> None:
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


@dataclass
class Machine:
    """One machine: what survives a crash, and the validator while it runs."""

    id: str
    code: str
    disk: FakeDisk
    engine: MachineStore
    clock: WallClock = field(default_factory=WallClock)
    fsync_ms: int = 1
    commit_ms: int = 2
    work_ms: int = 1
    actor: "Actor | None" = None
    """What makes it misbehave; None: honest."""
    boots: int = 0
    validator: Validator | None = None
    store: Store | None = None
    journal: Journal | None = None
    queue: deque[Input] = field(default_factory=deque)
    planned_ms: int | None = None
    """When its next turn is planned anyway."""
    is_busy: bool = False
    deferrals: int = 0
    written_at: int = 0
    """When the last batch that was handed to the store is on the disk."""
    serving: dict[str, int] = field(default_factory=dict)
    waiting: dict[bytes, int] = field(default_factory=dict)
    """Hash -> when it was last sent, of what clients brought here."""
    finals: list[FinalBlock] = field(default_factory=list)
    """Everything this machine reported as final, over all boots."""
    dropped: list[actions.DropTransaction] = field(default_factory=list)
    alarms: list[actions.Alarm] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)
    """(peer, reason) of every DropPeer."""
    halt: actions.Halt | None = None
    sent: list[tuple[int, str, bytes]] = field(default_factory=list)
    """(time, peer or "*", bytes) of everything that left, when the cluster keeps it."""
    fault: str | None = None
    """Why it did not start, or stopped by itself."""
    crashes: int = 0
    was_forgetful: bool = False
    """Its journal was lost, rolled back, or damaged at some time."""

    @property
    def is_up(self) -> bool:
        return self.validator is not None

    @property
    def is_honest(self) -> bool:
        return self.actor is None

    @property
    def running(self) -> Validator:
        assert self.validator is not None
        return self.validator

    @property
    def height(self) -> int:
        return Store(self.engine).position.height


class Cluster:
    """Machines, the network between them, and the time they share."""

    def __init__(
        self,
        *,
        genesis: Genesis,
        values: dict[bytes, bytes],
        codes: Sequence[str],
        ring: Keyring,
        network: Network,
        timing: Timing | None = None,
        watcher: Watcher | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.genesis = genesis
        self.values = values
        self.ring = ring
        self.network = network
        self.timing = timing or Timing()
        self.watcher: Watcher = watcher or NoWatcher()
        self.rng = rng or random.Random(0)
        self.timeline = Timeline()
        self.filter: Callable[[Machine, Machine, bytes], bool] | None = None
        """Whether a message passes at all: an adversary on the wire who reads what it drops."""
        self.plot: dict[tuple[int, int], tuple[Proposition, Proposition]] = {}
        """(epoch, view) -> what colluding liars tell each half: all they have in common."""
        self.block_gap_ms = 0
        """What every validator that boots is told by its pacer: see `Validator.block_gap_ms`."""
        self.block_ops = MAX_BLOCK_OPS
        self.keeps_sent = False
        self.crash_tail: int | None = 0
        """Bytes of an unsynced append that survive when a disk loses power by itself."""
        self.digest = hashlib.blake2b(digest_size=16)
        self.trace: Callable[[str], None] | None = None
        self.machines: dict[str, Machine] = {}
        self.by_code: dict[str, list[Machine]] = {}
        for code in codes:
            self.add(code)

    # ---- machines

    def add(self, code: str, *, machine_id: str | None = None) -> Machine:
        """Set up a machine of a participant, with the data that `node init` makes."""
        machine = self.make_machine(code, machine_id=machine_id)
        self.machines[machine.id] = machine
        self.by_code.setdefault(code, []).append(machine)
        return machine

    def make_machine(self, code: str, *, machine_id: str | None = None) -> Machine:
        machine = Machine(machine_id or code, code, FakeDisk(), MachineStore(self.values))
        records = make_first_records(self.genesis)
        create_journal(PATH, self.get_opening(code), records, disk=machine.disk)
        return machine

    def get_opening(self, code: str) -> Opening:
        return make_opening(
            chain_id=self.genesis.chain_id, participant=code, vote_key=public(f"{code}-vote")
        )

    def begin_new_journal(self, machine: Machine) -> None:
        """Replace a journal that is lost by a new one without permission to vote."""
        machine.disk = FakeDisk()
        create_journal(PATH, self.get_opening(machine.code), (), disk=machine.disk)

    # ---- time

    @property
    def now_ms(self) -> int:
        return self.timeline.now_ms

    @property
    def wall_ms(self) -> int:
        """The true time."""
        return START_MS + 60_000 + self.timeline.now_ms

    def get_wall_ms(self, machine: Machine) -> int:
        return machine.clock.read(self.wall_ms)

    def after(self, delay_ms: int, action: Callable[[], None]) -> None:
        self.timeline.after(delay_ms, action)

    def run(self, duration_ms: int, *, until: Callable[[], bool] | None = None) -> bool:
        """Run for so long, or until a condition holds; return whether it did."""
        return self.timeline.run(duration_ms, until=until)

    def note(self, kind: str, detail: str = "") -> None:
        """Add one event to the digest, and to the trace when somebody reads it."""
        line = f"{self.timeline.now_ms} {kind} {detail}"
        self.digest.update(line.encode())
        if self.trace is not None:
            self.trace(line)

    # ---- starting and stopping

    def start(self, *ids: str) -> None:
        for name in ids or tuple(self.machines):
            self.boot(self.machines[name])

    def boot(self, machine: Machine) -> bool:
        """Start a machine's validator from its disk; return whether it runs."""
        machine.boots += 1
        machine.fault = None
        machine.halt = None
        self.note("boot", machine.id)
        store = Store(machine.engine)
        vote_key, next_key = get_vote_keys(machine.code)
        spare = {public(next_key): self.ring.get_signer(next_key)}
        try:
            journal, found = open_journal(
                PATH, self.get_opening(machine.code), keys=frozenset(spare), disk=machine.disk
            )
            machine.validator = Validator(
                ValidatorConfig(
                    chain_id=self.genesis.chain_id,
                    participant=machine.code,
                    timing=self.timing,
                    sign=self.ring.get_signer(vote_key),
                    vote_key=public(vote_key),
                    next_keys=spare,
                    verify=self.ring.verify,
                ),
                backing=store,
                position=read_position(store),
                records=decode_records(found),
                mempool=Mempool(),
            )
        except JournalError as error:
            machine.fault = str(error)
            self.note("refused", f"{machine.id} {type(error).__name__}")
            return False
        machine.validator.block_gap_ms = self.block_gap_ms
        machine.validator.mempool.block_ops = self.block_ops
        machine.store, machine.journal = store, journal
        machine.queue.clear()
        machine.is_busy = False
        machine.planned_ms = None
        machine.serving.clear()
        machine.waiting.clear()
        machine.written_at = self.now_ms
        started = machine.validator.start(now_ms=self.now_ms, wall_ms=self.get_wall_ms(machine))
        self._finish(machine, started)
        for other in self.machines.values():
            if other.code != machine.code and other.is_up and self._is_linked(machine, other):
                self.connect(machine, other)
        return machine.is_up

    def _is_linked(self, one: Machine, other: Machine) -> bool:
        return self.network.is_open(one.id, other.id) and self.network.is_open(other.id, one.id)

    def connect(self, one: Machine, other: Machine) -> None:
        for a, b in ((one, other), (other, one)):
            if a.is_up:
                self.put(a, PeerConnected(b.code))
                self._greet(a, b)

    def _greet(self, machine: Machine, peer: Machine) -> None:
        """Send what is pending to a peer that has just connected, as gossip does."""
        pool = machine.running.mempool
        for tx in pool.list_pending(limit=MAX_GREETING_TRANSACTIONS):
            self.gossip(machine, peer, tx)

    def crash(self, *ids: str, tail: int | None = 0, zeros: int = 0) -> None:
        """Stop machines at once.

        Of each unsynced append, `tail` bytes survive (None: all), then `zeros` zero bytes.
        """
        for name in ids or tuple(self.machines):
            machine = self.machines[name]
            self.note("crash", f"{name} {tail}")
            machine.crashes += 1
            machine.validator = machine.store = machine.journal = None
            machine.disk = machine.disk.survive(tail=tail, zeros=zeros)
            machine.engine = MachineStore(machine.engine.values)
            self._tell_gone(machine)

    def _tell_gone(self, machine: Machine) -> None:
        for other in self.machines.values():
            if other is not machine and other.is_up:
                self.put(other, PeerDisconnected(machine.code))

    def cut(self, *ids: str) -> None:
        """Separate these machines from all others."""
        others = [name for name in self.machines if name not in ids]
        self.note("cut", ",".join(ids))
        self.network.cut(ids, others)
        self.network.cut(others, ids)
        for one in ids:
            for other in others:
                self._disconnect(self.machines[one], self.machines[other])

    def _disconnect(self, one: Machine, other: Machine) -> None:
        for a, b in ((one, other), (other, one)):
            if a.is_up:
                self.put(a, PeerDisconnected(b.code))

    def heal(self) -> None:
        """End every cut and connect again."""
        self.note("heal")
        cuts = sorted(self.network.cuts)
        self.network.cuts.clear()
        pairs = sorted({(min(a, b), max(a, b)) for a, b in cuts})
        for a, b in pairs:
            one, other = self.machines.get(a), self.machines.get(b)
            if one is not None and other is not None and one.is_up and other.is_up:
                self.connect(one, other)

    # ---- turns

    def put(self, machine: Machine, given: Input) -> None:
        machine.queue.append(given)
        self._plan_at(machine, self.now_ms)

    def _plan_at(self, machine: Machine, time_ms: int) -> None:
        if machine.planned_ms is None or time_ms < machine.planned_ms:
            machine.planned_ms = time_ms
            boot = machine.boots
            self.timeline.at(time_ms, lambda: self._turn(machine, boot))

    def _turn(self, machine: Machine, boot: int) -> None:
        if not machine.is_up or machine.boots != boot or machine.planned_ms != self.now_ms:
            return
        machine.planned_ms = None
        if machine.is_busy:
            return
        validator = machine.running
        now_ms, wall_ms = self.now_ms, self.get_wall_ms(machine)
        decided: list[Action] = []
        had_input = bool(machine.queue)
        busy_ms = 0
        while machine.queue:
            given = machine.queue.popleft()
            decided += validator.handle(given, now_ms=now_ms, wall_ms=wall_ms)
        if not had_input and validator.has_work:
            busy_ms = machine.work_ms
            decided += validator.work(now_ms=now_ms, wall_ms=wall_ms)
        deadline = validator.deadline_ms
        if deadline is not None and now_ms >= deadline:
            # Messages before timers, but a flood must not hold timers up for good.
            if not validator.has_work or machine.deferrals >= 8:
                machine.deferrals = 0
                decided += validator.handle(Ticked(), now_ms=now_ms, wall_ms=wall_ms)
            else:
                machine.deferrals += 1
        self._finish(machine, decided, busy_ms=busy_ms)

    def _finish(self, machine: Machine, decided: list[Action], *, busy_ms: int = 0) -> None:
        """Persist, then (when the fsync returned) everything else."""
        records = [action.record for action in decided if isinstance(action, actions.Persist)]
        assert machine.journal is not None
        delay = busy_ms
        if records:
            try:
                machine.journal.append(records)
            except PowerLost:
                self.crash(machine.id, tail=self.crash_tail)
                return
            except DiskFault as fault:
                self._stop(machine, str(fault))
                return
            delay += machine.fsync_ms
        machine.is_busy = delay > 0
        boot = machine.boots

        def perform() -> None:
            if not machine.is_up or machine.boots != boot:
                return
            machine.is_busy = False
            for action in decided:
                self._perform(machine, action)
                if not machine.is_up or machine.boots != boot:
                    return
            self._plan(machine)

        if delay:
            self.timeline.after(delay, perform)
        else:
            perform()

    def _stop(self, machine: Machine, reason: str) -> None:
        """End a node by itself: what it wrote is on the disk, what it queued is not."""
        self.note("stop", f"{machine.id} {reason[:40]}")
        self.crash(machine.id, tail=self.crash_tail)
        machine.fault = reason

    def _plan(self, machine: Machine) -> None:
        """See to it that the next turn comes."""
        if machine.halt is not None:
            return
        if machine.queue or machine.running.has_work:
            self._plan_at(machine, self.now_ms)
            return
        deadline = machine.running.deadline_ms
        if deadline is not None:
            self._plan_at(machine, max(deadline, self.now_ms))

    def compact(self, machine: Machine) -> None:
        """Rewrite a machine's journal, as the driver does when it has grown; between turns only."""
        if not machine.is_up or machine.is_busy or machine.halt is not None:
            return
        assert machine.journal is not None
        self.note("compact", machine.id)
        try:
            machine.journal.rewrite(machine.running.compact_journal())
        except PowerLost:
            self.crash(machine.id, tail=self.crash_tail)
        except DiskFault as fault:
            self._stop(machine, str(fault))

    # ---- performing

    def _perform(self, machine: Machine, action: Action) -> None:  # noqa: C901
        match action:
            case actions.Send():
                self._emit(machine, action.peer, action.lane, action.data)
            case actions.Broadcast():
                self._emit(machine, None, action.lane, action.data)
            case actions.VerifySignatures():
                verdicts = self.ring.verify_batch(action.triples)
                self._later(machine, 1, actions.SignaturesVerified(action.digest, verdicts))
            case actions.CommitBlocks():
                self._commit_later(machine, action)
            case actions.Serve():
                self._serve_later(machine, action)
            case actions.Notify():
                for block in action.blocks:
                    machine.finals.append(block)
                    header = block.header
                    self.note("final", f"{machine.id} #{header.height} {block.digest.hex()[:8]}")
                    if machine.is_honest:
                        self.watcher.on_final(machine, block)
            case actions.DropTransaction():
                machine.dropped.append(action)
            case actions.DropPeer():
                self._drop_peer(machine, action)
            case actions.Alarm():
                machine.alarms.append(action)
                self.note("alarm", f"{machine.id} {action.kind.value}")
            case actions.Halt():
                machine.halt = action
                self.note("halt", f"{machine.id} {action.message}")
                if machine.is_honest:
                    self.watcher.on_halt(machine, action)
            case actions.OpenEpoch():
                self.note("epoch", f"{machine.id} {action.start.epoch}")
            case actions.DismissPeer():
                # Whoever leaves the set stays connected as an observer here.
                self.note("dismiss", f"{machine.id} {action.peer}")
            case actions.EnterView():
                self._remind(machine, action.leader)
                if self.trace is not None:
                    self.trace(
                        f"{self.now_ms} view {machine.id} epoch {action.epoch}"
                        f" view {action.view} leader {action.leader}"
                    )
            case actions.Persist():
                pass

    def _emit(self, machine: Machine, peer: str | None, lane: Lane, data: bytes) -> None:
        if self.keeps_sent:
            machine.sent.append((self.now_ms, peer or "*", data))
        if machine.actor is None:
            self.watcher.on_sent(machine, peer, lane, data)
            self.transmit(machine, peer, lane, data)
            return
        for target, changed_lane, changed in machine.actor.change(peer, lane, data):
            self.transmit(machine, target, changed_lane, changed)

    def transmit(self, machine: Machine, peer: str | None, lane: Lane, data: bytes) -> None:
        """Put a message on its way to one participant, or to all."""
        codes = tuple(self.by_code) if peer is None else (peer,)
        for code in codes:
            if code != machine.code:
                for target in self.by_code.get(code, ()):
                    self._fly(machine, target, lane, data)

    def _fly(self, sender: Machine, receiver: Machine, lane: Lane, data: bytes) -> None:
        if self.filter is not None and not self.filter(sender, receiver, data):
            return
        for arrives in self.network.plan(sender.id, receiver.id, self.now_ms):
            boot = receiver.boots

            def deliver(boot: int = boot) -> None:
                self._deliver(sender, receiver, boot, lane, data)

            self.timeline.at(arrives, deliver)

    def _deliver(
        self, sender: Machine, receiver: Machine, boot: int, lane: Lane, data: bytes
    ) -> None:
        if not receiver.is_up or (sender.id, receiver.id) in self.network.cuts:
            return
        if receiver.boots != boot:
            # What travelled on a connection ends with it.
            return
        self.digest.update(b"%d %s>%s " % (self.now_ms, sender.id.encode(), receiver.id.encode()))
        self.digest.update(data)
        if self.trace is not None:
            self.trace(f"{self.now_ms} {sender.id} -> {receiver.id} {describe(data)}")
        if sender.is_honest:
            self.watcher.on_delivered(sender, receiver, data)
        if receiver.actor is not None and not receiver.actor.hear(sender.code, lane, data):
            return
        self.put(receiver, actions.PeerFrame(sender.code, lane, data))

    def _drop_peer(self, machine: Machine, action: actions.DropPeer) -> None:
        machine.faults.append((action.peer, action.reason))
        self.note("drop", f"{machine.id} {action.peer} {action.reason[:60]}")
        if machine.is_honest:
            self.watcher.on_drop_peer(machine, action.peer, action.reason)
        for peer in self.by_code.get(action.peer, ()):
            self.break_connection(machine, peer, BAN_MS)

    def break_connection(self, machine: Machine, peer: Machine, away_ms: int) -> None:
        """End the connection of two machines, which stand it again after a while."""
        ways = {(machine.id, peer.id), (peer.id, machine.id)} - self.network.cuts
        if not ways:
            # Broken already, and who broke it ends that: a second return would greet twice, and
            # a liar whose greeting breaks it again would be greeted four times, then eight.
            return
        self._disconnect(machine, peer)
        self.network.cuts |= ways
        self.timeline.after(away_ms, lambda: self._return(machine, peer, ways))

    def _return(self, machine: Machine, peer: Machine, ways: set[tuple[str, str]]) -> None:
        self.network.cuts -= ways
        if machine.is_up and peer.is_up and self._is_linked(machine, peer):
            self.connect(machine, peer)

    def _later(self, machine: Machine, delay_ms: int, given: Input) -> None:
        boot = machine.boots

        def deliver() -> None:
            if machine.is_up and machine.boots == boot:
                self.put(machine, given)

        self.timeline.after(delay_ms, deliver)

    def _serve_later(self, machine: Machine, action: actions.Serve) -> None:
        if machine.serving.get(action.peer, 0) >= MAX_SERVES_PER_PEER:
            return
        machine.serving[action.peer] = machine.serving.get(action.peer, 0) + 1
        boot = machine.boots

        def serve() -> None:
            if machine.is_up and machine.boots == boot:
                assert machine.store is not None
                machine.serving[action.peer] -= 1
                data = encode_message(answer(machine.store, action.request))
                self._emit(machine, action.peer, Lane.FETCH, data)

        self.timeline.after(SERVE_MS, serve)

    def _commit_later(self, machine: Machine, action: actions.CommitBlocks) -> None:
        boot = machine.boots

        def write() -> None:
            if machine.is_up and machine.boots == boot:
                assert machine.store is not None
                try:
                    machine.store.commit(action.blocks)
                except PowerLost:
                    self.crash(machine.id, tail=self.crash_tail)
                    return
                self.put(machine, CommitSynced(action.blocks[-1].header.height))

        # One thread writes the batches, in order.
        machine.written_at = max(machine.written_at, self.now_ms) + machine.commit_ms
        self.timeline.at(machine.written_at, write)

    # ---- transactions

    def submit(self, machine: Machine, tx: Transaction) -> bool:
        """Hand a client's transaction to one machine, which passes it on; return if it took it."""
        if self._admit(machine, tx) is not Added.ADDED:
            return False
        self.note("submit", f"{machine.id} {tx.hash.hex()[:8]}")
        machine.waiting[tx.hash] = self.now_ms
        for other in self.machines.values():
            if other is not machine:
                self.gossip(machine, other, tx)
        return True

    def _remind(self, machine: Machine, leader: str) -> None:
        """Send a new view's leader what clients brought here and has waited for long."""
        pool = machine.running.mempool
        for tx_hash, sent in list(machine.waiting.items())[: 2 * MAX_REMINDERS]:
            tx = pool.get(tx_hash)
            if tx is None:
                del machine.waiting[tx_hash]
            elif leader != machine.code and self.now_ms - sent >= REMIND_MS:
                machine.waiting[tx_hash] = self.now_ms
                machine.running.doubt([tx])
                for receiver in self.by_code[leader]:
                    self.gossip(machine, receiver, tx)

    def gossip(self, sender: Machine, receiver: Machine, tx: Transaction) -> None:
        """Put one transaction on its way to one machine, which judges it like a client's."""
        for arrives in self.network.plan(sender.id, receiver.id, self.now_ms):
            boot = receiver.boots

            def deliver(boot: int = boot) -> None:
                if receiver.is_up and receiver.boots == boot:
                    self._admit(receiver, tx)

            self.timeline.at(arrives, deliver)

    def _admit(self, machine: Machine, tx: Transaction) -> Added | None:
        """Judge a transaction as `node/admission.py` does."""
        if not machine.is_up or machine.halt is not None:
            return None
        validator = machine.running
        if tx.hash in validator.mempool:
            return Added.DUPLICATE
        try:
            check_admission(
                validator.final.view,
                tx,
                chain_id=self.genesis.chain_id,
                now_ms=self.get_wall_ms(machine),
            )
        except Refused:
            return None
        if not all(self.ring.verify_batch(tx.compute_triples())):
            return None
        added = validator.admit([tx])[0]
        self.put(machine, actions.TransactionsAdmitted(()))
        return added

    # ---- questions

    def get_honest(self) -> list[Machine]:
        return [machine for machine in self.machines.values() if machine.is_honest]

    def find_final(self, name: str, tx: Transaction) -> tuple[int, int] | None:
        return Store(self.machines[name].engine).find_transaction(tx.hash)

    def is_final_everywhere(self, *txs: Transaction) -> bool:
        return all(
            self.find_final(machine.id, tx) is not None
            for machine in self.machines.values()
            if machine.is_up
            for tx in txs
        )

    def state_roots(self) -> set[tuple[int, bytes]]:
        """Return the distinct (height, state root) of all disks."""
        found = set()
        for machine in self.machines.values():
            store = Store(machine.engine)
            header = store.get_header(store.position.height)
            assert header is not None
            found.add((header.height, header.state_root))
        return found


def get_vote_keys(code: str) -> tuple[str, str]:
    """Return the names of a participant's vote key, and of the one it may rotate to."""
    return f"{code}-vote", f"{code}-vote2"


def make_network(rng: random.Random, link: Link | None = None) -> Network:
    return Network(rng, link or Link())
