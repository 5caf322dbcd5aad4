"""Checks signatures in batches, in worker processes, in order of what they are for.

The verification library holds the interpreter's lock, and a busy main thread starves threads, so
the work goes to processes (`verify_worker.py`) as packed bytes; with no workers it is done in
line, a few at a time. A call packs its signatures once and hands them to a worker that has room,
without waiting for another task; what finds no room waits, and goes in one batch with whatever
else waits. So batches grow with load and nothing waits for company when there is none.

**Order.** Votes, then blocks, then gossip, then clients; clients hold at most half the workers.
What clients brought comes as gossip once gossip has kept it waiting for long (`admission.py`).
Work is cut into small pieces, so that a block waits for the batches in hand at most.

**Faults.** A worker that dies, hangs or answers nonsense is replaced and its batch is checked
again: a signature is valid only if a worker said so in an answer to exactly that request. A batch
that kills several workers in a row stops the node. A full backlog refuses new work (`VerifierBusy`)
before anything is queued.
"""

import math
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import trio

from atpar.ledger.keys import SignedTriple
from atpar.node.errors import VerifierBusy, VerifierFailed, VerifierStopped
from atpar.node.known_keys import KnownKeys
from atpar.node.limits import (
    MAX_KEY_TABLES,
    MAX_VERIFY_ATTEMPTS,
    MAX_VERIFY_BACKLOG_BYTES,
    MAX_VERIFY_BACKLOG_SIGNATURES,
    VERIFY_BATCH_BYTES,
    VERIFY_BATCH_SIGNATURES,
    VERIFY_BATCHES_AHEAD,
    VERIFY_PIECE_SIGNATURES,
    VERIFY_TIMEOUT_S,
)
from atpar.node.logs import get_logger
from atpar.node.metrics import Metrics
from atpar.node.verify_link import WorkerLink
from atpar.node.verify_worker import (
    Columns,
    compute_answer_bytes,
    pack_piece,
    unpack_answer,
)

WORKER_COMMAND: Final = (sys.executable, "-m", "atpar.node.verify_worker")
_RESPAWN_PAUSE_S: Final = 0.1

log = get_logger("verifier")


class Priority(IntEnum):
    """What signatures are for. Lower goes first."""

    VOTES = 0
    BLOCKS = 1
    GOSSIP = 2
    CLIENTS = 3


@dataclass(eq=False, slots=True)
class _Job:
    """One call of `verify`."""

    verdicts: list[bool]
    left: int
    """Signatures without a verdict."""
    done: trio.Event = field(default_factory=trio.Event)
    abandoned: bool = False
    """The caller has gone; its pieces need no more work."""
    stopped: bool = False


@dataclass(eq=False, slots=True)
class _Piece:
    """A few signatures of one job, packed."""

    job: _Job
    start: int
    count: int
    size: int
    """Bytes that have to be hashed for them."""
    packed: bytes
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class _Sent:
    """A batch that a worker has, or is being sent."""

    priority: Priority
    batch: list[_Piece]
    ticket: int
    count: int
    sent_at: float


@dataclass(eq=False, slots=True)
class _Worker:
    """A running worker and what it was given."""

    link: WorkerLink
    serves: Sequence[Priority]
    """What it takes work of, the most urgent first."""
    sent: deque[_Sent] = field(default_factory=deque)
    """The oldest first: it answers in this order."""
    patience: trio.CancelScope = field(default_factory=trio.CancelScope)
    """Ends the wait for an answer that is overdue."""
    free_at: float = 0.0
    """When it answered last."""
    answered: int = 0


class Verifier:
    """The door to signature checking. `run` owns the workers; any task may call `verify`."""

    def __init__(
        self,
        *,
        workers: int,
        metrics: Metrics,
        key_tables: int = MAX_KEY_TABLES,
        command: Sequence[str] = WORKER_COMMAND,
        max_signatures: int = MAX_VERIFY_BACKLOG_SIGNATURES,
        max_bytes: int = MAX_VERIFY_BACKLOG_BYTES,
    ) -> None:
        self.workers = workers
        self.max_signatures = max_signatures
        self.max_bytes = max_bytes
        self.restarts = 0
        """Workers that were replaced."""
        self._metrics = metrics
        self._measures = [
            (metrics.verify_batch_size.labels(label), metrics.verify_seconds.labels(label))
            for label in (priority.name.lower() for priority in Priority)
        ]
        """Of each priority."""
        self._command = (*command, f"{key_tables}")
        self._queues: dict[Priority, deque[_Piece]] = {p: deque() for p in Priority}
        self._signatures = dict.fromkeys(Priority, 0)
        self._bytes = dict.fromkeys(Priority, 0)
        self._jobs: set[_Job] = set()
        self._known = KnownKeys(max_tables=key_tables)
        """For what is checked in line; each worker has its own."""
        self._running: list[_Worker] = []
        self._ticket = 0
        self._in_line = [0] * len(Priority)
        """Calls of each priority that are being checked without workers."""
        self._in_line_turns = trio.lowlevel.ParkingLot()
        self._is_stopped = False

    # ---- for everybody

    async def verify(self, triples: Sequence[SignedTriple], priority: Priority) -> list[bool]:
        """Return one verdict per triple, in order.

        Raises:
            VerifierBusy: the backlog of this priority is full; nothing was queued.
            VerifierStopped: the node is stopping; nothing is known of these signatures.
        """
        if self._is_stopped:
            raise VerifierStopped("the verifier has stopped")
        if not triples:
            return []
        if self.workers == 0:
            return await self._verify_in_line(triples, priority)
        keys, messages, signatures = zip(*triples, strict=True)
        self._check_room(len(triples), sum(map(len, messages)), priority)
        job = _Job(verdicts=[False] * len(triples), left=len(triples))
        self._put(_cut(job, (keys, messages, signatures)), priority)
        self._jobs.add(job)
        self._dispatch()
        try:
            await job.done.wait()
        finally:
            job.abandoned = True
            self._jobs.discard(job)
        if job.stopped:
            raise VerifierStopped("the verifier stopped before these signatures were checked")
        return job.verdicts

    @property
    def portion(self) -> int:
        """How many signatures of many to hand over at a time: enough to keep all workers busy."""
        if self.workers == 0:
            return VERIFY_PIECE_SIGNATURES
        return self.workers * VERIFY_BATCHES_AHEAD * VERIFY_BATCH_SIGNATURES

    def has_room(self, priority: Priority) -> bool:
        """Return whether there is room for at least one more signature."""
        return self._signatures[priority] < self.max_signatures

    def observe(self) -> None:
        """Bring the gauges up to date; called before metrics are rendered."""
        for priority, count in self._signatures.items():
            self._metrics.queue_depth.labels(f"verify_{priority.name.lower()}").set(count)
        self._metrics.verify_key_tables.set(self._known.tables)

    # ---- the backlog

    def _check_room(self, signatures: int, size: int, priority: Priority) -> None:
        """Refuse what would pass a bound, unless it would be alone."""
        queued = self._signatures[priority]
        if queued == 0:
            return
        if queued + signatures > self.max_signatures:
            raise VerifierBusy(f"{queued} signatures wait, at most {self.max_signatures}")
        if self._bytes[priority] + size > self.max_bytes:
            raise VerifierBusy(f"{self._bytes[priority]} bytes wait, at most {self.max_bytes}")

    def _put(self, pieces: Sequence[_Piece], priority: Priority) -> None:
        self._queues[priority].extend(pieces)
        self._signatures[priority] += sum(piece.count for piece in pieces)
        self._bytes[priority] += sum(piece.size for piece in pieces)

    def _take(self, priority: Priority) -> list[_Piece]:
        """Return the next batch of a priority, empty if nothing of it waits.

        The last ones are smaller, so that a block's signatures end on all workers together.
        """
        queue = self._queues[priority]
        most = min(VERIFY_BATCH_SIGNATURES, self._signatures[priority] // self.workers)
        batch: list[_Piece] = []
        signatures = size = 0
        while queue:
            piece = queue[0]
            if not piece.job.abandoned:
                signatures += piece.count
                size += piece.size
                full = signatures > most or size > VERIFY_BATCH_BYTES
                if batch and full:
                    break
                batch.append(piece)
            queue.popleft()
            self._signatures[priority] -= piece.count
            self._bytes[priority] -= piece.size
        return batch

    def _put_back(self, priority: Priority, batch: list[_Piece], *, is_suspect: bool) -> None:
        """Return a batch that got no verdicts to the head of its queue.

        Raises:
            VerifierFailed: it has been tried too often.
        """
        for piece in reversed(batch):
            piece.attempts += is_suspect
            if piece.attempts >= MAX_VERIFY_ATTEMPTS:
                raise VerifierFailed(f"a batch of signatures ended {piece.attempts} workers")
            self._queues[priority].appendleft(piece)
            self._signatures[priority] += piece.count
            self._bytes[priority] += piece.size

    @staticmethod
    def _settle(batch: list[_Piece], verdicts: list[bool]) -> None:
        position = 0
        for piece in batch:
            start, job, after = piece.start, piece.job, position + piece.count
            job.verdicts[start : start + piece.count] = verdicts[position:after]
            job.left -= piece.count
            position = after
            if job.left == 0:
                job.done.set()

    # ---- in line

    async def _verify_in_line(
        self, triples: Sequence[SignedTriple], priority: Priority
    ) -> list[bool]:
        """Check piece by piece; while something more urgent is being checked, wait."""
        began = trio.current_time()
        verdicts: list[bool] = []
        self._in_line[priority] += 1
        try:
            for start in range(0, len(triples), VERIFY_PIECE_SIGNATURES):
                await trio.lowlevel.checkpoint()
                while any(self._in_line[:priority]):
                    await self._in_line_turns.park()
                piece = triples[start : start + VERIFY_PIECE_SIGNATURES]
                verdicts += self._known.verify_columns(*zip(*piece, strict=True))
        finally:
            self._in_line[priority] -= 1
            self._in_line_turns.unpark_all()
        self._report(priority, len(triples), trio.current_time() - began)
        return verdicts

    # ---- workers

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the workers running until cancelled; then whoever waits gets `VerifierStopped`.

        Raises:
            VerifierFailed: workers cannot be started, or a batch ends each of them.
        """
        if self.workers == 0:
            self._known.prepare()  # now, and not in the first burst
        try:
            async with trio.open_nursery() as nursery:
                for number in range(self.workers):
                    serves_clients = number < max(1, self.workers // 2)
                    serves = [p for p in Priority if serves_clients or p is not Priority.CLIENTS]
                    nursery.start_soon(self._keep_worker, serves)
                task_status.started()
                if self.workers == 0:
                    await trio.sleep_forever()
        finally:
            self._is_stopped = True
            for job in self._jobs:
                job.stopped = True
                job.done.set()

    async def _keep_worker(self, serves: Sequence[Priority]) -> None:
        """Run one worker after the other."""
        failures = 0
        while True:
            answered = await self._run_worker(serves)
            failures = 0 if answered else failures + 1
            if failures >= MAX_VERIFY_ATTEMPTS:
                raise VerifierFailed(f"{failures} workers in a row ended without an answer")
            self.restarts += 1
            self._metrics.verify_worker_restarts.inc()
            log.warning("signature worker replaced", answered=answered)
            await trio.sleep(_RESPAWN_PAUSE_S * failures)

    async def _run_worker(self, serves: Sequence[Priority]) -> int:
        """Run one worker until it fails; return how many batches it answered."""
        worker = _Worker(await WorkerLink.start(self._command), serves)
        self._running.append(worker)
        try:
            self._dispatch()
            with worker.patience:
                await self._take_answers(worker)
        finally:
            self._running.remove(worker)
            await worker.link.end()
        # Only the first one can have been at fault: the worker had not begun with the others.
        while worker.sent:
            each = worker.sent.pop()
            self._put_back(each.priority, each.batch, is_suspect=not worker.sent)
        self._dispatch()
        return worker.answered

    def _dispatch(self) -> None:
        """Give what waits to the workers, the idle ones first.

        The next batch is sent while one is being checked, so that no worker waits for us.
        """
        for most in range(1, VERIFY_BATCHES_AHEAD + 1):
            for worker in self._running:
                if len(worker.sent) < most:
                    self._feed(worker)

    def _feed(self, worker: _Worker) -> None:
        """Send a worker the most urgent batch of those that it serves, if there is one."""
        for priority in worker.serves:
            batch = self._take(priority)
            if batch:
                now = trio.current_time()
                if not worker.sent:
                    worker.patience.deadline = now + VERIFY_TIMEOUT_S
                self._ticket += 1
                count = sum(piece.count for piece in batch)
                worker.sent.append(_Sent(priority, batch, self._ticket, count, now))
                worker.link.send(self._ticket, [piece.packed for piece in batch])
                return

    async def _take_answers(self, worker: _Worker) -> None:
        """Take what a worker answers; return when it ends or its bytes are no answer."""
        received = b""
        while data := await worker.link.receive():
            received += data
            while worker.sent:
                length = compute_answer_bytes(worker.sent[0].count)
                if len(received) < length:
                    break
                if not self._accept(worker, received[:length]):
                    return
                received = received[length:]
            if received and not worker.sent:
                return
            self._dispatch()

    def _accept(self, worker: _Worker, answer: bytes) -> bool:
        """Settle the oldest batch with its answer; return whether it was one."""
        each = worker.sent[0]
        verdicts = unpack_answer(answer, ticket=each.ticket, count=each.count)
        if verdicts is None:
            return False
        worker.sent.popleft()
        worker.answered += 1
        began, worker.free_at = max(each.sent_at, worker.free_at), trio.current_time()
        worker.patience.deadline = worker.free_at + VERIFY_TIMEOUT_S if worker.sent else math.inf
        self._report(each.priority, each.count, worker.free_at - began)
        self._settle(each.batch, verdicts)
        return True

    def _report(self, priority: Priority, signatures: int, seconds: float) -> None:
        batch_size, duration = self._measures[priority]
        batch_size.observe(signatures)
        duration.observe(seconds)


def _cut(job: _Job, columns: Columns) -> list[_Piece]:
    """Return a job's pieces, in order."""
    keys, messages, signatures = columns
    sizes = list(map(len, messages))
    pieces = []
    for start, end in _bound(sizes):
        part = keys[start:end], messages[start:end], signatures[start:end]
        pieces.append(_Piece(job, start, end - start, sum(sizes[start:end]), pack_piece(part)))
    return pieces


def _bound(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield runs of signatures, from and to, that are not too many and hash not too much.

    Every signature hashes its message anew, so bytes count for each.
    """
    todo = [
        (start, min(start + VERIFY_PIECE_SIGNATURES, len(sizes)))
        for start in range(0, len(sizes), VERIFY_PIECE_SIGNATURES)
    ]
    todo.reverse()
    while todo:
        start, end = todo.pop()
        if end - start == 1 or sum(sizes[start:end]) <= VERIFY_BATCH_BYTES:
            yield start, end
        else:
            middle = (start + end) // 2
            todo += ((middle, end), (start, middle))
