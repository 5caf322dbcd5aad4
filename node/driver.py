"""The loop that turns a validator's decisions into I/O: the only place where they become real.

One turn: take in everything that is queued; append what the validator wants persisted to the
journal with one fsync; then, and only then, send. That sequence is `Driver._finish_turn`, and no
other code path sends for the validator.

    peers' inbox ─┐
    verdicts ─────┤                            ┌─> journal: append, one fsync (thread)
    commits done ─┼─> Validator.handle, work ──┤      then sends
    timers ───────┘                            ├─> commits, in order (thread) ─> CommitSynced
                                               ├─> signature batches ─> SignaturesVerified
                                               └─> answers to peers that catch up (thread)

Commits do not hold up the loop: batches are written in order by one task, several at a time when
they queue up, and the loop waits only when too many are on their way. A journal that has grown is
rewritten between two turns, after the commit that covers what is dropped.

A failed write or fsync ends `run` with `DiskFault`; a safety stop ends it with `Halted`. Either
way nothing of that turn has been sent.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from time import perf_counter
from typing import Protocol, TypeVar

import trio

from atpar.consensus.events import CommitSynced, PeerConnected, PeerDisconnected, Ticked
from atpar.consensus.messages import Lane, encode_message
from atpar.ledger.evidence import Evidence
from atpar.ledger.keys import SignedTriple
from atpar.ledger.transactions import Transaction
from atpar.node import actions
from atpar.node.actions import Action, Input
from atpar.node.clock import Clock
from atpar.node.errors import Halted, NodeError, VerifierBusy, VerifierStopped
from atpar.node.framing import Channel
from atpar.node.journal import Journal
from atpar.node.limits import (
    JOURNAL_COMPACT_BYTES,
    MAX_SERVES_PER_PEER,
    MAX_SERVING_THREADS,
    MAX_TIMER_DEFERRALS,
    MAX_TURN_MESSAGES,
    MAX_UNSYNCED_COMMITS,
    VERIFY_RETRY_S,
)
from atpar.node.mempool import Added
from atpar.node.metrics import Metrics
from atpar.node.peers import Inbox
from atpar.node.serving import answer
from atpar.node.store import FinalBlock, Store
from atpar.node.validator import Validator
from atpar.node.votes_ahead import VotesAhead

T = TypeVar("T")

CHANNELS = {Lane.VOTES: Channel.VOTES, Lane.PROPOSALS: Channel.PROPOSALS, Lane.FETCH: Channel.FETCH}
LANES = {channel: lane for lane, channel in CHANNELS.items()}


class Links(Protocol):
    """The validator network, as the driver uses it. No call waits."""

    @property
    def inbox(self) -> Inbox:
        """Messages from identified peers."""

    def send(self, peer: str, channel: Channel, payload: bytes) -> None:
        """Queue a message for one peer."""

    def broadcast(self, channel: Channel, payload: bytes) -> None:
        """Queue a message for every peer."""

    def at_once(self) -> AbstractContextManager[None]:
        """Send what is sent inside together, at its end."""

    def drop_peer(self, peer: str, reason: str) -> None:
        """Close a peer's connection for a fault."""

    def dismiss_peer(self, peer: str) -> None:
        """Close the connection to a member that has left, for good."""


class Observer(Protocol):
    """Who is told what happened: the service behind the API. Plain calls that never wait."""

    def on_final(self, blocks: Sequence[FinalBlock]) -> None:
        """Blocks are final and on the disk."""

    def on_dropped(self, dropped: actions.DropTransaction) -> None:
        """An admitted transaction left the mempool and will not run from here."""

    def on_view(self, entered: actions.EnterView) -> None:
        """A view began: pending transactions go to its leader."""

    def on_epoch(self, opened: actions.OpenEpoch, /) -> None:
        """An epoch began, with its set."""

    def on_alarm(self, alarm: actions.Alarm) -> None:
        """Something needs a person."""

    def on_halt(self, halt: actions.Halt) -> None:
        """The node stops for safety."""


Verify = Callable[[Sequence[SignedTriple]], Awaitable[Sequence[bool]]]
"""Checks a block's signatures. Raises VerifierBusy when its queue is full."""


class Driver:
    """Runs one validator. `run` owns all tasks; the other methods are plain and never wait."""

    def __init__(
        self,
        validator: Validator,
        *,
        journal: Journal | None,
        store: Store,
        links: Links,
        verify: Verify,
        clock: Clock,
        observer: Observer,
        metrics: Metrics,
        votes: VotesAhead | None = None,
    ) -> None:
        """Keep what to drive, and with what.

        Args:
            journal: None for an observer, which never votes and keeps nothing but the chain.
            votes: None where the replica checks all signatures of votes itself.
        """
        self.validator = validator
        self._journal = journal
        self._store = store
        self._links = links
        self._verify_triples = verify
        self._votes = votes
        self._clock = clock
        self._observer = observer
        self._metrics = metrics
        self._queue: deque[Input] = deque()
        self._wakeup = trio.Event()
        self._commits: deque[actions.CommitBlocks] = deque()
        self._commits_waiting = trio.Event()
        self._commits_room = trio.Event()
        self._unsynced = 0
        self._serving: dict[str, int] = {}
        self._rewritten_bytes = 0
        self._wants_rewrite = False
        self._deferrals = 0
        self._nursery: trio.Nursery | None = None
        # Threads of its own: however many the API has in use, the journal never waits for one.
        self._journal_thread = trio.CapacityLimiter(1)
        self._store_thread = trio.CapacityLimiter(1)
        self._serving_threads = trio.CapacityLimiter(MAX_SERVING_THREADS)
        links.inbox.on_arrival = self._wake

    # ---- for other tasks of the same loop

    def admit(
        self, transactions: Sequence[Transaction], judged_on: bytes | None = None
    ) -> list[Added]:
        """Hold transactions that passed admission, signatures included; say what became of each.

        `judged_on` is as for `Validator.admit`.
        """
        answers = self.validator.admit(transactions, judged_on=judged_on)
        # An input of its own makes the next turn take the new mempool into account.
        self._put(actions.TransactionsAdmitted(()))
        return answers

    def note_connection(self, peer: str, connected: bool) -> None:  # noqa: FBT001
        """Take note that a peer's connection stands or is gone (`Network.on_change`)."""
        self._put(PeerConnected(peer) if connected else PeerDisconnected(peer))

    def _put(self, given: Input) -> None:
        self._queue.append(given)
        self._wake()

    def _wake(self) -> None:
        self._wakeup.set()

    # ---- the loop

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled.

        Raises:
            DiskFault, StoreError: the disk failed. Start again when it is repaired.
            Halted: a safety stop. Needs a person.
        """
        with _raise_first_fault():
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._write_commits)
                now_ms, wall_ms = self._clock.now_ms(), self._clock.wall_ms()
                await self._finish_turn(self.validator.start(now_ms=now_ms, wall_ms=wall_ms))
                task_status.started()
                try:
                    while True:
                        await self._wait()
                        await self._turn()
                finally:
                    self._flush_commits()

    async def _wait(self) -> None:
        """Return when there is something to do: an input, a piece of work, or a timer."""
        if self._queue or len(self._links.inbox) or self.validator.has_work:
            await trio.lowlevel.checkpoint()
            return
        deadline_ms = self.validator.deadline_ms
        self._wakeup = trio.Event()
        if deadline_ms is None:
            await self._wakeup.wait()
            return
        left_ms = deadline_ms - self._clock.now_ms()
        with trio.move_on_after(max(0, left_ms) / 1_000):
            await self._wakeup.wait()

    async def _turn(self) -> None:
        """Handle what is queued, messages before timers, then do one piece of work."""
        inputs = list(self._take_inputs())
        if self._votes is not None:
            await self._votes.look(
                inputs,
                validators=self.validator.epoch_start.validators,
                final_view=self.validator.final_view,
            )
        await self._finish_turn(self._handle(inputs))
        if self.validator.has_work:
            started = perf_counter()
            now_ms, wall_ms = self._clock.now_ms(), self._clock.wall_ms()
            decided = self.validator.work(now_ms=now_ms, wall_ms=wall_ms)
            self._metrics.execute_seconds.observe(perf_counter() - started)
            await self._finish_turn(decided)
        if self._wants_rewrite:
            await self._rewrite_journal()

    def _handle(self, inputs: Sequence[Input]) -> list[Action]:
        """Give the validator everything that was queued, then due timers."""
        decided: list[Action] = []
        handle = self.validator.handle
        for given in inputs:
            now_ms, wall_ms = self._clock.now_ms(), self._clock.wall_ms()
            decided += handle(given, now_ms=now_ms, wall_ms=wall_ms)
        now_ms, wall_ms = self._clock.now_ms(), self._clock.wall_ms()
        if self._is_timer_due(now_ms):
            decided += handle(Ticked(), now_ms=now_ms, wall_ms=wall_ms)
        return decided

    def _is_timer_due(self, now_ms: int) -> bool:
        """Return whether timers act in this turn: after what is queued, but not for ever after.

        A long piece of work lets a deadline pass while the messages that would have met it wait in
        the queue; a steady flood must not hold timers up for good.
        """
        deadline_ms = self.validator.deadline_ms
        if deadline_ms is None or now_ms < deadline_ms:
            self._deferrals = 0
            return False
        waiting = bool(self._queue or len(self._links.inbox) or self.validator.has_work)
        if waiting and self._deferrals < MAX_TIMER_DEFERRALS:
            self._deferrals += 1
            return False
        self._deferrals = 0
        return True

    def _take_inputs(self) -> Iterator[Input]:
        """Yield what is queued: own inputs, then messages from peers, a bounded number a turn."""
        while self._queue:
            yield self._queue.popleft()
        for _ in range(MAX_TURN_MESSAGES):
            try:
                message = self._links.inbox.receive_nowait()
            except trio.WouldBlock:
                return
            lane = LANES.get(message.channel)
            if lane is None:
                self._links.drop_peer(message.peer, f"unexpected {message.channel.name} frame")
            else:
                yield actions.PeerFrame(message.peer, lane, message.payload)

    async def _finish_turn(self, decided: list[Action]) -> None:
        """Persist, then send: the one place where a validator's decisions leave the machine."""
        records = [action.record for action in decided if isinstance(action, actions.Persist)]
        if records and self._journal is not None:
            await self._append(records)
        for action in decided:
            if isinstance(action, actions.Alarm) and action.evidence is not None:
                await self._keep_evidence(action.evidence)
        with self._links.at_once():
            for action in decided:
                if not isinstance(action, actions.Persist):
                    self._perform(action)
        while self._unsynced > MAX_UNSYNCED_COMMITS:
            self._commits_room = trio.Event()
            await self._commits_room.wait()

    async def _append(self, records: list[bytes]) -> None:
        """Return once the records are on the disk; DiskFault ends the node."""
        started = perf_counter()
        await _in_thread(lambda: _get(self._journal).append(records), self._journal_thread)
        self._metrics.journal_fsync_seconds.observe(perf_counter() - started)

    async def _keep_evidence(self, evidence: Evidence) -> None:
        """Store evidence, before a safety stop in the same turn ends the node."""
        await _in_thread(lambda: self._store.add_evidence(evidence), self._store_thread)

    def _perform(self, action: Action) -> None:
        """Do what the validator wants, now that everything it depends on is on the disk."""
        match action:
            case actions.Send():
                self._links.send(action.peer, CHANNELS[action.lane], action.data)
            case actions.Broadcast():
                self._links.broadcast(CHANNELS[action.lane], action.data)
            case actions.DropPeer():
                self._links.drop_peer(action.peer, action.reason)
            case actions.VerifySignatures():
                self._start(self._verify, action)
            case actions.CommitBlocks():
                self._unsynced += 1
                self._commits.append(action)
                self._commits_waiting.set()
            case actions.Serve():
                self._begin_serving(action)
            case actions.Notify():
                self._observe_final(action)
            case actions.DropTransaction():
                self._observer.on_dropped(action)
            case actions.DismissPeer():
                self._links.dismiss_peer(action.peer)
            case actions.EnterView() | actions.OpenEpoch() | actions.Alarm():
                self._report(action)
            case actions.Halt():
                self._metrics.alarms.labels(action.kind.value).set(1)
                self._observer.on_halt(action)
                raise Halted(action.message)
            case actions.Persist():
                raise AssertionError("records are persisted before anything is performed")

    def _report(self, action: actions.EnterView | actions.OpenEpoch | actions.Alarm) -> None:
        match action:
            case actions.EnterView():
                self._metrics.view.set(action.view)
                self._metrics.epoch.set(action.epoch)
                self._observer.on_view(action)
            case actions.OpenEpoch():
                self._observer.on_epoch(action)
            case actions.Alarm():
                self._metrics.alarms.labels(action.kind.value).set(1)
                self._observer.on_alarm(action)

    def _start(self, task: Callable[[T], Awaitable[None]], argument: T) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(task, argument)

    # ---- signatures

    async def _verify(self, wanted: actions.VerifySignatures) -> None:
        while True:
            try:
                verdicts = await self._verify_triples(wanted.triples)
            except VerifierBusy:
                await trio.sleep(VERIFY_RETRY_S)
            except VerifierStopped:
                return  # the node is stopping
            else:
                self._put(actions.SignaturesVerified(wanted.digest, verdicts))
                return

    # ---- commits

    async def _write_commits(self) -> None:
        """Write batches in order; whatever queued up meanwhile goes into one."""
        while True:
            while not self._commits:
                self._commits_waiting = trio.Event()
                await self._commits_waiting.wait()
            taken = list(self._commits)
            self._commits.clear()
            blocks = [block for commit in taken for block in commit.blocks]
            started = perf_counter()
            await _in_thread(lambda: self._store.commit(blocks), self._store_thread)  # noqa: B023
            self._metrics.commit_seconds.observe(perf_counter() - started)
            for commit in taken:
                self._unsynced -= 1
                self._put(CommitSynced(commit.blocks[-1].header.height))
            self._commits_room.set()
            self._note_journal_size()

    def _flush_commits(self) -> None:
        """Write what is left before the node ends; a crash here is what the journal is for."""
        blocks = [block for commit in self._commits for block in commit.blocks]
        self._commits.clear()
        if blocks and blocks[0].header.height == self._store.position.height + 1:
            self._store.commit(blocks)

    def _note_journal_size(self) -> None:
        if self._journal is not None:
            bound = max(JOURNAL_COMPACT_BYTES, 2 * self._rewritten_bytes)
            self._wants_rewrite = self._journal.size > bound

    async def _rewrite_journal(self) -> None:
        """Drop from the journal what a synced commit covers. Runs between two turns."""
        self._wants_rewrite = False
        journal = _get(self._journal)
        records = self.validator.compact_journal()
        await _in_thread(lambda: journal.rewrite(records), self._journal_thread)
        self._rewritten_bytes = journal.size

    # ---- peers that catch up

    def _begin_serving(self, wanted: actions.Serve) -> None:
        """Answer in a task; a peer that asks for more at once than it may is not answered."""
        under_way = self._serving.get(wanted.peer, 0)
        if under_way < MAX_SERVES_PER_PEER:
            self._serving[wanted.peer] = under_way + 1
            self._start(self._serve, wanted)

    async def _serve(self, wanted: actions.Serve) -> None:
        try:
            data = await _in_thread(
                lambda: encode_message(answer(self._store, wanted.request)), self._serving_threads
            )
            self._links.send(wanted.peer, Channel.FETCH, data)
        finally:
            self._serving[wanted.peer] -= 1
            if not self._serving[wanted.peer]:
                del self._serving[wanted.peer]

    # ---- what others want to know

    def _observe_final(self, notice: actions.Notify) -> None:
        for block in notice.blocks:
            self._metrics.blocks.inc()
            self._metrics.block_transactions.observe(len(block.transactions))
        header = notice.blocks[-1].header
        self._metrics.height.set(header.height)
        self._metrics.block_time.set(header.timestamp_ms / 1_000)
        self._observer.on_final(notice.blocks)


async def _in_thread(work: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
    """Run disk work in a thread. It is never abandoned: a write under way is waited for."""
    return await trio.to_thread.run_sync(work, limiter=limiter)


def _get(journal: Journal | None) -> Journal:
    assert journal is not None
    return journal


@contextmanager
def _raise_first_fault() -> Iterator[None]:
    """Turn a nursery's group of one fault into that fault."""
    try:
        yield
    except BaseExceptionGroup as group:
        fault = _find_fault(group)
        if fault is None:
            raise
        raise fault from group


def _find_fault(group: BaseExceptionGroup[BaseException]) -> NodeError | None:
    """Return the first node error in a group, unless something unexpected is in there too."""
    found: NodeError | None = None
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            inner = _find_fault(error)
            if inner is None:
                return None
            found = found or inner
        elif isinstance(error, NodeError):
            found = found or error
        elif not isinstance(error, trio.Cancelled):
            return None
    return found
